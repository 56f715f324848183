package limiter

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// A worker goes away and comes back: a few calls are lost to it, then one a pause, then everything flows.
func TestBreakerStory(t *testing.T) {
	t.Parallel()
	var b Breaker
	now := noon
	for i := range 5 {
		if got := b.Room(now, 10); got != 10 {
			t.Fatalf("closed, after %d unreached calls: room for %d, want 10", i, got)
		}
		b.Start()
		if opened := b.Unreached(now, 0); opened != (i == 4) {
			t.Fatalf("unreached call %d: opened = %v", i+1, opened)
		}
	}
	pause := time.Second
	for range 8 {
		if got := b.Room(now.Add(pause-1), 10); got != 0 {
			t.Fatalf("open for %v: room for %d before its end", pause, got)
		}
		now = now.Add(pause)
		if got := b.Room(now, 10); got != 1 {
			t.Fatalf("after %v: room for %d, want one probe", pause, got)
		}
		b.Start()
		if got := b.Room(now, 10); got != 0 {
			t.Fatalf("room for %d beside a probe", got)
		}
		b.Unreached(now, 0)
		pause = min(2*pause, 30*time.Second)
	}
	now = now.Add(pause)
	b.Start()
	if !b.Reached() || b.Room(now, 10) != 10 || !b.OpenUntil().IsZero() {
		t.Fatal("a probe that got through did not close the breaker")
	}
	if b.Reached() {
		t.Fatal("a closed breaker was closed again")
	}
}

// Calls that were under way when the breaker opened end late; they neither count as the probe nor lengthen the pause.
func TestBreakerLateCalls(t *testing.T) {
	t.Parallel()
	b := Breaker{Threshold: 1}
	b.Unreached(noon, 0)
	for range 50 {
		if b.Unreached(noon.Add(time.Millisecond), 0) {
			t.Fatal("opened twice")
		}
	}
	if got := b.OpenUntil(); !got.Equal(noon.Add(time.Second)) {
		t.Fatalf("open until %v, want one first pause", got.Sub(noon))
	}
}

// A probe that was never made gives its place to another.
func TestBreakerForgottenProbe(t *testing.T) {
	t.Parallel()
	b := Breaker{Threshold: 1}
	b.Unreached(noon, 0)
	later := noon.Add(time.Minute)
	b.Start()
	b.Forget()
	if got := b.Room(later, 3); got != 1 {
		t.Fatalf("room for %d after a forgotten probe, want 1", got)
	}
}

// Whatever happens, an open breaker never lets more than one call through, and one answer always closes it.
func TestBreakerProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := Breaker{Threshold: rapid.IntRange(1, 8).Draw(t, "threshold")}
		now, row := noon, 0
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 40_000).Draw(t, "ms")) * time.Millisecond)
			room := b.Room(now, 7)
			if open := !b.OpenUntil().IsZero(); open && room > 1 || !open && room != 7 {
				t.Fatalf("open = %v, room = %d", open, room)
			}
			if room == 0 {
				continue
			}
			b.Start()
			switch rapid.IntRange(0, 2).Draw(t, "end") {
			case 0:
				b.Reached()
				row = 0
			case 1:
				b.Unreached(now, 0)
				row++
			case 2:
				b.Forget()
			}
			if open := !b.OpenUntil().IsZero(); open != (row >= b.Threshold) {
				t.Fatalf("open = %v after %d unreached calls in a row, threshold %d", open, row, b.Threshold)
			}
		}
	})
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	b := Backoff{Initial: time.Second, Factor: 2, Max: 10 * time.Second, Jitter: 0.2}
	for _, c := range []struct {
		failures int
		r        float64
		want     time.Duration
	}{
		{0, 0, time.Second}, {1, 0, time.Second}, {2, 0, 2 * time.Second}, {4, 0, 8 * time.Second},
		{5, 0, 10 * time.Second}, {5000, 0, 10 * time.Second},
		{1, 1, 1200 * time.Millisecond}, {1, -1, 800 * time.Millisecond},
	} {
		if got := b.After(c.failures, c.r); got != c.want {
			t.Errorf("After(%d, %v) = %v, want %v", c.failures, c.r, got, c.want)
		}
	}
}
