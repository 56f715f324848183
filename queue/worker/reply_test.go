package worker_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"sluice/queue/worker"
	"sluice/queue/worker/workertest"
)

// say answers every call with a status, headers and a body.
func say(t testing.TB, status int, header http.Header, body string) worker.Target {
	return workertest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = nil // none, unless the case has one
		maps.Copy(w.Header(), header)
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
}

func sameReply(t testing.TB, got, want worker.Reply) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("reply:\n got %+v\nwant %+v", got, want)
	}
}

// The simple form: what the worker writes is the next body, and the message's
// headers carry on but for its content type.
func TestSimpleReply(t *testing.T) {
	t.Parallel()
	carried := map[string]string{"content-type": "application/json", "x-source": "shop"}
	one := func(m worker.Message) worker.Reply {
		return worker.Reply{Verdict: worker.Done, Messages: []worker.Message{m}}
	}
	cases := []struct {
		name   string
		status int
		header http.Header
		body   string
		want   worker.Reply
	}{
		{"new body", 200, http.Header{"Content-Type": {"application/json"}}, "{\"a\": 1.0}\n",
			one(worker.Message{Headers: carried, Body: []byte("{\"a\": 1.0}\n")})},
		{"of another type", 201, http.Header{"Content-Type": {"text/csv"}}, "a,b",
			one(worker.Message{Headers: map[string]string{"content-type": "text/csv", "x-source": "shop"}, Body: []byte("a,b")})},
		{"of no type", 200, nil, "a,b",
			one(worker.Message{Headers: map[string]string{"x-source": "shop"}, Body: []byte("a,b")})},
		{"empty", 202, nil, "",
			one(worker.Message{Headers: map[string]string{"x-source": "shop"}, Body: []byte{}})},
		{"bytes", 200, http.Header{"Content-Type": {"application/octet-stream"}}, "\x00\xff\r\n",
			one(worker.Message{Headers: map[string]string{"content-type": "application/octet-stream", "x-source": "shop"}, Body: []byte("\x00\xff\r\n")})},
		{"unchanged", 204, nil, "",
			one(worker.Message{Headers: carried, SameBody: true})},
		{"unchanged, of another type", 204, http.Header{"Content-Type": {"text/csv"}, "Sluice-Header-Content-Type": {"text/xml"}}, "",
			one(worker.Message{Headers: map[string]string{"content-type": "text/xml", "x-source": "shop"}, SameBody: true})},
		{"headers", 204, http.Header{"Sluice-Header-X-Source": {"web"}, "Sluice-Header-X-Name": {"Zo%C3%AB, 50% off"}, "Sluice-Header-X-List": {"a", "b"}, "X-Other": {"no"}, "Sluice-Header-X-Empty": {""}}, "",
			one(worker.Message{Headers: map[string]string{"content-type": "application/json", "x-source": "web", "x-name": "Zoë, 50% off", "x-list": "a, b", "x-empty": ""}, SameBody: true})},
		{"a header dropped", 204, http.Header{"Sluice-Drop": {"X-Source, x-never"}}, "",
			one(worker.Message{Headers: map[string]string{"content-type": "application/json"}, SameBody: true})},
		{"all headers dropped", 204, http.Header{"Sluice-Drop": {"*"}, "Sluice-Header-X-New": {"a"}}, "",
			one(worker.Message{Headers: map[string]string{"content-type": "application/json", "x-new": "a"}, SameBody: true})},
		{"all of them, and the type", 204, http.Header{"Sluice-Drop": {"*", "content-type"}}, "",
			one(worker.Message{Headers: map[string]string{}, SameBody: true})},
		{"all dropped, new body", 200, http.Header{"Sluice-Drop": {"*"}, "Content-Type": {"text/csv"}}, "a",
			one(worker.Message{Headers: map[string]string{"content-type": "text/csv"}, Body: []byte("a")})},
		{"dropped and set", 204, http.Header{"Sluice-Drop": {"x-source"}, "Sluice-Header-X-Source": {"web"}}, "",
			one(worker.Message{Headers: map[string]string{"content-type": "application/json", "x-source": "web"}, SameBody: true})},
	}
	c := newClient(t, worker.Config{})
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			result, err := c.Call(t.Context(), say(t, tc.status, tc.header, tc.body), request())
			ok(t, err)
			sameReply(t, result.Reply, tc.want)
			equal(t, "status", result.Status, tc.status)
		})
	}
}

