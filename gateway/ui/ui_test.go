package ui_test

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sluice/gateway/ui"
)

// reply is what the UI answered.
type reply struct {
	status int
	header http.Header
	body   string
}

// ask sends a request; headers come in pairs.
func ask(t *testing.T, method, target string, headers ...string) reply {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, target, nil)
	for pair := range slices.Chunk(headers, 2) {
		r.Header.Set(pair[0], pair[1])
	}
	w := httptest.NewRecorder()
	ui.Handler(http.NotFoundHandler()).ServeHTTP(w, r)
	return reply{status: w.Code, header: w.Header(), body: w.Body.String()}
}

var assetPath = regexp.MustCompile(`/ui/assets/[\w.-]+\.(?:js|css)`)

// assets are what the page asks for before it can show anything.
func assets(t *testing.T) []string {
	t.Helper()
	found := assetPath.FindAllString(ask(t, http.MethodGet, "/ui/", "Accept", "text/html").body, -1)
	if len(found) < 2 {
		t.Fatalf("the page names %v, which is no script and style", found)
	}
	return found
}

// Any address below /ui/ is a screen's for a browser, and for nothing else.
func TestPageStandsForEveryScreen(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		method, path, accept string
		status               int
	}{
		{http.MethodGet, "/ui/", "text/html", http.StatusOK},
		{http.MethodGet, "/ui/trash", "text/html,application/xhtml+xml,*/*;q=0.8", http.StatusOK},
		{http.MethodHead, "/ui/trash", "text/html", http.StatusOK},
		{http.MethodGet, "/ui/trash", "application/json", http.StatusNotFound},
		{http.MethodGet, "/ui/trash", "*/*", http.StatusNotFound},
		{http.MethodGet, "/ui/assets/gone-12345678.js", "text/html", http.StatusNotFound},
		{http.MethodPost, "/ui/trash", "text/html", http.StatusNotFound},
	} {
		r := ask(t, c.method, c.path, "Accept", c.accept)
		if r.status != c.status {
			t.Errorf("%s %s for %s: %d, want %d", c.method, c.path, c.accept, r.status, c.status)
		}
		if c.status == http.StatusOK && (c.method == http.MethodHead) == strings.Contains(r.body, `id="app"`) {
			t.Errorf("%s %s: the answer is %q", c.method, c.path, r.body)
		}
	}
}

// What is named after its content is kept for ever, what names it is asked for each time, and both cost nothing anew.
func TestFilesAreKeptAsLongAsTheyHold(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/ui/": "no-cache", "/ui/theme.js": "no-cache", assets(t)[0]: "public, max-age=31536000, immutable",
	} {
		r := ask(t, http.MethodGet, path, "Accept", "text/html")
		if got := r.header.Get("Cache-Control"); got != want {
			t.Errorf("%s: Cache-Control %q, want %q", path, got, want)
		}
		again := ask(t, http.MethodGet, path, "Accept", "text/html", "If-None-Match", `"other", W/`+r.header.Get("ETag"))
		if again.status != http.StatusNotModified || again.body != "" {
			t.Errorf("%s: %d when it is known, want 304 and nothing", path, again.status)
		}
		if other := ask(t, http.MethodGet, path, "Accept", "text/html", "If-None-Match", `"other"`); other.status != http.StatusOK {
			t.Errorf("%s: %d when another is known, want 200", path, other.status)
		}
	}
}

// The page runs no script but ours, loads nothing from elsewhere, is framed by nobody, and tells nobody where it was.
func TestPageIsWalledIn(t *testing.T) {
	t.Parallel()
	for _, path := range append(assets(t), "/ui/", "/ui/mark.svg") {
		h := ask(t, http.MethodGet, path, "Accept", "text/html").header
		policy := h.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self';", "style-src 'self';", "frame-ancestors 'none'"} {
			if !strings.Contains(policy, want) {
				t.Errorf("%s: the policy %q has no %q", path, policy, want)
			}
		}
		if strings.Contains(policy, "unsafe") {
			t.Errorf("%s: the policy %q lets through what is unsafe", path, policy)
		}
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: headers %v", path, h)
		}
	}
	page := ask(t, http.MethodGet, "/ui/", "Accept", "text/html").body
	if inline := regexp.MustCompile(`(?i)<style|\sstyle=|\son\w+=|<script[^>]*>\s*[^<\s]|(?:src|href)="(?:https?:)?//`).FindString(page); inline != "" {
		t.Errorf("the page has %q, which the policy refuses", inline)
	}
}

// The first screen costs at most 200 KB on the wire.
func TestFirstLoadIsLight(t *testing.T) {
	t.Parallel()
	total := 0
	for _, path := range append(assets(t), "/ui/", "/ui/theme.js") {
		r := ask(t, http.MethodGet, path, "Accept", "text/html", "Accept-Encoding", "br, gzip;q=0.8")
		if r.header.Get("Content-Encoding") != "gzip" {
			t.Errorf("%s goes out at full length", path)
			continue
		}
		total += len(r.body)
		zipped, err := gzip.NewReader(strings.NewReader(r.body))
		if err != nil {
			t.Fatal(err)
		}
		plain, err := io.ReadAll(zipped)
		if err != nil || string(plain) != ask(t, http.MethodGet, path, "Accept", "text/html", "Accept-Encoding", "gzip;q=0").body {
			t.Errorf("%s is another when it is compressed: %v", path, err)
		}
	}
	if total > 200<<10 {
		t.Errorf("the first load takes %d bytes, want at most 200 KiB", total)
	}
	t.Logf("the first load takes %d bytes", total)
}
