package worker_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"sluice/queue/worker"
	"sluice/queue/worker/workertest"
)

// testRoom notes what is asked of it, and makes room when it is told to.
type testRoom struct {
	mu       sync.Mutex
	sizes    []int64
	released int
	grow     func(context.Context) error
}

func (r *testRoom) Grow(ctx context.Context, size int64) error {
	r.mu.Lock()
	r.sizes = append(r.sizes, size)
	r.mu.Unlock()
	if r.grow != nil {
		return r.grow(ctx)
	}
	return nil
}

func (r *testRoom) Release() { r.released++ }

// newSized is a worker that answers with as many bytes as the action says, with their number or without.
func newSized(t *testing.T, stated bool) worker.Target {
	t.Helper()
	return workertest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Path[1:])
		if stated {
			w.Header().Set("Content-Length", strconv.Itoa(n))
		}
		w.Write(bytes.Repeat([]byte("x"), n))
	}))
}

// A large reply takes room before it is read, a small one none. The room goes with the result.
func TestRoomForReply(t *testing.T) {
	t.Parallel()
	c := newClient(t, worker.Config{MaxReply: 1 << 20})
	for _, stated := range []bool{true, false} {
		target := newSized(t, stated)
		for _, size := range []int{0, 1000, worker.SmallReply - 1, worker.SmallReply, worker.SmallReply + 1000, 300_000, 1 << 20} {
			room := &testRoom{}
			target.Room = func() worker.Room { return room }
			r := request()
			r.Action = strconv.Itoa(size)
			result, err := c.Call(t.Context(), target, r)
			if err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			if n := len(result.Messages[0].Body); n != size {
				t.Errorf("%d bytes came, want %d", n, size)
			}
			if size <= worker.SmallReply {
				if result.Room != nil || len(room.sizes) > 0 {
					t.Errorf("%d bytes took room: %v", size, room.sizes)
				}
				continue
			}
			if result.Room != room || room.released > 0 {
				t.Errorf("%d bytes: the room did not come with the result", size)
			}
			switch last := room.sizes[len(room.sizes)-1]; {
			case stated && (len(room.sizes) != 1 || last != int64(size)+1):
				t.Errorf("%d bytes that were announced took room for %v", size, room.sizes)
			case last < int64(size) || last > 2*int64(size)+2 || last > 1<<20+1:
				t.Errorf("%d bytes took room for %d", size, last)
			}
		}
		room := &testRoom{}
		target.Room = func() worker.Room { return room }
		r := request()
		r.Action = strconv.Itoa(1<<20 + 1)
		_ = fails(t, t.Context(), c, target, r)
		if want := min(len(room.sizes), 1); room.released != want {
			t.Errorf("room of a call that failed was released %d times, want %d", room.released, want)
		}
	}
}

// A wait for room is not the worker's: it moves the deadline. But it does not last for ever.
func TestWaitForRoom(t *testing.T) {
	t.Parallel()
	c := newClient(t, worker.Config{})
	target := newSized(t, true)
	r := request()
	r.Action = "2000000"
	const patience = 300 * time.Millisecond

	began := time.Now()
	r.Deadline = began.Add(patience)
	target.Room = func() worker.Room {
		return &testRoom{grow: func(ctx context.Context) error {
			select {
			case <-time.After(patience * 9 / 10):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}}
	}
	result, err := c.Call(t.Context(), target, r)
	if err != nil {
		t.Fatalf("a call was failed for waiting: %v", err)
	}
	equal(t, "length", len(result.Messages[0].Body), 2_000_000)

	never := &testRoom{grow: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
	target.Room = func() worker.Room { return never }
	r.Deadline = time.Now().Add(patience)
	f := fails(t, t.Context(), c, target, r)
	equal(t, "class", f.Class, worker.Cancelled)
	equal(t, "releases", never.released, 1)

	r.Deadline = time.Now().Add(time.Minute)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if f := fails(t, ctx, c, target, r); time.Since(began) > 20*time.Second {
		t.Errorf("a caller who left waited on: %v", f)
	}
}

// After a wait for room a worker that goes on too slowly is still cut off at its deadline.
func TestDeadlineAfterRoom(t *testing.T) {
	t.Parallel()
	c := newClient(t, worker.Config{})
	ended := make(chan struct{})
	target := workertest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write(make([]byte, 2*worker.SmallReply))
		w.(http.Flusher).Flush()
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		close(ended)
	}))
	room := &testRoom{}
	target.Room = func() worker.Room { return room }
	r := request()
	r.Deadline = time.Now().Add(200 * time.Millisecond)
	f := fails(t, t.Context(), c, target, r)
	equal(t, "class", f.Class, worker.Transient)
	equal(t, "releases", room.released, 1)
	<-ended
}
