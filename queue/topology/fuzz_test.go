package topology_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"sluice/queue/topology"
)

// Whatever the bytes, the parser answers: with a sound graph that survives being
// written and kept, or with problems that say where and what.
func FuzzParse(f *testing.F) {
	f.Add(example(f, "orders.yaml"))
	f.Add(example(f, "stock.json"))
	for _, seed := range []string{
		"", "---\n...\n", "topology: t\nnodes:\n  in: {kind: start, followers: [a]}\n  a: {kind: custom, worker: w}\n",
		"topology: t\ndescription: |\n  a\n\n  b\nnodes:\n  in:\n    kind: start\n    followers:\n    - a\n    - \"b\"\n  a:\n    kind: batch\n    worker: w\n    retry:\n      factor: 1e0\n",
		"{\"topology\":\"t\",\"nodes\":{\"in\":{\"kind\":\"start\",\"followers\":[\"in\",\"b\",\"b\"]},\"in\":null,7:[]}}",
		"topology: t\nbounds: {messages: 1e5, bytes: 1GiB}\nnodes:\n  in: {kind: start, followers: [a]}\n  a:\n    kind: custom\n    worker: w\n    concurrency: 1\n    order_by: $.lines[0]['odd name']\n",
		"topology: t\nentities: {order: [$.id, X-Order-Id], o-2: \"$['a b'][-1]\", order: [], 7: null}\nnodes:\n  in: {kind: start, followers: [a]}\n  a: {kind: custom, worker: w}\n",
		"a: &a [*a]\n<<: *a\n", "? a\n: b\n", "!!str a: !b c\n", "- - - [[{a: {b: c}}]]\n", "a: >-\n  b\n # c\nd: 'e''f'\n", "%YAML 1.2\n---\na\n---\nb\n",
		"topology: t\nnodes:\n  a: {kind: custom, worker: w, followers: [b]}\n  b: {kind: custom, worker: w, followers: [a]}\n", "a:\t- b\n", "[a: b, c]: d\n", "\"\\ud83d\\u0000\": \"\\x\"\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := topology.Parse("f.yaml", data)
		if err != nil {
			var invalid *topology.InvalidError
			if !errors.As(err, &invalid) || len(invalid.Problems) == 0 {
				t.Fatalf("not an InvalidError with problems: %#v", err)
			}
			for _, p := range invalid.Problems {
				if p.Message == "" || p.File == "" || p.Line == 0 && len(data) < topology.MaxFileSize/4 && len(invalid.Problems) < 200 {
					t.Errorf("it does not say where or what: %+v", p)
				}
			}
			if err := topology.CheckWorkers("f.yaml", data, nil); err == nil {
				t.Error("is fine with all workers unknown")
			}
			return
		}
		ok(t, g.Validate())
		file, err := topology.Format(g)
		ok(t, err)
		back, err := topology.Parse("f.yaml", file)
		if err != nil {
			t.Fatalf("%v in\n%s", err, file)
		}
		if !reflect.DeepEqual(back, g) {
			t.Fatalf("came back as\n%+v\nfrom\n%+v\nby\n%s", back, g, file)
		}
		kept, err := json.Marshal(g)
		ok(t, err)
		var again topology.Graph
		ok(t, json.Unmarshal(kept, &again))
		if !reflect.DeepEqual(again, g) {
			t.Fatalf("came back as\n%+v\nfrom\n%s", again, kept)
		}
	})
}
