package gateway_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/queue/worker"
)

type depths struct {
	Messages, Bytes int64
	Bounds          *struct{ Messages, Bytes int64 }
	Items           []depth
}

type depth struct {
	Version                             int
	From, To                            string
	Messages, Bytes                     int64
	Waiting, Running, Retrying, Trashed int64
	Arrived, Departed                   int64
	Oldest                              *time.Time
	Age                                 *float64 `json:"age_seconds"`
}

// A topology takes events up to its bound; then its producers are told when to come again, one by one or by many, and
// its neighbours are not. What it holds is shown, edge by edge, with how long it has waited; and when there is room
// again it takes more.
func TestBounds(t *testing.T) {
	t.Parallel()
	d := open(t)
	let := make(chan struct{})
	d.serve(func(ctx context.Context, r *worker.Request) (worker.Reply, error) {
		select {
		case <-let:
		case <-ctx.Done():
		}
		return worker.Pass(), nil
	})
	const full = `
topology: full
bounds: {messages: 4, bytes: 1MiB}
nodes:
  in: {kind: start, followers: [work]}
  work: {kind: custom, worker: demo, concurrency: 1, followers: [last]}
  last: {kind: custom, worker: demo}
`
	d.enable("full", full)
	d.enable("flow", flow)
	const door = "/v1/topologies/full/nodes/in/events"
	for _, body := range []string{"1", "22", "333"} {
		d.post(door, []byte(body))
	}
	var batch struct {
		Accepted, Refused int
		Items             []struct {
			CorrelationID string `json:"correlation_id"`
			Error         *struct {
				Status     int
				Code       string
				RetryAfter int `json:"retry_after"`
			}
		}
	}
	d.until("the fourth is let in", func() bool { // one that was on its way while the counters were read counts twice for a moment
		resp, body := d.send(d.ingest, "POST", door+"/batch", []byte("{\"text\":\"4444\"}\n{\"text\":\"5\"}\n"), "Content-Type", "application/x-ndjson")
		return resp.StatusCode == http.StatusAccepted && json.Unmarshal(body, &batch) == nil && batch.Accepted > 0
	})
	if e := batch.Items[1].Error; batch.Accepted != 1 || batch.Refused != 1 || e == nil || e.Status != 429 || e.Code != "too-many-requests" || e.RetryAfter < 1 {
		t.Errorf("%+v", batch)
	}
	for _, path := range []string{door, door + "/batch"} {
		resp, body := d.send(d.ingest, "POST", path, []byte(`{"body":1}`))
		if after, err := strconv.Atoi(resp.Header.Get("Retry-After")); resp.StatusCode != 429 || err != nil || after < 1 || !strings.Contains(string(body), "messages, and its bound is 4") {
			t.Errorf("%s: %d, Retry-After %q, %s", path, resp.StatusCode, resp.Header.Get("Retry-After"), body)
		}
	}
	d.post(inbox, []byte("a neighbour"))

	var got depths
	d.until("one runs and the others wait", func() bool {
		d.do(http.StatusOK, "GET", "/v1/topologies/full/edges", nil, &got)
		return got.Items[0].Running == 1
	})
	first := got.Items[0]
	if got.Messages != 4 || got.Bytes != 10 || got.Bounds == nil || got.Bounds.Messages != 4 || got.Bounds.Bytes != 1<<20 || len(got.Items) != 2 ||
		first.Version != 1 || first.From != "in" || first.To != "work" || first.Messages != 4 || first.Bytes != 10 || first.Waiting != 3 || first.Arrived != 4 || first.Departed != 0 {
		t.Errorf("%+v", got)
	}
	if last := got.Items[1]; last.From != "work" || last.To != "last" || last.Messages != 0 || last.Oldest != nil || last.Age != nil {
		t.Errorf("%+v", last)
	}
	var one depths
	d.do(http.StatusOK, "GET", "/v1/topologies/full/versions/enabled/edges", nil, &one)
	if one.Messages != 4 || one.Bounds != nil || len(one.Items) != 2 {
		t.Errorf("%+v", one)
	}
	close(let)
	d.until("there is room again", func() bool {
		resp, _ := d.send(d.ingest, "POST", door, []byte("x"))
		return resp.StatusCode == 202
	})
	d.until("all has left", func() bool {
		d.do(http.StatusOK, "GET", "/v1/topologies/full/edges", nil, &got)
		return got.Messages == 0
	})
	if last := got.Items[1]; got.Bytes != 0 || last.Arrived != 5 || last.Departed != 5 {
		t.Errorf("%+v", got)
	}
}

