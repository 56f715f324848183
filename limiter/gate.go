package limiter

import (
	"container/heap"
	"time"
)

// Gate is the one door to an application, for a moment: what its limits leave, and who is held there. Behind it stand
// keys, one for each user, and in each key lines, one for each edge that messages are held on.
type Gate struct {
	Total       Limit // of all users together
	Bucket      Bucket
	Slots       int // calls that may be made at once beside those that are under way; negative: any number
	ClosedUntil time.Time
	VTime       float64
	Keys        []*Key
}

// Key is one user's share of an application.
type Key struct {
	User   string
	Limit  Limit
	Bucket Bucket
	Weight float64 // its share among the keys, when there is not enough for all
	Tag    float64 // the virtual time at which it is its turn
	VTime  float64 // of its lines
	Lines  []*Line

	ready time.Time
}

// Line is messages of one user on one edge, in the order of their coming.
type Line struct {
	Edge     int64
	Topology int64 // whose share it has, with its other edges
	Weight   float64
	Tag      float64
	Held     int64
	Starts   []time.Time // when to begin the calls that are released, oldest message first
}

// Blocked says why a plan ended with messages still held.
type Blocked int

// The reasons.
const (
	ByNothing Blocked = iota // nobody is held
	ByTokens
	BySlots
	ByRoom
)

// Plan releases messages: those that have a token of every bucket by now + Lookahead, each key in its turn by weight, and in
// each key each line. take asks whether whoever runs this has room for a call to an edge, and takes it. Starts come in
// order. It tells what stands in the way of the next, and when it may begin at the earliest.
//
// Weighted fair queueing: whoever is served moves back by 1/weight, and who comes after a rest does not go before the time
// that the others have reached.
func (g *Gate) Plan(now time.Time, take func(edge int64) bool) (why Blocked, next time.Time) {
	ready, waiting := &byTag{}, &byReady{}
	for _, k := range g.Keys {
		if !k.held() {
			continue
		}
		k.Tag = max(k.Tag, g.VTime)
		for _, l := range k.Lines {
			l.Tag = max(l.Tag, k.VTime)
		}
		k.ready = k.Bucket.Next(k.Limit, now)
		heap.Push(waiting, k)
	}
	if g.ClosedUntil.After(now) {
		return ByTokens, g.ClosedUntil
	}
	crowded := false
	for at := now; ready.Len()+waiting.Len() > 0; {
		if g.Slots == 0 {
			return BySlots, now
		}
		at = g.Bucket.Next(g.Total, at)
		for waiting.Len() > 0 && !(*waiting)[0].ready.After(at) {
			heap.Push(ready, heap.Pop(waiting))
		}
		if ready.Len() == 0 {
			at = (*waiting)[0].ready
		}
		if at.After(now.Add(Lookahead)) {
			return because(crowded, ByTokens), at
		}
		if ready.Len() == 0 {
			continue
		}
		k := heap.Pop(ready).(*Key)
		l := k.turn(take)
		if l == nil {
			crowded = true
			continue
		}
		g.Bucket, k.Bucket = g.Bucket.Take(g.Total, at), k.Bucket.Take(k.Limit, at)
		g.VTime, k.VTime = k.Tag, l.Tag
		k.Tag, l.Tag = k.Tag+1/k.Weight, l.Tag+1/l.Weight
		l.Starts = append(l.Starts, at)
		at = at.Add(spacing)
		if g.Slots > 0 {
			g.Slots--
		}
		if k.held() {
			k.ready = k.Bucket.Next(k.Limit, at)
			heap.Push(waiting, k)
		}
	}
	return because(crowded, ByNothing), now
}

func because(crowded bool, otherwise Blocked) Blocked {
	if crowded {
		return ByRoom
	}
	return otherwise
}

// held tells whether messages are held that are not released yet.
func (k *Key) held() bool {
	for _, l := range k.Lines {
		if l.left() {
			return true
		}
	}
	return false
}

func (l *Line) left() bool { return int64(len(l.Starts)) < l.Held }

// turn is the line whose turn it is, of those that there is room for.
func (k *Key) turn(take func(edge int64) bool) *Line {
	tried := map[*Line]bool{}
	for {
		var first *Line
		for _, l := range k.Lines {
			if l.left() && !tried[l] && (first == nil || l.Tag < first.Tag) {
				first = l
			}
		}
		if first == nil || take(first.Edge) {
			return first
		}
		tried[first] = true
	}
}

// byTag and byReady are heaps of keys.
type byTag []*Key

func (h byTag) Len() int           { return len(h) }
func (h byTag) Less(i, j int) bool { return h[i].Tag < h[j].Tag }
func (h byTag) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byTag) Push(k any)        { *h = append(*h, k.(*Key)) }
func (h *byTag) Pop() any          { return pop((*[]*Key)(h)) }

type byReady []*Key

func (h byReady) Len() int           { return len(h) }
func (h byReady) Less(i, j int) bool { return h[i].ready.Before(h[j].ready) }
func (h byReady) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byReady) Push(k any)        { *h = append(*h, k.(*Key)) }
func (h *byReady) Pop() any          { return pop((*[]*Key)(h)) }

func pop(h *[]*Key) *Key {
	last := len(*h) - 1
	k := (*h)[last]
	*h = (*h)[:last]
	return k
}
