package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"sluice/limiter"
	"sluice/queue/topology"
	"sluice/queue/worker"
)

// Limits that applications declare. A worker is asked what each user's enabled applications allow: when something about
// one was changed, and every few minutes, never on the way of an event. What it said last holds until it says something
// else. As long as it has never said what a user's application allows, because it cannot be asked, calls of the
// application wait. A limit that an operator sets stands above what a worker declares.

const (
	declaredSweep   = 30 * time.Second // between looks at what is due
	declaredLife    = 5 * time.Minute  // after which a worker is asked again
	declaredPatch   = 200              // users asked in one sweep at most
	declaredTime    = 20 * time.Second // after which a sweep asks nobody any more: other housekeeping waits for it
	declaredWait    = 10 * time.Second // for one answer
	declaredBy      = "declared limits"
	limitsUnknown   = "sluice: the worker does not say what it allows"
	maxDeclared     = 1000 // limits in one answer
	declaredTimeout = time.Minute
)

type declaredArgs struct{}

func (declaredArgs) Kind() string { return "declared-limits" }

// declaredWork asks workers what their applications allow.
type declaredWork struct {
	river.WorkerDefaults[declaredArgs]
	engine *Engine
}

func (w *declaredWork) Work(ctx context.Context, _ *river.Job[declaredArgs]) error {
	return w.engine.RefreshDeclaredLimits(ctx)
}

func (*declaredWork) Timeout(*river.Job[declaredArgs]) time.Duration { return declaredTimeout }

// dueLimits are a user's applications of which a worker is to be asked.
type dueLimits struct {
	TenantID     int64
	Worker       string
	UserName     string
	Applications []string
}

// RefreshDeclaredLimits asks the workers of all tenants what is due. Of a worker that cannot be reached, it asks once.
func (e *Engine) RefreshDeclaredLimits(ctx context.Context) error {
	if _, err := e.applications(); err != nil {
		return nil //nolint:nilerr // nobody can be asked, so nothing is due
	}
	if err := e.forgetDeclared(ctx); err != nil {
		return err
	}
	rows, _ := e.pool.Query(ctx, `
		select i.tenant_id, w.name as worker, i.user_name, array_agg(distinct i.application) as applications
		from sluice.application_install i
		join sluice.worker w on w.tenant_id = i.tenant_id and w.removed_at is null and w.protocol = 'orchesty'
		  and w.listing -> 'applications' @> jsonb_build_array(jsonb_build_object('key', i.application))
		left join sluice.declared_limit d on d.tenant_id = i.tenant_id and d.application = i.application and d.user_name = i.user_name
		where i.deleted_at is null and i.enabled and length(i.application) between 1 and 200
		  and coalesce(d.tried_at, 'epoch') < now() - case when d.asked_at is null then interval '5 seconds' else $1::interval end
		group by 1, 2, 3 order by min(coalesce(d.tried_at, 'epoch')), 1, 2, 3 limit $2`, declaredLife, declaredPatch)
	due, err := pgx.CollectRows(rows, pgx.RowToStructByName[dueLimits])
	if err != nil {
		return err
	}
	down := map[workerKey]error{}
	began := time.Now()
	for _, d := range due {
		if time.Since(began) > declaredTime {
			return nil // those who waited longest were asked first
		}
		key := workerKey{d.TenantID, d.Worker}
		why := e.askLimits(ctx, d, down[key])
		if failure, is := errors.AsType[*worker.Failure](why); is && failure.Class == worker.Unavailable {
			down[key] = failure
		} else if why != nil && !is {
			return why
		}
	}
	return nil
}

// forgetDeclared drops what was said of applications that nobody has enabled any more.
func (e *Engine) forgetDeclared(ctx context.Context) error {
	rows, _ := e.pool.Query(ctx, `
		delete from sluice.declared_limit d
		where not exists (
			select from sluice.application_install i
			where i.tenant_id = d.tenant_id and i.application = d.application and i.user_name = d.user_name and i.deleted_at is null and i.enabled)
		returning tenant_id, application`)
	gone := map[ApplicationOf]bool{}
	var a ApplicationOf
	if _, err := pgx.ForEachRow(rows, []any{&a.Tenant, &a.Key}, func() error { gone[a] = true; return nil }); err != nil {
		return err
	}
	for a := range gone {
		if err := e.applyDeclared(ctx, a.Tenant, a.Key); err != nil {
			return err
		}
	}
	return nil
}

