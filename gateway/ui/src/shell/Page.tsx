import { useEffect, type ReactNode } from 'react';
import { useNow } from '../parts/Time';
import { clockOf, zone } from '../parts/say';
import { useLiveness } from './live';

type Props = {
  title: string;
  crumb?: ReactNode; // what it is a part of
  note?: ReactNode; // beside the title
  actions?: ReactNode;
  still?: true; // nothing on it changes by itself
  children: ReactNode;
};

// Page is what each screen stands in: its title, whether it is live, what can be done with all of it, and its content.
export function Page({ title, crumb, note, actions, still, children }: Props) {
  useEffect(() => {
    document.title = `${title} · Sluice`;
  }, [title]);
  return (
    <>
      <header className="top">
        {crumb && <span className="crumb">{crumb} /</span>}
        <h1 className="anywhere">{title}</h1>
        {note && <span className="faint">{note}</span>}
        <span className="sp" />
        {!still && <Live />}
        {actions}
      </header>
      <main id="main" tabIndex={-1}>
        {children}
      </main>
    </>
  );
}

function Live() {
  const live = useLiveness() === 'live';
  return <span className={live ? 'live desk' : 'live off'}>{live ? <Clock /> : 'Not live, trying again'}</span>;
}

function Clock() {
  const now = useNow();
  return (
    <span>
      Live · {clockOf(now)} {zone()}
    </span>
  );
}
