package queue_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/worker"
)

// hostile is a worker that does to each connection what a test says.
type hostile struct {
	url   string
	conns atomic.Int64
	sent  atomic.Int64  // bytes
	over  chan struct{} // closed when the test is over
}

func newHostile(t *testing.T, do func(h *hostile, conn net.Conn)) *hostile {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	h := &hostile{url: "http://" + listener.Addr().String(), over: make(chan struct{})}
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			h.conns.Add(1)
			mu.Lock()
			conns[conn] = true
			mu.Unlock()
			group.Go(func() {
				defer conn.Close()
				do(h, conn)
				mu.Lock()
				delete(conns, conn)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		close(h.over)
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		group.Wait()
	})
	return h
}

// asked reads a request's headers.
func asked(conn net.Conn) {
	var said []byte
	for b := make([]byte, 4096); !bytes.Contains(said, []byte("\r\n\r\n")); {
		n, err := conn.Read(b)
		if err != nil {
			return
		}
		said = append(said, b[:n]...)
	}
}

// pour writes without end, as fast as the other side takes it.
func (h *hostile) pour(conn net.Conn, chunk []byte) {
	for {
		n, err := conn.Write(chunk)
		h.sent.Add(int64(n))
		if err != nil {
			return
		}
	}
}

// drip writes a byte a second.
func (h *hostile) drip(conn net.Conn, text string) {
	for i := 0; ; i++ {
		if _, err := conn.Write([]byte{text[i%len(text)]}); err != nil {
			return
		}
		h.sent.Add(1)
		time.Sleep(time.Second) //nolint:forbidigo // it is slow on purpose
	}
}

const hostileFlow = `
topology: hostile
nodes:
  in: {kind: start, followers: [x]}
  x: {kind: custom, worker: hostile, timeout: 500ms, concurrency: 20, retry: {attempts: 2, initial: 10ms}}
`

