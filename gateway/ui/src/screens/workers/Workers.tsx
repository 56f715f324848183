import { useState } from 'react';
import { Badge } from '../../parts/Badge';
import { Icon } from '../../parts/Icon';
import { plain } from '../../parts/say';
import { Empty, Shown } from '../../parts/States';
import { Time } from '../../parts/Time';
import { Page } from '../../shell/Page';
import { useChangeQuery, useQueryText } from '../../shell/place';
import { To } from '../../shell/To';
import { Add } from './Acts';
import { placeOf, spoken, useWorkers, type Worker } from './data';

// Workers lists who does the work, and who of them can be reached.
export default function Workers() {
  const { after } = useQueryText();
  const change = useChangeQuery();
  const workers = useWorkers(after);
  const [adding, setAdding] = useState(false);
  return (
    <Page
      title="Workers"
      actions={
        <button className="btn" onClick={() => setAdding(true)}>
          <Icon name="plus" small /> Add a worker…
        </button>
      }
    >
      <section className="card" aria-label="Workers">
        <Shown query={workers}>
          {(page) => {
            const items = [...(page.items ?? [])].sort((a, b) => Number(!!b.down_since) - Number(!!a.down_since));
            if (items.length === 0) {
              return (
                <Empty title="No worker is registered">
                  <span>A worker is any HTTP server of yours that does the work of nodes.</span>
                </Empty>
              );
            }
            return (
              <>
                <table className="t cards">
                  <thead>
                    <tr>
                      <th>Worker</th>
                      <th>State</th>
                      <th>Since</th>
                      <th>Speaks</th>
                      <th>URL</th>
                      <th>Listed</th>
                    </tr>
                  </thead>
                  <tbody>
                    {items.map((w) => (
                      <tr key={w.name}>
                        <td>
                          <To screen="/workers/$worker" params={{ worker: w.name }} className="strong anywhere">
                            {plain(w.name)}
                          </To>
                        </td>
                        <td>
                          <Health worker={w} />
                        </td>
                        <td className="muted desk">{w.down_since ? <Time at={w.down_since} /> : '–'}</td>
                        <td className="muted desk nowrap">{spoken(w)}</td>
                        <td className="wide full">
                          <div className="mono small muted ell" title={placeOf(w)}>
                            {plain(placeOf(w))}
                          </div>
                        </td>
                        <td className="muted desk nowrap">{w.listed_at ? <Time at={w.listed_at} ago /> : '–'}</td>
                      </tr>
                    ))}
                  </tbody>
                </table>
                {(after || page.next) && (
                  <footer>
                    {after && (
                      <button className="btn sm" onClick={() => change({ after: undefined })}>
                        From the start
                      </button>
                    )}
                    <span className="sp" />
                    {page.next && (
                      <button className="btn sm" onClick={() => change({ after: page.next })}>
                        Next
                      </button>
                    )}
                  </footer>
                )}
              </>
            );
          }}
        </Shown>
      </section>
      {adding && <Add onClose={() => setAdding(false)} />}
    </Page>
  );
}

export function Health({ worker: w }: { worker: Worker }) {
  if (w.down_since) {
    return (
      <Badge hue="red" icon="x">
        Down
      </Badge>
    );
  }
  if (w.listing_error) {
    return (
      <Badge hue="amber" icon="warn">
        Does not list
      </Badge>
    );
  }
  return (
    <Badge hue="teal" icon="check">
      Up
    </Badge>
  );
}
