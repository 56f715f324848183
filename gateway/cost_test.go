package gateway

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/uuid"

	"sluice/gateway/auth"
	"sluice/migrations/pgtest"
	"sluice/queue"
)

// What the door itself costs an event: everything but the engine and the network.
func BenchmarkEvent(b *testing.B) {
	h, key := instant(b)
	body := bytes.Repeat([]byte("x"), 1024)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		r := eventRequest("http://a"+"/v1/topologies/orders/nodes/inbox/events", key, body)
		w := &discard{header: http.Header{}}
		h.ServeHTTP(w, r)
		if w.status != http.StatusAccepted {
			b.Fatal(w.status)
		}
	}
}

// The same over HTTP, and over HTTP with a handler that does nothing but read.
func BenchmarkEventOverHTTP(b *testing.B) {
	h, key := instant(b)
	bare := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"correlation_id":"0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60","duplicate":false,"version":3}`)
	})
	for name, handler := range map[string]http.Handler{"door": h, "bare": bare} {
		b.Run(name, func(b *testing.B) {
			server := httptest.NewUnstartedServer(nil)
			server.Config = Server("", handler, nil)
			server.Start()
			defer server.Close()
			body := bytes.Repeat([]byte("x"), 1024)
			client := server.Client()
			client.Transport.(*http.Transport).MaxIdleConnsPerHost = 100
			b.ReportAllocs()
			b.SetParallelism(16)
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					r := eventRequest(server.URL+"/v1/topologies/orders/nodes/inbox/events", key, body)
					r.RequestURI = ""
					resp, err := client.Do(r)
					if err != nil || resp.StatusCode != http.StatusAccepted {
						b.Error(err, resp)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			})
		})
	}
}

// instant is a door before an engine that takes no time.
func instant(b *testing.B) (http.Handler, string) {
	b.Helper()
	pool := pgtest.New(b).Pool()
	_, key, err := auth.CreateKey(b.Context(), pool, 1, "bench", auth.Scopes{auth.Ingest}, "bench")
	if err != nil {
		b.Fatal(err)
	}
	g := assemble(Config{Keys: auth.New(pool)})
	id := uuid.Must(uuid.NewV7())
	g.accept = func(context.Context, queue.Event) (queue.Accepted, error) {
		return queue.Accepted{Process: id, Version: 3}, nil
	}
	return g.handler(), key
}

func eventRequest(url, key string, body []byte) *http.Request {
	r := httptest.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	r.Header = http.Header{
		"Authorization": {"Bearer " + key}, "Content-Type": {"application/json"}, "Idempotency-Key": {"order-ABC-123"},
		"User-Agent": {"bench"}, "X-Github-Event": {"push"}, "Accept": {"*/*"},
	}
	return r
}

// discard is an answer that nobody reads.
type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(status int)      { d.status = status }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