// What a batch answers with no content is a page with nothing on it, and what it
// answers simply is its last page.
func TestSimplePage(t *testing.T) {
	t.Parallel()
	c := newClient(t, worker.Config{})
	r := request()
	r.Page = 1
	result, err := c.Call(t.Context(), say(t, 204, nil, ""), r)
	ok(t, err)
	sameReply(t, result.Reply, worker.Reply{Verdict: worker.Done})
	result, err = c.Call(t.Context(), say(t, 200, nil, "a"), r)
	ok(t, err)
	equal(t, "messages", len(result.Messages), 1)
	equal(t, "cursor", result.Cursor, "")
}

func TestResult(t *testing.T) {
	t.Parallel()
	carried := map[string]string{"content-type": "application/json", "x-source": "shop"}
	same := func(followers ...string) []worker.Message {
		return []worker.Message{{Followers: followers, Headers: carried, SameBody: true}}
	}
	typed := func(kind string) map[string]string {
		return map[string]string{"content-type": kind, "x-source": "shop"}
	}
	done := func(messages ...worker.Message) worker.Reply {
		return worker.Reply{Verdict: worker.Done, Messages: messages}
	}
	cases := []struct {
		name string
		page int
		doc  string
		want worker.Reply
	}{
		{"done", 0, `{"result":"done"}`, done(same()...)},
		{"routed", 0, ` { "followers" : [ "a" , "b" ] , "result" : "done" } `, done(same("a", "b")...)},
		{"routed to nobody", 0, `{"result":"done","followers":[]}`, worker.Reply{Verdict: worker.Stop}},
		{"no messages", 0, `{"result":"done","messages":[]}`, worker.Reply{Verdict: worker.Stop}},
		{"all messages to nobody", 0, `{"result":"done","messages":[{"followers":[]},{"followers":[],"text":"x"}]}`, worker.Reply{Verdict: worker.Stop}},
		{"split", 0, `{"result":"done","followers":["a"],"messages":[{"body": { "a" : 1e400, "a":2 } },{"followers":["b"],"text":"x"},{"followers":[],"text":"y"}]}`,
			done(worker.Message{Followers: []string{"a"}, Headers: carried, Body: []byte(`{ "a" : 1e400, "a":2 }`)},
				worker.Message{Followers: []string{"b"}, Headers: typed("text/plain; charset=utf-8"), Body: []byte("x")})},
		{"bodies", 0, `{"result":"done","messages":[{"body":null},{"body":"a\u0041"},{"body":[ 1,
 2 ]},{"body":-0.10},{"base64":"AP8="},{"text":"\ud83d\ude00\u0000\"\\\/\b\f\n\r\t"},{"text":""},{"base64":""},{}]}`,
			done(worker.Message{Headers: carried, Body: []byte("null")}, worker.Message{Headers: carried, Body: []byte(`"a\u0041"`)},
				worker.Message{Headers: carried, Body: []byte("[ 1,\n 2 ]")}, worker.Message{Headers: carried, Body: []byte("-0.10")},
				worker.Message{Headers: map[string]string{"x-source": "shop"}, Body: []byte{0, 255}},
				worker.Message{Headers: typed("text/plain; charset=utf-8"), Body: []byte("😀\x00\"\\/\b\f\n\r\t")},
				worker.Message{Headers: typed("text/plain; charset=utf-8"), Body: []byte{}},
				worker.Message{Headers: map[string]string{"x-source": "shop"}, Body: []byte{}},
				worker.Message{Headers: carried, SameBody: true})},
		{"headers", 0, `{"result":"done","messages":[{"headers":{"X-Source":"web","Content-Type":"application/vnd.x+json"},"body":1},{"drop":["X-Source"]},{"drop":["*"],"headers":{"x-a":"\u00eb"},"base64":"YQ=="}]}`,
			done(worker.Message{Headers: map[string]string{"content-type": "application/vnd.x+json", "x-source": "web"}, Body: []byte("1")},
				worker.Message{Headers: map[string]string{"content-type": "application/json"}, SameBody: true},
				worker.Message{Headers: map[string]string{"x-a": "ë"}, Body: []byte("a")})},
		{"stop", 0, `{"result":"stop"}`, worker.Reply{Verdict: worker.Stop}},
		{"stop, and why", 0, `{"result":"stop","reason":"a\ndouble"}`, worker.Reply{Verdict: worker.Stop, Reason: "a double"}},
		{"repeat", 0, `{"result":"repeat","after_seconds":1.5,"reason":"not yet"}`, worker.Reply{Verdict: worker.Repeat, After: 1500 * time.Millisecond, Reason: "not yet"}},
		{"repeat at once", 0, `{"result":"repeat","after_seconds":0}`, worker.Reply{Verdict: worker.Repeat}},
		{"repeat in a month", 0, `{"result":"repeat","after_seconds":2.592e6}`, worker.Reply{Verdict: worker.Repeat, After: worker.MaxAfter}},
		{"a page", 1, `{"result":"done","messages":[{"body":1}],"cursor":"ž"}`,
			worker.Reply{Verdict: worker.Done, Messages: []worker.Message{{Headers: carried, Body: []byte("1")}}, Cursor: "ž"}},
		{"an empty page", 2, `{"result":"done","messages":[],"cursor":"x"}`, worker.Reply{Verdict: worker.Done, Cursor: "x"}},
		{"an empty page, in short", 2, `{"result":"done","cursor":"x"}`, worker.Reply{Verdict: worker.Done, Cursor: "x"}},
		{"the last page", 2, `{"result":"done","messages":[{"body":1}],"cursor":""}`,
			worker.Reply{Verdict: worker.Done, Messages: []worker.Message{{Headers: carried, Body: []byte("1")}}}},
		{"a batch that stops", 2, `{"result":"stop"}`, worker.Reply{Verdict: worker.Stop}},
		{"an empty cursor, though no batch", 0, `{"result":"done","cursor":""}`, done(same()...)},
	}
	c := newClient(t, worker.Config{})
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := request()
			r.Page = tc.page
			target := say(t, 200, http.Header{"Content-Type": {"Application/VND.sluice.result+json ; charset=utf-8"}}, tc.doc)
			result, err := c.Call(t.Context(), target, r)
			ok(t, err)
			sameReply(t, result.Reply, tc.want)
		})
	}
}

