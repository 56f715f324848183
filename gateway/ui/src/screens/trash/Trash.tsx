import { useQueryClient } from '@tanstack/react-query';
import { useEffect, useMemo, useState } from 'react';
import type { Schemas } from '../../api/client';
import { Badge } from '../../parts/Badge';
import { Chips } from '../../parts/Chips';
import { Icon } from '../../parts/Icon';
import { bytes, count, many, plain, share } from '../../parts/say';
import { Spark } from '../../parts/Spark';
import { Empty, Shown } from '../../parts/States';
import { Time } from '../../parts/Time';
import { useKeys } from '../../shell/keys';
import { Page } from '../../shell/Page';
import { pick, useChangeQuery, useQueryText, type Query } from '../../shell/place';
import { BulkDialog, type Deed } from './Bulk';
import { Decide } from './Decide';
import { useCausePoints, useEntries, useGroups } from './data';
import { Entry } from './Entry';
import { classes, filterNames, filters } from './filters';
import { Progress } from './Progress';

type EntryOf = Schemas['Entry'];

export default function Trash() {
  const query = useQueryText();
  const change = useChangeQuery();
  const filter = useMemo(() => pick(query, filterNames), [query]);
  const groups = useGroups(filter);
  const group = groups.data?.items?.find((g) => g.cause && g.cause === filter.cause);
  const [deed, setDeed] = useState<Deed>();
  const refilter = (to: Record<string, string | undefined>) => change({ ...to, after: undefined, entry: undefined });
  const all = groups.data?.entries;
  return (
    <Page title="Trash" note={all !== undefined && Object.keys(filter).length === 0 ? `${count(all)} open` : undefined}>
      <Chips filters={group ? filters.map((f) => (f.name === 'cause' ? { ...f, show: () => plain(group.text) } : f)) : filters} values={filter} onChange={refilter} />
      <Progress />
      {!filter.text && (
        <section className="card" aria-labelledby="causes">
          <header>
            <h2 id="causes">Causes</h2>
            <span className="faint small">what the answer said, with numbers, ids and quotes taken out</span>
          </header>
          <Shown query={groups}>{(g) => <Causes groups={g} chosen={filter.cause} onChoose={(cause) => refilter({ cause })} />}</Shown>
        </section>
      )}
      <Entries filter={filter} group={group} matching={filter.text ? undefined : filter.cause ? group?.count : all} query={query} onBulk={setDeed} />
      {query.entry && <Opened id={query.entry} />}
      {deed && <BulkDialog deed={deed} filter={filter} onClose={() => setDeed(undefined)} />}
    </Page>
  );
}

function Causes({ groups, chosen, onChoose }: { groups: Schemas['Groups']; chosen?: string; onChoose: (cause: string | undefined) => void }) {
  const points = useCausePoints().data;
  const items = groups.items ?? [];
  if (items.length === 0) return <Empty title="No causes">Nothing that matches waits in the trash.</Empty>;
  return (
    <table className="t cards">
      <thead>
        <tr>
          <th>Cause</th>
          <th className="desk">Last 3 h</th>
          <th className="num desk">Share</th>
          <th className="num desk">First seen</th>
          <th className="num desk">Last seen</th>
          <th className="num">Entries</th>
        </tr>
      </thead>
      <tbody>
        {items.map((g, i) => {
          const on = g.cause !== undefined && g.cause === chosen;
          const choose = () => onChoose(on ? undefined : g.cause);
          return (
            <tr key={g.cause ?? i} className={`go${on ? ' on' : ''}`} onClick={choose}>
              <td className="wide">
                <span className="row">
                  <button className="link-row ell strong" aria-pressed={on} title={plain(g.example)} disabled={!g.cause} onClick={(e) => (e.stopPropagation(), choose())}>
                    {plain(g.text) || 'Not sorted yet'}
                  </button>
                  <span className="desk">{g.type === 'breakpoint' ? <Badge hue="violet">Waits for a person</Badge> : g.class && <Badge hue="line">{classes[g.class] ?? g.class}</Badge>}</span>
                </span>
              </td>
              <td className="desk spark-c">{g.cause && points?.get(g.cause) && <Spark points={points.get(g.cause) ?? []} hue={g.type === 'breakpoint' ? undefined : 'red'} />}</td>
              <td className="num desk muted">{share(g.share)}</td>
              <td className="num desk muted">
                <Time at={g.first_seen} />
              </td>
              <td className="num desk muted">
                <Time at={g.last_seen} ago />
              </td>
              <td className="num strong">{count(g.count)}</td>
            </tr>
          );
        })}
      </tbody>
      {groups.causes > items.length && (
        <tfoot>
          <tr>
            <td colSpan={6} className="faint small">
              The {items.length} most frequent of {many(groups.causes, 'cause')}.
            </td>
          </tr>
        </tfoot>
      )}
    </table>
  );
}