// A worker does all that a bad one can do to those who call it. Its calls end at their deadline, its messages are in the
// trash with the reason or wait for it, memory stays within bounds, and beside it another topology hardly notices.
func TestHostileWorkers(t *testing.T) {
	t.Parallel()
	const head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
	for _, c := range []struct {
		name  string
		do    func(h *hostile, conn net.Conn)
		waits bool   // its messages wait for it, as it counts as down
		said  string // in the reason of a message that failed
	}{
		{"never answers", func(_ *hostile, conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }, false, "took too long"},
		{"does not even read", func(h *hostile, _ net.Conn) { <-h.over }, false, "took too long"},
		{"a byte of the headers a second", func(h *hostile, conn net.Conn) { asked(conn); h.drip(conn, head) }, false, "took too long"},
		{"a byte of the body a second", func(h *hostile, conn net.Conn) {
			asked(conn)
			_, _ = io.WriteString(conn, head+"Content-Length: 1000000\r\n\r\n")
			h.drip(conn, "x")
		}, false, "took too long"},
		{"resets before the answer", func(_ *hostile, conn net.Conn) { asked(conn); _ = conn.(*net.TCPConn).SetLinger(0) }, false, "broke off"},
		{"resets in the answer", func(_ *hostile, conn net.Conn) {
			asked(conn)
			_, _ = io.WriteString(conn, head+"Content-Length: 1000000\r\n\r\nxyz")
			_ = conn.(*net.TCPConn).SetLinger(0)
		}, false, "broke off"},
		{"a body without end", func(h *hostile, conn net.Conn) {
			asked(conn)
			_, _ = io.WriteString(conn, head+"Transfer-Encoding: chunked\r\n\r\n")
			h.pour(conn, []byte("10000\r\n"+strings.Repeat("x", 1<<16)+"\r\n"))
		}, false, ""},
		{"10 GB, as it says", func(h *hostile, conn net.Conn) {
			asked(conn)
			_, _ = io.WriteString(conn, head+"Content-Length: 10000000000\r\n\r\n")
			h.pour(conn, bytes.Repeat([]byte("x"), 1<<16))
		}, false, "longer than"},
		{"headers without end", func(h *hostile, conn net.Conn) {
			asked(conn)
			_, _ = io.WriteString(conn, head)
			h.pour(conn, []byte("X-More: "+strings.Repeat("x", 1000)+"\r\n"))
		}, false, ""},
		{"resets at once", func(_ *hostile, conn net.Conn) { _ = conn.(*net.TCPConn).SetLinger(0) }, false, "broke off"},
		{"is not there", nil, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			do := c.do
			if do == nil {
				do = func(*hostile, net.Conn) {}
			}
			h := newHostile(t, do)
			url := h.url
			if c.do == nil {
				url = "http://127.0.0.1:9"
			}
			r := newRig(t, pgtest.New(t).Pool())
			r.addWorkerAt("hostile", url)
			r.publish(hostileFlow)
			r.publish(point)
			client := worker.NewClient(worker.Config{})
			t.Cleanup(client.Close)
			const slots, events = 40, 40
			r.engine = newEngine(t, r.pool, queue.Config{Slots: slots, Caller: byName{"hostile": client, "demo": callerFunc(same)}})
			alone := r.latency()
			var before, peak runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			for i := range events {
				_, err := r.engine.Accept(t.Context(), queue.Event{Tenant: tenant, Topology: "hostile", Node: "in", Body: fmt.Append(nil, i)})
				ok(t, err)
			}
			began := time.Now()
			most := uint64(0)
			var beside []time.Duration
			over := func() bool {
				if c.waits {
					return len(beside) >= 21
				}
				return one[int](r, `select count(*)::int from sluice.trash`) == events
			}
			for !over() {
				sent := time.Now()
				r.finished(r.accept("in", "x"))
				beside = append(beside, time.Since(sent))
				runtime.ReadMemStats(&peak)
				most = max(most, peak.HeapInuse)
				if time.Since(began) > 2*patience {
					t.Fatalf("%d of %d messages are in the trash", one[int](r, `select count(*)::int from sluice.trash`), events)
				}
			}
			took := time.Since(began)
			slices.Sort(beside)
			grown := int64(most) - int64(before.HeapInuse)
			t.Logf("%d calls in %v, %d bytes sent; other topology: p50 %v alone, %v beside it; heap grew by %d MB at most", h.conns.Load(), took.Round(time.Millisecond),
				h.sent.Load(), alone, beside[len(beside)/2].Round(100*time.Microsecond), grown>>20)
			// 40 messages, 2 calls each, 20 at once, of half a second each: two seconds.
			if took > 15*time.Second {
				t.Errorf("it took %v", took)
			}
			if grown > 20*(2*16<<20) {
				t.Errorf("the heap grew by %d MB", grown>>20)
			}
			switch {
			case c.waits:
				r.wait(`select down_since is not null from sluice.worker where name = 'hostile'`)
				until(t, "calls to end", func() bool { return queue.UsageOf(r.engine).Slots <= 1 })
				if n := one[int](r, `select count(*)::int from sluice.trash`); n > 0 {
					t.Errorf("%d messages are in the trash", n)
				}
			case c.said != "":
				if n := one[int](r, `select count(*)::int from sluice.trash where position($1 in reason) = 0`, c.said); n > 0 {
					t.Errorf("%d reasons do not say %q: %s", n, c.said, one[string](r, `select reason from sluice.trash where position($1 in reason) = 0 limit 1`, c.said))
				}
			}
			if !c.waits {
				r.drained()
			}
			r.clean()
		})
	}
}

// byName calls each worker in a way of its own.
type byName map[string]queue.Caller

func (b byName) Call(ctx context.Context, target worker.Target, r worker.Request) (worker.Result, error) {
	return b[target.Name].Call(ctx, target, r)
}
