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
)

// Replays: what a process did is done again, by a new one. One message or process is named by its path; many are found by
// a filter, a page of processes a call, so that whoever asks sees how far it is and may stop.

const (
	replaysPath   = "/v1/replays"
	countedAtMost = 10_000 // processes that a preview counts
)

// ReplayInput says how a replay is made.
type ReplayInput struct {
	Version int    `json:"version,omitempty" minimum:"1" maximum:"2147483647" doc:"The version of the topology that works it, at the node of the same name; absent: the one that worked it before"`
	Reason  string `json:"reason,omitempty" maxLength:"1000" doc:"Why, for the record"`
}

// ReplayKey is the header that makes asking again harmless.
type ReplayKey struct {
	Key string `header:"Idempotency-Key" maxLength:"200" doc:"Makes asking again harmless: with the same key it is replayed once"`
}

type replayedView struct {
	CorrelationID string `json:"correlation_id" format:"uuid" doc:"The process that repeats it"`
	Version       int    `json:"version,omitempty" doc:"The version that works it; absent for a duplicate"`
	Duplicate     bool   `json:"duplicate" doc:"It was replayed before, with this key"`
}

// replayFilterView says which processes are replayed, in the words of the query of list-processes.
type replayFilterView struct {
	Topology string     `json:"topology" minLength:"1" maxLength:"63" doc:"Of this topology"`
	Version  int        `json:"version,omitempty" minimum:"1" maximum:"2147483647" doc:"Only of this version of it"`
	State    string     `json:"state,omitempty" enum:"running,failed,parked,terminated,rejected,done" doc:"Only in this state"`
	Entity   string     `json:"entity,omitempty" maxLength:"1000" doc:"Only what is about this entity, as KIND:VALUE, or VALUE of any kind"`
	From     *time.Time `json:"from,omitempty" doc:"Only what came in then or later"`
	Until    *time.Time `json:"until,omitempty" doc:"Only what came in before then"`
}

func (f replayFilterView) filter() (process.Filter, error) {
	entity, err := entityOf(f.Entity, openapi.Detail{Pointer: "#/filter/entity"})
	asked := process.Filter{Topology: f.Topology, Version: f.Version, State: process.State(f.State), Entity: entity}
	if f.From != nil {
		asked.From = *f.From
	}
	if f.Until != nil {
		asked.Until = *f.Until
	}
	return asked, err
}

// ReplayPlan says what is replayed.
type ReplayPlan struct {
	Filter replayFilterView `json:"filter" doc:"Which processes"`
	Node   string           `json:"node,omitempty" maxLength:"63" doc:"From which node on: the messages that came to it. Absent: from the start"`
}

type replayPreviewView struct {
	Processes int  `json:"processes" doc:"How many processes there are"`
	Replays   int  `json:"replays" doc:"How many replays that makes"`
	More      bool `json:"more,omitempty" doc:"There are more: it was not counted further"`
}

type replayManyView struct {
	ReplayPlan
	ReplayInput

	Key   string `json:"key" minLength:"1" maxLength:"100" doc:"Names this undertaking: a page that is asked for again with the same key is not replayed again"`
	After string `json:"after,omitempty" maxLength:"500" doc:"next of the answer before"`
}

type replayManyDoneView struct {
	Replayed   int                 `json:"replayed" doc:"How many processes this call has begun"`
	Duplicates int                 `json:"duplicates" doc:"How many had been begun before, with this key"`
	Failed     []replayFailureView `json:"failed" doc:"What was not replayed, and why"`
	Next       string              `json:"next,omitempty" doc:"Where to go on; absent when all are done"`
}

type replayFailureView struct {
	CorrelationID string           `json:"correlation_id" format:"uuid"`
	MessageID     string           `json:"message_id,omitempty"`
	Error         *openapi.Problem `json:"error"`
}

func (g *gateway) addReplays() {
	tags, act := []string{"processes"}, openapi.Scope("operate")
	const text = "A replay is a new process, marked as what it is: it begins where the other was, with what that one had there, and what it repeats stays as it was. Its messages carry the header `replay-of`, so that workers can tell."
	register(g, huma.Operation{
		OperationID: "replay-process", Method: http.MethodPost, Path: processPath + "/replay", Tags: tags, Security: act, DefaultStatus: http.StatusAccepted,
		Summary: "Replay a process from its start", Description: text, Errors: []int{http.StatusConflict},
	}, func(ctx context.Context, in *struct {
		ProcessPath
		ReplayKey
		Body *ReplayInput `required:"false"`
	}) (*answer[replayedView], error) {
		return g.replay(ctx, queue.Replay{Process: in.ID.uuid(), Key: in.Key}, in.Body)
	})
	register(g, huma.Operation{
		OperationID: "replay-message", Method: http.MethodPost, Path: messagePath + "/replay", Tags: tags, Security: act, DefaultStatus: http.StatusAccepted,
		Summary: "Replay a process from one of its messages", Description: text, Errors: []int{http.StatusConflict},
	}, func(ctx context.Context, in *struct {
		MessagePath
		ReplayKey
		Body *ReplayInput `required:"false"`
	}) (*answer[replayedView], error) {
		id := in.ID.parse()
		return g.replay(ctx, queue.Replay{Process: id.Process, Message: id.Number, Key: in.Key}, in.Body)
	})
	register(g, huma.Operation{
		OperationID: "preview-replays", Method: http.MethodPost, Path: replaysPath + "/preview", Tags: tags, Security: act,
		Summary: "Count what a filter would replay", Description: "Nothing is replayed. Where few processes have what the filter asks for, not all are looked at: then it says `more`.",
	}, g.previewReplays)
	register(g, huma.Operation{
		OperationID: "replay-processes", Method: http.MethodPost, Path: replaysPath, Tags: tags, Security: act,
		Summary: "Replay the processes of a filter, a page of them", Description: text + "\n\nEach call replays some, the newest first, and says where to go on; what comes in meanwhile is not among them.",
	}, g.replayMany)
}

