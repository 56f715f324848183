package queue

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"sluice/queue/process"
	"sluice/queue/topology"
)

// entityArrays are the arguments of entityKeysSQL, a column each: keys of messages that are about to be born.
type entityArrays struct {
	tenants       []int64
	processes     [][16]byte
	kinds, values []string
	messages      []int64
}

func (a *entityArrays) add(tenant int64, of uuid.UUID, message int64, keys []topology.EntityKey) {
	for _, k := range keys {
		a.tenants, a.processes, a.messages = append(a.tenants, tenant), append(a.processes, of), append(a.messages, message)
		a.kinds, a.values = append(a.kinds, k.Kind), append(a.values, k.Value)
	}
}

func (a *entityArrays) any() bool { return len(a.values) > 0 }

// queue adds the statement to a batch, behind the one that makes the messages, if there is anything to write. A batch is
// one transaction, so both are written or none.
func (a *entityArrays) queue(b *pgx.Batch) {
	if a.any() {
		b.Queue(entityKeysSQL, a.args()...)
	}
}

func (a *entityArrays) args() []any {
	return []any{a.tenants, a.processes, a.kinds, a.values, a.messages}
}

// statement is one with its arguments.
type statement struct {
	sql  string
	args []any
}

// queryWith runs the statement that makes messages, and behind it what else is to be written of them, if there is anything,
// in one transaction and one round trip.
func queryWith(ctx context.Context, db database, of statement, read func(pgx.Rows) error, also ...interface{ queue(*pgx.Batch) }) error {
	b := &pgx.Batch{}
	b.Queue(of.sql, of.args...).Query(read)
	for _, more := range also {
		more.queue(b)
	}
	if b.Len() > 1 {
		return db.SendBatch(ctx, b).Close()
	}
	rows, _ := db.Query(ctx, of.sql, of.args...)
	return read(rows)
}

// entityKeysSQL writes the keys of those of the messages that exist: what the fence or the ledger refused has none, and a
// try whose answer was lost has written them already. Two transactions that write keys of a process have its row locked,
// one after the other, so none waits here.
const entityKeysSQL = `
insert into sluice.entity_key (tenant_id, process_id, kind, value, message_id)
select distinct on (w.tenant_id, w.process_id, w.kind, w.value) w.tenant_id, w.process_id, w.kind, w.value, w.message_id
from unnest($1::bigint[], $2::uuid[], $3::text[], $4::text[], $5::bigint[]) as w(tenant_id, process_id, kind, value, message_id)
cross join lateral (
    select from sluice.message m
    where m.tenant_id = w.tenant_id and m.process_id = w.process_id and m.id = w.message_id limit 1
) m
order by w.tenant_id, w.process_id, w.kind, w.value, w.message_id
on conflict do nothing`

// newEntityKeys are the keys of a message that a settlement makes, but for those that its successors have already. A
// message that goes on as it is has none that are new.
func (s *settlement) newEntityKeys(headers map[string]string, body []byte) []topology.EntityKey {
	var fresh []topology.EntityKey
	for _, k := range s.d.edge.version.Graph.EntityKeys(headers, body) {
		if s.entityKeys[k] {
			continue
		}
		if s.entityKeys == nil {
			s.entityKeys = map[topology.EntityKey]bool{}
		}
		s.entityKeys[k] = true
		fresh = append(fresh, k)
	}
	return fresh
}

// keepReplacedKeys writes the keys of messages that stand for entries of the trash: an edit may be about another entity,
// and another version may look for keys in other places.
func (e *Engine) keepReplacedKeys(ctx context.Context, tx pgx.Tx, tenant int64, sent map[process.MessageID]process.MessageID, edges map[process.MessageID]int64) error {
	var processes [][16]byte
	var numbers []int64
	for from, to := range sent {
		if at := e.catalog.edge(edges[to]); from != to && at != nil && len(at.version.Graph.Entities) > 0 {
			processes, numbers = append(processes, to.Process), append(numbers, to.Number)
		}
	}
	if len(numbers) == 0 {
		return nil
	}
	rows, _ := tx.Query(ctx, `
		select m.process_id, m.id, m.edge_id, m.headers, b.body
		from unnest($2::uuid[], $3::bigint[]) as w(process_id, id)
		cross join lateral (
		    select * from sluice.message m where m.tenant_id = $1 and m.process_id = w.process_id and m.id = w.id limit 1
		) m
		cross join lateral (
		    select coalesce(m.body, (
		        select p.body from sluice.message p where p.tenant_id = $1 and p.process_id = m.process_id and p.id = m.payload_id
		    )) as body
		    offset 0
		) b`, tenant, processes, numbers)
	var a entityArrays
	var of uuid.UUID
	var id, edge int64
	var headers map[string]string
	var body []byte
	if _, err := pgx.ForEachRow(rows, []any{&of, &id, &edge, &headers, &body}, func() error {
		a.add(tenant, of, id, e.catalog.edge(edge).version.Graph.EntityKeys(headers, body))
		headers = nil
		return nil
	}); err != nil || !a.any() {
		return err
	}
	_, err := tx.Exec(ctx, entityKeysSQL, a.args()...)
	return err
}
