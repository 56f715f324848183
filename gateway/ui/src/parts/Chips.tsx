import { useId, useState } from 'react';
import { Dialog } from './Dialog';
import { Icon } from './Icon';

export type Filter = {
  name: string; // in the URL
  label: string;
  kind?: 'text' | 'number' | 'time';
  choices?: readonly { value: string; label: string }[];
  hint?: string;
  show?: (value: string) => string;
};

type Props = { filters: readonly Filter[]; values: Record<string, string>; onChange: (change: Record<string, string | undefined>) => void };

// Chips are the filters of a list, as they stand in the URL. Each can be taken away, and others added.
export function Chips({ filters, values, onChange }: Props) {
  const [adding, setAdding] = useState(false);
  const set = filters.filter((f) => values[f.name] !== undefined);
  return (
    <div className="chips" role="group" aria-label="Filters">
      {set.map((f) => (
        <span className="chip" key={f.name}>
          <span>{f.label}</span>
          <b className="ell" title={values[f.name]}>
            {shown(f, values[f.name] ?? '')}
          </b>
          <button aria-label={`Remove filter ${f.label}`} onClick={() => onChange({ [f.name]: undefined })}>
            <Icon name="x" small />
          </button>
        </span>
      ))}
      <button className="chip add" onClick={() => setAdding(true)}>
        <Icon name="plus" small /> Filter
      </button>
      {adding && <Adding filters={filters} values={values} onChange={onChange} onClose={() => setAdding(false)} />}
    </div>
  );
}

function shown(f: Filter, value: string): string {
  return f.show?.(value) ?? f.choices?.find((c) => c.value === value)?.label ?? value;
}

function Adding({ filters, values, onChange, onClose }: Props & { onClose: () => void }) {
  const id = useId();
  const [draft, setDraft] = useState<Record<string, string>>(() =>
    Object.fromEntries(filters.map((f) => [f.name, f.kind === 'time' ? localTime(values[f.name]) : (values[f.name] ?? '')])),
  );
  const apply = () => {
    onChange(Object.fromEntries(filters.map((f) => [f.name, f.kind === 'time' ? worldTime(draft[f.name]) : draft[f.name]?.trim() || undefined])));
    onClose();
  };
  return (
    <Dialog
      title="Filter"
      onClose={onClose}
      footer={
        <>
          <button className="btn" onClick={onClose}>
            Back
          </button>
          <button className="btn primary" type="submit" form={id}>
            Show
          </button>
        </>
      }
    >
      <form
        id={id}
        className="stack"
        onSubmit={(e) => {
          e.preventDefault();
          apply();
        }}
      >
        {filters.map((f) => (
          <div className="field" key={f.name}>
            <label htmlFor={id + f.name}>{f.label}</label>
            {f.choices ? (
              <select className="select" id={id + f.name} value={draft[f.name]} onChange={(e) => setDraft({ ...draft, [f.name]: e.target.value })}>
                <option value="">Any</option>
                {f.choices.map((c) => (
                  <option key={c.value} value={c.value}>
                    {c.label}
                  </option>
                ))}
              </select>
            ) : (
              <input
                className="input"
                id={id + f.name}
                type={f.kind === 'time' ? 'datetime-local' : f.kind === 'number' ? 'number' : 'text'}
                min={f.kind === 'number' ? 1 : undefined}
                value={draft[f.name]}
                onChange={(e) => setDraft({ ...draft, [f.name]: e.target.value })}
              />
            )}
            {f.hint && <span className="hint">{f.hint}</span>}
          </div>
        ))}
      </form>
    </Dialog>
  );
}

// A field for times has no zone: it is the browser's.
function localTime(world: string | undefined): string {
  if (!world) return '';
  const at = new Date(world);
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

function worldTime(local: string | undefined): string | undefined {
  return local ? new Date(local).toISOString() : undefined;
}
