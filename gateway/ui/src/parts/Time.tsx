import { useSyncExternalStore } from 'react';
import { agoOf, fullOf, momentOf } from './say';

// One clock for the whole page; it stands still while nobody looks.
let now = new Date();
const watchers = new Set<() => void>();
setInterval(() => {
  if (document.hidden) return;
  now = new Date();
  watchers.forEach((w) => w());
}, 1000);

const watch = (w: () => void) => {
  watchers.add(w);
  return () => watchers.delete(w);
};

// useNow is the time, anew each second.
export function useNow(): Date {
  return useSyncExternalStore(watch, () => now);
}

// Time says when: the time of day, or how long ago. The other way, with its zone, stands in the title.
export function Time({ at, ago }: { at: string | undefined; ago?: boolean }) {
  const current = useNow();
  if (!at) return <span className="faint">–</span>;
  const when = new Date(at);
  return (
    <time dateTime={at} title={ago ? fullOf(when) : `${fullOf(when)}, ${agoOf(when, current)}`} className="nowrap">
      {ago ? agoOf(when, current) : momentOf(when, current)}
    </time>
  );
}
