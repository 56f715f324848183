package trash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"sluice/queue/process"
)

// Action is what a bulk does about its entries.
type Action string

// The actions of a bulk. An approval may edit, too.
const (
	Approving Action = "approve"
	Rejecting Action = "reject"
	Editing   Action = "edit"

	Assigning  Action = "assign"
	Commenting Action = "comment" // with the reason
)

// BulkState is how far a bulk has come.
type BulkState string

// The states of a bulk.
const (
	BulkPreview   BulkState = "preview" // entries are chosen, nothing is done
	BulkRunning   BulkState = "running"
	BulkPaused    BulkState = "paused"
	BulkCancelled BulkState = "cancelled" // what was left is as it was
	BulkDone      BulkState = "done"
)

// ErrNoBulk is returned for a bulk that does not exist, or not for this tenant.
var ErrNoBulk = errors.New("no such bulk")

// ErrBulkState is returned when a bulk is in no state in which that could be done.
var ErrBulkState = errors.New("the bulk is in another state")

// ErrBulk is in the error about a bulk that makes no sense.
var ErrBulk = errors.New("the bulk cannot be done")

// bulkMost is how many entries one bulk takes.
const bulkMost = 500_000

// Plan is what is to be done about all entries that a filter asks for.
type Plan struct {
	Action  Action
	Filter  Filter
	Change  Change // of an approval or an edit
	Version int    // of an approval: the version in which messages go on; 0: the one where they failed
	To      string // of an assignment: whose they are; "": nobody's
	Reason  string
	Rate    float64 // entries a second; 0: as fast as it goes
	Asked   any     // the filter in the words in which it was asked for, for the record
}

func (p Plan) check() error {
	switch {
	case p.Action == Editing && p.Change.IsZero():
		return fmt.Errorf("%w: it edits, and says no change", ErrBulk)
	case p.Action != Editing && p.Action != Approving && !p.Change.IsZero():
		return fmt.Errorf("%w: only what is edited or approved can be changed", ErrBulk)
	case p.Action == Rejecting && p.Reason == "":
		return fmt.Errorf("%w: to reject needs a reason", ErrBulk)
	case p.Action == Commenting && p.Reason == "":
		return fmt.Errorf("%w: the remark is the reason, which is empty", ErrBulk)
	case p.Action != Assigning && p.To != "":
		return fmt.Errorf("%w: it does not assign, and says to whom", ErrBulk)
	case p.Action != Approving && p.Version != 0:
		return fmt.Errorf("%w: only what is approved goes on in a version", ErrBulk)
	}
	return p.Change.check()
}

// Bulk is something that is done about many entries.
type Bulk struct {
	ID         int64
	Action     Action
	State      BulkState
	Filter     json.RawMessage // for the record
	Change     Change
	Version    *int
	AssignTo   *string // of an assignment
	Reason     string
	Rate       *float64
	Total      int  // entries that were chosen
	More       bool // there were more than one bulk takes
	Done       int
	Failed     int // about which nothing was decided
	CreatedBy  string
	CreatedAt  time.Time
	StartedBy  *string
	StartedAt  *time.Time
	FinishedAt *time.Time
}

// Sample is one of the entries that a bulk has chosen, and what it would make of its content.
type Sample struct {
	Entry Entry
	Diff  *Diff  // nil: the content stays as it is
	Error string // why it would fail
}

// samples is how many entries a preview shows.
const samples = 10

// Failure is an entry about which a bulk could decide nothing.
type Failure struct {
	ID    process.MessageID
	Error string
}

// freezeAtOnce is how many entries are chosen by one statement, and freezeBodies if it looks into bodies.
const (
	freezeAtOnce = 20_000
	freezeBodies = 2_000
)

// Preview chooses the entries of a bulk, and shows some of them. The bulk is about exactly these, as they are now: what
// fails later is not among them, and what is changed before its turn comes is left alone.
func (t *Trash) Preview(ctx context.Context, tenant int64, by string, plan Plan) (b Bulk, sample []Sample, err error) {
	if err := plan.check(); err != nil {
		return Bulk{}, nil, err
	}
	recorded, err := json.Marshal(plan.Asked)
	if err != nil {
		return Bulk{}, nil, err
	}
	err = process.ForTenant(ctx, t.pool, tenant, func(tx pgx.Tx) error {
		var id int64
		var now time.Time
		if err := tx.QueryRow(ctx, `
			insert into sluice.bulk (tenant_id, action, state, filter, change, version, reason, rate, created_by, assign_to)
			values ($1, $2, 'preview', $3, $4, nullif($5, 0), $6, nullif($7::float8, 0), $8, case when $2 = 'assign' then $9 end)
			returning id, clock_timestamp()`,
			tenant, plan.Action, json.RawMessage(recorded), plan.Change, plan.Version, plan.Reason, plan.Rate, by, plan.To).Scan(&id, &now); err != nil {
			return err
		}
		// What comes while entries are chosen has not been seen by anyone.
		if plan.Filter.Until.IsZero() || plan.Filter.Until.After(now) {
			plan.Filter.Until = now
		}
		total, more, err := freeze(ctx, tx, tenant, id, plan.Filter)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `update sluice.bulk set total = $3, more = $4 where tenant_id = $1 and id = $2`, tenant, id, total, more); err != nil {
			return err
		}
		if b, err = findBulk(ctx, tx, tenant, id); err != nil {
			return err
		}
		sample, err = sampleOf(ctx, tx, tenant, b)
		return err
	})
	return b, sample, err
}

