package gateway_test

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"sluice/queue/worker"
)

// What processes are about is shown, and leads to them, and to their entries of the trash.
func TestEntities(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.serve(func(_ context.Context, r *worker.Request) (worker.Reply, error) {
		return worker.Reply{}, &worker.Failure{Class: worker.Rejected, Reason: "never"}
	})
	d.enable("flow", `
topology: flow
entities: {order: $.order, user: [user-id, $.user]}
nodes:
  in: {kind: start, followers: [work]}
  work: {kind: custom, worker: demo}
`)
	var ids []string
	for _, body := range []string{`{"order":"ABC-123","user":7}`, `{"order":"ABC-124","user":"urn:u:7"}`, `{}`} {
		a := d.post(inbox, []byte(body))
		d.becomes(a.CorrelationID, "failed")
		ids = append(ids, a.CorrelationID)
	}
	var p struct {
		Entities []struct{ Kind, Value string }
	}
	d.do(http.StatusOK, "GET", "/v1/processes/"+ids[0], nil, &p)
	if len(p.Entities) != 2 || p.Entities[0].Kind != "order" || p.Entities[1].Value != "7" {
		t.Errorf("about %+v", p.Entities)
	}
	for entity, want := range map[string][]string{
		"order:ABC-123": {ids[0]}, "ABC-124": {ids[1]}, "user:ABC-123": {}, "user:7": {ids[0]}, "user:urn:u:7": {ids[1]}, ":urn:u:7": {ids[1]}, "none": {},
	} {
		var processes page[struct {
			CorrelationID string `json:"correlation_id"`
		}]
		d.do(http.StatusOK, "GET", "/v1/processes?entity="+url.QueryEscape(entity), nil, &processes)
		var entries page[struct {
			MessageID string `json:"message_id"`
		}]
		d.do(http.StatusOK, "GET", "/v1/trash?entity="+url.QueryEscape(entity), nil, &entries)
		var bulk struct{ Total int }
		d.do(http.StatusCreated, "POST", "/v1/trash/bulks", map[string]any{"action": "reject", "reason": "test", "filter": map[string]any{"entity": entity}}, &bulk)
		got, failed := []string{}, []string{}
		for _, p := range processes.Items {
			got = append(got, p.CorrelationID)
		}
		for _, e := range entries.Items {
			failed = append(failed, e.MessageID[:36])
		}
		if !slices.Equal(got, want) || !slices.Equal(failed, want) || bulk.Total != len(want) {
			t.Errorf("%s: processes %q, entries of %q, a bulk of %d, want %q", entity, got, failed, bulk.Total, want)
		}
	}
	d.refused(422, "validation-failed", "GET", "/v1/processes?entity=Order:1", "")
	d.refused(422, "validation-failed", "GET", "/v1/trash?entity=order:", "")
	d.refused(422, "validation-failed", "POST", "/v1/trash/bulks", `{"action":"reject","reason":"test","filter":{"entity":"Order:1"}}`)
}