// replay repeats one message or process.
func (g *gateway) replay(ctx context.Context, r queue.Replay, in *ReplayInput) (*answer[replayedView], error) {
	by, _ := auth.FromContext(ctx)
	if in != nil {
		r.Version, r.Reason = in.Version, in.Reason
	}
	r.By = by.Actor()
	ctx, cancel := g.acceptance(ctx)
	defer cancel()
	accepted, errs := g.config.Engine.Replay(ctx, by.TenantID, []queue.Replay{r})
	a := accepted[0]
	return &answer[replayedView]{replayedView{CorrelationID: a.Process.String(), Version: a.Version, Duplicate: a.Duplicate}}, errs[0]
}

func (g *gateway) previewReplays(ctx context.Context, in *answer[ReplayPlan]) (*answer[replayPreviewView], error) {
	f, err := in.Body.Filter.filter()
	if err != nil {
		return nil, err
	}
	var view replayPreviewView
	f.Limit = countedAtMost
	err = g.look(ctx, func(tx pgx.Tx, by auth.Principal) error {
		page, err := process.List(ctx, tx, by.TenantID, f)
		if err != nil {
			return err
		}
		steps, err := process.StepsOf(ctx, tx, by.TenantID, process.Steps{Of: processIDs(page.Processes), Node: in.Body.Node, Limit: countedAtMost + 1})
		view = replayPreviewView{
			Processes: len(page.Processes), Replays: min(len(steps), countedAtMost), More: page.Next != uuid.Nil || len(steps) > countedAtMost,
		}
		return err
	})
	return &answer[replayPreviewView]{view}, err
}

func processIDs(processes []process.Process) []uuid.UUID {
	ids := make([]uuid.UUID, len(processes))
	for i, p := range processes {
		ids[i] = p.ID
	}
	return ids
}

// stepsAtMost bounds what one call of replayMany replays. A process may have more messages at a node than that.
const stepsAtMost = 10 * queue.ReplaysAtOnce

func (g *gateway) replayMany(ctx context.Context, in *answer[replayManyView]) (*answer[replayManyDoneView], error) {
	by, _ := auth.FromContext(ctx)
	f, err := in.Body.Filter.filter()
	if err != nil {
		return nil, err
	}
	f.Limit = queue.ReplaysAtOnce
	var after process.MessageID // in the page of processes after f.After: the last that was replayed
	if err := (openapi.Page{After: in.Body.After}).Cursor(&f.After, &after.Process, &after.Number); err != nil {
		return nil, err
	}
	var found process.Page
	var steps []process.MessageID
	err = g.look(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		if found, err = process.List(ctx, tx, by.TenantID, f); err != nil {
			return err
		}
		steps, err = process.StepsOf(ctx, tx, by.TenantID, process.Steps{Of: processIDs(found.Processes), Node: in.Body.Node, After: after, Limit: stepsAtMost})
		return err
	})
	if err != nil {
		return nil, err
	}
	done := replayManyDoneView{Failed: []replayFailureView{}}
	for rest := steps; len(rest) > 0; {
		n := min(len(rest), queue.ReplaysAtOnce)
		g.replaySteps(ctx, by, in.Body, rest[:n], &done)
		rest = rest[n:]
	}
	switch {
	case len(steps) == stepsAtMost:
		last := steps[len(steps)-1]
		done.Next, err = openapi.CursorOf(f.After, last.Process, last.Number)
	case found.Next != uuid.Nil:
		done.Next, err = openapi.CursorOf(found.Next, uuid.Nil, 0)
	}
	return &answer[replayManyDoneView]{done}, err
}

// replaySteps repeats some messages, or processes, and notes what became of each.
func (g *gateway) replaySteps(ctx context.Context, by auth.Principal, in replayManyView, steps []process.MessageID, done *replayManyDoneView) {
	replays := make([]queue.Replay, len(steps))
	for i, s := range steps {
		replays[i] = queue.Replay{Process: s.Process, Message: s.Number, Version: in.Version, Key: in.Key, By: by.Actor(), Reason: in.Reason}
	}
	ctx, cancel := g.acceptance(ctx)
	defer cancel()
	accepted, errs := g.config.Engine.Replay(ctx, by.TenantID, replays)
	for i, s := range steps {
		switch {
		case errs[i] != nil:
			p := g.translate(errs[i])
			if p == nil {
				p = openapi.Internal.Because("it could not be replayed")
			}
			done.Failed = append(done.Failed, replayFailureView{CorrelationID: s.Process.String(), MessageID: stepID(s.Process, s.Number), Error: p})
		case accepted[i].Duplicate:
			done.Duplicates++
		default:
			done.Replayed++
		}
	}
}
