import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { api, got, type Schemas } from '../../api/client';
import { Dialog } from '../../parts/Dialog';
import { Icon } from '../../parts/Icon';
import { count, during, many, plain } from '../../parts/say';
import { said, Shown } from '../../parts/States';
import { Time, useNow } from '../../parts/Time';
import { warn } from '../../parts/Toast';
import { useBulks } from './data';

type Bulk = Schemas['Bulk'];

const doing: Record<Bulk['action'], string> = { approve: 'Approving', reject: 'Rejecting', edit: 'Editing', assign: 'Assigning', comment: 'Commenting' };
const did: Record<Bulk['action'], string> = { approve: 'Approved', reject: 'Rejected', edit: 'Edited', assign: 'Assigned', comment: 'Commented on' };

const shownFor = 15 * 60_000; // of one that has ended

// Progress shows the bulks that run, and those that ended lately, until somebody has seen them.
export function Progress() {
  const bulks = useBulks();
  const now = useNow();
  const [seen, setSeen] = useState(readSeen);
  const hide = (id: number) => {
    const next = [...seen, id].slice(-50);
    setSeen(next);
    sessionStorage.setItem(kept, JSON.stringify(next));
  };
  const shown = (bulks.data?.items ?? []).filter((b) => {
    if (b.state === 'preview') return false;
    if (!b.finished_at) return b.state === 'running' || b.state === 'paused';
    return now.getTime() - new Date(b.finished_at).getTime() < shownFor && !seen.includes(b.id);
  });
  return shown.map((b) => <One key={b.id} bulk={b} onHide={() => hide(b.id)} />);
}

const kept = 'sluice.bulks';
function readSeen(): number[] {
  try {
    return JSON.parse(sessionStorage.getItem(kept) ?? '[]') as number[];
  } catch {
    return [];
  }
}

function One({ bulk, onHide }: { bulk: Bulk; onHide: () => void }) {
  const queries = useQueryClient();
  const [open, setOpen] = useState(false);
  const act = useMutation({
    mutationFn: (what: 'pause' | 'resume' | 'cancel') => got(api.POST(`/v1/trash/bulks/{bulk_id}/${what}`, { params: { path: { bulk_id: bulk.id } } })),
    onError: (error) => warn(said(error)),
    onSettled: () => queries.invalidateQueries({ queryKey: ['trash'] }),
  });
  const handled = bulk.total - bulk.left;
  const ended = bulk.state === 'done' || bulk.state === 'cancelled';
  return (
    <section className="card" aria-label={`Bulk ${bulk.id}`}>
      <div className="prog">
        <div className="row wrap">
          <b aria-live="polite">{titleOf(bulk)}</b>
          <span className="muted">
            {count(handled)} of {count(bulk.total)}
            {bulk.rate ? `, at most ${bulk.rate} a second` : ''}
          </span>
          <span className="sp" />
          {bulk.state === 'running' && (
            <button className="btn sm" disabled={act.isPending} onClick={() => act.mutate('pause')}>
              <Icon name="pause" /> Pause
            </button>
          )}
          {bulk.state === 'paused' && (
            <button className="btn sm" disabled={act.isPending} onClick={() => act.mutate('resume')}>
              <Icon name="play" /> Resume
            </button>
          )}
          {!ended && (
            <button className="btn sm" disabled={act.isPending} onClick={() => act.mutate('cancel')}>
              Cancel the rest
            </button>
          )}
          {ended && (
            <button className="btn sm icon ghost" aria-label="Hide this" onClick={onHide}>
              <Icon name="x" />
            </button>
          )}
        </div>
        <div className="bar" role="progressbar" aria-label={`${did[bulk.action]} so far`} aria-valuemin={0} aria-valuemax={bulk.total} aria-valuenow={handled}>
          <i style={{ width: `${(bulk.done / Math.max(1, bulk.total)) * 100}%` }} />
          <i className="amber" style={{ width: `${(bulk.failed / Math.max(1, bulk.total)) * 100}%` }} />
        </div>
        <div className="row small muted wrap">
          {bulk.state === 'running' && <Left bulk={bulk} />}
          {bulk.failed > 0 && (
            <button className="link" onClick={() => setOpen(true)}>
              {many(bulk.failed, 'was', 'were')} left alone
            </button>
          )}
          <span>
            Started by {plain(bulk.started_by ?? bulk.created_by)} at <Time at={bulk.started_at ?? bulk.created_at} />
            {bulk.patch?.length ? ', with a patch' : ''}
            {bulk.version ? `, onto v${bulk.version}` : ''}
          </span>
        </div>
      </div>
      {open && <Failures bulk={bulk} onClose={() => setOpen(false)} />}
    </section>
  );
}

function titleOf(b: Bulk): string {
  const what = many(b.total, 'entry', 'entries');
  if (b.state === 'running') return `${doing[b.action]} ${what}`;
  if (b.state === 'paused') return `Paused: ${doing[b.action].toLowerCase()} ${what}`;
  if (b.state === 'cancelled') return `Cancelled: ${did[b.action].toLowerCase()} ${count(b.done)} of ${what}`;
  return `${did[b.action]} ${b.failed ? `${count(b.done)} of ${what}` : what}`;
}

function Left({ bulk }: { bulk: Bulk }) {
  const now = useNow();
  const handled = bulk.total - bulk.left;
  const since = (now.getTime() - new Date(bulk.started_at ?? bulk.created_at).getTime()) / 1000;
  if (handled === 0 || since <= 0) return <span>Begins</span>;
  return <span>About {during((bulk.left * since) / handled)} left</span>;
}

function Failures({ bulk, onClose }: { bulk: Bulk; onClose: () => void }) {
  const failures = useQuery({
    queryKey: ['trash', 'bulks', bulk.id, 'failures'],
    queryFn: () => got(api.GET('/v1/trash/bulks/{bulk_id}/failures', { params: { path: { bulk_id: bulk.id }, query: { limit: 100 } } })),
  });
  return (
    <Dialog title={`${many(bulk.failed, 'entry was', 'entries were')} left alone`} onClose={onClose}>
      <Shown query={failures}>
        {(page) => (
          <>
            <table className="t">
              <thead>
                <tr>
                  <th>Message</th>
                  <th>Why</th>
                </tr>
              </thead>
              <tbody>
                {page.items?.map((f) => (
                  <tr key={f.message_id}>
                    <td className="mono nowrap">…{f.message_id.slice(-16)}</td>
                    <td className="anywhere">{plain(f.error)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
            {page.next && <p className="faint small">The first 100 of {count(bulk.failed)}.</p>}
          </>
        )}
      </Shown>
    </Dialog>
  );
}
