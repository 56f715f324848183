package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/gateway"
	"sluice/migrations/pgtest"
	"sluice/queue"
)

// crowd are producers who post events with keys, one by one and by many, and again what was refused, as good ones do.
type crowd struct {
	d       *door
	stop    chan struct{}
	running sync.WaitGroup
	stored  atomic.Int64 // events
	refused atomic.Int64 // requests, with 503

	mu       sync.Mutex
	accepted map[string]string // correlation ids by key, which is the body, too
}

func (d *door) produce() *crowd {
	p := &crowd{d: d, stop: make(chan struct{}), accepted: map[string]string{}}
	for i := range 6 {
		p.running.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-p.stop:
					return
				default:
				}
				keys := []string{fmt.Sprintf("%d-%d", i, n)}
				if i%2 == 0 {
					p.one(keys[0])
					continue
				}
				for k := range 9 {
					keys = append(keys, fmt.Sprintf("%d-%d-%d", i, n, k))
				}
				p.many(keys)
			}
		})
	}
	return p
}

// later is where a refused producer waits. A real one waits as long as it is told.
func (p *crowd) later() {
	p.refused.Add(1)
	time.Sleep(50 * time.Millisecond) //nolint:forbidigo // what a producer does
}

func (p *crowd) one(key string) {
	for {
		resp, body := p.d.send(p.d.ingest, "POST", inbox, []byte(key), "Idempotency-Key", key)
		var a accepted
		switch {
		case resp.StatusCode == http.StatusServiceUnavailable:
			p.later()
			continue
		case resp.StatusCode != http.StatusAccepted || json.Unmarshal(body, &a) != nil:
			p.d.t.Errorf("%s: %d %s", key, resp.StatusCode, body)
			return
		}
		p.keep(key, a.CorrelationID)
		return
	}
}

func (p *crowd) many(keys []string) {
	for len(keys) > 0 {
		var lines strings.Builder
		for _, key := range keys {
			fmt.Fprintf(&lines, "{\"key\":%q,\"text\":%q}\n", key, key)
		}
		resp, body := p.d.send(p.d.ingest, "POST", inbox+"/batch", []byte(lines.String()))
		var got struct {
			Items []struct {
				CorrelationID string `json:"correlation_id"`
				Error         *struct {
					Status     int
					RetryAfter int `json:"retry_after"`
				}
			}
		}
		switch {
		case resp.StatusCode == http.StatusServiceUnavailable:
			p.later()
			continue
		case resp.StatusCode != http.StatusAccepted || json.Unmarshal(body, &got) != nil || len(got.Items) != len(keys):
			p.d.t.Errorf("%s: %d %s", keys, resp.StatusCode, body)
			return
		}
		var left []string
		for i, item := range got.Items {
			switch {
			case item.Error == nil:
				p.keep(keys[i], item.CorrelationID)
			case item.Error.Status == http.StatusServiceUnavailable && item.Error.RetryAfter >= 1:
				left = append(left, keys[i])
			default:
				p.d.t.Errorf("%s: %s", keys[i], body)
			}
		}
		if keys = left; len(keys) > 0 {
			p.later()
		}
	}
}

func (p *crowd) keep(key, id string) {
	p.stored.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.accepted[key] = id
}

// seen waits until more events are accepted.
func (p *crowd) seen(what string) {
	p.d.t.Helper()
	from := p.stored.Load()
	p.d.until(what, func() bool { return p.stored.Load() > from+50 })
}

// end stops the producers once each has got its last event in. What they were told is held against what is there: each
// event once, under the id that was given out for it, and worked.
func (p *crowd) end() {
	d := p.d
	d.t.Helper()
	close(p.stop)
	p.running.Wait()
	rows, err := d.pool.Query(d.t.Context(), `select convert_from(body, 'UTF8'), process_id::text from sluice.message where parent_id is null`)
	ok(d.t, err)
	found := map[string]string{}
	var key, id string
	_, err = pgx.ForEachRow(rows, []any{&key, &id}, func() error {
		if _, twice := found[key]; twice {
			d.t.Errorf("%s is stored twice", key)
		}
		found[key] = id
		return nil
	})
	ok(d.t, err)
	for key, id := range p.accepted {
		if found[key] != id {
			d.t.Errorf("%s was accepted as %s, and stored as %q", key, id, found[key])
		}
	}
	d.until("all is worked", func() bool {
		var open int
		ok(d.t, d.pool.QueryRow(d.t.Context(), `select count(*) from sluice.process where finished_at is null`).Scan(&open))
		return open == 0
	})
	report, err := queue.Check(d.t.Context(), d.pool)
	ok(d.t, err)
	for _, v := range report.Violations {
		d.t.Errorf("check: %s %s: %s", v.Rule, v.ID, v.Detail)
	}
	d.t.Logf("%d events accepted, %d requests refused", len(p.accepted), p.refused.Load())
}

