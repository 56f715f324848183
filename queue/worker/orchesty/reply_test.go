package orchesty_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluice/queue/worker"
	"sluice/queue/worker/orchesty"
)

var sample = worker.Target{Name: "shop", URL: "http://127.0.0.1:9", Protocol: worker.Orchesty, Dialect: worker.DialectA}

// asked is a call as any other.
func asked() worker.Request {
	return worker.Request{
		Action: "sync", Kind: "custom", MessageID: "0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-4711", CorrelationID: "0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60",
		Topology: "orders", Version: 3, Node: "sync", Followers: []string{"eu", "us"}, Attempt: 1,
		Headers: map[string]string{"content-type": "application/json", "user": "joe", "x-own": "kept"}, Body: []byte(`{"a":1}`),
	}
}

// asPage makes a call one of a batch.
func asPage(r worker.Request) worker.Request {
	r.Kind, r.Page = "batch", max(r.Page, 1)
	return r
}

// answered is the envelope of a worker that echoes what it was sent, with some headers changed; a nil one is removed.
func answered(t testing.TB, r worker.Request, body any, changed map[string]any) []byte {
	t.Helper()
	headers, err := orchesty.Sent(sample, r)
	ok(t, err)
	maps.Copy(headers, changed)
	maps.DeleteFunc(headers, func(_ string, v any) bool { return v == nil })
	doc, err := json.Marshal(map[string]any{"headers": headers, "body": body})
	ok(t, err)
	return doc
}

type h = map[string]any

