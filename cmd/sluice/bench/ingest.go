package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/gateway"
	"sluice/gateway/auth"
	"sluice/queue"
	"sluice/trash"
)

const ingestConnections = 64

// measureIngest posts events of 1 KB over 64 connections to the gateway: the key is checked, and the ledger's row, the
// process, the message and the job are committed before the answer. The baseline is the plainest server there is: it
// inserts the body as one row and commits, for each request.
func measureIngest(ctx context.Context, r *run) (Result, error) {
	url, drop, err := r.database(ctx)
	if err != nil {
		return Result{}, err
	}
	defer drop()
	requests := r.scaled(30_000)
	baseline, err := oneInsertEach(ctx, url, requests)
	if err != nil {
		return Result{}, fmt.Errorf("baseline: %w", err)
	}
	rate, took, err := ingestRate(ctx, url, requests)
	return Result{
		Rate: rate, Unit: "events/s", Baseline: baseline, BaselineName: "one INSERT and commit a request/s",
		P50: percentile(took, 0.5), P99: percentile(took, 0.99),
	}, err
}

func ingestRate(ctx context.Context, url string, requests int) (rate float64, took []time.Duration, err error) {
	pool, err := queue.Open(ctx, url, 16)
	if err != nil {
		return 0, nil, err
	}
	defer pool.Close()
	tenants, err := queue.OpenForTenants(ctx, url, 4)
	if err != nil {
		return 0, nil, err
	}
	defer tenants.Close()
	if err := publish(ctx, pool, 1, 1, "http://127.0.0.1:9"); err != nil {
		return 0, nil, err
	}
	engine, err := queue.New(ctx, pool, queue.Config{})
	if err != nil {
		return 0, nil, err
	}
	defer stop(ctx, engine, &err)
	var key string
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		_, key, err = auth.CreateKey(ctx, tx, tenant, "bench", auth.Scopes{auth.Ingest}, "bench")
		return err
	})
	if err != nil {
		return 0, nil, err
	}
	handler := gateway.New(gateway.Config{
		Engine: engine, TenantPool: tenants, Keys: auth.New(pool), Trash: trash.New(tenants, engine), Logger: silent,
	})
	return load(ctx, handler, "/v1/topologies/"+line+"/nodes/in/events", requests, http.Header{"Authorization": {"Bearer " + key}})
}

// oneInsertEach is the baseline.
func oneInsertEach(ctx context.Context, url string, requests int) (float64, error) {
	pool, err := queue.Open(ctx, url, ingestConnections)
	if err != nil {
		return 0, err
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, `create table sluice.bench_event (id bigint generated always as identity primary key, body bytea not null)`); err != nil {
		return 0, err
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err == nil {
			_, err = pool.Exec(r.Context(), `insert into sluice.bench_event (body) values ($1)`, body)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	})
	rate, _, err := load(ctx, handler, "/", requests, nil)
	return rate, err
}

// load serves the handler on loopback, posts bodies of 1 KB to it from as many connections as there are callers, and
// returns the rate and the sorted times of the requests.
func load(ctx context.Context, handler http.Handler, path string, requests int, header http.Header) (float64, []time.Duration, error) {
	url, stopServer, err := loopback(ctx, handler)
	if err != nil {
		return 0, nil, err
	}
	defer stopServer()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: ingestConnections}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	url += path

	const warmUp = 1000
	var next atomic.Int64
	var callers sync.WaitGroup
	took := make([]time.Duration, requests)
	errs := make([]error, ingestConnections)
	post := func(n int) error {
		body := bytes.Repeat([]byte("x"), 1024)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
		if err != nil {
			return err
		}
		maps.Copy(req.Header, header)
		req.Header.Set("Idempotency-Key", strconv.Itoa(n))
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != http.StatusAccepted {
			err = fmt.Errorf("%s: %s", resp.Status, answer)
		}
		return err
	}
	all := func(from, to int, note func(n int, d time.Duration)) error {
		next.Store(int64(from))
		for c := range ingestConnections {
			callers.Go(func() {
				for {
					n := int(next.Add(1)) - 1
					if n >= to || errs[c] != nil {
						return
					}
					start := time.Now()
					errs[c] = post(n)
					note(n, time.Since(start))
				}
			})
		}
		callers.Wait()
		return errors.Join(errs...)
	}
	if err := all(requests, requests+warmUp, func(int, time.Duration) {}); err != nil {
		return 0, nil, err
	}
	start := time.Now()
	if err := all(0, requests, func(n int, d time.Duration) { took[n] = d }); err != nil {
		return 0, nil, err
	}
	rate := float64(requests) / time.Since(start).Seconds()
	slices.Sort(took)
	return rate, took, nil
}
