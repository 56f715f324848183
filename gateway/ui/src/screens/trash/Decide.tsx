import { useMutation, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { api, got, type Schemas } from '../../api/client';
import { Dialog } from '../../parts/Dialog';
import { many } from '../../parts/say';
import { Failure } from '../../parts/States';
import { tell } from '../../parts/Toast';

export type Verdict = 'approve' | 'reject';
export type Chosen = Pick<Schemas['Entry'], 'message_id' | 'revision'>;

// useDecide decides about entries as they were seen: all of them, or none if one has changed since.
export function useDecide(onDone: () => void) {
  const queries = useQueryClient();
  return useMutation({
    mutationFn: async ({ verdict, entries, reason, version }: { verdict: Verdict; entries: readonly Chosen[]; reason: string; version?: number }) => {
      const message_ids = entries.map((e) => e.message_id);
      const revisions = entries.map((e) => e.revision);
      if (verdict === 'reject') await got(api.POST('/v1/trash/reject', { body: { message_ids, revisions, reason } }));
      else await got(api.POST('/v1/trash/approve', { body: { message_ids, revisions, ...(version ? { version } : {}), ...(reason ? { reason } : {}) } }));
      return many(entries.length, 'entry', 'entries');
    },
    onSuccess: (what, { verdict, version }) => {
      tell(verdict === 'reject' ? `Rejected ${what}.` : `Approved ${what}${version ? `, onto v${version}` : ''}.`);
      onDone();
    },
    onSettled: () => {
      void queries.invalidateQueries({ queryKey: ['trash'] });
      void queries.invalidateQueries({ queryKey: ['overview'] });
    },
  });
}

// Decide asks once more, with the reason for the record.
export function Decide({ verdict, entries, onClose, onDone }: { verdict: Verdict; entries: readonly Chosen[]; onClose: () => void; onDone: () => void }) {
  const [reason, setReason] = useState('');
  const decide = useDecide(onDone);
  const what = many(entries.length, 'entry', 'entries');
  const approve = verdict === 'approve';
  return (
    <Dialog
      title={approve ? `Approve ${what}` : `Reject ${what}`}
      onClose={onClose}
      footer={
        <>
          <button className="btn" onClick={onClose}>
            Back
          </button>
          <button
            className="btn primary"
            disabled={decide.isPending || (!approve && !reason.trim())}
            onClick={() => decide.mutate({ verdict, entries, reason: reason.trim() })}
          >
            {approve ? 'Approve' : 'Reject'} {what}
          </button>
        </>
      }
    >
      <p className="muted">
        {approve
          ? 'Each goes again where it stopped, an edited one with its edited content. If one has changed since you looked, none goes.'
          : 'None goes on, and their processes end without them. This cannot be taken back.'}
      </p>
      <div className="field">
        <label htmlFor="reason">{approve ? 'Reason, if there is one' : 'Reason'}</label>
        <input className="input" id="reason" value={reason} maxLength={1000} onChange={(e) => setReason(e.target.value)} />
        <span className="hint">It stands in their history.</span>
      </div>
      {decide.isError && <Failure error={decide.error} />}
    </Dialog>
  );
}
