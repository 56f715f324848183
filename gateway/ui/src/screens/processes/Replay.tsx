import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { useNavigate } from '@tanstack/react-router';
import { useId, useState } from 'react';
import { api, got } from '../../api/client';
import { AskDialog } from '../../parts/AskDialog';
import { plain } from '../../parts/say';
import { tell } from '../../parts/Toast';
import { To } from '../../shell/To';
import type { Message, Process } from './data';

// Replay asks how a process is to be done again: from its start, or from a message of it.
export function Replay({ process: p, message, onClose }: { process: Process; message?: Message; onClose: () => void }) {
  const id = useId();
  const navigate = useNavigate();
  const queries = useQueryClient();
  const own = message?.version ?? p.version;
  const [key] = useState(() => crypto.randomUUID()); // so that a second press does no harm
  const [version, setVersion] = useState('');
  const [reason, setReason] = useState('');
  const versions = useQuery({
    queryKey: ['topologies', 'versions', p.topology],
    queryFn: () => got(api.GET('/v1/topologies/{topology}/versions', { params: { path: { topology: p.topology }, query: { limit: 200 } } })),
    select: (list) => (list.items ?? []).flatMap((v) => (v.state === 'published' && v.version && v.version !== own ? [v.version] : [])),
  });
  const act = useMutation({
    mutationFn: () => {
      const body = { ...(version ? { version: Number(version) } : {}), ...(reason.trim() ? { reason: reason.trim() } : {}) };
      const header = { 'Idempotency-Key': key };
      return message
        ? got(api.POST('/v1/messages/{message_id}/replay', { params: { path: { message_id: message.message_id }, header }, body }))
        : got(api.POST('/v1/processes/{correlation_id}/replay', { params: { path: { correlation_id: p.correlation_id }, header }, body }));
    },
    onSuccess: ({ correlation_id }) => {
      for (const list of ['processes', 'overview']) void queries.invalidateQueries({ queryKey: [list] });
      tell('Replayed. This is the new process.');
      void navigate({ to: '/processes/$correlation_id', params: { correlation_id } as never, search: {} as never });
      onClose();
    },
  });
  return (
    <AskDialog title={message ? `Replay from ${plain(message.node)}?` : 'Replay this process?'} verb="Replay" no="Leave it" act={act} onSubmit={() => act.mutate()} onClose={onClose}>
      <p>
        A new process begins {message ? <>with this message at {plain(message.node)}</> : <>with the same event at {plain(p.node)}</>}, and is marked as a replay. Workers are called again; this process stays as it is.
      </p>
        <div className="field">
          <label htmlFor={`${id}v`}>Version</label>
          <select className="select" id={`${id}v`} value={version} onChange={(e) => setVersion(e.target.value)}>
            <option value="">v{own}, as it was</option>
            {versions.data?.map((v) => (
              <option key={v} value={v}>
                v{v}
              </option>
            ))}
          </select>
        </div>
        <div className="field">
          <label htmlFor={`${id}r`}>Reason, if there is one</label>
          <input className="input" id={`${id}r`} maxLength={1000} value={reason} onChange={(e) => setReason(e.target.value)} />
        </div>
    </AskDialog>
  );
}

// ReplayFacts say what a process repeats, and what has repeated it.
export function ReplayFacts({ process: p }: { process: Process }) {
  const of = p.replay_of;
  const replays = p.replays ?? [];
  return (
    <>
      {of && (
        <div>
          <dt>Replay of</dt>
          <dd className="anywhere" title={of.reason}>
            <To screen="/processes/$correlation_id" params={{ correlation_id: of.correlation_id }} search={of.message_id ? { message: of.message_id } : {}} className="link mono">
              …{(of.message_id ?? of.correlation_id).slice(24)}
            </To>{' '}
            by {plain(of.replayed_by)}
          </dd>
        </div>
      )}
      {replays[0] && (
        <div>
          <dt>Replayed</dt>
          <dd className="anywhere">
            {replays.slice(0, 3).map((r, i) => (
              <span key={r.correlation_id}>
                {i > 0 && ', '}
                <To screen="/processes/$correlation_id" params={{ correlation_id: r.correlation_id }} className="link mono">
                  …{r.correlation_id.slice(24)}
                </To>
              </span>
            ))}
            {replays.length > 3 && <span className="faint"> and {replays.length - 3} more</span>}
          </dd>
        </div>
      )}
    </>
  );
}
