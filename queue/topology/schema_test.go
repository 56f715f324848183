package topology_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"

	"sluice/queue/topology"
)

var update = flag.Bool("update", false, "write openapi/topology.schema.json anew")

// The published schema is the one that this code makes.
func TestSchemaIsPublished(t *testing.T) {
	t.Parallel()
	const published = "../../openapi/topology.schema.json"
	want := topology.JSONSchema()
	if *update {
		ok(t, os.WriteFile(published, want, 0o644))
	}
	got, err := os.ReadFile(published)
	ok(t, err)
	if !bytes.Equal(got, want) {
		t.Fatal("openapi/topology.schema.json is not up to date: run `go test ./queue/topology -run TestSchemaIsPublished -update`")
	}
}

type noLoader struct{}

func (noLoader) Load(url string) (any, error) { return nil, errors.New("nothing is loaded: " + url) }

func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(topology.JSONSchema()))
	ok(t, err)
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(noLoader{})
	ok(t, compiler.AddResource("topology.schema.json", doc))
	schema, err := compiler.Compile("topology.schema.json")
	ok(t, err)
	return schema
}

// fits tells whether the schema takes a file, as an editor would ask it.
func fits(schema *jsonschema.Schema, file []byte) error {
	text, err := yaml.YAMLToJSON(file)
	if err != nil {
		return err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err
	}
	return schema.Validate(doc)
}

