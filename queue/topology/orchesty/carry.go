package orchesty

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"sluice/queue/topology"
)

// What calls have over there, whatever a node says.
const (
	callTime    = 60 * time.Second
	oneAtOnce   = 1
	mostText    = 200 // characters of a setting that the report shows
	mostAbout   = 2000
	longestTime = time.Hour
	mostHops    = 1000
	mostAtOnce  = 10000
)

// carrier carries one drawing over.
type carrier struct {
	drawing
	options Options
	report  []Item
	cut     bool
	used    map[string]bool // mappings of workers
	names   map[string]bool // of nodes here
	next    map[string]int  // by name: the number to try for the next node that is called so
	number  map[string]int  // of elements, by id
	flowing [][]int         // by element: those that follow it
	told    map[string]bool // workers that the report has
}

func newCarrier(d drawing, o Options) *carrier {
	return &carrier{
		drawing: d, options: o, report: slices.Clone(d.odd), used: map[string]bool{}, names: map[string]bool{}, next: map[string]int{}, number: map[string]int{}, told: map[string]bool{},
	}
}

// add adds an item to the report, as far as there is room.
func (c *carrier) add(effect Effect, where string, what, why, do string) {
	if len(c.report) >= maxItems {
		c.cut = true
		return
	}
	c.report = append(c.report, Item{effect, shown(where), shown(what), why, do})
}

// shown cuts what a file says to what a person reads, without control characters.
func shown(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	if utf8.RuneCountInString(text) > mostText {
		text = string([]rune(text)[:mostText]) + "…"
	}
	return text
}

// items is the report, with what was said of mappings and with a word if it is not all.
func (c *carrier) items() []Item {
	for _, from := range slices.Sorted(maps.Keys(c.options.Workers)) {
		if !c.used[from] {
			c.add(Lost, "", fmt.Sprintf("the mapping of worker %q", from), "no node of the drawing is on a worker of that name or address", "look at the spelling")
		}
	}
	if c.cut {
		c.report = append(c.report, Item{Lost, "", "the rest of this report", fmt.Sprintf("it has more than %d items", maxItems), "mend what is said above, and import again"})
	}
	return c.report
}

// carry makes the graph: the elements that stay nodes, joined past those that only
// pass messages on, without what leads nowhere.
func (c *carrier) carry(file string) (topology.Graph, error) {
	var g topology.Graph
	g.Name = slug(cmp.Or(c.options.Name, c.drawing.name, nameOfFile(file)))
	if g.Name == "" {
		return g, errors.New("neither it nor the file has a name of which one for a topology can be made: give one")
	}
	g.Description = c.about()
	c.connect()
	follow := c.pass()
	c.cutCycles(follow)
	reached, err := c.reach(follow)
	if err != nil {
		return g, err
	}
	names := make(map[int]string, len(c.elements))
	for i, e := range c.elements {
		if reached[i] {
			names[i] = c.nameNode(e)
		}
	}
	edges := 0
	for i, e := range c.elements {
		if !reached[i] {
			continue
		}
		n := c.node(e, names[i])
		for _, to := range follow[i] {
			n.Followers = append(n.Followers, names[to])
		}
		edges += len(n.Followers)
		g.Nodes = append(g.Nodes, n)
	}
	if len(g.Nodes) > topology.MaxNodes || edges > topology.MaxEdges {
		return g, fmt.Errorf("it has %d nodes and %d connections, more than %d or %d", len(g.Nodes), edges, topology.MaxNodes, topology.MaxEdges)
	}
	return g, nil
}

// about is the description, as far as one may be so long.
func (c *carrier) about() string {
	text := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, c.description)
	if utf8.RuneCountInString(text) > mostAbout {
		c.add(Changed, "", "the description", fmt.Sprintf("it is longer than %d characters", mostAbout), "keep the rest in a document")
		text = string([]rune(text)[:mostAbout])
	}
	return text
}

