import './limits.css';
import { useMutation } from '@tanstack/react-query';
import { useNavigate } from '@tanstack/react-router';
import { useEffect, useId, useState } from 'react';
import { api, got, type Schemas } from '../../api/client';
import { AskDialog } from '../../parts/AskDialog';
import { Dialog } from '../../parts/Dialog';
import { count, figure, many, plain } from '../../parts/say';
import { Bones, Failure } from '../../parts/States';
import { rateOf, useAct, type Detail } from './data';

const scaled = (rate: Schemas['Rate'], by: number) => rateOf({ ...rate, amount: rate.amount * by, ...(rate.burst ? { burst: rate.burst * by } : {}) });

// Raise lets an application be called more often for a while, or less.
export function Raise({ limit, onClose }: { limit: Detail; onClose: () => void }) {
  const id = useId();
  const [factor, setFactor] = useState('2');
  const [during, setDuring] = useState('3600');
  const path = { application: limit.application };
  const by = Number(factor);
  const act = useAct(
    () => (by === 1 ? 'The limit is as it was.' : `${limit.application} is ${by > 1 ? 'raised' : 'lowered'} ${figure(by)} times.`),
    () => got(api.POST('/v1/limits/{application}/raise', { params: { path }, body: { factor: by, during_seconds: Number(during) } })),
    onClose,
  );
  const wrong = !(by > 0);
  return (
    <AskDialog title={`Raise ${plain(limit.application)} for a while`} verb={by < 1 ? 'Lower' : 'Raise'} unready={wrong} act={act} onSubmit={() => act.mutate(undefined)} onClose={onClose}>
      <div className="g2">
        <div className="field">
          <label htmlFor={`${id}f`}>Times</label>
          <input className="input" id={`${id}f`} type="number" min="0.01" step="any" required value={factor} onChange={(e) => setFactor(e.target.value)} />
        </div>
        <div className="field">
          <label htmlFor={`${id}d`}>For</label>
          <select className="select" id={`${id}d`} value={during} onChange={(e) => setDuring(e.target.value)}>
            <option value="600">10 minutes</option>
            <option value="3600">an hour</option>
            <option value="14400">4 hours</option>
            <option value="86400">a day</option>
          </select>
        </div>
      </div>
      {!wrong && (
        <ul className="what" aria-label="What will happen">
          {limit.user && (
            <li>
              <b>each</b>
              <span>
                {scaled(limit.user, by)} for each user, instead of {rateOf(limit.user)}.
              </span>
            </li>
          )}
          {limit.total && (
            <li>
              <b>all</b>
              <span>
                {scaled(limit.total, by)} for all together, instead of {rateOf(limit.total)}.
              </span>
            </li>
          )}
          <li>
            <b>{count(limit.held)}</b>
            <span>held messages leave at the new pace within a second. Then the limit is what it was, by itself.</span>
          </li>
        </ul>
      )}
    </AskDialog>
  );
}

// Terminate ends messages that are held: it counts them first, and ends those that were counted.
export function Terminate({ limit, onClose }: { limit: Detail; onClose: () => void }) {
  const id = useId();
  const [topology, setTopology] = useState('');
  const [user, setUser] = useState(anyone);
  const [reason, setReason] = useState('');
  const path = { application: limit.application };
  const filter: Schemas['HeldFilter'] = { ...(topology ? { topology } : {}), ...(user !== anyone ? { user: user.slice(1) } : {}) };
  const { mutate: recount, ...counted } = useMutation({
    mutationFn: (f: Schemas['HeldFilter']) => got(api.POST('/v1/limits/{application}/count-held', { params: { path }, body: f })),
  });
  const chosen = JSON.stringify(filter);
  useEffect(() => recount(JSON.parse(chosen) as Schemas['HeldFilter']), [chosen, recount]);
  const act = useAct(
    (n: Schemas['HeldChoice']) => `Terminated ${many(n.count, 'message')} that ${n.count === 1 ? 'was' : 'were'} held for ${limit.application}.`,
    (n) => got(api.POST('/v1/limits/{application}/terminate-held', { params: { path }, body: { ...filter, up_to: n.up_to, ...(reason.trim() ? { reason: reason.trim() } : {}) } })),
    onClose,
  );
  const choice = counted.isPending ? undefined : counted.data;
  return (
    <Dialog
      title={choice ? `Terminate ${many(choice.count, 'held message')}?` : 'Terminate held messages?'}
      onClose={onClose}
      footer={
        <>
          <button className="btn" onClick={onClose}>
            Keep them
          </button>
          <button className="btn primary" disabled={!choice?.count || act.isPending} onClick={() => choice && act.mutate(choice)}>
            Terminate {choice ? count(choice.count) : ''}
          </button>
        </>
      }
    >
      <div className="g2">
        <div className="field">
          <label htmlFor={`${id}t`}>Of</label>
          <select className="select" id={`${id}t`} value={topology} onChange={(e) => setTopology(e.target.value)}>
            <option value="">All topologies</option>
            {limit.topologies?.map((t) => (
              <option key={t.topology} value={t.topology}>
                {t.topology}
              </option>
            ))}
          </select>
        </div>
        <div className="field">
          <label htmlFor={`${id}u`}>For</label>
          <select className="select" id={`${id}u`} value={user} onChange={(e) => setUser(e.target.value)}>
            <option value={anyone}>All users</option>
            {limit.busiest?.map((u) => (
              <option key={u.user} value={`=${u.user}`}>
                {u.user || 'No user named'}
              </option>
            ))}
          </select>
        </div>
      </div>
      {counted.isPending && <Bones lines={2} />}
      {counted.isError && <Failure error={counted.error} retry={() => recount(filter)} />}
      {choice && (
        <ul className="what" aria-label="What will happen">
          <li>
            <b>{count(choice.count)}</b>
            <span>{choice.count ? `never reach ${plain(limit.application)}. They are settled as terminated, and this cannot be taken back.` : 'Nothing of this is held any more.'}</span>
          </li>
          <li>
            <b>0</b>
            <span>of what comes from now on. Other messages of their processes stay, too.</span>
          </li>
        </ul>
      )}
      <div className="field">
        <label htmlFor={`${id}r`}>Reason, if there is one</label>
        <input className="input" id={`${id}r`} maxLength={1000} value={reason} onChange={(e) => setReason(e.target.value)} />
        <span className="hint">It stands in the history of each.</span>
      </div>
      {act.isError && <Failure error={act.error} />}
    </Dialog>
  );
}

