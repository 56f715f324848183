// Package gateway is the door: what producers post their events to, and the API by which people and programs run
// topologies, look at processes and decide about the trash.
//
// Whoever comes in has a key, or is an operator who signed in, acts for their tenant, and does what their scopes allow. A 2xx for an event is sent after the
// commit that made it durable, with the bytes of its body as they came. All else is one call of the package that owns
// the matter, in a transaction that sees one tenant's rows. Whatever goes wrong is a problem document of the contract
// openapi/gateway.yaml, which is made from this code.
//
// Read events.go first: it is the way of an event, and the one that is hot. problem.go says what each error of the
// packages below is for the client. The package must not know how messages move, nor SQL.
package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/gateway/auth"
	"sluice/gateway/starter"
	"sluice/gateway/ui"
	"sluice/openapi"
	"sluice/queue"
	"sluice/queue/document"
	"sluice/queue/process"
	"sluice/queue/report"
	"sluice/queue/topology"
	"sluice/queue/vault"
	"sluice/trash"
)

// Config is what the door leads to, and how wide it is. The first five fields are needed; the zero value of the others
// works.
type Config struct {
	Engine     *queue.Engine
	TenantPool *pgxpool.Pool // its sessions see nothing until a transaction says for whom it acts: [queue.OpenForTenants]
	Keys       *auth.Keys
	Sessions   *auth.Sessions
	Trash      *trash.Trash

	// Vault seals the secrets that are kept in the database. Without a key workers can be registered, but neither the
	// settings nor the webhooks of applications be kept.
	Vault vault.Ring

	// Reports is where what workers report of themselves is kept. Default: nowhere.
	Reports *report.Book

	Logger  *slog.Logger // default: discard
	Version string       // of the program, for people. Default "dev".

	// MaxBody is the largest body of an event, in bytes. Default 5 MiB. A body is held in memory while a message with it is
	// worked, and goes through the database's log: a reference to large data serves better than a large body.
	MaxBody int64

	// MaxBatch is the largest body of a call that carries many events. Default four times MaxBody, or 5 MiB if that is more.
	MaxBatch int64

	// MaxInFlight bounds the bodies that are held in memory while they arrive and are stored, in bytes. What comes
	// beyond it is told to come again later. Default 256 MiB. Too low refuses bursts, too high lets them end the process.
	MaxInFlight int64

	// KeepHeaders names the headers of an event's request that go with it to the workers; a name may end in *. Default:
	// [DefaultHeaders]. Headers named Sluice-Header-… are always kept; some others never are, whatever stands here.
	KeepHeaders []string

	// BodyTime is how long a body may take to arrive; one of many events may take four times as long. Default 30 s. Too
	// short cuts off slow networks, too long lets the idle hold memory and connections.
	BodyTime time.Duration

	// RequestTime is how long any other operation may take, its wait for a connection included. Default 20 s.
	RequestTime time.Duration

	// AcceptTime is how long an event may then wait to be stored before its producer is told to try again. Default 10 s.
	AcceptTime time.Duration

	// Ready tells whether this node can do its work. Default: the database answers.
	Ready func(context.Context) error

	// Closing is closed when this node is about to stop: who only listens is let go. Default: never.
	Closing <-chan struct{}
}

const (
	defaultMaxBody     = 5 << 20
	defaultMaxInFlight = 256 << 20
	defaultBodyTime    = 30 * time.Second
	defaultAcceptTime  = 10 * time.Second
	defaultRequestTime = 20 * time.Second

	// maxHeaderBytes is what all headers of a request may take. The server reads more, so that the refusal is ours.
	maxHeaderBytes       = 64 << 10
	serverMaxHeaderBytes = 256 << 10
)

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Version = cmp.Or(c.Version, "dev")
	c.MaxBody = cmp.Or(c.MaxBody, defaultMaxBody)
	c.MaxBatch = cmp.Or(c.MaxBatch, max(4*c.MaxBody, defaultMaxBody))
	c.MaxInFlight = max(cmp.Or(c.MaxInFlight, defaultMaxInFlight), c.MaxBatch) // or the largest could never come in
	c.BodyTime = cmp.Or(c.BodyTime, defaultBodyTime)
	c.AcceptTime = cmp.Or(c.AcceptTime, defaultAcceptTime)
	c.RequestTime = cmp.Or(c.RequestTime, defaultRequestTime)
	if c.KeepHeaders == nil {
		c.KeepHeaders = DefaultHeaders()
	}
	if c.Ready == nil {
		c.Ready = func(ctx context.Context) error { return c.TenantPool.Ping(ctx) }
	}
	return c
}

