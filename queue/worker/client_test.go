package worker_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"sluice/queue/worker"
	"sluice/queue/worker/workertest"
)

// Every status has its class, and says when to come back if it did.
func TestClassOfStatus(t *testing.T) {
	t.Parallel()
	c := newClient(t, worker.Config{})
	target := workertest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var status int
		fmt.Sscan(strings.TrimPrefix(r.URL.Path, "/"), &status)
		w.Header().Set("Retry-After", "17")
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(status)
		io.WriteString(w, "the\r\nexplanation")
	}))
	classes := map[worker.Class][]int{
		worker.Unavailable: {502, 503, 504},
		worker.Limited:     {429},
		worker.Transient:   {408, 425, 500, 501, 505, 507, 511, 599},
		worker.Rejected:    {300, 301, 302, 304, 307, 308, 400, 401, 403, 404, 405, 409, 410, 413, 415, 422, 431, 451, 499, 600, 999},
	}
	for class, statuses := range classes {
		for _, status := range statuses {
			r := request()
			r.Action = fmt.Sprint(status)
			f := fails(t, t.Context(), c, target, r)
			equal(t, fmt.Sprint("class of ", status), f.Class, class)
			equal(t, "status", f.Status, status)
			wait := 17 * time.Second
			if class == worker.Rejected {
				wait = 0
			}
			equal(t, fmt.Sprint("wait of ", status), f.RetryAfter, wait)
			if status >= 400 && !strings.HasSuffix(f.Reason, ": the  explanation") {
				t.Errorf("the reason does not explain: %q", f.Reason)
			}
			if !strings.HasPrefix(f.Reason, "worker test answered "+r.Action) || f.Timing.Total < f.Timing.Answered || f.Timing.Answered < f.Timing.Connected || f.Timing.Connected <= 0 {
				t.Errorf("%q in %+v", f.Reason, f.Timing)
			}
		}
	}
}