type EntriesProps = { filter: Query; group?: Schemas['Group']; matching?: number; query: Query; onBulk: (deed: Deed) => void };

function Entries({ filter, group, matching, query, onBulk }: EntriesProps) {
  const change = useChangeQuery();
  const entries = useEntries(filter, query.after);
  const [chosen, setChosen] = useState<ReadonlyMap<string, EntryOf>>(new Map());
  const [deciding, setDeciding] = useState<'approve' | 'reject'>();
  const key = JSON.stringify(filter) + (query.after ?? '');
  useEffect(() => setChosen(new Map()), [key]);
  const items = entries.data?.items ?? [];
  const toggle = (some: readonly EntryOf[], on: boolean) => {
    const next = new Map(chosen);
    for (const e of some) {
      if (on) next.set(e.message_id, e);
      else next.delete(e.message_id);
    }
    setChosen(next);
  };
  const full = items.length > 0 && items.every((e) => chosen.has(e.message_id));
  useKeys([
    { keys: 'x', label: 'Choose all entries of this page, or none', run: () => toggle(items, !full) },
    { keys: 'r', label: 'Reject what is chosen', run: () => chosen.size > 0 && setDeciding('reject') },
    { keys: 'a', label: 'Approve what is chosen', run: () => chosen.size > 0 && setDeciding('approve') },
  ]);
  return (
    <>
      <section className="card" aria-labelledby="entries">
        <header>
          <h2 id="entries">{group ? plain(group.text) : 'Entries'}</h2>
          <span className="faint small">newest first</span>
        </header>
        <Shown query={entries} lines={8}>
          {(page) =>
            items.length === 0 ? (
              <Nothing filtered={Object.keys(filter).length > 0} more={page.next} />
            ) : (
              <table className="t cards" id="list">
                <thead>
                  <tr>
                    <th>
                      <input type="checkbox" aria-label="Choose all of this page" checked={full} onChange={(e) => toggle(items, e.target.checked)} />
                    </th>
                    <th>Failed</th>
                    <th>Topology</th>
                    <th>Node</th>
                    <th>Reason</th>
                    <th className="num">Attempts</th>
                    <th className="num">Payload</th>
                    <th>Assigned</th>
                  </tr>
                </thead>
                <tbody>
                  {items.map((e) => (
                    <Row key={e.message_id} entry={e} chosen={chosen.has(e.message_id)} onChoose={(on) => toggle([e], on)} onOpen={() => change({ entry: e.message_id })} />
                  ))}
                </tbody>
              </table>
            )
          }
        </Shown>
        {entries.data && (query.after || entries.data.next) && (
          <footer>
            <span>{items.length > 0 && (query.after ? `${many(items.length, 'entry', 'entries')} on this page` : `The newest ${items.length}`)}</span>
            <span className="sp" />
            <button className="btn sm" disabled={!query.after} onClick={() => change({ after: undefined })}>
              Newest
            </button>
            <button className="btn sm" disabled={!entries.data.next} onClick={() => change({ after: entries.data?.next })}>
              Older
            </button>
          </footer>
        )}
      </section>
      {items.length > 0 && (
        <div className="bulk" role="region" aria-label={chosen.size ? 'What to do with the chosen entries' : 'What to do with all that match'}>
          <span className="said">
            <b aria-live="polite">{chosen.size ? `${many(chosen.size, 'entry', 'entries')} chosen` : matching === undefined ? 'All that match' : `${many(matching, 'entry matches', 'entries match')}`}</b>
            {!chosen.size && <span className="muted desk"> {Object.keys(filter).length ? 'these filters' : 'no filter: the whole trash'}</span>}
          </span>
          <span className="sp" />
          {chosen.size > 0 ? (
            <>
              <button className="btn" onClick={() => setDeciding('reject')}>
                Reject…
              </button>
              <button className="btn primary" onClick={() => setDeciding('approve')}>
                Approve…
              </button>
            </>
          ) : (
            <>
              <button className="btn" onClick={() => onBulk('reject')}>
                Reject all…
              </button>
              <button className="btn" onClick={() => onBulk('edit')}>
                <span className="desk">
                  <Icon name="edit" />
                </span>
                Edit all…
              </button>
              <button className="btn primary" onClick={() => onBulk('approve')}>
                Approve all…
              </button>
            </>
          )}
        </div>
      )}
      {deciding && (
        <Decide
          verdict={deciding}
          entries={[...chosen.values()]}
          onClose={() => setDeciding(undefined)}
          onDone={() => {
            setDeciding(undefined);
            setChosen(new Map());
          }}
        />
      )}
    </>
  );
}

