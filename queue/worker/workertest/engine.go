package workertest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

type object = map[string]any

// OrchestyEngine answers what the SDK asks of its engine, and is the third party that the sample's connectors talk to.
type OrchestyEngine struct {
	*httptest.Server
	mu    sync.Mutex
	asked map[string]int
}

// NewOrchestyEngine runs one for as long as t lives. The user joe has the application sample-app; nobody has none.
func NewOrchestyEngine(t testing.TB) *OrchestyEngine {
	s := &OrchestyEngine{asked: map[string]int{}}
	mux := http.NewServeMux()
	answer := func(pattern string, f func(*http.Request) any) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			s.mu.Lock()
			s.asked[pattern]++
			s.mu.Unlock()
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(f(r)) // a worker that has gone needs no answer
		})
	}
	stored := func(*http.Request) any { return object{"message": object{"status": "OK", "data": ""}} }
	answer("POST /metrics/monolith", stored)
	answer("POST /metrics/connectors", stored)
	answer("POST /logger/logs", stored)
	answer("GET /document/Node", func(*http.Request) any { return []any{} })
	answer("GET /document/ApplicationInstall", func(r *http.Request) any {
		if strings.Contains(r.URL.RawQuery, "nobody") {
			return []any{}
		}
		return []any{object{"_id": "a94efb264a0fca1f90f53b1c", "user": "joe", "key": "sample-app", "enabled": true, "deleted": false, "nonEncryptedSettings": object{}, "encryptedSettings": ""}}
	})
	answer("POST /topologies/other/nodes/start/user/user-9/run-by-name", func(*http.Request) any {
		return object{"state": "ok", "started": 1, "correlation_id": "35621d72-c5d3-43e5-9c29-903de2235745"}
	})
	answer("POST /ext/orders", func(r *http.Request) any { return object{"ext": "ok", "url": r.URL.Path} })
	mux.HandleFunc("GET /ext/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		var code int
		fmt.Sscan(r.PathValue("code"), &code)
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"ext":"status","status":%d}`, code)
	})
	s.Server = httptest.NewServer(mux)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Server.Close()
	})
	return s
}

// Asked is how often a worker asked for a route.
func (s *OrchestyEngine) Asked(route string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[route]
}
