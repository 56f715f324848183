package queue_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/worker"
	"sluice/queue/worker/orchesty"
	"sluice/queue/worker/workertest"
)

// passage is a message that is sent through a node of the sample worker, and what is to become of it.
type passage struct {
	kind, action, body string
	headers            map[string]string
	attempts           string // outcomes, by page
	arrive             string // at which follower, with which body
	reason             string // in the trash
}

// passages are those through all nodes of the sample worker.
var passages = []passage{
	{kind: "custom", action: "sample-custom", body: `{"a":1}`, attempts: "done", arrive: `eu {"a":1,"touched":true}, us {"a":1,"touched":true}`},
	{kind: "custom", action: "sample-raw", body: "hello", attempts: "done", arrive: "eu <xml>hello</xml>, us <xml>hello</xml>"},
	{kind: "custom", action: "sample-repeat-dto", body: "{}", attempts: "repeat repeat failed", reason: "max repeat limit reached, try me later"},
	{kind: "custom", action: "sample-repeat-exception", body: "{}", attempts: "repeat repeat repeat repeat failed", reason: "max repeat limit reached, not ready yet"},
	{kind: "custom", action: "sample-stop-fail", body: "{}", attempts: "failed", reason: "bad input"},
	{kind: "custom", action: "sample-throw-stop-fail", body: "{}", attempts: "failed", reason: "bad input (exception)"},
	{kind: "custom", action: "sample-throw", body: "{}", attempts: "failed", reason: "Error occurred: boom"},
	{kind: "custom", action: "sample-throw-nonerror", body: "{}", attempts: "failed", reason: "worker sample answered 404 Not Found"},
	{kind: "custom", action: "sample-do-not-continue", body: "{}", attempts: "filtered"},
	{kind: "custom", action: "sample-set-limiter", body: "{}", attempts: "done", arrive: "eu {}, us {}"},
	{kind: "custom", action: "sample-router", body: `{"to":["us"]}`, attempts: "done", arrive: `us {"to":["us"]}`},
	{kind: "custom", action: "sample-ui-log", body: "{}", attempts: "done", arrive: "eu {}, us {}"},
	{kind: "custom", action: "sample-audit", body: "{}", attempts: "done", arrive: "eu {}, us {}"},
	{kind: "custom", action: "sample-slow", body: `{"ms":10}`, attempts: "done", arrive: `eu {"ms":10}, us {"ms":10}`},

	{kind: "connector", action: "sample-connector", body: `{"order":1}`, attempts: "done",
		arrive: `eu {"sent":{"order":1},"answer":{"ext":"ok","url":"/ext/orders"}}, us {"sent":{"order":1},"answer":{"ext":"ok","url":"/ext/orders"}}`},
	{kind: "connector", action: "sample-connector", body: `{}`, headers: map[string]string{"user": "nobody"}, attempts: "failed",
		reason: "Error occurred: ApplicationInstall with user [nobody] and name [sample-app] has not been found!"},
	{kind: "connector", action: "sample-http-status", body: `{"code":404}`, attempts: "failed", reason: `status: 404, body: {"ext":"status","status":404}`},
	{kind: "connector", action: "sample-run-topology", body: `{"topology":"other","node":"start","user":"user-9"}`, attempts: "done",
		arrive: `eu {"started":{"correlation_id":"35621d72-c5d3-43e5-9c29-903de2235745","started":1,"state":"ok"}}, us {"started":{"correlation_id":"35621d72-c5d3-43e5-9c29-903de2235745","started":1,"state":"ok"}}`},

	{kind: "batch", action: "sample-batch", body: "{}", attempts: "page page done", arrive: `eu {"page":1,"n":1}, eu {"page":1,"n":2}, eu {"page":2,"n":1}, eu {"page":2,"n":2}, eu {"page":3,"n":1}, eu {"page":3,"n":2}, ` +
		`us {"page":1,"n":1}, us {"page":1,"n":2}, us {"page":2,"n":1}, us {"page":2,"n":2}, us {"page":3,"n":1}, us {"page":3,"n":2}`},
	{kind: "batch", action: "sample-batch-iterate-only", body: "{}", attempts: "page page done", arrive: `eu {"done":true}, us {"done":true}`},
	{kind: "batch", action: "sample-batch-items", body: "{}", attempts: "done", arrive: `eu [1,2,3], eu plain text item, eu {"a":1}, us [1,2,3], us plain text item, us {"a":1}`},
	{kind: "batch", action: "sample-batch-as-one", body: "{}", attempts: "done", arrive: `eu [[{"a":1},{"a":2}]], us [[{"a":1},{"a":2}]]`},
	{kind: "batch", action: "sample-batch-empty", body: "{}", attempts: "done"},
	{kind: "batch", action: "sample-batch-stop", body: "{}", attempts: "filtered"},
	{kind: "batch", action: "sample-batch-force", body: "{}", attempts: "failed", reason: "Error occurred: Inserted follower(s) [follower-b] can't be reached. Available follower(s) [eu,us]"},
	{kind: "batch", action: "sample-batch-repeat", body: "{}", attempts: "repeat repeat repeat repeat failed", reason: "max repeat limit reached, batch not ready"},
	{kind: "batch", action: "sample-batch-throw", body: "{}", attempts: "failed", reason: "Error occurred: batch boom"},
}

