import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { useEffect, useRef, useState } from 'react';
import { api, got, type Schemas } from '../../api/client';
import { Lines, type Line } from '../../parts/Code';
import { Dialog } from '../../parts/Dialog';
import { count, during, many, plain } from '../../parts/say';
import { Bones, Failure } from '../../parts/States';
import { tell } from '../../parts/Toast';
import { Time } from '../../parts/Time';
import type { Query } from '../../shell/place';
import { filterOf } from './filters';

export type Deed = 'approve' | 'edit' | 'reject';

type Draft = { patch: string; version: string; rate: string; reason: string };

const verbs: Record<Deed, string> = { approve: 'Approve', edit: 'Edit and approve', reject: 'Reject' };

const samplePatch = '[{ "op": "replace", "path": "/name", "value": "…" }]';

// BulkDialog decides about all that match: first it freezes which they are and shows what would become of some, and then
// exactly these are decided about.
export function BulkDialog({ deed, filter, onClose }: { deed: Deed; filter: Query; onClose: () => void }) {
  const queries = useQueryClient();
  const [draft, setDraft] = useState<Draft>({ patch: '', version: '', rate: '', reason: '' });
  const [seen, setSeen] = useState<string>(); // the draft that the preview is of
  const current = JSON.stringify(draft);
  const preview = useMutation({
    mutationFn: () => got(api.POST('/v1/trash/bulks', { body: planOf(deed, filter, draft) })),
    onSuccess: () => setSeen(current),
  });
  const start = useMutation({
    mutationFn: (id: number) => got(api.POST('/v1/trash/bulks/{bulk_id}/start', { params: { path: { bulk_id: id } } })),
    onSuccess: () => {
      void queries.invalidateQueries({ queryKey: ['trash'] });
      tell('Started. You may leave this page.');
      onClose();
    },
  });
  const asked = useRef(false);
  useEffect(() => {
    if (asked.current || deed !== 'approve') return; // what needs a reason or a patch waits for it
    asked.current = true;
    preview.mutate();
  }, [deed, preview]);
  const problem = problemOf(deed, draft);
  const fresh = preview.data && seen === current && !preview.isPending;
  const bulk = preview.data;
  return (
    <Dialog
      title={`${verbs[deed]} ${bulk && fresh ? many(bulk.total, 'entry', 'entries') : 'all that match'}`}
      below={
        <p className="muted small">
          {bulk && fresh ? (
            <>
              Exactly these {count(bulk.total)}, as of <Time at={bulk.created_at} />. What fails after that stays in the trash.
            </>
          ) : (
            'First you see which they are, and what would become of them.'
          )}
        </p>
      }
      onClose={onClose}
      footer={
        <>
          <span className="muted small sp desk">You can pause or cancel while it runs.</span>
          <button className="btn" onClick={onClose}>
            Back
          </button>
          {fresh && bulk ? (
            <button className="btn primary" disabled={start.isPending || bulk.total === 0} onClick={() => start.mutate(bulk.id)}>
              {verbs[deed]} {count(bulk.total)}
            </button>
          ) : (
            <button className="btn primary" disabled={!!problem || preview.isPending} onClick={() => preview.mutate()}>
              Preview
            </button>
          )}
        </>
      }
    >
      {deed === 'edit' && (
        <div className="field">
          <label htmlFor="patch">Change each payload first</label>
          <textarea className="input mono" id="patch" rows={4} spellCheck={false} placeholder={samplePatch} value={draft.patch} aria-invalid={draft.patch !== '' && !!problem} onChange={(e) => setDraft({ ...draft, patch: e.target.value })} />
          <span className="hint">JSON Patch. What it does not fit is left alone, and stays in the trash.</span>
        </div>
      )}
      {deed !== 'reject' && (
        <div className="g2">
          {filter.topology && <Onto topology={filter.topology} value={draft.version} onChange={(version) => setDraft({ ...draft, version })} />}
          <div className="field">
            <label htmlFor="rate">At most, each second</label>
            <input className="input" id="rate" type="number" min="0.01" step="any" placeholder="As fast as it goes" value={draft.rate} onChange={(e) => setDraft({ ...draft, rate: e.target.value })} />
          </div>
        </div>
      )}
      <div className="field">
        <label htmlFor="why">{deed === 'reject' ? 'Reason' : 'Reason, if there is one'}</label>
        <input className="input" id="why" maxLength={1000} value={draft.reason} onChange={(e) => setDraft({ ...draft, reason: e.target.value })} />
        <span className="hint">It stands in the history of each.</span>
      </div>
      {problem && draft.patch !== '' && <p className="err">{problem}</p>}
      {preview.isPending && <Bones lines={3} />}
      {preview.isError && <Failure error={preview.error} />}
      {fresh && bulk && <Previewed deed={deed} bulk={bulk} draft={draft} />}
      {start.isError && <Failure error={start.error} />}
    </Dialog>
  );
}

