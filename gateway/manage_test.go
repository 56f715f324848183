package gateway_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/queue/topology"
	"sluice/queue/worker"
)

type versionState struct {
	Topology, State, Source string
	Version, Nodes          int
	CreatedBy               string `json:"created_by"`
	PublishedBy             string `json:"published_by"`
	Graph                   *topology.Graph
	Edges                   []struct{ From, To, Queue string }
	Held                    *struct{ Waiting, Running, Retrying, Trashed int }
}

// A topology is applied, published, enabled, changed, compared, rolled back and deleted, and shows at each step where it
// stands.
func TestLifeOfATopology(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.serve(pass)
	var v versionState
	d.do(200, "PUT", "/v1/topologies/flow/draft", flow, &v)
	if v.State != "draft" || v.Version != 0 || v.Source != flow || v.Nodes != 3 || v.Edges != nil || !strings.HasPrefix(v.CreatedBy, "admin (key ") {
		t.Errorf("draft %+v", v)
	}
	d.do(201, "POST", "/v1/topologies/flow/publish", nil, &v)
	if v.State != "published" || v.Version != 1 || len(v.Edges) != 2 || !strings.HasPrefix(v.Edges[0].Queue, "e") || v.PublishedBy == "" {
		t.Errorf("published %+v", v)
	}
	d.refused(409, "not-enabled", "POST", inbox, "x")
	d.refused(409, "not-enabled", "POST", "/v1/topologies/flow/rollback", "")
	d.do(200, "POST", "/v1/topologies/flow/enable", nil, &v)
	if v.State != "enabled" || v.Version != 1 {
		t.Errorf("enabled %+v", v)
	}
	d.refused(409, "conflict", "POST", "/v1/topologies/flow/publish", "")
	d.refused(409, "conflict", "POST", "/v1/topologies/flow/rollback", "")

	second := strings.Replace(flow, "kind: connector, worker: demo", "kind: connector, worker: demo, timeout: 5s", 1)
	d.do(200, "PUT", "/v1/topologies/flow/draft", second, nil)
	var diff struct {
		Changes []struct{ Op, Node, Field, From, To string }
		Text    string
	}
	d.do(200, "GET", "/v1/topologies/flow/diff?from=enabled&to=draft", nil, &diff)
	if len(diff.Changes) != 1 || diff.Changes[0].Node != "last" || diff.Changes[0].Field != "timeout" || diff.Changes[0].To != "5s" || diff.Text == "" {
		t.Errorf("%+v", diff)
	}
	d.do(201, "POST", "/v1/topologies/flow/publish", nil, nil)
	d.do(200, "POST", "/v1/topologies/flow/enable", map[string]int{"version": 2}, nil)
	d.refused(404, "not-found", "POST", "/v1/topologies/flow/enable", `{"version":3}`, "Content-Type", "application/json")
	d.do(200, "PUT", "/v1/topologies/flow/draft", flow, nil)

	var summary struct {
		Name            string
		Enabled, Latest int
		Draft           bool
		Held            *struct{ Waiting int }
	}
	d.do(200, "GET", "/v1/topologies/flow", nil, &summary)
	if summary.Enabled != 2 || summary.Latest != 2 || !summary.Draft || summary.Held == nil {
		t.Errorf("summary %+v", summary)
	}
	// The draft stands before the newest version, on a page of its own too.
	var seen []int
	for after := ""; ; {
		var p page[versionState]
		d.do(200, "GET", "/v1/topologies/flow/versions?limit=1&after="+after, nil, &p)
		for _, v := range p.Items {
			seen = append(seen, v.Version)
			if v.Source != "" || v.Graph != nil {
				t.Error("a list holds whole versions")
			}
		}
		if after = p.Next; after == "" || len(seen) > 5 {
			break
		}
	}
	if !slices.Equal(seen, []int{0, 2, 1}) {
		t.Errorf("versions %v", seen)
	}
	d.do(200, "POST", "/v1/topologies/flow/rollback", nil, &v)
	if v.Version != 1 || v.State != "enabled" {
		t.Errorf("rolled back to %+v", v)
	}
	d.do(200, "GET", "/v1/topologies/flow/versions/2", nil, &v)
	if v.Source != second || v.Graph == nil || v.Held == nil || v.State != "published" {
		t.Errorf("v2 is %+v", v)
	}
	d.do(200, "GET", "/v1/topologies/flow/versions/enabled", nil, &v)
	if v.Version != 1 {
		t.Errorf("enabled is %d", v.Version)
	}
	// Whoever did it is on record.
	var actors int
	ok(t, d.pool.QueryRow(t.Context(), `select count(*) from sluice.audit where action like '%topology' and actor like 'admin (key %)'`).Scan(&actors))
	if actors != 8 {
		t.Errorf("%d changes on record", actors)
	}
}

