package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/queue"
	"sluice/queue/topology"
	"sluice/queue/worker"
)

const (
	workersPath = "/v1/workers"
	workerPath  = "/v1/workers/{worker}"
)

// WorkerView is a worker as the contract shows it.
type WorkerView struct {
	Name       string     `json:"name"`
	URL        string     `json:"url,omitempty" doc:"Absent: it takes its calls itself"`
	Pull       bool       `json:"pull,omitempty" doc:"It takes its calls itself, or an agent does for it: see claim-calls"`
	Protocol   string     `json:"protocol" enum:"sluice,orchesty" doc:"What it speaks"`
	Dialect    string     `json:"dialect,omitempty" enum:"a,b" doc:"Of Orchesty's protocol: a is the published one"`
	CreatedAt  time.Time  `json:"created_at"`
	DownSince  *time.Time `json:"down_since,omitempty" doc:"When a runner found that it cannot be reached; absent: it can, as far as is known"`
	DownReason string     `json:"down_reason,omitempty"`
	ListedAt   *time.Time `json:"listed_at,omitempty" doc:"When it last said what nodes and applications it has; absent: never"`
	ListError  string     `json:"listing_error,omitempty" doc:"Why it could not be asked since"`

	Credentials workerCredentialsView `json:"credentials,omitzero" doc:"What it is shown of who calls, beside the signature; absent: nothing"`
}

type workerDetailView struct {
	WorkerView
	Nodes        []workerNodeView        `json:"nodes" doc:"That it said it has. One that speaks Sluice's own protocol says nothing"`
	Applications []workerApplicationView `json:"applications"`
}

type workerNodeView struct {
	Kind        string `json:"kind" enum:"connector,batch,custom"`
	Name        string `json:"name" doc:"The action of a node that calls it" example:"create-order"`
	Application string `json:"application,omitempty" doc:"That it talks to"`
}

type workerApplicationView struct {
	Key           string `json:"key"`
	Name          string `json:"name"`
	Description   string `json:"description,omitempty"`
	Authorization string `json:"authorization,omitempty" doc:"basic, oauth or oauth2, as a rule"`
	Type          string `json:"type,omitempty" doc:"cron or webhook, as a rule"`
	Installable   bool   `json:"installable"`
}

type newWorkerView struct {
	Name     string `json:"name" pattern:"^[a-z0-9]+(-[a-z0-9]+)*$" patternDescription:"lower-case letters and digits, joined by single dashes" maxLength:"63" doc:"By which topologies know it" example:"shop"`
	URL      string `json:"url,omitempty" maxLength:"2000" doc:"Where it listens; the actions of nodes are paths below" example:"https://shop.example.com/sluice"`
	Pull     bool   `json:"pull,omitempty" doc:"Instead of a URL: nobody can reach it, it takes its calls itself"`
	Protocol string `json:"protocol,omitempty" enum:"sluice,orchesty" default:"sluice" doc:"What it speaks: orchesty for a worker on Orchesty's SDK"`
	Dialect  string `json:"dialect,omitempty" enum:"a,b" doc:"Of Orchesty's protocol; a, the published one, unless said otherwise"`

	Credentials *newCredentialsView `json:"credentials,omitempty" doc:"What it wants to be shown of who calls, beside the signature"`
}

type addedWorkerView struct {
	WorkerView
	Secret string `json:"secret,omitempty" doc:"Of a worker that speaks Sluice's own protocol: it signs the calls to it. It is not shown again" example:"whsec_…"`
}

type moveWorkerView struct {
	URL     string `json:"url,omitempty" maxLength:"2000" doc:"Where it listens from now on"`
	Pull    bool   `json:"pull,omitempty" doc:"Instead: it takes its calls itself from now on"`
	Dialect string `json:"dialect,omitempty" enum:"a,b" doc:"Of Orchesty's protocol, from now on; absent: as before"`
}

// WorkerPath is the part of a path that names a worker.
type WorkerPath struct {
	Worker string `path:"worker" maxLength:"63" doc:"Name of the worker" example:"shop"`
}