// Whatever the network and the worker do, the failure has the class that says
// what is to be done, and it comes by the deadline.
func TestClassOfBreakage(t *testing.T) {
	t.Parallel()
	hostile := func(trick workertest.Trick) func(testing.TB) worker.Target {
		return func(t testing.TB) worker.Target { return workertest.NewHostile(t, trick) }
	}
	at := func(url string) func(testing.TB) worker.Target {
		return func(testing.TB) worker.Target { return worker.Target{URL: url} }
	}
	withTLS := func(config *tls.Config) func(testing.TB) worker.Target {
		return func(t testing.TB) worker.Target {
			s := httptest.NewUnstartedServer(http.NotFoundHandler())
			s.TLS = config
			s.StartTLS()
			t.Cleanup(s.Close)
			return worker.Target{URL: s.URL}
		}
	}
	plainAsTLS := func(t testing.TB) worker.Target {
		target := workertest.Serve(t, http.NotFoundHandler())
		target.URL = strings.Replace(target.URL, "http:", "https:", 1)
		return target
	}
	silentTLS := func(t testing.TB) worker.Target {
		target := workertest.Listen(t, workertest.Silent)
		target.URL = strings.Replace(target.URL, "http:", "https:", 1)
		return target
	}
	tooLong := func(n int) workertest.Trick {
		return workertest.Say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nabc", n))
	}
	cases := []struct {
		name   string
		target func(testing.TB) worker.Target
		class  worker.Class
		reason string
	}{
		{"refused", workertest.Refused, worker.Unavailable, "connection refused"},
		{"no such host", at("http://nobody.invalid/"), worker.Unavailable, "nobody.invalid"},
		{"no address", at("http://[::1%25nope]:1/"), worker.Unavailable, "cannot be reached"},
		{"certificate nobody vouches for", withTLS(nil), worker.Unavailable, "certificate is not trusted"},
		{"TLS of another time", withTLS(&tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}), worker.Unavailable, "protocol version"},
		{"no TLS at all", plainAsTLS, worker.Unavailable, "cannot be reached"},
		{"TLS handshake without answer", silentTLS, worker.Unavailable, "no connection in time"},
		{"bad URL", at("http://user:hidden@host:port/"), worker.Unavailable, "URL is not valid"},
		{"bad scheme", at("ftp://host/"), worker.Unavailable, "URL is not valid"},
		{"no URL", at(""), worker.Unavailable, "URL is not valid"},
		{"silent", hostile(workertest.Silent), worker.Transient, "took too long"},
		{"reset", hostile(workertest.Reset), worker.Transient, "reset"},
		{"closed", hostile(workertest.Say("")), worker.Transient, "EOF"},
		{"reset within the reply", hostile(workertest.ResetWithin), worker.Transient, "bytes into the reply"},
		{"truncated", hostile(workertest.Truncated), worker.Transient, "15 bytes into the reply"},
		{"truncated chunk", hostile(workertest.TruncatedChunk), worker.Transient, "bytes into the reply"},
		{"slow body", hostile(workertest.SlowBody), worker.Transient, "took too long"},
		{"slow header", hostile(workertest.SlowHeader), worker.Transient, "took too long"},
		{"endless body", hostile(workertest.EndlessBody), worker.Transient, "longer than 1000000 bytes"},
		{"long body, and says so", hostile(tooLong(1_000_001)), worker.Transient, "longer than 1000000 bytes"},
		{"huge header", hostile(workertest.HugeHeader), worker.Transient, "headers exceeded"},
		{"not HTTP", hostile(workertest.Say("SSH-2.0-OpenSSH_9.9\r\n")), worker.Transient, "malformed"},
		{"half a status line", hostile(workertest.Say("HTTP/1.1 2")), worker.Transient, "broke off before a reply"},
		{"two lengths", hostile(workertest.Say("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")), worker.Transient, "broke off before a reply"},
		{"no length", hostile(workertest.Say("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nthe first")), worker.Transient, "neither a Content-Length nor chunks"},
		{"no length of old", hostile(workertest.Say("HTTP/1.0 200 OK\r\n\r\nthe first")), worker.Transient, "neither a Content-Length nor chunks"},
		{"encoded", hostile(workertest.Say("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nab")), worker.Transient, "identity was asked for"},
		{"redirect to itself", hostile(workertest.Redirect), worker.Rejected, "redirects are not followed"},
		{"switches protocols", hostile(workertest.Say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")), worker.Rejected, "101"},
	}
	c := newClient(t, worker.Config{MaxReply: 1_000_000})
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			target, r := tc.target(t), request()
			if tc.reason == "took too long" || tc.reason == "no connection in time" {
				r.Deadline = time.Now().Add(2 * time.Second)
			}
			f := fails(t, t.Context(), c, target, r)
			equal(t, "class", f.Class, tc.class)
			if !strings.Contains(f.Reason, tc.reason) || strings.Contains(f.Error(), "hidden") || strings.Contains(fmt.Sprint(f.Err), "hidden") {
				t.Errorf("reason %q (%v), want %q", f.Reason, f.Err, tc.reason)
			}
			if late := time.Since(r.Deadline); late > 3*time.Second {
				t.Errorf("%s late", late)
			}
		})
	}
}

// A worker that answers an error at once, but explains it for ever, is not
// listened to for ever.
func TestSlowRefusal(t *testing.T) {
	t.Parallel()
	f := fails(t, t.Context(), newClient(t, worker.Config{}), workertest.NewHostile(t, workertest.SlowRefusal), request())
	equal(t, "class", f.Class, worker.Transient)
	equal(t, "status", f.Status, 500)
	if f.Timing.Total > 5*time.Second || !strings.HasPrefix(f.Reason, "worker test answered 500 Internal Server Error: xxx") {
		t.Errorf("%q in %+v", f.Reason, f.Timing)
	}
}

