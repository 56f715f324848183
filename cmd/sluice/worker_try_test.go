package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"sluice/queue/worker"
)

// Each node of a worker is called with a sample, and what it was asked and what it answered is shown, whatever it speaks.
func TestWorkerTest(t *testing.T) {
	t.Parallel()
	w := startShop(t)
	w.run("worker", "test", "shop").exits(exitOK).says("Node    check", "Node         store", "Application  crm", "Request:", "content-type: application/json", "{}", "Status   204", "Verdict  done", "To all followers:")
	if r := w.run("worker", "test", "shop", "--node", "store", "--data", `{"a":1}`, "-H", "x-a=b").exits(exitOK).says("x-a: b", `{"a":1}`); strings.Contains(r.out, "check") {
		t.Errorf("another node was called:\n%s", r.out)
	}
	w.run("worker", "test", "shop", "--data", `"bad"`).exits(exitFailed).says("Verdict  done", "Class   rejected", "nothing bad")
	w.run("worker", "test", "shop", "--node", "none").exits(exitFailed).complains("shop has no node none: it has check, store")
	w.run("worker", "test", "none").exits(exitFailed).complains("no such worker")
	w.run("worker", "test", "shop", "--bearer-token-file", "x").exits(exitUsage).complains("sluice worker credentials")
	type called struct{ Calls []tried }
	calls := decode[called](w.run("worker", "test", "shop", "--file", writeFile(t, "bytes", "\xff\x00"), "--output", "json")).Calls
	if len(calls) != 2 || string(calls[1].Request.Base64) != "\xff\x00" || string(calls[1].Response.Shown.Messages[0].Base64) != "\xff\x00" {
		t.Errorf("%+v", calls)
	}

	foreign := map[string]string{
		"GET /connector/list": `[{"name":"create-contact","app":"crm"}]`, "GET /batch/list": `[{"name":"pages"}]`, "GET /custom-node/list": `[{"name":"clean"}]`, "GET /applications": `{"items":[]}`,
		"POST /connector/create-contact/action": `{"headers":{"result-code":"0"},"body":"made"}`,
		"POST /custom-node/clean/process":       `{"headers":{"result-code":"1006","result-message":"not this one"},"body":""}`,
		"POST /batch/pages/action":              `{"headers":{"result-code":"0"},"body":"[{\"headers\":{},\"body\":\"page\"}]"}`,
	}
	there := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, foreign[r.Method+" "+r.URL.Path])
	}))
	t.Cleanup(there.Close)
	w.run("worker", "add", "legacy", there.URL, "--protocol", "orchesty").exits(exitOK)
	for _, args := range [][]string{{"legacy"}, {there.URL, "--protocol", "orchesty"}} {
		w.run(append([]string{"worker", "test"}, args...)...).exits(exitFailed).says("create-contact", "made", "pages", "page", "clean", "not this one", "rejected")
		w.run(append([]string{"worker", "test", "--node", "create-contact"}, args...)...).exits(exitOK).says("connector", "made")
	}
}

// A worker is called at its URL before anybody registers it, as Sluice would call it.
func TestWorkerTestByURL(t *testing.T) {
	t.Parallel()
	w, secret := newWorld(t), worker.NewSecret()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	l.Close()
	w.run("worker", "test", url, "total").exits(exitFailed).says("unavailable", "refused")
	patient := w.with("SLUICE_SECRET", secret.Reveal()).start("worker", "test", url, "total", "--wait", "1m")
	if l, err = net.Listen("tcp", l.Addr().String()); err != nil {
		t.Skip("somebody else has taken the port: ", err)
	}
	s := httptest.NewUnstartedServer(worker.Handler{Func: shopWork, Secrets: []worker.Secret{secret}})
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	code := <-patient.ended
	if patient.ended <- code; code != exitOK {
		t.Errorf("who waited got %d:\n%s%s", code, patient.stdout, patient.stderr)
	}
	w.run("worker", "test", url, "total").exits(exitFailed).says("Status  401", "rejected")
	w.run("worker", "test", url).exits(exitFailed).complains("name an action")
	w.run("worker", "test", url, "total", "--secret", "x").exits(exitUsage).complains("whsec_")
}