// gateway is what handlers have in common.
type gateway struct {
	config Config
	log    *slog.Logger
	mux    *http.ServeMux
	api    huma.API
	keeper keeper
	memory *budget

	// What workers on Orchesty's SDK ask for.
	documents *document.Store
	nodes     nodeIndex
	hooks     *hookCache
	quiet     throttle // of what is logged while the database is in trouble

	// The engine's, which is what they are but for the test that measures the door alone.
	accept     func(context.Context, queue.Event) (queue.Accepted, error)
	acceptMany func(context.Context, []queue.Event) ([]queue.Accepted, []error)
}

// New returns the door.
func New(c Config) http.Handler {
	return assemble(c).handler()
}

// Document returns the contract that New serves, as YAML: openapi/gateway.yaml.
func Document() ([]byte, error) {
	return openapi.Write(assemble(Config{}).api)
}

// contractVersion is the version of the contract. It changes when the contract does.
const contractVersion = "0.1.0"

func assemble(c Config) *gateway {
	c = c.withDefaults()
	mux := http.NewServeMux()
	g := &gateway{
		config: c, log: c.Logger, mux: mux, api: openapi.New(mux, contractVersion),
		keeper: newKeeper(c.KeepHeaders), memory: newBudget(c.MaxInFlight), documents: document.New(c.Vault), hooks: newHookCache(),
		accept: c.Engine.Accept, acceptMany: c.Engine.AcceptMany,
	}
	g.api.OpenAPI().Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	g.api.UseMiddleware(g.enter)
	g.addEvents()
	g.addOverview()
	g.addLive()
	g.addChanges()
	g.addMetrics()
	g.addTopologies()
	g.addEdges()
	g.addProcesses()
	g.addReplays()
	g.addTrace()
	g.addTraceReports()
	g.addTrash()
	g.addBulks()
	g.addRetention()
	g.addLimits()
	g.addWorkers()
	g.addPulls()
	g.addApplications()
	g.addKeys()
	g.addSessions()
	g.addHouse()
	g.addDocuments()
	g.addOrchestyStarts()
	g.addReports()
	return g
}

func (g *gateway) handler() http.Handler {
	return withOwnQuery(openapi.Handler(g.mux, openapi.Config{Logger: g.log, Translate: g.translate, MaxHeaderBytes: maxHeaderBytes, BodyTime: g.config.BodyTime}))
}

// schemaName names the schemas of the contract: what is called processView here is a Process there.
func schemaName(t reflect.Type, hint string) string {
	return strings.ReplaceAll(huma.DefaultSchemaNamer(t, hint), "View", "")
}

