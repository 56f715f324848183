package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/helpers"

	"sluice/gateway"
	"sluice/gateway/auth"
	"sluice/migrations/pgtest"
	"sluice/openapi"
	"sluice/queue"
	"sluice/queue/vault"
	"sluice/queue/worker"
	"sluice/queue/worker/orchesty"
	"sluice/trash"
)

func TestMain(m *testing.M) {
	_ = flag.Set("rapid.nofailfile", "true") // the log has it
	pgtest.Main(m)
}

// door is a gateway and a runner behind it, on a database of their own, with somebody at the door who holds every answer
// against the contract.
type door struct {
	t      testing.TB
	pool   *pgxpool.Pool
	engine *queue.Engine
	url    string
	client *http.Client
	admin  string // keys of the first tenant
	ingest string
	operate,
	other string // of the second tenant, and may do everything there

	mayFail atomic.Bool // answers of 5xx are expected
}

// tenants of every test.
const (
	ours   = int64(1)
	theirs = int64(2)
)

// open opens a door. The functions change its configuration.
func open(t testing.TB, change ...func(*gateway.Config)) *door {
	t.Helper()
	return openOn(t, pgtest.New(t).URL, change...)
}

// openOn opens a door on a database.
func openOn(t testing.TB, url string, change ...func(*gateway.Config)) *door {
	t.Helper()
	d := &door{t: t}
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	own, foreign := worker.NewClient(worker.Config{}), orchesty.NewClient(worker.Config{})
	t.Cleanup(own.Close)
	t.Cleanup(foreign.Close)
	caller := queue.Callers{worker.Sluice: own, worker.Orchesty: foreign}
	pool, err := queue.Open(t.Context(), url, 12)
	ok(t, err)
	t.Cleanup(pool.Close)
	d.pool = pool
	tenants, err := queue.OpenForTenants(t.Context(), url, 4)
	ok(t, err)
	t.Cleanup(tenants.Close)
	keys, err := vault.Parse(vault.NewKey())
	ok(t, err)
	d.engine, err = queue.New(t.Context(), pool, queue.Config{Logger: log, Caller: caller, Vault: keys, Lease: 3 * time.Second, Sweep: 200 * time.Millisecond})
	ok(t, err)
	ok(t, d.engine.Start(t.Context()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := d.engine.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	config := gateway.Config{Engine: d.engine, TenantPool: tenants, Keys: auth.New(pool), Sessions: auth.NewSessions(tenants), Trash: trash.New(tenants, d.engine), Vault: keys, Logger: log}
	for _, c := range change {
		c(&config)
	}
	server := httptest.NewUnstartedServer(nil)
	server.Config = gateway.Server("", gateway.New(config), log)
	server.Start()
	t.Cleanup(server.Close)
	d.url = server.URL
	transport := &http.Transport{MaxIdleConnsPerHost: 100, ExpectContinueTimeout: time.Minute, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	d.client = &http.Client{Timeout: time.Minute, Transport: &witness{d, transport}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

	_, err = auth.CreateTenant(t.Context(), pool, "other", "test")
	ok(t, err)
	d.admin, d.operate, d.ingest = d.key(ours, auth.Admin), d.key(ours, auth.Operate), d.key(ours, auth.Ingest)
	d.other = d.key(theirs, auth.Admin)
	return d
}

func (d *door) key(tenant int64, scope auth.Scope) string {
	d.t.Helper()
	_, text, err := auth.CreateKey(d.t.Context(), d.pool, tenant, string(scope), auth.Scopes{scope}, "test")
	ok(d.t, err)
	return text
}

// contract is what answers are held against.
var contract = sync.OnceValues(func() (validator.Validator, error) {
	text, err := gateway.Document()
	if err != nil {
		return nil, err
	}
	doc, err := libopenapi.NewDocument(text)
	if err != nil {
		return nil, err
	}
	v, errs := validator.NewValidator(doc)
	if len(errs) > 0 {
		return nil, errs[0]
	}
	return v, nil
})

// witness reads each answer as it passes, and says what in it is not as the contract has it.
type witness struct {
	d    *door
	next http.RoundTripper
}

func (w *witness) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := w.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	if problem := breach(r, resp, body); problem != "" {
		w.d.t.Errorf("%s %.200s: %d %.300s\nis not as the contract has it: %s", r.Method, r.URL, resp.StatusCode, body, problem)
	}
	if resp.StatusCode >= 500 && !w.d.mayFail.Load() {
		w.d.t.Errorf("%s %.200s: %d %.300s", r.Method, r.URL, resp.StatusCode, body)
	}
	return resp, nil
}

// breach says how an answer breaks the contract, or "".
func breach(r *http.Request, resp *http.Response, body []byte) string {
	v, err := contract()
	if err != nil {
		return err.Error()
	}
	if resp.Header.Get("X-Request-Id") == "" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
		return "headers are missing that every answer has"
	}
	if resp.StatusCode >= 400 {
		var p openapi.Problem
		if err := json.Unmarshal(body, &p); r.Method != http.MethodHead && (err != nil || p.Status != resp.StatusCode || p.Code == "" || resp.Header.Get("Content-Type") != "application/problem+json") {
			return "it is no problem document"
		}
		if (resp.StatusCode == 429 || resp.StatusCode == 503) && resp.Header.Get("Retry-After") == "" {
			return "it does not say when to come again"
		}
		for _, inside := range []string{"SQLSTATE", "pgx", "goroutine", ".go:"} {
			if bytes.Contains(body, []byte(inside)) {
				return "it tells of the inside: " + inside
			}
		}
	}
	copied := *resp
	copied.Body = io.NopCloser(bytes.NewReader(body))
	fine, errs := v.ValidateHttpResponse(r, &copied)
	if fine || len(errs) == 0 {
		return ""
	}
	// The contract says nothing of what is not in it: the mux answers that.
	if errs[0].ValidationType == helpers.PathValidation && (resp.StatusCode == 404 || resp.StatusCode == 405 || undocumented(r.URL.Path)) {
		return ""
	}
	if errs[0].ValidationSubType == helpers.ValidationMissingOperation && (resp.StatusCode/100 == 4 || r.Method == http.MethodHead) {
		return ""
	}
	// What every request may meet before it meets an operation.
	if errs[0].ValidationSubType == helpers.ResponseBodyResponseCode && (resp.StatusCode == 400 || resp.StatusCode == 404 && (r.URL.Path != r.URL.EscapedPath() || strings.HasSuffix(r.URL.Path, "/"))) {
		return ""
	}
	var all []string
	for _, e := range errs {
		all = append(all, fmt.Sprintf("%s: %s (%s %s)", e.Message, e.Reason, e.ValidationType, e.ValidationSubType))
		for _, s := range e.SchemaValidationErrors {
			all = append(all, s.Error())
		}
	}
	return strings.Join(all, "; ")
}

func undocumented(path string) bool {
	return path == "/" || path == "/schemas/topology.json" || strings.HasPrefix(path, "/openapi") || strings.HasPrefix(path, "/ui/") || strings.HasPrefix(path, "/problems/")
}

// reply is an answer but for its body.
type reply struct {
	StatusCode int
	Header     http.Header
}

// send makes a request with a key and returns the answer.
func (d *door) send(key, method, path string, body []byte, headers ...string) (reply, []byte) {
	d.t.Helper()
	r, err := http.NewRequestWithContext(d.t.Context(), method, d.url+path, bytes.NewReader(body))
	ok(d.t, err)
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	resp, err := d.client.Do(r)
	ok(d.t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	ok(d.t, err)
	return reply{resp.StatusCode, resp.Header}, answer
}

// do makes a request as the administrator, with a body of JSON if there is one, expects a status and reads the answer.
func (d *door) do(status int, method, path string, body, into any) {
	d.t.Helper()
	var sent []byte
	headers := []string{}
	if text, is := body.(string); is {
		sent = []byte(text)
	} else if body != nil {
		var err error
		sent, err = json.Marshal(body)
		ok(d.t, err)
		headers = append(headers, "Content-Type", "application/json")
	}
	resp, answer := d.send(d.admin, method, path, sent, headers...)
	if resp.StatusCode != status {
		d.t.Fatalf("%s %s: %d, want %d: %s", method, path, resp.StatusCode, status, answer)
	}
	if into != nil {
		reflect.ValueOf(into).Elem().SetZero() // what is absent is absent
		ok(d.t, json.Unmarshal(answer, into))
	}
}

// refused makes a request as the administrator and expects a problem.
func (d *door) refused(status int, code, method, path, body string, headers ...string) openapi.Problem {
	d.t.Helper()
	resp, answer := d.send(d.admin, method, path, []byte(body), headers...)
	var p openapi.Problem
	_ = json.Unmarshal(answer, &p)
	if resp.StatusCode != status || p.Code != code {
		d.t.Errorf("%s %.200s: %d %s, want %d %s: %.500s", method, path, resp.StatusCode, p.Code, status, code, answer)
	}
	return p
}

// serve registers the worker demo and runs it.
func (d *door) serve(f worker.Func) {
	d.t.Helper()
	var h atomic.Pointer[worker.Handler]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.Load().ServeHTTP(w, r) }))
	d.t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	var added struct{ Name, URL, Secret string }
	d.do(http.StatusCreated, "POST", "/v1/workers", map[string]string{"name": "demo", "url": server.URL}, &added)
	secret, err := worker.ParseSecret(added.Secret)
	ok(d.t, err)
	h.Store(&worker.Handler{Func: f, Secrets: []worker.Secret{secret}})
}

