import { keepPreviousData, useQuery } from '@tanstack/react-query';
import { api, got } from '../../api/client';
import type { Query } from '../../shell/place';
import { listQuery } from './filters';

export const pageSize = 50;

// useGroups counts causes; it knows no text, which would have to look into every payload.
export function useGroups(filter: Query) {
  const { cause: _cause, text: _text, ...rest } = filter;
  return useQuery({
    queryKey: ['trash', 'groups', rest],
    queryFn: () => got(api.GET('/v1/trash/groups', { params: { query: { ...listQuery(rest), limit: 50 } } })),
    placeholderData: keepPreviousData,
  });
}

export function useEntries(filter: Query, after: string | undefined) {
  return useQuery({
    queryKey: ['trash', 'list', filter, after],
    queryFn: () => got(api.GET('/v1/trash', { params: { query: { ...listQuery(filter), after, limit: pageSize, order: 'newest' } } })),
    placeholderData: keepPreviousData,
  });
}

export function useEntry(id: string) {
  return useQuery({
    queryKey: ['trash', 'entry', id],
    queryFn: () => got(api.GET('/v1/trash/{message_id}', { params: { path: { message_id: id } } })),
  });
}

// useBulks watches what runs closely, and the rest as it changes.
export function useBulks() {
  return useQuery({
    queryKey: ['trash', 'bulks'],
    queryFn: () => got(api.GET('/v1/trash/bulks', { params: { query: { limit: 20 } } })),
    refetchInterval: (q) => (q.state.data?.items?.some((b) => b.state === 'running') ? 1000 : false),
  });
}

// useCausePoints is how often each of the worst causes came in the last three hours.
export function useCausePoints() {
  return useQuery({
    queryKey: ['overview', 'figures'],
    queryFn: () => got(api.GET('/v1/overview', { params: { query: { range: '1h' } } })),
    select: (o) => new Map(o.causes?.map((c) => [c.cause, c.points ?? []])),
    staleTime: 4000,
  });
}
