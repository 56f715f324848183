package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// ui is where the sources of the UI are.
const ui = "../../gateway/ui"

// browserTools are what the stories of the UI need beside Go. Without them the test is skipped, but not in CI.
func browserTools(t *testing.T) (node, chromium string) {
	t.Helper()
	missing := func(what string) {
		if os.Getenv("CI") != "" {
			t.Fatal(what)
		}
		t.Skip(what)
	}
	node, err := exec.LookPath("node")
	if err != nil {
		missing("there is no Node here: the stories of the UI are told by a script of Playwright's")
	}
	if _, err := os.Stat(filepath.Join(ui, "node_modules", "playwright-core")); err != nil {
		missing("run npm ci in gateway/ui first: the stories of the UI need Playwright")
	}
	if chromium, err = exec.LookPath("chromium"); err != nil {
		missing("there is no browser here: install the package chromium")
	}
	return node, chromium
}

// The stories that people live through in a browser, against a real server with real failures; stories.mjs tells them.
// SLUICE_UI_PICTURES names a directory for pictures of each screen, in both sizes and both themes.
func TestBrowserStories(t *testing.T) {
	t.Parallel()
	node, chromium := browserTools(t)
	server, access := startDev(t, dataDir(t))
	stories := exec.CommandContext(t.Context(), node, "test/stories.mjs")
	stories.Dir = ui
	stories.Env = append(os.Environ(), "SLUICE_URL="+access.URL, "SLUICE_API_KEY="+access.Key, "CHROMIUM="+chromium)
	told, err := stories.CombinedOutput()
	t.Logf("%s", told)
	if err != nil {
		t.Fatalf("%v; the server said:\n%s", err, server.stderr)
	}
}
