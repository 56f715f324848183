package queue

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/limiter"
	"sluice/queue/topology"
)

// What an application says itself has the last word: when it asks to be left alone, its gate is closed for so long, and when it
// refuses calls though the limit allows them, the limit is lowered for a while.

// word is what an application has said, until it is written down.
type word struct {
	until   time.Time // closed, by this machine's clock
	refused bool
}

const (
	refusedPause = time.Second     // after a refusal that says nothing of time
	refusedAgain = 5 * time.Second // refusals within it are one: they were under way when the first came
)

// hear notes what an answer says of the application's rates. What this runner has released is stopped at once.
func (e *Engine) hear(d *delivery, said http.Header, refused bool) {
	if d.edge.to.Application == "" || said == nil && !refused {
		return
	}
	limit := e.catalog.limitOf(d.edge)
	if limit == 0 {
		return
	}
	now := time.Now()
	closed := limiter.Heard(said, refused, now)
	if d.edge.to.Retry.RetryAfter == topology.RetryAfterIgnore {
		closed = 0
	}
	if closed == 0 && refused {
		closed = refusedPause
	}
	if closed == 0 {
		return
	}
	gate := gateKey{d.edge.tenant, limit}
	until := now.Add(closed)
	e.pacers.close(gate, until)
	e.gates.mu.Lock()
	w := e.gates.words[gate]
	if until.After(w.until) {
		w.until = until
	}
	w.refused = w.refused || refused
	e.gates.words[gate] = w
	e.gates.mu.Unlock()
	select {
	case e.gates.wake <- struct{}{}:
	default:
	}
}

// closeGates writes down what applications have said.
func (e *Engine) closeGates(ctx context.Context) error {
	e.gates.mu.Lock()
	words := maps.Clone(e.gates.words)
	clear(e.gates.words)
	e.gates.mu.Unlock()
	var errs []error
	for gate, w := range words {
		if err := e.closeGate(ctx, gate, w); err != nil {
			errs = append(errs, err)
			e.gates.mu.Lock()
			if _, newer := e.gates.words[gate]; !newer {
				e.gates.words[gate] = w
			}
			e.gates.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}

func (e *Engine) closeGate(ctx context.Context, gate gateKey, w word) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	slower := false
	err := pgx.BeginFunc(ctx, e.pool, func(tx pgx.Tx) error {
		var share float64
		var since time.Duration
		if err := tx.QueryRow(ctx, slowSQL, gate.tenant, gate.limit).Scan(&share, &since); err != nil {
			return err
		}
		slower = w.refused && since > refusedAgain
		share = limiter.Slower(limiter.Slowed(share, since))
		_, err := tx.Exec(ctx, closeGateSQL, gate.tenant, gate.limit, max(time.Until(w.until), 0).Microseconds(), slower, share)
		return err
	})
	if err == nil && slower {
		e.log.WarnContext(ctx, "Application refuses calls, its limit is lowered for a while", "limit", gate.limit, "tenant_id", gate.tenant)
	}
	return err
}
