package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/worker"
)

// startServe runs a node on a database of the test's own, and returns a world with its URL and a key that may do all.
func startServe(t *testing.T, args ...string) (*world, *running) {
	t.Helper()
	db := pgtest.New(t)
	w := newWorld(t)
	made := decode[keyView](w.run("key", "create", "test", "--scope", "admin", "--database-url", db.URL, "--output", "json"))
	r := w.start(append([]string{"serve", "--database-url", db.URL, "--listen", "127.0.0.1:0"}, args...)...)
	var started struct{ Addr string }
	for text := range strings.Lines(r.until(r.stderr, `"msg":"Started"`)) {
		if strings.Contains(text, `"msg":"Started"`) {
			if err := json.Unmarshal([]byte(text), &started); err != nil {
				t.Fatal(err)
			}
		}
	}
	return w.with("SLUICE_URL", "http://"+started.Addr).with("SLUICE_API_KEY", made.Key).with("TEST_DATABASE", db.URL), r
}

const shopTopology = `topology: shop
description: What the tests sell
nodes:
  in: {kind: start, followers: [check]}
  check: {kind: custom, worker: shop, followers: [store]}
  store: {kind: connector, worker: shop, application: crm, retry: {attempts: 1}}
`

// shopWorker refuses bodies with the word bad.
func shopWorker(t *testing.T) string {
	s := httptest.NewServer(worker.Handler{Func: shopWork})
	t.Cleanup(s.Close)
	return s.URL
}

func shopWork(_ context.Context, r *worker.Request) (worker.Reply, error) {
	if r.Action == "store" && strings.Contains(string(r.Body), "bad") {
		return worker.Reply{}, &worker.Failure{Class: worker.Rejected, Reason: "the store takes nothing bad"}
	}
	return worker.Pass(), nil
}

// startShop is a node with the shop's worker and topology.
func startShop(t *testing.T) *world {
	t.Helper()
	w, _ := startServe(t)
	w.run("worker", "add", "shop", shopWorker(t)).exits(exitOK)
	w.typing(shopTopology).run("topology", "apply", "-", "--enable").exits(exitOK)
	return w
}

func TestEmptyStates(t *testing.T) {
	t.Parallel()
	w, _ := startServe(t)
	w.run("topology", "list").exits(exitOK).says("No topologies yet", "sluice topology apply")
	w.run("process", "list").exits(exitOK).says("No processes", "sluice send")
	w.run("trash", "list").exits(exitOK).says("The trash is empty")
	w.run("worker", "list").exits(exitOK).says("No workers yet", "sluice worker add")
	for _, noun := range []string{"topology", "process", "trash", "worker"} {
		if l := decode[listing[any]](w.run(noun, "list", "--output", "json")); l.Items == nil || len(l.Items) != 0 {
			t.Errorf("%s list: %v", noun, l)
		}
	}
}

