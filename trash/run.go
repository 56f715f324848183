package trash

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/queue/process"
)

// How bulks are worked.
const (
	lookForBulks = time.Second      // how often, when nobody tells of one
	bulkItems    = 200              // entries in one transaction
	bulkBytes    = 16 << 20         // of their bodies, but for the first
	bulkTime     = 30 * time.Second // of one transaction
	keptFor      = 24 * time.Hour   // a preview that nobody starts, and the list of entries of one that is over
)

// Run works bulks until ctx ends. Any number of processes may do so at once: the row of a bulk is locked by whoever works
// it, and what was decided about its entries is committed with how far it has come; so each entry is decided about
// once, whoever stops at what moment. Beside that it deletes what nobody wants to keep any longer: see [Retention].
func (t *Trash) Run(ctx context.Context, pool *pgxpool.Pool, log *slog.Logger) {
	var pruning sync.WaitGroup
	defer pruning.Wait()
	pruning.Go(func() { keepTidy(ctx, pool, log) })
	for ctx.Err() == nil {
		pause, err := nextBulk(ctx, pool)
		if pause <= 0 && err == nil {
			var worked bool
			if worked, err = t.workBulk(ctx, pool); worked && err == nil {
				continue
			}
			pause = lookForBulks // another process works what is due
		}
		if err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, "Bulk not worked, trying again", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-t.wake:
		case <-time.After(min(pause, lookForBulks)):
		}
	}
}

// keepTidy clears away what is left of old bulks, and old processes, now and then.
func keepTidy(ctx context.Context, pool *pgxpool.Pool, log *slog.Logger) {
	for ctx.Err() == nil {
		if err := errors.Join(tidyBulks(ctx, pool), prune(ctx, pool)); err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, "Old entries of the trash not cleared away, trying again", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pruneEvery):
		}
	}
}

// everywhere runs a transaction that sees all tenants: which of them have bulks is found out here.
func everywhere(ctx context.Context, pool *pgxpool.Pool, do func(pgx.Tx) error) error {
	begin := pgx.TxOptions{BeginQuery: "begin; set local sluice.tenant_id = '*'; set local statement_timeout = '15s'; set local enable_seqscan = off; set local jit = off"}
	return pgx.BeginTxFunc(ctx, pool, begin, do)
}

// nextBulk is how long nobody need look for a bulk; 0 or less: one is due. It asks in one round trip, along bulk_next_idx:
// all day long there is none.
func nextBulk(ctx context.Context, pool *pgxpool.Pool) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, bulkTime)
	defer cancel()
	pause := lookForBulks
	batch := &pgx.Batch{} // without a transaction of its own it is one
	batch.Queue(`select set_config('sluice.tenant_id', '*', true), set_config('enable_seqscan', 'off', true)`)
	batch.Queue(`select extract(epoch from min(next_at) - clock_timestamp())::float8 from sluice.bulk where state = 'running'`).QueryRow(func(row pgx.Row) error {
		var in *float64
		err := row.Scan(&in)
		if in != nil {
			pause = min(pause, time.Duration(*in*float64(time.Second)))
		}
		return err
	})
	return pause, pool.SendBatch(ctx, batch).Close()
}

// running is a bulk that is worked.
type running struct {
	TenantID  int64
	ID        int64
	Position  int64
	StartedBy string
}

// workBulk decides about the next entries of a bulk, and tells whether there was one.
func (t *Trash) workBulk(ctx context.Context, pool *pgxpool.Pool) (worked bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, bulkTime)
	defer cancel()
	var r running
	var queues []string
	err = everywhere(ctx, pool, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, `
			select tenant_id, id, position, coalesce(started_by, '') as started_by from sluice.bulk
			where state = 'running' and next_at <= now()
			order by next_at limit 1 for update skip locked`)
		r, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[running])
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		worked = true
		queues, err = t.workOn(ctx, tx, r)
		return err
	})
	switch {
	case err == nil && len(queues) > 0:
		slices.Sort(queues)
		t.engine.Woke(ctx, slices.Compact(queues))
	case err != nil && worked: // it must not keep the others from their turn
		err = errors.Join(err, everywhere(ctx, pool, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `
				update sluice.bulk set next_at = now() + interval '5 seconds' where tenant_id = $1 and id = $2 and state = 'running'`, r.TenantID, r.ID)
			return err
		}))
	}
	return worked, err
}

