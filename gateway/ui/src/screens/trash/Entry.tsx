import { useMutation, useQueryClient } from '@tanstack/react-query';
import { useMemo, useState, type ReactNode } from 'react';
import { api, got, type Schemas } from '../../api/client';
import { Badge } from '../../parts/Badge';
import { Lines } from '../../parts/Code';
import { Dialog } from '../../parts/Dialog';
import { changed, diffOf } from '../../parts/diff';
import { Icon } from '../../parts/Icon';
import { Payload } from '../../parts/Payload';
import { during, many, ms, plain } from '../../parts/say';
import { Segments } from '../../parts/Segments';
import { Failure, said, Shown } from '../../parts/States';
import { Time, useNow } from '../../parts/Time';
import { tell, warn } from '../../parts/Toast';
import { useKeys } from '../../shell/keys';
import { To } from '../../shell/To';
import { Headers, outcomes, typeOf, verdicts } from '../evidence';
import { Decide, useDecide } from './Decide';
import { useEntry } from './data';
import { classes } from './filters';

type Detail = Schemas['EntryDetail'];

type Props = { id: string; newer?: string; older?: string; onGo: (id: string | undefined) => void; onDecided: (next: string | undefined) => void };

// Entry is one message of the trash: what it carries, what was tried, and what to do about it.
export function Entry(props: Props) {
  const entry = useEntry(props.id);
  if (entry.data) return <Known {...props} entry={entry.data} />;
  return (
    <Dialog kind="drawer" title="Message" onClose={() => props.onGo(undefined)}>
      <Shown query={entry}>{() => null}</Shown>
    </Dialog>
  );
}

// Draft is what somebody is about to send instead: the text of the payload, and the headers.
type Draft = { text: string; headers: readonly (readonly [string, string])[] };

type View = 'original' | 'changes' | 'edit';

