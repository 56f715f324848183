package topology

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// Entity is a kind of thing that messages are about, such as an order, and the
// places where its key stands. A message has a key for each place that has one.
type Entity struct {
	Kind string    `json:"kind"`
	From []OrderBy `json:"from"`
}

// EntityKey is the key of one entity: the order ABC-123.
type EntityKey struct {
	Kind  string
	Value string
}

const (
	maxEntities = 8
	maxPlaces   = 4 // of one entity
)

// EntityKeys are the keys of a message, each once. A value is what [OrderBy.Key]
// makes of it, but that a list or an object has none: it names nothing.
func (g Graph) EntityKeys(headers map[string]string, body []byte) []EntityKey {
	var keys []EntityKey
	for _, e := range g.Entities {
		for _, from := range e.From {
			key := EntityKey{e.Kind, from.scalarKey(headers, body)}
			if key.Value != "" && !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// ParseEntityKey reads what people ask for: order:ABC-123, or ABC-123 of any kind.
// In front of a colon stands a kind, so a value of any kind that has a colon in it
// is written with one in front.
func ParseEntityKey(text string) (EntityKey, error) {
	kind, value, found := strings.Cut(text, ":")
	if !found {
		kind, value = "", text
	}
	switch {
	case kind != "" && !isName(kind):
		return EntityKey{}, fmt.Errorf("%s is no kind of entity: write KIND:VALUE, or :VALUE for a value of any kind that has a colon in it", quoted(kind))
	case value == "":
		return EntityKey{}, fmt.Errorf("the entity has no value: write KIND:VALUE, such as order:ABC-123")
	}
	return EntityKey{kind, textKey(value)}, nil
}

// String is what [ParseEntityKey] reads.
func (k EntityKey) String() string {
	if k.Kind == "" && !strings.Contains(k.Value, ":") {
		return k.Value
	}
	return k.Kind + ":" + k.Value
}

// entities reads what a file says about them.
func (r *reader) entities(body ast.Node) []Entity {
	at := place{node: topologyItself, field: "entities"}
	entries, ok := entriesOf(body)
	if !ok {
		r.addBroken(at, "entities is "+typeOf(body)+", not a mapping", "write each as `kind: place`, such as `order: $.order.id`")
		return nil
	}
	var entities []Entity
	for _, entry := range entries[:min(len(entries), maxEntities+1)] { // one more, for the rules to find
		key := entry.Key.GetToken()
		at := entityPlace(key.Value)
		if _, twice := r.where[at]; !twice {
			r.where[at] = positionOf(entry.Key)
		}
		if _, isText := entry.Key.(*ast.StringNode); !isText || isNumber(entry.Key) {
			r.addBroken(at, "the kind of an entity is "+typeOf(entry.Key)+", not text", "put it in quotes")
		}
		entities = append(entities, Entity{Kind: key.Value, From: r.places(at, entry.Value)})
	}
	return entities
}

func entityPlace(kind string) place { return place{node: topologyItself, field: "entities." + kind} }

// places reads one place, or a list of them.
func (r *reader) places(at place, n ast.Node) []OrderBy {
	if typeOf(n) == nothing {
		r.addBroken(at, at.field+" has no value", "name a header, such as order-id, or one value of the body, such as $.order.id")
		return nil
	}
	items := []ast.Node{n}
	if list, ok := n.(*ast.SequenceNode); ok {
		items = list.Values[:min(len(list.Values), maxPlaces+1)] // one more, for the rules to find
	}
	var places []OrderBy
	for i, item := range items {
		in := at
		in.item = i + 1
		r.where[in] = positionOf(item)
		var from OrderBy
		r.orderBy(in, item, &from)
		if r.broken[in] {
			r.broken[at] = true
		}
		places = append(places, from)
	}
	return places
}

// checkEntities puts the rules to them.
func checkEntities(g Graph, r *report) {
	if len(g.Entities) > maxEntities {
		r.add(place{node: topologyItself, field: "entities"}, fmt.Sprintf("more than %d entities", maxEntities), "keep those that people ask for")
		return
	}
	for i, e := range g.Entities {
		at := entityPlace(e.Kind)
		if slices.ContainsFunc(g.Entities[:i], func(o Entity) bool { return o.Kind == e.Kind }) {
			r.add(at, fmt.Sprintf("entity %s is given twice", quoted(e.Kind)), "write one list of places")
			continue
		}
		if r.broken[at] {
			continue
		}
		checkName(at, "entity", e.Kind, r)
		switch {
		case len(e.From) == 0:
			r.add(at, at.field+" names no place", "name a header, such as order-id, or one value of the body, such as $.order.id")
		case len(e.From) > maxPlaces:
			r.add(at, fmt.Sprintf("%s names more than %d places", at.field, maxPlaces), "keep those where the key stands in most messages")
		}
		for i, from := range e.From {
			switch {
			case from.IsZero():
				r.add(at, at.field+" names an empty place", "remove it")
			case slices.ContainsFunc(e.From[:i], func(o OrderBy) bool { return o.text == from.text }):
				r.add(at, fmt.Sprintf("%s names %s twice", at.field, quoted(from.text)), "remove one of them")
			}
		}
	}
}

// written is the places as they stand in a file.
func (e Entity) written() string {
	if len(e.From) == 1 {
		return scalar(e.From[0].String())
	}
	places := make([]string, len(e.From))
	for i, from := range e.From {
		places[i] = scalar(from.String())
	}
	return "[" + strings.Join(places, ", ") + "]"
}

// diffEntities lists what came, went or reads other places.
func diffEntities(a, b []Entity) []Change {
	var changes []Change
	find := func(in []Entity, kind string) string {
		if i := slices.IndexFunc(in, func(e Entity) bool { return e.Kind == kind }); i >= 0 {
			if len(in[i].From) == 1 {
				return in[i].From[0].String()
			}
			return in[i].written()
		}
		return ""
	}
	for _, e := range b {
		changes = appendChange(changes, Change{Field: "entities." + e.Kind, From: find(a, e.Kind), To: find(b, e.Kind)})
	}
	for _, e := range a {
		if find(b, e.Kind) == "" {
			changes = appendChange(changes, Change{Field: "entities." + e.Kind, From: find(a, e.Kind)})
		}
	}
	return changes
}

func entitiesSchema() schema {
	from := schema{Type: "string", Pattern: orderBySyntax, MaxLength: maxOrderBy}
	return schema{
		Type: "object", MaxProperties: maxEntities,
		Description: "What messages are about, for people to find them by: kinds, such as order, each with the place where its key stands, or up to " + strconv.Itoa(maxPlaces) +
			" of them: the name of a header, or the path to one value of a JSON body, as in order_by.",
		PropertyNames: &schema{Pattern: nameSyntax, MaxLength: maxName},
		AdditionalProperties: schema{
			AnyOf: []schema{from, {Type: "array", MinItems: 1, MaxItems: maxPlaces, UniqueItems: true, Items: &from}},
		},
		Examples: []any{map[string]any{"order": "$.order.id", "customer": []string{"customer-id", "$.customer.id"}}},
	}
}
