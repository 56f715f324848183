package openapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/pb33f/libopenapi"
	"pgregory.net/rapid"
)

type thing struct {
	ID    int64             `json:"id"`
	Name  string            `json:"name" minLength:"1" maxLength:"20"`
	Count int32             `json:"count,omitempty" minimum:"0"`
	Parts []thingPart       `json:"parts,omitempty"`
	Notes map[string]string `json:"notes,omitempty"`
}

type thingPart struct {
	Size int `json:"size" maximum:"10"`
}

type listThings struct {
	Page
	Kind string `query:"kind" enum:"round,square"`
}

type thingList struct{ Body List[thing] }

type oneThing struct {
	ID int64 `path:"id"`
}

type thingOutput struct{ Body thing }

type newThing struct{ Body thing }

var errSecret = errors.New("password of the database is hunter2")

// sample is an API with an operation of each kind.
func sample(c Config) (http.Handler, huma.API) {
	mux := http.NewServeMux()
	api := New(mux, "1")
	Register(api, huma.Operation{OperationID: "list-things", Summary: "List things", Tags: []string{"workers"}, Method: "GET", Path: "/v1/things"},
		func(_ context.Context, in *listThings) (*thingList, error) {
			var after int64
			if err := in.Cursor(&after); err != nil {
				return nil, err
			}
			rows := []thing{}
			for id := after + 1; id <= 7 && len(rows) <= in.Limit; id++ {
				rows = append(rows, thing{ID: id, Name: "x"})
			}
			list, err := Cut(rows, in.Page, func(t thing) []any { return []any{t.ID} })
			return &thingList{list}, err
		})
	Register(api, huma.Operation{OperationID: "get-thing", Summary: "Get a thing", Tags: []string{"workers"}, Method: "GET", Path: "/v1/things/{id}"},
		func(_ context.Context, in *oneThing) (*thingOutput, error) {
			switch in.ID {
			case 1:
				return &thingOutput{thing{ID: 1, Name: "one"}}, nil
			case 500:
				return nil, errSecret
			case 501:
				panic(errSecret)
			case 503:
				return nil, fmt.Errorf("look: %w", Unavailable.Because("busy").Retry(1500*time.Millisecond))
			}
			return nil, NotFound.Because("there is no thing %d", in.ID)
		})
	Register(api, huma.Operation{OperationID: "create-thing", Summary: "Create a thing", Tags: []string{"workers"}, Method: "POST", Path: "/v1/things", DefaultStatus: 201, MaxBodyBytes: 4096},
		func(_ context.Context, in *newThing) (*thingOutput, error) { return &thingOutput{in.Body}, nil })
	mux.HandleFunc("PUT /v1/raw/{name}", func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 100)); err != nil {
			WriteError(w, r, fmt.Errorf("read: %w", err))
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	Serve(mux, api)
	return Handler(mux, c), api
}

func call(h http.Handler, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func problemIn(t *testing.T, w *httptest.ResponseRecorder) Problem {
	t.Helper()
	if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" {
		t.Fatalf("content type %q, body %s", ct, w.Body)
	}
	var p Problem
	d := json.NewDecoder(w.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		t.Fatal(err)
	}
	if p.Status != w.Code || p.Type != "/problems/"+p.Code || p.Title == "" || p.RequestID == "" || p.RequestID != w.Header().Get("X-Request-Id") {
		t.Fatalf("status %d, problem %+v", w.Code, p)
	}
	return p
}

