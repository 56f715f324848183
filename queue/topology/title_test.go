package topology_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"sluice/queue/topology"
)

// A title shows values of the message, and says where there are none.
func TestTitle(t *testing.T) {
	t.Parallel()
	headers := map[string]string{"customer-id": "c-7", "long": strings.Repeat("é", 200), "odd": "a\nb\x00\u202ec"}
	body := []byte(`{"order": {"id": 17, "total": 1.50, "lines": [{"sku": "a\"b"}]}, "a}b": "brace", "none": null}`)
	for _, c := range []struct{ template, want string }{
		{"Order", "Order"},
		{"Order {$.order.id} of {customer-id}", "Order 17 of c-7"},
		{"{Customer-ID}", "c-7"},
		{"{$.order.total}: {$.order.lines[0].sku}", `1.50: a"b`},
		{"{$.order.lines}", `[{"sku": "a\"b"}]`},
		{"{{literal}} {$['a}b']}", "{literal} brace"},
		{"{$.none}/{$.missing}/{missing}", "?/?/?"},
		{"{odd}", "a b  c"},
		{"{long}", strings.Repeat("é", 99) + "…"},
	} {
		title, err := topology.ParseTitle(c.template)
		if err != nil {
			t.Errorf("%s: %v", c.template, err)
			continue
		}
		if got := title.Of(headers, body); got != c.want {
			t.Errorf("%s: got %q, want %q", c.template, got, c.want)
		}
		if title.String() != c.template {
			t.Errorf("%s is written %s", c.template, title)
		}
	}
	for _, bad := range []string{"", " ", "{", "a {b", "}", "a } b", "{}", "{a b}", "{$..a}", "a\nb", "\xff", strings.Repeat("a", 301)} {
		if _, err := topology.ParseTitle(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// Whatever comes, a title is a line that can be stored and shown.
func TestTitleIsALine(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		title, err := topology.ParseTitle("{a}{$.b}{{" + strings.Repeat("x", rapid.IntRange(0, 250).Draw(t, "length")))
		if err != nil {
			t.Fatal(err)
		}
		got := title.Of(map[string]string{"a": rapid.String().Draw(t, "a")}, rapid.SliceOf(rapid.Byte()).Draw(t, "body"))
		if !utf8.ValidString(got) || strings.ContainsAny(got, "\x00\n\r\u2028") || utf8.RuneCountInString(got) > 300 {
			t.Fatalf("%q", got)
		}
	})
}

// A breakpoint has what it parks messages with, and nothing of a call.
func TestBreakpoint(t *testing.T) {
	t.Parallel()
	const head = "topology: t\nnodes:\n  in: {kind: start, followers: [check]}\n"
	g, err := topology.Parse("f", []byte(head+`  check: {kind: breakpoint, title: "Order {$.id}", due: 48h, may_act: [ann, "bob b"], followers: [a]}
  a: {kind: custom, worker: w}
`))
	if err != nil {
		t.Fatal(err)
	}
	n := g.Nodes[1]
	if n.Title.String() != "Order {$.id}" || n.Due.String() != "48h" || strings.Join(n.MayAct, ",") != "ann,bob b" || n.Kind.CallsWorker() || n.Timeout != 0 || n.Action != "" || n.Retry != (topology.Retry{}) {
		t.Errorf("%+v", n)
	}
	for bad, want := range map[string]string{
		`  check: {kind: breakpoint, worker: w}`:              "a breakpoint node calls no worker, so it has no worker",
		`  check: {kind: breakpoint, retry: {attempts: 1}}`:   "so it has no retry",
		`  check: {kind: breakpoint, application: x}`:         "a breakpoint node has no application",
		`  check: {kind: breakpoint, title: "{"}`:             "a { is not closed",
		`  check: {kind: breakpoint, title: 7}`:               "title is a number, not text",
		`  check: {kind: breakpoint, due: 0s}`:                "due 0s is out of range",
		`  check: {kind: breakpoint, due: 10001h}`:            "is out of range",
		`  check: {kind: breakpoint, may_act: []}`:            "may_act names nobody",
		`  check: {kind: breakpoint, may_act: ann}`:           "may_act is text, not a list",
		`  check: {kind: breakpoint, may_act: [ann, ann]}`:    "named twice",
		`  check: {kind: breakpoint, may_act: ["a\tb"]}`:      "is no name of an API key",
		`  check: {kind: custom, worker: w, title: x}`:        "only a breakpoint has title",
		`  check: {kind: batch, worker: w, due: 1h}`:          "only a breakpoint has due",
		`  check: {kind: connector, worker: w, may_act: [a]}`: "only a breakpoint has may_act",
	} {
		if _, err := topology.Parse("f", []byte(head+bad+"\n")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", bad, err, want)
		}
	}
}
