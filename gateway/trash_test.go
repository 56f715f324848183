package gateway_test

import (
	"context"
	"fmt"
	"net/url"
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