// The sample worker, on the SDK as npm has it, is run as it is: each of its nodes in a topology, with two followers that
// are workers of Sluice's own kind.
func TestOrchestyWorker(t *testing.T) {
	t.Parallel()
	stub := workertest.NewOrchestyEngine(t)
	target := workertest.OrchestySample(t, workertest.Engine{URL: stub.URL, APIKey: "an-api-key", ThirdParty: stub.URL})
	r := newOrchestyRig(t, target.URL)
	var arrived record
	shop := workertest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		if err != nil {
			t.Error(err)
		}
		arrived.add(q.Header.Get("Sluice-Correlation-Id") + " " + q.Header.Get("Sluice-Node") + " " + string(body))
		w.WriteHeader(http.StatusNoContent)
	}))
	r.moveWorker(shop.URL)

	var file strings.Builder
	file.WriteString("topology: flow\nnodes:\n")
	for i, p := range passages {
		fmt.Fprintf(&file, "  in-%d: {kind: start, followers: [n-%d]}\n  n-%d: {kind: %s, worker: sample, action: %s, followers: [eu, us]}\n", i, i, i, p.kind, p.action)
	}
	file.WriteString("  in-limit: {kind: start, followers: [n-limit]}\n  n-limit: {kind: custom, worker: sample, action: sample-limit-exceeded}\n")
	file.WriteString("  eu: {kind: custom, worker: demo}\n  us: {kind: custom, worker: demo}\n")
	r.publish(file.String())

	processes := make([]string, len(passages))
	for i, p := range passages {
		headers := map[string]string{"content-type": "application/json", "user": "joe"}
		maps.Copy(headers, p.headers)
		a, err := r.engine.Accept(t.Context(), queue.Event{Tenant: tenant, Topology: "flow", Node: fmt.Sprint("in-", i), Headers: headers, Body: []byte(p.body)})
		ok(t, err)
		processes[i] = a.Process.String()
	}
	limited := r.accept("in-limit", "{}")
	r.wait(`select exists (select from sluice.attempt where process_id = $1 and outcome = 'retried' and reason = '429 from remote')`, limited)
	r.wait(`select count(*) = 1 from river.river_job where args->>'process_id' = $1 and state = 'retryable' and scheduled_at > now() + interval '40 seconds'`, limited.String())

	r.hurry(`select not exists (select from sluice.process where open <> 0 and id <> '` + limited.String() + `')`)
	for i, p := range passages {
		what := fmt.Sprintf("%s %s %s", p.kind, p.action, p.body)
		got := one[string](r, `
			select coalesce(string_agg(a.outcome::text, ' ' order by a.attempt, a.page), '') from sluice.attempt a
			join sluice.message m on m.tenant_id = a.tenant_id and m.process_id = a.process_id and m.id = a.message_id
			where a.process_id = $1::text::uuid and m.parent_id is null`, processes[i])
		if got != p.attempts {
			t.Errorf("%s: attempts %q, want %q", what, got, p.attempts)
		}
		var bodies []string
		for _, line := range arrived.sorted() {
			if body, found := strings.CutPrefix(line, processes[i]+" "); found {
				bodies = append(bodies, body)
			}
		}
		if got := strings.Join(bodies, ", "); got != p.arrive {
			t.Errorf("%s: arrived\n%s\nwant\n%s", what, got, p.arrive)
		}
		if got := one[string](r, `select coalesce((select reason from sluice.trash where process_id = $1::text::uuid), '')`, processes[i]); got != p.reason {
			t.Errorf("%s: in the trash for %q, want %q", what, got, p.reason)
		}
	}
	if n := one[int](r, `select count(*)::int from sluice.batch_cursor`); n != 0 {
		t.Errorf("%d cursors left", n)
	}
	r.clean()

	ok(t, r.engine.RefreshWorker(t.Context(), tenant, "sample"))
	w, err := queue.FindWorker(t.Context(), r.pool, tenant, "sample")
	ok(t, err)
	for _, p := range passages {
		if !slices.ContainsFunc(w.Listing.Nodes, func(n worker.ListedNode) bool { return n.Kind == p.kind && n.Name == p.action }) {
			t.Errorf("the worker does not list %s %s", p.kind, p.action)
		}
	}
	if w.ListedAt == nil || w.ListingError != nil || len(w.Listing.Applications) != 3 {
		t.Errorf("the worker has listed %+v", w)
	}
}

