package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"sluice/queue/worker"
)

type span struct {
	Kind    string
	From    time.Time
	To      *time.Time
	Attempt int
}

type step struct {
	messageItem
	CreatedAt         time.Time `json:"created_at"`
	EndedAt           *time.Time
	Kind, Application string
	Spans             []span
	Attempts          []struct{ Outcome string }
	Decisions         []struct{ Verdict string }
}

// A process's timeline tells of each message where it was from when to when, from its birth to its end without gaps: over
// retries, the trash and a decision too.
func TestTimeline(t *testing.T) {
	t.Parallel()
	d := open(t)
	var calls atomic.Int32
	d.serve(func(_ context.Context, r *worker.Request) (worker.Reply, error) {
		switch {
		case r.Node != "work":
			return worker.Pass(), nil
		case calls.Add(1) == 1:
			return worker.Reply{}, &worker.Failure{Class: worker.Transient, Reason: "later"}
		case calls.Load() == 2:
			return worker.Reply{}, &worker.Failure{Class: worker.Rejected, Reason: "never"}
		}
		return worker.Pass(), nil
	})
	d.enable("flow", `
topology: flow
nodes:
  in: {kind: start, followers: [work]}
  work: {kind: custom, worker: demo, followers: [last, stop], retry: {initial: 10ms}}
  last: {kind: connector, worker: demo, application: shop}
  stop: {kind: breakpoint}
`)
	a := d.post(inbox, []byte("x"))
	d.becomes(a.CorrelationID, "failed")
	id := d.messages(a.CorrelationID)[0].MessageID
	d.do(http.StatusOK, "POST", "/v1/trash/approve", map[string]any{"message_ids": []string{id}}, nil)
	d.becomes(a.CorrelationID, "parked")

	var first, rest page[step]
	path := "/v1/processes/" + a.CorrelationID + "/timeline"
	d.do(http.StatusOK, "GET", path+"?limit=1", nil, &first)
	d.do(http.StatusOK, "GET", path+"?after="+first.Next, nil, &rest)
	steps := slices.Concat(first.Items, rest.Items)
	if len(first.Items) != 1 || len(steps) != 3 || rest.Next != "" {
		t.Fatalf("steps %+v and %+v", first, rest)
	}
	want := map[string][]string{
		"work": {"running 1", "retry 1", "running 2", "trash 2", "running 3"},
		"last": {"running 1"},
		"stop": {"parked 0"},
	}
	for _, s := range steps {
		var got []string
		at := s.CreatedAt
		for i, p := range s.Spans {
			if !p.From.Equal(at) {
				t.Errorf("%s: a gap before %+v", s.Node, p)
			}
			if p.Kind != "waiting" {
				got = append(got, fmt.Sprint(p.Kind, " ", p.Attempt))
			}
			if p.To == nil != (s.Node == "stop" && i == len(s.Spans)-1) {
				t.Errorf("%s: %+v is open", s.Node, p)
			}
			if p.To != nil {
				at = *p.To
			}
		}
		if !slices.Equal(got, want[s.Node]) {
			t.Errorf("%s: spans %q, want %q", s.Node, got, want[s.Node])
		}
	}
	if s := steps[0]; len(s.Attempts) != 3 || len(s.Decisions) != 1 || s.Kind != "custom" || steps[1].ParentID != s.MessageID {
		t.Errorf("steps %+v", steps)
	}

	// Lists of processes by time and by name.
	b := d.post(inbox, []byte("y"))
	d.becomes(b.CorrelationID, "parked")
	ms, err := strconv.ParseInt(b.CorrelationID[:8]+b.CorrelationID[9:13], 16, 64) // an id begins with its time
	ok(t, err)
	at := url.QueryEscape(time.UnixMilli(ms).UTC().Format(time.RFC3339Nano))
	for query, want := range map[string][]string{
		"from=" + at:  {b.CorrelationID},
		"until=" + at: {a.CorrelationID},
		"state=parked&until=" + at + "&topology=flow":                {a.CorrelationID},
		"from=2020-01-01T00:00:00Z":                                  {b.CorrelationID, a.CorrelationID},
		"from=2020-01-01T00:00:00Z&until=2020-02-01T00:00:00Z":       {},
		"correlation_id=" + a.CorrelationID:                          {a.CorrelationID},
		"correlation_id=" + a.CorrelationID + "&state=done":          {},
		"correlation_id=" + a.CorrelationID + "&from=" + at:          {},
		"correlation_id=00000000-0000-7000-8000-000000000000":        {},
		"correlation_id=" + b.CorrelationID + "&from=" + at:          {b.CorrelationID},
		"state=parked&limit=1&from=2020-01-01T00:00:00Z&until=" + at: {a.CorrelationID},
	} {
		var p page[processState]
		d.do(http.StatusOK, "GET", "/v1/processes?"+query, nil, &p)
		got := []string{}
		for _, i := range p.Items {
			got = append(got, i.CorrelationID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
}
