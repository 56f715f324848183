package topology_test

import (
	"math"
	"reflect"
	"strings"
	"testing"

	"sluice/queue/topology"
)

// The server knows the workers, and says so with all else that is wrong with a file.
func TestCheckWorkers(t *testing.T) {
	t.Parallel()
	file := "topology: t\nnodes:\n  in: {kind: start, followers: [a, b, c]}\n  a:\n    kind: custom\n    worker: shpo\n  b: {kind: custom, worker: billing}\n  c: {kind: custom, worker: shop, colour: red}\n"
	known := []string{"shop", "warehouse"}
	want := []string{
		`f.yaml:6: node "a": no worker named "shpo": did you mean "shop"? Or register it with ` + "`sluice worker add shpo URL`",
		`f.yaml:7: node "b": no worker named "billing": register it with ` + "`sluice worker add billing URL`",
		`f.yaml:8: node "c": unknown field "colour": the fields here are kind, worker, action, application, timeout, concurrency, order_by, retry, title, due, may_act, followers`,
	}
	if got := problems(t, topology.CheckWorkers("f.yaml", []byte(file), known)); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
	file = strings.Replace(file, ", colour: red", "", 1)
	g, err := topology.Parse("f.yaml", []byte(file))
	ok(t, err)
	ok(t, topology.CheckWorkers("f.yaml", []byte(file), []string{"shop", "shpo", "billing"}))
	ok(t, g.CheckWorkers([]string{"shop", "shpo", "billing"}))
	want = []string{strings.TrimPrefix(want[0], "f.yaml:6: "), strings.TrimPrefix(want[1], "f.yaml:7: ")}
	if got := problems(t, g.CheckWorkers(known)); !reflect.DeepEqual(got, want) {
		t.Errorf("without a file got\n%s", strings.Join(got, "\n"))
	}
}

// A graph that was not read from a file is held to the same rules.
func TestValidateGraph(t *testing.T) {
	t.Parallel()
	g, err := topology.Parse("f", example(t, "stock.json"))
	ok(t, err)
	ok(t, g.Validate())
	for name, test := range map[string]struct {
		spoil func(*topology.Graph)
		want  []string
	}{
		"empty":       {func(g *topology.Graph) { g.Nodes = nil }, []string{"the topology has no nodes: add a start node and what follows it under `nodes:`"}},
		"NaN":         {func(g *topology.Graph) { g.Nodes[2].Retry.Factor = math.NaN() }, []string{`node "merge": retry.factor NaN is out of range: use 1 to 10`}},
		"not UTF-8":   {func(g *topology.Graph) { g.Description = "\xff" }, []string{"the description is not valid UTF-8: write it in UTF-8"}},
		"concurrency": {func(g *topology.Graph) { g.Nodes[3].Concurrency = -1 }, []string{`node "publish": concurrency -1 is out of range: use 1 to 10000`}},
		"no action": {func(g *topology.Graph) { g.Nodes[3].Action = "" }, []string{
			`node "publish": action "" is not a path on the worker: use letters, digits and - . _ ~ between single slashes, none in front, no . or .. as a part, at most 200 characters`,
		}},
		"duplicate": {func(g *topology.Graph) { g.Nodes = append(g.Nodes, g.Nodes[3]) }, []string{`node "publish": node "publish" is defined twice: rename or remove one of them`}},
		"nameless":  {func(g *topology.Graph) { g.Name = "" }, []string{"the topology has no name: add a line such as `topology: orders`"}},
		"start with settings": {func(g *topology.Graph) { g.Nodes[0].Timeout = 1 }, []string{
			`node "north": a start node calls no worker, so it has no timeout: remove the line, or move it to a follower`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := g
			g.Nodes = append([]topology.Node(nil), g.Nodes...)
			test.spoil(&g)
			if got := problems(t, g.Validate()); !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %q", got)
			}
			if _, err := topology.Format(g); err == nil {
				t.Error("was formatted")
			}
		})
	}
}

func TestNode(t *testing.T) {
	t.Parallel()
	g, err := topology.Parse("f", example(t, "stock.json"))
	ok(t, err)
	if n, found := g.Node("merge"); !found || n.Action != "levels/merge" {
		t.Errorf("merge is %+v", n)
	}
	if _, found := g.Node("elsewhere"); found {
		t.Error("found a node that is not there")
	}
	for kind, calls := range map[topology.Kind]bool{topology.Start: false, topology.Custom: true, topology.Connector: true, topology.Batch: true, "cron": false} {
		if kind.CallsWorker() != calls {
			t.Errorf("%s calls a worker: %t", kind, !calls)
		}
	}
}
