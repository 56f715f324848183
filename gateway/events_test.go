package gateway_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"

	"sluice/queue/worker"
)

// An event is posted, flows through the topology that was made by the API, and is seen there at each step.
func TestEventToFinish(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.serve(func(_ context.Context, r *worker.Request) (worker.Reply, error) {
		if r.Node == "work" {
			return worker.Send(worker.Message{Body: append([]byte("worked "), r.Body...), Headers: map[string]string{"content-type": "text/plain"}}), nil
		}
		return worker.Pass(), nil
	})
	d.enable("flow", flow)
	a := d.post(inbox, []byte("hello"), "Content-Type", "text/x-greeting", "X-Github-Event", "push", "Sluice-Header-Colour", "r%C3%B6t 50%", "Cookie", "secret")
	if a.Duplicate || a.Version != 1 || a.location != "/v1/processes/"+a.CorrelationID {
		t.Errorf("accepted %+v", a)
	}
	p := d.becomes(a.CorrelationID, "done")
	if p.Topology != "flow" || p.Node != "in" || p.Version != 1 || p.Total != 2 || p.Done != 2 || p.FinishedAt == nil {
		t.Errorf("process %+v", p)
	}
	messages := d.messages(a.CorrelationID)
	if len(messages) != 2 || messages[0].Node != "work" || messages[0].Place != "done" || messages[1].ParentID != messages[0].MessageID || messages[1].Place != "done" {
		t.Fatalf("messages %+v", messages)
	}
	var detail struct {
		messageItem
		Headers  map[string]string
		Attempts []struct {
			Attempt, Status int
			Outcome         string
		}
	}
	d.do(http.StatusOK, "GET", "/v1/messages/"+messages[0].MessageID, nil, &detail)
	want := map[string]string{"content-type": "text/x-greeting", "x-github-event": "push", "colour": "röt 50%"}
	if !maps.Equal(detail.Headers, want) || detail.Attempt != 1 || len(detail.Attempts) != 1 || detail.Attempts[0].Outcome != "done" || detail.Size != 5 {
		t.Errorf("message %+v, want headers %v", detail, want)
	}
	resp, body := d.send(d.operate, "GET", "/v1/messages/"+messages[1].MessageID+"/body", nil)
	if string(body) != "worked hello" || resp.Header.Get("Content-Disposition") == "" || !strings.Contains(resp.Header.Get("Content-Security-Policy"), "sandbox") {
		t.Errorf("body %q with %v", body, resp.Header)
	}
	var list page[processState]
	d.do(http.StatusOK, "GET", "/v1/processes?topology=flow&version=1&state=done", nil, &list)
	if len(list.Items) != 1 || list.Items[0].CorrelationID != a.CorrelationID || list.Next != "" {
		t.Errorf("list %+v", list)
	}
	d.refused(409, "conflict", "POST", "/v1/processes/"+a.CorrelationID+"/terminate", "")
}

// received is what a worker got, by what it is.
type received struct {
	mu   sync.Mutex
	came map[string]*worker.Request
}

func (r *received) take(_ context.Context, req *worker.Request) (worker.Reply, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	copied := *req
	copied.Body = bytes.Clone(req.Body)
	r.came[req.CorrelationID] = &copied
	return worker.Reply{Verdict: worker.Stop}, nil
}

func (r *received) of(id string) *worker.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.came[id]
}

