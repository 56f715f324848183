package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/queue/process"
	"sluice/queue/worker"
	"sluice/trash"
)

const (
	trashPath = "/v1/trash"
	entryPath = "/v1/trash/{message_id}"
	editPath  = "/v1/trash/{message_id}/body"

	commentPath = "/v1/trash/{message_id}/comments"
)

// EntryView is an entry of the trash as the contract shows it.
type EntryView struct {
	MessageID string     `json:"message_id" example:"0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-4711"`
	Type      string     `json:"type" enum:"failure,breakpoint" doc:"failure: its node gave up. breakpoint: it waits there for a person"`
	Topology  string     `json:"topology"`
	Version   int        `json:"version"`
	Node      string     `json:"node" doc:"The node that gave up, or the breakpoint"`
	Reason    string     `json:"reason" doc:"Of one that waits at a breakpoint, its title"`
	DueAt     *time.Time `json:"due_at,omitempty" doc:"Of one that waits at a breakpoint that says so: until when somebody should have decided"`
	Class     string     `json:"class,omitempty" enum:"rejected,exhausted,reply,storage,cancelled,deleted" doc:"What kind of failure; absent of one that waits at a breakpoint, and while an entry of an older version is not sorted yet"`
	Cause     string     `json:"cause,omitempty" example:"9f86d081884c7d65" doc:"The same for entries that failed for the same reason, but for numbers, ids and quotations in it"`
	Attempt   int        `json:"attempt" doc:"How many attempts were made; an approved message counts on"`
	FailedAt  time.Time  `json:"failed_at"`
	Edited    bool       `json:"edited" doc:"Other content is sent when it is approved"`
	Size      int64      `json:"size" doc:"Bytes of the body that failed"`
	Revision  int64      `json:"revision" doc:"Another after each change, and when the message has failed anew; also the ETag"`
	Assigned  string     `json:"assigned_to,omitempty" doc:"Whose it is"`
}

type entryDetailView struct {
	EntryView
	ContentView
	Pretty    string         `json:"pretty,omitempty" doc:"Of JSON: one value a line, otherwise as it is"`
	Failures  int            `json:"failures" doc:"How often the message has failed so far; it comes back each time"`
	Where     whereView      `json:"where" doc:"Where in the topology it stopped"`
	Process   processView    `json:"process"`
	Edit      *editView      `json:"edit,omitempty" doc:"What is sent instead when it is approved"`
	Attempts  []attemptView  `json:"attempts" doc:"Oldest first; of very many, the last"`
	Decisions []decisionView `json:"decisions" doc:"Oldest first"`
}

// ContentView is what a message carries, as the contract shows it.
type ContentView struct {
	Headers map[string]string `json:"headers"`
	Body    []byte            `json:"body" doc:"The bytes, in base64"`
	Text    *string           `json:"text,omitempty" doc:"The same as text, where it is UTF-8"`
}

type whereView struct {
	From        string   `json:"from" doc:"The node that the message came from"`
	Node        string   `json:"node"`
	Kind        string   `json:"kind"`
	Worker      string   `json:"worker,omitempty"`
	Application string   `json:"application,omitempty"`
	Followers   []string `json:"followers" doc:"Where it would go next"`
	MayAct      []string `json:"may_act,omitempty" doc:"Of a breakpoint: the names of the API keys that may approve, edit or reject it; absent: all that may decide about the trash"`
	Versions    []int    `json:"versions" doc:"The other versions in which it could go on at the node of this name"`
}

type editDiffView struct {
	Headers []headerChangeView `json:"headers"`
	Body    string             `json:"body,omitempty" doc:"In the unified format; of JSON, one value a line"`
	Omitted string             `json:"omitted,omitempty" doc:"Why there is none of the body, though it differs"`
}

type headerChangeView struct {
	Name string  `json:"name"`
	From *string `json:"from,omitempty" doc:"Absent: it was not there"`
	To   *string `json:"to,omitempty" doc:"Absent: it is dropped"`
}

type editView struct {
	ContentView
	Diff editDiffView `json:"diff" doc:"What the edit changes"`
	By   string       `json:"by"`
	At   time.Time    `json:"at"`
}