// The schema and the parser say the same, as far as a schema can tell.
func TestSchemaAgrees(t *testing.T) {
	t.Parallel()
	schema := compiled(t)
	for _, name := range []string{"orders.yaml", "stock.json"} {
		ok(t, fits(schema, example(t, name)))
	}
	file := func(nodes string) string { return "topology: t\nnodes:\n  in: {kind: start, followers: [a]}\n" + nodes }
	custom := func(settings string) string { return file("  a: {kind: custom, worker: w, " + settings + "}\n") }
	retry := func(settings string) string { return custom("retry: {" + settings + "}") }
	for _, good := range []string{
		custom(""), custom("action: v1/a.b/~c/"), custom("action: ..."), custom("timeout: 1h"), custom("timeout: 0.5s"), custom("timeout: 1m30s"),
		custom("concurrency: 1"), custom("concurrency: 10000"), custom("followers: []"), custom("retry: {}"),
		retry("attempts: 1, factor: 1, jitter: 0, max: 24h, initial: 1ms"), retry("attempts: 1000, factor: 10, jitter: 1"),
		retry("factor: 2.5, retry_after: ignore, outage: count"), retry("attempts: 3.0"),
		file("  a: {kind: connector, worker: w, application: x-1}\n"), file("  a: {kind: batch, worker: w}\n"),
		custom("order_by: customer-id"), custom("order_by: X_1"), custom("order_by: '$'"), custom(`order_by: "$.a.b_1['c d'][\"e\"][0][-12]"`), custom("order_by: '$ [ 0 ] .é'"), custom("order_by: '$[\"\\u00e9\\\"\"]'"),
		"bounds: {}\n" + custom(""), "bounds: {messages: 0, bytes: 0}\n" + custom(""), "bounds: {messages: 1000000000, bytes: 1GiB}\n" + custom(""), "bounds: {bytes: 0KiB}\n" + custom(""), "bounds: {bytes: 7}\n" + custom(""),
		"entities: {}\n" + custom(""), "entities: {order: $.id, a-1: [X-Id, '$[0]']}\n" + custom(""),
		file("  a: {kind: breakpoint}\n"), file("  a: {kind: breakpoint, title: 'Order {$.id}', due: 48h, may_act: [ann]}\n"),
		"$schema: x\ndescription: \"a\\nb\\tc\"\n" + custom(""),
	} {
		if _, err := topology.Parse("f", []byte(good)); err != nil {
			t.Errorf("the parser refuses %s\n%v", good, err)
		}
		if err := fits(schema, []byte(good)); err != nil {
			t.Errorf("the schema refuses %s\n%v", good, err)
		}
	}
	for _, bad := range []string{
		"{}", "[]", "topology: t\n", "nodes: {}\n", "topology: T\nnodes: {in: {kind: start, followers: [a]}, a: {kind: custom, worker: w}}\n", "topology: t\nnodes: {}\n",
		"topology: t\nnodes: []\n", "version: 1\n" + custom(""), "description: 7\n" + custom(""), "description: \"\\x7f\"\n" + custom(""),
		custom("colour: red"), custom("action: /a"), custom("action: a/../b"), custom("action: ."), custom("action: a//b"), custom("action: ''"), custom("action: a b"),
		custom("timeout: 30"), custom("timeout: soon"), custom("timeout: 1d"), custom("timeout: -1s"), custom("timeout: 5us"), custom("timeout: ''"),
		custom("concurrency: 0"), custom("concurrency: 10001"), custom("concurrency: 1.5"), custom("concurrency: '1'"), custom("application: x"),
		custom("order_by: a.b"), custom("order_by: a b"), custom("order_by: ''"), custom("order_by: 7"), custom("order_by: [a]"), custom("order_by: '$.*'"), custom("order_by: $..a"), custom("order_by: '$[*]'"), custom("order_by: '$[0:1]'"),
		custom("order_by: '$[a]'"), custom("order_by: '$[01]'"), custom("order_by: '$a'"), custom("order_by: '$.a '"), custom("order_by: '$.1'"), custom("order_by: " + strings.Repeat("a", 201)),
		"bounds: 7\n" + custom(""), "bounds: {messages: -1}\n" + custom(""), "bounds: {messages: 1000000001}\n" + custom(""), "bounds: {messages: 1KiB}\n" + custom(""), "bounds: {bytes: 1GB}\n" + custom(""), "bounds: {bytes: 1.5GiB}\n" + custom(""),
		"bounds: {bytes: -1}\n" + custom(""), "bounds: {bytes: '7'}\n" + custom(""), "bounds: {edges: 1}\n" + custom(""), custom("bounds: {messages: 1}"), file("  a: {kind: start, order_by: x, followers: [b]}\n"),
		"entities: 7\n" + custom(""), "entities: {Order: $.id}\n" + custom(""), "entities: {order: }\n" + custom(""), "entities: {order: 7}\n" + custom(""), "entities: {order: []}\n" + custom(""), "entities: {order: $.*}\n" + custom(""),
		"entities: {order: [a, a]}\n" + custom(""), "entities: {order: [a, b, c, d, e]}\n" + custom(""), "entities: {a: a, b: a, c: a, d: a, e: a, f: a, g: a, h: a, i: a}\n" + custom(""), custom("entities: {order: $.id}"),
		custom("followers: a"), custom("followers: [b, b]"), custom("followers: [B]"), custom("followers: [1]"), custom("followers: [null]"),
		custom("retry: 3"), retry("attempts: 0"), retry("attempts: 1001"), retry("factor: 0.9"), retry("factor: 10.1"), retry("jitter: -0.1"), retry("jitter: 1.1"),
		retry("retry_after: maybe"), retry("outage: maybe"), retry("attempt: 3"), retry("initial: 1"),
		file("  a: {worker: w}\n"), file("  a: {kind: custom}\n"), file("  a: {kind: cron, worker: w}\n"), file("  a: {kind: batch, worker: W}\n"), file("  a:\n"), file("  a_b: {kind: custom, worker: w}\n"),
		file("  a: {kind: start}\n"), file("  a: {kind: start, followers: []}\n"), file("  a: {kind: start, worker: w, followers: [b]}\n"), file("  a: {kind: start, application: w, followers: [b]}\n"),
		file("  a: {kind: start, retry: {}, followers: [b]}\n"), file("  a: {kind: breakpoint, worker: w}\n"), file("  a: {kind: breakpoint, application: w}\n"),
		file("  a: {kind: breakpoint, title: ' '}\n"), file("  a: {kind: breakpoint, due: 3}\n"), file("  a: {kind: breakpoint, may_act: []}\n"), file("  a: {kind: breakpoint, may_act: [a, a]}\n"),
		custom("title: x"), custom("due: 1h"), custom("may_act: [a]"), file("  a: {kind: start, title: x, followers: [b]}\n"),
	} {
		if _, err := topology.Parse("f", []byte(bad)); err == nil {
			t.Errorf("the parser takes %s", bad)
		}
		if err := fits(schema, []byte(bad)); err == nil {
			t.Errorf("the schema takes %s", bad)
		}
	}
}

