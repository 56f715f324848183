package gateway_test

import (
	"context"
	"net/http"
	"slices"
	"testing"

	"sluice/queue/worker"
)

type replays struct {
	Replayed, Duplicates int
	Failed               []struct{ Error struct{ Code string } }
	Next                 string
}

// Many processes are replayed a page at a time, each once however often that is asked for, and each says what it repeats.
func TestReplayMany(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.serve(func(context.Context, *worker.Request) (worker.Reply, error) { return worker.Pass(), nil })
	d.enable("flow", `
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo, followers: [b, c]}
  b: {kind: custom, worker: demo, followers: [c]}
  c: {kind: custom, worker: demo}
`)
	const n = 60 // more than a page
	sources := map[string]bool{}
	for range n {
		a := d.post(inbox, []byte("{}"))
		sources[a.CorrelationID] = true
	}
	for id := range sources {
		d.becomes(id, "done")
	}
	filter := map[string]any{"topology": "flow", "state": "done"}
	var preview struct {
		Processes, Replays int
		More               bool
	}
	d.do(http.StatusOK, "POST", "/v1/replays/preview", map[string]any{"filter": filter, "node": "c"}, &preview)
	if preview.Processes != n || preview.Replays != 2*n || preview.More {
		t.Errorf("the preview is %+v, want %d processes and two messages of each", preview, n)
	}
	all := func() (pages []replays) {
		t.Helper()
		wish := map[string]any{"filter": filter, "node": "c", "key": "once", "reason": "test"}
		for {
			var page replays
			d.do(http.StatusOK, "POST", "/v1/replays", wish, &page)
			pages = append(pages, page)
			if page.Next == "" {
				return pages
			}
			wish["after"] = page.Next
		}
	}
	done := 0
	pages := all()
	for _, p := range pages {
		done += p.Replayed
		if len(p.Failed) > 0 || p.Duplicates > 0 {
			t.Errorf("a page of the first time is %+v", p)
		}
	}
	if done != 2*n || len(pages) < 2 {
		t.Errorf("%d replays on %d pages, want %d on more than one", done, len(pages), 2*n)
	}
	// Of one process: two messages had come to c.
	var one string
	for one = range sources {
		break
	}
	type process struct {
		Replays []struct {
			CorrelationID string `json:"correlation_id"`
		}
		ReplayOf struct {
			CorrelationID string `json:"correlation_id"`
			MessageID     string `json:"message_id"`
			By            string `json:"replayed_by"`
			Reason        string
		} `json:"replay_of"`
	}
	var source process
	d.do(http.StatusOK, "GET", "/v1/processes/"+one, nil, &source)
	if len(source.Replays) != 2 {
		t.Fatalf("it has the replays %+v, want two", source.Replays)
	}
	var ids []string
	for _, m := range d.messages(one) {
		if m.Node == "c" {
			ids = append(ids, m.MessageID)
		}
	}
	for _, r := range source.Replays {
		d.becomes(r.CorrelationID, "done")
		var again process
		d.do(http.StatusOK, "GET", "/v1/processes/"+r.CorrelationID, nil, &again)
		if of := again.ReplayOf; of.CorrelationID != one || !slices.Contains(ids, of.MessageID) || of.By == "" || of.Reason != "test" {
			t.Errorf("it says that it repeats %+v, want one of %v", of, ids)
		}
		if messages := d.messages(r.CorrelationID); len(messages) != 1 || messages[0].Node != "c" {
			t.Errorf("its messages are %+v, want one, at c", messages)
		}
	}
	// Again: the replays have become processes of the filter too, and each of those is new; the others are there already.
	again := 0
	for _, p := range all() {
		again += p.Duplicates
	}
	if again != 2*n {
		t.Errorf("asked again, %d were there already, want %d", again, 2*n)
	}
	var missing struct{ Code string }
	d.do(http.StatusConflict, "POST", "/v1/messages/"+ids[0]+"/replay", map[string]any{"version": 9}, &missing)
	d.do(http.StatusNotFound, "POST", "/v1/messages/"+one+"-999999999/replay", nil, &missing)
	var whole struct {
		CorrelationID string `json:"correlation_id"`
	}
	d.do(http.StatusAccepted, "POST", "/v1/processes/"+one+"/replay", nil, &whole)
	d.becomes(whole.CorrelationID, "done")
	if messages := d.messages(whole.CorrelationID); len(messages) != 4 {
		t.Errorf("the replay of the whole has the messages %+v, want four", messages)
	}
}
