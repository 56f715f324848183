package topology_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"sluice/queue/topology"
)

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func example(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("../../docs/examples/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// problems are the lines of the error, or none.
func problems(t testing.TB, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	var invalid *topology.InvalidError
	if !errors.As(err, &invalid) || len(invalid.Problems) == 0 {
		t.Fatalf("not an InvalidError with problems: %#v", err)
	}
	lines := []string{}
	for _, p := range invalid.Problems {
		lines = append(lines, p.String())
	}
	return lines
}

const (
	second = topology.Duration(time.Second)
	minute = topology.Duration(time.Minute)
)

// A file becomes a graph with all defaults filled in and the nodes in its order.
func TestParseExample(t *testing.T) {
	t.Parallel()
	got, err := topology.Parse("orders.yaml", example(t, "orders.yaml"))
	ok(t, err)
	retry := func(change func(*topology.Retry)) topology.Retry {
		r := topology.Retry{
			Attempts: 10, Initial: second, Factor: 2, Max: 10 * minute, Jitter: 0.2,
			RetryAfter: topology.RetryAfterHonour, Outage: topology.OutageWait,
		}
		change(&r)
		return r
	}
	standard := retry(func(*topology.Retry) {})
	want := topology.Graph{
		Name:        "orders",
		Description: "Orders from the shop to the CRM, with the invoices of the day in between",
		Bounds:      topology.Bounds{Messages: 100_000, Bytes: 1 << 30},
		Entities:    []topology.Entity{{Kind: "order", From: []topology.OrderBy{orderBy(t, "$.order.id"), orderBy(t, "order-id")}}},
		Nodes: []topology.Node{
			{Name: "inbox", Kind: topology.Start, Followers: []string{"check"}},
			{
				Name: "check", Kind: topology.Custom, Worker: "shop", Action: "check-order",
				Timeout: 10 * second, Concurrency: 20,
				Retry:     retry(func(r *topology.Retry) { r.Attempts, r.Initial, r.Max = 5, second/2, minute }),
				Followers: []string{"store", "invoices", "audit"},
			},
			{
				Name: "store", Kind: topology.Connector, Worker: "shop", Action: "store", Application: "hubspot", Timeout: 30 * second, OrderBy: orderBy(t, "$.customer.id"),
				Retry: retry(func(r *topology.Retry) { r.Attempts, r.Max = 20, 60*minute }),
			},
			{
				Name: "invoices", Kind: topology.Batch, Worker: "shop", Action: "invoices/pages", Application: "stripe",
				Timeout: 30 * second, Retry: standard, Followers: []string{"mail"},
			},
			{
				Name: "mail", Kind: topology.Custom, Worker: "shop", Action: "mail", Timeout: 30 * second,
				Retry: retry(func(r *topology.Retry) { r.Jitter, r.Outage = 0.5, topology.OutageCount }),
			},
			{Name: "audit", Kind: topology.Custom, Worker: "shop", Action: "audit", Timeout: 30 * second, Retry: standard},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
}

// JSON is read by the same parser; tabs, Windows line ends and a byte order mark
// are no obstacle.
func TestParseSameInAnyDress(t *testing.T) {
	t.Parallel()
	stock, err := topology.Parse("stock.json", example(t, "stock.json"))
	ok(t, err)
	orders, err := topology.Parse("orders.yaml", example(t, "orders.yaml"))
	ok(t, err)
	var compact strings.Builder
	for line := range strings.Lines(string(example(t, "stock.json"))) {
		compact.WriteString(strings.TrimSpace(line))
	}
	for name, dress := range map[string]struct {
		text string
		want topology.Graph
	}{
		"JSON with tabs":       {strings.ReplaceAll(string(example(t, "stock.json")), "  ", "\t"), stock},
		"JSON on one line":     {compact.String(), stock},
		"JSON with CRLF":       {strings.ReplaceAll(string(example(t, "stock.json")), "\n", "\r\n"), stock},
		"YAML with CRLF":       {strings.ReplaceAll(string(example(t, "orders.yaml")), "\n", "\r\n"), orders},
		"byte order mark":      {"\ufeff" + string(example(t, "orders.yaml")), orders},
		"document marks":       {"---\n" + string(example(t, "orders.yaml")) + "...\n", orders},
		"numbers with a power": {strings.Replace(compact.String(), "1.5", "15e-1", 1), stock},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := topology.Parse("f", []byte(dress.text))
			ok(t, err)
			if !reflect.DeepEqual(got, dress.want) {
				t.Fatalf("got %+v", got)
			}
		})
	}
}

// What the database keeps is the graph's JSON.
func TestGraphJSON(t *testing.T) {
	t.Parallel()
	g, err := topology.Parse("f", []byte("topology: a\nnodes:\n  in: {kind: start, followers: [out]}\n  out: {kind: connector, worker: w, application: x, timeout: 90s, concurrency: 3, order_by: $.a}\nbounds: {messages: 7, bytes: 2KiB}\n"))
	ok(t, err)
	got, err := json.Marshal(g)
	ok(t, err)
	want := `{"name":"a","bounds":{"messages":7,"bytes":2048},"nodes":[{"name":"in","kind":"start","followers":["out"]},` +
		`{"name":"out","kind":"connector","worker":"w","action":"out","application":"x","timeout":"1m30s","concurrency":3,"order_by":"$.a",` +
		`"retry":{"attempts":10,"initial":"1s","factor":2,"max":"10m","jitter":0.2,"retry_after":"honour","outage":"wait"}}]}`
	if string(got) != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	var back topology.Graph
	ok(t, json.Unmarshal(got, &back))
	if !reflect.DeepEqual(back, g) {
		t.Fatalf("came back as %+v", back)
	}
}

// Every mistake is named by file, line and node, with the mend, and all of them at
// once.
func TestParseProblems(t *testing.T) {
	t.Parallel()
	in := "topology: t\nnodes:\n  in: {kind: start, followers: [a]}\n"
	for name, test := range map[string]struct {
		file string
		want []string
	}{
		"unknown field": {
			in + "  a:\n    kind: custom\n    workr: w\n",
			[]string{
				`f.yaml:4: node "a": a custom node needs a worker: add ` + "`worker:` with the name of a registered worker",
				`f.yaml:6: node "a": unknown field "workr": did you mean "worker"?`,
			},
		},
		"unknown fields that belong elsewhere": {
			"topology: t\nworker: w\nnodes:\n  in: {kind: start, followers: [a]}\n  a: {kind: custom, worker: w, attempts: 3, colour: red}\nversion: 2\n",
			[]string{
				`f.yaml:2: unknown field "worker": it belongs to a node`,
				`f.yaml:5: node "a": unknown field "attempts": it belongs below ` + "`retry:`",
				`f.yaml:5: node "a": unknown field "colour": the fields here are kind, worker, action, application, timeout, concurrency, order_by, retry, title, due, may_act, followers`,
				`f.yaml:6: unknown field "version": the fields here are topology, description, bounds, entities, nodes`,
			},
		},
		"unknown field of the retry policy": {
			in + "  a:\n    kind: custom\n    worker: w\n    retry:\n      retryAfter: ignore\n",
			[]string{`f.yaml:8: node "a": unknown field "retryAfter": did you mean "retry_after"?`},
		},
		"unknown kind": {
			in + "  a:\n    kind: conector\n    worker: w\n",
			[]string{`f.yaml:5: node "a": unknown kind "conector": did you mean "connector"?`},
		},
		"unlike any kind": {
			in + "  a: {kind: cron}\n",
			[]string{`f.yaml:4: node "a": unknown kind "cron": kinds are start, custom, connector, batch, breakpoint`},
		},
		"no kind": {
			in + "  a: {worker: w}\n",
			[]string{`f.yaml:4: node "a": the node has no kind: add ` + "`kind:` with one of start, custom, connector, batch, breakpoint"},
		},
		"unknown follower, and the right node is not called unreachable": {
			"topology: t\nnodes:\n  in:\n    kind: start\n    followers:\n      - chekc\n      - nowhere\n  check: {kind: custom, worker: w}\n",
			[]string{
				`f.yaml:6: node "in": unknown follower "chekc": did you mean "check"?`,
				`f.yaml:7: node "in": unknown follower "nowhere": add a node of that name, or remove the follower`,
			},
		},
		"duplicate node": {
			in + "  a:\n    kind: custom\n    worker: w\n    followers: [b]\n  a:\n    kind: custom\n    worker: w\n    followers: [c]\n  b: {kind: custom, worker: w}\n  c: {kind: custom, worker: w}\n",
			[]string{`f.yaml:8: node "a": node "a" is defined twice, on lines 4 and 8: rename or remove one of them`},
		},
		"duplicate field": {
			in + "  a:\n    kind: custom\n    worker: w\n    kind: batch\n",
			[]string{`f.yaml:7: node "a": field "kind" is given twice, on lines 5 and 7: keep one of them`},
		},
		"duplicate follower": {
			"topology: t\nnodes:\n  in:\n    kind: start\n    followers:\n    - a\n    - a\n  a: {kind: custom, worker: w}\n",
			[]string{`f.yaml:7: node "in": follower "a" is named twice, on lines 6 and 7: remove one of them`},
		},
		"duplicate follower on one line": {
			"topology: t\nnodes:\n  in: {kind: start, followers: [a, a]}\n  a: {kind: custom, worker: w}\n",
			[]string{`f.yaml:3: node "in": follower "a" is named twice on line 3: remove one of them`},
		},
		"unreachable": {
			in + "  a: {kind: custom, worker: w}\n  b: {kind: custom, worker: w, followers: [c]}\n  c: {kind: custom, worker: w}\n",
			[]string{
				`f.yaml:5: node "b": no start node leads to it: name it among the followers of a node that is reached, or remove it`,
				`f.yaml:6: node "c": no start node leads to it: name it among the followers of a node that is reached, or remove it`,
			},
		},
		"cycle": {
			in + "  a: {kind: custom, worker: w, followers: [b, c]}\n  b:\n    kind: custom\n    worker: w\n    followers: [c]\n  c:\n    kind: custom\n    worker: w\n    followers:\n    - d\n    - a\n  d: {kind: custom, worker: w}\n",
			[]string{`f.yaml:14: node "c": cycle a -> c -> a: remove one of these followers, else messages would go round for ever`},
		},
		"follows itself": {
			in + "  a: {kind: custom, worker: w, followers: [a]}\n",
			[]string{`f.yaml:4: node "a": cycle a -> a: remove one of these followers, else messages would go round for ever`},
		},
		"no start node": {
			"topology: t\nnodes:\n  a: {kind: custom, worker: w}\n",
			[]string{`f.yaml:3: no start node: add a node with ` + "`kind: start`, so that events can come in"},
		},
		"start without followers": {
			"topology: t\nnodes:\n  in: {kind: start}\n  on-it: {kind: start, followers: []}\n",
			[]string{
				`f.yaml:3: node "in": the start node has no followers: add ` + "`followers:` with the nodes that its events go to",
				`f.yaml:4: node "on-it": the start node has no followers: add ` + "`followers:` with the nodes that its events go to",
			},
		},
		"start with the settings of a worker": {
			"topology: t\nnodes:\n  in:\n    kind: start\n    worker: w\n    retry: {}\n    application: x\n    followers: [a]\n  a: {kind: custom, worker: w}\n",
			[]string{
				`f.yaml:5: node "in": a start node calls no worker, so it has no worker: remove the line, or move it to a follower`,
				`f.yaml:6: node "in": a start node calls no worker, so it has no retry: remove the line, or move it to a follower`,
				`f.yaml:7: node "in": a start node has no application: remove the line, or make it ` + "`kind: connector` or `kind: batch`",
			},
		},
		"start as a follower": {
			in + "  a: {kind: custom, worker: w, followers: [in]}\n",
			[]string{`f.yaml:4: node "a": follower "in" is a start node: events only come into a start node from outside: follow with the nodes after it`},
		},
		"application on the wrong kind": {
			in + "  a:\n    kind: custom\n    worker: w\n    application: hubspot\n",
			[]string{`f.yaml:7: node "a": a custom node has no application: remove the line, or make it ` + "`kind: connector` or `kind: batch`"},
		},
		"names": {
			"topology: Orders_2\nnodes:\n  In: {kind: start, followers: [a--b]}\n  a--b: {kind: custom, worker: W}\n",
			[]string{
				`f.yaml:1: topology name "Orders_2" is not a name: use lower-case letters and digits, joined by single hyphens, at most 63 characters`,
				`f.yaml:3: node "In": node name "In" is not a name: use lower-case letters and digits, joined by single hyphens, at most 63 characters`,
				`f.yaml:4: node "a--b": node name "a--b" is not a name: use lower-case letters and digits, joined by single hyphens, at most 63 characters`,
				`f.yaml:4: node "a--b": worker name "W" is not a name: use lower-case letters and digits, joined by single hyphens, at most 63 characters`,
			},
		},
		"actions": {
			in + "  a: {kind: custom, worker: w, action: /check, followers: [b, c, d]}\n  b: {kind: custom, worker: w, action: a/../b}\n  c: {kind: custom, worker: w, action: a//b}\n  d: {kind: custom, worker: w, action: .well-known/...a/}\n",
			[]string{
				`f.yaml:4: node "a": action "/check" is not a path on the worker: use letters, digits and - . _ ~ between single slashes, none in front, no . or .. as a part, at most 200 characters`,
				`f.yaml:5: node "b": action "a/../b" is not a path on the worker: use letters, digits and - . _ ~ between single slashes, none in front, no . or .. as a part, at most 200 characters`,
				`f.yaml:6: node "c": action "a//b" is not a path on the worker: use letters, digits and - . _ ~ between single slashes, none in front, no . or .. as a part, at most 200 characters`,
			},
		},
		"out of range": {
			in + "  a:\n    kind: custom\n    worker: w\n    timeout: 2h\n    concurrency: 0\n    retry:\n      attempts: 1001\n      initial: 0s\n      factor: 0.5\n      max: 25h\n      jitter: 1e400\n      retry_after: maybe\n      outage: Wait\n",
			[]string{
				`f.yaml:7: node "a": timeout 2h is out of range: use 1ms to 1h`,
				`f.yaml:8: node "a": concurrency 0 is out of range: use 1 to 10000, or remove the line to leave it to the engine`,
				`f.yaml:10: node "a": retry.attempts 1001 is out of range: use 1 to 1000`,
				`f.yaml:11: node "a": retry.initial 0s is out of range: use 1ms to 1h`,
				`f.yaml:12: node "a": retry.factor 0.5 is out of range: use 1 to 10`,
				`f.yaml:13: node "a": retry.max 25h is out of range: use 1ms to 24h`,
				`f.yaml:14: node "a": retry.jitter +Inf is out of range: use 0 to 1`,
				`f.yaml:15: node "a": retry.retry_after is "maybe": use one of honour, ignore`,
				`f.yaml:16: node "a": retry.outage is "Wait": use one of wait, count`,
			},
		},
		"what is no key": {
			in + "  a: {kind: custom, worker: w, order_by: order.id, followers: [b, c, d, e]}\n  b: {kind: custom, worker: w, order_by: '$.lines[*].sku'}\n  c:\n    kind: custom\n    worker: w\n    order_by: $.customer.\n" +
				"  d: {kind: custom, worker: w, order_by: 7}\n  e:\n    kind: custom\n    worker: w\n    order_by:\n",
			[]string{
				`f.yaml:4: node "a": order_by "order.id" cannot be a key: it is neither the name of a header (letters, digits, - and _) nor a path that begins with $: name a header, such as customer-id, or one value of the body, such as $.customer.id`,
				`f.yaml:5: node "b": order_by "$.lines[*].sku" cannot be a key: it may name several values, and a message has one key: name a header, such as customer-id, or one value of the body, such as $.customer.id`,
				`f.yaml:9: node "c": order_by "$.customer." cannot be a key: the path ends too early: name a header, such as customer-id, or one value of the body, such as $.customer.id`,
				`f.yaml:10: node "d": order_by is a number, not text: name a header, such as customer-id, or one value of the body, such as $.customer.id`,
				`f.yaml:14: node "e": field "order_by" has no value: give it one or remove the line`,
			},
		},
		"order where no worker is called": {
			"topology: t\nnodes:\n  in:\n    kind: start\n    order_by: customer-id\n    followers: [a]\n  a: {kind: custom, worker: w, bounds: {messages: 1}, orderBy: x}\n",
			[]string{
				`f.yaml:5: node "in": a start node calls no worker, so it has no order_by: remove the line, or move it to a follower`,
				`f.yaml:7: node "a": unknown field "bounds": it belongs to the topology, above its nodes`,
				`f.yaml:7: node "a": unknown field "orderBy": did you mean "order_by"?`,
			},
		},
		"bounds": {
			"topology: t\nbounds:\n  messages: 1.5\n  bytes: 1GB\nnodes:\n  in: {kind: start, followers: [a]}\n  a: {kind: custom, worker: w}\nmessages: 7\n",
			[]string{
				`f.yaml:3: bounds.messages 1.5 is not a whole number: round it`,
				`f.yaml:4: bounds.bytes "1GB" is not a size: write a number of bytes, or one with its unit (KiB, MiB, GiB), such as 512MiB`,
				`f.yaml:8: unknown field "messages": it belongs below ` + "`bounds:`",
			},
		},
		"entities": {
			"topology: t\nentities:\n  Order: $.id\n  order: [$.id, x id]\n  order: $.no\n  user:\n  shop: [a, A]\n  7: a\n  item: {a: b}\nnodes:\n  in: {kind: start, followers: [a]}\n  a: {kind: custom, worker: w}\n",
			[]string{
				`f.yaml:3: entity "Order" is not a name: use lower-case letters and digits, joined by single hyphens, at most 63 characters`,
				`f.yaml:4: entity "order" is given twice: write one list of places`,
				`f.yaml:4: entities.order "x id" cannot be a key: it is neither the name of a header (letters, digits, - and _) nor a path that begins with $: name a header, such as customer-id, or one value of the body, such as $.customer.id`,
				`f.yaml:6: entities.user has no value: name a header, such as order-id, or one value of the body, such as $.order.id`,
				`f.yaml:7: entities.shop names "a" twice: remove one of them`,
				`f.yaml:8: the kind of an entity is a number, not text: put it in quotes`,
				`f.yaml:9: entities.item is a mapping, not text: name a header, such as customer-id, or one value of the body, such as $.customer.id`,
			},
		},
		"too many entities": {
			"topology: t\nentities: {a: a, b: a, c: a, d: a, e: a, f: a, g: a, h: a, i: a}\nnodes:\n  in: {kind: start, followers: [a]}\n  a: {kind: custom, worker: w}\n",
			[]string{"f.yaml:2: more than 8 entities: keep those that people ask for"},
		},
		"too many places": {
			"topology: t\nentities:\n  a: [a, b, c, d, e]\n  b: []\nnodes:\n  in: {kind: start, followers: [a]}\n  a: {kind: custom, worker: w}\n",
			[]string{
				"f.yaml:3: entities.a names more than 4 places: keep those where the key stands in most messages",
				"f.yaml:4: entities.b names no place: name a header, such as order-id, or one value of the body, such as $.order.id",
			},
		},
		"bounds out of range": {
			"topology: t\nbounds: {messages: -1, bytes: 99999999999999999999GiB, seconds: 7}\nnodes:\n  in: {kind: start, followers: [a]}\n  a: {kind: custom, worker: w}\n",
			[]string{
				`f.yaml:2: bounds.messages -1 is out of range: use 0 to 1000000000`,
				`f.yaml:2: bounds.bytes 9223372035781033984 is out of range: use 0 to 1125899906842624`,
				`f.yaml:2: unknown field "seconds": the fields here are messages, bytes`,
			},
		},
		"bounds of the wrong type": {
			"topology: t\nbounds: 7\nnodes:\n  in: {kind: start, followers: [a]}\n  a: {kind: custom, worker: w}\n",
			[]string{"f.yaml:2: bounds is a number, not a mapping: write `messages:` or `bytes:` below it"},
		},
		"bounds of wrong types": {
			"topology: t\nbounds: {messages: '7', bytes: [7]}\nnodes:\n  in: {kind: start, followers: [a]}\n  a: {kind: custom, worker: w}\n",
			[]string{
				`f.yaml:2: bounds.messages is text, not a plain number: remove the quotes`,
				`f.yaml:2: bounds.bytes is a list, not a size: write a number of bytes, or one with its unit (KiB, MiB, GiB), such as 512MiB`,
			},
		},
		"waits in the wrong order": {
			in + "  a:\n    kind: custom\n    worker: w\n    retry:\n      initial: 30m\n",
			[]string{`f.yaml:4: node "a": retry.max 10m is shorter than retry.initial 30m: make max at least as long as initial`},
		},
		"wrong types": {
			"topology: 7\ndescription: [a]\nnodes:\n  in: {kind: start, followers: a}\n  a:\n    kind: true\n    worker: -1e2\n    timeout: 30\n    concurrency: '20'\n    retry:\n      attempts: 1.5\n      initial: soon\n      factor: .inf\n      jitter: a lot\n    followers: [1, {b: c}]\n  b: custom\n  7: {kind: custom, worker: w, retry: 3}\n  c:\n",
			[]string{
				`f.yaml:1: topology is a number, not text: put it in quotes if it is meant as text`,
				`f.yaml:2: description is a list, not text: write text`,
				`f.yaml:4: node "in": followers is text, not a list: write ` + "`followers: [a]`",
				`f.yaml:6: node "a": kind is true or false, not text: put it in quotes if it is meant as text`,
				`f.yaml:7: node "a": worker is a number, not text: put it in quotes if it is meant as text`,
				`f.yaml:8: node "a": timeout is a number, not a duration: write a number with its unit (ms, s, m, h), such as 30s or 1h30m`,
				`f.yaml:9: node "a": concurrency is text, not a plain number: remove the quotes`,
				`f.yaml:11: node "a": retry.attempts 1.5 is not a whole number: round it`,
				`f.yaml:12: node "a": retry.initial "soon" is not a duration: write a number with its unit (ms, s, m, h), such as 30s or 1h30m`,
				`f.yaml:13: node "a": retry.factor is a number, not a plain number: write it in decimals`,
				`f.yaml:14: node "a": retry.jitter is text, not a plain number: write a number`,
				`f.yaml:15: node "a": followers is a number, not text: put it in quotes if it is meant as text`,
				`f.yaml:15: node "a": followers is a mapping, not text: write text`,
				`f.yaml:16: node "b": the node is text, not a mapping: write ` + "`kind:` and the other settings below it",
				`f.yaml:17: node "7": the name is a number, not text: put it in quotes`,
				`f.yaml:17: node "7": retry is a number, not a mapping: write ` + "`attempts:` and the other settings below it",
				`f.yaml:18: node "c": the node is nothing, not a mapping: write ` + "`kind:` and the other settings below it",
			},
		},
		"no values": {
			"topology:\nnodes:\n  in: {kind: start, followers: [a]}\n  a:\n    kind: custom\n    worker: ''\n    followers:\n",
			[]string{
				`f.yaml:1: field "topology" has no value: give it one or remove the line`,
				`f.yaml:6: node "a": worker is empty: give it a value or remove it`,
				`f.yaml:7: node "a": field "followers" has no value: give it one or remove the line`,
			},
		},
		"nodes as a list": {
			"topology: t\nnodes:\n- name: in\n  kind: start\n",
			[]string{`f.yaml:3: nodes is a list, not a mapping: write each node as ` + "`name:` and its settings below"},
		},
		"nothing said": {
			"{}",
			[]string{
				"f.yaml:1: the topology has no name: add a line such as `topology: orders`",
				"f.yaml:1: the topology has no nodes: add a start node and what follows it under `nodes:`",
			},
		},
		"description": {
			"topology: t\ndescription: \"a\\0b\"\nnodes:\n  in: {kind: start, followers: [a]}\n  a: {kind: custom, worker: w}\n",
			[]string{"f.yaml:2: the description holds control characters: keep to text, tabs and line feeds"},
		},
		"empty file":         {"", []string{"f.yaml:1: the file is empty: begin with `topology: NAME` and `nodes:`"}},
		"only a comment":     {"# later\n", []string{"f.yaml:1: the file is empty: begin with `topology: NAME` and `nodes:`"}},
		"only a mark":        {"---\n", []string{"f.yaml:1: the file is empty: begin with `topology: NAME` and `nodes:`"}},
		"only null":          {"\n~\n", []string{"f.yaml:1: the file is empty: begin with `topology: NAME` and `nodes:`"}},
		"a list":             {"\n- a\n", []string{"f.yaml:2: the file holds a list, not a topology: begin with `topology: NAME` and `nodes:`"}},
		"a word":             {"hello", []string{"f.yaml:1: the file holds text, not a topology: begin with `topology: NAME` and `nodes:`"}},
		"several documents":  {"topology: t\n---\ntopology: u\n", []string{"f.yaml:2: the file holds several documents: keep each topology in a file of its own"}},
		"more after the end": {"topology: t\n...\ntopology: u\n", []string{"f.yaml:3: the file holds several documents: keep each topology in a file of its own"}},
		"alias":              {"topology: t\nnodes:\n  a: &a {kind: custom}\n  b: *a\n", []string{"f.yaml:3: anchors (&) and aliases (*) are not read: write the value out, or put it in quotes if it is text"}},
		"merge key":          {"topology: t\nnodes:\n  a:\n    <<: {kind: custom}\n", []string{"f.yaml:3: node \"a\": the node has no kind: add `kind:` with one of start, custom, connector, batch, breakpoint", "f.yaml:4: node \"a\": unknown field \"<<\": the fields here are kind, worker, action, application, timeout, concurrency, order_by, retry, title, due, may_act, followers"}},
		"tag":                {"topology: !!str t\n", []string{"f.yaml:1: tags (!) are not read: remove it, or put the value in quotes if it is text"}},
		"directive":          {"%YAML 1.2\n---\ntopology: t\n", []string{"f.yaml:1: directives (%) are not read: remove the line"}},
		"explicit key":       {"? topology\n: t\n", []string{"f.yaml:1: explicit keys (?) are not read: write `key: value`"}},
		"not UTF-8":          {"topology: t\ndescription: caf\xe9\n", []string{"f.yaml:2: the file is not valid UTF-8: save it as UTF-8"}},
		"control character":  {"topology: t\n\x00", []string{"f.yaml:2: the file holds the control character U+0000: remove it, or write it as an escape in double quotes"}},
		"tabs":               {"topology: t\nnodes:\n\tin:\n", []string{"f.yaml:3: the file is not valid YAML: found character '\t' that cannot start any token: indent with spaces, not with tabs"}},
		"unclosed":           {"topology: t\nnodes: {in: {kind: start}\n", []string{"f.yaml:2: the file is not valid YAML: could not find flow mapping end token '}': look at the quotes, brackets and indentation there"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := topology.Parse("f.yaml", []byte(test.file))
			got := problems(t, err)
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(test.want, "\n  "))
			}
		})
	}
}

