package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/queue"
	"sluice/queue/document"
	"sluice/queue/process"
	"sluice/queue/topology"
	"sluice/queue/vault"
	"sluice/queue/worker"
	"sluice/trash"
)

// problems says what the errors of the packages below are for a client. A detail that is empty is the error's own text,
// which is fit to be shown then.
var problems = []struct {
	err    error
	kind   openapi.Kind
	detail string
}{
	{auth.ErrNoKey, openapi.Unauthenticated, "the request has no header Authorization: Bearer sluice_…, and nobody is signed in"},
	{auth.ErrBadKey, openapi.Unauthenticated, "the API key is not valid, or not any more"},
	{auth.ErrInvalid, openapi.ValidationFailed, ""},
	{auth.ErrNotFound, openapi.NotFound, "there is no such API key, or no such operator"},
	{auth.ErrNotSignedIn, openapi.Unauthenticated, "the session is over, or the name, password or link is not valid, or not any more: sign in again"},
	{auth.ErrWrongPassword, openapi.Forbidden, ""},
	{auth.ErrLastAdmin, openapi.Conflict, ""},
	{auth.ErrExists, openapi.AlreadyExists, ""},

	{topology.ErrNotFound, openapi.NotFound, "there is no such topology, or no such version of it"},
	{topology.ErrNoDraft, openapi.Conflict, "the topology has no draft: apply a file first"},
	{topology.ErrNotEnabled, openapi.NotEnabled, "the topology, or the version asked for, takes no events now: enable a version"},
	{topology.ErrNoneBefore, openapi.Conflict, "there is no version before the enabled one that could be enabled"},
	{topology.ErrUnpublished, openapi.Conflict, "the topology has no published version: publish its draft first"},

	{queue.ErrNoNode, openapi.NotFound, ""},
	{queue.ErrKeyReused, openapi.IdempotencyKeyReused, "an event with this idempotency key and another body was accepted before"},
	{queue.ErrRefused, openapi.ValidationFailed, "the database refuses to store this event"},
	{queue.ErrOverloaded, openapi.TooManyRequests, "too many events wait to be stored; this one was not accepted"},
	{queue.ErrUnavailable, openapi.Unavailable, "the database did not confirm in time that the event is stored: send it again, with the same idempotency key if it has one"},

	{queue.ErrNoWorker, openapi.NotFound, "there is no such worker"},
	{queue.ErrNoPull, openapi.Conflict, ""},
	{queue.ErrWorkerTaken, openapi.AlreadyExists, ""},
	{queue.ErrWorkerUsed, openapi.InUse, ""},
	{queue.ErrBadWorker, openapi.ValidationFailed, ""},

	{queue.ErrNoApplication, openapi.NotFound, ""},
	{queue.ErrManyHave, openapi.Conflict, ""},
	{queue.ErrNoApplications, openapi.NotFound, ""},
	{queue.ErrBadUser, openapi.ValidationFailed, ""},
	{queue.ErrBadReturn, openapi.ValidationFailed, ""},
	{queue.ErrNotAuthorizable, openapi.Conflict, ""},
	{queue.ErrNoEvent, openapi.NotFound, ""},
	{queue.ErrSubscribed, openapi.Conflict, ""},
	{queue.ErrNotSubscribed, openapi.Conflict, ""},
	{queue.ErrNoAuthorization, openapi.NotFound, ""},
	{queue.ErrRefusedAuthorization, openapi.Conflict, ""},

	{queue.ErrNoLimit, openapi.NotFound, "the application has no limit"},
	{queue.ErrNoUser, openapi.NotFound, "the application has no such user"},
	{queue.ErrBadLimit, openapi.ValidationFailed, ""},

	{document.ErrInvalid, openapi.ValidationFailed, ""},
	{document.ErrUnknown, openapi.NotFound, "there are no documents of that name"},
	{document.ErrExists, openapi.AlreadyExists, ""},
	{document.ErrNotFound, openapi.NotFound, "there is no such document"},

	{process.ErrNotFound, openapi.NotFound, "there is no such process or message"},
	{queue.ErrNoTarget, openapi.Conflict, "the version has no node of that name, or is retired: name another version"},
	{queue.ErrFinished, openapi.Conflict, "the process has finished: there is nothing to terminate"},
	{trash.ErrGone, openapi.NotFound, "there is no such message in the trash, or not any more"},
	{trash.ErrChanged, openapi.PreconditionFailed, "somebody has changed the message since you looked at it: look at it again, then decide"},
	{trash.ErrNotAllowed, openapi.Forbidden, ""},
	{trash.ErrNoBulk, openapi.NotFound, "there is no such bulk"},
	{trash.ErrBulkState, openapi.Conflict, ""},
	{trash.ErrBulk, openapi.ValidationFailed, ""},
	{trash.ErrRetention, openapi.ValidationFailed, ""},
	{trash.ErrContent, openapi.ValidationFailed, ""},
}

