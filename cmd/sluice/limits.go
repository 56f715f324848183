package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

type limitsCmd struct {
	List      limitsListCmd      `cmd:"" help:"List the limits of applications, and what they hold."`
	Show      limitsShowCmd      `cmd:"" help:"Show what a limit holds, whose messages they are, and how long it will take."`
	Set       limitsSetCmd       `cmd:"" help:"Say what an application allows."`
	Remove    limitsRemoveCmd    `cmd:"" help:"Let an application be called without limits."`
	Pause     limitsPauseCmd     `cmd:"" help:"Hold all messages for an application."`
	Resume    limitsResumeCmd    `cmd:"" help:"End the pause of an application."`
	Raise     limitsRaiseCmd     `cmd:"" help:"Raise a limit for a while."`
	Users     limitsUsersCmd     `cmd:"" help:"List the users of an application."`
	User      limitsUserCmd      `cmd:"" help:"Say what is other for a user, or that nothing is."`
	Terminate limitsTerminateCmd `cmd:"" help:"End messages that a limit holds."`
}

func (limitsCmd) Help() string {
	return examples("Nodes name the application that they talk to. What it allows is shared by all nodes, topologies and processes; the header user of a message says for which of its users it is.",
		"sluice limits set hubspot --rate 100/10s --burst 20",
		"sluice limits show hubspot",
		"sluice limits raise hubspot 2 --during 1h")
}

// rateView is how many calls may be made in a time.
type rateView struct {
	Amount float64 `json:"amount"`
	Per    float64 `json:"per_seconds"`
	Burst  float64 `json:"burst,omitempty"`
}

func (v *rateView) String() string {
	if v == nil {
		return ""
	}
	per := time.Duration(v.Per * float64(time.Second))
	text := decimal(v.Amount) + "/" + lapse(per)
	if v.Burst != 0 {
		text += " burst " + decimal(v.Burst)
	}
	return text
}

func decimal(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) }

// parseRate reads 100/10s, 5/s or 1000/1h.
func parseRate(flag, text string, burst float64) (*rateView, error) {
	if text == "" {
		if burst != 0 {
			return nil, usagef("a burst is of a rate: give --%s too", flag)
		}
		return nil, nil
	}
	amount, per, ok := strings.Cut(text, "/")
	if per != "" && (per[0] < '0' || per[0] > '9') {
		per = "1" + per
	}
	n, err := strconv.ParseFloat(amount, 64)
	d, wrong := time.ParseDuration(per)
	if !ok || err != nil || wrong != nil {
		return nil, usagef("--%s %q is no rate: want calls in a time, like 5/s, 100/10s or 1000/1h", flag, text)
	}
	return &rateView{Amount: n, Per: d.Seconds(), Burst: burst}, nil
}

// limitView is a limit as the API tells it.
type limitView struct {
	Application string     `json:"application"`
	User        *rateView  `json:"user"`
	Total       *rateView  `json:"total"`
	Parallel    int        `json:"parallel"`
	PausedAt    *time.Time `json:"paused_at"`
	PausedBy    string     `json:"paused_by"`
	Raise       float64    `json:"raise"`
	RaisedUntil *time.Time `json:"raised_until"`
	ClosedUntil *time.Time `json:"closed_until"`
	Share       float64    `json:"share"`
	Held        int64      `json:"held"`
	In          float64    `json:"in_per_second"`
	Out         float64    `json:"out_per_second"`
	Running     int        `json:"running"`
	Tokens      *float64   `json:"tokens"`
	Drain       *float64   `json:"drain_seconds"`
	Topologies  []struct {
		Topology string  `json:"topology"`
		Held     int64   `json:"held"`
		In       float64 `json:"in_per_second"`
		Out      float64 `json:"out_per_second"`
	} `json:"topologies"`
	Busiest []limitUserView `json:"busiest"`
}

type limitUserView struct {
	User       string    `json:"user"`
	Rate       *rateView `json:"rate"`
	Weight     float64   `json:"weight"`
	Overridden bool      `json:"overridden"`
	Held       int64     `json:"held"`
	In         float64   `json:"in_per_second"`
	Out        float64   `json:"out_per_second"`
	Tokens     *float64  `json:"tokens"`
	Drain      *float64  `json:"drain_seconds"`
}

// state is what is not as usual.
func (v limitView) state() string {
	var parts []string
	if v.PausedAt != nil {
		parts = append(parts, "paused by "+v.PausedBy)
	}
	if v.ClosedUntil != nil {
		parts = append(parts, "closed until "+when(v.ClosedUntil))
	}
	if v.RaisedUntil != nil {
		parts = append(parts, fmt.Sprintf("%s times until %s", decimal(v.Raise), when(v.RaisedUntil)))
	}
	if v.Share != 0 && v.Share < 1 {
		parts = append(parts, fmt.Sprintf("slowed to %.0f %%", 100*v.Share))
	}
	return strings.Join(parts, ", ")
}