type testCallView struct {
	Action  string            `json:"action,omitempty" maxLength:"500" doc:"What to call: the path below the worker's URL" example:"check-order"`
	Kind    string            `json:"kind,omitempty" enum:"connector,batch,custom" default:"custom" doc:"Of the node that would call. An Orchesty worker has each kind at a place of its own"`
	Headers map[string]string `json:"headers,omitempty" doc:"Of the message"`
	Body    json.RawMessage   `json:"body,omitempty" doc:"The message's body as JSON: the bytes from its first to its last character"`
	Text    *string           `json:"text,omitempty" doc:"Or as text"`
	Base64  []byte            `json:"base64,omitempty" doc:"Or as bytes"`
}

type testedView struct {
	Reached  bool                `json:"reached" doc:"Something answered, whatever it said"`
	Class    string              `json:"class,omitempty" enum:"unavailable,limited,transient,rejected,cancelled" doc:"Of a call that failed: what would be done about it"`
	Status   int                 `json:"status,omitempty" doc:"HTTP status of the answer, where there was one"`
	Duration float64             `json:"duration_ms"`
	Verdict  string              `json:"verdict,omitempty" enum:"done,stop,repeat" doc:"What the worker made of the message; absent: the call failed"`
	Reason   string              `json:"reason,omitempty"`
	After    float64             `json:"after_seconds,omitempty" doc:"When it wants to be called again"`
	Cursor   string              `json:"cursor,omitempty"`
	Messages []testedMessageView `json:"messages" doc:"What would go on"`
}

type testedMessageView struct {
	Followers []string          `json:"followers,omitempty" doc:"Absent: all of them"`
	Headers   map[string]string `json:"headers"`
	Body      json.RawMessage   `json:"body,omitempty" doc:"Its body, where it is JSON"`
	Text      *string           `json:"text,omitempty" doc:"Or as text, where it is UTF-8"`
	Base64    []byte            `json:"base64,omitempty" doc:"Or as bytes"`
}

// testTime is longer than a test's call may take.
const testTime = time.Minute

func (g *gateway) addWorkers() {
	tags, look, change := []string{"workers"}, openapi.Scope("operate"), openapi.Scope("admin")
	conflict := []int{http.StatusConflict}
	register(g, huma.Operation{
		OperationID: "list-workers", Method: http.MethodGet, Path: workersPath, Tags: tags, Security: look,
		Summary: "List workers", Description: "In the order of their names.",
	}, g.listWorkers)
	register(g, huma.Operation{
		OperationID: "add-worker", Method: http.MethodPost, Path: workersPath, Tags: tags, Security: change, DefaultStatus: http.StatusCreated,
		Summary: "Register a worker", Description: "The answer has the secret that signs the calls to it.", Errors: conflict,
	}, g.addWorker)
	register(g, huma.Operation{
		OperationID: "get-worker", Method: http.MethodGet, Path: workerPath, Tags: tags, Security: look,
		Summary: "Show a worker, with the nodes and applications that it said it has",
	}, g.getWorker)
	register(g, huma.Operation{
		OperationID: "refresh-worker", Method: http.MethodPost, Path: workerPath + "/refresh", Tags: tags, Security: look,
		Summary:     "Ask a worker what nodes and applications it has, and whether it lives",
		Description: "Those that speak Orchesty's protocol can say. That one does not answer is an answer too: `listing_error` says why, and what it said before stays.",
		Metadata:    map[string]any{timeKey: testTime},
	}, g.refreshWorker)
	register(g, huma.Operation{
		OperationID: "move-worker", Method: http.MethodPut, Path: workerPath, Tags: tags, Security: change,
		Summary: "Say that a worker listens elsewhere", Description: "Its secret stays. Calls under way end where they started.",
	}, g.moveWorker)
	register(g, huma.Operation{
		OperationID: "set-worker-credentials", Method: http.MethodPut, Path: workerPath + "/credentials", Tags: tags, Security: change,
		Summary:     "Say what a worker is shown of who calls",
		Description: "It holds within a second, for calls that begin after that. What is not named stays; an empty text is shown no more.",
	}, g.setWorkerCredentials)
	register(g, huma.Operation{
		OperationID: "remove-worker", Method: http.MethodDelete, Path: workerPath, Tags: tags, Security: change,
		Summary: "Forget a worker", Description: "One that an enabled topology names stays.", Errors: conflict,
	}, g.removeWorker)
	register(g, huma.Operation{
		OperationID: "test-worker", Method: http.MethodPost, Path: workerPath + "/test", Tags: tags, Security: look,
		Summary: "Call an action of a worker, outside of any process", Description: "The call is signed as any other. That it fails is an answer too, and no problem.",
		MaxBodyBytes: g.config.MaxBody + 1, Metadata: map[string]any{timeKey: testTime},
	}, g.testWorker)
}