function Row({ entry, chosen, onChoose, onOpen }: { entry: EntryOf; chosen: boolean; onChoose: (on: boolean) => void; onOpen: () => void }) {
  const reason = plain(entry.reason);
  return (
    <tr className={`go${chosen ? ' on' : ''}`} onClick={onOpen}>
      <td className="desk" onClick={(e) => e.stopPropagation()}>
        <input type="checkbox" aria-label={`Choose the message at ${entry.node}: ${reason.slice(0, 60)}`} checked={chosen} onChange={(e) => onChoose(e.target.checked)} />
      </td>
      <td className="muted">
        <Time at={entry.failed_at} />
      </td>
      <td className="nowrap">
        {entry.topology} <span className="faint">v{entry.version}</span>
      </td>
      <td className="nowrap desk">{entry.node}</td>
      <td className="wide full">
        <span className="row">
          {entry.type === 'breakpoint' && <Badge hue="violet">Waits for a person</Badge>}
          {entry.edited && (
            <Badge hue="violet" icon="edit">
              Edited
            </Badge>
          )}
          <button className="link-row ell" title={reason} onClick={(e) => (e.stopPropagation(), onOpen())}>
            {reason || 'No reason was given'}
          </button>
        </span>
      </td>
      <td className="num muted desk">{count(entry.attempt)}</td>
      <td className="num muted desk">{bytes(entry.size)}</td>
      <td className="muted desk nowrap">{entry.assigned_to ? plain(entry.assigned_to) : '–'}</td>
    </tr>
  );
}

function Nothing({ filtered, more }: { filtered: boolean; more?: string }) {
  if (more) return <Empty title="None on this page">Few entries match; there may be some further on.</Empty>;
  if (filtered) return <Empty title="Nothing matches">What was here was decided about, or never failed so.</Empty>;
  return <Empty title="The trash is empty">A message that fails for good waits here until somebody decides.</Empty>;
}

// Opened is the entry that the URL names, between its neighbours on the page.
function Opened({ id }: { id: string }) {
  const change = useChangeQuery();
  const queries = useQueryClient();
  const query = useQueryText();
  const page = useEntries(
    useMemo(() => pick(query, filterNames), [query]),
    query.after,
  ).data?.items;
  const at = page?.findIndex((e) => e.message_id === id) ?? -1;
  const go = (to: string | undefined) => change({ entry: to }, to ? 'silent' : 'step');
  return (
    <Entry
      key={id}
      id={id}
      newer={at > 0 ? page?.[at - 1]?.message_id : undefined}
      older={at >= 0 ? page?.[at + 1]?.message_id : undefined}
      onGo={go}
      onDecided={(next) => {
        void queries.invalidateQueries({ queryKey: ['trash'] });
        void queries.invalidateQueries({ queryKey: ['overview'] });
        go(next);
      }}
    />
  );
}
