package orchesty_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/queue/worker"
	"sluice/queue/worker/orchesty"
	"sluice/queue/worker/workertest"
)

var update = flag.Bool("update", false, "record the transcripts anew, from the sample worker")

// call is one call of a node of the sample worker, and what it comes to.
type call struct {
	name   string
	kind   string
	action string
	change func(*worker.Request)
	want   string
}

// calls are those of all nodes of the sample worker.
var calls = []call{
	{"custom", "custom", "sample-custom", nil, `done → all {"a":1,"touched":true}`},
	{"custom-empty", "custom", "sample-custom", body(""), `done → all {"touched":true}`},
	{"custom-letters", "custom", "sample-custom", body(`{"a":"žluťoučký 𝄞 \"\\ \u0000"}`), `done → all {"a":"žluťoučký 𝄞 \"\\ \u0000","touched":true}`},
	{"raw", "custom", "sample-raw", body("hello"), "done → all <xml>hello</xml>"},
	{"raw-lines", "custom", "sample-raw", body("a\r\n\t\x00b\x7f"), "done → all <xml>a\r\n\t\x00b\x7f</xml>"},
	{"repeat-dto", "custom", "sample-repeat-dto", nil, "repeat after 15s: try me later"},
	{"repeat-dto-last", "custom", "sample-repeat-dto", func(r *worker.Request) {
		r.Attempt, r.Cursor = 9, `{"hops":3,"max_hops":3,"interval":15,"attempt":8}`
	}, "rejected: max repeat limit reached, try me later"},
	{"repeat-exception", "custom", "sample-repeat-exception", nil, "repeat after 30s: not ready yet"},
	{"stop-fail", "custom", "sample-stop-fail", nil, "rejected: bad input"},
	{"throw-stop-fail", "custom", "sample-throw-stop-fail", nil, "rejected: bad input (exception)"},
	{"throw", "custom", "sample-throw", nil, "rejected: Error occurred: boom"},
	{"throw-nonerror", "custom", "sample-throw-nonerror", nil, "rejected: worker sample answered 404 Not Found"},
	{"do-not-continue", "custom", "sample-do-not-continue", nil, "stop: filtered out"},
	{"limit-exceeded", "custom", "sample-limit-exceeded", header("limiter-key", "joe|sample-app;20;5"), "limited: 429 from remote after 20s"},
	{"set-limiter", "custom", "sample-set-limiter", nil, `done → all same`},
	{"router", "custom", "sample-router", body(`{"to":["us"]}`), `done → [us] same`},
	{"router-both", "custom", "sample-router", body(`{"to":["us","eu"]}`), `done → [eu us] same`},
	{"router-nobody", "custom", "sample-router", body(`{"to":["nobody"]}`), "rejected: Error occurred: Inserted follower(s) [nobody] can't be reached. Available follower(s) [eu,us]"},
	{"router-no-followers", "custom", "sample-router", func(r *worker.Request) { r.Body, r.Followers = []byte(`{"to":["us"]}`), nil }, "rejected: Error occurred: Inserted follower(s) [us] can't be reached. Available follower(s) []"},
	{"ui-log", "custom", "sample-ui-log", nil, "done → all same"},
	{"audit", "custom", "sample-audit", nil, "done → all same"},
	{"slow", "custom", "sample-slow", body(`{"ms":10}`), "done → all same"},
	{"unknown", "custom", "sample-nobody", nil, "rejected: Error occurred: Service with name [hbpf.custom-node.sample-nobody] does not exist!"},

	{"connector", "connector", "sample-connector", body(`{"order":1}`), `done → all {"sent":{"order":1},"answer":{"ext":"ok","url":"/ext/orders"}}`},
	{"connector-not-installed", "connector", "sample-connector", header("user", "nobody"), "rejected: Error occurred: ApplicationInstall with user [nobody] and name [sample-app] has not been found!"},
	{"http-200", "connector", "sample-http-status", body(`{"code":200}`), `done → all {"code":200,"answer":{"ext":"status","status":200}}`},
	{"http-404", "connector", "sample-http-status", body(`{"code":404}`), `rejected: status: 404, body: {"ext":"status","status":404}`},
	{"http-408", "connector", "sample-http-status", body(`{"code":408}`), `repeat after 1m0s: status: 408, body: {"ext":"status","status":408}`},
	{"http-503", "connector", "sample-http-status", body(`{"code":503}`), `repeat after 1m0s: status: 503, body: {"ext":"status","status":503}`},
	{"run-topology", "connector", "sample-run-topology", body(`{"topology":"other","node":"start","user":"user-9"}`), `done → all {"started":{"correlation_id":"35621d72-c5d3-43e5-9c29-903de2235745","started":1,"state":"ok"}}`},

	{"batch", "batch", "sample-batch", body("{}"), `done → all {"page":1,"n":1} → all {"page":1,"n":2}, cursor`},
	{"batch-last", "batch", "sample-batch", func(r *worker.Request) { r.Body, r.Page, r.Cursor = []byte("{}"), 3, `{"cursor":"3"}` }, `done → all {"page":3,"n":1} → all {"page":3,"n":2}`},
	{"batch-iterate-only", "batch", "sample-batch-iterate-only", nil, "done, cursor"},
	{"batch-items", "batch", "sample-batch-items", nil, `done → all {"a":1} → all plain text item → all [1,2,3]`},
	{"batch-as-one", "batch", "sample-batch-as-one", nil, `done → all [[{"a":1},{"a":2}]]`},
	{"batch-empty", "batch", "sample-batch-empty", nil, "done"},
	{"batch-stop", "batch", "sample-batch-stop", nil, "stop: nothing to do"},
	{"batch-force", "batch", "sample-batch-force", func(r *worker.Request) { r.Followers = []string{"follower-b"} }, "rejected: worker sample chose followers for a whole page of batch sync, which no engine of Orchesty's does: choose in a node after it"},
	{"batch-repeat", "batch", "sample-batch-repeat", nil, "repeat after 30s: batch not ready"},
	{"batch-throw", "batch", "sample-batch-throw", nil, "rejected: Error occurred: batch boom"},
}