// A worker that fails a message for good is taken at its word.
func TestResultFail(t *testing.T) {
	t.Parallel()
	c := newClient(t, worker.Config{})
	for doc, want := range map[string]string{
		`{"result":"fail","reason":"No\u0000 such customer"}`: "No  such customer",
		`{"result":"fail"}`: "the worker failed it and gave no reason",
	} {
		f := fails(t, t.Context(), c, say(t, 200, http.Header{"Content-Type": {worker.ResultType}}, doc), request())
		equal(t, "class", f.Class, worker.Rejected)
		equal(t, "status", f.Status, 200)
		equal(t, "reason", f.Reason, want)
	}
}

// A reply that breaks the protocol is told so precisely, and may be better the
// next time.
func TestBrokenReply(t *testing.T) {
	t.Parallel()
	result := func(doc string) (http.Header, string) {
		return http.Header{"Content-Type": {worker.ResultType}}, doc
	}
	header := func(key, value string) (http.Header, string) {
		return http.Header{key: {value}}, "body"
	}
	type written func() (http.Header, string)
	doc := func(s string) written { return func() (http.Header, string) { return result(s) } }
	line := func(key, value string) written { return func() (http.Header, string) { return header(key, value) } }
	cases := []struct {
		reply written
		want  string
	}{
		{doc(``), "the document is not JSON: unexpected end"},
		{doc(`{"result":"done"`), "not JSON"},
		{doc(`{"result":"done"} x`), "not JSON"},
		{doc("\ufeff" + `{"result":"done"}`), "not JSON"},
		{doc("{\"result\":\"\xff\"}"), "not UTF-8"},
		{doc(`["done"]`), "want an object, got a list"},
		{doc(`null`), "want an object, got null"},
		{doc(`{}`), "result: want done, stop, repeat or fail"},
		{doc(`{"result":""}`), "result: want"},
		{doc(`{"result":"DONE"}`), `got "DONE"`},
		{doc(`{"Result":"done"}`), `unknown field "Result"`},
		{doc(`{"result":"done","x":1}`), `unknown field "x"`},
		{doc(`{"result":"done","result":"stop"}`), `"result" is there twice`},
		{doc(`{"result":"done","res\u0075lt":"stop"}`), `"result" is there twice`},
		{doc(`{"result":1}`), "result: want a string, got a number"},
		{doc(`{"result":"\ud800"}`), "half a surrogate pair"},
		{doc(`{"result":"\udc00\ud800"}`), "half a surrogate pair"},
		{doc(`{"result":"\ud800\u0041"}`), "half a surrogate pair"},
		{doc(`{"result":"done","followers":"a"}`), "followers: want a list, got a string"},
		{doc(`{"result":"done","followers":null}`), "followers: want a list, got null"},
		{doc(`{"result":"done","followers":[1]}`), "followers: want a string, got a number"},
		{doc(`{"result":"done","followers":[""]}`), "followers: an empty name"},
		{doc(`{"result":"done","followers":["a","a"]}`), `followers: "a" is there twice`},
		{doc(`{"result":"done","messages":{}}`), "messages: want a list, got an object"},
		{doc(`{"result":"done","messages":[{},true]}`), "messages[1]: want an object, got a boolean"},
		{doc(`{"result":"done","messages":[{"body":1,"text":"x"}]}`), "messages[0]: more than one of body, text and base64"},
		{doc(`{"result":"done","messages":[{"text":1}]}`), "messages[0]: text: want a string, got a number"},
		{doc(`{"result":"done","messages":[{"text":null}]}`), "messages[0]: text: want a string, got null"},
		{doc(`{"result":"done","messages":[{"base64":"a"}]}`), "messages[0]: base64: not base64"},
		{doc(`{"result":"done","messages":[{"base64":"_-8="}]}`), "messages[0]: base64: not base64"},
		{doc(`{"result":"done","messages":[{"base64":"YR=="}]}`), "messages[0]: base64: not base64"},
		{doc(`{"result":"done","messages":[{"payload":1}]}`), `messages[0]: unknown field "payload"`},
		{doc(`{"result":"done","messages":[{"headers":{"a":1}}]}`), `messages[0]: headers: "a": want a string, got a number`},
		{doc(`{"result":"done","messages":[{"headers":{"a b":""}}]}`), `messages[0]: headers: header name "a b"`},
		{doc(`{"result":"done","messages":[{"headers":{"a":"\u0000"}}]}`), "messages[0]: headers: header a is not UTF-8 text without NUL"},
		{doc(`{"result":"done","messages":[{"headers":{"a":"","A":""}}]}`), `messages[0]: headers: "a" is there twice`},
		{doc(`{"result":"done","messages":[{"headers":{"content-type":"a\nb"}}]}`), "content-type is not printable"},
		{doc(`{"result":"done","messages":[{"headers":{"a":"` + strings.Repeat("x", 9000) + `"}}]}`), "bytes of headers, more than 8192"},
		{doc(`{"result":"done","messages":[{"headers":[]}]}`), "messages[0]: headers: want an object, got a list"},
		{doc(`{"result":"done","messages":[{"drop":"a"}]}`), "messages[0]: drop: want a list, got a string"},
		{doc(`{"result":"done","messages":[` + strings.Repeat("{},", 5) + `{}]}`), "messages: more than 5 messages"},
		{doc(`{"result":"done","reason":"x"}`), "reason: does not go with done"},
		{doc(`{"result":"done","after_seconds":1}`), "after_seconds: does not go with done"},
		{doc(`{"result":"stop","messages":[]}`), "messages: does not go with stop"},
		{doc(`{"result":"fail","cursor":""}`), "cursor: does not go with fail"},
		{doc(`{"result":"repeat"}`), "after_seconds: repeat needs it"},
		{doc(`{"result":"repeat","after_seconds":-1}`), "after_seconds: want 0 to 2592000, got -1"},
		{doc(`{"result":"repeat","after_seconds":1e400}`), "after_seconds: want 0 to 2592000, got 1e400"},
		{doc(`{"result":"repeat","after_seconds":2592001}`), "after_seconds: want 0 to 2592000"},
		{doc(`{"result":"repeat","after_seconds":NaN}`), "not JSON"},
		{doc(`{"result":"repeat","after_seconds":"30"}`), "after_seconds: want a number, got a string"},
		{doc(`{"result":"done","cursor":"x"}`), "cursor: only a batch node has pages"},
		{doc(`{"result":"done","cursor":1}`), "cursor: want a string, got a number"},
		{doc(`{"result":"done","cursor":"\u0000"}`), "cursor: holds NUL"},
		{doc(`{"result":"done","cursor":"` + strings.Repeat("x", 8193) + `"}`), "cursor: 8193 bytes"},
		{doc(`{"result":"done","cursor":"` + strings.Repeat("ž", 1366) + `"}`), "cursor: 8196 bytes, percent-encoded"},
		{line("Sluice-Header-X-A", "Zoë"), "header Sluice-Header-X-A holds a byte that is not printable ASCII"},
		{line("Sluice-Header-X-A", "%00"), "header x-a is not UTF-8 text without NUL"},
		{line("Sluice-Header-X-A", "%ff"), "header x-a is not UTF-8 text without NUL"},
		{line("Sluice-Header-", "a"), "header Sluice-Header- has no name"},
		{line("Sluice-Header-X-A", strings.Repeat("x", 9000)), "bytes of headers, more than 8192"},
		{line("Content-Type", "t\xebxt"), "Content-Type is not printable ASCII"},
	}
	c := newClient(t, worker.Config{MaxMessages: 5})
	for i, tc := range cases {
		t.Run(fmt.Sprint(i, " ", tc.want), func(t *testing.T) {
			t.Parallel()
			header, body := tc.reply()
			f := fails(t, t.Context(), c, say(t, 200, header, body), request())
			equal(t, "class", f.Class, worker.Transient)
			equal(t, "status", f.Status, 200)
			if !strings.Contains(f.Reason, "its reply breaks the protocol: ") || !strings.Contains(f.Reason, tc.want) {
				t.Errorf("%q, want %q", f.Reason, tc.want)
			}
		})
	}
}