// Each result code comes to what it means.
func TestResultCodes(t *testing.T) {
	t.Parallel()
	eu, us := orchesty.NodeID("orders", 3, "eu"), orchesty.NodeID("orders", 3, "us")
	page := asPage(asked())
	const items = `[{"headers":{},"body":"1"},{"headers":{"user":"ann"},"body":"two"}]`
	for name, c := range map[string]struct {
		request worker.Request
		status  int
		body    any
		headers h
		want    string
	}{
		"success":                       {asked(), 200, "b", h{"result-code": "0"}, "done → all b"},
		"success with its body":         {asked(), 200, `{"a":1}`, h{"result-code": "0"}, "done → all same"},
		"a number":                      {asked(), 200, "b", h{"result-code": 0}, "done → all b"},
		"an unknown code":               {asked(), 200, "b", h{"result-code": "2001"}, "done → all b"},
		"no integer":                    {asked(), 200, "b", h{"result-code": "fine"}, "done → all b"},
		"too large an integer":          {asked(), 200, "b", h{"result-code": "99999999999999999999"}, "done → all b"},
		"a cursor of no batch":          {asked(), 200, "b", h{"result-code": "1010", "cursor": "2"}, "done → all b"},
		"no code":                       {asked(), 200, "b", h{}, "rejected: worker shop gave no verdict: its reply has no header result-code"},
		"a code that is null":           {asked(), 200, "b", h{"result-code": json.RawMessage("null")}, "rejected: worker shop gave no verdict: its reply has no header result-code"},
		"another's Result-Code":         {asked(), 200, "b", h{"Result-Code": "0"}, "rejected: worker shop gave no verdict: its reply has no header result-code"},
		"no body":                       {asked(), 200, nil, h{"result-code": "0"}, "done → all "},
		"a body of JSON":                {asked(), 200, h{"a": 1}, h{"result-code": "0"}, "transient: worker shop answered 200, but not as an Orchesty worker does: its body is not a string"},
		"one chosen":                    {asked(), 200, "b", h{"result-code": "1002", "force-target-queue": us}, "done → [us] b"},
		"both chosen":                   {asked(), 200, "b", h{"result-code": 1002, "force-target-queue": us + "," + eu}, "done → [us eu] b"},
		"chosen twice":                  {asked(), 200, "b", h{"result-code": "1002", "force-target-queue": us + "," + us}, "done → [us] b"},
		"chosen as of old":              {asked(), 200, "b", h{"result-code": "1002", "force-target-queue": "pipes.64199a06cebdd20846060009." + eu}, "done → [eu] b"},
		"a stranger chosen":             {asked(), 200, "b", h{"result-code": "1002", "force-target-queue": us + ",123"}, "rejected: unknown follower of id [123]: worker shop sent a message to what does not follow node sync"},
		"nobody chosen":                 {asked(), 200, "b", h{"result-code": "1002"}, "rejected: unknown follower of id []: worker shop sent a message to what does not follow node sync"},
		"stop":                          {asked(), 200, "b", h{"result-code": "1003", "result-message": "filtered out"}, "stop: filtered out"},
		"limit":                         {asked(), 200, "b", h{"result-code": "1004", "result-message": "429 from remote"}, "limited: 429 from remote after 1m0s"},
		"fail":                          {asked(), 200, "b", h{"result-code": "1006", "result-message": "bad input"}, "rejected: bad input"},
		"fail without words":            {asked(), 200, "b", h{"result-code": "1006"}, "rejected: the worker failed it and gave no reason"},
		"thrown":                        {asked(), 400, "b", h{"result-code": "1006", "result-message": "Error occurred: boom"}, "rejected: Error occurred: boom"},
		"repeat":                        {asked(), 200, "b", h{"result-code": "1001", "result-message": "later", "repeat-interval": "15", "repeat-max-hops": 3}, "repeat after 15s: later"},
		"repeat at once":                {asked(), 200, "b", h{"result-code": "1001", "repeat-interval": "-5", "repeat-max-hops": "3"}, "repeat after 0s: "},
		"repeat in a year":              {asked(), 200, "b", h{"result-code": "1001", "repeat-interval": "31536000", "repeat-max-hops": "3"}, "repeat after 720h0m0s: "},
		"repeat without an interval":    {asked(), 200, "b", h{"result-code": "1001", "repeat-max-hops": "3"}, "rejected: worker shop asks to be called again, but its reply has no header repeat-interval"},
		"repeat of odd hops":            {asked(), 200, "b", h{"result-code": "1001", "repeat-interval": "15", "repeat-max-hops": "many"}, "rejected: worker shop asks to be called again, but its header repeat-max-hops is no integer: \"many\""},
		"repeat of one call":            {asked(), 200, "b", h{"result-code": "1001", "result-message": "later", "repeat-interval": "15", "repeat-max-hops": "1"}, "rejected: max repeat limit reached, later"},
		"items":                         {page, 200, items, h{"result-code": "0"}, "done → all 1 → all two"},
		"items of an unknown code":      {page, 200, items, h{"result-code": "7"}, "done → all 1 → all two"},
		"no items":                      {page, 200, "[]", h{"result-code": "0"}, "done"},
		"the last page":                 {page, 200, items, h{"result-code": "0", "cursor": "3"}, "done → all 1 → all two"},
		"a page and another":            {page, 200, items, h{"result-code": "1010", "cursor": "2"}, "done → all 1 → all two, cursor"},
		"only a cursor":                 {page, 200, items, h{"result-code": "1011", "cursor": "2"}, "done, cursor"},
		"another page without a cursor": {page, 200, items, h{"result-code": "1010"}, "rejected: worker shop asks for another page, but its reply has no header cursor"},
		"a page that chooses":           {page, 200, items, h{"result-code": "1002", "force-target-queue": us}, "rejected: worker shop chose followers for a whole page of batch sync, which no engine of Orchesty's does: choose in a node after it"},
		"items that are none":           {page, 200, `{"a":1}`, h{"result-code": "0"}, "rejected: the reply of worker shop cannot be used: its body is no list of items"},
		"null for items":                {page, 200, `null`, h{"result-code": "1011", "cursor": "2"}, "rejected: the reply of worker shop cannot be used: its body is no list of items"},
		"an item of JSON":               {page, 200, `[{"body":{}}]`, h{"result-code": "0"}, "rejected: the reply of worker shop cannot be used: item 0: its body is not a string"},
		"too many items":                {page, 200, "[" + strings.Repeat("{},", 100) + "{}]", h{"result-code": "0"}, "rejected: the reply of worker shop cannot be used: a page of 101 items, more than 100"},
		"a batch stops":                 {page, 200, items, h{"result-code": "1003"}, "stop: "},
		"a batch repeats":               {page, 200, `{"in":1}`, h{"result-code": "1001", "repeat-interval": "30", "repeat-max-hops": "5"}, "repeat after 30s: "},
	} {
		if got := told(orchesty.Read(sample, c.request, c.status, answered(t, c.request, c.body, c.headers))); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, c.want)
		}
	}
}

