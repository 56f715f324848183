import { useId, useState, type ReactNode } from 'react';
import { api, got } from '../../api/client';
import { AskDialog } from '../../parts/AskDialog';
import { Badge } from '../../parts/Badge';
import { Copy } from '../../parts/Copy';
import { Dialog } from '../../parts/Dialog';
import { many, plain } from '../../parts/say';
import { Empty, Shown } from '../../parts/States';
import { Time } from '../../parts/Time';
import { tell } from '../../parts/Toast';
import { Page } from '../../shell/Page';
import { useChangeQuery, useQueryText } from '../../shell/place';
import { useSession } from '../../shell/session';
import { scopes, useChange, useKeys, useOperators, useRetention, type Key, type Operator, type Scope } from './data';

// Settings are who may enter, and how long is kept what was decided about.
export default function Settings() {
  const admin = useSession().data?.scopes.includes('admin') ?? false;
  return (
    <Page title="Settings">
      <div className="stack">
        {admin ? (
          <>
            <Keys />
            <Operators />
          </>
        ) : (
          <Empty title="Keys and operators are for admins">Somebody with the scope admin can give it to you.</Empty>
        )}
        <Retention admin={admin} />
      </div>
    </Page>
  );
}

function Keys() {
  const { after } = useQueryText();
  const change = useChangeQuery();
  const keys = useKeys(after);
  const [making, setMaking] = useState(false);
  const [revoking, setRevoking] = useState<Key>();
  return (
    <section className="card" aria-labelledby="keys-h">
      <header>
        <h2 id="keys-h">API keys</h2>
        <span className="sp" />
        <button className="btn" onClick={() => setMaking(true)}>
          New key…
        </button>
      </header>
      <Shown query={keys}>
        {(page) => (
          <>
            {page.items?.length ? (
              <table className="t cards">
                <thead>
                  <tr>
                    <th>Name</th>
                    <th>May</th>
                    <th>Key</th>
                    <th>Made</th>
                    <th>
                      <span className="sr">Acts</span>
                    </th>
                  </tr>
                </thead>
                <tbody>
                  {page.items.map((k) => (
                    <tr key={k.id}>
                      <td className="anywhere">{plain(k.name)}</td>
                      <td className="wide full">
                        <Scopes of={k.scopes} />
                        {k.worker && <span className="faint small"> for {plain(k.worker)}</span>}
                      </td>
                      <td className="mono small nowrap">sluice_{k.public_id}_…</td>
                      <td className="muted nowrap">
                        <Time at={k.created_at} /> by {plain(k.created_by)}
                      </td>
                      <td className="num nowrap">
                        {k.revoked_at ? (
                          <span className="faint small">
                            Revoked <Time at={k.revoked_at} />
                          </span>
                        ) : (
                          <button className="btn sm" onClick={() => setRevoking(k)}>
                            Revoke…
                          </button>
                        )}
                      </td>
                    </tr>
                  ))}
                </tbody>
              </table>
            ) : (
              <Empty title="No keys yet">Producers and programs come in by a key.</Empty>
            )}
            {(after || page.next) && (
              <footer>
                <span className="sp" />
                <button className="btn sm" disabled={!after} onClick={() => change({ after: undefined })}>
                  First
                </button>
                <button className="btn sm" disabled={!page.next} onClick={() => change({ after: page.next })}>
                  More
                </button>
              </footer>
            )}
          </>
        )}
      </Shown>
      {making && <NewKey onClose={() => setMaking(false)} />}
      {revoking && <Revoke of={revoking} onClose={() => setRevoking(undefined)} />}
    </section>
  );
}

const Scopes = ({ of }: { of: readonly Scope[] }) => (
  <span className="row">
    {of.map((s) => (
      <span key={s} title={scopes[s]}>
        <Badge hue={s === 'admin' ? 'amber' : 'line'}>{s}</Badge>
      </span>
    ))}
  </span>
);

type FieldProps = { label: string; hint?: string; children: (id: string) => ReactNode };

function Field({ label, hint, children }: FieldProps) {
  const id = useId();
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      {children(id)}
      {hint && <span className="hint">{hint}</span>}
    </div>
  );
}

function NewKey({ onClose }: { onClose: () => void }) {
  const [name, setName] = useState('');
  const [chosen, setChosen] = useState<Scope[]>(['ingest']);
  const [worker, setWorker] = useState('');
  const [made, setMade] = useState<string>();
  const pulls = chosen.length === 1 && chosen[0] === 'pull';
  const act = useChange(
    () => got(api.POST('/v1/keys', { body: { name: name.trim(), scopes: chosen, ...(pulls && worker ? { worker } : {}) } })),
    (k) => setMade(k.key),
  );
  if (made) {
    return (
      <Once title="This is the key" secret={made} onClose={onClose}>
        It goes into the header <code>Authorization: Bearer …</code>, and is not shown again: keep it now.
      </Once>
    );
  }
  return (
    <AskDialog title="New API key" verb="Make it" unready={!name.trim() || chosen.length === 0} act={act} onSubmit={() => act.mutate()} onClose={onClose}>
      <Field label="Name" hint="What it is for, for people.">
        {(id) => <input className="input" id={id} maxLength={200} required value={name} onChange={(e) => setName(e.target.value)} />}
      </Field>
      <Choose of={['ingest', 'worker', 'pull', 'operate', 'admin']} chosen={chosen} onChange={setChosen} />
      {pulls && (
        <Field label="Only of this worker" hint="Empty: of any.">
          {(id) => <input className="input" id={id} maxLength={63} value={worker} onChange={(e) => setWorker(e.target.value)} />}
        </Field>
      )}
    </AskDialog>
  );
}

