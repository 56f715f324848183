package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/google/uuid"

	"sluice/queue/process"
)

type processReplayCmd struct {
	apiFlags
	IDs      []string      `arg:"" optional:"" name:"id" help:"Correlation ids of processes, which are replayed from their starts, or ids of messages, from where they were."`
	Topology string        `group:"filter" placeholder:"NAME" help:"Instead of ids: processes of this topology."`
	Of       int           `group:"filter" placeholder:"N" help:"Only of this version of it."`
	State    string        `group:"filter" enum:"running,failed,parked,done,terminated,rejected," default:"" help:"Only in this state: running, failed, parked, done, terminated or rejected."`
	Entity   string        `group:"filter" placeholder:"KIND:VALUE" help:"Only what is about this entity."`
	Since    time.Duration `group:"filter" placeholder:"DURATION" help:"Only what came in within this time."`
	Node     string        `group:"filter" placeholder:"NAME" help:"From this node on, instead of from the start."`
	Version  int           `placeholder:"N" help:"The version that works it, at the node of the same name. Default: the one that did before."`
	Reason   string        `help:"Why, for the record."`
	Once     string        `placeholder:"TEXT" help:"Names this undertaking: what was replayed with this text is not replayed again. Default: a new one, which is told."`
	Yes      bool          `short:"y" help:"Of a filter: begin at once. Without it, what it finds is only counted."`
}

func (processReplayCmd) Help() string {
	return examples("A replay is a new process that begins where the other was, with what that one had there; what it repeats stays as it was. "+
		"Its messages have the header replay-of, so that workers can tell.",
		"sluice process replay 0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60",
		"sluice process replay 0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-4711 --version 4 --reason 'fixed in v4'",
		"sluice process replay --topology orders --state rejected --since 24h",
		"sluice process replay --topology orders --since 24h --node invoice --once outage-2026-03 --yes")
}

func (c processReplayCmd) Run(ctx context.Context, p *program, api *client) error {
	switch {
	case len(c.IDs) > 0 && c.Topology != "":
		return usagef("name ids, or a topology, and not both")
	case len(c.IDs) == 0 && c.Topology == "":
		return usagef("name the processes or messages to replay, or the topology with --topology")
	case len(c.IDs) > 0 && (c.Of != 0 || c.State != "" || c.Entity != "" || c.Since != 0 || c.Node != "" || c.Yes):
		return usagef("--of, --state, --entity, --since, --node and --yes are for --topology")
	}
	if c.Once == "" {
		c.Once = uuid.NewString()
	}
	if len(c.IDs) > 0 {
		return c.each(ctx, p, api)
	}
	if !c.Yes {
		return c.preview(ctx, p, api)
	}
	return c.many(ctx, p, api)
}

// replayedView is a replay as the API tells it.
type replayedView struct {
	CorrelationID string `json:"correlation_id"`
	Version       int    `json:"version,omitempty"`
	Duplicate     bool   `json:"duplicate"`
}

// each replays what is named.
func (c processReplayCmd) each(ctx context.Context, p *program, api *client) error {
	var done []replayedView
	for _, id := range c.IDs {
		path := pathOf("processes", id, "replay")
		if _, err := process.ParseMessageID(id); err == nil {
			path = pathOf("messages", id, "replay")
		}
		r, err := ask[replayedView](ctx, api, request{
			method: http.MethodPost, path: path, headers: map[string]string{"Idempotency-Key": c.Once},
		}.jsonBody(c.onto(map[string]any{})))
		if err != nil {
			return fmt.Errorf("replay %s: %w", line(id), err)
		}
		done = append(done, r.Shown)
	}
	return p.print(map[string]any{"items": done}, func(w io.Writer) {
		for i, r := range done {
			was := ""
			if r.Duplicate {
				was = ", which was there already"
			}
			fmt.Fprintf(w, "%s is replayed by process %s%s.\n", line(c.IDs[i]), line(r.CorrelationID), was)
		}
	})
}