// What holds messages is deleted only by who says what becomes of them.
func TestDeletingWhatHoldsMessages(t *testing.T) {
	t.Parallel()
	d := open(t)
	held := make(chan struct{})
	d.serve(func(ctx context.Context, _ *worker.Request) (worker.Reply, error) {
		select {
		case <-held:
		case <-ctx.Done():
		}
		return worker.Pass(), nil
	})
	d.enable("flow", strings.Replace(flow, "work: {kind: custom, worker: demo,", "work: {kind: custom, worker: demo, concurrency: 1,", 1))
	a, b := d.post(inbox, []byte("a")), d.post(inbox, []byte("b"))
	d.until("one is running", func() bool {
		var v versionState
		d.do(200, "GET", "/v1/topologies/flow/versions/1", nil, &v)
		return v.Held.Running == 1 && v.Held.Waiting == 1
	})
	p := d.refused(409, "holds-messages", "DELETE", "/v1/topologies/flow", "")
	if p.Messages == nil || *p.Messages != 2 || !strings.Contains(p.Detail, "1 waiting, 1 running") {
		t.Errorf("%+v", p)
	}
	d.refused(409, "holds-messages", "DELETE", "/v1/topologies/flow/versions/1", "")
	d.refused(422, "validation-failed", "DELETE", "/v1/topologies/flow?messages=forget", "")
	var gone struct {
		Held struct{ Waiting, Running int }
	}
	d.do(200, "DELETE", "/v1/topologies/flow?messages=trash", nil, &gone)
	if gone.Held.Waiting != 1 || gone.Held.Running != 1 {
		t.Errorf("%+v", gone)
	}
	d.refused(404, "not-found", "GET", "/v1/topologies/flow", "")
	close(held)
	states := map[string]bool{}
	for _, id := range []string{a.CorrelationID, b.CorrelationID} {
		d.until("it has come to rest", func() bool {
			var p processState
			d.do(200, "GET", "/v1/processes/"+id, nil, &p)
			states[p.State] = true
			return p.State == "done" || p.State == "failed"
		})
	}
	if !states["done"] || !states["failed"] {
		t.Errorf("states %v", states)
	}
	var trash page[entryState]
	d.do(200, "GET", "/v1/trash?topology=flow", nil, &trash) // history keeps its names
	if len(trash.Items) != 1 || !strings.Contains(trash.Items[0].Reason, "deleted") {
		t.Errorf("%+v", trash)
	}
}

type entryState struct {
	MessageID string `json:"message_id"`
	Node      string
	Reason    string
	Attempt   int
	Edited    bool
	Headers   map[string]string
	Body      []byte
	Text      *string
	Edit      *struct {
		Headers map[string]string
		Body    []byte
		By      string
	}
	Attempts  []struct{ Outcome string }
	Decisions []struct {
		Verdict, Reason string
		By              string `json:"decided_by"`
	}
}

