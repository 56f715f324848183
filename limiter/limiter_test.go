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

// breakerModel says what a breaker is for: it remembers calls, and what follows from them.
type breakerModel struct {
	threshold         int
	row               int // calls in a row that did not get through
	pauses            int // since it opened
	probing           bool
	until             time.Time
	firstPause, limit time.Duration
}

func (m *breakerModel) room(now time.Time, want int) int {
	switch {
	case m.pauses == 0:
		return want
	case m.probing, now.Before(m.until):
		return 0
	}
	return 1
}

func (m *breakerModel) unreached(now time.Time, asked time.Duration) {
	m.row++
	if m.pauses == 0 && m.row < m.threshold || m.pauses > 0 && !m.probing {
		return // not yet; or a call that began before it opened
	}
	m.pauses++
	m.probing = false
	pause := m.firstPause
	for range m.pauses - 1 {
		pause = min(2*pause, m.limit)
	}
	m.until = now.Add(max(pause, min(asked, m.limit)))
}

// A breaker does what its model does, in any sequence of calls, early and late, probes that are forgotten, and words of
// the worker.
func TestBreakerModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := Breaker{
			Threshold: rapid.IntRange(1, 6).Draw(t, "threshold"),
			Pause:     time.Duration(rapid.IntRange(1, 5000).Draw(t, "pause")) * time.Millisecond,
		}
		b.MaxPause = b.Pause * time.Duration(rapid.IntRange(1, 20).Draw(t, "most"))
		m := breakerModel{threshold: b.Threshold, firstPause: b.Pause, limit: b.MaxPause}
		now := noon
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"time", "start", "unreached", "unreached", "reached", "forget"}).Draw(t, "step") {
			case "time":
				now = now.Add(time.Duration(rapid.Int64Range(0, int64(3*b.MaxPause)).Draw(t, "passed")))
			case "start":
				if b.Room(now, 1) > 0 {
					b.Start()
					m.probing = m.pauses > 0
				}
			case "unreached":
				asked := time.Duration(rapid.SampledFrom([]int64{0, int64(b.Pause), int64(100 * b.MaxPause)}).Draw(t, "asked"))
				was := m.pauses
				opened := b.Unreached(now, asked)
				if m.unreached(now, asked); opened != (was == 0 && m.pauses == 1) {
					t.Fatalf("opened = %v after %d in a row", opened, m.row)
				}
			case "reached":
				if closed := b.Reached(); closed != (m.pauses > 0) {
					t.Fatalf("closed = %v after %d pauses", closed, m.pauses)
				}
				m = breakerModel{threshold: m.threshold, firstPause: m.firstPause, limit: m.limit}
			case "forget":
				b.Forget()
				m.probing = false
			}
			if got, want := b.Room(now, 7), m.room(now, 7); got != want {
				t.Fatalf("room for %d, want %d", got, want)
			}
			if got := b.OpenUntil(); !got.Equal(m.until) {
				t.Fatalf("open until %v, want %v", got, m.until)
			}
		}
	})
}

// Pauses never become shorter with more failures, and stay within the cap and the jitter, whatever the numbers.
func TestBackoffProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := Backoff{
			Initial: time.Duration(rapid.Int64Range(1, int64(24*time.Hour)).Draw(t, "initial")),
			Factor:  rapid.Float64Range(0, 1e9).Draw(t, "factor"),
			Max:     time.Duration(rapid.Int64Range(1, int64(24*time.Hour)).Draw(t, "max")),
			Jitter:  rapid.Float64Range(0, 1).Draw(t, "jitter"),
		}
		r := rapid.Float64Range(-1, 1).Draw(t, "random")
		failures := rapid.IntRange(-1, 1_000_000).Draw(t, "failures")
		least, most := float64(min(b.Initial, b.Max))*(1-b.Jitter)-1, float64(b.Max)*(1+b.Jitter)+1
		pause := b.After(failures, r)
		if p := float64(pause); p < least || p > most {
			t.Fatalf("after %d failures: %v, want %v to %v", failures, pause, time.Duration(least), time.Duration(most))
		}
		if next := b.After(failures+1, r); next < pause {
			t.Fatalf("%v after %d failures, %v after one more", pause, failures, next)
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