// enable makes a topology file the enabled version of its topology.
func (d *door) enable(name, file string) {
	d.t.Helper()
	d.do(http.StatusOK, "PUT", "/v1/topologies/"+name+"/draft", file, nil)
	d.do(http.StatusCreated, "POST", "/v1/topologies/"+name+"/publish", nil, nil)
	d.do(http.StatusOK, "POST", "/v1/topologies/"+name+"/enable", nil, nil)
}

// accepted is the answer to an event.
type accepted struct {
	CorrelationID string `json:"correlation_id"`
	Duplicate     bool   `json:"duplicate"`
	Version       int    `json:"version"`
	location      string
}

// post posts an event and expects it to be accepted.
func (d *door) post(path string, body []byte, headers ...string) accepted {
	d.t.Helper()
	resp, answer := d.send(d.ingest, "POST", path, body, headers...)
	if resp.StatusCode != http.StatusAccepted {
		d.t.Fatalf("POST %s: %d: %s", path, resp.StatusCode, answer)
	}
	var a accepted
	ok(d.t, json.Unmarshal(answer, &a))
	a.location = resp.Header.Get("Location")
	return a
}

type processState struct {
	CorrelationID                       string `json:"correlation_id"`
	Topology, State, Node               string
	Version, Total, Open, Trashed, Done int
	Rejected, Terminated                int
	FinishedAt                          *time.Time `json:"finished_at"`
}

