package workertest

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/queue/worker"
)

// Trick is how a hostile worker treats a connection once it has read a request
// from it. The connection is closed when the trick returns; it may go on until a
// write fails, which it does at the end of the test at the latest.
type Trick func(conn net.Conn)

// NewHostile runs a worker that plays a trick on the first request of every
// connection.
func NewHostile(t testing.TB, trick Trick) worker.Target {
	return Listen(t, func(conn net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		io.Copy(io.Discard, r.Body)
		trick(conn)
	})
}

// Listen gives every connection to f, which has it until it returns, and closes
// those that are left at the end of the test.
func Listen(t testing.TB, f func(conn net.Conn)) worker.Target {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	var (
		running sync.WaitGroup
		mu      sync.Mutex
		open    = make(map[net.Conn]bool)
	)
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = true
			mu.Unlock()
			running.Go(func() {
				f(conn)
				mu.Lock()
				delete(open, conn)
				mu.Unlock()
				conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for conn := range open {
			conn.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	return worker.Target{Name: "test", URL: "http://" + l.Addr().String()}
}

// Refused is a worker whose port nobody listens on.
func Refused(t testing.TB) worker.Target {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	l.Close()
	return worker.Target{Name: "test", URL: "http://" + l.Addr().String()}
}

// Say answers with these bytes, whatever they are, and closes.
func Say(reply string) Trick {
	return func(conn net.Conn) { io.WriteString(conn, reply) }
}

// Silent never answers.
func Silent(conn net.Conn) {
	io.Copy(io.Discard, conn) // until the caller gives up
}

// Reset answers with a TCP reset.
func Reset(conn net.Conn) {
	conn.(*net.TCPConn).SetLinger(0)
}

// ResetWithin resets the connection in the middle of the reply's body.
func ResetWithin(conn net.Conn) {
	io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nthe first bytes")
	Reset(conn)
}

// Truncated promises more bytes than it sends.
func Truncated(conn net.Conn) {
	io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nthe first bytes")
}

// TruncatedChunk ends in the middle of a chunk.
func TruncatedChunk(conn net.Conn) {
	io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100\r\nthe first bytes")
}

// Overlong sends more bytes than it promises: they would be the start of the
// next reply on the connection.
func Overlong(conn net.Conn) {
	io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbodyHTTP/1.1 500 Smuggled\r\n\r\n")
	Silent(conn)
}

// SlowBody sends its headers at once and then a byte now and then, without end.
func SlowBody(conn net.Conn) {
	io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
	trickle(conn)
}

// SlowHeader sends a byte of its headers now and then, without end.
func SlowHeader(conn net.Conn) {
	io.WriteString(conn, "HTTP/1.1 200 OK\r\nX-Slow: ")
	trickle(conn)
}

// SlowRefusal answers 500 at once, and explains itself without end.
func SlowRefusal(conn net.Conn) {
	io.WriteString(conn, "HTTP/1.1 500 Oh\r\nContent-Type: text/plain\r\nContent-Length: 1000000\r\n\r\n")
	trickle(conn)
}

func trickle(conn net.Conn) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if _, err := io.WriteString(conn, "x"); err != nil {
			return
		}
	}
}

// EndlessBody sends a chunked body as fast as it is taken, without end.
func EndlessBody(conn net.Conn) {
	io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
	chunk := append([]byte("10000\r\n"), bytes.Repeat([]byte("x"), 0x10000)...)
	chunk = append(chunk, "\r\n"...)
	for {
		if _, err := conn.Write(chunk); err != nil {
			return
		}
	}
}

// HugeHeader sends a megabyte of headers.
func HugeHeader(conn net.Conn) {
	io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
	for range 1024 {
		if _, err := io.WriteString(conn, "X-Huge: "+strings.Repeat("x", 1014)+"\r\n"); err != nil {
			return
		}
	}
	io.WriteString(conn, "Content-Length: 0\r\n\r\n")
}

// Redirect sends every call back to where it came from.
func Redirect(conn net.Conn) {
	io.WriteString(conn, "HTTP/1.1 307 Temporary Redirect\r\nLocation: /again?token=hidden\r\nContent-Length: 0\r\n\r\n")
}