// Every refusal, whoever gives it, is a problem document that names its kind and its place, and tells no more.
func TestRefusals(t *testing.T) {
	t.Parallel()
	h, _ := sample(Config{})
	for _, c := range []struct {
		method, target, body string
		headers              []string
		code                 string
		status               int
		where                string // of the first error
	}{
		{"GET", "/nowhere", "", nil, "not-found", 404, ""},
		{"GET", "/", "", nil, "not-found", 404, ""},
		{"DELETE", "/v1/things", "", nil, "method-not-allowed", 405, ""},
		{"BREW", "/v1/things/1", "", nil, "method-not-allowed", 405, ""},
		{"GET", "/v1/things/2", "", nil, "not-found", 404, ""},
		{"GET", "/v1//things", "", nil, "not-found", 404, ""}, // the mux would send the client elsewhere
		{"GET", "/v1/x/../things", "", nil, "not-found", 404, ""},
		{"GET", "/v1/./things", "", nil, "not-found", 404, ""},
		{"GET", "/v1/things/", "", nil, "not-found", 404, ""},
		{"GET", "/v1/things/zwei", "", nil, "validation-failed", 422, "path.id"},
		{"GET", "/v1/things/99999999999999999999", "", nil, "validation-failed", 422, "path.id"},
		{"GET", "/v1/things?limit=0", "", nil, "validation-failed", 422, "query.limit"},
		{"GET", "/v1/things?limit=501", "", nil, "validation-failed", 422, "query.limit"},
		{"GET", "/v1/things?kind=flat", "", nil, "validation-failed", 422, "query.kind"},
		{"GET", "/v1/things?after=!", "", nil, "validation-failed", 422, "query.after"},
		{"GET", "/v1/things?after=WzEsMl0", "", nil, "validation-failed", 422, "query.after"},  // [1,2]
		{"GET", "/v1/things?after=WyJhIl0", "", nil, "validation-failed", 422, "query.after"},  // ["a"]
		{"GET", "/v1/things?after=W251bGxd", "", nil, "validation-failed", 422, "query.after"}, // [null]
		{"GET", "/v1/things?after=" + strings.Repeat("a", 501), "", nil, "validation-failed", 422, "query.after"},
		{"GET", "/v1/things/%00", "", nil, "invalid-request", 400, ""},
		{"GET", "/v1/things/%ff", "", nil, "invalid-request", 400, ""},
		{"GET", "/v1/things?kind=%00", "", nil, "invalid-request", 400, ""},
		{"GET", "/v1/things?%ff=1", "", nil, "invalid-request", 400, ""},
		{"GET", "/v1/things?kind=%zz", "", nil, "invalid-request", 400, ""},
		{"GET", "/v1/things", "", []string{"X-Long", strings.Repeat("x", 70000)}, "headers-too-large", 431, ""},
		{"POST", "/v1/things", "", nil, "invalid-request", 400, ""},
		{"POST", "/v1/things", "{", nil, "invalid-request", 400, "#"},
		{"POST", "/v1/things", `{"id":1,"name":"a\u0000"}`, nil, "invalid-request", 400, "#"},
		{"POST", "/v1/things", "{\"id\":1,\"name\":\"\xff\"}", nil, "invalid-request", 400, "#"},
		{"POST", "/v1/things", `{"id":1e999,"name":"a"}`, nil, "invalid-request", 400, "#"},
		{"POST", "/v1/things", `{"id":99999999999999999999,"name":"a"}`, nil, "validation-failed", 422, "#"},
		{"POST", "/v1/things", `{"id":1,"name":""}`, nil, "validation-failed", 422, "#/name"},
		{"POST", "/v1/things", `{"id":1,"name":"a","parts":[{"size":1},{"size":11}]}`, nil, "validation-failed", 422, "#/parts/1/size"},
		{"POST", "/v1/things", `{"id":1,"name":"a","extra~/":1}`, nil, "validation-failed", 422, "#/extra~0~1"},
		{"POST", "/v1/things", `[]`, nil, "validation-failed", 422, "#"},
		{"POST", "/v1/things", `{"id":1,"name":"` + strings.Repeat("a", 5000) + `"}`, nil, "payload-too-large", 413, ""},
		{"POST", "/v1/things", `<a/>`, []string{"Content-Type", "application/xml"}, "unsupported-media-type", 415, "#"},
		{"PUT", "/v1/raw/a", strings.Repeat("a", 101), nil, "payload-too-large", 413, ""},
		{"GET", "/v1/things/500", "", nil, "internal-error", 500, ""},
		{"GET", "/v1/things/501", "", nil, "internal-error", 500, ""},
		{"GET", "/v1/things/503", "", nil, "unavailable", 503, ""},
		{"GET", "/problems/nothing", "", nil, "not-found", 404, ""},
	} {
		w := call(h, c.method, c.target, c.body, c.headers...)
		raw := w.Body.String()
		p := problemIn(t, w)
		if p.Code != c.code || p.Status != c.status {
			t.Errorf("%s %.60s %.60s: %d %s, want %d %s: %s", c.method, c.target, c.body, p.Status, p.Code, c.status, c.code, raw)
		}
		if c.where != "" && (len(p.Errors) == 0 || p.Errors[0].Pointer+p.Errors[0].Location != c.where) {
			t.Errorf("%s %.60s %.60s: errors %+v, want the first at %s", c.method, c.target, c.body, p.Errors, c.where)
		}
		for _, inside := range []string{"hunter2", "openapi.thing", "Go value", "goroutine"} {
			if strings.Contains(raw, inside) {
				t.Errorf("%s %.60s: tells %q: %s", c.method, c.target, inside, raw)
			}
		}
	}
}