// freeze writes down which entries pass the filter.
func freeze(ctx context.Context, tx pgx.Tx, tenant, bulk int64, f Filter) (total int, more bool, err error) {
	s, err := f.source(ctx, tx, tenant)
	if err != nil {
		return 0, false, err
	}
	start, end := f.window(Oldest)
	n := freezeAtOnce
	if f.Text != "" {
		n = freezeBodies
	}
	for total < bulkMost {
		var looked, frozen int
		args := append([]any{tenant, start.FailedAt, start.Message, end, n, bulkMost - total}, s.args...)
		err := tx.QueryRow(ctx, freezeSQL(s.from), append(args, bulk)...).Scan(&looked, &frozen, &start.FailedAt, &start.Message)
		if errors.Is(err, pgx.ErrNoRows) {
			return total, false, nil
		}
		if err != nil {
			return 0, false, err
		}
		total += frozen
		if looked < n && total < bulkMost {
			return total, false, nil
		}
	}
	return total, true, nil
}

// freezeSQL takes those that pass among the next entries of a source into a bulk, and tells how far it has looked.
func freezeSQL(from string) string {
	return `
with looked as materialized (` + entriesSQL(from, ">", "failed_at < $4", "asc") + `
), frozen as (
    insert into sluice.bulk_item (tenant_id, bulk_id, message_id, process_id, revision)
    select tenant_id, $19::bigint, message_id, process_id, revision from looked l
    where ` + passes + `
    order by failed_at, message_id limit $6
    on conflict do nothing
    returning 1
)
select (select count(*)::int from looked), (select count(*)::int from frozen), failed_at, message_id
from looked order by failed_at desc, message_id desc limit 1`
}

// sampleOf shows the first entries of a bulk.
func sampleOf(ctx context.Context, tx pgx.Tx, tenant int64, b Bulk) ([]Sample, error) {
	items, err := itemsAfter(ctx, tx, tenant, b.ID, 0, samples)
	if err != nil {
		return nil, err
	}
	var sample []Sample
	for _, item := range items {
		rows, _ := tx.Query(ctx, entrySQL, tenant, item.ProcessID, item.MessageID)
		row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[entryRow])
		if errors.Is(err, pgx.ErrNoRows) {
			continue // it has just left
		}
		if err != nil {
			return nil, err
		}
		s := Sample{Entry: row.entry()}
		if !b.Change.IsZero() {
			_, present, after, err := b.changed(ctx, tx, tenant, item.id())
			switch {
			case errors.Is(err, ErrContent):
				s.Error = err.Error()
			case err != nil:
				return nil, err
			default:
				d := DiffOf(present, after)
				s.Diff = &d
			}
		}
		if b.Version != nil && s.Error == "" {
			_, err := targets(ctx, tx, tenant, []process.MessageID{item.id()}, *b.Version)
			switch {
			case errors.Is(err, ErrTarget):
				s.Error = err.Error()
			case err != nil:
				return nil, err
			}
		}
		sample = append(sample, s)
	}
	return sample, nil
}

// changed is what an entry failed with, what would be sent now, and what the bulk makes of that.
func (b Bulk) changed(ctx context.Context, tx pgx.Tx, tenant int64, id process.MessageID) (failed, present, after Content, err error) {
	if failed, err = original(ctx, tx, tenant, id); err != nil {
		return failed, present, after, err
	}
	present = failed
	e, err := findEdit(ctx, tx, tenant, id)
	if err != nil {
		return failed, present, after, err
	}
	if e != nil {
		present = e.Content
	}
	after, err = b.Change.apply(present)
	if err == nil {
		err = sendable(failed, after)
	}
	return failed, present, after, err
}

// item is an entry that a bulk has chosen.
type item struct {
	ProcessID uuid.UUID
	MessageID int64
	Revision  int64
}

func (i item) id() process.MessageID {
	return process.MessageID{Process: i.ProcessID, Number: i.MessageID}
}

