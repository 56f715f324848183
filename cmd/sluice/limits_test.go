package main

import (
	"strings"
	"testing"
)

// What an application allows is set, shown, raised, paused and removed; what it holds is counted and ended.
func TestLimits(t *testing.T) {
	t.Parallel()
	w, _ := startServe(t)
	slow := newSlowWorker(t)
	close(slow.let)
	w.run("worker", "add", "slow", slow.URL).exits(exitOK)
	w.typing("topology: calls\nnodes:\n  in: {kind: start, followers: [out]}\n  out: {kind: connector, worker: slow, application: crm}\n").
		run("topology", "apply", "-", "--enable").exits(exitOK)
	shows := func(want string, args ...string) {
		t.Helper()
		if got := strings.Join(strings.Fields(w.run(append([]string{"limits"}, args...)...).ok()), " "); !strings.Contains(got, want) {
			t.Errorf("%v: it shows %s, want %s", args, got, want)
		}
	}
	shows("No limits yet", "list")
	w.run("limits", "set", "crm", "--rate", "many").exits(exitUsage)
	shows("Each user 2/1h burst 1", "set", "crm", "--rate", "2/h", "--burst", "1", "--parallel", "4")
	shows("2 times until", "raise", "crm", "2")
	shows("paused by", "pause", "crm")
	w.run("send", "calls", "in", "--data", "1").ok()
	shows("1 message would be ended", "terminate", "crm", "--topology", "calls")
	shows("(none) 2/1h burst 1 1 1", "users", "crm")
	shows("Ended 1 message", "terminate", "crm", "--yes")
	shows("acme 10/1s burst 10 3", "user", "crm", "acme", "--rate", "10/s", "--weight", "3")
	shows("is a user like all", "user", "crm", "acme", "--reset")
	shows("Held 0 messages", "resume", "crm")
	shows("crm 2/1h burst 1", "list")
	shows("no limit any more", "remove", "crm")
	w.run("limits", "show", "crm").exits(exitFailed)
}
