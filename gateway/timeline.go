package gateway

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/queue/process"
)

// timelineView is a message with what was done with it.
type timelineView struct {
	MessageView
	Kind        string         `json:"kind,omitempty" doc:"Of the node"`
	Worker      string         `json:"worker,omitempty" doc:"That the node calls"`
	Application string         `json:"application,omitempty" doc:"That the node talks to"`
	EndedAt     *time.Time     `json:"ended_at,omitempty" doc:"When it was settled; absent: it is not"`
	Spans       []spanView     `json:"spans" doc:"Where it was from when to when, without gaps"`
	Attempts    []attemptView  `json:"attempts" doc:"Oldest first; of very many, the last hundred"`
	Decisions   []decisionView `json:"decisions" doc:"Oldest first"`
}

type spanView struct {
	Kind    string     `json:"kind" enum:"waiting,held,running,retry,trash,parked" doc:"held: it waited before a node whose application has a limit"`
	From    time.Time  `json:"from"`
	To      *time.Time `json:"to,omitempty" doc:"Absent: it still is"`
	Attempt int        `json:"attempt,omitempty" doc:"That was running, or had failed before"`
}

func (g *gateway) getTimeline(ctx context.Context, in *struct {
	ProcessPath
	openapi.Page
}) (*answer[openapi.List[timelineView]], error) {
	var after int64
	if err := in.Cursor(&after); err != nil {
		return nil, err
	}
	var rows []process.Step
	err := g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		if _, err = process.Find(ctx, tx, by.TenantID, in.ID.uuid()); err == nil {
			rows, err = process.Timeline(ctx, tx, by.TenantID, in.ID.uuid(), after, in.Limit+1)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	list, err := openapi.Cut(rows, in.Page, func(last process.Step) []any { return []any{last.ID.Number} })
	views := openapi.List[timelineView]{Items: make([]timelineView, len(list.Items)), Next: list.Next}
	for i, s := range list.Items {
		v := timelineView{
			MessageView: viewOfMessage(s.Message), Kind: s.Kind, Worker: s.Worker, Application: s.Application, EndedAt: utc(s.EndedAt),
			Spans: make([]spanView, len(s.Spans)), Attempts: viewOfAttempts(s.Attempts), Decisions: viewOfDecisions(s.Decisions),
		}
		for k, span := range s.Spans {
			v.Spans[k] = spanView{Kind: string(span.Kind), From: span.From.UTC(), To: utc(span.To), Attempt: span.Attempt}
		}
		views.Items[i] = v
	}
	return &answer[openapi.List[timelineView]]{views}, err
}
