package worker_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/queue/worker"
	"sluice/queue/worker/workertest"
)

// A handler's function sees the request as the engine made it, whatever is in it.
func TestHandlerSeesRequest(t *testing.T) {
	t.Parallel()
	var got *worker.Request
	var deadline time.Time
	target := workertest.NewServer(t, func(ctx context.Context, r *worker.Request) (worker.Reply, error) {
		got = r
		deadline, _ = ctx.Deadline()
		return worker.Pass(), nil
	})
	want := worker.Request{
		Action: "sync/účty ?", MessageID: "1-2", CorrelationID: "a b", Topology: "účty", Version: 7, Node: "a\r\nb", Application: "%41",
		Attempt: 3, Page: 2, Cursor: " ž\x00%\xff ",
		Headers:  map[string]string{"content-type": "text/plain", "x-name": " Zoë\r\n100%", "x-empty": ""},
		Body:     []byte("\x00\xff\r\n"),
		Deadline: time.Now().Add(10 * time.Second).UTC().Truncate(time.Millisecond),
	}
	_, err := newClient(t, worker.Config{}).Call(t.Context(), target, want)
	ok(t, err)
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("\n got %+v\nwant %+v", *got, want)
	}
	equal(t, "key", got.IdempotencyKey(), "1-2-p2")
	if !deadline.Equal(want.Deadline) {
		t.Errorf("the context ends at %s, not at %s", deadline, want.Deadline)
	}
}

// What a handler's function says is what the client returns, in both forms.
func TestHandlerReplies(t *testing.T) {
	t.Parallel()
	sourced := func(kind string) map[string]string {
		return map[string]string{"content-type": kind, "x-source": "shop"}
	}
	jsonType, bare := map[string]string{"Content-Type": "application/json"}, map[string]string{"x-source": "shop"}
	cases := []struct {
		name  string
		page  int
		reply worker.Reply
		want  worker.Reply
	}{
		{"pass", 0, worker.Pass(), worker.Reply{Verdict: worker.Done, Messages: []worker.Message{{Headers: sourced("application/json"), SameBody: true}}}},
		{"route", 0, worker.Pass("a", "b"), worker.Reply{Verdict: worker.Done, Messages: []worker.Message{{Followers: []string{"a", "b"}, Headers: sourced("application/json"), SameBody: true}}}},
		{"new body", 0, worker.Send(worker.Message{Headers: jsonType, Body: []byte(" {} ")}), worker.Reply{Verdict: worker.Done, Messages: []worker.Message{{Headers: sourced("application/json"), Body: []byte(" {} ")}}}},
		{"untyped", 0, worker.Send(worker.Message{Body: []byte("<html>")}), worker.Reply{Verdict: worker.Done, Messages: []worker.Message{{Headers: bare, Body: []byte("<html>")}}}},
		{"a body that is a result to look at", 0, worker.Send(worker.Message{Headers: map[string]string{"content-type": worker.ResultType}, Body: []byte("x")}),
			worker.Reply{Verdict: worker.Done, Messages: []worker.Message{{Headers: sourced(worker.ResultType), Body: []byte("x")}}}},
		{"nothing", 0, worker.Send(), worker.Reply{Verdict: worker.Stop}},
		{"stop", 0, worker.Reply{Verdict: worker.Stop, Reason: "a \"double\" <&>"}, worker.Reply{Verdict: worker.Stop, Reason: "a \"double\" <&>"}},
		{"repeat", 0, worker.Reply{Verdict: worker.Repeat, After: 90 * time.Second}, worker.Reply{Verdict: worker.Repeat, After: 90 * time.Second}},
		{"split", 0, worker.Send(
			worker.Message{Followers: []string{"a"}, Headers: jsonType, Body: []byte("{ \"a\":\t1e400 }")},
			worker.Message{Headers: jsonType, Body: []byte("{} ")},
			worker.Message{Headers: jsonType, Body: []byte("\xff")},
			worker.Message{Headers: map[string]string{"x-name": "Zoë\n"}, Drop: []string{"X-Source"}, Body: []byte("1")},
			worker.Message{Followers: []string{}, Body: []byte("nobody")},
			worker.Message{SameBody: true}),
			worker.Reply{Verdict: worker.Done, Messages: []worker.Message{
				{Followers: []string{"a"}, Headers: sourced("application/json"), Body: []byte("{ \"a\":\t1e400 }")},
				{Headers: sourced("application/json"), Body: []byte("{} ")},
				{Headers: sourced("application/json"), Body: []byte("\xff")},
				{Headers: map[string]string{"x-name": "Zoë\n"}, Body: []byte("1")},
				{Headers: sourced("application/json"), SameBody: true},
			}}},
		{"a page", 1, worker.Reply{Verdict: worker.Done, Messages: []worker.Message{{Body: []byte("1")}}, Cursor: "ž\n"},
			worker.Reply{Verdict: worker.Done, Messages: []worker.Message{{Headers: bare, Body: []byte("1")}}, Cursor: "ž\n"}},
		{"the event itself, as a page", 1, worker.Pass(), worker.Reply{Verdict: worker.Done, Messages: []worker.Message{{Headers: sourced("application/json"), SameBody: true}}}},
		{"an empty page", 1, worker.Reply{Verdict: worker.Done, Cursor: "x"}, worker.Reply{Verdict: worker.Done, Cursor: "x"}},
	}
	c := newClient(t, worker.Config{})
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			target := workertest.NewServer(t, func(context.Context, *worker.Request) (worker.Reply, error) { return tc.reply, nil })
			r := request()
			r.Page = tc.page
			result, err := c.Call(t.Context(), target, r)
			ok(t, err)
			sameReply(t, result.Reply, tc.want)
		})
	}
}

