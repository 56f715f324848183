package topology

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// Parse reads a topology file, YAML or JSON, and fills in the defaults. The error
// is an *InvalidError with all that is wrong, so that a file is mended in one go.
// The name of the file is only for the messages. Workers are taken on trust.
func Parse(file string, data []byte) (Graph, error) {
	g, r := parse(file, data)
	if err := r.err(); err != nil {
		return Graph{}, err
	}
	return g, nil
}

// parse reads as much as it can and puts the rules to that.
func parse(file string, data []byte) (Graph, *report) {
	r := newReport(file)
	root := document(data, r)
	if root == nil {
		return Graph{}, r
	}
	g, ok := (&reader{r}).graph(root)
	if ok {
		check(g, r)
	}
	return g, r
}

// Names of the fields, in the order in which Format writes them. The JSON Schema
// has the same ones; a test holds them together.
var (
	topologyFields = []string{"$schema", "topology", "description", "bounds", "entities", "nodes"}
	boundsFields   = []string{"messages", "bytes"}
	nodeFields     = []string{"kind", "worker", "action", "application", "timeout", "concurrency", "order_by", "retry", "title", "due", "may_act", "followers"}
	retryFields    = []string{"attempts", "initial", "factor", "max", "jitter", "retry_after", "outage"}
)

// reader turns the tree of a file into a graph and notes where all of it stands.
type reader struct{ *report }

// graph is false if the file has so little of a topology that the rules would only
// repeat that.
func (r *reader) graph(root ast.Node) (Graph, bool) {
	at := place{node: topologyItself}
	r.where[at] = position{1, 1}
	entries, ok := entriesOf(root)
	if !ok {
		r.addAt(positionOf(root), at, "the file holds "+typeOf(root)+", not a topology", "begin with `topology: NAME` and `nodes:`")
		return Graph{}, false
	}
	fields := r.fields(at, entries, topologyFields)
	var g Graph
	if n, ok := fields["topology"]; ok {
		g.Name = r.name(place{node: topologyItself, field: "topology"}, n)
	}
	if n, ok := fields["description"]; ok {
		g.Description, _ = r.text(place{node: topologyItself, field: "description"}, n)
	}
	if n, ok := fields["bounds"]; ok {
		r.bounds(n, &g.Bounds)
	}
	if n, ok := fields["entities"]; ok {
		g.Entities = r.entities(n)
	}
	if n, ok := fields["nodes"]; ok {
		g.Nodes = r.nodes(n)
	}
	return g, true
}

func (r *reader) bounds(body ast.Node, bounds *Bounds) {
	at := place{node: topologyItself, field: "bounds"}
	entries, ok := entriesOf(body)
	if !ok {
		r.addBroken(at, "bounds is "+typeOf(body)+", not a mapping", "write `messages:` or `bytes:` below it")
		return
	}
	fields := r.fields(at, entries, boundsFields)
	if n, ok := fields["messages"]; ok {
		r.count(place{node: topologyItself, field: "bounds.messages"}, n, &bounds.Messages)
	}
	if n, ok := fields["bytes"]; ok {
		r.size(place{node: topologyItself, field: "bounds.bytes"}, n, &bounds.Bytes)
	}
}

func (r *reader) nodes(n ast.Node) []Node {
	at := place{node: topologyItself, field: "nodes"}
	entries, ok := entriesOf(n)
	if !ok {
		mend := "write each node as `name:` and its settings below"
		r.addBroken(at, "nodes is "+typeOf(n)+", not a mapping", mend)
		return nil
	}
	if len(entries) > MaxNodes { // one more, for the rules to find
		entries = entries[:MaxNodes+1]
	}
	nodes := make([]Node, len(entries))
	r.names = make([]string, len(entries))
	for i, entry := range entries {
		at := place{node: i}
		key := entry.Key.GetToken()
		r.where[at] = positionOf(entry.Key)
		nodes[i].Name, r.names[i] = key.Value, key.Value
		if _, isText := entry.Key.(*ast.StringNode); !isText || isNumber(entry.Key) {
			r.broken[place{node: i, field: "name"}] = true
			r.add(at, "the name is "+typeOf(entry.Key)+", not text", "put it in quotes")
		}
		r.node(at, entry.Value, &nodes[i])
	}
	return nodes
}

