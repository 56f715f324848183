// Package worker is the protocol between Sluice and a user's worker service,
// and the client that speaks it.
//
// A worker is any HTTP server. Sluice posts a message's body to it, byte for
// byte as it came, with everything else in headers; the worker answers with the
// next body, or with a small JSON document when it has more to say (split,
// route, stop, repeat, fail, page on). [Client] makes the call, [Handler] serves
// it, and docs/worker-protocol.md tells it to people.
//
// The package promises that a call ends by its deadline whatever the worker
// does (a wait for memory of our own is not the worker's, and moves it), that a body is never re-encoded, and that every way to fail is sorted
// into one [Class], so that the engine decides by the class alone. It knows
// neither topologies nor databases and imports only the standard library, so a
// Go worker may import it too.
package worker

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// What a call may carry. Whoever lets a message in should hold its headers
// against [CheckHeaders], so that each message that exists can also be sent.
const (
	MaxHeaders     = 64                  // headers of a message
	MaxHeaderBytes = 8 << 10             // their names and values, as encoded; common servers take 8 to 16 KiB of headers
	MaxCursorBytes = 8 << 10             // a batch's cursor, as encoded
	MaxAfter       = 30 * 24 * time.Hour // the longest wait that a worker may ask for with repeat
	MaxRetryAfter  = 24 * time.Hour      // a longer Retry-After counts as this
	MaxReason      = 1000                // characters of a reason; the rest is cut
)

// ResultType is the content type that makes a reply a result document rather
// than the next body.
const ResultType = "application/vnd.sluice.result+json"

// Protocol names what a worker speaks.
type Protocol string

// The protocols.
const (
	Sluice   Protocol = "sluice"   // that of this package
	Orchesty Protocol = "orchesty" // that of package orchesty beside it
)

// The dialects of Orchesty's protocol. Workers on what is published speak A; B is
// what Orchesty's own engine has moved on to.
const (
	DialectA = "a"
	DialectB = "b"
)

// Target is a worker service to call.
type Target struct {
	// Name is the worker's name, for people: it stands in every reason.
	Name string
	// URL is where the worker listens. Its path is a prefix of the action, its
	// query and user are sent along and never shown.
	URL string
	// Protocol is what the worker speaks; empty is [Sluice]. A [Client] speaks that alone.
	Protocol Protocol
	// Dialect is which version of a protocol it speaks, where there are several.
	Dialect string
	// Secrets sign the call: each one adds a signature, so that a secret is
	// changed without a gap. Without secrets the call goes unsigned.
	Secrets []Secret
	// Credentials prove who calls in other ways than the signature does.
	Credentials Credentials
	// Via is the way of calls that end by the deadline, for a worker that is not to
	// be reached at its URL. Without it they go over the network.
	Via func(deadline time.Time) http.RoundTripper `json:"-"`
	// Room makes room for a reply that turns out to be larger than
	// [SmallReply]. Without it there is always room.
	Room func() Room `json:"-"`
}

// name is what people are told that the worker is called.
func (t Target) name() string {
	if t.Name == "" {
		return "worker"
	}
	return "worker " + t.Name
}

// SmallReply is up to what size a reply needs no [Room].
const SmallReply = 64 << 10

// Room is what one large reply takes of a memory that many share.
type Room interface {
	// Grow waits until the reply may take so many bytes in all.
	Grow(ctx context.Context, size int64) error
	// Release gives all of it back.
	Release()
}

// Request is one call: a message, and where it stands. The client sends it and
// a [Handler]'s function receives it.
type Request struct {
	// Action is what the worker is to do: the path below its URL. It may have
	// several segments; see [CheckAction].
	Action string
	// MessageID names the message, the same on each attempt.
	MessageID string
	// CorrelationID names the process that the message belongs to.
	CorrelationID string
	// Topology, Version and Node say where the message is.
	Topology string
	Version  int
	Node     string
	// Kind is the node's: connector, batch or custom.
	Kind string
	// Followers are the names of the nodes that follow it. Do not write to it.
	Followers []string
	// Application is the third-party system that the node talks to, if any.
	Application string
	// Attempt counts the tries of this message at this node, from 1.
	Attempt int
	// Page is the page that a batch node is asked for, from 1; 0 for other nodes.
	Page int
	// Cursor is what the worker gave with the page before, or with the last Repeat
	// that had one; empty for the first.
	Cursor string
	// Headers are the message's own, their names in lower case. "content-type"
	// describes the body and travels as the HTTP header of that name.
	Headers map[string]string
	// Body is the message's body. It is sent as it is. Do not write to it, even
	// when the call has returned: of a worker that answers before it has read
	// everything, the rest may still be on its way.
	Body []byte
	// Deadline is when Sluice stops to wait. The client also keeps the deadline
	// of its context, and sends the earlier one.
	Deadline time.Time
}