// What waits is as old as the database says, whatever hour it is here, and a version is shown as long as it is in use or
// holds something.
func TestEdges(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.serve(failing)
	const path = "/v1/topologies/flow"
	d.enable("flow", flow)
	d.enable("flow", flow)
	d.enable("flow", flow)
	versions := func() []int {
		var got depths
		d.do(http.StatusOK, "GET", path+"/edges", nil, &got)
		var seen []int
		for _, e := range got.Items {
			if n := len(seen); n == 0 || seen[n-1] != e.Version {
				seen = append(seen, e.Version)
			}
		}
		return seen
	}
	a := d.post(path+"/versions/1/nodes/in/events", []byte("fail"))
	d.becomes(a.CorrelationID, "failed")
	d.do(http.StatusOK, "DELETE", path+"/versions/1?messages=drain", nil, nil)
	d.do(http.StatusOK, "DELETE", path+"/versions/2", nil, nil)
	if got := versions(); len(got) != 2 || got[0] != 1 || got[1] != 3 { // the first has one in its trash
		t.Errorf("versions %v", got)
	}
	var got depths
	d.do(http.StatusOK, "GET", path+"/versions/1/edges", nil, &got)
	if got.Items[0].Trashed != 1 || got.Items[0].Messages != 0 || got.Messages != 0 || got.Items[0].Departed != 1 {
		t.Errorf("%+v", got)
	}
	d.do(http.StatusOK, "POST", "/v1/trash/reject", map[string]any{"message_ids": []string{d.messages(a.CorrelationID)[0].MessageID}, "reason": "test"}, nil)
	if got := versions(); len(got) != 1 || got[0] != 3 {
		t.Errorf("versions %v", got)
	}

	// An edge that is paused lets what is on it wait.
	var edge int64
	ok(t, d.pool.QueryRow(t.Context(), `
		select e.id from sluice.edge e join sluice.topology_version v on v.id = e.version_id where v.number = 3 and e.from_node = 'in'`).Scan(&edge))
	_, err := d.pool.Exec(t.Context(), `update river.river_queue set paused_at = now() where name = 'e' || $1::bigint`, edge)
	ok(t, err)
	d.until("the runner knows", func() bool {
		d.post(inbox, []byte("waits"))
		d.do(http.StatusOK, "GET", path+"/edges", nil, &got)
		return got.Items[0].Waiting >= 2
	})
	_, err = d.pool.Exec(t.Context(), `update river.river_job set scheduled_at = scheduled_at - interval '3 days' where queue = 'e' || $1::bigint`, edge)
	ok(t, err)
	d.do(http.StatusOK, "GET", path+"/edges", nil, &got)
	if e := got.Items[0]; e.Age == nil || *e.Age < 3*86400 || *e.Age > 3*86400+600 || e.Oldest == nil {
		t.Errorf("%+v", e)
	}

	d.do(http.StatusOK, "PUT", path+"/draft", flow, nil)
	d.do(http.StatusOK, "GET", path+"/versions/draft/edges", nil, &got)
	if got.Items == nil || len(got.Items) != 0 {
		t.Errorf("%+v", got)
	}
	d.refused(404, "not-found", "GET", path+"/versions/9/edges", "")
	d.refused(404, "not-found", "GET", "/v1/topologies/none/edges", "")
	d.refused(422, "validation-failed", "GET", path+"/versions/x/edges", "")
}