// What is no envelope is told as what it is.
func TestNoEnvelope(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		body   string
		want   string
	}{
		{200, "", "transient: worker shop answered 200, but not as an Orchesty worker does: the reply is not a JSON object"},
		{200, "<html>ok</html>", "transient: worker shop answered 200, but not as an Orchesty worker does: the reply is not a JSON object"},
		{200, "null", "transient: worker shop answered 200, but not as an Orchesty worker does: the reply is not a JSON object"},
		{200, `{"headers":[],"body":""}`, "transient: worker shop answered 200, but not as an Orchesty worker does: its headers are not a JSON object"},
		{200, "{\"headers\":{\"result-code\":\"0\"},\"body\":\"\xff\"}", "transient: worker shop answered 200, but not as an Orchesty worker does: the reply is not UTF-8"},
		{200, `{"Headers":{"result-code":"0"},"Body":"b"}`, "rejected: worker shop gave no verdict: its reply has no header result-code"},
		{400, `{"status":"Error","message":"Error occurred: Service with name [x] does not exist!Error: Service\n    at y"}`, "rejected: worker shop answered 400: Error occurred: Service with name [x] does not exist!"},
		{400, "<!DOCTYPE html><pre>no</pre>", "rejected: worker shop answered 400: it gave no reason"},
		{400, "", "rejected: worker shop answered 400: it gave no reason"},
	} {
		reply, failure := orchesty.Read(sample, asked(), c.status, []byte(c.body))
		if got := told(reply, failure); got != c.want {
			t.Errorf("%d %s:\n got %s\nwant %s", c.status, c.body, got, c.want)
		}
		if failure != nil && (failure.Class == worker.Transient) != errors.Is(failure, worker.ErrProtocol) {
			t.Errorf("%d %s: a failure of the protocol is not told apart", c.status, c.body)
		}
	}
}

// told puts what became of a call into words.
func told(r worker.Reply, f *worker.Failure) string {
	switch {
	case f != nil && f.RetryAfter > 0:
		return fmt.Sprint(f, " after ", f.RetryAfter)
	case f != nil:
		return f.Error()
	case r.Verdict == worker.Stop:
		return "stop: " + r.Reason
	case r.Verdict == worker.Repeat:
		return fmt.Sprintf("repeat after %v: %s", r.After, r.Reason)
	}
	words := r.Verdict.String()
	for _, m := range r.Messages {
		to, body := "all", string(m.Body)
		if m.Followers != nil {
			to = fmt.Sprint(m.Followers)
		}
		if m.SameBody {
			body = "same"
		}
		words += " → " + to + " " + body
	}
	if r.Cursor != "" {
		words += ", cursor"
	}
	return words
}

