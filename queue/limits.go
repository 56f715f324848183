package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"sluice/limiter"
	"sluice/queue/topology"
)

// limitsOf reads the limits of a tenant's applications.
func limitsOf(ctx context.Context, db topology.DB, tenant int64) (map[string]int64, error) {
	rows, _ := db.Query(ctx, `select application, id from sluice.limiter_limit where tenant_id = $1 and removed_at is null`, tenant)
	limits := map[string]int64{}
	var application string
	var id int64
	_, err := pgx.ForEachRow(rows, []any{&application, &id}, func() error {
		limits[application] = id
		return nil
	})
	return limits, err
}

// Limit is what an application allows.
type Limit struct {
	Application string
	User        limiter.Limit      // of each user
	Total       limiter.Limit      // of all users together
	Parallel    int                // calls at the same time; 0: any number
	Weights     map[string]float64 // of topologies that share a key, by name; those that are not named have 1
}

// ErrBadLimit says that a limit cannot be.
var ErrBadLimit = errors.New("limit cannot be set")

// SetLimit says what an application allows. It holds for messages that are held already, too.
func SetLimit(ctx context.Context, tx pgx.Tx, tenant int64, l Limit, by string) error {
	if err := l.check(); err != nil {
		return err
	}
	if l.Weights == nil {
		l.Weights = map[string]float64{}
	}
	user, total := l.User.Normal(), l.Total.Normal()
	var id int64
	if err := tx.QueryRow(ctx, `
		insert into sluice.limiter_limit (tenant_id, application, amount, per, burst, total_amount, total_per, total_burst, parallel, weights)
		values ($1, $2, nullif($3::double precision, 0), nullif($4::interval, interval '0'), nullif($5::double precision, 0),
		        nullif($6::double precision, 0), nullif($7::interval, interval '0'), nullif($8::double precision, 0), nullif($9::int, 0), $10)
		on conflict (tenant_id, application) do update
		set amount = excluded.amount, per = excluded.per, burst = excluded.burst, total_amount = excluded.total_amount,
		    total_per = excluded.total_per, total_burst = excluded.total_burst, parallel = excluded.parallel, weights = excluded.weights,
		    removed_at = null, declared = false
		returning id`, tenant, l.Application, user.Amount, user.Per, user.Burst, total.Amount, total.Per, total.Burst, l.Parallel, l.Weights).Scan(&id); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `
		insert into sluice.limiter_gate (tenant_id, limit_id) values ($1, $2) on conflict do nothing`, tenant, id); err != nil {
		return err
	}
	return noteLimit(ctx, tx, tenant, id, by, "set-limit", l.Application)
}

// check tells what is wrong with a limit.
func (l Limit) check() error {
	switch {
	case l.Application == "" || len(l.Application) > 200:
		return fmt.Errorf("%w: an application's name has 1 to 200 characters", ErrBadLimit)
	case l.User.IsZero() && l.Total.IsZero() && l.Parallel == 0:
		return fmt.Errorf("%w: it allows everything; remove it instead", ErrBadLimit)
	}
	for _, part := range []limiter.Limit{l.User, l.Total} {
		if err := checkAmounts(part); err != nil {
			return err
		}
	}
	for topology, w := range l.Weights {
		if !(w >= 0.01 && w <= 1000) {
			return fmt.Errorf("%w: the weight of topology %s is not from 0.01 to 1000", ErrBadLimit, topology)
		}
	}
	if l.Parallel < 0 {
		return fmt.Errorf("%w: %d calls at the same time", ErrBadLimit, l.Parallel)
	}
	return nil
}

func checkAmounts(l limiter.Limit) error {
	switch {
	case l == limiter.Limit{}:
		return nil
	case !(l.Amount > 0 && l.Amount <= 1e9):
		return fmt.Errorf("%w: an amount is above 0 and at most a billion", ErrBadLimit)
	case l.Per < 10*time.Millisecond || l.Per > 366*24*time.Hour:
		return fmt.Errorf("%w: a limit is per 10 ms at least, and per year at most", ErrBadLimit)
	case l.Burst != 0 && !(l.Burst >= 1 && l.Burst <= 1e9):
		return fmt.Errorf("%w: a burst is of one call at least, and of a billion at most", ErrBadLimit)
	}
	return nil
}

