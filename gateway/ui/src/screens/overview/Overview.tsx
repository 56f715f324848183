import { Link } from '@tanstack/react-router';
import type { ReactNode } from 'react';
import type { Schemas } from '../../api/client';
import { Badge } from '../../parts/Badge';
import { Icon } from '../../parts/Icon';
import { count, during, many, minuteOf, ms, plain, share, short } from '../../parts/say';
import { Segments } from '../../parts/Segments';
import { Spark } from '../../parts/Spark';
import { Empty, Shown } from '../../parts/States';
import { Time } from '../../parts/Time';
import { screens } from '../../screens';
import { Page } from '../../shell/Page';
import { useChangeQuery, useQueryText } from '../../shell/place';
import { To } from '../../shell/To';
import { ranges, rangeOf, useHeat, useLimits, useOverview, useWorkers, type Range } from './data';
import { Heat } from './Heat';
import './overview.css';

export default function Overview() {
  const range = rangeOf(useQueryText().range);
  const change = useChangeQuery();
  const overview = useOverview(range);
  return (
    <Page title="Overview" actions={<Segments label="Time range" value={range} choices={ranges} onChange={(r) => change({ range: r === '24h' ? undefined : r })} />}>
      <Shown query={overview} lines={6}>
        {(o) => (
          <>
            <Incidents incidents={o.incidents ?? []} now={o.at} />
            <Figures figures={o.figures} step={o.step_seconds} range={range} />
          </>
        )}
      </Shown>
      <HeatCard of="topologies" range={range} />
      <HeatCard of="applications" range={range} />
      {overview.data && <Causes causes={overview.data.causes ?? []} />}
      <div className="g2">
        <Limits />
        <Workers />
      </div>
    </Page>
  );
}

type Incident = Schemas['Incident'];

// Incidents say what is wrong, since when, what it costs and what to do. If nothing is wrong nothing is said.
function Incidents({ incidents, now }: { incidents: readonly Incident[]; now: string }) {
  if (incidents.length === 0) return null;
  return (
    <section aria-label="What is wrong now" className="stack tight">
      {incidents.map((i, n) => (
        <One key={`${i.kind} ${i.topology ?? ''} ${i.version ?? ''} ${i.node ?? ''} ${i.worker ?? ''} ${i.application ?? ''}`} incident={i} first={n === 0} now={now} />
      ))}
    </section>
  );
}

function One({ incident: i, first, now }: { incident: Incident; first: boolean; now: string }) {
  const since = <Time at={i.since} />;
  if (i.kind === 'node_failing') {
    const trashed = i.trashed ?? 0;
    return (
      <Headline kind="bad" icon="x" title={<>{i.topology} fails at {i.node} since {since}</>} action={<Lead first={first} to="/trash" search={{ topology: i.topology, node: i.node, version: i.version ? String(i.version) : undefined }}>{trashed ? `Open ${many(trashed, 'entry', 'entries')}` : 'Open the trash'}</Lead>}>
        {i.reason && <><span className="mono">{plain(i.reason).slice(0, 200)}</span>. </>}
        {many(i.failed ?? 0, 'message')} failed since{i.share !== undefined && <>, {share(i.share)} of its calls in the last quarter of an hour</>}. {trashed > 0 ? `${many(trashed, 'waits', 'wait')} in the trash; none is lost.` : 'None waits in the trash.'}
      </Headline>
    );
  }
  if (i.kind === 'worker_down') {
    return (
      <Headline kind="bad" icon="x" title={<>{i.worker} is down since {since}</>} action={<Lead first={first} to="/workers/$worker" params={{ worker: i.worker ?? '' }}>Open worker</Lead>}>
        {i.reason && <><span className="mono">{plain(i.reason).slice(0, 200)}</span>. </>}
        {i.waiting ? `${many(i.waiting, 'message waits', 'messages wait')}; none is lost. They run when the worker answers.` : 'No message waits for it.'}
      </Headline>
    );
  }
  const held = i.held ?? 0;
  const empty = i.drain_seconds !== undefined ? new Date(new Date(now).getTime() + i.drain_seconds * 1000) : undefined;
  return (
    <Headline
      kind="wait"
      icon={i.paused ? 'pause' : 'clock'}
      title={<>{i.application} {i.paused ? 'is paused and ' : ''}holds {many(held, 'message')}{i.drain_seconds !== undefined && !i.paused && <>, drains in {during(i.drain_seconds)}</>}</>}
      action={<Lead first={first} to="/limits/$application" params={{ application: i.application ?? '' }}>Open limits</Lead>}
    >
      {i.paused ? 'A person has paused it. They run when somebody resumes it.' : empty ? `If no more come, none is held at about ${minuteOf(empty)}.` : 'They run as the limit allows.'} Since {since}.
    </Headline>
  );
}

type HeadlineProps = { kind: 'bad' | 'wait'; icon: 'x' | 'clock' | 'pause'; title: ReactNode; action: ReactNode; children: ReactNode };