// Dialling takes 5 s at most, less than a call may take, and to fail at it is an
// outage, whoever dials.
func TestDialTimeout(t *testing.T) {
	t.Parallel()
	hang := func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	c := newClient(t, worker.Config{Dial: hang})
	f := fails(t, t.Context(), c, worker.Target{URL: "http://worker.example"}, request())
	equal(t, "class", f.Class, worker.Unavailable)
	if f.Timing.Total < 4*time.Second || f.Timing.Total > 8*time.Second {
		t.Errorf("took %s", f.Timing.Total)
	}
	refused := errors.New("refused by policy")
	c = newClient(t, worker.Config{Dial: func(context.Context, string, string) (net.Conn, error) { return nil, refused }})
	f = fails(t, t.Context(), c, worker.Target{URL: "http://worker.example"}, request())
	equal(t, "class", f.Class, worker.Unavailable)
	if !errors.Is(f, refused) {
		t.Errorf("the policy's error is lost: %v", f.Err)
	}
}

// The names of classes and verdicts are kept with the attempts.
func TestNames(t *testing.T) {
	t.Parallel()
	got := fmt.Sprint(worker.Unavailable, worker.Limited, worker.Transient, worker.Rejected, worker.Cancelled, worker.Class(0), worker.Done, worker.Stop, worker.Repeat, worker.Verdict(9))
	equal(t, "names", got, "unavailable limited transient rejected cancelled Class(0) done stop repeat Verdict(9)")
}