// noteLimit notes that something about a limit has changed: whoever releases looks at it again.
func noteLimit(ctx context.Context, tx pgx.Tx, tenant, id int64, by, action, application string) error {
	if _, err := tx.Exec(ctx, `
		update sluice.limiter_gate set next_at = case when next_at < clock_timestamp() then next_at else clock_timestamp() - interval '150 milliseconds' end
		where tenant_id = $1 and limit_id = $2`, tenant, id); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `
		update sluice.limiter_key set ready_at = 'epoch' where tenant_id = $1 and limit_id = $2 and held > 0 and ready_at > 'epoch'`, tenant, id); err != nil {
		return err
	}
	return topology.NoteChange(ctx, tx, tenant, by, action, application)
}

// ErrNoLimit says that an application has no limit.
var ErrNoLimit = errors.New("application has no limit")

// ErrNoUser says that nothing is known of a user of an application.
var ErrNoUser = errors.New("application has no such user")

// changeLimit changes an application's limit by a statement on its row.
func changeLimit(ctx context.Context, tx pgx.Tx, tenant int64, application, by, action, set string, args ...any) error {
	var id int64
	err := tx.QueryRow(ctx, `update sluice.limiter_limit set `+set+` where tenant_id = $1 and application = $2 and removed_at is null returning id`,
		append([]any{tenant, application}, args...)...).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNoLimit
	}
	if err != nil {
		return err
	}
	return noteLimit(ctx, tx, tenant, id, by, action, application)
}

// RemoveLimit lets an application be called without limits. What is held goes on at once.
func RemoveLimit(ctx context.Context, tx pgx.Tx, tenant int64, application, by string) error {
	return changeLimit(ctx, tx, tenant, application, by, "remove-limit", `removed_at = now(), paused_at = null, paused_by = null, raised_until = null`)
}

// PauseLimit holds all messages for an application until [ResumeLimit].
func PauseLimit(ctx context.Context, tx pgx.Tx, tenant int64, application, by string) error {
	return changeLimit(ctx, tx, tenant, application, by, "pause-application", `paused_at = coalesce(paused_at, now()), paused_by = coalesce(paused_by, $3)`, by)
}

// ResumeLimit ends a pause.
func ResumeLimit(ctx context.Context, tx pgx.Tx, tenant int64, application, by string) error {
	return changeLimit(ctx, tx, tenant, application, by, "resume-application", `paused_at = null, paused_by = null`)
}

// RaiseLimit makes a limit so many times what it is, for a while: its amounts, and, if that is more, its bursts. A factor of
// 1 ends that.
func RaiseLimit(ctx context.Context, tx pgx.Tx, tenant int64, application string, factor float64, during time.Duration, by string) error {
	if !(factor >= 0.01 && factor <= 1000) || during < 0 || during > 366*24*time.Hour {
		return fmt.Errorf("%w: raised by a factor from 0.01 to 1000, for a year at most", ErrBadLimit)
	}
	return changeLimit(ctx, tx, tenant, application, by, "raise-limit", `raise = $3, raised_until = now() + $4::interval`, factor, during)
}

// Override is what is other for one user of an application.
type Override struct {
	User   string
	Limit  limiter.Limit // zero: as for all
	Weight float64       // among the users, when there is not enough for all; 0: 1
}

// SetOverride says what is other for a user.
func SetOverride(ctx context.Context, tx pgx.Tx, tenant int64, application string, o Override, by string) error {
	if err := checkAmounts(o.Limit); err != nil {
		return err
	}
	if o.Weight == 0 {
		o.Weight = 1
	}
	if !(o.Weight >= 0.01 && o.Weight <= 1000) || len(o.User) > maxUser {
		return fmt.Errorf("%w: a weight is from 0.01 to 1000, and a user's name at most %d bytes long", ErrBadLimit, maxUser)
	}
	l := o.Limit.Normal()
	if _, err := tx.Exec(ctx, `
		insert into sluice.limiter_override (tenant_id, limit_id, user_name, amount, per, burst, weight)
		select $1, id, $3, nullif($4::double precision, 0), nullif($5::interval, interval '0'), nullif($6::double precision, 0), $7
		from sluice.limiter_limit where tenant_id = $1 and application = $2 and removed_at is null
		on conflict (tenant_id, limit_id, user_name) do update
		set amount = excluded.amount, per = excluded.per, burst = excluded.burst, weight = excluded.weight, declared = false`,
		tenant, application, o.User, l.Amount, l.Per, l.Burst, o.Weight); err != nil {
		return err
	}
	return changeLimit(ctx, tx, tenant, application, by, "set-limit-of-user", `removed_at = null`)
}

