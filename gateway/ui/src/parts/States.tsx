import type { UseQueryResult } from '@tanstack/react-query';
import type { ReactNode } from 'react';
import { Refused } from '../api/client';
import { Icon } from './Icon';

// Bones hold the place of what comes, so that nothing jumps when it is there.
export function Bones({ lines = 4 }: { lines?: number }) {
  return (
    <div className="bones" role="status">
      <span className="sr">Loading</span>
      {Array.from({ length: lines }, (_, i) => (
        <i key={i} style={{ width: `${90 - ((i * 23) % 45)}%` }} />
      ))}
    </div>
  );
}

export function Empty({ title, children }: { title: string; children?: ReactNode }) {
  return (
    <div className="empty">
      <b>{title}</b>
      {children}
    </div>
  );
}

// Failure says what the server said, and lets the person try again.
export function Failure({ error, retry }: { error: unknown; retry?: () => void }) {
  const refused = error instanceof Refused ? error : undefined;
  return (
    <div className="empty" role="alert">
      <span className="red">
        <Icon name="warn" /> <b>{said(error)}</b>
      </span>
      {refused?.details.map((d) => (
        <span className="small anywhere" key={d}>
          {d}
        </span>
      ))}
      {refused?.request && <span className="faint small">Request {refused.request}</span>}
      {retry && (
        <button className="btn" onClick={retry}>
          Try again
        </button>
      )}
    </div>
  );
}

export function said(error: unknown): string {
  return error instanceof Error ? error.message : 'Something went wrong on this page.';
}

// Shown shows what a query has: its data, even while newer is fetched or could not be, or else why there is none yet.
export function Shown<T>({ query, lines, children }: { query: UseQueryResult<T>; lines?: number; children: (data: T) => ReactNode }) {
  if (query.data !== undefined) return children(query.data);
  if (query.isError) return <Failure error={query.error} retry={() => void query.refetch()} />;
  return <Bones lines={lines} />;
}