// workOn decides about the next entries of a bulk that is locked.
func (t *Trash) workOn(ctx context.Context, tx pgx.Tx, r running) (queues []string, err error) {
	b, err := findBulk(ctx, tx, r.TenantID, r.ID)
	if err != nil {
		return nil, err
	}
	n := bulkItems
	if b.Rate != nil {
		n = int(max(1, min(bulkItems, *b.Rate/5)))
	}
	items, err := nextItems(ctx, tx, r, n)
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		_, err := tx.Exec(ctx, `
			update sluice.bulk set state = 'done', next_at = null, finished_at = clock_timestamp() where tenant_id = $1 and id = $2`, r.TenantID, r.ID)
		return nil, err
	}
	failed := map[process.MessageID]string{}
	ids := make([]process.MessageID, len(items))
	for i, item := range items {
		ids[i] = item.id()
	}
	there, err := lockEntries(ctx, tx, r.TenantID, ids)
	if err != nil {
		return nil, err
	}
	var left []process.MessageID
	for _, item := range items {
		id := item.id()
		switch revision, is := there[id]; {
		case !is:
			failed[id] = "it had left the trash before its turn came"
		case revision != item.Revision:
			failed[id] = "it was changed after the preview"
		default:
			left = append(left, id)
		}
	}
	act := Act{By: r.StartedBy, Reason: b.Reason, Detail: map[string]any{"bulk": r.ID}, Entries: left}
	var denied map[process.MessageID][]string
	if b.Action != Assigning && b.Action != Commenting { // which anybody may
		if denied, err = notAllowed(ctx, tx, r.TenantID, act); err != nil {
			return nil, err
		}
	}
	left = slices.DeleteFunc(left, func(id process.MessageID) bool {
		mayAct, is := denied[id]
		if is {
			failed[id] = fmt.Sprintf("only %s may act on it", strings.Join(mayAct, ", "))
		}
		return is
	})
	if queues, err = t.carryOut(ctx, tx, r.TenantID, b, act, left, failed); err != nil {
		return nil, err
	}
	return queues, note(ctx, tx, r, items[len(items)-1].MessageID, len(items), failed)
}

// nextItems are the next entries, as many as their bodies allow.
func nextItems(ctx context.Context, tx pgx.Tx, r running, n int) ([]item, error) {
	rows, _ := tx.Query(ctx, `
		select process_id, message_id, revision from (
		    select i.process_id, i.message_id, i.revision,
		           coalesce(sum(s.size) over (order by i.message_id rows between unbounded preceding and 1 preceding), 0) as before,
		           coalesce(sum(s.size) over (order by i.message_id), 0) as with_it, row_number() over (order by i.message_id) as n
		    from (
		        select * from sluice.bulk_item
		        where tenant_id = $1 and bulk_id = $2 and message_id > $3 order by message_id limit $4
		    ) i
		    left join lateral (
		        select coalesce(octet_length(coalesce(m.body, (
		            select p.body from sluice.message p where p.tenant_id = m.tenant_id and p.process_id = m.process_id and p.id = m.payload_id
		        ))), 0) as size
		        from sluice.message m where m.tenant_id = i.tenant_id and m.process_id = i.process_id and m.id = i.message_id limit 1
		    ) s on true
		) i
		where n = 1 or with_it <= $5
		order by message_id`, r.TenantID, r.ID, r.Position, n, bulkBytes)
	return pgx.CollectRows(rows, pgx.RowToStructByName[item])
}

// note writes down how far a bulk has come, and when it goes on. A rate counts over the last second: what a slow database
// has cost is caught up with, what a pause has cost is not.
func note(ctx context.Context, tx pgx.Tx, r running, position int64, n int, failed map[process.MessageID]string) error {
	var numbers []int64
	var errs []string
	for id, why := range failed {
		numbers, errs = append(numbers, id.Number), append(errs, why)
	}
	if len(numbers) > 0 {
		if _, err := tx.Exec(ctx, `
			update sluice.bulk_item i set error = f.error
			from unnest($3::bigint[], $4::text[]) as f(message_id, error)
			where i.tenant_id = $1 and i.bulk_id = $2 and i.message_id = f.message_id`, r.TenantID, r.ID, numbers, errs); err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, `
		update sluice.bulk
		set position = $3, done = done + $4::int - $5::int, failed = failed + $5::int,
		    next_at = case when rate is null then clock_timestamp()
		                   else greatest(next_at, now() - interval '1 second') + $4::int / rate * interval '1 second' end
		where tenant_id = $1 and id = $2`, r.TenantID, r.ID, position, n, len(failed))
	return err
}