// What goes on has the headers of the reply, without verdict and engine's own; ids and user are put back.
func TestHeadersThatGoOn(t *testing.T) {
	t.Parallel()
	r := asked()
	this, process := orchesty.NodeID("orders", 3, "sync"), orchesty.ProcessID(r.MessageID)
	said := h{
		"result-code": "0", "result-message": "m", "result-detail": "d", "force-target-queue": "", "user-task-state": "accept",
		"repeat-hops": "2", "repeat-max-hops": "3", "repeat-interval": "1", "limit-message-from-limiter": "1", "audit-entity": "{}",
		"my-header": "mine", "My-Header": "too", "n": 7, "list": []int{1}, "yes": true, "null": json.RawMessage("null"), "user": nil, "correlation-id": nil, "topology-id": "other", "x-own": nil,
	}
	want := map[string]string{
		"content-type": "application/json", "applications": "", "my-header": "mine", "My-Header": "too", "n": "7", "list": "[1]", "yes": "true", "user": "joe",
		"previous-node-id": this, "parent-id": process,
	}
	delete(want, "applications")
	reply, f := orchesty.Read(sample, r, 200, answered(t, r, "b", said))
	sameHeaders(t, "to two followers", reply, f, want)

	r.Followers = []string{"eu"}
	delete(want, "parent-id")
	want["process-id"] = process
	reply, f = orchesty.Read(sample, r, 200, answered(t, r, "b", said))
	sameHeaders(t, "to one follower", reply, f, want)

	// One that came on a branch stays on it, or begins its own below.
	r.Headers["process-id"], r.Headers["parent-id"] = "p-7", "p-1"
	want["process-id"], want["parent-id"] = "p-7", "p-1"
	reply, f = orchesty.Read(sample, r, 200, answered(t, r, "b", said))
	sameHeaders(t, "on a branch", reply, f, want)

	page := asPage(r)
	delete(want, "process-id")
	want["parent-id"], want["user"], want["limiter-key"] = "p-7", "ann", "k;1;2"
	said["cursor"] = "2"
	reply, f = orchesty.Read(sample, page, 200, answered(t, page, `[{"headers":{"user":"ann","limiter-key":"k;1;2","result-code":"1003"},"body":"1"}]`, said))
	sameHeaders(t, "of an item", reply, f, want)
}

