package gateway

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/queue/process"
)

const tracePath = "/v1/trace"

// CallView is one crossing of the boundary in the history of an entity.
type CallView struct {
	CorrelationID string     `json:"correlation_id" format:"uuid"`
	MessageID     string     `json:"message_id,omitempty" doc:"Absent: it is the event itself"`
	Topology      string     `json:"topology"`
	Version       int        `json:"version"`
	State         string     `json:"state" enum:"running,failed,parked,terminated,rejected,done" doc:"Of the process"`
	Kind          string     `json:"kind" doc:"event, or that of the node"`
	Node          string     `json:"node"`
	Worker        string     `json:"worker,omitempty"`
	Application   string     `json:"application,omitempty" doc:"That the node talks to"`
	Badge         string     `json:"badge" enum:"received,delivered,refused,waiting,running,retried,unknown,ended" doc:"received: the event is stored. delivered: the node's worker took it. refused: it lies in the trash, or somebody gave it up. waiting: it was not tried yet, or a person is to decide. retried: it was tried, and will be again. unknown: a runner took it and left no record, so the call may have been made; it will be made again under the same idempotency key. ended: somebody ended it, or sent another in its place"`
	Attempts      int        `json:"attempts" doc:"That are on record"`
	Status        *int       `json:"status,omitempty" doc:"HTTP status of the last of them, where there was one"`
	Reason        string     `json:"reason,omitempty" doc:"Of the last of them"`
	At            time.Time  `json:"at" doc:"When the event came in, or the message was made"`
	EndedAt       *time.Time `json:"ended_at,omitempty" doc:"When what the badge says was recorded; absent: nothing is"`
}

// EntityQuery names what is traced.
type EntityQuery struct {
	Entity string `query:"entity" required:"true" minLength:"1" maxLength:"1000" doc:"As KIND:VALUE, or VALUE of any kind" example:"order:ABC-123"`
}

func (g *gateway) addTrace() {
	tags, look := []string{"processes"}, openapi.Scope("operate")
	register(g, huma.Operation{
		OperationID: "get-trace", Method: http.MethodGet, Path: tracePath, Tags: tags, Security: look,
		Summary:     "Tell the history of an entity",
		Description: "Over all topologies and versions that declare it: every event about it and every message for a node that talks to a third party, each with how its delivery stands. Process after process as they came in, and within a process as its messages were made. Where few messages cross the boundary, a page may hold fewer than the limit, or none, and still have a `next`.",
	}, g.getTrace)
}

func (g *gateway) getTrace(ctx context.Context, in *struct {
	openapi.Page
	EntityQuery
}) (*answer[openapi.List[CallView]], error) {
	entity, err := entityOf(in.Entity, openapi.Detail{Location: "query.entity"})
	if err != nil {
		return nil, err
	}
	var after process.Mark
	if err := in.Cursor(&after.Process, &after.Message); err != nil {
		return nil, err
	}
	var calls []process.Call
	var next *process.Mark
	err = g.look(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		calls, next, err = process.Trace(ctx, tx, by.TenantID, entity, after, in.Limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	list := openapi.List[CallView]{Items: make([]CallView, len(calls))}
	for i, c := range calls {
		list.Items[i] = viewOfCall(c)
	}
	if next != nil {
		list.Next, err = openapi.CursorOf(next.Process, next.Message)
	}
	return &answer[openapi.List[CallView]]{list}, err
}

func viewOfCall(c process.Call) CallView {
	v := CallView{
		CorrelationID: c.Process.ID.String(), Topology: c.Topology, Version: c.Version, State: string(c.Process.State()), Kind: c.Kind, Node: c.Node,
		Worker: c.Worker, Application: c.Application, Badge: string(c.Badge), Attempts: c.Tries, Status: c.Status, Reason: c.Reason,
		At: c.At.UTC(), EndedAt: utc(c.EndedAt),
	}
	if c.Message != nil {
		v.MessageID = c.Message.String()
	}
	return v
}