// ChoiceView says which entries somebody decides about, and how they looked.
type ChoiceView struct {
	MessageIDs []messageID `json:"message_ids" minItems:"1" maxItems:"1000" doc:"All of them, or none"`
	Revisions  []int64     `json:"revisions,omitempty" maxItems:"1000" doc:"The revision of each as you have seen it, 0 for any: if one has another by now, nothing is done"`
}

type approveView struct {
	ChoiceView
	Version int    `json:"version,omitempty" minimum:"1" maximum:"2147483647" doc:"Send them on in this version of their topology, at the node of the same name: as new messages with the same content"`
	Reason  string `json:"reason,omitempty" maxLength:"1000" doc:"Why, for the record"`
}

type rejectView struct {
	ChoiceView
	Reason string `json:"reason" minLength:"1" maxLength:"1000" doc:"Why, for the record"`
}

type assignView struct {
	ChoiceView
	To     string `json:"to" maxLength:"200" doc:"Whose they are from now on; empty: nobody's"`
	Reason string `json:"reason,omitempty" maxLength:"1000" doc:"Why, for the record"`
}

type assignedView struct {
	Assigned int `json:"assigned"`
}

type commentView struct {
	Text string `json:"text" minLength:"1" maxLength:"4000"`
}

// MatchHeader is the part of a request that says how the entry looked that it is about.
type MatchHeader struct {
	Match string `header:"If-Match" maxLength:"100" doc:"The ETag of the entry as you have seen it: if it has another by now, nothing is done"`
}

func (m MatchHeader) revision() (int64, error) {
	return revisionOf(m.Match)
}

// revisionOf reads an ETag of ours; 0 is any.
func revisionOf(tag string) (int64, error) {
	if tag == "" || tag == "*" {
		return 0, nil
	}
	n, err := strconv.ParseInt(strings.Trim(tag, `"`), 10, 64)
	if err != nil || tagOf(n) != tag {
		return 0, openapi.PreconditionFailed.Because("If-Match is no ETag of a message in the trash")
	}
	return n, nil
}

func tagOf(revision int64) string { return `"` + strconv.FormatInt(revision, 10) + `"` }

type entryOutput struct {
	ETag string `header:"ETag" doc:"For If-Match"`
	Body entryDetailView
}

func outputOf(d trash.Detail) *entryOutput {
	return &entryOutput{ETag: tagOf(d.Revision), Body: viewOfEntryDetail(d)}
}

type approvedView struct {
	Sent []sentView `json:"sent"`
}

type sentView struct {
	MessageID string `json:"message_id"`
	SentAs    string `json:"sent_as" doc:"The same, or the message that goes on with the edited content"`
}

type rejectedView struct {
	Rejected int `json:"rejected"`
}

type editInput struct {
	MessagePath
	MatchHeader
	Drop    string `header:"Sluice-Drop" doc:"Names of headers that do not carry on, separated by commas; * is all but the content type"`
	RawBody []byte `contentType:"*/*"`
}

