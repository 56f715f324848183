package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"testing"
	"time"

	"sluice/queue/worker"
)

// entries are those that a query lists, by their bodies' last characters; the list is read to its end.
func (d *door) entries(query string) (ids []string) {
	d.t.Helper()
	for next, n := "", 0; n == 0 || next != ""; n++ {
		var p page[struct {
			MessageID string `json:"message_id"`
			Class     string
			Cause     string
		}]
		d.do(200, "GET", "/v1/trash?limit=2&"+query+"&after="+next, nil, &p)
		for _, e := range p.Items {
			if e.Class == "" || len(e.Cause) != 16 {
				d.t.Errorf("entry %+v", e)
			}
			ids = append(ids, e.MessageID)
		}
		next = p.Next
	}
	return ids
}

// The trash is looked through by all that is known of entries, and sorted by what they failed of.
func TestFindingInTheTrash(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.serve(func(_ context.Context, r *worker.Request) (worker.Reply, error) {
		return worker.Reply{}, &worker.Failure{Class: worker.Rejected, Reason: "no customer " + string(r.Body)}
	})
	d.enable("flow", flow)
	began := time.Now()
	for i := range 5 {
		body := fmt.Sprint(i)
		if i == 4 {
			body = "at all"
		}
		d.becomes(d.post(inbox, []byte(body)).CorrelationID, "failed")
	}
	all := d.entries("")
	if len(all) != 5 {
		t.Fatalf("%d entries", len(all))
	}
	var groups struct {
		Items []struct {
			Cause, Class, Text string
			Count              int
			Share              float64
		}
		Causes, Entries int
	}
	d.do(200, "GET", "/v1/trash/groups", nil, &groups)
	if len(groups.Items) != 2 || groups.Causes != 2 || groups.Entries != 5 || groups.Items[0].Text != "no customer #" || groups.Items[0].Count != 4 ||
		groups.Items[0].Share != 0.8 || groups.Items[1].Text != "no customer at all" || groups.Items[1].Class != "rejected" {
		t.Fatalf("groups %+v", groups)
	}
	at := func(after time.Duration) string {
		return url.QueryEscape(began.Add(after).UTC().Format(time.RFC3339Nano))
	}
	for query, want := range map[string]int{
		"topology=flow&version=1&node=work": 5, "worker=demo&class=rejected": 5, "worker=other": 0, "application=crm": 0, "class=exhausted": 0,
		"cause=" + groups.Items[0].Cause: 4, "cause=0000000000000000": 0, "cause=" + groups.Items[1].Cause + "&order=newest": 1,
		"correlation_id=" + all[0][:36]: 1, "failed_after=" + at(-time.Hour): 5, "failed_before=" + at(-time.Hour): 0,
		"text=" + url.QueryEscape("CUSTOMER at"): 1, "text=" + url.QueryEscape("at all"): 1, "text=%25": 0,
	} {
		if got := d.entries(query); len(got) != want {
			t.Errorf("%s: %d entries, want %d", query, len(got), want)
		}
	}
	if newest := d.entries("order=newest"); len(newest) != 5 || newest[0] != all[4] || newest[4] != all[0] {
		t.Errorf("the newest first: %v, the oldest first: %v", newest, all)
	}
	for _, query := range []string{"version=1", "class=odd", "cause=xyz", "correlation_id=1", "failed_after=yesterday", "order=random", "after=xyz", "after=WzEsMiwzXQ"} {
		d.refused(422, "validation-failed", "GET", "/v1/trash?"+query, "")
	}
	d.refused(422, "validation-failed", "GET", "/v1/trash/groups?text=a", "")
}