// Whatever the bytes are and however they are sent, the worker gets them as they were, and so does whoever looks.
func TestBytesAreSacred(t *testing.T) {
	t.Parallel()
	d := open(t)
	got := &received{came: map[string]*worker.Request{}}
	d.serve(got.take)
	d.enable("flow", flow)
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte(strings.Repeat("hello ", 1000)))
	ok(t, z.Close())
	large := bytes.Repeat(every, (5<<20)/256)
	for name, c := range map[string]struct {
		body    []byte
		headers []string
	}{
		"empty":           {[]byte{}, nil},
		"every byte":      {every, []string{"Content-Type", "application/octet-stream"}},
		"NUL":             {[]byte{0}, []string{"Content-Type", "text/plain"}},
		"half a rune":     {[]byte("\xc3"), []string{"Content-Type", "application/json"}},
		"odd JSON":        {[]byte("{\"a\": 1.10 ,\r\n\t\"a\":12345678901234567890}\n"), []string{"Content-Type", "application/json; charset=utf-8"}},
		"form":            {[]byte("a=%00&b"), []string{"Content-Type", "application/x-www-form-urlencoded"}},
		"multipart":       {[]byte("--x\r\n\r\nno end"), []string{"Content-Type", "multipart/form-data; boundary=x"}},
		"compressed":      {zipped.Bytes(), []string{"Content-Type", "text/plain", "Content-Encoding", "gzip"}},
		"one buffer":      {large[:64<<10], nil},
		"one byte beyond": {large[:64<<10+1], nil},
		"the largest":     {large, []string{"Content-Type", "image/png"}},
	} {
		for way, headers := range map[string][]string{"length": nil, "chunks": {"Transfer-Encoding", "chunked"}, "expect": {"Expect", "100-continue"}} {
			t.Run(name+" by "+way, func(t *testing.T) {
				t.Parallel()
				r, err := http.NewRequestWithContext(t.Context(), "POST", d.url+inbox, bytes.NewReader(c.body))
				ok(t, err)
				if way == "chunks" {
					r.Body, r.ContentLength = io.NopCloser(struct{ io.Reader }{bytes.NewReader(c.body)}), -1
				} else if headers != nil {
					r.Header.Set(headers[0], headers[1])
				}
				r.Header.Set("Authorization", "Bearer "+d.ingest)
				for i := 0; i+1 < len(c.headers); i += 2 {
					r.Header.Set(c.headers[i], c.headers[i+1])
				}
				resp, err := d.client.Do(r)
				ok(t, err)
				defer resp.Body.Close()
				var a accepted
				if err := json.NewDecoder(resp.Body).Decode(&a); err != nil || resp.StatusCode != 202 {
					t.Fatalf("%d %v", resp.StatusCode, err)
				}
				d.becomes(a.CorrelationID, "done")
				call := got.of(a.CorrelationID)
				if !bytes.Equal(call.Body, c.body) {
					t.Errorf("the worker got %d bytes %.100q", len(call.Body), call.Body)
				}
				for i := 0; i+1 < len(c.headers); i += 2 {
					if v := call.Headers[strings.ToLower(c.headers[i])]; v != c.headers[i+1] {
						t.Errorf("%s came as %q", c.headers[i], v)
					}
				}
				for name := range call.Headers {
					// A worker's handler fills in a content type where the message has none.
					if name != "content-type" && name != "content-encoding" {
						t.Errorf("header %s came too", name)
					}
				}
				_, stored := d.send(d.operate, "GET", "/v1/messages/"+call.MessageID+"/body", nil)
				if !bytes.Equal(stored, c.body) {
					t.Errorf("stored are %d bytes %.100q", len(stored), stored)
				}
			})
		}
	}
}

