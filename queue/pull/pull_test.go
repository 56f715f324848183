package pull

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/migrations/pgtest"
)

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newExchange(t *testing.T, pool *pgxpool.Pool) *Exchange {
	t.Helper()
	x := New(pool, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { ok(t, x.Stop(context.Background())) })
	return x
}

// call makes a call and returns what came of it.
func (x *Exchange) call(ctx context.Context, w Worker, body string) (status int, answer string, err error) {
	deadline, _ := ctx.Deadline()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://worker.invalid/do?x=1", strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	resp, err := x.Transport(w)(deadline).RoundTrip(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func claimOne(t *testing.T, x *Exchange, w Worker) Claimed {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	calls, err := x.Claim(ctx, w, Wish{Most: 1})
	ok(t, err)
	return calls[0]
}

// A call goes from one process to whoever claims it at another, and its answer comes back; what nobody waits for any more
// is offered to nobody.
func TestCallsAreCarried(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	here, there := newExchange(t, pool), newExchange(t, pool)
	w := Worker{1, "inside"}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan string, 1)
	go func() {
		status, answer, err := here.call(ctx, w, "hello")
		done <- fmt.Sprint(status, answer, err)
	}()
	c := claimOne(t, there, w)
	if string(c.Body) != "hello" || c.Path != "/do?x=1" || c.Lease != Lease {
		t.Errorf("%+v", c)
	}
	for range 2 { // the answer to the first may have been lost
		if lost, err := there.Answer(ctx, w, []Answer{{Held: Held{c.ID, c.Token}, Status: 201, Body: []byte("bye")}}); err != nil || len(lost) != 0 {
			t.Fatal(lost, err)
		}
	}
	if got := <-done; got != "201bye<nil>" {
		t.Error(got)
	}

	gone, leave := context.WithTimeout(t.Context(), 20*time.Second)
	go func() {
		_, _, err := here.call(gone, w, "for nobody")
		done <- fmt.Sprint(err)
	}()
	c = claimOne(t, there, w)
	leave()
	<-done
	eventually(t, "the call is taken back", func() bool {
		lost, err := there.Beat(t.Context(), w, []Held{{c.ID, c.Token}}, 0)
		return err == nil && len(lost) == 1
	})
}

// What is still on offer when a process stops is taken back: whoever makes the call again must not make it twice.
func TestStopTakesCallsBack(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	x := New(pool, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	ok(t, x.sign(ctx, Worker{1, "inside"})) // or nobody would be waited for
	done := make(chan error, 1)
	go func() {
		_, _, err := x.call(ctx, Worker{1, "inside"}, "x")
		done <- err
	}()
	eventually(t, "the call is stored", func() bool { return count(t, pool) == 1 })
	ok(t, x.Stop(t.Context()))
	if n := count(t, pool); n != 0 {
		t.Errorf("%d calls are left", n)
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("a call that nobody answered has an answer")
	}
}

// Who claims and leaves before the calls are handed over leaves them behind.
func TestClaimsThatNobodyReads(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	x := newExchange(t, pool)
	w := Worker{1, "inside"}
	fill(t, pool, 3)
	left, leave := context.WithCancel(t.Context())
	leave()
	if calls, err := x.take(left, w, Wish{Most: 2}); err == nil {
		t.Errorf("%d calls for nobody", len(calls))
	}
	calls, err := x.take(t.Context(), w, Wish{Most: 5})
	ok(t, err)
	if len(calls) != 3 || !slices.IsSortedFunc(calls, func(a, b Claimed) int { return strings.Compare(a.ID.String(), b.ID.String()) }) {
		t.Errorf("%+v", calls)
	}
}

// With ten thousand open calls, in a table that the planner knows as empty, each statement still finds its rows by the key.
func TestStatementsKeepToTheKey(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	fill(t, pool, 10_000)
	ids, tokens := make([]uuid.UUID, 100), make([]uuid.UUID, 100)
	for i := range ids {
		ids[i], tokens[i] = uuid.New(), uuid.New()
	}
	texts, bodies, statuses := make([]string, 100), make([][]byte, 100), make([]int32, 100)
	tenants, workers, flags := make([]int64, 100), make([]string, 100), make([]bool, 100)
	for name, q := range map[string]struct {
		sql  string
		args []any
	}{
		"claim":   {claimSQL, []any{int64(1), "inside", 100, Lease, bytesAtOnce}},
		"beat":    {beatSQL, []any{int64(1), "inside", ids, tokens, Lease}},
		"answer":  {answerSQL, []any{int64(1), "inside", ids, tokens, statuses, texts, bodies}},
		"return":  {returnSQL, []any{int64(1), "inside", ids, tokens}},
		"remove":  {removeSQL, []any{tenants, workers, ids, flags, absent}},
		"answers": {answersSQL, []any{uuid.New(), atOnce, bytesAtOnce}},
	} {
		ok(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), `set local plan_cache_mode = force_generic_plan; set local enable_seqscan = off`); err != nil {
				return err
			}
			rows, _ := tx.Query(t.Context(), "explain (analyze, timing off, costs off, summary off) "+q.sql, q.args...)
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				return err
			}
			plan := strings.Join(lines, "\n")
			for _, line := range lines {
				var n int
				if _, found := strings.CutPrefix(strings.TrimSpace(line), "Rows Removed by "); found {
					_, rest, _ := strings.Cut(line, ": ")
					_, _ = fmt.Sscan(rest, &n)
				}
				if n > 200 {
					t.Errorf("%s reads %d rows for nothing:\n%s", name, n, plan)
				}
			}
			return nil
		}))
	}
}

// fill stores calls that wait to be taken.
func fill(t *testing.T, pool *pgxpool.Pool, calls int) {
	t.Helper()
	_, err := pool.Exec(t.Context(), `
		insert into sluice.pull_call (tenant_id, worker, id, caller, deadline, method, path, headers, body)
		select 1, 'inside', gen_random_uuid(), gen_random_uuid(), now() + interval '1 hour', 'POST', '/', '{}', '' from generate_series(1, $1)`, calls)
	ok(t, err)
}

func count(t *testing.T, pool *pgxpool.Pool) (n int) {
	t.Helper()
	ok(t, pool.QueryRow(t.Context(), `select count(*) from sluice.pull_call`).Scan(&n))
	return n
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); {
		if time.Now().After(deadline) {
			t.Fatalf("not in 20 s: %s", what)
		}
		select {
		case <-t.Context().Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}