// A message that failed is looked at, edited, and sent again or given up; the one that failed is kept as it was.
func TestDecidingAboutTheTrash(t *testing.T) {
	t.Parallel()
	d := open(t)
	got := &received{came: map[string]*worker.Request{}}
	d.serve(func(ctx context.Context, r *worker.Request) (worker.Reply, error) {
		if strings.HasPrefix(string(r.Body), "\xffbad") {
			return worker.Reply{}, &worker.Failure{Class: worker.Rejected, Reason: "no such customer"}
		}
		return got.take(ctx, r)
	})
	d.enable("flow", flow)
	var ids []string
	for i := range 4 {
		a := d.post(inbox, fmt.Append(nil, "\xffbad", i), "Content-Type", "text/plain", "X-Github-Event", "push", "Sluice-Header-Keep", "me")
		d.becomes(a.CorrelationID, "failed")
		ids = append(ids, d.messages(a.CorrelationID)[0].MessageID)
	}
	var first, rest page[entryState]
	d.do(200, "GET", "/v1/trash?topology=flow&version=1&node=work&limit=1", nil, &first)
	d.do(200, "GET", "/v1/trash?limit=500&after="+first.Next, nil, &rest)
	if len(first.Items) != 1 || len(rest.Items) != 3 || first.Items[0].MessageID != ids[0] || rest.Next != "" {
		t.Errorf("pages %+v, %+v", first, rest)
	}
	var e entryState
	d.do(200, "GET", "/v1/trash/"+ids[0], nil, &e)
	if string(e.Body) != "\xffbad0" || e.Text != nil || e.Reason != "no such customer" || e.Node != "work" || len(e.Attempts) != 1 || e.Edit != nil || e.Headers["keep"] != "me" {
		t.Errorf("entry %+v", e)
	}

	edit := func(body string, headers ...string) (e entryState) {
		resp, answer := d.send(d.operate, "PUT", "/v1/trash/"+ids[0]+"/body", []byte(body), headers...)
		if resp.StatusCode != 200 {
			t.Fatalf("edit: %d %s", resp.StatusCode, answer)
		}
		d.do(200, "GET", "/v1/trash/"+ids[0], nil, &e)
		return e
	}
	e = edit("good\x00", "Sluice-Header-New", "r%C3%B6t", "Sluice-Drop", "keep, nothing")
	if !e.Edited || string(e.Edit.Body) != "good\x00" || string(e.Body) != "\xffbad0" || e.Edit.Headers["new"] != "röt" || e.Edit.Headers["keep"] != "" || e.Edit.Headers["content-type"] != "text/plain" || e.Headers["keep"] != "me" {
		t.Errorf("edited %+v", e)
	}
	e = edit("", "Content-Type", "application/x", "Sluice-Drop", "*") // the headers of the edit before carry on, or not
	if len(e.Edit.Body) != 0 || len(e.Edit.Headers) != 1 || e.Edit.Headers["content-type"] != "application/x" {
		t.Errorf("edited again %+v", e.Edit)
	}
	d.do(204, "DELETE", "/v1/trash/"+ids[0]+"/body", nil, nil)
	d.do(200, "GET", "/v1/trash/"+ids[0], nil, &e)
	if e.Edited {
		t.Error("still edited")
	}
	edit("good")
	d.refused(422, "validation-failed", "PUT", "/v1/trash/"+ids[0]+"/body", "x", "Sluice-Header-X", "%00")
	d.refused(413, "payload-too-large", "PUT", "/v1/trash/"+ids[0]+"/body", strings.Repeat("x", 5<<20+1))

	// All or none: one that is not there keeps the others where they are, and is named.
	asked := fmt.Sprintf(`{"message_ids":["%s","%s-99999"],"reason":""}`, ids[0], ids[0][:36])
	p := d.refused(409, "conflict", "POST", "/v1/trash/approve", asked, "Content-Type", "application/json")
	if len(p.Errors) != 1 || p.Errors[0].Pointer != "#/message_ids/1" || *p.Messages != 1 {
		t.Errorf("%+v", p)
	}
	var sent struct {
		Sent []struct {
			MessageID string `json:"message_id"`
			SentAs    string `json:"sent_as"`
		}
	}
	d.do(200, "POST", "/v1/trash/approve", map[string]any{"message_ids": []string{ids[0], ids[1], ids[0]}, "reason": "mended"}, &sent)
	if len(sent.Sent) != 2 || sent.Sent[0].SentAs == ids[0] || sent.Sent[1].SentAs != ids[1] {
		t.Errorf("%+v", sent)
	}
	process := d.becomes(ids[0][:36], "done")
	if process.Total != 2 || process.Done != 2 {
		t.Errorf("%+v", process)
	}
	if call := got.of(ids[0][:36]); string(call.Body) != "good" || call.MessageID != sent.Sent[0].SentAs || call.Headers["keep"] != "me" {
		t.Errorf("the worker got %q as %v", call.Body, call)
	}
	var m struct {
		messageItem
		ReplacedBy string `json:"replaced_by"`
		Decisions  []struct{ Verdict string }
	}
	d.do(200, "GET", "/v1/messages/"+ids[0], nil, &m)
	if m.Place != "replaced" || m.ReplacedBy != sent.Sent[0].SentAs || len(m.Decisions) < 3 {
		t.Errorf("%+v", m)
	}
	d.refused(404, "not-found", "GET", "/v1/trash/"+ids[0], "")
	d.refused(404, "not-found", "PUT", "/v1/trash/"+ids[0]+"/body", "x")
	d.refused(404, "not-found", "DELETE", "/v1/trash/"+ids[0]+"/body", "")

	var rejected struct{ Rejected int }
	d.do(200, "POST", "/v1/trash/reject", map[string]any{"message_ids": []string{ids[2], ids[2]}, "reason": "a test"}, &rejected)
	if rejected.Rejected != 1 {
		t.Errorf("%+v", rejected)
	}
	d.becomes(ids[2][:36], "rejected")
	d.refused(409, "conflict", "POST", "/v1/trash/reject", `{"message_ids":["`+ids[2]+`"],"reason":"x"}`, "Content-Type", "application/json")

	var ended struct{ Terminated int }
	d.do(200, "POST", "/v1/processes/"+ids[3][:36]+"/terminate", map[string]string{"reason": "enough"}, &ended)
	if ended.Terminated != 1 {
		t.Errorf("%+v", ended)
	}
	d.becomes(ids[3][:36], "terminated")
	var list page[processState]
	d.do(200, "GET", "/v1/processes?state=terminated", nil, &list)
	if len(list.Items) != 1 {
		t.Errorf("%+v", list)
	}
}