func TestTopologyCommands(t *testing.T) {
	t.Parallel()
	w := startShop(t)
	file := writeFile(t, "shop.yaml", shopTopology)
	changed := writeFile(t, "shop.yaml", strings.Replace(shopTopology, "attempts: 1", "attempts: 3", 1))

	w.run("topology", "apply", file, "--enable").exits(exitOK).says("shop: unchanged, v1 enabled")
	w.run("topology", "validate", file).exits(exitOK).says("shop.yaml: valid: topology shop with 3 nodes")
	w.run("topology", "validate", file, "--output", "json").exits(exitOK).says(`"nodes": 3`)
	newWorld(t).run("topology", "validate", "--offline", file).exits(exitOK).says("valid")

	w.run("topology", "apply", changed).exits(exitOK).says("shop: applied as draft")
	w.run("topology", "diff", "shop").exits(exitOK).says("retry.attempts")
	w.run("topology", "diff", "shop", "--output", "json").exits(exitOK).says(`"changes"`)
	w.run("topology", "show", "shop", "--version", "draft").exits(exitOK).says("shop draft", "check", "shop/store", "crm")
	w.run("topology", "publish", "shop").exits(exitOK).says("Published shop v2", "sluice topology enable shop")
	w.run("topology", "show", "shop").exits(exitOK).says("shop v1", "enabled")
	w.run("topology", "enable", "shop").exits(exitOK).says("Enabled shop v2")
	w.run("topology", "rollback", "shop").exits(exitOK).says("shop v1")
	w.run("topology", "enable", "shop", "--version", "2", "--output", "json").exits(exitOK).says(`"version": 2`)
	w.run("topology", "diff", "shop", "--from", "2", "--to", "enabled").exits(exitOK).says("No difference")
	w.run("topology", "disable", "shop").exits(exitOK).says("Disabled shop")
	w.run("send", "shop", "in", "--data", "{}").exits(exitFailed).complains("sluice topology enable")
	w.run("topology", "rollback", "shop").exits(exitFailed)
	w.run("topology", "list").exits(exitOK).says("shop", "v2")
	if got := w.run("topology", "show", "shop", "--version", "1", "--source").ok(); got != shopTopology {
		t.Errorf("the source is %q", got)
	}
	w.run("topology", "show", "shop", "--output", "json").exits(exitOK).says(`"nodes"`, `"edges"`)
	w.run("topology", "delete", "shop", "--version", "1").exits(exitOK).says("Deleted shop v1")
	w.run("topology", "delete", "shop", "--output", "json").exits(exitOK).says(`"held"`)
	w.run("topology", "show", "shop").exits(exitFailed).complains("no such topology", "sluice topology list")
}

func TestTopologyMistakesAreNamed(t *testing.T) {
	t.Parallel()
	w := startShop(t)
	wrong := writeFile(t, "wrong.yaml", "topology: wrong\nnodes:\n  in: {kind: start, followers: [chekc]}\n  check: {kind: custom, worker: shop}\n")
	stranger := writeFile(t, "stranger.yaml", "topology: stranger\nnodes:\n  in: {kind: start, followers: [check]}\n  check: {kind: custom, worker: shpo}\n")
	good := writeFile(t, "good.yaml", strings.Replace(shopTopology, "shop", "good", 1))
	for _, command := range []string{"apply", "validate"} {
		r := w.run("topology", command, good, wrong).exits(exitFailed).complains("wrong.yaml:3: ", `node "in"`, `"chekc"`, `did you mean "check"`)
		if r.out != "" {
			t.Errorf("output:\n%s", r.out)
		}
		w.run("topology", command, good, stranger).exits(exitFailed).complains("stranger.yaml:4: ", `node "check"`, `"shpo"`, `did you mean "shop"`)
	}
	w.run("topology", "show", "good").exits(exitFailed) // none was applied before all were valid
	w.run("topology", "apply", good, good).exits(exitFailed).complains("both hold the topology")
	w.run("topology", "apply", filepath.Join(t.TempDir(), "none.yaml")).exits(exitFailed).complains("no such file")
}

func TestDeleteAsksFirst(t *testing.T) {
	t.Parallel()
	w := startShop(t)
	w.run("send", "shop", "in", "--data", `"bad"`, "--wait").exits(exitFailed).complains("1 message", "sluice trash list --topology shop")
	w.run("topology", "delete", "shop").exits(exitFailed).complains("1 message", "--messages drain", "--messages trash")
	w.run("topology", "delete", "shop", "--messages", "trash").exits(exitOK).says("Deleted shop. It held 1 message")
	w.run("trash", "list").exits(exitOK).says("nothing bad")
}

