package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/queue/process"
	"sluice/trash"
)

const (
	bulksPath = "/v1/trash/bulks"
	bulkPath  = "/v1/trash/bulks/{bulk_id}"
)

// bulkFilterView says which entries a bulk is about, in the words of the query of list-trash.
type bulkFilterView struct {
	Topology     string        `json:"topology,omitempty" maxLength:"63" doc:"Only of this topology; also one that was deleted"`
	Version      int           `json:"version,omitempty" minimum:"1" maximum:"2147483647" doc:"Only of this version of it"`
	Node         string        `json:"node,omitempty" maxLength:"63" doc:"Only of this node"`
	Application  string        `json:"application,omitempty" maxLength:"63" doc:"Only of nodes that are for this application"`
	Worker       string        `json:"worker,omitempty" maxLength:"63" doc:"Only of nodes that call this worker"`
	Type         string        `json:"type,omitempty" enum:"failure,breakpoint" doc:"Only what failed, or only what waits at a breakpoint"`
	DueBefore    *time.Time    `json:"due_before,omitempty" doc:"Only what waits at a breakpoint and is due before then"`
	Class        string        `json:"class,omitempty" enum:"rejected,exhausted,reply,storage,cancelled,deleted" doc:"Only this kind of failure"`
	Cause        causeID       `json:"cause,omitempty" doc:"Only with this cause"`
	Correlation  correlationID `json:"correlation_id,omitempty" doc:"Only of this process"`
	Entity       string        `json:"entity,omitempty" maxLength:"1000" doc:"Only of processes that are about this entity, as KIND:VALUE, or VALUE of any kind"`
	FailedAfter  *time.Time    `json:"failed_after,omitempty" doc:"Only what failed then or later"`
	FailedBefore *time.Time    `json:"failed_before,omitempty" doc:"Only what failed before then"`
	Assigned     string        `json:"assigned_to,omitempty" maxLength:"200" doc:"Only what is theirs"`
	Text         string        `json:"text,omitempty" maxLength:"200" doc:"Only with this text in the reason, or in the first 64 KiB of the body"`
}

func (f bulkFilterView) filter() (trash.Filter, error) {
	if f.Version != 0 && f.Topology == "" {
		return trash.Filter{}, openapi.ValidationFailed.Because("a version is of a topology: name that too").
			With(openapi.Detail{Detail: "needs a topology", Pointer: "#/filter/version"})
	}
	entity, err := entityOf(f.Entity, openapi.Detail{Pointer: "#/filter/entity"})
	if err != nil {
		return trash.Filter{}, err
	}
	asked := trash.Filter{
		Entity:   entity,
		Topology: f.Topology, Version: f.Version, Node: f.Node, Application: f.Application, Worker: f.Worker,
		Class: process.Class(f.Class), Cause: f.Cause.parse(), Process: f.Correlation.uuid(), Assigned: f.Assigned, Text: f.Text,
		Type: trash.Type(f.Type),
	}
	if f.DueBefore != nil {
		asked.DueBefore = *f.DueBefore
	}
	if f.FailedAfter != nil {
		asked.From = *f.FailedAfter
	}
	if f.FailedBefore != nil {
		asked.Until = *f.FailedBefore
	}
	return asked, nil
}

type planView struct {
	Action      string            `json:"action" enum:"approve,reject,edit,assign,comment" doc:"What is done about each of them; to comment is to add the reason as a remark"`
	To          string            `json:"to,omitempty" maxLength:"200" doc:"Of an assignment: whose they are from now on; absent: nobody's"`
	Filter      bulkFilterView    `json:"filter,omitzero" required:"false" doc:"Which; all that is in the trash, if it says nothing"`
	Version     int               `json:"version,omitempty" minimum:"1" maximum:"2147483647" doc:"Of an approval: the version in which messages go on, at the node of the same name"`
	Patch       []patchStepView   `json:"patch,omitempty" maxItems:"100" doc:"Of an approval or an edit: a JSON Patch (RFC 6902) of the body"`
	SetHeaders  map[string]string `json:"set_headers,omitempty" doc:"Of an approval or an edit: headers that get another value"`
	DropHeaders []string          `json:"drop_headers,omitempty" maxItems:"100" doc:"Of an approval or an edit: headers that go"`
	Reason      string            `json:"reason,omitempty" maxLength:"1000" doc:"Why, for the record; a rejection needs one, and a comment is one"`
	Rate        float64           `json:"rate,omitempty" minimum:"0.01" maximum:"100000" doc:"Messages a second at most; as fast as it goes, if it says nothing"`
}

type patchStepView struct {
	Op    string  `json:"op" enum:"add,remove,replace,move,copy,test"`
	Path  string  `json:"path" maxLength:"1000" doc:"JSON pointer"`
	From  *string `json:"from,omitempty" maxLength:"1000" doc:"Of move and copy"`
	Value anyJSON `json:"value,omitempty" doc:"Of add, replace and test"`
}

// anyJSON is a value that is kept as it was sent.
type anyJSON json.RawMessage

