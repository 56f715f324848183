import { keepPreviousData, useInfiniteQuery, useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { api, got, type Schemas } from '../../api/client';
import type { Hue } from '../../parts/Badge';
import type { Filter } from '../../parts/Chips';
import type { IconName } from '../../parts/Icon';
import { count, momentOf, ms } from '../../parts/say';
import type { Query } from '../../shell/place';

export type Process = Schemas['Process'];
export type Step = Schemas['Timeline'];
export type Message = Schemas['MessageDetail'];
export type Attempt = Schemas['Attempt'];

type Look = { said: string; hue: Hue; icon: IconName };

export const states: Record<Process['state'], Look> = {
  running: { said: 'On its way', hue: 'teal', icon: 'right' },
  failed: { said: 'Failed', hue: 'red', icon: 'x' },
  parked: { said: 'Waits for a person', hue: 'violet', icon: 'person' },
  terminated: { said: 'Terminated', hue: 'plain', icon: 'leave' },
  rejected: { said: 'Rejected', hue: 'violet', icon: 'person' },
  done: { said: 'Done', hue: 'line', icon: 'check' },
};

export const places: Record<Step['place'], Look> = {
  waiting: { said: 'Waits', hue: 'amber', icon: 'clock' },
  running: { said: 'Running', hue: 'teal', icon: 'right' },
  held: { said: 'Held', hue: 'amber', icon: 'pause' },
  retrying: { said: 'Tried again soon', hue: 'amber', icon: 'back' },
  trash: { said: 'In trash', hue: 'red', icon: 'x' },
  parked: { said: 'Waits for a person', hue: 'violet', icon: 'person' },
  done: { said: 'Done', hue: 'line', icon: 'check' },
  filtered: { said: 'Filtered', hue: 'line', icon: 'check' },
  replaced: { said: 'Replaced by an edited one', hue: 'violet', icon: 'edit' },
  rejected: { said: 'Rejected', hue: 'violet', icon: 'person' },
  terminated: { said: 'Terminated', hue: 'plain', icon: 'leave' },
  lost: { said: 'Lost', hue: 'red', icon: 'warn' },
};

const moment = (value: string) => momentOf(new Date(value));

export const filters: Filter[] = [
  { name: 'topology', label: 'Topology' },
  { name: 'version', label: 'Version', kind: 'number', hint: 'Of a topology: name that too.', show: (v) => `v${v}` },
  { name: 'state', label: 'State', choices: Object.entries(states).map(([value, s]) => ({ value, label: s.said })) },
  { name: 'entity', label: 'About', hint: 'As kind:value, such as order:ABC-123, or the value alone. Topologies declare what they are about.' },
  { name: 'from', label: 'Came in after', kind: 'time', show: moment },
  { name: 'until', label: 'Came in before', kind: 'time', show: moment },
  { name: 'correlation_id', label: 'Correlation id' },
];

export const filterNames = filters.map((f) => f.name);

export function useProcesses({ version, state, ...filter }: Query, after: string | undefined) {
  const query = { ...filter, ...(version ? { version: Number(version) } : {}), ...(state ? { state: state as Process['state'] } : {}) };
  return useQuery({
    queryKey: ['processes', 'list', query, after],
    queryFn: () => got(api.GET('/v1/processes', { params: { query: { ...query, after, limit: 50 } } })),
    placeholderData: keepPreviousData,
  });
}

export const useProcess = (id: string) =>
  useQuery({
    queryKey: ['processes', 'one', id],
    queryFn: () => got(api.GET('/v1/processes/{correlation_id}', { params: { path: { correlation_id: id } } })),
  });

// useTimeline is what was done with each message, in the order of their birth.
export const useTimeline = (id: string) =>
  useInfiniteQuery({
    queryKey: ['processes', 'timeline', id],
    queryFn: ({ pageParam }) => got(api.GET('/v1/processes/{correlation_id}/timeline', { params: { path: { correlation_id: id }, query: { after: pageParam, limit: 500 } } })),
    initialPageParam: undefined as string | undefined,
    getNextPageParam: (last) => last.next,
  });

// useStuck is the last message of a process that lies in the trash, wherever it is among the others.
export const useStuck = (p: Process | undefined) =>
  useQuery({
    queryKey: ['trash', 'list', 'of', p?.correlation_id],
    queryFn: () => got(api.GET('/v1/trash', { params: { query: { correlation_id: p?.correlation_id, order: 'newest', limit: 1 } } })),
    enabled: p !== undefined && p.trashed > 0,
    select: (list) => list.items?.[0],
  }).data;

export const useMessage = (id: string) =>
  useQuery({
    queryKey: ['processes', 'message', id],
    queryFn: () => got(api.GET('/v1/messages/{message_id}', { params: { path: { message_id: id } } })),
  });

// useBody is the bytes of a message, which never change.
export const useBody = (id: string, wanted: boolean) =>
  useQuery({
    queryKey: ['body', id],
    queryFn: async () => new Uint8Array((await got(api.GET('/v1/messages/{message_id}/body', { params: { path: { message_id: id } }, parseAs: 'arrayBuffer' }))) as ArrayBuffer),
    enabled: wanted,
    staleTime: Infinity,
  });

// useNode is what a node of a version is: that never changes either.
export const useNode = (topology: string, version: number, node: string) =>
  useQuery({
    queryKey: ['topologies', 'version', topology, String(version)],
    queryFn: () => got(api.GET('/v1/topologies/{topology}/versions/{version}', { params: { path: { topology, version: String(version) } } })),
    select: (v) => v.graph?.nodes?.find((n) => n.name === node),
    staleTime: Infinity,
    retry: false,
  }).data;

export const useWorkerOf = (worker: string | undefined) =>
  useQuery({
    queryKey: ['workers', 'one', worker],
    queryFn: () => got(api.GET('/v1/workers/{worker}', { params: { path: { worker: worker ?? '' } } })),
    enabled: worker !== undefined,
    retry: false,
  }).data;

export function useTerminate(id: string, onDone: (n: number) => void) {
  const queries = useQueryClient();
  return useMutation({
    mutationFn: (reason: string) => got(api.POST('/v1/processes/{correlation_id}/terminate', { params: { path: { correlation_id: id } }, body: reason ? { reason } : {} })),
    onSuccess: ({ terminated }) => onDone(terminated),
    onSettled: () => {
      for (const list of ['processes', 'trash', 'overview']) void queries.invalidateQueries({ queryKey: [list] });
    },
  });
}

// sums are where the messages of a process are. They are all of them: what came with the event, and what nodes made.
export function sums(p: Process): { n: number; said: string; hue?: 'red' }[] {
  return [
    { n: p.done, said: 'done' },
    { n: p.open, said: 'on the way' },
    { n: p.trashed, said: p.state === 'parked' ? 'with a person' : 'in trash', ...(p.state === 'parked' ? {} : { hue: 'red' as const }) },
    { n: p.rejected, said: 'rejected' },
    { n: p.terminated, said: 'terminated' },
  ].filter((s, i) => s.n > 0 || (i === 0 && p.done === p.total));
}

export const sumSaid = (p: Process) =>
  sums(p)
    .map((s) => `${count(s.n)} ${s.said}`)
    .join(' + ');

export const isOver = (p: Process) => p.open === 0 && p.trashed === 0;

// took is a length of time, of which a millisecond is the least that is told apart.
export const took = (milliseconds: number) => (milliseconds < 1 ? '<1\u00a0ms' : ms(milliseconds));

const seconds = (from: string, to: Date) => Math.max(0, (to.getTime() - new Date(from).getTime()) / 1000);

export const tookOf = (p: Process, now: Date) => seconds(p.started_at, p.finished_at ? new Date(p.finished_at) : now);
