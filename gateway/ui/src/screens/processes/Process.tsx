import './processes.css';
import { useParams } from '@tanstack/react-router';
import { useEffect, useId, useMemo, useState, type ReactNode } from 'react';
import type { Schemas } from '../../api/client';
import { AskDialog } from '../../parts/AskDialog';
import { Badge } from '../../parts/Badge';
import { Copy } from '../../parts/Copy';
import { Icon } from '../../parts/Icon';
import { count, during, many, plain } from '../../parts/say';
import { Bones, Failure, Shown } from '../../parts/States';
import { Time, useNow } from '../../parts/Time';
import { tell } from '../../parts/Toast';
import { Page } from '../../shell/Page';
import { useChangeQuery, useQueryText } from '../../shell/place';
import { To } from '../../shell/To';
import { verdicts } from '../evidence';
import { isOver, states, sums, useProcess, useStuck, useTerminate, useTimeline, type Process, type Step } from './data';
import { MessagePanel } from './Message';
import { Took } from './Processes';
import { Replay, ReplayFacts } from './Replay';
import { Waterfall } from './Waterfall';

// ProcessScreen shows all that one event set going.
export default function ProcessScreen() {
  const { correlation_id: id = '' } = useParams({ strict: false }) as { correlation_id?: string };
  const query = useQueryText();
  const change = useChangeQuery();
  const process = useProcess(id);
  const timeline = useTimeline(id);
  const steps = useMemo(() => timeline.data?.pages.flatMap((p) => p.items ?? []) ?? [], [timeline.data]);
  const [ending, setEnding] = useState(false);
  const [again, setAgain] = useState(false);
  const p = process.data;
  const stuck = useStuck(p);
  const chosen = query.message ?? (p && p.trashed > 0 ? stuck?.message_id : worst(steps)?.message_id);
  const { hasNextPage, isFetching, fetchNextPage } = timeline;
  const more = hasNextPage && !isFetching && steps.length < atOnce;
  useEffect(() => {
    if (more) void fetchNextPage();
  }, [more, fetchNextPage]);
  const state = p && states[p.state];
  const choose = (message: string) => {
    change({ message }, query.message ? 'silent' : 'step');
    if (matchMedia('(max-width: 1100px)').matches) document.getElementById('message')?.scrollIntoView({ block: 'start' });
  };
  return (
    <Page
      title={`…${id.slice(-12)}`}
      crumb={<To screen="/processes" className="">Processes</To>}
      note={
        state && (
          <>
            <Badge hue={state.hue} icon={state.icon}>
              {state.said}
            </Badge>
            {p.replay_of && (
              <Badge hue="violet" icon="back">
                Replay
              </Badge>
            )}
          </>
        )
      }
      actions={
        <>
          <span className="desk">
            <Copy text={id} label="Copy id" />
          </span>
          {p && (
            <button className="btn" onClick={() => setAgain(true)}>
              Replay…
            </button>
          )}
          {p && !isOver(p) && (
            <button className="btn" onClick={() => setEnding(true)}>
              Terminate…
            </button>
          )}
        </>
      }
    >
      <Shown query={process}>
        {(known) => (
          <>
            <Headline process={known} steps={steps} stuck={p && p.trashed > 0 ? stuck : undefined} />
            <Figures process={known} steps={steps} />
            <div className="split">
              <section className="card" aria-labelledby="messages">
                <header>
                  <h2 id="messages">Messages</h2>
                  <span className="sp" />
                  <Legend steps={steps} />
                </header>
                {timeline.isError && !timeline.data ? (
                  <Failure error={timeline.error} retry={() => void timeline.refetch()} />
                ) : timeline.data ? (
                  <Waterfall steps={steps} whole={!hasNextPage} chosen={chosen} onChoose={choose} />
                ) : (
                  <Bones lines={8} />
                )}
                <footer>
                  <span>
                    {known.replay_of ? 'The replay began' : `The event came to ${plain(known.node)}`} <Time at={known.started_at} />
                    {hasNextPage && `. The first ${count(steps.length)} of ${many(known.total, 'message')}`}
                  </span>
                  {hasNextPage && steps.length >= atOnce && (
                    <button className="btn sm" disabled={timeline.isFetchingNextPage} onClick={() => void fetchNextPage()}>
                      Show more
                    </button>
                  )}
                </footer>
              </section>
              {chosen && <MessagePanel id={chosen} process={known} steps={steps} />}
            </div>
          </>
        )}
      </Shown>
      {again && p && <Replay process={p} onClose={() => setAgain(false)} />}
      {ending && p && <Terminate process={p} onClose={() => setEnding(false)} />}
    </Page>
  );
}