function Previewed({ deed, bulk, draft }: { deed: Deed; bulk: Schemas['Preview']; draft: Draft }) {
  const samples = bulk.sample ?? [];
  const bad = samples.filter((s) => s.error).length;
  return (
    <>
      <ul className="what" aria-label="What will happen">
        <li>
          <b>{count(bulk.total)}</b>
          <span>{bulk.total === 0 ? 'Nothing matches any more.' : deed === 'reject' ? 'do not go on. Their processes end without them.' : draft.version ? `go on in v${draft.version}, at the node of the same name.` : 'go again where they stopped.'}</span>
        </li>
        {bulk.rate !== undefined && (
          <li>
            <b>{bulk.rate} /s</b>
            <span>at most. About {during(bulk.total / bulk.rate)}.</span>
          </li>
        )}
        {bad > 0 && (
          <li>
            <b className="amber">
              {bad} of {samples.length}
            </b>
            <span>samples would be left alone, and stay in the trash.</span>
          </li>
        )}
        {bulk.more && (
          <li>
            <b className="amber">More</b>
            <span>match than one bulk takes. Do it again when this one is done.</span>
          </li>
        )}
      </ul>
      {samples.length > 0 && <Samples samples={samples} />}
    </>
  );
}

function Samples({ samples }: { samples: readonly Schemas['Sample'][] }) {
  const [at, setAt] = useState(0);
  const sample = samples[Math.min(at, samples.length - 1)];
  if (!sample) return null;
  return (
    <div className="codebox by">
      <div className="codehead">
        Sample {at + 1} of {samples.length}, at {sample.node}
        <span className="sp" />
        {samples.length > 1 && (
          <button className="btn sm ghost" onClick={() => setAt((at + 1) % samples.length)}>
            Next sample
          </button>
        )}
      </div>
      <div className="stack tight" style={{ padding: '8px 12px' }}>
        <span className="small anywhere">{plain(sample.reason)}</span>
        {sample.error && <span className="small amber anywhere">Would be left alone: {plain(sample.error)}</span>}
      </div>
      {sample.diff?.headers?.map((h) => (
        <p key={h.name} className="small mono anywhere" style={{ padding: '0 12px 6px' }}>
          {plain(h.name)}: {plain(h.from ?? '(none)')} → {plain(h.to ?? '(dropped)')}
        </p>
      ))}
      {sample.diff?.body && <Lines lines={linesOf(sample.diff.body)} json label="What would change in the sample" />}
      {sample.diff?.omitted && (
        <p className="small faint" style={{ padding: '0 12px 8px' }}>
          {sample.diff.omitted}
        </p>
      )}
    </div>
  );
}

// linesOf reads the unified format.
export function linesOf(unified: string): Line[] {
  const lines: Line[] = [];
  for (const text of unified.replace(/\n$/, '').split('\n')) {
    if (/^(---|\+\+\+) /.test(text) || text.startsWith('\\')) continue;
    if (text.startsWith('@@')) lines.push({ text, kind: 'gap' });
    else if (text.startsWith('+')) lines.push({ text: text.slice(1), sign: '+', kind: 'add' });
    else if (text.startsWith('-')) lines.push({ text: text.slice(1), sign: '−', kind: 'del' });
    else lines.push({ text: text.slice(1) });
  }
  return lines;
}

function Onto({ topology, value, onChange }: { topology: string; value: string; onChange: (version: string) => void }) {
  const versions = useQuery({
    queryKey: ['topologies', topology, 'versions'],
    queryFn: () => got(api.GET('/v1/topologies/{topology}/versions', { params: { path: { topology }, query: { limit: 50 } } })),
  });
  return (
    <div className="field">
      <label htmlFor="onto">Onto</label>
      <select className="select" id="onto" value={value} onChange={(e) => onChange(e.target.value)}>
        <option value="">The version where each failed</option>
        {versions.data?.items
          ?.filter((v) => v.version && (v.state === 'published' || v.state === 'enabled'))
          .map((v) => (
            <option key={v.version} value={v.version}>
              v{v.version}
              {v.state === 'enabled' ? ', enabled' : ''}
            </option>
          ))}
      </select>
    </div>
  );
}

function problemOf(deed: Deed, draft: Draft): string {
  if (deed === 'reject' && !draft.reason.trim()) return 'A rejection needs a reason.';
  if (deed === 'edit') {
    if (!draft.patch.trim()) return 'Say what to change.';
    try {
      if (!Array.isArray(JSON.parse(draft.patch))) return 'A JSON Patch is a list of steps.';
    } catch (error) {
      return `Not JSON: ${error instanceof Error ? error.message : 'it cannot be read'}`;
    }
  }
  return '';
}

function planOf(deed: Deed, filter: Query, draft: Draft): Schemas['Plan'] {
  return {
    action: deed === 'reject' ? 'reject' : 'approve',
    filter: filterOf(filter),
    ...(deed === 'edit' ? { patch: JSON.parse(draft.patch) as Schemas['PatchStep'][] } : {}),
    ...(draft.version ? { version: Number(draft.version) } : {}),
    ...(draft.rate ? { rate: Number(draft.rate) } : {}),
    ...(draft.reason.trim() ? { reason: draft.reason.trim() } : {}),
  };
}