func (v limitView) row() []string {
	parallel := ""
	if v.Parallel != 0 {
		parallel = strconv.Itoa(v.Parallel)
	}
	return []string{
		v.Application, v.User.String(), v.Total.String(), parallel, strconv.FormatInt(v.Held, 10), perSecond(v.In), perSecond(v.Out),
		drain(v.Drain), v.state(),
	}
}

func (v limitUserView) row() []string {
	tokens := ""
	if v.Tokens != nil {
		tokens = strconv.FormatFloat(*v.Tokens, 'f', 1, 64)
	}
	name := v.User
	if name == "" {
		name = "(none)"
	}
	return []string{name, v.Rate.String(), decimal(v.Weight), strconv.FormatInt(v.Held, 10), perSecond(v.In), perSecond(v.Out), tokens, drain(v.Drain)}
}

func perSecond(rate float64) string { return strconv.FormatFloat(rate, 'f', 1, 64) }

func drain(seconds *float64) string {
	if seconds == nil {
		return ""
	}
	return lapse(time.Duration(*seconds * float64(time.Second)))
}

const limitUserHeading = "USER LIMIT WEIGHT HELD IN/S OUT/S TOKENS DRAINS-IN"

func (v limitView) write(w io.Writer) {
	parallel, tokens := "", ""
	if v.Parallel != 0 {
		parallel = count(int64(v.Parallel), "call")
	}
	if v.Tokens != nil {
		tokens = strconv.FormatFloat(*v.Tokens, 'f', 1, 64)
	}
	facts(w, "Application", v.Application, "Each user", v.User.String(), "All users", v.Total.String(), "At the same time", parallel,
		"State", v.state(), "Held", count(v.Held, "message"), "Drains in", drain(v.Drain), "In and out", perSecond(v.In)+" and "+perSecond(v.Out)+" a second",
		"Calls", strconv.Itoa(v.Running), "Tokens of all", tokens)
	if len(v.Topologies) > 0 {
		fmt.Fprintln(w)
		all := make([][]string, len(v.Topologies))
		for i, t := range v.Topologies {
			all[i] = []string{t.Topology, strconv.FormatInt(t.Held, 10), perSecond(t.In), perSecond(t.Out)}
		}
		table(w, "TOPOLOGY HELD IN/S OUT/S", all...)
	}
	if len(v.Busiest) > 0 {
		fmt.Fprintln(w)
		all := make([][]string, len(v.Busiest))
		for i, u := range v.Busiest {
			all[i] = u.row()
		}
		table(w, limitUserHeading, all...)
	}
}

// showLimit makes a call that is answered with a limit, and shows it.
func showLimit(ctx context.Context, p *program, api *client, r request) error {
	v, err := ask[limitView](ctx, api, r)
	if err != nil {
		return err
	}
	return p.print(v, v.Shown.write)
}

type limitsListCmd struct {
	apiFlags
	Limit int `default:"200" help:"How many to list at most."`
}

func (limitsListCmd) Help() string {
	return examples("DRAINS-IN is how long it takes until nothing is held, if no more comes.", "sluice limits list", "sluice limits list --output json")
}

func (c limitsListCmd) Run(ctx context.Context, p *program, api *client) error {
	l, err := list[limitView](ctx, api, "/limits", nil, c.Limit)
	if err != nil {
		return err
	}
	defer l.more(p)
	return p.print(l, func(w io.Writer) {
		if len(l.Items) == 0 {
			fmt.Fprintln(w, "No limits yet. Set one: sluice limits set APPLICATION --rate 50/s")
			return
		}
		table(w, "APPLICATION EACH-USER ALL-USERS PARALLEL HELD IN/S OUT/S DRAINS-IN STATE", rows(l, limitView.row)...)
	})
}

type limitsShowCmd struct {
	apiFlags
	Application string `arg:"" help:"The application, as nodes name it."`
}

func (limitsShowCmd) Help() string {
	return examples("Rates are of the last ten seconds or so.", "sluice limits show hubspot", "sluice limits show hubspot --output json | jq .drain_seconds")
}

func (c limitsShowCmd) Run(ctx context.Context, p *program, api *client) error {
	return showLimit(ctx, p, api, request{method: http.MethodGet, path: pathOf("limits", c.Application)})
}

