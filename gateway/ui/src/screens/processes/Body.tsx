import { useMemo, useState } from 'react';
import { Code, Lines, type Line } from '../../parts/Code';
import { Copy } from '../../parts/Copy';
import { indented, rowsOf, type Row } from '../../parts/json';
import { hexOf } from '../../parts/Payload';
import { bytes, count } from '../../parts/say';
import { Segments } from '../../parts/Segments';
import { Empty, Shown } from '../../parts/States';
import { typeOf } from '../evidence';
import { useBody, type Message } from './data';

const largest = 4_000_000; // what is larger is fetched only when somebody wants it

// useContent is the body of a message, read as it can be: as JSON, as text, or as bytes.
export function useContent(message: Pick<Message, 'message_id' | 'size'> | undefined, wanted = true) {
  const body = useBody(message?.message_id ?? '', wanted && message !== undefined && message.size > 0);
  const data = message?.size === 0 ? none : body.data;
  const text = useMemo(() => data && textOf(data), [data]);
  const rows = useMemo(() => (text ? rowsOf(text) : undefined), [text]);
  return { body, data, text, rows };
}

const none = new Uint8Array();

function textOf(data: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(data);
  } catch {
    return undefined;
  }
}

type View = 'tree' | 'text' | 'hex';

// Body is what a message carries.
export function Body({ message }: { message: Message }) {
  const [anyway, setAnyway] = useState(false);
  const [asked, setAsked] = useState<View>();
  const small = anyway || message.size <= largest;
  const { body, data, text, rows } = useContent(message, small);
  const href = `/v1/messages/${encodeURIComponent(message.message_id)}/body`;
  const views = [
    ...(rows ? [{ value: 'tree' as const, label: 'JSON' }] : []),
    ...(text !== undefined ? [{ value: 'text' as const, label: 'Text' }] : []),
    { value: 'hex' as const, label: 'Hex' },
  ];
  const view = views.some((v) => v.value === asked) ? asked : views[0]?.value;
  const hex = useMemo(() => (view === 'hex' && data ? hexOf(data) : ''), [view, data]);
  const type = typeOf(message.headers ?? {});
  return (
    <div className="codebox">
      <div className="codehead">
        <span className="anywhere">
          {bytes(message.size)}
          {type && ` · ${type}`}
        </span>
        <span className="sp" />
        {data && data.length > 0 && (
          <>
            <Copy text={view === 'hex' ? hex : (text ?? '')} label="Copy" />
            <a className="btn sm ghost" href={href} download>
              Download
            </a>
            {views.length > 1 && <Segments label="How to show the payload" value={view ?? 'hex'} choices={views} onChange={setAsked} />}
          </>
        )}
      </div>
      {!small ? (
        <Empty title={`${bytes(message.size)} is a lot to show`}>
          <span className="row">
            <button className="btn" onClick={() => setAnyway(true)}>
              Show it all the same
            </button>
            <a className="btn" href={href} download>
              Download
            </a>
          </span>
        </Empty>
      ) : message.size === 0 ? (
        <p className="empty small">It is empty.</p>
      ) : data ? (
        view === 'tree' && rows ? <Tree rows={rows} /> : <Code key={view} text={view === 'hex' ? hex : (text ?? '')} table={view === 'hex'} label="Payload" />
      ) : (
        <Shown query={body}>{() => null}</Shown>
      )}
    </div>
  );
}

// Tree is JSON of which parts can be folded away. Line numbers stay what they are.
function Tree({ rows }: { rows: readonly Row[] }) {
  const [shut, setShut] = useState<ReadonlySet<number>>(new Set());
  const lines = useMemo(() => linesOf(rows, shut), [rows, shut]);
  const fold = (no: number) => {
    const next = new Set(shut);
    if (!next.delete(no)) next.add(no);
    setShut(next);
  };
  return <Lines lines={lines} json label="Payload" onFold={fold} />;
}

function linesOf(rows: readonly Row[], shut: ReadonlySet<number>): Line[] {
  const lines: Line[] = [];
  for (let i = 0; i < rows.length; i++) {
    const row = rows[i];
    if (!row) break;
    const no = i + 1;
    if (row.closes === undefined) {
      lines.push({ text: indented(row), no });
    } else if (shut.has(no)) {
      lines.push({ text: `${indented(row)} … ${rows[row.closes]?.text ?? ''}`, no, fold: 'shut', note: `${count(row.count ?? 0)} inside` });
      i = row.closes;
    } else {
      lines.push({ text: indented(row), no, fold: 'open' });
    }
  }
  return lines;
}
