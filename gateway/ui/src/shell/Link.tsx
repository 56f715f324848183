import { useNavigate } from '@tanstack/react-router';
import { useEffect, useRef, useState, type FormEvent } from 'react';
import { Refused } from '../api/client';
import { Mark } from '../parts/Icon';
import { said } from '../parts/States';
import { openLink, setPassword, useRenewSession, useSession } from './session';
import { Problem } from './SignIn';

// OpenLink signs in by a link that works once. Its secret is behind the #, so no server's log has it.
export function OpenLink() {
  const navigate = useNavigate();
  const renew = useRenewSession();
  const [problem, setProblem] = useState('');
  const used = useRef(false);
  useEffect(() => {
    document.title = 'Sign in · Sluice';
    if (used.current) return;
    used.current = true;
    const token = location.hash.slice(1);
    history.replaceState(history.state, '', location.pathname); // it is not to be kept or shown
    void (async () => {
      try {
        await openLink(token);
        const session = await renew();
        await navigate({ to: session?.has_password === false && !declined() ? '/password' : '/', replace: true });
      } catch (error) {
        setProblem(error instanceof Refused && error.status !== 0 && error.status < 500 ? 'This link has been used, or its time is over.' : said(error));
      }
    })();
  }, [navigate, renew]);
  return (
    <main className="sign">
      <div className="box">
        <div className="head">
          <Mark size={36} />
          <h1>{problem ? 'This link lets nobody in' : 'Signing in'}</h1>
        </div>
        {problem && (
          <>
            <Problem text={problem} />
            <p className="muted">
              Ask an operator for another, or make one with <span className="mono">sluice operator link</span>.
            </p>
            <button className="btn" onClick={() => void navigate({ to: '/sign-in', replace: true })}>
              Sign in by a password
            </button>
          </>
        )}
      </div>
    </main>
  );
}

const kept = 'sluice.no-password';
const declined = () => {
  try {
    return localStorage.getItem(kept) !== null;
  } catch {
    return false;
  }
};

// Password sets the password of who is signed in, so that no link is needed the next time.
export function Password() {
  const navigate = useNavigate();
  const session = useSession();
  const renew = useRenewSession();
  const [problem, setProblem] = useState('');
  const [busy, setBusy] = useState(false);
  useEffect(() => {
    document.title = 'Password · Sluice';
  }, []);
  const leave = () => void navigate({ to: '/', replace: true });
  const submit = async (e: FormEvent<HTMLFormElement>) => {
    e.preventDefault();
    const form = new FormData(e.currentTarget);
    setBusy(true);
    setProblem('');
    try {
      await setPassword(String(form.get('password')), String(form.get('current') ?? ''));
      await renew();
      leave();
    } catch (error) {
      setProblem(said(error));
    } finally {
      setBusy(false);
    }
  };
  if (!session.data) return null;
  const has = session.data.has_password;
  return (
    <main className="sign">
      <form onSubmit={(e) => void submit(e)}>
        <div className="head">
          <Mark size={36} />
          <h1>{has ? 'Change your password' : 'Choose a password'}</h1>
          <p className="muted">{has ? 'Your other sessions end.' : 'With it you sign in the next time, without a link.'}</p>
        </div>
        <input type="hidden" name="username" autoComplete="username" value={session.data.name} readOnly />
        {has && (
          <div className="field">
            <label htmlFor="current">Password until now</label>
            <input className="input" id="current" name="current" type="password" autoComplete="current-password" />
            <span className="hint">Not needed by who has just come by a link.</span>
          </div>
        )}
        <div className="field">
          <label htmlFor="password">New password</label>
          <input className="input" id="password" name="password" type="password" autoComplete="new-password" required minLength={12} maxLength={200} />
          <span className="hint">At least 12 characters. A sentence is good.</span>
        </div>
        {problem && <Problem text={problem} />}
        <button className="btn primary" disabled={busy}>
          {has ? 'Change the password' : 'Keep this password'}
        </button>
        <button
          className="btn"
          type="button"
          onClick={() => {
            try {
              if (!has) localStorage.setItem(kept, 'yes');
            } catch {
              // it asks again next time
            }
            leave();
          }}
        >
          Not now
        </button>
      </form>
    </main>
  );
}
