package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"sluice/queue"
)

type serveCmd struct {
	databaseFlags
	logFlags
	Listen      string        `from:"SLUICE_LISTEN" default:":8080" placeholder:"HOST:PORT" help:"Where to answer HTTP."`
	Roles       []string      `from:"SLUICE_ROLES" enum:"gateway,runner" default:"gateway,runner" help:"What this node does: gateway takes events in and answers the API, runner runs messages."`
	Name        string        `from:"SLUICE_NAME" placeholder:"TEXT" help:"Name in the list of runners. Default: host and process id."`
	Slots       int           `from:"SLUICE_SLOTS" default:"1000" help:"How many calls of workers are under way at once."`
	NodeSlots   int           `from:"SLUICE_NODE_SLOTS" default:"100" help:"How many of them for one node that does not set its concurrency."`
	Memory      byteSize      `from:"SLUICE_MEMORY" default:"256MiB" placeholder:"SIZE" help:"What large bodies take that are on their way to workers; as much again for those that come back, and for events that wait to be stored."`
	PollOnly    bool          `from:"SLUICE_POLL_ONLY" help:"Neither listen nor notify, for databases that cannot: look for work every 200 ms instead."`
	Pooled      bool          `from:"SLUICE_POOLED" help:"The database is behind a pooler that shares out sessions by transaction, such as PgBouncer. It includes --poll-only."`
	EngineConns int           `from:"SLUICE_ENGINE_CONNS" default:"16" help:"Connections to the database for moving messages; 12 at least."`
	APIConns    int           `name:"api-conns" from:"SLUICE_API_CONNS" default:"8" help:"Connections to the database for the API; small, so that looking does not slow moving. A gateway has two more, to look up keys."`
	MaxBody     int64         `from:"SLUICE_MAX_BODY" placeholder:"BYTES" help:"Largest body of an event. Default: 5 MiB."`
	KeepHeaders []string      `from:"SLUICE_KEEP_HEADERS" placeholder:"NAME,..." help:"Headers of a producer's request that go with its event, beside Sluice-Header-...; a name may end in *. Default: the content type and what names or signs an event."`
	SecretKeys  string        `from:"SLUICE_SECRET_KEYS" secret:"" placeholder:"KEY,..." help:"Keys that seal the secrets in the database: the first one seals, each of them opens. See sluice secrets."`
	KeyTTL      time.Duration `name:"key-ttl" from:"SLUICE_KEY_TTL" default:"24h" help:"How long an idempotency key is remembered at least."`
	Grace       time.Duration `from:"SLUICE_GRACE" default:"30s" help:"How long calls under way may take to end after SIGTERM. What is cut off then is called again."`
}

func (serveCmd) Help() string {
	return examples("The database must have the schema of this program: see `sluice migrate`. Any number of nodes may share one. "+
		"SIGTERM drains: the gateway closes, calls under way end, and what is left goes on elsewhere. A second one ends it at once.",
		"sluice serve --database-url postgres://sluice@db/sluice",
		"sluice serve --roles gateway --listen :8080",
		"DATABASE_URL_FILE=/run/secrets/database-url sluice serve --roles runner --slots 4000")
}

// minEngineConns is what the engine needs at least: see [queue.Open].
const minEngineConns = 12

func (c serveCmd) Run(ctx context.Context, p *program) error {
	url, err := c.url(p)
	if err != nil {
		return err
	}
	if c.EngineConns < minEngineConns {
		return usagef("--engine-conns %d: the engine needs %d at least", c.EngineConns, minEngineConns)
	}
	if c.APIConns < 1 {
		return usagef("--api-conns %d: the API needs one at least", c.APIConns)
	}
	keys, err := parseKeys(c.SecretKeys)
	if err != nil {
		return err
	}
	p.collectLazily(c.Memory)
	log := p.logger(c.LogLevel)
	listener, err := listen(c.Listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	n, err := openNode(ctx, nodeConfig{
		listener: listener, databaseURL: url,
		gateway: slices.Contains(c.Roles, "gateway"), runner: slices.Contains(c.Roles, "runner"),
		engine: queue.Config{
			Name: c.Name, Slots: c.Slots, NodeSlots: c.NodeSlots, KeyTTL: c.KeyTTL, Memory: int64(c.Memory), PollOnly: c.PollOnly, Pooled: c.Pooled,
		},
		engineConns: c.EngineConns, apiConns: c.APIConns, maxBody: c.MaxBody, keepHeaders: c.KeepHeaders, vault: keys, log: log,
	})
	if err != nil {
		return err
	}
	if err := n.start(ctx); err != nil {
		return err
	}
	log.InfoContext(ctx, "Started", "addr", listener.Addr().String(), "roles", c.Roles, "version", version())
	failed := n.wait(ctx)
	log.InfoContext(ctx, "Draining", "duration", c.Grace)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Grace)
	defer cancel()
	err = errors.Join(failed, n.stop(grace))
	log.InfoContext(ctx, "Stopped")
	return err
}