const anyone = '*'; // all others begin with =, as a user may have any name, and none

type Draft = { name: string; user: RateDraft; total: RateDraft; parallel: string };
type RateDraft = { amount: string; per: string; burst: string };

const draftOf = (rate: Schemas['Rate'] | undefined): RateDraft => ({ amount: rate ? String(rate.amount) : '', per: String(rate?.per_seconds ?? 1), burst: rate?.burst ? String(rate.burst) : '' });

const rateFrom = (d: RateDraft): Schemas['Rate'] | undefined =>
  d.amount ? { amount: Number(d.amount), per_seconds: Number(d.per), ...(d.burst ? { burst: Number(d.burst) } : {}) } : undefined;

// Change says what an application allows.
export function Change({ limit, onClose }: { limit?: Detail; onClose: () => void }) {
  const id = useId();
  const navigate = useNavigate();
  const [draft, setDraft] = useState<Draft>({ name: limit?.application ?? '', user: draftOf(limit?.user), total: draftOf(limit?.total), parallel: limit?.parallel ? String(limit.parallel) : '' });
  const name = draft.name.trim();
  const act = useAct(
    () => `The limit of ${name} holds within a second.`,
    () => {
      const user = rateFrom(draft.user);
      const total = rateFrom(draft.total);
      return got(
        api.PUT('/v1/limits/{application}', {
          params: { path: { application: name } },
          body: { ...(user ? { user } : {}), ...(total ? { total } : {}), ...(draft.parallel ? { parallel: Number(draft.parallel) } : {}), ...(limit?.weights ? { weights: limit.weights } : {}) },
        }),
      );
    },
    () => {
      onClose();
      if (!limit) void navigate({ to: '/limits/$application', params: { application: name } as never });
    },
  );
  return (
    <AskDialog title={limit ? `Limit of ${plain(limit.application)}` : 'Add a limit'} verb={limit ? 'Change' : 'Add'} act={act} onSubmit={() => act.mutate(undefined)} onClose={onClose}>
      {!limit && (
        <div className="field">
          <label htmlFor={`${id}n`}>Application</label>
          <input className="input" id={`${id}n`} required maxLength={200} value={draft.name} onChange={(e) => setDraft({ ...draft, name: e.target.value })} />
          <span className="hint">As nodes name it, in the field application.</span>
        </div>
      )}
      <RateFields label="For each user" draft={draft.user} onChange={(user) => setDraft({ ...draft, user })} />
      <RateFields label="For all together" draft={draft.total} onChange={(total) => setDraft({ ...draft, total })} />
      <div className="field">
        <label htmlFor={`${id}p`}>Calls under way at the same time</label>
        <input className="input" id={`${id}p`} type="number" min="1" step="1" placeholder="Any number" value={draft.parallel} onChange={(e) => setDraft({ ...draft, parallel: e.target.value })} />
      </div>
    </AskDialog>
  );
}

const periods = [
  { value: '1', label: 'second' },
  { value: '10', label: '10 seconds' },
  { value: '60', label: 'minute' },
  { value: '3600', label: 'hour' },
  { value: '86400', label: 'day' },
];

function RateFields({ label, draft, onChange }: { label: string; draft: RateDraft; onChange: (draft: RateDraft) => void }) {
  const id = useId();
  const known = periods.some((p) => p.value === draft.per);
  return (
    <fieldset className="rate">
      <legend className="lab">{label}</legend>
      <div className="field">
        <label htmlFor={`${id}a`}>Calls</label>
        <input className="input" id={`${id}a`} type="number" min="0.001" step="any" placeholder="Any number" value={draft.amount} onChange={(e) => onChange({ ...draft, amount: e.target.value })} />
      </div>
      <div className="field">
        <label htmlFor={`${id}p`}>In a</label>
        <select className="select" id={`${id}p`} value={draft.per} onChange={(e) => onChange({ ...draft, per: e.target.value })}>
          {!known && <option value={draft.per}>{draft.per} seconds</option>}
          {periods.map((p) => (
            <option key={p.value} value={p.value}>
              {p.label}
            </option>
          ))}
        </select>
      </div>
      <div className="field">
        <label htmlFor={`${id}b`}>At once</label>
        <input className="input" id={`${id}b`} type="number" min="1" step="any" placeholder="A second’s" value={draft.burst} onChange={(e) => onChange({ ...draft, burst: e.target.value })} />
      </div>
    </fieldset>
  );
}