func (r *reader) node(at place, body ast.Node, node *Node) {
	entries, ok := entriesOf(body)
	if !ok {
		r.addBroken(at, "the node is "+typeOf(body)+", not a mapping", "write `kind:` and the other settings below it")
		return
	}
	fields := r.fields(at, entries, nodeFields)
	in := func(field string) place { return place{node: at.node, field: field} }
	if n, ok := fields["kind"]; ok {
		node.Kind = Kind(r.name(in("kind"), n))
	}
	if n, ok := fields["application"]; ok {
		node.Application = r.name(in("application"), n)
	}
	if n, ok := fields["followers"]; ok {
		node.Followers = r.followers(in("followers"), n)
	}
	if node.Kind == Breakpoint {
		r.breakpoint(at, fields, node)
	} else {
		for _, field := range parkingFields {
			if _, given := fields[field]; given {
				refuseUnlessBreakpoint(in(field), r.report)
			}
		}
	}
	if node.Kind == Start || node.Kind == Breakpoint {
		for _, field := range callingFields {
			if _, given := fields[field]; given {
				refuseWithoutCall(in(field), node.Kind, r.report)
			}
		}
		return
	}
	node.Action, node.Timeout, node.Retry = node.Name, defaultTimeout, defaultRetry
	if n, ok := fields["worker"]; ok {
		node.Worker = r.name(in("worker"), n)
	}
	if n, ok := fields["action"]; ok {
		node.Action = r.name(in("action"), n)
	} else if !isName(node.Name) {
		r.broken[in("action")] = true // the name is said to be wrong already
	}
	if n, ok := fields["timeout"]; ok {
		r.duration(in("timeout"), n, &node.Timeout)
	}
	if n, ok := fields["concurrency"]; ok && r.whole(in("concurrency"), n, &node.Concurrency) && node.Concurrency == 0 {
		r.addBroken(in("concurrency"), "concurrency 0 is out of range",
			fmt.Sprintf("use %s, or remove the line to leave it to the engine", concurrencyBounds))
	}
	if n, ok := fields["order_by"]; ok {
		r.orderBy(in("order_by"), n, &node.OrderBy)
	}
	if n, ok := fields["retry"]; ok {
		r.retry(in("retry"), n, &node.Retry)
	}
}

// breakpoint reads what sets a breakpoint apart.
func (r *reader) breakpoint(at place, fields map[string]ast.Node, node *Node) {
	in := func(field string) place { return place{node: at.node, field: field} }
	if n, ok := fields["title"]; ok {
		r.title(in("title"), n, &node.Title)
	}
	if n, ok := fields["due"]; ok {
		r.duration(in("due"), n, &node.Due)
		if node.Due == 0 && !r.broken[in("due")] {
			r.addBroken(in("due"), "due 0s is out of range", fmt.Sprintf("use %s, or remove the line", dueBounds))
		}
	}
	if n, ok := fields["may_act"]; ok {
		node.MayAct = r.list(in("may_act"), n, "write a list of the names of API keys, such as `may_act: [ann, bob]`")
		if node.MayAct == nil && !r.broken[in("may_act")] {
			r.addBroken(in("may_act"), "may_act names nobody", "name somebody, or remove the line: then everybody may act")
		}
	}
}

func (r *reader) title(at place, n ast.Node, into *Title) {
	const mend = "write text with values of the message in braces, such as \"Order {$.order.id} of {customer-id}\""
	text, ok := textOf(n)
	if !ok {
		r.addBroken(at, at.field+" is "+typeOf(n)+", not text", mend)
		return
	}
	t, err := ParseTitle(text)
	if err != nil {
		r.addBroken(at, fmt.Sprintf("%s %s cannot be a title: %s", at.field, quoted(text), err), mend)
		return
	}
	*into = t
}

func (r *reader) retry(at place, body ast.Node, retry *Retry) {
	entries, ok := entriesOf(body)
	if !ok {
		r.addBroken(at, "retry is "+typeOf(body)+", not a mapping", "write `attempts:` and the other settings below it")
		return
	}
	fields := r.fields(at, entries, retryFields)
	in := func(field string) place { return place{node: at.node, field: "retry." + field} }
	if n, ok := fields["attempts"]; ok {
		r.whole(in("attempts"), n, &retry.Attempts)
	}
	if n, ok := fields["initial"]; ok {
		r.duration(in("initial"), n, &retry.Initial)
	}
	if n, ok := fields["factor"]; ok {
		r.number(in("factor"), n, &retry.Factor)
	}
	if n, ok := fields["max"]; ok {
		r.duration(in("max"), n, &retry.Max)
	}
	if n, ok := fields["jitter"]; ok {
		r.number(in("jitter"), n, &retry.Jitter)
	}
	if n, ok := fields["retry_after"]; ok {
		retry.RetryAfter = RetryAfter(r.name(in("retry_after"), n))
	}
	if n, ok := fields["outage"]; ok {
		retry.Outage = Outage(r.name(in("outage"), n))
	}
}

