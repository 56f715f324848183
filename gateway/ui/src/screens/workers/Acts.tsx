import { useNavigate } from '@tanstack/react-router';
import { useId, useState } from 'react';
import { api, got, type Schemas } from '../../api/client';
import { Badge } from '../../parts/Badge';
import { Code } from '../../parts/Code';
import { Copy } from '../../parts/Copy';
import { AskDialog } from '../../parts/AskDialog';
import { Dialog } from '../../parts/Dialog';
import { ms, plain } from '../../parts/say';
import { Failure } from '../../parts/States';
import { tell } from '../../parts/Toast';
import { environmentOf, useAct, type Detail } from './data';

type Protocol = 'sluice' | 'orchesty';

// Add registers a worker, and shows once what it needs to know.
export function Add({ onClose }: { onClose: () => void }) {
  const id = useId();
  const navigate = useNavigate();
  const [draft, setDraft] = useState({ name: '', url: '', protocol: 'sluice' as Protocol, dialect: 'a' as 'a' | 'b' });
  const add = useAct(() =>
    got(api.POST('/v1/workers', { body: { name: draft.name.trim(), url: draft.url.trim(), protocol: draft.protocol, ...(draft.protocol === 'orchesty' ? { dialect: draft.dialect } : {}) } })),
  );
  const open = (worker: string) => {
    onClose();
    void navigate({ to: '/workers/$worker', params: { worker } as never });
  };
  if (add.data) {
    const added = add.data;
    const text = environmentOf(added, added.secret);
    return (
      <Dialog
        title={`${plain(added.name)} is registered`}
        below={<p className="muted small">{added.secret ? 'Its secret is shown this once. Calls to it are signed by it.' : 'Start it with this, and an API key that has the scope operate.'}</p>}
        onClose={() => open(added.name)}
        footer={
          <button className="btn primary" onClick={() => open(added.name)}>
            Open worker
          </button>
        }
      >
        <div className="codebox">
          <div className="codehead">
            Environment of the worker
            <span className="sp" />
            <Copy text={text} label="Copy the environment" />
          </div>
          <Code text={text} label="Environment" />
        </div>
      </Dialog>
    );
  }
  return (
    <AskDialog title="Add a worker" verb="Add" act={add} onSubmit={() => add.mutate(undefined)} onClose={onClose}>
      <div className="field">
        <label htmlFor={`${id}n`}>Name</label>
        <input className="input" id={`${id}n`} required value={draft.name} onChange={(e) => setDraft({ ...draft, name: e.target.value })} />
        <span className="hint">By which topologies know it.</span>
      </div>
      <div className="field">
        <label htmlFor={`${id}u`}>URL</label>
        <input className="input" id={`${id}u`} type="url" required placeholder="https://shop.example.com/sluice" value={draft.url} onChange={(e) => setDraft({ ...draft, url: e.target.value })} />
        <span className="hint">Where it listens. The actions of nodes are paths below.</span>
      </div>
      <div className="field">
        <label htmlFor={`${id}p`}>Speaks</label>
        <select className="select" id={`${id}p`} value={draft.protocol} onChange={(e) => setDraft({ ...draft, protocol: e.target.value as Protocol })}>
          <option value="sluice">Sluice’s protocol</option>
          <option value="orchesty">Orchesty’s protocol, as its SDK does</option>
        </select>
      </div>
      {draft.protocol === 'orchesty' && <DialectField id={id} value={draft.dialect} onChange={(dialect) => setDraft({ ...draft, dialect })} />}
    </AskDialog>
  );
}

function DialectField({ id, value, onChange }: { id: string; value: 'a' | 'b'; onChange: (dialect: 'a' | 'b') => void }) {
  return (
    <div className="field">
      <label htmlFor={`${id}d`}>Dialect</label>
      <select className="select" id={`${id}d`} value={value} onChange={(e) => onChange(e.target.value as 'a' | 'b')}>
        <option value="a">a, of the published SDK</option>
        <option value="b">b, of what came after</option>
      </select>
    </div>
  );
}

// Move says that a worker listens elsewhere.
export function Move({ worker, onClose }: { worker: Detail; onClose: () => void }) {
  const id = useId();
  const [url, setUrl] = useState(worker.url ?? '');
  const [dialect, setDialect] = useState<'a' | 'b'>(worker.dialect === 'b' ? 'b' : 'a');
  const move = useAct(
    () => got(api.PUT('/v1/workers/{worker}', { params: { path: { worker: worker.name } }, body: { url: url.trim(), ...(worker.protocol === 'orchesty' ? { dialect } : {}) } })),
    () => {
      tell(`${worker.name} is called at its new place.`);
      onClose();
    },
  );
  return (
    <AskDialog title={`Move ${plain(worker.name)}`} verb="Move" below={<p className="muted small">Its secret stays. Calls under way end where they started.</p>} act={move} onSubmit={() => move.mutate(undefined)} onClose={onClose}>
      <div className="field">
        <label htmlFor={`${id}u`}>URL</label>
        <input className="input" id={`${id}u`} type="url" required value={url} onChange={(e) => setUrl(e.target.value)} />
      </div>
      {worker.protocol === 'orchesty' && <DialectField id={id} value={dialect} onChange={setDialect} />}
    </AskDialog>
  );
}

