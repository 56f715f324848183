package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"sluice/migrations/localpg"
)

// tap is a way to the database that, when it is set, keeps back the answer to the next statement that stores events: at
// that moment the events are committed, and nobody has been told.
type tap struct {
	set    atomic.Bool
	struck chan struct{} // an answer is kept back
}

// stores is what only the statement that stores events has in it.
const stores = "ledger as ("

// newTap listens at an address of its own, and returns the URL that leads through it.
func newTap(t *testing.T, url string) (*tap, string) {
	t.Helper()
	config, err := pgconn.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x := &tap{struck: make(chan struct{}, 1)}
	network, address := pgconn.NetworkAddress(config.Host, config.Port)
	var running sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	running.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial(network, address)
			if err != nil {
				near.Close()
				continue
			}
			mu.Lock()
			conns = append(conns, near, far)
			mu.Unlock()
			c := &tapped{tap: x, statements: map[string]bool{}}
			running.Go(func() { c.copy(far, near, c.heard) })
			running.Go(func() { c.copy(near, far, c.answered) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	return x, fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable", config.User, listener.Addr(), localpg.Database)
}

// tapped is a connection through a tap.
type tapped struct {
	tap *tap

	said       bytes.Buffer // by the client, up to an incomplete message
	begun      bool
	statements map[string]bool // prepared ones, by name: whether they store events
	doomed     atomic.Bool     // its answer is kept back
}

// copy passes on what look lets pass, until one of the sides is gone.
func (c *tapped) copy(to, from net.Conn, look func([]byte) bool) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && look(buf[:n]) {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// heard reads along what the client says.
func (c *tapped) heard(p []byte) bool {
	c.said.Write(p)
	for {
		b, head := c.said.Bytes(), 5
		if !c.begun {
			head = 4 // the message that begins a session has no type
		}
		if len(b) < head {
			return true
		}
		length := head - 4 + int(binary.BigEndian.Uint32(b[head-4:]))
		if len(b) < length {
			return true
		}
		message := c.said.Next(length)
		if !c.begun {
			c.begun = true
			continue
		}
		name, rest, _ := bytes.Cut(message[head:], []byte{0})
		switch message[0] {
		case 'P':
			sql, _, _ := bytes.Cut(rest, []byte{0})
			c.statements[string(name)] = bytes.Contains(sql, []byte(stores))
		case 'B':
			statement, _, _ := bytes.Cut(rest, []byte{0})
			if c.statements[string(statement)] && c.tap.set.CompareAndSwap(true, false) {
				c.doomed.Store(true)
			}
		}
	}
}

// answered keeps the answer back if it is to. When it is complete, the database has committed.
func (c *tapped) answered(p []byte) bool {
	if !c.doomed.Load() {
		return true
	}
	if bytes.HasSuffix(p, []byte("Z\x00\x00\x00\x05I")) { // ready for the next, outside of a transaction
		select {
		case c.tap.struck <- struct{}{}:
		default:
		}
	}
	return false
}

// The gateway is killed again and again at the one moment that matters: its events are committed, and no producer has
// been told. Producers send them again with the same keys. Each is there once, and every promise is kept.
func TestGatewayKilledBeforeItAnswers(t *testing.T) {
	t.Parallel()
	kills := size(5, 200)
	r := startCrashRig(t)
	x, url := newTap(t, r.url)
	r.kill()
	runner := r.serve(r.url, freeAddress(t), "--roles", "runner")
	address := freeAddress(t)
	start := func() *served {
		s := r.serve(url, address, "--roles", "gateway")
		s.ready()
		return s
	}
	gateway := start()
	r.pause = 5 * time.Millisecond
	f := r.feed(16, 300, address)
	for k := range kills {
		before := f.accepted.Load()
		r.until("events between kills", func() bool { return f.accepted.Load() > before+10 })
		x.set.Store(true)
		select {
		case <-x.struck:
		case <-time.After(time.Minute):
			t.Fatalf("kill %d: no event was stored", k+1)
		}
		gateway.kill()
		gateway = start()
	}
	events := f.end()
	t.Logf("%d kills between commit and answer: %s", kills, f)
	if n := f.again.Load(); n < int64(kills) {
		t.Errorf("%d events were found to be stored before, there must be one for each of %d kills", n, kills)
	}
	r.prove(events)
	f.promised()
	runner.terminate()
	gateway.terminate()
}
