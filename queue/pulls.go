package queue

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"sluice/queue/pull"
)

// ErrNoPull is returned when the calls of a worker are asked for that is called at its URL.
var ErrNoPull = errors.New("the worker is called at its URL, and takes no calls itself")

// ClaimCalls takes calls of a worker, and waits for them. See [pull.Exchange.Claim]. What was taken can be answered even
// after the worker has moved.
func (e *Engine) ClaimCalls(ctx context.Context, tenant int64, name string, wish pull.Wish) ([]pull.Claimed, error) {
	target, err := e.catalog.worker(ctx, workerKey{tenant, name})
	if err == nil && target.Via == nil {
		err = ErrNoPull
	}
	if err != nil {
		return nil, err
	}
	return e.pull.Claim(ctx, pull.Worker{Tenant: tenant, Name: name}, wish)
}

// BeatCalls says that calls are being worked, and returns those that are lost. See [pull.Exchange.Beat].
func (e *Engine) BeatCalls(ctx context.Context, tenant int64, name string, held []pull.Held, lease time.Duration) ([]uuid.UUID, error) {
	if _, err := e.catalog.worker(ctx, workerKey{tenant, name}); err != nil {
		return nil, err
	}
	return e.pull.Beat(ctx, pull.Worker{Tenant: tenant, Name: name}, held, lease)
}

// AnswerCalls gives back what a worker answered to its calls, and returns those that are lost. See [pull.Exchange.Answer].
func (e *Engine) AnswerCalls(ctx context.Context, tenant int64, name string, answers []pull.Answer) ([]uuid.UUID, error) {
	if _, err := e.catalog.worker(ctx, workerKey{tenant, name}); err != nil {
		return nil, err
	}
	return e.pull.Answer(ctx, pull.Worker{Tenant: tenant, Name: name}, answers)
}