// refreshLimits asks what a user's application allows, now that something about it was changed.
func (e *Engine) refreshLimits(ctx context.Context, a ApplicationOf) (warning string, _ error) {
	var enabled bool
	if err := e.pool.QueryRow(ctx, `
		select exists (select from sluice.application_install where tenant_id = $1 and application = $2 and user_name = $3 and deleted_at is null and enabled)`,
		a.Tenant, a.Key, a.User).Scan(&enabled); err != nil {
		return "", err
	}
	if !enabled {
		return "", e.forgetDeclared(ctx)
	}
	err := e.askLimits(ctx, dueLimits{a.Tenant, a.Worker, a.User, []string{a.Key}}, nil)
	if failure, is := errors.AsType[*worker.Failure](err); is {
		return "what it allows could not be asked: " + failure.Reason, nil
	}
	return "", err
}

// askLimits asks a worker, unless it is known to be down, keeps what it says, and has the limiter hold it. The error is a
// [*worker.Failure] if the worker did not say.
func (e *Engine) askLimits(ctx context.Context, d dueLimits, down error) error {
	declared, why := map[string]declaredLimit{}, down
	if why == nil {
		declared, why = e.declaredOf(ctx, d)
	}
	failure, refused := errors.AsType[*worker.Failure](why)
	if why != nil && !refused {
		return why
	}
	for _, application := range d.Applications {
		l := declared[application]
		reason := ""
		if refused {
			reason = failure.Reason
		}
		if _, err := e.pool.Exec(ctx, `
			insert into sluice.declared_limit as d (tenant_id, application, user_name, worker, tried_at, asked_at, error, amount, per, total_amount, total_per)
			values ($1, $2, $3, $4, now(), case when $5 = '' then now() end, nullif($5, ''), nullif($6::double precision, 0), nullif($7::interval, interval '0'),
			        nullif($8::double precision, 0), nullif($9::interval, interval '0'))
			on conflict (tenant_id, application, user_name) do update
			set tried_at = now(), error = excluded.error, worker = excluded.worker, asked_at = coalesce(excluded.asked_at, d.asked_at),
			    amount = case when $5 = '' then excluded.amount else d.amount end, per = case when $5 = '' then excluded.per else d.per end,
			    total_amount = case when $5 = '' then excluded.total_amount else d.total_amount end,
			    total_per = case when $5 = '' then excluded.total_per else d.total_per end`,
			d.TenantID, application, d.UserName, d.Worker, reason, l.user.Amount, l.user.Per, l.total.Amount, l.total.Per); err != nil {
			return err
		}
		if err := e.applyDeclared(ctx, d.TenantID, application); err != nil {
			return err
		}
	}
	return why
}

// declaredLimit is what an application of a user allows: the user, and all users together.
type declaredLimit struct{ user, total limiter.Limit }

// declaredOf asks a worker. One that has no route for it declares nothing.
func (e *Engine) declaredOf(ctx context.Context, d dueLimits) (map[string]declaredLimit, error) {
	target, err := e.catalog.worker(ctx, workerKey{d.TenantID, d.Worker})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, declaredWait)
	defer cancel()
	path := []string{"limits"}
	if target.Dialect == worker.DialectB {
		path = []string{"sdk", target.Name, "limits"}
	}
	doc, err := e.ask(ctx, target, worker.ApplicationCall{
		Method: http.MethodPost, Path: path, Body: map[string]any{"user": d.UserName, "applications": d.Applications},
	})
	if failure, is := errors.AsType[*worker.Failure](err); is && failure.Status == http.StatusNotFound {
		return map[string]declaredLimit{}, nil
	}
	if err != nil {
		return nil, err
	}
	declared, err := parseDeclared(doc, d.UserName)
	if err != nil {
		return nil, &worker.Failure{Class: worker.Transient, Reason: worker.Clean(fmt.Sprintf("worker %s says what it allows, but not as an Orchesty worker does: %s", d.Worker, err)), Err: worker.ErrProtocol}
	}
	return declared, nil
}

