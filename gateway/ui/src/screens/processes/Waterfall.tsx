import { memo, useEffect, useMemo, useRef, useState } from 'react';
import { during, many, ms, plain } from '../../parts/say';
import { useNow } from '../../parts/Time';
import { useKeys } from '../../shell/keys';
import { places, took, type Step } from './data';
import { axisOf, branchesOf, isStill, type Axis, type Branch } from './tree';

// placed leaves room at the end for what has no length.
const placed = (share: number) => `calc((100% - 16px) * ${share})`;

const rowHeight = 38;
const manyRows = 120;

type Props = { steps: readonly Step[]; whole: boolean; chosen?: string; onChoose: (id: string) => void };

// Waterfall shows where each message was when, below the one that it was made from.
export function Waterfall({ steps, whole, chosen, onChoose }: Props) {
  const branches = useMemo(() => branchesOf(steps), [steps]);
  const moving = steps.some((s) => s.spans?.some((p) => !p.to && !isStill(p.kind)));
  const now = useNow().getTime();
  const until = moving ? now : 0;
  const axis = useMemo(() => axisOf(steps, until || Date.now()), [steps, until]);
  const at = branches.findIndex((b) => b.step.message_id === chosen);
  const go = (by: number) => {
    const next = branches[Math.min(branches.length - 1, Math.max(0, at + by))];
    if (next) onChoose(next.step.message_id);
  };
  useKeys([
    { keys: 'j', label: 'Next message', run: () => go(1) },
    { keys: 'k', label: 'Message before', run: () => go(-1) },
  ]);
  return (
    <div className="wf">
      <div className="wf-ax desk" aria-hidden="true">
        <span className="wf-track">
          {[0, 0.25, 0.5, 0.75, 1].map((p) => (
            <span key={p} style={{ left: placed(p) }}>
              {ms(axis.time(p) - axis.from)}
            </span>
          ))}
        </span>
      </div>
      <Rows branches={branches} whole={whole} axis={axis} now={until || Date.now()} at={at} onChoose={onChoose} />
    </div>
  );
}

type RowsProps = { whole: boolean; branches: readonly Branch[]; axis: Axis; now: number; at: number; onChoose: (id: string) => void };

// Rows lays out only those in sight, where there are many.
function Rows({ branches, whole, axis, now, at, onChoose }: RowsProps) {
  const [top, setTop] = useState(0);
  const box = useRef<HTMLDivElement>(null);
  const few = branches.length <= manyRows;
  const height = rowHeight * (matchMedia('(max-width: 760px)').matches ? 1.5 : 1);
  useEffect(() => {
    const b = box.current;
    if (few || !b || at < 0) return;
    if (at * height < b.scrollTop || (at + 1) * height > b.scrollTop + b.clientHeight) b.scrollTop = at * height - b.clientHeight / 2;
  }, [at, few, height]);
  const first = few ? 0 : Math.max(0, Math.floor(top / height) - 10);
  const shown = few ? branches : branches.slice(first, first + 60);
  return (
    <div ref={box} className={few ? undefined : 'wf-many'} onScroll={few ? undefined : (e) => setTop(e.currentTarget.scrollTop)}>
      <ol aria-label={`${many(branches.length, 'message')}, each below the one that it was made from`} style={few ? undefined : { height: branches.length * height, paddingTop: first * height }}>
        {shown.map((b, i) => (
          <Row key={b.step.message_id} branch={b} axis={axis} now={b.step.ended_at ? 0 : now} whole={whole} chosen={first + i === at} onChoose={onChoose} />
        ))}
      </ol>
    </div>
  );
}

type RowProps = { branch: Branch; whole: boolean; axis: Axis; now: number; chosen: boolean; onChoose: (id: string) => void };

const Row = memo(function Row({ branch: { step, guide, children }, whole, axis, now, chosen, onChoose }: RowProps) {
  const said = saidOf(step, now || Date.now());
  return (
    <li>
      <button className={`wf-row${chosen ? ' on' : ''}`} aria-current={chosen || undefined} onClick={() => onChoose(step.message_id)}>
        <span className="wf-name">
          {guide && (
            <span className="wf-guide" aria-hidden="true">
              {guide}
            </span>
          )}
          <b className="ell" title={plain(step.node)}>
            {plain(step.node)}
          </b>
          {step.application ? <span className="faint ell">{plain(step.application)}</span> : null}
          {children > 1 && <span className="faint nowrap">1 → {children}{!whole && ' or more'}</span>}
        </span>
        <span className="wf-track" aria-hidden="true">
          {axis.breaks.map((b) => (
            <i key={b.left} className="wf-break" title={`${ms(b.ms)} in which nothing moved`} style={{ left: placed(b.left), width: placed(b.right - b.left) }} />
          ))}
          {step.spans?.map((p, i) => {
            const from = axis.at(Date.parse(p.from));
            const to = isStill(p.kind) && !p.to ? from : axis.at(p.to ? Date.parse(p.to) : now);
            const failed = p.kind === 'running' && step.attempts?.some((a) => a.attempt === p.attempt && (a.outcome === 'failed' || a.outcome === 'retried'));
            return <i key={i} className={`wf-s ${p.kind}${failed ? ' failed' : ''}`} style={{ left: placed(from), width: placed(Math.max(0, to - from)) }} />;
          })}
        </span>
        <span className={`wf-said ell ${said.hue}`} title={said.text}>
          {said.text}
        </span>
      </button>
    </li>
  );
});

// saidOf is what happened to a message, in some words: how long it was held, how long its call took, and how it ended.
function saidOf(step: Step, now: number): { text: string; hue: string } {
  const last = step.attempts?.at(-1);
  const length = (kind: string) => (step.spans ?? []).filter((p) => p.kind === kind).reduce((sum, p) => sum + Math.max(0, (p.to ? Date.parse(p.to) : now) - Date.parse(p.from)), 0) / 1000;
  const held = length('held');
  switch (step.place) {
    case 'trash':
      return { text: `${(last?.status ?? 0) >= 400 ? last?.status : 'in trash'} at attempt ${step.attempt}`, hue: 'red' };
    case 'parked':
      return { text: `waits ${during(length('parked'))} for a person`, hue: 'violet' };
    case 'lost':
      return { text: 'lost', hue: 'red' };
    case 'held':
      return { text: `held ${during(held)}`, hue: 'amber' };
    case 'waiting':
      return { text: `waits ${during(length('waiting'))}`, hue: 'amber' };
    case 'retrying':
      return { text: `attempt ${step.attempt + 1}${step.due_at ? ` in ${during(Math.max(0, (Date.parse(step.due_at) - now) / 1000))}` : ' soon'}`, hue: 'amber' };
    case 'running':
      return { text: `running ${during(Math.max(0, length('running')))}`, hue: 'teal' };
    case 'done':
    case 'filtered': {
      const ran = last ? took(last.duration_ms) : during(length('running'));
      const parts = [...(held >= 1 ? [`held ${during(held)}, then ${ran}`] : [ran]), ...(step.attempt > 1 ? [`attempt ${step.attempt}`] : []), ...(step.place === 'filtered' ? ['filtered'] : [])];
      return { text: parts.join(', '), hue: 'muted' };
    }
    default:
      return { text: places[step.place].said.toLowerCase(), hue: 'violet' };
  }
}
