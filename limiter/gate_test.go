package limiter

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// story is a gate in virtual time, with what has been released.
type story struct {
	gate   *Gate
	now    time.Time
	starts []time.Time
	byKey  map[string][]time.Time
}

func (s *story) plan(room int) (Blocked, time.Time) {
	why, next := s.gate.Plan(s.now, func(int64) bool { room--; return room >= 0 })
	for _, k := range s.gate.Keys {
		for _, l := range k.Lines {
			s.starts = append(s.starts, l.Starts...)
			s.byKey[k.User] = append(s.byKey[k.User], l.Starts...)
			l.Held -= int64(len(l.Starts))
			l.Starts = nil
		}
	}
	return why, next
}

func newStory(g *Gate) *story {
	return &story{gate: g, now: noon, byKey: map[string][]time.Time{}}
}

// over is by how many calls the busiest window has more than a limit allows, if each begins as late as it may in the worst
// way: those before the window at its beginning, those in it on time.
func over(l Limit, starts []time.Time) float64 {
	slices.SortFunc(starts, time.Time.Compare)
	worst := math.Inf(-1)
	late := time.Duration(0)
	if !l.Strict() {
		late = l.Late()
	}
	for i := range starts {
		for j := i; j < len(starts); j++ {
			window := max(starts[j].Sub(starts[i])-late, 0)
			worst = max(worst, float64(j-i+1)-l.Burst-l.Rate()*window.Seconds())
		}
	}
	return worst
}

func drawLimit(t *rapid.T, name string) Limit {
	if !rapid.Bool().Draw(t, name) {
		return Limit{}
	}
	return Limit{
		Amount: float64(rapid.IntRange(1, 200).Draw(t, name+" amount")),
		Per:    time.Duration(rapid.SampledFrom([]int{100, 1000, 10_000}).Draw(t, name+" per")) * time.Millisecond,
		Burst:  float64(rapid.IntRange(0, 50).Draw(t, name+" burst")),
	}.Normal()
}

// Whatever is held where, whenever someone looks: in no window more begins than burst + rate * window, of any bucket, even
// if calls begin late; starts lie within the lookahead and come in order; and what is held, less what began, is left.
func TestGateProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		g := &Gate{Total: drawLimit(t, "total"), Slots: -1}
		var held int64
		for i := range rapid.IntRange(1, 4).Draw(t, "keys") {
			k := &Key{User: fmt.Sprint(i), Limit: drawLimit(t, "limit"), Weight: float64(rapid.IntRange(1, 3).Draw(t, "weight"))}
			for e := range rapid.IntRange(1, 3).Draw(t, "lines") {
				l := &Line{Edge: int64(e), Weight: 1, Held: int64(rapid.IntRange(0, 60).Draw(t, "held"))}
				held += l.Held
				k.Lines = append(k.Lines, l)
			}
			g.Keys = append(g.Keys, k)
		}
		s := newStory(g)
		for range rapid.IntRange(1, 40).Draw(t, "looks") {
			s.now = s.now.Add(time.Duration(rapid.IntRange(0, 400_000).Draw(t, "us")) * time.Microsecond)
			before := len(s.starts)
			slots := rapid.IntRange(-1, 40).Draw(t, "slots")
			g.Slots = slots
			why, next := s.plan(rapid.IntRange(0, 100).Draw(t, "room"))
			for _, at := range s.starts[before:] {
				if at.Before(s.now) || at.After(s.now.Add(Lookahead)) {
					t.Fatalf("starts %v from now", at.Sub(s.now))
				}
			}
			if n := len(s.starts) - before; slots >= 0 && n > slots {
				t.Fatalf("%d calls in %d slots", n, slots)
			}
			if why == ByTokens && !next.After(s.now.Add(Lookahead)) {
				t.Fatalf("no token until %v, which is within the lookahead", next.Sub(s.now))
			}
			if rapid.IntRange(0, 9).Draw(t, "more") == 0 {
				g.Keys[0].Lines[0].Held += 20
				held += 20
			}
		}
		var left int64
		for _, k := range g.Keys {
			if o := over(k.Limit, s.byKey[k.User]); !k.Limit.IsZero() && o > 1e-6 {
				t.Fatalf("key %s: %v too many of %+v", k.User, o, k.Limit)
			}
			for _, l := range k.Lines {
				left += l.Held
			}
		}
		if o := over(g.Total, s.starts); !g.Total.IsZero() && o > 1e-6 {
			t.Fatalf("%v too many in all of %+v", o, g.Total)
		}
		if left+int64(len(s.starts)) != held {
			t.Fatalf("%d held, %d released, %d left", held, len(s.starts), left)
		}
	})
}