func itemsAfter(ctx context.Context, tx pgx.Tx, tenant, bulk, after int64, n int) ([]item, error) {
	rows, _ := tx.Query(ctx, `
		select process_id, message_id, revision from sluice.bulk_item
		where tenant_id = $1 and bulk_id = $2 and message_id > $3 order by message_id limit $4`, tenant, bulk, after, n)
	return pgx.CollectRows(rows, pgx.RowToStructByName[item])
}

const bulkColumns = `
select id, action, state, filter, change, version, assign_to, reason, rate, total, more, done, failed,
       created_by, created_at, started_by, started_at, finished_at
from sluice.bulk `

func findBulk(ctx context.Context, tx pgx.Tx, tenant, id int64) (Bulk, error) {
	rows, _ := tx.Query(ctx, bulkColumns+`where tenant_id = $1 and id = $2`, tenant, id)
	b, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Bulk])
	if errors.Is(err, pgx.ErrNoRows) {
		return b, ErrNoBulk
	}
	return b, err
}

// FindBulk returns a bulk, or [ErrNoBulk].
func (t *Trash) FindBulk(ctx context.Context, tenant, id int64) (b Bulk, err error) {
	err = process.ForTenant(ctx, t.pool, tenant, func(tx pgx.Tx) error {
		b, err = findBulk(ctx, tx, tenant, id)
		return err
	})
	return b, err
}

// Bulks lists a tenant's bulks, the newest first, from the one before the given; 0 is the end.
func (t *Trash) Bulks(ctx context.Context, tenant, before int64, limit int) (bulks []Bulk, err error) {
	err = process.ForTenant(ctx, t.pool, tenant, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, bulkColumns+`where tenant_id = $1 and ($2 = 0 or id < $2) order by id desc limit $3`, tenant, before, limit)
		bulks, err = pgx.CollectRows(rows, pgx.RowToStructByName[Bulk])
		return err
	})
	return bulks, err
}

// Failures lists the entries about which a bulk could decide nothing, in the order of their messages, from the one after
// the given.
func (t *Trash) Failures(ctx context.Context, tenant, bulk, after int64, limit int) (failures []Failure, err error) {
	err = process.ForTenant(ctx, t.pool, tenant, func(tx pgx.Tx) error {
		if _, err := findBulk(ctx, tx, tenant, bulk); err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, `
			select process_id, message_id, error from sluice.bulk_item
			where tenant_id = $1 and bulk_id = $2 and error is not null and message_id > $3 order by message_id limit $4`, tenant, bulk, after, limit)
		var f Failure
		_, err := pgx.ForEachRow(rows, []any{&f.ID.Process, &f.ID.Number, &f.Error}, func() error {
			failures = append(failures, f)
			return nil
		})
		return err
	})
	return failures, err
}

// Step is what is done about a bulk.
type Step string

// The steps. Each is harmless when it was done before.
const (
	StartBulk  Step = "start"
	PauseBulk  Step = "pause"
	ResumeBulk Step = "resume"
	CancelBulk Step = "cancel"
)

// steps say from which states a step leads, and where to.
var steps = map[Step]struct {
	from []string
	to   BulkState
}{
	StartBulk:  {[]string{"preview"}, BulkRunning},
	PauseBulk:  {[]string{"running"}, BulkPaused},
	ResumeBulk: {[]string{"paused"}, BulkRunning},
	CancelBulk: {[]string{"preview", "running", "paused"}, BulkCancelled},
}

// Take takes a step with a bulk. When it returns, no entry is decided about that the step was to keep from it. Of a bulk
// in another state the error is [ErrBulkState].
func (t *Trash) Take(ctx context.Context, tenant int64, by string, id int64, step Step) (b Bulk, err error) {
	s := steps[step]
	err = process.ForTenant(ctx, t.pool, tenant, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			with moved as (
			    update sluice.bulk
			    set state = $3, next_at = case when $3 = 'running' then now() end,
			        started_by = case when $5 = 'start' then $6 else started_by end,
			        started_at = case when $5 = 'start' then now() else started_at end,
			        finished_at = case when $3 = 'cancelled' then now() end
			    where tenant_id = $1 and id = $2 and state = any($4::text[])
			    returning id
			)
			insert into sluice.audit (tenant_id, actor, action, subject)
			select $1, $6, $5 || '-bulk', 'bulk ' || id from moved`, tenant, id, string(s.to), s.from, string(step), by)
		if err != nil {
			return err
		}
		if b, err = findBulk(ctx, tx, tenant, id); err != nil {
			return err
		}
		if tag.RowsAffected() == 0 && b.State != s.to {
			return fmt.Errorf("%w: it is %s", ErrBulkState, b.State)
		}
		return nil
	})
	if err == nil && b.State == BulkRunning {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
	return b, err
}
