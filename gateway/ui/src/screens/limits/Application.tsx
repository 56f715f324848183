import { useParams } from '@tanstack/react-router';
import { useState } from 'react';
import { api, got, type Schemas } from '../../api/client';
import { Icon, type IconName } from '../../parts/Icon';
import { Segments } from '../../parts/Segments';
import { count, during, figure, many, minuteOf, plain, share } from '../../parts/say';
import { Empty, Shown } from '../../parts/States';
import { Time, useNow } from '../../parts/Time';
import { useKeys } from '../../shell/keys';
import { Page } from '../../shell/Page';
import { To } from '../../shell/To';
import { Change, Raise, Terminate } from './Acts';
import { limitOf, rateOf, roomOf, useAct, useLimit, useUsers, type Detail } from './data';
import { Marks } from './Limits';

// Application shows one limit: what it holds, whose, and for how long; and acts on it.
export default function Application() {
  const { application = '' } = useParams({ strict: false }) as { application?: string };
  const limit = useLimit(application);
  const now = useNow();
  return (
    <Page title={plain(application)} crumb={<To screen="/limits" className="">Limits</To>} note={limit.data && <Marks limit={limit.data} now={now} />} actions={limit.data && <Acts limit={limit.data} />}>
      <Shown query={limit}>
        {(l) => (
          <>
            <State limit={l} />
            <Figures limit={l} />
            <div className="g2">
              <Senders limit={l} />
              <Users limit={l} />
            </div>
          </>
        )}
      </Shown>
    </Page>
  );
}

type Doing = 'raise' | 'terminate' | 'change' | undefined;

function Acts({ limit }: { limit: Detail }) {
  const [doing, setDoing] = useState<Doing>();
  const close = () => setDoing(undefined);
  const path = { application: limit.application };
  const pause = useAct(
    () => `${limit.application} is paused. Calls under way end.`,
    () => got(api.POST('/v1/limits/{application}/pause', { params: { path } })),
  );
  const resume = useAct(
    () => `${limit.application} goes on.`,
    () => got(api.POST('/v1/limits/{application}/resume', { params: { path } })),
  );
  const turn = limit.paused_at ? resume : pause;
  const word = limit.paused_at ? 'Resume' : 'Pause';
  useKeys([{ keys: 'p', label: 'Pause or resume this application', run: () => !turn.isPending && turn.mutate(undefined) }]);
  return (
    <>
      <button className="btn" disabled={turn.isPending} onClick={() => turn.mutate(undefined)}>
        <Icon name={limit.paused_at ? 'play' : 'pause'} small /> {word}
      </button>
      <button className="btn" onClick={() => setDoing('raise')}>
        Raise<span className="desk">&nbsp;for an hour</span>…
      </button>
      <button className="btn" onClick={() => setDoing('change')}>
        Change…
      </button>
      <button className="btn" disabled={limit.held === 0} onClick={() => setDoing('terminate')}>
        Terminate<span className="desk">&nbsp;held</span>…
      </button>
      {doing === 'raise' && <Raise limit={limit} onClose={close} />}
      {doing === 'terminate' && <Terminate limit={limit} onClose={close} />}
      {doing === 'change' && <Change limit={limit} onClose={close} />}
    </>
  );
}

// State is one sentence on what goes on, and until when.
function State({ limit: l }: { limit: Detail }) {
  const now = useNow();
  const at = (seconds: number) => minuteOf(new Date(now.getTime() + seconds * 1000));
  const net = l.in_per_second - l.out_per_second;
  let kind = 'flow';
  let icon: IconName = 'check';
  let title = 'Nothing is held.';
  let more = `${figure(l.out_per_second)} calls a second go through.`;
  if (l.paused_at) {
    [kind, icon] = ['person', 'pause'];
    title = `Paused by ${plain(l.paused_by || 'somebody')} since ${minuteOf(new Date(l.paused_at))}.`;
    more = l.held ? `${many(l.held, 'message waits', 'messages wait')}; none is lost. They run when somebody resumes it.` : 'What comes is held until somebody resumes it.';
  } else if (l.closed_until && new Date(l.closed_until) > now) {
    [kind, icon] = ['wait', 'clock'];
    title = `The application asked to be left alone until ${minuteOf(new Date(l.closed_until))}.`;
    more = `${many(l.held, 'message is', 'messages are')} held until then. None is lost.`;
  } else if (l.held > 0) {
    [kind, icon] = ['wait', 'clock'];
    title = `In ${figure(l.in_per_second)}, out ${figure(l.out_per_second)} a second: ${Math.abs(net) < 0.05 ? 'what is held stays as much.' : net < 0 ? `it shrinks by ${figure(-net)} a second.` : `it grows by ${figure(net)} a second.`}`;
    more = l.drain_seconds === undefined ? 'Nobody can tell yet when it is empty.' : `What is held now has left by about ${at(l.drain_seconds)}, in ${during(l.drain_seconds)}.`;
  }
  return (
    <div className={`headline ${kind}`}>
      <span className={kind === 'person' ? 'violet' : kind === 'wait' ? 'amber' : 'teal'}>
        <Icon name={icon} />
      </span>
      <p>
        <b>{title}</b> <span className="muted">{more}</span>
      </p>
    </div>
  );
}