// translate turns an error into the problem that it is for the client, or nil if it is none of theirs.
func (g *gateway) translate(err error) *openapi.Problem {
	var scope *scopeError
	var invalid *topology.InvalidError
	var holds *queue.HoldsError
	var full *queue.FullError
	var failure *worker.Failure
	var settings *queue.SettingsError
	var cross *crossError
	var many *auth.TooManyError
	switch {
	case errors.As(err, &scope):
		return openapi.Forbidden.Because("%s", scope)
	case errors.As(err, &cross):
		return openapi.Forbidden.Because("%s", cross)
	case errors.As(err, &many):
		return openapi.TooManyRequests.Because("%s", many).Retry(max(many.RetryAfter, time.Second))
	case errors.As(err, &invalid):
		return invalidTopology(invalid)
	case errors.As(err, &holds):
		return openapi.HoldsMessages.Because("%s", holds).Counting(holds.Held.Total())
	case errors.As(err, &failure) && failure.Class != worker.Cancelled:
		return openapi.WorkerFailed.Because("%s", failure.Reason)
	case errors.As(err, &settings):
		return badSettings(settings)
	case errors.As(err, &full):
		return openapi.TooManyRequests.Because("%s; this event was not accepted", full).Retry(max(full.RetryAfter, time.Second))
	}
	if errors.Is(err, vault.ErrNoKey) {
		return openapi.Unavailable.Because("this server has no key to keep secrets with: its operator must give it SLUICE_SECRET_KEYS")
	}
	if errors.Is(err, vault.ErrSealed) {
		return openapi.Unavailable.Because("this server cannot open the secret with the keys that it has: its operator must give it the one that it was sealed with")
	}
	for _, p := range problems {
		if errors.Is(err, p.err) {
			if p.kind.Code == openapi.Unavailable.Code {
				g.tellTrouble(err)
			}
			if p.detail == "" {
				return p.kind.Because("%s", err)
			}
			return p.kind.Because("%s", p.detail)
		}
	}
	switch {
	case isUnstorable(err):
		return openapi.ValidationFailed.Because("the request has text that cannot be stored: it is not UTF-8, or has a NUL in it")
	case isPassing(err):
		return g.unavailable(err)
	}
	return nil
}

// badSettings tells each setting that does not fit its form.
func badSettings(e *queue.SettingsError) *openapi.Problem {
	p := openapi.ValidationFailed.Because("settings do not fit the forms of the application: nothing was saved")
	for _, f := range e.Faults {
		pointer := "#/forms/" + pointerPart(f.Form)
		if f.Field != "" {
			pointer += "/" + pointerPart(f.Field)
		}
		p = p.With(openapi.Detail{Detail: f.Detail, Pointer: pointer})
	}
	return p
}

// invalidTopology tells each mistake of a topology with its place in the file, as a person and as a program looks for it.
func invalidTopology(e *topology.InvalidError) *openapi.Problem {
	p := openapi.InvalidTopology.Because("the topology file has mistakes: mend what is named in errors")
	if len(e.Problems) == 1 {
		p.Detail = e.Problems[0].String()
	}
	for _, m := range e.Problems {
		d := openapi.Detail{Pointer: topologyPointer(m)}
		switch {
		case m.Line > 0 && m.File != "":
			d.Location = fmt.Sprintf("%s:%d", m.File, m.Line)
		case m.Line > 0:
			d.Location = fmt.Sprintf("line %d", m.Line)
		default:
			d.Location = m.File
		}
		m.File, m.Line = "", 0 // the location has them
		d.Detail = m.String()
		p.Errors = append(p.Errors, d)
	}
	return p
}

// topologyPointer points into the file: nodes are the members of one object there, by their names.
func topologyPointer(m topology.Problem) string {
	p := "#"
	if m.Node != "" {
		p += "/nodes/" + pointerPart(m.Node)
	}
	if m.Field != "" {
		p += "/" + strings.ReplaceAll(pointerPart(m.Field), ".", "/") // retry.attempts
	}
	return p
}

// pointerPart escapes a name for a JSON pointer in a URI fragment.
func pointerPart(name string) string {
	return url.PathEscape(strings.NewReplacer("~", "~0", "/", "~1").Replace(name))
}

// unavailable is the problem of a database that does not answer, or not in time.
func (g *gateway) unavailable(err error) *openapi.Problem {
	g.tellTrouble(err)
	return openapi.Unavailable.Because("the database does not answer at the moment")
}

// tellTrouble logs that requests are refused because of the database: once in a while, not once a request.
func (g *gateway) tellTrouble(err error) {
	if !errors.Is(err, context.Canceled) && g.quiet.pass(time.Second) {
		g.log.Warn("Requests refused, the database is in trouble", "err", err)
	}
}

// throttle lets one pass in a while.
type throttle struct{ last atomic.Int64 }

func (t *throttle) pass(every time.Duration) bool {
	now, last := time.Now().UnixNano(), t.last.Load()
	return now-last >= int64(every) && t.last.CompareAndSwap(last, now)
}

// isUnstorable tells whether Postgres refused a text for its bytes.
func isUnstorable(err error) bool {
	pg, is := errors.AsType[*pgconn.PgError](err)
	return is && (pg.Code == "22021" || pg.Code == "22P05")
}

// isPassing tells whether the database, or the way to it, is out of order for now.
func isPassing(err error) bool {
	if pg, is := errors.AsType[*pgconn.PgError](err); is {
		switch pg.Code[:2] {
		case "08", // connection
			"25", // read-only: a fail-over is under way
			"40", // serialisation, deadlock
			"53", // out of disk, memory or connections
			"55", // lock timeout
			"57", // shut down, crashed, took too long
			"58", // its disk
			"XX": // its own fault
			return true
		}
		return false
	}
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &connect) || errors.As(err, &network) ||
		pgconn.SafeToRetry(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