// Sent again with its key, an event is accepted again and worked once, whoever is faster.
func TestIdempotency(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.serve(pass)
	d.enable("flow", flow)
	for _, name := range []string{"Idempotency-Key", "Webhook-Id", "X-Event-Id"} {
		first := d.post(inbox, []byte("a"), name, "key of "+name)
		second := d.post(inbox, []byte("a"), name, "key of "+name, "Content-Type", "text/plain")
		if first.Duplicate || !second.Duplicate || second.CorrelationID != first.CorrelationID || second.location != first.location {
			t.Errorf("%s: %+v, then %+v", name, first, second)
		}
		d.refused(409, "idempotency-key-reused", "POST", inbox, "b", name, "key of "+name)
	}
	// The key that says what it is for goes before the ids that happen to be there.
	a := d.post(inbox, []byte("a"), "Idempotency-Key", "one", "Webhook-Id", "two")
	if b := d.post(inbox, []byte("b"), "Webhook-Id", "two"); b.Duplicate {
		t.Error("the id counted beside the key")
	}
	if b := d.post(inbox, []byte("a"), "Idempotency-Key", "one", "Webhook-Id", "three"); b.CorrelationID != a.CorrelationID {
		t.Error("the id counted instead of the key")
	}
	// Without a key, each call is an event.
	if one, two := d.post(inbox, []byte("a")), d.post(inbox, []byte("a")); one.CorrelationID == two.CorrelationID {
		t.Error("two events without a key are one")
	}
	// A key belongs to a start node of a tenant.
	d.enable("second", strings.Replace(flow, "topology: flow", "topology: second", 1))
	if d.post("/v1/topologies/second/nodes/in/events", []byte("other"), "Idempotency-Key", "one").Duplicate {
		t.Error("a key of another topology counted")
	}
	var at sync.WaitGroup
	var mu sync.Mutex
	ids, fresh := map[string]int{}, 0
	for range 50 {
		at.Go(func() {
			a := d.post(inbox, []byte("same"), "Idempotency-Key", "all at once")
			mu.Lock()
			defer mu.Unlock()
			ids[a.CorrelationID]++
			if !a.Duplicate {
				fresh++
			}
		})
	}
	at.Wait()
	var processes int
	for id := range ids {
		d.becomes(id, "done")
		processes++
	}
	if processes != 1 || fresh != 1 {
		t.Errorf("50 calls with one key: %d processes, %d times new", processes, fresh)
	}
	for _, headers := range [][]string{
		{"Idempotency-Key", ""},
		{"Idempotency-Key", strings.Repeat("x", 256)},
		{"Idempotency-Key", "a", "Idempotency-Key", "b"},
		{"Idempotency-Key", "\xff"},
		{"Webhook-Id", strings.Repeat("x", 256)},
	} {
		d.refused(422, "validation-failed", "POST", inbox, "a", headers...)
	}
}

// An event can be sent to a version that is not the enabled one, and to none that is not there.
func TestStrictVersion(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.serve(pass)
	d.enable("flow", flow)
	d.enable("flow", flow+"\n  more: {kind: start, followers: [work]}\n")
	strict := func(version string) string { return "/v1/topologies/flow/versions/" + version + "/nodes/in/events" }
	for version, want := range map[string]int{"1": 1, "2": 2} {
		if a := d.post(strict(version), []byte("a")); a.Version != want {
			t.Errorf("version %s: %+v", version, a)
		}
	}
	d.refused(404, "not-found", "POST", "/v1/topologies/flow/versions/1/nodes/more/events", "a")
	d.post("/v1/topologies/flow/nodes/more/events", []byte("a"))
	for _, version := range []string{"3", "2147483647"} {
		d.refused(404, "not-found", "POST", strict(version), "a")
	}
	for _, version := range []string{"0", "-1", "+1", "x", "1.0", "2147483648", "99999999999999999999", "draft"} {
		if p := d.refused(422, "validation-failed", "POST", strict(version), "a"); len(p.Errors) != 1 || p.Errors[0].Location != "path.version" {
			t.Errorf("version %s: %+v", version, p)
		}
	}
	d.do(http.StatusOK, "DELETE", "/v1/topologies/flow/versions/1?messages=drain", nil, nil)
	d.eventually(409, strict("1"))
	d.do(http.StatusNoContent, "POST", "/v1/topologies/flow/disable", nil, nil)
	d.eventually(409, inbox)
	d.refused(409, "not-enabled", "POST", inbox, "a")
	d.post(strict("2"), []byte("a")) // which says by itself where it goes
	d.do(http.StatusOK, "DELETE", "/v1/topologies/flow?messages=drain", nil, nil)
	d.eventually(404, inbox)
}