function Known({ id, newer, older, onGo, onDecided, entry }: Props & { entry: Detail }) {
  const now = useNow();
  const queries = useQueryClient();
  const base = useMemo(() => draftOf(entry), [entry]);
  const [draft, setDraft] = useState<Draft>();
  const [view, setView] = useState<View>(entry.edit ? 'changes' : 'original');
  const [rejecting, setRejecting] = useState(false);
  const [onto, setOnto] = useState('');
  const current = draft ?? base;
  const unsaved = draft !== undefined && (draft.text !== base.text || JSON.stringify(draft.headers) !== JSON.stringify(base.headers));
  const close = () => {
    if (!unsaved || window.confirm('What you changed is not saved. Close all the same?')) onGo(undefined);
  };
  const decide = useDecide(() => onDecided(older));
  const keep = (saved: Detail) => {
    queries.setQueryData(['trash', 'entry', id], saved);
    setDraft(undefined);
    setView('changes');
    void queries.invalidateQueries({ queryKey: ['trash', 'list'] });
    return saved;
  };
  const save = useMutation({ mutationFn: () => saveEdit(entry, current).then(keep) });
  const discard = useMutation({
    mutationFn: () => got(api.DELETE('/v1/trash/{message_id}/body', { params: { path: { message_id: id }, header: { 'If-Match': tagOf(entry) } } })),
    onSuccess: async () => {
      setDraft(undefined);
      setView('original');
      await queries.invalidateQueries({ queryKey: ['trash'] });
      tell('The edit is forgotten. It would be sent as it failed.');
    },
    onError: (error) => warn(said(error)),
  });
  const approve = async () => {
    const revision = unsaved ? (await save.mutateAsync()).revision : entry.revision;
    decide.mutate({ verdict: 'approve', entries: [{ message_id: id, revision }], reason: '', ...(onto ? { version: Number(onto) } : {}) });
  };
  useKeys([
    { keys: 'j', label: 'Next entry, the older', run: () => older && !unsaved && onGo(older) },
    { keys: 'k', label: 'Entry before, the newer', run: () => newer && !unsaved && onGo(newer) },
    { keys: 'e', label: 'Edit the entry', run: () => setView('edit') },
  ]);
  const parked = entry.type === 'breakpoint';
  const busy = save.isPending || decide.isPending || discard.isPending;
  const failed = entry.attempts?.findLast((a) => a.outcome === 'failed' || a.outcome === 'retried');
  return (
    <Dialog
      kind="drawer"
      title={`${entry.topology} at ${entry.node}`}
      onClose={close}
      aside={
        <Badge hue={parked ? 'violet' : 'red'} icon={parked ? 'person' : 'x'}>
          {parked ? 'Waits' : 'In trash'} {during(Math.max(0, (now.getTime() - new Date(entry.failed_at).getTime()) / 1000))}
        </Badge>
      }
      below={
        <div className="row wrap muted small">
          <span>
            <To screen="/topologies/$topology" params={{ topology: entry.topology }} search={{ version: String(entry.version) }}>
              {entry.topology}
            </To>{' '}
            v{entry.version}
          </span>
          <span>
            process{' '}
            <To screen="/processes/$correlation_id" params={{ correlation_id: entry.process.correlation_id }} search={{ message: id }}>
              <span className="mono">…{entry.process.correlation_id.slice(-6)}</span>
            </To>
          </span>
          <span>
            failed <Time at={entry.failed_at} />
          </span>
          {entry.failures > 1 && <span>{many(entry.failures, 'time', 'times')} so far</span>}
          <span className="sp" />
          <button className="btn sm icon ghost" aria-label="Newer entry" disabled={!newer || unsaved} onClick={() => onGo(newer)}>
            <Icon name="up" />
          </button>
          <button className="btn sm icon ghost" aria-label="Older entry" disabled={!older || unsaved} onClick={() => onGo(older)}>
            <Icon name="down" />
          </button>
        </div>
      }
      footer={
        <>
          <button className="btn" disabled={busy} onClick={() => setRejecting(true)}>
            Reject…
          </button>
          {entry.edit && !unsaved && (
            <button className="btn" disabled={busy} onClick={() => discard.mutate()}>
              Forget the edit
            </button>
          )}
          <span className="sp" />
          {(entry.where.versions?.length ?? 0) > 0 && (
            <span className="row">
              <label htmlFor="onto" className="small muted">
                Onto
              </label>
              <select id="onto" className="select fit" value={onto} onChange={(e) => setOnto(e.target.value)}>
                <option value="">v{entry.version}, where it failed</option>
                {entry.where.versions?.map((v) => (
                  <option key={v} value={v}>
                    v{v}
                  </option>
                ))}
              </select>
            </span>
          )}
          {unsaved && (
            <button className="btn" disabled={busy} onClick={() => save.mutate()}>
              Save
            </button>
          )}
          <button className="btn primary" disabled={busy} onClick={() => void approve()}>
            {unsaved ? 'Save and approve' : 'Approve'}
          </button>
        </>
      }
    >
      <div className={`headline ${parked ? 'person' : 'bad'}`}>
        <p>
          <b>{parked ? 'Waits for a person' : (failed?.status ?? 0) >= 400 ? `${entry.where.worker ?? 'The worker'} answered ${failed?.status}` : (classes[entry.class ?? ''] ?? 'It failed')}</b>
          <small className="mono">{plain(entry.reason) || 'No reason was given'}</small>
        </p>
      </div>
      {(save.isError || decide.isError) && <Failure error={save.error ?? decide.error} />}
      <Content entry={entry} draft={current} unsaved={unsaved} view={view} onView={setView} onDraft={setDraft} onSave={() => save.mutate()} />
      <Attempts entry={entry} />
      <History entry={entry} />
      {rejecting && <Decide verdict="reject" entries={[entry]} onClose={() => setRejecting(false)} onDone={() => onDecided(older)} />}
    </Dialog>
  );
}

// readable is a payload as somebody edits it: JSON one value a line, other text as it is.
function draftOf(entry: Detail): Draft {
  const from = entry.edit ?? entry;
  const text = entry.edit ? (entry.edit.text ?? '') : (entry.pretty ?? entry.text ?? '');
  return { text, headers: Object.entries(from.headers ?? {}) };
}

const tagOf = (entry: { revision: number }) => `"${entry.revision}"`;

async function saveEdit(entry: Detail, draft: Draft): Promise<Detail> {
  const base = (entry.edit ?? entry).headers ?? {};
  const next = Object.fromEntries(draft.headers.filter(([name]) => name.trim()).map(([name, value]) => [name.trim().toLowerCase(), value]));
  const dropped = Object.keys(base).filter((name) => !(name in next));
  const { 'content-type': type, ...others } = next;
  const before = draftOf(entry);
  const same = draft.text === before.text && !entry.edit; // only headers: the bytes stay what they are
  const body = same && entry.text !== undefined ? entry.text : draft.text;
  return got(
    api.PUT('/v1/trash/{message_id}/body', {
      params: { path: { message_id: entry.message_id }, header: { 'If-Match': tagOf(entry), ...(dropped.length ? { 'Sluice-Drop': dropped.join(',') } : {}) } },
      headers: {
        'Content-Type': type ?? 'application/octet-stream',
        ...Object.fromEntries(Object.entries(others).filter(([name, value]) => base[name] !== value).map(([name, value]) => [`Sluice-Header-${name}`, encodeURIComponent(value)])),
      },
      body: body as never,
      bodySerializer: (text: unknown) => text as string,
    }),
  );
}

type ContentProps = { entry: Detail; draft: Draft; unsaved: boolean; view: View; onView: (v: View) => void; onDraft: (d: Draft) => void; onSave: () => void };

