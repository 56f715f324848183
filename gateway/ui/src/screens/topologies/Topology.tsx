import { useParams } from '@tanstack/react-router';
import { lazy, Suspense, useState } from 'react';
import { Badge } from '../../parts/Badge';
import { Code } from '../../parts/Code';
import { Copy } from '../../parts/Copy';
import { Dialog } from '../../parts/Dialog';
import { Icon } from '../../parts/Icon';
import { count, during, figure, many, ms, plain, share, short } from '../../parts/say';
import { Bones, Empty, Shown } from '../../parts/States';
import { Time } from '../../parts/Time';
import { Page } from '../../shell/Page';
import { useChangeQuery, useQueryText } from '../../shell/place';
import { To } from '../../shell/To';
import { beforeOf, depthOf, keyOf, nameOf, perMinute, useLive, useTopology, useVersion, useVersions, type Live, type LiveNode, type Topology, type Version } from './data';
import { Compare, DeedDialog, Run, type Deed } from './Deeds';
import './topologies.css';

const Graph = lazy(() => import('./Graph'));

// TopologyScreen shows a version of a topology with what goes on in it, and moves new events between versions.
export default function TopologyScreen() {
  const { topology: name = '' } = useParams({ strict: false }) as { topology?: string };
  const query = useQueryText();
  const change = useChangeQuery();
  const topology = useTopology(name);
  const versions = useVersions(name);
  const t = topology.data;
  const shown = query.version ?? (t && String(t.enabled ?? t.latest ?? 'draft'));
  const number = shown && shown !== 'draft' ? Number(shown) : undefined;
  const live = useLive(name, number);
  const version = useVersion(name, shown);
  const [deed, setDeed] = useState<Deed>();
  const [running, setRunning] = useState(false);
  const view = number === undefined ? (version.data && keyOf(version.data) === 'draft' ? stillOf(version.data) : undefined) : live.data;
  const chosen = view && chosenOf(view, query.node)?.name;
  const starts = view?.nodes?.filter((n) => n.kind === 'start').map((n) => n.name) ?? [];
  const list = versions.data?.items ?? [];
  const before = beforeOf(list, t?.enabled);
  const switcher = t && shown !== undefined && list.length > 0 && (
    <select className="select fit" aria-label="Version" value={shown} onChange={(e) => change({ version: e.target.value, node: undefined })}>
      {!list.some((v) => keyOf(v) === shown) && <option value={shown}>v{shown}</option>}
      {list.map((v) => (
        <option key={keyOf(v)} value={keyOf(v)}>
          {nameOf(v)}
          {v.state === 'enabled' ? ', takes events' : v.state === 'retired' ? ', retired' : ''}
        </option>
      ))}
    </select>
  );
  return (
    <Page
      title={plain(name)}
      crumb={<To screen="/topologies" className="">Topologies</To>}
      note={switcher}
      actions={
        t && (
          <>
            {number !== undefined && (
              <button className="btn" disabled={starts.length === 0} onClick={() => setRunning(true)}>
                <Icon name="play" small /> Run…
              </button>
            )}
            {before && (
              <button className="btn" onClick={() => setDeed({ kind: 'rollback', version: before })}>
                <Icon name="back" small /> Roll back…
              </button>
            )}
            {t.enabled !== undefined && (
              <button className="btn" onClick={() => setDeed({ kind: 'disable' })}>
                Disable…
              </button>
            )}
            {t.draft && (
              <button className="btn primary" onClick={() => setDeed({ kind: 'publish' })}>
                Publish…
              </button>
            )}
          </>
        )
      }
    >
      <Shown query={topology}>
        {(top) => (
          <>
            {live.data && number !== undefined && <Worst topology={name} live={live.data} />}
            <section className="card" aria-labelledby="graph">
              <header>
                <h2 id="graph">Graph</h2>
                {number === undefined ? (
                  <Badge hue="violet" icon="edit">
                    Draft
                  </Badge>
                ) : view?.enabled ? (
                  <Badge hue="teal" icon="check">
                    Takes new events
                  </Badge>
                ) : (
                  <Badge hue="line">Takes no new events</Badge>
                )}
                <span className="sp" />
                <span className="legend-g desk">
                  <span>
                    <i />
                    wide as the rate
                  </span>
                  <span>
                    <i className="amber" />
                    held
                  </span>
                  <span>the figure is what waits there, and for how long</span>
                </span>
              </header>
              {view ? (
                <Drawing live={view} chosen={chosen} onChoose={(node) => change({ node }, 'silent')} />
              ) : number === undefined ? (
                <Shown query={version} lines={6}>
                  {() => <Bones lines={6} />}
                </Shown>
              ) : (
                <Shown query={live} lines={6}>
                  {() => <Bones lines={6} />}
                </Shown>
              )}
              {view && number !== undefined && <Balance live={view} />}
            </section>
            <div className="g2">
              {view ? (
                <NodeCard topology={name} version={number} live={view} chosen={chosen} source={version.data} />
              ) : (
                <section className="card" aria-label="Node">
                  <Bones />
                </section>
              )}
              <Versions topology={top} versions={versions} live={live.data} onDeed={setDeed} />
            </div>
          </>
        )}
      </Shown>
      {deed && t && <DeedDialog deed={deed} topology={t} live={live.data} onClose={() => setDeed(undefined)} onDone={(v) => change({ version: v === undefined ? undefined : String(v) }, 'silent')} />}
      {running && number !== undefined && <Run topology={name} version={number} starts={starts} enabled={t?.enabled === number} onClose={() => setRunning(false)} />}
    </Page>
  );
}

