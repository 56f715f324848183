package gateway

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/queue"
	"sluice/queue/process"
	"sluice/queue/topology"
	"sluice/trash"
)

const (
	processesPath = "/v1/processes"
	processPath   = "/v1/processes/{correlation_id}"
	messagePath   = "/v1/messages/{message_id}"
)

const (
	correlationPattern = `^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`
	messagePattern     = `^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}-[1-9][0-9]{0,17}$`
	messageExample     = "0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-4711"
)

// correlationID names a process.
type correlationID string

// Schema implements huma.SchemaProvider.
func (correlationID) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		Type: huma.TypeString, Pattern: correlationPattern, PatternDescription: "a correlation id in lower case",
		Description: "The correlation id", Examples: []any{messageExample[:36]},
	}
}

func (id correlationID) uuid() uuid.UUID {
	u, _ := process.ParseCorrelationID(string(id)) // its schema lets nothing else through
	return u
}

// messageID names a message.
type messageID string

// Schema implements huma.SchemaProvider.
func (messageID) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		Type: huma.TypeString, Pattern: messagePattern, PatternDescription: "a correlation id, a dash and a number",
		Description: "The message's id: its correlation id, a dash and a number", Examples: []any{messageExample},
	}
}

func (id messageID) parse() process.MessageID {
	m, _ := process.ParseMessageID(string(id)) // its schema lets nothing else through
	return m
}

type processView struct {
	CorrelationID string     `json:"correlation_id" format:"uuid"`
	Topology      string     `json:"topology"`
	Version       int        `json:"version"`
	Node          string     `json:"node" doc:"The start node that the event came to"`
	State         string     `json:"state" enum:"running,failed,parked,terminated,rejected,done" doc:"running: something is on its way. failed: nothing moves, and something that failed waits in the trash. parked: nothing moves, and only at breakpoints messages wait for a person. The others have finished, and are named after the strongest thing that happened to them"`
	Total         int        `json:"total" doc:"How many messages there are; each counts in one of the following too"`
	Open          int        `json:"open" doc:"On an edge: waiting, running or retrying"`
	Trashed       int        `json:"trashed" doc:"In the trash"`
	Done          int        `json:"done" doc:"Settled: finished, filtered, or replaced by an edited one"`
	Rejected      int        `json:"rejected"`
	Terminated    int        `json:"terminated"`
	StartedAt     time.Time  `json:"started_at"`
	FinishedAt    *time.Time `json:"finished_at,omitempty" doc:"Absent while anything is on its way or in the trash"`

	ReplayOf *replayOfView   `json:"replay_of,omitempty" doc:"What it repeats, if it is a replay"`
	Replays  []replayView    `json:"replays,omitempty" maxItems:"100" doc:"What has repeated it, newest first; lists leave it out"`
	Entities []entityKeyView `json:"entities,omitempty" maxItems:"100" doc:"What it is about, as its topology declares it; lists leave it out"`
}

type replayOfView struct {
	CorrelationID string `json:"correlation_id" format:"uuid"`
	MessageID     string `json:"message_id,omitempty" doc:"The message that it began with; absent: it began at the start"`
	By            string `json:"replayed_by"`
	Reason        string `json:"reason,omitempty"`
}

type replayView struct {
	CorrelationID string    `json:"correlation_id" format:"uuid" doc:"The process that it is"`
	MessageID     string    `json:"message_id,omitempty" doc:"The message that it began with; absent: it began at the start"`
	By            string    `json:"replayed_by"`
	At            time.Time `json:"replayed_at"`
	Reason        string    `json:"reason,omitempty"`
}

type entityKeyView struct {
	Kind  string `json:"kind" example:"order"`
	Value string `json:"value" example:"ABC-123"`
}

// MessageView is a message as the contract shows it.
type MessageView struct {
	MessageID  string     `json:"message_id" example:"0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-4711"`
	ParentID   string     `json:"parent_id,omitempty" doc:"The message whose node made it; absent: it came with the event"`
	ReplacedBy string     `json:"replaced_by,omitempty" doc:"The edited message that goes on in its place"`
	Topology   string     `json:"topology"`
	Version    int        `json:"version"`
	From       string     `json:"from" doc:"The node that its edge leaves"`
	Node       string     `json:"node" doc:"The node that it is for"`
	Place      string     `json:"place" enum:"waiting,running,held,retrying,trash,parked,done,filtered,replaced,rejected,terminated,lost" doc:"Where it is; lost must not be"`
	DueAt      *time.Time `json:"due_at,omitempty" doc:"When the next attempt is, of one that is retrying"`
	Attempt    int        `json:"attempt" doc:"How many attempts were made at it so far; the pages of a batch count too"`
	Size       int64      `json:"size" doc:"Bytes of its body"`
	CreatedAt  time.Time  `json:"created_at"`
}