// Long things are cut short, and a file without a name still has its lines.
func TestProblemsStayShort(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 3000)
	var ring strings.Builder
	for i := range 30 {
		fmt.Fprintf(&ring, "  r%d: {kind: custom, worker: w, followers: [r%d]}\n", i, (i+1)%30)
	}
	_, err := topology.Parse("", []byte("topology: "+long+"\ndescription: "+long+"\nnodes:\n  in: {kind: start, followers: [r0, "+long+"]}\n"+ring.String()+
		"  a: {kind: batch, worker: w, timeout: 9999999999h, colour: "+long+", "+long+": red}\n"))
	want := []string{
		`line 1: topology name "` + long[:80] + `..." is not a name: use lower-case letters and digits, joined by single hyphens, at most 63 characters`,
		`line 2: the description is longer than 2000 characters: keep it short, the rest belongs into a document`,
		`line 4: node "in": unknown follower "` + long[:80] + `...": add a node of that name, or remove the follower`,
		`line 34: node "r29": cycle r0 -> r1 -> r2 -> r3 -> r4 -> r5 -> r6 -> r7 -> r8 -> r9 -> r10 -> r11 -> r12 -> r13 -> r14 -> r15 -> r16 -> r17 -> r18 -> r19 -> r20 -> ... -> r0: remove one of these followers, else messages would go round for ever`,
		`line 35: node "a": no start node leads to it: name it among the followers of a node that is reached, or remove it`,
		`line 35: node "a": timeout 2562047h47m16.854775807s is out of range: use 1ms to 1h`,
		`line 35: node "a": unknown field "colour": the fields here are kind, worker, action, application, timeout, concurrency, order_by, retry, title, due, may_act, followers`,
		`line 35: node "a": unknown field "` + long[:80] + `...": the fields here are kind, worker, action, application, timeout, concurrency, order_by, retry, title, due, may_act, followers`,
	}
	if got := problems(t, err); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// Editors jump to the column, and JSON has lines as well.
