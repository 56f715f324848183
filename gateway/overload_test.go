package gateway

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"sluice/openapi"
	"sluice/queue"
)

// Producers that send more than can be stored are told to come again later.
func TestOverloadIsToldToWait(t *testing.T) {
	t.Parallel()
	w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(context.Background(), http.MethodPost, "/v1/topologies/a/nodes/b/events", nil)
	openapi.WriteProblem(w, r, (&gateway{}).translate(queue.ErrOverloaded))
	if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("%d, Retry-After %q, %s; want 429 as a problem with Retry-After", w.Code, w.Header().Get("Retry-After"), w.Header().Get("Content-Type"))
	}
}