// IdempotencyKey names the effect that the call asks for: the same on every
// retry, another for each page of a batch. A worker that remembers the keys it
// has handled does nothing twice.
func (r Request) IdempotencyKey() string {
	if r.Page > 1 {
		return r.MessageID + "-p" + strconv.Itoa(r.Page)
	}
	return r.MessageID
}

// Verdict is what a worker made of a message. To fail for good is no verdict but
// an error, a [Failure] of class [Rejected].
type Verdict int

// The verdicts.
const (
	// Done: the reply's messages go on.
	Done Verdict = iota + 1
	// Stop: handled, and nothing goes on.
	Stop
	// Repeat: call again later. It uses up no attempt.
	Repeat
)

func (v Verdict) String() string {
	switch v {
	case Done:
		return "done"
	case Stop:
		return "stop"
	case Repeat:
		return "repeat"
	}
	return fmt.Sprintf("Verdict(%d)", int(v))
}

// Reply is what a worker says to a call.
//
// What the client returns is settled to the last detail: a Done has at least one
// message, or belongs to a batch; each message has its whole set of headers.
type Reply struct {
	Verdict Verdict
	// Messages go on when the verdict is Done. None at all means that nothing
	// goes on: the client returns Stop for it, unless the call asked for a page
	// of a batch, which may well be empty.
	Messages []Message
	// After is how long to wait before the call is repeated.
	After time.Duration
	// Reason tells people why the message stopped or is to be repeated.
	Reason string
	// Cursor asks for the next page of a batch; empty after the last one. With
	// Repeat it takes the place of the request's, if it is not empty; the protocol
	// of this package has no words for that.
	Cursor string
}

// Message is a message that a worker passes on.
type Message struct {
	// Followers are the nodes it goes to; nil means all of them.
	Followers []string
	// Headers from the client are the new message's whole set. They may be the
	// request's own map, so do not write to it. From a worker they are added to
	// the request's headers, which carry on otherwise.
	Headers map[string]string
	// Drop, from a worker, names headers of the request that do not carry on;
	// "*" is all of them. The client has applied it and leaves it nil.
	Drop []string
	// Body is the new body, exactly as the worker wrote it. It may share memory
	// with the other messages of the reply.
	Body []byte
	// SameBody says that the body is the request's, unchanged; Body is nil then.
	SameBody bool
}

// Pass is the reply that passes the message on as it came: to all followers, or
// to those named.
func Pass(followers ...string) Reply {
	return Reply{Verdict: Done, Messages: []Message{{Followers: followers, SameBody: true}}}
}

// Send is the reply that passes these messages on instead; without any, nothing
// goes on.
func Send(messages ...Message) Reply {
	return Reply{Verdict: Done, Messages: messages}
}

// Result is a worker's reply and how the call went.
type Result struct {
	Reply
	// Status is the reply's HTTP status.
	Status int
	// Timing is how long each part took.
	Timing Timing
	// Room is what a large reply takes, nil for a small one. Whoever made the call
	// releases it when the messages are no longer needed.
	Room Room
	// Rates is what the reply's headers said of rates, nil if they said nothing.
	Rates http.Header
}

// Timing is how long a call took. The parts count from Start; a part that was
// not reached is 0.
type Timing struct {
	Start     time.Time
	Connected time.Duration // a connection was there: an idle one, or a new one with its TLS handshake
	Answered  time.Duration // the reply's headers were there
	Total     time.Duration // all was read, or the call failed
}
