import { useQuery } from '@tanstack/react-query';
import { useId, useState, type ReactNode } from 'react';
import { api, got, type Schemas } from '../../api/client';
import { Lines } from '../../parts/Code';
import { Copy } from '../../parts/Copy';
import { Dialog } from '../../parts/Dialog';
import { diffOf } from '../../parts/diff';
import { count, plain } from '../../parts/say';
import { Bones, Failure, Shown } from '../../parts/States';
import { tell } from '../../parts/Toast';
import { To } from '../../shell/To';
import { keyOf, nameOf, useAct, useVersion, type Live, type Topology, type Version } from './data';

export type Deed = { kind: 'publish' } | { kind: 'enable'; version: Version } | { kind: 'rollback'; version: Version } | { kind: 'disable' };

type Props = { deed: Deed; topology: Topology; live: Live | undefined; onClose: () => void; onDone: (version: number | undefined) => void };

// DeedDialog says what would become of new events and of what is in flight, and does it.
export function DeedDialog({ deed, topology: t, live, onClose, onDone }: Props) {
  const id = useId();
  const [enabling, setEnabling] = useState(true);
  const path = { topology: t.name };
  const enable = (version: number) => got(api.POST('/v1/topologies/{topology}/enable', { params: { path }, body: { version } }));
  const act = useAct(
    async (): Promise<number | undefined> => {
      switch (deed.kind) {
        case 'publish': {
          const published = await got(api.POST('/v1/topologies/{topology}/publish', { params: { path } }));
          if (enabling && published.version) await enable(published.version);
          return published.version;
        }
        case 'enable':
          return (await enable(deed.version.version ?? 0)).version;
        case 'rollback':
          return (await got(api.POST('/v1/topologies/{topology}/rollback', { params: { path } }))).version;
        case 'disable':
          await got(api.POST('/v1/topologies/{topology}/disable', { params: { path } }));
          return undefined;
      }
    },
    (version) => {
      tell(deed.kind === 'disable' ? `${t.name} takes no new events.` : deed.kind === 'publish' && !enabling ? `v${version} is published.` : `New events go to v${version}.`);
      onDone(version);
      onClose();
    },
  );
  const from = t.enabled ?? t.latest;
  const target = deed.kind === 'publish' ? 'draft' : deed.kind === 'disable' ? undefined : keyOf(deed.version);
  const next = (t.latest ?? 0) + 1;
  const to = deed.kind === 'publish' ? `v${next}` : deed.kind === 'disable' ? '' : nameOf(deed.version);
  const titles = { publish: `Publish the draft of ${plain(t.name)} as v${next}?`, enable: `Send new events of ${plain(t.name)} to ${to}?`, rollback: `Roll ${plain(t.name)} back to ${to}?`, disable: `Disable ${plain(t.name)}?` };
  const verbs = { publish: enabling ? `Publish and enable v${next}` : `Publish v${next}`, enable: `Enable ${to}`, rollback: `Roll back to ${to}`, disable: 'Disable' };
  const moves = deed.kind !== 'publish' || enabling;
  const current = live?.versions?.find((v) => v.version === t.enabled);
  return (
    <Dialog
      title={titles[deed.kind]}
      onClose={onClose}
      footer={
        <>
          <button className="btn" onClick={onClose}>
            {t.enabled !== undefined ? `Keep v${t.enabled}` : 'Back'}
          </button>
          <button className="btn primary" disabled={act.isPending} onClick={() => act.mutate(undefined)}>
            {verbs[deed.kind]}
          </button>
        </>
      }
    >
      {deed.kind === 'publish' && (
        <label className="check" htmlFor={id}>
          <input type="checkbox" id={id} checked={enabling} onChange={(e) => setEnabling(e.target.checked)} />
          Send new events to it at once
        </label>
      )}
      <ul className="what" aria-label="What will happen">
        {deed.kind === 'disable' ? (
          <Fact figure="New">events are refused until a version is enabled again.</Fact>
        ) : moves ? (
          <Fact figure="New">events go to {to} within a second.</Fact>
        ) : (
          <Fact figure="New">events {t.enabled !== undefined ? `still go to v${t.enabled}` : 'are refused'} until somebody enables it.</Fact>
        )}
        {current && moves && (
          <>
            <Fact figure={count(current.in_flight)}>
              {current.in_flight === 1 ? 'message in flight finishes' : 'messages in flight finish'} on v{current.version}. None is lost.
            </Fact>
            {current.trashed > 0 && (
              <Fact figure={count(current.trashed)} hue="red">
                {current.trashed === 1 ? 'entry' : 'entries'} of v{current.version} in the trash {current.trashed === 1 ? 'stays' : 'stay'}. {deed.kind === 'disable' ? 'They can be decided about as before.' : `They can be approved on v${current.version}, or onto ${to} where it has a node of the same name.`}
              </Fact>
            )}
          </>
        )}
      </ul>
      {target && from !== undefined && target !== String(from) && <Differences topology={t.name} from={String(from)} to={target} />}
      {act.isError && <Failure error={act.error} />}
    </Dialog>
  );
}

function Fact({ figure, hue, children }: { figure: string; hue?: string; children: ReactNode }) {
  return (
    <li>
      <b className={hue}>{figure}</b>
      <span>{children}</span>
    </li>
  );
}

