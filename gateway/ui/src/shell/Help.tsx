import { Dialog } from '../parts/Dialog';
import { allKeys, switchKeys, useKeysOn } from './keys';

export function Help({ onClose }: { onClose: () => void }) {
  const on = useKeysOn();
  return (
    <Dialog title="Keys" onClose={onClose}>
      <dl className="kv">
        {allKeys().map((k) => (
          <div key={k.keys} style={{ display: 'contents' }}>
            <dt>
              {k.keys.split(' ').map((one, i) => (
                <kbd key={i}>{one}</kbd>
              ))}
            </dt>
            <dd>{k.label}</dd>
          </div>
        ))}
        <dt>
          <kbd>esc</kbd>
        </dt>
        <dd>Close what is open</dd>
        <dt>
          <kbd>↑</kbd>
          <kbd>↓</kbd>
          <kbd>←</kbd>
          <kbd>→</kbd>
        </dt>
        <dd>Move in a heatmap</dd>
      </dl>
      <label className="check">
        <input type="checkbox" checked={on} onChange={switchKeys} /> Single keys do something while nobody types
      </label>
    </Dialog>
  );
}
