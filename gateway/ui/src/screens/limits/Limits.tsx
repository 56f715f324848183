import { useState } from 'react';
import { Badge } from '../../parts/Badge';
import { Icon } from '../../parts/Icon';
import { count, during, figure, many, minuteOf, plain } from '../../parts/say';
import { Empty, Shown } from '../../parts/States';
import { useNow } from '../../parts/Time';
import { Page } from '../../shell/Page';
import { useChangeQuery, useQueryText } from '../../shell/place';
import { To } from '../../shell/To';
import { Change } from './Acts';
import { limitOf, roomOf, useLimits, type Limit } from './data';

// Limits shows what the limits of applications hold back, and how long that takes.
export default function Limits() {
  const { after } = useQueryText();
  const change = useChangeQuery();
  const limits = useLimits(after);
  const [adding, setAdding] = useState(false);
  return (
    <Page
      title="Limits"
      actions={
        <button className="btn" onClick={() => setAdding(true)}>
          <Icon name="plus" small /> Add a limit…
        </button>
      }
    >
      <Shown query={limits}>
        {(page) => {
          const items = [...(page.items ?? [])].sort((a, b) => b.held - a.held || a.application.localeCompare(b.application));
          if (items.length === 0 && !after) {
            return (
              <section className="card">
                <Empty title="No application has a limit">
                  <span>Say how often an application may be called. What is too much then waits here, and nothing is lost.</span>
                </Empty>
              </section>
            );
          }
          return (
            <>
              <Figures items={items} />
              <section className="card" aria-labelledby="applications">
                <header>
                  <h2 id="applications">Applications</h2>
                </header>
                <List items={items} />
                {(after || page.next) && (
                  <footer>
                    {after && (
                      <button className="btn sm" onClick={() => change({ after: undefined })}>
                        From the start
                      </button>
                    )}
                    <span className="sp" />
                    {page.next && (
                      <button className="btn sm" onClick={() => change({ after: page.next })}>
                        Next 500
                      </button>
                    )}
                  </footer>
                )}
              </section>
            </>
          );
        }}
      </Shown>
      {adding && <Change onClose={() => setAdding(false)} />}
    </Page>
  );
}

function Figures({ items }: { items: readonly Limit[] }) {
  const now = useNow();
  const held = items.reduce((n, l) => n + l.held, 0);
  const holding = items.filter((l) => l.held > 0);
  const paused = items.filter((l) => l.paused_at);
  const refused = items.filter((l) => l.closed_until && new Date(l.closed_until) > now);
  const unknown = holding.filter((l) => l.drain_seconds === undefined);
  const longest = Math.max(0, ...holding.map((l) => l.drain_seconds ?? 0));
  return (
    <div className="figs four">
      <div className="fig">
        <span className="k">Held now</span>
        <span className={`v ${held ? 'amber' : ''}`}>{count(held)}</span>
        <span className="d">
          {holding.length ? `${many(holding.length, 'application')} ${holding.length === 1 ? 'holds' : 'hold'}, ${items.filter((l) => !l.held && !l.paused_at).length} flow` : 'Nothing waits'}
        </span>
      </div>
      <div className="fig">
        <span className="k">All empty at about</span>
        <span className="v">{longest ? minuteOf(new Date(now.getTime() + longest * 1000)) : '–'}</span>
        <span className="d">{longest ? `In ${during(longest)}, if no more come` : held ? 'Nobody can tell yet' : 'Nothing is held'}{longest && unknown.length ? `, but for ${unknown.length}` : ''}</span>
      </div>
      <div className="fig">
        <span className="k">Paused</span>
        <span className={`v ${paused.length ? 'violet' : ''}`}>{paused.length}</span>
        <span className="d ell" title={paused.map((l) => l.application).join(', ')}>
          {paused.length ? paused.map((l) => plain(l.application)).join(', ') : 'No application'}
        </span>
      </div>
      <div className="fig">
        <span className="k">Asked to be left alone</span>
        <span className={`v ${refused.length ? 'amber' : ''}`}>{refused.length}</span>
        <span className="d ell" title={refused.map((l) => l.application).join(', ')}>
          {refused.length ? refused.map((l) => plain(l.application)).join(', ') : 'No application'}
        </span>
      </div>
    </div>
  );
}

function List({ items }: { items: readonly Limit[] }) {
  const now = useNow();
  return (
    <div className="scroll">
      <table className="t cards">
        <thead>
          <tr>
            <th>Application</th>
            <th className="num">Held</th>
            <th>Limit</th>
            <th className="num">In /s</th>
            <th className="num">Out /s</th>
            <th>Calls left</th>
            <th className="num">Drains in</th>
            <th className="num">Empty at</th>
          </tr>
        </thead>
        <tbody>
          {items.map((l) => (
            <tr key={l.application}>
              <td>
                <span className="row">
                  <span className="app-t" aria-hidden="true">
                    {l.application.slice(0, 2).toUpperCase()}
                  </span>
                  <To screen="/limits/$application" params={{ application: l.application }} className="strong anywhere">
                    {plain(l.application)}
                  </To>
                  <Marks limit={l} now={now} />
                </span>
              </td>
              <td className={`num strong ${l.held ? 'amber' : 'faint'}`}>
                {count(l.held)}
                <span className="phone"> held</span>
              </td>
              <td className="muted">{limitOf(l)}</td>
              <td className="num desk">{figure(l.in_per_second)}</td>
              <td className="num desk">{figure(l.out_per_second)}</td>
              <td className="desk">
                <Tokens limit={l} />
              </td>
              <td className={`num ${l.held ? 'strong' : 'faint desk'}`}>{l.held ? (l.drain_seconds === undefined ? (l.paused_at ? 'paused' : 'unknown') : during(l.drain_seconds)) : '–'}</td>
              <td className="num muted desk">{l.held && l.drain_seconds !== undefined ? minuteOf(new Date(now.getTime() + l.drain_seconds * 1000)) : ''}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

// Marks say what is not as usual.
export function Marks({ limit: l, now }: { limit: Limit; now: Date }) {
  return (
    <>
      {l.paused_at && (
        <Badge hue="violet" icon="pause">
          Paused
        </Badge>
      )}
      {l.closed_until && new Date(l.closed_until) > now && (
        <Badge hue="amber" icon="clock">
          Left alone
        </Badge>
      )}
      {l.raise !== undefined && l.raise !== 1 && (
        <Badge hue="violet" icon={l.raise > 1 ? 'up' : 'down'}>
          ×{figure(l.raise)}
        </Badge>
      )}
    </>
  );
}

function Tokens({ limit: l }: { limit: Limit }) {
  if (!l.total || l.tokens === undefined) return <span className="faint">–</span>;
  const room = roomOf(l.total) * (l.raise ?? 1);
  const left = Math.min(1, Math.max(0, l.tokens / room));
  return (
    <span className="row" title={`${figure(Math.max(0, l.tokens))} of ${figure(room)} calls at once`}>
      <span className="bar" style={{ width: 64 }}>
        <i style={{ width: `${left * 100}%` }} />
      </span>
      <span className="faint small nowrap">{Math.floor(Math.max(0, l.tokens))}</span>
    </span>
  );
}