// An entry tells where it stopped and what was done about it; it changes hands, is remarked upon, and goes on in another
// version. Who has seen an older state of it changes nothing.
func TestActingOnTheTrash(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.serve(func(_ context.Context, r *worker.Request) (worker.Reply, error) {
		if r.Version == 1 {
			return worker.Reply{}, &worker.Failure{Class: worker.Rejected, Reason: "not in version 1"}
		}
		return worker.Reply{Verdict: worker.Done}, nil
	})
	d.enable("flow", flow)
	a := d.post(inbox, []byte(`{"a":[1]}`), "Content-Type", "application/json")
	d.becomes(a.CorrelationID, "failed")
	d.enable("flow", flow+"\n")
	path := "/v1/trash/" + d.messages(a.CorrelationID)[0].MessageID
	look := func() (e struct {
		MessageID string `json:"message_id"`
		Pretty    string
		Revision  int64
		Failures  int
		Assigned  string `json:"assigned_to"`
		Where     struct {
			From, Node, Kind, Worker string
			Versions                 []int
		}
		Process struct{ State string }
		Edit    *struct {
			Diff struct {
				Headers []struct{ Name string }
				Body    string
			}
		}
		Decisions []struct {
			Verdict string
			Detail  map[string]any
		}
	}) {
		d.do(200, "GET", path, nil, &e)
		return e
	}
	e := look()
	if e.Pretty != "{\n  \"a\": [\n    1\n  ]\n}" || e.Failures != 1 || e.Where.From != "in" || e.Where.Node != "work" || e.Where.Kind != "custom" ||
		e.Where.Worker != "demo" || len(e.Where.Versions) != 1 || e.Process.State != "failed" {
		t.Errorf("entry %+v", e)
	}
	tag := func() string {
		resp, _ := d.send(d.operate, "GET", path, nil)
		return resp.Header.Get("ETag")
	}
	stale := tag()
	resp, body := d.send(d.operate, "PUT", path+"/body", []byte(`{"a":[2]}`), "If-Match", stale, "Sluice-Header-X", "y")
	if resp.StatusCode != 200 || resp.Header.Get("ETag") == stale || resp.Header.Get("ETag") != tag() {
		t.Errorf("edit: %d %s, ETag %s", resp.StatusCode, body, resp.Header.Get("ETag"))
	}
	if e := look(); len(e.Edit.Diff.Headers) != 1 || e.Edit.Diff.Headers[0].Name != "x" || !strings.Contains(e.Edit.Diff.Body, "-    1\n+    2\n") {
		t.Errorf("edit %+v", e.Edit)
	}
	for _, match := range []string{stale, `"x"`, "1", `W/` + tag()} {
		d.refused(412, "precondition-failed", "PUT", path+"/body", "{}", "If-Match", match)
		d.refused(412, "precondition-failed", "DELETE", path+"/body", "", "If-Match", match)
		d.refused(412, "precondition-failed", "POST", path+"/comments", `{"text":"a"}`, "If-Match", match, "Content-Type", "application/json")
	}
	d.refused(422, "validation-failed", "PUT", path+"/body", "{")
	d.do(200, "POST", path+"/comments", map[string]any{"text": "odd"}, nil)
	seen := func(revision int64, more map[string]any) map[string]any {
		choice := map[string]any{"message_ids": []string{e.MessageID}, "revisions": []int64{revision}, "reason": "test"}
		maps.Copy(choice, more)
		return choice
	}
	d.do(200, "POST", "/v1/trash/assign", seen(look().Revision, map[string]any{"to": "ann"}), nil)
	now := look()
	if now.Assigned != "ann" || len(now.Decisions) != 3 || now.Decisions[2].Detail["to"] != "ann" {
		t.Errorf("entry %+v", now)
	}
	for _, act := range []string{"approve", "reject", "assign"} {
		choice := seen(e.Revision, nil)
		if act == "assign" {
			choice["to"] = "bob"
		}
		text, err := json.Marshal(choice)
		ok(t, err)
		if p := d.refused(409, "conflict", "POST", "/v1/trash/"+act, string(text), "Content-Type", "application/json"); len(p.Errors) != 1 || p.Errors[0].Pointer != "#/message_ids/0" {
			t.Errorf("%s: %+v", act, p)
		}
	}
	d.refused(422, "validation-failed", "POST", "/v1/trash/approve", `{"message_ids":["`+e.MessageID+`"],"revisions":[1,2]}`, "Content-Type", "application/json")
	d.refused(409, "conflict", "POST", "/v1/trash/approve", `{"message_ids":["`+e.MessageID+`"],"version":9}`, "Content-Type", "application/json")
	d.do(200, "POST", "/v1/trash/approve", seen(now.Revision, map[string]any{"version": 2}), nil)
	d.becomes(a.CorrelationID, "done")
}

