package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"
)

type traceCmd struct {
	apiFlags
	Entity string `arg:"" help:"What to trace, as KIND:VALUE, or VALUE of any kind."`
	Limit  int    `default:"200" help:"How many events and calls to show at most."`
}

func (traceCmd) Help() string {
	return examples("The history of an order, or whatever topologies declare as entities: every event about it, and every message for a third party, over all topologies and versions.",
		"sluice trace order:ABC-123", "sluice trace ABC-123 --output json")
}

// callView is one crossing of the boundary as the API tells it.
type callView struct {
	CorrelationID string     `json:"correlation_id"`
	MessageID     string     `json:"message_id"`
	Topology      string     `json:"topology"`
	Version       int        `json:"version"`
	Kind          string     `json:"kind"`
	Node          string     `json:"node"`
	Application   string     `json:"application"`
	Badge         string     `json:"badge"`
	Attempts      int        `json:"attempts"`
	Status        *int       `json:"status"`
	Reason        string     `json:"reason"`
	At            *time.Time `json:"at"`
	EndedAt       *time.Time `json:"ended_at"`
}

func (v callView) row() []string {
	id, status := v.MessageID, ""
	if id == "" {
		id = v.CorrelationID
	}
	if v.Status != nil {
		status = strconv.Itoa(*v.Status)
	}
	return []string{when(v.At), v.Badge, fmt.Sprintf("%s v%d", v.Topology, v.Version), v.Kind, v.Node, v.Application, number(v.Attempts), status, took(v.At, v.EndedAt), id, v.Reason}
}

func (c traceCmd) Run(ctx context.Context, p *program, api *client) error {
	l, err := list[callView](ctx, api, "/trace", queryOf("entity", c.Entity), c.Limit)
	if err != nil {
		return err
	}
	defer l.more(p)
	return p.print(l, func(w io.Writer) {
		if len(l.Items) == 0 {
			fmt.Fprintln(w, "Nothing is known of it. Topologies say under entities: where keys stand; what came before they did is not found.")
			return
		}
		table(w, "AT BADGE TOPOLOGY KIND NODE APPLICATION ATTEMPTS STATUS TOOK ID REASON", rows(l, callView.row)...)
	})
}