func (g *gateway) addTrash() {
	tags, decide := []string{"trash"}, openapi.Scope("operate")
	conflict, match := []int{http.StatusConflict}, []int{http.StatusPreconditionFailed}
	register(g, huma.Operation{
		OperationID: "list-trash", Method: http.MethodGet, Path: trashPath, Tags: tags, Security: decide,
		Summary: "List the messages that failed, or wait at a breakpoint",
		Description: "In the order in which they failed, or were parked. However many there are, a page takes little time: where few of them are what the filter asks for, it may hold fewer than the limit, or none, and still have a `next`. " +
			"There is no index for `text`: give a window of time with it.",
	}, g.listTrash)
	register(g, huma.Operation{
		OperationID: "list-trash-groups", Method: http.MethodGet, Path: trashPath + "/groups", Tags: tags, Security: decide,
		Summary: "List the causes of failures", Description: "The most frequent first. All entries that the filter asks for are counted, which takes a second or so for a million.",
	}, g.listGroups)
	register(g, huma.Operation{
		OperationID: "get-trash", Method: http.MethodGet, Path: entryPath, Tags: tags, Security: decide,
		Summary: "Get a message that failed", Description: "With its content and all that happened to it.",
	}, g.getTrash)
	register(g, huma.Operation{
		OperationID: "approve-trash", Method: http.MethodPost, Path: trashPath + "/approve", Tags: tags, Security: decide,
		Summary: "Send messages again, or on from a breakpoint", Description: "Each at the node where it failed, or in another version at the node of the same name; one that was edited with its edited content. One that waits at a breakpoint goes on to what follows that. All of them or, if one is not in the trash any more or was changed, none.", Errors: conflict,
	}, g.approveTrash)
	register(g, huma.Operation{
		OperationID: "reject-trash", Method: http.MethodPost, Path: trashPath + "/reject", Tags: tags, Security: decide,
		Summary: "Settle messages without sending them again", Description: "All of them or, if one is not in the trash any more, none.", Errors: conflict,
	}, g.rejectTrash)
	register(g, huma.Operation{
		OperationID: "assign-trash", Method: http.MethodPost, Path: trashPath + "/assign", Tags: tags, Security: decide,
		Summary: "Say whose messages are", Description: "It keeps nobody else from deciding about them. All of them or, if one is not in the trash any more or was changed, none.", Errors: conflict,
	}, g.assignTrash)
	register(g, huma.Operation{
		OperationID: "comment-trash", Method: http.MethodPost, Path: commentPath, Tags: tags, Security: decide,
		Summary: "Add a remark to what happened to a message", Errors: match,
	}, g.commentTrash)
	openapi.Describe[editInput, entryOutput](g.api, huma.Operation{
		OperationID: "edit-trash-body", Method: http.MethodPut, Path: editPath, Tags: tags, Security: decide, Errors: match,
		Summary: "Say what is sent when a message is approved",
		Description: "The body of the request is the new body, whatever it is. The headers carry on: those of the edit before, or those of the message. A content type replaces theirs, and so does each " +
			"header `Sluice-Header-<Name>`, its value percent-decoded. What was JSON stays JSON unless the content type says that it is something else. The message that failed is kept as it was.",
	})
	anyBody(g.api.OpenAPI().Paths[editPath].Put)
	g.handle(http.MethodPut, editPath, g.editTrash)
	register(g, huma.Operation{
		OperationID: "discard-trash-edit", Method: http.MethodDelete, Path: editPath, Tags: tags, Security: decide,
		Summary: "Forget what was edited", Description: "The message is sent as it failed when it is approved. One that was not edited stays as it is.", Errors: match,
	}, g.discardEdit)
}

func viewOfEntry(e trash.Entry) EntryView {
	view := EntryView{
		MessageID: e.ID.String(), Type: string(e.Type()), Topology: e.Topology, Version: e.Version, Node: e.Node, Reason: e.Reason, Cause: causeText(e.Cause),
		Attempt: e.Attempt, FailedAt: e.FailedAt.UTC(), Edited: e.Edited, Size: e.Size, Revision: e.Revision, Assigned: e.Assigned, Class: classText(e.Class),
	}
	if e.DueAt != nil {
		due := e.DueAt.UTC()
		view.DueAt = &due
	}
	return view
}

// classText is a class as the contract shows it: a message that waits at a breakpoint has none.
func classText(c process.Class) string {
	if c == process.ClassBreakpoint {
		return ""
	}
	return string(c)
}

func (g *gateway) getTrash(ctx context.Context, in *MessagePath) (*entryOutput, error) {
	by, _ := auth.FromContext(ctx)
	d, err := g.config.Trash.Find(ctx, by.TenantID, in.ID.parse())
	return outputOf(d), err
}

func viewOfEntryDetail(d trash.Detail) entryDetailView {
	view := entryDetailView{
		EntryView: viewOfEntry(d.Entry), ContentView: viewOfContent(trash.Content{Headers: d.Headers, Body: d.Body}),
		Attempts: viewOfAttempts(d.Attempts), Decisions: viewOfDecisions(d.Decisions),
		Failures: d.Failures, Process: viewOfProcess(d.Process),
		Where: whereView{
			From: d.Where.From, Node: d.Where.Node.Name, Kind: string(d.Where.Node.Kind), Worker: d.Where.Node.Worker,
			Application: d.Where.Node.Application, MayAct: d.Where.Node.MayAct, Followers: append([]string{}, d.Where.Node.Followers...), Versions: append([]int{}, d.Where.Versions...),
		},
	}
	if n := d.Where.Node; n.Kind.CallsWorker() {
		for i, a := range d.Attempts {
			key := worker.Request{MessageID: d.ID.String(), Page: a.Page}.IdempotencyKey()
			view.Attempts[i].Request = &requestView{Method: http.MethodPost, Worker: n.Worker, Action: n.Action, IdempotencyKey: key}
		}
	}
	view.Pretty, _ = trash.Pretty(d.Body)
	if d.Edit != nil {
		view.Edit = &editView{
			ContentView: viewOfContent(d.Edit.Content), By: d.Edit.By, At: d.Edit.At.UTC(),
			Diff: viewOfEditDiff(trash.DiffOf(trash.Content{Headers: d.Headers, Body: d.Body}, d.Edit.Content)),
		}
	}
	return view
}

