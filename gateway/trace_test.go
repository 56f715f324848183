package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"sluice/gateway"
	"sluice/queue/worker"
)

type call struct {
	CorrelationID string `json:"correlation_id"`
	MessageID     string `json:"message_id"`
	Topology      string
	Version       int
	State         string
	Kind, Node    string
	Application   string
	Badge         string
	Attempts      int
	Reason        string
}

// An order goes through three topologies, one of them in two versions. Its trace tells of every crossing of the boundary
// how it stands, and of nothing else, however it is cut into pages.
func TestTrace(t *testing.T) {
	t.Parallel()
	d := open(t)
	down := make(chan struct{})
	d.serve(func(_ context.Context, r *worker.Request) (worker.Reply, error) {
		switch r.Node {
		case "book":
			if r.Attempt == 1 {
				return worker.Reply{}, &worker.Failure{Class: worker.Transient, Reason: "busy"}
			}
		case "mail":
			return worker.Reply{}, &worker.Failure{Class: worker.Rejected, Reason: "no <address>"}
		case "later":
			return worker.Reply{}, &worker.Failure{Class: worker.Transient, Reason: "closed"}
		case "slow":
			<-down
		}
		return worker.Pass(), nil
	})
	t.Cleanup(func() { close(down) })
	for name, nodes := range map[string]string{
		"shop": "  in: {kind: start, followers: [check]}\n  check: {kind: custom, worker: demo, followers: [book, stop]}\n  book: {kind: connector, worker: demo, application: erp, retry: {initial: 1ms}}\n  stop: {kind: breakpoint}\n",
		"post": "  in: {kind: start, followers: [mail, later]}\n  mail: {kind: connector, worker: demo, application: smtp}\n  later: {kind: connector, worker: demo, retry: {initial: 1h, max: 1h}}\n",
		"bill": "  in: {kind: start, followers: [slow]}\n  slow: {kind: connector, worker: demo, timeout: 1h}\n",
	} {
		d.enable(name, "topology: "+name+"\nentities: {order: [$.order, order-id]}\nnodes:\n"+nodes)
	}
	send := func(topology, body string) string {
		return d.post("/v1/topologies/"+topology+"/nodes/in/events", []byte(body)).CorrelationID
	}
	shop := send("shop", `{"order":"ABC-123"}`)
	d.becomes(shop, "parked")
	send("shop", `{"order":"ABC-1234"}`)
	post := send("post", `{"order":"ABC-123"}`)
	d.until("later is retried", func() bool {
		var p page[messageItem]
		d.do(http.StatusOK, "GET", "/v1/processes/"+post+"/messages", nil, &p)
		return len(p.Items) == 2 && p.Items[0].Place == "trash" && p.Items[1].Place == "retrying"
	})
	d.enable("shop", "topology: shop\nentities: {order: $.order}\nnodes:\n  in: {kind: start, followers: [book]}\n  book: {kind: connector, worker: demo, application: erp, retry: {initial: 1h, max: 1h}}\n")
	d.until("events go to the second version", func() bool {
		return d.post("/v1/topologies/shop/nodes/in/events", []byte(`{"order":"ABC-12"}`)).Version == 2
	})
	second := send("shop", `{"order":"ABC-123"}`)
	bill := send("bill", `{"order":"ABC-123"}`)
	d.until("slow runs", func() bool { m := d.messages(bill); return len(m) == 1 && m[0].Place == "running" })
	d.until("book is retried", func() bool { m := d.messages(second); return len(m) == 1 && m[0].Place == "retrying" })

	var whole page[call]
	d.do(http.StatusOK, "GET", "/v1/trace?entity=order:ABC-123", nil, &whole)
	var got []string
	for _, c := range whole.Items {
		got = append(got, fmt.Sprintf("%s v%d %s %s %s %s", c.Topology, c.Version, c.Kind, c.Node, c.Application, c.Badge))
	}
	want := []string{
		"shop v1 event in  received", "shop v1 connector book erp delivered",
		"post v1 event in  received", "post v1 connector mail smtp refused", "post v1 connector later  retried",
		"shop v2 event in  received", "shop v2 connector book erp retried",
		"bill v1 event in  received", "bill v1 connector slow  running",
	}
	if !slices.Equal(got, want) || whole.Next != "" {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if c := whole.Items[1]; c.Attempts != 2 || c.CorrelationID != shop || c.State != "parked" || whole.Items[3].Reason != "no <address>" {
		t.Errorf("calls %+v", whole.Items)
	}
	for _, limit := range []int{1, 2, 3, 4} {
		var cut []call
		after := ""
		for n := 0; n == 0 || after != ""; n++ {
			var p page[call]
			d.do(http.StatusOK, "GET", fmt.Sprintf("/v1/trace?entity=ABC-123&limit=%d&after=%s", limit, after), nil, &p)
			if len(p.Items) > limit || n > 30 {
				t.Fatalf("page %d of %d has %d items", n, limit, len(p.Items))
			}
			cut, after = append(cut, p.Items...), p.Next
		}
		if !slices.Equal(cut, whole.Items) {
			t.Errorf("in pages of %d: %+v", limit, cut)
		}
	}
	var none page[call]
	d.do(http.StatusOK, "GET", "/v1/trace?entity=user:ABC-123", nil, &none)
	if len(none.Items) != 0 || none.Next != "" {
		t.Errorf("of nobody: %+v", none)
	}
	d.refused(422, "validation-failed", "GET", "/v1/trace", "")
	d.refused(422, "validation-failed", "GET", "/v1/trace?entity=order:", "")
}

// A report is verified with the public key that the gateway shows, whatever it holds; with a byte changed it is not, nor
// with another key. What is hostile in it is text.
func TestTraceReport(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.serve(func(context.Context, *worker.Request) (worker.Reply, error) {
		return worker.Reply{}, &worker.Failure{Class: worker.Rejected, Reason: "<script>alert(1)</script>\n<!-- sluice-signature {} -->"}
	})
	d.enable("flow", "topology: flow\nentities: {order: $.order}\nnodes:\n  in: {kind: start, followers: [send]}\n  send: {kind: connector, worker: demo}\n")
	const order = `order:<img src=x onerror=alert(1)>`
	d.becomes(d.post(inbox, []byte(`{"order":"<img src=x onerror=alert(1)>"}`)).CorrelationID, "failed")
	var keys struct {
		Items []struct {
			PublicKey string `json:"public_key"`
		}
	}
	d.do(http.StatusOK, "GET", "/v1/trace/keys", nil, &keys)
	public := keys.Items[0].PublicKey
	for _, format := range []string{"json", "html"} {
		resp, report := d.send(d.operate, "GET", "/v1/trace/export?format="+format+"&entity="+url.QueryEscape(order), nil)
		if resp.StatusCode != http.StatusOK || !strings.Contains(resp.Header.Get("Content-Disposition"), "trace."+format) {
			t.Fatalf("%s: %d: %s", format, resp.StatusCode, report)
		}
		if by, err := gateway.VerifyReport(report, []string{"other", public}); err != nil || by != public {
			t.Errorf("%s: signed by %q, %v", format, by, err)
		}
		if _, err := gateway.VerifyReport(report, []string{"other"}); err == nil {
			t.Errorf("%s: verified with another key", format)
		}
		for _, at := range []int{0, 60, len(report) / 2, len(report) - 20} {
			changed := slices.Clone(report)
			changed[at] ^= 1
			if _, err := gateway.VerifyReport(changed, []string{public}); err == nil {
				t.Errorf("%s: verified with byte %d changed", format, at)
			}
		}
		if _, err := gateway.VerifyReport(append(slices.Clone(report), "<p>more"...), []string{public}); err == nil {
			t.Errorf("%s: verified with more behind it", format)
		}
		if text := string(report); strings.Contains(text, "<script") || strings.Contains(text, "<img") || !strings.Contains(text, "refused") {
			t.Errorf("%s: %s", format, text)
		}
	}
}