// RemoveOverride makes a user one like all.
func RemoveOverride(ctx context.Context, tx pgx.Tx, tenant int64, application, user, by string) error {
	tag, err := tx.Exec(ctx, `
		delete from sluice.limiter_override o using sluice.limiter_limit l
		where l.tenant_id = $1 and l.application = $2 and o.tenant_id = l.tenant_id and o.limit_id = l.id and o.user_name = $3`, tenant, application, user)
	if err != nil {
		return err
	}
	if tag.RowsAffected() == 0 {
		return ErrNoUser
	}
	return changeLimit(ctx, tx, tenant, application, by, "remove-limit-of-user", `removed_at = null`)
}

// LimitState is a limit with what it does now.
type LimitState struct {
	Limit
	ID          int64
	PausedAt    *time.Time
	PausedBy    string
	Raise       float64    // times as much ...
	RaisedUntil *time.Time // ... until then; nil: it is not raised
	ClosedUntil *time.Time // the application has asked to be left alone; nil: it has not
	Share       float64    // of the limit that the application bears: less than 1 after it refused calls
	Held        int64
	In, Out     float64        // messages a second, of the last ten seconds or so
	Running     int            // calls under way
	Tokens      float64        // of all users together; what the limit allows now
	Drain       *time.Duration // how long it takes until nothing is held; nil: nobody can tell, or it does not end
	Busiest     []LimitKey     // keys, most held first
	Topologies  []LimitTopology
}

// LimitKey is what is held and left of one user.
type LimitKey struct {
	User       string
	Limit      limiter.Limit
	Weight     float64
	Overridden bool
	Held       int64
	In, Out    float64
	Tokens     float64
	Drain      *time.Duration
}

// LimitTopology is what a topology has to do with a limit.
type LimitTopology struct {
	Topology string
	Held     int64
	RateIn   float64
	RateOut  float64
}

// limitRow is a row of limitColumns.
type limitRow struct {
	Application string
	LimitID     int64
	Amount      float64
	Per         time.Duration
	Burst       float64
	TotalAmount float64
	TotalPer    time.Duration
	TotalBurst  float64
	Parallel    int
	Weights     map[string]float64
	PausedAt    *time.Time
	PausedBy    string
	Raise       float64
	RaisedUntil *time.Time
	Tokens      float64
	At          time.Time
	ClosedUntil time.Time
	Slow        float64
	SlowedAgo   time.Duration
	Now         time.Time
	Held        int64
	RateIn      float64
	RateOut     float64
	Running     int
}

// keyRow is a row of limitKeysSQL.
type keyRow struct {
	User       string
	Tokens     float64
	At         time.Time
	Amount     float64
	Per        time.Duration
	Burst      float64
	Weight     float64
	Overridden bool
	Held       int64
	RateIn     float64
	RateOut    float64
}

// busiest is how many keys are shown with a limit.
const busiest = 20

// Limits lists the limits of a tenant in order of their applications, from the one after the given.
func Limits(ctx context.Context, db topology.DB, tenant int64, after string, most int) ([]LimitState, error) {
	rows, _ := db.Query(ctx, listLimitsSQL, tenant, after, most)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[limitRow])
	if err != nil {
		return nil, err
	}
	states := make([]LimitState, len(found))
	for i, row := range found {
		if states[i], err = row.state(ctx, db, tenant); err != nil {
			return nil, err
		}
	}
	return states, nil
}

// FindLimit returns the limit of an application, or [ErrNoLimit].
func FindLimit(ctx context.Context, db topology.DB, tenant int64, application string) (LimitState, error) {
	row, err := findLimit(ctx, db, tenant, application)
	if err != nil {
		return LimitState{}, err
	}
	return row.state(ctx, db, tenant)
}

func findLimit(ctx context.Context, db topology.DB, tenant int64, application string) (limitRow, error) {
	rows, _ := db.Query(ctx, oneLimitSQL, tenant, application)
	row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[limitRow])
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNoLimit
	}
	return row, err
}

// LimitKeys lists the users of a limit by name, from the one after the given.
func LimitKeys(ctx context.Context, db topology.DB, tenant int64, application, after string, most int) ([]LimitKey, error) {
	return keysOf(ctx, db, tenant, application, listKeysSQL, after, most)
}

