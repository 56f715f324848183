// Package orchesty lets Sluice call workers that were written for Orchesty, as
// they are: anything on its published Node SDK, and the connectors made with it.
//
// A call is one JSON envelope of headers and body; the worker's verdict is a
// code among the headers that come back, which are the message's from then on.
// [Client] makes such calls with the same requests, replies and classes of
// failure as package worker's own client, so that the engine cannot tell the
// two apart. [Client.List] asks a worker what it has.
//
// The package promises that what is sent is JSON in ASCII whatever the message
// holds (other JSON kills a worker or reaches it garbled), that a message keeps
// its ids and its user whatever a worker does to them, and that no reply is
// taken for something that it does not say. It knows no topologies and no
// database: ids are made from names, and what must outlast a call travels in
// its cursor.
//
// # Where it differs from Orchesty's own engine
//
// Workers see none of this, but for a node that would have been called in vain.
//
//	What happens                  Orchesty                          Sluice, and why
//	----------------------------  --------------------------------  --------------------------------------------
//	500                           to the trash at once              tried again, as often as the node says: the
//	                                                                SDK answers so when the engine was away
//	refused, no host, 502 to 504  to the trash after some 50 s      waits as long as it takes, uses no attempt
//	no answer in time             to the trash after ten rounds     tried again; the time is the node's, not 60 s
//	408, 425, 429                 to the trash at once              tried again; 429 after its Retry-After
//	3xx                           followed, POST becomes GET        refused, with the reason: a body would be lost
//	2xx that is no envelope       to the trash, without its ids     tried again, then to the trash with its ids
//	body that is no string        read as empty                     the same: the data would be gone
//	ids or user removed           gone for all that follow          put back
//	header values that are        kept as they are                  text from then on: 7 becomes "7", [1] becomes
//	no strings                                                      "[1]", null is left out; the SDK reads text
//	1001, empty body              goes on with the reply's body     the empty body stays
//	1001 after the trash          hops begin anew                   the same, but for a page of a batch before
//	                                                                which order is kept
//	1004                          back at once, without end, or by  held for the period of the limit that the
//	                              the limiter with the reply's      message carries, or for 60 s, with the body
//	                              body                              that it came with
//	1010 without a cursor         from the first page, for ever     refused
//	1010, 1011 of no batch        not known                         success, as any other code
//	hops of a page                held against later pages too      each page has its own
//	1010, empty body              the next page gets this one's     the empty body stays
//	                              items for a body
//	page half sent                sent again as a whole             items and cursor are one transaction
//	1002 of a batch               not looked at: all followers      refused, with the reason: nobody asked for
//	                              get all items                     that
//	process-id                    drawn anew for each fan-out       made from the message's id, so that it is the
//	                                                                same when a call is made again
//	content-type                  always application/json           what the message has, or that
//	repeat-queue, limit-return-*  sent and taken back               not sent: there are no such queues
//	audit-*                       kept in a store of its own        left out of what goes on
package orchesty

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"sluice/queue/worker"
)

// What the client takes unless it is told otherwise. Envelopes repeat a body in
// JSON, within JSON for the items of a batch, so replies are larger than bodies.
const (
	defaultMaxReply = 64 << 20
	defaultMaxItems = 100_000
)

// Client calls Orchesty's workers. It is safe for concurrent use.
type Client struct {
	http     *worker.Client
	maxItems int
}

// NewClient makes a client. Of the configuration, MaxMessages is how many items
// a page may have.
func NewClient(config worker.Config) *Client {
	config.MaxReply = cmp.Or(config.MaxReply, defaultMaxReply)
	return &Client{http: worker.NewClient(config), maxItems: cmp.Or(config.MaxMessages, defaultMaxItems)}
}

// Close closes the idle connections.
func (c *Client) Close() { c.http.Close() }

// Call sends a message to a worker and returns what it made of it. The error is
// always a [*worker.Failure].
func (c *Client) Call(ctx context.Context, target worker.Target, request worker.Request) (worker.Result, error) {
	path, err := pathOf(request)
	if err != nil {
		return worker.Result{}, unsendable(err)
	}
	m, err := newMessage(target, request)
	if err != nil {
		return worker.Result{}, unsendable(err)
	}
	e, err := newEnvelope(m.outgoing(), request.Body)
	if err != nil {
		return worker.Result{}, unsendable(err)
	}
	answer, err := c.http.Post(ctx, roomy(target, request), worker.Post{
		Path:     path,
		Header:   http.Header{"Content-Type": {"application/json"}},
		Body:     func() io.Reader { return e.reader() },
		Size:     e.size(),
		Replies:  func(status int) bool { return status == http.StatusBadRequest },
		Deadline: request.Deadline,
	})
	if err != nil {
		return worker.Result{}, err
	}
	reply, failure := m.read(answer, c.maxItems)
	if failure != nil {
		if answer.Room != nil {
			answer.Room.Release()
		}
		failure.Status, failure.Timing, failure.Response = answer.Status, answer.Timing, answer.Response()
		return worker.Result{}, failure
	}
	return worker.Result{Reply: reply, Status: answer.Status, Timing: answer.Timing, Room: answer.Room}, nil
}

// pathOf is where a node is called. The action is the name under which the
// worker has it.
func pathOf(r worker.Request) (string, error) {
	if r.Action == "" || strings.Contains(r.Action, "/") {
		return "", fmt.Errorf("action %.80q is no name of a node", r.Action)
	}
	switch r.Kind {
	case kindConnector:
		return "connector/" + r.Action + "/action", nil
	case kindBatch:
		return "batch/" + r.Action + "/action", nil
	case kindCustom:
		return "custom-node/" + r.Action + "/process", nil
	}
	return "", fmt.Errorf("a node of kind %.40q calls no worker", r.Kind)
}

// The kinds of nodes, as the requests name them.
const (
	kindConnector = "connector"
	kindBatch     = "batch"
	kindCustom    = "custom"
)

func unsendable(err error) *worker.Failure {
	return &worker.Failure{Class: worker.Rejected, Reason: worker.Clean("the message cannot be sent: " + err.Error()), Err: err}
}

// roomy makes a target ask for room for the copies that are made of a reply
// while it is taken apart: of the body, and of the items of a batch again.
func roomy(target worker.Target, r worker.Request) worker.Target {
	makeRoom, copies := target.Room, int64(2)
	if r.Kind == kindBatch {
		copies = 3
	}
	if makeRoom != nil {
		target.Room = func() worker.Room { return copiedRoom{makeRoom(), copies} }
	}
	return target
}

type copiedRoom struct {
	worker.Room
	copies int64
}

func (r copiedRoom) Grow(ctx context.Context, size int64) error {
	return r.Room.Grow(ctx, size*r.copies)
}

// malformed is the failure of a reply that is none.
func malformed(m *message, answer worker.Answer, err error) *worker.Failure {
	return &worker.Failure{
		Class:  worker.Transient,
		Reason: worker.Clean(fmt.Sprintf("%s answered %d, but not as an Orchesty worker does: %s", m.worker, answer.Status, err)),
		Err:    fmt.Errorf("%w: %w", worker.ErrProtocol, err),
	}
}

// rejected is the failure of a message that would fare no better another time.
func rejected(format string, args ...any) *worker.Failure {
	return &worker.Failure{Class: worker.Rejected, Reason: worker.Clean(fmt.Sprintf(format, args...))}
}

var errNotUTF8 = errors.New("its body is not text in UTF-8, and an Orchesty worker takes nothing else")
