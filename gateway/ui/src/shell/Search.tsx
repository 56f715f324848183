import { useNavigate } from '@tanstack/react-router';
import { useEffect, useRef, useState } from 'react';
import { Icon } from '../parts/Icon';
import { screens, type Found } from '../screens';

// Search goes to a screen by its name, or to what a screen finds for a text.
export function Search({ onClose }: { onClose: () => void }) {
  const ref = useRef<HTMLDialogElement>(null);
  const navigate = useNavigate();
  const [text, setText] = useState('');
  const [at, setAt] = useState(0);
  useEffect(() => {
    const dialog = ref.current;
    dialog?.showModal();
    return () => dialog?.close();
  }, []);
  const found = findAll(text.trim());
  const chosen = Math.min(at, found.length - 1);
  const open = (f: Found) => {
    onClose();
    void navigate({ to: f.to, search: (f.search ?? {}) as never });
  };
  return (
    <dialog
      ref={ref}
      className="pal"
      aria-label="Search"
      onCancel={(e) => {
        e.preventDefault();
        onClose();
      }}
      onMouseDown={(e) => e.target === ref.current && onClose()}
    >
      <input
        aria-label="Search"
        placeholder="Correlation id, message id, text, or a screen"
        autoComplete="off"
        spellCheck={false}
        role="combobox"
        aria-expanded="true"
        aria-controls="found"
        aria-activedescendant={found.length ? `found-${chosen}` : undefined}
        value={text}
        autoFocus
        onChange={(e) => {
          setText(e.target.value);
          setAt(0);
        }}
        onKeyDown={(e) => {
          if (e.key === 'ArrowDown') setAt(Math.min(chosen + 1, found.length - 1));
          else if (e.key === 'ArrowUp') setAt(Math.max(chosen - 1, 0));
          else if (e.key === 'Enter' && found[chosen]) open(found[chosen]);
          else return;
          e.preventDefault();
        }}
      />
      <ul role="listbox" id="found" aria-label="Found">
        {found.map((f, i) => (
          <li key={f.label + f.to} role="option" id={`found-${i}`} aria-selected={i === chosen} onMouseMove={() => setAt(i)} onClick={() => open(f)}>
            <Icon name="right" small />
            <span className="ell">{f.label}</span>
            <span className="sp" />
            {f.note && <small className="faint ell mono">{f.note}</small>}
          </li>
        ))}
      </ul>
      <p className="ft">
        <span>
          <kbd>↑</kbd> <kbd>↓</kbd> move
        </span>
        <span>
          <kbd>↵</kbd> open
        </span>
        <span>
          <kbd>esc</kbd> close
        </span>
      </p>
    </dialog>
  );
}

function findAll(text: string): Found[] {
  const shown = screens.filter((s) => s.icon && s.name.toLowerCase().includes(text.toLowerCase()));
  const places = shown.map((s) => ({ label: s.name, to: s.path }));
  return text ? [...screens.flatMap((s) => s.find?.(text) ?? []), ...places] : places;
}
