package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"sluice/gateway/auth"
	"sluice/queue/worker/orchesty"
)

// started is the answer to what starts a topology as Orchesty does.
type started struct {
	State         string `json:"state"`
	Started       int    `json:"started"`
	CorrelationID string `json:"correlation_id"`
}

// starts asks as the SDK does and expects a process.
func (d *door) starts(key, path, body string, headers ...string) string {
	d.t.Helper()
	resp, text := d.sdk(key, "POST", path, body, headers...)
	var s started
	if err := json.Unmarshal([]byte(text), &s); err != nil || resp.StatusCode != 200 || s.State != "ok" || s.Started != 1 || s.CorrelationID == "" {
		d.t.Fatalf("POST %s: %d %s", path, resp.StatusCode, text)
	}
	return s.CorrelationID
}

// headersOf are the headers of the first message of a process.
func (d *door) headersOf(id string) map[string]string {
	d.t.Helper()
	var headers map[string]string
	ok(d.t, d.pool.QueryRow(d.t.Context(), `select headers from sluice.message where process_id = $1 order by id limit 1`, id).Scan(&headers))
	return headers
}

// Each of Orchesty's addresses starts what it is of, for the user that it should be for.
func TestOrchestyStarts(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.serve(pass)
	d.enable("flow", flow)
	key := d.key(ours, auth.Worker)
	topologyID, nodeID := orchesty.TopologyID("flow", 1), orchesty.NodeID("flow", 1, "in")
	byName, byID := "/topologies/flow/nodes/in", "/topologies/"+topologyID+"/nodes/"+nodeID
	for _, c := range []struct {
		name, key, path, body string
		headers               []string
		user                  string
	}{
		{"by name", key, byName + "/run-by-name", `{"a":1}`, nil, "orchesty"},
		{"by ids", key, byID + "/run", `[]`, nil, "orchesty"},
		{"as the editor does", key, byID + "/run?uiRun=true", `[]`, nil, "orchesty"},
		{"of a user", d.ingest, byName + "/user/ann%20b/run-by-name", `{"user":"body"}`, []string{"user", "header"}, "ann b"},
		{"of a user by ids", d.ingest, byID + "/user/ann/run", `{"user":"body"}`, []string{"user", "header"}, "ann"},
		{"of the body's", key, byName + "/run-by-name", `{"user":"body"}`, []string{"user", "header"}, "body"},
		{"of the body's, operated", d.operate, byName + "/run-by-name", `{"user":"body"}`, nil, "body"},
		{"of the header's", d.ingest, byName + "/run-by-name", `{"user":"body"}`, []string{"user", "header"}, "header"},
		{"of nobody's", d.ingest, byName + "/run-by-name", `{"user":"body"}`, nil, "orchesty"},
		{"odd users", key, byName + "/run-by-name", `{"user":7,"USER":"x"}`, nil, "orchesty"},
		{"any text", key, byName + "/run-by-name", "plain", []string{"Content-Type", "text/plain"}, "orchesty"},
		{"nothing", key, byName + "/run-by-name", "", []string{"Content-Type", "application/json; charset=utf-8"}, "orchesty"},
	} {
		id := d.starts(c.key, c.path, c.body, c.headers...)
		d.becomes(id, "done")
		if h := d.headersOf(id); h["user"] != c.user {
			t.Errorf("%s: of the user %q, want %q", c.name, h["user"], c.user)
		}
	}
	id := d.starts(key, byName+"/user/u/run-by-name", `{"hello":"world"}`, "Content-Type", "application/x-www-form-urlencoded",
		"previous-correlation-id", "0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60", "previous-node-id", "x")
	if h := d.headersOf(id); h["content-type"] != "application/json" || h["previous-correlation-id"] != "0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60" || h["previous-node-id"] != "" {
		t.Errorf("headers %v", h)
	}
	again := []string{"Idempotency-Key", "once"}
	if a, b := d.starts(key, byName+"/run-by-name", `{}`, again...), d.starts(key, byName+"/run-by-name", `{}`, again...); a != b {
		t.Error("sent again, it is another process")
	}

	for name, c := range map[string]struct {
		key, path, body string
		status          int
	}{
		"no key": {"", byName + "/run-by-name", "{}", 401}, "no such key": {"x", byID + "/run", "{}", 401},
		"another tenant": {d.other, byName + "/run-by-name", "{}", 404}, "another tenant, by ids": {d.other, byID + "/run", "{}", 404},
		"no topology": {key, "/topologies/none/nodes/in/run-by-name", "{}", 404}, "no node": {key, "/topologies/flow/nodes/none/run-by-name", "{}", 404},
		"no start": {key, "/topologies/flow/nodes/work/run-by-name", "{}", 404}, "no ids": {key, "/topologies/flow/nodes/in/run", "{}", 404},
		"no start, by ids":    {key, "/topologies/" + topologyID + "/nodes/" + orchesty.NodeID("flow", 1, "work") + "/run", "{}", 404},
		"another's id":        {key, "/topologies/" + nodeID + "/nodes/" + nodeID + "/run", "{}", 404},
		"not valid":           {key, byName + "/run-by-name", "x", 400},
		"not valid: empty":    {key, byName + "/run-by-name", "", 400},
		"not valid: a number": {key, byName + "/run-by-name", "7", 400},
	} {
		resp, text := d.sdk(c.key, "POST", c.path, c.body)
		if resp.StatusCode != c.status || !strings.HasPrefix(text, `{"message":"`) {
			t.Errorf("%s: %d %s, want %d", name, resp.StatusCode, text, c.status)
		}
		if c.status == 404 && !strings.Contains(text, "not found!") || c.status == 400 && text != `{"message":"Content is not valid!"}` {
			t.Errorf("%s says %s", name, text)
		}
	}

	d.replay(key, "starts")

	// What is disabled, or was replaced, is not there.
	d.enable("flow", strings.Replace(flow, "kind: connector", "kind: custom", 1))
	newer := "/topologies/" + orchesty.TopologyID("flow", 2) + "/nodes/" + orchesty.NodeID("flow", 2, "in") + "/run"
	answers := func(path string, status int) func() bool {
		return func() bool { resp, _ := d.sdk(key, "POST", path, "{}"); return resp.StatusCode == status }
	}
	d.until("the version before is not there", answers(byID+"/run", 404))
	d.until("the new one is", answers(newer, 200))
	d.do(http.StatusNoContent, "POST", "/v1/topologies/flow/disable", nil, nil)
	d.until("nor that, when it is disabled", answers(newer, 404))
	d.until("nor the name", answers(byName+"/run-by-name", 404))
	if resp, text := d.sdk("", "GET", "/status", ""); resp.StatusCode != 200 || text != `{"database":true,"metrics":true}` {
		t.Errorf("status: %d %s", resp.StatusCode, text)
	}
}