function Content({ entry, draft, unsaved, view, onView, onDraft, onSave }: ContentProps) {
  const original = entry.pretty ?? entry.text;
  const differs = unsaved || entry.edit !== undefined;
  const views = [
    { value: 'original' as const, label: 'Original' },
    ...(differs ? [{ value: 'changes' as const, label: 'Changes' }] : []),
    ...(original !== undefined ? [{ value: 'edit' as const, label: 'Edit' }] : []),
  ];
  const shown = views.some((v) => v.value === view) ? view : 'original';
  const isJSON = entry.pretty !== undefined;
  const wrong = shown === 'edit' && isJSON ? jsonProblem(draft.text) : '';
  return (
    <section className="stack tight" aria-labelledby="payload">
      <div className="row wrap">
        <h3 id="payload">Payload</h3>
        {unsaved && (
          <span className="violet small">
            <Icon name="edit" small /> Changed by you, not saved
          </span>
        )}
        {!unsaved && entry.edit && (
          <span className="violet small">
            <Icon name="edit" small /> Edited by {plain(entry.edit.by)}, <Time at={entry.edit.at} ago />
          </span>
        )}
        <span className="sp" />
        {views.length > 1 && <Segments label="What to see of the payload" value={shown} choices={views} onChange={onView} />}
      </div>
      {shown === 'original' && (
        <>
          <Payload content={entry} type={typeOf(entry.headers)} size={entry.size} href={`/v1/messages/${encodeURIComponent(entry.message_id)}/body`} />
          <Headers headers={entry.headers} />
          {original === undefined && <p className="faint small">It is not text: it can be sent again or rejected, and edited by the command line.</p>}
        </>
      )}
      {shown === 'changes' && <Changes entry={entry} draft={draft} />}
      {shown === 'edit' && (
        <>
          <textarea
            className="input mono"
            aria-label="Payload to send instead"
            rows={Math.min(26, Math.max(8, draft.text.split('\n').length + 1))}
            spellCheck={false}
            value={draft.text}
            onChange={(e) => onDraft({ ...draft, text: e.target.value })}
            onKeyDown={(e) => {
              if (e.key !== 's' || !(e.ctrlKey || e.metaKey)) return;
              e.preventDefault();
              onSave();
            }}
          />
          {wrong && (
            <p className="amber small anywhere" role="status">
              <Icon name="warn" small /> {wrong}
            </p>
          )}
          <HeaderFields headers={draft.headers} onChange={(headers) => onDraft({ ...draft, headers })} />
          <p className="faint small">The original stays with the entry. Ctrl+S saves; the bytes go out as you see them.</p>
        </>
      )}
    </section>
  );
}

function jsonProblem(text: string): string {
  try {
    JSON.parse(text);
    return '';
  } catch (error) {
    return `It is no JSON any more: ${error instanceof Error ? error.message : 'it cannot be read'}`;
  }
}

function Changes({ entry, draft }: { entry: Detail; draft: Draft }) {
  const lines = useMemo(() => diffOf(entry.pretty ?? entry.text ?? '', draft.text), [entry, draft.text]);
  const { added, gone } = changed(lines);
  const before = entry.headers ?? {};
  const after = Object.fromEntries(draft.headers);
  const names = [...new Set([...Object.keys(before), ...Object.keys(after)])].filter((n) => before[n] !== after[n]);
  return (
    <>
      <div className="codebox by">
        <div className="codehead">
          {many(added, 'line')} added, {gone} removed
        </div>
        <Lines lines={lines} json={entry.pretty !== undefined} label="Changes of the payload" />
      </div>
      {names.length > 0 && (
        <ul className="what" aria-label="Changes of the headers">
          {names.map((n) => (
            <li key={n}>
              <b className="mono">{plain(n)}</b>
              <span className="mono">
                {plain(before[n] ?? '(none)')} → {plain(after[n] ?? '(dropped)')}
              </span>
            </li>
          ))}
        </ul>
      )}
    </>
  );
}

function HeaderFields({ headers, onChange }: { headers: Draft['headers']; onChange: (h: Draft['headers']) => void }) {
  const set = (at: number, next: readonly [string, string]) => onChange(headers.map((h, i) => (i === at ? next : h)));
  return (
    <details className="codebox">
      <summary className="codehead">{many(headers.length, 'header')}</summary>
      <div className="stack tight pad-s">
        {headers.map(([name, value], i) => (
          <div className="row" key={i}>
            <input className="input mono" aria-label={`Name of header ${i + 1}`} value={name} onChange={(e) => set(i, [e.target.value, value])} />
            <input className="input mono" aria-label={`Value of ${name || `header ${i + 1}`}`} value={value} onChange={(e) => set(i, [name, e.target.value])} />
            <button className="btn sm icon ghost" aria-label={`Drop ${name || `header ${i + 1}`}`} onClick={() => onChange(headers.filter((_, k) => k !== i))}>
              <Icon name="x" />
            </button>
          </div>
        ))}
        <button className="btn sm" onClick={() => onChange([...headers, ['', '']])}>
          Add a header
        </button>
      </div>
    </details>
  );
}