// plan is what a filter finds, as the API wants it.
func (c processReplayCmd) plan() map[string]any {
	filter := map[string]any{"topology": c.Topology}
	for name, value := range map[string]string{"state": c.State, "entity": c.Entity} {
		if value != "" {
			filter[name] = value
		}
	}
	if c.Of != 0 {
		filter["version"] = c.Of
	}
	if c.Since > 0 {
		filter["from"] = time.Now().Add(-c.Since).UTC().Format(time.RFC3339)
	}
	plan := map[string]any{"filter": filter}
	if c.Node != "" {
		plan["node"] = c.Node
	}
	return plan
}

// onto adds to what is asked for the version that is to work it, and why.
func (c processReplayCmd) onto(wish map[string]any) map[string]any {
	wish["reason"] = c.Reason
	if c.Version != 0 {
		wish["version"] = c.Version
	}
	return wish
}

func (c processReplayCmd) preview(ctx context.Context, p *program, api *client) error {
	type preview struct {
		Processes int  `json:"processes"`
		Replays   int  `json:"replays"`
		More      bool `json:"more"`
	}
	found, err := ask[preview](ctx, api, request{method: http.MethodPost, path: "/replays/preview"}.jsonBody(c.plan()))
	if err != nil {
		return err
	}
	return p.print(found, func(w io.Writer) {
		least := ""
		if found.Shown.More {
			least = ", and more that were not counted"
		}
		fmt.Fprintf(w, "%s of %s%s. Nothing is replayed yet: add --yes.\n", count(found.Shown.Replays, "replay"), count(found.Shown.Processes, "process"), least)
	})
}

// replaysView is what a call for many has done, as the API tells it.
type replaysView struct {
	Replayed   int `json:"replayed"`
	Duplicates int `json:"duplicates"`
	Failed     []struct {
		CorrelationID string          `json:"correlation_id"`
		MessageID     string          `json:"message_id,omitempty"`
		Error         json.RawMessage `json:"error"`
	} `json:"failed"`
	Next string `json:"next,omitempty"`
}

// many replays what the filter finds, a page a call.
func (c processReplayCmd) many(ctx context.Context, p *program, api *client) error {
	wish := c.onto(c.plan())
	wish["key"] = c.Once
	all := replaysView{}
	bar := p.output == "text" && isTerminal(p.stderr)
	told := time.Now()
	progress := func() string {
		return fmt.Sprintf("%s, %d there already, %d failed", count(all.Replayed, "replay"), all.Duplicates, len(all.Failed))
	}
	for next := ""; ; {
		if next != "" {
			wish["after"] = next
		}
		page, err := ask[replaysView](ctx, api, request{method: http.MethodPost, path: "/replays"}.jsonBody(wish))
		if err != nil {
			return fmt.Errorf("%w (%s so far: go on with the same words and --once %s)", err, progress(), c.Once)
		}
		all.Replayed, all.Duplicates, all.Failed = all.Replayed+page.Shown.Replayed, all.Duplicates+page.Shown.Duplicates, append(all.Failed, page.Shown.Failed...)
		switch {
		case bar:
			fmt.Fprintf(p.stderr, "\r%s", progress())
		case time.Since(told) > 10*time.Second:
			told = time.Now()
			p.note("%s", progress())
		}
		if next = page.Shown.Next; next == "" {
			break
		}
	}
	if bar {
		fmt.Fprintln(p.stderr)
	}
	if err := p.print(all, func(w io.Writer) {
		fmt.Fprintf(w, "Done: %s.\n", progress())
		for _, f := range all.Failed {
			fmt.Fprintf(w, "%s: %s\n", line(cmp.Or(f.MessageID, f.CorrelationID)), line(string(f.Error)))
		}
	}); err != nil {
		return err
	}
	if len(all.Failed) > 0 {
		return fmt.Errorf("%s failed", count(len(all.Failed), "replay"))
	}
	return nil
}
