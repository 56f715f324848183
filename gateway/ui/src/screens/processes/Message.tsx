import { useMemo, useState } from 'react';
import { Badge } from '../../parts/Badge';
import { Lines } from '../../parts/Code';
import { changed, diffOf, near } from '../../parts/diff';
import { Icon } from '../../parts/Icon';
import { indented, type Row } from '../../parts/json';
import { bytes, count, many, plain } from '../../parts/say';
import { Segments } from '../../parts/Segments';
import { Bones, Empty, Shown } from '../../parts/States';
import { Time } from '../../parts/Time';
import { useChangeQuery, useQueryText } from '../../shell/place';
import { To } from '../../shell/To';
import { verdicts } from '../evidence';
import { Body, useContent } from './Body';
import { Calls } from './Calls';
import { places, useMessage, useNode, type Message, type Process, type Step } from './data';
import { Replay } from './Replay';

type View = 'calls' | 'payload' | 'changes' | 'headers';

// MessagePanel is one message: its calls, what it carries, and what the node before made of its own.
export function MessagePanel({ id, process, steps }: { id: string; process: Process; steps: readonly Step[] }) {
  const message = useMessage(id);
  return (
    <section className="card msg" aria-labelledby="msg-h" id="message">
      <Shown query={message} lines={8}>
        {(m) => <Known message={m} process={process} steps={steps} />}
      </Shown>
    </section>
  );
}

function Known({ message: m, process, steps }: { message: Message; process: Process; steps: readonly Step[] }) {
  const [again, setAgain] = useState(false);
  const query = useQueryText();
  const change = useChangeQuery();
  const node = useNode(m.topology, m.version, m.node);
  const place = places[m.place];
  const made = steps.filter((s) => s.parent_id === m.message_id);
  const stays = m.place === 'trash' || m.place === 'parked';
  const views = [
    { value: 'calls' as const, label: m.attempts?.length ? `Calls ${count(m.attempts.length)}` : 'Calls' },
    { value: 'payload' as const, label: 'Payload' },
    { value: 'changes' as const, label: 'Before and after' },
    { value: 'headers' as const, label: 'Headers' },
  ];
  const view: View = views.find((v) => v.value === query.view)?.value ?? 'calls';
  const about = [node?.kind, node?.application, node?.worker && `on ${node.worker}`].filter((t): t is string => !!t);
  return (
    <>
      <header>
        <h2 id="msg-h">{plain(m.node)}</h2>
        <Badge hue={place.hue} icon={place.icon}>
          {place.said}
        </Badge>
        <span className="sp" />
        {stays && (
          <To screen="/trash" search={{ entry: m.message_id }} className="btn sm">
            {m.place === 'trash' ? 'Open in trash' : 'Decide'}
          </To>
        )}
        <button className="btn sm" onClick={() => setAgain(true)}>
          Replay from here…
        </button>
        <p className="faint small anywhere all">
          {about.length > 0 && <>{plain(about.join(', '))}. </>}
          From {plain(m.from)}, made <Time at={m.created_at} />, <span className="mono">…{m.message_id.slice(m.message_id.lastIndexOf('-'))}</span>
          {m.due_at && (
            <>
              . Next attempt <Time at={m.due_at} ago />
            </>
          )}
        </p>
        {m.replaced_by && (
          <p className="small violet all">
            <Icon name="edit" small /> An edited message goes on in its place:{' '}
            <button className="link" onClick={() => change({ message: m.replaced_by })}>
              open it
            </button>
          </p>
        )}
        <Decisions decisions={m.decisions ?? []} />
      </header>
      <div className="pad-s">
        <Segments label="What to see of the message" value={view} choices={views} onChange={(to) => change({ view: to === 'calls' ? undefined : to }, 'silent')} />
      </div>
      <div key={m.message_id + view}>
        {view === 'calls' && <Calls message={m} makes={made.length} />}
        {view === 'payload' && (
          <div className="pad-m">
            <Body message={m} />
          </div>
        )}
        {view === 'changes' && <Changes message={m} />}
        {view === 'headers' && <HeadersOf message={m} />}
      </div>
      {made.length > 0 && (
        <footer>
          <span>
            Its node made {many(made.length, 'message')}:{' '}
            {made.slice(0, 5).map((s, i) => (
              <span key={s.message_id}>
                {i > 0 && ', '}
                <button className="link" onClick={() => change({ message: s.message_id })}>
                  {plain(s.node)}
                </button>
              </span>
            ))}
            {made.length > 5 && ` and ${count(made.length - 5)} more`}
          </span>
        </footer>
      )}
      {again && <Replay process={process} message={m} onClose={() => setAgain(false)} />}
    </>
  );
}

