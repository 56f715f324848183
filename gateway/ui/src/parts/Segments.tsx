type Props<T extends string> = { label: string; value: T; choices: readonly { value: T; label: string }[]; onChange: (value: T) => void };

// Segments choose one of a few.
export function Segments<T extends string>({ label, value, choices, onChange }: Props<T>) {
  return (
    <div className="seg" role="group" aria-label={label}>
      {choices.map((c) => (
        <button key={c.value} aria-pressed={c.value === value} onClick={() => onChange(c.value)}>
          {c.label}
        </button>
      ))}
    </div>
  );
}