// parseDeclared reads limiter keys, "user|application;seconds;amount", one or several in a text. Those of nobody are of
// all users together; those of other users are not ours to say.
func parseDeclared(doc []byte, user string) (map[string]declaredLimit, error) {
	var keys []string
	if err := json.Unmarshal(doc, &keys); err != nil || len(keys) > maxDeclared {
		return nil, errors.New("want a list of limits")
	}
	declared := map[string]declaredLimit{}
	for _, key := range keys {
		parts := strings.Split(key, ";")
		for i := 0; i+2 < len(parts); i += 3 {
			whose, application, found := strings.Cut(parts[i], "|")
			if _, of, named := strings.Cut(application, ":"); named { // of dialect b: worker:application
				application = of
			}
			seconds, err := strconv.Atoi(parts[i+1])
			amount, err2 := strconv.Atoi(parts[i+2])
			limit := limiter.Limit{Amount: float64(amount), Per: time.Duration(min(max(seconds, 0), 366*24*3600)) * time.Second}.Normal()
			if !found || err != nil || err2 != nil || limit.IsZero() || checkAmounts(limit) != nil {
				return nil, fmt.Errorf("the limit %.80q makes no sense", key)
			}
			l := declared[application]
			switch whose {
			case user:
				l.user = slower(l.user, limit)
			case "":
				l.total = slower(l.total, limit)
			}
			declared[application] = l
		}
	}
	return declared, nil
}

// slower is the limit that allows less: where several hold, that one does.
func slower(a, b limiter.Limit) limiter.Limit {
	if a.IsZero() || !b.IsZero() && b.Rate() < a.Rate() {
		return b
	}
	return a
}

