package queue_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"riverqueue.com/riverui"

	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/worker"
)

// riverUI is River's own user interface on the database of a test, as its browser asks it.
type riverUI struct {
	t   *testing.T
	url string
}

func (r *rig) riverUI() *riverUI {
	t := r.t
	t.Helper()
	handler, err := riverui.NewHandler(&riverui.HandlerOpts{
		Endpoints: riverui.NewEndpoints(r.river(), nil),
		Logger:    slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	ok(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ok(t, handler.Start(ctx))
	server := httptest.NewServer(handler)
	t.Cleanup(func() { server.Close(); cancel() })
	return &riverUI{t, server.URL}
}

// ask sends a request of the browser's, and reads the answer into to.
func (u *riverUI) ask(method, path string, body, to any) {
	u.t.Helper()
	encoded, err := json.Marshal(body)
	ok(u.t, err)
	req, err := http.NewRequestWithContext(u.t.Context(), method, u.url+path, bytes.NewReader(encoded))
	ok(u.t, err)
	resp, err := http.DefaultClient.Do(req)
	ok(u.t, err)
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	ok(u.t, err)
	if resp.StatusCode != http.StatusOK {
		u.t.Fatalf("%s %s: %s: %s", method, path, resp.Status, said)
	}
	if to == nil {
		return
	}
	if err := json.Unmarshal(said, to); err != nil {
		u.t.Fatalf("%s %s: %v: %s", method, path, err, said)
	}
}

type uiJob struct {
	ID    int64  `json:"id"`
	Kind  string `json:"kind"`
	State string `json:"state"`
	Queue string `json:"queue"`
	Args  string `json:"args"`
}

type uiQueue struct {
	Name           string  `json:"name"`
	CountAvailable int     `json:"count_available"`
	PausedAt       *string `json:"paused_at"`
}

func (u *riverUI) jobs(state string) []uiJob {
	u.t.Helper()
	var list struct{ Data []uiJob }
	u.ask("GET", "/api/jobs?limit=100&state="+state, nil, &list)
	return slices.DeleteFunc(list.Data, func(j uiJob) bool { return j.Kind != "message" })
}

// River's user interface shows the edges with what waits on them and the messages, stops and restarts an edge, and
// cancels a message, which is in the trash then.
func TestRiverUI(t *testing.T) {
	t.Parallel()
	var calls record
	h := newHolding()
	r := newRig(t, pgtest.New(t).Pool())
	r.publish(line)
	r.engine = newEngine(t, r.pool, queue.Config{Caller: callerFunc(func(ctx context.Context, q worker.Request) (worker.Result, error) {
		calls.add(q.Node)
		if string(q.Body) == "held" {
			return h.call(ctx, q)
		}
		if q.Node == "b" && string(q.Body) == "cancelled" && q.Attempt == 1 {
			return worker.Result{Reply: worker.Reply{Verdict: worker.Repeat, After: time.Hour}}, nil
		}
		return passOn(q), nil
	})})
	ui := r.riverUI()
	a, b := r.queueOf("a"), r.queueOf("b")

	resp, err := http.Get(ui.url + "/")
	ok(t, err)
	page, err := io.ReadAll(resp.Body)
	ok(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || !strings.Contains(string(page), "<html") {
		t.Errorf("the page: %s: %.200s", resp.Status, page)
	}

	// Messages under way are listed, each with its process.
	held := r.accept("in", "held")
	h.called(t, "held", 1)
	running := ui.jobs("running")
	if len(running) != 1 || running[0].Queue != a || !strings.Contains(running[0].Args, held.String()) {
		t.Errorf("running: %+v", running)
	}

	// An edge is stopped: what comes waits there, and the list of queues says how much.
	ui.ask("PUT", "/api/queues/"+b+"/pause", nil, nil)
	until(t, "pause", func() bool { return queue.Paused(r.engine, b) })
	const events = 30
	r.acceptMany(events, func(i int) string { return fmt.Sprint(i) })
	r.wait(`select count(*) = $2 from river.river_job where queue = $1 and state = 'available'`, b, events)
	var queues struct{ Data []uiQueue }
	ui.ask("GET", "/api/queues?limit=100", nil, &queues)
	at := slices.IndexFunc(queues.Data, func(q uiQueue) bool { return q.Name == b })
	if at < 0 || queues.Data[at].PausedAt == nil || queues.Data[at].CountAvailable != events {
		t.Errorf("queues: %+v", queues.Data)
	}
	if n := len(ui.jobs("available")); n != events {
		t.Errorf("%d available messages listed, want %d", n, events)
	}
	if n := count(&calls, "b"); n != 0 {
		t.Errorf("%d calls on an edge that was stopped", n)
	}
	ui.ask("PUT", "/api/queues/"+b+"/resume", nil, nil)
	r.wait(`select count(*) = $1 from sluice.process where finished_at is not null`, events)

	// A message that waits for its next call is cancelled.
	id := r.accept("in", "cancelled")
	r.wait(`select count(*) = 1 from river.river_job where state = 'scheduled' and kind = 'message'`)
	scheduled := ui.jobs("scheduled")
	if len(scheduled) != 1 {
		t.Fatalf("scheduled: %+v", scheduled)
	}
	var detail uiJob
	ui.ask("GET", fmt.Sprint("/api/jobs/", scheduled[0].ID), nil, &detail)
	if detail.Kind != "message" || !strings.Contains(detail.Args, id.String()) {
		t.Errorf("the message: %+v", detail)
	}
	ui.ask("POST", "/api/jobs/cancel", map[string]any{"ids": []string{fmt.Sprint(scheduled[0].ID)}}, nil)
	r.wait(`select trashed = 1 and open = 0 from sluice.process where id = $1`, id)
	r.resend(r.trashed())
	r.finished(id)
	h.forgetAndAnswer("held", 1) // at a
	h.called(t, "held", 1)       // at b
	h.answer("held", 1)
	r.finished(held)
	r.drained()
	t.Logf("listed, paused, resumed and cancelled by River's user interface: %d messages", 2*(events+2))
}

// A message whose job someone deletes through River has no place any more. The check finds it.
func TestRiverUIDeletes(t *testing.T) {
	t.Parallel()
	r := start(t, point, func(context.Context, worker.Request) (worker.Result, error) {
		return worker.Result{Reply: worker.Reply{Verdict: worker.Repeat, After: time.Hour}}, nil
	})
	id := r.accept("in", "x")
	r.wait(`select count(*) = 1 from river.river_job where state = 'scheduled' and kind = 'message'`)
	ui := r.riverUI()
	ui.ask("POST", "/api/jobs/delete", map[string]any{"ids": []string{fmt.Sprint(ui.jobs("scheduled")[0].ID)}}, nil)
	report, err := queue.Check(t.Context(), r.pool)
	ok(t, err)
	if report.Clean() || !slices.ContainsFunc(report.Violations, func(f queue.Finding) bool { return strings.Contains(f.ID, id.String()) }) {
		t.Errorf("the check finds nothing: %+v", report)
	}
	t.Logf("a deleted job: %+v", report.Violations)
	ok(t, queue.RescueDeleted(t.Context(), r.engine))
	r.clean()
	if place := one[string](r, `select reason from sluice.trash where process_id = $1`, id); place != "its job was deleted through River" {
		t.Errorf("in the trash: %s", place)
	}
	ok(t, queue.RescueDeleted(t.Context(), r.engine))
}
