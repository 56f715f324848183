package gateway

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync/atomic"

	"sluice/openapi"
)

// budget bounds the memory that bodies take while they arrive and are stored. Who finds none left is refused at once:
// to wait for it would hold a connection for nothing.
type budget struct{ free atomic.Int64 }

func newBudget(bytes int64) *budget {
	b := &budget{}
	b.free.Store(bytes)
	return b
}

func (b *budget) take(n int64) error {
	if b.free.Add(-n) >= 0 {
		return nil
	}
	b.free.Add(n)
	return openapi.Unavailable.Because("the server holds as much as it can at the moment; nothing of this request was accepted")
}

// body is the body of a request. It is released when the bytes are no longer needed here.
type body struct {
	bytes  []byte
	memory *budget
	taken  int64
}

func (b *body) release() {
	b.memory.free.Add(b.taken)
	b.taken = 0
}

func (b *body) grow(n int64) error {
	if err := b.memory.take(n); err != nil {
		return err
	}
	b.taken += n
	return nil
}

// trusted is how much of a body is made room for before any of it has come: what its client says of its length may be
// a lie.
const trusted = 64 << 10

// readBody reads a body of at most so many bytes, exactly as it came, into memory of its own. The caller releases what is
// returned, also beside an error.
func (g *gateway) readBody(r *http.Request, most int64) (*body, error) {
	b := &body{bytes: []byte{}, memory: g.memory}
	switch n := r.ContentLength; {
	case n > most:
		return b, tooLarge(most)
	case n == 0:
		return b, nil
	}
	return b, b.read(r, most)
}

func (b *body) read(r *http.Request, most int64) error {
	if r.ContentLength < 0 {
		return b.readChunks(r.Body, most)
	}
	n := r.ContentLength
	if err := b.grow(n); err != nil {
		return err
	}
	first := make([]byte, min(n, trusted))
	if _, err := io.ReadFull(r.Body, first); err != nil {
		return err
	}
	b.bytes = first
	if n <= trusted {
		return nil
	}
	b.bytes = make([]byte, n)
	copy(b.bytes, first)
	_, err := io.ReadFull(r.Body, b.bytes[len(first):])
	return err
}

// readChunks reads a body whose length nobody has said.
func (b *body) readChunks(from io.Reader, most int64) error {
	var buf []byte
	for {
		if len(buf) == cap(buf) {
			room := min(max(2*len(buf), 4<<10), int(most)+1)
			if err := b.grow(int64(room - len(buf))); err != nil {
				return err
			}
			buf = append(make([]byte, 0, room), buf...)
		}
		n, err := from.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case int64(len(buf)) > most:
			return tooLarge(most)
		case errors.Is(err, io.EOF):
			b.bytes = bytes.Clone(buf) // the engine may keep it for long: not with the room that was left over
			return nil
		case err != nil:
			return err
		}
	}
}

func tooLarge(most int64) *openapi.Problem {
	return openapi.PayloadTooLarge.Because("the body is larger than %d bytes", most)
}
