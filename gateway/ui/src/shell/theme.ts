import { useSyncExternalStore } from 'react';

export type Theme = 'system' | 'light' | 'dark';

const kept = 'sluice.theme';
const watchers = new Set<() => void>();
const current = (): Theme => (document.documentElement.dataset.theme as Theme | undefined) ?? 'system';

export function setTheme(theme: Theme) {
  const root = document.documentElement;
  if (theme === 'system') delete root.dataset.theme;
  else root.dataset.theme = theme;
  try {
    if (theme === 'system') localStorage.removeItem(kept);
    else localStorage.setItem(kept, theme);
  } catch {
    // not kept: it holds until the page is left
  }
  watchers.forEach((w) => w());
}

export const useTheme = () =>
  useSyncExternalStore((w) => {
    watchers.add(w);
    return () => watchers.delete(w);
  }, current);
