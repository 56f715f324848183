const paths = {
  grid: 'M2.5 2.5h4v4h-4zM9.5 2.5h4v4h-4zM2.5 9.5h4v4h-4zM9.5 9.5h4v4h-4z',
  topology: 'M2 8h3M11 4H9.5A1.5 1.5 0 0 0 8 5.5v5A1.5 1.5 0 0 0 9.5 12H11M5 6h3v4H5zM11 2.5h3v3h-3zM11 10.5h3v3h-3z',
  process: 'M2.5 4h6M5.5 8h6M8.5 12h5',
  trash:
    'M2.5 9.5 4.3 3.4a1 1 0 0 1 1-.7h5.4a1 1 0 0 1 1 .7l1.8 6.1v3a1 1 0 0 1-1 1h-9a1 1 0 0 1-1-1zM2.5 9.5h3.2c.2 1.2 1.1 2 2.3 2s2.1-.8 2.3-2h3.2',
  gate: 'M3 2.5v11M13 2.5v11M3 5h10M6 5v5M10 5v5M5 12.5c1-.8 2-.8 3 0s2 .8 3 0',
  apps: 'M2.5 4.5a2 2 0 1 0 4 0 2 2 0 1 0-4 0M9.5 2.5h4v4h-4zM2.5 9.5h4v4h-4zM9.5 11.5a2 2 0 1 0 4 0 2 2 0 1 0-4 0',
  worker: 'M3 3h10v4H3zM3 9h10v4H3zM5.5 5h.01M5.5 11h.01',
  trace: 'M3.5 4h3M3.5 8h6M3.5 12h9M13 3.2v5.5M10.5 6.2 13 8.7l2.5-2.5',
  settings: 'M2.5 5h5M11.5 5h2M2.5 11h2M8.5 11h5M9.5 3.2a1.8 1.8 0 1 1 0 3.6 1.8 1.8 0 0 1 0-3.6M6.5 9.2a1.8 1.8 0 1 1 0 3.6 1.8 1.8 0 0 1 0-3.6',
  search: 'M7 2.5a4.5 4.5 0 1 1 0 9 4.5 4.5 0 0 1 0-9M10.3 10.3l3.2 3.2',
  x: 'M4 4l8 8M12 4l-8 8',
  check: 'M3 8.5l3.2 3L13 4.5',
  clock: 'M8 2.5a5.5 5.5 0 1 1 0 11 5.5 5.5 0 0 1 0-11M8 5v3.2l2 1.3',
  pause: 'M5.5 3.5v9M10.5 3.5v9',
  play: 'M5 3.2v9.6l7.5-4.8z',
  edit: 'M3 13l.6-2.8 7-7 2.2 2.2-7 7zM9.5 4.3l2.2 2.2',
  right: 'M6 4l4 4-4 4',
  down: 'M4 6l4 4 4-4',
  copy: 'M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3',
  more: 'M3.5 8h.01M8 8h.01M12.5 8h.01',
  back: 'M6.5 4 3 7.5 6.5 11M3 7.5h6.5a3.5 3.5 0 0 1 0 7H8',
  up: 'M4 10l4-4 4 4',
  plus: 'M8 3v10M3 8h10',
  theme: 'M8 5.2a2.8 2.8 0 1 1 0 5.6 2.8 2.8 0 0 1 0-5.6M8 1.5v1M8 13.5v1M1.5 8h1M13.5 8h1M3.4 3.4l.7.7M11.9 11.9l.7.7M12.6 3.4l-.7.7M4.1 11.9l-.7.7',
  key: 'M6 7a3 3 0 1 1 0 6 3 3 0 0 1 0-6M8.3 8 13 3.3M11 5.3l1.7 1.7',
  load: 'M8 2.5v7M5 7l3 3 3-3M2.5 13.5h11',
  person: 'M8 2.5a2.7 2.7 0 1 1 0 5.4 2.7 2.7 0 0 1 0-5.4M3 13.5c.5-2.6 2.4-4 5-4s4.5 1.4 5 4',
  bolt: 'M9 2 4 9h3.5L7 14l5-7H8.5z',
  warn: 'M8 2.5l6 10.5H2zM8 6.5v3M8 11.3v.01',
  leave: 'M9.5 2.5h-6v11h6M7 8h7M11 5l3 3-3 3',
} as const;

export type IconName = keyof typeof paths;

// Icon stands beside a word, so no reader needs to hear it.
export function Icon({ name, small }: { name: IconName; small?: boolean }) {
  return (
    <svg className={small ? 'i i-s' : 'i'} viewBox="0 0 16 16" aria-hidden="true">
      <path d={paths[name]} />
    </svg>
  );
}

export function Mark({ size = 26 }: { size?: number }) {
  return (
    <svg className="mark" viewBox="0 0 26 26" aria-hidden="true" style={{ width: size, height: size }}>
      <rect width="26" height="26" rx="6" fill="var(--ink)" />
      <path d="M7 5.5v15M19 5.5v15" stroke="var(--surface)" strokeWidth="2" strokeLinecap="round" />
      <path d="M7 8h12M11 8v4M15 8v4" stroke="var(--surface)" strokeWidth="1.6" strokeLinecap="round" />
      <path d="M9.5 16.8c1.2-1 2.3-1 3.5 0s2.3 1 3.5 0" fill="none" stroke="var(--f3)" strokeWidth="1.8" strokeLinecap="round" />
    </svg>
  );
}