func TestHeadersOfRefusals(t *testing.T) {
	t.Parallel()
	h, _ := sample(Config{})
	if got := call(h, "DELETE", "/v1/things", "").Header().Get("Allow"); got != "GET, HEAD, POST" {
		t.Errorf("Allow: %q", got)
	}
	if got := call(h, "GET", "/v1/things/503", "").Header().Get("Retry-After"); got != "2" {
		t.Errorf("Retry-After: %q", got)
	}
	w := httptest.NewRecorder()
	WriteProblem(w, httptest.NewRequest("GET", "/v1/x?key=secret", nil), Unauthenticated.Because("no key").Counting(3))
	if w.Header().Get("WWW-Authenticate") == "" || w.Code != 401 || strings.Contains(w.Body.String(), "secret") || !strings.Contains(w.Body.String(), `"messages":3`) {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	w = httptest.NewRecorder()
	WriteProblem(w, httptest.NewRequest("GET", "/", nil), TooManyRequests.Because("slow down"))
	if w.Header().Get("Retry-After") != "1" {
		t.Error("429 without Retry-After")
	}
}

// What went wrong inside is in the log, with the id that the client was told, and only there.
func TestInsideIsLogged(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	h, _ := sample(Config{Logger: slog.New(slog.NewJSONHandler(&log, nil))})
	call(h, "GET", "/v1/things/500?token=abc", "", "X-Request-Id", "first-1")
	call(h, "GET", "/v1/things/501", "", "X-Request-Id", "bad id\n")
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "hunter2") || !strings.Contains(lines[0], `"request_id":"first-1"`) ||
		!strings.Contains(lines[0], `"route":"GET /v1/things/{id}"`) || strings.Contains(lines[0], "abc") {
		t.Errorf("log: %s", log.String())
	}
	if !strings.Contains(lines[1], "Handler panicked") || strings.Contains(lines[1], "bad id") {
		t.Errorf("log: %s", lines[1])
	}
}

func TestTranslate(t *testing.T) {
	t.Parallel()
	h, _ := sample(Config{Translate: func(err error) *Problem {
		if errors.Is(err, errSecret) {
			return Conflict.Because("a person has to look")
		}
		return nil
	}})
	if p := problemIn(t, call(h, "GET", "/v1/things/500", "")); p.Code != "conflict" || p.Instance != "/v1/things/500" {
		t.Errorf("%+v", p)
	}
}

