package topology

import (
	"fmt"
	"slices"
	"strings"
)

// network is a graph by numbers: where each follower leads.
type network struct {
	nodes  []Node
	number map[string]int // of the first node with the name
	next   [][]hop        // by node, without what makes no sense
	meant  [][]int        // by node, where a misspelt follower probably leads
	// certain is false if some follower or start could not be read. What a rule
	// misses may then be in there, so it had better keep silent.
	certain bool
}

type hop struct {
	from, to int
	at       place // the follower that says so
}

// checkEdges looks at how the nodes hang together.
func checkEdges(g Graph, r *report) {
	net := network{
		nodes:   g.Nodes,
		number:  make(map[string]int, len(g.Nodes)),
		next:    make([][]hop, len(g.Nodes)),
		meant:   make([][]int, len(g.Nodes)),
		certain: true,
	}
	edges, starts := 0, 0
	for i, n := range g.Nodes {
		if first, twice := net.number[n.Name]; twice {
			r.addDuplicate(place{node: i}, place{node: first}, fmt.Sprintf("node %s is defined twice", quoted(n.Name)), "rename or remove one of them")
		} else {
			net.number[n.Name] = i
		}
		if edges += len(n.Followers); edges > MaxEdges {
			r.add(place{node: i, field: "followers"}, fmt.Sprintf("more than %d followers in all", MaxEdges), "split it into several topologies")
			return
		}
		if n.Kind == Start {
			starts++
		}
		if r.broken[place{node: i}] || r.broken[place{node: i, field: "followers"}] || n.Kind.traits() == nil {
			net.certain = false
		}
	}
	for i := range g.Nodes {
		net.checkFollowers(i, r)
	}
	net.checkCycles(r)
	switch {
	case !net.certain || len(g.Nodes) == 0 || r.broken[place{node: topologyItself, field: "nodes"}]:
	case starts == 0:
		r.add(place{node: topologyItself, field: "nodes"}, "no start node", "add a node with `kind: start`, so that events can come in")
	default:
		net.checkReach(r)
	}
}

// checkFollowers fills in where node i leads. Of nodes with the same name all lead
// on from the first, for the name is what others follow.
func (net *network) checkFollowers(i int, r *report) {
	from := net.number[net.nodes[i].Name]
	seen := make(map[string]int, len(net.nodes[i].Followers))
	for k, name := range net.nodes[i].Followers {
		at := place{node: i, field: "followers", item: k + 1}
		if r.broken[at] {
			net.certain = false
			continue
		}
		if first, twice := seen[name]; twice {
			r.addDuplicate(at, place{node: i, field: "followers", item: first}, fmt.Sprintf("follower %s is named twice", quoted(name)), "remove one of them")
			continue
		}
		seen[name] = k + 1
		to, known := net.number[name]
		if !known {
			net.addUnknown(from, at, name, r)
			continue
		}
		if net.nodes[to].Kind == Start {
			r.add(at, fmt.Sprintf("follower %q is a start node", name), "events only come into a start node from outside: follow with the nodes after it")
			continue
		}
		net.next[from] = append(net.next[from], hop{from: from, to: to, at: at})
	}
}

// addUnknown follows the name that was probably meant, so that a slip of the pen
// does not also make the right node unreachable.
func (net *network) addUnknown(from int, at place, name string, r *report) {
	if r.full() {
		r.cut, net.certain = true, false
		return
	}
	near := nearest(name, r.names)
	if near == "" {
		r.add(at, "unknown follower "+quoted(name), "add a node of that name, or remove the follower")
		return
	}
	r.add(at, "unknown follower "+quoted(name), fmt.Sprintf("did you mean %q?", near))
	net.meant[from] = append(net.meant[from], net.number[near])
}

// checkReach finds the nodes that no event gets to.
func (net *network) checkReach(r *report) {
	reached := make([]bool, len(net.nodes))
	var queue []int
	visit := func(i int) {
		if !reached[i] {
			reached[i] = true
			queue = append(queue, i)
		}
	}
	for _, n := range net.nodes {
		if n.Kind == Start {
			visit(net.number[n.Name])
		}
	}
	for len(queue) > 0 {
		i := queue[0]
		queue = queue[1:]
		for _, hop := range net.next[i] {
			visit(hop.to)
		}
		for _, to := range net.meant[i] {
			visit(to)
		}
	}
	for i, n := range net.nodes {
		if net.number[n.Name] == i && !reached[i] {
			r.add(place{node: i}, "no start node leads to it", "name it among the followers of a node that is reached, or remove it")
		}
	}
}

// checkCycles names one way round for each knot of nodes that lead to each other.
func (net *network) checkCycles(r *report) {
	const shown = 20
	for _, knot := range net.knots() {
		round := net.shortestRound(knot)
		if round == nil {
			continue
		}
		var names []string
		for _, hop := range round {
			names = append(names, net.nodes[hop.to].Name)
		}
		if len(names) > shown {
			names = append(append(names[:shown:shown], "..."), net.nodes[knot[0]].Name)
		}
		r.add(round[len(round)-1].at, fmt.Sprintf("cycle %s -> %s", net.nodes[knot[0]].Name, strings.Join(names, " -> ")),
			"remove one of these followers, else messages would go round for ever")
	}
}

// knots are the strongly connected components (Tarjan), the first node first.
func (net *network) knots() [][]int {
	var (
		order   = make([]int, len(net.nodes)) // 0: not seen yet
		low     = make([]int, len(net.nodes))
		onStack = make([]bool, len(net.nodes))
		stack   []int
		count   int
		knots   [][]int
		visit   func(i int) // as deep as there are nodes, at most MaxNodes
	)
	visit = func(i int) {
		count++
		order[i], low[i] = count, count
		stack, onStack[i] = append(stack, i), true
		for _, hop := range net.next[i] {
			if order[hop.to] == 0 {
				visit(hop.to)
				low[i] = min(low[i], low[hop.to])
			} else if onStack[hop.to] {
				low[i] = min(low[i], order[hop.to])
			}
		}
		if low[i] != order[i] {
			return
		}
		from := slices.Index(stack, i)
		knot := slices.Clone(stack[from:])
		for _, j := range knot {
			onStack[j] = false
		}
		stack = stack[:from]
		slices.Sort(knot)
		knots = append(knots, knot)
	}
	for i := range net.nodes {
		if order[i] == 0 {
			visit(i)
		}
	}
	slices.SortFunc(knots, func(a, b []int) int { return a[0] - b[0] })
	return knots
}

// shortestRound goes from the first node of a knot back to it, or is nil if the
// knot is a single node that does not follow itself.
func (net *network) shortestRound(knot []int) []hop {
	home := knot[0]
	cameBy := map[int]hop{}
	for queue := []int{home}; len(queue) > 0; queue = queue[1:] {
		for _, hop := range net.next[queue[0]] {
			if _, seen := cameBy[hop.to]; seen {
				continue
			}
			cameBy[hop.to] = hop
			queue = append(queue, hop.to)
		}
	}
	last, ok := cameBy[home]
	if !ok {
		return nil
	}
	round := []hop{last}
	for last.from != home {
		last = cameBy[last.from]
		round = append(round, last)
	}
	slices.Reverse(round)
	return round
}
