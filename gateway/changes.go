package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/queue"
	"sluice/queue/process"
)

// Whoever looks at lists is told which of them may have changed, instead of asking for all of them again and again. One look
// a second at the database serves everyone of a tenant, and nobody looks while nobody listens.
const (
	lookForChanges = time.Second
	changesBeat    = 15 * time.Second // between signs of life, so that nothing between takes the connection for dead
	changesLast    = 4 * time.Minute  // that a stream lasts at most: the server would cut it off
	mostListeners  = 200              // of a tenant
)

// listener is told of changes. What it has not taken yet is one set of lists, however much changes.
type listener struct {
	mu      sync.Mutex
	changed map[string]bool
	wake    chan struct{}
}

func (l *listener) tell(lists []string) {
	l.mu.Lock()
	for _, name := range lists {
		l.changed[name] = true
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *listener) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lists := slices.Sorted(maps.Keys(l.changed))
	clear(l.changed)
	return lists
}

// feeds are what is told to whom, by tenant.
type feeds struct {
	mu       sync.Mutex
	byTenant map[int64]*feed
	look     func(ctx context.Context, tenant int64) (queue.Pulse, error)
}

// feed is who listens to what changes for a tenant. There is one as long as somebody listens.
type feed struct {
	listeners map[*listener]struct{}
	stop      context.CancelFunc
}

// join adds a listener, or returns nil if there are too many. The first one of a tenant starts to look.
func (f *feeds) join(tenant int64) *listener {
	f.mu.Lock()
	defer f.mu.Unlock()
	of := f.byTenant[tenant]
	if of == nil {
		ctx, stop := context.WithCancel(context.Background())
		of = &feed{map[*listener]struct{}{}, stop}
		f.byTenant[tenant] = of
		go f.watch(ctx, tenant, of)
	}
	if len(of.listeners) >= mostListeners {
		return nil
	}
	l := &listener{changed: map[string]bool{}, wake: make(chan struct{}, 1)}
	of.listeners[l] = struct{}{}
	return l
}

// leave ends the looking with the last of a tenant's listeners.
func (f *feeds) leave(tenant int64, l *listener) {
	f.mu.Lock()
	defer f.mu.Unlock()
	of := f.byTenant[tenant]
	delete(of.listeners, l)
	if len(of.listeners) == 0 {
		of.stop()
		delete(f.byTenant, tenant)
	}
}

// watch looks for changes. A look that fails is made again; what changed meanwhile is seen then.
func (f *feeds) watch(ctx context.Context, tenant int64, of *feed) {
	var last queue.Pulse
	tick := time.NewTicker(lookForChanges)
	defer tick.Stop()
	for {
		now, err := f.look(ctx, tenant)
		var changed []string
		for list, is := range now {
			if err == nil && last != nil && last[list] != is {
				changed = append(changed, list)
			}
		}
		if err == nil {
			last = now
		}
		if len(changed) > 0 {
			f.mu.Lock()
			for l := range of.listeners {
				l.tell(changed)
			}
			f.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (g *gateway) addChanges() {
	f := &feeds{byTenant: map[int64]*feed{}, look: func(ctx context.Context, tenant int64) (pulse queue.Pulse, err error) {
		err = process.ForTenant(ctx, g.config.TenantPool, tenant, func(tx pgx.Tx) (err error) {
			pulse, err = queue.PulseOf(ctx, tx, tenant)
			return err
		})
		return pulse, err
	}}
	register(g, huma.Operation{
		OperationID: "watch-changes", Method: http.MethodGet, Path: "/v1/changes", Tags: []string{"overview"}, Security: openapi.Scope("operate"),
		Summary: "Be told which lists change", Description: "Server-sent events named `change`, at most one a second, each with the names of lists that may have changed since the one before: " +
			"`topologies`, `processes`, `trash`, `limits`, `workers` and `overview`. They say nothing of what has changed: ask for that. The stream ends now and then, and the client comes again.",
		Metadata: map[string]any{timeKey: changesLast + time.Minute},
		Responses: map[string]*huma.Response{"200": {Description: "The events", Content: map[string]*huma.MediaType{
			"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString, Examples: []any{"event: change\ndata: {\"lists\":[\"trash\"]}\n\n"}}},
		}}},
	}, func(ctx context.Context, in *struct {
		Seconds int `query:"seconds" minimum:"0" maximum:"240" default:"240" doc:"How long to listen at most"`
	}) (*huma.StreamResponse, error) {
		by, _ := auth.FromContext(ctx)
		if _, err := f.look(ctx, by.TenantID); err != nil {
			return nil, err // it is known now, and could not be said later
		}
		l := f.join(by.TenantID)
		if l == nil {
			return nil, openapi.TooManyRequests.Because("%d listen already", mostListeners).Retry(changesBeat)
		}
		return &huma.StreamResponse{Body: func(hctx huma.Context) {
			defer f.leave(by.TenantID, l)
			g.stream(hctx, l, time.Duration(in.Seconds)*time.Second)
		}}, nil
	})
}

// stream tells a listener of changes until it leaves, or its time is over, or the server closes.
func (g *gateway) stream(hctx huma.Context, l *listener, most time.Duration) {
	hctx.SetHeader("Content-Type", "text/event-stream")
	hctx.SetHeader("Cache-Control", "no-store")
	hctx.SetHeader("X-Accel-Buffering", "no")
	w := hctx.BodyWriter()
	send := func(text string) bool {
		_, err := fmt.Fprint(w, text)
		if f, can := w.(http.Flusher); can {
			f.Flush()
		}
		return err == nil
	}
	over := time.NewTimer(most)
	defer over.Stop()
	beat := time.NewTicker(changesBeat)
	defer beat.Stop()
	for said := send("retry: 1000\n: hello\n\n"); said; {
		select {
		case <-hctx.Context().Done():
			return
		case <-over.C:
			return
		case <-g.config.Closing:
			return
		case <-beat.C:
			said = send(": beat\n\n")
		case <-l.wake:
			data, _ := json.Marshal(map[string][]string{"lists": l.take()}) // texts always can
			said = send("event: change\ndata: " + string(data) + "\n\n")
		}
	}
}
