// All screens: where each is, what it is called, and what finds something on it. A screen that is not in this list does
// not exist for the rest of the UI, so nothing can lead to it.
import type { ComponentType } from 'react';
import type { Schemas } from './api/client';
import type { IconName } from './parts/Icon';
import { short } from './parts/say';
import type { Hue } from './parts/Badge';

// Found is a place that a search leads to.
export type Found = { label: string; note?: string; to: string; search?: Record<string, string> };

export type Screen = {
  path: string; // with $names for what stands in the path
  name: string;
  load: () => Promise<{ default: ComponentType }>;
  // Of screens that the navigation shows:
  icon?: IconName;
  keys?: string; // that go there
  group?: 'run' | 'house';
  onCall?: true; // it stands in the bar of a phone, where four have room
  figure?: (f: Schemas['Figures']) => { text: string; hue: Hue } | undefined;
  // Whether what somebody searches for might be on this screen.
  find?: (text: string) => Found[];
};

const id = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const messageId = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-\d+$/i;

export const screens: Screen[] = [
  {
    path: '/',
    name: 'Overview',
    load: () => import('./screens/overview/Overview'),
    icon: 'grid',
    keys: 'g o',
    group: 'run',
    onCall: true,
  },
  {
    path: '/topologies',
    name: 'Topologies',
    load: () => import('./screens/topologies/Topologies'),
    icon: 'topology',
    keys: 'g y',
    group: 'run',
    find: (text) => (/^[a-z0-9][a-z0-9._-]*$/i.test(text) && !id.test(text) && !messageId.test(text) ? [{ label: `Topologies named like “${text}”`, to: '/topologies', search: { name: text } }] : []),
  },
  { path: '/topologies/$topology', name: 'Topology', load: () => import('./screens/topologies/Topology') },
  {
    path: '/processes',
    name: 'Processes',
    load: () => import('./screens/processes/Processes'),
    icon: 'process',
    keys: 'g p',
    group: 'run',
    onCall: true,
    find: (text) => {
      if (messageId.test(text)) return [{ label: 'Message', note: text, to: `/processes/${text.slice(0, 36).toLowerCase()}`, search: { message: text.toLowerCase() } }];
      if (id.test(text)) return [{ label: 'Process', note: text, to: `/processes/${text.toLowerCase()}` }];
      return text.length > 1 ? [{ label: `Processes about “${text}”`, to: '/processes', search: { entity: text } }] : [];
    },
  },
  { path: '/processes/$correlation_id', name: 'Process', load: () => import('./screens/processes/Process') },
  {
    path: '/trash',
    name: 'Trash',
    load: () => import('./screens/trash/Trash'),
    icon: 'trash',
    keys: 'g t',
    group: 'run',
    onCall: true,
    figure: (f) => (f.trashed > 0 ? { text: short(f.trashed), hue: 'red' } : undefined),
    find: (text) => {
      if (messageId.test(text)) return [{ label: 'Entry of the trash', note: text, to: '/trash', search: { entry: text } }];
      if (id.test(text)) return [{ label: 'Trash of this process', note: text, to: '/trash', search: { correlation_id: text } }];
      return [{ label: `Trash with “${text}” in its reason or payload`, to: '/trash', search: { text } }];
    },
  },
  {
    path: '/limits',
    name: 'Limits',
    load: () => import('./screens/limits/Limits'),
    icon: 'gate',
    keys: 'g l',
    group: 'run',
    onCall: true,
    figure: (f) => (f.held > 0 ? { text: short(f.held), hue: 'amber' } : undefined),
  },
  { path: '/limits/$application', name: 'Limit', load: () => import('./screens/limits/Application') },
  {
    path: '/trace',
    name: 'Trace',
    load: () => import('./screens/trace/Trace'),
    icon: 'trace',
    keys: 'g r',
    group: 'run',
    find: (text) => (text.length > 1 && !id.test(text) && !messageId.test(text) ? [{ label: `Trace of “${text}”`, to: '/trace', search: { entity: text } }] : []),
  },
  {
    path: '/workers',
    name: 'Workers',
    load: () => import('./screens/workers/Workers'),
    icon: 'worker',
    keys: 'g w',
    group: 'house',
    figure: (f) => (f.workers_down > 0 ? { text: `${short(f.workers_down)} down`, hue: 'red' } : undefined),
  },
  { path: '/workers/$worker', name: 'Worker', load: () => import('./screens/workers/Worker') },
  { path: '/settings', name: 'Settings', load: () => import('./screens/settings/Settings'), icon: 'settings', keys: 'g s', group: 'house' },
];

