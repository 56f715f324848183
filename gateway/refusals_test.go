package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
	"sluice/queue/worker"
)

// Whatever is wrong with a request, it gets the one precise answer.
func TestRefusals(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.serve(pass)
	d.enable("flow", flow)
	json := []string{"Content-Type", "application/json"}
	const id = "0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60"
	for _, c := range []struct {
		status             int
		code, method, path string
		body               string
		headers            []string
	}{
		{404, "not-found", "POST", "/v1/topologies/none/nodes/in/events", "", nil},
		{404, "not-found", "POST", "/v1/topologies/flow/nodes/none/events", "", nil},
		{404, "not-found", "POST", "/v1/topologies/flow/nodes/work/events", "", nil}, // no start node
		{404, "not-found", "POST", "/v1/topologies/a%2Fb/nodes/in/events", "", nil},
		{404, "not-found", "POST", "/v1/topologies//nodes/in/events", "", nil},
		{404, "not-found", "POST", "/v1/topologies/../nodes/in/events", "", nil},
		{404, "not-found", "POST", "/v1/topologies/%2e%2e/nodes/in/events", "", nil},
		{404, "not-found", "GET", "/v1/nothing", "", nil},
		{404, "not-found", "POST", inbox + "/", "", nil},
		{400, "invalid-request", "POST", "/v1/topologies/%00/nodes/in/events", "", nil},
		{400, "invalid-request", "POST", "/v1/topologies/%ff/nodes/in/events", "", nil},
		{405, "method-not-allowed", "GET", inbox, "", nil},
		{405, "method-not-allowed", "PUT", inbox, "", nil},
		{405, "method-not-allowed", "PATCH", "/v1/topologies/flow", "", nil},
		{405, "method-not-allowed", "POST", "/healthz", "", nil},
		{413, "payload-too-large", "POST", inbox, strings.Repeat("x", 5<<20+1), nil},
		{413, "payload-too-large", "PUT", "/v1/topologies/flow/draft", strings.Repeat("#", 1<<20+1), nil},
		{413, "payload-too-large", "POST", "/v1/keys", `{"name":"` + strings.Repeat("x", 1<<20) + `"}`, json},
		{431, "headers-too-large", "POST", inbox, "", []string{"X-Any", strings.Repeat("x", 70_000)}},
		{431, "headers-too-large", "POST", inbox, "", []string{"Sluice-Header-X", strings.Repeat("x", 9000)}},
		{431, "headers-too-large", "POST", inbox, "", many("Sluice-Header-X", 65)},
		{431, "headers-too-large", "GET", "/healthz", "", []string{"X-Any", strings.Repeat("x", 70_000)}},
		{422, "validation-failed", "POST", inbox, "", []string{"Sluice-Header-", "x"}},
		{422, "validation-failed", "POST", inbox, "", []string{"Sluice-Header-X", "%00"}},
		{422, "validation-failed", "POST", inbox, "", []string{"Sluice-Header-X", "%ff"}},
		{422, "validation-failed", "POST", inbox, "", []string{"Sluice-Header-Content-Type", "a%0d%0ab"}},
		{422, "validation-failed", "POST", inbox, "", []string{"Content-Type", "text/r\xc3\xb6t"}},
		{422, "validation-failed", "POST", inbox, "", []string{"Content-Type", "a/b", "Content-Type", "c/d"}},
		{422, "validation-failed", "POST", inbox, "", []string{"X-Github-Event", "\xff"}},
		{415, "unsupported-media-type", "PUT", "/v1/topologies/flow/draft", flow, []string{"Content-Type", "text/html"}},
		{415, "unsupported-media-type", "PUT", "/v1/topologies/flow/draft", flow, []string{"Content-Encoding", "gzip"}},
		{415, "unsupported-media-type", "POST", "/v1/topologies/validate", flow, []string{"Content-Type", "application/x-www-form-urlencoded"}},
		{415, "unsupported-media-type", "POST", "/v1/keys", "<a/>", []string{"Content-Type", "text/xml"}},
		{400, "invalid-request", "POST", "/v1/keys", `{"name":`, json},
		{400, "invalid-request", "POST", "/v1/keys", "", json},
		{400, "invalid-request", "POST", "/v1/keys", `{"name":"\u0000","scopes":["admin"]}`, json},
		{400, "invalid-request", "POST", "/v1/workers", "{\"name\":\"\xff\"}", json},
		{400, "invalid-request", "PUT", "/v1/topologies/flow/draft", "", nil},
		{422, "validation-failed", "POST", "/v1/keys", `{"name":"a","scopes":["root"]}`, json},
		{422, "validation-failed", "POST", "/v1/keys", `{"name":"a\u0007","scopes":["admin"]}`, json},
		{422, "validation-failed", "POST", "/v1/keys", `{"name":"a","scopes":["admin"],"tenant_id":2}`, json},
		{422, "validation-failed", "POST", "/v1/workers", `{"name":"A","url":"http://a"}`, json},
		{422, "validation-failed", "POST", "/v1/workers", `{"name":"a","url":"ftp://a"}`, json},
		{422, "validation-failed", "POST", "/v1/workers", `{"name":"a","url":"http://a/` + strings.Repeat("x", 2000) + `"}`, json},
		{409, "already-exists", "POST", "/v1/workers", `{"name":"demo","url":"http://a"}`, json},
		{409, "in-use", "DELETE", "/v1/workers/demo", "", nil},
		{422, "validation-failed", "GET", "/v1/processes/x", "", nil},
		{422, "validation-failed", "GET", "/v1/processes/" + strings.ToUpper(id), "", nil},
		{404, "not-found", "GET", "/v1/processes/" + id, "", nil},
		{404, "not-found", "GET", "/v1/processes/" + id + "/messages", "", nil},
		{404, "not-found", "POST", "/v1/processes/" + id + "/terminate", "", nil},
		{422, "validation-failed", "GET", "/v1/messages/" + id, "", nil},
		{422, "validation-failed", "GET", "/v1/messages/" + id + "-0", "", nil},
		{404, "not-found", "GET", "/v1/messages/" + id + "-999999999999999999", "", nil},
		{422, "validation-failed", "GET", "/v1/messages/" + id + "-9223372036854775808", "", nil},
		{422, "validation-failed", "PUT", "/v1/trash/" + id + "/body", "", nil},
		{422, "validation-failed", "GET", "/v1/processes?stat=failed", "", nil},
		{422, "validation-failed", "GET", "/v1/processes?version=1", "", nil},
		{422, "validation-failed", "GET", "/v1/processes?topology=flow&version=0", "", nil},
		{422, "validation-failed", "GET", "/v1/processes?topology=flow&version=2147483648", "", nil},
		{422, "validation-failed", "GET", "/v1/processes?after=x", "", nil},
		{422, "validation-failed", "GET", "/v1/topologies?after=WzFd", "", nil}, // [1]
		{422, "validation-failed", "GET", "/v1/topologies?limit=501", "", nil},
		{400, "invalid-request", "GET", "/v1/processes?topology=%00", "", nil},
		{404, "not-found", "GET", "/v1/topologies/flow/versions/draft", "", nil},
		{404, "not-found", "GET", "/v1/topologies/flow/versions/9", "", nil},
		{422, "validation-failed", "GET", "/v1/topologies/flow/versions/first", "", nil},
		{422, "validation-failed", "GET", "/v1/topologies/flow/diff?from=1", "", nil},
		{409, "conflict", "POST", "/v1/topologies/flow/publish", "", nil},
		{409, "conflict", "POST", "/v1/topologies/flow/rollback", "", nil},
		{404, "not-found", "DELETE", "/v1/keys/999999", "", nil},
		{422, "validation-failed", "DELETE", "/v1/keys/x", "", nil},
		{422, "validation-failed", "POST", "/v1/trash/reject", `{"message_ids":[],"reason":"x"}`, json},
		{422, "validation-failed", "POST", "/v1/trash/reject", `{"message_ids":["` + id + `-1"]}`, json},
		{422, "validation-failed", "POST", "/v1/workers/demo/test", `{"action":"../admin"}`, json},
		{422, "validation-failed", "POST", "/v1/workers/demo/test", `{"action":"a","body":1,"text":""}`, json},
	} {
		d.refused(c.status, c.code, c.method, c.path, c.body, c.headers...)
	}
}