// FindLimitKey returns what is held and left of one user of a limit.
func FindLimitKey(ctx context.Context, db topology.DB, tenant int64, application, user string) (LimitKey, error) {
	keys, err := keysOf(ctx, db, tenant, application, oneKeySQL, user)
	if err == nil && len(keys) == 0 {
		err = ErrNoUser
	}
	if err != nil {
		return LimitKey{}, err
	}
	return keys[0], nil
}

func keysOf(ctx context.Context, db topology.DB, tenant int64, application, sql string, args ...any) ([]LimitKey, error) {
	limit, err := findLimit(ctx, db, tenant, application)
	if err != nil {
		return nil, err
	}
	return limit.keys(ctx, db, tenant, sql, args...)
}

func (r limitRow) keys(ctx context.Context, db topology.DB, tenant int64, sql string, args ...any) ([]LimitKey, error) {
	rows, _ := db.Query(ctx, sql, append([]any{tenant, r.LimitID}, args...)...)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[keyRow])
	keys := make([]LimitKey, len(found))
	for i, k := range found {
		base := limiter.Limit{Amount: r.Amount, Per: r.Per, Burst: r.Burst}
		if k.Amount > 0 {
			base = limiter.Limit{Amount: k.Amount, Per: k.Per, Burst: k.Burst}
		}
		key := LimitKey{User: k.User, Limit: base, Weight: k.Weight, Overridden: k.Overridden, Held: k.Held, In: k.RateIn, Out: k.RateOut}
		bucket := bucketOf(k.Tokens, k.At)
		if !base.IsZero() {
			key.Tokens = max(bucket.Level(base.Times(r.factor(0)), r.Now), 0)
		}
		if r.PausedAt == nil {
			key.Drain = r.drain(base, bucket, k.Held)
		}
		keys[i] = key
	}
	return keys, err
}

func bucketOf(tokens float64, at time.Time) limiter.Bucket {
	if at.Unix() <= 0 {
		return limiter.Bucket{}
	}
	return limiter.Bucket{Tokens: tokens, At: at}
}

// factor is how many times its limit an application will bear in a while from now.
func (r limitRow) factor(in time.Duration) float64 {
	raise := r.Raise
	if r.RaisedUntil != nil && r.Now.Add(in).After(*r.RaisedUntil) {
		raise = 1
	}
	return raise * limiter.Slowed(r.Slow, r.SlowedAgo+in)
}

// drain is how long it takes until what is held has passed a bucket, or nil where that does not hold it.
func (r limitRow) drain(l limiter.Limit, b limiter.Bucket, held int64) *time.Duration {
	if l.IsZero() || held == 0 {
		return nil
	}
	d := limiter.Drain(l, b, held, r.Now, r.factor)
	d += max(r.ClosedUntil.Sub(r.Now), 0)
	return &d
}

func (r limitRow) state(ctx context.Context, db topology.DB, tenant int64) (LimitState, error) {
	total := limiter.Limit{Amount: r.TotalAmount, Per: r.TotalPer, Burst: r.TotalBurst}
	s := LimitState{
		Limit: Limit{
			Application: r.Application, User: limiter.Limit{Amount: r.Amount, Per: r.Per, Burst: r.Burst}, Total: total,
			Parallel: r.Parallel, Weights: r.Weights,
		},
		ID: r.LimitID, PausedAt: r.PausedAt, PausedBy: r.PausedBy, Raise: r.Raise, RaisedUntil: r.RaisedUntil,
		Share: limiter.Slowed(r.Slow, r.SlowedAgo), Held: r.Held, In: r.RateIn, Out: r.RateOut, Running: r.Running,
	}
	if r.ClosedUntil.After(r.Now) {
		s.ClosedUntil = &r.ClosedUntil
	}
	bucket := bucketOf(r.Tokens, r.At)
	if !total.IsZero() {
		s.Tokens = max(bucket.Level(total.Times(r.factor(0)), r.Now), 0)
	}
	rows, _ := db.Query(ctx, limitTopologiesSQL, tenant, r.LimitID)
	var err error
	if s.Topologies, err = pgx.CollectRows(rows, pgx.RowToStructByName[LimitTopology]); err != nil {
		return s, err
	}
	if s.Busiest, err = r.keys(ctx, db, tenant, busiestKeysSQL, busiest); err != nil || r.PausedAt != nil {
		return s, err
	}
	// What is slowest decides: the bucket of all, that of the user who needs longest, or the calls at the same time, of which
	// only the past tells how fast they are.
	longest(&s.Drain, r.drain(total, bucket, r.Held))
	for _, k := range s.Busiest {
		longest(&s.Drain, k.Drain)
	}
	if r.Parallel > 0 && r.Held > 0 && r.Running >= r.Parallel && r.RateOut > 0 {
		seen := time.Duration(float64(r.Held) / r.RateOut * float64(time.Second))
		longest(&s.Drain, &seen)
	}
	if r.Held == 0 {
		s.Drain = new(time.Duration)
	}
	return s, nil
}

