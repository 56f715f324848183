package queue_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/migrations/pgtest"
	"sluice/queue"
)

// wire is the line between an engine and Postgres. It understands as much of the protocol as it takes to break at a
// chosen statement.
type wire struct {
	mu    sync.Mutex
	cuts  []*cut
	conns map[*wireConn]struct{}
}

// moment is when a line breaks.
type moment int

const (
	unsent   moment = iota // before the statement reaches Postgres
	executed               // after it was executed and committed, before its answer is heard
	deaf                   // at once, and the other side hears nothing of it: bytes go nowhere, as when a router forgets
)

// cut breaks the line at statements that contain a text.
type cut struct {
	wire     *wire
	when     moment
	text     string
	passes   int // of the statements to come, so many are left alone
	breaks   int // and after each break so many again
	times    int // how often it breaks
	happened int
}

// openWired returns a pool as an engine's, whose line is in the test's hands.
func openWired(t *testing.T, db *pgtest.DB) (*pgxpool.Pool, *wire) {
	t.Helper()
	plain, err := queue.Open(t.Context(), db.URL, 16)
	ok(t, err)
	config := plain.Config()
	plain.Close()
	w := &wire{conns: map[*wireConn]struct{}{}}
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		c := &wireConn{Conn: conn, wire: w, statements: map[string]string{}}
		w.mu.Lock()
		w.conns[c] = struct{}{}
		w.mu.Unlock()
		return c, nil
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	ok(t, err)
	t.Cleanup(pool.Close)
	return pool, w
}

// cut breaks the line at the next statement that contains the text.
func (w *wire) cut(when moment, text string) *cut { return w.cutSome(when, text, 0, 1) }

// cutSome leaves so many such statements alone, then breaks the line at one, and so on.
func (w *wire) cutSome(when moment, text string, passes, times int) *cut {
	c := &cut{wire: w, when: when, text: text, passes: passes, breaks: passes, times: times}
	w.mu.Lock()
	w.cuts = append(w.cuts, c)
	w.mu.Unlock()
	return c
}

// count is how often the line broke.
func (c *cut) count() int {
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	return c.happened
}

// sees counts the statements that contain the text, and breaks nothing.
func (w *wire) sees(text string) *cut { return w.cutSome(unsent, text, 1<<30, 1) }

// seen is how many statements a cut left alone.
func (c *cut) seen() int {
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	return c.breaks - c.passes
}

// stop lets everything pass.
func (c *cut) stop() {
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	c.times = 0
}

// deafen makes all connections that are open now swallow what is sent on them, without an error.
func (w *wire) deafen() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		c.deaf = true
	}
}

// hangUp closes the connections on which a statement is executed that contains the text. Postgres does not notice until
// it wants to answer.
func (w *wire) hangUp(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		if c.busy && strings.Contains(c.statement, text) {
			go c.Close()
		}
	}
}

func (w *wire) find(sql string) *cut {
	for _, c := range w.cuts {
		if c.times == 0 || !strings.Contains(sql, c.text) {
			continue
		}
		if c.passes > 0 {
			c.passes--
			continue
		}
		c.passes = c.breaks
		c.times--
		return c
	}
	return nil
}

// wireConn is a connection to Postgres.
type wireConn struct {
	net.Conn
	wire       *wire
	statements map[string]string // prepared ones, by name
	said       bytes.Buffer      // by the client, up to an incomplete message
	begun      bool              // the message that begins a session has no type
	statement  string            // the last one that was sent
	busy       bool              // its answer has not come
	doom       *cut              // swallows the answer
	cancels    bool              // is a request to cancel a statement on another connection
	ended      bool              // broken, and counted
	deaf       bool
}

func (c *wireConn) Write(p []byte) (int, error) {
	c.wire.mu.Lock()
	c.said.Write(p)
	for c.doom == nil {
		kind, body, ok := c.next()
		if !ok {
			break
		}
		name, rest, _ := bytes.Cut(body, []byte{0})
		switch kind {
		case 'P':
			sql, _, _ := bytes.Cut(rest, []byte{0})
			c.statements[string(name)] = string(sql)
		case 'B':
			statement, _, _ := bytes.Cut(rest, []byte{0})
			c.statement, c.busy = c.statements[string(statement)], true
			c.doom = c.wire.find(c.statement)
		case 'Q':
			c.doom = c.wire.find(string(name))
		}
	}
	doom := c.doom
	if doom != nil && doom.when == deaf {
		c.deaf, c.doom = true, nil
		doom.happened++
	}
	isDeaf, cancels := c.deaf, c.cancels
	c.wire.mu.Unlock()
	switch {
	case isDeaf:
		return len(p), nil
	case cancels:
		c.Close()
		return 0, net.ErrClosed
	}
	if doom != nil && doom.when == unsent {
		c.end(doom)
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

// next takes a whole message of the client from what was said.
func (c *wireConn) next() (kind byte, body []byte, ok bool) {
	b, head := c.said.Bytes(), 5
	if !c.begun {
		head = 4
	}
	if len(b) < head {
		return 0, nil, false
	}
	length := head - 4 + int(binary.BigEndian.Uint32(b[head-4:]))
	if len(b) < length {
		return 0, nil, false
	}
	message := c.said.Next(length)
	if !c.begun {
		c.begun = true
		// A request to cancel a statement comes on a connection of its own. The line is broken for it, too.
		c.cancels = len(message) == 16 && binary.BigEndian.Uint32(message[4:]) == 80877102
		return 0, nil, true
	}
	return message[0], message[head:], true
}

func (c *wireConn) Read(p []byte) (int, error) {
	c.wire.mu.Lock()
	doom, isDeaf := c.doom, c.deaf
	c.wire.mu.Unlock()
	switch {
	case isDeaf:
		_, err := io.Copy(io.Discard, c.Conn) // until a deadline, or until it is closed
		if err == nil {
			err = io.EOF
		}
		return 0, err
	case doom != nil:
		return 0, c.swallow(doom)
	}
	n, err := c.Conn.Read(p)
	c.wire.mu.Lock()
	c.busy = false
	doom = c.doom
	c.wire.mu.Unlock()
	if doom != nil && err == nil { // a reader that waited while the statement was written: this is its answer
		return 0, c.swallowFrom(doom, p[:n])
	}
	return n, err
}

func (c *wireConn) swallow(doom *cut) error { return c.swallowFrom(doom, nil) }

// swallowFrom reads the answer to its end, which says that the statement is over, and breaks the line.
func (c *wireConn) swallowFrom(doom *cut, start []byte) error {
	heard, chunk := bytes.NewBuffer(bytes.Clone(start)), make([]byte, 64<<10)
	for {
		for heard.Len() >= 5 {
			b := heard.Bytes()
			length := 1 + int(binary.BigEndian.Uint32(b[1:]))
			if len(b) < length {
				break
			}
			if b[0] == 'Z' {
				c.end(doom)
				return io.ErrUnexpectedEOF
			}
			heard.Next(length)
		}
		n, err := c.Conn.Read(chunk)
		if err != nil {
			return err
		}
		heard.Write(chunk[:n])
	}
}

func (c *wireConn) end(doom *cut) {
	c.wire.mu.Lock()
	if !c.ended { // whoever closes a broken connection says goodbye on it, too
		c.ended = true
		doom.happened++
	}
	c.wire.mu.Unlock()
	c.Close()
}

func (c *wireConn) Close() error {
	c.wire.mu.Lock()
	delete(c.wire.conns, c)
	c.wire.mu.Unlock()
	return c.Conn.Close()
}