func (r *reader) followers(at place, n ast.Node) []string {
	mend := "write a list, such as `followers: [store, audit]`"
	if text, isText := textOf(n); isText && isName(text) {
		mend = fmt.Sprintf("write `followers: [%s]`", text)
	}
	return r.list(at, n, mend)
}

// list reads names.
func (r *reader) list(at place, n ast.Node, mend string) []string {
	list, ok := n.(*ast.SequenceNode)
	if !ok {
		r.addBroken(at, at.field+" is "+typeOf(n)+", not a list", mend)
		return nil
	}
	if len(list.Values) == 0 {
		return nil
	}
	names := make([]string, min(len(list.Values), MaxEdges+1)) // one more, for the rules to find
	for i := range names {
		item := place{node: at.node, field: at.field, item: i + 1}
		r.where[item] = positionOf(list.Values[i])
		names[i] = r.name(item, list.Values[i])
	}
	return names
}

// fields finds the values of a mapping by name. Unknown and repeated names are
// reported, and names without a value, so that none of them is passed over.
func (r *reader) fields(at place, entries []*ast.MappingValueNode, known []string) map[string]ast.Node {
	fields := make(map[string]ast.Node, len(entries))
	lines := make(map[string]int, len(entries))
	for _, entry := range entries {
		key, where := entry.Key.GetToken().Value, positionOf(entry.Key)
		in := place{node: at.node, field: key}
		if at.field != "" {
			in.field = at.field + "." + key
		}
		if !slices.Contains(known, key) {
			r.addAt(where, in, "unknown field "+quoted(key), r.elsewhere(key, known))
			continue
		}
		if line, twice := lines[key]; twice {
			message := fmt.Sprintf("field %q is given twice", key)
			if line != where.line {
				message += fmt.Sprintf(", on lines %d and %d", line, where.line)
			}
			r.addAt(where, in, message, "keep one of them")
			continue
		}
		lines[key] = where.line
		r.where[in] = positionOf(entry.Value)
		if typeOf(entry.Value) == nothing {
			r.where[in] = where
			r.addBroken(in, fmt.Sprintf("field %q has no value", key), "give it one or remove the line")
			continue
		}
		fields[key] = entry.Value
	}
	return fields
}

// elsewhere says what to do about an unknown field: put the line where the field
// belongs, or mend the slip of the pen.
func (r *reader) elsewhere(key string, known []string) string {
	if r.full() {
		return ""
	}
	if slices.Contains(retryFields, key) && slices.Contains(known, "retry") {
		return "it belongs below `retry:`"
	}
	if slices.Contains(boundsFields, key) && slices.Contains(known, "bounds") {
		return "it belongs below `bounds:`"
	}
	if slices.Contains(nodeFields, key) {
		return "it belongs to a node"
	}
	if slices.Contains(topologyFields, key) {
		return "it belongs to the topology, above its nodes"
	}
	shown := slices.DeleteFunc(slices.Clone(known), func(name string) bool { return strings.HasPrefix(name, "$") })
	return meant(key, known, "the fields here are "+strings.Join(shown, ", "))
}

// name reads a text that must not be empty.
func (r *reader) name(at place, n ast.Node) string {
	text, ok := r.text(at, n)
	if ok && text == "" {
		r.addBroken(at, at.field+" is empty", "give it a value or remove it")
	}
	return text
}

func (r *reader) text(at place, n ast.Node) (string, bool) {
	text, ok := textOf(n)
	if !ok {
		mend := "write text"
		switch typeOf(n) {
		case aNumber, truth:
			mend = "put it in quotes if it is meant as text"
		}
		r.addBroken(at, at.field+" is "+typeOf(n)+", not text", mend)
	}
	return text, ok
}

func (r *reader) duration(at place, n ast.Node, into *Duration) {
	const mend = "write a number with its unit (ms, s, m, h), such as 30s or 1h30m"
	text, ok := textOf(n)
	if !ok {
		r.addBroken(at, at.field+" is "+typeOf(n)+", not a duration", mend)
		return
	}
	if !durationExpression.MatchString(text) {
		r.addBroken(at, at.field+" "+quoted(text)+" is not a duration", mend)
		return
	}
	d, err := time.ParseDuration(text)
	if err != nil { // all that is left is too many hours to count
		d = math.MaxInt64
	}
	*into = Duration(d)
}