function Choose<S extends Scope>({ of, chosen, onChange }: { of: readonly S[]; chosen: readonly S[]; onChange: (to: S[]) => void }) {
  return (
    <fieldset className="stack tight">
      <legend>It may</legend>
      {of.map((s) => (
        <label key={s} className="check">
          <input type="checkbox" checked={chosen.includes(s)} onChange={(e) => onChange(e.target.checked ? [...chosen, s] : chosen.filter((c) => c !== s))} />
          <span>
            <b>{s}</b>: {scopes[s]}
          </span>
        </label>
      ))}
    </fieldset>
  );
}

// Once shows what is shown only now.
function Once({ title, secret, onClose, children }: { title: string; secret: string; onClose: () => void; children: ReactNode }) {
  return (
    <Dialog
      title={title}
      onClose={onClose}
      footer={
        <button className="btn primary" onClick={onClose}>
          I have it
        </button>
      }
    >
      <p>{children}</p>
      <p className="mono anywhere" data-secret>
        {secret}
      </p>
      <Copy text={secret} label="Copy" />
    </Dialog>
  );
}

function Revoke({ of: k, onClose }: { of: Key; onClose: () => void }) {
  const act = useChange(
    () => got(api.DELETE('/v1/keys/{key_id}', { params: { path: { key_id: k.id } } })),
    () => {
      tell(`${k.name} is revoked.`);
      onClose();
    },
  );
  return (
    <AskDialog title={`Revoke ${plain(k.name)}?`} verb="Revoke" no="Keep it" act={act} onSubmit={() => act.mutate()} onClose={onClose}>
      <p>Whoever uses it is refused from now on. This cannot be taken back; a new key can be made.</p>
    </AskDialog>
  );
}

