package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"sluice/gateway"
	"sluice/gateway/auth"
	"sluice/migrations/pgtest"
	"sluice/queue/report"
	"sluice/queue/worker/workertest"
)

// openWithReports opens a door that keeps what workers report.
func openWithReports(t *testing.T) (*door, *report.Book) {
	t.Helper()
	db := pgtest.New(t)
	book := report.New(db.Pool(), slog.New(slog.NewTextHandler(t.Output(), nil)))
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { book.Run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return openOn(t, db.URL, func(c *gateway.Config) { c.Reports = book }), book
}

// thirdParty is the API that the sample's connectors talk to.
type thirdParty struct {
	*httptest.Server
	mu     sync.Mutex
	orders []string          // by whom, and what
	hooks  map[string]string // where it was told to call, by event
}

func newThirdParty(t *testing.T) *thirdParty {
	p := &thirdParty{hooks: map[string]string{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /ext/orders", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		user, password, _ := r.BasicAuth()
		p.mu.Lock()
		p.orders = append(p.orders, user+" "+password+" "+string(body))
		p.mu.Unlock()
		fmt.Fprint(w, `{"ext":"ok"}`)
	})
	mux.HandleFunc("GET /ext/status/503", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	mux.HandleFunc("POST /ext/webhooks", func(w http.ResponseWriter, r *http.Request) {
		var hook struct{ Event, URL string }
		_ = json.NewDecoder(r.Body).Decode(&hook)
		p.mu.Lock()
		p.hooks[hook.Event] = hook.URL
		p.mu.Unlock()
		fmt.Fprint(w, `{"id":"ext-1"}`)
	})
	mux.HandleFunc("DELETE /ext/webhooks/{id}", func(http.ResponseWriter, *http.Request) {})
	p.Server = httptest.NewServer(mux)
	t.Cleanup(func() {
		p.CloseClientConnections()
		p.Close()
	})
	return p
}

// told asks the worker as an administrator's screen does.
func (d *door) told(method, target, body string) {
	d.t.Helper()
	r, err := http.NewRequestWithContext(d.t.Context(), method, target, strings.NewReader(body))
	ok(d.t, err)
	resp, err := (&http.Client{Transport: d.client.Transport.(*witness).next}).Do(r)
	ok(d.t, err)
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode/100 != 2 {
		d.t.Fatalf("%s %s: %d %s", method, target, resp.StatusCode, text)
	}
}

const sampleTopologies = `topology: orders
nodes:
  in: {kind: start, followers: [send, log]}
  send: {kind: connector, worker: sample, action: sample-connector, application: sample-app}
  log: {kind: custom, worker: sample, action: sample-ui-log}
---
topology: other
nodes:
  start: {kind: start, followers: [work]}
  work: {kind: custom, worker: sample, action: sample-custom}
---
topology: caller
nodes:
  in: {kind: start, followers: [call]}
  call: {kind: connector, worker: sample, action: sample-run-topology}
---
topology: refused
nodes:
  in: {kind: start, followers: [call]}
  call: {kind: connector, worker: sample, action: sample-http-status, application: sample-app, retry: {attempts: 1}}
---
topology: hooked
nodes:
  webhook-node: {kind: start, followers: [work]}
  webhook-node-2: {kind: start, followers: [work]}
  work: {kind: custom, worker: sample, action: sample-custom}
`

// The sample worker, as npm has it and with nothing but the five variables that point here, keeps its settings here, finds
// them again, starts topologies, is called by webhooks, and reports.
func TestSampleWorkerAsksUs(t *testing.T) {
	t.Parallel()
	d, _ := openWithReports(t)
	ext := newThirdParty(t)
	sample := workertest.OrchestySample(t, workertest.Engine{URL: d.url, APIKey: d.key(ours, auth.Worker), ThirdParty: ext.URL})
	d.do(201, "POST", "/v1/workers", map[string]string{"name": "sample", "url": sample.URL, "protocol": "orchesty"}, nil)
	for file := range strings.SplitSeq(sampleTopologies, "---\n") {
		name, _, _ := strings.Cut(strings.TrimPrefix(file, "topology: "), "\n")
		d.enable(name, file)
	}
	for _, app := range []string{"sample-app", "sample-webhook"} {
		user := sample.URL + "/applications/" + app + "/users/joe"
		d.told("POST", user+"/install", "")
		d.told("PUT", user+"/settings", `{"authorization_form":{"user":"joe","url":"http://a","env":"test","page_size":20}}`)
		d.told("PUT", user+"/password", `{"formKey":"authorization_form","fieldKey":"password","password":"s3cret"}`)
		d.told("PUT", user+"/changeState", `{"enabled":true}`)
	}

	orders := d.starts(d.ingest, "/topologies/orders/nodes/in/user/joe/run-by-name", `{"order":1}`)
	d.becomes(orders, "done")
	ext.mu.Lock()
	if got := strings.Join(ext.orders, "; "); got != `joe s3cret {"order":1}` {
		t.Errorf("the application was sent %q", got)
	}
	ext.mu.Unlock()

	caller := d.starts(d.ingest, "/topologies/caller/nodes/in/user/joe/run-by-name", `{"topology":"other","node":"start","user":"user-9"}`)
	d.becomes(caller, "done")
	d.until("it has started the other topology", func() bool {
		var n int
		ok(t, d.pool.QueryRow(t.Context(), `
			select count(*) from sluice.message where headers ->> 'user' = 'user-9' and headers ->> 'previous-correlation-id' = $1
			and convert_from(body, 'UTF8') = '{"hello":"world"}'`, caller).Scan(&n))
		return n == 1
	})

	// Its file says that it is called once, and its worker hears that: otherwise this would take nine minutes.
	d.becomes(d.starts(d.ingest, "/topologies/refused/nodes/in/user/joe/run-by-name", `{"code":503}`), "failed")

	const webhooks = "/v1/applications/sample-webhook/users/joe/webhooks/"
	d.do(200, "POST", "/v1/workers/sample/refresh", nil, nil)
	d.do(404, "POST", webhooks+"subscribe", map[string]string{"event": "order.lost", "topology": "hooked"}, nil)
	d.do(404, "POST", webhooks+"subscribe", map[string]string{"event": "order.created", "topology": "nowhere"}, nil)
	var shown struct {
		Warning  string
		Webhooks []struct {
			Name, Topology string
			Enabled        bool
		}
	}
	for range 2 { // the second time it is there
		d.do(200, "POST", webhooks+"subscribe", map[string]string{"event": "order.created", "topology": "hooked"}, &shown)
		if w := shown.Webhooks[0]; w.Name != "order.created" || !w.Enabled || w.Topology != "hooked" {
			t.Errorf("subscribed, its webhooks are %+v", shown.Webhooks)
		}
	}
	d.do(409, "POST", webhooks+"subscribe", map[string]string{"event": "order.created", "topology": "other"}, nil)
	var kept int
	ok(t, d.pool.QueryRow(t.Context(), `select count(*) from sluice.webhook where name = 'order.created' and deleted_at is null`).Scan(&kept))
	if kept != 1 {
		t.Errorf("subscribed twice, there are %d webhooks", kept)
	}
	ext.mu.Lock()
	address, err := url.Parse(ext.hooks["order.created"])
	ext.mu.Unlock()
	ok(t, err)
	hooked := d.starts("", address.Path, `{"id":7}`)
	d.becomes(hooked, "done")
	if user := d.headersOf(hooked)["user"]; user != "joe" {
		t.Errorf("the webhook's user is %q", user)
	}
	d.do(200, "POST", webhooks+"unsubscribe", map[string]string{"topology": "hooked"}, &shown)
	if w := shown.Webhooks[0]; w.Enabled || shown.Warning != "" {
		t.Errorf("unsubscribed, its webhooks are %+v, with %q", shown.Webhooks, shown.Warning)
	}
	d.until("the webhook is closed", func() bool { resp, _ := d.sdk("", "POST", address.Path, "{}"); return resp.StatusCode == 404 })

	d.until("what it reports is kept", func() bool {
		var calls, lines int
		ok(t, d.pool.QueryRow(t.Context(), `select count(*) from sluice.reported_call where process_id = $1 and status = 200 and application = 'sample-app' and user_name = 'joe'`, orders).Scan(&calls))
		ok(t, d.pool.QueryRow(t.Context(), `select count(*) from sluice.reported_line where process_id = $1 and message = 'Hello UI'`, orders).Scan(&lines))
		return calls == 1 && lines == 1
	})
}