// While there is a backlog, nearly all that is allowed is used.
func TestGateUse(t *testing.T) {
	t.Parallel()
	for _, l := range []Limit{
		{Amount: 50, Per: time.Second, Burst: 50}, {Amount: 50, Per: time.Second, Burst: 1}, {Amount: 5000, Per: time.Second, Burst: 5000},
		{Amount: 10, Per: time.Minute, Burst: 1}, {Amount: 600, Per: time.Minute, Burst: 10},
	} {
		s := newStory(&Gate{Total: l, Slots: -1, Keys: []*Key{{Weight: 1, Lines: []*Line{{Held: 1 << 40, Weight: 1}}}}})
		looks := 0
		end := noon.Add(max(10*time.Second, 20*l.Per))
		for s.now.Before(end) {
			_, next := s.plan(1 << 30)
			s.now = next.Add(-Lookahead / 2)
			looks++
		}
		allowed := l.Rate()*s.now.Add(Lookahead/2).Sub(noon).Seconds() + l.Burst
		if used := float64(len(s.starts)) / allowed; used < 0.98 || used > 1 {
			t.Errorf("%+v: %.2f %% used by %d looks", l, 100*used, looks)
		}
		if perSecond := float64(looks) / s.now.Sub(noon).Seconds(); perSecond > 12 {
			t.Errorf("%+v: %.1f looks a second", l, perSecond)
		}
	}
}

// One with a huge backlog does not keep others waiting: each gets its share by weight, and what one cannot use goes to the
// others.
func TestGateFairness(t *testing.T) {
	t.Parallel()
	g := &Gate{Total: Limit{Amount: 100, Per: time.Second, Burst: 100}, Slots: -1}
	for i := range 10 {
		g.Keys = append(g.Keys, &Key{User: fmt.Sprint(i), Weight: 1, Lines: []*Line{{Held: 10_000, Weight: 1}}})
	}
	g.Keys[1].Weight = 3
	g.Keys[2].Limit = Limit{Amount: 1, Per: time.Second, Burst: 1}
	g.Keys[3].Lines = []*Line{{Edge: 1, Held: 100_000, Weight: 1}, {Edge: 2, Held: 10_000, Weight: 2}}
	s := newStory(g)
	for s.now.Before(noon.Add(20 * time.Second)) {
		_, next := s.plan(1 << 30)
		s.now = next.Add(-Lookahead / 2)
	}
	share := len(s.byKey["0"])
	if n := len(s.byKey["1"]); math.Abs(float64(n)/float64(share)-3) > 0.05 {
		t.Errorf("weight 3 got %d, weight 1 %d", n, share)
	}
	if n := len(s.byKey["2"]); n < 18 || n > 21 {
		t.Errorf("one that may call once a second called %d times in 20 s", n)
	}
	if n := len(s.byKey["9"]); n < share-2 || n > share+2 {
		t.Errorf("two of the same weight got %d and %d", share, n)
	}
	a, b := 100_000-g.Keys[3].Lines[0].Held, 10_000-g.Keys[3].Lines[1].Held
	if b < 2*a-2 || b > 2*a+2 {
		t.Errorf("lines of weight 1 and 2 got %d and %d", a, b)
	}
}

// A line without room does not stop the others, and what waits for room is told apart from what waits for tokens.
func TestGateRoom(t *testing.T) {
	t.Parallel()
	g := &Gate{Slots: -1, Keys: []*Key{{Weight: 1, Lines: []*Line{{Edge: 1, Held: 5, Weight: 1}, {Edge: 2, Held: 5, Weight: 1}}}}}
	why, _ := g.Plan(noon, func(edge int64) bool { return edge == 2 })
	if why != ByRoom || len(g.Keys[0].Lines[0].Starts) != 0 || len(g.Keys[0].Lines[1].Starts) != 5 {
		t.Errorf("blocked by %v with %+v", why, g.Keys[0].Lines)
	}
	g = &Gate{Slots: 3, Keys: []*Key{{Weight: 1, Lines: []*Line{{Held: 5, Weight: 1}}}}}
	if why, _ := g.Plan(noon, func(int64) bool { return true }); why != BySlots || len(g.Keys[0].Lines[0].Starts) != 3 {
		t.Errorf("blocked by %v with %+v", why, g.Keys[0].Lines[0])
	}
	g.Slots, g.ClosedUntil = -1, noon.Add(time.Minute)
	if why, next := g.Plan(noon, func(int64) bool { return true }); why != ByTokens || !next.Equal(g.ClosedUntil) {
		t.Errorf("closed: blocked by %v until %v", why, next)
	}
}

// A pacer keeps to its limit whoever comes when, and lets a call begin as soon as it may.
func TestPacerProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := Limit{Amount: float64(rapid.IntRange(1, 100).Draw(t, "amount")), Per: time.Second, Burst: float64(rapid.IntRange(1, 10).Draw(t, "burst"))}
		var p Pacer
		var begun []time.Time
		now := noon
		for range rapid.IntRange(1, 100).Draw(t, "calls") {
			now = now.Add(time.Duration(rapid.IntRange(0, 50_000).Draw(t, "us")) * time.Microsecond)
			if wait := p.Begin(l, now); wait > 0 {
				now = now.Add(wait)
				if p.Begin(l, now) != 0 {
					t.Fatal("it must wait longer than it was told")
				}
			}
			begun = append(begun, now)
		}
		for i := range begun {
			for j := i; j < len(begun); j++ {
				if n, most := float64(j-i+1), l.Burst+l.Rate()*(begun[j].Sub(begun[i]).Seconds()+1e-6); n > most {
					t.Fatalf("%v calls in %v of %+v", n, begun[j].Sub(begun[i]), l)
				}
			}
		}
	})
}