const atOnce = 1000; // messages; the others come when somebody wants them

// worst is the message that somebody who comes here wants to see first.
function worst(steps: readonly Step[]): Step | undefined {
  const order: Step['place'][] = ['lost', 'trash', 'parked', 'retrying', 'running', 'held', 'rejected', 'terminated'];
  for (const place of order) {
    const found = steps.find((s) => s.place === place);
    if (found) return found;
  }
  return steps[0];
}

// Headline says what keeps a process from being done, and leads to whoever can help.
function Headline({ process: p, steps, stuck }: { process: Process; steps: readonly Step[]; stuck?: Schemas['Entry'] }) {
  const now = useNow();
  const of = `${count(p.trashed)} of ${many(p.total, 'message')}`;
  const search = p.trashed === 1 && stuck ? { entry: stuck.message_id } : { correlation_id: p.correlation_id };
  if (p.trashed > 0 && p.state === 'parked') {
    return (
      <Line hue="violet" className="person" title={`${of} ${p.trashed === 1 ? 'waits' : 'wait'} for a person.`} go={<To screen="/trash" search={search} className="btn primary">Decide</To>}>
        {stuck && `${plain(stuck.reason)}, at ${plain(stuck.node)}. `}Nothing is called until somebody decides.
      </Line>
    );
  }
  if (p.trashed > 0) {
    const step = steps.find((s) => s.message_id === stuck?.message_id);
    const status = step?.attempts?.at(-1)?.status ?? 0;
    const said = step && status >= 400 ? `: ${plain(step.worker ?? 'the worker')} answered ${status} at attempt ${step.attempt}` : '';
    return (
      <Line hue="red" className="bad" title={`${of} ${p.trashed === 1 ? 'is' : 'are'} in the trash${said}.`} go={<To screen="/trash" search={search} className="btn primary">Decide in trash</To>}>
        {stuck ? (
          <>
            {stuck.reason && (
              <>
                <span className="mono">{plain(stuck.reason)}</span>,{' '}
              </>
            )}
            at {plain(stuck.node)}
            {p.trashed > 1 && ', the last of them'}
          </>
        ) : (
          <>&nbsp;</>
        )}
      </Line>
    );
  }
  const retried = steps.find((s) => s.place === 'retrying');
  if (retried) {
    const last = retried.attempts?.at(-1);
    const wait = retried.due_at ? Math.max(0, (Date.parse(retried.due_at) - now.getTime()) / 1000) : 0;
    return (
      <Line hue="amber" className="wait" title={`${plain(retried.node)} is tried again ${wait > 1 ? `in ${during(Math.ceil(wait))}` : 'now'}.`}>
        {last?.reason && <span className="mono">{plain(last.reason)}</span>}
        {last?.reason && ', '}attempt {count(retried.attempt + 1)} comes next
      </Line>
    );
  }
  const held = steps.filter((s) => s.place === 'held');
  if (held[0]) {
    return (
      <Line hue="amber" className="wait" title={`${many(held.length, 'message is', 'messages are')} held by a limit.`}>
        None is lost. They go on at the pace that{' '}
        {held[0].application ? (
          <To screen="/limits/$application" params={{ application: held[0].application }}>
            {plain(held[0].application)}
          </To>
        ) : (
          'it'
        )}{' '}
        allows.
      </Line>
    );
  }
  const verdict = steps.flatMap((s) => s.decisions ?? []).findLast((d) => d.verdict === 'reject' || d.verdict === 'terminate');
  if ((p.state === 'rejected' || p.state === 'terminated') && verdict) {
    return (
      <Line hue="violet" className="person" title={`${plain(verdict.decided_by)} ${verdicts[verdict.verdict]}.`}>
        {verdict.reason ? `“${plain(verdict.reason)}”, ` : ''}
        <Time at={verdict.decided_at} />
      </Line>
    );
  }
  return null;
}

type LineProps = { hue: 'red' | 'amber' | 'violet'; className: string; title: string; go?: ReactNode; children: ReactNode };

const icons = { red: 'x', amber: 'clock', violet: 'person' } as const;

function Line({ hue, className, title, go, children }: LineProps) {
  return (
    <div className={`headline ${className}`}>
      <span className={hue}>
        <Icon name={icons[hue]} />
      </span>
      <p>
        <b>{title}</b>
        <small>{children}</small>
      </p>
      {go}
    </div>
  );
}

