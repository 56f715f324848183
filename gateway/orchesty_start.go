package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/singleflight"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/queue"
	"sluice/queue/document"
	"sluice/queue/process"
	"sluice/queue/topology"
	"sluice/queue/worker/orchesty"
)

// Orchesty's ways to start a topology. They end in [queue.Engine.Accept] as every event does, with its promises.

const (
	startPath = "/topologies/{topology}/nodes/{node}"

	headerUser            = "user"
	headerPreviousProcess = "previous-correlation-id"
	nobody                = "orchesty" // the user of what nobody names a user of
)

func (g *gateway) addOrchestyStarts() {
	for _, user := range []string{"", "/user/{user}"} {
		g.handleOrchesty("POST "+startPath+user+"/run", "ingest", tellText, g.startByID)
		g.handleOrchesty("POST "+startPath+user+"/run-by-name", "ingest", tellText, g.startByName)
	}
	// The SDK has third parties call the second; Orchesty's own documentation names the first.
	for _, path := range []string{startPath + "/token/{token}/run", "/webhook" + startPath + "/token/{token}"} {
		g.mux.HandleFunc("POST "+path, g.callHook)
	}
	ready := shared(g.config.Ready)
	g.mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		writeAnswer(w, http.StatusOK, map[string]bool{"database": ready(r.Context()) == nil, "metrics": true})
	})
}

// startedView is what a caller is told of what it started.
type startedView struct {
	State         string `json:"state"`
	Started       int    `json:"started"`
	CorrelationID string `json:"correlation_id"`
}

// startByName starts the enabled version of a topology.
func (g *gateway) startByName(ctx context.Context, r *http.Request, by auth.Principal) (any, error) {
	return g.startAs(ctx, r, by, queue.Event{Tenant: by.TenantID, Topology: r.PathValue("topology"), Node: r.PathValue("node")})
}

// startByID starts the version that the ids are of, and no other: if it is not the enabled one, there is none.
func (g *gateway) startByID(ctx context.Context, r *http.Request, by auth.Principal) (any, error) {
	nodes, err := g.nodesOf(ctx, by.TenantID)
	if err != nil {
		return nil, err
	}
	n, known := nodes[r.PathValue("node")]
	if !known || orchesty.TopologyID(n.Topology, n.Version) != r.PathValue("topology") {
		return nil, notStarted(r, queue.ErrNoNode)
	}
	enabled, err := g.config.Engine.EnabledVersion(ctx, by.TenantID, n.Topology)
	if err == nil && enabled != n.Version {
		err = topology.ErrNotEnabled
	}
	if err != nil {
		return nil, notStarted(r, err)
	}
	return g.startAs(ctx, r, by, queue.Event{Tenant: by.TenantID, Topology: n.Topology, Node: n.Node.Name, Version: n.Version})
}

// startAs starts what somebody with a key asks for.
func (g *gateway) startAs(ctx context.Context, r *http.Request, by auth.Principal, ev queue.Event) (any, error) {
	var err error
	if ev.Headers, err = g.keeper.choose(r.Header); err != nil {
		return nil, err
	}
	if previous := r.Header.Get(headerPreviousProcess); previous != "" {
		ev.Headers[headerPreviousProcess] = previous // that of the process that started this one
	}
	return g.start(ctx, r, ev, func(body []byte) string { return userOf(r, by, body) })
}

// userOf is whose process a caller wants. What a body says counts only for those who are trusted with all users: others
// pass on bodies that strangers have written.
func userOf(r *http.Request, by auth.Principal, body []byte) string {
	if user := r.PathValue("user"); user != "" {
		return user
	}
	if by.Can(auth.Worker) || by.Can(auth.Operate) {
		var fields map[string]json.RawMessage
		var user string
		if json.Unmarshal(body, &fields) == nil && json.Unmarshal(fields["user"], &user) == nil && user != "" {
			return user
		}
	}
	if user := r.Header.Get("User"); user != "" {
		return user
	}
	return nobody
}

// start stores the event that a request brings.
func (g *gateway) start(ctx context.Context, r *http.Request, ev queue.Event, user func(body []byte) string) (any, error) {
	var err error
	if ev.Key, err = idempotencyKey(r.Header); err != nil {
		return nil, err
	}
	b, err := g.readBody(r, g.config.MaxBody)
	defer b.release()
	if err != nil {
		return nil, err
	}
	if r.Header.Get("Content-Type") == "application/json" && !isDocument(b.bytes) {
		return nil, openapi.InvalidRequest.Because("Content is not valid!")
	}
	// The SDK sends JSON as a form.
	if kind, _, _ := mime.ParseMediaType(ev.Headers[contentType]); kind == "application/x-www-form-urlencoded" && json.Valid(b.bytes) {
		ev.Headers[contentType] = "application/json"
	}
	ev.Body = b.bytes
	ev.Headers[headerUser] = user(b.bytes)
	if err := checkHeaders(ev.Headers); err != nil {
		return nil, err
	}
	ctx, cancel := g.acceptance(ctx)
	defer cancel()
	accepted, err := g.accept(ctx, ev)
	if err != nil {
		return nil, notStarted(r, err)
	}
	return startedView{"ok", 1, accepted.Process.String()}, nil
}