// A list is walked to its end by its cursors, and an empty one is a list too.
func TestPages(t *testing.T) {
	t.Parallel()
	h, _ := sample(Config{})
	var seen []int64
	for after, page := "", 1; ; page++ {
		w := call(h, "GET", "/v1/things?limit=3&after="+url.QueryEscape(after), "")
		var list List[thing]
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || page > 3 {
			t.Fatal(page, err, w.Body)
		}
		for _, x := range list.Items {
			seen = append(seen, x.ID)
		}
		if after = list.Next; after == "" {
			break
		}
	}
	if fmt.Sprint(seen) != "[1 2 3 4 5 6 7]" {
		t.Errorf("walked over %v", seen)
	}
	if next, err := CursorOf(int64(3)); err != nil {
		t.Error(err)
	} else if w := call(h, "GET", "/v1/things?limit=1&after="+next, ""); !strings.Contains(w.Body.String(), `"id":4`) {
		t.Errorf("a cursor of the list's own: %s", w.Body)
	}
	if list, err := Cut([]thing(nil), Page{Limit: 1}, nil); err != nil || list.Items == nil {
		t.Error("an empty list is null")
	}
	if _, err := Cut([]thing{{}, {}}, Page{Limit: 1}, func(thing) []any { return []any{func() {}} }); err == nil {
		t.Error("no error for a cursor that cannot be made")
	}
}

// The document is valid OpenAPI, comes out the same each time, and has our problem in it.
func TestDocument(t *testing.T) {
	t.Parallel()
	_, api := sample(Config{})
	first, err := Write(api)
	if err != nil {
		t.Fatal(err)
	}
	_, again := sample(Config{})
	second, err := Write(again)
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("two documents of one API differ: %v", err)
	}
	doc, err := libopenapi.NewDocument(first)
	if err != nil {
		t.Fatal(err)
	}
	model, err := doc.BuildV3Model()
	if err != nil {
		t.Fatal(err)
	}
	post := model.Model.Paths.PathItems.GetOrZero("/v1/things").Post
	for _, status := range []string{"400", "401", "403", "408", "413", "415", "422", "429", "500", "503"} {
		if r := post.Responses.Codes.GetOrZero(status); r == nil || r.Content.GetOrZero("application/problem+json") == nil {
			t.Errorf("no problem for %s in the document", status)
		}
	}
	if s := model.Model.Components.Schemas.GetOrZero("Problem"); s == nil || s.Schema().Properties.GetOrZero("code") == nil {
		t.Error("the document does not describe Problem")
	}
	for _, no := range []string{"$schema", "- \"null\"", "- 'null'", "RetryAfter"} {
		if bytes.Contains(first, []byte(no)) {
			t.Errorf("the document has %s in it", no)
		}
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	api := New(mux, "1")
	Describe[newThing, thingOutput](api, huma.Operation{OperationID: "send-thing", Summary: "Send", Tags: []string{"events"}, Method: "POST", Path: "/v1/sent", Security: Scope("ingest")})
	if w := call(Handler(mux, Config{}), "POST", "/v1/sent", "{}"); w.Code != 404 {
		t.Errorf("a described operation has a handler: %d", w.Code)
	}
	op := api.OpenAPI().Paths["/v1/sent"].Post
	if scopes, keyed := Scopes(op); !keyed || fmt.Sprint(scopes) != "[ingest]" || op.RequestBody == nil {
		t.Errorf("%v %v %v", scopes, keyed, op.RequestBody)
	}
	if _, keyed := Scopes(&huma.Operation{Security: Public()}); keyed {
		t.Error("a public operation asks for a key")
	}
}

func TestRegisterRefusesWhatIsUndocumented(t *testing.T) {
	t.Parallel()
	for _, op := range []huma.Operation{
		{Summary: "s", Tags: []string{"trash"}},
		{OperationID: "a", Tags: []string{"trash"}},
		{OperationID: "a", Summary: "s", Tags: []string{"rubbish"}},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%+v was taken", op)
				}
			}()
			op.Method, op.Path = "GET", "/v1/x"
			Register(New(http.NewServeMux(), "1"), op, func(context.Context, *struct{}) (*struct{}, error) { return nil, nil })
		}()
	}
}

