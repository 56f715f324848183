package trash

import (
	"context"
	"regexp"

	"github.com/jackc/pgx/v5"

	"sluice/queue/process"
)

// notAllowed returns those of an act's entries that breakpoints keep from who acts, and who may decide about them.
func notAllowed(ctx context.Context, tx pgx.Tx, tenant int64, act Act) (map[process.MessageID][]string, error) {
	processes, numbers := columns(act.Entries)
	rows, _ := tx.Query(ctx, `
		with parked as materialized (
		    select t.process_id, t.message_id, t.edge_id
		    from sluice.trash t
		    where t.tenant_id = $1 and (t.process_id, t.message_id) in (select * from unnest($2::uuid[], $3::bigint[])) and t.class = 'breakpoint'
		), closed as materialized (
		    select e.id, array(select jsonb_array_elements_text(n->'may_act')) as may_act
		    from sluice.edge e
		    join sluice.topology_version v on v.tenant_id = e.tenant_id and v.id = e.version_id
		    cross join lateral jsonb_array_elements(v.graph->'nodes') n
		    where e.tenant_id = $1 and e.id in (select edge_id from parked)
		    and n->>'name' = e.to_node and jsonb_typeof(n->'may_act') = 'array' and not n->'may_act' ? $4
		)
		select p.process_id, p.message_id, c.may_act from parked p join closed c on c.id = p.edge_id`,
		tenant, processes, numbers, nameOf(act.By))
	denied := map[process.MessageID][]string{}
	var id process.MessageID
	var mayAct []string
	_, err := pgx.ForEachRow(rows, []any{&id.Process, &id.Number, &mayAct}, func() error {
		denied[id] = append([]string{}, mayAct...)
		return nil
	})
	return denied, err
}

var keyNumber = regexp.MustCompile(` \(key \d+\)$`)

// nameOf is the name by which a breakpoint knows somebody: who is written down as "ann (key 7)" is ann.
func nameOf(by string) string { return keyNumber.ReplaceAllString(by, "") }