// connect numbers the elements and takes their flows.
func (c *carrier) connect() {
	for i, e := range c.elements {
		if _, twice := c.number[e.id]; twice || e.id == "" {
			c.add(Lost, e.label(), "its connections", "it has no id, or that of an element before it", "give it an id of its own")
			continue
		}
		c.number[e.id] = i
	}
	c.flowing = make([][]int, len(c.elements))
	seen := map[[2]int]bool{}
	for _, f := range c.flows {
		from, known := c.number[f.from]
		to, knownToo := c.number[f.to]
		if !known || !knownToo {
			c.add(Lost, "", fmt.Sprintf("the connection from %q to %q", f.from, f.to), "one of its ends is not in the file", "draw it again")
			continue
		}
		if !seen[[2]int{from, to}] { // Orchesty keeps a follower once
			seen[[2]int{from, to}] = true
			c.flowing[from] = append(c.flowing[from], to)
		}
	}
}

// stays tells whether an element becomes a node.
func (c *carrier) stays(i int) bool {
	kind := c.elements[i].kind
	return !passing[kind] && !ends[kind]
}

// passesOn tells whether what comes to an element goes on to its followers at once:
// gateways do it, and an event in the middle, which nothing here may follow.
func (c *carrier) passesOn(i int) bool {
	return passing[c.elements[i].kind] || events[c.elements[i].kind]
}

// pass finds, for each element that stays, those that stay and follow it, past
// whatever only passes on.
func (c *carrier) pass() [][]int {
	follow := make([][]int, len(c.elements))
	for i := range c.elements {
		if !c.stays(i) {
			continue
		}
		seen := map[int]bool{}
		twice := false
		queue := slices.Clone(c.flowing[i])
		for len(queue) > 0 {
			j := queue[0]
			queue = queue[1:]
			if seen[j] {
				twice = twice || c.stays(j)
				continue
			}
			seen[j] = true
			switch {
			case c.passesOn(j):
				queue = append(queue, c.flowing[j]...)
			case c.stays(j):
				follow[i] = append(follow[i], j)
			}
		}
		if twice {
			c.add(Changed, c.elements[i].label(), "a follower that several ways lead to", "gateways are left out here, and a node follows another once",
				"if it should get each message several times, put a node of its own on each way")
		}
	}
	return follow
}

// cutCycles takes out the connections that lead back to where a message has been.
func (c *carrier) cutCycles(follow [][]int) {
	const unseen, under, done = 0, 1, 2
	state := make([]int, len(c.elements))
	var visit func(i int) // as deep as there are elements, at most maxElements
	visit = func(i int) {
		state[i] = under
		follow[i] = slices.DeleteFunc(follow[i], func(to int) bool {
			if state[to] == under {
				c.add(Lost, c.elements[i].label(), fmt.Sprintf("its connection to %q", c.elements[to].label()), "it leads round in a circle, which topologies here have not",
					"let the node be called again (repeat), or page through a batch")
				return true
			}
			if state[to] == unseen {
				visit(to)
			}
			return false
		})
		state[i] = done
	}
	for i, e := range c.elements {
		if events[e.kind] && state[i] == unseen {
			visit(i)
		}
	}
}

// reach tells which elements become nodes: those that some event leads to.
func (c *carrier) reach(follow [][]int) ([]bool, error) {
	reached := make([]bool, len(c.elements))
	var queue []int
	for i, e := range c.elements {
		if !events[e.kind] {
			continue
		}
		if len(follow[i]) == 0 {
			c.add(Lost, e.label(), "the node", "no node follows it, so its events would go nowhere", "draw what should happen to them")
			continue
		}
		reached[i] = true
		queue = append(queue, i)
	}
	if len(queue) == 0 {
		return nil, errors.New("it has no start, cron or webhook that leads to a node, so nothing would ever come in")
	}
	for len(queue) > 0 {
		i := queue[0]
		queue = queue[1:]
		for _, to := range follow[i] {
			if !reached[to] {
				reached[to] = true
				queue = append(queue, to)
			}
		}
	}
	for i, e := range c.elements {
		if c.stays(i) && !reached[i] && !events[e.kind] {
			c.add(Lost, e.label(), "the node", "no start, cron or webhook leads to it", "draw a connection to it, or leave it out")
		}
	}
	return reached, nil
}