// Remove forgets a worker.
export function Remove({ worker, onClose }: { worker: Detail; onClose: () => void }) {
  const navigate = useNavigate();
  const remove = useAct(
    () => got(api.DELETE('/v1/workers/{worker}', { params: { path: { worker: worker.name } } })),
    () => {
      tell(`${worker.name} is forgotten.`);
      onClose();
      void navigate({ to: '/workers' });
    },
  );
  return (
    <Dialog
      title={`Remove ${plain(worker.name)}?`}
      onClose={onClose}
      footer={
        <>
          <button className="btn" onClick={onClose}>
            Keep it
          </button>
          <button className="btn primary" disabled={remove.isPending} onClick={() => remove.mutate(undefined)}>
            Remove
          </button>
        </>
      }
    >
      <p className="muted">{worker.protocol === 'sluice' ? 'Its secret is forgotten, too: who adds it again gets another. ' : ''}A worker that an enabled topology names stays.</p>
      {remove.isError && <Failure error={remove.error} />}
    </Dialog>
  );
}

export type Call = { action: string; kind: Schemas['WorkerNode']['kind'] };

// Test calls an action, outside of any process.
export function Test({ worker, call, onClose }: { worker: string; call: Call; onClose: () => void }) {
  const id = useId();
  const [draft, setDraft] = useState({ ...call, text: '{}', headers: '' });
  const test = useAct(() =>
    got(
      api.POST('/v1/workers/{worker}/test', {
        params: { path: { worker } },
        body: { action: draft.action, kind: draft.kind, text: draft.text, headers: { ...(isJSON(draft.text) ? { 'content-type': 'application/json' } : {}), ...headersFrom(draft.headers) } },
      }),
    ),
  );
  return (
    <Dialog
      kind="drawer"
      title={`Test call to ${plain(worker)}`}
      below={<p className="muted small">Signed as any other call, outside of any process: nothing goes on from here. What the worker does, it does.</p>}
      onClose={onClose}
      footer={
        <>
          <button className="btn primary" type="submit" form={id} disabled={test.isPending}>
            {test.isPending ? 'Calling' : 'Call'}
          </button>
          <button className="btn" onClick={onClose}>
            Back
          </button>
        </>
      }
    >
      <form
        id={id}
        className="stack"
        onSubmit={(e) => {
          e.preventDefault();
          test.mutate(undefined);
        }}
      >
        <div className="g2">
          <div className="field">
            <label htmlFor={`${id}a`}>Action</label>
            <input className="input mono" id={`${id}a`} required maxLength={500} placeholder="check-order" value={draft.action} onChange={(e) => setDraft({ ...draft, action: e.target.value })} />
          </div>
          <div className="field">
            <label htmlFor={`${id}k`}>Kind of node</label>
            <select className="select" id={`${id}k`} value={draft.kind} onChange={(e) => setDraft({ ...draft, kind: e.target.value as Call['kind'] })}>
              <option value="custom">custom</option>
              <option value="connector">connector</option>
              <option value="batch">batch</option>
            </select>
          </div>
        </div>
        <div className="field">
          <label htmlFor={`${id}b`}>Payload</label>
          <textarea className="input mono" id={`${id}b`} rows={6} spellCheck={false} value={draft.text} onChange={(e) => setDraft({ ...draft, text: e.target.value })} />
        </div>
        <div className="field">
          <label htmlFor={`${id}h`}>Headers, if there are any</label>
          <textarea className="input mono" id={`${id}h`} rows={2} spellCheck={false} placeholder="user: anna" value={draft.headers} onChange={(e) => setDraft({ ...draft, headers: e.target.value })} />
        </div>
      </form>
      <div aria-live="polite" className="stack">
        {test.isError && <Failure error={test.error} />}
        {test.data && !test.isPending && <Answer answer={test.data} />}
      </div>
    </Dialog>
  );
}

const verdicts = { done: 'Goes on', stop: 'Stops here', repeat: 'Wants to be called again' };

function Answer({ answer: a }: { answer: Schemas['Tested'] }) {
  const messages = a.messages ?? [];
  return (
    <>
      <div className="row wrap">
        {a.verdict ? (
          <Badge hue="teal" icon="check">
            {verdicts[a.verdict]}
          </Badge>
        ) : (
          <Badge hue="red" icon="x">
            {a.reached ? 'Failed' : 'Not reached'}
          </Badge>
        )}
        {a.class && <span className="muted small">{a.class}</span>}
        {a.status !== undefined && <span className="muted small">HTTP {a.status}</span>}
        <span className="muted small">{ms(a.duration_ms)}</span>
      </div>
      {a.reason && <p className="anywhere">{plain(a.reason)}</p>}
      {messages.map((m, i) => {
        const text = m.text ?? (m.base64 !== undefined ? m.base64 : m.body === undefined ? '' : JSON.stringify(m.body, null, 2));
        return (
          <div className="codebox" key={i}>
            <div className="codehead">
              Message {i + 1} of {messages.length}
              {m.followers && <span>to {plain(m.followers.join(', '))}</span>}
              {m.base64 !== undefined && <span>bytes, as base64</span>}
              <span className="sp" />
              <Copy text={text} label="Copy the payload" />
            </div>
            <Code text={text} json={m.body !== undefined} label={`Message ${i + 1}`} />
          </div>
        );
      })}
      {a.verdict && messages.length === 0 && <p className="muted small">No message would go on.</p>}
    </>
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

// headersFrom reads name: value, a line each.
function headersFrom(text: string): Record<string, string> {
  const lines = text.split('\n').filter((l) => l.includes(':'));
  return Object.fromEntries(lines.map((l) => [l.slice(0, l.indexOf(':')).trim().toLowerCase(), l.slice(l.indexOf(':') + 1).trim()]));
}