function Headline({ kind, icon, title, action, children }: HeadlineProps) {
  return (
    <div className={`headline ${kind}`}>
      <span className={kind === 'bad' ? 'red' : 'amber'}>
        <Icon name={icon} />
      </span>
      <p>
        <b>{title}</b>
        <small>{children}</small>
      </p>
      {action}
    </div>
  );
}

// Lead is the button that leads there, if there is such a screen.
function Lead({ first, to, params, search, children }: { first: boolean; to: string; params?: Record<string, string>; search?: Record<string, string | undefined>; children: ReactNode }) {
  if (!screens.some((s) => s.path === to)) return null;
  return (
    <To screen={to} params={params} search={search} className={first ? 'btn primary' : 'btn'}>
      {children}
    </To>
  );
}

function Figures({ figures: f, step, range }: { figures: Schemas['Figures']; step: number; range: Range }) {
  const label = ranges.find((r) => r.value === range)?.label;
  const per = `each point ${during(step)}`;
  return (
    <div className="figs" role="group" aria-label={`Key figures, last ${label}`}>
      <Fig name="Events in" value={short(f.events.total)} title={many(f.events.total, 'event')} unit={label}>
        <Spark points={f.events.points ?? []} hue="teal" />
      </Fig>
      <Fig name="Messages" value={short(f.messages.total)} title={`${many(f.messages.total, 'message')}, ${per}`} unit={label}>
        <Spark points={f.messages.points ?? []} hue="teal" />
      </Fig>
      <Fig name="Failed" value={short(f.failed.total)} title={many(f.failed.total, 'failure')} hue={f.failed.total ? 'red' : undefined} unit={f.messages.total ? share(f.failed.total / f.messages.total) : undefined}>
        <Spark points={f.failed.points ?? []} hue={f.failed.total ? 'red' : undefined} />
      </Fig>
      <Fig name="In trash" value={short(f.trashed)} title={many(f.trashed, 'entry', 'entries')} hue={f.trashed ? 'red' : undefined} to="/trash">
        {f.parked ? `and ${many(f.parked, 'waits', 'wait')} at breakpoints` : 'now'}
      </Fig>
      <Fig name="Held" value={short(f.held)} title={many(f.held, 'message')} hue={f.held ? 'amber' : undefined} to="/limits">
        of {short(f.open)} open now
      </Fig>
      <Fig name="Calls take, p95" value={f.p95_ms.total === undefined ? '–' : ms(f.p95_ms.total)} unit={label}>
        {f.workers_down ? <span className="red">{many(f.workers_down, 'worker')} down</span> : `${many(f.workers, 'worker')}, ${many(f.topologies, 'topology', 'topologies')}`}
      </Fig>
    </div>
  );
}

function Fig({ name, value, title, unit, hue, to, children }: { name: string; value: string; title?: string; unit?: string; hue?: 'red' | 'amber'; to?: string; children: ReactNode }) {
  const inside = (
    <>
      <span className="k">{name}</span>
      <span className="v" title={title}>
        <span className={hue}>{value}</span>
        {unit && <small>{unit}</small>}
      </span>
      <span className="d ell">{children}</span>
    </>
  );
  if (to && screens.some((s) => s.path === to)) {
    return (
      <Link className="fig" to={to}>
        {inside}
      </Link>
    );
  }
  return <div className="fig">{inside}</div>;
}

const words = {
  topologies: { title: 'Topologies', unit: 'message', caption: 'Messages and failures by topology and time.', key: 'topology', none: 'No topology has had traffic yet.' },
  applications: { title: 'Applications', unit: 'call', caption: 'Calls and failures by application and time.', key: 'application', none: 'No application was called yet.' },
} as const;

function HeatCard({ of, range }: { of: 'topologies' | 'applications'; range: Range }) {
  const heat = useHeat(of, range);
  const w = words[of];
  return (
    <section className="card" aria-labelledby={`heat-${of}`}>
      <header>
        <h2 id={`heat-${of}`}>{w.title}</h2>
        <span className="sp" />
        <Legend />
      </header>
      <Shown query={heat}>
        {(map) =>
          map.items?.length ? (
            <Heat
              map={map}
              unit={w.unit}
              caption={w.caption}
              mark={of === 'applications' ? (name) => <span className="app-t" aria-hidden="true">{name.slice(0, 2).toUpperCase()}</span> : undefined}
              to={(name, slot) => ({ [w.key]: name, failed_after: slot.from.toISOString(), failed_before: slot.to.toISOString() })}
            />
          ) : (
            <Empty title={w.none} />
          )
        }
      </Shown>
    </section>
  );
}

function Legend() {
  return (
    <div className="legend desk" aria-hidden="true">
      <span>
        <i className="sw f1" />
        <i className="sw f2" />
        <i className="sw f3" />
        traffic
      </span>
      {[
        ['r1', '1 failed'],
        ['r2', '1\u00a0%'],
        ['r3', '5\u00a0%'],
        ['r4', '25\u00a0%'],
      ].map(([hue, text]) => (
        <span key={hue}>
          <i className={`sw full ${hue}`} />
          {text}
        </span>
      ))}
    </div>
  );
}