// nameNode finds the name of a node here, which no other has.
func (c *carrier) nameNode(e element) string {
	base := cmp.Or(slug(e.name), slug(e.kind), "node")
	name := base
	for c.names[name] {
		n := max(c.next[base], 2)
		c.next[base] = n + 1
		ending := "-" + strconv.Itoa(n)
		name = strings.TrimRight(base[:min(len(base), maxName-len(ending))], "-") + ending
	}
	c.names[name] = true
	if name != e.name {
		why := "names here are lower-case letters and digits, joined by single hyphens"
		if slug(e.name) == e.name {
			why = "another node is called so, and here a name belongs to one"
		}
		c.add(Changed, e.label(), fmt.Sprintf("its name: here it is %s", name), why,
			fmt.Sprintf("use %s in addresses that start it, and where the worker's code chooses followers by name", name))
	}
	return name
}

// node carries the settings of an element over.
func (c *carrier) node(e element, name string) topology.Node {
	if len(e.headers) > 0 {
		c.add(Lost, e.label(), "headers that its worker is called with: "+strings.Join(e.headers, ", "), "nodes here have no headers of their own",
			"set them where events come in, or let the worker know them")
	}
	switch {
	case events[e.kind]:
		c.event(e, name)
		return topology.Node{Name: name, Kind: topology.Start}
	case e.kind == personType:
		return topology.Node{Name: name, Kind: topology.Breakpoint}
	}
	n := topology.Node{Name: name, Kind: c.kind(e), Worker: c.worker(e), Action: c.action(e, name), Retry: c.retry(e)}
	n.Application = c.applicationOf(e, n.Kind)
	n.Timeout = c.timeoutOf(e)
	n.Concurrency = c.whole(e, "prefetch", cmp.Or(e.prefetch, strconv.Itoa(oneAtOnce)), extent{1, mostAtOnce, oneAtOnce})
	return n
}

// event tells what an event has that a start node has not.
func (c *carrier) event(e element, name string) {
	if e.cron != "" || e.kind == "cron" {
		what := fmt.Sprintf("its schedule %q", e.cron)
		if e.cronParams != "" {
			what += fmt.Sprintf(" with the parameters %q", e.cronParams)
		}
		c.add(Lost, e.label(), what, "a start node here has no schedule of its own", fmt.Sprintf("let a scheduler post to its start node %s, at these times of its old zone", name))
	}
	if e.kind == "webhook" {
		what := "its subscription"
		if e.event != "" || e.application != "" {
			what = fmt.Sprintf("its subscription to %q of application %q", e.event, e.application)
		}
		c.add(Lost, e.label(), what, "a subscription belongs to a user's installed application, not to the drawing", "subscribe the installed application to this topology, in the worker's own way")
	}
}

func (c *carrier) kind(e element) topology.Kind {
	if calling[e.kind] {
		return topology.Kind(e.kind)
	}
	kind := topology.Custom
	if e.kind == "batch_connector" {
		kind = topology.Batch
	}
	why := "it is no kind that Orchesty is known to have"
	if legacy[e.kind] {
		why = "it is a kind of old, which workers do not serve"
	}
	c.add(Changed, e.label(), fmt.Sprintf("its kind %q: here it is %s", e.kind, kind), why, "let a node of a worker of yours do it")
	return kind
}

