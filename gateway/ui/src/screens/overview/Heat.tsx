import { Link } from '@tanstack/react-router';
import { memo, useState, useSyncExternalStore, type KeyboardEvent, type ReactNode } from 'react';
import { createPortal } from 'react-dom';
import type { Schemas } from '../../api/client';
import { count, dayOf, many, minuteOf, plain, share, short } from '../../parts/say';

type Heatmap = Schemas['Heatmap'];

export type Slot = { from: Date; to: Date; messages: number; failed: number };

type Props = {
  map: Heatmap;
  unit: string; // what is counted: "message"
  caption: string;
  mark?: (name: string) => ReactNode;
  to: (name: string, slot: Slot) => Record<string, string>; // the query of the trash
};

// Heat is a real table: a row each, a column for each stretch of time, and in each cell a link to what failed there.
// Quiet traffic is a small mark and a failure fills its cell, so shape tells as much as hue. Arrow keys move.
export function Heat({ map, unit, caption, mark, to }: Props) {
  const [tip, setTip] = useState<{ at: DOMRect; lines: readonly string[] }>();
  const [focus, setFocus] = useState<readonly [number, number]>();
  const narrow = useNarrow();
  const fold = narrow ? Math.ceil(map.slots / 24) : 1;
  const columns = Math.ceil(map.slots / fold);
  const step = map.step_seconds * fold;
  const start = new Date(map.from).getTime() / 1000;
  const slotTime = (i: number) => new Date((start + i * step) * 1000);
  const rows = map.items ?? [];
  const most = Math.max(0, rows.length - 1);
  const [row, column] = [Math.min(focus?.[0] ?? 0, most), Math.min(focus?.[1] ?? columns - 1, columns - 1)];
  const move = (e: KeyboardEvent<HTMLTableElement>) => {
    const by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -columns], End: [0, columns] }[e.key];
    if (!by) return;
    const next = [clamp(row + (by[0] ?? 0), most), clamp(column + (by[1] ?? 0), columns - 1)] as const;
    e.preventDefault();
    setFocus(next);
    e.currentTarget.querySelector<HTMLElement>(`[data-cell="${next[0]}-${next[1]}"]`)?.focus();
  };
  return (
    <>
      <table className="heat" onKeyDown={move}>
        <caption className="sr">
          {caption} {summary(rows, unit)} Arrow keys move, Enter opens what failed.
        </caption>
        <colgroup>
          <col className="name" />
          <col span={columns} />
          <col className="sum" />
        </colgroup>
        <tbody>
          {rows.map((r, i) => (
            <Row
              key={r.name}
              row={r}
              index={i}
              fold={fold}
              columns={columns}
              start={start}
              step={step}
              unit={unit}
              mark={mark}
              to={to}
              reach={i === row ? column : -1}
              onTip={setTip}
              onFocus={setFocus}
            />
          ))}
          <tr className="axis" aria-hidden="true">
            <th />
            {axis(columns, narrow ? 3 : 8).map(([at, span]) => (
              <td key={at} colSpan={span} style={{ flexGrow: span }}>
                {stamp(slotTime(at), step)}
              </td>
            ))}
            <td className="sum" />
          </tr>
        </tbody>
      </table>
      {tip && createPortal(<Tip {...tip} />, document.body)}
    </>
  );
}

type RowProps = {
  row: Schemas['HeatRow'];
  index: number;
  fold: number;
  columns: number;
  start: number;
  step: number;
  unit: string;
  mark?: (name: string) => ReactNode;
  to: Props['to'];
  reach: number; // the column that the Tab key comes to, or -1
  onTip: (tip: { at: DOMRect; lines: readonly string[] } | undefined) => void;
  onFocus: (at: readonly [number, number]) => void;
};

