package gateway_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"sluice/gateway/auth"
)

// operation is an operation of the contract.
type operation struct {
	id, method, path string
	scope            string // "": public, any: whoever has a key
	document         map[string]any
}

// operations returns those of the contract that the door itself gives out, by their ids.
func (d *door) operations() map[string]operation {
	d.t.Helper()
	var doc struct {
		Paths map[string]map[string]map[string]any
	}
	d.do(http.StatusOK, "GET", "/openapi.json", nil, &doc)
	all := map[string]operation{}
	for path, item := range doc.Paths {
		for method, op := range item {
			o := operation{id: op["operationId"].(string), method: strings.ToUpper(method), path: path, document: op}
			if security, _ := op["security"].([]any); len(security) > 0 {
				o.scope = "any"
				if scopes := security[0].(map[string]any)["apiKey"].([]any); len(scopes) > 0 {
					o.scope = scopes[0].(string)
				}
			}
			all[o.id] = o
		}
	}
	if len(all) < 30 {
		d.t.Fatalf("only %d operations", len(all))
	}
	return all
}

// example is a request that is right in every way. In the order of examples, as the administrator of the tenant that has
// all these things, each is answered with success.
type example struct {
	op, query, body string
	param           map[string]string // beside those of all
	foreign         int               // what another tenant is answered; 0: 404 if the path names something, else 200 and nothing
	refused         int               // what a key is answered, where only an operator in a session will do
}

// world is a tenant that has one of each thing.
type world struct {
	params  map[string]string
	entries []string // in the trash
	link    string   // of the operator ann
}

