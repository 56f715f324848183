import './processes.css';
import { useNavigate } from '@tanstack/react-router';
import { useMemo } from 'react';
import { Badge } from '../../parts/Badge';
import { Chips } from '../../parts/Chips';
import { count, during, many, plain } from '../../parts/say';
import { Empty, Shown } from '../../parts/States';
import { Time, useNow } from '../../parts/Time';
import { Page } from '../../shell/Page';
import { pick, useChangeQuery, useQueryText } from '../../shell/place';
import { To } from '../../shell/To';
import { filterNames, filters, states, sums, sumSaid, tookOf, useProcesses, type Process } from './data';

// Processes are what each event set going, the newest first.
export default function Processes() {
  const query = useQueryText();
  const change = useChangeQuery();
  const filter = useMemo(() => pick(query, filterNames), [query]);
  const processes = useProcesses(filter, query.after);
  const filtered = Object.keys(filter).length > 0;
  return (
    <Page title="Processes">
      <Chips filters={filters} values={filter} onChange={(to) => change({ ...to, after: undefined })} />
      <section className="card" aria-labelledby="list-h">
        <header>
          <h2 id="list-h">{filter.state ? states[filter.state as Process['state']]?.said : 'All'}</h2>
          <span className="faint small">newest first</span>
        </header>
        <Shown query={processes} lines={8}>
          {(page) => {
            const items = page.items ?? [];
            return (
              <>
                {items.length === 0 ? <Nothing filtered={filtered} more={page.next} /> : <List items={items} />}
                {(query.after || page.next) && (
                  <footer>
                    <span>{items.length > 0 && (query.after ? `${many(items.length, 'process', 'processes')} on this page` : `The newest ${items.length}`)}</span>
                    <span className="sp" />
                    <button className="btn sm" disabled={!query.after} onClick={() => change({ after: undefined })}>
                      Newest
                    </button>
                    <button className="btn sm" disabled={!page.next} onClick={() => change({ after: page.next })}>
                      Older
                    </button>
                  </footer>
                )}
              </>
            );
          }}
        </Shown>
      </section>
    </Page>
  );
}

function List({ items }: { items: readonly Process[] }) {
  return (
    <table className="t cards" id="list">
      <thead>
        <tr>
          <th>Came in</th>
          <th>Topology</th>
          <th>State</th>
          <th>Where its messages are</th>
          <th className="num">Messages</th>
          <th className="num">Took</th>
          <th>Process</th>
        </tr>
      </thead>
      <tbody>
        {items.map((p) => (
          <Row key={p.correlation_id} process={p} />
        ))}
      </tbody>
    </table>
  );
}

function Row({ process: p }: { process: Process }) {
  const navigate = useNavigate();
  const state = states[p.state];
  const params = { correlation_id: p.correlation_id };
  return (
    <tr className="go" onClick={() => void navigate({ to: '/processes/$correlation_id', params: params as never })}>
      <td className="muted nowrap p-4">
        <Time at={p.started_at} />
      </td>
      <td className="nowrap p-0">
        {plain(p.topology)} <span className="faint">v{p.version}</span>
      </td>
      <td className="p-2">
        <Badge hue={state.hue} icon={state.icon}>
          {state.said}
        </Badge>
        {p.replay_of && <span className="violet small"> Replay</span>}
      </td>
      <td className="wide desk">
        <span className="row">
          <Share process={p} />
          <span className="ell" title={sumSaid(p)}>
            {sums(p).map((s, i) => (
              <span key={s.said} className={s.hue}>
                {i > 0 && <span className="faint"> + </span>}
                {count(s.n)} {s.said}
              </span>
            ))}
          </span>
        </span>
      </td>
      <td className="num p-3">
        {count(p.total)}
        <span className="phone faint"> {p.total === 1 ? 'message' : 'messages'}</span>
      </td>
      <td className="num muted desk">
        <Took process={p} />
      </td>
      <td className="nowrap p-5" onClick={(e) => e.stopPropagation()}>
        <To screen="/processes/$correlation_id" params={params} className="link mono">
          <span title={p.correlation_id}>…{p.correlation_id.slice(-12)}</span>
        </To>
      </td>
      <td className="num muted phone p-1">
        <Took process={p} />
      </td>
    </tr>
  );
}

// Took is how long a process took, or has been going on.
export function Took({ process: p }: { process: Process }) {
  const now = useNow();
  if (p.finished_at) return during(tookOf(p, now));
  return <span className="faint">{during(Math.floor(tookOf(p, now)))} so far</span>;
}

function Share({ process: p }: { process: Process }) {
  const part = (n: number) => ({ width: `${(n / Math.max(1, p.total)) * 100}%` });
  const stays = p.total - p.done - p.trashed - p.open;
  return (
    <span className="bar share" aria-hidden="true">
      <i style={part(p.done)} />
      {p.open > 0 && <i className="amber" style={part(p.open)} />}
      {p.trashed > 0 && <i className={p.state === 'parked' ? 'violet' : 'red'} style={part(p.trashed)} />}
      {stays > 0 && <i className="over" style={part(stays)} />}
    </span>
  );
}

function Nothing({ filtered, more }: { filtered: boolean; more?: string }) {
  if (more) return <Empty title="None on this page">Few processes match; there may be some further on.</Empty>;
  if (filtered) return <Empty title="Nothing matches">No process that is kept is like this.</Empty>;
  return <Empty title="No process yet">An event that comes in starts one. It stands here at once.</Empty>;
}
