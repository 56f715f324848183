package gateway_test

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"testing"
)

// Who listens is told of lists that change, soon and without asking, and of those of another tenant nothing.
func TestChanges(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.serve(failing)
	listen := func(key string) (heard chan string, leave context.CancelFunc) {
		ctx, leave := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, "GET", d.url+"/v1/changes", http.NoBody)
		ok(t, err)
		r.Header.Set("Authorization", "Bearer "+key)
		resp, err := http.DefaultTransport.RoundTrip(r) //nolint:bodyclose // who hears closes it
		ok(t, err)
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
			t.Fatalf("%d %v", resp.StatusCode, resp.Header)
		}
		heard = make(chan string, 100)
		go func() {
			defer close(heard)
			defer resp.Body.Close()
			for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
				if data, is := strings.CutPrefix(lines.Text(), "data: "); is {
					heard <- data
				}
			}
		}()
		return heard, leave
	}
	heard, leave := listen(d.operate)
	theirs, leaveToo := listen(d.other)
	waitFor := func(list string, change func()) {
		t.Helper()
		change()
		var all []string
		d.until(list+" has changed", func() bool {
			select {
			case data := <-heard:
				all = append(all, data)
			default:
			}
			return strings.Contains(strings.Join(all, " "), `"`+list+`"`)
		})
	}
	// The first look may come after the first change: make changes until one is heard of.
	d.until("the stream has begun", func() bool {
		d.do(http.StatusOK, "PUT", "/v1/topologies/flow/draft", flow, nil)
		select {
		case <-heard:
			return true
		default:
			return false
		}
	})
	waitFor("topologies", func() { d.enable("flow", flow) })
	waitFor("trash", func() { d.becomes(d.post(inbox, []byte("fail")).CorrelationID, "failed") })
	waitFor("processes", func() { d.becomes(d.post(inbox, []byte("x")).CorrelationID, "done") })
	leave()
	leaveToo()
	for range heard {
	}
	for data := range theirs {
		if data != `{"lists":["overview"]}` {
			t.Errorf("another tenant hears %s", data)
		}
	}
}
