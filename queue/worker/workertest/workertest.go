// Package workertest runs worker services for tests: good ones, and ones that
// misbehave in each way that the network and a broken service can.
package workertest

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"sluice/queue/worker"
)

// NewServer runs a worker that lives as long as t and returns where to call it.
// It takes only calls signed with the target's secret.
func NewServer(t testing.TB, f worker.Func) worker.Target {
	secret := worker.NewSecret()
	target := Serve(t, worker.Handler{Func: f, Secrets: []worker.Secret{secret}})
	target.Secrets = []worker.Secret{secret}
	return target
}

// Serve runs an HTTP server that lives as long as t, for replies that no
// [worker.Handler] would give.
func Serve(t testing.TB, h http.Handler) worker.Target {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.CloseClientConnections() // a test of a slow worker need not wait for it
		s.Close()
	})
	return worker.Target{Name: "test", URL: s.URL}
}
