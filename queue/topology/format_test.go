package topology_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sluice/queue/topology"
)

// A canonical file is short, and close to what a person would write.
func TestFormat(t *testing.T) {
	t.Parallel()
	g, err := topology.Parse("f", []byte(`{"topology":"t","description":"Two lines:\nthe second one\n","bounds":{"bytes":1610612736,"messages":1e5},"nodes":{
		"in":{"kind":"start","followers":["null","7"]},
		"null":{"kind":"custom","worker":"on","timeout":"60s","action":"null","retry":{"attempts":10,"jitter":0,"max":"90m"}},
		"7":{"kind":"batch","worker":"w","action":"..a/7","application":"x","concurrency":2,"order_by":"$['odd \"name']","followers":["last"]},
		"last":{"kind":"custom","worker":"w","order_by":"Customer-ID"}}}`))
	ok(t, err)
	got, err := topology.Format(g)
	ok(t, err)
	want := `topology: t
description: |
  Two lines:
  the second one
bounds:
  messages: 100000
  bytes: 1536MiB
nodes:
  in:
    kind: start
    followers: ["null", "7"]
  "null":
    kind: custom
    worker: "on"
    timeout: 1m
    retry:
      max: 1h30m
      jitter: 0
  "7":
    kind: batch
    worker: w
    action: "..a/7"
    application: x
    concurrency: 2
    order_by: "$['odd \"name']"
    followers: [last]
  last:
    kind: custom
    worker: w
    order_by: customer-id
`
	if string(got) != want {
		t.Errorf("got\n%s", got)
	}
}

// What is written is read back the same, as a file and as JSON, whatever the graph.
func TestFormatRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		g := graphs.Draw(t, "graph")
		file, err := topology.Format(g)
		if err != nil {
			t.Fatal(err)
		}
		back, err := topology.Parse("f", file)
		if err != nil {
			t.Fatalf("%v in\n%s", err, file)
		}
		if !reflect.DeepEqual(back, g) {
			t.Fatalf("came back as\n%+v\nfrom\n%+v\nby\n%s", back, g, file)
		}
		kept, err := json.Marshal(g)
		if err != nil {
			t.Fatal(err)
		}
		var again topology.Graph
		if err := json.Unmarshal(kept, &again); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(again, g) {
			t.Fatalf("came back as\n%+v\nfrom\n%s", again, kept)
		}
		if changes := topology.Diff(g, back); changes != nil {
			t.Fatalf("differs from itself: %v", changes)
		}
	})
}

// graphs are valid ones. A node follows only those before it in a hidden order, and
// some node before it leads to it.
var graphs = rapid.Custom(func(t *rapid.T) topology.Graph {
	g := topology.Graph{
		Name:        names.Draw(t, "topology"),
		Description: descriptions.Draw(t, "description"),
		Bounds: topology.Bounds{
			Messages: rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, 1e9)).Draw(t, "messages"),
			Bytes:    rapid.OneOf(rapid.SampledFrom([]int64{0, 1, 1 << 10, 1 << 20, 1 << 30, 1 << 50}), rapid.Int64Range(0, 1<<50)).Draw(t, "bytes"),
		},
	}
	for _, kind := range rapid.SliceOfNDistinct(names, 0, 8, rapid.ID).Draw(t, "entities") {
		entity := topology.Entity{Kind: kind}
		for _, from := range rapid.SliceOfNDistinct(rapid.OneOf(rapid.StringMatching(`[a-z0-9_-]{1,12}`), rapid.StringMatching(`\$(\.[a-zé]{1,5}|\[-?[1-9]\]|\['[a-z #"]{1,5}'\]){0,3}`)), 1, 4, rapid.ID).Draw(t, "from") {
			o, err := topology.ParseOrderBy(from)
			if err != nil {
				t.Fatalf("%q: %v", from, err)
			}
			entity.From = append(entity.From, o)
		}
		g.Entities = append(g.Entities, entity)
	}
	labels := rapid.SliceOfNDistinct(names, 2, 9, rapid.ID).Draw(t, "nodes")
	last := len(labels) - 1
	for i, label := range labels {
		start := i == 0 || i < last && rapid.IntRange(0, 5).Draw(t, "start") == 0
		if start {
			g.Nodes = append(g.Nodes, topology.Node{Name: label, Kind: topology.Start})
		} else if rapid.IntRange(0, 5).Draw(t, "breakpoint") == 0 {
			g.Nodes = append(g.Nodes, breakpoint(t, label))
		} else {
			g.Nodes = append(g.Nodes, callingNode(t, label))
		}
	}
	follow := func(from, to int) {
		if name := labels[to]; !slices.Contains(g.Nodes[from].Followers, name) {
			g.Nodes[from].Followers = append(g.Nodes[from].Followers, name)
		}
	}
	for i := range labels {
		if g.Nodes[i].Kind == topology.Start {
			follow(i, last)
			continue
		}
		for range rapid.IntRange(1, 3).Draw(t, "edges") {
			follow(rapid.IntRange(0, i-1).Draw(t, "from"), i)
		}
	}
	g.Nodes = rapid.Permutation(g.Nodes).Draw(t, "order")
	return g
})