func viewOfWorker(w queue.Worker) WorkerView {
	return WorkerView{
		Name: w.Name, URL: w.URL, Pull: w.URL == "", Protocol: string(w.Protocol), Dialect: textOf(w.Dialect), CreatedAt: w.CreatedAt.UTC(),
		DownSince: utc(w.DownSince), DownReason: textOf(w.DownReason), ListedAt: utc(w.ListedAt), ListError: textOf(w.ListingError),
		Credentials: viewOfCredentials(w.Credentials),
	}
}

// textOf is a text that may be missing.
func textOf(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (g *gateway) getWorker(ctx context.Context, in *WorkerPath) (*answer[workerDetailView], error) {
	var w queue.Inspected
	err := g.look(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		w, err = queue.FindWorker(ctx, tx, by.TenantID, in.Worker)
		return err
	})
	if err != nil {
		return nil, err
	}
	view := workerDetailView{WorkerView: viewOfWorker(w.Worker), Nodes: []workerNodeView{}, Applications: []workerApplicationView{}}
	for _, n := range w.Listing.Nodes {
		view.Nodes = append(view.Nodes, workerNodeView(n))
	}
	for _, a := range w.Listing.Applications {
		view.Applications = append(view.Applications, workerApplicationView(a))
	}
	return &answer[workerDetailView]{view}, nil
}

func (g *gateway) refreshWorker(ctx context.Context, in *WorkerPath) (*answer[workerDetailView], error) {
	by, _ := auth.FromContext(ctx)
	if err := g.config.Engine.RefreshWorker(ctx, by.TenantID, in.Worker); err != nil {
		return nil, err
	}
	return g.getWorker(ctx, in)
}

func (g *gateway) listWorkers(ctx context.Context, in *struct{ openapi.Page }) (*answer[openapi.List[WorkerView]], error) {
	var after string
	if err := in.Cursor(&after); err != nil {
		return nil, err
	}
	var rows []queue.Worker
	err := g.look(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		rows, err = queue.ListWorkers(ctx, tx, by.TenantID, after, in.Limit+1)
		return err
	})
	if err != nil {
		return nil, err
	}
	views := make([]WorkerView, len(rows))
	for i, w := range rows {
		views[i] = viewOfWorker(w)
	}
	list, err := openapi.Cut(views, in.Page, func(last WorkerView) []any { return []any{last.Name} })
	return &answer[openapi.List[WorkerView]]{list}, err
}

func (g *gateway) addWorker(ctx context.Context, in *answer[newWorkerView]) (*answer[addedWorkerView], error) {
	if err := oneWay(in.Body.URL, in.Body.Pull); err != nil {
		return nil, err
	}
	var added queue.Worker
	var secret worker.Secret
	err := g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		added, secret, err = queue.RegisterWorker(ctx, tx, by.TenantID, queue.NewWorker{
			Name: in.Body.Name, URL: in.Body.URL, Protocol: worker.Protocol(in.Body.Protocol), Dialect: in.Body.Dialect,
			Vault: g.config.Vault,
		}, by.Actor())
		if err != nil || in.Body.Credentials == nil {
			return err
		}
		added.Credentials = in.Body.Credentials.kept()
		return queue.SetCredentials(ctx, tx, by.TenantID, in.Body.Name, in.Body.Credentials.change(g.config.Vault), by.Actor())
	})
	if err != nil {
		return nil, err
	}
	view := addedWorkerView{WorkerView: viewOfWorker(added)}
	if added.Protocol == worker.Sluice {
		view.Secret = secret.Reveal()
	}
	return &answer[addedWorkerView]{view}, nil
}

