package queue

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"sluice/queue/topology"
	"sluice/queue/worker"
)

// Errors of webhooks.
var (
	// ErrNoEvent says that an application tells of no such event.
	ErrNoEvent = errors.New("application tells of no such event")
	// ErrSubscribed says that an event goes to another topology already.
	ErrSubscribed = errors.New("event goes to another topology already: unsubscribe that first")
	// ErrNotSubscribed says that a worker did nothing, which is how the SDK refuses.
	ErrNotSubscribed = errors.New("the worker subscribed nothing: the application must be of the type webhook, and authorized")
)

// WebhookOf is an event of an application, and the topology that it starts.
type WebhookOf struct{ Event, Topology string }

// SubscribeWebhook lets a third party tell a topology of an event. The worker makes the token and speaks with the third
// party. An event that goes there already is not subscribed again: that would be told of twice.
func (e *Engine) SubscribeWebhook(ctx context.Context, a ApplicationOf, hook WebhookOf, by string) (Done, error) {
	return e.change(ctx, a, "subscribe-webhook", by, func(target worker.Target) (string, error) {
		if err := e.checkTopology(ctx, a.Tenant, hook.Topology); err != nil {
			return "", err
		}
		event, err := e.eventOf(ctx, target, a, hook.Event)
		switch {
		case err != nil:
			return "", err
		case event.Enabled && event.Topology == hook.Topology:
			return "", nil
		case event.Enabled:
			return "", fmt.Errorf("%w: %q goes to %q", ErrSubscribed, hook.Event, event.Topology)
		}
		if err := e.askHooks(ctx, target, a, "subscribe", map[string]string{"name": hook.Event, "topology": hook.Topology}); err != nil {
			return "", err
		}
		if event, err = e.eventOf(ctx, target, a, hook.Event); err == nil && !event.Enabled {
			err = ErrNotSubscribed
		}
		return "", err
	})
}

// UnsubscribeWebhooks takes back all that a third party was to tell a topology, which may be gone. What the third party
// does not give up is told as a warning, and can be tried again.
func (e *Engine) UnsubscribeWebhooks(ctx context.Context, a ApplicationOf, topology, by string) (Done, error) {
	return e.change(ctx, a, "unsubscribe-webhooks", by, func(target worker.Target) (string, error) {
		if err := e.askHooks(ctx, target, a, "unsubscribe", map[string]string{"topology": topology}); err != nil {
			return "", err
		}
		shown, err := e.shown(ctx, target, a)
		for _, event := range shown.Webhooks {
			if event.Enabled && event.Topology == topology {
				return fmt.Sprintf("the third party did not give up %q", event.Name), err
			}
		}
		return "", err
	})
}

func (e *Engine) askHooks(ctx context.Context, target worker.Target, a ApplicationOf, what string, body map[string]string) error {
	_, err := e.ask(ctx, target, worker.ApplicationCall{Method: http.MethodPost, Path: []string{a.Key, what}, Webhooks: true, User: a.User, Body: body})
	return err
}

// eventOf is an event as the worker tells of it.
func (e *Engine) eventOf(ctx context.Context, target worker.Target, a ApplicationOf, name string) (worker.ApplicationWebhook, error) {
	shown, err := e.shown(ctx, target, a)
	if err != nil {
		return worker.ApplicationWebhook{}, err
	}
	i := slices.IndexFunc(shown.Webhooks, func(w worker.ApplicationWebhook) bool { return w.Name == name })
	if i < 0 {
		return worker.ApplicationWebhook{}, fmt.Errorf("%w: %q", ErrNoEvent, name)
	}
	return shown.Webhooks[i], nil
}

// checkTopology refuses topologies that are not there: third parties would call into nothing.
func (e *Engine) checkTopology(ctx context.Context, tenant int64, name string) error {
	var there bool
	err := e.pool.QueryRow(ctx, `select exists (select from sluice.topology where tenant_id = $1 and name = $2 and deleted_at is null)`, tenant, name).Scan(&there)
	if err == nil && !there {
		err = topology.ErrNotFound
	}
	return err
}