func many(name string, n int) []string {
	var headers []string
	for i := range n {
		headers = append(headers, fmt.Sprint(name, i), "x")
	}
	return headers
}

// A file's mistakes are named by line and node, with how to mend them; they point into the file, too.
func TestMistakesInFiles(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.serve(pass)
	p := d.refused(422, "invalid-topology", "PUT", "/v1/topologies/flow/draft", "topology: flow\nnodes:\n  in: {kind: start, followers: [workk]}\n  work: {kind: custom, worker: dmeo, retry: {attempts: 0}}\n",
		"Sluice-File", "orders.yaml", "Content-Type", "application/yaml")
	var all []string
	for _, e := range p.Errors {
		all = append(all, fmt.Sprintf("%s %s %s", e.Location, e.Pointer, e.Detail))
	}
	said := strings.Join(all, "\n")
	for _, want := range []string{
		`orders.yaml:3 #/nodes/in/followers node "in":`, `did you mean "work"?`, "orders.yaml:4 #/nodes/work/retry/attempts", `#/nodes/work/worker node "work":`, `did you mean "demo"?`,
	} {
		if !strings.Contains(said, want) {
			t.Errorf("nothing says %s:\n%s", want, said)
		}
	}
	one := d.refused(422, "invalid-topology", "POST", "/v1/topologies/validate", strings.Replace(flow, "followers: [last]", "followers: [lest]", 1))
	if !strings.Contains(one.Detail, "line 5") || !strings.Contains(one.Detail, "last") {
		t.Errorf("%+v", one)
	}
	d.refused(422, "invalid-topology", "PUT", "/v1/topologies/other/draft", flow)
	for _, file := range []string{"\x00", "topology: \"\\0\"", "\xff\xfe", "topology: flow\x00", "- 1", "{", "a: &a [*a]"} {
		d.refused(422, "invalid-topology", "PUT", "/v1/topologies/flow/draft", file)
		d.refused(422, "invalid-topology", "POST", "/v1/topologies/validate", file, "Sluice-File", "\xff")
	}
	d.do(http.StatusOK, "POST", "/v1/topologies/validate", flow, nil)
	var list page[struct{ Name string }]
	d.do(http.StatusOK, "GET", "/v1/topologies", nil, &list)
	if len(list.Items) != 0 {
		t.Errorf("%+v", list)
	}
}