func longest(a **time.Duration, b *time.Duration) {
	if b != nil && (*a == nil || **a < *b) {
		*a = b
	}
}

// HeldFilter chooses held messages of an application.
type HeldFilter struct {
	Application string
	User        *string     // nil: of all
	Topology    string      // "": of all
	Processes   []uuid.UUID // none: of all
}

// HeldChoice is what a filter chose: so many, that came up to a moment. What comes later is not meant.
type HeldChoice struct {
	Count int64
	UpTo  int64
}

// CountHeld counts the held messages that a filter chooses.
func CountHeld(ctx context.Context, db topology.DB, tenant int64, f HeldFilter) (c HeldChoice, err error) {
	id, edges, err := f.edges(ctx, db, tenant)
	if err != nil {
		return c, err
	}
	sql, args := heldSQL, []any{tenant, id, edges, f.User}
	if len(f.Processes) > 0 {
		sql, args = heldOfSQL, append(args, f.Processes)
	}
	err = db.QueryRow(ctx, sql, args...).Scan(&c.Count, &c.UpTo)
	return c, err
}

// edges are those on which what the filter chooses is held.
func (f HeldFilter) edges(ctx context.Context, db topology.DB, tenant int64) (id int64, edges []int64, err error) {
	err = db.QueryRow(ctx, `
		select l.id, coalesce((
			select array_agg(distinct h.edge_id) from (
				select edge_id, topology_id, user_name from sluice.limiter_line where tenant_id = $1 and limit_id = l.id
				union all
				select edge_id, topology_id, user_name from sluice.limiter_delta where tenant_id = $1 and limit_id = l.id
			) h
			where ($3 = '' or h.topology_id in (select id from sluice.topology where tenant_id = $1 and name = $3))
			and ($4::text is null or h.user_name = $4)), '{}')
		from sluice.limiter_limit l where l.tenant_id = $1 and l.application = $2`, tenant, f.Application, f.Topology, f.User).Scan(&id, &edges)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNoLimit
	}
	return id, edges, err
}

// TerminateHeld settles the held messages that a filter chose as terminated: those of the choice that are still held. It
// returns how many. Messages of their processes that are elsewhere go on.
func TerminateHeld(ctx context.Context, begin Beginner, tenant int64, f HeldFilter, upTo int64, by, reason string) (int64, error) {
	var total int64
	for {
		var n int64
		err := begin(ctx, func(tx pgx.Tx) error {
			id, edges, err := f.edges(ctx, tx, tenant)
			if err != nil {
				return err
			}
			sql, args := terminateHeldSQL, []any{tenant, id, edges, f.User, upTo, by, reason, noSlot}
			if len(f.Processes) > 0 {
				sql, args = terminateHeldOfSQL, append(args, f.Processes)
			}
			if err := tx.QueryRow(ctx, sql, args...).Scan(&n); err != nil || n == 0 {
				return err
			}
			_, err = tx.Exec(ctx, `insert into sluice.audit (tenant_id, actor, action, subject) values ($1, $2, 'terminate-held', $3)`,
				tenant, by, fmt.Sprintf("%s: %d messages", f, n))
			return err
		})
		total += n
		if err != nil || n == 0 {
			return total, err
		}
	}
}

// String names what a filter chooses, for the record.
func (f HeldFilter) String() string {
	name := f.Application
	if f.User != nil {
		name += " user " + *f.User
	}
	if f.Topology != "" {
		name += " topology " + f.Topology
	}
	if n := len(f.Processes); n > 0 {
		name += fmt.Sprintf(" of %d chosen processes", n)
	}
	return name
}
