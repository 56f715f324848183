package topology

import (
	"fmt"
	"strings"
	"time"
)

// What a file or a graph may hold at most. The limits are far above what people
// can read; they are there so that no file costs the server more than a moment.
const (
	MaxFileSize = 1 << 20
	MaxNodes    = 1000
	MaxEdges    = 10000
)

// Graph is what a version of a topology does: its nodes, in the order of the
// file, each with its followers. It is kept as JSON and comes back the same.
type Graph struct {
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	Bounds      Bounds   `json:"bounds,omitzero"`
	Entities    []Entity `json:"entities,omitempty"`
	Nodes       []Node   `json:"nodes"`
}

// Bounds are the most that a topology may have open, in all its versions together,
// before its producers are asked to wait: waiting, running, held and retrying, not
// what lies in the trash. 0 is no bound.
type Bounds struct {
	Messages int64 `json:"messages,omitempty"`
	Bytes    int64 `json:"bytes,omitempty"` // of their bodies
}

// Node is one step of a graph. A start node has a name and followers, nothing
// else, and a breakpoint what it parks messages with; in all others each setting
// that the file left out holds its default.
type Node struct {
	Name        string   `json:"name"`
	Kind        Kind     `json:"kind"`
	Worker      string   `json:"worker,omitempty"`      // name of a registered worker
	Action      string   `json:"action,omitempty"`      // path on the worker
	Application string   `json:"application,omitempty"` // third party that the node talks to
	Timeout     Duration `json:"timeout,omitzero"`      // of one call
	Concurrency int      `json:"concurrency,omitempty"` // calls at once, in the whole cluster; 0 leaves it to the engine
	OrderBy     OrderBy  `json:"order_by,omitzero"`     // what keeps messages in order here
	Retry       Retry    `json:"retry,omitzero"`
	Title       Title    `json:"title,omitzero"`    // of a parked message, for people
	Due         Duration `json:"due,omitzero"`      // until when somebody should have decided, from when it was parked
	MayAct      []string `json:"may_act,omitempty"` // who may decide; nobody named: everybody
	Followers   []string `json:"followers,omitempty"`
}

// Ordered tells whether messages are worked in the order in which they came: those
// of a key, or all of them if only one is called at a time.
func (n Node) Ordered() bool { return !n.OrderBy.IsZero() || n.Concurrency == 1 }

// Retry says what happens after a call that may succeed later: the n-th waits
// Initial x Factor^(n-1), at most Max, more or less by the share Jitter.
type Retry struct {
	Attempts   int        `json:"attempts"`
	Initial    Duration   `json:"initial"`
	Factor     float64    `json:"factor"`
	Max        Duration   `json:"max"`
	Jitter     float64    `json:"jitter"`
	RetryAfter RetryAfter `json:"retry_after"`
	Outage     Outage     `json:"outage"`
}

// IsStandard tells whether this is what a node has that says nothing about it.
func (r Retry) IsStandard() bool { return r == defaultRetry }

// RetryAfter says whether the time that a worker asks to be left alone counts.
type RetryAfter string

// Outage says whether calls of a worker that nobody can reach use up attempts.
type Outage string

// The two answers to each question; the first is the default.
const (
	RetryAfterHonour RetryAfter = "honour"
	RetryAfterIgnore RetryAfter = "ignore"

	OutageWait  Outage = "wait"
	OutageCount Outage = "count"
)

// What a node has that says nothing else. Its action is called like the node.
const defaultTimeout = Duration(30 * time.Second)

var defaultRetry = Retry{
	Attempts:   10,
	Initial:    Duration(time.Second),
	Factor:     2,
	Max:        Duration(10 * time.Minute),
	Jitter:     0.2,
	RetryAfter: RetryAfterHonour,
	Outage:     OutageWait,
}

// StandardRetry is what a node has that says nothing of it.
func StandardRetry() Retry { return defaultRetry }

// Node returns the node of that name.
func (g Graph) Node(name string) (Node, bool) {
	for _, n := range g.Nodes {
		if n.Name == name {
			return n, true
		}
	}
	return Node{}, false
}

// Kind says what happens at a node.
type Kind string

// The kinds of node. A start node takes events in, and at a breakpoint a person
// decides; the others call a worker: custom runs the user's code, connector talks
// to a third party, and batch is called again and again, page after page.
const (
	Start      Kind = "start"
	Custom     Kind = "custom"
	Connector  Kind = "connector"
	Batch      Kind = "batch"
	Breakpoint Kind = "breakpoint"
)

// traits are what sets a kind apart.
type traits struct {
	kind        Kind
	callsWorker bool
	application bool // may name a third party
	means       string
}

// kinds is the one list of them. A new kind is a line here, and in the rules what
// is special about it.
var kinds = []traits{
	{Start, false, false, "takes events in from outside"},
	{Custom, true, false, "runs your code"},
	{Connector, true, true, "talks to a third party"},
	{Batch, true, true, "is called page after page, until the worker says that it was the last"},
	{Breakpoint, false, false, "parks messages until a person approves or rejects them"},
}

// CallsWorker tells whether a node of this kind hands its messages to a worker.
func (k Kind) CallsWorker() bool {
	t := k.traits()
	return t != nil && t.callsWorker
}

// traits are nil for a kind that nobody knows.
func (k Kind) traits() *traits {
	for i := range kinds {
		if kinds[i].kind == k {
			return &kinds[i]
		}
	}
	return nil
}

func kindNames() []string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = string(k.kind)
	}
	return names
}

// Duration is a time span that is written as people write it: 500ms, 30s, 1h30m.
type Duration time.Duration

// String drops the zeros that [time.Duration] keeps: 10m, not 10m0s.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText is String, for JSON.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what MarshalText wrote, and all that Go calls a duration.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("duration: %w", err)
	}
	*d = Duration(parsed)
	return nil
}