func (w world) examples() []example {
	ids := func(entry string) string { return `{"message_ids":["` + entry + `"],"reason":"test"}` }
	crm, inside := map[string]string{"application": "crm"}, map[string]string{"worker": "inside"}
	const held = `{"id":"0199f3c1-6a52-7d10-8f2e-3b1c9a4e5d60","token":"7c9e6679-7425-40de-944b-e07fc1f90ae7"`
	return []example{
		{op: "get-health"},
		{op: "get-readiness"},
		{op: "get-overview", foreign: 200}, // its own
		{op: "get-metrics", foreign: 200},  // its own
		{op: "watch-changes", query: "seconds=0", foreign: 200},
		{op: "get-topology-heatmap"},
		{op: "get-application-heatmap"},
		{op: "get-topology-live"},
		{op: "list-topologies"},
		{op: "get-topology"},
		{op: "list-versions"},
		{op: "get-version"},
		{op: "get-edges"},
		{op: "get-version-edges"},
		{op: "diff-topology", query: "from=1&to=draft"},
		{op: "validate-topology", body: flow, foreign: 422}, // it names a worker that the other does not have
		{op: "import-topology", query: "name=moved&worker=there%3Dshop", body: `<process><startEvent id="a" name="in"/><task id="b" name="b" pipes:sdkHostName="there"/><sequenceFlow sourceRef="a" targetRef="b"/></process>`},
		{op: "list-processes"},
		{op: "get-process"},
		{op: "get-trace", query: "entity=order:ABC-123"},
		{op: "export-trace", query: "entity=order:ABC-123", foreign: 200}, // its own
		{op: "list-trace-keys", foreign: 200},                             // its own
		{op: "list-messages"},
		{op: "replay-process", body: `{"reason":"test"}`},
		{op: "replay-message"},
		{op: "preview-replays", body: `{"filter":{"topology":"none"}}`, foreign: 200},            // its own
		{op: "replay-processes", body: `{"filter":{"topology":"none"},"key":"k"}`, foreign: 200}, // its own
		{op: "get-timeline"},
		{op: "get-message"},
		{op: "get-message-body"},
		{op: "list-trash"},
		{op: "list-trash-groups"},
		{op: "get-trash"},
		{op: "edit-trash-body", body: "edited"},
		{op: "assign-trash", body: strings.TrimSuffix(ids(w.entries[0]), "}") + `,"to":"ann"}`, foreign: 409},
		{op: "comment-trash", body: `{"text":"odd"}`},
		{op: "discard-trash-edit"},
		{op: "get-trash-retention", foreign: 200},
		{op: "set-trash-retention", body: `{"rejected_days":0,"resolved_days":0}`, foreign: 200}, // its own
		{op: "list-trash-bulks"},
		{op: "preview-trash-bulk", body: `{"action":"reject","reason":"test","filter":{"node":"none"}}`, foreign: 201}, // its own
		{op: "get-trash-bulk"},
		{op: "list-trash-bulk-failures"},
		{op: "start-trash-bulk"},
		{op: "pause-trash-bulk"},
		{op: "resume-trash-bulk"},
		{op: "cancel-trash-bulk"},
		{op: "approve-trash", body: ids(w.entries[0]), foreign: 409}, // it names them in its body, not in its path
		{op: "reject-trash", body: ids(w.entries[1]), foreign: 409},
		{op: "terminate-process", body: `{"reason":"test"}`, param: map[string]string{"correlation_id": w.entries[2][:36]}},
		{op: "list-limits"},
		{op: "get-limit"},
		{op: "pause-application"},
		{op: "resume-application"},
		{op: "raise-limit", body: `{"factor":2}`},
		{op: "set-limit-user", body: `{"weight":2}`},
		{op: "get-limit-user"},
		{op: "list-limit-users"},
		{op: "count-held", body: `{}`},
		{op: "terminate-held", body: `{"up_to":1}`},
		{op: "remove-limit-user"},
		{op: "remove-limit"},
		{op: "set-limit", body: `{"user":{"amount":50,"per_seconds":1}}`, foreign: 200}, // its own
		{op: "list-applications", query: "user=acme"},
		{op: "get-application", param: crm},
		{op: "install-application", param: crm},
		{op: "get-user-application", param: crm},
		{op: "set-application", param: crm, body: `{"forms":{"authorization_form":{"user":"joe"}}}`},
		{op: "set-application-password", param: crm, body: `{"form":"authorization_form","field":"password","password":"x"}`},
		{op: "enable-application", param: crm},
		{op: "disable-application", param: crm},
		{op: "do-application", param: map[string]string{"application": "crm", "action": "ping"}, body: `{"a":1}`},
		{op: "authorize-application", param: map[string]string{"application": "cloud"}},
		{op: "subscribe-webhook", param: crm, body: `{"event":"order.created","topology":"flow"}`},
		{op: "unsubscribe-webhooks", param: crm, body: `{"topology":"flow"}`},
		{op: "uninstall-application", param: crm},
		{op: "list-workers"},
		{op: "add-worker", body: `{"name":"another","url":"http://127.0.0.1:9"}`, foreign: 201}, // its own
		{op: "get-worker"},
		{op: "refresh-worker"},
		{op: "test-worker", body: `{"action":"work","body":{}}`},
		{op: "claim-calls", param: inside, body: `{"max":2}`},
		{op: "beat-calls", param: inside, body: `{"calls":[` + held + `}]}`},
		{op: "answer-calls", param: inside, body: `{"results":[` + held + `,"body":""}]}`},
		{op: "move-worker", body: `{"url":"http://127.0.0.1:9"}`},
		{op: "set-worker-credentials", body: `{"bearer_token":"t"}`},
		{op: "list-keys"},
		{op: "create-key", body: `{"name":"another","scopes":["ingest"]}`, foreign: 201}, // its own
		{op: "revoke-key"},
		{op: "sign-in", body: `{"name":"ann","password":"` + annsPassword + `"}`},
		{op: "sign-in-by-link", body: `{"token":"` + w.link + `"}`},
		{op: "get-session", foreign: 200},
		{op: "set-password", body: `{"password":"` + annsPassword + `"}`, foreign: 409, refused: 409},
		{op: "sign-out", foreign: 204},
		{op: "sign-out-everywhere", foreign: 204},
		{op: "list-operators"},
		{op: "add-operator", body: `{"name":"another","scopes":["operate"]}`, foreign: 201}, // its own
		{op: "make-operator-link"},
		{op: "disable-operator"},
		{op: "enable-operator"},
		{op: "start-process", body: "x"},
		{op: "start-process-of-version", body: "x"},
		{op: "start-processes", body: `{"body":1}`},
		{op: "start-processes-of-version", body: `{"body":1}`},
		{op: "apply-topology", body: flow, foreign: 422}, // it would be its own, with a worker that it does not have
		{op: "publish-topology"},
		{op: "enable-topology", body: `{}`},
		{op: "rollback-topology"},
		{op: "disable-topology"},
		{op: "delete-version", query: "messages=trash"},
		{op: "delete-topology", query: "messages=drain"},
		{op: "remove-worker"},
	}
}