func TestSendAndProcessCommands(t *testing.T) {
	t.Parallel()
	w := startShop(t)
	w.run("send", "shop", "in", "--data", `{"a": 1}`, "--wait").exits(exitOK).says("done", "shop v1", "Messages  2")
	p := decode[processView](w.run("send", "shop", "in", "--file", writeFile(t, "e", "\xff\x00"), "-H", "x-a=b,c=d", "--wait", "--output", "json"))
	if p.State != "done" || p.Total != 2 {
		t.Errorf("%+v", p)
	}
	w.run("process", "show", p.CorrelationID).exits(exitOK).says(p.CorrelationID, "check", "store", "done")
	if m := decode[struct{ Messages []messageView }](w.run("process", "show", p.CorrelationID, "--output", "json")); len(m.Messages) != 2 || m.Messages[0].Place != "done" {
		t.Errorf("%+v", m)
	}
	w.run("process", "list", "--topology", "shop", "--state", "done").exits(exitOK).says(p.CorrelationID, "2/2")
	if l := decode[listing[processView]](w.run("process", "list", "--limit", "1", "--output", "json")); len(l.Items) != 1 || l.Next == "" {
		t.Errorf("%+v", l)
	}
	w.run("process", "list", "--limit", "1").exits(exitOK).complains("more than these 1")

	first := decode[acceptedView](w.typing(`{"n":1}`).run("send", "shop", "in", "--idempotency-key", "k", "--output", "json"))
	again := decode[acceptedView](w.typing(`{"n":1}`).run("send", "shop", "in", "--idempotency-key", "k", "--version", "1", "--output", "json"))
	if first.CorrelationID != again.CorrelationID || first.Duplicate || !again.Duplicate {
		t.Errorf("%+v, %+v", first, again)
	}
	w.typing(`{"n":1}`).run("send", "shop", "in", "--idempotency-key", "k").exits(exitOK).says(first.CorrelationID, "accepted before")
	w.typing(`{"n":2}`).run("send", "shop", "in", "--idempotency-key", "k").exits(exitFailed).complains("key")
	w.run("send", "shop", "out", "--data", "1").exits(exitFailed).complains("out")
	w.run("send", "shops", "in", "--data", "1").exits(exitFailed).complains("no such topology", "sluice topology list")
	w.run("process", "show", "nonsense").exits(exitFailed)

	var events strings.Builder
	for i := range 2500 {
		events.WriteString(`{"n": ` + strconv.Itoa(i) + "}\n")
	}
	sent := w.typing(events.String())
	sent.run("send", "shop", "in", "--ndjson", "--idempotency-key", "import").exits(exitOK).says("2500 accepted, 0 accepted before, 0 refused")
	sent.run("send", "shop", "in", "--ndjson", "--idempotency-key", "import", "--output", "json").exits(exitOK).says(`"duplicates": 2500`)
	w.typing("{\"n\": 0}\n{\"n\": 2}\n").run("send", "shop", "in", "--ndjson", "--idempotency-key", "import").exits(exitFailed).
		says("1 refused").complains("line 2: ")
}

func TestTerminate(t *testing.T) {
	t.Parallel()
	w, _ := startServe(t)
	slow := newSlowWorker(t)
	defer close(slow.let)
	w.run("worker", "add", "slow", slow.URL).exits(exitOK)
	w.typing(slowTopology).run("topology", "apply", "-", "--enable").exits(exitOK)
	id := strings.TrimSpace(w.run("send", "slow", "in", "--data", "{}").ok())
	<-slow.called
	w.run("send", "slow", "in", "--data", "{}", "--wait", "--timeout", "200ms").exits(exitFailed).complains("1 message on the way", "sluice process show")
	w.run("process", "terminate", id, "--reason", "enough").exits(exitOK).says("Terminated 1 message")
	w.run("process", "show", id).exits(exitOK).says("terminated")
	w.run("process", "terminate", id).exits(exitFailed)
}