const still = { rate_per_second: 0, calls_per_second: 0, failed_share: 0, waiting: 0, running: 0, held: 0, retrying: 0, trashed: 0, arrived: 0, departed: 0 };

// stillOf is a draft as it would be drawn: nothing goes on in it.
function stillOf(v: Version): Live {
  const nodes = v.graph?.nodes ?? [];
  return {
    at: v.created_at,
    counted_until: v.created_at,
    enabled: false,
    version: 0,
    versions: [],
    nodes: nodes.map((n) => ({ name: n.name, kind: n.kind, ...(n.worker ? { worker: n.worker } : {}), ...(n.application ? { application: n.application } : {}), ...still })),
    edges: nodes.flatMap((n) => (n.followers ?? []).map((to) => ({ from: n.name, to, ...still }))),
  };
}

type Choosing = { live: Live; chosen: string | undefined; onChoose: (node: string) => void };

// Drawing is the graph, and on a phone the same as a list.
function Drawing(props: Choosing) {
  return (
    <>
      <div className="desk">
        <Suspense fallback={<Bones lines={6} />}>
          <Graph {...props} />
        </Suspense>
      </div>
      <ol className="nodes-l phone">
        {(props.live.nodes ?? []).map((n) => (
          <li key={n.name}>
            <button aria-pressed={n.name === props.chosen} onClick={() => props.onChoose(n.name)}>
              <span>
                <b className="anywhere">{plain(n.name)}</b>
                <br />
                <small className="faint">
                  {plain([n.kind, n.application ?? n.worker].filter(Boolean).join(', '))}
                  {n.kind !== 'start' && props.live.version > 0 && ` · ${figure(perMinute(n.rate_per_second))} /min`}
                  {n.p95_ms !== undefined && ` · p95 ${ms(n.p95_ms)}`}
                </small>
              </span>
              <Marks node={n} />
            </button>
          </li>
        ))}
      </ol>
    </>
  );
}

function Marks({ node: n }: { node: LiveNode }) {
  const parked = n.kind === 'breakpoint';
  return (
    <span className="row">
      {n.trashed > 0 && (
        <Badge hue={parked ? 'violet' : 'red'} icon={parked ? 'pause' : 'x'}>
          {short(n.trashed)} {parked ? 'parked' : 'in trash'}
        </Badge>
      )}
      {n.held > 0 && (
        <Badge hue="amber" icon="clock">
          {short(n.held)} held
        </Badge>
      )}
    </span>
  );
}

// worstOf is the node that a person should look at first.
function worstOf(live: Live): LiveNode | undefined {
  const failing = (live.nodes ?? []).filter((n) => n.kind !== 'breakpoint' && n.trashed > 0 && n.failed_share > 0);
  return failing.sort((a, b) => b.failed_share * b.calls_per_second - a.failed_share * a.calls_per_second)[0];
}

// chosenOf is the node that somebody has chosen, or else the one that they would.
function chosenOf(live: Live, name: string | undefined): LiveNode | undefined {
  const nodes = live.nodes ?? [];
  return nodes.find((n) => n.name === name) ?? worstOf(live) ?? nodes.find((n) => n.kind !== 'start') ?? nodes[0];
}

function Worst({ topology, live }: { topology: string; live: Live }) {
  const n = worstOf(live);
  if (!n) return null;
  return (
    <div className="headline bad">
      <span className="red">
        <Icon name="x" />
      </span>
      <p>
        <b>{plain(n.name)} fails.</b>{' '}
        <span className="muted">
          {share(n.failed_share)} of its calls in the last five minutes; {many(n.trashed, 'message lies', 'messages lie')} in the trash.
        </span>
      </p>
      <To screen="/trash" search={{ topology, version: String(live.version), node: n.name }} className="btn">
        Open {short(n.trashed)} {n.trashed === 1 ? 'entry' : 'entries'}
      </To>
    </div>
  );
}

