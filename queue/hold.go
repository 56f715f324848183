package queue

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// A message for an application with a limit is held until it has a token: it is born held, or, if it is a job, held instead
// of being called with. release.go is about letting it go.

// userHeader is the header of a message that says for which user of an application it is. Messages without it are those of
// one user without a name.
const userHeader = "user"

// maxUser is how long a user's name is kept: longer ones that begin alike share a bucket, which is safe.
const maxUser = 200

// bornHeld is the state of a message that is held at its birth.
const bornHeld = "held"

// gateKey names a limit, and so the gate to its application.
type gateKey struct{ tenant, limit int64 }

// name is how a gate is called among the names of queues.
func (k gateKey) name() string { return fmt.Sprintf("g%d.%d", k.tenant, k.limit) }

// gatesNamed finds the gates among names.
func gatesNamed(names []string) hints {
	var found hints
	for _, name := range names {
		var k gateKey
		if !strings.HasPrefix(name, "g") {
			continue
		}
		if n, err := fmt.Sscanf(name, "g%d.%d", &k.tenant, &k.limit); n != 2 || err != nil {
			continue
		}
		if found == nil {
			found = hints{}
		}
		found[k] = nil
	}
	return found
}

// bornHold says for each birth by which limit it is held, and as whose: columns of the statements that store births.
type bornHold struct {
	limits     []int64
	topologies []int64
	users      []string
	gates      hints
}

// add notes a birth; limit is 0 of one that is not held.
func (b *bornHold) add(to *edge, limit int64, headers map[string]string) {
	var topology int64
	var user string
	if limit != 0 {
		topology, user = to.version.TopologyID, userOf(headers)
		if b.gates == nil {
			b.gates = hints{}
		}
		gate := gateKey{to.tenant, limit}
		if b.gates[gate] == nil {
			b.gates[gate] = map[string]struct{}{}
		}
		b.gates[gate][user] = struct{}{}
	}
	b.limits, b.topologies, b.users = append(b.limits, limit), append(b.topologies, topology), append(b.users, user)
}

// any tells whether any birth is held.
func (b *bornHold) any() bool { return len(b.gates) > 0 }

// args are the columns.
func (b *bornHold) args() []any { return []any{b.limits, b.topologies, b.users} }

// userOf is for which user of an application a message is.
func userOf(headers map[string]string) string {
	user := headers[userHeader]
	if len(user) > maxUser {
		user = strings.ToValidUTF8(user[:maxUser], "")
	}
	return user
}

// mayCall tells whether a message's call may be made by this claim: it is not for an application with a limit, or has been
// released. What limits there are is known as of a moment ago, or nothing may be called.
func (e *Engine) mayCall(d *delivery) bool {
	if d.edge.to.Application == "" {
		return true
	}
	if _, err := e.catalog.tenant(e.callCtx, d.edge.tenant); err != nil {
		e.log.Warn("Limits not read, the message waits", "application", d.edge.to.Application, "err", err)
		pause(e.callCtx, 5)
		return false
	}
	return d.grant != nil || e.catalog.limitOf(d.edge) == 0
}

// holdClaims holds claimed messages, in their order, that may not be called with now.
func (e *Engine) holdClaims(ctx context.Context, l *life, claims []*delivery) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var ids, tenants, edges []int64
	var attempts []int16
	var held bornHold
	for _, d := range claims {
		ids, attempts, tenants, edges = append(ids, d.id), append(attempts, int16(d.attempt)), append(tenants, d.edge.tenant), append(edges, d.edge.id)
		limit := e.catalog.limitOf(d.edge)
		if d.grant != nil {
			limit = d.grant.gate.limit
		}
		held.add(d.edge, limit, d.headersForUser())
	}
	rows, _ := e.pool.Query(ctx, holdClaimsSQL, ids, attempts, tenants, edges, held.limits, held.topologies, held.users, l.claimant)
	if _, err := pgx.CollectRows(rows, pgx.RowTo[int64]); err != nil {
		return err
	}
	e.hint(held.gates)
	return nil
}

// isHeldBack tells whether a claim that is given up goes back to being held.
func (e *Engine) isHeldBack(d *delivery) bool {
	return d.grant != nil || e.catalog.limitOf(d.edge) != 0
}

// holdBack holds claims that were just made, in the order of arrival. The caller's claims end with it.
func (e *Engine) holdBack(ctx context.Context, l *life, claims []*delivery) {
	slices.SortStableFunc(claims, func(a, b *delivery) int { return int(a.id - b.id) })
	err := e.holdClaims(ctx, l, claims)
	for _, d := range claims {
		e.abandon(d)
	}
	if err != nil {
		e.log.WarnContext(ctx, "Messages not held, their claims are given back", "count", len(claims), "err", err)
		e.askReconcile()
	}
}

// returnLoop holds released messages again whose calls did not begin in time, many at once.
func (e *Engine) returnLoop(ctx context.Context) {
	for {
		var late []*delivery
		select {
		case <-ctx.Done():
			return
		case d := <-e.missed:
			late = append(late, d)
		}
	gather:
		for len(late) < flushItems {
			select {
			case d := <-e.missed:
				late = append(late, d)
			default:
				break gather
			}
		}
		e.reach.shrink()
		for _, d := range late {
			e.lag.late(time.Since(d.grant.start))
		}
		for len(late) > 0 { // those of another life of this runner are told apart by its claimant
			l := late[0].life
			of := slices.IndexFunc(late, func(d *delivery) bool { return d.life != l })
			if of < 0 {
				of = len(late)
			}
			e.holdBack(e.dbCtx, l, late[:of])
			late = late[of:]
		}
	}
}

// hintEnded tells this runner that calls have ended of applications that may be called so many times at once.
func (e *Engine) hintEnded(batch []*settlement) {
	var ended hints
	for _, s := range batch {
		if g := s.d.grant; g != nil && g.slots {
			if ended == nil {
				ended = hints{}
			}
			ended[g.gate] = nil
		}
	}
	e.hint(ended)
}

// lendGrant gives the next message of a lane the leave that its token was released with: one call. It returns false if there
// is none and there must be one.
func (e *Engine) lendGrant(r *run, d *delivery) bool {
	d.grant, r.token.grant = r.token.grant, nil
	return d.grant != nil || e.catalog.limitOf(d.edge) == 0
}

// holdToken ends a run whose next message has no leave: its token is held as that message's user.
func (e *Engine) holdToken(r *run, next *delivery) {
	r.await(func() bool { return r.open == 0 })
	if r.isOver() {
		return
	}
	claim := *r.token
	claim.headers, claim.encoded = next.headersForUser(), ""
	ctx, cancel := context.WithTimeout(e.dbCtx, statementTimeout)
	defer cancel()
	if err := e.holdClaims(ctx, claim.life, []*delivery{&claim}); err != nil {
		e.log.Warn("Lane not held, its lease will run out", "edge", r.lane.edge, "err", err)
	}
}
