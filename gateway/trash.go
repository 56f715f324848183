package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/queue/process"
	"sluice/trash"
)

const (
	trashPath = "/v1/trash"
	entryPath = "/v1/trash/{message_id}"
	editPath  = "/v1/trash/{message_id}/body"
)

// EntryView is an entry of the trash as the contract shows it.
type EntryView struct {
	MessageID string    `json:"message_id" example:"0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-4711"`
	Topology  string    `json:"topology"`
	Version   int       `json:"version"`
	Node      string    `json:"node" doc:"The node that gave up"`
	Reason    string    `json:"reason"`
	Class     string    `json:"class,omitempty" enum:"rejected,exhausted,reply,storage,cancelled,deleted" doc:"What kind of failure; absent while an entry of an older version is not sorted yet"`
	Cause     string    `json:"cause,omitempty" example:"9f86d081884c7d65" doc:"The same for entries that failed for the same reason, but for numbers, ids and quotations in it"`
	Attempt   int       `json:"attempt" doc:"How many attempts were made; an approved message counts on"`
	FailedAt  time.Time `json:"failed_at"`
	Edited    bool      `json:"edited" doc:"Other content is sent when it is approved"`
	Size      int64     `json:"size" doc:"Bytes of the body that failed"`
}

type entryDetailView struct {
	EntryView
	ContentView
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

type editView struct {
	ContentView
	By string    `json:"by"`
	At time.Time `json:"at"`
}

type approveView struct {
	MessageIDs []messageID `json:"message_ids" minItems:"1" maxItems:"1000" doc:"All of them, or none"`
	Reason     string      `json:"reason,omitempty" maxLength:"1000" doc:"Why, for the record"`
}

type rejectView struct {
	MessageIDs []messageID `json:"message_ids" minItems:"1" maxItems:"1000" doc:"All of them, or none"`
	Reason     string      `json:"reason" minLength:"1" maxLength:"1000" doc:"Why, for the record"`
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
	Drop    string `header:"Sluice-Drop" doc:"Names of headers that do not carry on, separated by commas; * is all but the content type"`
	RawBody []byte `contentType:"*/*"`
}

func (g *gateway) addTrash() {
	tags, decide := []string{"trash"}, openapi.Scope("operate")
	conflict := []int{http.StatusConflict}
	register(g, huma.Operation{
		OperationID: "list-trash", Method: http.MethodGet, Path: trashPath, Tags: tags, Security: decide,
		Summary: "List the messages that failed",
		Description: "In the order in which they failed. However many there are, a page takes little time: where few of them are what the filter asks for, it may hold fewer than the limit, or none, and still have a `next`. " +
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
		Summary: "Send messages again", Description: "Each at the node where it failed; one that was edited with its edited content. All of them or, if one is not in the trash any more, none.", Errors: conflict,
	}, g.approveTrash)
	register(g, huma.Operation{
		OperationID: "reject-trash", Method: http.MethodPost, Path: trashPath + "/reject", Tags: tags, Security: decide,
		Summary: "Settle messages without sending them again", Description: "All of them or, if one is not in the trash any more, none.", Errors: conflict,
	}, g.rejectTrash)
	openapi.Describe[editInput, answer[entryDetailView]](g.api, huma.Operation{
		OperationID: "edit-trash-body", Method: http.MethodPut, Path: editPath, Tags: tags, Security: decide,
		Summary: "Say what is sent when a message is approved",
		Description: "The body of the request is the new body, whatever it is. The headers carry on: those of the edit before, or those of the message. A content type replaces theirs, and so does each " +
			"header `Sluice-Header-<Name>`, its value percent-decoded. The message that failed is kept as it was.",
	})
	anyBody(g.api.OpenAPI().Paths[editPath].Put)
	g.handle(http.MethodPut, editPath, g.editTrash)
	register(g, huma.Operation{
		OperationID: "discard-trash-edit", Method: http.MethodDelete, Path: editPath, Tags: tags, Security: decide,
		Summary: "Forget what was edited", Description: "The message is sent as it failed when it is approved. One that was not edited stays as it is.",
	}, g.discardEdit)
}

func viewOfEntry(e trash.Entry) EntryView {
	return EntryView{
		MessageID: e.ID.String(), Topology: e.Topology, Version: e.Version, Node: e.Node, Reason: e.Reason, Class: string(e.Class), Cause: causeText(e.Cause),
		Attempt: e.Attempt, FailedAt: e.FailedAt.UTC(), Edited: e.Edited, Size: e.Size,
	}
}

func (g *gateway) getTrash(ctx context.Context, in *MessagePath) (*answer[entryDetailView], error) {
	by, _ := auth.FromContext(ctx)
	d, err := g.config.Trash.Find(ctx, by.TenantID, in.ID.parse())
	return &answer[entryDetailView]{viewOfEntryDetail(d)}, err
}

func viewOfEntryDetail(d trash.Detail) entryDetailView {
	view := entryDetailView{
		EntryView: viewOfEntry(d.Entry), ContentView: viewOfContent(trash.Content{Headers: d.Headers, Body: d.Body}),
		Attempts: viewOfAttempts(d.Attempts), Decisions: viewOfDecisions(d.Decisions),
	}
	if d.Edit != nil {
		view.Edit = &editView{ContentView: viewOfContent(d.Edit.Content), By: d.Edit.By, At: d.Edit.At.UTC()}
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

func (g *gateway) approveTrash(ctx context.Context, in *answer[approveView]) (*answer[approvedView], error) {
	by, _ := auth.FromContext(ctx)
	sent, err := g.config.Trash.Approve(ctx, by.TenantID, by.Actor(), in.Body.Reason, idsOf(in.Body.MessageIDs)...)
	view := approvedView{Sent: make([]sentView, len(sent))}
	for i, s := range sent {
		view.Sent[i] = sentView{MessageID: s.ID.String(), SentAs: s.As.String()}
	}
	return &answer[approvedView]{view}, gone(err, in.Body.MessageIDs)
}

func (g *gateway) rejectTrash(ctx context.Context, in *answer[rejectView]) (*answer[rejectedView], error) {
	by, _ := auth.FromContext(ctx)
	err := g.config.Trash.Reject(ctx, by.TenantID, by.Actor(), in.Body.Reason, idsOf(in.Body.MessageIDs)...)
	distinct := slices.Compact(slices.Sorted(slices.Values(in.Body.MessageIDs)))
	return &answer[rejectedView]{rejectedView{Rejected: len(distinct)}}, gone(err, in.Body.MessageIDs)
}

// gone says of a decision about several messages which of them have left the trash. For the request as a whole that is
// a conflict: the caller has seen them there.
func gone(err error, ids []messageID) error {
	var e *trash.GoneError
	if !errors.As(err, &e) {
		return err
	}
	p := openapi.Conflict.Because("%d of the messages are not in the trash, or not any more: nothing was decided about any", len(e.Messages)).
		Counting(int64(len(e.Messages)))
	for _, m := range e.Messages {
		at := slices.Index(ids, messageID(m.String()))
		p.Errors = append(p.Errors, openapi.Detail{Detail: m.String() + " is not in the trash", Pointer: fmt.Sprintf("#/message_ids/%d", at)})
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
	if err := g.config.Trash.Edit(ctx, by.TenantID, by.Actor(), id, content); err != nil {
		return err
	}
	if entry, err = g.config.Trash.Find(ctx, by.TenantID, id); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, viewOfEntryDetail(entry))
}

func (g *gateway) discardEdit(ctx context.Context, in *MessagePath) (*struct{}, error) {
	by, _ := auth.FromContext(ctx)
	return nil, g.config.Trash.DiscardEdit(ctx, by.TenantID, by.Actor(), in.ID.parse())
}
