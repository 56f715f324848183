import { useNavigate } from '@tanstack/react-router';
import { useEffect, useState, type FormEvent } from 'react';
import { Refused } from '../api/client';
import { Icon, Mark } from '../parts/Icon';
import { said } from '../parts/States';
import { readQuery, useQueryText } from './place';
import { signIn, useRenewSession } from './session';

// SignIn asks for a name and a password, and goes on to where somebody wanted to be.
export function SignIn() {
  const { next } = useQueryText();
  const arrive = useArrive(next);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState('');
  useEffect(() => {
    document.title = 'Sign in · Sluice';
  }, []);
  const submit = async (e: FormEvent<HTMLFormElement>) => {
    e.preventDefault();
    const form = new FormData(e.currentTarget);
    setBusy(true);
    setProblem('');
    try {
      await signIn(String(form.get('name')), String(form.get('password')));
      await arrive();
    } catch (error) {
      setProblem(error instanceof Refused && error.status === 401 ? 'Name or password is wrong.' : said(error));
    } finally {
      setBusy(false);
    }
  };
  return (
    <main className="sign">
      <form onSubmit={(e) => void submit(e)}>
        <div className="head">
          <Mark size={36} />
          <h1>Sign in to Sluice</h1>
        </div>
        <Credentials />
        {problem && <Problem text={problem} />}
        <button className="btn primary" disabled={busy}>
          Sign in
        </button>
        <p className="faint small">
          No account yet? The first operator is added by <span className="mono">sluice operator add</span>, which prints a link. Others ask an operator
          for one.
        </p>
      </form>
    </main>
  );
}

// useArrive goes on once a session has begun, within this UI only.
function useArrive(next?: string) {
  const renew = useRenewSession();
  const navigate = useNavigate();
  return async () => {
    await renew();
    const inside = next?.startsWith('/') && !next.startsWith('//') && !next.startsWith('/sign-in') ? next : '/';
    const [path = '/', query = ''] = inside.split('?');
    await navigate({ to: path, search: readQuery(query) as never, replace: true });
  };
}

export function Problem({ text }: { text: string }) {
  return (
    <p className="err" role="alert">
      <Icon name="x" small /> {text}
    </p>
  );
}

function Credentials() {
  return (
    <>
      <div className="field">
        <label htmlFor="name">Name</label>
        <input className="input" id="name" name="name" autoComplete="username" required maxLength={200} autoCapitalize="none" spellCheck={false} autoFocus />
      </div>
      <div className="field">
        <label htmlFor="password">Password</label>
        <input className="input" id="password" name="password" type="password" autoComplete="current-password" required maxLength={1000} />
      </div>
    </>
  );
}
