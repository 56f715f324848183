// How numbers, times and the texts of others are said.

export const count = (n: number) => n.toLocaleString('en-US');

// short is a count that must fit: 19.7k. It stands only where the exact one is near.
export function short(n: number): string {
  if (n < 10_000) return count(n);
  if (n < 999_500) return `${(n / 1000).toFixed(n < 99_950 ? 1 : 0)}k`;
  return `${(n / 1e6).toFixed(n < 99.95e6 ? 1 : 0)}M`;
}

export const many = (n: number, one: string, more = `${one}s`) => `${count(n)}\u00a0${n === 1 ? one : more}`;

// share keeps the figure and its sign together.
export function share(part: number): string {
  const percent = part * 100;
  if (percent > 0 && percent < 0.1) return '<0.1\u00a0%';
  return `${percent >= 10 || percent === 0 ? Math.round(percent) : percent.toFixed(1)}\u00a0%`;
}

export function bytes(n: number): string {
  if (n < 10_000) return `${count(n)}\u00a0B`;
  if (n < 1e6) return `${(n / 1000).toFixed(n < 1e5 ? 1 : 0)}\u00a0kB`;
  return `${(n / 1e6).toFixed(1)}\u00a0MB`;
}

// during is a length of time, in the two units that matter.
export function during(seconds: number): string {
  if (seconds < 0.001) return '0\u00a0ms';
  if (seconds < 1) return `${Math.round(seconds * 1000)}\u00a0ms`;
  if (seconds < 10) return `${seconds.toFixed(1)}\u00a0s`;
  if (seconds < 90) return `${Math.round(seconds)}\u00a0s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)}\u00a0min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)}\u00a0h`;
  return `${Math.round(seconds / 86_400)}\u00a0days`;
}

// figure is a number that need not be whole: 4.2, 0.03, 120.
export function figure(n: number): string {
  const digits = n >= 100 ? 0 : n >= 1 || n === 0 ? 1 : 2;
  return Number(n.toFixed(digits)).toLocaleString('en-US');
}

export const ms = (n: number) => during(n / 1000);

const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const minute = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' });
const day = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short' });
const full = new Intl.DateTimeFormat('en-GB', {
  weekday: 'short', day: 'numeric', month: 'short', year: 'numeric', hour: '2-digit', minute: '2-digit', second: '2-digit', timeZoneName: 'short',
});

export const clockOf = (at: Date) => clock.format(at);
export const minuteOf = (at: Date) => minute.format(at);
export const fullOf = (at: Date) => full.format(at);
export const zone = () => new Intl.DateTimeFormat('en-GB', { timeZoneName: 'short' }).formatToParts(new Date()).find((p) => p.type === 'timeZoneName')?.value ?? 'UTC';
export const dayOf = (at: Date) => day.format(at);

const sameDay = (a: Date, b: Date) => a.toDateString() === b.toDateString();

// momentOf is a time of day, with the day where it is not today.
export const momentOf = (at: Date, now = new Date()) => (sameDay(at, now) ? clockOf(at) : `${day.format(at)} ${minuteOf(at)}`);

// agoOf is how long ago something was, from the moment that it is said.
export function agoOf(at: Date, now = new Date()): string {
  const seconds = (now.getTime() - at.getTime()) / 1000;
  if (seconds < -1) return `in ${during(-seconds)}`;
  return seconds < 5 ? 'now' : `${during(Math.floor(seconds))} ago`;
}

// plain is text of others for one line: characters that would not be seen, or that turn the text around, become visible.
export function plain(text: string): string {
  return text.replace(hidden, (c) => pictureOf(c));
}

export const hidden = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;

export function pictureOf(c: string): string {
  const code = c.charCodeAt(0);
  if (c === '\n' || c === '\r' || c === '\t') return ' ';
  if (code < 0x20) return String.fromCharCode(0x2400 + code);
  return `\u27e8${code.toString(16).toUpperCase().padStart(4, '0')}\u27e9`;
}
