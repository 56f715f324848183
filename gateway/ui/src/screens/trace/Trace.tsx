import './trace.css';
import { useEffect, useId, useMemo, useState } from 'react';
import { Badge } from '../../parts/Badge';
import { Icon } from '../../parts/Icon';
import { count, many, plain } from '../../parts/say';
import { Bones, Empty, Failure } from '../../parts/States';
import { Time } from '../../parts/Time';
import { Page } from '../../shell/Page';
import { useChangeQuery, useQueryText } from '../../shell/place';
import { To } from '../../shell/To';
import { states } from '../processes/data';
import { badges, partsOf, useTrace, type Call, type Part } from './data';

const atOnce = 1000; // calls; the others come when somebody wants them

// Trace is the history of one entity over all topologies: what came in about it, and what of it reached whom.
export default function Trace() {
  const { entity = '' } = useQueryText();
  const trace = useTrace(entity);
  const calls = useMemo(() => trace.data?.pages.flatMap((p) => p.items ?? []) ?? [], [trace.data]);
  const parts = useMemo(() => partsOf(calls), [calls]);
  const { hasNextPage, isFetching, fetchNextPage } = trace;
  const more = hasNextPage && !isFetching && calls.length < atOnce;
  useEffect(() => {
    if (more) void fetchNextPage();
  }, [more, fetchNextPage]);
  const file = (format: string) => `/v1/trace/export?format=${format}&entity=${encodeURIComponent(entity)}`;
  return (
    <Page
      title="Trace"
      actions={
        calls.length > 0 && (
          <>
            <a className="btn" href={file('json')} download>
              <Icon name="load" /> JSON
            </a>
            <a className="btn" href={file('html')} download>
              <Icon name="load" /> Signed report
            </a>
          </>
        )
      }
    >
      <Ask key={entity} entity={entity} />
      {entity === '' ? (
        <Empty title="What do you want to know about?">An order, a customer, an invoice: whatever topologies declare that their messages are about. Its whole history is here, over all of them.</Empty>
      ) : trace.isError && !trace.data ? (
        <Failure error={trace.error} retry={() => void trace.refetch()} />
      ) : !trace.data || (more && calls.length === 0) ? (
        <Bones lines={8} />
      ) : calls.length === 0 ? (
        <Empty title="Nothing is known about it">
          No message of a topology that declares such entities was about “{plain(entity)}”. Keys are compared as they are, to the letter.
        </Empty>
      ) : (
        <>
          <Verdict entity={entity} calls={calls} whole={!hasNextPage} />
          {parts.map((p) => (
            <PartCard key={p.process} part={p} />
          ))}
          {hasNextPage && calls.length >= atOnce && (
            <p className="row">
              <button className="btn" disabled={trace.isFetchingNextPage} onClick={() => void fetchNextPage()}>
                Show more
              </button>
            </p>
          )}
        </>
      )}
    </Page>
  );
}

// Ask is where somebody says what they want to know about.
function Ask({ entity }: { entity: string }) {
  const id = useId();
  const change = useChangeQuery();
  const [text, setText] = useState(entity);
  return (
    <form
      className="row trace-ask"
      role="search"
      onSubmit={(e) => {
        e.preventDefault();
        change({ entity: text.trim() });
      }}
    >
      <label className="sr" htmlFor={id}>
        Entity
      </label>
      <input className="input" id={id} value={text} maxLength={1000} placeholder="order:ABC-123, or ABC-123" autoComplete="off" spellCheck={false} onChange={(e) => setText(e.target.value)} />
      <button className="btn">Trace</button>
      <span className="faint small">every topology, every version</span>
    </form>
  );
}