type messageDetailView struct {
	MessageView

	Headers   map[string]string `json:"headers"`
	Attempts  []attemptView     `json:"attempts" doc:"Oldest first; of very many, the last"`
	Decisions []decisionView    `json:"decisions" doc:"Oldest first"`
}

type attemptView struct {
	Attempt  int       `json:"attempt" doc:"Its number, from 1"`
	Page     int       `json:"page,omitempty" doc:"Of a batch, from 1"`
	Outcome  string    `json:"outcome" enum:"done,filtered,page,repeat,retried,unavailable,failed,parked"`
	Status   int       `json:"status,omitempty" doc:"HTTP status of the worker's answer, where there was one"`
	Duration float64   `json:"duration_ms" doc:"Of the call"`
	At       time.Time `json:"at"`
	Reason   string    `json:"reason,omitempty"`
	Runner   int64     `json:"runner" doc:"Which runner made it"`

	Request  *requestView  `json:"request,omitempty" doc:"Of an entry of the trash: the call that was made, with the headers and the body of the message"`
	Response *responseView `json:"response,omitempty" doc:"What the worker answered when it did not take the message"`
}

type requestView struct {
	Method         string `json:"method"`
	Worker         string `json:"worker"`
	Action         string `json:"action" doc:"The path below the URL of the worker"`
	IdempotencyKey string `json:"idempotency_key"`
}

type responseView struct {
	Headers map[string]string `json:"headers" doc:"Names in lower case; values that may be secret are not kept"`
	Body    []byte            `json:"body" doc:"The first 4 KiB, in base64"`
	Text    *string           `json:"text,omitempty" doc:"The same as text, where it is UTF-8"`
	Cut     bool              `json:"cut,omitempty" doc:"There was more of it"`
}

type decisionView struct {
	Verdict string    `json:"verdict" enum:"approve,edit,replace,reject,terminate,trash,assign,comment"`
	By      string    `json:"decided_by"`
	At      time.Time `json:"decided_at"`
	Reason  string    `json:"reason,omitempty"`

	Detail map[string]any `json:"detail,omitempty" doc:"What was changed"`
}

// ProcessPath is the part of a path that names a process.
type ProcessPath struct {
	ID correlationID `path:"correlation_id"`
}

// MessagePath is the part of a path that names a message.
type MessagePath struct {
	ID messageID `path:"message_id"`
}

type reasonView struct {
	Reason string `json:"reason,omitempty" maxLength:"1000" doc:"Why, for the record"`
}

type terminatedView struct {
	Terminated int `json:"terminated" doc:"How many messages were ended"`
}

// bytesOutput is an answer with the bytes of a message. They are whatever somebody sent, and come from the address where
// people are signed in: a browser must neither show nor run them.
type bytesOutput struct {
	ContentType  string `header:"Content-Type"`
	Disposition  string `header:"Content-Disposition"`
	Policy       string `header:"Content-Security-Policy"`
	CacheControl string `header:"Cache-Control"`
	Body         []byte
}

func (g *gateway) addProcesses() {
	tags, look := []string{"processes"}, openapi.Scope("operate")
	register(g, huma.Operation{
		OperationID: "list-processes", Method: http.MethodGet, Path: processesPath, Tags: tags, Security: look,
		Summary: "List processes", Description: "The newest first. Where few of them are in the state asked for, a page may hold fewer than the limit, or none, and still have a `next`.",
	}, g.listProcesses)
	register(g, huma.Operation{
		OperationID: "get-process", Method: http.MethodGet, Path: processPath, Tags: tags, Security: look,
		Summary: "Get a process",
	}, g.getProcess)
	register(g, huma.Operation{
		OperationID: "list-messages", Method: http.MethodGet, Path: processPath + "/messages", Tags: tags, Security: look,
		Summary: "List the messages of a process", Description: "In the order of their birth, each with where it is now.",
	}, g.listMessages)
	register(g, huma.Operation{
		OperationID: "get-timeline", Method: http.MethodGet, Path: processPath + "/timeline", Tags: tags, Security: look,
		Summary: "Tell what became of the messages of a process, and when", Description: "In the order of their birth. What a node was given is the body of its message, and what it made are the messages that have it for a parent.",
	}, g.getTimeline)
	register(g, huma.Operation{
		OperationID: "terminate-process", Method: http.MethodPost, Path: processPath + "/terminate", Tags: tags, Security: look,
		Summary: "End a process", Description: "What it has on edges and in the trash is settled as terminated. A call that is under way is not cut off, but what it returns goes nowhere.",
		Errors: []int{http.StatusConflict},
	}, g.terminateProcess)
	register(g, huma.Operation{
		OperationID: "get-message", Method: http.MethodGet, Path: messagePath, Tags: tags, Security: look,
		Summary: "Get a message, with what happened to it",
	}, g.getMessage)
	register(g, huma.Operation{
		OperationID: "get-message-body", Method: http.MethodGet, Path: messagePath + "/body", Tags: tags, Security: look,
		Summary: "Get the body of a message", Description: "The bytes as they are. What type they have, the message's headers say.",
		Responses: map[string]*huma.Response{"200": {Description: "The bytes", Content: map[string]*huma.MediaType{
			"application/octet-stream": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
		}}},
	}, g.getMessageBody)
}