function Balance({ live }: { live: Live }) {
  const sum = (pick: (e: NonNullable<Live['edges']>[number]) => number) => (live.edges ?? []).reduce((n, e) => n + pick(e), 0);
  const held = sum((e) => e.held);
  const nodes = new Map((live.nodes ?? []).map((n) => [n.name, n]));
  const parked = sum((e) => (nodes.get(e.to)?.kind === 'breakpoint' ? e.trashed : 0));
  const trashed = sum((e) => e.trashed) - parked;
  return (
    <footer>
      <span>
        In flight on v{live.version}: <b>{count(sum(depthOf))}</b>
      </span>
      <span>{count(sum((e) => e.waiting))} waiting</span>
      <span>{count(sum((e) => e.running))} running</span>
      <span className={held ? 'amber' : undefined}>{count(held)} held</span>
      <span>{count(sum((e) => e.retrying))} retrying</span>
      {parked > 0 && <span className="violet">{count(parked)} parked</span>}
      <span className={trashed ? 'red' : undefined}>{count(trashed)} in trash</span>
      <span className="sp" />
      <span className="faint small desk">
        Rates are of the five minutes until <Time at={live.counted_until} />
      </span>
    </footer>
  );
}

function NodeCard({ topology, version, live, chosen, source }: { topology: string; version: number | undefined; live: Live; chosen: string | undefined; source: Version | undefined }) {
  const n = chosenOf(live, chosen);
  if (!n) return <section className="card" aria-label="Node" />;
  const said = source && (version === undefined || source.version === version) ? source.graph?.nodes?.find((one) => one.name === n.name) : undefined;
  const oldest = (live.edges ?? []).filter((e) => e.to === n.name).reduce<number | undefined>((age, e) => (e.age_seconds === undefined ? age : Math.max(age ?? 0, e.age_seconds)), undefined);
  const parked = n.kind === 'breakpoint';
  const where = { topology, node: n.name, ...(version === undefined ? {} : { version: String(version) }) };
  return (
    <section className="card" aria-labelledby="node">
      <header>
        <h2 id="node">{plain(n.name)}</h2>
        <span className="faint small">{parked ? 'a person decides' : n.kind}</span>
        <span className="sp" />
        <Marks node={n} />
      </header>
      <div className="pad stack">
        <dl className="kv two">
          {n.kind !== 'start' && version !== undefined && (
            <>
              <dt>Rate</dt>
              <dd>{figure(perMinute(n.rate_per_second))} /min</dd>
              <dt>Calls failed</dt>
              <dd className={n.failed_share ? 'red' : undefined}>{n.calls_per_second > 0 ? share(n.failed_share) : '–'}</dd>
              <dt>Waiting</dt>
              <dd>
                {count(n.waiting)}
                {oldest !== undefined && `, the oldest ${during(oldest)}`}
              </dd>
              <dt>p50</dt>
              <dd>{n.p50_ms === undefined ? '–' : ms(n.p50_ms)}</dd>
              <dt>Running</dt>
              <dd>{count(n.running)}</dd>
              <dt>p95</dt>
              <dd>{n.p95_ms === undefined ? '–' : ms(n.p95_ms)}</dd>
              <dt>Retrying</dt>
              <dd>{count(n.retrying)}</dd>
              <dt>p99</dt>
              <dd>{n.p99_ms === undefined ? '–' : ms(n.p99_ms)}</dd>
              <dt>Held</dt>
              <dd className={n.held ? 'amber' : undefined}>{count(n.held)}</dd>
              <dt>In, out</dt>
              <dd>
                {count(n.arrived)}, {count(n.departed)} ever
              </dd>
            </>
          )}
          {n.worker && (
            <>
              <dt>Worker</dt>
              <dd>
                <To screen="/workers/$worker" params={{ worker: n.worker }}>
                  {plain(n.worker)}
                </To>
              </dd>
            </>
          )}
          {n.application && (
            <>
              <dt>Application</dt>
              <dd>
                <To screen="/limits/$application" params={{ application: n.application }}>
                  {plain(n.application)}
                </To>
              </dd>
            </>
          )}
          {said?.action && (
            <>
              <dt>Action</dt>
              <dd className="mono">{plain(said.action)}</dd>
            </>
          )}
          {said?.retry && n.kind !== 'start' && (
            <>
              <dt>Attempts</dt>
              <dd>
                {said.retry.attempts}, up to {said.retry.max} apart
              </dd>
            </>
          )}
          {said?.order_by && (
            <>
              <dt>Ordered by</dt>
              <dd className="mono">{plain(said.order_by)}</dd>
            </>
          )}
        </dl>
        {n.kind === 'start' && version !== undefined && (
          <p className="muted small anywhere">
            Events come in at{' '}
            <code>
              POST /v1/topologies/{topology}/nodes/{n.name}/events
            </code>
          </p>
        )}
        {version !== undefined && n.trashed > 0 && (
          <div className="row wrap">
            <To screen="/trash" search={where} className="btn">
              Open in trash
            </To>
          </div>
        )}
      </div>
    </section>
  );
}