func body(text string) func(*worker.Request) {
	return func(r *worker.Request) { r.Body = []byte(text) }
}

func header(name, value string) func(*worker.Request) {
	return func(r *worker.Request) {
		r.Headers = maps.Clone(r.Headers)
		r.Headers[name] = value
	}
}

func (c call) request() worker.Request {
	r := asked()
	r.Kind, r.Action, r.Application, r.Deadline = c.kind, c.action, "sample-app", time.Now().Add(20*time.Second)
	if c.kind == "batch" {
		r.Page = 1
	}
	if c.change != nil {
		c.change(&r)
	}
	return r
}

// Each node of the sample worker does through Sluice what it does through Orchesty, and gets the same. The worker, on the
// SDK as npm has it, is one that nobody has changed.
func TestSampleWorker(t *testing.T) {
	t.Parallel()
	engine := workertest.NewOrchestyEngine(t)
	target := workertest.OrchestySample(t, workertest.Engine{URL: engine.URL, APIKey: "an-api-key", ThirdParty: engine.URL})
	client := newClient(t)
	recorder := newRecorder(t, target.URL)
	target.URL = recorder.URL
	for _, c := range calls {
		result, err := client.Call(t.Context(), target, c.request())
		if got := called(result, err); got != c.want {
			t.Errorf("%s:\n got %q\nwant %q", c.name, got, c.want)
		}
		recorder.compare(t, c.name)
	}
	listing, err := client.List(t.Context(), target)
	ok(t, err)
	checkListing(t, listing)
	recorder.compare(t, "listing")
	for _, what := range []string{"POST /metrics/connectors", "POST /logger/logs", "GET /document/Node", "GET /document/ApplicationInstall"} {
		if engine.Asked(what) == 0 {
			t.Errorf("the worker never asked %s", what)
		}
	}
}

// What was recorded of the sample worker is what is sent today, and is read as it was then. This needs no worker.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	for _, c := range calls {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			replay, target := newReplay(t, c.name)
			result, err := newClient(t).Call(t.Context(), target, c.request())
			equal(t, "result", called(result, err), c.want)
			if f, failed := errors.AsType[*worker.Failure](err); failed && (f.Status == 0 || f.Response == nil || len(f.Response.Body) == 0) {
				t.Errorf("nothing is kept of what the worker answered: %+v", f)
			}
			replay.done(t)
		})
	}
	replay, target := newReplay(t, "listing")
	listing, err := newClient(t).List(t.Context(), target)
	ok(t, err)
	checkListing(t, listing)
	replay.done(t)
}

func called(result worker.Result, err error) string {
	f, _ := errors.AsType[*worker.Failure](err)
	return told(result.Reply, f)
}

func newClient(t *testing.T) *orchesty.Client {
	c := orchesty.NewClient(worker.Config{Version: "1.2.3"})
	t.Cleanup(c.Close)
	return c
}

