package queue

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"

	"sluice/queue/process"
)

// delivery is a message that this runner has claimed.
type delivery struct {
	life     *life
	id       int64
	attempt  int
	failures int // attempts used up before this one
	edge     *edge

	process  uuid.UUID
	headers  map[string]string
	encoded  string // headers as stored
	body     []byte
	size     int   // of the body, which is loaded later if it is large
	hold     hold  // what a large body takes
	payload  int64 // the message whose row has the body
	page     int   // of a batch, from 1
	cursor   string
	approved bool // of a message that a breakpoint had parked
	released bool // its slot is free again; guarded by Engine.mu

	grant *grant // of one that was released by the limiter

	run   *run  // of a message of a lane, and of its token; nil: it is a job
	place int64 // of the message in its lane
}

// load gives a claim its content. Headers that are nil are read from encoded when the message is delivered.
func (d *delivery) load(id uuid.UUID, headers map[string]string, encoded string, body []byte, payload int64) {
	d.process, d.headers, d.encoded, d.body, d.size, d.payload = id, headers, encoded, body, len(body), payload
}

// headersForUser are the message's headers, if they can be read.
func (d *delivery) headersForUser() map[string]string {
	if d.headers == nil && d.encoded != "" && d.encoded != "{}" {
		_ = json.Unmarshal([]byte(d.encoded), &d.headers) // an attempt would say so
	}
	return d.headers
}

// messageID is the message's public id.
func (d *delivery) messageID() string {
	return process.MessageID{Process: d.process, Number: d.id}.String()
}

// lifeIfRunning is the life under which claims may be made now, or nil.
func (e *Engine) lifeIfRunning() *life {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.running {
		return nil
	}
	return e.current
}

// room is how many more messages of an edge this runner may claim now. The caller holds the lock.
func (e *Engine) room(to *edge, now time.Time) int {
	if !e.running || to.paused || !e.current.fresh() { // what it claimed without a lease would be taken over at once
		return 0
	}
	n := min(e.slots, to.to.mostAtOnce(e.config.NodeSlots)-to.to.calls, fairShare(e.slots, to.version.topology.calls))
	if n <= 0 {
		return 0
	}
	if b := e.breakers[to.to.worker]; b != nil {
		n = b.Room(now, n)
	}
	return to.to.brake.Room(now, n)
}

// fairShare is how many slots a topology may take that has some: as long as it has no more than four times as many as are
// free. So one that wants all gets four fifths, two get four ninths each, ten a bit less than a tenth each, and there
// are always free ones for those that want few.
func fairShare(free, has int) int { return (4*free - has + 4) / 5 }

// reserve takes n slots of an edge's node. The caller holds the lock and has asked room.
func (e *Engine) reserve(to *edge, n int) {
	e.slots -= n
	to.to.calls += n
	to.version.topology.calls += n
	to.to.brake.Take(n)
	e.calls.Add(n)
	if b := e.breakers[to.to.worker]; b != nil && n > 0 {
		b.Start()
	}
}

// unneeded gives slots back that were taken for calls that were not made. The caller holds the lock.
func (e *Engine) unneeded(to *edge, n int) {
	to.to.brake.Give(n)
	e.unreserve(to, n)
}

// unreserve gives slots back that were taken for calls that are over. The caller holds the lock.
func (e *Engine) unreserve(to *edge, n int) {
	if n == 0 {
		return
	}
	e.slots += n
	to.to.calls -= n
	to.version.topology.calls -= n
	e.calls.Add(-n)
	if len(e.awake) > 0 {
		e.pokeFetcher()
	}
}

// claimBirth takes a slot for a message that is about to be born on an edge, if this runner has room, for a body of that
// size too, and nothing waits there that came before, and if it need not ask who else makes calls of the node. It
// registers the claim before it is sent to the database, so that reconcile never takes it
// for an orphan. The claim ends in launch or abandon. The caller holds the lock.
func (e *Engine) claimBirth(l *life, to *edge, id int64, size int) *delivery {
	if l == nil {
		return nil
	}
	if l != e.current || to.backlog || to.to.Ordered() || e.catalog.limitOf(to) != 0 || to.to.limited() || e.room(to, time.Now()) == 0 {
		return nil
	}
	if _, waits := e.awake[to]; waits {
		return nil
	}
	d := &delivery{life: l, id: id, attempt: 1, edge: to}
	if size > smallBody {
		if d.hold.share = e.bodiesOf(to.to); !d.hold.try(int64(size)) {
			return nil
		}
	}
	e.reserve(to, 1)
	if to.to.isBatch() {
		d.page = 1
	}
	e.inFlight[id] = d
	return d
}

// launch starts the call of a claimed message, or the work on a claimed lane.
func (e *Engine) launch(d *delivery) {
	if d.run != nil {
		go e.workLane(d.run)
		return
	}
	go e.deliver(d)
}

// abandon gives up a claim that did not come to be, or whose fate is unknown.
func (e *Engine) abandon(d *delivery) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.forget(d)
	if b := e.breakers[d.edge.to.worker]; b != nil {
		b.Forget()
	}
	e.release(d)
}

// release frees a delivery's slot: its call is over. The caller holds the lock.
func (e *Engine) release(d *delivery) {
	if !d.released {
		d.released = true
		e.unreserve(d.edge, 1)
	}
}

// forget ends a delivery: its result is committed, or lost to another claim. The caller holds the lock.
func (e *Engine) forget(d *delivery) {
	if e.inFlight[d.id] == d {
		delete(e.inFlight, d.id)
	}
	d.hold.Release()
}

// arrived notes that a message waits on an edge: the fetcher looks, and if this engine does not run messages or has no
// room, others are told.
func (e *Engine) arrived(to *edge) {
	e.mu.Lock()
	busy := e.room(to, time.Now()) == 0
	if e.running {
		e.awake[to] = struct{}{}
		e.pokeFetcher()
	}
	e.mu.Unlock()
	if busy {
		e.herald.tell(to.queue)
	}
}

// pokeFetcher lets the fetcher look at the edges that are awake.
func (e *Engine) pokeFetcher() {
	select {
	case e.wakeFetch <- struct{}{}:
	default:
	}
}
