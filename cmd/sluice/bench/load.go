package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// text makes a body that compresses about as well as the JSON of the world does, to a third or half.
func text(size int) []byte {
	words := []string{`{"order":"ABC-`, `","status":"shipped","price":`, `,"currency":"EUR","note":"`, `"},`}
	r := rand.New(rand.NewPCG(1, uint64(size)))
	b := make([]byte, 0, size+64)
	b = append(b, `{"items":[`...)
	for i := 0; len(b) < size; i++ {
		b = append(b, words[i%len(words)]...)
		b = strconv.AppendUint(b, r.Uint64(), 36)
	}
	return b[:size]
}

// echo is a worker service over HTTP that answers with the body that it got, and tells answered when it has.
func echo(answered func(r *http.Request, body []byte)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil {
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Write(body)
		answered(r, body)
	})
}

// post is what callers send to a server over HTTP.
type post struct {
	connections int
	requests    int
	path        string
	header      http.Header
	body        func(n int) []byte // of request n, counted from 0
	keyed       bool               // each request has a key of its own
}

// send serves the handler on loopback, posts to it from as many connections as there are callers, and tells how fast
// that went, with the sorted times of the requests.
func (p post) send(ctx context.Context, l *lab, handler http.Handler) (speed, []time.Duration, error) {
	url, stopServer, err := loopback(ctx, handler)
	if err != nil {
		return speed{}, nil, err
	}
	defer stopServer()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: p.connections}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	warmUp := min(1000, p.requests/4+1)
	if _, err := p.round(ctx, client, url+p.path, p.requests, p.requests+warmUp); err != nil {
		return speed{}, nil, err
	}
	var took []time.Duration
	got, err := l.timed(ctx, p.requests, func() (err error) {
		took, err = p.round(ctx, client, url+p.path, 0, p.requests)
		return err
	})
	slices.Sort(took)
	return got, took, err
}

// round sends the requests of these numbers.
func (p post) round(ctx context.Context, client *http.Client, url string, from, to int) ([]time.Duration, error) {
	var next atomic.Int64
	next.Store(int64(from))
	took := make([]time.Duration, to-from)
	errs := make([]error, p.connections)
	var callers sync.WaitGroup
	for c := range p.connections {
		callers.Go(func() {
			for errs[c] == nil {
				n := int(next.Add(1)) - 1
				if n >= to {
					return
				}
				start := time.Now()
				errs[c] = p.one(ctx, client, url, n)
				took[n-from] = time.Since(start)
			}
		})
	}
	callers.Wait()
	return took, errors.Join(errs...)
}

func (p post) one(ctx context.Context, client *http.Client, url string, n int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(p.body(n)))
	if err != nil {
		return err
	}
	maps.Copy(req.Header, p.header)
	if p.keyed {
		req.Header.Set("Idempotency-Key", strconv.Itoa(n))
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusAccepted {
		err = fmt.Errorf("%s: %s", resp.Status, answer)
	}
	return err
}

// stopwatch takes the times of messages, which carry their numbers in their first bytes.
type stopwatch struct {
	due  []time.Time
	took []atomic.Int64 // 0: not arrived yet
	all  *countdown
	tail []byte
}

func newStopwatch(messages int) *stopwatch {
	return &stopwatch{
		due: make([]time.Time, messages), took: make([]atomic.Int64, messages), all: newCountdown(messages), tail: text(1024 - 8),
	}
}

// message is the body of message n.
func (s *stopwatch) message(n int) []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, 1024), uint64(n)), s.tail...)
}

// arrived stops the time of the message with that body; when it arrives again, that does not count.
func (s *stopwatch) arrived(body []byte) {
	if len(body) < 8 {
		return
	}
	n := binary.BigEndian.Uint64(body)
	if n < uint64(len(s.due)) && s.took[n].CompareAndSwap(0, int64(max(time.Since(s.due[n]), 1))) {
		s.all.done()
	}
}

// sorted returns the times of the messages from a number on, when all have arrived.
func (s *stopwatch) sorted(ctx context.Context, from int) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := s.all.wait(ctx); err != nil {
		return nil, fmt.Errorf("%d messages have not arrived: %w", s.all.left.Load(), err)
	}
	took := make([]time.Duration, len(s.due)-from)
	for i := range took {
		took[i] = time.Duration(s.took[from+i].Load())
	}
	slices.Sort(took)
	return took, nil
}

// steadily calls send for each message at its time, as many a second as rate says. A message that is slow does not keep
// the next one waiting: its time counts from when it was due.
func (s *stopwatch) steadily(ctx context.Context, rate int, send func(ctx context.Context, n int) error) error {
	var failed atomic.Pointer[error]
	var senders sync.WaitGroup
	start := time.Now()
	for n := range s.due {
		s.due[n] = start.Add(time.Duration(n) * time.Second / time.Duration(rate))
	}
	for n := range s.due {
		if err := wait(ctx, time.Until(s.due[n])); err != nil {
			failed.CompareAndSwap(nil, &err)
		}
		if failed.Load() != nil {
			break
		}
		senders.Go(func() {
			if err := send(ctx, n); err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		})
	}
	senders.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// percentile of a sorted sample, in milliseconds.
func percentile(sorted []time.Duration, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	i := min(int(p*float64(len(sorted))), len(sorted)-1)
	return float64(sorted[i]) / float64(time.Millisecond)
}
