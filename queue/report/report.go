// Package report keeps for some days what workers on Orchesty's SDK report of
// what they do: the calls that their connectors make of applications, and the
// lines that they log for people.
//
// A worker waits for the answer to each report before it goes on, so nothing
// here waits: [Book.Call] and [Book.Log] put a report into a buffer, and
// [Book.Run] writes what has gathered, many rows a statement. Where more comes
// in than can be written, reports are dropped and counted: they are told by a
// worker of its own accord, and no message depends on them.
//
// What is kept says which process it belongs to, and no more than that: the
// package knows no topologies, and what a report says is as true as its worker.
package report

import (
	"context"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Call is a call that a connector made of an application.
type Call struct {
	Tenant      int64
	Process     uuid.UUID // zero: of none
	NodeID      string    // as workers know it
	User        string
	Application string
	URL         string // kept without what may be a secret
	Status      int
	Duration    time.Duration
}

// Line is what a worker logged for people.
type Line struct {
	Tenant  int64
	Process uuid.UUID // zero: of none
	NodeID  string
	Level   string
	Message string
	Trace   string
}

const (
	buffered = 5000 // reports that wait to be written
	atOnce   = 1000 // written by one statement
	every    = 500 * time.Millisecond
	lastTime = 5 * time.Second // for what is left at the end

	longestCall = 24 * time.Hour

	maxName    = 200 // bytes
	maxURL     = 500
	maxMessage = 2000
	maxTrace   = 4000

	kept      = "3 days"
	tidyEvery = 5 * time.Minute
	tidyRows  = 10_000 // removed by one statement
)

// Book is where reports go.
type Book struct {
	pool  *pgxpool.Pool // sees all tenants
	log   *slog.Logger
	calls chan Call
	lines chan Line
	lost  atomic.Int64

	mu   sync.Mutex
	last map[told]time.Time // calls that failed, and when that was told
}

// told is what two reports of the same call have in common.
type told struct {
	tenant  int64
	process uuid.UUID
	node    string
	url     string
}

// New returns a book that writes to a pool which sees all tenants.
func New(pool *pgxpool.Pool, log *slog.Logger) *Book {
	return &Book{pool: pool, log: log, calls: make(chan Call, buffered), lines: make(chan Line, buffered), last: map[told]time.Time{}}
}

// Lost is how many reports were dropped.
func (b *Book) Lost() int64 { return b.lost.Load() }

// Call keeps a call. It never waits.
func (b *Book) Call(c Call) {
	c.NodeID, c.User, c.Application, c.URL = cut(c.NodeID, maxName), cut(c.User, maxName), cut(c.Application, maxName), cut(redact(c.URL), maxURL)
	if c.Status < 0 || c.Status > 999 {
		c.Status = 0 // none that HTTP has
	}
	c.Duration = min(max(c.Duration, 0), longestCall)
	if b.isEcho(c) {
		return
	}
	select {
	case b.calls <- c:
	default:
		b.lost.Add(1)
	}
}

// Log keeps a line. It never waits.
func (b *Book) Log(l Line) {
	l.NodeID, l.Level, l.Message, l.Trace = cut(l.NodeID, maxName), cut(l.Level, maxName), cut(l.Message, maxMessage), cut(l.Trace, maxTrace)
	select {
	case b.lines <- l:
	default:
		b.lost.Add(1)
	}
}

// echo is how soon the SDK tells again of a call that failed, as a 500 then.
const echo = time.Second

// isEcho tells whether a report is the second one of a call that failed: the SDK tells of such with the status that it was
// answered, and then again with 500.
func (b *Book) isEcho(c Call) bool {
	key, now := told{c.Tenant, c.Process, c.NodeID, c.URL}, time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	before, known := b.last[key]
	delete(b.last, key)
	if known && c.Status == 500 && now.Sub(before) < echo {
		return true
	}
	if c.Status >= 300 {
		if len(b.last) >= buffered {
			clear(b.last)
		}
		b.last[key] = now
	}
	return false
}

// Run writes reports, and removes what is old, until ctx ends and what is left is written.
func (b *Book) Run(ctx context.Context) {
	write, tidy := time.NewTicker(every), time.NewTicker(tidyEvery)
	defer write.Stop()
	defer tidy.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTime)
			defer cancel()
			b.write(last)
			return
		case <-write.C:
			b.write(ctx)
		case <-tidy.C:
			b.tidy(ctx)
		}
	}
}