// The explaining routes are served, many at once (run with -race), and spare who has them already.
func TestServe(t *testing.T) {
	t.Parallel()
	h, _ := sample(Config{})
	var wait sync.WaitGroup
	for range 8 {
		for _, path := range []string{"/openapi.yaml", "/openapi.json", "/openapi-3.0.json"} {
			wait.Go(func() {
				w := call(h, "GET", path, "")
				if w.Code != 200 || w.Body.Len() < 1000 {
					t.Errorf("%s: %d, %d bytes", path, w.Code, w.Body.Len())
				}
				if w := call(h, "GET", path, "", "If-None-Match", w.Header().Get("ETag")); w.Code != 304 || w.Body.Len() != 0 {
					t.Errorf("%s again: %d", path, w.Code)
				}
			})
		}
	}
	wait.Wait()
	seen := map[string]bool{}
	for i, k := range Kinds() {
		if w := call(h, "GET", "/problems/"+k.Code, ""); w.Code != 200 || !strings.Contains(w.Body.String(), k.Meaning) {
			t.Errorf("%s: %d", k.Code, w.Code)
		}
		if seen[k.Code] || i > 0 && kinds[i-1].Status > k.Status {
			t.Errorf("%s is there twice or out of order", k.Code)
		}
		seen[k.Code] = true
	}
	if p := kindOf(418).Because("%d", 1); p.Code != "i'm-a-teapot" || p.Detail != "1" {
		t.Errorf("%+v", p)
	}
}

// server is a real one: some things go wrong only on a wire.
func server(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// raw sends bytes and returns the status of the answer, or 0 when there is none.
func raw(t testing.TB, addr, bytes string) (int, string) {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(conn, bytes)
	_ = conn.(*net.TCPConn).CloseWrite()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// A body that no handler reads must come in time, too: the server reads what is left of it before it answers.
func TestUnreadBodies(t *testing.T) {
	t.Parallel()
	h, _ := sample(Config{BodyTime: 200 * time.Millisecond})
	addr := server(t, h)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(conn, "POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != 404 {
		t.Fatal(resp, err)
	}
	resp.Body.Close()
	if doc := Worker(); !bytes.Contains(doc, []byte("openapi: 3.1")) {
		t.Errorf("the worker's contract: %.100s", doc)
	}
}

// A body that breaks off or is badly framed is the client's mistake, not ours.
func TestBrokenBodies(t *testing.T) {
	t.Parallel()
	h, _ := sample(Config{})
	addr := server(t, h)
	for _, c := range []struct{ name, request, code string }{
		{"short", "POST /v1/things HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{", "invalid-request"},
		{"bad chunk", "POST /v1/things HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{", "invalid-request"},
		{"short raw", "PUT /v1/raw/a HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n{", "invalid-request"},
		{"bad raw chunk", "PUT /v1/raw/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{", "invalid-request"},
		{"star", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", ""}, // the server's own answer
		{"get star", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", ""},
	} {
		status, body := raw(t, addr, c.request)
		if status >= 500 || c.code != "" && !strings.Contains(body, `"code":"`+c.code+`"`) {
			t.Errorf("%s: %d %s", c.name, status, body)
		}
	}
}

func TestSlowBodyTimesOut(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /slow", func(w http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadAll(r.Body); err != nil {
			WriteError(w, r, err)
		}
	})
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", server(t, Handler(mux, Config{})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "PUT /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\na")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != 408 {
		t.Fatal(resp, err)
	}
	_ = resp.Body.Close()
}

// An answer that has begun is cut off when its handler panics: half an answer must not look whole.
func TestPanicAfterTheBeginning(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /half", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		panic("now")
	})
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+server(t, Handler(mux, Config{}))+"/half", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("the answer %q looks whole", body)
	}
}

