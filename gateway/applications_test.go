package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
)

// applicationStub is a worker on Orchesty's SDK with two applications: crm, with settings, and cloud, which is authorized
// by OAuth 2. It says what the recorded one says, and refuses as that does.
type applicationStub struct {
	*httptest.Server
	mu       sync.Mutex
	calls    []string // as they came, callbacks and changes only
	install  map[string]bool
	enabled  map[string]bool
	settings map[string]any
	limits   string     // that it declares, in JSON
	token    url.Values // that the third party gave
	hooked   string     // topology that is told of order.created
	broken   string     // a part of paths that fail
}

const stubForms = `{"authorization_form":{"key":"authorization_form","publicName":"Authorization","description":"How to reach it","readOnly":false,"fields":[
	{"type":"text","key":"user","value":null,"label":"User","description":"","required":true,"readOnly":false,"disabled":false,"choices":[]},
	{"type":"password","key":"password","value":"open sesame","label":"Password","description":"","required":true,"readOnly":false,"disabled":false,"choices":[]},
	{"type":"url","key":"url","value":"http://127.0.0.1:1","label":"URL","description":"","required":false,"readOnly":false,"disabled":false,"choices":[]},
	{"type":"selectbox","key":"env","value":null,"label":"Environment","description":"","required":false,"readOnly":false,"disabled":false,"choices":["prod",{"test":"Test env"}]},
	{"type":"multiselect","key":"lists","value":[],"label":"Lists","description":"","required":false,"readOnly":false,"disabled":false,"choices":["a","b"]},
	{"type":"text","key":"redirect_url","value":"http://x","label":"Redirect","description":"","required":false,"readOnly":true,"disabled":false,"choices":[]}]},
	"a_form":{"key":"a_form","publicName":"Another","description":"","readOnly":false,"fields":[
	{"type":"number","key":"size","value":50,"label":"Size","description":"","required":false,"readOnly":false,"disabled":false,"choices":[]},
	{"type":"checkbox","key":"on","value":false,"label":"On","description":"","required":false,"readOnly":false,"disabled":false,"choices":[]}]}}`

func newApplicationStub(t testing.TB) *applicationStub {
	t.Helper()
	s := &applicationStub{limits: `[]`, install: map[string]bool{}, enabled: map[string]bool{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *applicationStub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	path := r.URL.EscapedPath()
	if r.Method != http.MethodGet || strings.Contains(path, "authorize") {
		s.calls = append(s.calls, strings.TrimSpace(r.Method+" "+path+" "+string(body)))
	}
	if strings.HasSuffix(path, "/authorize") && r.URL.Query().Get("redirect_url") == "" {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"status":"Error","message":"Error occurred: Missing \"redirect_url\" query parameter.undefined"}`))
		return
	}
	if s.broken != "" && strings.Contains(path, s.broken) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"status":"Error","message":"Error occurred: it is broken.Error: it is broken\n    at secret.js:1"}`))
		return
	}
	_, _ = w.Write([]byte(s.answer(r, path, body)))
}

func (s *applicationStub) answer(r *http.Request, path string, body []byte) string {
	const about = `"key":%q,"name":"An app","authorization_type":"basic","application_type":"cron","description":"d","info":"","logo":null,"isInstallable":true`
	parts := strings.Split(strings.Trim(path, "/"), "/")
	whose := strings.Join(parts[1:min(len(parts), 4)], "/")
	shown := fmt.Sprintf(`{`+about+`,"authorized":true,"enabled":%v,"applicationSettings":%s,"webhookSettings":[{"name":"order.created","default":true,"enabled":%v,"topology":%q}],"customActions":[],"syncMethods":["ping"]}`,
		parts[min(1, len(parts)-1)], s.enabled[whose], stubForms, s.hooked != "", s.hooked)
	switch {
	case strings.HasPrefix(path, "/webhook/"):
		var hook struct{ Topology string }
		_ = json.Unmarshal(body, &hook)
		s.hooked = map[bool]string{strings.HasSuffix(path, "/subscribe"): hook.Topology}[true]
		return `[]`
	case strings.HasSuffix(path, "/list"):
		return `[]`
	case path == "/applications":
		return fmt.Sprintf(`{"items":[{`+about+`},{`+about+`}]}`, "crm", "cloud")
	case path == "/applications/limits":
		return s.limits
	case path == "/applications/users/acme":
		if s.install["crm/users/acme"] {
			return fmt.Sprintf(`{"items":[{"id":"1","user":"acme","key":"crm","enabled":%v,"authorized":true,"created":"Invalid DateTime","expires":"2026-11-22T16:13:58.728Z"}]}`, s.enabled["crm/users/acme"])
		}
		return `{"items":[]}`
	case strings.HasSuffix(path, "/install"):
		s.install[whose] = true
	case strings.HasSuffix(path, "/uninstall"):
		s.install[whose] = false
		return `{}`
	case strings.HasSuffix(path, "/changeState"):
		s.enabled[whose] = strings.Contains(string(body), "true")
		return `{}`
	case strings.HasSuffix(path, "/settings"):
		_ = json.Unmarshal(body, &s.settings)
	case strings.Contains(path, "/sync/ping"):
		return `{"pong":` + string(body) + `}`
	case strings.Contains(path, "/sync/"):
		return `{"status":"ok"}`
	case path == "/applications/authorize/token":
		s.token = r.URL.Query()
		return `{"redirectUrl":"https://evil.example.com"}`
	case strings.HasSuffix(path, "/authorize"):
		return `{"authorizeUrl":"https://cloud.example.com/authorize?client_id=cid&code_challenge=abc&state=dXNlci0xOnNhbXBsZS1vYXV0aDI&access_type=offline"}`
	}
	return shown
}

