package queue_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/migrations/pgtest"
	"sluice/queue"
)

// gate is the line between a virtual runner and Postgres, in the hands of a scheduler. Statements that it knows by name
// stop at it three times: before they are sent, when they are executed and not committed, and when they are committed and
// not answered. It makes the second stop by keeping back the Sync that ends a statement's messages: Postgres executes
// without it, and commits with it. Of a batch, each statement with a name stops before it is sent.
//
// Between any two stops other runners go on, so that they meet locks, and rows that change while they wait.
//
// The connections behind it outlive those before it: a line can break a thousand times a second.
type gate struct {
	name    string
	db      *pgtest.DB
	rewrite func(string) string // changes the text of statements

	mu      sync.Mutex
	stirred func() // tells the scheduler that something has happened
	down    bool   // nothing can be reached
	clients map[net.Conn]struct{}
	held    []*held    // in the order in which they came
	idle    []*backend // nobody uses them
}

// gated are the statements that stop, by a text that only they have.
var gated = []struct{ name, text string }{
	{"accept", "ledger as ("},
	{"claim", "wanted as ("},
	{"hand off", "item as materialized ("},
	{"look for committed", "join sluice.attempt a on"},
	{"take over", "orphan as ("},
	{"list claims", "select id, attempt from river.river_job\nwhere state = 'running'"},
	{"give back", "mine as ("},
	{"alarm", "rung as ("},
	{"beat", "set lease_until"},
	{"end life", "delete from sluice.runner where id"},
	{"ensure lanes", "insert into sluice.lane ("},
	{"lock lanes", "a lane was forgotten as a message came to it"},
	{"read lanes", "sum(octet_length(s.body))"},
	{"forget lanes", "delete from sluice.lane where"},
	{"lock nodes", "for no key update"},
}

func gatedName(sql string) string {
	for _, g := range gated {
		if strings.Contains(sql, g.text) {
			return g.name
		}
	}
	return ""
}

// phase is how far a statement that stops has come.
type phase int

const (
	waiting     phase = iota // for the scheduler: the next part is not sent
	sent                     // being executed, or waiting for a lock
	uncommitted              // but executed
	committed                // the answer is known here, and not to the runner
)

// held is a statement, or a batch of them, at the gate.
type held struct {
	gate    *gate
	client  net.Conn
	backend *backend
	names   []string // of the parts
	parts   []part
	next    int  // part to send
	owner   *op  // the runner's step that sends it
	ghost   bool // the runner has hung up, and the statement is still on its way

	settings bool // it changes some

	over     chan struct{} // closed when the runner has its answer, or hears that the line is broken
	answered bool

	// Guarded by gate.mu.
	phase  phase
	heard  []byte
	failed string // SQLSTATE
}

type part struct {
	messages   []byte
	statements int
}

// open returns a pool as an engine's, whose connections go through the gate.
func (g *gate) open(t testing.TB) *pgxpool.Pool {
	t.Helper()
	plain, err := queue.Open(context.Background(), g.db.URL, 10)
	if err != nil {
		t.Fatal(err)
	}
	config := plain.Config()
	plain.Close()
	config.ConnConfig.RuntimeParams["application_name"] = g.name
	config.ConnConfig.RuntimeParams["plan_cache_mode"] = "force_generic_plan" // of statements that run a few times
	g.clients, g.down = map[net.Conn]struct{}{}, false
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		near, far := net.Pipe()
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.down {
			return nil, errors.New("the gate is closed")
		}
		g.clients[far] = struct{}{}
		c := &gateConn{gate: g, client: far, dial: func() (net.Conn, error) { return dial(ctx, network, address) }}
		go c.serve()
		return near, nil
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

func (g *gate) setStirred(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stirred = f
}

// close cuts all connections, and lets nobody connect any more. Ghosts are not touched.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.down = true
	for c := range g.clients {
		c.Close()
	}
}

// statements are those that are at the gate, in the order in which they came.
func (g *gate) statements() []*held {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.held)
}

// at is how far a statement has come.
func (h *held) at() phase {
	h.gate.mu.Lock()
	defer h.gate.mu.Unlock()
	return h.phase
}

// whole tells that all parts were executed, or one has failed.
func (h *held) whole() bool { return h.next == len(h.parts) || h.failed != "" }

// send sends the next part.
func (h *held) send() {
	p := h.parts[h.next]
	h.next++
	h.move(sent)
	go func() {
		h.backend.Write(append(slices.Clip(p.messages), 'H', 0, 0, 0, 4)) // a Flush: tell what there is
		for n := 0; n < p.statements && h.failed == ""; {
			m, err := readMessage(h.backend.r, 1)
			if err != nil {
				m = errorMessage("08006")
			}
			switch m[0] {
			case 'C', 'I', 's':
				n++
			case 'E':
				h.failed = sqlStateOf(m[5:])
			}
			h.heard = append(h.heard, m...)
		}
		if h.whole() {
			h.move(uncommitted)
		} else {
			h.move(waiting)
		}
	}()
}