// raw sends bytes and returns the status of the answer, 0 for none.
func (d *door) raw(request string) (int, string) {
	d.t.Helper()
	conn, err := (&net.Dialer{}).DialContext(d.t.Context(), "tcp", strings.TrimPrefix(d.url, "http://"))
	ok(d.t, err)
	defer conn.Close()
	ok(d.t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	_, _ = io.WriteString(conn, request) // it may hang up on us
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// What is framed badly, comes too slowly or never, is refused, and nothing of it is kept.
func TestBadFraming(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *gateway.Config) { c.BodyTime = 2 * time.Second })
	d.serve(pass)
	d.enable("flow", flow)
	head := "POST " + inbox + " HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + d.ingest + "\r\n"
	for name, c := range map[string]struct {
		request string
		status  int
		says    string
	}{
		"never comes":      {head + "Content-Length: 10\r\n\r\n", 408, "request-timeout"},
		"without a key":    {"POST " + inbox + " HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello", 401, "unauthenticated"},
		"without a place":  {"POST /v1/nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello", 404, "not-found"},
		"half of it":       {head + "Content-Length: 10\r\n\r\nhello", 408, "request-timeout"},
		"a claim of 5 MiB": {head + "Content-Length: 5242880\r\n\r\nhello", 408, "request-timeout"},
		"half a chunk":     {head + "Transfer-Encoding: chunked\r\n\r\n5\r\nhel", 408, "request-timeout"},
		"no chunk":         {head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "invalid-request"},
		"a huge chunk":     {head + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 400, "invalid-request"},
		"too many chunks":  {head + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("100000\r\n"+strings.Repeat("x", 1<<20)+"\r\n", 6) + "0\r\n\r\n", 413, "payload-too-large"},
		"two lengths":      {head + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400, ""},
		"no length":        {head + "Content-Length: x\r\n\r\nhello", 400, ""},
		"negative":         {head + "Content-Length: -1\r\n\r\nhello", 400, ""},
		"length 413":       {head + "Content-Length: 99999999999\r\n\r\nhello", 413, "payload-too-large"},
		"413 expected":     {head + "Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n", 413, "payload-too-large"},
		"bare CR":          {head + "X-Github-Event: a\rX-Admin: 1\r\nContent-Length: 0\r\n\r\n", 400, ""},
		"folded":           {head + "X-Github-Event: a\r\n X-Admin: 1\r\nContent-Length: 0\r\n\r\n", 202, ""}, // one value, as HTTP once had it
		"no host":          {"POST " + inbox + " HTTP/1.1\r\nAuthorization: Bearer " + d.ingest + "\r\n\r\n", 400, ""},
		"a space in it":    {head + "X-Github-Event : a\r\nContent-Length: 0\r\n\r\n", 400, ""},
		"NUL":              {head + "X-Github-Event: a\x00b\r\nContent-Length: 0\r\n\r\n", 400, ""},
		"endless headers":  {head + "X-Any: " + strings.Repeat("x", 400_000) + "\r\n\r\n", 431, ""},
		"unknown coding":   {head + "Transfer-Encoding: gzip\r\n\r\nhello", 501, ""},
		"other protocol":   {"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n", 400, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, body := d.raw(c.request)
			if status != c.status || !strings.Contains(body, c.says) {
				t.Errorf("%d %.300s, want %d %s", status, body, c.status, c.says)
			}
		})
	}
	t.Cleanup(func() { // after those
		var n int
		ok(t, d.pool.QueryRow(context.Background(), `select count(*) from sluice.process`).Scan(&n))
		if n != 1 {
			t.Errorf("%d events were stored, want the folded one", n)
		}
	})
}

