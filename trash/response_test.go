package trash_test

import (
	"context"
	"strings"
	"testing"

	"sluice/queue/worker"
)

// answering is a worker that answers with what the body says, and refuses at the third call.
type answering struct{ calls int }

func (a *answering) Call(_ context.Context, _ worker.Target, r worker.Request) (worker.Result, error) {
	a.calls++
	f := &worker.Failure{Class: worker.Transient, Status: 500, Reason: "trouble", Response: &worker.Response{Headers: map[string]string{"n": string(rune('0' + a.calls))}, Body: []byte("\x00\xff"), Cut: true}}
	if a.calls == 2 {
		f.Response = nil // nobody answered
	}
	if a.calls == 3 {
		f.Class = worker.Rejected
	}
	return worker.Result{}, f
}

// Each attempt has what the worker answered, byte for byte, also before a node that keeps order.
func TestAttemptsHaveResponses(t *testing.T) {
	t.Parallel()
	for name, setting := range map[string]string{"any order": "", "in order": ", concurrency: 1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := strings.Replace(flow, "a: {kind: custom, worker: demo", "a: {kind: custom, worker: demo, retry: {initial: 1ms, max: 2ms}"+setting, 1)
			r := startWith(t, file, &answering{})
			r.send("x")
			d, err := r.Find(t.Context(), tenant, r.entries(1)[0].ID)
			r.ok(err)
			if len(d.Attempts) != 3 || d.Attempts[1].Response != nil {
				t.Fatalf("%+v", d.Attempts)
			}
			for i, n := range map[int]string{0: "1", 2: "3"} {
				if got := d.Attempts[i].Response; got == nil || got.Headers["n"] != n || string(got.Body) != "\x00\xff" || !got.Cut {
					t.Errorf("attempt %d: %+v", i, got)
				}
			}
			r.conserved()
		})
	}
}
