package topology

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Syntax of the texts in a topology; the JSON Schema shows the same expressions.
// An action is a relative path of whole segments: no "//", no "." and "..".
const (
	nameSyntax     = `^[a-z0-9]+(-[a-z0-9]+)*$`
	actionSyntax   = `^` + segmentSyntax + `(/` + segmentSyntax + `)*/?$`
	segmentSyntax  = `(\.{0,2}[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\.{3,}[A-Za-z0-9._~-]*)`
	durationSyntax = `^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$`
	sizeSyntax     = `^([0-9]+)(KiB|MiB|GiB)$`

	// A path may say in more ways what it says than the schema needs to know.
	headerSyntax  = `^[A-Za-z0-9_-]+$`
	indexSyntax   = `(0|-?[1-9][0-9]*)`
	orderBySyntax = `^([A-Za-z0-9_-]+|\$([ \t\n\r]*(\.([A-Za-z_]|[^\x00-\x7f])([A-Za-z0-9_]|[^\x00-\x7f])*|\[` +
		`[ \t\n\r]*(` + indexSyntax + `|'([^'\\]|\\.)*'|"([^"\\]|\\.)*")[ \t\n\r]*\]))*)$`
)

var (
	nameExpression     = regexp.MustCompile(nameSyntax)
	actionExpression   = regexp.MustCompile(actionSyntax)
	durationExpression = regexp.MustCompile(durationSyntax)
	sizeExpression     = regexp.MustCompile(sizeSyntax)
	headerExpression   = regexp.MustCompile(headerSyntax)
	indexExpression    = regexp.MustCompile(`^` + indexSyntax)
)

// Bounds of the settings. The rules, the JSON Schema and the messages share them.
const (
	maxName        = 63
	maxDescription = 2000
	maxAction      = 200
	maxActors      = 100 // who may act at a breakpoint
	maxActor       = 200
)

var (
	timeoutBounds     = extent[Duration]{Duration(time.Millisecond), Duration(time.Hour)}
	concurrencyBounds = extent[int]{1, 10000}
	attemptsBounds    = extent[int]{1, 1000}
	initialBounds     = extent[Duration]{Duration(time.Millisecond), Duration(time.Hour)}
	factorBounds      = extent[float64]{1, 10}
	dueBounds         = extent[Duration]{Duration(time.Second), Duration(10000 * time.Hour)}
	maxBounds         = extent[Duration]{Duration(time.Millisecond), Duration(24 * time.Hour)}
	jitterBounds      = extent[float64]{0, 1}
	messagesBounds    = extent[int64]{0, 1e9}
	bytesBounds       = extent[int64]{0, 1 << 50}
)

type extent[T int | int64 | float64 | Duration] struct{ least, most T }

func (e extent[T]) String() string { return fmt.Sprintf("%v to %v", e.least, e.most) }

// Validate checks a graph that does not come from a file by the rules that Parse
// holds files to. What it returns is nil or an *InvalidError.
func (g Graph) Validate() error {
	r := newReport("")
	check(g, r)
	return r.err()
}

// CheckWorkers reads a file once more and reports all that is wrong with it, the
// workers that are not among the known ones included. Those are only known to the
// server, which calls it after Parse; nil or an *InvalidError comes back.
func CheckWorkers(file string, data []byte, known []string) error {
	g, r := parse(file, data)
	g.checkWorkers(known, r)
	return r.err()
}

// CheckWorkers is for a graph that was read earlier: workers come and go.
func (g Graph) CheckWorkers(known []string) error {
	r := newReport("")
	r.names = nodeNames(g)
	g.checkWorkers(known, r)
	return r.err()
}

func (g Graph) checkWorkers(known []string, r *report) {
	registered := make(map[string]bool, len(known))
	for _, name := range known {
		registered[name] = true
	}
	for i, n := range g.Nodes {
		if n.Worker == "" || registered[n.Worker] || !isName(n.Worker) || r.full() {
			continue
		}
		register := fmt.Sprintf("register it with `sluice worker add %s URL`", n.Worker)
		if near := nearest(n.Worker, known); near != "" {
			register = fmt.Sprintf("did you mean %q? Or %s", near, register)
		}
		r.add(place{node: i, field: "worker"}, fmt.Sprintf("no worker named %q", n.Worker), register)
	}
}

// check puts all rules to a graph.
func check(g Graph, r *report) {
	r.names = nodeNames(g)
	checkTopology(g, r)
	if len(g.Nodes) > MaxNodes {
		return // the report says so already; the rest would only cost time
	}
	for i, n := range g.Nodes {
		checkNode(i, n, r)
	}
	checkEdges(g, r)
}