// carryOut does what a bulk is for about entries that are locked. When it fails, nothing of it was done, and it is tried with
// each half, so that the one which it fails with is found and named in failed; unless it is the database that fails.
func (t *Trash) carryOut(ctx context.Context, tx pgx.Tx, tenant int64, b Bulk, act Act, ids []process.MessageID, failed map[process.MessageID]string) (queues []string, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	act.Entries = ids
	err = pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		queues, err = t.carryOutAll(ctx, tx, tenant, b, act.distinct())
		return err
	})
	switch {
	case err == nil:
		return queues, nil
	case ctx.Err() != nil || isPassing(err) || tx.Conn().IsClosed():
		return nil, err
	case len(ids) == 1:
		failed[ids[0]] = plain(err)
		return nil, nil
	}
	half := len(ids) / 2
	first, err := t.carryOut(ctx, tx, tenant, b, act, ids[:half], failed)
	if err != nil {
		return nil, err
	}
	second, err := t.carryOut(ctx, tx, tenant, b, act, ids[half:], failed)
	return append(first, second...), err
}

func (t *Trash) carryOutAll(ctx context.Context, tx pgx.Tx, tenant int64, b Bulk, act Act) (queues []string, err error) {
	if !b.Change.IsZero() {
		for _, id := range act.Entries { // one body at a time
			failed, _, after, err := b.changed(ctx, tx, tenant, id)
			if err != nil {
				return nil, err
			}
			if err := edit(ctx, tx, tenant, act, id, failed, after); err != nil {
				return nil, err
			}
		}
	}
	switch b.Action {
	case Approving:
		version := 0
		if b.Version != nil {
			version = *b.Version
		}
		_, queues, err = t.resend(ctx, tx, tenant, act, version)
	case Rejecting:
		err = reject(ctx, tx, tenant, act)
	case Assigning:
		err = assign(ctx, tx, tenant, act, *b.AssignTo)
	case Commenting:
		err = comment(ctx, tx, tenant, act)
	}
	return queues, err
}

// isPassing tells whether an error says nothing about what was tried: another try may go well.
func isPassing(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return !errors.Is(err, ErrContent) && !errors.Is(err, ErrTarget) && !errors.Is(err, process.ErrNotFound)
	}
	for _, class := range []string{"08", "25", "40", "53", "55", "57", "58"} {
		if strings.HasPrefix(pg.Code, class) {
			return true
		}
	}
	return false
}

// plain puts an error into words for who looks at what has failed.
func plain(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return fmt.Sprintf("the database refuses it: %s", pg.Message)
	}
	return err.Error()
}

// tidyBulks drops previews that nobody started, and the items of old bulks that went well; what failed is kept.
func tidyBulks(ctx context.Context, pool *pgxpool.Pool) error {
	if err := everywhere(ctx, pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			update sluice.bulk set state = 'cancelled', finished_at = now()
			where not items_dropped and state = 'preview' and created_at < now() - $1::interval`, keptFor)
		return err
	}); err != nil {
		return err
	}
	for more := true; more; {
		if err := everywhere(ctx, pool, func(tx pgx.Tx) (err error) {
			more, err = tidyBulk(ctx, tx)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// tidyBulk drops some of the items of a bulk that is over, and tells whether there was one.
func tidyBulk(ctx context.Context, tx pgx.Tx) (more bool, err error) {
	var tenant, id int64
	err = tx.QueryRow(ctx, `
		select tenant_id, id from sluice.bulk
		where not items_dropped and state in ('cancelled', 'done') and created_at < now() - $1::interval
		order by created_at limit 1 for update skip locked`, keptFor).Scan(&tenant, &id)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	tag, err := tx.Exec(ctx, `
		delete from sluice.bulk_item where (tenant_id, bulk_id, message_id) in (
		    select tenant_id, bulk_id, message_id from sluice.bulk_item
		    where tenant_id = $1 and bulk_id = $2 and error is null order by message_id limit 5000)`, tenant, id)
	if err == nil && tag.RowsAffected() == 0 {
		_, err = tx.Exec(ctx, `update sluice.bulk set items_dropped = true where tenant_id = $1 and id = $2`, tenant, id)
	}
	return true, err
}