// Who hangs up harms nobody.
func TestHangingUp(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.serve(pass)
	d.enable("flow", flow)
	for i := range 40 {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(d.url, "http://"))
		ok(t, err)
		body := strings.Repeat("x", 10_000)
		if i%2 == 0 {
			body = body[:5000]
		}
		_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\nContent-Length: 10000\r\n\r\n%s", inbox, d.ingest, body)
		ok(t, err)
		ok(t, conn.Close())
	}
	// Who closes only its own side still listens.
	for range 20 {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(d.url, "http://"))
		ok(t, err)
		_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\nContent-Length: 5\r\n\r\nhello", inbox, d.ingest)
		ok(t, err)
		ok(t, conn.(*net.TCPConn).CloseWrite())
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		ok(t, err)
		if resp.StatusCode != 202 {
			t.Errorf("half closed: %d", resp.StatusCode)
		}
		resp.Body.Close()
		conn.Close()
	}
	a := d.post(inbox, []byte("still there"))
	d.becomes(a.CorrelationID, "done")
	var sizes []int
	ok(t, d.pool.QueryRow(t.Context(), `select coalesce(array_agg(distinct octet_length(body)), '{}') from sluice.message where body is not null and octet_length(body) not in (5, 11)`).Scan(&sizes))
	for _, n := range sizes {
		if n != 10_000 {
			t.Errorf("half an event was stored, of %d bytes", n)
		}
	}
}

