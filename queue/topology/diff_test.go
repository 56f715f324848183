package topology_test

import (
	"encoding/json"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"sluice/queue/topology"
)

// A reviewer sees what came, what went and what is different, and nothing else.
func TestDiff(t *testing.T) {
	t.Parallel()
	a, err := topology.Parse("a", []byte(`
topology: orders
description: Orders
bounds: {messages: 10}
entities: {order: $.id, shop: shop-id, user: $.user}
nodes:
  inbox: {kind: start, followers: [check, old]}
  check: {kind: custom, worker: shop, timeout: 30s, followers: [store, audit]}
  store: {kind: custom, worker: shop, concurrency: 5}
  audit: {kind: custom, worker: shop}
  old: {kind: batch, worker: shop, application: stripe}
`))
	ok(t, err)
	b, err := topology.Parse("b", []byte(`
topology: orders
description: Orders from the shop
bounds: {messages: 20, bytes: 1024}
entities: {invoice: [$.no, x-invoice], order: [$.id, $.order.id], user: [$.user]}
nodes:
  audit: {kind: custom, worker: shop, action: audit}
  check: {kind: custom, worker: shop, timeout: 1m, order_by: $.id, retry: {attempts: 3, jitter: 0.2}, followers: [audit, new, store]}
  inbox: {kind: start, followers: [check]}
  new: {kind: custom, worker: crm, retry: {max: 1h}, followers: [last]}
  last: {kind: custom, worker: crm}
  store: {kind: connector, worker: shop, application: hubspot}
`))
	ok(t, err)
	changes := topology.Diff(a, b)
	want := `~ description: Orders -> Orders from the shop
~ bounds.messages: 10 -> 20
+ bounds.bytes: 1KiB
+ entities.invoice: "[\"$.no\", x-invoice]"
~ entities.order: $.id -> "[\"$.id\", \"$.order.id\"]"
- entities.shop: shop-id
~ node check
~   timeout: 30s -> 1m
+   order_by: $.id
~   retry.attempts: 10 -> 3
+   followers: new
~ node inbox
-   followers: old
+ node new
+   kind: custom
+   worker: crm
+   retry.max: 1h
+   followers: last
+ node last
+   kind: custom
+   worker: crm
~ node store
~   kind: custom -> connector
+   application: hubspot
-   concurrency: 5
- node old
-   kind: batch
-   worker: shop
-   application: stripe
`
	if got := topology.DiffText(changes); got != want {
		t.Errorf("got\n%s", got)
	}
	got, err := json.Marshal(slices.Concat(changes[1:3], changes[6:9]))
	ok(t, err)
	if want := `[{"op":"changed","field":"bounds.messages","from":"10","to":"20"},{"op":"added","field":"bounds.bytes","to":"1KiB"},` +
		`{"op":"changed","node":"check","field":"timeout","from":"30s","to":"1m"},{"op":"added","node":"check","field":"order_by","to":"$.id"},` +
		`{"op":"changed","node":"check","field":"retry.attempts","from":"10","to":"3"}]`; string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// The order of nodes and followers is no difference, and every difference has its
// mirror image the other way round.
func TestDiffIsFair(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := graphs.Draw(t, "a"), graphs.Draw(t, "b")
		if there, back := len(topology.Diff(a, b)), len(topology.Diff(b, a)); there != back {
			t.Fatalf("%d changes there, %d back", there, back)
		}
		mixed := a
		mixed.Nodes = rapid.Permutation(slices.Clone(a.Nodes)).Draw(t, "nodes")
		for i := range mixed.Nodes {
			mixed.Nodes[i].Followers = rapid.Permutation(slices.Clone(mixed.Nodes[i].Followers)).Draw(t, "followers")
		}
		if changes := topology.Diff(a, mixed); changes != nil {
			t.Fatalf("got %v", changes)
		}
	})
}