type limitsSetCmd struct {
	apiFlags
	Application string             `arg:"" help:"The application, as nodes name it."`
	Rate        string             `placeholder:"N/TIME" help:"Calls of each user in a time: 5/s, 100/10s, 1000/1h."`
	Burst       float64            `placeholder:"N" help:"Calls of each user at once, after a rest. Default: what comes in a second."`
	Total       string             `placeholder:"N/TIME" help:"Calls of all users together."`
	TotalBurst  float64            `placeholder:"N" help:"Calls of all users at once, after a rest."`
	Parallel    int                `placeholder:"N" help:"Calls under way at the same time."`
	Weight      map[string]float64 `placeholder:"TOPOLOGY=N" help:"How topologies share what a user has; one that is not named has 1. May be given several times."`
}

func (limitsSetCmd) Help() string {
	return examples("It replaces what was said before, and holds within a second, for messages that are held already, too. In any window there are at most as many calls as the burst, and what the rate gives in its time.",
		"sluice limits set hubspot --rate 100/10s --burst 20",
		"sluice limits set crm --rate 5/s --total 50/s --parallel 10",
		"sluice limits set erp --total 1000/1h --weight orders=3 --weight reports=1")
}

func (c limitsSetCmd) Run(ctx context.Context, p *program, api *client) error {
	user, err := parseRate("rate", c.Rate, c.Burst)
	if err != nil {
		return err
	}
	total, err := parseRate("total", c.Total, c.TotalBurst)
	if err != nil {
		return err
	}
	body := map[string]any{}
	if user != nil {
		body["user"] = user
	}
	if total != nil {
		body["total"] = total
	}
	if c.Parallel != 0 {
		body["parallel"] = c.Parallel
	}
	if len(c.Weight) > 0 {
		body["weights"] = c.Weight
	}
	return showLimit(ctx, p, api, request{method: http.MethodPut, path: pathOf("limits", c.Application)}.jsonBody(body))
}

type limitsRemoveCmd struct {
	apiFlags
	Application string `arg:"" help:"The application."`
}

func (limitsRemoveCmd) Help() string {
	return examples("What is held goes on at once.", "sluice limits remove hubspot")
}

func (c limitsRemoveCmd) Run(ctx context.Context, p *program, api *client) error {
	if _, err := api.send(ctx, request{method: http.MethodDelete, path: pathOf("limits", c.Application)}); err != nil {
		return err
	}
	return p.print(map[string]string{"application": c.Application}, func(w io.Writer) {
		fmt.Fprintf(w, "%s has no limit any more.\n", line(c.Application))
	})
}

type limitsPauseCmd struct {
	apiFlags
	Application string `arg:"" help:"The application."`
}

func (limitsPauseCmd) Help() string {
	return examples("Calls under way end; nothing is lost.", "sluice limits pause hubspot")
}

func (c limitsPauseCmd) Run(ctx context.Context, p *program, api *client) error {
	return showLimit(ctx, p, api, request{method: http.MethodPost, path: pathOf("limits", c.Application, "pause")})
}

type limitsResumeCmd struct {
	apiFlags
	Application string `arg:"" help:"The application."`
}

func (limitsResumeCmd) Help() string {
	return examples("", "sluice limits resume hubspot")
}

func (c limitsResumeCmd) Run(ctx context.Context, p *program, api *client) error {
	return showLimit(ctx, p, api, request{method: http.MethodPost, path: pathOf("limits", c.Application, "resume")})
}

type limitsRaiseCmd struct {
	apiFlags
	Application string        `arg:"" help:"The application."`
	Factor      float64       `arg:"" help:"By how many times; 1 ends it, and less than 1 lowers the limit."`
	During      time.Duration `default:"1h" help:"For how long."`
}

func (limitsRaiseCmd) Help() string {
	return examples("Amounts and bursts are so many times what they are, for a while.", "sluice limits raise hubspot 2", "sluice limits raise hubspot 0.5 --during 30m", "sluice limits raise hubspot 1")
}

func (c limitsRaiseCmd) Run(ctx context.Context, p *program, api *client) error {
	return showLimit(ctx, p, api, request{method: http.MethodPost, path: pathOf("limits", c.Application, "raise")}.
		jsonBody(map[string]float64{"factor": c.Factor, "during_seconds": c.During.Seconds()}))
}

type limitsUsersCmd struct {
	apiFlags
	Application string `arg:"" help:"The application."`
	Limit       int    `default:"200" help:"How many to list at most."`
}

func (limitsUsersCmd) Help() string {
	return examples("Those whose messages were held, and those for whom something is other.", "sluice limits users hubspot")
}