func breakpoint(t *rapid.T, label string) topology.Node {
	n := topology.Node{Name: label, Kind: topology.Breakpoint}
	text := rapid.OneOf(rapid.SampledFrom([]string{"", "null", "7", "{a}", "a: {$.b['#']} # {{c}}", "- \"x'"}), rapid.StringMatching(`[a-zé:#"'-]{1,10} ?\{[a-z]{1,5}\}`)).Draw(t, "title")
	if err := n.Title.UnmarshalText([]byte(text)); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	if rapid.Bool().Draw(t, "is due") {
		n.Due = topology.Duration(rapid.Int64Range(int64(time.Second), int64(1000*time.Hour)).Draw(t, "due"))
	}
	n.MayAct = rapid.SampledFrom([][]string{nil, {"ann"}, {"ann", "no", "7", "a, b] #"}}).Draw(t, "may act")
	return n
}

func callingNode(t *rapid.T, label string) topology.Node {
	n := topology.Node{
		Name:        label,
		Kind:        rapid.SampledFrom([]topology.Kind{topology.Custom, topology.Connector, topology.Batch}).Draw(t, "kind"),
		Worker:      names.Draw(t, "worker"),
		Action:      rapid.OneOf(rapid.Just(label), actions).Draw(t, "action"),
		Timeout:     durations(topology.Duration(time.Hour)).Draw(t, "timeout"),
		Concurrency: rapid.SampledFrom([]int{0, 1, 20, 10000}).Draw(t, "concurrency"),
		OrderBy:     orders.Draw(t, "order"),
		Retry: topology.Retry{
			Attempts:   rapid.OneOf(rapid.Just(10), rapid.IntRange(1, 1000)).Draw(t, "attempts"),
			Initial:    durations(topology.Duration(time.Hour)).Draw(t, "initial"),
			Factor:     rapid.OneOf(rapid.Just(2.0), rapid.Float64Range(1, 10)).Draw(t, "factor"),
			Max:        topology.Duration(rapid.Int64Range(int64(time.Hour), int64(24*time.Hour)).Draw(t, "max")),
			Jitter:     rapid.OneOf(rapid.Just(0.2), rapid.Float64Range(0, 1)).Draw(t, "jitter"),
			RetryAfter: rapid.SampledFrom([]topology.RetryAfter{topology.RetryAfterHonour, topology.RetryAfterIgnore}).Draw(t, "retry_after"),
			Outage:     rapid.SampledFrom([]topology.Outage{topology.OutageWait, topology.OutageCount}).Draw(t, "outage"),
		},
	}
	if n.Kind != topology.Custom {
		n.Application = rapid.OneOf(rapid.Just(""), names).Draw(t, "application")
	}
	return n
}

var (
	names = rapid.OneOf(
		rapid.SampledFrom([]string{"null", "true", "no", "on", "y", "1e5", "0x1f", "0b1", "7", "007", "1-2-3", "2020-01-01", "a"}),
		rapid.StringMatching(`[a-z0-9]{1,8}(-[a-z0-9]{1,8}){0,4}`),
	)
	actions = rapid.OneOf(
		rapid.SampledFrom([]string{"null", "~", "-", "-a", ".a", "...", "..a/~b", "1e5", ".5", "0x1f", "-1", "a/", "A/.b/_c"}),
		rapid.StringMatching(`[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,9}(/[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,9}){0,2}/?`),
	)
	orders = rapid.Custom(func(t *rapid.T) topology.OrderBy {
		text := rapid.OneOf(
			rapid.SampledFrom([]string{"", "", "$", "null", "yes", "7", "-", "$.a", "$[0]", "$['a b'][-1]", `$["\""]`, "$ .é['\\u0000']", "$.\U0001F600", "$[ 'a' ]"}),
			rapid.StringMatching(`[A-Za-z0-9_-]{1,20}|\$(\.[a-z_][a-z0-9_]{0,5}|\[(0|-?[1-9][0-9]?)\]|\['[a-z #:"{}]{0,5}'\]){0,4}`),
		).Draw(t, "order_by")
		var o topology.OrderBy
		if err := o.UnmarshalText([]byte(text)); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		return o
	})
	descriptions = rapid.OneOf(
		rapid.SampledFrom([]string{
			"", " ", "a", "a\n", "\na", "a\n\nb", "a\n b", "a: b\n# c\n", "- a\n- b", "a\n\n", "---\n...\n", "null", "7", "a\tb", "a\n\tb", "\u2028", "\ufeffa\nb",
			"a # b", "a: b", "a:", "%a\n%b\n", "*a", "|\n>", "'a'", "\"a\"\n\\n", "a\\", "\U0001F600\nb", "é, ž", "{}\n[]", "@\n`",
		}),
		rapid.StringOfN(rapid.OneOf(rapid.RuneFrom([]rune("ab \n\t:#-\"'\\{}[],&*!|>%@`?~0\u00a0\u2028\ufeff\U0001F600"))), 0, 30, -1),
		rapid.StringMatching(`([a-z:#"'-]{1,5} ?[a-z:#"'-]{1,5}\n){0,4}`),
	)
)

func durations(most topology.Duration) *rapid.Generator[topology.Duration] {
	return rapid.OneOf(
		rapid.SampledFrom([]topology.Duration{second, 30 * second, minute, 60 * minute}),
		rapid.Custom(func(t *rapid.T) topology.Duration {
			return topology.Duration(rapid.Int64Range(int64(time.Millisecond), int64(most)).Draw(t, "duration"))
		}),
	)
}
