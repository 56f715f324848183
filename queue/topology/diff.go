package topology

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Op says how a thing changed.
type Op string

// The ways in which a thing changes.
const (
	Added   Op = "added"
	Removed Op = "removed"
	Changed Op = "changed"
)

// Change is one difference between two graphs. Node is empty if the topology itself
// is meant, Field if the node as a whole came or went; a follower that came or went
// is a change of the field followers. From and To are as they stand in a file.
type Change struct {
	Op    Op     `json:"op"`
	Node  string `json:"node,omitempty"`
	Field string `json:"field,omitempty"`
	From  string `json:"from,omitempty"`
	To    string `json:"to,omitempty"`
}

// Diff lists what turns a into b: the topology first, then the nodes of b in their
// order, then those that went. The order of nodes and of followers means nothing,
// so it is no difference; settings count by what they amount to, written out or not.
func Diff(a, b Graph) []Change {
	var changes []Change
	changes = appendChange(changes, Change{Field: "topology", From: a.Name, To: b.Name})
	changes = appendChange(changes, Change{Field: "description", From: a.Description, To: b.Description})
	for i, from := range boundSettings(a.Bounds) {
		changes = appendChange(changes, Change{Field: from.field, From: from.value, To: boundSettings(b.Bounds)[i].value})
	}
	changes = append(changes, diffEntities(a.Entities, b.Entities)...)
	before, after := byName(a), byName(b)
	for _, n := range b.Nodes {
		if old, ok := before[n.Name]; ok {
			changes = append(changes, diffNodes(old, n)...)
		} else {
			changes = append(changes, Change{Op: Added, Node: n.Name})
			changes = append(changes, diffNodes(Node{Name: n.Name}, n)...)
		}
	}
	for _, n := range a.Nodes {
		if _, ok := after[n.Name]; !ok {
			changes = append(changes, Change{Op: Removed, Node: n.Name})
			changes = append(changes, diffNodes(n, Node{Name: n.Name})...)
		}
	}
	return changes
}

func byName(g Graph) map[string]Node {
	nodes := make(map[string]Node, len(g.Nodes))
	for _, n := range g.Nodes {
		nodes[n.Name] = n
	}
	return nodes
}

// diffNodes leaves out defaults that come or go with the node or its kind.
func diffNodes(a, b Node) []Change {
	var changes []Change
	before, after := map[string]setting{}, map[string]setting{}
	fields := []string{}
	for _, s := range settings(a) {
		before[s.field] = s
		fields = append(fields, s.field)
	}
	for _, s := range settings(b) {
		after[s.field] = s
		if _, ok := before[s.field]; !ok {
			fields = append(fields, s.field)
		}
	}
	for _, field := range fields {
		from, to := before[field], after[field]
		if from.value == "" && to.standard || to.value == "" && from.standard {
			continue
		}
		changes = appendChange(changes, Change{Node: b.Name, Field: field, From: from.value, To: to.value})
	}
	for _, name := range b.Followers {
		if !slices.Contains(a.Followers, name) {
			changes = append(changes, Change{Op: Added, Node: b.Name, Field: "followers", To: name})
		}
	}
	for _, name := range a.Followers {
		if !slices.Contains(b.Followers, name) {
			changes = append(changes, Change{Op: Removed, Node: b.Name, Field: "followers", From: name})
		}
	}
	return changes
}

// appendChange leaves out what is the same and finds the word for what is not.
func appendChange(changes []Change, c Change) []Change {
	switch {
	case c.From == c.To:
		return changes
	case c.From == "":
		c.Op = Added
	case c.To == "":
		c.Op = Removed
	default:
		c.Op = Changed
	}
	return append(changes, c)
}

// DiffText shows changes to people, a line each, below the node they belong to:
// plus for what came, minus for what went, and a tilde for what is different.
func DiffText(changes []Change) string {
	var b strings.Builder
	sign := map[Op]string{Added: "+", Removed: "-", Changed: "~"}
	shown := ""
	for _, c := range changes {
		if c.Node != shown && c.Field != "" {
			fmt.Fprintf(&b, "~ node %s\n", c.Node)
		}
		shown = c.Node
		indent := " "
		if c.Node != "" {
			indent = "   "
		}
		switch {
		case c.Field == "":
			fmt.Fprintf(&b, "%s node %s\n", sign[c.Op], c.Node)
		case c.Op == Added:
			fmt.Fprintf(&b, "+%s%s: %s\n", indent, c.Field, display(c.To))
		case c.Op == Removed:
			fmt.Fprintf(&b, "-%s%s: %s\n", indent, c.Field, display(c.From))
		default:
			fmt.Fprintf(&b, "~%s%s: %s -> %s\n", indent, c.Field, display(c.From), display(c.To))
		}
	}
	return b.String()
}

// display quotes only what would not read as one piece.
func display(value string) string {
	if strings.ContainsFunc(value, func(c rune) bool { return c == ' ' || !unicode.IsPrint(c) }) {
		return scalar(value)
	}
	return value
}
