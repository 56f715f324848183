import { useMemo, useState } from 'react';
import { Code } from './Code';
import { Copy } from './Copy';
import { bytes } from './say';
import { Segments } from './Segments';

export type Content = { body: string; text?: string; pretty?: string }; // body is base64

type View = 'pretty' | 'text' | 'hex';

// Payload shows what a message carries: JSON one value a line, text as it is, or the bytes. The server lays JSON out, so
// that numbers too big for this browser stay what they are.
export function Payload({ content, type, size, href }: { content: Content; type?: string; size: number; href?: string }) {
  const views = [
    ...(content.pretty !== undefined ? [{ value: 'pretty' as const, label: 'JSON' }] : []),
    ...(content.text !== undefined ? [{ value: 'text' as const, label: 'As sent' }] : []),
    { value: 'hex' as const, label: 'Bytes' },
  ];
  const [asked, setAsked] = useState<View>();
  const view = asked ?? views[0]?.value ?? 'hex';
  const shown = useMemo(() => (view === 'pretty' ? content.pretty : view === 'text' ? content.text : hexOf(bytesOf(content.body))) ?? '', [view, content]);
  return (
    <div className="codebox">
      <div className="codehead">
        <span>
          {bytes(size)}
          {type && ` · ${type}`}
        </span>
        <span className="sp" />
        <Copy text={shown} label="Copy" />
        {href && (
          <a className="btn sm ghost" href={href} download>
            Download
          </a>
        )}
        {views.length > 1 && <Segments label="How to show the payload" value={view} choices={views} onChange={setAsked} />}
      </div>
      {size === 0 ? <p className="empty small">It is empty.</p> : <Code text={shown} json={view === 'pretty'} table={view === 'hex'} label="Payload" />}
    </div>
  );
}

export function bytesOf(base64: string): Uint8Array {
  const text = atob(base64);
  return Uint8Array.from(text, (c) => c.charCodeAt(0));
}

// hexOf is sixteen bytes a line, with the letters that they may be.
export function hexOf(all: Uint8Array): string {
  const lines: string[] = [];
  for (let at = 0; at < all.length; at += 16) {
    const line = all.subarray(at, at + 16);
    const digits = Array.from(line, (b) => b.toString(16).padStart(2, '0')).join(' ');
    const letters = Array.from(line, (b) => (b >= 0x20 && b < 0x7f ? String.fromCharCode(b) : '.')).join('');
    lines.push(`${at.toString(16).padStart(6, '0')}  ${digits.padEnd(47)}  ${letters}`);
  }
  return lines.join('\n');
}
