package worker_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"sluice/queue/worker"
)

// What a worker answers when it does not take a message is kept: the start of it, without secrets, whatever it is.
func TestResponseIsKept(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 10_000)
	for _, c := range []struct {
		name, contentType, body string
		status                  int
		kept                    int
		cut                     bool
	}{
		{"a refusal", "application/json", `{"error": "no"}`, 422, 15, false},
		{"bytes", "application/octet-stream", "\x00\xff", 500, 2, false},
		{"nothing", "text/plain", "", 404, 0, false},
		{"too much", "text/html", long, 503, 4096, true},
		{"no reply", worker.ResultType, `{"result": "maybe"}`, 200, 19, false},
		{"failed for good", worker.ResultType, `{"result": "fail", "reason": "no"}`, 200, 34, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Content-Type", c.contentType)
				w.Header().Set("X-Request-Id", "7")
				w.Header().Set("Set-Cookie", "session=secret")
				w.Header().Set("X-Api-Key", "secret")
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			}))
			t.Cleanup(server.Close)
			client := worker.NewClient(worker.Config{})
			t.Cleanup(client.Close)
			_, err := client.Call(t.Context(), worker.Target{Name: "demo", URL: server.URL}, worker.Request{Action: "a", MessageID: "m-1", Body: []byte("x")})
			var f *worker.Failure
			if !errors.As(err, &f) || f.Response == nil {
				t.Fatalf("%v", err)
			}
			r := f.Response
			if r.Headers["content-type"] != c.contentType || r.Headers["x-request-id"] != "7" || len(r.Body) != c.kept || string(r.Body) != c.body[:c.kept] || r.Cut != c.cut {
				t.Errorf("%+v", r)
			}
			for name, value := range r.Headers {
				if strings.Contains(value, "secret") {
					t.Errorf("%s: %s", name, value)
				}
			}
		})
	}
}