// newOrchestyRig is an engine that calls workers of both protocols: demo, which is Sluice's own, and sample.
func newOrchestyRig(t *testing.T, url string) *rig {
	t.Helper()
	r := newRig(t, pgtest.New(t).Pool())
	own, foreign := worker.NewClient(worker.Config{}), orchesty.NewClient(worker.Config{})
	t.Cleanup(func() {
		own.Close()
		foreign.Close()
	})
	r.engine = newEngine(t, r.pool, queue.Config{Caller: queue.Callers{worker.Sluice: own, worker.Orchesty: foreign}})
	ok(t, r.begin(func(tx tx) error {
		_, _, err := queue.RegisterWorker(t.Context(), tx, tenant, queue.NewWorker{Name: "sample", URL: url, Protocol: worker.Orchesty}, "test")
		return err
	}))
	return r
}

// hurry lets messages that wait for a repeat go on at once, until a query says true.
func (r *rig) hurry(sql string) {
	r.t.Helper()
	until(r.t, sql, func() bool {
		r.exec(`update river.river_job set scheduled_at = now() where state = 'scheduled' and scheduled_at > now()`)
		return one[bool](r, sql)
	})
}

// repeater is an Orchesty worker that repeats what it is sent, and counts in a header of its own.
func repeater(t *testing.T, calls *record, last string) worker.Target {
	return workertest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		if err != nil {
			t.Error(err)
		}
		var hops, seen string
		for _, h := range []struct {
			name string
			to   *string
		}{{"repeat-hops", &hops}, {"x-seen", &seen}} {
			_, rest, _ := strings.Cut(string(body), `"`+h.name+`":"`)
			*h.to, _, _ = strings.Cut(rest, `"`)
		}
		calls.add("hops " + hops + " seen " + seen)
		code := "1001"
		if hops == last {
			code = "0"
		}
		fmt.Fprintf(w, `{"headers":{"result-code":"%s","result-message":"later","repeat-interval":"30","repeat-max-hops":"3","x-seen":"%sx"},"body":"[]"}`, code, seen)
	}))
}

// Hops, and headers that a worker changes with a repeat, outlast the wait: on an edge as in a lane, at a batch as at any
// node. In the end nothing is kept of them.
func TestOrchestyRepeats(t *testing.T) {
	t.Parallel()
	for name, node := range map[string]string{"edge": "kind: custom", "lane": "kind: custom, concurrency: 1", "batch": "kind: batch", "batch in a lane": "kind: batch, concurrency: 1"} {
		for last, outcomes := range map[string]string{"3": "repeat repeat done", "never": "repeat repeat failed"} {
			t.Run(name+" "+last, func(t *testing.T) {
				t.Parallel()
				var calls record
				r := newOrchestyRig(t, repeater(t, &calls, last).URL)
				r.publish("topology: flow\nnodes:\n  in: {kind: start, followers: [n]}\n  n: {worker: sample, " + node + "}\n")
				id := r.accept("in", "{}")
				r.hurry(`select open = 0 from sluice.process where id = '` + id.String() + `'`)
				if got, want := calls.sorted(), []string{"hops  seen ", "hops 2 seen x", "hops 3 seen xx"}; !slices.Equal(got, want) {
					t.Errorf("calls %q, want %q", got, want)
				}
				if got := one[string](r, `select string_agg(outcome::text, ' ' order by attempt) from sluice.attempt`); got != outcomes {
					t.Errorf("attempts %q, want %q", got, outcomes)
				}
				if n := one[int](r, `select count(*)::int from sluice.batch_cursor`); n != 0 {
					t.Errorf("%d cursors left", n)
				}
				r.clean()
			})
		}
	}
}

// A worker of a protocol that this version does not speak is waited for.
func TestUnknownProtocol(t *testing.T) {
	t.Parallel()
	_, err := queue.Callers{}.Call(context.Background(), worker.Target{Name: "new", Protocol: "telex"}, worker.Request{})
	f, is := errors.AsType[*worker.Failure](err)
	if !is || f.Class != worker.Unavailable {
		t.Errorf("got %v", err)
	}
}