func (c limitsUsersCmd) Run(ctx context.Context, p *program, api *client) error {
	l, err := list[limitUserView](ctx, api, pathOf("limits", c.Application, "users"), nil, c.Limit)
	if err != nil {
		return err
	}
	defer l.more(p)
	return p.print(l, func(w io.Writer) { table(w, limitUserHeading, rows(l, limitUserView.row)...) })
}

type limitsUserCmd struct {
	apiFlags
	Application string  `arg:"" help:"The application."`
	User        string  `arg:"" help:"The user, as the header user of messages names them."`
	Rate        string  `placeholder:"N/TIME" help:"Calls of this user in a time."`
	Burst       float64 `placeholder:"N" help:"Calls of this user at once."`
	Weight      float64 `placeholder:"N" help:"The share among the users, when there is not enough for all. Default: 1."`
	Reset       bool    `help:"Nothing is other for this user any more."`
}

func (limitsUserCmd) Help() string {
	return examples("It replaces what was said of the user before. Without flags, it shows what holds.",
		"sluice limits user hubspot acme --rate 200/10s", "sluice limits user hubspot acme --weight 3", "sluice limits user hubspot acme", "sluice limits user hubspot acme --reset")
}

func (c limitsUserCmd) Run(ctx context.Context, p *program, api *client) error {
	r := request{method: http.MethodGet, path: pathOf("limits", c.Application, "users", c.User)}
	rate, err := parseRate("rate", c.Rate, c.Burst)
	switch {
	case err != nil:
		return err
	case c.Reset && (rate != nil || c.Weight != 0):
		return usagef("--reset goes with nothing else")
	case c.Reset:
		r.method = http.MethodDelete
		if _, err := api.send(ctx, r); err != nil {
			return err
		}
		return p.print(map[string]string{"user": c.User}, func(w io.Writer) { fmt.Fprintf(w, "%s is a user like all.\n", line(c.User)) })
	case rate != nil || c.Weight != 0:
		body := map[string]any{}
		if rate != nil {
			body["rate"] = rate
		}
		if c.Weight != 0 {
			body["weight"] = c.Weight
		}
		r.method = http.MethodPut
		r = r.jsonBody(body)
	}
	v, err := ask[limitUserView](ctx, api, r)
	if err != nil {
		return err
	}
	return p.print(v, func(w io.Writer) { table(w, limitUserHeading, v.Shown.row()) })
}

type limitsTerminateCmd struct {
	apiFlags
	Application string   `arg:"" help:"The application."`
	User        *string  `group:"filter" placeholder:"USER" help:"Only of this user; empty: of messages that name none."`
	Topology    string   `group:"filter" placeholder:"NAME" help:"Only of this topology."`
	Process     []string `group:"filter" placeholder:"ID" help:"Only of these processes, by correlation id; may be repeated."`
	Reason      string   `help:"Why, for the record."`
	Yes         bool     `short:"y" help:"End them; without it they are only counted."`
}

func (limitsTerminateCmd) Help() string {
	return examples("They are settled as terminated, and other messages of their processes go on: to end a process as a whole, see `sluice process terminate`. What comes after the count stays.",
		"sluice limits terminate hubspot --user acme",
		"sluice limits terminate hubspot --process 0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60 --yes",
		"sluice limits terminate hubspot --topology import --reason 'wrong file' --yes")
}

func (c limitsTerminateCmd) Run(ctx context.Context, p *program, api *client) error {
	body := map[string]any{}
	if c.User != nil {
		body["user"] = *c.User
	}
	if c.Topology != "" {
		body["topology"] = c.Topology
	}
	if len(c.Process) > 0 {
		body["processes"] = c.Process
	}
	type choice struct {
		Count int64 `json:"count"`
		UpTo  int64 `json:"up_to"`
	}
	held, err := ask[choice](ctx, api, request{method: http.MethodPost, path: pathOf("limits", c.Application, "count-held")}.jsonBody(body))
	if err != nil {
		return err
	}
	if n := held.Shown.Count; !c.Yes || n == 0 {
		return p.print(held, func(w io.Writer) {
			fmt.Fprintf(w, "%s would be ended.", count(n, "message"))
			if n > 0 {
				fmt.Fprint(w, " End them: the same with --yes")
			}
			fmt.Fprintln(w)
		})
	}
	body["up_to"], body["reason"] = held.Shown.UpTo, c.Reason
	ended, err := ask[struct {
		Terminated int64 `json:"terminated"`
	}](ctx, api, request{method: http.MethodPost, path: pathOf("limits", c.Application, "terminate-held"), timeout: 2 * time.Minute}.jsonBody(body))
	if err != nil {
		return err
	}
	return p.print(ended, func(w io.Writer) { fmt.Fprintf(w, "Ended %s.\n", count(ended.Shown.Terminated, "message")) })
}