const Row = memo(function Row({ row, index, fold, columns, start, step, unit, mark, to, reach, onTip, onFocus }: RowProps) {
  const slots = Array.from({ length: columns }, (_, i): Slot => ({
    from: new Date((start + i * step) * 1000),
    to: new Date((start + (i + 1) * step) * 1000),
    messages: sum(row.messages, i * fold, fold),
    failed: sum(row.failed, i * fold, fold),
  }));
  const top = Math.max(1, ...slots.map((s) => s.messages));
  const name = plain(row.name);
  return (
    <tr>
      <th scope="row">
        <span className="row">
          {mark?.(row.name)}
          <span className="ell" title={name}>
            {name}
          </span>
        </span>
      </th>
      {slots.map((slot, i) => {
        const when = `${stamp(slot.from, step)} to ${stamp(slot.to, step)}`;
        const what = told(slot, unit);
        const show = (e: { currentTarget: HTMLElement }) =>
          onTip({ at: e.currentTarget.getBoundingClientRect(), lines: [name, when, what, ...(slot.failed ? ['Opens what of it waits in the trash'] : [])] });
        const props = {
          className: hueOf(slot, top),
          tabIndex: reach === i ? 0 : -1,
          'data-cell': `${index}-${i}`,
          'aria-label': `${name}, ${when}, ${what}`,
          onMouseEnter: show,
          onMouseLeave: () => onTip(undefined),
          onFocus: (e: { currentTarget: HTMLElement }) => {
            onFocus([index, i]);
            show(e);
          },
          onBlur: () => onTip(undefined),
        };
        return (
          <td className="c" key={i}>
            {slot.failed ? (
              <Link to="/trash" search={to(row.name, slot) as never} {...props} />
            ) : (
              <span role="img" {...props} />
            )}
          </td>
        );
      })}
      <td className="sum">
        {row.total_failed > 0 ? (
          <>
            <b title={many(row.total_failed, 'failure')}>{short(row.total_failed)} failed</b> of {short(row.total)}
          </>
        ) : (
          <span title={many(row.total, unit)}>{short(row.total)}</span>
        )}
      </td>
    </tr>
  );
});

const clamp = (n: number, most: number) => Math.max(0, Math.min(n, most));

function sum(counts: readonly number[] | null | undefined, from: number, length: number): number {
  let n = 0;
  for (let i = from; i < from + length; i++) n += counts?.[i] ?? 0;
  return n;
}

// hueOf says how much came, and of it how much failed: one failure is seen in any crowd.
function hueOf(slot: Slot, top: number): string {
  if (slot.failed) {
    const part = slot.messages ? slot.failed / slot.messages : 1;
    return part >= 0.25 ? 'x4' : part >= 0.05 ? 'x3' : part >= 0.01 ? 'x2' : 'x1';
  }
  return `n${slot.messages ? Math.max(1, Math.ceil((slot.messages / top) * 3)) : 0}`;
}

function told(slot: Slot, unit: string): string {
  if (!slot.messages && !slot.failed) return 'no traffic';
  return `${many(slot.messages, unit)}, ${slot.failed ? `${count(slot.failed)} failed (${share(slot.messages ? slot.failed / slot.messages : 1)})` : 'none failed'}`;
}

function summary(rows: readonly Schemas['HeatRow'][], unit: string): string {
  const bad = rows.filter((r) => r.total_failed > 0);
  if (bad.length === 0) return `None of ${rows.length} has failures.`;
  return `${bad.length} of ${rows.length} have failures: ${bad.map((r) => `${r.name} ${count(r.total_failed)} of ${many(r.total, unit)}`).join(', ')}.`;
}

const stamp = (at: Date, step: number) => (step >= 86_400 ? dayOf(at) : step >= 7200 ? `${dayOf(at)} ${minuteOf(at)}` : minuteOf(at));

// axis is where the time stands below: at about as many places as there is room for.
function axis(columns: number, places: number): [number, number][] {
  const every = Math.ceil(columns / places);
  return Array.from({ length: Math.ceil(columns / every) }, (_, i) => [i * every, Math.min(every, columns - i * every)]);
}

function Tip({ at, lines }: { at: DOMRect; lines: readonly string[] }) {
  const left = clamp(at.left + at.width / 2 - 130, innerWidth - 276);
  const below = at.top < 120;
  return (
    <div className="tip" aria-hidden="true" style={{ left: left + 8, ...(below ? { top: at.bottom + 8 } : { bottom: innerHeight - at.top + 8 }) }}>
      {lines.map((l, i) => (
        <div key={i}>{i ? l : <b>{l}</b>}</div>
      ))}
    </div>
  );
}

const phone = matchMedia('(max-width: 760px)');
const useNarrow = () =>
  useSyncExternalStore(
    (w) => {
      phone.addEventListener('change', w);
      return () => phone.removeEventListener('change', w);
    },
    () => phone.matches,
  );
