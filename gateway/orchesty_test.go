package gateway_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// workerDetail is a worker as the API shows it.
type workerDetail struct {
	Protocol  string  `json:"protocol"`
	Dialect   string  `json:"dialect"`
	Secret    string  `json:"secret"`
	ListedAt  *string `json:"listed_at"`
	ListError string  `json:"listing_error"`
	Nodes     []struct {
		Kind, Name, Application string
	}
	Applications []struct {
		Key, Name string
	}
}

// A worker of Orchesty's is registered, asked what it has, and tried out; when it is gone, what it said stays.
func TestOrchestyWorker(t *testing.T) {
	t.Parallel()
	d := open(t)
	mux := http.NewServeMux()
	for path, answer := range map[string]string{
		"GET /connector/list": `[{"name":"create-contact","app":"crm"}]`, "GET /batch/list": "[]", "GET /custom-node/list": `[{"name":"clean"}]`,
		"GET /applications":                     `{"items":[{"key":"crm","name":"CRM","authorization_type":"oauth2","application_type":"cron","isInstallable":true}]}`,
		"POST /connector/create-contact/action": `{"headers":{"result-code":"0","x":7},"body":"made"}`,
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) })
	}
	legacy := httptest.NewServer(mux)
	defer legacy.Close()

	ask := func(method, path string) (shown workerDetail) {
		t.Helper()
		d.do(200, method, path, nil, &shown)
		return shown
	}
	var shown workerDetail
	d.do(201, "POST", "/v1/workers", map[string]string{"name": "legacy", "url": legacy.URL, "protocol": "orchesty"}, &shown)
	if shown.Protocol != "orchesty" || shown.Dialect != "a" || shown.Secret != "" {
		t.Errorf("registered as %+v", shown)
	}
	for _, body := range []string{`{"name":"x","url":"http://a","protocol":"soap"}`, `{"name":"x","url":"http://a","dialect":"b"}`, `{"name":"x","url":"http://a","protocol":"orchesty","dialect":"c"}`} {
		d.refused(422, "validation-failed", "POST", "/v1/workers", body, "Content-Type", "application/json")
	}
	shown = ask("GET", "/v1/workers/legacy")
	if len(shown.Nodes) != 0 || shown.ListedAt != nil {
		t.Errorf("before it was asked: %+v", shown)
	}
	for range 2 { // it is up, then it is gone
		shown = ask("POST", "/v1/workers/legacy/refresh")
		if got := fmt.Sprint(shown.Nodes, shown.Applications); got != "[{connector create-contact crm} {custom clean }] [{crm CRM}]" || shown.ListedAt == nil {
			t.Errorf("it has %s", got)
		}
		if shown.ListError != "" {
			break
		}
		var tested struct {
			Verdict  string
			Messages []struct {
				Text    string
				Headers map[string]string
			}
		}
		d.do(200, "POST", "/v1/workers/legacy/test", map[string]any{"action": "create-contact", "kind": "connector", "body": map[string]int{"a": 1}}, &tested)
		if tested.Verdict != "done" || tested.Messages[0].Text != "made" || tested.Messages[0].Headers["x"] != "7" {
			t.Errorf("tested: %+v", tested)
		}
		legacy.Close()
	}
	if !strings.Contains(shown.ListError, "refused") {
		t.Errorf("gone, but shown as %+v", shown)
	}
	d.do(204, "PUT", "/v1/workers/legacy", map[string]string{"url": legacy.URL, "dialect": "b"}, nil)
	shown = ask("GET", "/v1/workers/legacy")
	if shown.Dialect != "b" {
		t.Errorf("its dialect stayed: %+v", shown)
	}
	d.do(201, "POST", "/v1/workers", map[string]string{"name": "own", "url": "http://127.0.0.1:9"}, nil)
	d.refused(422, "validation-failed", "PUT", "/v1/workers/own", `{"url":"http://a","dialect":"b"}`, "Content-Type", "application/json")
	d.refused(404, "not-found", "PUT", "/v1/workers/none", `{"url":"http://a","dialect":"b"}`, "Content-Type", "application/json")
}
