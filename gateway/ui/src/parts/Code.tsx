import { useMemo, useState, type ReactNode } from 'react';
import { hidden, pictureOf } from './say';

// What others wrote is shown as text, never as HTML. Characters that cannot be seen, or that would turn the line around,
// are drawn; a line that is too long to lay out is cut with a word about it; of many lines only those in sight exist.

const lineHeight = 20;
const foldHeight = 24; // where something on a line can be pressed
const manyLines = 400;
const longLine = 4000;

const token = /("(?:[^"\\]|\\.)*")(\s*:)?|(?<![\w.-])(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![\w.])|\b(true|false|null)\b/g;

function drawn(text: string): ReactNode {
  const parts: ReactNode[] = [];
  let at = 0;
  for (const m of text.matchAll(hidden)) {
    if (m[0] === '\t') continue;
    parts.push(text.slice(at, m.index), <span className="ctl" key={m.index}>{m[0] === '\r' ? '␍' : pictureOf(m[0])}</span>);
    at = m.index + m[0].length;
  }
  return at ? [...parts, text.slice(at)] : text;
}

// painted is a line of JSON with its strings, numbers and words told apart. Digits in strings stay what they are.
function painted(line: string): ReactNode {
  const parts: ReactNode[] = [];
  let at = 0;
  for (const m of line.matchAll(token)) {
    if (m[2]) continue; // a name
    parts.push(drawn(line.slice(at, m.index)));
    parts.push(
      <span key={m.index} className={m[1] ? 'j-s' : m[3] ? 'j-n' : 'j-b'}>
        {drawn(m[0])}
      </span>,
    );
    at = m.index + m[0].length;
  }
  return [...parts, drawn(line.slice(at))];
}

export type Line = {
  text: string;
  no?: number;
  sign?: '+' | '−';
  kind?: 'add' | 'del' | 'gap';
  fold?: 'open' | 'shut'; // of a line that others can be folded into
  note?: string; // of ours, behind the text
};

function LineOf({ line, json, onFold }: { line: Line; json: boolean; onFold?: (no: number) => void }) {
  const cut = line.text.length > longLine;
  const text = cut ? line.text.slice(0, longLine) : line.text;
  return (
    <div className={line.kind ? `ln ${line.kind}` : 'ln'}>
      <span className="no">{line.no ?? ''}</span>
      <span className="sign-c">
        {line.fold ? <button className={`fold ${line.fold}`} aria-expanded={line.fold === 'open'} aria-label={`Line ${line.no}`} onClick={() => onFold?.(line.no ?? 0)} /> : (line.sign ?? '')}
      </span>
      <bdi>
        {json && line.kind !== 'gap' ? painted(text) : drawn(text)}
        {cut && <span className="ctl">{(line.text.length - longLine).toLocaleString('en-US')} more characters</span>}
        {line.note && <span className="ctl">{line.note}</span>}
      </bdi>
    </div>
  );
}

type LinesProps = { lines: readonly Line[]; json?: boolean; table?: boolean; label: string; onFold?: (no: number) => void };

// Lines shows lines with their numbers. Few wrap, unless they are a table; of many, only those in sight are laid out, and
// none wraps.
export function Lines({ lines, json = false, table = false, label, onFold }: LinesProps) {
  const [top, setTop] = useState(0);
  const height = onFold ? foldHeight : lineHeight;
  const folds = onFold ? ' folds' : '';
  if (lines.length <= manyLines) {
    return (
      <div className={(table ? 'code still' : 'code') + folds} tabIndex={0} role="group" aria-label={label}>
        {lines.map((line, i) => (
          <LineOf key={i} line={line} json={json} onFold={onFold} />
        ))}
      </div>
    );
  }
  const first = Math.max(0, Math.floor(top / height) - 20);
  const shown = lines.slice(first, first + 64);
  return (
    <div className={`code still${folds}`} tabIndex={0} role="group" aria-label={`${label}, ${lines.length} lines`} onScroll={(e) => setTop(e.currentTarget.scrollTop)}>
      <div style={{ height: lines.length * height }}>
        <div style={{ transform: `translateY(${first * height}px)`, width: 'max-content', minWidth: '100%' }}>
          {shown.map((line, i) => (
            <LineOf key={first + i} line={line} json={json} onFold={onFold} />
          ))}
        </div>
      </div>
    </div>
  );
}

// Code shows one text.
export function Code({ text, ...props }: { text: string } & Omit<LinesProps, 'lines'>) {
  const lines = useMemo(() => text.split('\n').map((t, i) => ({ text: t, no: i + 1 })), [text]);
  return <Lines lines={lines} {...props} />;
}
