package queue

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// databaseClock tells the database's time between two readings of it, by this machine's monotonic clock. Wall clocks of
// nodes may differ by hours; what is written follows the database's alone.
type databaseClock struct {
	mu   sync.RWMutex
	base time.Time // the database's time ...
	at   time.Time // ... at this moment here; its monotonic part is what counts

	heard   atomic.Int64 // sinceBoot, when the database last answered anything that producers wait for
	probing atomic.Bool
	probe   func(context.Context) // asks the database something that it answers at once; set before use
}

// silence is after how long without any answer the database counts as away: producers are told so rather than kept. One
// that is only slow still answers some of them.
const silence = 1800 * time.Millisecond

var errSilent = errors.New("the database does not answer")

// hear notes that the database has answered.
func (c *databaseClock) hear() { c.heard.Store(int64(sinceBoot())) }

// patience is how much longer the database may be silent for one who has waited since began.
func (c *databaseClock) patience(began time.Duration) time.Duration {
	return silence - (sinceBoot() - max(began, time.Duration(c.heard.Load())))
}

// await waits for an answer, until ctx ends or the database has been silent for one who has waited since began.
func await[T any](ctx context.Context, c *databaseClock, began time.Duration, answer <-chan T) (got T, err error) {
	select {
	case got = <-answer: // as mostly for one who waits for many answers
		return got, nil
	default:
	}
	check := time.NewTimer(c.patience(began) / 2)
	defer check.Stop()
	for {
		select {
		case got = <-answer:
			return got, nil
		case <-ctx.Done():
			return got, ctx.Err()
		case <-check.C:
			left := c.patience(began)
			if left <= 0 {
				return got, errSilent
			}
			if left <= silence/2 {
				c.ask()
			}
			check.Reset(max(left/2, silence/20))
		}
	}
}

// ask finds out whether the database is silent or only slow.
func (c *databaseClock) ask() {
	if c.probing.Swap(true) {
		return
	}
	go func() {
		defer c.probing.Store(false)
		ctx, cancel := context.WithTimeout(context.Background(), silence)
		defer cancel()
		c.probe(ctx)
	}()
}

func (c *databaseClock) read(ctx context.Context, pool database) error {
	var base time.Time
	before := time.Now()
	if err := pool.QueryRow(ctx, `select clock_timestamp()`).Scan(&base); err != nil {
		return err
	}
	c.set(base, before)
	return nil
}

// set notes that the database's clock showed base at some moment after before.
func (c *databaseClock) set(base, before time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base, c.at = base.Round(0), before.Add(time.Since(before)/2)
	c.hear()
}

func (c *databaseClock) now() time.Time {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.base.Add(time.Since(c.at))
}

// newProcessID makes a UUIDv7 (RFC 9562, section 5.7): 48 bits of milliseconds, the rest random. It is made here and
// not in the database, so that a commit whose answer was lost can be asked for by its ids.
func (c *databaseClock) newProcessID() uuid.UUID {
	var id uuid.UUID
	rand.Read(id[6:]) // never fails
	putMillis(&id, c.now())
	id[6] = 0x70 | id[6]&0x0f
	id[8] = 0x80 | id[8]&0x3f
	return id
}

// firstIDAt is the smallest process id of that moment: a bound of a partition.
func firstIDAt(t time.Time) uuid.UUID {
	var id uuid.UUID
	putMillis(&id, t)
	return id
}

func putMillis(id *uuid.UUID, t time.Time) {
	var millis [8]byte
	binary.BigEndian.PutUint64(millis[:], uint64(t.UnixMilli()))
	copy(id[:6], millis[2:])
}