function Figures({ limit: l }: { limit: Detail }) {
  const room = l.total && roomOf(l.total) * (l.raise ?? 1);
  return (
    <div className="figs four">
      <div className="fig">
        <span className="k">Held</span>
        <span className={`v ${l.held ? 'amber' : ''}`}>{count(l.held)}</span>
        <span className="d">{l.drain_seconds !== undefined && l.held ? `Drains in ${during(l.drain_seconds)}` : l.paused_at ? 'Paused' : l.held ? '' : 'All flow'}</span>
      </div>
      <div className="fig">
        <span className="k">In, out</span>
        <span className="v">
          {figure(l.in_per_second)}
          <small>in</small> {figure(l.out_per_second)}
          <small>out /s</small>
        </span>
        <span className="d">Of the last ten seconds</span>
      </div>
      <div className="fig">
        <span className="k">Calls under way</span>
        <span className="v">
          {count(l.running)}
          {l.parallel && <small>of {l.parallel}</small>}
        </span>
        <span className="d">{room === undefined || l.tokens === undefined ? 'No limit for all together' : `${figure(Math.floor(Math.max(0, l.tokens)))} of ${figure(room)} more at once`}</span>
      </div>
      <div className="fig">
        <span className="k">Limit</span>
        <span className="lim">{limitOf(l)}</span>
        <span className="d">
          {l.raise !== undefined && l.raise !== 1 && l.raised_until ? (
            <span className="violet">
              ×{figure(l.raise)} until <Time at={l.raised_until} />
            </span>
          ) : l.share < 1 ? (
            <span className="amber">It bears {share(l.share)} of it now</span>
          ) : (
            'It bears all of it'
          )}
        </span>
      </div>
    </div>
  );
}

function Senders({ limit: l }: { limit: Detail }) {
  const items = l.topologies ?? [];
  return (
    <section className="card" aria-labelledby="senders">
      <header>
        <h2 id="senders">Who sends it</h2>
      </header>
      {items.length === 0 ? (
        <Empty title="No topology has a message held here" />
      ) : (
        <div className="scroll">
          <table className="t">
            <thead>
              <tr>
                <th>Topology</th>
                <th className="desk">Share</th>
                <th className="num">Held</th>
                <th className="num">In, out /s</th>
              </tr>
            </thead>
            <tbody>
              {items.map((t) => (
                <tr key={t.topology}>
                  <td className="anywhere">
                    <To screen="/topologies/$topology" params={{ topology: t.topology }}>
                      {plain(t.topology)}
                    </To>
                  </td>
                  <td className="desk">
                    <span className="row">
                      <span className="bar" style={{ width: 90 }}>
                        <i className="amber" style={{ width: `${l.held ? Math.min(100, (t.held / l.held) * 100) : 0}%` }} />
                      </span>
                      <span className="faint small nowrap">{share(l.held ? Math.min(1, t.held / l.held) : 0)}</span>
                    </span>
                  </td>
                  <td className="num strong">{count(t.held)}</td>
                  <td className="num muted">
                    {figure(t.in_per_second)}, {figure(t.out_per_second)}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}

type Which = 'most' | 'all';

function Users({ limit: l }: { limit: Detail }) {
  const [which, setWhich] = useState<Which>('most');
  const all = useUsers(l.application, which === 'all');
  const items = which === 'most' ? (l.busiest ?? []) : (all.data?.pages.flatMap((p) => p.items ?? []) ?? []);
  return (
    <section className="card" aria-labelledby="users">
      <header>
        <h2 id="users">Keys</h2>
        <span className="faint small">one for each user</span>
        <span className="sp" />
        <Segments<Which>
          label="Which users"
          value={which}
          onChange={setWhich}
          choices={[
            { value: 'most', label: 'Most held' },
            { value: 'all', label: 'All' },
          ]}
        />
      </header>
      {which === 'all' && !all.data ? (
        <Shown query={all}>{() => null}</Shown>
      ) : items.length === 0 ? (
        <Empty title={which === 'most' ? 'No message is held for a user' : 'No user has been seen'} />
      ) : (
        <div className="scroll">
          <table className="t">
            <thead>
              <tr>
                <th>User</th>
                <th className="num">Calls left</th>
                <th className="num">Held</th>
                <th className="num desk">In, out /s</th>
                <th className="num">Drains in</th>
              </tr>
            </thead>
            <tbody>
              {items.map((u) => (
                <Row key={u.user} user={u} paused={!!l.paused_at} />
              ))}
            </tbody>
          </table>
        </div>
      )}
      {which === 'all' && all.hasNextPage && (
        <footer>
          <button className="btn sm" disabled={all.isFetchingNextPage} onClick={() => void all.fetchNextPage()}>
            Show more
          </button>
        </footer>
      )}
    </section>
  );
}

function Row({ user: u, paused }: { user: Schemas['LimitUser']; paused: boolean }) {
  return (
    <tr>
      <td className="anywhere">
        {u.user ? <span className="mono">{plain(u.user)}</span> : <span className="muted">No user named</span>}
        {u.overridden && (
          <span className="faint small">
            {' '}
            {rateOf(u.rate)}
            {u.weight !== 1 && `, weight ${figure(u.weight)}`}
          </span>
        )}
      </td>
      <td className="num muted">{u.rate && u.tokens !== undefined ? `${figure(Math.floor(Math.max(0, u.tokens)))} of ${figure(roomOf(u.rate))}` : '–'}</td>
      <td className={`num strong ${u.held ? 'amber' : 'faint'}`}>{count(u.held)}</td>
      <td className="num muted desk">
        {figure(u.in_per_second)}, {figure(u.out_per_second)}
      </td>
      <td className="num">{!u.held ? '–' : u.drain_seconds === undefined ? (paused ? 'paused' : 'unknown') : during(u.drain_seconds)}</td>
    </tr>
  );
}
