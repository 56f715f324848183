package queue

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A pooler that shares out sessions by transaction, as PgBouncer does, gives each transaction any session: what was set or
// prepared in the one before is gone, or someone else's. So each statement goes out together with the settings that it
// needs, in one round trip and one implicit transaction, with which they end. What a session of its own would remember,
// plans above all, is made each time.

// database is what the engine needs of a pool of connections.
type database interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
	Begin(ctx context.Context) (pgx.Tx, error)
	Reset()
}

// sender is the part of it that the fetcher needs.
type sender interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// setting is one of Postgres's, for the length of a transaction.
type setting struct{ name, value string }

// The settings of the engine's sessions, and those that the fetcher adds.
var (
	engineSettings  = []setting{{"sluice.tenant_id", "*"}, {"enable_seqscan", "off"}, {"jit", "off"}}
	fetcherSettings = []setting{{"enable_seqscan", "off"}, {"enable_hashjoin", "off"}, {"enable_mergejoin", "off"}}
)

// pooled is a pool of connections to a pooler.
type pooled struct {
	*pgxpool.Pool
	settings string // the statement that sets them
}

func newPooled(pool *pgxpool.Pool, settings ...setting) *pooled {
	calls := make([]string, len(settings))
	for i, s := range settings {
		calls[i] = "set_config('" + s.name + "', '" + s.value + "', true)"
	}
	return &pooled{Pool: pool, settings: "select " + strings.Join(calls, ", ")}
}

// Query is pgxpool's, with the settings.
func (p *pooled) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	b := &pgx.Batch{}
	b.Queue(sql, args...)
	results := p.SendBatch(ctx, b)
	rows, err := results.Query()
	return &pooledRows{Rows: rows, results: results}, err
}

// QueryRow is pgxpool's, with the settings.
func (p *pooled) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, _ := p.Query(ctx, sql, args...)
	return pooledRow{rows}
}

// Exec is pgxpool's, with the settings.
func (p *pooled) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	b := &pgx.Batch{}
	b.Queue(sql, args...)
	results := p.SendBatch(ctx, b)
	tag, err := results.Exec()
	if closed := results.Close(); err == nil {
		err = closed
	}
	return tag, err
}

// SendBatch is pgxpool's, with the settings. An error of theirs is that of the first result.
func (p *pooled) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	all := &pgx.Batch{}
	all.Queue(p.settings)
	all.QueuedQueries = append(all.QueuedQueries, b.QueuedQueries...)
	results := p.Pool.SendBatch(ctx, all)
	_, _ = results.Exec()
	return results
}

// Begin is pgxpool's, with the settings.
func (p *pooled) Begin(ctx context.Context) (pgx.Tx, error) {
	return p.BeginTx(ctx, pgx.TxOptions{BeginQuery: "begin; " + p.settings})
}

// pooledRows are rows whose end is the transaction's: it may fail when all has been read.
type pooledRows struct {
	pgx.Rows
	results pgx.BatchResults
	closed  bool
	err     error
}

// Next is pgx's; after the last row it ends the transaction.
func (r *pooledRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

// Close ends the transaction and gives the connection back.
func (r *pooledRows) Close() {
	if r.closed {
		return
	}
	r.closed = true
	r.Rows.Close()
	r.err = r.results.Close()
}

// Err is what went wrong with the rows, or with the transaction.
func (r *pooledRows) Err() error {
	if err := r.Rows.Err(); err != nil {
		return err
	}
	return r.err
}

// pooledRow is the first of the rows.
type pooledRow struct{ rows pgx.Rows }

// Scan is pgx's.
func (r pooledRow) Scan(dest ...any) error {
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}
