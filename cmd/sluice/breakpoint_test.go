package main

import (
	"strings"
	"testing"
)

// What a breakpoint parks is seen in the inbox, with its title and who may act, and goes on when somebody approves it.
func TestBreakpointCommands(t *testing.T) {
	t.Parallel()
	w := startShop(t)
	file := `
topology: big
nodes:
  in: {kind: start, followers: [check, mine]}
  check: {kind: breakpoint, title: "Order {$.order}", due: 1s, followers: [store]}
  mine: {kind: breakpoint, may_act: [somebody]}
  store: {kind: custom, worker: shop}
`
	w.typing(file).run("topology", "apply", "-", "--enable").exits(exitOK)
	w.typing(file).run("topology", "validate", "-").exits(exitOK)
	w.run("topology", "show", "big").exits(exitOK).says("breakpoint")
	w.run("send", "big", "in", "--data", `{"order": 17}`, "--wait").exits(exitOK).says("parked").complains("2 messages for a person to decide")
	w.run("process", "list", "--state", "parked").exits(exitOK).says("parked")
	w.run("process", "list", "--state", "failed").exits(exitOK).says("No process")
	list := w.run("trash", "list", "--type", "breakpoint", "--text", "order 17").exits(exitOK).says("Order 17", "check").ok()
	id := strings.Fields(strings.Split(list, "\n")[1])[0]
	w.run("trash", "list", "--type", "failure").exits(exitOK).says("Nothing in the trash is like that")
	eventually(t, "it is overdue", func() bool {
		return strings.Contains(w.run("trash", "list", "--overdue").ok(), "(overdue)")
	})
	w.run("trash", "show", id).exits(exitOK).says("Waits", "Order 17", "at node check", "parked", "13 bytes")
	w.run("trash", "groups", "--type", "breakpoint").exits(exitOK).says("2 messages of 2 causes")
	w.run("trash", "approve", id, "--reason", "fine").exits(exitOK).says("Sent 1 message again")

	list = w.run("trash", "list", "--node", "mine").exits(exitOK).says("waits at breakpoint mine").ok()
	mine := strings.Fields(strings.Split(list, "\n")[1])[0]
	w.run("trash", "show", mine).exits(exitOK).says("May act", "somebody")
	w.run("trash", "approve", mine).exits(exitFailed).complains("only somebody may act")
	w.run("trash", "reject", mine, "--reason", "no").exits(exitFailed).complains("only somebody may act")
	w.run("trash", "edit", mine, "--data", "{}").exits(exitFailed).complains("only somebody may act")
	w.run("process", "terminate", mine[:36], "--reason", "a test").exits(exitOK)
	newWorld(t).run("check", "--database-url", w.env["TEST_DATABASE"]).exits(exitOK).says("Clean")
}
