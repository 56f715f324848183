import { useId, type ReactNode } from 'react';
import { Dialog } from './Dialog';
import { Failure } from './States';

type Props = {
  title: ReactNode;
  verb: string; // on the button that does it
  no?: string; // on the one that does not
  below?: ReactNode; // under the title
  unready?: boolean; // something is still missing
  act: { isPending: boolean; isError: boolean; error: unknown };
  onSubmit: () => void;
  onClose: () => void;
  children: ReactNode;
};

// AskDialog asks before something is done: what is needed for it stands in its form. What is refused is said in it.
export function AskDialog({ title, verb, no = 'Back', below, unready, act, onSubmit, onClose, children }: Props) {
  const id = useId();
  return (
    <Dialog
      title={title}
      below={below}
      onClose={onClose}
      footer={
        <>
          <button className="btn" onClick={onClose}>
            {no}
          </button>
          <button className="btn primary" type="submit" form={id} disabled={unready || act.isPending}>
            {verb}
          </button>
        </>
      }
    >
      <form
        id={id}
        className="stack"
        onSubmit={(e) => {
          e.preventDefault();
          onSubmit();
        }}
      >
        {children}
      </form>
      {act.isError && <Failure error={act.error} />}
    </Dialog>
  );
}