// A database in trouble is no reason to lose an event, to take one twice, or to answer anything but 503 with the time
// to come again. When the trouble is over, everything goes on by itself: nobody restarts anything.
func TestDatabaseInTrouble(t *testing.T) {
	t.Parallel()
	refusesChanges := map[string]bool{"read-only": true, "too many connections": true, "nobody there": true}
	for name, trouble := range map[string]func(t *testing.T, d *door, on place) (over func()){
		// As after a fail-over, when an address still leads to what is now a replica.
		"read-only": func(t *testing.T, _ *door, on place) func() {
			must(t, run(on.admin, `do $$ begin execute format('alter database %I set default_transaction_read_only = on', current_database()); end $$`))
			must(t, run(on.admin, cutOff))
			return func() {
				must(t, run(on.admin, `do $$ begin execute format('alter database %I reset default_transaction_read_only', current_database()); end $$`))
			}
		},
		// As Postgres says it when a file cannot grow.
		"disk full": func(t *testing.T, _ *door, on place) func() {
			must(t, run(on.admin, `
				create function no_room() returns trigger language plpgsql as $$ begin
					raise exception using errcode = 'disk_full', message = 'could not extend file';
				end $$`))
			must(t, run(on.admin, `create trigger no_room before insert or update or delete on river.river_job for each statement execute function no_room()`))
			return func() { must(t, run(on.admin, `drop function no_room cascade`)) }
		},
		// As when other programs have taken all that the server gives out.
		"too many connections": func(t *testing.T, _ *door, on place) func() {
			limit := func(n int) {
				must(t, run(on.admin, fmt.Sprintf(`do $$ begin execute format('alter database %%I connection limit %d', current_database()); end $$`, n)))
			}
			limit(1) // which is admin's
			must(t, run(on.admin, cutOff))
			return func() { limit(-1) }
		},
		"nobody there": func(_ *testing.T, _ *door, on place) func() {
			on.way.refuse()
			return on.way.reopen
		},
		"engine's connections taken": func(t *testing.T, d *door, _ place) func() { return takeAll(t, d.pool) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			way := newPipe(t, db.URL)
			d := openOn(t, way.url, func(c *gateway.Config) { c.AcceptTime = time.Second })
			d.serve(pass)
			d.enable("flow", flow)
			admin, err := pgx.Connect(t.Context(), db.URL)
			ok(t, err)
			t.Cleanup(func() { _ = admin.Close(context.Background()) })
			p := d.produce()
			p.seen("all is well")
			d.mayFail.Store(true)
			over := trouble(t, d, place{admin, way})
			began := time.Now()
			var asked sync.WaitGroup
			for _, path := range []string{"/v1/topologies", "/v1/topologies/flow/edges", "/v1/processes", "/v1/trash"} { // to look may work
				asked.Go(func() {
					if resp, body := d.send(d.admin, "GET", path, nil); resp.StatusCode != 200 && resp.StatusCode != 503 {
						t.Errorf("GET %s: %d %s", path, resp.StatusCode, body)
					}
				})
			}
			asked.Go(func() {
				if resp, body := d.send(d.admin, "PUT", "/v1/topologies/flow/draft", []byte(flow)); resp.StatusCode != 503 && !(resp.StatusCode == 200 && !refusesChanges[name]) {
					t.Errorf("PUT: %d %s", resp.StatusCode, body)
				}
			})
			from := p.refused.Load()
			d.until("requests are refused", func() bool { return p.refused.Load() > from+5 })
			asked.Wait()
			t.Logf("others were answered in %s", time.Since(began).Round(time.Millisecond))
			began = time.Now()
			over()
			p.seen("events are accepted again")
			t.Logf("events were accepted again after %s", time.Since(began).Round(time.Millisecond))
			d.until("it is ready again", func() bool {
				resp, _ := d.send("", "GET", "/readyz", nil)
				return resp.StatusCode == 200
			})
			d.mayFail.Store(false)
			p.seen("all is well again")
			p.end()
		})
	}
}

// The pool of those who look and change is small. When it is taken, they are told to come again; events come in all the
// same.
func TestOperatorsWait(t *testing.T) {
	t.Parallel()
	var tenants *pgxpool.Pool
	d := open(t, func(c *gateway.Config) { tenants, c.RequestTime = c.TenantPool, time.Second })
	d.serve(pass)
	d.enable("flow", flow)
	d.mayFail.Store(true)
	over := takeAll(t, tenants)
	d.until("all are taken", func() bool { return int(tenants.Stat().AcquiredConns()) == int(tenants.Config().MaxConns) })
	var asked sync.WaitGroup
	for _, path := range []string{"/v1/topologies", "/v1/processes"} {
		asked.Go(func() {
			if resp, body := d.send(d.admin, "GET", path, nil); resp.StatusCode != 503 {
				t.Errorf("GET %s: %d %s", path, resp.StatusCode, body)
			}
		})
	}
	a := d.post(inbox, []byte("x"))
	asked.Wait()
	over()
	d.mayFail.Store(false)
	d.becomes(a.CorrelationID, "done")
}

// place is where trouble can be made: a session that stays out of it, and the way to the database.
type place struct {
	admin *pgx.Conn
	way   *pipe
}

// cutOff ends all other sessions of the database.
const cutOff = `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`

func run(conn *pgx.Conn, sql string) error {
	_, err := conn.Exec(context.Background(), sql)
	return err
}

// takeAll takes the connections of a pool as they become free, until it is told to give them back.
func takeAll(t *testing.T, pool *pgxpool.Pool) (giveBack func()) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var taking sync.WaitGroup
	for range pool.Config().MaxConns {
		taking.Go(func() {
			if conn, err := pool.Acquire(ctx); err == nil {
				<-ctx.Done()
				conn.Release()
			}
		})
	}
	return func() { stop(); taking.Wait() }
}
