package gateway_test

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sluice/gateway"
	"sluice/gateway/auth"
	"sluice/queue/vault"
	"sluice/queue/worker/orchesty"
)

// sdk asks as a worker on Orchesty's SDK does, with a target that is written as it is.
func (d *door) sdk(key, method, target, body string, headers ...string) (reply, string) {
	d.t.Helper()
	r, err := http.NewRequestWithContext(d.t.Context(), method, d.url, strings.NewReader(body))
	ok(d.t, err)
	r.URL.Opaque = "//" + r.URL.Host + target
	if key != "" {
		r.Header.Set("orchesty-api-key", key)
	}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := (&http.Client{Transport: d.client.Transport.(*witness).next}).Do(r)
	ok(d.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	ok(d.t, err)
	if resp.StatusCode >= 500 && !d.mayFail.Load() {
		d.t.Errorf("%s %s: %d %s", method, target, resp.StatusCode, text)
	}
	return reply{resp.StatusCode, resp.Header}, string(text)
}

// Parts of answers that differ each time.
var masks = []struct {
	is *regexp.Regexp
	as string
}{
	{regexp.MustCompile(`"_id":"[0-9a-f]{24}"`), `"_id":"ID"`},
	{regexp.MustCompile(`"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"`), `"TIME"`},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`), `UUID`},
}

// replay sends what a transcript's lines with > say, and holds the answers against those with <. In requests, ID stands for
// the id that was answered last.
func (d *door) replay(key, name string) {
	d.t.Helper()
	file := filepath.Join("testdata", "orchesty", name+".txt")
	text, err := os.ReadFile(file)
	ok(d.t, err)
	var now strings.Builder
	id, token := "", cmp.Or(key, "none")
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "<") {
			continue
		}
		now.WriteString(line)
		request, asks := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "> ")
		if !asks {
			continue
		}
		words := strings.SplitN(strings.ReplaceAll(request, "ID", id), " ", 3)
		body := ""
		if len(words) == 3 {
			body = words[2]
		}
		resp, answer := d.sdk(token, words[0], words[1], body)
		if found := regexp.MustCompile(`"_id":"([0-9a-f]{24})"`).FindStringSubmatch(answer); found != nil {
			id = found[1]
		}
		for _, m := range masks {
			answer = m.is.ReplaceAllString(answer, m.as)
		}
		fmt.Fprintf(&now, "< %d %s\n", resp.StatusCode, answer)
	}
	if *update {
		ok(d.t, os.WriteFile(file, []byte(now.String()), 0o644))
		return
	}
	if now.String() != string(text) {
		d.t.Errorf("%s is now:\n%s", file, now.String())
	}
}

// What the SDK asked and was answered when it was recorded, it asks and is answered here.
func TestDocumentTranscripts(t *testing.T) {
	t.Parallel()
	d := open(t)
	key := d.key(ours, auth.Worker)
	d.replay(key, "installs")
	d.replay(key, "webhooks")
}

const retrying = `topology: retrying
nodes:
  in: {kind: start, followers: [set, unset]}
  set: {kind: connector, worker: demo, application: crm, timeout: 90s, concurrency: 5, retry: {attempts: 3, initial: 500ms}}
  unset: {kind: custom, worker: demo}
`

// A worker reads of a node what its file says about retries, and nothing where it says nothing.
func TestNodeDocuments(t *testing.T) {
	t.Parallel()
	d := open(t)
	key := d.key(ours, auth.Worker)
	ask := func(key string, ids ...string) string {
		t.Helper()
		resp, text := d.sdk(key, "GET", `/document/Node?filter={%22ids%22:[%22`+strings.Join(ids, `%22,%22`)+`%22]}`, "")
		if resp.StatusCode != 200 {
			t.Errorf("%d %s", resp.StatusCode, text)
		}
		return text
	}
	set, unset := orchesty.NodeID("retrying", 1, "set"), orchesty.NodeID("retrying", 1, "unset")
	if got := ask(key, set); got != "[]" {
		t.Errorf("before there is one: %s", got)
	}
	d.serve(failing)
	d.enable("retrying", retrying)
	d.until("the node is known", func() bool { return ask(key, set) != "[]" })
	want := `[{"_id":"` + set + `","name":"set","topology":"` + orchesty.TopologyID("retrying", 1) + `","type":"connector","handler":"action","enabled":true,"application":"crm",` +
		`"systemConfigs":"{\"bridge\":{\"host\":\"\",\"timeout\":90},\"rabbit\":{\"prefetch\":5},\"repeater\":{\"enabled\":true,\"hops\":3,\"interval\":1},\"sdk\":{\"host\":\"\"}}"}]`
	if got := ask(key, set); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := ask(key, unset, strings.Repeat("0", 24)); !strings.Contains(got, `\"enabled\":false,\"hops\":0`) || strings.Count(got, "_id") != 1 {
		t.Errorf("a node whose file says nothing: %s", got)
	}
	if got := ask(d.other, set); got != "[]" {
		t.Errorf("another tenant sees %s", got)
	}
	if resp, text := d.sdk(key, "POST", "/document/Node", "[]"); resp.StatusCode != 404 {
		t.Errorf("a worker writes a node: %d %s", resp.StatusCode, text)
	}
}