// becomes waits until a process is in a state.
func (d *door) becomes(id, state string) processState {
	d.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		var p processState
		d.do(http.StatusOK, "GET", "/v1/processes/"+id, nil, &p)
		if p.State == state {
			return p
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("process is %+v, and never %s", p, state)
		}
		time.Sleep(5 * time.Millisecond) //nolint:forbidigo // between looks at a fact, with a deadline
	}
}

// page is a page of a list.
type page[T any] struct {
	Items []T
	Next  string
}

type messageItem struct {
	MessageID         string `json:"message_id"`
	ParentID          string `json:"parent_id"`
	From, Node, Place string
	Attempt           int
	Size              int64
}

func (d *door) messages(id string) []messageItem {
	d.t.Helper()
	var p page[messageItem]
	d.do(http.StatusOK, "GET", "/v1/processes/"+id+"/messages", nil, &p)
	return p.Items
}

// inbox is where most tests post to.
const inbox = "/v1/topologies/flow/nodes/in/events"

const flow = `
topology: flow
nodes:
  in: {kind: start, followers: [work]}
  work: {kind: custom, worker: demo, followers: [last]}
  last: {kind: connector, worker: demo}
`

// pass is a worker that passes everything on.
func pass(context.Context, *worker.Request) (worker.Reply, error) { return worker.Pass(), nil }

// until waits for a fact.
func (d *door) until(what string, is func() bool) {
	d.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); {
		if time.Now().After(deadline) {
			d.t.Fatalf("never: %s", what)
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // between looks at a fact, with a deadline
	}
}

// failing is a worker that fails what says fail.
func failing(_ context.Context, r *worker.Request) (worker.Reply, error) {
	if string(r.Body) == "fail" {
		return worker.Reply{}, &worker.Failure{Class: worker.Rejected, Reason: "it says fail"}
	}
	return worker.Pass(), nil
}