func TestProblemPosition(t *testing.T) {
	t.Parallel()
	_, err := topology.Parse("f.json", []byte("{\n  \"topology\": \"t\",\n  \"nodes\": {\n    \"in\": {\"kind\": \"start\", \"followers\": [\"a\", \"b\"]},\n    \"a\": {\"kind\": \"custom\", \"worker\": \"w\"}\n  }\n}\n"))
	var invalid *topology.InvalidError
	if !errors.As(err, &invalid) {
		t.Fatal(err)
	}
	want := []topology.Problem{{
		File: "f.json", Line: 4, Column: 1 + strings.Index(`    "in": {"kind": "start", "followers": ["a", "b"]},`, `"b"`),
		Node: "in", Field: "followers", Message: `unknown follower "b"`, Mend: "add a node of that name, or remove the follower",
	}}
	if !reflect.DeepEqual(invalid.Problems, want) {
		t.Fatalf("got  %+v\nwant %+v", invalid.Problems, want)
	}
}

// The message stays readable however much is wrong.
func TestInvalidErrorIsShort(t *testing.T) {
	t.Parallel()
	var file strings.Builder
	file.WriteString("topology: t\nnodes:\n  in:\n    kind: start\n    followers:\n")
	for i := range 5000 {
		fmt.Fprintf(&file, "    - missing-%d\n", i)
	}
	_, err := topology.Parse("f.yaml", []byte(file.String()))
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 21 || lines[20] != "and 181 more" {
		t.Fatalf("%d lines, the last %q", len(lines), lines[len(lines)-1])
	}
	all := problems(t, err)
	if want := "f.yaml: there are more than 200 problems: mend these first"; all[len(all)-1] != want {
		t.Fatalf("got %q", all[len(all)-1])
	}
}
