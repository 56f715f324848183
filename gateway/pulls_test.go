package gateway_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"sluice/gateway/auth"
)

const pullFlow = `
topology: flow
nodes:
  in: {kind: start, followers: [work]}
  work: {kind: custom, worker: inside, timeout: 20s, followers: [last], retry: {attempts: 1}}
  last: {kind: custom, worker: inside, timeout: 20s, retry: {attempts: 1}}
`

// pullCall is a call as whoever works for a worker gets it.
type pullCall struct {
	ID      string            `json:"id"`
	Token   string            `json:"token"`
	Lease   float64           `json:"lease_seconds"`
	Method  string            `json:"method"`
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"`
	Body    *string           `json:"body"`
	Base64  []byte            `json:"body_base64"`
}

// puller works for the worker inside, with a key that is for it alone.
type puller struct {
	*door
	key string
}

// pulls registers the worker inside, that takes its calls itself.
func (d *door) pulls() puller {
	d.t.Helper()
	d.do(http.StatusCreated, "POST", "/v1/workers", map[string]any{"name": "inside", "pull": true}, nil)
	var made struct{ Key string }
	d.do(http.StatusCreated, "POST", "/v1/keys", map[string]any{"name": "inside", "scopes": []string{"pull"}, "worker": "inside"}, &made)
	return puller{d, made.Key}
}

func (p puller) ask(what string, body, into any) {
	p.t.Helper()
	encoded, err := json.Marshal(body)
	ok(p.t, err)
	resp, text := p.send(p.key, "POST", "/v1/workers/inside/"+what, encoded, "Content-Type", "application/json")
	if resp.StatusCode != http.StatusOK {
		p.t.Fatalf("%s: %d %s", what, resp.StatusCode, text)
	}
	ok(p.t, json.Unmarshal(text, into))
}

// claim takes the next call.
func (p puller) claim() pullCall {
	p.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if calls := p.claimWithin(1, 10); len(calls) > 0 {
			return calls[0]
		}
	}
	p.t.Fatal("no call came")
	return pullCall{}
}

func (p puller) claimWithin(most int, seconds float64) []pullCall {
	p.t.Helper()
	var got struct{ Calls []pullCall }
	p.ask("claim", map[string]any{"max": most, "wait_seconds": seconds}, &got)
	return got.Calls
}

// answer answers a call and returns what became of that.
func (p puller) answer(c pullCall, result map[string]any) string {
	p.t.Helper()
	result["id"], result["token"] = c.ID, c.Token
	var got struct{ Results []struct{ ID, State string } }
	p.ask("result", map[string]any{"results": []any{result}}, &got)
	if len(got.Results) != 1 || got.Results[0].ID != c.ID {
		p.t.Fatalf("results %+v", got)
	}
	return got.Results[0].State
}

// finish answers calls until a process is over: on a busy machine one may come again.
func (p puller) finish(id string, work map[string]any) {
	p.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		for _, call := range p.claimWithin(1, 0.2) {
			if call.Headers["Sluice-Node"] == "work" {
				p.answer(call, work)
			} else {
				p.answer(call, map[string]any{"body": "end"})
			}
		}
		var state processState
		if p.do(http.StatusOK, "GET", "/v1/processes/"+id, nil, &state); state.FinishedAt != nil {
			return
		}
	}
}

