import { useQuery } from '@tanstack/react-query';
import { Link, Outlet, useLocation, useNavigate } from '@tanstack/react-router';
import { useEffect, useRef, useState } from 'react';
import { api, got } from '../api/client';
import { Dialog } from '../parts/Dialog';
import { Icon, Mark } from '../parts/Icon';
import { Failure, said } from '../parts/States';
import { Toast, warn } from '../parts/Toast';
import { screens, type Screen } from '../screens';
import { Help } from './Help';
import { useKeys } from './keys';
import { useLive } from './live';
import { Search } from './Search';
import { leave, useSession, type Session } from './session';
import { setTheme, useTheme, type Theme } from './theme';

// Frame is what stands around each screen for who is signed in. Who is not goes to sign in, and comes back here.
export function Frame() {
  const session = useSession();
  const navigate = useNavigate();
  const { href } = useLocation();
  const nobody = session.data === null;
  useEffect(() => {
    if (nobody && !href.startsWith('/sign-in')) void navigate({ to: '/sign-in', search: { next: href } as never, replace: true });
  }, [nobody, navigate, href]);
  if (session.isError) {
    return (
      <main className="sign">
        <Failure error={session.error} retry={() => void session.refetch()} />
      </main>
    );
  }
  return session.data ? <Within session={session.data} /> : null;
}

function Within({ session }: { session: Session }) {
  useLive();
  const [open, setOpen] = useState<'search' | 'help' | 'more'>();
  const navigate = useNavigate();
  const close = () => setOpen(undefined);
  const { pathname } = useLocation();
  const first = useRef(true);
  useEffect(() => {
    if (!first.current) document.getElementById('main')?.focus({ preventScroll: true }); // who cannot see the page is told that it is another
    first.current = false;
  }, [pathname]);
  useKeys([
    { keys: '/', label: 'Search', run: () => setOpen('search') },
    { keys: '?', label: 'Show the keys', run: () => setOpen('help') },
    ...screens.flatMap((s) => (s.keys ? [{ keys: s.keys, label: `Go to ${s.name}`, run: () => void navigate({ to: s.path, search: {} as never }) }] : [])),
  ]);
  const run = screens.filter((s) => s.group === 'run');
  const house = screens.filter((s) => s.group === 'house');
  const onCall = screens.filter((s) => s.onCall);
  return (
    <>
      <a className="skip" href="#main">
        Skip to content
      </a>
      <div className="app">
        <nav className="nav" aria-label="Main">
          <div className="brand">
            <Mark />
            <b className="ell">{session.tenant ?? 'Sluice'}</b>
          </div>
          <button className="find" onClick={() => setOpen('search')}>
            <Icon name="search" />
            <span>Search</span>
            <kbd>/</kbd>
          </button>
          {run.map((s) => (
            <NavLink key={s.path} screen={s} />
          ))}
          {house.length > 0 && <hr />}
          {house.map((s) => (
            <NavLink key={s.path} screen={s} />
          ))}
          <div className="foot">
            <div className="who">
              <span className="ava" aria-hidden="true">
                {initials(session.name)}
              </span>
              <span className="ell" title={session.name}>
                {session.name}
              </span>
              <button className="btn sm icon ghost" aria-label="You and this browser" title="You and this browser" onClick={() => setOpen('more')}>
                <Icon name="more" />
              </button>
            </div>
          </div>
        </nav>
        <div className="page">
          <Outlet />
        </div>
      </div>
      <nav className="tabbar" aria-label="Main, phone">
        {onCall.map((s) => (
          <NavLink key={s.path} screen={s} />
        ))}
        <button onClick={() => setOpen('more')}>
          <Icon name="more" />
          More
        </button>
      </nav>
      <Toast />
      {open === 'search' && <Search onClose={close} />}
      {open === 'help' && <Help onClose={close} />}
      {open === 'more' && <More session={session} others={[...run, ...house].filter((s) => !s.onCall)} onClose={close} onOpen={setOpen} />}
    </>
  );
}

const initials = (name: string) =>
  name
    .split(/[\s._@-]+/)
    .slice(0, 2)
    .map((w) => w[0]?.toUpperCase())
    .join('');

function NavLink({ screen }: { screen: Screen }) {
  const figures = useQuery({
    queryKey: ['overview', 'figures'],
    queryFn: () => got(api.GET('/v1/overview', { params: { query: { range: '1h' } } })),
    select: (o) => o.figures,
    staleTime: 4000,
  });
  const figure = figures.data && screen.figure?.(figures.data);
  return (
    <Link to={screen.path} search={{} as never} activeOptions={{ exact: screen.path === '/', includeSearch: false }} activeProps={{ 'aria-current': 'page' }}>
      {screen.icon && <Icon name={screen.icon} />}
      <span>{screen.name}</span>
      {figure && <span className={`n ${figure.hue}`}>{figure.text}</span>}
    </Link>
  );
}

type MoreProps = { session: Session; others: Screen[]; onClose: () => void; onOpen: (what: 'search' | 'help') => void };

// More is what has no place in the rail or the bar: on a phone other screens, and everywhere who one is.
function More({ session, others, onClose, onOpen }: MoreProps) {
  const theme = useTheme();
  const go = (which: 'here' | 'everywhere') => {
    onClose();
    leave(which).catch((error: unknown) => warn(said(error)));
  };
  return (
    <Dialog title={session.name} below={session.tenant && <p className="faint small">{session.tenant}</p>} onClose={onClose}>
      <div className="more">
        <div className="phone" onClick={onClose}>
          {others.map((s) => (
            <NavLink key={s.path} screen={s} />
          ))}
        </div>
        <button className="phone" onClick={() => onOpen('search')}>
          <Icon name="search" />
          Search
        </button>
        <button onClick={() => onOpen('help')}>
          <Icon name="key" />
          Show the keys
        </button>
        <div className="row" style={{ padding: '6px 8px' }}>
          <Icon name="theme" />
          <label htmlFor="theme" className="sp">
            Colours
          </label>
          <select id="theme" className="select fit" value={theme} onChange={(e) => setTheme(e.target.value as Theme)}>
            <option value="system">As the system</option>
            <option value="light">Light</option>
            <option value="dark">Dark</option>
          </select>
        </div>
        {session.kind === 'operator' && (
          <Link to="/password" onClick={onClose}>
            <Icon name="edit" />
            {session.has_password ? 'Change the password' : 'Choose a password'}
          </Link>
        )}
        <button onClick={() => go('here')}>
          <Icon name="leave" />
          Sign out
        </button>
        <button onClick={() => go('everywhere')}>
          <Icon name="leave" />
          Sign out everywhere
        </button>
      </div>
    </Dialog>
  );
}
