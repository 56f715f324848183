import { Badge } from '../../parts/Badge';
import { Chips, type Filter } from '../../parts/Chips';
import { count, many, plain } from '../../parts/say';
import { Empty, Shown } from '../../parts/States';
import { Time } from '../../parts/Time';
import { Page } from '../../shell/Page';
import { pick, useChangeQuery, useQueryText } from '../../shell/place';
import { To } from '../../shell/To';
import { useLastHour, useTopologies, type Topology } from './data';

const filters: readonly Filter[] = [
  { name: 'name', label: 'Name', hint: 'Or a part of it.' },
  {
    name: 'state',
    label: 'State',
    choices: [
      { value: 'enabled', label: 'takes events' },
      { value: 'disabled', label: 'disabled' },
      { value: 'draft', label: 'has a draft' },
    ],
  },
];

// Topologies lists what there is, whether it takes events, and what went through it.
export default function Topologies() {
  const query = useQueryText();
  const change = useChangeQuery();
  const topologies = useTopologies(query.after);
  const hour = useLastHour();
  const filter = pick(query, ['name', 'state']);
  return (
    <Page title="Topologies">
      <Chips filters={filters} values={filter} onChange={change} />
      <section className="card" aria-label="Topologies">
        <Shown query={topologies}>
          {(page) => {
            const items = (page.items ?? []).filter((t) => fits(t, filter));
            if (items.length === 0) {
              return Object.keys(filter).length ? (
                <Empty title="No topology is like that" />
              ) : (
                <Empty title="There is no topology yet">
                  <span>
                    Write a file and apply it: <code>sluice topology apply orders.yaml</code>
                  </span>
                </Empty>
              );
            }
            return (
              <>
                <table className="t cards">
                  <thead>
                    <tr>
                      <th>Topology</th>
                      <th>State</th>
                      <th className="num">Messages, 1 h</th>
                      <th className="num">Failed, 1 h</th>
                      <th className="num">Newest</th>
                      <th className="num">Created</th>
                    </tr>
                  </thead>
                  <tbody>
                    {items.map((t) => {
                      const h = hour.data?.get(t.name);
                      return (
                        <tr key={t.name}>
                          <td className="wide">
                            <div className="ell">
                              <To screen="/topologies/$topology" params={{ topology: t.name }} className="strong">
                                {plain(t.name)}
                              </To>
                            </div>
                          </td>
                          <td>
                            <span className="row">
                              <StateOf topology={t} />
                            </span>
                          </td>
                          <td className="num desk">{h?.total ? count(h.total) : <span className="faint">0</span>}</td>
                          <td className="num">
                            {h?.total_failed ? (
                              <To screen="/trash" search={{ topology: t.name }} className="red strong">
                                {count(h.total_failed)}
                                <span className="phone"> failed</span>
                              </To>
                            ) : (
                              <span className="faint desk">0</span>
                            )}
                          </td>
                          <td className="num muted desk">{t.latest ? `v${t.latest}` : '–'}</td>
                          <td className="num muted desk">
                            <Time at={t.created_at} />
                          </td>
                        </tr>
                      );
                    })}
                  </tbody>
                </table>
                <footer>
                  <span className="muted">
                    {many(items.length, 'topology', 'topologies')}
                    {(query.after || page.next) && ` of the ${page.items?.length} on this page`}
                  </span>
                  <span className="sp" />
                  {query.after && (
                    <button className="btn sm" onClick={() => change({ after: undefined })}>
                      From the start
                    </button>
                  )}
                  {page.next && (
                    <button className="btn sm" onClick={() => change({ after: page.next })}>
                      Next
                    </button>
                  )}
                </footer>
              </>
            );
          }}
        </Shown>
      </section>
    </Page>
  );
}

function fits(t: Topology, filter: Record<string, string>): boolean {
  if (filter.name && !t.name.toLowerCase().includes(filter.name.toLowerCase())) return false;
  if (filter.state === 'enabled') return t.enabled !== undefined;
  if (filter.state === 'disabled') return t.enabled === undefined;
  return filter.state !== 'draft' || t.draft;
}

export function StateOf({ topology: t }: { topology: Topology }) {
  return (
    <>
      {t.enabled !== undefined ? (
        <Badge hue="teal" icon="check">
          v{t.enabled} takes events
        </Badge>
      ) : (
        <Badge hue="line">{t.latest ? 'Disabled' : 'Not published'}</Badge>
      )}
      {t.draft && (
        <Badge hue="violet" icon="edit">
          Draft
        </Badge>
      )}
    </>
  );
}