// A worker that nobody reaches takes its calls, and every kind of answer means what it means of any other worker.
func TestPull(t *testing.T) {
	t.Parallel()
	d := open(t)
	p := d.pulls()
	d.enable("flow", pullFlow)
	for name, c := range map[string]struct {
		body   []byte
		result map[string]any
		state  string
	}{
		"text":         {[]byte("hello"), map[string]any{"body": "worked", "headers": map[string]string{"Content-Type": "text/plain"}}, "done"},
		"bytes":        {[]byte{0, 0xff, 0xc3}, map[string]any{"body_base64": []byte{0xfe, 0}}, "done"},
		"large":        {bytes.Repeat([]byte{0xff, 1}, 2<<20), map[string]any{"body_base64": bytes.Repeat([]byte{0xfd}, 6<<20)}, "done"},
		"failed":       {nil, map[string]any{"status": 422, "body": "no such customer"}, "failed"},
		"broken reply": {nil, map[string]any{"body": "{", "headers": map[string]string{"Content-Type": "application/sluice+json", "Sluice-Result": "x"}}, "failed"},
	} {
		a := d.post(inbox, c.body)
		call := p.claim()
		got := call.Base64
		if call.Body != nil {
			got = []byte(*call.Body)
		}
		if !bytes.Equal(got, c.body) || call.Method != "POST" || call.Headers["Webhook-Signature"] == "" || call.Headers["Sluice-Node"] != "work" {
			t.Errorf("%s: call %.300v", name, call)
		}
		if name == "broken reply" {
			c.result["headers"] = map[string]string{"Content-Encoding": "gzip"}
		}
		if state := p.answer(call, c.result); state != "accepted" {
			t.Errorf("%s: %s", name, state)
		}
		if c.state == "done" {
			p.finish(a.CorrelationID, c.result)
		}
		if got := d.becomes(a.CorrelationID, c.state); got.Open != 0 && c.state == "done" {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// A call is with one at a time: who lost it changes nothing, and a lease that is kept is not lost.
func TestPullIsFenced(t *testing.T) {
	t.Parallel()
	d := open(t)
	p := d.pulls()
	d.enable("flow", pullFlow)
	a := d.post(inbox, []byte("x"))
	first := p.claim()
	var beat struct{ Lost []string }
	held := func(c pullCall) map[string]any {
		return map[string]any{"calls": []any{map[string]string{"id": c.ID, "token": c.Token}}}
	}
	if p.ask("heartbeat", held(first), &beat); len(beat.Lost) != 0 {
		t.Errorf("lost %v", beat.Lost)
	}
	if calls := p.claimWithin(1, 0); len(calls) != 0 {
		t.Errorf("somebody else was offered %+v", calls)
	}
	_, err := d.pool.Exec(t.Context(), `update sluice.pull_call set lease_until = now()`)
	ok(t, err)
	second := p.claim()
	if second.ID != first.ID || second.Token == first.Token {
		t.Fatalf("%+v after %+v", second, first)
	}
	if p.ask("heartbeat", held(first), &beat); len(beat.Lost) != 1 {
		t.Error("a stale token keeps a lease")
	}
	if state := p.answer(first, map[string]any{"body": "stale"}); state != "lost" {
		t.Errorf("a stale token is %s", state)
	}
	if state := p.answer(second, map[string]any{"body": "good"}); state != "accepted" {
		t.Errorf("the good token is %s", state)
	}
	last := p.claim()
	if last.Body == nil || *last.Body != "good" {
		t.Errorf("passed on %+v", last)
	}
	p.answer(last, map[string]any{"body": ""})
	d.becomes(a.CorrelationID, "done")
}

// Several that work for one worker share its calls.
func TestPullersShare(t *testing.T) {
	t.Parallel()
	d := open(t)
	p := d.pulls()
	d.enable("flow", pullFlow)
	const events = 60
	ids := make([]string, events)
	for i := range ids {
		ids[i] = d.post(inbox, fmt.Appendf(nil, "%d", i)).CorrelationID
	}
	var mu sync.Mutex
	seen := map[string]int{}
	all := 0
	var crew sync.WaitGroup
	for range 4 {
		crew.Go(func() {
			for {
				mu.Lock()
				over := all >= 2*events
				mu.Unlock()
				if over {
					return
				}
				for _, c := range p.claimWithin(5, 0.5) {
					mu.Lock()
					seen[c.ID]++
					all++
					mu.Unlock()
					p.answer(c, map[string]any{"body": "ok"})
				}
			}
		})
	}
	crew.Wait()
	for _, id := range ids {
		d.becomes(id, "done")
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s was taken %d times", id, n)
		}
	}
}

// While nobody comes, messages wait; once somebody does, they go on.
func TestNobodyPulls(t *testing.T) {
	t.Parallel()
	d := open(t)
	p := d.pulls()
	d.enable("flow", pullFlow)
	ids := make([]string, 20)
	for i := range ids {
		ids[i] = d.post(inbox, []byte("x")).CorrelationID
	}
	d.until("the worker is known to be out of reach", func() bool {
		var w struct {
			DownSince *time.Time `json:"down_since"`
		}
		d.do(http.StatusOK, "GET", "/v1/workers/inside", nil, &w)
		return w.DownSince != nil
	})
	for range 2 * len(ids) {
		p.answer(p.claim(), map[string]any{"body": "ok"})
	}
	for _, id := range ids {
		if state := d.becomes(id, "done"); state.Trashed != 0 {
			t.Errorf("%+v", state)
		}
	}
}

// A key for a worker takes its calls, and does nothing else.
func TestPullKeys(t *testing.T) {
	t.Parallel()
	d := open(t)
	p := d.pulls()
	d.do(http.StatusCreated, "POST", "/v1/workers", map[string]any{"name": "other", "pull": true}, nil)
	d.do(http.StatusCreated, "POST", "/v1/workers", map[string]any{"name": "pushed", "url": "http://127.0.0.1:9"}, nil)
	for path, want := range map[string]int{"/v1/workers/inside/claim": 200, "/v1/workers/other/claim": 403, "/v1/workers/none/claim": 403, "/v1/workers": 403, inbox: 403} {
		if resp, text := d.send(p.key, "POST", path, []byte(`{}`), "Content-Type", "application/json"); resp.StatusCode != want {
			t.Errorf("%s: %d %s", path, resp.StatusCode, text)
		}
	}
	if resp, text := d.send(d.key(1, auth.Pull), "POST", "/v1/workers/other/claim", []byte(`{}`), "Content-Type", "application/json"); resp.StatusCode != 200 {
		t.Errorf("a key for any worker: %d %s", resp.StatusCode, text)
	}
	d.refused(409, "conflict", "POST", "/v1/workers/pushed/claim", `{}`, "Content-Type", "application/json")
	d.refused(404, "not-found", "POST", "/v1/workers/none/claim", `{}`, "Content-Type", "application/json")
	for _, result := range []string{`"headers":{"a b":"c"}`, `"headers":{"a":"b\nc"}`, `"status":99`, `"body":"a","body_base64":"Yg=="`} {
		d.refused(422, "validation-failed", "POST", "/v1/workers/inside/result",
			`{"results":[{"id":"0199f3c1-6a52-7d10-8f2e-3b1c9a4e5d60","token":"7c9e6679-7425-40de-944b-e07fc1f90ae7",`+result+`}]}`, "Content-Type", "application/json")
	}
	for _, w := range []string{`{"name":"a"}`, `{"name":"a","url":"http://a","pull":true}`} {
		d.refused(422, "validation-failed", "POST", "/v1/workers", w, "Content-Type", "application/json")
	}
	d.refused(422, "validation-failed", "POST", "/v1/keys", `{"name":"a","scopes":["ingest"],"worker":"inside"}`, "Content-Type", "application/json")
}

// One who takes one call at a time is busy, not down: what it cannot take in time waits, costs no attempt, and trips no
// breaker.
func TestSlowPuller(t *testing.T) {
	t.Parallel()
	d := open(t)
	p := d.pulls()
	d.enable("flow", `
topology: flow
nodes:
  in: {kind: start, followers: [work]}
  work: {kind: custom, worker: inside, timeout: 1s, retry: {attempts: 1}}
`)
	ids := make([]string, 30)
	for i := range ids {
		ids[i] = d.post(inbox, []byte("x")).CorrelationID
	}
	for done := 0; done < len(ids); {
		call := p.claim()
		within(t, 100*time.Millisecond) // that the work takes
		if p.answer(call, map[string]any{"body": "ok"}) == "accepted" {
			done++
		}
	}
	for _, id := range ids {
		if state := d.becomes(id, "done"); state.Trashed != 0 {
			t.Errorf("%+v", state)
		}
	}
	var w struct {
		DownSince *time.Time `json:"down_since"`
	}
	if d.do(http.StatusOK, "GET", "/v1/workers/inside", nil, &w); w.DownSince != nil {
		t.Error("counts as down")
	}
}

// within lets a time pass, as work does that takes it.
func within(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}