func TestTrashCommands(t *testing.T) {
	t.Parallel()
	w := startShop(t)
	bad := func() string {
		t.Helper()
		w.run("send", "shop", "in", "--data", `{"bad": true}`, "--wait").exits(exitFailed)
		l := decode[listing[entryView]](w.run("trash", "list", "--topology", "shop", "--node", "store", "--output", "json"))
		return l.Items[len(l.Items)-1].Shown.MessageID
	}
	id := bad()
	w.run("trash", "list").exits(exitOK).says(id, "store", "nothing bad")
	w.run("trash", "list", "--worker", "shop", "--since", "1h", "--text", "NOTHING bad", "--newest", "--class", "rejected").exits(exitOK).says(id)
	w.run("trash", "list", "--text", "nothing good").exits(exitOK).says("Nothing in the trash is like that")
	w.run("stats").exits(exitOK).says("Came in", "1 in the trash", "TOPOLOGY", "shop", "APPLICATION", "crm", "IN-TRASH", "nothing bad")
	w.run("stats", "--range", "1h", "--output", "json").exits(exitOK).says(`"overview"`, `"incidents"`, `"counted_until"`)
	groups := w.run("trash", "groups", "--topology", "shop").exits(exitOK).says("100.0%", "rejected", "1 message of 1 cause").ok()
	w.run("trash", "list", "--cause", regexp.MustCompile(`[0-9a-f]{16}`).FindString(groups)).exits(exitOK).says(id)
	w.run("trash", "groups", "--application", "none").exits(exitOK).says("Nothing in the trash is like that")
	w.run("trash", "show", id).exits(exitOK).says("at node store of shop v1", "The last answer, 200", "content-type: ", "the store takes nothing bad", `"bad": true`, "application/json")
	w.run("trash", "show", id, "--output", "json").exits(exitOK).says(`"attempts"`)
	if body := w.run("trash", "show", id, "--body").ok(); body != `{"bad": true}` {
		t.Errorf("the body is %q", body)
	}

	// Sent again as it is, it fails again. Edited, it passes.
	w.run("trash", "approve", id).exits(exitOK).says("Sent 1 message again")
	eventually(t, "it is in the trash again", func() bool { return w.run("trash", "show", id).code == exitOK })
	w.run("trash", "edit", id, "--data", `{"good": 1}`).exits(exitOK).says("sluice trash approve " + id)
	w.run("trash", "show", id).exits(exitOK).says("Edited", `{"good": 1}`, `"bad": true`, `+  "good": 1`)
	w.run("trash", "edit", id, "--data", `{"good"`).exits(exitFailed).complains("JSON")
	w.run("trash", "assign", id, "--to", "bob", "--reason", "his shop").exits(exitOK).says("Assigned 1 message")
	w.run("trash", "list", "--assigned-to", "bob").exits(exitOK).says(id)
	w.run("trash", "comment", id, "asked the customer").exits(exitOK).says("Noted")
	w.run("trash", "show", id).exits(exitOK).says("Assigned to", "to bob", "asked the customer", "his shop", "It has failed 2 times")
	w.run("trash", "approve", id, "--onto", "7").exits(exitFailed).complains("cannot go on in version 7")
	w.run("trash", "edit", id, "--discard").exits(exitOK).says("Forgot")
	w.run("trash", "edit", id, "--data", `{"good": 2}`, "-H", "x-mended=yes", "--output", "json").exits(exitOK)
	w.typing(id+"\n").run("trash", "approve", "-", "--reason", "mended").exits(exitOK).says("goes on as")
	eventually(t, "its process is done", func() bool {
		return strings.Contains(w.run("process", "list", "--limit", "1").ok(), " done ")
	})

	editor := filepath.Join(t.TempDir(), "editor")
	if err := os.WriteFile(editor, []byte("#!/bin/sh\nsed -i.before s/bad/good/ \"$2\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	id = bad()
	w.with("EDITOR", editor+" --wait").run("trash", "edit", id, "--approve", "--output", "json").exits(exitOK).says(`"sent_as"`)
	id = bad()
	w.with("EDITOR", "true").run("trash", "edit", id).exits(exitFailed).complains("nothing was changed")
	w.with("EDITOR", "false").run("trash", "edit", id).exits(exitFailed).complains("editor", "stays as it is")
	w.run("trash", "reject", id, "--reason", "a test", "--output", "json").exits(exitOK).says(`"rejected": 1`)
	w.run("trash", "reject", id, "--reason", "again").exits(exitFailed).complains(id)
	w.run("trash", "reject", bad(), "--reason", "a test").exits(exitOK).says("Rejected 1 message")
	for range 3 {
		bad()
	}
	number := regexp.MustCompile(`bulk start (\d+)`)
	preview := w.run("trash", "bulk", "approve", "--worker", "shop", "--patch", `[{"op": "move", "from": "/bad", "path": "/good"}]`).exits(exitOK).
		says("3 messages", "nothing bad", `+  "good": true`, "Nothing is decided yet").ok()
	bulk := number.FindStringSubmatch(preview)[1]
	w.run("trash", "bulk", "show", bulk).exits(exitOK).says("preview", "0 of 3 done")
	w.run("trash", "bulk", "pause", bulk).exits(exitFailed).complains("preview")
	w.run("trash", "bulk", "start", bulk).exits(exitOK).says("Bulk " + bulk)
	w.run("trash", "bulk", "watch", bulk).exits(exitOK).says("is done: 3 of 3 messages done")
	w.run("trash", "bulk", "list").exits(exitOK).says("approve", "done")
	w.run("trash", "bulk", "reject", "--reason", "test", "--yes").exits(exitOK).says("Nothing in the trash is like that")
	bad()
	w.run("trash", "bulk", "reject", "--reason", "test", "--since", "1h", "--rate", "10", "--yes").exits(exitOK).says("1 of 1 message done")
	bad()
	w.run("trash", "bulk", "edit", "--patch", `[{"op": "remove", "path": "/none"}]`, "--yes").exits(exitFailed).says("0 of 1 message done").complains("left alone")
	w.run("trash", "bulk", "assign", "--to", "ann", "--yes").exits(exitOK).says("1 of 1 message done")
	w.run("trash", "bulk", "comment", "--assigned-to", "ann", "--remark", "ticket 4711", "--yes").exits(exitOK).says("1 of 1 message done")
	w.run("trash", "list", "--assigned-to", "ann").exits(exitOK).says("ann")
	w.run("trash", "retention").exits(exitOK).says("kept for ever", "0 processes")
	w.run("trash", "retention", "set").exits(exitUsage).complains("nothing to set")
	w.run("trash", "retention", "set", "--rejected", "90", "--resolved", "1").exits(exitOK).says("Rejected: kept for 90 days", "Resolved: kept for 1 day after")
	w.run("trash", "retention", "set", "--resolved", "0").exits(exitOK).says("Rejected: kept for 90 days", "Resolved: kept for ever")
	w.run("trash", "retention", "show").exits(exitOK).says("kept for 90 days", "Set by")
	last := number.FindStringSubmatch(w.run("trash", "bulk", "edit", "--set-header", "x-a=b").exits(exitOK).says("headers that change: x-a").ok())[1]
	w.run("trash", "bulk", "cancel", last).exits(exitOK).says("cancelled")
	w.run("trash", "bulk", "resume", last).exits(exitFailed)
	w.run("trash", "bulk", "show", "999").exits(exitFailed).complains("no such bulk")
	w.typing("").run("trash", "approve", "-").exits(exitUsage).complains("no message ids")
	newWorld(t).run("check", "--database-url", w.env["TEST_DATABASE"]).exits(exitOK).says("Clean")
}

func TestWorkerCommands(t *testing.T) {
	t.Parallel()
	w := startShop(t)
	w.run("worker", "list").exits(exitOK).says("shop", "http://127.0.0.1:")
	w.run("worker", "list", "--output", "json").exits(exitOK).says(`"name": "shop"`)
	w.run("worker", "test", "shop", "store", "--data", `{"a":1}`, "-H", "x-a=b").exits(exitOK).says("done", "all followers")
	w.run("worker", "test", "shop", "store", "--data", `"bad"`).exits(exitFailed).says("nothing bad")
	w.run("worker", "test", "shop", "store", "--output", "json").exits(exitOK).says(`"verdict": "done"`)
	w.run("worker", "remove", "shop").exits(exitFailed).complains("shop")
	added := decode[workerView](w.run("worker", "add", "other", "http://127.0.0.1:1", "--output", "json"))
	if !strings.HasPrefix(added.Secret, "whsec_") {
		t.Errorf("%+v", added)
	}
	w.run("worker", "test", "other", "a").exits(exitFailed).says("refused")
	w.run("worker", "add", "other", "http://127.0.0.1:1").exits(exitFailed).complains("other")
	w.run("worker", "add", "third", "nonsense").exits(exitFailed).complains("nonsense")
	w.run("worker", "move", "other", "http://127.0.0.1:2").exits(exitOK).says("Moved other to http://127.0.0.1:2")
	w.run("worker", "list").exits(exitOK).says("http://127.0.0.1:2")
	w.run("worker", "add", "legacy", "http://127.0.0.1:1", "--protocol", "orchesty").exits(exitOK).says("orchesty", "sluice worker refresh legacy")
	w.run("worker", "refresh", "legacy").exits(exitFailed).says("refused")
	w.run("worker", "move", "legacy", "http://127.0.0.1:1", "--dialect", "b").exits(exitOK)
	w.run("worker", "show", "legacy").exits(exitOK).says("dialect b", "refused")
	w.run("worker", "list").exits(exitOK).says("orchesty (dialect b)")
	w.run("worker", "test", "legacy", "clean", "--kind", "connector").exits(exitFailed).says("refused")
	w.run("worker", "remove", "legacy").exits(exitOK)
	w.run("worker", "remove", "other").exits(exitOK).says("Removed other")
	w.run("worker", "remove", "other", "--output", "json").exits(exitFailed).complains("no such worker", "sluice worker list")
}

func TestKeyCommands(t *testing.T) {
	t.Parallel()
	w, _ := startServe(t)
	made := decode[keyView](w.run("key", "create", "shop", "--scope", "ingest", "--output", "json"))
	shop := w.with("SLUICE_API_KEY", made.Key)
	shop.run("topology", "list").exits(exitFailed).complains("sluice key create --scope")
	w.run("key", "list").exits(exitOK).says("shop", "ingest", "test", "admin")
	w.run("key", "list", "--output", "json").exits(exitOK).says(`"scopes"`)
	w.run("key", "revoke", strconv.FormatInt(made.ID, 10)).exits(exitOK).says("Revoked key")
	eventually(t, "the key is refused", func() bool {
		r := shop.run("topology", "list")
		return r.code == exitFailed && strings.Contains(r.errors, "--key")
	})
	w.run("key", "revoke", "999").exits(exitFailed).complains("no such API key")
	w.run("key", "create", "ops", "--scope", "operate", "--scope", "ingest").exits(exitOK).says("sluice_", "operate, ingest", "not shown again")

	// Straight to the database, as long as there is no key.
	direct := newWorld(t).with("DATABASE_URL", w.env["TEST_DATABASE"])
	direct.run("key", "list").exits(exitOK).says("shop", "ops")
	other := decode[keyView](direct.run("key", "create", "direct", "--scope", "admin", "--output", "json"))
	w.with("SLUICE_API_KEY", other.Key).run("topology", "list").exits(exitOK)
	direct.run("key", "revoke", strconv.FormatInt(other.ID, 10), "--output", "json").exits(exitOK).says(`"revoked"`)
	direct.run("key", "revoke", "999").exits(exitFailed).complains("no key 999")
	direct.run("key", "list", "--tenant", "nobody").exits(exitFailed).complains(`no tenant "nobody"`)
}

func TestOperatorCommands(t *testing.T) {
	t.Parallel()
	w, _ := startServe(t)
	w.run("operator", "list").exits(exitOK).says("sluice operator add")
	made := decode[linkView](w.run("operator", "add", "ann", "--scope", "admin", "--output", "json"))
	base, token, found := strings.Cut(made.Link, "/ui/link#")
	if !found || made.Seconds != 3600 {
		t.Fatalf("%+v", made)
	}
	enter := func(token string) int {
		resp, err := http.Post(base+"/v1/session/link", "application/json", strings.NewReader(`{"token":"`+token+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	if code := enter(token); code != http.StatusOK {
		t.Errorf("enter by the link: %d", code)
	}
	w.run("operator", "add", "bob", "--scope", "operate").exits(exitOK).says("/ui/link#", "within 1h0m0s")
	w.run("operator", "list").exits(exitOK).says("ann", "admin", "bob", "operate", "by link")
	w.run("operator", "disable", "1").exits(exitFailed).complains("last operator")
	w.run("operator", "disable", "2").exits(exitOK).says("Disabled operator 2")
	w.run("operator", "link", "2").exits(exitFailed).complains("no such")
	w.run("operator", "enable", "2").exits(exitOK).says("Enabled operator 2")
	w.run("operator", "link", "9").exits(exitFailed).complains("no such")

	// Straight to the database: the first operator of a server without a key.
	direct := newWorld(t).with("DATABASE_URL", w.env["TEST_DATABASE"])
	made = decode[linkView](direct.run("operator", "link", "2", "--url", base, "--output", "json"))
	if code := enter(strings.TrimPrefix(made.Link, base+"/ui/link#")); code != http.StatusOK {
		t.Errorf("enter by a link of the database: %d", code)
	}
	direct.run("operator", "add", "carl", "--scope", "operate").exits(exitOK).says(defaultURL + "/ui/link#")
	direct.run("operator", "add", "carl", "--scope", "operate").exits(exitFailed).complains(`operator "carl" already`)
	direct.run("operator", "list").exits(exitOK).says("carl")
	direct.run("operator", "disable", "3").exits(exitOK)
	direct.run("operator", "list").exits(exitOK).says("disabled")
	direct.run("operator", "link", "3").exits(exitFailed).complains("no operator 3")
	direct.run("operator", "enable", "3").exits(exitOK)
	w.run("operator", "add", "ann", "--scope", "admin").exits(exitFailed).complains("already")
	direct.run("operator", "disable", "9").exits(exitFailed).complains("no operator 9")
}

func TestMigrateAndServe(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	w := newWorld(t).with("DATABASE_URL", db.URL)
	w.run("migrate", "status").exits(exitOK).says("Schema")
	w.run("migrate", "up").exits(exitOK).says("Nothing to do")
	w.run("migrate", "down", "--steps", "1", "--output", "json").exits(exitOK).says(`"up_to_date": false`)
	w.run("migrate", "status").exits(exitFailed).complains("sluice migrate up")
	for _, command := range [][]string{{"serve", "--listen", "127.0.0.1:0"}, {"check"}, {"key", "list"}} {
		w.run(command...).exits(exitFailed).complains("the database is at", "this binary needs", "sluice migrate up")
	}
	w.run("migrate", "down", "--all").exits(exitOK).says("Now at version 0")
	w.run("migrate", "up").exits(exitOK).says("Migrated from version 0")
	if s := decode[map[string]any](w.run("migrate", "status", "--output", "json")); s["up_to_date"] != true {
		t.Error(s)
	}
}

func TestServeRoles(t *testing.T) {
	t.Parallel()
	gateway, front := startServe(t, "--roles", "gateway")
	url := gateway.env["TEST_DATABASE"]
	gateway.run("worker", "add", "shop", shopWorker(t)).exits(exitOK)
	gateway.typing(shopTopology).run("topology", "apply", "-", "--enable").exits(exitOK)
	id := strings.TrimSpace(gateway.run("send", "shop", "in", "--data", "{}").ok())
	gateway.run("process", "show", id).exits(exitOK).says("running", "waiting")

	runner := newWorld(t).start("serve", "--roles", "runner", "--database-url", url, "--listen", "127.0.0.1:0")
	log := runner.until(runner.stderr, `"msg":"Started"`)
	if p := finished(gateway, id); p.State != "done" {
		t.Errorf("%+v", p)
	}
	_, after, _ := strings.Cut(log, `"addr":"127`)
	address, _, _ := strings.Cut(after, `"`)
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/v1/topologies": 404} {
		if got := status(t, "http://127"+address+path); got != want {
			t.Errorf("a runner answers %s with %d, want %d", path, got, want)
		}
	}
	for _, r := range []*running{front, runner} {
		if code := r.stop(); code != exitOK || !strings.Contains(r.stderr.String(), "Draining") {
			t.Errorf("exit code %d:\n%s", code, r.stderr)
		}
	}
}

func status(t *testing.T, url string) int {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

func TestCheckFindsViolations(t *testing.T) {
	t.Parallel()
	w := startShop(t)
	id := strings.TrimSpace(w.run("send", "shop", "in", "--data", "{}").ok())
	finished(w, id)
	url := w.env["TEST_DATABASE"]
	newWorld(t).run("check", "--database-url", url).exits(exitOK).says("shop v1", "Clean: each of 2 messages")
	sql(t, url, `update sluice.process set done = done - 1`)
	newWorld(t).run("check", "--database-url", url).exits(exitFound).says("violation: ", id, "NOT CLEAN")
	newWorld(t).run("check", "--database-url", url, "--output", "json").exits(exitFound).says(`"violations"`, id)
}

// sql runs a statement that acts for all tenants.
func sql(t *testing.T, url, statement string) {
	t.Helper()
	pool, err := queue.Open(t.Context(), url, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func TestOpenapiPrintsContracts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run("openapi").exits(exitOK).says("openapi: 3.1", "/v1/topologies")
	w.run("openapi", "topology").exits(exitOK).says(`"$schema"`)
	var doc map[string]any
	if err := json.Unmarshal([]byte(w.run("openapi", "api", "--output", "json").ok()), &doc); err != nil || doc["openapi"] == nil {
		t.Errorf("%v: %v", err, doc["openapi"])
	}
}

// A server that is no Sluice is not taken for one.
func TestNotSluice(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		if r.URL.Path == "/v1/workers" {
			http.Redirect(rw, r, "/elsewhere", http.StatusFound)
			return
		}
		http.Error(rw, "<html>", http.StatusBadGateway)
	}))
	defer s.Close()
	w := newWorld(t).with("SLUICE_URL", s.URL).with("SLUICE_API_KEY", "k")
	w.run("topology", "list").exits(exitFailed).complains("502", "is the URL right?")
	w.run("worker", "list").exits(exitFailed).complains("302")
	if calls.Load() != 2 {
		t.Errorf("%d calls: a redirect was followed", calls.Load())
	}
}

// Events that there is no room for are sent again when the server says so, and none of them twice; where nothing is taken
// for long, the command says why.
func TestSendWaitsForRoom(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var stored []string
	calls := 0
	full := `{"type":"/problems/too-many-requests","title":"Too many requests","status":429,"code":"too-many-requests","detail":"topology shop is full","retry_after":1}`
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		calls++
		if calls == 1 || strings.Contains(r.URL.Path, "/topologies/full/") {
			rw.Header().Set("Content-Type", "application/problem+json")
			rw.Header().Set("Retry-After", "1")
			rw.WriteHeader(http.StatusTooManyRequests)
			_, _ = io.WriteString(rw, full)
			return
		}
		body, _ := io.ReadAll(r.Body)
		var items []string
		accepted, refused := 0, 0
		for i, text := range strings.Split(strings.TrimSpace(string(body)), "\n") {
			switch {
			case strings.Contains(text, "bad"):
				refused++
				items = append(items, fmt.Sprintf(`{"line":%d,"error":{"title":"bad","status":422,"code":"validation-failed","detail":"it is bad"}}`, i+1))
			case accepted == 2:
				refused++
				items = append(items, fmt.Sprintf(`{"line":%d,"error":%s}`, i+1, full))
			default:
				accepted++
				stored = append(stored, text)
				items = append(items, fmt.Sprintf(`{"line":%d,"correlation_id":"x"}`, i+1))
			}
		}
		rw.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(rw, `{"accepted":%d,"duplicates":0,"refused":%d,"items":[%s]}`, accepted, refused, strings.Join(items, ","))
	}))
	defer s.Close()
	w := newWorld(t).with("SLUICE_URL", s.URL).with("SLUICE_API_KEY", "k")
	w.typing("1\n2\n\"bad\"\n3\n\n4\n5\n").run("send", "shop", "in", "--ndjson").exits(exitFailed).
		says("5 accepted, 0 accepted before, 1 refused").complains("line 3: it is bad")
	if want := []string{`{"body":1}`, `{"body":2}`, `{"body":3}`, `{"body":4}`, `{"body":5}`}; !slices.Equal(stored, want) || calls != 4 {
		t.Errorf("stored %q in %d calls", stored, calls)
	}
	w.typing("1\n").run("send", "full", "in", "--ndjson", "--timeout", "500ms").exits(exitFailed).complains("no event was taken for 500ms", "topology shop is full")
}
