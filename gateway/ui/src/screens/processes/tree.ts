import type { Step } from './data';

export type Branch = { step: Step; guide: string; children: number };

// branchesOf puts messages below those that their nodes made them from. What a fan-out made stands further in, behind
// lines that lead there; a chain goes straight down.
export function branchesOf(steps: readonly Step[]): Branch[] {
  const known = new Set(steps.map((s) => s.message_id));
  const made = new Map<string, Step[]>();
  const roots: Step[] = [];
  for (const s of steps) {
    if (!s.parent_id || !known.has(s.parent_id)) roots.push(s);
    else made.set(s.parent_id, [...(made.get(s.parent_id) ?? []), s]);
  }
  const branches: Branch[] = [];
  const open: { step: Step; guide: string; below: string }[] = [];
  const push = (siblings: readonly Step[], below: string) => {
    const alone = siblings.length === 1;
    for (let i = siblings.length - 1; i >= 0; i--) {
      const step = siblings[i];
      const last = i === siblings.length - 1;
      if (step) open.push(alone ? { step, guide: below, below } : { step, guide: `${below}${last ? '└' : '├'}`, below: `${below}${last ? ' ' : '│'}` });
    }
  };
  push(roots, '');
  for (let next = open.pop(); next; next = open.pop()) {
    const children = made.get(next.step.message_id) ?? [];
    branches.push({ step: next.step, guide: next.guide, children: children.length });
    push(children, next.below);
  }
  return branches;
}

// A piece of time on the axis: from when to when, and where it is drawn, from 0 to 1.
type Piece = { from: number; to: number; left: number; right: number; idle: boolean };

export type Axis = { at: (time: number) => number; time: (place: number) => number; breaks: { left: number; right: number; ms: number }[]; from: number };

const idleShare = 0.05; // of the axis, for a break in which nothing moved

// axisOf is where times are drawn. What waits for a person may do so for days: where nothing else happens, they take no
// more room than a break.
export function axisOf(steps: readonly Step[], now: number): Axis {
  const busy = steps
    .flatMap((s) => (s.spans ?? []).map((p) => ({ from: Date.parse(p.from), to: isStill(p.kind) ? Date.parse(p.from) : p.to ? Date.parse(p.to) : now })))
    .map((p) => ({ from: p.from, to: Math.max(p.from, p.to) }))
    .sort((a, b) => a.from - b.from);
  const runs: { from: number; to: number }[] = [];
  for (const p of busy) {
    const last = runs.at(-1);
    if (last && p.from <= last.to) last.to = Math.max(last.to, p.to);
    else runs.push({ ...p });
  }
  const first = runs[0]?.from ?? now;
  const end = runs.at(-1)?.to ?? now;
  const moving = Math.max(1, runs.reduce((sum, r) => sum + r.to - r.from, 0));
  // Short pauses are drawn as they are.
  const joined: typeof runs = [];
  for (const r of runs) {
    const last = joined.at(-1);
    if (last && r.from - last.to <= moving * idleShare) last.to = r.to;
    else joined.push({ ...r });
  }
  const length = joined.reduce((sum, r) => sum + r.to - r.from, 0) || 1;
  const gap = joined.length > 1 ? Math.min(idleShare, 0.4 / (joined.length - 1)) : 0;
  const room = 1 - gap * (joined.length - 1);
  const pieces: Piece[] = [];
  let place = 0;
  joined.forEach((r, i) => {
    const before = joined[i - 1];
    if (before) pieces.push({ from: before.to, to: r.from, left: place, right: (place += gap), idle: true });
    pieces.push({ from: r.from, to: r.to, left: place, right: (place += ((r.to - r.from) / length) * room), idle: false });
  });
  return {
    at: (time) => {
      const p = pieces.find((q) => time <= q.to) ?? pieces.at(-1);
      if (!p || time <= first) return 0;
      if (time >= end) return 1;
      return p.left + ((time - p.from) / Math.max(1e-9, p.to - p.from)) * (p.right - p.left);
    },
    time: (where) => {
      const p = pieces.find((q) => where <= q.right) ?? pieces.at(-1);
      if (!p) return first;
      return p.from + ((where - p.left) / Math.max(1e-9, p.right - p.left)) * (p.to - p.from);
    },
    breaks: pieces.filter((p) => p.idle).map((p) => ({ left: p.left, right: p.right, ms: p.to - p.from })),
    from: first,
  };
}

export const isStill = (kind: string) => kind === 'trash' || kind === 'parked';
