package topology_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sluice/queue/topology"
)

func entities(t *testing.T, text string) topology.Graph {
	t.Helper()
	g, err := topology.Parse("f", []byte("topology: t\nentities: "+text+"\nnodes:\n  in: {kind: start, followers: [a]}\n  a: {kind: custom, worker: w}\n"))
	ok(t, err)
	return g
}

// A message has the keys that stand in the declared places, each once, as they are written; what is not there, or names
// nothing, is no key and no error.
func TestEntityKeys(t *testing.T) {
	t.Parallel()
	g := entities(t, "{order: [$.order.id, X-Order-Id], user: $.user, line: '$.lines[0]'}")
	long := strings.Repeat("ä", 101)
	for _, c := range []struct {
		headers map[string]string
		body    string
		want    []topology.EntityKey
	}{
		{nil, `{"order":{"id":"ABC-123"}}`, []topology.EntityKey{{"order", "ABC-123"}}},
		{map[string]string{"x-order-id": "ABC-123"}, `{"order":{"id":"ABC-123"}}`, []topology.EntityKey{{"order", "ABC-123"}}},
		{map[string]string{"X-ORDER-ID": "B"}, `{"order":{"id":"A"},"user":12345678901234567890123456789}`, []topology.EntityKey{{"order", "A"}, {"order", "B"}, {"user", "12345678901234567890123456789"}}},
		{map[string]string{"x-order-id": ""}, `{"order":{"id":null},"user":{},"lines":[[1]]}`, nil},
		{nil, `{"user":false,"lines":[""]}`, []topology.EntityKey{{"user", "false"}}},
		{nil, `{"user":"` + long + `"}`, []topology.EntityKey{{"user", digest(long)}}},
		{nil, `no JSON at all`, nil},
		{nil, "", nil},
	} {
		if got := g.EntityKeys(c.headers, []byte(c.body)); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v %s: got %v, want %v", c.headers, c.body, got, c.want)
		}
	}
}

// What people ask for is found under the key that messages have.
func TestParseEntityKey(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 201)
	for text, want := range map[string]topology.EntityKey{
		"order:ABC-123": {"order", "ABC-123"}, "ABC-123": {"", "ABC-123"}, ":urn:a": {"", "urn:a"}, "order:urn:a": {"order", "urn:a"}, "order:" + long: {"order", digest(long)},
	} {
		got, err := topology.ParseEntityKey(text)
		ok(t, err)
		if got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
		if len(text) < 200 && got.String() != text {
			t.Errorf("%s is written %s", text, got)
		}
	}
	for _, text := range []string{"", ":", "order:", "Order:a", "urn x:a"} {
		if got, err := topology.ParseEntityKey(text); err == nil {
			t.Errorf("%q is taken as %v", text, got)
		}
	}
}

// Of any JSON, the keys are what encoding/json finds at the path, and what is asked for leads to them.
func TestEntityKeysAgreeWithDecoder(t *testing.T) {
	t.Parallel()
	g := entities(t, "{order: $.order.id, first: '$.lines[0].sku'}")
	value := rapid.OneOf(
		rapid.StringN(0, 20, -1).AsAny(), rapid.Int64().AsAny(), rapid.Bool().AsAny(), rapid.Just[any](nil), rapid.Just[any]([]any{1}), rapid.Just[any](map[string]any{"id": 1}))
	rapid.Check(t, func(t *rapid.T) {
		doc := map[string]any{"a": value.Draw(t, "a"), "order": map[string]any{"id": value.Draw(t, "id"), "x": value.Draw(t, "x")}, "lines": []any{map[string]any{"sku": value.Draw(t, "sku")}}}
		body, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{}
		var read struct {
			Order struct{ ID json.RawMessage }
			Lines []struct{ SKU json.RawMessage }
		}
		d := json.NewDecoder(bytes.NewReader(body))
		if err := d.Decode(&read); err != nil {
			t.Fatal(err)
		}
		for kind, raw := range map[string]json.RawMessage{"order": read.Order.ID, "first": read.Lines[0].SKU} {
			var text string
			switch {
			case json.Unmarshal(raw, &text) == nil && raw[0] == '"':
				want[kind] = text
			case raw[0] != '{' && raw[0] != '[' && raw[0] != 'n':
				want[kind] = string(raw)
			}
		}
		for _, key := range g.EntityKeys(nil, body) {
			if asked, err := topology.ParseEntityKey(key.Kind + ":" + want[key.Kind]); err != nil || asked != key {
				t.Fatalf("%s: %v is found, %v is asked for (%v)", body, key, asked, err)
			}
			delete(want, key.Kind)
		}
		for kind, left := range want {
			if left != "" {
				t.Fatalf("%s: %s %q is not found", body, kind, left)
			}
		}
	})
}
