import { useNavigate, useSearch } from '@tanstack/react-router';
import { useCallback } from 'react';

// Where somebody is stands in the URL: the screen, its filters, and what is open. So each place is a link, and going
// back goes back. All values are texts.

export type Query = Record<string, string>;

export function readQuery(text: string): Query {
  return Object.fromEntries(new URLSearchParams(text));
}

export function writeQuery(query: Record<string, unknown>): string {
  const set = Object.entries(query).filter(([, v]) => v !== undefined && v !== '');
  const text = new URLSearchParams(set.map(([k, v]) => [k, String(v)])).toString();
  return text && `?${text}`;
}

export const useQueryText = (): Query => useSearch({ strict: false }) as Query;

// useChangeQuery changes some of the query and keeps the rest. A step is one that somebody may want to take back.
export function useChangeQuery() {
  const navigate = useNavigate();
  return useCallback(
    (change: Record<string, string | undefined>, how: 'step' | 'silent' = 'step') =>
      void navigate({
        to: '.',
        search: ((before: Query) => ({ ...before, ...change })) as never,
        replace: how === 'silent',
        resetScroll: false,
      }),
    [navigate],
  );
}

// pick is the part of a query that a list knows.
export function pick(query: Query, names: readonly string[]): Query {
  return Object.fromEntries(names.flatMap((n) => (query[n] ? [[n, query[n]]] : [])));
}