// Schema implements huma.SchemaProvider.
func (anyJSON) Schema(huma.Registry) *huma.Schema { return &huma.Schema{} }

// MarshalJSON implements json.Marshaler.
func (v anyJSON) MarshalJSON() ([]byte, error) { return json.RawMessage(v).MarshalJSON() }

// UnmarshalJSON implements json.Unmarshaler.
func (v *anyJSON) UnmarshalJSON(data []byte) error {
	*v = append((*v)[:0], data...)
	return nil
}

// BulkView is a bulk as the contract shows it.
type BulkView struct {
	ID          int64             `json:"id"`
	Action      string            `json:"action" enum:"approve,reject,edit,assign,comment"`
	To          string            `json:"to,omitempty" doc:"Of an assignment: to whom; absent: to nobody"`
	State       string            `json:"state" enum:"preview,running,paused,cancelled,done"`
	Filter      anyJSON           `json:"filter" doc:"As it was asked for"`
	Version     int               `json:"version,omitempty"`
	Patch       []patchStepView   `json:"patch,omitempty"`
	SetHeaders  map[string]string `json:"set_headers,omitempty"`
	DropHeaders []string          `json:"drop_headers,omitempty"`
	Reason      string            `json:"reason,omitempty"`
	Rate        float64           `json:"rate,omitempty"`
	Total       int               `json:"total" doc:"How many messages it is about"`
	More        bool              `json:"more,omitempty" doc:"There were more than one bulk takes: do it again when it is done"`
	Done        int               `json:"done" doc:"Decided about"`
	Failed      int               `json:"failed" doc:"Left alone: they had left the trash or were changed, or it did not work; list-trash-bulk-failures says why"`
	Left        int               `json:"left" doc:"Not yet decided about"`
	CreatedBy   string            `json:"created_by"`
	CreatedAt   time.Time         `json:"created_at"`
	StartedBy   string            `json:"started_by,omitempty"`
	StartedAt   *time.Time        `json:"started_at,omitempty"`
	FinishedAt  *time.Time        `json:"finished_at,omitempty"`
}

type previewView struct {
	BulkView
	Sample []sampleView `json:"sample" doc:"Some of the messages"`
}

type sampleView struct {
	EntryView
	Diff  *editDiffView `json:"diff,omitempty" doc:"What it would change"`
	Error string        `json:"error,omitempty" doc:"Why it would be left alone"`
}

type bulkFailureView struct {
	MessageID string `json:"message_id"`
	Error     string `json:"error"`
}

// BulkPath is the part of a path that names a bulk.
type BulkPath struct {
	ID int64 `path:"bulk_id" minimum:"1"`
}

func (g *gateway) addBulks() {
	tags, decide := []string{"trash"}, openapi.Scope("operate")
	conflict := []int{http.StatusConflict}
	register(g, huma.Operation{
		OperationID: "preview-trash-bulk", Method: http.MethodPost, Path: bulksPath, Tags: tags, Security: decide, DefaultStatus: http.StatusCreated,
		Metadata: map[string]any{timeKey: time.Minute},
		Summary:  "Choose messages to decide about, and see which they are",
		Description: "Nothing is decided yet: the answer says how many messages there are, and shows some of them and what would become of them. Start it, and exactly these are decided about, as they are now: " +
			"what fails later is not among them, and what is changed before its turn comes is left alone. A preview that nobody starts is forgotten after a day. One bulk takes 500,000 messages.",
	}, g.previewBulk)
	register(g, huma.Operation{
		OperationID: "list-trash-bulks", Method: http.MethodGet, Path: bulksPath, Tags: tags, Security: decide,
		Summary: "List the bulks", Description: "The newest first.",
	}, g.listBulks)
	register(g, huma.Operation{
		OperationID: "get-trash-bulk", Method: http.MethodGet, Path: bulkPath, Tags: tags, Security: decide,
		Summary: "See how far a bulk has come",
	}, g.getBulk)
	register(g, huma.Operation{
		OperationID: "list-trash-bulk-failures", Method: http.MethodGet, Path: bulkPath + "/failures", Tags: tags, Security: decide,
		Summary: "List the messages that a bulk left alone, and why",
	}, g.listBulkFailures)
	for _, step := range []struct {
		step                 trash.Step
		summary, description string
	}{
		{trash.StartBulk, "Start a bulk that was previewed", "It goes on by itself, whichever server stops, until all are decided about. Each is decided about once."},
		{trash.PauseBulk, "Pause a bulk", "When this is answered, nothing more is decided about until it is resumed."},
		{trash.ResumeBulk, "Resume a bulk that is paused", "It goes on where it was."},
		{trash.CancelBulk, "Cancel a bulk", "What is left stays as it is; what was decided is decided."},
	} {
		register(g, huma.Operation{
			OperationID: string(step.step) + "-trash-bulk", Method: http.MethodPost, Path: bulkPath + "/" + string(step.step), Tags: tags, Security: decide,
			Summary: step.summary, Description: step.description + " Doing it twice is harmless.", Errors: conflict,
		}, func(ctx context.Context, in *BulkPath) (*answer[BulkView], error) {
			by, _ := auth.FromContext(ctx)
			b, err := g.config.Trash.Take(ctx, by.TenantID, by.Actor(), in.ID, step.step)
			return &answer[BulkView]{viewOfBulk(b)}, err
		})
	}
}

