package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"sluice/gateway/auth"
	"sluice/migrations"
	"sluice/migrations/localpg"
	"sluice/queue"
)

type devCmd struct {
	dataFlags
	logFlags
	DatabaseURL string        `from:"DATABASE_URL" secret:"" placeholder:"URL" help:"Postgres to use instead of a private one."`
	SecretKeys  string        `from:"SLUICE_SECRET_KEYS" secret:"" placeholder:"KEY,..." help:"Keys that seal the secrets in the database. Default: for the private Postgres, one in the data directory."`
	Listen      string        `from:"SLUICE_LISTEN" default:"127.0.0.1:8080" placeholder:"HOST:PORT" help:"Where to answer HTTP; port 0 is any that is free."`
	Mirror      string        `name:"postgres-mirror" from:"SLUICE_POSTGRES_MIRROR" placeholder:"URL" help:"Maven repository to fetch Postgres from where none is installed. Default: the public one."`
	Grace       time.Duration `default:"10s" help:"How long calls under way may take to end after Ctrl-C. What is cut off then is called again."`
}

func (devCmd) Help() string {
	return examples("Starts a private Postgres from the binaries of this machine, or fetches some, migrates it, runs gateway, runner and a demo worker, and prints what to paste to send the first event. "+
		"Ctrl-C drains, and a second Ctrl-C ends it at once; the next start goes on where this one stopped.",
		"sluice dev",
		"sluice dev --listen 127.0.0.1:0 --data ./data",
		"DATABASE_URL=postgres://postgres@localhost/sluice sluice dev")
}

// devAccess is how to reach a dev: what it prints when it is ready, and keeps for other commands of this machine.
type devAccess struct {
	URL  string `json:"url"`
	Key  string `json:"api_key"`
	Curl string `json:"curl,omitempty"`
	Link string `json:"link,omitempty"` // signs in at the screens, once
}

func (c devCmd) Run(ctx context.Context, p *program) error {
	began := time.Now()
	p.collectLazily(defaultMemory)
	log := p.logger(c.LogLevel)
	dir, err := c.dir(p)
	if err != nil {
		return err
	}
	if err := checkURL(c.DatabaseURL); err != nil {
		return err
	}
	keys, err := parseKeys(c.SecretKeys)
	if err != nil {
		return err
	}
	listener, err := listen(c.Listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	if c.DatabaseURL == "" {
		if keys.IsZero() { // of a database that others use, one in this directory would be the wrong one
			if keys, err = devKeys(dir); err != nil {
				return fmt.Errorf("keep the key of secrets: %w", err)
			}
		}
		server, err := startPostgres(ctx, dir, c.Mirror, log)
		if err != nil {
			return err
		}
		defer stopPostgres(ctx, server, log)
		c.DatabaseURL = server.URL(localpg.Database)
	}
	if err := migrations.Up(ctx, c.DatabaseURL); err != nil {
		return connectError(err)
	}
	n, err := openNode(ctx, nodeConfig{
		listener: listener, databaseURL: c.DatabaseURL, gateway: true, runner: true,
		engine: queue.Config{}, engineConns: 16, apiConns: 8, vault: keys, log: log,
	})
	if err != nil {
		return err
	}
	if !keys.IsZero() { // what an older dev has stored as it is
		if _, err := sealAll(ctx, n.pool, keys); err != nil {
			return errors.Join(err, n.abandon(ctx))
		}
	}
	tenant, err := auth.FindTenant(ctx, n.pool, defaultTenant)
	if err != nil {
		return errors.Join(err, n.abandon(ctx))
	}
	// Before the engine starts: messages of the last time may wait for the worker, which is elsewhere now.
	stopWorker, err := startDemoWorker(ctx, n, tenant.ID)
	if err != nil {
		return errors.Join(err, n.abandon(ctx))
	}
	defer stopWorker()
	access, err := c.prepare(ctx, n, tenant.ID, dir)
	if err != nil {
		return errors.Join(err, n.abandon(ctx))
	}
	if err := n.start(ctx); err != nil {
		return err
	}
	log.InfoContext(ctx, "Started", "addr", listener.Addr().String(), "duration", time.Since(began).Round(time.Millisecond))
	failed := c.tell(p, access)
	if failed == nil {
		failed = n.wait(ctx)
	}
	log.InfoContext(ctx, "Draining", "duration", c.Grace)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Grace)
	defer cancel()
	err = errors.Join(failed, n.stop(grace))
	log.InfoContext(ctx, "Stopped")
	return err
}