// isDocument tells whether a body is a JSON object or array.
func isDocument(body []byte) bool {
	body = bytes.TrimSpace(body)
	return len(body) > 0 && (body[0] == '{' || body[0] == '[') && json.Valid(body)
}

// notStarted says that there is nothing to start, as Orchesty does: what is disabled is not there.
func notStarted(r *http.Request, err error) error {
	if errors.Is(err, topology.ErrNotFound) || errors.Is(err, topology.ErrNotEnabled) || errors.Is(err, queue.ErrNoNode) {
		return openapi.NotFound.Because("Topology [%.200s] with node [%.200s] not found!", r.PathValue("topology"), r.PathValue("node"))
	}
	return err
}

// callHook starts what a webhook leads to. Whoever calls has no key, only the webhook's token.
func (g *gateway) callHook(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), g.config.RequestTime)
	defer cancel()
	answer, err := g.startHook(ctx, r)
	if err != nil {
		writeOrchestyError(w, r, err, tellText)
		return
	}
	writeAnswer(w, http.StatusOK, answer)
}

func (g *gateway) startHook(ctx context.Context, r *http.Request) (any, error) {
	token := r.PathValue("token")
	hooks, err := g.hooks.find(ctx, token, g.readHooks)
	if err != nil {
		return nil, err
	}
	for _, h := range hooks {
		if !h.Is(r.PathValue("topology"), r.PathValue("node"), token) {
			continue
		}
		ev := queue.Event{Tenant: h.Tenant, Topology: h.Topology, Node: h.Node}
		if ev.Headers, err = g.keeper.choose(strangersHeaders(r.Header)); err != nil {
			return nil, err
		}
		return g.start(ctx, r, ev, func([]byte) string { return h.User })
	}
	return nil, notStarted(r, queue.ErrNoNode)
}

// strangersHeaders are those of a request without such as would be the message's under any name: a third party names no
// limits and no users.
func strangersHeaders(h http.Header) http.Header {
	kept := make(http.Header, len(h))
	for name, values := range h {
		if !strings.HasPrefix(name, ownPrefix) {
			kept[name] = values
		}
	}
	return kept
}

func (g *gateway) readHooks(ctx context.Context, token string) (hooks []document.Hook, err error) {
	err = process.ForAllTenants(ctx, g.config.TenantPool, func(tx pgx.Tx) (err error) {
		hooks, err = g.documents.FindHooks(ctx, tx, token)
		return err
	})
	return hooks, err
}

// hookCache remembers for a moment what tokens lead to, so that a busy webhook, or a flood of guesses, is few look-ups. A
// webhook that was unsubscribed ends within that moment.
type hookCache struct {
	flight singleflight.Group
	turn   chan struct{} // look-ups at once

	mu      sync.Mutex
	known   map[string]rememberedHooks
	unknown map[string]rememberedHooks // apart, so that guesses push no webhook out
}

type rememberedHooks struct {
	hooks []document.Hook
	until time.Time
}

const (
	hooksFresh   = time.Second
	maxHooks     = 10_000 // remembered of each kind
	maxToken     = 500    // bytes; what is longer leads nowhere
	hookLookUps  = 2      // at once: those who guess must not take the API's connections
	hookLookTime = 10 * time.Second
)

func newHookCache() *hookCache {
	return &hookCache{turn: make(chan struct{}, hookLookUps), known: map[string]rememberedHooks{}, unknown: map[string]rememberedHooks{}}
}

// find returns the webhooks that have a token, remembered or read.
func (c *hookCache) find(ctx context.Context, token string, read func(context.Context, string) ([]document.Hook, error)) ([]document.Hook, error) {
	if len(token) > maxToken {
		return nil, nil
	}
	c.mu.Lock()
	r, ok := c.known[token]
	if !ok {
		r, ok = c.unknown[token]
	}
	c.mu.Unlock()
	if ok && time.Now().Before(r.until) {
		return r.hooks, nil
	}
	// Whoever asked first may leave: the others still want it.
	found := c.flight.DoChan(token, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hookLookTime)
		defer cancel()
		select {
		case c.turn <- struct{}{}:
			defer func() { <-c.turn }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		until := time.Now().Add(hooksFresh)
		hooks, err := read(ctx, token)
		if err == nil {
			c.remember(token, rememberedHooks{hooks, until})
		}
		return hooks, err
	})
	select {
	case r := <-found:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.([]document.Hook), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *hookCache) remember(token string, r rememberedHooks) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, token)
	into := c.known
	if len(r.hooks) == 0 {
		into = c.unknown
	}
	if len(into) >= maxHooks {
		clear(into)
	}
	into[token] = r
}