func (g *gateway) previewBulk(ctx context.Context, in *answer[planView]) (*answer[previewView], error) {
	f, err := in.Body.Filter.filter()
	if err != nil {
		return nil, err
	}
	plan := trash.Plan{
		Action: trash.Action(in.Body.Action), Filter: f, Version: in.Body.Version, Reason: in.Body.Reason, Rate: in.Body.Rate, Asked: in.Body.Filter,
		Change: trash.Change{Drop: in.Body.DropHeaders}, To: in.Body.To,
	}
	for name, value := range in.Body.SetHeaders {
		if plan.Change.Set == nil {
			plan.Change.Set = map[string]string{}
		}
		plan.Change.Set[strings.ToLower(name)] = value
	}
	for _, s := range in.Body.Patch {
		plan.Change.Patch = append(plan.Change.Patch, trash.PatchStep{Op: s.Op, Path: s.Path, From: s.From, Value: json.RawMessage(s.Value)})
	}
	by, _ := auth.FromContext(ctx)
	b, sample, err := g.config.Trash.Preview(ctx, by.TenantID, by.Actor(), plan)
	view := previewView{BulkView: viewOfBulk(b), Sample: make([]sampleView, len(sample))}
	for i, s := range sample {
		view.Sample[i] = sampleView{EntryView: viewOfEntry(s.Entry), Error: s.Error}
		if s.Diff != nil {
			diff := viewOfEditDiff(*s.Diff)
			view.Sample[i].Diff = &diff
		}
	}
	return &answer[previewView]{view}, err
}

func viewOfBulk(b trash.Bulk) BulkView {
	view := BulkView{
		ID: b.ID, Action: string(b.Action), State: string(b.State), Filter: anyJSON(b.Filter), SetHeaders: b.Change.Set, DropHeaders: b.Change.Drop,
		Reason: b.Reason, Total: b.Total, More: b.More, Done: b.Done, Failed: b.Failed, Left: b.Total - b.Done - b.Failed,
		CreatedBy: b.CreatedBy, CreatedAt: b.CreatedAt.UTC(), StartedAt: utc(b.StartedAt), FinishedAt: utc(b.FinishedAt),
	}
	if view.Filter == nil {
		view.Filter = anyJSON("{}")
	}
	if b.Version != nil {
		view.Version = *b.Version
	}
	if b.AssignTo != nil {
		view.To = *b.AssignTo
	}
	if b.Rate != nil {
		view.Rate = *b.Rate
	}
	if b.StartedBy != nil {
		view.StartedBy = *b.StartedBy
	}
	for _, s := range b.Change.Patch {
		view.Patch = append(view.Patch, patchStepView{Op: s.Op, Path: s.Path, From: s.From, Value: anyJSON(s.Value)})
	}
	return view
}

func (g *gateway) listBulks(ctx context.Context, in *struct{ openapi.Page }) (*answer[openapi.List[BulkView]], error) {
	var before int64
	if err := in.Cursor(&before); err != nil {
		return nil, err
	}
	by, _ := auth.FromContext(ctx)
	bulks, err := g.config.Trash.Bulks(ctx, by.TenantID, before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	list, err := openapi.Cut(bulks, in.Page, func(last trash.Bulk) []any { return []any{last.ID} })
	views := openapi.List[BulkView]{Items: make([]BulkView, len(list.Items)), Next: list.Next}
	for i, b := range list.Items {
		views.Items[i] = viewOfBulk(b)
	}
	return &answer[openapi.List[BulkView]]{views}, err
}

func (g *gateway) getBulk(ctx context.Context, in *BulkPath) (*answer[BulkView], error) {
	by, _ := auth.FromContext(ctx)
	b, err := g.config.Trash.FindBulk(ctx, by.TenantID, in.ID)
	return &answer[BulkView]{viewOfBulk(b)}, err
}

func (g *gateway) listBulkFailures(ctx context.Context, in *struct {
	BulkPath
	openapi.Page
}) (*answer[openapi.List[bulkFailureView]], error) {
	var after int64
	if err := in.Cursor(&after); err != nil {
		return nil, err
	}
	by, _ := auth.FromContext(ctx)
	failures, err := g.config.Trash.Failures(ctx, by.TenantID, in.ID, after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	list, err := openapi.Cut(failures, in.Page, func(last trash.Failure) []any { return []any{last.ID.Number} })
	views := openapi.List[bulkFailureView]{Items: make([]bulkFailureView, len(list.Items)), Next: list.Next}
	for i, f := range list.Items {
		views.Items[i] = bulkFailureView{MessageID: f.ID.String(), Error: f.Error}
	}
	return &answer[openapi.List[bulkFailureView]]{views}, err
}
