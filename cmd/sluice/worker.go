package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

type workerCmd struct {
	New         workerNewCmd         `cmd:"" help:"Write a worker to begin with, a test for it and a topology."`
	Add         workerAddCmd         `cmd:"" help:"Register a worker, and print the secret that signs the calls to it."`
	List        workerListCmd        `cmd:"" help:"List workers."`
	Show        workerShowCmd        `cmd:"" help:"Show a worker, with the nodes and applications that it said it has."`
	Refresh     workerRefreshCmd     `cmd:"" help:"Ask a worker what it has, and whether it lives."`
	Move        workerMoveCmd        `cmd:"" help:"Say that a worker listens elsewhere."`
	Credentials workerCredentialsCmd `cmd:"" help:"Say what a worker is shown of who calls."`
	Test        workerTestCmd        `cmd:"" help:"Call the nodes of a worker, or one of them, outside of any process."`
	Remove      workerRemoveCmd      `cmd:"" help:"Forget a worker."`
}

func (workerCmd) Help() string {
	return examples("A worker is an HTTP service of yours. Nodes name it, and Sluice posts their messages to it; docs/worker-protocol.md is the contract. A worker made for Orchesty is called as Orchesty does: docs/orchesty.md.",
		"sluice worker add shop http://127.0.0.1:9000", "sluice worker add legacy http://127.0.0.1:8080 --protocol orchesty", "sluice worker new --lang python shop")
}

// workerView is a worker as the API tells it.
type workerView struct {
	Name       string     `json:"name"`
	URL        string     `json:"url"`
	Pull       bool       `json:"pull"`
	Protocol   string     `json:"protocol"`
	Dialect    string     `json:"dialect"`
	Secret     string     `json:"secret"`
	CreatedAt  *time.Time `json:"created_at"`
	DownSince  *time.Time `json:"down_since"`
	DownReason string     `json:"down_reason"`
	ListedAt   *time.Time `json:"listed_at"`
	ListError  string     `json:"listing_error"`

	Credentials shownCredentials `json:"credentials"`
}

func (v workerView) row() []string {
	return []string{v.Name, v.place(), v.speaks(), when(v.CreatedAt), when(v.DownSince), v.DownReason}
}

// place is where the worker's calls go.
func (v workerView) place() string {
	if v.Pull {
		return "takes its calls itself"
	}
	return v.URL
}

// speaks is the worker's protocol, with its dialect if that is not the usual one.
func (v workerView) speaks() string {
	if v.Dialect == "b" {
		return v.Protocol + " (dialect b)"
	}
	return v.Protocol
}

type workerAddCmd struct {
	apiFlags
	credentialFlags
	Name   string `arg:"" help:"Name by which topologies know it."`
	Server string `arg:"" optional:"" name:"worker-url" help:"Where it listens; the actions of nodes are paths below."`
	Pull   bool   `help:"Instead of a URL: it takes its calls itself, or sluice agent does for it."`

	Protocol string `enum:"sluice,orchesty" default:"sluice" help:"What it speaks: ${enum}. A worker on Orchesty's SDK speaks orchesty."`
	Dialect  string `enum:",a,b" default:"" help:"Of Orchesty's protocol: a is the published one, b what came after."`
}

func (workerAddCmd) Help() string {
	return examples("The secret is shown once. Give it to the worker, which verifies by it that a call comes from here.",
		"sluice worker add shop http://127.0.0.1:9000",
		"sluice worker add shop https://shop.example.com/sluice --output json | jq -r .secret",
		"sluice worker add legacy http://127.0.0.1:8080 --protocol orchesty",
		"sluice worker add shop https://shop.example.com/sluice --bearer-token-file token",
		"sluice worker add inside --pull")
}

func (c workerAddCmd) Run(ctx context.Context, p *program, api *client) error {
	said := map[string]any{"name": c.Name, "protocol": c.Protocol}
	credentials, err := c.credentials()
	if err != nil {
		return err
	}
	if len(credentials) > 0 {
		said["credentials"] = credentials
	}
	added, err := ask[workerView](ctx, api, request{method: http.MethodPost, path: "/workers"}.jsonBody(atPlace(said, c.Server, c.Pull, c.Dialect)))
	if err != nil {
		return err
	}
	return p.print(added, func(w io.Writer) {
		facts(w, "Worker", added.Shown.Name, "URL", added.Shown.place(), "Protocol", added.Shown.speaks(), "Secret", added.Shown.Secret)
		switch {
		case added.Shown.Secret != "" && added.Shown.Credentials.BearerToken:
			fmt.Fprintln(w, "\nThe secret signs the calls. A worker that checks the token need not know it. It is not shown again.")
		case added.Shown.Secret != "":
			fmt.Fprintln(w, "\nGive the secret to the worker. It is not shown again.")
		default:
			fmt.Fprintf(w, "\nSee what it has: sluice worker refresh %s\n", line(added.Shown.Name))
		}
	})
}

// atPlace adds to what is said of a worker where its calls go, and its dialect if there is one.
func atPlace(said map[string]any, url string, pull bool, dialect string) map[string]any {
	if url != "" {
		said["url"] = url
	}
	if pull {
		said["pull"] = true
	}
	if dialect != "" {
		said["dialect"] = dialect
	}
	return said
}

