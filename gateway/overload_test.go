package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/queue"
)

// crowd is a door before an engine that takes as many events as there is room for.
func crowd(t *testing.T, room int, full error) http.Handler {
	t.Helper()
	g := assemble(Config{})
	g.accept = func(_ context.Context, ev queue.Event) (queue.Accepted, error) {
		if room == 0 {
			return queue.Accepted{}, full
		}
		room--
		return queue.Accepted{Process: uuid.Must(uuid.NewV7()), Version: 1}, nil
	}
	g.acceptMany = func(ctx context.Context, events []queue.Event) ([]queue.Accepted, []error) {
		accepted, errs := make([]queue.Accepted, len(events)), make([]error, len(events))
		for i, ev := range events {
			accepted[i], errs[i] = g.accept(ctx, ev)
		}
		return accepted, errs
	}
	mux := http.NewServeMux()
	for path, post := range map[string]rawHandler{eventsPath: g.postEvent, eventsPath + "/batch": g.postBatch} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			if err := post(w, r, auth.Principal{TenantID: 1}); err != nil {
				openapi.WriteError(w, r, err)
			}
		})
	}
	return openapi.Handler(mux, openapi.Config{Logger: g.log, Translate: g.translate, MaxHeaderBytes: maxHeaderBytes, BodyTime: time.Minute})
}

// Producers that send more than can be stored, or than their topology may have open, are told to come again later.
func TestOverloadIsToldToWait(t *testing.T) {
	t.Parallel()
	full := &queue.FullError{Topology: "orders", What: "messages", Holds: 100, Bound: 100, RetryAfter: 2100 * time.Millisecond}
	for name, test := range map[string]struct {
		err   error
		after string
		says  string
	}{
		"overloaded":   {queue.ErrOverloaded, "1", "was not accepted"},
		"full":         {full, "3", "topology orders holds 100 messages, and its bound is 100; this event was not accepted"},
		"wrapped":      {fmt.Errorf("accept: %w", full), "3", "its bound is 100"},
		"full for now": {&queue.FullError{Topology: "orders", What: "bytes", Holds: 2, Bound: 1}, "1", "holds 2 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := crowd(t, 0, test.err)
			for _, path := range []string{"/v1/topologies/orders/nodes/inbox/events", "/v1/topologies/orders/nodes/inbox/events/batch"} {
				w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, bytes.NewReader([]byte("{\"body\":1}\n{\"body\":2}\n")))
				h.ServeHTTP(w, r)
				var p openapi.Problem
				if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
					t.Fatalf("%s: %v", w.Body, err)
				}
				if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != test.after || w.Header().Get("Content-Type") != "application/problem+json" {
					t.Errorf("%s: %d, Retry-After %q, %s; want 429 as a problem with Retry-After %s", path, w.Code, w.Header().Get("Retry-After"), w.Header().Get("Content-Type"), test.after)
				}
				if p.Code != "too-many-requests" || !strings.Contains(p.Detail, test.says) || fmt.Sprint(p.RetryAfter/openapi.Seconds(time.Second)) != test.after {
					t.Errorf("%s: %s", path, w.Body)
				}
			}
		})
	}
}

// Of many events those that there is room for are stored; the others say when to send them again.
func TestOverloadByParts(t *testing.T) {
	t.Parallel()
	full := &queue.FullError{Topology: "orders", What: "bytes", Holds: 100, Bound: 90, RetryAfter: 1500 * time.Millisecond}
	const room, events = 1100, 2500 // it fills up in the second chunk
	h := crowd(t, room, full)
	body := strings.Repeat("{\"body\":1}\n", events)
	w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/topologies/orders/nodes/inbox/events/batch", strings.NewReader(body))
	h.ServeHTTP(w, r)
	var got struct {
		Accepted, Refused int
		Items             []struct {
			Line  int
			Error map[string]any
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusAccepted || got.Accepted != room || got.Refused != events-room || len(got.Items) != events {
		t.Fatalf("%d %v: %d accepted, %d refused, %d items", w.Code, err, got.Accepted, got.Refused, len(got.Items))
	}
	for i, item := range got.Items {
		if refused := item.Error != nil; item.Line != i+1 || refused != (i >= room) {
			t.Fatalf("item %d: %+v", i, item)
		}
		if item.Error != nil && (item.Error["status"] != 429.0 || item.Error["retry_after"] != 2.0) {
			t.Fatalf("item %d: %v", i, item.Error)
		}
	}
}
