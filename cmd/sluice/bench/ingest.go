package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/gateway"
	"sluice/gateway/auth"
	"sluice/queue"
	"sluice/trash"
)

const ingestConnections = 64

// measureIngest posts events over 64 connections to the gateway: the key is checked, and the ledger's row, the process,
// the message and the job are committed before the answer. The baseline is the plainest server there is: it inserts the
// body as one row and commits, for each request.
func measureIngest(ctx context.Context, r *run) ([]Result, error) {
	var all []Result
	for _, of := range []struct{ size, requests int }{{1 << 10, 40_000}, {16 << 10, 12_000}, {256 << 10, 1_500}} {
		got, err := r.ingest(ctx, of.size, r.scaled(of.requests))
		if err != nil {
			return nil, fmt.Errorf("%d KB: %w", of.size>>10, err)
		}
		all = append(all, got)
	}
	return all, nil
}

func (r *run) ingest(ctx context.Context, size, requests int) (Result, error) {
	l, err := r.lab(ctx)
	if err != nil {
		return Result{}, err
	}
	defer l.close()
	body := text(size)
	posts := post{connections: ingestConnections, body: func(int) []byte { return body }}
	plain, stopPlain, err := l.plainServer(ctx)
	if err != nil {
		return Result{}, err
	}
	defer stopPlain()
	got := Result{Unit: "events/s", BaselineName: "one INSERT and commit a request/s"}
	var through speed
	var plainP99 float64
	baseline, err := between(
		func() (speed, error) {
			posts := posts
			posts.requests, posts.path = (requests+1)/2, "/"
			s, took, err := posts.send(ctx, l, plain)
			plainP99 += percentile(took, 0.99) / 2
			return s, err
		},
		func() error {
			posts := posts
			posts.requests, posts.keyed = requests, true
			s, took, err := l.throughGateway(ctx, posts, "/events")
			through, got.P50, got.P99 = s, percentile(took, 0.5), percentile(took, 0.99)
			return err
		},
	)
	got.compare(through, baseline)
	got.add("baseline's p99", plainP99, "ms")
	return got, err
}

// throughGateway sends the posts to a gateway that runs no messages.
func (l *lab) throughGateway(ctx context.Context, posts post, path string) (got speed, took []time.Duration, err error) {
	tenants, err := queue.OpenForTenants(ctx, l.url, 4)
	if err != nil {
		return got, nil, err
	}
	defer tenants.Close()
	if err := l.addWorker(ctx, "bench", nowhere); err != nil {
		return got, nil, err
	}
	if err := l.publish(ctx, line{name: "line", hops: 1, worker: "bench"}); err != nil {
		return got, nil, err
	}
	engine, err := queue.New(ctx, l.pool, queue.Config{})
	if err != nil {
		return got, nil, err
	}
	defer stop(ctx, engine, &err)
	var key string
	err = pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		_, key, err = auth.CreateKey(ctx, tx, tenant, "bench", auth.Scopes{auth.Ingest}, "bench")
		return err
	})
	if err != nil {
		return got, nil, err
	}
	if err := l.settle(ctx); err != nil {
		return got, nil, err
	}
	posts.path = "/v1/topologies/line/nodes/in" + path
	posts.header = http.Header{"Authorization": {"Bearer " + key}}
	return posts.send(ctx, l, gateway.New(gateway.Config{
		Engine: engine, TenantPool: tenants, Keys: auth.New(l.pool), Sessions: auth.NewSessions(tenants), Trash: trash.New(tenants, engine), Logger: silent,
	}))
}

// plainServer stores the body of each request as one row, in a transaction of its own.
func (l *lab) plainServer(ctx context.Context) (handler http.Handler, stop func(), err error) {
	pool, err := queue.Open(ctx, l.url, ingestConnections)
	if err != nil {
		return nil, nil, err
	}
	// Bodies are compressed as those of messages are.
	if _, err := pool.Exec(ctx, `
		create table sluice.bench_event (id bigint generated always as identity primary key, body bytea not null);
		do $$
		begin
			alter table sluice.bench_event alter column body set compression lz4;
		exception when feature_not_supported then null;
		end $$`); err != nil {
		pool.Close()
		return nil, nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err == nil {
			_, err = pool.Exec(r.Context(), `insert into sluice.bench_event (body) values ($1)`, body)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	}), pool.Close, nil
}

const (
	batchEvents      = 500 // in a call
	batchConnections = 4
	batchBody        = 256 // bytes of an event's body
)