func (g *gateway) listProcesses(ctx context.Context, in *struct {
	openapi.Page
	Topology string `query:"topology" maxLength:"63" doc:"Only of this topology; also one that was deleted"`
	Version  int    `query:"version" minimum:"1" maximum:"2147483647" doc:"Only of this version of it"`
	State    string `query:"state" enum:"running,failed,parked,terminated,rejected,done" doc:"Only in this state"`

	ID     string    `query:"correlation_id" pattern:"^$|^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$" patternDescription:"a correlation id in lower case" doc:"Only this one"`
	Entity string    `query:"entity" maxLength:"1000" doc:"Only what is about this entity, as KIND:VALUE, or VALUE of any kind" example:"order:ABC-123"`
	From   time.Time `query:"from" doc:"Only what came in then or later, by the time that its correlation id begins with; that is some milliseconds before started_at"`
	Until  time.Time `query:"until" doc:"Only what came in before then"`
}) (*answer[openapi.List[processView]], error) {
	if in.Version != 0 && in.Topology == "" {
		return nil, versionAlone()
	}
	entity, err := entityOf(in.Entity, openapi.Detail{Location: "query.entity"})
	if err != nil {
		return nil, err
	}
	f := process.Filter{Entity: entity, Topology: in.Topology, Version: in.Version, State: process.State(in.State), From: in.From, Until: in.Until, Limit: in.Limit}
	if in.ID != "" {
		f.ID = correlationID(in.ID).uuid()
	}
	if err := in.Cursor(&f.After); err != nil {
		return nil, err
	}
	var page process.Page
	err = g.look(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		page, err = process.List(ctx, tx, by.TenantID, f)
		return err
	})
	if err != nil {
		return nil, err
	}
	list := openapi.List[processView]{Items: make([]processView, len(page.Processes))}
	for i, p := range page.Processes {
		list.Items[i] = viewOfProcess(p)
	}
	if page.Next != uuid.Nil {
		list.Next, err = openapi.CursorOf(page.Next)
	}
	return &answer[openapi.List[processView]]{list}, err
}

// entityOf reads what people ask for; nothing is nothing. What is wrong with it is told at a place.
func entityOf(text string, at openapi.Detail) (process.Entity, error) {
	if text == "" {
		return process.Entity{}, nil
	}
	key, err := topology.ParseEntityKey(text)
	if err != nil {
		at.Detail = err.Error()
		return process.Entity{}, openapi.ValidationFailed.Because("%s", err).With(at)
	}
	return process.Entity(key), nil
}

// versionAlone refuses a filter that says which version, but not of what.
func versionAlone() error {
	return openapi.ValidationFailed.Because("a version is of a topology: name that too").
		With(openapi.Detail{Detail: "needs a topology", Location: "query.version"})
}

func (g *gateway) getProcess(ctx context.Context, in *ProcessPath) (*answer[processView], error) {
	var view processView
	err := g.look(ctx, func(tx pgx.Tx, by auth.Principal) error {
		p, err := process.Find(ctx, tx, by.TenantID, in.ID.uuid())
		if err != nil {
			return err
		}
		view = viewOfProcess(p)
		about, err := process.Entities(ctx, tx, by.TenantID, p.ID)
		for _, e := range about {
			view.Entities = append(view.Entities, entityKeyView(e))
		}
		if err != nil {
			return err
		}
		replays, err := process.Replays(ctx, tx, by.TenantID, p.ID)
		for _, r := range replays {
			view.Replays = append(view.Replays, replayView{CorrelationID: r.ID.String(), MessageID: stepID(p.ID, r.Message), By: r.By, At: r.At.UTC(), Reason: r.Reason})
		}
		return err
	})
	return &answer[processView]{view}, err
}

// stepID names a message of a process; the process as a whole has no name.
func stepID(of uuid.UUID, number int64) string {
	if number == 0 {
		return ""
	}
	return process.MessageID{Process: of, Number: number}.String()
}

func viewOfProcess(p process.Process) processView {
	var of *replayOfView
	if p.ReplayOf != nil {
		of = &replayOfView{CorrelationID: p.ReplayOf.String(), By: *p.ReplayedBy, Reason: *p.ReplayReason}
		if p.ReplayOfMessage != nil {
			of.MessageID = stepID(*p.ReplayOf, *p.ReplayOfMessage)
		}
	}
	return processView{
		ReplayOf:      of,
		CorrelationID: p.ID.String(), Topology: p.Topology, Version: p.Version, Node: p.Node, State: string(p.State()),
		Total: p.Total, Open: p.Open, Trashed: p.Trashed, Done: p.Done, Rejected: p.Rejected, Terminated: p.Terminated,
		StartedAt: p.StartedAt.UTC(), FinishedAt: utc(p.FinishedAt),
	}
}

