import { keepPreviousData, useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { api, got, type Schemas } from '../../api/client';

export type Live = Schemas['Live'];
export type LiveNode = Schemas['LiveNode'];
export type LiveEdge = Schemas['LiveEdge'];
export type Version = Schemas['Version'];
export type Topology = Schemas['Topology'];

export const useTopologies = (after: string | undefined) =>
  useQuery({
    queryKey: ['topologies', 'list', after],
    queryFn: () => got(api.GET('/v1/topologies', { params: { query: { after, limit: 200 } } })),
    placeholderData: keepPreviousData,
  });

// useLastHour is what went through each topology, by its name.
export const useLastHour = () =>
  useQuery({
    queryKey: ['overview', 'heat', 'topologies', '1h'],
    queryFn: () => got(api.GET('/v1/heatmaps/topologies', { params: { query: { range: '1h' } } })),
    select: (h) => new Map(h.items?.map((r) => [r.name, r])),
  });

export const useTopology = (topology: string) =>
  useQuery({
    queryKey: ['topologies', 'one', topology],
    queryFn: () => got(api.GET('/v1/topologies/{topology}', { params: { path: { topology } } })),
  });

export const useVersions = (topology: string) =>
  useQuery({
    queryKey: ['topologies', 'versions', topology],
    queryFn: () => got(api.GET('/v1/topologies/{topology}/versions', { params: { path: { topology }, query: { limit: 200 } } })),
  });

// useVersion is one version with its file: a number, draft or enabled. A published one never changes.
export const useVersion = (topology: string, version: string | undefined) =>
  useQuery({
    queryKey: ['topologies', 'version', topology, version],
    queryFn: () => got(api.GET('/v1/topologies/{topology}/versions/{version}', { params: { path: { topology, version: version ?? '' } } })),
    enabled: version !== undefined,
    placeholderData: keepPreviousData,
  });

// useLive is what goes on, anew each two seconds.
export const useLive = (topology: string, version: number | undefined) =>
  useQuery({
    queryKey: ['topologies', 'live', topology, version],
    queryFn: () => got(api.GET('/v1/topologies/{topology}/live', { params: { path: { topology }, query: { version } } })),
    enabled: version !== undefined,
    placeholderData: (before: Live | undefined) => (before?.version === version ? before : undefined),
    refetchInterval: 2000,
  });

// useAct changes a topology; what is on the screen is then fetched anew.
export function useAct<Input, Output>(act: (input: Input) => Promise<Output>, onDone: (output: Output) => void) {
  const queries = useQueryClient();
  return useMutation({
    mutationFn: act,
    onSuccess: onDone,
    onSettled: () => {
      void queries.invalidateQueries({ queryKey: ['topologies'] });
      void queries.invalidateQueries({ queryKey: ['overview'] });
    },
  });
}

export const nameOf = (v: Pick<Version, 'version'>) => (v.version ? `v${v.version}` : 'draft');
export const keyOf = (v: Pick<Version, 'version'>) => (v.version ? String(v.version) : 'draft');

// beforeOf is the version that a rollback goes to: the newest published before the enabled one.
export function beforeOf(versions: readonly Version[], enabled: number | undefined): Version | undefined {
  if (enabled === undefined) return undefined;
  return versions.filter((v) => v.version && v.version < enabled && v.state === 'published').sort((a, b) => (b.version ?? 0) - (a.version ?? 0))[0];
}

// depthOf is how many messages are there now, in any way but the trash.
export const depthOf = (n: Pick<LiveNode, 'waiting' | 'running' | 'held' | 'retrying'>) => n.waiting + n.running + n.held + n.retrying;

// perMinute reads better than per second where little goes on.
export const perMinute = (perSecond: number) => perSecond * 60;