func (h *held) move(to phase) {
	h.gate.mu.Lock()
	defer h.gate.mu.Unlock()
	h.phase = to
	h.gate.stirred()
}

// commit ends the transaction: without an error, by a commit.
func (h *held) commit() error {
	answer, err := h.backend.ask([]byte{'S', 0, 0, 0, 4})
	h.heard = append(h.heard, answer...)
	h.move(committed)
	return err
}

// answer lets the runner know.
func (h *held) answer() {
	h.drop()
	h.client.Write(h.heard)
	h.answered = true
	close(h.over)
}

// lose breaks the line. What is not committed is rolled back.
func (h *held) lose() error {
	h.drop()
	h.client.Close()
	if !h.ghost {
		close(h.over)
	}
	var err error
	switch h.at() {
	case waiting, uncommitted:
		if h.next > 0 { // an error before the Sync
			_, err = h.backend.ask([]byte{'P', 0, 0, 0, 9, 0, '!', 0, 0, 0, 'S', 0, 0, 0, 4})
		}
	case sent:
		h.backend.Close()
		return nil
	case committed:
	}
	h.gate.put(h.backend)
	return err
}

// haunt breaks the line for the runner only: what it has sent is still on its way.
func (h *held) haunt() {
	h.ghost = true
	h.client.Close()
	close(h.over)
}

// drop takes a statement from the gate.
func (h *held) drop() {
	g := h.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.held, h); i >= 0 {
		g.held = slices.Delete(g.held, i, i+1)
	}
}

// backend is a connection to Postgres.
type backend struct {
	net.Conn
	r        *bufio.Reader
	pid      uint32
	hello    []byte            // what it said first
	prepared map[string][]byte // its answers, by the names of the statements
	changed  bool              // settings were
}

func (g *gate) take(c *gateConn, hello []byte) (*backend, error) {
	g.mu.Lock()
	if n := len(g.idle); n > 0 {
		b := g.idle[n-1]
		g.idle = g.idle[:n-1]
		g.mu.Unlock()
		return b, nil
	}
	g.mu.Unlock()
	conn, err := c.dial()
	if err != nil {
		return nil, err
	}
	b := &backend{Conn: conn, r: bufio.NewReader(conn), prepared: map[string][]byte{}}
	b.hello, err = b.ask(hello)
	for rest := b.hello; len(rest) > 5; rest = rest[1+binary.BigEndian.Uint32(rest[1:]):] {
		if rest[0] == 'K' {
			b.pid = binary.BigEndian.Uint32(rest[5:])
		}
	}
	return b, err
}