// A message carries on the headers that it came with, even if that makes too
// many of them with the new ones: then it is the reply's fault.
func TestHeadersAddUp(t *testing.T) {
	t.Parallel()
	r := request()
	for i := range worker.MaxHeaders - len(r.Headers) {
		r.Headers[fmt.Sprint("x-", i)] = "y"
	}
	c := newClient(t, worker.Config{})
	_, err := c.Call(t.Context(), say(t, 204, nil, ""), r)
	ok(t, err)
	f := fails(t, t.Context(), c, say(t, 204, http.Header{"Sluice-Header-X-More": {"1"}}, ""), r)
	equal(t, "class", f.Class, worker.Transient)
}

// Whatever a worker says, it is refused or understood in one way: verdicts are
// known, limits are kept, and JSON bodies stand in the document as they are.
func FuzzResult(f *testing.F) {
	for _, doc := range []string{
		`{"result":"done"}`, `{"result":"done","messages":[{"body":{"a":1}},{"text":"x\ud83d\ude00"},{"base64":"AA=="},{"headers":{"a":"b"},"drop":["*"],"followers":[]}],"cursor":"x"}`,
		`{"result":"repeat","after_seconds":1e2,"reason":"x"}`, `{"result":"stop"}`, `{"result":"fail","reason":"\u0000"}`, `{"result":"done","followers":["a"]} `, `[]`, `"`, `{"a":`, "\xff",
	} {
		f.Add([]byte(doc), 0)
		f.Add([]byte(doc), 1)
	}
	f.Fuzz(func(t *testing.T, doc []byte, page int) {
		r := request()
		r.Page = max(page, 0)
		reply, err := worker.Read(r, http.Header{"Content-Type": {worker.ResultType}}, doc)
		if err != nil {
			if !worker.IsRejection(err) && err.Error() == "" {
				t.Fatal("an error without words")
			}
			return
		}
		if !json.Valid(doc) || !utf8.Valid(doc) {
			t.Fatal("taken, though not JSON")
		}
		switch {
		case reply.Verdict != worker.Done && reply.Verdict != worker.Stop && reply.Verdict != worker.Repeat,
			reply.Verdict == worker.Done && len(reply.Messages) == 0 && r.Page == 0,
			reply.Verdict != worker.Done && len(reply.Messages) > 0,
			reply.Cursor != "" && r.Page == 0,
			reply.After < 0, reply.After > worker.MaxAfter,
			!utf8.ValidString(reply.Reason), strings.Contains(reply.Reason, "\x00"), len(reply.Messages) > 100:
			t.Fatalf("%+v", reply)
		}
		for _, m := range reply.Messages {
			if m.SameBody != (m.Body == nil) || m.Drop != nil || (m.Followers != nil && len(m.Followers) == 0) {
				t.Fatalf("%+v", m)
			}
			ok(t, worker.CheckHeaders(m.Headers))
			if m.Headers["content-type"] == "application/json" && json.Valid(m.Body) && !bytes.Contains(doc, m.Body) && !bytes.Contains(doc, []byte("text")) && !bytes.Contains(doc, []byte("base64")) && !bytes.Contains(doc, []byte(`\u`)) {
				t.Fatalf("%q does not stand in the document", m.Body)
			}
		}
	})
}