// measureIngestBatch posts events of 256 bytes to the gateway, 500 as NDJSON in a call, each with its key. The baseline
// copies the same rows raw: process, message, job and ledger, each by one COPY, over two connections.
func measureIngestBatch(ctx context.Context, r *run) ([]Result, error) {
	copied, err := r.lab(ctx)
	if err != nil {
		return nil, err
	}
	defer copied.close()
	l, err := r.lab(ctx)
	if err != nil {
		return nil, err
	}
	defer l.close()
	calls := r.scaled(600)
	got := Result{Unit: "events/s", BaselineName: "events by raw COPY/s"}
	var through speed
	baseline, err := between(
		func() (speed, error) { return copied.copyEvents(ctx, max(calls/2, 1)*batchEvents) },
		func() error {
			s, took, err := l.throughGateway(ctx, post{connections: batchConnections, requests: calls, body: batchOf}, "/events/batch")
			through = speed{s.rate * batchEvents, s.cpu / batchEvents}
			got.P50, got.P99 = percentile(took, 0.5), percentile(took, 0.99)
			return err
		},
	)
	got.compare(through, baseline)
	return []Result{got}, err
}

// batchOf is the body of a call.
func batchOf(n int) []byte {
	body, _ := json.Marshal(string(text(batchBody - 2))) // text always marshals
	var b bytes.Buffer
	for i := range batchEvents {
		fmt.Fprintf(&b, `{"key":"%d","body":%s}`+"\n", n*batchEvents+i, body)
	}
	return b.Bytes()
}

// copyEvents writes the rows of events, and tells how fast.
func (l *lab) copyEvents(ctx context.Context, events int) (speed, error) {
	// Rows cannot be copied into a table with row-level security, so tables like ours take them.
	for _, table := range []string{"idempotency_key", "process", "message"} {
		if _, err := l.pool.Exec(ctx, fmt.Sprintf(`create table if not exists sluice.bench_%[1]s (like sluice.%[1]s including all)`, table)); err != nil {
			return speed{}, err
		}
	}
	if err := l.settle(ctx); err != nil {
		return speed{}, err
	}
	const connections = 2
	rows := make([]eventRows, connections)
	for i := range rows {
		var err error
		if rows[i], err = newEventRows(ctx, l.pool, events/connections); err != nil {
			return speed{}, err
		}
	}
	return l.timed(ctx, events, func() error {
		errs := make([]error, connections)
		var copiers sync.WaitGroup
		for i := range rows {
			copiers.Go(func() {
				errs[i] = pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error { return rows[i].copy(ctx, tx) })
			})
		}
		copiers.Wait()
		return errors.Join(errs...)
	})
}

// eventRows are what an engine writes for some events.
type eventRows struct {
	ids       []int64
	processes [][16]byte
	body      []byte
}

func newEventRows(ctx context.Context, pool *pgxpool.Pool, events int) (eventRows, error) {
	rows := eventRows{body: text(batchBody)}
	err := pool.QueryRow(ctx, `
		select array_agg(nextval('river.river_job_id_seq')), array_agg(`+newProcessID+`) from generate_series(1, $1::int)`, events).
		Scan(&rows.ids, &rows.processes)
	return rows, err
}

func (r eventRows) copy(ctx context.Context, tx pgx.Tx) error {
	now := time.Now()
	for _, t := range []struct {
		table   pgx.Identifier
		columns []string
		values  func(i int) []any
	}{
		{pgx.Identifier{"sluice", "bench_idempotency_key"}, []string{"tenant_id", "digest", "body_digest", "process_id"}, func(i int) []any {
			return []any{tenant, r.processes[i][:], r.processes[i][:], r.processes[i]}
		}},
		{pgx.Identifier{"sluice", "bench_process"}, []string{"tenant_id", "id", "version_id", "node", "total", "open", "started_at"}, func(i int) []any {
			return []any{tenant, r.processes[i], 1, "in", 1, 1, now}
		}},
		{pgx.Identifier{"sluice", "bench_message"}, []string{"tenant_id", "process_id", "id", "edge_id", "headers", "body"}, func(i int) []any {
			return []any{tenant, r.processes[i], r.ids[i], 1, `{"content-type":"application/json"}`, r.body}
		}},
		{pgx.Identifier{"river", "river_job"}, []string{"id", "args", "kind", "max_attempts", "queue"}, func(i int) []any {
			return []any{r.ids[i], `{"process_id":"` + uuid.UUID(r.processes[i]).String() + `"}`, "message", 32767, "e1"}
		}},
	} {
		rows := pgx.CopyFromSlice(len(r.ids), func(i int) ([]any, error) { return t.values(i), nil })
		if _, err := tx.CopyFrom(ctx, t.table, t.columns, rows); err != nil {
			return fmt.Errorf("copy into %s: %w", strconv.Quote(t.table.Sanitize()), err)
		}
	}
	return nil
}
