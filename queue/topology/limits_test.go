package topology_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"sluice/queue/topology"
)

// large is a JSON file with so many nodes in a row, each with all that a node can
// have and with so many followers.
func large(nodes, followers int) string {
	var b strings.Builder
	b.WriteString("{\"topology\": \"large\", \"nodes\": {\n  \"n0\": {\"kind\": \"start\", \"followers\": [\"n1\"]}")
	for i := 1; i < nodes; i++ {
		fmt.Fprintf(&b, `,
  "n%d": {
    "kind": "connector", "worker": "w", "action": "a/b/c", "application": "x", "timeout": "1m", "concurrency": 3, "order_by": "$.customer.id",
    "retry": {"attempts": 3, "initial": "2s", "factor": 3, "max": "1h", "jitter": 0.1, "retry_after": "ignore", "outage": "count"},
    "followers": [`, i)
		for k := i + 1; k < nodes && k <= i+followers; k++ {
			fmt.Fprintf(&b, "%s\"n%d\"", map[bool]string{true: ", "}[k > i+1], k)
		}
		b.WriteString("]\n  }")
	}
	b.WriteString("\n}}\n")
	return b.String()
}

// The largest topology that is allowed is read; one more is refused.
func TestLimits(t *testing.T) {
	t.Parallel()
	g, err := topology.Parse("f", []byte(large(topology.MaxNodes, 10)))
	ok(t, err)
	if len(g.Nodes) != topology.MaxNodes {
		t.Fatalf("%d nodes", len(g.Nodes))
	}
	for name, test := range map[string]struct{ file, want string }{
		"nodes": {large(topology.MaxNodes+1, 1), "f:1: more than 1000 nodes: split it into several topologies"},
		"edges": {large(topology.MaxNodes, 11), `node "n910": more than 10000 followers in all: split it into several topologies`},
		"bytes": {large(10, 1) + strings.Repeat(" ", topology.MaxFileSize), "f: the file is larger than 1048576 bytes: split it into several topologies"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := topology.Parse("f", []byte(test.file))
			got := problems(t, err)
			if len(got) != 1 || !strings.Contains(got[0], test.want) {
				t.Fatalf("got %q", got)
			}
		})
	}
}

// No file, however it is made, keeps the server busy or breaks it. Those that a YAML
// parser would go astray with are stopped before it sees them.
func TestHostileFiles(t *testing.T) {
	t.Parallel()
	const size = 280_000
	fill := func(piece string) string { return strings.Repeat(piece, size/len(piece)) }
	head := "topology: t\nnodes:\n  in: {kind: start, followers: [a]}\n"
	long := strings.Repeat("a", 60)
	var near strings.Builder
	near.WriteString("topology: t\nnodes:\n")
	for i := range 900 {
		fmt.Fprintf(&near, "  %s%d: {kind: start, followers: [%s-%d]}\n", long, i, long, i)
	}
	for name, test := range map[string]struct{ file, want string }{
		"brackets":           {fill("["), "nested too deeply"},
		"braces":             {fill("{a: "), "nested too deeply"},
		"JSON braces":        {fill(`{"a":`), "nested too deeply"},
		"dashes":             {fill("- "), "nested too deeply"},
		"colons":             {fill(": "), "nested too deeply"},
		"stairs":             {stairs(), "nested too deeply"},
		"pairs in pairs":     {"[" + fill("a: \n ") + "b]", "two colons in a row"},
		"closing brackets":   {fill("]"), "not valid YAML"},
		"question marks":     {fill("? "), "explicit keys"},
		"tags":               {fill("!!str "), "tags (!)"},
		"anchors":            {fill("&a "), "anchors (&)"},
		"laughs":             {"a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n", "anchors (&)"},
		"documents":          {fill("---\n"), "several documents"},
		"one mapping":        {fill("a: b\n"), "more than 2000 entries in one mapping"},
		"one flow mapping":   {"{" + fill("a: b,") + "}", "more than 50000 entries in all"},
		"one list":           {fill("- a\n"), "more than 50000 entries in all"},
		"empty items":        {strings.Repeat("-\n", 15000), "holds a list"},
		"empty lists":        {strings.Repeat("- - -\n", 6000), "holds a list"},
		"keys with no value": {"{" + strings.Repeat("a,", 12000) + "}", "unknown field"},
		"unknown fields":     {head + "  a: {" + strings.Repeat("b: c, ", 24000) + "}", "more than 200 problems"},
		"followers":          {head + "  a: {kind: custom, worker: w, followers: [" + strings.Repeat("a,", 49000) + "]}", "more than 10000 followers"},
		"hard to tell apart": {near.String(), "unknown follower"},
		"quotes":             {fill("\"a\n"), "not valid YAML"},
		"one text":           {"\"" + fill("a\n") + "\"", "holds text"},
		"block text":         {"a: |\n" + fill("  a\n"), "unknown field"},
		"spaces":             {fill(" "), "empty"},
		"empty lines":        {fill("\n"), "empty"},
		"carriage returns":   {fill("\r"), "empty"},
		"comments":           {fill("#a\n"), "empty"},
		"marks":              {strings.Repeat("[]", topology.MaxFileSize/2), "more than 300000 marks"},
		"one long word":      {strings.Repeat("a", topology.MaxFileSize), "holds text"},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			_, err := topology.Parse("f", []byte(test.file))
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("took %s", took)
			}
			if got := strings.Join(problems(t, err), "\n"); !strings.Contains(got, test.want) {
				t.Errorf("got %.400s", got)
			}
		})
	}
}

// stairs goes one column deeper with every line.
func stairs() string {
	const size = 280_000
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}
