import { useEffect, useRef, useSyncExternalStore } from 'react';

// Keys that do something when nobody is typing. Single keys can be switched off, for those who speak to their computer.

export type Key = { keys: string; label: string; run: () => void };

const kept = 'sluice.keys';
let on = read() !== 'off';
function read() {
  try {
    return localStorage.getItem(kept);
  } catch {
    return null;
  }
}

const sets: (readonly Key[])[] = [];
const watchers = new Set<() => void>();
const changed = () => watchers.forEach((w) => w());
const watch = (w: () => void) => {
  watchers.add(w);
  return () => watchers.delete(w);
};

export const useKeysOn = () => useSyncExternalStore(watch, () => on);

export function switchKeys() {
  on = !on;
  try {
    localStorage.setItem(kept, on ? 'on' : 'off');
  } catch {
    // not kept: it holds until the page is left
  }
  changed();
}

// allKeys are those that work here and now, for the help.
export const allKeys = () => sets.flat();

// useKeys adds keys while what calls it is on the screen. Two keys after each other are written with a space: "g t".
export function useKeys(keys: readonly Key[]) {
  const current = useRef(keys);
  current.current = keys;
  useEffect(() => {
    const set = current.current.map((k, i) => ({ ...k, run: () => current.current[i]?.run() }));
    sets.push(set);
    return () => void sets.splice(sets.indexOf(set), 1);
  }, []);
}

let before = '';
let beforeAt = 0;

document.addEventListener('keydown', (e) => {
  const target = e.target as HTMLElement;
  if (e.ctrlKey || e.metaKey || e.altKey || !on) return;
  if (/^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) || target.isContentEditable) return;
  const two = Date.now() - beforeAt < 1200 ? `${before} ${e.key}` : '';
  before = e.key;
  beforeAt = Date.now();
  // What stands over the page has the keys alone: those that came last, if it is a drawer, and none if it is a question.
  const over = document.querySelector('dialog[open]');
  const active = over ? (over.matches('.drawer') && document.querySelectorAll('dialog[open]').length === 1 ? sets.slice(-1) : []) : sets;
  const match = active.flat().findLast((k) => k.keys === two || k.keys === e.key);
  if (!match) return;
  before = '';
  e.preventDefault();
  match.run();
});
