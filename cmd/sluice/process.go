package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

type processCmd struct {
	List      processListCmd      `cmd:"" help:"List processes, the newest first."`
	Show      processShowCmd      `cmd:"" help:"Show a process with its messages."`
	Replay    processReplayCmd    `cmd:"" help:"Do again what a process did, from its start or from one of its messages."`
	Terminate processTerminateCmd `cmd:"" help:"End a process: what it still has goes no further."`
}

func (processCmd) Help() string {
	return examples("A process is everything that one event set off, known by its correlation id.",
		"sluice process list --state failed", "sluice process show 0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60")
}

// processView is a process as the API tells it.
type processView struct {
	CorrelationID string     `json:"correlation_id"`
	Topology      string     `json:"topology"`
	Version       int        `json:"version"`
	Node          string     `json:"node"`
	State         string     `json:"state"`
	Total         int        `json:"total"`
	Open          int        `json:"open"`
	Trashed       int        `json:"trashed"`
	Done          int        `json:"done"`
	Rejected      int        `json:"rejected"`
	Terminated    int        `json:"terminated"`
	StartedAt     *time.Time `json:"started_at"`
	FinishedAt    *time.Time `json:"finished_at"`

	ReplayOf *struct {
		CorrelationID string `json:"correlation_id"`
		MessageID     string `json:"message_id"`
		By            string `json:"replayed_by"`
		Reason        string `json:"reason"`
	} `json:"replay_of"`
	Entities []struct {
		Kind  string `json:"kind"`
		Value string `json:"value"`
	} `json:"entities"`
}

func (v processView) label() string { return fmt.Sprintf("%s v%d", v.Topology, v.Version) }

func (v processView) row() []string {
	return []string{
		v.CorrelationID, v.label(), v.State, fmt.Sprintf("%d/%d", v.Total-v.Open-v.Trashed, v.Total),
		strconv.Itoa(v.Trashed), when(v.StartedAt), took(v.StartedAt, v.FinishedAt),
	}
}

func took(from, to *time.Time) string {
	if from == nil || to == nil {
		return ""
	}
	return to.Sub(*from).Round(time.Millisecond).String()
}

type processListCmd struct {
	apiFlags
	Topology string `placeholder:"NAME" help:"Only of this topology."`
	Version  int    `placeholder:"N" help:"Only of this version of it."`
	State    string `enum:"running,failed,parked,done,terminated,rejected," default:"" help:"Only in this state: running, failed, parked (a person is to decide), done, terminated or rejected."`
	Entity   string `placeholder:"KIND:VALUE" help:"Only what is about this entity, such as order:ABC-123; or a value of any kind."`
	Limit    int    `default:"20" help:"How many to list at most."`
}

func (processListCmd) Help() string {
	return examples("",
		"sluice process list",
		"sluice process list --entity order:ABC-123",
		"sluice process list --topology orders --state failed --limit 100 --output json")
}

func (c processListCmd) Run(ctx context.Context, p *program, api *client) error {
	l, err := list[processView](ctx, api, "/processes",
		queryOf("topology", c.Topology, "version", number(c.Version), "state", c.State, "entity", c.Entity), c.Limit)
	if err != nil {
		return err
	}
	defer l.more(p)
	return p.print(l, func(w io.Writer) {
		if len(l.Items) == 0 {
			fmt.Fprintln(w, "No processes like that yet. Set one off: sluice send TOPOLOGY NODE --data '{}'")
			return
		}
		table(w, "CORRELATION-ID TOPOLOGY STATE SETTLED TRASH STARTED TOOK", rows(l, processView.row)...)
	})
}

// number is a number for a query; 0 is left out.
func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

type processShowCmd struct {
	apiFlags
	ID    string `arg:"" name:"correlation-id" help:"Correlation id of the process."`
	Limit int    `default:"500" help:"How many messages to show at most."`
}

func (processShowCmd) Help() string {
	return examples("",
		"sluice process show 0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60",
		"sluice process show 0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60 --output json | jq '.messages[].place'")
}

// messageView is a message as the API tells it.
type messageView struct {
	MessageID string     `json:"message_id"`
	From      string     `json:"from"`
	Node      string     `json:"node"`
	Place     string     `json:"place"`
	DueAt     *time.Time `json:"due_at"`
	Attempt   int        `json:"attempt"`
	Size      int64      `json:"size"`
}

func (v messageView) row() []string {
	return []string{v.MessageID, v.From, v.Node, v.Place, strconv.Itoa(v.Attempt), strconv.FormatInt(v.Size, 10), when(v.DueAt)}
}

func (c processShowCmd) Run(ctx context.Context, p *program, api *client) error {
	of, err := ask[processView](ctx, api, request{method: http.MethodGet, path: pathOf("processes", c.ID)})
	if err != nil {
		return err
	}
	messages, err := list[messageView](ctx, api, pathOf("processes", c.ID, "messages"), nil, c.Limit)
	if err != nil {
		return err
	}
	defer messages.more(p)
	whole := map[string]json.RawMessage{}
	if err := json.Unmarshal(of.raw, &whole); err != nil {
		return err
	}
	if whole["messages"], err = json.Marshal(messages.Items); err != nil {
		return err
	}
	return p.print(whole, func(w io.Writer) {
		of.Shown.write(w)
		fmt.Fprintln(w)
		table(w, "MESSAGE FROM NODE PLACE ATTEMPTS BYTES DUE", rows(messages, messageView.row)...)
	})
}

func (v processView) write(w io.Writer) {
	about := make([]string, len(v.Entities))
	for i, e := range v.Entities {
		about[i] = e.Kind + ":" + e.Value
	}
	again := ""
	if r := v.ReplayOf; r != nil {
		again = cmp.Or(r.MessageID, r.CorrelationID) + ", by " + r.By
		if r.Reason != "" {
			again += ": " + r.Reason
		}
	}
	facts(w,
		"Process", v.CorrelationID,
		"Replay of", again,
		"Topology", v.label(),
		"State", v.State,
		"Messages", fmt.Sprintf("%d: %d on their way, %d in the trash, %d done, %d rejected, %d terminated",
			v.Total, v.Open, v.Trashed, v.Done, v.Rejected, v.Terminated),
		"Started", when(v.StartedAt)+" at node "+v.Node,
		"Finished", when(v.FinishedAt),
		"Took", took(v.StartedAt, v.FinishedAt),
		"About", strings.Join(about, ", "),
	)
}

type processTerminateCmd struct {
	apiFlags
	ID     string `arg:"" name:"correlation-id" help:"Correlation id of the process."`
	Reason string `help:"Why, for the record."`
}

func (processTerminateCmd) Help() string {
	return examples("Its messages on edges and in the trash are settled as terminated. A call that is under way is not cut off, but what it returns goes nowhere.",
		"sluice process terminate 0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60 --reason 'sent by mistake'")
}

func (c processTerminateCmd) Run(ctx context.Context, p *program, api *client) error {
	type terminated struct {
		Terminated int `json:"terminated"`
	}
	t, err := ask[terminated](ctx, api, request{
		method: http.MethodPost, path: pathOf("processes", c.ID, "terminate"),
	}.jsonBody(map[string]string{"reason": c.Reason}))
	if err != nil {
		return err
	}
	return p.print(t, func(w io.Writer) {
		fmt.Fprintf(w, "Terminated %s of process %s.\n", count(t.Shown.Terminated, "message"), line(c.ID))
	})
}