// ask makes the example's request.
func (d *door) ask(key string, w world, o operation, e example) (reply, []byte) {
	d.t.Helper()
	path := o.path
	for _, params := range []map[string]string{e.param, w.params} {
		for name, value := range params {
			path = strings.ReplaceAll(path, "{"+name+"}", value)
		}
	}
	if strings.Contains(path, "{") {
		d.t.Fatalf("%s: nothing is known to put into %s", o.id, path)
	}
	if e.query != "" {
		path += "?" + e.query
	}
	var headers []string
	if strings.HasPrefix(e.body, "{") && !strings.Contains(o.id, "start-") {
		headers = []string{"Content-Type", "application/json"}
	}
	return d.send(key, o.method, path, []byte(e.body), headers...)
}

// newWorld makes a tenant's things, and some that failed.
func (d *door) newWorld() world {
	d.t.Helper()
	d.serve(failing)
	d.do(http.StatusCreated, "POST", "/v1/workers", map[string]any{"name": "inside", "pull": true}, nil)
	d.enable("flow", flow)
	d.do(http.StatusOK, "PUT", "/v1/topologies/flow/draft", flow+"\n  more: {kind: start, followers: [work]}\n", nil)
	var key struct{ ID int64 }
	d.do(http.StatusCreated, "POST", "/v1/keys", map[string]any{"name": "spare", "scopes": []string{"ingest"}}, &key)
	var w world
	for range 3 {
		a := d.post(inbox, []byte("fail"))
		d.becomes(a.CorrelationID, "failed")
		w.entries = append(w.entries, d.messages(a.CorrelationID)[0].MessageID)
	}
	d.do(http.StatusOK, "PUT", "/v1/limits/shop", map[string]any{"total": map[string]any{"amount": 50, "per_seconds": 1}}, nil)
	d.do(http.StatusOK, "PUT", "/v1/limits/shop/users/acme", map[string]any{"weight": 3}, nil)
	d.addApplications("legacy")
	var bulk struct{ ID int64 }
	d.do(http.StatusCreated, "POST", "/v1/trash/bulks", map[string]any{"action": "approve"}, &bulk)
	ann := d.operator("ann", "operate")
	w.link = d.link(ann)
	w.params = map[string]string{
		"operator_id": fmt.Sprint(ann),
		"bulk_id":     fmt.Sprint(bulk.ID),
		"application": "shop", "user": "acme",
		"topology": "flow", "version": "1", "node": "in", "worker": "demo", "key_id": fmt.Sprint(key.ID),
		"correlation_id": w.entries[0][:36], "message_id": w.entries[0],
	}
	return w
}

