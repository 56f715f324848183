package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// A user's application is set up from the command line, and a password is neither an argument nor shown.
func TestApplicationCommands(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var asked []string
	const about = `"key":"crm","name":"CRM","authorization_type":"basic","application_type":"cron","isInstallable":true`
	there := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		if r.Method != http.MethodGet {
			asked = append(asked, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+string(body)))
		}
		answer := `{` + about + `,"authorized":false,"enabled":false,"syncMethods":["ping"],"applicationSettings":{"f":{"key":"f","publicName":"Form","fields":[
			{"type":"text","key":"user","value":"joe","required":true},{"type":"password","key":"password","value":"hidden"},{"type":"number","key":"size","value":7}]}}}`
		switch {
		case strings.HasSuffix(r.URL.Path, "/list"):
			answer = `[]`
		case r.URL.Path == "/applications":
			answer = `{"items":[{` + about + `}]}`
		case r.URL.Path == "/applications/users/acme":
			answer = `{"items":[{"key":"crm","enabled":true,"authorized":false}]}`
		case strings.HasSuffix(r.URL.Path, "/authorize"):
			answer = `{"authorizeUrl":"https://crm.example.com/?state=x"}`
		}
		_, _ = io.WriteString(w, answer)
	}))
	defer there.Close()
	w, _ := startServe(t)
	w.run("application", "list").exits(exitOK).says("No applications")
	w.run("worker", "add", "legacy", there.URL, "--protocol", "orchesty").exits(exitOK)
	w.run("worker", "refresh", "legacy").exits(exitOK)
	w.run("application", "list", "--user", "acme").exits(exitOK).says("crm", "legacy", "enabled, not authorized")
	w.run("application", "show", "crm").exits(exitOK).says("CRM", "ping")
	w.run("application", "install", "crm", "acme").exits(exitOK).says("disabled")
	shown := w.run("application", "show", "crm", "acme").exits(exitOK).says("f.user", "joe", "(set)", "required")
	if strings.Contains(shown.out, "hidden") {
		t.Errorf("a password is shown:\n%s", shown.out)
	}
	w.run("application", "set", "crm", "acme", "f.user=ann", "f.size=8").exits(exitOK)
	w.run("application", "set", "crm", "acme", "f.user").exits(exitUsage)
	w.run("application", "set", "crm", "acme", "f.size=x").exits(exitFailed).complains("expected a number")
	w.typing("secret\n").run("application", "password", "crm", "acme", "f.password").exits(exitOK)
	w.typing("\n").run("application", "password", "crm", "acme", "f.password").exits(exitUsage)
	w.run("application", "authorize", "crm", "acme").exits(exitOK).says("https://crm.example.com/?state=")
	w.run("application", "enable", "crm", "acme").exits(exitOK)
	w.run("application", "disable", "crm", "acme").exits(exitOK)
	w.run("application", "do", "crm", "ping", "--data", `{"a":1}`).exits(exitOK).says("CRM")
	w.run("application", "uninstall", "crm", "acme").exits(exitOK).says("Took crm away from acme")
	w.run("application", "show", "none").exits(exitFailed).complains("sluice application list")
	mu.Lock()
	defer mu.Unlock()
	got := strings.Join(asked, "\n")
	for _, want := range []string{
		`PUT /applications/crm/users/acme/settings {"f":{"size":8,"user":"ann"}}`,
		`PUT /applications/crm/users/acme/password {"fieldKey":"password","formKey":"f","password":"secret"}`,
		`POST /applications/crm/sync/ping {"a":1}`, `DELETE /applications/crm/users/acme/uninstall`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is not among\n%s", want, got)
		}
	}
}