// Headers that say who stands at the door, or belong to the connection, never get to a worker, whatever is configured;
// those that do get there are what they were.
func TestHeadersThatAreKept(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *gateway.Config) { c.KeepHeaders = []string{"*", "authorization", "cookie"} })
	got := &received{came: map[string]*worker.Request{}}
	d.serve(got.take)
	d.enable("flow", flow)
	_, body := d.raw("POST " + inbox + " HTTP/1.1\r\nHost: evil\r\nAuthorization: Bearer " + d.ingest + "\r\nContent-Length: 2\r\nConnection: keep-alive, x-hop\r\nKeep-Alive: 1\r\nTE: trailers\r\n" +
		"Cookie: a=b\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Whatever: x\r\nForwarded: for=1.2.3.4\r\nX-Real-Ip: 1.2.3.4\r\nProxy-Authorization: x\r\nVia: x\r\nX-Api-Key: x\r\nUpgrade: h2c\r\nX-Twice: a\r\nx-twice: b\r\nX-Hop: c\r\n" +
		"Sluice-Header-X-Twice: c\r\nSluice-Header-X-Line: a%0d%0ab\r\nSluice-Header-Authorization: mine\r\n\r\n{}")
	id := body[strings.Index(body, `:"`)+2:][:36]
	d.becomes(id, "done")
	call := got.of(id)
	want := map[string]string{"x-twice": "c", "x-hop": "c", "x-line": "a\r\nb", "authorization": "mine"}
	for name, value := range call.Headers {
		if v, is := want[name]; name != "content-type" && (!is || v != value) {
			t.Errorf("came %s: %q", name, value)
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("did not come: %v", want)
	}
}

// When too much is held in memory, what comes is told to come again, at once; and there is room again when that is gone.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *gateway.Config) { c.MaxBody, c.MaxBatch, c.MaxInFlight = 1<<20, 1<<20, 3<<20 })
	d.mayFail.Store(true)
	d.serve(pass)
	d.enable("flow", flow)
	type waiter struct {
		net.Conn
		from *bufio.Reader
	}
	var waiting []waiter
	for range 3 {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(d.url, "http://"))
		ok(t, err)
		defer conn.Close()
		_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\nExpect: 100-continue\r\nContent-Length: 1048576\r\n\r\n", inbox, d.ingest)
		ok(t, err)
		w := waiter{conn, bufio.NewReader(conn)}
		resp, err := http.ReadResponse(w.from, nil)
		ok(t, err)
		resp.Body.Close()
		if resp.StatusCode != 100 {
			t.Fatalf("not let in: %d", resp.StatusCode)
		}
		waiting = append(waiting, w)
	}
	large := bytes.Repeat([]byte("x"), 1<<20)
	if p := d.refused(503, "unavailable", "POST", inbox, string(large)); !strings.Contains(p.Detail, "nothing of this request was accepted") {
		t.Errorf("%+v", p)
	}
	d.refused(503, "unavailable", "POST", inbox, "x")
	d.post(inbox, nil) // takes nothing
	for _, w := range waiting {
		_, err := w.Write(large)
		ok(t, err)
		resp, err := http.ReadResponse(w.from, nil)
		ok(t, err)
		if resp.StatusCode != 202 {
			t.Errorf("one that was let in: %d", resp.StatusCode)
		}
		resp.Body.Close()
	}
	d.until("there is room again", func() bool {
		resp, _ := d.send(d.ingest, "POST", inbox, large)
		return resp.StatusCode == 202
	})
	for range 10 { // whatever goes wrong, the room is given back
		d.refused(413, "payload-too-large", "POST", inbox, string(large)+"x")
		d.refused(404, "not-found", "POST", "/v1/topologies/none/nodes/in/events", string(large))
	}
	d.post(inbox, large)
}