// Documents are for those who have a worker's key, and each tenant has its own.
func TestDocumentsKeepTheirDoor(t *testing.T) {
	t.Parallel()
	d := open(t)
	key := d.key(ours, auth.Worker)
	const all = `/document/ApplicationInstall?filter={%22enabled%22:null}`
	d.sdk(key, "POST", "/document/ApplicationInstall", `{"user":"joe","key":"crm","encryptedSettings":"002_x"}`)
	for _, c := range []struct {
		key    string
		status int
	}{{"", 401}, {"x", 401}, {d.ingest, 403}, {d.operate, 403}, {key, 200}, {d.admin, 200}} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
			want := c.status
			if want == 200 && method != "GET" {
				continue
			}
			resp, text := d.sdk(c.key, method, all, "[]")
			if resp.StatusCode != want || !strings.HasPrefix(text, `{"message":"`) && want != 200 {
				t.Errorf("%s with %.10q: %d %s, want %d", method, c.key, resp.StatusCode, text, want)
			}
		}
	}
	if resp, text := d.sdk("", "GET", all, "", "Authorization", "Bearer "+key); resp.StatusCode != 200 || !strings.Contains(text, "joe") {
		t.Errorf("with the usual header: %d %s", resp.StatusCode, text)
	}
	other := d.key(theirs, auth.Worker)
	for _, method := range []string{"GET", "DELETE"} {
		if _, text := d.sdk(other, method, `/document/ApplicationInstall?filter={%22users%22:[%22joe%22],%22enabled%22:null}`, ""); strings.Contains(text, "joe") || strings.Contains(text, `:1`) {
			t.Errorf("another tenant: %s %s", method, text)
		}
	}
	if _, text := d.sdk(key, "GET", all, ""); !strings.Contains(text, `"user":"joe"`) || !strings.Contains(text, "002_x") {
		t.Errorf("ours: %s", text)
	}
	for _, path := range []string{"/v1/workers", "/v1/keys", "/v1/processes"} { // a worker's key opens no other door
		if resp, _ := d.send(key, "GET", path, nil); resp.StatusCode != 403 {
			t.Errorf("%s with a worker's key: %d", path, resp.StatusCode)
		}
	}
}

// Without a key to seal with no secret is kept, and everybody is told why.
func TestNoVault(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *gateway.Config) { c.Vault = vault.Ring{} })
	d.mayFail.Store(true)
	key := d.key(ours, auth.Worker)
	resp, text := d.sdk(key, "POST", "/document/ApplicationInstall", `{"user":"joe","key":"crm","encryptedSettings":"002_x"}`)
	if resp.StatusCode != 503 || !strings.Contains(text, "SLUICE_SECRET_KEYS") || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	if resp, text := d.sdk(key, "POST", "/document/ApplicationInstall", `{"user":"joe","key":"crm"}`); resp.StatusCode != 200 {
		t.Errorf("one without settings: %d %s", resp.StatusCode, text)
	}
}

// Nobody's query or body is a trouble of the server.
func TestHostileDocuments(t *testing.T) {
	t.Parallel()
	d := open(t)
	key := d.key(ours, auth.Worker)
	long := strings.Repeat("x", 60<<10)
	for _, query := range []string{"?", "?%", "?filter", "?filter=%00", "?filter=%ff", "?filter={%22users%22:[%22%00%22]}", "?filter=;", "?filter={%22users%22:[%22a;b&c=%zz%22]}", "?filter=" + long, "?a=%zz", "?filter={%22deleted%22:{}}"} {
		for _, kind := range []string{"ApplicationInstall", "Webhook", "Node", "Sdk", "%2e%2e", "a%2fb", "%00", "%ff"} {
			for _, method := range []string{"GET", "DELETE", "PATCH"} {
				if resp, text := d.sdk(key, method, "/document/"+kind+query, ""); resp.StatusCode >= 500 {
					t.Errorf("%s %s%.40s: %d %.200s", method, kind, query, resp.StatusCode, text)
				}
			}
		}
	}
	for _, body := range []string{"", "[", "null", "[[[[", "\xff\xfe", `{"user":"\ud800","key":"a"}`, `{"user":"a","key":"b","nonEncryptedSettings":{"\u0000":1}}`, `{"_id":7}`, long} {
		if resp, text := d.sdk(key, "POST", "/document/ApplicationInstall", body); resp.StatusCode != 400 && resp.StatusCode != 200 {
			t.Errorf("%.40q: %d %.200s", body, resp.StatusCode, text)
		}
	}
	if resp, _ := d.sdk(key, "POST", "/document/ApplicationInstall", strings.Repeat(" ", 6<<20)); resp.StatusCode != 413 {
		t.Errorf("too large: %d", resp.StatusCode)
	}
}