// What Format writes fits the schema as well.
func TestSchemaTakesWhatIsWritten(t *testing.T) {
	t.Parallel()
	schema := compiled(t)
	rapid.Check(t, func(t *rapid.T) {
		file, err := topology.Format(graphs.Draw(t, "graph"))
		if err != nil {
			t.Fatal(err)
		}
		if err := fits(schema, file); err != nil {
			t.Fatalf("%v\n%s", err, file)
		}
	})
}

// What an editor offers is taken: each default, example and choice in the schema.
func TestSchemaOffersWhatIsTaken(t *testing.T) {
	t.Parallel()
	type offer struct {
		Default    any              `json:"default"`
		Examples   []any            `json:"examples"`
		Enum       []any            `json:"enum"`
		Properties map[string]offer `json:"properties"`
	}
	var schema struct {
		Properties struct {
			Bounds   offer `json:"bounds"`
			Entities offer `json:"entities"`
			Nodes    struct {
				AdditionalProperties offer `json:"additionalProperties"`
			} `json:"nodes"`
		} `json:"properties"`
		Examples []any `json:"examples"`
	}
	ok(t, json.Unmarshal(topology.JSONSchema(), &schema))
	try := func(what string, file any) {
		text, err := json.Marshal(file)
		ok(t, err)
		if _, err := topology.Parse("f", text); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, file := range schema.Examples {
		try("topology", file)
	}
	least := func(bounds any) map[string]any {
		nodes := map[string]any{"in": map[string]any{"kind": "start", "followers": []any{"a"}}, "a": map[string]any{"kind": "custom", "worker": "w"}}
		return map[string]any{"topology": "t", "bounds": bounds, "nodes": nodes}
	}
	for _, bounds := range schema.Properties.Bounds.Examples {
		try("bounds", least(bounds))
	}
	for _, entities := range schema.Properties.Entities.Examples {
		file := least(map[string]any{})
		file["entities"] = entities
		try("entities", file)
	}
	for field, offered := range schema.Properties.Bounds.Properties {
		for _, value := range offered.Examples {
			try("bounds."+field, least(map[string]any{field: value}))
		}
	}
	node := schema.Properties.Nodes.AdditionalProperties
	tried := 0
	for _, fields := range []struct {
		in     string
		offers map[string]offer
	}{{"", node.Properties}, {"retry", node.Properties["retry"].Properties}} {
		for field, offered := range fields.offers {
			values := append(offered.Examples, offered.Enum...)
			if offered.Default != nil {
				values = append(values, offered.Default)
			}
			for _, value := range values {
				tried++
				a := map[string]any{"kind": "connector", "worker": "w", "followers": []any{"b"}}
				switch {
				case fields.in != "":
					retry := map[string]any{"initial": "1ms", "max": "24h"}
					retry[field] = value
					a[fields.in] = retry
				case value == "breakpoint" || field == "title" || field == "due" || field == "may_act":
					a = map[string]any{"kind": "breakpoint", "followers": []any{"b"}}
					a[field] = value
				case value == "start":
					a = map[string]any{"kind": "start", "followers": []any{"b"}}
				case field != "followers":
					a[field] = value
				}
				last := map[string]any{"kind": "custom", "worker": "w"}
				nodes := map[string]any{"in": map[string]any{"kind": "start", "followers": []any{"a", "b"}}, "a": a, "b": last}
				if value == "start" {
					nodes["in"] = map[string]any{"kind": "start", "followers": []any{"b"}}
				}
				try(field, map[string]any{"topology": "t", "nodes": nodes})
			}
		}
	}
	if tried < 30 {
		t.Errorf("only %d offers", tried)
	}
}