type testedCall struct {
	Reached                        bool
	Class, Verdict, Reason, Cursor string
	Status                         int
	Duration                       float64 `json:"duration_ms"`
	After                          float64 `json:"after_seconds"`
	Messages                       []struct {
		Followers []string
		Headers   map[string]string
		Body      any
		Text      *string
		Base64    *string
	}
}

// A worker is registered, tried out, moved and removed.
func TestWorkers(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.serve(func(_ context.Context, r *worker.Request) (worker.Reply, error) {
		switch r.Action {
		case "later":
			return worker.Reply{Verdict: worker.Repeat, After: 90 * time.Second, Reason: "not ready"}, nil
		case "fail":
			return worker.Reply{}, &worker.Failure{Class: worker.Rejected, Reason: "no such customer"}
		case "split":
			return worker.Send(worker.Message{Body: []byte(`{"a":1}`), Followers: []string{"x"}}, worker.Message{Body: []byte("text")}, worker.Message{Body: []byte("\xff")}), nil
		case "stop":
			return worker.Reply{Verdict: worker.Stop, Reason: "seen"}, nil
		}
		return worker.Send(worker.Message{Body: fmt.Appendf(nil, "%s|%s|%s", r.Body, r.Headers["content-type"], r.Headers["x"]), Headers: map[string]string{"content-type": "text/plain"}}), nil
	})
	for body, want := range map[string]string{
		`{"action":"echo","body":{"a": 1.10},"headers":{"X":"röt"}}`: `{"a": 1.10}|application/json|röt`,
		`{"action":"echo","text":"t"}`:                               "t|text/plain; charset=utf-8|",
		`{"action":"echo","base64":"AA=="}`:                          "\x00|application/octet-stream|",
		`{"action":"echo","headers":{"content-type":"a/b"}}`:         "|a/b|",
	} {
		var tested testedCall
		d.do(200, "POST", "/v1/workers/demo/test", body, &tested)
		if !tested.Reached || tested.Status != 200 || tested.Verdict != "done" || tested.Duration <= 0 || len(tested.Messages) != 1 || *tested.Messages[0].Text != want || tested.Messages[0].Headers["content-type"] != "text/plain" {
			t.Errorf("%s: %+v", body, tested)
		}
	}
	for action, right := range map[string]func(testedCall) bool{
		"later": func(c testedCall) bool { return c.Verdict == "repeat" && c.After == 90 && c.Reason == "not ready" },
		"fail": func(c testedCall) bool {
			return c.Verdict == "" && c.Class == "rejected" && c.Reached && strings.Contains(c.Reason, "no such customer")
		},
		"stop": func(c testedCall) bool { return c.Verdict == "stop" && c.Reason == "seen" && len(c.Messages) == 0 },
		"split": func(c testedCall) bool {
			return len(c.Messages) == 3 && c.Messages[0].Followers[0] == "x" && c.Messages[0].Body != nil && *c.Messages[1].Text == "text" && *c.Messages[2].Base64 == base64.StdEncoding.EncodeToString([]byte("\xff"))
		},
	} {
		var tested testedCall
		d.do(200, "POST", "/v1/workers/demo/test", map[string]string{"action": action}, &tested)
		if !right(tested) {
			t.Errorf("%s: %+v", action, tested)
		}
	}
	d.refused(404, "not-found", "POST", "/v1/workers/none/test", "{}", "Content-Type", "application/json")

	var added struct{ Secret string }
	d.do(201, "POST", "/v1/workers", map[string]string{"name": "away", "url": "http://127.0.0.1:9/base?token=secret"}, &added)
	if !strings.HasPrefix(added.Secret, "whsec_") {
		t.Errorf("%+v", added)
	}
	var tested testedCall
	d.do(200, "POST", "/v1/workers/away/test", map[string]string{"action": "x"}, &tested)
	if tested.Reached || tested.Class != "unavailable" || tested.Reason == "" || strings.Contains(tested.Reason, "secret") {
		t.Errorf("%+v", tested)
	}
	var list page[struct{ Name, URL string }]
	d.do(200, "GET", "/v1/workers", nil, &list)
	if len(list.Items) != 2 || list.Items[0].Name != "away" {
		t.Errorf("%+v", list)
	}
	d.do(204, "PUT", "/v1/workers/away", map[string]string{"url": "http://127.0.0.1:10"}, nil)
	d.refused(422, "validation-failed", "PUT", "/v1/workers/away", `{"url":"x"}`, "Content-Type", "application/json")
	d.refused(404, "not-found", "PUT", "/v1/workers/none", `{"url":"http://a"}`, "Content-Type", "application/json")
	d.do(200, "GET", "/v1/workers?limit=1", nil, &list)
	if list.Items[0].URL != "http://127.0.0.1:10" || list.Next == "" {
		t.Errorf("%+v", list)
	}
	var other workerDetail
	d.do(200, "POST", "/v1/workers/away/refresh", nil, &other)
	if !strings.Contains(other.ListError, "cannot be asked") || other.Protocol != "sluice" || other.ListedAt != nil {
		t.Errorf("a worker that cannot be asked is shown as %+v", other)
	}
	d.do(204, "DELETE", "/v1/workers/away", nil, nil)
	d.refused(404, "not-found", "DELETE", "/v1/workers/away", "")
	d.enable("flow", flow)
	if p := d.refused(409, "in-use", "DELETE", "/v1/workers/demo", ""); !strings.Contains(p.Detail, "flow") {
		t.Errorf("%+v", p)
	}
	d.do(http.StatusNoContent, "POST", "/v1/topologies/flow/disable", nil, nil)
	d.do(http.StatusNoContent, "DELETE", "/v1/workers/demo", nil, nil)
}