func sameHeaders(t *testing.T, what string, reply worker.Reply, f *worker.Failure, want map[string]string) {
	t.Helper()
	if f != nil {
		t.Fatalf("%s: %v", what, f)
	}
	if got := reply.Messages[0].Headers; !maps.Equal(got, want) {
		t.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
}

// Headers that no message may have fail the message, with the reason.
func TestHeadersThatCannotGoOn(t *testing.T) {
	t.Parallel()
	for _, bad := range []h{{"a b": "c"}, {"x": "\x00"}, {"x": strings.Repeat("x", 9000)}} {
		bad["result-code"] = "0"
		for _, r := range []worker.Request{asked(), asPage(asked())} {
			for _, code := range []string{"0", "1001", "1010"} {
				bad["result-code"], bad["repeat-interval"], bad["repeat-max-hops"], bad["cursor"] = code, "1", "9", "2"
				_, f := orchesty.Read(sample, r, 200, answered(t, r, `[{"body":""}]`, bad))
				if f == nil || f.Class != worker.Rejected || !strings.Contains(f.Reason, "cannot be used") {
					t.Errorf("%s %v came to %v", r.Kind, code, f)
				}
			}
		}
	}
}

// A message that is repeated N times at most is called N times, however often it was not repeats that it was called for.
func TestHops(t *testing.T) {
	t.Parallel()
	r := asked()
	again := h{"result-code": "1001", "result-message": "later", "repeat-interval": "15", "repeat-max-hops": "3"}
	for hop := 2; hop <= 3; hop++ {
		reply, f := orchesty.Read(sample, r, 200, answered(t, r, "other", again))
		if f != nil || reply.Cursor == "" {
			t.Fatalf("hop %d: %v", hop, f)
		}
		r.Cursor = reply.Cursor
		r.Attempt += 5 // an outage lies between
		sent, err := orchesty.Sent(sample, r)
		ok(t, err)
		equal(t, "hops", sent["repeat-hops"], any(fmt.Sprint(hop)))
		equal(t, "most", sent["repeat-max-hops"], any("3"))
		equal(t, "interval", sent["repeat-interval"], any("15"))
		if _, stale := sent["result-code"]; stale {
			t.Error("the verdict of the call before was sent")
		}
	}
	_, f := orchesty.Read(sample, r, 200, answered(t, r, "other", again))
	if f == nil || f.Error() != "rejected: max repeat limit reached, later" {
		t.Errorf("the fourth call was not refused: %v", f)
	}

	// From the trash it begins anew: its attempts do.
	r.Attempt = 1
	sent, err := orchesty.Sent(sample, r)
	ok(t, err)
	if hops, is := sent["repeat-hops"]; is {
		t.Errorf("hop %v of a message that was sent again", hops)
	}
	if reply, f := orchesty.Read(sample, r, 200, answered(t, r, "other", again)); f != nil || reply.Verdict != worker.Repeat {
		t.Errorf("it had no hops left: %v", f)
	}
}

// What a worker changes of a message's headers is there when the message is called again, for a repeat as for a page;
// what a page needed of hops is not held against the next.
func TestHeadersOfNextCall(t *testing.T) {
	t.Parallel()
	r := asPage(asked())
	r.Headers["previous-node-id"] = "n-1"
	reply, f := orchesty.Read(sample, r, 200, answered(t, r, "", h{"result-code": "1001", "repeat-interval": "15", "repeat-max-hops": "3", "seen": "1", "x-own": nil}))
	if f != nil {
		t.Fatal(f)
	}
	r.Cursor, r.Attempt = reply.Cursor, 2
	sent, err := orchesty.Sent(sample, r)
	ok(t, err)
	equal(t, "header that was added", sent["seen"], any("1"))
	equal(t, "header that was removed", sent["x-own"], nil)
	equal(t, "node before", sent["previous-node-id"], any("n-1"))
	equal(t, "cursor", sent["cursor"], nil)
	process := sent["process-id"]

	reply, f = orchesty.Read(sample, r, 200, answered(t, r, "[]", h{"result-code": "1010", "cursor": "after žluť\x00"}))
	if f != nil {
		t.Fatal(f)
	}
	r.Cursor, r.Attempt, r.Page = reply.Cursor, 3, 2
	sent, err = orchesty.Sent(sample, r)
	ok(t, err)
	equal(t, "cursor", sent["cursor"], any("after žluť\x00"))
	equal(t, "header of the page before", sent["seen"], any("1"))
	equal(t, "hops", sent["repeat-hops"], nil)
	equal(t, "process", sent["process-id"], process)

	// A page that is repeated keeps its cursor. A worker that removes all headers leaves what no message loses.
	reply, f = orchesty.Read(sample, r, 200, []byte(`{"headers":{"result-code":"1001","repeat-interval":"1","repeat-max-hops":"2"},"body":""}`))
	if f != nil {
		t.Fatal(f)
	}
	r.Cursor, r.Attempt = reply.Cursor, 4
	sent, err = orchesty.Sent(sample, r)
	ok(t, err)
	equal(t, "cursor", sent["cursor"], any("after žluť\x00"))
	equal(t, "hops", sent["repeat-hops"], any("2"))
	equal(t, "header that was removed", sent["seen"], nil)
	equal(t, "user", sent["user"], any("joe"))

	r.Cursor = "{"
	if _, err := orchesty.Sent(sample, r); err == nil {
		t.Error("a cursor of another kind was taken")
	}
}

// A message that was one too many waits for as long as its limit says.
func TestLimitPeriods(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]time.Duration{
		"":                                    time.Minute,
		"joe|crm;90;10":                       90 * time.Second,
		"joe|crm;90;10;|crm;300;100":          300 * time.Second,
		"joe|crm;90;10;joe|other;600;1":       90 * time.Second,
		"joe|crm;x;10":                        time.Minute,
		"joe|crm;-5;10":                       time.Minute,
		"joe|crm;90":                          time.Minute,
		"joe|crm;9223372036854775807;1":       24 * time.Hour,
		"joe|crm;999999999999999999999999;10": time.Minute,
	} {
		r := asked()
		r.Application = "crm"
		r.Headers["limiter-key"] = key
		_, f := orchesty.Read(sample, r, 200, answered(t, r, "b", h{"result-code": "1004"}))
		if f == nil || f.Class != worker.Limited || f.RetryAfter != want {
			t.Errorf("%q: %v after %v, want %v", key, f, f.RetryAfter, want)
		}
	}
}