function Operators() {
  const operators = useOperators();
  const [adding, setAdding] = useState(false);
  const [linking, setLinking] = useState<Operator>();
  const [switching, setSwitching] = useState<Operator>();
  return (
    <section className="card" aria-labelledby="operators-h">
      <header>
        <h2 id="operators-h">Operators</h2>
        <span className="sp" />
        <button className="btn" onClick={() => setAdding(true)}>
          Add operator…
        </button>
      </header>
      <Shown query={operators}>
        {(page) => (
          <table className="t cards">
            <thead>
              <tr>
                <th>Name</th>
                <th>May</th>
                <th>Added</th>
                <th>
                  <span className="sr">Acts</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {page.items?.map((o) => (
                <tr key={o.id}>
                  <td className="anywhere">
                    {plain(o.name)}
                    {o.disabled_at ? <span className="red small"> disabled</span> : !o.has_password && <span className="faint small"> no password yet</span>}
                  </td>
                  <td className="wide full">
                    <Scopes of={o.scopes} />
                  </td>
                  <td className="muted nowrap">
                    <Time at={o.created_at} /> by {plain(o.created_by)}
                  </td>
                  <td className="num nowrap">
                    {!o.disabled_at && (
                      <button className="btn sm" onClick={() => setLinking(o)}>
                        New link…
                      </button>
                    )}{' '}
                    <button className="btn sm" onClick={() => setSwitching(o)}>
                      {o.disabled_at ? 'Enable…' : 'Disable…'}
                    </button>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        )}
      </Shown>
      {adding && <AddOperator onClose={() => setAdding(false)} />}
      {linking && <NewLink of={linking} onClose={() => setLinking(undefined)} />}
      {switching && <Switch of={switching} onClose={() => setSwitching(undefined)} />}
    </section>
  );
}

const OnceLink = ({ name, path, onClose }: { name: string; path: string; onClose: () => void }) => (
  <Once title={`A link for ${plain(name)}`} secret={location.origin + path} onClose={onClose}>
    It lets them in once, and they choose a password then. It is not shown again: send it to nobody else.
  </Once>
);

function AddOperator({ onClose }: { onClose: () => void }) {
  const [name, setName] = useState('');
  const [chosen, setChosen] = useState<Operator['scopes']>(['operate']);
  const [link, setLink] = useState<string>();
  const act = useChange(
    () => got(api.POST('/v1/operators', { body: { name: name.trim(), scopes: chosen } })),
    (o) => setLink(o.link.path),
  );
  if (link) return <OnceLink name={name.trim()} path={link} onClose={onClose} />;
  return (
    <AskDialog title="Add an operator" verb="Add" unready={!name.trim() || chosen.length === 0} act={act} onSubmit={() => act.mutate()} onClose={onClose}>
      <Field label="Name" hint="They sign in with it, and it stands beside what they do.">
        {(id) => <input className="input" id={id} maxLength={200} required autoComplete="off" value={name} onChange={(e) => setName(e.target.value)} />}
      </Field>
      <Choose of={['operate', 'admin'] as const} chosen={chosen} onChange={setChosen} />
    </AskDialog>
  );
}

function NewLink({ of: o, onClose }: { of: Operator; onClose: () => void }) {
  const [link, setLink] = useState<string>();
  const act = useChange(
    () => got(api.POST('/v1/operators/{operator_id}/link', { params: { path: { operator_id: o.id } } })),
    (l) => setLink(l.path),
  );
  if (link) return <OnceLink name={o.name} path={link} onClose={onClose} />;
  return (
    <AskDialog title={`A new link for ${plain(o.name)}?`} verb="Make it" act={act} onSubmit={() => act.mutate()} onClose={onClose}>
      <p>For one who has forgotten the password, or has none yet. Whoever opens it signs in as {plain(o.name)}; the link before it lets nobody in any more.</p>
    </AskDialog>
  );
}

function Switch({ of: o, onClose }: { of: Operator; onClose: () => void }) {
  const path = { operator_id: o.id };
  const act = useChange(
    () => (o.disabled_at ? got(api.POST('/v1/operators/{operator_id}/enable', { params: { path } })) : got(api.DELETE('/v1/operators/{operator_id}', { params: { path } }))),
    () => {
      tell(o.disabled_at ? `${o.name} may sign in again.` : `${o.name} is out, everywhere.`);
      onClose();
    },
  );
  return o.disabled_at ? (
    <AskDialog title={`Enable ${plain(o.name)}?`} verb="Enable" act={act} onSubmit={() => act.mutate()} onClose={onClose}>
      <p>They may sign in again, with the password that they had.</p>
    </AskDialog>
  ) : (
    <AskDialog title={`Disable ${plain(o.name)}?`} verb="Disable" no="Keep them" act={act} onSubmit={() => act.mutate()} onClose={onClose}>
      <p>They are signed out of every browser now, and cannot sign in until somebody enables them again. What they did stays under their name.</p>
    </AskDialog>
  );
}

function Retention({ admin }: { admin: boolean }) {
  const retention = useRetention();
  const [changing, setChanging] = useState(false);
  const kept = (days: number) => (days === 0 ? 'for ever' : `${many(days, 'day')} after its end`);
  return (
    <section className="card" aria-labelledby="retention-h">
      <header>
        <h2 id="retention-h">Retention</h2>
        <span className="sp" />
        {admin && retention.data && (
          <button className="btn" onClick={() => setChanging(true)}>
            Change…
          </button>
        )}
      </header>
      <Shown query={retention}>
        {(r) => (
          <>
            <dl className="kv pad-m">
              <dt>A process of which something was rejected is kept</dt>
              <dd>{kept(r.rejected_days)}</dd>
              <dt>One of which something was sent again is kept</dt>
              <dd>{kept(r.resolved_days)}</dd>
              <dt>Deleted so far</dt>
              <dd>
                {many(r.deleted, 'process', 'processes')}
                {r.deleted_at && (
                  <>
                    , last <Time at={r.deleted_at} />
                  </>
                )}
              </dd>
            </dl>
            <footer>
              <span>
                What waits in the trash stays until somebody decides, whatever is set here.
                {r.set_by && r.set_at && (
                  <>
                    {' '}
                    Set by {plain(r.set_by)} <Time at={r.set_at} />.
                  </>
                )}
              </span>
            </footer>
            {changing && <ChangeRetention rejected={r.rejected_days} resolved={r.resolved_days} onClose={() => setChanging(false)} />}
          </>
        )}
      </Shown>
    </section>
  );
}

function ChangeRetention({ rejected, resolved, onClose }: { rejected: number; resolved: number; onClose: () => void }) {
  const [days, setDays] = useState({ rejected: String(rejected), resolved: String(resolved) });
  const act = useChange(
    () => got(api.PUT('/v1/trash/retention', { body: { rejected_days: Number(days.rejected), resolved_days: Number(days.resolved) } })),
    () => {
      tell('The retention is changed.');
      onClose();
    },
  );
  const shorter = (now: string, before: number) => Number(now) > 0 && (before === 0 || Number(now) < before);
  return (
    <AskDialog title="Change the retention" verb="Change" act={act} onSubmit={() => act.mutate()} onClose={onClose}>
      {(['rejected', 'resolved'] as const).map((which) => (
        <Field key={which} label={which === 'rejected' ? 'Days after the end of a process of which something was rejected' : 'Days after the end of one of which something was sent again'} hint="0 is for ever.">
          {(id) => <input className="input" id={id} type="number" min="0" max="36500" step="1" required value={days[which]} onChange={(e) => setDays({ ...days, [which]: e.target.value })} />}
        </Field>
      ))}
      {(shorter(days.rejected, rejected) || shorter(days.resolved, resolved)) && <p className="small">What is older goes within the hour, with its messages and calls. This cannot be taken back.</p>}
    </AskDialog>
  );
}