// worker finds the worker of a node, by what was told or by its name over there.
func (c *carrier) worker(e element) string {
	from := cmp.Or(e.workerName, e.workerHost)
	for _, known := range []string{e.workerName, e.workerHost} {
		if to, mapped := c.options.Workers[known]; mapped && known != "" {
			c.used[known] = true
			return to
		}
	}
	name := slug(from)
	if name == "" {
		c.add(Lost, e.label(), "its worker", "the drawing does not say which one it is", fmt.Sprintf("write its name instead of %s", nobody))
		return nobody
	}
	if name != from && !c.told[from] {
		c.told[from] = true
		c.add(Changed, "", fmt.Sprintf("worker %q: here it is %s", from, name), "names here are lower-case letters and digits, joined by single hyphens",
			fmt.Sprintf("register it so, or name yours: --worker %q", from+"=NAME"))
	}
	return name
}

// nobody stands for a worker of which nothing is known.
const nobody = "unknown-worker"

// action is the name by which the worker has the node.
func (c *carrier) action(e element, name string) string {
	if isAction(e.name) {
		return e.name
	}
	c.add(Lost, e.label(), fmt.Sprintf("the name by which its worker knows it, %q", e.name), "it can be no part of an address", "name it otherwise in the worker's code, and write that as the action")
	return name
}

// isAction is narrower than what a topology takes: the name is one part of a path.
func isAction(name string) bool {
	return name != "" && len(name) <= mostText && strings.Trim(name, ".") != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return !isLower(r) && !isDigit(r) && (r < 'A' || r > 'Z') && !strings.ContainsRune("._~-", r)
	})
}

func (c *carrier) applicationOf(e element, kind topology.Kind) string {
	if e.application == "" || kind == topology.Custom {
		return "" // limits do not hold for custom nodes over there, either
	}
	name := slug(e.application)
	if name != e.application && !c.told["application "+e.application] {
		c.told["application "+e.application] = true
		c.add(Changed, e.label(), fmt.Sprintf("its application %q: here it is %q", e.application, name), "names here are lower-case letters and digits, joined by single hyphens",
			"set limits by that name")
	}
	return name
}

func (c *carrier) timeoutOf(e element) topology.Duration {
	if e.timeout == "" {
		return topology.Duration(callTime)
	}
	seconds := c.whole(e, "timeout", e.timeout, extent{1, int(longestTime / time.Second), int(callTime / time.Second)})
	timeout := time.Duration(seconds) * time.Second
	if timeout != callTime {
		c.add(Changed, e.label(), fmt.Sprintf("its timeout of %s, which holds from now on", topology.Duration(timeout)), "Orchesty gives each call 60 seconds, whatever a node says",
			"raise it if calls take longer")
	}
	return topology.Duration(timeout)
}

// retry carries the repeater over: so many calls in all, so far apart.
func (c *carrier) retry(e element) topology.Retry {
	standard := topology.StandardRetry()
	if e.repeats != "true" && e.repeats != "1" {
		return standard
	}
	hops := c.whole(e, "repeater's hops", e.repeatHops, extent{1, mostHops, 0})
	interval := c.whole(e, "repeater's interval", e.repeatInterval, extent{1, int(longestTime / time.Second), 0})
	if hops == 0 || interval == 0 {
		return standard
	}
	r := standard
	r.Attempts, r.Factor = hops, 1
	r.Initial = topology.Duration(time.Duration(interval) * time.Second)
	r.Max = r.Initial
	return r
}

// extent is what a setting may be, and what it is if it is no number.
type extent struct{ least, most, otherwise int }

// whole reads a whole number and moves it to where it may be.
func (c *carrier) whole(e element, what, text string, x extent) int {
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		c.add(Lost, e.label(), fmt.Sprintf("its %s %q", what, text), "it is no whole number", "set what it should be")
		return x.otherwise
	}
	within := min(max(n, x.least), x.most)
	if within != n {
		c.add(Changed, e.label(), fmt.Sprintf("its %s %d: here it is %d", what, n, within), fmt.Sprintf("it may be %d to %d", x.least, x.most), "set what it should be")
	}
	return within
}
