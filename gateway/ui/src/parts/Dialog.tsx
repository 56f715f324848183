import { useEffect, useId, useRef, type ReactNode } from 'react';
import { Icon } from './Icon';

type Props = {
  title: ReactNode;
  aside?: ReactNode; // beside the title
  below?: ReactNode; // under it
  kind?: 'dlg' | 'drawer';
  onClose: () => void;
  footer?: ReactNode;
  children: ReactNode;
};

// Dialog stands over the page, as a box or as a drawer from the right. The browser's own dialog keeps the focus inside,
// gives it back, and closes on Escape. Mounted is open.
export function Dialog({ title, aside, below, kind = 'dlg', onClose, footer, children }: Props) {
  const ref = useRef<HTMLDialogElement>(null);
  const heading = useId();
  useEffect(() => {
    const dialog = ref.current;
    dialog?.showModal();
    return () => dialog?.close();
  }, []);
  return (
    <dialog
      ref={ref}
      className={kind}
      aria-labelledby={heading}
      onCancel={(e) => {
        if (e.target !== ref.current) return;
        e.preventDefault();
        onClose();
      }}
      onMouseDown={(e) => e.target === ref.current && onClose()}
    >
      <div className="head">
        <div>
          <div className="row">
            <h2 id={heading} tabIndex={-1} autoFocus className={kind === 'drawer' ? 'ell' : undefined}>
              {title}
            </h2>
            {aside}
            <span className="sp" />
            <button className="btn sm icon ghost" aria-label="Close" onClick={onClose}>
              <Icon name="x" />
            </button>
          </div>
          {below}
        </div>
      </div>
      <div className="body">{children}</div>
      {footer && <div className="foot">{footer}</div>}
    </dialog>
  );
}