function Versions({ topology: t, versions, live, onDeed }: { topology: Topology; versions: ReturnType<typeof useVersions>; live: Live | undefined; onDeed: (deed: Deed) => void }) {
  const [comparing, setComparing] = useState<{ from: string; to: string }>();
  const [reading, setReading] = useState<string>();
  const list = versions.data?.items ?? [];
  const [a, b] = list;
  return (
    <section className="card" aria-labelledby="versions">
      <header>
        <h2 id="versions">Versions</h2>
        <span className="sp" />
        {a && b && (
          <button className="link small" onClick={() => setComparing({ from: t.enabled !== undefined && t.enabled !== a.version ? String(t.enabled) : keyOf(b), to: keyOf(a) })}>
            Compare versions…
          </button>
        )}
      </header>
      <Shown query={versions}>
        {(page) =>
          !page.items?.length ? (
            <Empty title="No version yet" />
          ) : (
            <div className="scroll">
              <table className="t cards versions">
                <thead>
                  <tr>
                    <th>Version</th>
                    <th>State</th>
                    <th className="num">In flight</th>
                    <th>By</th>
                    <th>
                      <span className="sr">What can be done</span>
                    </th>
                  </tr>
                </thead>
                <tbody>
                  {page.items.map((v) => {
                    const now = live?.versions?.find((one) => one.version === v.version);
                    return (
                      <tr key={keyOf(v)}>
                        <td className="strong nowrap">
                          <To screen="/topologies/$topology" params={{ topology: t.name }} search={{ version: keyOf(v) }} className="link strong">
                            {nameOf(v)}
                          </To>
                        </td>
                        <td>
                          <StateOf version={v} inFlight={now?.in_flight ?? 0} />
                        </td>
                        <td className="num desk">{v.version ? count(now?.in_flight ?? 0) : <span className="faint">–</span>}</td>
                        <td className="wide muted">
                          <div className="ell" title={v.published_by ?? v.created_by}>
                            {plain(v.published_by ?? v.created_by)}
                          </div>
                          <small className="faint">
                            <Time at={v.published_at ?? v.created_at} />
                          </small>
                        </td>
                        <td className="num">
                          <span className="row">
                            <button className="btn sm ghost" aria-label={`File of ${nameOf(v)}`} onClick={() => setReading(keyOf(v))}>
                              File
                            </button>
                            {v.state === 'published' && (
                              <button className="btn sm" onClick={() => onDeed({ kind: 'enable', version: v })}>
                                Enable…
                              </button>
                            )}
                          </span>
                        </td>
                      </tr>
                    );
                  })}
                </tbody>
              </table>
            </div>
          )
        }
      </Shown>
      {comparing && <Compare topology={t.name} versions={list} first={comparing} onClose={() => setComparing(undefined)} />}
      {reading && <FileOf topology={t.name} version={reading} onClose={() => setReading(undefined)} />}
    </section>
  );
}

function StateOf({ version: v, inFlight }: { version: Version; inFlight: number }) {
  if (v.state === 'draft') {
    return (
      <Badge hue="violet" icon="edit">
        Draft
      </Badge>
    );
  }
  if (v.state === 'enabled') {
    return (
      <Badge hue="teal" icon="check">
        Takes new events
      </Badge>
    );
  }
  if (inFlight > 0) {
    return (
      <Badge hue="plain" icon="clock">
        Drains
      </Badge>
    );
  }
  return <Badge hue="line">{v.state === 'retired' ? 'Retired' : 'Published'}</Badge>;
}

function FileOf({ topology, version, onClose }: { topology: string; version: string; onClose: () => void }) {
  const v = useVersion(topology, version);
  const source = v.data && keyOf(v.data) === version ? v.data.source : undefined;
  return (
    <Dialog kind="drawer" title={`${plain(topology)} ${version === 'draft' ? 'draft' : `v${version}`}`} aside={source !== undefined && <Copy text={source} label="Copy the file" />} onClose={onClose}>
      <Shown query={v}>{() => (source === undefined ? <Bones /> : <div className="codebox"><Code text={source} label="The file as it was applied" /></div>)}</Shown>
    </Dialog>
  );
}
