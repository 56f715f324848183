package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"sluice/gateway"
)

type traceCmd struct {
	Show   traceShowCmd   `cmd:"" default:"withargs" help:"Show the history of an entity: also without the word show."`
	Export traceExportCmd `cmd:"" help:"Write the history of an entity to a file, signed."`
	Verify traceVerifyCmd `cmd:"" help:"Tell whether a file is as it was signed."`
}

func (traceCmd) Help() string {
	return examples("The history of an order, or of whatever topologies declare as entities, over all topologies and versions.",
		"sluice trace order:ABC-123", "sluice trace export order:ABC-123 --to abc-123.html", "sluice trace verify abc-123.html")
}

type traceShowCmd struct {
	apiFlags
	Entity string `arg:"" help:"What to trace, as KIND:VALUE, or VALUE of any kind."`
	Limit  int    `default:"200" help:"How many events and calls to show at most."`
}

func (traceShowCmd) Help() string {
	return examples("Every event about it, and every message for a node that talks to a third party, with how its delivery stands.",
		"sluice trace order:ABC-123", "sluice trace show ABC-123 --output json")
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

func (c traceShowCmd) Run(ctx context.Context, p *program, api *client) error {
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

type traceExportCmd struct {
	apiFlags
	Entity string `arg:"" help:"What to trace, as KIND:VALUE, or VALUE of any kind."`
	To     string `required:"" placeholder:"FILE" help:"Where to write it: a file that ends in .json or .html."`
}

func (traceExportCmd) Help() string {
	return examples("The file can be given to somebody else, who needs nothing to read it, and can tell with the public key that it was not changed.",
		"sluice trace export order:ABC-123 --to abc-123.html")
}

func (c traceExportCmd) Run(ctx context.Context, p *program, api *client) error {
	format := strings.TrimPrefix(filepath.Ext(c.To), ".")
	if format != "json" && format != "html" {
		return usagef("--to %s ends neither in .json nor in .html", c.To)
	}
	report, err := api.send(ctx, request{method: http.MethodGet, path: "/trace/export", query: queryOf("entity", c.Entity, "format", format)})
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.To, report, 0o600); err != nil {
		return err
	}
	return p.print(map[string]any{"file": c.To, "bytes": len(report)}, func(w io.Writer) { fmt.Fprintf(w, "Wrote %s.\n", c.To) })
}

type traceVerifyCmd struct {
	apiFlags
	File      string   `arg:"" help:"A file that trace export wrote."`
	PublicKey []string `placeholder:"KEY" help:"The key that it must be signed with. Default: those that this Sluice shows."`
}

func (traceVerifyCmd) Help() string {
	return examples("A file names the key that it was signed with, and anyone could sign with a key of their own: so the right ones are asked of Sluice, or given.",
		"sluice trace verify abc-123.html",
		"sluice trace verify abc-123.json --public-key 11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
}

func (c traceVerifyCmd) Run(ctx context.Context, p *program) error {
	report, err := os.ReadFile(c.File)
	if err != nil {
		return err
	}
	if len(c.PublicKey) == 0 {
		api, err := p.api.client(p)
		if err != nil {
			return err
		}
		type keys struct {
			Items []struct {
				PublicKey string `json:"public_key"`
			} `json:"items"`
		}
		shown, err := ask[keys](ctx, api, request{method: http.MethodGet, path: "/trace/keys"})
		if err != nil {
			return err
		}
		for _, k := range shown.Shown.Items {
			c.PublicKey = append(c.PublicKey, k.PublicKey)
		}
	}
	key, err := gateway.VerifyReport(report, c.PublicKey)
	if err != nil {
		return fmt.Errorf("%s: %w", c.File, err)
	}
	return p.print(map[string]any{"file": c.File, "public_key": key}, func(w io.Writer) {
		fmt.Fprintf(w, "%s is as it was signed with the key %s.\n", c.File, key)
	})
}