// applyDeclared has the limiter hold what was declared for an application, unless an operator has set its limit.
func (e *Engine) applyDeclared(ctx context.Context, tenant int64, application string) error {
	return pgx.BeginFunc(ctx, e.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended('declared limit ' || $1::bigint || ' ' || $2, 0))`, tenant, application); err != nil {
			return err
		}
		var byHand, holds bool
		if err := tx.QueryRow(ctx, `
			select coalesce(bool_or(not declared), false), count(*) > 0
			from sluice.limiter_limit where tenant_id = $1 and application = $2 and removed_at is null`, tenant, application).Scan(&byHand, &holds); err != nil || byHand {
			return err
		}
		total, users, unknown, err := declaredFor(ctx, tx, tenant, application)
		switch {
		case err != nil:
			return err
		case total.IsZero() && len(users) == 0 && !unknown && holds:
			return RemoveLimit(ctx, tx, tenant, application, declaredBy)
		case total.IsZero() && len(users) == 0 && !unknown:
			return nil
		}
		return holdDeclared(ctx, tx, heldLimit{tenant, application, total, users, unknown})
	})
}

// declaredFor is what was declared for an application: of all users together the least, and each user's. It is unknown
// while the worker has never said what one of them is allowed.
func declaredFor(ctx context.Context, tx pgx.Tx, tenant int64, application string) (total limiter.Limit, users map[string]limiter.Limit, unknown bool, _ error) {
	rows, _ := tx.Query(ctx, `
		select user_name, asked_at is null, coalesce(amount, 0), coalesce(per, interval '0'), coalesce(total_amount, 0), coalesce(total_per, interval '0')
		from sluice.declared_limit where tenant_id = $1 and application = $2`, tenant, application)
	users = map[string]limiter.Limit{}
	var user string
	var never bool
	var own, all limiter.Limit
	_, err := pgx.ForEachRow(rows, []any{&user, &never, &own.Amount, &own.Per, &all.Amount, &all.Per}, func() error {
		if unknown = unknown || never; !own.IsZero() {
			users[user] = own.Normal()
		}
		total = slower(total, all.Normal())
		return nil
	})
	return total, users, unknown, err
}

// heldLimit is what the limiter is to hold of what was declared.
type heldLimit struct {
	tenant      int64
	application string
	total       limiter.Limit
	users       map[string]limiter.Limit
	unknown     bool
}

// holdDeclared brings the limiter's tables to what was declared. What is so already is not touched, so that nobody looks
// at it again.
func holdDeclared(ctx context.Context, tx pgx.Tx, h heldLimit) error {
	var changed int64
	tag, err := tx.Exec(ctx, `
		insert into sluice.limiter_limit as l (tenant_id, application, total_amount, total_per, total_burst, declared, paused_at, paused_by)
		values ($1, $2, nullif($3::double precision, 0), nullif($4::interval, interval '0'), nullif($5::double precision, 0), true,
		        case when $6 then now() end, case when $6 then $7::text end)
		on conflict (tenant_id, application) do update
		set amount = null, per = null, burst = null, parallel = null, total_amount = excluded.total_amount, total_per = excluded.total_per, total_burst = excluded.total_burst,
		    declared = true, removed_at = null,
		    paused_at = case when $6 then coalesce(l.paused_at, now()) when l.paused_by = $7 then null else l.paused_at end,
		    paused_by = case when $6 then coalesce(l.paused_by, $7) when l.paused_by = $7 then null else l.paused_by end
		where (l.total_amount, l.total_per, l.total_burst, l.declared, l.removed_at is null, l.paused_at is not null and ($6 or l.paused_by = $7))
		      is distinct from (excluded.total_amount, excluded.total_per, excluded.total_burst, true, true, $6)`,
		h.tenant, h.application, h.total.Amount, h.total.Per, h.total.Burst, h.unknown, limitsUnknown)
	if err != nil {
		return err
	}
	changed += tag.RowsAffected()
	var id int64
	if err := tx.QueryRow(ctx, `select id from sluice.limiter_limit where tenant_id = $1 and application = $2`, h.tenant, h.application).Scan(&id); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `insert into sluice.limiter_gate (tenant_id, limit_id) values ($1, $2) on conflict do nothing`, h.tenant, id); err != nil {
		return err
	}
	names, amounts, pers, bursts := []string{}, []float64{}, []time.Duration{}, []float64{}
	for name, l := range h.users {
		names, amounts, pers, bursts = append(names, name), append(amounts, l.Amount), append(pers, l.Per), append(bursts, l.Burst)
	}
	for _, sql := range []string{`
		insert into sluice.limiter_override as o (tenant_id, limit_id, user_name, amount, per, burst, declared)
		select $1, $2, u.name, u.amount, u.per, u.burst, true
		from unnest($3::text[], $4::double precision[], $5::interval[], $6::double precision[]) u (name, amount, per, burst)
		order by u.name
		on conflict (tenant_id, limit_id, user_name) do update
		set amount = excluded.amount, per = excluded.per, burst = excluded.burst
		where o.declared and (o.amount, o.per, o.burst) is distinct from (excluded.amount, excluded.per, excluded.burst)`, `
		delete from sluice.limiter_override
		where tenant_id = $1 and limit_id = $2 and declared and user_name <> all ($3::text[])
		  and $4::double precision[] is not null and $5::interval[] is not null and $6::double precision[] is not null`} {
		tag, err := tx.Exec(ctx, sql, h.tenant, id, names, amounts, pers, bursts)
		if err != nil {
			return err
		}
		changed += tag.RowsAffected()
	}
	if changed == 0 {
		return nil
	}
	return noteLimit(ctx, tx, h.tenant, id, declaredBy, "set-limit", h.application)
}

// DeclaredLimit is what a user's application allows by its worker's word.
type DeclaredLimit struct {
	User      limiter.Limit
	Total     limiter.Limit // of all users together
	AskedAt   *time.Time    // when the worker said so; nil: never
	Error     string        // why it could not be asked since
	Overruled bool          // an operator has set the limit, which holds instead
}

// FindDeclared returns what a user's application allows, or nil if its worker was never asked.
func FindDeclared(ctx context.Context, db topology.DB, tenant int64, application, user string) (*DeclaredLimit, error) {
	var d DeclaredLimit
	err := db.QueryRow(ctx, `
		select coalesce(d.amount, 0), coalesce(d.per, interval '0'), coalesce(d.total_amount, 0), coalesce(d.total_per, interval '0'), d.asked_at, coalesce(d.error, ''),
		       exists (select from sluice.limiter_limit l left join sluice.limiter_override o on o.tenant_id = l.tenant_id and o.limit_id = l.id and o.user_name = d.user_name
		               where l.tenant_id = d.tenant_id and l.application = d.application and l.removed_at is null and (not l.declared or not o.declared))
		from sluice.declared_limit d where d.tenant_id = $1 and d.application = $2 and d.user_name = $3`, tenant, application, user).
		Scan(&d.User.Amount, &d.User.Per, &d.Total.Amount, &d.Total.Per, &d.AskedAt, &d.Error, &d.Overruled)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil //nolint:nilnil // there is none, which is no error
	}
	return &d, err
}