function Attempts({ entry }: { entry: Detail }) {
  const attempts = entry.attempts ?? [];
  return (
    <section className="stack tight" aria-labelledby="attempts">
      <h3 id="attempts">Attempts</h3>
      {attempts.length === 0 ? <p className="muted small">No call was made.</p> : [...attempts].reverse().map((a, i) => <AttemptOf key={`${a.at} ${a.attempt} ${a.page ?? 0}`} attempt={a} open={i === 0} />)}
    </section>
  );
}

function AttemptOf({ attempt, open }: { attempt: Schemas['Attempt']; open: boolean }) {
  const outcome = outcomes[attempt.outcome];
  const { request, response } = attempt;
  return (
    <details className="codebox" open={open && !!response}>
      <summary className="codehead">
        <span className="row attempt">
          <Badge hue={outcome.hue} icon={outcome.icon}>
            {(attempt.status ?? 0) >= 400 ? attempt.status : outcome.said}
          </Badge>
          <Time at={attempt.at} />
          <span className="ell">{attempt.reason ? plain(attempt.reason) : outcome.said}</span>
          <span className="sp" />
          <span className="nowrap">{ms(attempt.duration_ms)}</span>
        </span>
      </summary>
      {request && (
        <p className="small muted pad-s anywhere">
          {request.method} {plain(request.worker)} {request.action && <span className="mono">{plain(request.action)}</span>}, key <span className="mono">{request.idempotency_key}</span>
        </p>
      )}
      {response ? (
        <>
          <Payload content={response} type={typeOf(response.headers)} size={response.text?.length ?? Math.floor(response.body.length * 0.75)} />
          {response.cut && <p className="faint small pad-s">There was more of it; the first 4 KiB are kept.</p>}
          <Headers headers={response.headers} />
        </>
      ) : (
        <p className="faint small pad-s">There was no answer to keep.</p>
      )}
    </details>
  );
}

function History({ entry }: { entry: Detail }) {
  const queries = useQueryClient();
  const [text, setText] = useState('');
  const [to, setTo] = useState(entry.assigned_to ?? '');
  const renew = () => queries.invalidateQueries({ queryKey: ['trash'] });
  const comment = useMutation({
    mutationFn: () => got(api.POST('/v1/trash/{message_id}/comments', { params: { path: { message_id: entry.message_id } }, body: { text: text.trim() } })),
    onSuccess: () => {
      setText('');
      return renew();
    },
    onError: (error) => warn(said(error)),
  });
  const assign = useMutation({
    mutationFn: () => got(api.POST('/v1/trash/assign', { body: { message_ids: [entry.message_id], to: to.trim() } })),
    onSuccess: () => {
      tell(to.trim() ? `It is ${to.trim()}’s now.` : 'It is nobody’s now.');
      return renew();
    },
    onError: (error) => warn(said(error)),
  });
  const form = (f: () => void, children: ReactNode) => (
    <form
      className="row"
      onSubmit={(e) => {
        e.preventDefault();
        f();
      }}
    >
      {children}
    </form>
  );
  return (
    <section className="stack tight" aria-labelledby="history">
      <h3 id="history">History</h3>
      <ul className="stack tight small muted">
        {[...(entry.decisions ?? [])].reverse().map((d, i) => (
          <li key={i} className="anywhere">
            <Time at={d.decided_at} /> {plain(d.decided_by)} {verdicts[d.verdict]}
            {d.reason && `: “${plain(d.reason)}”`}
          </li>
        ))}
        <li>
          <Time at={entry.failed_at} /> {entry.type === 'breakpoint' ? 'Parked at the breakpoint' : `Failed into the trash after ${many(entry.attempt, 'attempt')}`}
        </li>
      </ul>
      {form(
        () => text.trim() && comment.mutate(),
        <>
          <input className="input" aria-label="Remark" placeholder="A remark for whoever looks next" maxLength={4000} value={text} onChange={(e) => setText(e.target.value)} />
          <button className="btn" disabled={comment.isPending || !text.trim()}>
            Add
          </button>
        </>,
      )}
      {form(
        () => assign.mutate(),
        <>
          <input className="input" aria-label="Assigned to" placeholder="Assigned to nobody" maxLength={200} value={to} onChange={(e) => setTo(e.target.value)} />
          <button className="btn" disabled={assign.isPending || to.trim() === (entry.assigned_to ?? '')}>
            Assign
          </button>
        </>,
      )}
    </section>
  );
}