// eventually waits, as a change is known everywhere within a second, until an event is answered so.
func (d *door) eventually(status int, path string) {
	d.t.Helper()
	d.until(fmt.Sprintf("POST %s is answered with %d", path, status), func() bool {
		resp, _ := d.send(d.ingest, "POST", path, []byte("x"))
		return resp.StatusCode == status
	})
}

type batchAnswer struct {
	Accepted, Duplicates, Refused int
	Items                         []struct {
		Line          int
		CorrelationID string `json:"correlation_id"`
		Duplicate     bool
		Version       int
		Error         *struct {
			Code, Detail string
			Status       int
		}
	}
}

func (d *door) batch(body string) batchAnswer {
	d.t.Helper()
	resp, answer := d.send(d.ingest, "POST", inbox+"/batch", []byte(body), "Content-Type", "application/x-ndjson")
	if resp.StatusCode != http.StatusAccepted {
		d.t.Fatalf("batch: %d: %.500s", resp.StatusCode, answer)
	}
	var a batchAnswer
	ok(d.t, json.Unmarshal(answer, &a))
	return a
}

// Many events in one call: each by itself, in order, with its bytes as they were, and a bad line harms no other.
func TestBatch(t *testing.T) {
	t.Parallel()
	d := open(t)
	got := &received{came: map[string]*worker.Request{}}
	d.serve(got.take)
	d.enable("flow", flow)
	good := []struct{ line, body, kind string }{
		{`{"body":{"a": 1.10,  "b":12345678901234567890}}`, `{"a": 1.10,  "b":12345678901234567890}`, "application/json"},
		{`{"key":"k1","body":null}`, `null`, "application/json"},
		{"\t{ \"body\" : \"\\u0000 \\ud83d\\ude00\" } \r", `"\u0000 \ud83d\ude00"`, "application/json"},
		{`{"text":"\u0000 \ud83d\ude00 \\ud800"}`, "\x00 \U0001f600 \\ud800", "text/plain; charset=utf-8"},
		{`{"text":""}`, "", "text/plain; charset=utf-8"},
		{`{"base64":"AP8="}`, "\x00\xff", ""},
		{`{"body":{},"headers":{"Content-Type":"application/x","X-Kind":"r\u00f6t"}}`, "{}", "application/x"},
	}
	var body strings.Builder
	for _, g := range good {
		body.WriteString(g.line + "\n\n") // blank lines count, and are no events
	}
	a := d.batch(strings.TrimSpace(body.String()))
	if a.Accepted != len(good) || a.Refused != 0 || len(a.Items) != len(good) {
		t.Fatalf("%+v", a)
	}
	for i, g := range good {
		item := a.Items[i]
		if item.Line != 2*i+1 || item.Version != 1 || item.Error != nil {
			t.Errorf("%s: %+v", g.line, item)
			continue
		}
		d.becomes(item.CorrelationID, "done")
		call := got.of(item.CorrelationID)
		kind := call.Headers["content-type"]
		if g.kind == "" {
			kind = ""
		}
		if string(call.Body) != g.body || kind != g.kind {
			t.Errorf("%s: the worker got %q as %q", g.line, call.Body, kind)
		}
	}
	if v := got.of(a.Items[6].CorrelationID).Headers["x-kind"]; v != "röt" {
		t.Errorf("header came as %q", v)
	}

	bad := []struct{ line, says string }{
		{`{"body":1`, "ends early"},
		{`{"body":1} {}`, "one event a line"},
		{`[]`, "is an object"},
		{`"x"`, "is an object"},
		{`{}`, "one of body, text and base64"},
		{`{"body":1,"text":"x"}`, "one of body, text and base64"},
		{`{"order":17}`, `unknown field "order"`},
		{`{"text":1}`, "not a string"},
		{`{"text":"\ud800"}`, "surrogate"},
		{`{"text":"\udc00\ud800"}`, "surrogate"},
		{`{"key":"\ud83dx","body":1}`, "surrogate"},
		{`{"base64":"AP8"}`, "base64"},
		{`{"base64":"A P8="}`, "base64"},
		{`{"key":"","body":1}`, "key"},
		{`{"key":"` + strings.Repeat("k", 256) + `","body":1}`, "key"},
		{`{"body":1,"headers":{"a b":"x"}}`, "a b"},
		{`{"body":1,"headers":{"":"x"}}`, "header"},
		{`{"body":1,"headers":{"x":"\u0000"}}`, "NUL"},
		{`{"body":1,"headers":{"x":1}}`, "not a string"},
		{`{"body":1,"headers":{"x":"` + strings.Repeat("x", 9000) + `"}}`, "8192"},
		{"{\"text\":\"\xff\"}", "UTF-8"},
	}
	body.Reset()
	for _, b := range bad {
		body.WriteString(b.line + "\n{\"text\":\"between\"}\n")
	}
	a = d.batch(body.String())
	if a.Accepted != len(bad) || a.Refused != len(bad) {
		t.Fatalf("%d accepted, %d refused", a.Accepted, a.Refused)
	}
	for i, b := range bad {
		item := a.Items[2*i]
		if item.Error == nil || item.Line != 2*i+1 || !strings.Contains(item.Error.Detail, b.says) || item.Error.Status < 400 {
			t.Errorf("%.60s: %+v", b.line, item.Error)
		}
	}

	again := d.batch(`{"key":"k1","body":null}` + "\n" + `{"key":"k1","body":1}` + "\n" + `{"key":"k2","body":1}` + "\n" + `{"key":"k2","body":1}`)
	if again.Duplicates != 2 || again.Accepted != 1 || again.Refused != 1 || again.Items[1].Error.Code != "idempotency-key-reused" || again.Items[2].CorrelationID != again.Items[3].CorrelationID {
		t.Errorf("%+v", again)
	}
}

