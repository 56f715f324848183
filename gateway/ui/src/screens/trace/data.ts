import { useInfiniteQuery } from '@tanstack/react-query';
import { api, got, type Schemas } from '../../api/client';
import type { Hue } from '../../parts/Badge';
import type { IconName } from '../../parts/Icon';

export type Call = Schemas['Call'];

export const badges: Record<Call['badge'], { said: string; hue: Hue; icon: IconName }> = {
  received: { said: 'Received', hue: 'plain', icon: 'check' },
  delivered: { said: 'Delivered', hue: 'teal', icon: 'check' },
  refused: { said: 'Refused', hue: 'red', icon: 'x' },
  waiting: { said: 'Waits', hue: 'amber', icon: 'clock' },
  running: { said: 'Running', hue: 'teal', icon: 'right' },
  retried: { said: 'Tried again soon', hue: 'amber', icon: 'back' },
  unknown: { said: 'Not known', hue: 'amber', icon: 'warn' },
  ended: { said: 'Ended', hue: 'violet', icon: 'person' },
};

// useTrace is the history of an entity, as it went on.
export const useTrace = (entity: string) =>
  useInfiniteQuery({
    queryKey: ['processes', 'trace', entity],
    queryFn: ({ pageParam }) => got(api.GET('/v1/trace', { params: { query: { entity, after: pageParam, limit: 200 } } })),
    initialPageParam: undefined as string | undefined,
    getNextPageParam: (last) => last.next,
    enabled: entity !== '',
  });

// Part is what one process did about the entity.
export type Part = { process: string; topology: string; version: number; state: Call['state']; calls: Call[] };

// partsOf are the processes of a history: the calls of each stand together.
export function partsOf(calls: readonly Call[]): Part[] {
  const parts: Part[] = [];
  for (const c of calls) {
    let last = parts.at(-1);
    if (last?.process !== c.correlation_id) {
      last = { process: c.correlation_id, topology: c.topology, version: c.version, state: c.state, calls: [] };
      parts.push(last);
    }
    last.calls.push(c);
  }
  return parts;
}