// Figures are what a process is, with its balance: what came with the event and what nodes made is all somewhere.
function Figures({ process: p, steps }: { process: Process; steps: readonly Step[] }) {
  const came = steps.filter((s) => !s.parent_id).length;
  const parts = sums(p);
  const even = p.done + p.open + p.trashed + p.rejected + p.terminated === p.total;
  const entities = p.entities ?? [];
  return (
    <dl className="facts">
      {entities[0] && (
        <div>
          <dt>About</dt>
          <dd className="anywhere">
            {entities.slice(0, 3).map((e, i) => (
              <span key={e.kind + e.value}>
                {i > 0 && ', '}
                <To screen="/processes" search={{ entity: `${e.kind}:${e.value}` }}>
                  {plain(e.kind)} {plain(e.value)}
                </To>
              </span>
            ))}
            {entities.length > 3 && <span className="faint"> and {entities.length - 3} more</span>}
          </dd>
        </div>
      )}
      <div>
        <dt>Topology</dt>
        <dd className="anywhere">
          <To screen="/topologies/$topology" params={{ topology: p.topology }} search={{ version: String(p.version) }}>
            {plain(p.topology)}
          </To>{' '}
          v{p.version}
        </dd>
      </div>
      <ReplayFacts process={p} />
      <div>
        <dt>Came in</dt>
        <dd>
          <Time at={p.started_at} />
        </dd>
      </div>
      <div>
        <dt>Took</dt>
        <dd>
          <Took process={p} />
        </dd>
      </div>
      <div className="balance">
        <dt>Balance</dt>
        <dd title="Messages that came with the event + those that nodes made = where they all are">
          <span className="nowrap">{came > 0 && came <= p.total ? `${count(came)} + ${count(p.total - came)}` : count(p.total)} =</span>{' '}
          {parts.map((s, i) => (
            <span key={s.said} className="nowrap">
              {i > 0 && '+ '}
              <span className={s.hue}>
                {count(s.n)} {s.said}
              </span>{' '}
            </span>
          ))}
          {even ? (
            <span className="teal">
              <Icon name="check" small />
              <span className="sr">It adds up.</span>
            </span>
          ) : (
            <span className="red small">does not add up</span>
          )}
        </dd>
      </div>
    </dl>
  );
}

const legend = [
  { kind: 'waiting', said: 'waits' },
  { kind: 'held', said: 'held' },
  { kind: 'running', said: 'running' },
  { kind: 'retry', said: 'retry' },
  { kind: 'trash', said: 'in trash' },
  { kind: 'parked', said: 'with a person' },
] as const;

function Legend({ steps }: { steps: readonly Step[] }) {
  const kinds = new Set(steps.flatMap((s) => s.spans?.map((p) => p.kind) ?? []));
  return (
    <ul className="wf-legend small faint">
      {legend
        .filter((l) => kinds.has(l.kind))
        .map((l) => (
          <li key={l.kind}>
            <i className={`wf-s ${l.kind}`} /> {l.said}
          </li>
        ))}
    </ul>
  );
}

function Terminate({ process: p, onClose }: { process: Process; onClose: () => void }) {
  const id = useId();
  const [reason, setReason] = useState('');
  const act = useTerminate(p.correlation_id, (n) => {
    tell(n === 0 ? 'It was over already.' : `Terminated ${many(n, 'message')}.`);
    onClose();
  });
  return (
    <AskDialog title="Terminate this process?" verb="Terminate" no="Keep it" act={act} onSubmit={() => act.mutate(reason.trim())} onClose={onClose}>
      <ul className="what" aria-label="What will happen">
        {p.open > 0 && (
          <li>
            <b>{count(p.open)}</b>
            <span>on the way {p.open === 1 ? 'goes' : 'go'} no further. A call that is under way is not cut off, but what it returns goes nowhere.</span>
          </li>
        )}
        {p.trashed > 0 && (
          <li>
            <b>{count(p.trashed)}</b>
            <span>{p.trashed === 1 ? 'leaves' : 'leave'} the trash, and nobody decides about {p.trashed === 1 ? 'it' : 'them'} any more.</span>
          </li>
        )}
        <li>
          <b>{count(p.done)}</b>
          <span>{p.done === 1 ? 'is' : 'are'} done, and what they did stays. This cannot be taken back.</span>
        </li>
      </ul>
      <div className="field">
        <label htmlFor={`${id}r`}>Reason, if there is one</label>
        <input className="input" id={`${id}r`} maxLength={1000} value={reason} onChange={(e) => setReason(e.target.value)} />
        <span className="hint">It stands in the history of each.</span>
      </div>
    </AskDialog>
  );
}
