package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

const annsPassword = "correct horse battery"

// operator adds an operator with a password and returns the id.
func (d *door) operator(name, scope string) int64 {
	d.t.Helper()
	var added struct {
		ID   int64
		Link struct{ Token string }
	}
	d.do(http.StatusCreated, "POST", "/v1/operators", map[string]any{"name": name, "scopes": []string{scope}}, &added)
	b := d.browser()
	b.enter("/link", map[string]string{"token": added.Link.Token}, http.StatusOK)
	b.do(http.StatusNoContent, "PUT", "/v1/session/password", map[string]string{"password": annsPassword})
	b.do(http.StatusNoContent, "DELETE", "/v1/session", nil)
	return added.ID
}

// link returns the token of a new link for an operator.
func (d *door) link(operator int64) string {
	d.t.Helper()
	var link struct{ Token string }
	d.do(http.StatusCreated, "POST", fmt.Sprintf("/v1/operators/%d/link", operator), nil, &link)
	return link.Token
}

// browser is one, with a page of ours. It sends what browsers send.
type browser struct {
	*door
	site   string // that the page is from, as Sec-Fetch-Site says it
	origin string
	cookie *http.Cookie
}

func (d *door) browser() *browser { return &browser{door: d, site: "same-origin", origin: d.url} }

func (b *browser) send(method, path string, body any) (reply, []byte) {
	b.t.Helper()
	var content []byte
	headers := []string{"Sec-Fetch-Site", b.site, "Origin", b.origin}
	if text, ok := body.(string); ok {
		content = []byte(text)
	} else if body != nil {
		content, _ = json.Marshal(body)
		headers = append(headers, "Content-Type", "application/json")
	}
	if b.cookie != nil {
		headers = append(headers, "Cookie", b.cookie.Name+"="+b.cookie.Value)
	}
	return b.door.send("", method, path, content, headers...)
}

func (b *browser) do(want int, method, path string, body any) []byte {
	b.t.Helper()
	resp, got := b.send(method, path, body)
	if resp.StatusCode != want {
		b.t.Errorf("%s %s: %d, want %d: %s", method, path, resp.StatusCode, want, got)
	}
	return got
}

// enter signs in, and keeps the cookie.
func (b *browser) enter(path string, body any, want int) reply {
	b.t.Helper()
	resp, got := b.send("POST", "/v1/session"+path, body)
	if resp.StatusCode != want {
		b.t.Fatalf("sign in: %d, want %d: %s", resp.StatusCode, want, got)
	}
	for _, line := range resp.Header.Values("Set-Cookie") {
		c, err := http.ParseSetCookie(line)
		ok(b.t, err)
		b.cookie = c
	}
	return resp
}

func (b *browser) signIn(name string) *browser {
	b.t.Helper()
	b.enter("", map[string]string{"name": name, "password": annsPassword}, http.StatusOK)
	return b
}

// Whoever signs in may do what an API key of their scopes may, under their own name.
func TestOperatorsActInSessions(t *testing.T) {
	t.Parallel()
	d := open(t)
	w := d.newWorld()
	d.operator("root", "admin")
	ann, root := d.browser().signIn("ann"), d.browser().signIn("root")
	if c := ann.cookie; !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Secure || c.Name != "sluice" || c.Domain != "" || c.MaxAge != 12*60*60 {
		t.Errorf("%+v", c)
	}
	encrypted := d.browser()
	encrypted.origin = strings.Replace(d.url, "http:", "https:", 1)
	if c := encrypted.signIn("ann").cookie; c.Name != "__Host-sluice" || !c.Secure || !c.HttpOnly {
		t.Errorf("%+v", c)
	}
	encrypted.do(http.StatusOK, "GET", "/v1/topologies", nil)

	var me struct {
		Kind, Name, Tenant string
		Scopes             []string
		HasPassword        bool   `json:"has_password"`
		ExpiresAt          string `json:"expires_at"`
	}
	ok(t, json.Unmarshal(ann.do(http.StatusOK, "GET", "/v1/session", nil), &me))
	if me.Kind != "operator" || me.Name != "ann" || me.Tenant != "default" || !slices.Equal(me.Scopes, []string{"operate"}) || !me.HasPassword || me.ExpiresAt == "" {
		t.Errorf("%+v", me)
	}
	all := d.operations()
	for _, e := range w.examples() {
		o := all[e.op]
		if o.method != "GET" || o.scope == "" {
			continue
		}
		path := o.path
		for name, value := range w.params {
			path = strings.ReplaceAll(path, "{"+name+"}", value)
		}
		if e.param != nil || strings.Contains(path, "{") {
			continue
		}
		want := http.StatusOK
		if o.scope == "admin" {
			want = http.StatusForbidden
		}
		ann.do(want, "GET", path+"?"+e.query, nil)
		root.do(http.StatusOK, "GET", path+"?"+e.query, nil)
	}
	ann.do(http.StatusAccepted, "POST", inbox, "by hand")
	ann.do(http.StatusForbidden, "POST", "/v1/keys", map[string]any{"name": "mine", "scopes": []string{"admin"}})
	root.do(http.StatusCreated, "POST", "/v1/keys", map[string]any{"name": "ours", "scopes": []string{"ingest"}})
	var actor string
	ok(t, d.pool.QueryRow(t.Context(), `select actor from sluice.audit where action = 'create-key' order by id desc limit 1`).Scan(&actor))
	if actor != "root" {
		t.Errorf("written down as %q", actor)
	}
	// A key counts, whatever the cookie; the SDK's routes know no cookies.
	if resp, _ := d.send(d.ingest, "GET", "/v1/topologies", nil, "Cookie", "sluice="+root.cookie.Value); resp.StatusCode != http.StatusForbidden {
		t.Errorf("a key beside a cookie: %d", resp.StatusCode)
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", d.url+"/document/Node", nil)
	ok(t, err)
	req.AddCookie(root.cookie)
	resp, err := http.DefaultTransport.RoundTrip(req) // the contract is not about these routes
	ok(t, err)
	ok(t, resp.Body.Close())
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a cookie at a route of the SDK's: %d", resp.StatusCode)
	}
}