// Every operation of the contract, whatever is added to it, asks for a key with its scope, shows nobody what another
// tenant has, and works for the one whose things they are.
func TestEveryOperationKeepsItsDoor(t *testing.T) {
	t.Parallel()
	d := open(t)
	w := d.newWorld()
	all := d.operations()
	tried := map[string]bool{}
	pull := d.key(ours, auth.Pull)
	smaller := map[string][]string{"ingest": nil, "operate": {d.ingest, pull}, "admin": {d.ingest, d.operate, pull}, "pull": {d.ingest, d.operate}}
	before := d.rows(ours)
	for _, e := range w.examples() {
		o := all[e.op]
		tried[e.op] = true
		if o.scope == "" {
			if o.path != "/healthz" && o.path != "/readyz" && o.path != "/v1/session" && o.path != "/v1/session/link" {
				t.Errorf("%s asks for no key", o.id)
			}
			continue
		}
		for _, key := range []string{"", "x", "sluice_x", d.admin[:len(d.admin)-1] + "0"} {
			resp, _ := d.ask(key, w, o, e)
			if resp.StatusCode != 401 || resp.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s with the key %.10q: %d", o.id, key, resp.StatusCode)
			}
		}
		for _, key := range smaller[o.scope] {
			if resp, body := d.ask(key, w, o, e); resp.StatusCode != 403 || !strings.Contains(string(body), o.scope) {
				t.Errorf("%s, which asks for %s, with less: %d %s", o.id, o.scope, resp.StatusCode, body)
			}
		}
		resp, body := d.ask(d.other, w, o, e)
		want := e.foreign
		switch {
		case want != 0:
		case strings.Contains(o.path, "{"):
			want = 404
		default:
			want = 200
			var list struct{ Items []map[string]any }
			ok(t, json.Unmarshal(body, &list))
			for _, item := range list.Items {
				if name := item["name"]; name != "another" && name != "admin" { // its own
					t.Errorf("%s shows another tenant %v", o.id, item)
				}
			}
		}
		if resp.StatusCode != want {
			t.Errorf("%s for another tenant: %d, want %d: %s", o.id, resp.StatusCode, want, body)
		}
	}
	for id := range all {
		if !tried[id] {
			t.Errorf("%s has no example here", id)
		}
	}
	if after := d.rows(ours); !maps.Equal(before, after) {
		t.Errorf("rows before %v, after %v", before, after)
	}
	for _, e := range w.examples() {
		if resp, body := d.ask(d.admin, w, all[e.op], e); resp.StatusCode/100 != 2 && resp.StatusCode != e.refused {
			t.Errorf("%s for who may: %d %s", e.op, resp.StatusCode, body)
		}
	}
}

// rows counts a tenant's rows.
func (d *door) rows(tenant int64) map[string]int {
	d.t.Helper()
	counts := map[string]int{}
	for _, table := range []string{"topology", "topology_version", "edge", "worker", "api_key", "operator", "session", "audit", "process", "message", "trash", "decision", "limiter_limit", "limiter_override"} {
		var n int
		ok(d.t, d.pool.QueryRow(d.t.Context(), `select count(*) from sluice.`+table+` where tenant_id = $1`, tenant).Scan(&n))
		counts[table] = n
	}
	return counts
}

// A key that is revoked is refused within a second, by a door that has just let it in.
func TestRevokedKey(t *testing.T) {
	t.Parallel()
	d := open(t)
	var made struct {
		ID        int64
		Key, Name string
		PublicID  string `json:"public_id"`
		Scopes    []string
	}
	d.do(http.StatusCreated, "POST", "/v1/keys", map[string]any{"name": "shop", "scopes": []string{"operate", "ingest"}}, &made)
	if !strings.HasPrefix(made.Key, "sluice_"+made.PublicID+"_") || made.Name != "shop" || !slices.Equal(made.Scopes, []string{"operate", "ingest"}) {
		t.Errorf("made %+v", made)
	}
	if resp, _ := d.send(made.Key, "GET", "/v1/topologies", nil); resp.StatusCode != 200 {
		t.Fatalf("a new key: %d", resp.StatusCode)
	}
	d.do(http.StatusNoContent, "DELETE", fmt.Sprint("/v1/keys/", made.ID), nil, nil)
	d.until("the key is refused", func() bool {
		resp, _ := d.send(made.Key, "GET", "/v1/topologies", nil)
		return resp.StatusCode == 401
	})
	d.do(http.StatusNoContent, "DELETE", fmt.Sprint("/v1/keys/", made.ID), nil, nil)
	resp, body := d.send(d.admin, "GET", "/v1/keys?limit=500", nil)
	if resp.StatusCode != 200 || strings.Contains(string(body), made.Key) || !strings.Contains(string(body), `"revoked_at"`) {
		t.Errorf("keys: %s", body)
	}
	var first, second page[struct{ ID int64 }]
	d.do(http.StatusOK, "GET", "/v1/keys?limit=3", nil, &first)
	d.do(http.StatusOK, "GET", "/v1/keys?limit=3&after="+first.Next, nil, &second)
	if len(first.Items) != 3 || len(second.Items) != 1 || second.Next != "" || second.Items[0].ID != made.ID {
		t.Errorf("pages %+v, %+v", first, second)
	}
}