// Messages of all kinds come out as they went in: a thousand at random.
func TestHandlerRoundTrip(t *testing.T) {
	t.Parallel()
	const seed = 17
	random := rand.New(rand.NewPCG(seed, seed))
	pieces := []string{"", "a", "{}", "[1 ]", " ", "\x00", "\xff", "ž", "😀", "\"", "\\", "\n", "%", "<&>", "null", "\u2028"}
	text := func() string {
		var b strings.Builder
		for range random.IntN(4) {
			b.WriteString(pieces[random.IntN(len(pieces))])
		}
		return b.String()
	}
	var sent []worker.Message
	target := workertest.NewServer(t, func(context.Context, *worker.Request) (worker.Reply, error) {
		return worker.Send(sent...), nil
	})
	c := newClient(t, worker.Config{})
	for range 250 {
		sent = nil
		for range 1 + random.IntN(7) {
			m := worker.Message{Body: []byte(text()), Headers: map[string]string{}, Drop: []string{"*"}}
			if random.IntN(2) == 0 {
				m.Headers["x-a"] = strings.ToValidUTF8(strings.ReplaceAll(text(), "\x00", ""), "")
			}
			if random.IntN(2) == 0 {
				m.Headers["content-type"] = []string{"application/json", "text/plain", "a/b"}[random.IntN(3)]
			}
			sent = append(sent, m)
		}
		result, err := c.Call(t.Context(), target, request())
		ok(t, err)
		equal(t, "messages", len(result.Messages), len(sent))
		for i, m := range result.Messages {
			if !bytes.Equal(m.Body, sent[i].Body) || !maps.Equal(m.Headers, sent[i].Headers) {
				t.Fatalf("message %d:\n got %q %q\nwant %q %q", i, m.Headers, m.Body, sent[i].Headers, sent[i].Body)
			}
		}
	}
}

