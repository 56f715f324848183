// What the screens of processes and of the trash both show of what happened to a message.
import type { Schemas } from '../api/client';
import { many, plain } from '../parts/say';

export const typeOf = (headers: Record<string, string> | undefined) => headers?.['content-type'];

export function Headers({ headers }: { headers: Record<string, string> | undefined }) {
  const all = Object.entries(headers ?? {});
  if (all.length === 0) return null;
  return (
    <details className="codebox">
      <summary className="codehead">{many(all.length, 'header')}</summary>
      <dl className="kv mono pad-s">
        {all.map(([name, value]) => (
          <div key={name} style={{ display: 'contents' }}>
            <dt>{plain(name)}</dt>
            <dd>{plain(value)}</dd>
          </div>
        ))}
      </dl>
    </details>
  );
}

export const outcomes: Record<Schemas['Attempt']['outcome'], { said: string; hue: 'red' | 'amber' | 'teal' | 'violet'; icon: 'x' | 'clock' | 'check' | 'person' }> = {
  done: { said: 'Done', hue: 'teal', icon: 'check' },
  filtered: { said: 'Filtered', hue: 'teal', icon: 'check' },
  page: { said: 'Page', hue: 'teal', icon: 'check' },
  repeat: { said: 'Repeat', hue: 'amber', icon: 'clock' },
  retried: { said: 'Failed', hue: 'red', icon: 'x' },
  unavailable: { said: 'Unavailable', hue: 'amber', icon: 'clock' },
  failed: { said: 'Failed', hue: 'red', icon: 'x' },
  parked: { said: 'Parked', hue: 'violet', icon: 'person' },
};

export const verdicts: Record<Schemas['Decision']['verdict'], string> = {
  approve: 'approved it',
  edit: 'edited it',
  replace: 'sent other content',
  reject: 'rejected it',
  terminate: 'terminated it',
  trash: 'put it into the trash',
  assign: 'assigned it',
  comment: 'remarked',
};