func viewOfEditDiff(d trash.Diff) editDiffView {
	view := editDiffView{Headers: make([]headerChangeView, len(d.Headers)), Body: d.Body, Omitted: d.Omitted}
	for i, h := range d.Headers {
		view.Headers[i] = headerChangeView{Name: h.Name, From: h.From, To: h.To}
	}
	return view
}

func viewOfContent(c trash.Content) ContentView {
	view := ContentView{Headers: c.Headers, Body: c.Body}
	if view.Headers == nil {
		view.Headers = map[string]string{}
	}
	if view.Body == nil {
		view.Body = []byte{} // not null
	}
	if utf8.Valid(c.Body) {
		text := string(c.Body)
		view.Text = &text
	}
	return view
}

func idsOf(texts []messageID) []process.MessageID {
	ids := make([]process.MessageID, len(texts))
	for i, text := range texts {
		ids[i] = text.parse()
	}
	return ids
}

// act is what somebody does about the entries that they chose.
func (c ChoiceView) act(by auth.Principal, reason string) (trash.Act, error) {
	if c.Revisions != nil && len(c.Revisions) != len(c.MessageIDs) {
		return trash.Act{}, openapi.ValidationFailed.Because("validation failed").
			With(openapi.Detail{Detail: "expected as many as there are message_ids", Pointer: "#/revisions"})
	}
	return trash.Act{By: by.Actor(), Reason: reason, Entries: idsOf(c.MessageIDs), Seen: c.Revisions}, nil
}

func (g *gateway) approveTrash(ctx context.Context, in *answer[approveView]) (*answer[approvedView], error) {
	by, _ := auth.FromContext(ctx)
	act, err := in.Body.act(by, in.Body.Reason)
	if err != nil {
		return nil, err
	}
	var sent []trash.Sent
	if in.Body.Version == 0 {
		sent, err = g.config.Trash.Approve(ctx, by.TenantID, act)
	} else {
		sent, err = g.config.Trash.ApproveOnto(ctx, by.TenantID, act, in.Body.Version)
	}
	view := approvedView{Sent: make([]sentView, len(sent))}
	for i, s := range sent {
		view.Sent[i] = sentView{MessageID: s.ID.String(), SentAs: s.As.String()}
	}
	return &answer[approvedView]{view}, refused(err, in.Body.MessageIDs)
}

func (g *gateway) rejectTrash(ctx context.Context, in *answer[rejectView]) (*answer[rejectedView], error) {
	by, _ := auth.FromContext(ctx)
	act, err := in.Body.act(by, in.Body.Reason)
	if err == nil {
		err = g.config.Trash.Reject(ctx, by.TenantID, act)
	}
	return &answer[rejectedView]{rejectedView{Rejected: in.Body.count()}}, refused(err, in.Body.MessageIDs)
}

func (g *gateway) assignTrash(ctx context.Context, in *answer[assignView]) (*answer[assignedView], error) {
	by, _ := auth.FromContext(ctx)
	act, err := in.Body.act(by, in.Body.Reason)
	if err == nil {
		err = g.config.Trash.Assign(ctx, by.TenantID, act, in.Body.To)
	}
	return &answer[assignedView]{assignedView{Assigned: in.Body.count()}}, refused(err, in.Body.MessageIDs)
}

// count is how many entries were chosen, each counted once.
func (c ChoiceView) count() int {
	return len(slices.Compact(slices.Sorted(slices.Values(c.MessageIDs))))
}

func (g *gateway) commentTrash(ctx context.Context, in *struct {
	MessagePath
	MatchHeader
	Body commentView
}) (*entryOutput, error) {
	by, _ := auth.FromContext(ctx)
	revision, err := in.revision()
	if err != nil {
		return nil, err
	}
	act := trash.Act{By: by.Actor(), Reason: in.Body.Text, Entries: []process.MessageID{in.ID.parse()}, Seen: []int64{revision}}
	if err := g.config.Trash.Comment(ctx, by.TenantID, act); err != nil {
		return nil, err
	}
	d, err := g.config.Trash.Find(ctx, by.TenantID, in.ID.parse())
	return outputOf(d), err
}