func checkListing(t *testing.T, l worker.Listing) {
	t.Helper()
	actions := map[string]bool{}
	for _, c := range calls {
		actions[c.kind+" "+c.action] = true
	}
	for _, n := range l.Nodes {
		if !actions[n.Kind+" "+n.Name] {
			t.Errorf("the worker has a node %s %s that no call is made of", n.Kind, n.Name)
		}
	}
	equal(t, "nodes", len(l.Nodes), 27)
	if !slices.Contains(l.Nodes, worker.ListedNode{Kind: "connector", Name: "sample-connector", Application: "sample-app"}) {
		t.Errorf("nodes %v", l.Nodes)
	}
	want := []string{"sample-app basic cron", "sample-oauth2 oauth2 cron", "sample-webhook basic webhook"}
	var got []string
	for _, a := range l.Applications {
		got = append(got, a.Key+" "+a.Authorization+" "+a.Type)
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("applications %q, want %q", got, want)
	}
}

// A transcript is what a worker was asked and what it answered, exchange after exchange.

// recorder stands before a worker and notes what passes.
type recorder struct {
	*httptest.Server
	mu   sync.Mutex
	text bytes.Buffer
}

func newRecorder(t *testing.T, to string) *recorder {
	t.Helper()
	u, err := url.Parse(to)
	ok(t, err)
	r := &recorder{}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		asked, err := io.ReadAll(req.Body)
		if err != nil {
			t.Error(err)
		}
		out := req.Clone(req.Context())
		out.RequestURI, out.URL.Scheme, out.URL.Host, out.Body = "", u.Scheme, u.Host, io.NopCloser(bytes.NewReader(asked))
		resp, err := transport.RoundTrip(out)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		r.note(req, asked, resp, answer)
		w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
		w.WriteHeader(resp.StatusCode)
		w.Write(answer)
	}))
	t.Cleanup(r.Server.Close)
	return r
}

// note writes an exchange down.
func (r *recorder) note(req *http.Request, asked []byte, resp *http.Response, answer []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(&r.text, "> %s\n", requestText(req, asked))
	fmt.Fprintf(&r.text, "< %d %s\n%s\n\n", resp.StatusCode, resp.Header.Get("Content-Type"), unlike.ReplaceAll(answer, []byte("at (somewhere)")))
}

// unlike is what differs from run to run: where in its files the SDK was.
var unlike = regexp.MustCompile(`at [^\\"<>]*?[(/][^\\"<>]*\.js:\d+:\d+\)?`)

// requestText is a request as the worker saw it, but for the address.
func requestText(req *http.Request, asked []byte) string {
	req.Host = "worker"
	head, _ := httputil.DumpRequest(req, false) // it writes to memory
	return strings.ReplaceAll(strings.TrimSpace(string(head)), "\r\n", "\n") + "\n\n" + string(asked)
}

func transcriptFile(name string) string { return filepath.Join("testdata", name+".txt") }

// compare holds what was noted since against the transcript, or writes it.
func (r *recorder) compare(t *testing.T, name string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	got := bytes.Clone(r.text.Bytes())
	r.text.Reset()
	if *update {
		ok(t, os.WriteFile(transcriptFile(name), got, 0o644))
	}
	want, err := os.ReadFile(transcriptFile(name))
	ok(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

// replay is a worker that answers as one did when a transcript was written, if it is asked the same.
type replay struct {
	mu    sync.Mutex
	rest  string
	calls int
}

func newReplay(t *testing.T, name string) (*replay, worker.Target) {
	t.Helper()
	text, err := os.ReadFile(transcriptFile(name))
	ok(t, err)
	r := &replay{rest: string(text)}
	target := workertest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		asked, err := io.ReadAll(req.Body)
		if err != nil {
			t.Error(err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		want := "> " + requestText(req, asked) + "\n< "
		answer, same := strings.CutPrefix(r.rest, want)
		if !same {
			t.Errorf("asked\n%s\nthe transcript goes on\n%s", want, r.rest)
			w.WriteHeader(http.StatusTeapot)
			return
		}
		line, rest, _ := strings.Cut(answer, "\n")
		var body string
		if body, r.rest, same = strings.Cut(rest, "\n\n> "); same {
			r.rest = "> " + r.rest
		} else {
			body = strings.TrimSuffix(body, "\n\n")
		}
		code, kind, _ := strings.Cut(line, " ")
		status, err := strconv.Atoi(code)
		if err != nil {
			t.Error(err)
			status = http.StatusInternalServerError
		}
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		io.WriteString(w, body)
		r.calls++
	}))
	target.Name, target.Protocol, target.Dialect = "sample", worker.Orchesty, worker.DialectA
	return r, target
}

func (r *replay) done(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.calls == 0 || r.rest != "" {
		t.Errorf("after %d calls the transcript goes on: %s", r.calls, r.rest)
	}
}
