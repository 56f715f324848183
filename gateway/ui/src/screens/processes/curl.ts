import type { Schemas } from '../../api/client';
import { typeOf } from '../evidence';
import type { Attempt, Message } from './data';

type Node = Schemas['Node'];

// A call as it went to a worker that speaks Sluice's own protocol. Only the runner can sign it and say its deadline.
export function requestOf(message: Message, attempt: Attempt, node: Node | undefined): { path: string; headers: [string, string][] } {
  const page = attempt.page ?? 1;
  const own = Object.entries(message.headers ?? {}).filter(([name]) => name !== 'content-type');
  return {
    path: `/${(node?.action ?? '').split('/').map(encodeURIComponent).join('/')}`.replace(/^\/$/, ''),
    headers: [
      ['Content-Type', typeOf(message.headers ?? {}) ?? 'application/octet-stream'],
      ['Idempotency-Key', page > 1 ? `${message.message_id}-p${page}` : message.message_id],
      ['Sluice-Message-Id', message.message_id],
      ['Sluice-Attempt', String(attempt.attempt)],
      ['Sluice-Correlation-Id', message.message_id.slice(0, 36)],
      ['Sluice-Topology', message.topology],
      ['Sluice-Version', String(message.version)],
      ['Sluice-Node', message.node],
      ...(node?.application ? [['Sluice-Application', node.application] as [string, string]] : []),
      ...(page > 1 ? [['Sluice-Page', String(page)] as [string, string]] : []),
      ...own.map(([name, value]) => [`Sluice-Header-${name}`, encoded(value)] as [string, string]),
    ],
  };
}

// encoded is a text as a header can carry it: all but printable ASCII, each % and a space at either end as %XX.
const encoded = (value: string) =>
  value.replace(/[^\x21-\x7e ]+|%|^ | $/gu, (c) => Array.from(new TextEncoder().encode(c), (b) => `%${b.toString(16).toUpperCase().padStart(2, '0')}`).join(''));

// curlOf is a call for a shell to make, with the same body; it reads the same for every shell of POSIX.
export function curlOf(url: string, request: ReturnType<typeof requestOf>, body: string): string {
  const lines = [`curl -X POST ${quoted(url.replace(/\/+$/, '') + request.path)}`, ...request.headers.map(([name, value]) => `-H ${quoted(`${name}: ${value}`)}`), `--data-raw ${quoted(body)}`];
  return lines.join(' \\\n  ');
}

// Within quotes of a shell only the quote itself is special.
const quoted = (text: string) => `'${text.replace(/'/g, `'\\''`)}'`;