// Whatever a worker answers, there is a reply whose headers a message may have and whose followers there are, or a
// failure with a reason.
func FuzzReply(f *testing.F) {
	for _, seed := range []string{
		`{"headers":{"result-code":"0"},"body":"b"}`, `{"headers":{"result-code":1001,"repeat-interval":"15","repeat-max-hops":"3"},"body":null}`,
		`{"headers":{"result-code":"1010","cursor":"2"},"body":"[{\"headers\":{\"a\":1},\"body\":\"x\"}]"}`, `{"headers":{"result-code":"1002","force-target-queue":"a,b"}}`,
		`{"headers":{"result-code":"1004","x":null,"y":[1, 2],"z":{"a" : 1}},"body":"\ud800"}`, "", "null", "[]", `{"headers":null}`,
	} {
		f.Add(seed, true, 200, "joe|a;1;2", "")
		f.Add(seed, false, 400, "", `{"hops":2,"headers":{},"attempt":-1,"cursor":"x"}`)
	}
	f.Fuzz(func(t *testing.T, body string, batch bool, status int, key, cursor string) {
		r := asked()
		r.Headers["limiter-key"], r.Cursor = key, cursor
		if batch {
			r = asPage(r)
		}
		reply, failure := orchesty.Read(sample, r, status, []byte(body))
		if failure != nil {
			if failure.Reason == "" || failure.Reason != worker.Clean(failure.Reason) || failure.Class == 0 || failure.RetryAfter < 0 || failure.RetryAfter > worker.MaxRetryAfter {
				t.Errorf("odd failure %+v", failure)
			}
			return
		}
		if status == http.StatusBadRequest {
			t.Error("a refusal was taken for a reply")
		}
		if reply.After < 0 || reply.After > worker.MaxAfter || reply.Verdict == worker.Repeat && (reply.Cursor == "" || reply.Messages != nil) {
			t.Errorf("odd reply %+v", reply)
		}
		for _, m := range reply.Messages {
			ok(t, worker.CheckHeaders(m.Headers))
			for _, to := range m.Followers {
				if to != "eu" && to != "us" {
					t.Errorf("a message to %q", to)
				}
			}
		}
		if reply.Cursor != "" {
			r.Cursor, r.Attempt = reply.Cursor, 2
			if _, err := orchesty.Sent(sample, r); err != nil {
				t.Errorf("the cursor does not come back: %v", err)
			}
		}
	})
}

// Listings of any kind are read or refused.
func FuzzListing(f *testing.F) {
	f.Add(`[{"name":"a","app":"b"},{"name":"c"}]`, `{"items":[{"key":"b","name":"B","isInstallable":true}]}`)
	f.Add(`[]`, `{"items":[]}`)
	f.Add(`null`, `{}`)
	f.Fuzz(func(t *testing.T, nodes, applications string) {
		l, err := orchesty.Listed([]byte(nodes), []byte(applications))
		if err != nil {
			return
		}
		for _, n := range l.Nodes {
			if n.Name == "" || n.Name != worker.Clean(n.Name) {
				t.Errorf("a node named %q", n.Name)
			}
		}
		for _, a := range l.Applications {
			if a.Key == "" || a.Name != worker.Clean(a.Name) {
				t.Errorf("an application %+v", a)
			}
		}
	})
}

// When a process started stands in its correlation id.
func TestStartedAt(t *testing.T) {
	t.Parallel()
	ms, known := orchesty.StartedAt("0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60")
	if !known || ms != 0x0193a5b27f3c {
		t.Errorf("got %d, %v", ms, known)
	}
	for _, id := range []string{"", "c-1", "b63a69b5-b409-4543-abcb-c2b764c43e5f", "xxxxxxxx-xxxx-7xxx-xxxx-xxxxxxxxxxxx"} {
		if _, known := orchesty.StartedAt(id); known {
			t.Errorf("%q tells a time", id)
		}
	}
}
