import { useState } from 'react';
import { Badge } from '../../parts/Badge';
import { Code } from '../../parts/Code';
import { Copy } from '../../parts/Copy';
import { indented, prettyOf } from '../../parts/json';
import { Payload } from '../../parts/Payload';
import { many, plain } from '../../parts/say';
import { Empty } from '../../parts/States';
import { Time } from '../../parts/Time';
import { Headers, outcomes, typeOf } from '../evidence';
import { useContent } from './Body';
import { curlOf, requestOf } from './curl';
import { took, useNode, useWorkerOf, type Attempt, type Message } from './data';

const shownBody = 1_000_000; // a larger one is on the tab of the payload alone

// Calls are the attempts at a message, the last one first: what was asked, and what the worker answered.
export function Calls({ message, makes }: { message: Message; makes: number }) {
  const attempts = message.attempts ?? [];
  if (attempts.length === 0) {
    const still = ['waiting', 'held', 'running'].includes(message.place);
    return <Empty title={still ? 'No call is on record yet' : 'No call was made'}>{still ? 'An attempt is recorded when it ends.' : 'The node needs none, or the message never got that far.'}</Empty>;
  }
  return (
    <div className="stack tight pad-m">
      {[...attempts].reverse().map((a, i) => (
        <Call key={`${a.at} ${a.attempt} ${a.page ?? 0}`} message={message} attempt={a} begins={i === 0} makes={makes} />
      ))}
    </div>
  );
}

type CallProps = { message: Message; attempt: Attempt; begins: boolean; makes: number };

function Call({ message, attempt, begins, makes }: CallProps) {
  const [open, setOpen] = useState(begins);
  const outcome = outcomes[attempt.outcome];
  return (
    <details className="codebox" open={open} onToggle={(e) => setOpen(e.currentTarget.open)}>
      <summary className="codehead">
        <span className="row attempt">
          <Badge hue={outcome.hue} icon={outcome.icon}>
            {(attempt.status ?? 0) >= 400 ? attempt.status : outcome.said}
          </Badge>
          <span className="nowrap">
            Attempt {attempt.attempt}
            {attempt.page ? `, page ${attempt.page}` : ''}
          </span>
          <Time at={attempt.at} />
          <span className="sp" />
          <span className="nowrap">{took(attempt.duration_ms)}</span>
        </span>
      </summary>
      {open && (
        <>
          {attempt.reason && <p className={`small mono anywhere pad-s ${outcome.hue === 'red' ? 'red' : 'muted'}`}>{plain(attempt.reason)}</p>}
          <RequestOf message={message} attempt={attempt} />
          <ResponseOf attempt={attempt} makes={makes} />
        </>
      )}
    </details>
  );
}

function RequestOf({ message, attempt }: { message: Message; attempt: Attempt }) {
  const node = useNode(message.topology, message.version, message.node);
  const worker = useWorkerOf(node?.worker);
  const { text, rows } = useContent(message, message.size <= shownBody);
  if (!node?.worker) return null;
  const request = requestOf(message, attempt, node);
  const own = worker?.protocol !== 'orchesty';
  const head = [`POST ${request.path || '/'}`, ...(own ? request.headers.map(([name, value]) => `${name}: ${value}`) : [`Idempotency-Key: ${request.headers[1]?.[1] ?? ''}`])].join('\n');
  const body = rows ? rows.map(indented).join('\n') : text;
  return (
    <div>
      <div className="codehead">
        <span>
          Request to <b>{plain(node.worker)}</b>
        </span>
        <span className="sp" />
        {worker?.url && own && text !== undefined && <Copy text={curlOf(worker.url, request, text)} label="Copy as curl" />}
      </div>
      <Code text={`${head}\n\n${body ?? (message.size <= shownBody ? 'These bytes are no text: see Payload.' : 'It is large: see Payload.')}`} json label="Request" />
      <p className="faint small pad-s">{own ? 'As the message is kept. The signature and the deadline that went with it are not.' : 'The content goes in an envelope of Orchesty’s, with its own headers.'}</p>
    </div>
  );
}

function ResponseOf({ attempt, makes }: { attempt: Attempt; makes: number }) {
  const { response } = attempt;
  if (response) {
    const pretty = response.text && !response.cut ? prettyOf(response.text) : undefined;
    return (
      <div>
        <div className="codehead">
          Response <b>{attempt.status}</b>
        </div>
        <Payload content={{ ...response, ...(pretty === undefined ? {} : { pretty }) }} type={typeOf(response.headers)} size={response.text ? new Blob([response.text]).size : Math.floor(response.body.length * 0.75)} />
        {response.cut && <p className="faint small pad-s">There was more of it; the first 4 KiB are kept.</p>}
        <Headers headers={response.headers} />
      </div>
    );
  }
  const taken = ['done', 'filtered', 'page'].includes(attempt.outcome);
  return (
    <div>
      <div className="codehead">
        Response {attempt.status ? <b>{attempt.status}</b> : null}
      </div>
      <p className="muted small pad-s">
        {!taken ? 'There was no answer to keep.' : makes > 0 ? `The worker took it. What it answered is the payload of the ${many(makes, 'message')} after this one.` : 'The worker took it, and no node comes after this one.'}
      </p>
    </div>
  );
}
