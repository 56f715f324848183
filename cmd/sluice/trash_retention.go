package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

type retentionCmd struct {
	Show retentionShowCmd `cmd:"" default:"withargs" help:"Show how long is kept what was decided about."`
	Set  retentionSetCmd  `cmd:"" help:"Say how long is kept what was decided about."`
}

func (retentionCmd) Help() string {
	return examples("What waits in the trash stays until someone decides. What was decided about stays, too, unless a retention is set.",
		"sluice trash retention", "sluice trash retention set --rejected 90 --resolved 30")
}

// retentionView is a retention as the API tells it.
type retentionView struct {
	RejectedDays int        `json:"rejected_days"`
	ResolvedDays int        `json:"resolved_days"`
	SetBy        string     `json:"set_by"`
	SetAt        *time.Time `json:"set_at"`
	Deleted      int64      `json:"deleted"`
	DeletedAt    *time.Time `json:"deleted_at"`
}

func (v retentionView) write(w io.Writer) {
	facts(w,
		"Rejected", keptFor(v.RejectedDays),
		"Resolved", keptFor(v.ResolvedDays),
		"Set by", v.SetBy,
		"Set", when(v.SetAt),
		"Deleted", count(v.Deleted, "process"),
		"Last", when(v.DeletedAt),
	)
}

func keptFor(days int) string {
	if days == 0 {
		return "kept for ever"
	}
	unit := "days"
	if days == 1 {
		unit = "day"
	}
	return fmt.Sprintf("kept for %d %s after the process has ended", days, unit)
}

type retentionShowCmd struct {
	apiFlags
}

func (retentionShowCmd) Help() string { return examples("", "sluice trash retention show") }

func (c retentionShowCmd) Run(ctx context.Context, p *program, api *client) error {
	r, err := ask[retentionView](ctx, api, request{method: http.MethodGet, path: "/trash/retention"})
	if err != nil {
		return err
	}
	return p.print(r, r.Shown.write)
}

type retentionSetCmd struct {
	apiFlags
	Rejected *int `placeholder:"DAYS" help:"Days after the end of a process of which something was rejected; 0 is for ever. Default: as it is."`
	Resolved *int `placeholder:"DAYS" help:"Days after the end of a process of which something was sent again, and nothing rejected; 0 is for ever. Default: as it is."`
}

func (retentionSetCmd) Help() string {
	return examples("What goes is the process, with all its messages and what happened to them.",
		"sluice trash retention set --rejected 90 --resolved 30",
		"sluice trash retention set --rejected 0")
}

func (c retentionSetCmd) Run(ctx context.Context, p *program, api *client) error {
	if c.Rejected == nil && c.Resolved == nil {
		return usagef("nothing to set: say --rejected DAYS or --resolved DAYS")
	}
	now, err := ask[retentionView](ctx, api, request{method: http.MethodGet, path: "/trash/retention"})
	if err != nil {
		return err
	}
	body := map[string]any{"rejected_days": now.Shown.RejectedDays, "resolved_days": now.Shown.ResolvedDays}
	if c.Rejected != nil {
		body["rejected_days"] = *c.Rejected
	}
	if c.Resolved != nil {
		body["resolved_days"] = *c.Resolved
	}
	r, err := ask[retentionView](ctx, api, request{method: http.MethodPut, path: "/trash/retention"}.jsonBody(body))
	if err != nil {
		return err
	}
	return p.print(r, func(w io.Writer) {
		fmt.Fprintf(w, "Rejected: %s. Resolved: %s.\n", keptFor(r.Shown.RejectedDays), keptFor(r.Shown.ResolvedDays))
	})
}
