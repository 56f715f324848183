package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/gateway"
	"sluice/gateway/auth"
	"sluice/migrations"
	"sluice/queue"
	"sluice/queue/report"
	"sluice/queue/vault"
	"sluice/trash"
)

// nodeConfig is what a node is made of.
type nodeConfig struct {
	listener    net.Listener
	databaseURL string
	gateway     bool // takes events in and answers the API
	runner      bool // runs messages
	engine      queue.Config
	engineConns int
	apiConns    int
	maxBody     int64
	keepHeaders []string // nil: the gateway's default
	vault       vault.Ring
	log         *slog.Logger
}

// node is a running part of Sluice: the engine on a database, and the door before it.
type node struct {
	config       nodeConfig
	pool         *pgxpool.Pool // acts for all tenants
	tenants      *pgxpool.Pool // acts for one tenant at a time
	keys         *pgxpool.Pool // looks up API keys: who comes in must not wait for what moves; nil without a gateway
	closeCallers func()
	engine       *queue.Engine
	trash        *trash.Trash
	reports      *report.Book // of workers; nil without a gateway
	background   sync.WaitGroup
	cut          context.CancelFunc // what goes on in the background
	server       *http.Server
	visitors     *visitors
	failed       chan error // of the server

	draining atomic.Bool
	closing  chan struct{} // closed when it is
}

// keyConns is how many connections look up keys: one at a time does, and one replaces it when it is broken.
const keyConns = 2

// openNode connects to the database, which must have the schema of this program. Nothing runs yet.
func openNode(ctx context.Context, c nodeConfig) (*node, error) {
	n := &node{config: c, failed: make(chan error, 1), closing: make(chan struct{})}
	var err error
	open, openForTenants := queue.Open, queue.OpenForTenants
	if c.engine.Pooled {
		open, openForTenants = queue.OpenPooled, queue.OpenPooled
	}
	if n.pool, err = open(ctx, c.databaseURL, c.engineConns); err != nil {
		return nil, err
	}
	if n.tenants, err = openForTenants(ctx, c.databaseURL, c.apiConns); err != nil {
		n.close()
		return nil, err
	}
	if c.gateway {
		if n.keys, err = openForTenants(ctx, c.databaseURL, keyConns); err != nil {
			n.close()
			return nil, err
		}
	}
	if err := n.prepare(ctx); err != nil {
		n.close()
		return nil, connectError(err)
	}
	return n, nil
}

func (n *node) prepare(ctx context.Context) error {
	if err := migrations.Check(ctx, n.pool); err != nil {
		return err
	}
	if err := tellBypass(ctx, n.pool, n.config.log); err != nil {
		return err
	}
	c := n.config.engine
	c.Logger, c.Vault = n.config.log, n.config.vault
	callers, closeCallers := newCallers()
	c.Caller, n.closeCallers = callers, closeCallers
	var err error
	n.engine, err = queue.New(ctx, n.pool, c)
	if errors.Is(err, queue.ErrSettingsLost) {
		return usagef("the database is behind a pooler that loses settings: say --pooled, or give a URL that leads to Postgres itself")
	}
	n.trash = trash.New(n.tenants, n.engine)
	if n.config.gateway {
		n.reports = report.New(n.pool, n.config.log)
	}
	return err
}

func (n *node) close() {
	if n.closeCallers != nil {
		n.closeCallers()
	}
	if n.keys != nil {
		n.keys.Close()
	}
	if n.tenants != nil {
		n.tenants.Close()
	}
	n.pool.Close()
}

// start runs the node. From here on it must be stopped.
func (n *node) start(ctx context.Context) error {
	background, cut := context.WithCancel(context.WithoutCancel(ctx))
	n.cut = cut
	if n.config.runner {
		if err := n.engine.Start(ctx); err != nil {
			return errors.Join(err, n.engine.Stop(ctx))
		}
		n.background.Go(func() { n.trash.Run(background, n.pool, n.config.log) })
	}
	if n.reports != nil {
		n.background.Go(func() { n.reports.Run(background) })
	}
	n.server = gateway.Server(n.config.listener.Addr().String(), n.door(), n.config.log)
	n.visitors = &visitors{Listener: n.config.listener}
	go func() {
		if err := n.server.Serve(n.visitors); !errors.Is(err, http.ErrServerClosed) {
			n.failed <- err
		}
	}()
	return nil
}

// wait returns when ctx ends, or the node cannot go on.
func (n *node) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-n.failed:
		return fmt.Errorf("serve: %w", err)
	}
}

// stop drains the node: first it lets nobody in any more and answers those who are, then it finishes the calls under way and
// gives back what it holds. When ctx ends first, the rest is cut off; nothing is lost by that.
func (n *node) stop(ctx context.Context) error {
	n.draining.Store(true)
	close(n.closing)
	err := n.server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		n.config.log.WarnContext(ctx, "Requests cut off")
		err = n.server.Close()
	} else {
		n.visitors.wait(ctx)
	}
	n.cut() // bulks that are under way are rolled back, and done by the next who looks
	n.background.Wait()
	err = errors.Join(err, n.engine.Stop(ctx))
	n.close()
	return err
}

// listen takes the address before anything else is started, because it is what most often goes wrong.
func listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is in use: stop what listens there, or choose another address with --listen", address)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s needs more rights than this user has: choose a port above 1023 with --listen", address)
	case err != nil:
		return nil, usagef("--listen %q: %s: want HOST:PORT", address, err)
	}
	return l, nil
}

// door is what answers requests: the gateway, or of a node that only runs messages whether it is well.
func (n *node) door() http.Handler {
	if n.config.gateway {
		return gateway.New(gateway.Config{
			Engine:      n.engine,
			TenantPool:  n.tenants,
			Keys:        auth.New(n.keys),
			Sessions:    auth.NewSessions(n.tenants),
			Trash:       n.trash,
			Logger:      n.config.log,
			Version:     version(),
			MaxBody:     n.config.maxBody,
			KeepHeaders: n.config.keepHeaders,
			Vault:       n.config.vault,
			Reports:     n.reports,
			Ready:       n.ready,
			Closing:     n.closing,
		})
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := n.ready(r.Context()); err != nil {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// ready tells whether the node can do its work.
func (n *node) ready(ctx context.Context) error {
	if n.draining.Load() {
		return errors.New("draining")
	}
	return migrations.Check(ctx, n.tenants)
}

// abandon gives up a node that was opened and not started.
func (n *node) abandon(ctx context.Context) error {
	defer n.close()
	return n.engine.Stop(ctx)
}
