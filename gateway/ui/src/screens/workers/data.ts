import { keepPreviousData, useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { api, got, type Schemas } from '../../api/client';

export type Worker = Schemas['Worker'];
export type Detail = Schemas['WorkerDetail'];

export const useWorkers = (after: string | undefined) =>
  useQuery({
    queryKey: ['workers', 'list', after],
    queryFn: () => got(api.GET('/v1/workers', { params: { query: { after, limit: 200 } } })),
    placeholderData: keepPreviousData,
  });

export const useWorker = (worker: string) =>
  useQuery({
    queryKey: ['workers', 'one', worker],
    queryFn: () => got(api.GET('/v1/workers/{worker}', { params: { path: { worker } } })),
  });

// useAct does something with workers; what is on the screen is then fetched anew.
export function useAct<Input, Output>(act: (input: Input) => Promise<Output>, onDone?: (output: Output) => void) {
  const queries = useQueryClient();
  return useMutation({
    mutationFn: act,
    onSuccess: (output) => {
      onDone?.(output);
      void queries.invalidateQueries({ queryKey: ['workers'] });
      void queries.invalidateQueries({ queryKey: ['overview'] });
    },
  });
}

// spoken is how a worker speaks, for people.
export const spoken = (w: Pick<Worker, 'protocol' | 'dialect'>) => (w.protocol === 'orchesty' ? `Orchesty${w.dialect === 'b' ? ', dialect b' : ''}` : 'Sluice');

// environmentOf is what the process of a worker is started with, so that it knows us.
export function environmentOf(w: Pick<Worker, 'protocol'>, secret?: string): string {
  if (w.protocol === 'sluice') return `SLUICE_SECRET=${secret ?? 'whsec_…'}`;
  const here = location.origin;
  return `BACKEND_URL=${here}\nSTARTING_POINT_URL=${here}\nWORKER_API_HOST=${here}\nORCHESTY_API_KEY=sluice_…`;
}

// placeOf is where a worker is called. An agent is called nowhere: it comes for its messages.
export const placeOf = (w: Pick<Worker, 'url' | 'pull'>) => w.url ?? (w.pull ? 'comes for its messages' : '');