function Decisions({ decisions }: { decisions: readonly NonNullable<Message['decisions']>[number][] }) {
  if (decisions.length === 0) return null;
  return (
    <ul className="small muted all">
      {decisions.map((d, i) => (
        <li key={i} className="anywhere">
          <Icon name="person" small /> <Time at={d.decided_at} /> {plain(d.decided_by)} {verdicts[d.verdict]}
          {d.reason && `: “${plain(d.reason)}”`}
        </li>
      ))}
    </ul>
  );
}

const comparable = 4_000_000; // bytes

// laidOut is JSON for comparison: that something follows a value is no change of it.
const laidOut = (rows: readonly Row[] = []) => rows.map((r) => indented(r).replace(/,$/, '')).join('\n');

// Changes is what the node before was given, against what it made of it.
function Changes({ message: m }: { message: Message }) {
  const parent = useMessage(m.parent_id ?? m.message_id);
  const before = m.parent_id ? parent.data : undefined;
  const small = m.size <= comparable && (before?.size ?? 0) <= comparable;
  const old = useContent(before, small);
  const now = useContent(m, small && before !== undefined);
  const ready = old.data !== undefined && now.data !== undefined;
  const texts = old.text !== undefined && now.text !== undefined;
  const json = old.rows !== undefined && now.rows !== undefined;
  const lines = useMemo(() => {
    if (!ready || !texts) return [];
    return json ? diffOf(laidOut(old.rows), laidOut(now.rows)) : diffOf(old.text ?? '', now.text ?? '');
  }, [ready, texts, json, old.rows, old.text, now.rows, now.text]);
  if (!m.parent_id) return <Empty title="Nothing was before it">It came with the event, as it is on Payload.</Empty>;
  if (parent.isError) return <Shown query={parent}>{() => null}</Shown>;
  if (old.body.isError) return <Shown query={old.body}>{() => null}</Shown>;
  if (now.body.isError) return <Shown query={now.body}>{() => null}</Shown>;
  if (!small) return <Empty title="Too large to compare">Payload shows it, and it can be downloaded.</Empty>;
  if (!ready) return <Bones lines={6} />;
  if (!texts) return <Empty title="Bytes, not text">One of the two is no text, so there are no lines to compare.</Empty>;
  const { added, gone } = changed(lines);
  return (
    <div className="pad-m">
      <div className="codebox">
        <div className="codehead">
          <span className="anywhere">
            What <b>{plain(m.from)}</b> was given, and what it made: {added + gone === 0 ? 'the same' : `${many(added, 'line')} added, ${count(gone)} removed`}
          </span>
          <span className="sp" />
          <span>
            {bytes(before?.size ?? 0)} → {bytes(m.size)}
          </span>
        </div>
        {added + gone > 0 && <Lines lines={near(lines)} json={json} label="Before and after" />}
      </div>
    </div>
  );
}

function HeadersOf({ message }: { message: Message }) {
  const all = Object.entries(message.headers ?? {});
  if (all.length === 0) return <Empty title="No headers">The message has a payload alone.</Empty>;
  return (
    <dl className="kv mono pad-m">
      {all.map(([name, value]) => (
        <div key={name} style={{ display: 'contents' }}>
          <dt>{plain(name)}</dt>
          <dd>{plain(value)}</dd>
        </div>
      ))}
    </dl>
  );
}