// Who cancels the call, as a shutdown does, learns nothing about the worker; a
// deadline of the context is a deadline like any other.
func TestContext(t *testing.T) {
	t.Parallel()
	c := newClient(t, worker.Config{Timeout: time.Second})
	called := make(chan struct{}, 10)
	target := workertest.NewHostile(t, func(conn net.Conn) {
		called <- struct{}{}
		workertest.Silent(conn)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-called; cancel() }()
	f := fails(t, ctx, c, target, request())
	equal(t, "cancelled in flight", f.Class, worker.Cancelled)
	equal(t, "cancelled before", fails(t, ctx, c, target, request()).Class, worker.Cancelled)

	ctx, cancel = context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	f = fails(t, ctx, c, target, request())
	equal(t, "deadline of the context", f.Class, worker.Transient)
	r := request()
	r.Deadline = time.Time{}
	f = fails(t, t.Context(), c, target, r)
	equal(t, "no deadline at all", f.Class, worker.Transient)
	if f.Timing.Total > 5*time.Second {
		t.Errorf("took %s", f.Timing.Total)
	}
}

// A message that cannot be sent as it is fails for good, and says why.
func TestUnsendable(t *testing.T) {
	t.Parallel()
	c := newClient(t, worker.Config{})
	for want, change := range map[string]func(*worker.Request){
		"header name": func(r *worker.Request) { r.Headers = map[string]string{"a b": ""} },
		"bytes of":    func(r *worker.Request) { r.Headers = map[string]string{"a": strings.Repeat("x", 9000)} },
		"is empty":    func(r *worker.Request) { r.MessageID = "" },
		"a dot":       func(r *worker.Request) { r.MessageID = "a.b" },
		"not ASCII":   func(r *worker.Request) { r.MessageID = "a\r\nb" },
		"segment":     func(r *worker.Request) { r.Action = "../admin" },
		"the cursor":  func(r *worker.Request) { r.Page, r.Cursor = 2, strings.Repeat("x", worker.MaxCursorBytes+1) },
	} {
		r := request()
		change(&r)
		f := fails(t, t.Context(), c, workertest.Refused(t), r)
		equal(t, "class", f.Class, worker.Rejected)
		if !strings.Contains(f.Reason, want) {
			t.Errorf("%q, want %q", f.Reason, want)
		}
	}
}

func TestReason(t *testing.T) {
	t.Parallel()
	c := newClient(t, worker.Config{})
	long := strings.Repeat("é", 3000)
	cases := []struct{ name, mediaType, body, want string }{
		{"problem", "application/problem+json", `{"type":"x","title":"Bad","detail":"No such customer"}`, "422 Unprocessable Entity: No such customer"},
		{"title alone", "application/problem+json; charset=utf-8", `{"title":"Bad"}`, "422 Unprocessable Entity: Bad"},
		{"error", "application/json", `{"error":"No such customer","code":7}`, ": No such customer"},
		{"other JSON", "application/json", `["a","b"]`, `: ["a","b"]`},
		{"broken JSON", "application/json", `{"error":`, `: {"error":`},
		{"result", worker.ResultType, `{"result":"fail","reason":"No such customer"}`, ": No such customer"},
		{"text", "text/plain", "a\r\n\x00b\x1b[31m", "422 Unprocessable Entity: a   b [31m"},
		{"text of another direction", "text/plain", "a\u202eb\u2028c", ": ab c"},
		{"not UTF-8", "text/plain", "a\xffb", ": a\ufffdb"},
		{"HTML", "text/html", "<h1>Oh</h1>", "422 Unprocessable Entity"},
		{"bytes", "application/octet-stream", "abc", "422 Unprocessable Entity"},
		{"nothing", "text/plain", "", "422 Unprocessable Entity"},
		{"long", "text/plain", long, "é…"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			target := workertest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", tc.mediaType)
				w.WriteHeader(422)
				io.WriteString(w, tc.body)
			}))
			got := fails(t, t.Context(), c, target, request()).Reason
			if !strings.HasSuffix(got, tc.want) || utf8.RuneCountInString(got) > worker.MaxReason {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
	target := workertest.NewHostile(t, workertest.Redirect)
	target.URL += "?token=hidden"
	got := fails(t, t.Context(), c, target, request()).Reason
	if !strings.HasSuffix(got, "(/again)") || strings.Contains(got, "hidden") {
		t.Errorf("%q", got)
	}
}

// Calls share connections, whatever they are answered.
func TestConnectionsAreReused(t *testing.T) {
	t.Parallel()
	var dials atomic.Int32
	var dialer net.Dialer
	c := newClient(t, worker.Config{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		dials.Add(1)
		return dialer.DialContext(ctx, network, address)
	}})
	target := workertest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Sluice-Attempt") {
		case "1":
			w.WriteHeader(204)
		case "2":
			http.Error(w, strings.Repeat("x", 30_000), 500)
		case "3":
			http.Redirect(w, r, "/", 302)
		case "4":
			w.Write(make([]byte, 200_000))
		case "5":
			w.(http.Flusher).Flush()
			w.Write([]byte("chunked"))
		}
	}))
	for i := range 25 {
		r := request()
		r.Attempt = i%5 + 1
		_, _ = c.Call(t.Context(), target, r) // most of them fail
	}
	equal(t, "connections", dials.Load(), 1)
}

// breaking is a worker that answers the first call on each of so many
// connections, once all are there, and plays a trick on every call after. It
// counts the calls.
func breaking(t testing.TB, connections int32, trick workertest.Trick) (worker.Target, *atomic.Int32) {
	var calls atomic.Int32
	all := make(chan struct{})
	return workertest.Listen(t, func(conn net.Conn) {
		buf := make([]byte, 64<<10)
		for first := true; ; first = false {
			if _, err := conn.Read(buf); err != nil {
				return
			}
			n := calls.Add(1)
			if n == connections {
				close(all)
			}
			if n > connections && (connections > 1 || !first) {
				trick(conn)
				return
			}
			select {
			case <-all:
			case <-t.Context().Done():
			}
			io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
		}
	}), &calls
}