// refused says of a decision about several messages which of them have left the trash, were changed, or cannot go where
// they are to go. For the request as a whole that is a conflict: the caller has seen them otherwise.
func refused(err error, ids []messageID) error {
	var gone *trash.GoneError
	var changed *trash.ChangedError
	var target *trash.TargetError
	var others *trash.NotAllowedError
	var which []process.MessageID
	var why, each string
	switch {
	case errors.As(err, &gone):
		which, why, each = gone.Messages, "are not in the trash, or not any more", "is not in the trash"
	case errors.As(err, &changed):
		which, why, each = changed.Messages, "were changed since you looked at them", "has another revision"
	case errors.As(err, &target):
		which, each = target.Messages, "has no such node to go on at"
		why = fmt.Sprintf("cannot go on in version %d: it is not in use, or has no node of that name", target.Version)
	case errors.As(err, &others):
		return forOthers(others, ids)
	default:
		return err
	}
	p := openapi.Conflict.Because("%d of the messages %s: nothing was decided about any", len(which), why).Counting(int64(len(which)))
	for _, m := range which {
		at := slices.Index(ids, messageID(m.String()))
		p.Errors = append(p.Errors, openapi.Detail{Detail: m.String() + " " + each, Pointer: fmt.Sprintf("#/message_ids/%d", at)})
	}
	return p
}

// forOthers says which messages wait at breakpoints where only others may act.
func forOthers(err *trash.NotAllowedError, ids []messageID) error {
	p := openapi.Forbidden.Because("only %s may act on %d of the messages: nothing was decided about any", strings.Join(err.MayAct, ", "), len(err.Messages))
	for _, m := range err.Messages {
		at := slices.Index(ids, messageID(m.String()))
		p.Errors = append(p.Errors, openapi.Detail{Detail: m.String() + " waits at a breakpoint for others", Pointer: fmt.Sprintf("#/message_ids/%d", at)})
	}
	return p
}

// editTrash is a handler of ours because of the body, which is taken as it comes.
func (g *gateway) editTrash(w http.ResponseWriter, r *http.Request, by auth.Principal) error {
	id, err := process.ParseMessageID(r.PathValue("message_id"))
	if err != nil {
		return openapi.ValidationFailed.Because("%.80q is no message id", r.PathValue("message_id")).
			With(openapi.Detail{Detail: "expected a correlation id, a dash and a number", Location: "path.message_id"})
	}
	revision, err := revisionOf(r.Header.Get("If-Match"))
	if err != nil {
		return err
	}
	b, err := g.readBody(r, g.config.MaxBody)
	defer b.release()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), g.config.RequestTime)
	defer cancel()
	entry, err := g.config.Trash.Find(ctx, by.TenantID, id)
	if err != nil {
		return err
	}
	content := trash.Content{Headers: entry.Headers, Body: b.bytes}
	if entry.Edit != nil {
		content.Headers = entry.Edit.Headers
	}
	if content.Headers, err = edit(content.Headers, r.Header); err != nil {
		return err
	}
	act := trash.Act{By: by.Actor(), Entries: []process.MessageID{id}, Seen: []int64{cmp.Or(revision, entry.Revision)}}
	if err := g.config.Trash.Edit(ctx, by.TenantID, act, content); err != nil {
		return err
	}
	if entry, err = g.config.Trash.Find(ctx, by.TenantID, id); err != nil {
		return err
	}
	w.Header().Set("ETag", tagOf(entry.Revision))
	return writeJSON(w, http.StatusOK, viewOfEntryDetail(entry))
}

func (g *gateway) discardEdit(ctx context.Context, in *struct {
	MessagePath
	MatchHeader
}) (*struct{}, error) {
	by, _ := auth.FromContext(ctx)
	revision, err := in.revision()
	if err != nil {
		return nil, err
	}
	return nil, g.config.Trash.DiscardEdit(ctx, by.TenantID, trash.Act{By: by.Actor(), Entries: []process.MessageID{in.ID.parse()}, Seen: []int64{revision}})
}