// write writes what has gathered. What cannot be written is dropped: there is more to come.
func (b *Book) write(ctx context.Context) {
	lost := b.lost.Load()
	for {
		calls := take(b.calls)
		if len(calls) > 0 {
			b.note(ctx, len(calls), b.writeCalls(ctx, calls))
		}
		lines := take(b.lines)
		if len(lines) > 0 {
			b.note(ctx, len(lines), b.writeLines(ctx, lines))
		}
		if len(calls) < atOnce && len(lines) < atOnce {
			break
		}
	}
	if n := b.lost.Load() - lost; n > 0 {
		b.log.WarnContext(ctx, "Reports of workers dropped", "count", n)
	}
}

func (b *Book) note(ctx context.Context, reports int, err error) {
	if err != nil {
		b.lost.Add(int64(reports))
		b.log.WarnContext(ctx, "Reports of workers not written", "err", err)
	}
}

func take[T any](from <-chan T) []T {
	var all []T
	for len(all) < atOnce {
		select {
		case one := <-from:
			all = append(all, one)
		default:
			return all
		}
	}
	return all
}

func (b *Book) writeCalls(ctx context.Context, all []Call) error {
	_, err := b.pool.Exec(ctx, `
		insert into sluice.reported_call (tenant_id, process_id, node_id, user_name, application, url, status, duration_ms)
		select * from unnest($1::bigint[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int[], $8::int[])`,
		list(all, func(c Call) int64 { return c.Tenant }), list(all, func(c Call) *uuid.UUID { return known(c.Process) }),
		list(all, func(c Call) string { return c.NodeID }), list(all, func(c Call) string { return c.User }),
		list(all, func(c Call) string { return c.Application }), list(all, func(c Call) string { return c.URL }),
		list(all, func(c Call) int { return c.Status }), list(all, func(c Call) int64 { return c.Duration.Milliseconds() }))
	return err
}

func (b *Book) writeLines(ctx context.Context, all []Line) error {
	_, err := b.pool.Exec(ctx, `
		insert into sluice.reported_line (tenant_id, process_id, node_id, level, message, trace)
		select * from unnest($1::bigint[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[])`,
		list(all, func(l Line) int64 { return l.Tenant }), list(all, func(l Line) *uuid.UUID { return known(l.Process) }),
		list(all, func(l Line) string { return l.NodeID }), list(all, func(l Line) string { return l.Level }),
		list(all, func(l Line) string { return l.Message }), list(all, func(l Line) string { return l.Trace }))
	return err
}

// tidy removes what is old, a part at a time.
func (b *Book) tidy(ctx context.Context) {
	for _, table := range []string{"reported_call", "reported_line"} {
		for {
			tag, err := b.pool.Exec(ctx, `
				delete from sluice.`+table+` where ctid = any (array(
					select ctid from sluice.`+table+` where at < now() - interval '`+kept+`' order by at limit $1 for update skip locked))`, tidyRows)
			if err != nil {
				b.log.WarnContext(ctx, "Old reports not removed", "err", err)
				return
			}
			if tag.RowsAffected() < tidyRows {
				break
			}
		}
	}
}

func list[T, V any](all []T, of func(T) V) []V {
	values := make([]V, len(all))
	for i, one := range all {
		values[i] = of(one)
	}
	return values
}

func known(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}

// cut shortens a text to so many bytes and makes it one that can be stored.
func cut(text string, most int) string {
	if len(text) > most {
		text = text[:most]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(text, ""), "\x00", "")
}

// longest is how long a part of a path may be that is no secret.
const longest = 24

// redact leaves of a URL what says which place was called: not its query, nor what is as long as a token in its path.
func redact(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	parts := strings.Split(u.EscapedPath(), "/")
	for i, part := range parts {
		if len(part) > longest {
			parts[i] = "…"
		}
	}
	u.User, u.RawQuery, u.Fragment, u.Opaque = nil, "", "", ""
	u.Path, u.RawPath = "", ""
	return u.String() + strings.Join(parts, "/")
}