// An idle connection that breaks as a call is written to it costs nothing: the
// call goes out again at once, with the same key.
func TestStaleConnection(t *testing.T) {
	t.Parallel()
	for name, trick := range map[string]workertest.Trick{"closed": workertest.Say(""), "reset": workertest.Reset} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, worker.Config{})
			target, calls := breaking(t, 1, trick)
			for range 2 {
				_, err := c.Call(t.Context(), target, request())
				ok(t, err)
			}
			equal(t, "calls", calls.Load(), 3)
		})
	}
}

// A message that kills its worker kills it twice at most, however many
// connections are idle.
func TestReplayIsBounded(t *testing.T) {
	t.Parallel()
	const connections = 8
	c := newClient(t, worker.Config{})
	target, calls := breaking(t, connections, workertest.Reset)
	var idle sync.WaitGroup
	for range connections {
		idle.Go(func() {
			if _, err := c.Call(t.Context(), target, request()); err != nil {
				t.Error(err)
			}
		})
	}
	idle.Wait()
	equal(t, "class", fails(t, t.Context(), c, target, request()).Class, worker.Transient)
	equal(t, "calls of one attempt", calls.Load()-connections, 2)
}

// A worker that dies of a call uses up an attempt, even if it is gone by the
// time that the call goes out again: it might be the message that keeps it down.
// The next call finds nobody, which is an outage.
func TestDiesOfCall(t *testing.T) {
	t.Parallel()
	c := newClient(t, worker.Config{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		buf := make([]byte, 64<<10)
		conn.Read(buf)
		io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
		conn.Read(buf)
		l.Close() // dies of the second call
	}()
	mortal := worker.Target{URL: "http://" + l.Addr().String()}
	_, err = c.Call(t.Context(), mortal, request())
	ok(t, err)
	equal(t, "class", fails(t, t.Context(), c, mortal, request()).Class, worker.Transient)
	<-served
	equal(t, "class, once it is gone", fails(t, t.Context(), c, mortal, request()).Class, worker.Unavailable)
}

// An old server will do, if it says how long its reply is.
func TestHTTP10(t *testing.T) {
	t.Parallel()
	c := newClient(t, worker.Config{})
	target := workertest.NewHostile(t, workertest.Say("HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nbody"))
	result, err := c.Call(t.Context(), target, request())
	ok(t, err)
	equal(t, "body", string(result.Messages[0].Body), "body")
}

// What a worker sends beyond its reply is not taken for the next one.
func TestNoSmuggling(t *testing.T) {
	t.Parallel()
	c := newClient(t, worker.Config{})
	target := workertest.NewHostile(t, workertest.Overlong)
	for range 3 {
		result, err := c.Call(t.Context(), target, request())
		ok(t, err)
		equal(t, "body", string(result.Messages[0].Body), "body")
	}
}

// The memory that a reply takes grows with what came, not with what was
// promised. Not parallel, for it counts the memory of the whole process.
func TestPromisedLength(t *testing.T) {
	c := newClient(t, worker.Config{MaxReply: 1 << 30})
	target := workertest.NewHostile(t, workertest.Say("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nabc"))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const calls = 10
	for range calls {
		_ = fails(t, t.Context(), c, target, request())
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / calls; each > 1<<20 {
		t.Errorf("%d bytes for a call", each)
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	cases := []struct {
		value, date string
		want        time.Duration
	}{
		{"", "", 0},
		{"0", "", 0},
		{"17", "", 17 * time.Second},
		{" 17 ", "", 17 * time.Second},
		{"-5", "", 0},
		{"-99999999999999999999", "", 0},
		{"--5", "", 0},
		{"+5", "", 0},
		{"1.5", "", 0},
		{"soon", "", 0},
		{"-", "", 0},
		{"86400", "", 24 * time.Hour},
		{"86401", "", 24 * time.Hour},
		{"99999999999999999999", "", 24 * time.Hour},
		{"Sun, 01 Mar 2026 12:00:30 GMT", "", 30 * time.Second},
		{"Sunday, 01-Mar-26 12:00:30 GMT", "", 30 * time.Second},
		{"Sun Mar  1 12:00:30 2026", "", 30 * time.Second},
		{"Sun, 01 Mar 2026 11:00:00 GMT", "", 0},
		{"Sun, 01 Mar 2099 11:00:00 GMT", "", 24 * time.Hour},
		{"Sun, 01 Mar 2026 15:00:30 GMT", "Sun, 01 Mar 2026 15:00:00 GMT", 30 * time.Second}, // its clock is ahead
		{"Sun, 01 Mar 2026 12:00:30 GMT", "yesterday", 30 * time.Second},
	}
	for _, c := range cases {
		header := http.Header{"Retry-After": {c.value}, "Date": {c.date}}
		equal(t, fmt.Sprintf("%q at %q", c.value, c.date), worker.RetryAfter(header, now), c.want)
	}
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("17", "")
	f.Add("-1", "Sun, 01 Mar 2026 15:00:00 GMT")
	f.Add("Sun, 01 Mar 2026 15:00:30 GMT", "Sun, 01 Mar 2026 15:00:00 GMT")
	f.Fuzz(func(t *testing.T, value, date string) {
		wait := worker.RetryAfter(http.Header{"Retry-After": {value}, "Date": {date}}, time.Now())
		if wait < 0 || wait > worker.MaxRetryAfter {
			t.Fatalf("%q at %q: %s", value, date, wait)
		}
	})
}

func FuzzClean(f *testing.F) {
	f.Add("a\x00b\xff\u202e\r\n")
	f.Add(strings.Repeat("é", 1001))
	f.Fuzz(func(t *testing.T, s string) {
		got := worker.Clean(s)
		if !utf8.ValidString(got) || utf8.RuneCountInString(got) > worker.MaxReason || strings.ContainsAny(got, "\x00\r\n\u202e") {
			t.Fatalf("%q", got)
		}
	})
}

// answering is a server as cheap as net/http makes one.
func answering(b *testing.B) worker.Target {
	body := bytes.Repeat([]byte("x"), 1024)
	return workertest.Serve(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header()["Content-Type"] = []string{"application/json"}
		w.Write(body)
	}))
}

// BenchmarkCall and BenchmarkBare compare a call with the least that net/http
// can do: the same worker, the same body, 64 in flight. BenchmarkBareHeaders
// sends the contract's headers too, made beforehand: what lies between it and
// BenchmarkBare is the price of the contract, on both sides of the wire.
func BenchmarkCall(b *testing.B) {
	target := answering(b)
	target.Secrets = []worker.Secret{worker.NewSecret()}
	c := newClient(b, worker.Config{})
	r := request()
	r.Body, r.Deadline = bytes.Repeat([]byte("x"), 1024), time.Now().Add(time.Hour)
	inFlight(b, func() error {
		_, err := c.Call(b.Context(), target, r)
		return err
	})
}

func BenchmarkBare(b *testing.B) {
	bare(b, http.Header{"Content-Type": {"application/json"}})
}

func BenchmarkBareHeaders(b *testing.B) {
	golden, err := os.ReadFile("testdata/simple.http")
	ok(b, err)
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(golden)))
	ok(b, err)
	bare(b, r.Header)
}

func bare(b *testing.B, header http.Header) {
	target := answering(b)
	transport := &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true}
	b.Cleanup(transport.CloseIdleConnections)
	c := &http.Client{Transport: transport, Timeout: time.Minute}
	body := bytes.Repeat([]byte("x"), 1024)
	inFlight(b, func() error {
		req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, target.URL+"/enrich", bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header = header
		resp, err := c.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.ReadAll(resp.Body)
		return err
	})
}

func inFlight(b *testing.B, call func() error) {
	b.ReportAllocs()
	b.SetParallelism(64 / runtime.GOMAXPROCS(0))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := call(); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