// put gives back a connection that no transaction is open on.
func (g *gate) put(b *backend) {
	if b.changed {
		b.changed = false
		if _, err := b.ask(protocolMessage('Q', []byte("reset all\x00"))); err != nil {
			b.Close()
			return
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.idle = append(g.idle, b)
}

// ask sends messages, and reads until Postgres is ready for more.
func (b *backend) ask(messages []byte) (answer []byte, err error) {
	if _, err := b.Write(messages); err != nil {
		return nil, err
	}
	for {
		m, err := readMessage(b.r, 1)
		if err != nil {
			return answer, err
		}
		answer = append(answer, m...)
		if m[0] == 'Z' {
			return answer, nil
		}
	}
}

// gateConn is a connection of a runner's.
type gateConn struct {
	gate    *gate
	client  net.Conn
	dial    func() (net.Conn, error)
	backend *backend

	texts map[string]string // of prepared statements
	group [][]byte          // messages that the client has sent since the last Sync
}

// serve passes on what the client says and what Postgres answers, and stops what it should.
func (c *gateConn) serve() {
	defer func() {
		c.client.Close()
		c.gate.mu.Lock()
		delete(c.gate.clients, c.client)
		c.gate.mu.Unlock()
		if c.backend != nil {
			c.gate.put(c.backend)
		}
	}()
	r := bufio.NewReader(c.client)
	hello, err := readMessage(r, 0)
	if err != nil || len(hello) == 16 { // a request to cancel
		return
	}
	b, err := c.gate.take(c, hello)
	if err != nil {
		return
	}
	c.backend, c.texts = b, map[string]string{}
	c.client.Write(b.hello)
	for {
		m, err := readMessage(r, 1)
		if err != nil {
			return
		}
		switch m[0] {
		case 'X':
			return
		case 'S', 'Q':
			if !c.pass(m) {
				return
			}
		default:
			c.note(m)
		}
	}
}

// note takes a message that more will follow.
func (c *gateConn) note(m []byte) {
	switch m[0] {
	case 'P':
		name, rest, _ := bytes.Cut(m[5:], []byte{0})
		sql, types, _ := bytes.Cut(rest, []byte{0})
		c.texts[string(name)] = string(sql)
		m = protocolMessage('P', slices.Concat(name, []byte{0}, []byte(c.gate.rewrite(string(sql))), []byte{0}, types))
	case 'C': // after an error pgx has a statement forgotten
		delete(c.backend.prepared, string(m[6:len(m)-1]))
	}
	c.group = append(c.group, m)
}

// pass deals with a group of messages whose last is m. It returns false when the line is broken.
func (c *gateConn) pass(m []byte) bool {
	group := append(c.group, m)
	c.group = nil
	if group[0][0] == 'P' && !slices.ContainsFunc(group, func(m []byte) bool { return m[0] == 'E' }) {
		answer, err := c.backend.prepare(group)
		c.client.Write(answer)
		return err == nil
	}
	h := &held{gate: c.gate, client: c.client, backend: c.backend, over: make(chan struct{})}
	h.cut(group, c.texts)
	if len(h.names) == 0 {
		c.backend.changed = c.backend.changed || m[0] == 'Q' || h.settings
		answer, err := c.backend.ask(slices.Concat(group...))
		c.client.Write(answer)
		return err == nil
	}
	c.backend = nil // it is the scheduler's now
	c.gate.mu.Lock()
	c.gate.held = append(c.gate.held, h)
	c.gate.stirred()
	c.gate.mu.Unlock()
	<-h.over
	if h.answered {
		c.backend = h.backend
	}
	return h.answered
}

// cut makes parts of a group of messages: each but the first begins with a statement that stops.
func (h *held) cut(group [][]byte, texts map[string]string) {
	for _, m := range group[:len(group)-1] {
		if m[0] == 'B' {
			_, rest, _ := bytes.Cut(m[5:], []byte{0}) // the name of the portal
			prepared, _, _ := bytes.Cut(rest, []byte{0})
			text := texts[string(prepared)]
			h.settings = h.settings || strings.Contains(text, "set_config(")
			if name := gatedName(text); name != "" {
				h.names = append(h.names, name)
				if len(h.parts) < len(h.names) {
					h.parts = append(h.parts, part{})
				}
			}
		}
		if len(h.parts) == 0 {
			h.parts = append(h.parts, part{})
		}
		p := &h.parts[len(h.parts)-1]
		p.messages = append(p.messages, m...)
		if m[0] == 'E' {
			p.statements++
		}
	}
}

// prepare prepares statements, those that are not yet: names say what statements are, as pgx makes them of the text.
func (b *backend) prepare(group [][]byte) (answer []byte, err error) {
	sync := group[len(group)-1]
	for rest := group[:len(group)-1]; len(rest) > 0; {
		n := 1 + slices.IndexFunc(append(rest[1:len(rest):len(rest)], []byte{'P'}), func(m []byte) bool { return m[0] == 'P' })
		name, _, _ := bytes.Cut(rest[0][5:], []byte{0})
		known, ok := b.prepared[string(name)]
		if !ok {
			if known, err = b.ask(slices.Concat(append(rest[:n:n], sync)...)); err != nil {
				return nil, err
			}
			known = known[:len(known)-len(ready)]
			b.prepared[string(name)] = known
		}
		answer, rest = append(answer, known...), rest[n:]
	}
	return append(answer, ready...), nil
}

// ready says that Postgres waits for the next group of messages, and is in no transaction.
var ready = protocolMessage('Z', []byte{'I'})

func protocolMessage(kind byte, body []byte) []byte {
	m := append([]byte{kind, 0, 0, 0, 0}, body...)
	binary.BigEndian.PutUint32(m[1:], uint32(len(m)-1))
	return m
}

func errorMessage(state string) []byte { return protocolMessage('E', []byte("C"+state+"\x00\x00")) }

// sqlStateOf reads the code from the fields of an error.
func sqlStateOf(fields []byte) string {
	for f := range bytes.SplitSeq(fields, []byte{0}) {
		if len(f) > 0 && f[0] == 'C' {
			return string(f[1:])
		}
	}
	return "?"
}

// readMessage reads a message with its head: a type, which the first of a session has not, and its length.
func readMessage(r io.Reader, kind int) ([]byte, error) {
	head := make([]byte, kind+4)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	m := make([]byte, kind+int(binary.BigEndian.Uint32(head[kind:])))
	copy(m, head)
	_, err := io.ReadFull(r, m[len(head):])
	return m, err
}