// The door tells how it is, without a key.
func TestHouse(t *testing.T) {
	t.Parallel()
	d := open(t)
	for path, says := range map[string]string{
		"/": "topology_schema", "/healthz": "ok", "/readyz": "ok", "/openapi.json": "start-process", "/openapi.yaml": "start-process", "/openapi-3.0.json": "start-process",
		"/openapi/worker.yaml": "handle-message", "/schemas/topology.json": "2020-12", "/problems/not-found": "Not found",
	} {
		resp, body := d.send("", "GET", path, nil)
		if resp.StatusCode != 200 || !strings.Contains(string(body), says) {
			t.Errorf("%s: %d %.100s", path, resp.StatusCode, body)
		}
	}
}

// Who comes without a path is led to the screens by a browser, and told what there is by anything else. Screens have no
// say in what a program sees.
func TestScreensAreForBrowsers(t *testing.T) {
	t.Parallel()
	d := open(t)
	for _, c := range []struct {
		path, accept string
		status       int
		says         string
	}{
		{"/", "text/html,application/xhtml+xml,*/*;q=0.8", http.StatusSeeOther, `href="/ui/"`},
		{"/", "application/json", http.StatusOK, "topology_schema"},
		{"/ui/trash", "text/html", http.StatusOK, `id="app"`},
		{"/ui/trash", "application/json", http.StatusNotFound, "not-found"},
		{"/ui/assets/none.js", "*/*", http.StatusNotFound, "not-found"},
	} {
		resp, body := d.send("", "GET", c.path, nil, "Accept", c.accept)
		if resp.StatusCode != c.status || !strings.Contains(string(body), c.says) {
			t.Errorf("%s for %s: %d %.100s", c.path, c.accept, resp.StatusCode, body)
		}
	}
}
