// Package trash is the operators' desk for messages that failed, and for those that a breakpoint has parked for a person.
//
// The trash is no second store: an entry is the ticket of a message whose node gave up, beside the message's own row,
// and it stays until someone decides. Approved, the message goes on at the node where it failed, or from the breakpoint to
// what follows that; edited and approved, a new message goes on with the edited content, and the old one is kept as it was; rejected, it counts as settled.
// Who decided what, when and why is kept.
//
// Decisions about several entries are taken for all of them or for none, and one that someone else was faster with is
// no accident: [GoneError] says which entries have left, [ChangedError] which are not what was seen of them. A bulk is a
// decision about all that a filter asks for: the entries are chosen once, and [Trash.Run] works them off, each once.
// The package must not know who may decide: callers say for which tenant they act, and in whose name. Only what a breakpoint
// says about that it asks of the name.
//
// Read list.go for what is found how, decide.go for what people do, bulk.go and run.go for many at once.
package trash

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/queue"
	"sluice/queue/process"
	"sluice/queue/topology"
)

// ErrGone is in the error about entries that are not in the trash, or not any more, or another tenant's. See [GoneError].
var ErrGone = errors.New("not in the trash")

// ErrContent is in the error about edited content that no message may have.
var ErrContent = errors.New("content cannot be sent")

// ErrChanged is in the error about entries that are not any more what was seen of them. See [ChangedError].
var ErrChanged = errors.New("changed since they were looked at")

// ErrTarget is in the error about entries that cannot go on in another version. See [TargetError].
var ErrTarget = errors.New("no such node to go on at")

// ErrNotAllowed is in the error about entries that only others may decide about. See [NotAllowedError].
var ErrNotAllowed = errors.New("others may decide about it")

// NotAllowedError names the entries whose breakpoints say that only others may decide.
type NotAllowedError struct {
	Messages []process.MessageID
	MayAct   []string // about the first of them
}

func (e *NotAllowedError) Error() string {
	return fmt.Sprintf("only %s may act on %s", strings.Join(e.MayAct, ", "), listed(e.Messages))
}

// Unwrap makes errors.Is(err, ErrNotAllowed) true.
func (e *NotAllowedError) Unwrap() error { return ErrNotAllowed }

// GoneError names the entries that are not in the trash.
type GoneError struct {
	Messages []process.MessageID
}

func (e *GoneError) Error() string {
	return fmt.Sprintf("%v: %s", ErrGone, listed(e.Messages))
}

// listed writes messages with commas between.
func listed(messages []process.MessageID) string {
	ids := make([]string, len(messages))
	for i, m := range messages {
		ids[i] = m.String()
	}
	return strings.Join(ids, ", ")
}

// Unwrap makes errors.Is(err, ErrGone) true.
func (e *GoneError) Unwrap() error { return ErrGone }

// ChangedError names the entries that somebody has changed.
type ChangedError struct {
	Messages []process.MessageID
}

func (e *ChangedError) Error() string { return fmt.Sprintf("%v: %s", ErrChanged, listed(e.Messages)) }

// Unwrap makes errors.Is(err, ErrChanged) true.
func (e *ChangedError) Unwrap() error { return ErrChanged }

// TargetError names the entries of whose topology there is no such version that takes messages, or it has no such node.
type TargetError struct {
	Version  int
	Messages []process.MessageID
}

func (e *TargetError) Error() string {
	return fmt.Sprintf("%v in version %d, or it is not in use: %s", ErrTarget, e.Version, listed(e.Messages))
}

// Unwrap makes errors.Is(err, ErrTarget) true.
func (e *TargetError) Unwrap() error { return ErrTarget }

// Trash shows failed messages and carries out what is decided about them.
type Trash struct {
	pool   *pgxpool.Pool
	engine *queue.Engine
	wake   chan struct{} // tells Run of a bulk
}

// New returns the trash of the engine's database. The pool is one whose transactions say for which tenant they act:
// [queue.OpenForTenants].
func New(pool *pgxpool.Pool, engine *queue.Engine) *Trash {
	return &Trash{pool: pool, engine: engine, wake: make(chan struct{}, 1)}
}

// Type is why a message lies in the trash.
type Type string

// The types of entries.
const (
	Failed Type = "failure"
	Parked Type = "breakpoint" // it waits for a person, and nothing has failed
)

// Entry is a message that failed, or was parked.
type Entry struct {
	ID       process.MessageID
	Topology string
	Version  int
	Node     string        // the node that gave up, or the breakpoint
	Reason   string        // of a parked message: its title
	DueAt    *time.Time    // of a parked message: until when somebody should have decided
	Class    process.Class // empty while an entry from before there were classes is not sorted yet
	Cause    *int64        // what it shares with entries that failed for the same reason: the hash of its cause
	Attempt  int           // how many attempts were made; an approved message counts on
	FailedAt time.Time
	Edited   bool   // other content is to be sent when it is approved
	Size     int64  // of the body that failed
	Revision int64  // another after each change
	Assigned string // whose it is
}

// Type is why the message is in the trash.
func (e Entry) Type() Type {
	if e.Class == process.ClassBreakpoint {
		return Parked
	}
	return Failed
}

// Detail is an entry with its content and what happened to it.
type Detail struct {
	Entry
	Where     Where
	Process   process.Process
	Failures  int // how often the message has failed so far
	Headers   map[string]string
	Body      []byte
	Edit      *Edit // what is to be sent instead; nil: not edited
	Attempts  []process.Attempt
	Decisions []process.Decision
}

// Where is the place in the topology where a message stopped.
type Where struct {
	From     string // the node that the message came from
	Node     topology.Node
	Versions []int // the others of the topology that have a node of that name and are in use
}

// Content is what a message carries.
type Content struct {
	Headers map[string]string // all of them, names in lower case
	Body    []byte
}

// Edit is edited content that waits for approval.
type Edit struct {
	Content
	By string
	At time.Time
}

// Filter says which entries are meant. The zero value of a field lets all pass.
type Filter struct {
	Topology    string // also one that was deleted
	Version     int    // of Topology
	Node        string
	Application string // that the node is for
	Worker      string // that the node calls
	Type        Type
	Class       process.Class
	Cause       *int64
	Process     uuid.UUID
	Entity      process.Entity // that the process is about
	From, Until time.Time      // when it failed: from then on, and before then
	DueBefore   time.Time      // only what is due, before then
	Assigned    string         // to whom
	Text        string         // in the reason, or in the first searched bytes of the body
}

// Order is that of a list.
type Order string

// The orders of a list, by the time of failure.
const (
	Oldest Order = "oldest"
	Newest Order = "newest"
)

// Page is part of a list of entries.
type Page struct {
	Entries []Entry
	Next    *Mark // where to go on; nil on the last page
}

// Mark is a place in a list.
type Mark struct {
	FailedAt time.Time
	Message  int64
}

// Group is the entries with one cause.
type Group struct {
	Cause     *int64 // nil: not sorted yet
	Class     process.Class
	Text      string // the cause in words: the reason without what differs from entry to entry
	Reason    string // of the last entry
	Count     int64
	FirstSeen time.Time // of those that are in the trash now
	LastSeen  time.Time
}

// Groups are the causes of entries, the most frequent first.
type Groups struct {
	Groups  []Group // the first of them
	Causes  int64   // how many causes there are
	Entries int64   // of all of them
}

// Sent is what became of an approved entry.
type Sent struct {
	ID process.MessageID
	As process.MessageID // the same, or the message that goes on with the edited content
}
