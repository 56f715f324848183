import type { Line } from './Code';

// Differences by line: the shortest edit, by Myers' algorithm on what remains between equal heads and tails. Texts that
// differ in more than it is worth to search for are shown as one gone and one come.
const mostEdits = 400;

export function diffOf(before: string, after: string): Line[] {
  const a = before.split('\n');
  const b = after.split('\n');
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head++;
  let tail = 0;
  while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
  const lines: Line[] = [];
  for (let i = 0; i < head; i++) lines.push({ text: b[i] ?? '', no: i + 1 });
  for (const step of steps(a.slice(head, a.length - tail), b.slice(head, b.length - tail))) {
    if (step.kind === 'del') lines.push({ text: a[head + step.at] ?? '', no: head + step.at + 1, sign: '−', kind: 'del' });
    else lines.push({ text: b[head + step.at] ?? '', no: head + step.at + 1, ...(step.kind === 'add' ? { sign: '+' as const, kind: 'add' as const } : {}) });
  }
  for (let i = b.length - tail; i < b.length; i++) lines.push({ text: b[i] ?? '', no: i + 1 });
  return lines;
}

// changed is how many lines a difference adds and takes away.
export function changed(lines: readonly Line[]): { added: number; gone: number } {
  let added = 0;
  let gone = 0;
  for (const l of lines) {
    if (l.kind === 'add') added++;
    if (l.kind === 'del') gone++;
  }
  return { added, gone };
}

// near leaves out what is far from any change.
export function near(lines: readonly Line[], around = 3): Line[] {
  const keep = new Set<number>();
  lines.forEach((l, i) => {
    if (l.kind) for (let k = i - around; k <= i + around; k++) keep.add(k);
  });
  const out: Line[] = [];
  let skipped = 0;
  const close = () => {
    if (skipped) out.push({ text: `${skipped} equal ${skipped === 1 ? 'line' : 'lines'}`, kind: 'gap' });
    skipped = 0;
  };
  lines.forEach((l, i) => {
    if (!keep.has(i)) {
      skipped++;
      return;
    }
    close();
    out.push(l);
  });
  close();
  return out;
}

type Step = { kind: 'add' | 'del' | 'same'; at: number };

function steps(a: readonly string[], b: readonly string[]): Step[] {
  const all = (): Step[] => [...a.map((_, at) => ({ kind: 'del' as const, at })), ...b.map((_, at) => ({ kind: 'add' as const, at }))];
  if (!a.length || !b.length) return all();
  const limit = Math.min(a.length + b.length, mostEdits);
  const trail: Map<number, number>[] = [];
  let front = new Map([[1, 0]]);
  for (let d = 0; d <= limit; d++) {
    trail.push(front);
    const next = new Map(front);
    for (let k = -d; k <= d; k += 2) {
      const down = k === -d || (k !== d && (next.get(k - 1) ?? -1) < (next.get(k + 1) ?? -1));
      let x = down ? (next.get(k + 1) ?? 0) : (next.get(k - 1) ?? 0) + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x++;
      next.set(k, x);
      if (x >= a.length && x - k >= b.length) return walk(trail, d, a.length, b.length);
    }
    front = next;
  }
  return all();
}

// walk goes back from the end to the start over the fronts that were reached.
function walk(trail: readonly Map<number, number>[], edits: number, toX: number, toY: number): Step[] {
  const back: Step[] = [];
  let x = toX;
  let y = toY;
  for (let d = edits; d > 0; d--) {
    const front = trail[d] ?? new Map<number, number>();
    const k = x - y;
    const down = k === -d || (k !== d && (front.get(k - 1) ?? -1) < (front.get(k + 1) ?? -1));
    const fromK = down ? k + 1 : k - 1;
    const fromX = front.get(fromK) ?? 0;
    const fromY = fromX - fromK;
    while (x > fromX && y > fromY && x > (down ? fromX : fromX + 1)) {
      x--;
      y--;
      back.push({ kind: 'same', at: y });
    }
    if (down) back.push({ kind: 'add', at: --y });
    else back.push({ kind: 'del', at: --x });
  }
  while (y > 0) {
    x--;
    y--;
    back.push({ kind: 'same', at: y });
  }
  return back.reverse();
}