func nodeNames(g Graph) []string {
	names := make([]string, len(g.Nodes))
	for i, n := range g.Nodes {
		names[i] = n.Name
	}
	return names
}

func checkTopology(g Graph, r *report) {
	at := place{node: topologyItself, field: "topology"}
	switch {
	case r.broken[at]:
	case g.Name == "":
		r.add(at, "the topology has no name", "add a line such as `topology: orders`")
	default:
		checkName(at, "topology name", g.Name, r)
	}

	at.field = "description"
	switch {
	case !utf8.ValidString(g.Description):
		r.add(at, "the description is not valid UTF-8", "write it in UTF-8")
	case strings.ContainsFunc(g.Description, isControl):
		r.add(at, "the description holds control characters", "keep to text, tabs and line feeds")
	case utf8.RuneCountInString(g.Description) > maxDescription:
		r.add(at, fmt.Sprintf("the description is longer than %d characters", maxDescription), "keep it short, the rest belongs into a document")
	}

	within(place{node: topologyItself, field: "bounds.messages"}, g.Bounds.Messages, messagesBounds, r)
	within(place{node: topologyItself, field: "bounds.bytes"}, g.Bounds.Bytes, bytesBounds, r)

	checkEntities(g, r)

	at.field = "nodes"
	switch {
	case r.broken[at]:
	case len(g.Nodes) == 0:
		r.add(at, "the topology has no nodes", "add a start node and what follows it under `nodes:`")
	case len(g.Nodes) > MaxNodes:
		r.add(at, fmt.Sprintf("more than %d nodes", MaxNodes), "split it into several topologies")
	}
}

func isControl(c rune) bool { return unicode.IsControl(c) && c != '\n' && c != '\t' }

func isName(s string) bool { return len(s) <= maxName && nameExpression.MatchString(s) }

func checkName(at place, what, name string, r *report) {
	if isName(name) {
		return
	}
	r.add(at, fmt.Sprintf("%s %s is not a name", what, quoted(name)),
		fmt.Sprintf("use lower-case letters and digits, joined by single hyphens, at most %d characters", maxName))
}

// checkNode looks at one node by itself.
func checkNode(i int, n Node, r *report) {
	if !r.broken[place{node: i, field: "name"}] {
		checkName(place{node: i}, "node name", n.Name, r)
	}
	if r.broken[place{node: i}] {
		return
	}
	at := func(field string) place { return place{node: i, field: field} }
	switch {
	case r.broken[at("kind")]:
	case n.Kind == "":
		r.add(at("kind"), "the node has no kind", "add `kind:` with one of "+strings.Join(kindNames(), ", "))
	case n.Kind.traits() == nil:
		r.add(at("kind"), "unknown kind "+quoted(string(n.Kind)),
			meant(string(n.Kind), kindNames(), "kinds are "+strings.Join(kindNames(), ", ")))
	case n.Kind.CallsWorker():
		checkCalls(n, at, r)
	default:
		checkNoCall(n, at, r)
	}
	if n.Kind == Start && len(n.Followers) == 0 && !r.broken[at("followers")] {
		r.add(at("followers"), "the start node has no followers", "add `followers:` with the nodes that its events go to")
	}
	checkParking(n, at, r)
	checkApplication(n, at, r)
}

// Settings that only nodes which call a worker have, and those that only breakpoints have.
var (
	callingFields = []string{"worker", "action", "timeout", "concurrency", "order_by", "retry"}
	parkingFields = []string{"title", "due", "may_act"}
)

// checkNoCall: a start node hands on what comes in, and a breakpoint what is approved.
func checkNoCall(n Node, at func(string) place, r *report) {
	for _, setting := range []struct {
		field string
		given bool
	}{
		{"worker", n.Worker != ""},
		{"action", n.Action != ""},
		{"timeout", n.Timeout != 0},
		{"concurrency", n.Concurrency != 0},
		{"order_by", !n.OrderBy.IsZero()},
		{"retry", n.Retry != Retry{}},
	} {
		if setting.given {
			refuseWithoutCall(at(setting.field), n.Kind, r)
		}
	}
}

func refuseWithoutCall(at place, kind Kind, r *report) {
	r.add(at, fmt.Sprintf("a %s node calls no worker, so it has no %s", kind, at.field), "remove the line, or move it to a follower")
}

