package trash

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/queue/process"
)

// Retention says how long is kept what was decided about, counted from the end of its process. What waits in the trash
// stays, however long it takes.
type Retention struct {
	Rejected  time.Duration // processes of which something was rejected; 0: for ever
	Resolved  time.Duration // those of which something was sent again, and nothing rejected; 0: for ever
	SetBy     string        // "": nobody has set anything
	SetAt     time.Time
	Deleted   int64 // processes so far
	DeletedAt *time.Time
}

// ErrRetention is in the error about a retention that cannot be.
var ErrRetention = errors.New("no such retention")

// The bounds of a retention that is not for ever. The ledger promises for a day that the same event is not taken twice.
const (
	leastRetention = 24 * time.Hour
	mostRetention  = 100 * 365 * 24 * time.Hour
)

// Retention returns a tenant's retention.
func (t *Trash) Retention(ctx context.Context, tenant int64) (r Retention, err error) {
	err = process.ForTenant(ctx, t.pool, tenant, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `
			select coalesce(rejected, '0'), coalesce(resolved, '0'), set_by, set_at, deleted, deleted_at
			from sluice.trash_retention where tenant_id = $1`, tenant).
			Scan(&r.Rejected, &r.Resolved, &r.SetBy, &r.SetAt, &r.Deleted, &r.DeletedAt)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil // everything is kept
		}
		return err
	})
	return r, err
}

// SetRetention says how long is kept what was decided about. What is older by then goes within minutes.
func (t *Trash) SetRetention(ctx context.Context, tenant int64, by string, rejected, resolved time.Duration) error {
	for _, d := range []time.Duration{rejected, resolved} {
		if d != 0 && (d < leastRetention || d > mostRetention) {
			return fmt.Errorf("%w: it is a day at least and a hundred years at most, or 0 for ever", ErrRetention)
		}
	}
	return process.ForTenant(ctx, t.pool, tenant, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			with kept as (
			    insert into sluice.trash_retention (tenant_id, rejected, resolved, set_by)
			    values ($1, nullif(justify_hours($2::interval), '0'), nullif(justify_hours($3::interval), '0'), $4)
			    on conflict (tenant_id) do update set rejected = excluded.rejected, resolved = excluded.resolved, set_by = $4, set_at = now()
			    returning rejected, resolved
			)
			insert into sluice.audit (tenant_id, actor, action, subject)
			select $1, $4, 'set-trash-retention', 'rejected ' || coalesce(rejected::text, 'for ever') || ', resolved ' || coalesce(resolved::text, 'for ever')
			from kept`, tenant, rejected, resolved, by)
		return err
	})
}

// How old processes are deleted: in bounded steps, each of which is a transaction.
const (
	pruneEvery    = 10 * time.Minute
	pruneLook     = 1000 // decisions that are looked at
	pruneMessages = 5000 // of the processes that go, but for the first
	pruneTime     = 10 * time.Minute
)

// settled is a process that is old enough.
type settled struct {
	ID    uuid.UUID
	Total int
}

// prune deletes the processes that tenants do not want to keep any longer.
func prune(ctx context.Context, pool *pgxpool.Pool) error {
	type kept struct {
		TenantID int64
		Verdict  string
		For      time.Duration
	}
	var all []kept
	if err := everywhere(ctx, pool, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, `
			select r.tenant_id, v.verdict, case when v.verdict = 'reject' then r.rejected else r.resolved end as for
			from sluice.trash_retention r cross join (values ('reject'), ('approve'), ('replace')) v(verdict)
			where case when v.verdict = 'reject' then r.rejected else r.resolved end is not null
			order by 1, 2`)
		var err error
		all, err = pgx.CollectRows(rows, pgx.RowToStructByName[kept])
		return err
	}); err != nil {
		return err
	}
	for _, k := range all {
		if err := pruneDecided(ctx, pool, k.TenantID, k.Verdict, k.For); err != nil {
			return fmt.Errorf("delete what tenant %d does not keep: %w", k.TenantID, err)
		}
	}
	return nil
}

// pruneDecided walks along the decisions of one kind that are old enough, the oldest first, and deletes the processes that
// are.
func pruneDecided(ctx context.Context, pool *pgxpool.Pool, tenant int64, verdict string, kept time.Duration) error {
	at, id := longAgo, int64(0)
	for {
		var old []settled
		looked := 0
		err := everywhere(ctx, pool, func(tx pgx.Tx) error {
			rows, _ := tx.Query(ctx, `
				select process_id, decided_at, id from sluice.decision
				where tenant_id = $1 and verdict = $2 and (decided_at, id) > ($3, $4) and decided_at < now() - $5::interval
				order by decided_at, id limit $6`, tenant, verdict, at, id, kept, pruneLook)
			var processes []uuid.UUID
			var process uuid.UUID
			if _, err := pgx.ForEachRow(rows, []any{&process, &at, &id}, func() error {
				processes = append(processes, process)
				return nil
			}); err != nil {
				return err
			}
			looked = len(processes)
			rows, _ = tx.Query(ctx, `select id, total from sluice.process p where `+oldEnough+` order by id`, tenant, processes, verdict, kept)
			var err error
			old, err = pgx.CollectRows(rows, pgx.RowToStructByName[settled])
			return err
		})
		if err != nil {
			return err
		}
		for len(old) > 0 {
			n, messages := 1, old[0].Total
			for n < len(old) && messages+old[n].Total <= pruneMessages {
				messages += old[n].Total
				n++
			}
			if err := deleteProcesses(ctx, pool, tenant, verdict, kept, old[:n]); err != nil {
				return err
			}
			old = old[n:]
		}
		if looked < pruneLook {
			return nil
		}
	}
}

// oldEnough tells of processes $2 whether they go: they have finished, long enough ago for what was decided in them.
const oldEnough = `tenant_id = $1 and id = any($2::uuid[]) and finished_at < now() - $4::interval and ($3 = 'reject' or rejected = 0)`

// deleteProcesses deletes processes with all that belongs to them, so that what is left still adds up. A key that promises
// one of them goes with it: it came in the same moment.
func deleteProcesses(ctx context.Context, pool *pgxpool.Pool, tenant int64, verdict string, kept time.Duration, old []settled) error {
	ctx, cancel := context.WithTimeout(ctx, pruneTime)
	defer cancel()
	ids := make([]uuid.UUID, len(old))
	for i, p := range old {
		ids[i] = p.ID
	}
	return everywhere(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select set_config('statement_timeout', $1, true)`, fmt.Sprint(pruneTime.Milliseconds())); err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, `select id from sluice.process where `+oldEnough+` order by id for update skip locked`, tenant, ids, verdict, kept)
		going, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil || len(going) == 0 {
			return err
		}
		batch := &pgx.Batch{}
		batch.Queue(`
			delete from sluice.idempotency_key k using (
			    select min(started_at) as first, max(started_at) as last from sluice.process where tenant_id = $1 and id = any($2::uuid[])
			) p
			where k.tenant_id = $1 and k.process_id = any($2::uuid[]) and k.created_at between p.first and p.last`, tenant, going)
		for _, table := range []string{"message", "attempt", "entity_key", "batch_cursor", "decision"} {
			batch.Queue(`delete from sluice.`+table+` where tenant_id = $1 and process_id = any($2::uuid[])`, tenant, going)
		}
		batch.Queue(`delete from sluice.process where tenant_id = $1 and id = any($2::uuid[])`, tenant, going)
		batch.Queue(`update sluice.trash_retention set deleted = deleted + $2, deleted_at = now() where tenant_id = $1`, tenant, len(going))
		return tx.SendBatch(ctx, batch).Close()
	})
}
