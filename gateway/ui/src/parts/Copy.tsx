import { useEffect, useState } from 'react';
import { Icon } from './Icon';

// Copy puts a text into the clipboard, and says so where it stands.
export function Copy({ text, label }: { text: string; label: string }) {
  const [done, setDone] = useState('');
  useEffect(() => {
    if (!done) return;
    const timer = setTimeout(() => setDone(''), 1500);
    return () => clearTimeout(timer);
  }, [done]);
  const copy = () =>
    navigator.clipboard.writeText(text).then(
      () => setDone('Copied'),
      () => setDone('Not allowed here'),
    );
  return (
    <button className="btn sm ghost" onClick={() => void copy()}>
      <Icon name="copy" small /> <span aria-live="polite">{done || label}</span>
    </button>
  );
}
