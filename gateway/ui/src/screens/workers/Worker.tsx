import { useParams } from '@tanstack/react-router';
import { useState } from 'react';
import { api, got } from '../../api/client';
import { Code } from '../../parts/Code';
import { Copy } from '../../parts/Copy';
import { Icon } from '../../parts/Icon';
import { many, minuteOf, plain } from '../../parts/say';
import { Empty, said, Shown } from '../../parts/States';
import { Time } from '../../parts/Time';
import { tell, warn } from '../../parts/Toast';
import { Page } from '../../shell/Page';
import { To } from '../../shell/To';
import { Move, Remove, Test, type Call } from './Acts';
import { environmentOf, placeOf, spoken, useAct, useWorker, type Detail } from './data';
import { Health } from './Workers';

// WorkerScreen shows one worker: whether it can be reached, what it has, and how it answers.
export default function WorkerScreen() {
  const { worker: name = '' } = useParams({ strict: false }) as { worker?: string };
  const worker = useWorker(name);
  const [call, setCall] = useState<Call>();
  const w = worker.data;
  return (
    <Page title={plain(name)} crumb={<To screen="/workers" className="">Workers</To>} note={w && <Health worker={w} />} actions={w && <Acts worker={w} onTest={() => setCall({ action: '', kind: 'custom' })} />}>
      <Shown query={worker}>
        {(d) => (
          <>
            <State worker={d} />
            <div className="g2">
              <About worker={d} />
              <Environment worker={d} />
            </div>
            <Nodes worker={d} onTest={setCall} />
            <Applications worker={d} />
          </>
        )}
      </Shown>
      {call && <Test worker={name} call={call} onClose={() => setCall(undefined)} />}
    </Page>
  );
}

function Acts({ worker, onTest }: { worker: Detail; onTest: () => void }) {
  const [doing, setDoing] = useState<'move' | 'remove'>();
  const refresh = useAct(
    () => got(api.POST('/v1/workers/{worker}/refresh', { params: { path: { worker: worker.name } } })),
    (d) => (d.listing_error ? warn(`${d.name} does not say what it has: ${plain(d.listing_error)}`) : tell(`${d.name} has ${many(d.nodes?.length ?? 0, 'node')} and ${many(d.applications?.length ?? 0, 'application')}.`)),
  );
  return (
    <>
      {worker.protocol === 'orchesty' && (
        <button className="btn" disabled={refresh.isPending} onClick={() => refresh.mutate(undefined, { onError: (e) => warn(said(e)) })}>
          {refresh.isPending ? 'Asking' : 'Refresh'}
        </button>
      )}
      <button className="btn" onClick={onTest}>
        Test call…
      </button>
      <button className="btn" onClick={() => setDoing('move')}>
        Move…
      </button>
      <button className="btn" onClick={() => setDoing('remove')}>
        Remove…
      </button>
      {doing === 'move' && <Move worker={worker} onClose={() => setDoing(undefined)} />}
      {doing === 'remove' && <Remove worker={worker} onClose={() => setDoing(undefined)} />}
    </>
  );
}

function State({ worker: w }: { worker: Detail }) {
  if (w.down_since) {
    return (
      <div className="headline bad">
        <span className="red">
          <Icon name="x" />
        </span>
        <p>
          <b>Cannot be reached since {minuteOf(new Date(w.down_since))}.</b>{' '}
          <span className="muted">{w.down_reason && `${plain(w.down_reason)}. `}Messages for it wait; none is lost. They run when the worker answers.</span>
        </p>
      </div>
    );
  }
  if (!w.listing_error) return null;
  return (
    <div className="headline wait">
      <span className="amber">
        <Icon name="warn" />
      </span>
      <p>
        <b>It does not say what it has.</b> <span className="muted">{plain(w.listing_error)}. What it said before stays.</span>
      </p>
    </div>
  );
}

function About({ worker: w }: { worker: Detail }) {
  return (
    <section className="card" aria-labelledby="about">
      <header>
        <h2 id="about">Where it is</h2>
      </header>
      <div className="pad">
        <dl className="kv">
          <dt>URL</dt>
          <dd className="mono">{plain(placeOf(w))}</dd>
          <dt>Speaks</dt>
          <dd>{spoken(w)}</dd>
          <dt>Registered</dt>
          <dd>
            <Time at={w.created_at} />
          </dd>
          {w.protocol === 'orchesty' && (
            <>
              <dt>Said what it has</dt>
              <dd>{w.listed_at ? <Time at={w.listed_at} ago /> : 'never'}</dd>
            </>
          )}
        </dl>
      </div>
    </section>
  );
}

function Environment({ worker: w }: { worker: Detail }) {
  const text = environmentOf(w);
  return (
    <section className="card" aria-labelledby="environment">
      <header>
        <h2 id="environment">Environment</h2>
        <span className="sp" />
        <Copy text={text} label="Copy the environment" />
      </header>
      <Code text={text} label="Environment" />
      <footer>{w.protocol === 'sluice' ? 'The secret was shown when the worker was added. Calls are signed by it.' : 'The key is one of the API keys, with the scope operate.'}</footer>
    </section>
  );
}

function Nodes({ worker: w, onTest }: { worker: Detail; onTest: (call: Call) => void }) {
  const items = w.nodes ?? [];
  return (
    <section className="card" aria-labelledby="nodes">
      <header>
        <h2 id="nodes">Nodes</h2>
        {items.length > 0 && <span className="faint small">{items.length}</span>}
      </header>
      {items.length === 0 ? (
        <Empty title={w.protocol === 'sluice' ? 'It need not say what it has' : w.listed_at ? 'It said that it has none' : 'It has not been asked yet'}>
          <span>{w.protocol === 'sluice' ? 'Any path below its URL can be the action of a node.' : w.listed_at ? '' : 'Refresh asks it.'}</span>
        </Empty>
      ) : (
        <table className="t">
          <thead>
            <tr>
              <th>Node</th>
              <th>Kind</th>
              <th className="desk">Application</th>
              <th>
                <span className="sr">What can be done</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {items.map((n) => (
              <tr key={`${n.kind} ${n.name}`}>
                <td className="mono anywhere">{plain(n.name)}</td>
                <td className="muted">{n.kind}</td>
                <td className="muted desk">{n.application ? plain(n.application) : '–'}</td>
                <td className="num">
                  <button className="btn sm" aria-label={`Test ${plain(n.name)}`} onClick={() => onTest({ action: n.name, kind: n.kind })}>
                    Test…
                  </button>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </section>
  );
}

function Applications({ worker: w }: { worker: Detail }) {
  const items = w.applications ?? [];
  if (items.length === 0) return null;
  return (
    <section className="card" aria-labelledby="applications">
      <header>
        <h2 id="applications">Applications</h2>
        <span className="faint small">{items.length}</span>
      </header>
      <table className="t">
        <thead>
          <tr>
            <th>Application</th>
            <th>Authorization</th>
            <th className="desk">Kind</th>
            <th className="desk">What it is</th>
          </tr>
        </thead>
        <tbody>
          {items.map((a) => (
            <tr key={a.key}>
              <td className="nowrap">
                <To screen="/applications/$application" params={{ application: a.key }} className="link strong">
                  {plain(a.name || a.key)}
                </To>
              </td>
              <td className="muted">{a.authorization || '–'}</td>
              <td className="muted desk">{a.type || '–'}</td>
              <td className="muted desk wide">
                <div className="ell" title={a.description}>
                  {plain(a.description ?? '')}
                </div>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