// A bulk is previewed, started, paused, resumed and cancelled; what makes no sense is refused.
func TestBulksOfTheTrash(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.serve(failing)
	d.enable("flow", flow)
	d.becomes(d.post(inbox, []byte("fail"), "Content-Type", "text/plain").CorrelationID, "failed")
	type bulk struct {
		ID                        int64
		State                     string
		Total, Done, Failed, Left int
		Filter                    map[string]any
		Sample                    []struct {
			Error string
			Diff  *struct{ Headers []struct{ Name string } }
		}
		Patch []struct {
			Value json.RawMessage
		}
	}
	var b bulk
	d.do(201, "POST", "/v1/trash/bulks", map[string]any{
		"action": "approve", "rate": 5, "set_headers": map[string]string{"X-A": "b"}, "filter": map[string]any{"topology": "flow", "version": 1, "text": "no"},
	}, &b)
	if b.State != "preview" || b.Filter["topology"] != "flow" || len(b.Filter) != 3 {
		t.Errorf("%+v", b)
	}
	d.do(201, "POST", "/v1/trash/bulks", map[string]any{
		"action": "edit", "patch": []any{map[string]any{"op": "add", "path": "/a", "value": nil}}, "set_headers": map[string]string{"X-A": "b"},
	}, &b)
	if b.Total != 1 || b.Left != 1 || len(b.Sample) != 1 || !strings.Contains(b.Sample[0].Error, "no JSON") || string(b.Patch[0].Value) != "null" {
		t.Errorf("%+v", b)
	}
	path := fmt.Sprint("/v1/trash/bulks/", b.ID)
	for _, step := range []struct{ step, state string }{{"start", "running"}, {"start", "running"}, {"pause", "paused"}, {"resume", "running"}, {"cancel", "cancelled"}} {
		d.do(200, "POST", path+"/"+step.step, nil, &b)
		if b.State != step.state {
			t.Errorf("%s: %+v", step.step, b)
		}
	}
	d.refused(409, "conflict", "POST", path+"/start", "")
	d.do(200, "GET", path, nil, &b)
	var list page[bulk]
	d.do(200, "GET", "/v1/trash/bulks?limit=1", nil, &list)
	if len(list.Items) != 1 || list.Items[0].ID != b.ID || list.Next == "" {
		t.Errorf("%+v", list)
	}
	var failures page[struct{ Error string }]
	d.do(200, "GET", path+"/failures", nil, &failures)
	if len(failures.Items) != 0 {
		t.Errorf("%+v", failures)
	}
	for _, body := range []string{
		`{}`, `{"action":"edit"}`, `{"action":"reject"}`, `{"action":"multiply"}`, `{"action":"approve","rate":-1}`, `{"action":"approve","filter":{"version":1}}`,
		`{"action":"approve","filter":{"cause":"x"}}`, `{"action":"edit","patch":[{"op":"add","path":"/a"}]}`, `{"action":"edit","patch":[{"op":"add","path":"a","value":1}]}`,
		`{"action":"comment"}`, `{"action":"reject","reason":"a","to":"ann"}`, `{"action":"assign","to":"ann","set_headers":{"a":"b"}}`,
		`{"action":"edit","patch":[{"op":"odd","path":"/a"}]}`, `{"action":"approve","odd":1}`, `{"action":"approve","filter":{"odd":1}}`, `{"action":"reject","reason":"a","version":2}`,
	} {
		d.refused(422, "validation-failed", "POST", "/v1/trash/bulks", body, "Content-Type", "application/json")
	}
	d.refused(404, "not-found", "GET", "/v1/trash/bulks/999999", "")
	d.refused(404, "not-found", "POST", "/v1/trash/bulks/999999/start", "")
	d.refused(422, "validation-failed", "GET", "/v1/trash/bulks/x", "")
}