// asked are the calls since it was last asked.
func (s *applicationStub) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls
	s.calls = nil
	return calls
}

func (s *applicationStub) breaks(part string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = part
}

// addApplications registers a worker with applications.
func (d *door) addApplications(name string) *applicationStub {
	d.t.Helper()
	s := newApplicationStub(d.t)
	d.do(http.StatusCreated, "POST", "/v1/workers", map[string]string{"name": name, "url": s.URL, "protocol": "orchesty"}, nil)
	d.do(http.StatusOK, "POST", "/v1/workers/"+name+"/refresh", nil, nil)
	s.asked()
	return s
}

type shownApplication struct {
	Key, Worker, User, Warning string
	Enabled, Authorized        bool
	Forms                      []struct {
		Key    string
		Fields []struct {
			Key, Type string
			Value     json.RawMessage
			Choices   []struct{ Value, Label string }
		}
	}
	Webhooks []struct{ Name string }
	Actions  []string
}

// An application lives as its author expects: each step with its callback, in order, as JSON in ASCII.
func TestApplicationLife(t *testing.T) {
	t.Parallel()
	d := open(t)
	s := d.addApplications("legacy")
	const mine, about = "/v1/applications/crm/users/acme%20%C4%8D", `{"name":"crm","user":"acme \u010d"}`
	const there = "/applications/crm/users/acme%20%C4%8D"
	var shown shownApplication
	d.do(201, "POST", mine, nil, &shown)
	if shown.Key != "crm" || shown.Worker != "legacy" || shown.User != "acme č" || shown.Enabled || len(shown.Webhooks) != 1 {
		t.Errorf("installed: %+v", shown)
	}
	d.do(200, "PUT", mine+"/settings", map[string]any{"forms": map[string]any{
		"authorization_form": map[string]any{"user": "Žofie", "env": "test", "url": "https://x.example.com", "lists": []string{"b"}},
		"a_form":             map[string]any{"size": 7, "on": true},
	}}, nil)
	d.do(200, "PUT", mine+"/password", map[string]string{"form": "authorization_form", "field": "password", "password": "secret"}, &shown)
	d.do(200, "POST", mine+"/enable", nil, &shown)
	if !shown.Enabled {
		t.Errorf("enabled: %+v", shown)
	}
	d.do(200, "POST", mine+"/disable", nil, nil)
	d.do(200, "DELETE", mine, nil, nil)
	want := []string{
		"POST " + there + "/install",
		"POST /applications/crm/sync/afterInstallCallback " + about,
		"PUT " + there + `/settings {"a_form":{"on":true,"size":7},"authorization_form":{"env":"test","lists":["b"],"url":"https://x.example.com","user":"\u017dofie"}}`,
		"PUT " + there + `/password {"fieldKey":"password","formKey":"authorization_form","password":"secret"}`,
		"PUT " + there + `/changeState {"enabled":true}`,
		"POST /applications/crm/sync/afterEnableCallback " + about,
		"PUT " + there + `/changeState {"enabled":false}`,
		"POST /applications/crm/sync/afterDisableCallback " + about,
		"PUT " + there + `/changeState {"enabled":false}`,
		"POST /applications/crm/sync/afterDisableCallback " + about,
		"DELETE " + there + "/uninstall",
		"POST /applications/crm/sync/afterUninstallCallback " + about,
	}
	if got := s.asked(); !slices.Equal(got, want) {
		t.Errorf("asked\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var noted int
	ok(t, d.pool.QueryRow(t.Context(), `select count(*) from sluice.audit where tenant_id = $1 and subject = 'crm of user acme č'`, ours).Scan(&noted))
	if noted != 6 {
		t.Errorf("%d notes of who did what", noted)
	}
}

// What an application is, and what a user has of it, is shown in the order of its author, and no password ever.
func TestApplicationsAreShown(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.addApplications("legacy")
	_, body := d.send(d.admin, "GET", "/v1/applications/crm/users/acme", nil)
	if strings.Contains(string(body), "sesame") {
		t.Errorf("a password is shown: %s", body)
	}
	var shown shownApplication
	ok(t, json.Unmarshal(body, &shown))
	if got := fmt.Sprintln(shown.Forms[0].Key, shown.Forms[1].Key, string(shown.Forms[0].Fields[1].Value), shown.Forms[0].Fields[3].Choices); got != "authorization_form a_form true [{prod prod} {test Test env}]\n" {
		t.Errorf("shown %s", got)
	}
	var listed page[struct {
		Key, Worker string
		Install     *struct {
			Enabled   bool
			ExpiresAt string `json:"expires_at"`
		}
	}]
	d.do(201, "POST", "/v1/applications/crm/users/acme", nil, nil)
	d.do(200, "GET", "/v1/applications?user=acme&limit=1", nil, &listed)
	if len(listed.Items) != 1 || listed.Items[0].Key != "cloud" || listed.Items[0].Install != nil || listed.Next == "" {
		t.Errorf("first page %+v", listed)
	}
	d.do(200, "GET", "/v1/applications?user=acme&limit=1&after="+listed.Next, nil, &listed)
	if len(listed.Items) != 1 || listed.Items[0].Key != "crm" || listed.Items[0].Install == nil || listed.Items[0].Install.ExpiresAt == "" {
		t.Errorf("second page %+v", listed)
	}
	d.addApplications("other")
	d.refused(409, "conflict", "GET", "/v1/applications/crm", "")
	d.do(200, "GET", "/v1/applications/crm?worker=other", nil, &shown)
	if shown.Worker != "other" || !slices.Equal(shown.Actions, []string{"ping"}) {
		t.Errorf("shown %+v", shown)
	}
	var pong map[string]any
	d.do(200, "POST", "/v1/applications/crm/actions/ping?worker=other", `{"a":"č"}`, &pong)
	if fmt.Sprint(pong) != "map[pong:map[a:č]]" {
		t.Errorf("it said %v", pong)
	}
}

// What does not fit a form is refused before anything is saved, and what the worker refuses is told in its own first line.
func TestApplicationRefusals(t *testing.T) {
	t.Parallel()
	d := open(t)
	s := d.addApplications("legacy")
	const mine = "/v1/applications/crm/users/acme"
	for pointer, body := range map[string]string{
		"#/forms/none":                            `{"none":{}}`,
		"#/forms/a_form/none":                     `{"a_form":{"none":1}}`,
		"#/forms/a_form/size":                     `{"a_form":{"size":"7"}}`,
		"#/forms/a_form/on":                       `{"a_form":{"on":1}}`,
		"#/forms/authorization_form/user":         `{"authorization_form":{"user":""}}`,
		"#/forms/authorization_form/password":     `{"authorization_form":{"password":true}}`,
		"#/forms/authorization_form/url":          `{"authorization_form":{"url":"javascript:1"}}`,
		"#/forms/authorization_form/env":          `{"authorization_form":{"env":"Test env"}}`,
		"#/forms/authorization_form/lists":        `{"authorization_form":{"lists":["c"]}}`,
		"#/forms/authorization_form/redirect_url": `{"authorization_form":{"redirect_url":"http://y"}}`,
	} {
		resp, got := d.send(d.admin, "PUT", mine+"/settings", []byte(`{"forms":`+body+`}`), "Content-Type", "application/json")
		if resp.StatusCode != 422 || !strings.Contains(string(got), `"pointer":"`+pointer+`"`) {
			t.Errorf("%s: %d %s", body, resp.StatusCode, got)
		}
	}
	d.refused(422, "validation-failed", "PUT", mine+"/password", `{"form":"a_form","field":"size","password":"x"}`, "Content-Type", "application/json")
	d.refused(422, "validation-failed", "GET", "/v1/applications/crm/users/a%7Cb", "")
	d.refused(404, "not-found", "GET", "/v1/applications/none", "")
	if got := s.asked(); len(got) != 0 {
		t.Errorf("asked %v", got)
	}

	s.breaks("afterInstallCallback")
	var shown shownApplication
	d.do(201, "POST", mine, nil, &shown)
	if shown.Warning != "its afterInstallCallback failed: it is broken." {
		t.Errorf("warning %q", shown.Warning)
	}
	d.mayFail.Store(true) // a worker's refusal is told as 502
	s.breaks("/install")
	resp, body := d.send(d.admin, "POST", mine, nil)
	if resp.StatusCode != 502 || !strings.Contains(string(body), `"worker-failed"`) || !strings.Contains(string(body), "it is broken") || strings.Contains(string(body), "secret.js") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	s.Close()
	d.refused(502, "worker-failed", "POST", mine, "")
}

// Whoever gives consent comes back with a state that was ours, once, and the worker gets its own.
func TestAuthorization(t *testing.T) {
	t.Parallel()
	d := open(t)
	s := d.addApplications("legacy")
	begin := func(key, returnTo string) (state string) {
		t.Helper()
		resp, body := d.send(key, "POST", "/v1/applications/cloud/users/acme/authorize", []byte(`{"return_to":"`+returnTo+`"}`), "Content-Type", "application/json")
		var begun struct{ URL string }
		if resp.StatusCode != 200 {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		ok(t, json.Unmarshal(body, &begun))
		to, err := url.Parse(begun.URL)
		ok(t, err)
		if q := to.Query(); to.Host != "cloud.example.com" || q.Get("client_id") != "cid" || q.Get("code_challenge") != "abc" || len(q.Get("state")) < 43 {
			t.Errorf("the browser goes to %s", begun.URL)
		}
		return to.Query().Get("state")
	}
	back := func(query string) reply {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.url+"/api/applications/authorize/token?"+query, nil)
		ok(t, err)
		resp, err := d.client.Transport.(*witness).next.RoundTrip(r) // it is no operation of the contract, and browsers are sent on
		ok(t, err)
		ok(t, resp.Body.Close())
		return reply{resp.StatusCode, resp.Header}
	}

	state := begin(d.admin, "https://ui.example.com/done?a=1")
	if got := back("code=a%26b&scope=x&state=" + state); got.StatusCode != 302 || got.Header.Get("Location") != "https://ui.example.com/done?a=1" || got.Header.Get("Referrer-Policy") != "no-referrer" {
		t.Errorf("came back: %d %v", got.StatusCode, got.Header)
	}
	if want := "code=a%26b&scope=x&state=dXNlci0xOnNhbXBsZS1vYXV0aDI"; s.token.Encode() != want {
		t.Errorf("the worker was told %s", s.token.Encode())
	}
	s.asked()
	for what, state := range map[string]string{"used": state, "the worker's": "dXNlci0xOnNhbXBsZS1vYXV0aDI", "none": ""} {
		if got := back("code=a&state=" + state); got.StatusCode != 404 {
			t.Errorf("with a state that is %s: %d", what, got.StatusCode)
		}
	}

	first := begin(d.admin, "")
	second := begin(d.admin, "")
	if got := back("code=a&state=" + first); got.StatusCode != 404 {
		t.Errorf("with one that was replaced: %d", got.StatusCode)
	}
	if got := back("code=a&state=" + second); got.StatusCode != 200 {
		t.Errorf("without a page: %d", got.StatusCode)
	}
	if got := back("error=access_denied&state=" + begin(d.admin, "")); got.StatusCode != 409 {
		t.Errorf("without consent: %d", got.StatusCode)
	}

	late := begin(d.admin, "")
	_, err := d.pool.Exec(t.Context(), `update sluice.authorization_open set expires_at = now() where tenant_id = $1`, ours)
	ok(t, err)
	if got := back("code=a&state=" + late); got.StatusCode != 404 {
		t.Errorf("too late: %d", got.StatusCode)
	}

	var key struct {
		ID  int64
		Key string
	}
	d.do(201, "POST", "/v1/keys", map[string]any{"name": "gone", "scopes": []string{"admin"}}, &key)
	orphan := begin(key.Key, "")
	d.do(204, "DELETE", fmt.Sprint("/v1/keys/", key.ID), nil, nil)
	if got := back("code=a&state=" + orphan); got.StatusCode != 404 {
		t.Errorf("begun with a key that was revoked since: %d", got.StatusCode)
	}
	s.asked()

	d.refused(422, "validation-failed", "POST", "/v1/applications/cloud/users/acme/authorize", `{"return_to":"javascript:alert(1)"}`, "Content-Type", "application/json")
	d.refused(422, "validation-failed", "POST", "/v1/applications/cloud/users/acme/authorize", `{"return_to":"https://a:b@x"}`, "Content-Type", "application/json")
	var kept int
	ok(t, d.pool.QueryRow(t.Context(), `select count(*) from sluice.authorization_open where tenant_id = $1`, ours).Scan(&kept))
	if kept != 0 {
		t.Errorf("%d are kept", kept)
	}
}

// What an application declares is held by the limiter, user and group; the last word holds while the worker is silent, what
// was never said lets calls wait, and an operator's limit stands above it all.
func TestDeclaredLimits(t *testing.T) {
	t.Parallel()
	d := open(t)
	s := d.addApplications("legacy")
	says := func(limits string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.limits = limits
	}
	const mine = "/v1/applications/crm/users/acme"
	_, err := d.pool.Exec(t.Context(), `insert into sluice.application_install (tenant_id, id, user_name, application, enabled) values ($1, repeat('a', 24), 'acme', 'crm', true)`, ours)
	ok(t, err)
	type rate struct {
		Amount float64
		Per    float64 `json:"per_seconds"`
	}
	held := func() (shown struct {
		Total    *rate
		PausedBy string `json:"paused_by"`
	}) {
		t.Helper()
		d.do(200, "GET", "/v1/limits/crm", nil, &shown)
		return shown
	}
	heldUser := func() string {
		t.Helper()
		_, body := d.send(d.admin, "GET", "/v1/limits/crm/users/acme", nil)
		return string(body)
	}

	var shown struct {
		Warning string
		Limit   *struct {
			User, Total *rate
			Error       string
			Overruled   bool
		}
	}
	says(`nonsense`)
	d.do(200, "POST", mine+"/enable", nil, &shown)
	if !strings.Contains(shown.Warning, "could not be asked") || held().PausedBy == "" {
		t.Errorf("never said: %+v, held %+v", shown, held())
	}

	says(`["acme|crm;60;10;|crm;60;100","other|crm;1;1"]`)
	d.do(200, "POST", mine+"/enable", nil, nil)
	for _, want := range []string{"said", "silent"} {
		if l := held(); l.PausedBy != "" || l.Total == nil || *l.Total != (rate{100, 60}) {
			t.Errorf("%s: %+v", want, l)
		}
		if got := heldUser(); !strings.Contains(got, `"amount":10,"per_seconds":60`) {
			t.Errorf("%s: the user's is %s", want, got)
		}
		says(`{}`)
		d.do(200, "POST", mine+"/enable", nil, nil)
	}
	d.do(200, "GET", mine, nil, &shown)
	if shown.Limit == nil || *shown.Limit.User != (rate{10, 60}) || shown.Limit.Error == "" || shown.Limit.Overruled {
		t.Errorf("shown %+v", shown.Limit)
	}

	d.do(200, "PUT", "/v1/limits/crm", map[string]any{"total": map[string]any{"amount": 5, "per_seconds": 1}}, nil)
	says(`["|crm;60;7"]`)
	d.do(200, "POST", mine+"/enable", nil, nil)
	if l := held(); l.Total == nil || *l.Total != (rate{5, 1}) {
		t.Errorf("an operator's: %+v", l)
	}
	d.do(200, "GET", mine, nil, &shown)
	if !shown.Limit.Overruled {
		t.Errorf("shown %+v", shown.Limit)
	}
	d.do(204, "DELETE", "/v1/limits/crm", nil, nil)
	d.do(200, "POST", mine+"/enable", nil, nil)
	if l := held(); l.Total == nil || *l.Total != (rate{7, 60}) {
		t.Errorf("when the operator's is gone: %+v", l)
	}
	_, err = d.pool.Exec(t.Context(), `update sluice.application_install set enabled = false where tenant_id = $1`, ours)
	ok(t, err)
	d.do(200, "POST", mine+"/disable", nil, nil)
	d.refused(404, "not-found", "GET", "/v1/limits/crm", "")
}