// A webhook starts what it was subscribed for, for whom it was, as long as it is.
func TestOrchestyWebhooks(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.serve(pass)
	d.enable("flow", flow)
	key := d.key(ours, auth.Worker)
	token := strings.Repeat("4c84ee1bb6", 5)
	document := func(fields string) {
		t.Helper()
		if resp, text := d.sdk(key, "POST", "/document/Webhook", fields); resp.StatusCode != 200 {
			t.Fatalf("%d %s", resp.StatusCode, text)
		}
	}
	document(`{"name":"order.created","user":"joe","token":"` + token + `","node":"in","topology":"flow","application":"crm"}`)
	paths := []string{"/topologies/flow/nodes/in/token/" + token + "/run", "/webhook/topologies/flow/nodes/in/token/" + token}
	for _, path := range paths {
		id := d.starts("", path, `{"user":"mallory"}`, "user", "mallory", "Sluice-Header-User", "mallory", "Sluice-Header-Limiter-Key", "x", "X-Github-Event", "push")
		d.becomes(id, "done")
		if h := d.headersOf(id); h["user"] != "joe" || h["limiter-key"] != "" || h["x-github-event"] != "push" {
			t.Errorf("headers %v", h)
		}
		if resp, _ := d.sdk("", "GET", path, ""); resp.StatusCode != 405 {
			t.Errorf("GET: %d", resp.StatusCode)
		}
	}
	for _, path := range []string{
		strings.Replace(paths[0], token, token[1:], 1), strings.Replace(paths[0], "flow", "other", 1), strings.Replace(paths[1], "/in/", "/work/", 1),
		strings.Replace(paths[1], token, strings.Repeat("x", 600), 1), strings.Replace(paths[1], token, "%ff", 1), strings.Replace(paths[1], token, "%00", 1),
	} {
		if resp, text := d.sdk("", "POST", path, "{}"); resp.StatusCode != 404 && resp.StatusCode != 400 {
			t.Errorf("%.100s: %d %s", path, resp.StatusCode, text)
		}
	}
	_, found := d.sdk(key, "GET", "/document/Webhook?filter={%22users%22:[%22joe%22]}", "")
	var docs []struct {
		ID string `json:"_id"`
	}
	ok(t, json.Unmarshal([]byte(found), &docs))
	answers := func(status int) func() bool {
		return func() bool { resp, _ := d.sdk("", "POST", paths[1], "{}"); return resp.StatusCode == status }
	}
	document(fmt.Sprintf(`{"_id":%q,"unsubscribeFailed":true}`, docs[0].ID))
	d.until("one that its application keeps is refused", answers(404))
	document(fmt.Sprintf(`{"_id":%q,"unsubscribeFailed":false}`, docs[0].ID))
	d.until("it is back", answers(200))
	d.do(http.StatusNoContent, "POST", "/v1/topologies/flow/disable", nil, nil)
	d.until("disabled is disabled", answers(404))
	d.do(http.StatusOK, "POST", "/v1/topologies/flow/enable", "{}", nil)
	d.until("it is back", answers(200))
	if resp, text := d.sdk(key, "DELETE", "/document/Webhook?filter={%22ids%22:[%22"+docs[0].ID+"%22]}", ""); resp.StatusCode != 200 {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	d.until("unsubscribed is unsubscribed", answers(404))

	// Those who guess neither get in nor keep others from it.
	document(`{"name":"order.created","user":"joe","token":"` + token + `","node":"in","topology":"flow","application":"crm"}`)
	var wait sync.WaitGroup
	for n := range 200 {
		wait.Go(func() {
			if resp, _ := d.sdk("", "POST", fmt.Sprintf("/webhook/topologies/flow/nodes/in/token/%d", n), "{}"); resp.StatusCode != 404 {
				t.Errorf("guess %d: %d", n, resp.StatusCode)
			}
		})
	}
	d.until("the webhook goes on", answers(200))
	wait.Wait()
}

// What workers report is answered at once and kept, but for what is told twice; and nothing that they say is a trouble.
func TestReports(t *testing.T) {
	t.Parallel()
	d, book := openWithReports(t)
	key := d.key(ours, auth.Worker)
	const process = "0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60"
	call := func(status int, url string) string {
		return fmt.Sprintf(`{"fields":{"created":"2026-11-22T15:11:58.243Z","sent_request_total_duration":20,"response_code":%d},"tags":{"user_id":"0","node_id":"64199a06345bee59440cfc35","application_id":"crm","correlation_id":"%s","url":"%s"}}`, status, process, url)
	}
	const done = `{"message":{"status":"OK","data":""}}`
	for _, c := range []struct {
		path, body string
		status     int
		answer     string
	}{
		{"/metrics/monolith", `{"fields":{"created":"2026-11-22T15:11:58.243Z","fpm_request_total_duration":20,"fpm_cpu_user_time":0,"fpm_cpu_kernel_time":0},"tags":{}}`, 200, done},
		{"/metrics/connectors", call(200, "https://joe:pass@api.example.com:8443/v1/orders/0123456789abcdef0123456789?token=secret#x"), 200, done},
		{"/metrics/connectors", call(503, "https://api.example.com/v1/b"), 200, done},
		{"/metrics/connectors", call(500, "https://api.example.com/v1/b"), 200, done}, // of the same call
		{"/metrics/connectors", call(500, "https://api.example.com/v1/c"), 200, done},
		{"/metrics/connectors", `{"fields":{"response_code":1e99,"sent_request_total_duration":-1},"tags":{"url":"\u0000\ud800","node_id":{},"correlation_id":7}}`, 200, done},
		{"/metrics/connectors", `{"fields":null}`, 200, done},
		{"/metrics/connectors", "", 400, ""}, {"/metrics/connectors", "x", 400, ""}, {"/metrics/connectors", `{"fields":[]}`, 400, ""}, {"/metrics/monolith", "[]", 400, ""},
		{"/metrics/other", "{}", 404, ""},
		{"/logger/logs", `{"message":"Hello UI","service":"sdk","timestamp":1795360000000,"levelName":"info","isForUi":true,"nodeId":"64199a06345bee59440cfc35","correlationId":"` + process + `"}`, 200, done},
		{"/logger/logs", `{"message":"` + strings.Repeat("ž", 50_000) + `","service":"sdk","timestamp":1,"stacktrace":{"message":"why","trace":"at line 1"}}`, 200, done},
		{"/logger/logs", `{"message":"x"}`, 400, ""}, {"/logger/logs", "null", 400, ""}, {"/logger/logs", strings.Repeat(" ", 300<<10), 413, ""},
	} {
		resp, text := d.sdk(key, "POST", c.path, c.body)
		if resp.StatusCode != c.status || c.answer != "" && text != c.answer {
			t.Errorf("%s %.80s: %d %s", c.path, c.body, resp.StatusCode, text)
		}
	}
	for _, path := range []string{"/metrics/connectors", "/logger/logs"} {
		for k, status := range map[string]int{"": 401, d.ingest: 403} {
			if resp, _ := d.sdk(k, "POST", path, "{}"); resp.StatusCode != status {
				t.Errorf("%s with another key: %d", path, resp.StatusCode)
			}
		}
	}
	rows := func(sql string) (all []string) {
		t.Helper()
		r, err := d.pool.Query(t.Context(), sql)
		ok(t, err)
		defer r.Close()
		for r.Next() {
			var line string
			ok(t, r.Scan(&line))
			all = append(all, line)
		}
		ok(t, r.Err())
		return all
	}
	const calls = `select concat_ws(' ', tenant_id, process_id, node_id, '[' || user_name || ']', application, url, status, duration_ms) from sluice.reported_call where process_id is not null order by status, url`
	want := []string{
		"1 " + process + " 64199a06345bee59440cfc35 [] crm https://api.example.com:8443/v1/orders/… 200 20",
		"1 " + process + " 64199a06345bee59440cfc35 [] crm https://api.example.com/v1/c 500 20",
		"1 " + process + " 64199a06345bee59440cfc35 [] crm https://api.example.com/v1/b 503 20",
	}
	d.until("all is written", func() bool { return len(rows(`select 'x' from sluice.reported_line`)) == 2 && len(rows(calls)) == 3 })
	if got := rows(calls); !slices.Equal(got, want) {
		t.Errorf("calls\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if n := len(rows(`select 'x' from sluice.reported_call where process_id is null`)); n != 2 {
		t.Errorf("%d calls of no process", n)
	}
	lines := rows(`select concat_ws(' ', process_id, node_id, level, left(message, 10), length(message), trace) from sluice.reported_line order by length(message)`)
	if want := []string{process + " 64199a06345bee59440cfc35 info Hello UI 8 ", "  žžžžžžžžžž 1000 at line 1"}; !slices.Equal(lines, want) {
		t.Errorf("lines %q, want %q", lines, want)
	}
	if book.Lost() != 0 {
		t.Errorf("%d lost", book.Lost())
	}
}
