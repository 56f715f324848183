package queue

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever bodies come, in whatever steps they grow: all of them get through, a body that waits holds up no other for
// ever, and in the end all is given back.
func TestMemoryNeverLocks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(1, 1000).Draw(t, "memory")
		most := rapid.Int64Range(1, 2000).Draw(t, "largest")
		m := newMemory(size)
		shares := []*share{m.half(), m.half(), m.half()}
		var held, peak atomic.Int64
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		var bodies sync.WaitGroup
		for i := range rapid.IntRange(1, 60).Draw(t, "bodies") {
			steps := rapid.IntRange(1, 5).Draw(t, "steps")
			random := rand.New(rand.NewPCG(uint64(i), uint64(most)))
			bodies.Go(func() {
				h := hold{share: shares[i%len(shares)]}
				var has int64
				for range steps {
					next := has + 1 + random.Int64N(most)
					if err := h.Grow(ctx, next); err != nil {
						t.Errorf("body %d with %d of %d: %v", i, has, next, err)
						break
					}
					peak.Store(max(peak.Load(), held.Add(next-has)))
					has = next
				}
				held.Add(-has)
				h.Release()
				h.Release() // harmless
			})
		}
		bodies.Wait()
		// One may be larger than all there is, and one has the reserve.
		if bound := size + 2*5*(most+1); peak.Load() > bound {
			t.Errorf("%d bytes held at once of %d, want at most %d", peak.Load(), size, bound)
		}
		if !m.free.TryAcquire(size) || !m.reserve.TryAcquire(1) {
			t.Error("not all was given back")
		}
		for _, s := range shares {
			if !s.free.TryAcquire(s.size) {
				t.Error("a share was not given back")
			}
		}
	})
}

// One who takes all that he may leaves others room.
func TestShareLeavesRoom(t *testing.T) {
	t.Parallel()
	m := newMemory(100)
	greedy, modest := hold{share: m.half()}, hold{share: m.half()}
	if !greedy.try(1000) {
		t.Fatal("a body larger than all memory does not get its share when all is free")
	}
	if modest.try(1) {
		t.Error("there is room beside a body that takes all memory")
	}
	greedy.Release()
	for range 5 {
		if !(&hold{share: greedy.share}).try(10) {
			t.Fatal("no room within the share")
		}
	}
	if (&hold{share: greedy.share}).try(1) {
		t.Error("there is room beyond the share")
	}
	if !modest.try(50) {
		t.Error("a share that is used up leaves no room to others")
	}
}

// Who gives up waiting leaves nothing behind.
func TestGiveUpWaiting(t *testing.T) {
	t.Parallel()
	m := newMemory(100)
	s := m.half()
	first := hold{share: s}
	if !first.try(50) {
		t.Fatal("no room in empty memory")
	}
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error)
	second := hold{share: s}
	go func() { waiting <- second.Grow(ctx, 10) }()
	cancel()
	if err := <-waiting; err == nil {
		t.Fatal("a share that was used up had room")
	}
	second.Release()
	first.Release()
	if !m.free.TryAcquire(100) || !s.free.TryAcquire(50) {
		t.Error("not all was given back")
	}
}