func refuseUnlessBreakpoint(at place, r *report) {
	r.add(at, fmt.Sprintf("only a breakpoint has %s", at.field), "remove the line, or make it `kind: breakpoint`")
}

// checkParking looks at what sets a breakpoint apart.
func checkParking(n Node, at func(string) place, r *report) {
	if n.Kind != Breakpoint {
		for _, setting := range []struct {
			field string
			given bool
		}{{"title", !n.Title.IsZero()}, {"due", n.Due != 0}, {"may_act", n.MayAct != nil}} {
			if setting.given {
				refuseUnlessBreakpoint(at(setting.field), r)
			}
		}
		return
	}
	if n.Due != 0 {
		within(at("due"), n.Due, dueBounds, r)
	}
	if len(n.MayAct) > maxActors {
		r.add(at("may_act"), fmt.Sprintf("may_act names more than %d", maxActors), "leave it out: then everybody may act")
		return
	}
	for i, name := range n.MayAct {
		item := at("may_act")
		item.item = i + 1
		switch {
		case r.broken[item]:
		case slices.Contains(n.MayAct[:i], name):
			r.add(item, fmt.Sprintf("%s is named twice", quoted(name)), "remove one of them")
		case name == "" || len(name) > maxActor || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
			r.add(item, quoted(name)+" is no name of an API key", fmt.Sprintf("use the name of one, at most %d bytes", maxActor))
		}
	}
}

func checkApplication(n Node, at func(string) place, r *report) {
	if n.Application == "" || r.broken[at("application")] {
		return
	}
	if n.Kind.traits() != nil && !n.Kind.traits().application {
		r.add(at("application"), fmt.Sprintf("a %s node has no application", n.Kind),
			"remove the line, or make it `kind: connector` or `kind: batch`")
		return
	}
	checkName(at("application"), "application", n.Application, r)
}

// checkCalls looks at the settings of a node that calls a worker.
func checkCalls(n Node, at func(string) place, r *report) {
	if n.Worker == "" {
		if !r.broken[at("worker")] {
			r.add(at("worker"), fmt.Sprintf("a %s node needs a worker", n.Kind), "add `worker:` with the name of a registered worker")
		}
	} else {
		checkName(at("worker"), "worker name", n.Worker, r)
	}
	if !r.broken[at("action")] && (len(n.Action) > maxAction || !actionExpression.MatchString(n.Action)) {
		r.add(at("action"), fmt.Sprintf("action %s is not a path on the worker", quoted(n.Action)),
			fmt.Sprintf("use letters, digits and - . _ ~ between single slashes, none in front, no . or .. as a part, at most %d characters", maxAction))
	}
	if n.Concurrency != 0 {
		within(at("concurrency"), n.Concurrency, concurrencyBounds, r)
	}
	within(at("timeout"), n.Timeout, timeoutBounds, r)
	checkRetry(n.Retry, at, r)
}

func checkRetry(retry Retry, at func(string) place, r *report) {
	within(at("retry.attempts"), retry.Attempts, attemptsBounds, r)
	within(at("retry.factor"), retry.Factor, factorBounds, r)
	within(at("retry.jitter"), retry.Jitter, jitterBounds, r)
	inOrder := within(at("retry.initial"), retry.Initial, initialBounds, r)
	inOrder = within(at("retry.max"), retry.Max, maxBounds, r) && inOrder
	if inOrder && retry.Initial > retry.Max {
		r.add(at("retry.max"), fmt.Sprintf("retry.max %s is shorter than retry.initial %s", retry.Max, retry.Initial),
			"make max at least as long as initial")
	}
	oneOf(at("retry.retry_after"), string(retry.RetryAfter), r, string(RetryAfterHonour), string(RetryAfterIgnore))
	oneOf(at("retry.outage"), string(retry.Outage), r, string(OutageWait), string(OutageCount))
}

// within also refuses what is not a number, which no comparison holds for.
func within[T int | int64 | float64 | Duration](at place, value T, allowed extent[T], r *report) bool {
	if value >= allowed.least && value <= allowed.most {
		return true
	}
	if !r.broken[at] {
		r.add(at, fmt.Sprintf("%s %v is out of range", at.field, value), "use "+allowed.String())
	}
	return false
}

func oneOf(at place, value string, r *report, choices ...string) {
	if !slices.Contains(choices, value) && !r.broken[at] {
		r.add(at, fmt.Sprintf("%s is %s", at.field, quoted(value)), "use one of "+strings.Join(choices, ", "))
	}
}