// Verdict says in one sentence whether all about the entity reached whom it was for.
function Verdict({ entity, calls, whole }: { entity: string; calls: readonly Call[]; whole: boolean }) {
  const of = (...wanted: Call['badge'][]) => calls.filter((c) => wanted.includes(c.badge)).length;
  const refused = calls.filter((c) => c.badge === 'refused');
  const open = of('waiting', 'running', 'retried', 'unknown');
  const name = plain(entity);
  const stuck = refused.find((c) => c.message_id && (c.state === 'failed' || c.state === 'running'));
  const [hue, title] =
    refused.length > 0
      ? (['bad', `${name} is not complete: ${many(refused.length, 'delivery was', 'deliveries were')} refused.`] as const)
      : open > 0
        ? (['wait', `${name} is on its way: ${many(open, 'delivery is', 'deliveries are')} still to be made.`] as const)
        : (['flow', `${name} is complete: all that was to be delivered was.`] as const);
  const first = calls[0];
  const last = calls.reduce((latest, c) => ((c.ended_at ?? c.at) > latest ? (c.ended_at ?? c.at) : latest), first?.at ?? '');
  return (
    <div className={`headline ${hue}`}>
      <span className={hue === 'bad' ? 'red' : hue === 'wait' ? 'amber' : 'teal'}>
        <Icon name={hue === 'bad' ? 'x' : hue === 'wait' ? 'clock' : 'check'} />
      </span>
      <p>
        <b>{title}</b>
        <small>
          {!whole && 'Of what is shown: '}
          {many(of('received'), 'event')} received, {count(of('delivered'))} delivered, {count(refused.length)} refused, {count(open)} open
          {of('ended') > 0 && `, ${count(of('ended'))} ended by somebody`}. First <Time at={first?.at ?? ''} />, last <Time at={last} />.
        </small>
      </p>
      {stuck && (
        <To screen="/trash" search={{ entry: stuck.message_id }} className="btn primary">
          Open the entry
        </To>
      )}
    </div>
  );
}

function PartCard({ part: p }: { part: Part }) {
  const state = states[p.state];
  const params = { correlation_id: p.process };
  return (
    <section className="card" aria-label={`${p.topology} v${p.version}, process ${p.process}`}>
      <header>
        <h2>
          <To screen="/topologies/$topology" params={{ topology: p.topology }} search={{ version: String(p.version) }} className="">
            {plain(p.topology)}
          </To>{' '}
          <span className="faint">v{p.version}</span>
        </h2>
        <Badge hue={state.hue} icon={state.icon}>
          {state.said}
        </Badge>
        <span className="sp" />
        <span className="small faint">
          process{' '}
          <To screen="/processes/$correlation_id" params={params} className="link mono">
            …{p.process.slice(-12)}
          </To>
        </span>
      </header>
      <table className="t cards trace">
        <thead className="sr">
          <tr>
            <th>When</th>
            <th>With whom</th>
            <th>What</th>
            <th>Delivery</th>
            <th>Answer</th>
          </tr>
        </thead>
        <tbody>
          {p.calls.map((c) => (
            <Line key={c.message_id ?? 'event'} call={c} />
          ))}
        </tbody>
      </table>
    </section>
  );
}

function Line({ call: c }: { call: Call }) {
  const badge = badges[c.badge];
  const event = !c.message_id;
  return (
    <tr>
      <td className="muted nowrap">
        <Time at={c.ended_at ?? c.at} />
      </td>
      <td className="nowrap">
        <span aria-hidden="true">{event ? '→' : '←'}</span> <span className="sr">{event ? 'from' : 'to'}</span> {plain(event ? 'a producer' : (c.application ?? c.worker ?? 'its worker'))}
      </td>
      <td className="wide anywhere full">
        {event ? (
          <>An event at {plain(c.node)}</>
        ) : (
          <>
            {plain(c.node)}
            {c.attempts > 1 && `, ${count(c.attempts)} attempts`}
            {c.reason && c.badge !== 'delivered' && (
              <>
                : <span className="mono small">{plain(c.reason)}</span>
              </>
            )}
          </>
        )}
      </td>
      <td>
        <Badge hue={badge.hue} icon={badge.icon}>
          {badge.said}
        </Badge>
      </td>
      <td className="num nowrap">
        <To screen="/processes/$correlation_id" params={{ correlation_id: c.correlation_id }} search={c.message_id ? { message: c.message_id } : {}}>
          {event ? 'event' : (c.status ?? 'message')}
        </To>
      </td>
    </tr>
  );
}