// Whatever is sent, nothing but our own mistakes is a 5xx, and every refusal is a problem document.
func TestAnythingAtAll(t *testing.T) {
	t.Parallel()
	h, _ := sample(Config{})
	rapid.Check(t, func(t *rapid.T) {
		method := rapid.OneOf(rapid.SampledFrom([]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"}), rapid.StringMatching(`[A-Z!#$%&'*+.^_|~-]{1,12}`)).Draw(t, "method")
		segment := rapid.OneOf(rapid.SampledFrom([]string{"", "v1", "things", "1", "raw", "..", ".", "%2e", "%2F", "openapi.yaml", "problems", "*"}), rapid.StringMatching(`[0-9]{1,25}`), rapid.Map(rapid.String(), url.PathEscape))
		path := "/" + strings.Join(rapid.SliceOfN(segment, 0, 4).Draw(t, "path"), "/")
		query := rapid.OneOf(rapid.Just(""), rapid.StringMatching(`\?(limit|after|kind|[a-z%;&=]{1,4})=[-0-9a-zA-Z%;&=]{0,12}`)).Draw(t, "query")
		body := rapid.OneOf(rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }),
			rapid.StringMatching(`\{"(id|name|count|parts|notes|x)":(-?[0-9]{1,30}(e[0-9]{1,4})?|"[a-z]{0,25}"|null|true|\[\{"size":[0-9]{1,3}\}\]|\{"a":("b"|1)\})(,"name":"a")?\}`)).Draw(t, "body")
		u, err := url.Parse("http://a" + path + query)
		if err != nil {
			t.Skip(err)
		}
		r := &http.Request{Method: method, URL: u, Host: "a", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, RequestURI: path + query,
			Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
		for _, name := range []string{"Content-Type", "Accept", "Accept-Encoding", "X-Request-Id", "If-None-Match"} {
			if v := rapid.OneOf(rapid.Just(""), rapid.SampledFrom([]string{"application/json", "text/plain", "a+b;c+d", "*/*;q=0", "json", "multipart/form-data"}), rapid.String()).Draw(t, name); v != "" {
				r.Header.Set(name, v)
			}
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r.WithContext(context.Background()))
		mayFail := strings.Contains(path, "/v1/things/50")
		if w.Code >= 500 && !mayFail {
			t.Fatalf("%s %s: %d %s", method, u, w.Code, w.Body)
		}
		if w.Code >= 400 && w.Header().Get("Content-Type") != "application/problem+json" {
			t.Fatalf("%s %s: %d as %s: %s", method, u, w.Code, w.Header().Get("Content-Type"), w.Body)
		}
	})
}

// Raw bytes on a wire: the same, with net/http's own parser in between.
func FuzzWire(f *testing.F) {
	h, _ := sample(Config{})
	s := httptest.NewServer(h)
	f.Cleanup(s.Close)
	for _, seed := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET //v1//things HTTP/1.0\r\n\r\n",
		"POST /v1/things HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 23\r\n\r\n{\"id\":1,\"name\":\"\\u0000\"}",
		"POST /v1/things HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nTrailer: x\r\n\r\n",
		"GET /v1/things/%00%ff HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET http://b/v1/things?limit=9;after=%% HTTP/1.1\r\nHost: a\r\n\r\n",
		"CONNECT /v1/things HTTP/1.1\r\nHost: a\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"POST /v1/things HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
		"GET /v1/things HTTP/1.1\r\nHost: a\r\nAccept: \xff\xfe\r\nCookie: =;;=\r\n\r\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, request string) {
		if strings.Contains(request, "/50") { // the sample's own mistakes
			t.Skip()
		}
		// 505 is net/http's own answer to another HTTP version, 501 to another transfer encoding.
		if status, body := raw(t, s.Listener.Addr().String(), request); status >= 500 && status != 505 && status != 501 {
			t.Fatalf("%q: %d %s", request, status, body)
		}
	})
}

func TestPosition(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		data         string
		line, column int
	}{{`{"a":x}`, 1, 6}, {"{\n  \"a\": x\n}", 2, 8}, {"", 1, 1}, {"{", 1, 1}, {"{\n", 2, 1}} {
		var v any
		err := unmarshal([]byte(c.data), &v)
		if want := fmt.Sprintf("line %d, column %d: ", c.line, c.column); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", c.data, err, want)
		}
	}
}

func TestHasNUL(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]bool{
		`{"a":"\u0000"}`: true, `{"a":"\\u0000"}`: false, `{"a":"\\\u0000"}`: true, `\`: false, `{"a":"\u0001"}`: false, `{"\u0000":1}`: true, `"\u000`: false,
	} {
		if hasNUL([]byte(data)) != want {
			t.Errorf("%s: %v", data, !want)
		}
	}
}
