package queue

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
)

// housekeeping is ordinary River: a client whose elected leader runs periodic jobs, on a queue of its own.
type housekeeping struct {
	client *river.Client[pgx.Tx]
}

const housekeepingQueue = "housekeeping"

type houseworkArgs struct{}

func (houseworkArgs) Kind() string { return "housework" }

type housework struct {
	river.WorkerDefaults[houseworkArgs]
	engine *Engine
}

// Work does what must be done now and then: partitions for the days to come, keys that are over, runners that are long dead, users of limits who are
// idle, messages whose jobs were deleted, and a sign of life for the queues of edges, which River would forget after a day.
func (h *housework) Work(ctx context.Context, _ *river.Job[houseworkArgs]) error {
	if err := ensurePartitions(ctx, h.engine.pool); err != nil {
		return err
	}
	if err := h.engine.expireKeys(ctx); err != nil {
		return err
	}
	if err := h.engine.forgetRunners(ctx); err != nil {
		return err
	}
	if err := h.engine.forgetUsers(ctx); err != nil {
		return err
	}
	if err := h.engine.rescueDeleted(ctx); err != nil {
		return err
	}
	return h.engine.reportQueues(ctx)
}

type lanesArgs struct{}

func (lanesArgs) Kind() string { return "lanes" }

// lanesWork forgets lanes that have been idle for a while, and puts back tokens that someone deleted through River.
type lanesWork struct {
	river.WorkerDefaults[lanesArgs]
	engine *Engine
}

func (w *lanesWork) Work(ctx context.Context, _ *river.Job[lanesArgs]) error {
	if _, err := w.engine.pool.Exec(ctx, restoreTokensSQL); err != nil {
		return err
	}
	for {
		forgotten, err := w.engine.pool.Exec(ctx, forgetLanesSQL)
		if err != nil || forgotten.RowsAffected() == 0 {
			return err
		}
	}
}

type sortArgs struct{}

func (sortArgs) Kind() string { return "sort-trash" }

// sortWork sorts entries of the trash that were there before they had a class and a cause.
type sortWork struct {
	river.WorkerDefaults[sortArgs]
	engine *Engine
}

func (w *sortWork) Work(ctx context.Context, _ *river.Job[sortArgs]) error {
	return w.engine.sortTrash(ctx)
}

func (w *sortWork) Timeout(*river.Job[sortArgs]) time.Duration { return 10 * time.Minute }

func (h *housework) Timeout(*river.Job[houseworkArgs]) time.Duration { return 10 * time.Minute }

// messageArgs and messageWorker make River's maintenance leave our jobs alone: it discards stuck jobs of kinds that it
// does not know, and rescues those of kinds that it does, unless their timeout is negative.
type messageArgs struct {
	ProcessID string `json:"process_id"`
}

func (messageArgs) Kind() string { return jobKind }

type messageWorker struct {
	river.WorkerDefaults[messageArgs]
}

func (messageWorker) Work(context.Context, *river.Job[messageArgs]) error { return nil }

func (messageWorker) Timeout(*river.Job[messageArgs]) time.Duration { return -1 }

// laneArgs and laneWorker do the same for tokens.
type laneArgs struct {
	Edge int64  `json:"edge"`
	Key  string `json:"key"`
}

func (laneArgs) Kind() string { return laneKind }

type laneWorker struct {
	river.WorkerDefaults[laneArgs]
}

func (laneWorker) Work(context.Context, *river.Job[laneArgs]) error { return nil }

func (laneWorker) Timeout(*river.Job[laneArgs]) time.Duration { return -1 }

func startHousekeeping(ctx context.Context, e *Engine) (*housekeeping, error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, &housework{engine: e})
	river.AddWorker(workers, &lanesWork{engine: e})
	river.AddWorker(workers, &sortWork{engine: e})
	river.AddWorker(workers, &declaredWork{engine: e})
	river.AddWorker(workers, messageWorker{})
	river.AddWorker(workers, laneWorker{})
	client, err := river.NewClient(riverpgxv5.New(e.conns), &river.Config{
		CompletedJobRetentionPeriod: time.Hour,
		FetchPollInterval:           30 * time.Second,
		PollOnly:                    e.config.PollOnly,
		Logger:                      slog.New(quiet{e.log.Handler()}),
		PeriodicJobs:                []*river.PeriodicJob{every(time.Hour, houseworkArgs{}), every(time.Minute, lanesArgs{}), every(time.Minute, sortArgs{}), every(declaredSweep, declaredArgs{})},
		Queues:                      map[string]river.QueueConfig{housekeepingQueue: {MaxWorkers: 1}},
		Schema:                      "river",
		Workers:                     workers,
	})
	if err != nil {
		return nil, err
	}
	return &housekeeping{client}, client.Start(context.WithoutCancel(ctx))
}

// every makes a job for the leader at its start, and then each period.
func every(period time.Duration, args river.JobArgs) *river.PeriodicJob {
	return river.NewPeriodicJob(river.PeriodicInterval(period), func() (river.JobArgs, *river.InsertOpts) {
		return args, &river.InsertOpts{Queue: housekeepingQueue, UniqueOpts: river.UniqueOpts{ByPeriod: period}}
	}, &river.PeriodicJobOpts{RunOnStart: true})
}

func (h *housekeeping) stop(ctx context.Context) error { return h.client.StopAndCancel(ctx) }

// quiet passes on what River warns of; its comings and goings are not news.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && q.Handler.Enabled(ctx, l)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }

// expireKeys forgets idempotency keys that are older than their time, some thousands at once.
func (e *Engine) expireKeys(ctx context.Context) error {
	for {
		tag, err := e.pool.Exec(ctx, `
			delete from sluice.idempotency_key
			where (tenant_id, digest) in (
				select tenant_id, digest from sluice.idempotency_key
				where created_at < now() - $1::interval
				limit 5000)`, e.config.KeyTTL)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
	}
}

// forgetUsers forgets users of limits who have long had nothing held.
func (e *Engine) forgetUsers(ctx context.Context) error {
	for _, sql := range []string{forgetLinesSQL, forgetKeysSQL} {
		for {
			tag, err := e.pool.Exec(ctx, sql)
			if err != nil {
				return err
			}
			if tag.RowsAffected() == 0 {
				break
			}
		}
	}
	return nil
}

// reportQueues tells River that the queues of the edges of versions in use are there.
func (e *Engine) reportQueues(ctx context.Context) error {
	rows, _ := e.pool.Query(ctx, `
		select e.id from sluice.edge e
		join sluice.topology_version v on v.tenant_id = e.tenant_id and v.id = e.version_id
		where v.retired_at is null order by e.id`)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return err
	}
	_, err = e.pool.Exec(ctx, registerQueuesSQL, ids)
	return err
}
