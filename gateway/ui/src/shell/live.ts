import { useQueryClient, type QueryClient } from '@tanstack/react-query';
import { useEffect, useSyncExternalStore } from 'react';

// What the server says has changed is fetched anew, if it is on the screen. The first part of a query's key is the name
// of the list that it shows: topologies, processes, trash, limits, workers, overview.

// Changes can come each second: what is dear to compute follows more slowly.
const pace: Record<string, number> = { overview: 5000 };
const usualPace = 1500;

export type Liveness = 'live' | 'waiting';

let state: Liveness = 'waiting';
const watchers = new Set<() => void>();
function become(next: Liveness) {
  if (state === next) return;
  state = next;
  watchers.forEach((w) => w());
}
const watch = (w: () => void) => {
  watchers.add(w);
  return () => watchers.delete(w);
};

export const useLiveness = () => useSyncExternalStore(watch, () => state);

// useLive listens while the page is looked at. A hidden page holds no connection; it catches up when it is seen again.
export function useLive() {
  const queries = useQueryClient();
  useEffect(() => {
    let source: EventSource | undefined;
    const renew = pacer(queries);
    const listen = () => {
      source = new EventSource('/v1/changes');
      source.onopen = () => become('live');
      source.onerror = () => {
        become('waiting');
        if (source?.readyState !== EventSource.CLOSED) return; // it comes again by itself
        source = undefined;
        setTimeout(turn, 5000);
      };
      source.addEventListener('change', (e: MessageEvent<string>) => {
        const { lists } = JSON.parse(e.data) as { lists: string[] };
        lists.forEach(renew.list);
      });
    };
    const turn = () => {
      if (document.hidden) {
        source?.close();
        source = undefined;
        become('waiting');
      } else if (!source) {
        listen();
        void queries.invalidateQueries({ predicate: (q) => q.queryKey[0] !== 'session' });
      }
    };
    listen();
    document.addEventListener('visibilitychange', turn);
    return () => {
      document.removeEventListener('visibilitychange', turn);
      source?.close();
      renew.stop();
      become('waiting');
    };
  }, [queries]);
}

// pacer renews each list at once, and then not more often than its pace.
function pacer(queries: QueryClient) {
  const due = new Map<string, ReturnType<typeof setTimeout>>();
  const last = new Map<string, number>();
  const renew = (list: string) => {
    due.delete(list);
    last.set(list, Date.now());
    void queries.invalidateQueries({ predicate: (q) => q.queryKey[0] === list });
  };
  return {
    list: (list: string) => {
      if (due.has(list)) return;
      const wait = (last.get(list) ?? 0) + (pace[list] ?? usualPace) - Date.now();
      if (wait <= 0) renew(list);
      else due.set(list, setTimeout(() => renew(list), wait));
    },
    stop: () => due.forEach((t) => clearTimeout(t)),
  };
}
