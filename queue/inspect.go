package queue

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"sluice/queue/topology"
	"sluice/queue/worker"
)

// Callers call each worker in the protocol that it speaks.
type Callers map[worker.Protocol]Caller

// Call calls a worker. One whose protocol nobody speaks is unavailable: another version of Sluice may.
func (c Callers) Call(ctx context.Context, target worker.Target, request worker.Request) (worker.Result, error) {
	caller, known := c[target.Protocol]
	if !known {
		return worker.Result{}, &worker.Failure{
			Class: worker.Unavailable, Reason: worker.Clean(fmt.Sprintf("worker %s speaks %s, which this version of Sluice does not", target.Name, target.Protocol)),
		}
	}
	return caller.Call(ctx, target, request)
}

// ErrNotListed says that a worker's protocol has no words to ask what it has.
var ErrNotListed = errors.New("a worker of this protocol cannot be asked what it has")

// lister asks workers what they have.
type lister interface {
	List(ctx context.Context, target worker.Target) (worker.Listing, error)
}

// List asks a worker what it has, or fails with [ErrNotListed].
func (c Callers) List(ctx context.Context, target worker.Target) (worker.Listing, error) {
	if l, can := c[target.Protocol].(lister); can {
		return l.List(ctx, target)
	}
	return worker.Listing{}, ErrNotListed
}

// Inspected is a worker with what it has, as of [Worker.ListedAt]; nothing, if it never said.
type Inspected struct {
	Worker
	Listing worker.Listing
}

// FindWorker returns a worker, or [ErrNoWorker].
func FindWorker(ctx context.Context, db topology.DB, tenant int64, name string) (Inspected, error) {
	type row struct {
		Worker
		Listing *worker.Listing
	}
	rows, _ := db.Query(ctx, `
		select `+workerColumns+`, listing from sluice.worker
		where tenant_id = $1 and name = $2 and removed_at is null`, tenant, name)
	found, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[row])
	if errors.Is(err, pgx.ErrNoRows) {
		return Inspected{}, ErrNoWorker
	}
	w := Inspected{Worker: found.Worker}
	if found.Listing != nil {
		w.Listing = *found.Listing
	}
	return w, err
}

// RefreshWorker asks a worker what it has and keeps that, or why it does not say: then what it said before stays. That a
// worker does not answer, or has no words for it, is no error; it fails with [ErrNoWorker].
func (e *Engine) RefreshWorker(ctx context.Context, tenant int64, name string) error {
	target, err := e.catalog.worker(ctx, workerKey{tenant, name})
	if err != nil {
		return err
	}
	listing, why, err := e.listingOf(ctx, target)
	if err != nil {
		return err
	}
	_, err = e.pool.Exec(ctx, `
		update sluice.worker set listing = coalesce($3::jsonb, listing), listed_at = case when $3::jsonb is null then listed_at else now() end, listing_error = nullif($4, '')
		where tenant_id = $1 and name = $2 and removed_at is null`, tenant, name, listing, why)
	return err
}

// listingOf asks a worker what it has; without a listing, it says why there is none.
func (e *Engine) listingOf(ctx context.Context, target worker.Target) (_ *worker.Listing, why string, _ error) {
	asked, can := e.config.Caller.(lister)
	if !can {
		return nil, ErrNotListed.Error(), nil
	}
	listing, err := asked.List(ctx, target)
	var failure *worker.Failure
	switch {
	case err == nil:
		return &listing, "", nil
	case errors.Is(err, ErrNotListed):
		return nil, err.Error(), nil
	case errors.As(err, &failure) && failure.Class != worker.Cancelled:
		return nil, failure.Reason, nil
	}
	return nil, "", err
}