// What is wrong with a call as a whole is said before anything is stored.
func TestBatchAsAWhole(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.serve(pass)
	d.enable("flow", flow)
	ndjson := []string{"Content-Type", "application/x-ndjson"}
	d.refused(422, "validation-failed", "POST", inbox+"/batch", "", ndjson...)
	d.refused(422, "validation-failed", "POST", inbox+"/batch", "\n \r\n", ndjson...)
	d.refused(413, "payload-too-large", "POST", inbox+"/batch", strings.Repeat("{\"text\":\"\"}\n", 10_001), ndjson...)
	d.refused(413, "payload-too-large", "POST", inbox+"/batch", strings.Repeat(" ", 20<<20+1), ndjson...)
	d.refused(415, "unsupported-media-type", "POST", inbox+"/batch", `{"text":""}`, "Content-Type", "application/x-www-form-urlencoded")
	d.refused(415, "unsupported-media-type", "POST", inbox+"/batch", `{"text":""}`, append(ndjson, "Content-Encoding", "gzip")...)
	d.refused(404, "not-found", "POST", "/v1/topologies/none/nodes/in/events/batch", `{"text":""}`, ndjson...)
	d.refused(404, "not-found", "POST", "/v1/topologies/flow/nodes/work/events/batch", `{"text":""}`, ndjson...)
	d.refused(404, "not-found", "POST", "/v1/topologies/flow/versions/9/nodes/in/events/batch", `{"text":""}`, ndjson...)
	var list page[processState]
	d.do(http.StatusOK, "GET", "/v1/processes", nil, &list)
	if len(list.Items) != 0 {
		t.Errorf("stored all the same: %+v", list.Items)
	}
	// 10,000 in one call are no more than that.
	a := d.batch(strings.Repeat("{\"text\":\"x\"}\n", 10_000))
	seen := map[string]bool{}
	for _, item := range a.Items {
		seen[item.CorrelationID] = true
	}
	if a.Accepted != 10_000 || len(seen) != 10_000 {
		t.Errorf("%d accepted, %d processes", a.Accepted, len(seen))
	}
}