function Causes({ causes }: { causes: readonly Schemas['Cause'][] }) {
  return (
    <section className="card" aria-labelledby="worst">
      <header>
        <h2 id="worst">Worst causes</h2>
        <span className="faint small desk">what waits in the trash, by what the answer said</span>
        <span className="sp" />
        <To screen="/trash" className="link small">
          All in trash
        </To>
      </header>
      {causes.length === 0 ? (
        <Empty title="Nothing waits in the trash" />
      ) : (
        <table className="t cards">
          <thead>
            <tr>
              <th>Cause</th>
              <th className="desk">Last 3 h</th>
              <th className="num desk">First seen</th>
              <th className="num desk">Last seen</th>
              <th className="num">Entries</th>
            </tr>
          </thead>
          <tbody>
            {causes.map((c) => (
              <tr key={c.cause}>
                <td className="wide">
                  <span className="row">
                    <To screen="/trash" search={{ cause: c.cause }} className="ell strong">
                      {plain(c.text) || 'No reason was given'}
                    </To>
                  </span>
                </td>
                <td className="desk spark-c">
                  <Spark points={c.points ?? []} hue={(c.points ?? []).slice(-3).some((n) => n > 0) ? 'red' : undefined} />
                </td>
                <td className="num muted desk">
                  <Time at={c.first_seen} />
                </td>
                <td className="num muted desk">
                  <Time at={c.last_seen} ago />
                </td>
                <td className="num strong">{count(c.count)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </section>
  );
}

function Limits() {
  const limits = useLimits();
  return (
    <section className="card" aria-labelledby="limits">
      <header>
        <h2 id="limits">Limits</h2>
        <span className="sp" />
        {screens.some((s) => s.path === '/limits') && (
          <To screen="/limits" className="link small">
            All limits
          </To>
        )}
      </header>
      <Shown query={limits}>
        {(page) => {
          const items = [...(page.items ?? [])].sort((a, b) => b.held - a.held).slice(0, 6);
          if (items.length === 0) return <Empty title="No application has a limit" />;
          return (
            <table className="t">
              <thead>
                <tr>
                  <th>Application</th>
                  <th className="num">Held</th>
                  <th className="num desk">In, out</th>
                  <th className="num">Drains in</th>
                </tr>
              </thead>
              <tbody>
                {items.map((l) => (
                  <tr key={l.application}>
                    <td className="wide">
                      <span className="row">
                        <span className="app-t" aria-hidden="true">
                          {l.application.slice(0, 2).toUpperCase()}
                        </span>
                        <To screen="/limits/$application" params={{ application: l.application }} className="ell">
                          {l.application}
                        </To>
                        {l.paused_at && (
                          <Badge hue="amber" icon="pause">
                            Paused
                          </Badge>
                        )}
                      </span>
                    </td>
                    <td className={`num strong ${l.held ? 'amber' : ''}`}>{count(l.held)}</td>
                    <td className="num muted desk">
                      {rate(l.in_per_second)}, {rate(l.out_per_second)} /s
                    </td>
                    <td className="num">{l.held === 0 || l.drain_seconds === undefined ? '–' : during(l.drain_seconds)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          );
        }}
      </Shown>
    </section>
  );
}

const rate = (n: number) => (n >= 10 ? Math.round(n) : Number(n.toFixed(1))).toLocaleString('en-US');

function Workers() {
  const workers = useWorkers();
  return (
    <section className="card" aria-labelledby="workers">
      <header>
        <h2 id="workers">Workers</h2>
        <span className="sp" />
        {screens.some((s) => s.path === '/workers') && (
          <To screen="/workers" className="link small">
            All workers
          </To>
        )}
      </header>
      <Shown query={workers}>
        {(page) => {
          const items = [...(page.items ?? [])].sort((a, b) => Number(!!b.down_since) - Number(!!a.down_since)).slice(0, 6);
          if (items.length === 0) return <Empty title="No worker is registered" />;
          return (
            <table className="t">
              <thead>
                <tr>
                  <th>Worker</th>
                  <th>State</th>
                  <th className="num">Since</th>
                </tr>
              </thead>
              <tbody>
                {items.map((w) => (
                  <tr key={w.name}>
                    <td className="wide">
                      <span className="row">
                        <To screen="/workers/$worker" params={{ worker: w.name }} className="ell">
                          {w.name}
                        </To>
                      </span>
                    </td>
                    <td>
                      {w.down_since ? (
                        <Badge hue="red" icon="x">
                          Down
                        </Badge>
                      ) : (
                        <Badge hue="teal" icon="check">
                          Up
                        </Badge>
                      )}
                    </td>
                    <td className="num muted">
                      <Time at={w.down_since ?? w.created_at} />
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          );
        }}
      </Shown>
    </section>
  );
}