// What a page from elsewhere makes a browser send is refused, where it could change something.
func TestPagesFromElsewhere(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.newWorld()
	ann := d.browser().signIn("ann")
	for _, elsewhere := range []browser{
		{d, "cross-site", "https://evil.example", ann.cookie},
		{d, "same-site", "http://neighbour.example", ann.cookie},
		{d, "", "https://evil.example", ann.cookie}, // a browser that does not say
	} {
		elsewhere.do(http.StatusForbidden, "DELETE", "/v1/session", nil)
		elsewhere.do(http.StatusForbidden, "POST", inbox, "x")                                                           // ours
		elsewhere.do(http.StatusForbidden, "POST", "/v1/trash/bulks", map[string]any{"action": "reject", "reason": "x"}) // huma's
		elsewhere.do(http.StatusForbidden, "POST", "/v1/session", map[string]string{"name": "ann", "password": annsPassword})
		elsewhere.do(http.StatusForbidden, "POST", "/v1/session/link", map[string]string{"token": "x"})
	}
	ann.do(http.StatusOK, "GET", "/v1/session", nil)
	ann.do(http.StatusAccepted, "POST", inbox, "x")
	if resp, _ := d.send(d.ingest, "POST", inbox, []byte("x"), "Sec-Fetch-Site", "cross-site", "Origin", "https://shop.example"); resp.StatusCode != http.StatusAccepted {
		t.Errorf("a key from a page of a customer: %d", resp.StatusCode)
	}
}

// Sessions end where they are ended, and links are used once.
func TestSessionsEnd(t *testing.T) {
	t.Parallel()
	d := open(t)
	ann := d.operator("ann", "admin")
	first, second, third := d.browser().signIn("ann"), d.browser().signIn("ann"), d.browser().signIn("ann")
	gone := func(b *browser) { t.Helper(); b.do(http.StatusUnauthorized, "GET", "/v1/topologies", nil) }
	before := *first
	first.signIn("ann")
	gone(&before) // its cookie was replaced
	resp, _ := first.send("DELETE", "/v1/session", nil)
	if cookies := resp.Header.Values("Set-Cookie"); resp.StatusCode != http.StatusNoContent || len(cookies) != 2 || !strings.Contains(cookies[0], "Max-Age=0") {
		t.Errorf("%d %q", resp.StatusCode, cookies)
	}
	gone(first)
	second.do(http.StatusForbidden, "PUT", "/v1/session/password", map[string]string{"password": "another horse battery", "current": "wrong"})
	second.do(http.StatusNoContent, "PUT", "/v1/session/password", map[string]string{"password": annsPassword, "current": annsPassword})
	gone(third)
	third.signIn("ann")
	third.do(http.StatusNoContent, "DELETE", "/v1/sessions", nil)
	gone(second)
	gone(third)

	token := d.link(ann)
	var entered atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if resp, _ := d.browser().send("POST", "/v1/session/link", map[string]string{"token": token}); resp.StatusCode == http.StatusOK {
				entered.Add(1)
			} else if resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("a used link: %d", resp.StatusCode)
			}
		})
	}
	all.Wait()
	if n := entered.Load(); n != 1 {
		t.Errorf("%d entered by one link", n)
	}

	first.signIn("ann")
	d.do(http.StatusConflict, "DELETE", fmt.Sprint("/v1/operators/", ann), nil, nil) // the last admin
	d.operator("bob", "admin")
	d.do(http.StatusNoContent, "DELETE", fmt.Sprint("/v1/operators/", ann), nil, nil)
	gone(first)
	d.browser().enter("", map[string]string{"name": "ann", "password": annsPassword}, http.StatusUnauthorized)
	d.do(http.StatusNoContent, "POST", fmt.Sprintf("/v1/operators/%d/enable", ann), nil, nil)
	first.signIn("ann")
}

// Whoever guesses is told to wait; who it is that they guess at cannot be told.
func TestGuessesAreBounded(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.operator("ann", "admin")
	said := map[string]bool{}
	for range 10 {
		for _, name := range []string{"ann", "nobody"} {
			_, body := d.browser().send("POST", "/v1/session", map[string]string{"name": name, "password": "wrong horse battery"})
			var p struct{ Detail string }
			ok(t, json.Unmarshal(body, &p))
			said[p.Detail] = true
		}
	}
	if len(said) != 1 {
		t.Errorf("answers differ: %v", said)
	}
	for _, name := range []string{"ann", "nobody"} {
		resp := d.browser().enter("", map[string]string{"name": name, "password": annsPassword}, http.StatusTooManyRequests)
		if resp.Header.Get("Retry-After") == "" {
			t.Error("not told for how long")
		}
	}
}