type workerMoveCmd struct {
	apiFlags
	Name   string `arg:"" help:"Name of the worker."`
	Server string `arg:"" optional:"" name:"worker-url" help:"Where it listens from now on."`
	Pull   bool   `help:"Instead of a URL: it takes its calls itself from now on, or sluice agent does for it."`

	Dialect string `enum:",a,b" default:"" help:"Of Orchesty's protocol, from now on."`
}

func (workerMoveCmd) Help() string {
	return examples("Its secret stays. Calls under way end where they started.",
		"sluice worker move shop http://127.0.0.1:9001")
}

func (c workerMoveCmd) Run(ctx context.Context, p *program, api *client) error {
	if _, err := api.send(ctx, request{method: http.MethodPut, path: pathOf("workers", c.Name)}.
		jsonBody(atPlace(map[string]any{}, c.Server, c.Pull, c.Dialect))); err != nil {
		return err
	}
	moved := workerView{Name: c.Name, URL: c.Server, Pull: c.Pull}
	return p.print(map[string]any{"name": c.Name, "url": c.Server, "pull": c.Pull}, func(w io.Writer) {
		if moved.Pull {
			fmt.Fprintf(w, "%s takes its calls itself from now on.\n", line(c.Name))
			return
		}
		fmt.Fprintf(w, "Moved %s to %s.\n", line(c.Name), line(c.Server))
	})
}

type workerListCmd struct {
	apiFlags
	Limit int `default:"500" help:"How many to list at most."`
}

func (workerListCmd) Help() string {
	return examples("", "sluice worker list", "sluice worker list --output json")
}

func (c workerListCmd) Run(ctx context.Context, p *program, api *client) error {
	l, err := list[workerView](ctx, api, "/workers", nil, c.Limit)
	if err != nil {
		return err
	}
	defer l.more(p)
	return p.print(l, func(w io.Writer) {
		if len(l.Items) == 0 {
			fmt.Fprintln(w, "No workers yet. Register one: sluice worker add NAME URL")
			return
		}
		table(w, "NAME URL PROTOCOL REGISTERED DOWN-SINCE REASON", rows(l, workerView.row)...)
	})
}

// workerDetailView is a worker with what it has.
type workerDetailView struct {
	workerView
	Nodes []struct {
		Kind        string `json:"kind"`
		Name        string `json:"name"`
		Application string `json:"application"`
	} `json:"nodes"`
	Applications []struct {
		Key           string `json:"key"`
		Name          string `json:"name"`
		Authorization string `json:"authorization"`
		Type          string `json:"type"`
	} `json:"applications"`
}

func (v workerDetailView) write(w io.Writer) {
	facts(w, append([]string{"Worker", v.Name, "URL", v.URL, "Protocol", v.speaks(), "Registered", when(v.CreatedAt),
		"Down since", when(v.DownSince), "Reason", v.DownReason, "Listed", when(v.ListedAt), "Not listed since", v.ListError},
		v.Credentials.facts()...)...)
	if len(v.Nodes) > 0 {
		var nodes [][]string
		for _, n := range v.Nodes {
			nodes = append(nodes, []string{n.Kind, n.Name, n.Application})
		}
		fmt.Fprintln(w)
		table(w, "KIND NODE APPLICATION", nodes...)
	}
	if len(v.Applications) > 0 {
		var applications [][]string
		for _, a := range v.Applications {
			applications = append(applications, []string{a.Key, a.Name, a.Authorization, a.Type})
		}
		fmt.Fprintln(w)
		table(w, "APPLICATION NAME AUTHORIZATION TYPE", applications...)
	}
}

type workerShowCmd struct {
	apiFlags
	Name string `arg:"" help:"Name of the worker."`
}

func (workerShowCmd) Help() string {
	return examples("What it has is as it said when it was last asked; only workers that speak Orchesty's protocol can be.",
		"sluice worker show legacy", "sluice worker show legacy --output json | jq -r '.nodes[].name'")
}

func (c workerShowCmd) Run(ctx context.Context, p *program, api *client) error {
	shown, err := ask[workerDetailView](ctx, api, request{method: http.MethodGet, path: pathOf("workers", c.Name)})
	if err != nil {
		return err
	}
	return p.print(shown, shown.Shown.write)
}

type workerRefreshCmd struct {
	apiFlags
	Name string `arg:"" help:"Name of the worker."`
}

func (workerRefreshCmd) Help() string {
	return examples("Fails when the worker does not answer. What it said before stays then.", "sluice worker refresh legacy")
}

func (c workerRefreshCmd) Run(ctx context.Context, p *program, api *client) error {
	shown, err := ask[workerDetailView](ctx, api, request{method: http.MethodPost, path: pathOf("workers", c.Name, "refresh")})
	if err != nil {
		return err
	}
	if err := p.print(shown, shown.Shown.write); err != nil {
		return err
	}
	if shown.Shown.ListError != "" {
		return &toldError{exitFailed}
	}
	return nil
}

type workerRemoveCmd struct {
	apiFlags
	Name string `arg:"" help:"Name of the worker."`
}

func (workerRemoveCmd) Help() string {
	return examples("One that an enabled topology names stays.", "sluice worker remove shop")
}

func (c workerRemoveCmd) Run(ctx context.Context, p *program, api *client) error {
	if _, err := api.send(ctx, request{method: http.MethodDelete, path: pathOf("workers", c.Name)}); err != nil {
		return err
	}
	return p.print(map[string]string{"removed": c.Name}, func(w io.Writer) { fmt.Fprintf(w, "Removed %s.\n", line(c.Name)) })
}