// Server returns a server for the door at an address. Its deadlines are for what comes before and after a handler's own:
// a client that sends its headers byte by byte, keeps a connection open, or never reads its answer.
func Server(addr string, door http.Handler, log *slog.Logger) *http.Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &http.Server{
		Addr:              addr,
		Handler:           door,
		ReadHeaderTimeout: 10 * time.Second,
		WriteTimeout:      5 * time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    serverMaxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// answer is what a handler answers with.
type answer[T any] struct{ Body T }

// register adds an operation. A query that it does not know is a mistake, not a wish to be shown everything.
func register[I, O any](g *gateway, op huma.Operation, handler func(context.Context, *I) (*O, error)) {
	op.RejectUnknownQueryParameters = true
	openapi.Register(g.api, op, handler)
}

// asTenant runs f in a transaction that sees the rows of the caller's tenant.
func (g *gateway) asTenant(ctx context.Context, f func(tx pgx.Tx, by auth.Principal) error) error {
	by, _ := auth.FromContext(ctx) // no operation without a key calls this; without one it would see no rows
	return process.ForTenant(ctx, g.config.TenantPool, by.TenantID, func(tx pgx.Tx) error { return f(tx, by) })
}

// look is asTenant for what only reads: its figures are of one moment.
func (g *gateway) look(ctx context.Context, f func(tx pgx.Tx, by auth.Principal) error) error {
	by, _ := auth.FromContext(ctx)
	return process.Look(ctx, g.config.TenantPool, by.TenantID, func(tx pgx.Tx) error { return f(tx, by) })
}

// addHouse adds what is about this server itself.
func (g *gateway) addHouse() {
	openapi.Serve(g.mux, g.api)
	register(g, huma.Operation{
		OperationID: "get-health", Method: http.MethodGet, Path: "/healthz", Tags: []string{"health"}, Security: openapi.Public(),
		Summary: "Tell whether this process lives", Description: "It says nothing of the database: a process that waits for it need not be restarted.",
	}, func(context.Context, *struct{}) (*answer[healthView], error) {
		return &answer[healthView]{healthView{Status: "ok"}}, nil
	})
	ready := shared(g.config.Ready)
	register(g, huma.Operation{
		OperationID: "get-readiness", Method: http.MethodGet, Path: "/readyz", Tags: []string{"health"}, Security: openapi.Public(),
		Summary: "Tell whether this process can do its work", Description: "503 while its database does not answer or has another schema.",
	}, func(ctx context.Context, _ *struct{}) (*answer[healthView], error) {
		if err := ready(ctx); err != nil {
			return nil, g.unavailable(err)
		}
		return &answer[healthView]{healthView{Status: "ok"}}, nil
	})
	g.serveText("GET /schemas/topology.json", "application/schema+json", topology.JSONSchema())
	g.serveText("GET /openapi/worker.yaml", "application/yaml", openapi.Worker())
	g.serveText("GET /llms.txt", "text/plain; charset=utf-8", starter.Guide())
	index, _ := json.Marshal(map[string]string{ // texts always can
		"name": "sluice", "version": g.config.Version, "openapi": "/openapi.json", "worker_openapi": "/openapi/worker.yaml",
		"topology_schema": "/schemas/topology.json", "guide": "/llms.txt", "health": "/healthz", "readiness": "/readyz",
	})
	g.addUI(append(index, '\n'))
}

// addUI adds the admin UI, and what stands where a path ends: for a person it is the way to the UI, for a program the
// index of what there is.
func (g *gateway) addUI(index []byte) {
	g.mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Accept")
		if ui.WantsPage(r) {
			http.Redirect(w, r, ui.Path, http.StatusSeeOther)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(index) // a client that left is no one to tell
	})
	g.mux.Handle("GET "+ui.Path, ui.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		openapi.WriteProblem(w, r, openapi.NotFound.Because("there is nothing at this path"))
	})))
}

// serveText serves a document that is the same for everyone.
func (g *gateway) serveText(pattern, contentType string, text []byte) {
	g.mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(text) // a client that left is no one to tell
	})
}

type healthView struct {
	Status string `json:"status" enum:"ok" doc:"ok; everything else is a problem"`
}

// readyFor is how long an answer about readiness holds: whoever asks often must not keep the database busy.
const readyFor = time.Second

// shared asks once for all who ask at the same time or shortly after.
func shared(ask func(context.Context) error) func(context.Context) error {
	turn := make(chan struct{}, 1)
	var asked time.Time
	var last error
	return func(ctx context.Context) error {
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-ctx.Done():
			return ctx.Err()
		}
		if time.Since(asked) >= readyFor {
			asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			last, asked = ask(asking), time.Now()
		}
		return last
	}
}
