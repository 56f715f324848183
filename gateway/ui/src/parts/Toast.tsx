import { useEffect, useRef, useSyncExternalStore, type ReactNode } from 'react';

// What was just done is said once, below, and leaves by itself.
let said: { text: ReactNode; bad: boolean } | undefined;
let timer: ReturnType<typeof setTimeout> | undefined;
const watchers = new Set<() => void>();

function show(next: typeof said) {
  said = next;
  clearTimeout(timer);
  if (next) timer = setTimeout(() => show(undefined), next.bad ? 12_000 : 6_000);
  watchers.forEach((w) => w());
}

export const tell = (text: ReactNode) => show({ text, bad: false });
export const warn = (text: ReactNode) => show({ text, bad: true });

const watch = (w: () => void) => {
  watchers.add(w);
  return () => watchers.delete(w);
};

export function Toast() {
  const now = useSyncExternalStore(watch, () => said);
  const ref = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (!now) return;
    const box = ref.current; // above dialogs, which are in the browser's top layer
    box?.showPopover?.();
    return () => box?.hidePopover?.();
  }, [now]);
  return (
    <div role={now?.bad ? 'alert' : 'status'}>
      {now && (
        <div ref={ref} className="toast" popover="manual">
          {now.text}
        </div>
      )}
    </div>
  );
}