func (r *reader) orderBy(at place, n ast.Node, into *OrderBy) {
	const mend = "name a header, such as customer-id, or one value of the body, such as $.customer.id"
	text, ok := textOf(n)
	if !ok {
		r.addBroken(at, at.field+" is "+typeOf(n)+", not text", mend)
		return
	}
	o, err := ParseOrderBy(text)
	if err != nil {
		r.addBroken(at, fmt.Sprintf("%s %s cannot be a key: %s", at.field, quoted(text), err), mend)
		return
	}
	*into = o
}

// size takes bytes as a number, or a number with its unit.
func (r *reader) size(at place, n ast.Node, into *int64) {
	const mend = "write a number of bytes, or one with its unit (KiB, MiB, GiB), such as 512MiB"
	text, ok := textOf(n)
	if !ok && isNumber(n) {
		r.count(at, n, into)
		return
	}
	parts := sizeExpression.FindStringSubmatch(text)
	switch {
	case !ok:
		r.addBroken(at, at.field+" is "+typeOf(n)+", not a size", mend)
	case parts == nil:
		r.addBroken(at, at.field+" "+quoted(text)+" is not a size", mend)
	default:
		number, err := strconv.ParseInt(parts[1], 10, 64)
		unit := sizeUnits[parts[2]]
		if err != nil || number > math.MaxInt64/unit {
			number = math.MaxInt64 / unit
		}
		*into = number * unit
	}
}

func (r *reader) number(at place, n ast.Node, into *float64) bool {
	if !isNumber(n) {
		mend := "write a number"
		if typeOf(n) == aNumber {
			mend = "write it in decimals"
		} else if text, _ := textOf(n); decimal.MatchString(text) {
			mend = "remove the quotes"
		}
		r.addBroken(at, at.field+" is "+typeOf(n)+", not a plain number", mend)
		return false
	}
	// Out of the range of a float it is infinite or 0, which is as good for the rules.
	*into, _ = strconv.ParseFloat(n.GetToken().Value, 64)
	*into += 0 // -0 is 0
	return true
}

func (r *reader) whole(at place, n ast.Node, into *int) bool {
	var long int64
	if !r.count(at, n, &long) {
		return false
	}
	*into = int(max(math.MinInt32, min(math.MaxInt32, long)))
	return true
}

// count reads a whole number that may be large.
func (r *reader) count(at place, n ast.Node, into *int64) bool {
	var f float64
	if !r.number(at, n, &f) {
		return false
	}
	if f != math.Trunc(f) {
		r.addBroken(at, fmt.Sprintf("%s %v is not a whole number", at.field, f), "round it")
		return false
	}
	const exact = 1 << 53 // and more than any bound
	*into = int64(max(-exact, min(exact, f)))
	return true
}

// What stands in a file, in the words of the messages.
const (
	nothing = "nothing"
	aNumber = "a number"
	truth   = "true or false"
)

func typeOf(n ast.Node) string {
	switch n := n.(type) {
	case nil, *ast.NullNode:
		return nothing
	case *ast.StringNode:
		if isNumber(n) {
			return aNumber
		}
		return "text"
	case *ast.LiteralNode:
		return "text"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return aNumber
	case *ast.BoolNode:
		return truth
	case *ast.SequenceNode:
		return "a list"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	}
	return "something else"
}

// entriesOf returns the entries of a mapping.
func entriesOf(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

func textOf(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		if !isNumber(n) {
			return n.Value, true
		}
	case *ast.LiteralNode:
		return n.Value.Value, true
	}
	return "", false
}

// decimal is a number as JSON writes it.
var decimal = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

// isNumber also takes 1e3, which JSON calls a number and the YAML library text.
func isNumber(n ast.Node) bool {
	switch n.(type) {
	case *ast.IntegerNode, *ast.FloatNode:
		return decimal.MatchString(n.GetToken().Value)
	case *ast.StringNode:
		return n.GetToken().Type == token.StringType && decimal.MatchString(n.GetToken().Value)
	}
	return false
}

// positionOf is where a value begins: a block mapping at its first key.
func positionOf(n ast.Node) position {
	if entries, ok := entriesOf(n); ok && len(entries) > 0 && n.GetToken().Type == token.MappingValueType {
		n = entries[0].Key
	}
	if tk := n.GetToken(); tk != nil && tk.Position != nil {
		return position{tk.Position.Line, tk.Position.Column}
	}
	return position{}
}