func (g *gateway) listMessages(ctx context.Context, in *struct {
	ProcessPath
	openapi.Page
}) (*answer[openapi.List[MessageView]], error) {
	var after int64
	if err := in.Cursor(&after); err != nil {
		return nil, err
	}
	var rows []process.Message
	err := g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		if _, err = process.Find(ctx, tx, by.TenantID, in.ID.uuid()); err == nil {
			rows, err = process.Messages(ctx, tx, by.TenantID, in.ID.uuid(), after, in.Limit+1)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	list, err := openapi.Cut(rows, in.Page, func(last process.Message) []any { return []any{last.ID.Number} })
	views := openapi.List[MessageView]{Items: make([]MessageView, len(list.Items)), Next: list.Next}
	for i, m := range list.Items {
		views.Items[i] = viewOfMessage(m)
	}
	return &answer[openapi.List[MessageView]]{views}, err
}

func viewOfMessage(m process.Message) MessageView {
	return MessageView{
		MessageID: m.ID.String(), ParentID: optionalID(m.Parent), ReplacedBy: optionalID(m.ReplacedBy), Topology: m.Topology, Version: m.Version,
		From: m.From, Node: m.Node, Place: string(m.Place), DueAt: utc(m.DueAt), Attempt: m.Tries, Size: m.Size, CreatedAt: m.CreatedAt.UTC(),
	}
}

func optionalID(id *process.MessageID) string {
	if id == nil {
		return ""
	}
	return id.String()
}

func (g *gateway) getMessage(ctx context.Context, in *MessagePath) (*answer[messageDetailView], error) {
	var d process.Detail
	err := g.look(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		d, err = process.FindMessage(ctx, tx, by.TenantID, in.ID.parse())
		return err
	})
	return &answer[messageDetailView]{messageDetailView{
		MessageView: viewOfMessage(d.Message), Headers: d.Headers, Attempts: viewOfAttempts(d.Attempts), Decisions: viewOfDecisions(d.Decisions),
	}}, err
}

func viewOfAttempts(attempts []process.Attempt) []attemptView {
	views := make([]attemptView, len(attempts))
	for i, a := range attempts {
		views[i] = attemptView{
			Attempt: a.Number, Page: a.Page, Outcome: a.Outcome, Duration: milliseconds(a.Duration), At: a.At.UTC(), Reason: a.Reason, Runner: a.Runner,
		}
		if a.Status != nil {
			views[i].Status = *a.Status
		}
		if a.Response != nil {
			content := viewOfContent(trash.Content{Headers: a.Response.Headers, Body: a.Response.Body})
			views[i].Response = &responseView{Headers: content.Headers, Body: content.Body, Text: content.Text, Cut: a.Response.Cut}
		}
	}
	return views
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func viewOfDecisions(decisions []process.Decision) []decisionView {
	views := make([]decisionView, len(decisions))
	for i, d := range decisions {
		views[i] = decisionView{Verdict: d.Verdict, By: d.By, At: d.At.UTC(), Reason: d.Reason, Detail: d.Detail}
	}
	return views
}

func (g *gateway) getMessageBody(ctx context.Context, in *MessagePath) (*bytesOutput, error) {
	out := bytesOutput{
		ContentType: "application/octet-stream", Disposition: `attachment; filename="` + string(in.ID) + `"`,
		Policy: "sandbox; default-src 'none'", CacheControl: "private, no-store",
	}
	err := g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		out.Body, err = process.Body(ctx, tx, by.TenantID, in.ID.parse())
		return err
	})
	return &out, err
}

func (g *gateway) terminateProcess(ctx context.Context, in *struct {
	ProcessPath
	Body *reasonView `required:"false"`
}) (*answer[terminatedView], error) {
	reason := ""
	if in.Body != nil {
		reason = in.Body.Reason
	}
	by, _ := auth.FromContext(ctx)
	begin := func(ctx context.Context, do func(pgx.Tx) error) error {
		return process.ForTenant(ctx, g.config.TenantPool, by.TenantID, do)
	}
	n, err := queue.Terminate(ctx, begin, in.ID.uuid(), by.TenantID, by.Actor(), reason)
	if n > 0 && err != nil && g.translate(err) == nil {
		err = openapi.Conflict.Because("%d messages were ended, but more came than could be: disable the topology, then terminate again", n)
	}
	return &answer[terminatedView]{terminatedView{Terminated: n}}, err
}