func (g *gateway) moveWorker(ctx context.Context, in *struct {
	WorkerPath
	Body moveWorkerView
}) (*struct{}, error) {
	if err := oneWay(in.Body.URL, in.Body.Pull); err != nil {
		return nil, err
	}
	return nil, g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) error {
		if in.Body.Dialect != "" {
			if err := queue.SetWorkerDialect(ctx, tx, by.TenantID, in.Worker, in.Body.Dialect, by.Actor()); err != nil {
				return err
			}
		}
		return queue.SetWorkerURL(ctx, tx, by.TenantID, in.Worker, in.Body.URL, by.Actor())
	})
}

func (g *gateway) removeWorker(ctx context.Context, in *WorkerPath) (*struct{}, error) {
	return nil, g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) error {
		return queue.RemoveWorker(ctx, tx, by.TenantID, in.Worker, by.Actor())
	})
}

func (g *gateway) testWorker(ctx context.Context, in *struct {
	WorkerPath
	Body testCallView
}) (*answer[testedView], error) {
	call := in.Body
	body, kind, err := call.content()
	if err != nil {
		return nil, err
	}
	headers := map[string]string{}
	if kind != "" {
		headers[contentType] = kind
	}
	for name, value := range call.Headers {
		headers[strings.ToLower(name)] = value
	}
	if err := checkHeaders(headers); err != nil {
		return nil, err
	}
	if err := worker.CheckAction(call.Action); err != nil {
		return nil, openapi.ValidationFailed.Because("%s", err).With(openapi.Detail{Detail: err.Error(), Pointer: "#/action"})
	}
	by, _ := auth.FromContext(ctx)
	start := time.Now()
	result, err := g.config.Engine.TestWorker(ctx, by.TenantID, queue.TestCall{
		Worker: in.Worker, Action: call.Action, Kind: topology.Kind(call.Kind), Headers: headers, Body: body,
	})
	view := testedView{Reached: true, Status: result.Status, Duration: milliseconds(time.Since(start)), Messages: []testedMessageView{}}
	var failure *worker.Failure
	switch {
	case errors.As(err, &failure):
		view.Reached, view.Status = failure.Status != 0 || errors.Is(failure, worker.ErrProtocol), failure.Status
		view.Class, view.Reason = failure.Class.String(), failure.Reason
		return &answer[testedView]{view}, nil
	case err != nil:
		return nil, err
	}
	view.Verdict, view.Reason, view.After, view.Cursor = result.Verdict.String(), result.Reason, result.After.Seconds(), result.Cursor
	for _, m := range result.Messages {
		view.Messages = append(view.Messages, viewOfTested(m, body))
	}
	return &answer[testedView]{view}, nil
}

// content is the body of a test's message, and the content type that goes with how it is written.
func (c testCallView) content() (body []byte, kind string, err error) {
	given := 0
	if c.Body != nil {
		given++
		body, kind = c.Body, "application/json"
	}
	if c.Text != nil {
		given++
		body, kind = []byte(*c.Text), "text/plain; charset=utf-8"
	}
	if c.Base64 != nil {
		given++
		body, kind = c.Base64, ""
	}
	if given > 1 {
		return nil, "", openapi.ValidationFailed.Because("a message has one of body, text and base64")
	}
	return body, kind, nil
}

func viewOfTested(m worker.Message, same []byte) testedMessageView {
	body := m.Body
	if m.SameBody {
		body = same
	}
	view := testedMessageView{Followers: m.Followers, Headers: m.Headers}
	if view.Headers == nil {
		view.Headers = map[string]string{}
	}
	switch {
	case json.Valid(body):
		view.Body = body
	case utf8.Valid(body):
		text := string(body)
		view.Text = &text
	default:
		view.Base64 = body
	}
	return view
}