// Differences are what another version does in another way, and then how its file was written.
export function Differences({ topology, from, to }: { topology: string; from: string; to: string }) {
  const diff = useQuery({
    queryKey: ['topologies', 'diff', topology, from, to],
    queryFn: () => got(api.GET('/v1/topologies/{topology}/diff', { params: { path: { topology }, query: { from, to } } })),
  });
  const a = useVersion(topology, from);
  const b = useVersion(topology, to);
  const word = (key: string) => (key === 'draft' ? 'draft' : `v${key}`);
  return (
    <>
      <div className="codebox">
        <div className="codehead">
          What changes
          <span className="sp" />
          {word(from)} to {word(to)}
        </div>
        <Shown query={diff} lines={2}>
          {(d) => (d.changes?.length ? <Lines label={`What changes from ${word(from)} to ${word(to)}`} lines={linesOf(d.changes)} /> : <p className="pad-s muted small">Both do the same.</p>)}
        </Shown>
      </div>
      <details className="codebox">
        <summary className="codehead">
          The file, {word(from)} to {word(to)}
        </summary>
        {a.data?.source !== undefined && b.data?.source !== undefined && keyOf(a.data) === from && keyOf(b.data) === to ? <Lines label="The file" lines={diffOf(a.data.source, b.data.source)} /> : <Bones lines={3} />}
      </details>
    </>
  );
}

function linesOf(changes: readonly Schemas['Change'][]) {
  return changes.flatMap((c) => {
    const what = [c.node, c.field].filter(Boolean).join(' · ') || 'topology';
    const text = (value: string | undefined) => (value === undefined || value === '' ? what : `${what}: ${value}`);
    const gone = { text: text(c.from), sign: '−' as const, kind: 'del' as const };
    const come = { text: text(c.to), sign: '+' as const, kind: 'add' as const };
    return c.op === 'removed' ? [gone] : c.op === 'added' ? [come] : [gone, come];
  });
}

// Compare sets two versions side by side.
export function Compare({ topology, versions, first, onClose }: { topology: string; versions: readonly Version[]; first: { from: string; to: string }; onClose: () => void }) {
  const id = useId();
  const [pair, setPair] = useState(first);
  const choice = (which: 'from' | 'to', label: string) => (
    <div className="field">
      <label htmlFor={id + which}>{label}</label>
      <select className="select" id={id + which} value={pair[which]} onChange={(e) => setPair({ ...pair, [which]: e.target.value })}>
        {versions.map((v) => (
          <option key={keyOf(v)} value={keyOf(v)}>
            {nameOf(v)}
            {v.state === 'enabled' ? ', takes events' : v.state === 'retired' ? ', retired' : ''}
          </option>
        ))}
      </select>
    </div>
  );
  return (
    <Dialog kind="drawer" title={`Versions of ${plain(topology)}`} onClose={onClose}>
      <div className="g2">
        {choice('from', 'From')}
        {choice('to', 'To')}
      </div>
      {pair.from === pair.to ? <p className="muted">Choose two versions.</p> : <Differences topology={topology} from={pair.from} to={pair.to} />}
    </Dialog>
  );
}

// Run sends an event, as a caller would.
export function Run({ topology, version, starts, enabled, onClose }: { topology: string; version: number; starts: readonly string[]; enabled: boolean; onClose: () => void }) {
  const id = useId();
  const [node, setNode] = useState(starts[0] ?? '');
  const [text, setText] = useState('{}');
  const json = isJSON(text);
  const run = useAct(
    () => {
      const send = { body: text as never, bodySerializer: (body: unknown) => body as string, headers: { 'Content-Type': json ? 'application/json' : 'text/plain; charset=utf-8' } };
      return got(
        enabled
          ? api.POST('/v1/topologies/{topology}/nodes/{node}/events', { ...send, params: { path: { topology, node } } })
          : api.POST('/v1/topologies/{topology}/versions/{version}/nodes/{node}/events', { ...send, params: { path: { topology, node, version } } }),
      );
    },
    () => {},
  );
  return (
    <Dialog
      title={`Run ${plain(topology)} v${version}`}
      below={<p className="muted small">An event as any other: it is worked for real.{enabled ? '' : ' This version does not take events by itself; this one goes to it.'}</p>}
      onClose={onClose}
      footer={
        <>
          <button className="btn" onClick={onClose}>
            {run.data ? 'Close' : 'Back'}
          </button>
          <button className="btn primary" type="submit" form={id} disabled={run.isPending || !node}>
            {run.data ? 'Run again' : 'Run'}
          </button>
        </>
      }
    >
      <form
        id={id}
        className="stack"
        onSubmit={(e) => {
          e.preventDefault();
          run.mutate(undefined);
        }}
      >
        <div className="field">
          <label htmlFor={`${id}n`}>From</label>
          <select className="select" id={`${id}n`} value={node} onChange={(e) => setNode(e.target.value)}>
            {starts.map((s) => (
              <option key={s}>{s}</option>
            ))}
          </select>
        </div>
        <div className="field">
          <label htmlFor={`${id}p`}>Payload</label>
          <textarea className="input mono" id={`${id}p`} rows={8} spellCheck={false} value={text} onChange={(e) => setText(e.target.value)} />
          <span className="hint">{json ? 'Sent as JSON, byte by byte.' : 'This is not JSON: sent as text.'}</span>
        </div>
      </form>
      <div aria-live="polite">
        {run.isError && <Failure error={run.error} />}
        {run.data && !run.isPending && (
          <div className="row wrap">
            <span>{run.data.duplicate ? 'Was accepted before, as' : 'Accepted as'}</span>
            <To screen="/processes/$correlation_id" params={{ correlation_id: run.data.correlation_id }} className="link mono">
              {run.data.correlation_id}
            </To>
            <Copy text={run.data.correlation_id} label="Copy the correlation id" />
          </div>
        )}
      </div>
    </Dialog>
  );
}

function isJSON(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