// prepare makes the demo and the API key, and notes how to reach this dev.
func (c devCmd) prepare(ctx context.Context, n *node, tenant int64, dir string) (devAccess, error) {
	if err := publishDemo(ctx, n.pool, tenant); err != nil {
		return devAccess{}, fmt.Errorf("publish the demo: %w", err)
	}
	a := devAccess{URL: "http://" + reachable(n.config.listener.Addr())}
	if before, err := readAccess(dir); err == nil {
		a.Key = before.Key
	}
	_, err := auth.New(n.pool).Authenticate(ctx, "Bearer "+a.Key)
	if errors.Is(err, auth.ErrBadKey) || errors.Is(err, auth.ErrNoKey) {
		_, a.Key, err = auth.CreateKey(ctx, n.pool, tenant, "dev", auth.Scopes{auth.Admin}, demoActor)
	}
	if err != nil {
		return a, fmt.Errorf("make an API key: %w", err)
	}
	if err := a.write(dir); err != nil {
		return a, fmt.Errorf("keep the API key: %w", err)
	}
	if a.Link, err = devLink(ctx, n, tenant, a.URL); err != nil {
		return a, fmt.Errorf("make a link to the screens: %w", err)
	}
	a.Curl = fmt.Sprintf("curl -sS %s/v1%s -H 'Authorization: Bearer %s' -H 'Content-Type: application/json' -d '%s'",
		a.URL, pathOf("topologies", demoName, "nodes", demoStart, "events"), a.Key, demoEvent)
	return a, nil
}

// devOperator is who signs in by a dev's link.
const devOperator = "dev"

// devLink returns what signs in at the screens of this dev. It is good once, so it is not kept.
func devLink(ctx context.Context, n *node, tenant int64, url string) (string, error) {
	o, err := auth.FindOperator(ctx, n.pool, tenant, devOperator)
	if errors.Is(err, auth.ErrNotFound) {
		o, err = auth.AddOperator(ctx, n.pool, tenant, auth.Operator{Name: devOperator, Scopes: auth.Scopes{auth.Admin}, CreatedBy: demoActor})
	}
	if err != nil || o.DisabledAt != nil { // somebody said that dev is not to enter, and knows another way
		return "", err
	}
	token, err := auth.MakeLink(ctx, n.pool, tenant, o.ID, demoActor)
	return url + uiPage + token, err
}

// reachable is where a browser or curl of this machine finds an address that may stand for all of them.
func reachable(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return a.String()
}

// tell prints how to reach this dev.
func (c devCmd) tell(p *program, a devAccess) error {
	return p.print(a, func(w io.Writer) {
		fmt.Fprintf(w, "URL      %s\nAPI key  %s\n", a.URL, a.Key)
		if a.Link != "" {
			fmt.Fprintf(w, "Screens  %s\n", a.Link)
		}
		fmt.Fprintf(w, "\n%s\n", a.Curl)
	})
}

const accessFile = "access.json"

func readAccess(dir string) (devAccess, error) {
	var a devAccess
	b, err := os.ReadFile(filepath.Join(dir, accessFile))
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(b, &a)
}

// readDevAccess finds the dev of this machine that was started last on the default directory.
func readDevAccess(p *program) (devAccess, error) {
	dir, err := defaultData(p)
	if err != nil {
		return devAccess{}, err
	}
	return readAccess(dir)
}

// write keeps the access where only this user can read it.
func (a devAccess) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, accessFile+"-*") // of mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err := errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, accessFile))
}

// stopPostgres lets the private server write everything out.
func stopPostgres(ctx context.Context, server *localpg.Server, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := server.Stop(ctx); err != nil {
		log.ErrorContext(ctx, "Postgres not stopped in order", "err", err)
	}
}
