import { keepPreviousData, useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { api, got, type Schemas } from '../../api/client';

export type Key = Schemas['Key'];
export type Operator = Schemas['Operator'];
export type Scope = Key['scopes'][number];

// What each scope lets do, in the order of how much that is.
export const scopes: Record<Scope, string> = {
  ingest: 'post events',
  worker: 'keep documents, as workers on Orchesty’s SDK do',
  pull: 'take the calls of workers that cannot be reached',
  operate: 'see everything, run topologies, decide about the trash',
  admin: 'do everything',
};

export const useKeys = (after: string | undefined) =>
  useQuery({
    queryKey: ['settings', 'keys', after],
    queryFn: () => got(api.GET('/v1/keys', { params: { query: { after, limit: 100 } } })),
    placeholderData: keepPreviousData,
  });

export const useOperators = () =>
  useQuery({
    queryKey: ['settings', 'operators'],
    queryFn: () => got(api.GET('/v1/operators', { params: { query: { limit: 500 } } })),
  });

export const useRetention = () =>
  useQuery({
    queryKey: ['settings', 'retention'],
    queryFn: () => got(api.GET('/v1/trash/retention')),
  });

// useChange changes a setting; what is on the screen is then fetched anew.
export function useChange<Output>(act: () => Promise<Output>, onDone: (output: Output) => void) {
  const queries = useQueryClient();
  return useMutation({
    mutationFn: act,
    onSuccess: onDone,
    onSettled: () => queries.invalidateQueries({ queryKey: ['settings'] }),
  });
}
