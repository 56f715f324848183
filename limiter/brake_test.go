package limiter

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A node begins to fail, is held to a hundred calls a second, and flows again when it succeeds.
func TestBrakeStory(t *testing.T) {
	t.Parallel()
	var b Brake
	now := noon
	calls := 0
	for b.Wait() == 0 {
		if b.Room(now, 10) != 10 {
			t.Fatal("held back without the brake")
		}
		b.Take(1)
		b.Note(true)
		calls++
	}
	if calls < 100 || calls > 130 {
		t.Errorf("engaged after %d failures", calls)
	}
	passed := 0
	for range 100 { // ten seconds
		now = now.Add(b.Wait())
		n := b.Room(now, 50)
		b.Take(n)
		for range n {
			b.Note(true)
		}
		passed += n
	}
	if passed < 990 || passed > 1020 {
		t.Errorf("%d calls in ten seconds, want a thousand", passed)
	}
	healing := now
	for b.Wait() > 0 {
		now = now.Add(b.Wait())
		n := b.Room(now, 50)
		b.Take(n)
		for range n {
			b.Note(false)
		}
	}
	if took := now.Sub(healing); took > 200*time.Millisecond {
		t.Errorf("released %v after the first success", took)
	}
}

// Whatever a node does, one that succeeds a fifth of the time or more is not held back for long, and an engaged brake
// never lets more pass than its rate and what it gathers.
func TestBrakeProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var b Brake
		now, engaged, passed := noon, noon, 0.0
		for range rapid.IntRange(1, 500).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 50).Draw(t, "ms")) * time.Millisecond)
			n := b.Room(now, rapid.IntRange(0, 30).Draw(t, "want"))
			held := b.Wait() > 0
			b.Take(n)
			passed += float64(n)
			if most := brakeAtOnce + now.Sub(engaged).Seconds()*brakeRate; held && passed > most+1 {
				t.Fatalf("%v passed since the brake was engaged, want at most %v", passed, most)
			}
			for range n {
				b.Note(rapid.IntRange(0, 99).Draw(t, "fails") < 95)
			}
			if !held {
				engaged, passed = now, 0
			}
			if rapid.Bool().Draw(t, "one was not made") {
				b.Take(1)
				b.Give(1)
			}
		}
	})
}
