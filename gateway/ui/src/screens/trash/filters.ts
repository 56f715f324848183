import type { Schemas } from '../../api/client';
import type { Filter } from '../../parts/Chips';
import { momentOf } from '../../parts/say';
import type { Query } from '../../shell/place';

// The words for the kinds of failure.
export const classes: Record<string, string> = {
  rejected: 'Rejected by the worker',
  exhausted: 'Tries used up',
  reply: 'Reply not understood',
  storage: 'Could not be stored',
  cancelled: 'Cancelled',
  deleted: 'Deleted',
};

const moment = (value: string) => momentOf(new Date(value));

export const filters: Filter[] = [
  { name: 'topology', label: 'Topology' },
  { name: 'version', label: 'Version', kind: 'number', hint: 'Of a topology: name that too.', show: (v) => `v${v}` },
  { name: 'node', label: 'Node' },
  { name: 'application', label: 'Application' },
  { name: 'worker', label: 'Worker' },
  {
    name: 'type',
    label: 'Why it is here',
    choices: [
      { value: 'failure', label: 'It failed' },
      { value: 'breakpoint', label: 'It waits at a breakpoint' },
    ],
  },
  { name: 'class', label: 'Kind of failure', choices: Object.entries(classes).map(([value, label]) => ({ value, label })) },
  { name: 'cause', label: 'Cause', hint: 'Sixteen hex digits. Pick one of the causes instead.' },
  { name: 'correlation_id', label: 'Process' },
  { name: 'failed_after', label: 'Failed after', kind: 'time', show: moment },
  { name: 'failed_before', label: 'Failed before', kind: 'time', show: moment },
  { name: 'assigned_to', label: 'Assigned to' },
  { name: 'text', label: 'Text', hint: 'In the reason, or in the first 64 KiB of the payload. Upper and lower case differ.' },
];

export const filterNames = filters.map((f) => f.name);

// filterOf is a query as the server takes it in bodies.
export function filterOf(query: Query): Schemas['BulkFilter'] {
  const { version, ...rest } = query;
  return { ...rest, ...(version ? { version: Number(version) } : {}) } as Schemas['BulkFilter'];
}

// listQuery is a query as the server takes it in its URLs.
export function listQuery(query: Query) {
  return filterOf(query) as Omit<Schemas['BulkFilter'], 'type' | 'class'> & { type?: 'failure' | 'breakpoint'; class?: never };
}