// Headers of a reply are taken or refused, never both, and what is taken can be
// sent on.
func FuzzReplyHeaders(f *testing.F) {
	f.Add("X-A", "b", "c", "text/plain")
	f.Add("", "%00", "*", worker.ResultType)
	f.Fuzz(func(t *testing.T, name, value, drop, kind string) {
		header := http.Header{"Sluice-Header-" + name: {value}, "Sluice-Drop": {drop}, "Content-Type": {kind}}
		reply, err := worker.Read(request(), header, []byte(`{"result":"done"}`))
		if err != nil {
			return
		}
		for _, m := range reply.Messages {
			ok(t, worker.CheckHeaders(m.Headers))
		}
	})
}

// Strings decode as encoding/json decodes them, where that does not make things
// up.
func FuzzText(f *testing.F) {
	for _, s := range []string{`""`, `"a\u00e9\ud83d\ude00"`, `"\ud800"`, `"\ud800\u0041"`, `"\"\\\/\b\f\n\r\t"`, `"\ud83d\ude0"`, `"�"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		got, err := worker.ParseText(doc)
		var want string
		if wantErr := json.Unmarshal(doc, &want); wantErr != nil || bytes.Equal(bytes.TrimSpace(doc), []byte("null")) {
			if err == nil {
				t.Fatalf("%q is taken for %q", doc, got)
			}
			return
		}
		if err == nil && got != want {
			t.Fatalf("%q is %q, not %q", doc, got, want)
		}
		if err != nil && !strings.Contains(want, "\ufffd") {
			t.Fatalf("%q is refused: %v", doc, err)
		}
	})
}