// A function's error comes out as a failure of the same class.
func TestHandlerFailures(t *testing.T) {
	t.Parallel()
	cases := []struct {
		err    error
		class  worker.Class
		wait   time.Duration
		reason string
	}{
		{errors.New("no\r\ndatabase"), worker.Transient, 0, "no  database"},
		{&worker.Failure{Class: worker.Transient, Reason: "flaky"}, worker.Transient, 0, "flaky"},
		{&worker.Failure{Class: worker.Rejected, Reason: "no such \"customer\""}, worker.Rejected, 0, "no such \"customer\""},
		{&worker.Failure{Class: worker.Limited, Reason: "slowly", RetryAfter: 1500 * time.Millisecond}, worker.Limited, 2 * time.Second, "slowly"},
		{&worker.Failure{Class: worker.Unavailable, Reason: "down", RetryAfter: time.Minute}, worker.Unavailable, time.Minute, "down"},
		{errors.Join(errors.New("x"), &worker.Failure{Class: worker.Rejected, Reason: "wrapped"}), worker.Rejected, 0, "wrapped"},
	}
	c := newClient(t, worker.Config{})
	for _, tc := range cases {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			target := workertest.NewServer(t, func(context.Context, *worker.Request) (worker.Reply, error) { return worker.Reply{}, tc.err })
			f := fails(t, t.Context(), c, target, request())
			equal(t, "class", f.Class, tc.class)
			equal(t, "wait", f.RetryAfter, tc.wait)
			if !strings.HasSuffix(f.Reason, tc.reason) {
				t.Errorf("%q, want %q", f.Reason, tc.reason)
			}
		})
	}
	for name, reply := range map[string]worker.Reply{
		"no verdict":  {},
		"header name": worker.Send(worker.Message{Headers: map[string]string{"a b": ""}}),
	} {
		target := workertest.NewServer(t, func(context.Context, *worker.Request) (worker.Reply, error) { return reply, nil })
		f := fails(t, t.Context(), c, target, request())
		equal(t, "class", f.Class, worker.Transient)
		if !strings.Contains(f.Reason, name) {
			t.Errorf("%q, want %q", f.Reason, name)
		}
	}
}

// The function is called for what Sluice has signed, and for nothing else.
func TestHandlerRefuses(t *testing.T) {
	t.Parallel()
	secret := worker.NewSecret()
	handler := worker.Handler{Secrets: []worker.Secret{secret}, MaxBody: 100, Func: func(context.Context, *worker.Request) (worker.Reply, error) {
		t.Error("the function was called")
		return worker.Pass(), nil
	}}
	target := workertest.Serve(t, handler)
	post := func(method string, header http.Header, body []byte) int {
		req, err := http.NewRequestWithContext(t.Context(), method, target.URL, bytes.NewReader(body))
		ok(t, err)
		req.Header = header
		resp, err := http.DefaultClient.Do(req)
		ok(t, err)
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	defer http.DefaultClient.CloseIdleConnections()
	signed := func(key, value string) http.Header {
		now := time.Now()
		h := http.Header{"Webhook-Id": {"1"}, "Webhook-Timestamp": {strconv.FormatInt(now.Unix(), 10)}, "Sluice-Message-Id": {"1"},
			"Webhook-Signature": {worker.Sign("1", now, []byte("body"), []worker.Secret{secret})}}
		if key != "" {
			h.Set(key, value)
		}
		return h
	}
	body := []byte("body")
	equal(t, "GET", post("GET", signed("", ""), body), 405)
	equal(t, "too long", post("POST", signed("", ""), make([]byte, 101)), 413)
	equal(t, "unsigned", post("POST", http.Header{"Sluice-Message-Id": {"1"}}, body), 401)
	equal(t, "another body", post("POST", signed("", ""), []byte("Body")), 401)
	equal(t, "no message", post("POST", signed("Sluice-Message-Id", ""), body), 400)
	equal(t, "attempt", post("POST", signed("Sluice-Attempt", "first"), body), 400)
	equal(t, "negative attempt", post("POST", signed("Sluice-Attempt", "-1"), body), 400)
	equal(t, "deadline", post("POST", signed("Sluice-Deadline", "soon"), body), 400)
	equal(t, "header", post("POST", signed("Sluice-Header-X", "Zoë"), body), 400)

	stolen := target
	stolen.Secrets = []worker.Secret{parse(t, "whsec_"+base64.StdEncoding.EncodeToString(make([]byte, 32)))}
	f := fails(t, t.Context(), newClient(t, worker.Config{}), stolen, request())
	equal(t, "class", f.Class, worker.Rejected)
	equal(t, "status", f.Status, 401)
}
