package main

import (
	"context"
	"errors"
	"net/http"
	"time"

	"sluice/cmd/sluice/agent"
)

type agentCmd struct {
	apiFlags
	logFlags
	Worker string        `required:"" placeholder:"URL" help:"Where the worker listens, as this machine sees it."`
	Name   string        `placeholder:"NAME" help:"Of the worker. Default: the one that the key is for."`
	Calls  int           `default:"16" help:"How many calls it makes of the worker at once."`
	Grace  time.Duration `default:"30s" help:"How long calls under way may take to end after Ctrl-C. What is cut off then is called again elsewhere."`
}

func (agentCmd) Help() string {
	return examples("Runs beside a worker in a network that nobody reaches, and only dials out: by HTTPS, and through the proxy that HTTPS_PROXY names. Any number of agents share the calls of a worker. "+
		"The worker is one that was added with --pull; the key has the scope pull, and is for this worker at best.",
		"sluice worker add shop --pull",
		"sluice key create shop-agent --scope pull --worker shop",
		"SLUICE_API_KEY=sluice_... sluice agent --url https://sluice.example --worker http://localhost:3000")
}

func (c agentCmd) Run(ctx context.Context, p *program) error {
	api, err := c.client(p)
	if err != nil {
		return err
	}
	if c.Calls < 1 {
		return usagef("--calls %d: want 1 or more", c.Calls)
	}
	link := http.DefaultTransport.(*http.Transport).Clone() // with the proxies of the environment, and HTTP/2
	defer link.CloseIdleConnections()
	a, err := agent.New(agent.Config{
		URL: api.base, Key: api.key, Worker: c.Name, Target: c.Worker, Calls: c.Calls, Grace: c.Grace, Link: link, Logger: p.logger(c.LogLevel),
	})
	if err != nil {
		return usagef("--worker: %s", err)
	}
	err = a.Run(ctx)
	if refused, ok := errors.AsType[*agent.Refused](err); ok && refused.Status == 0 {
		return usagef("%s: give --name", refused.Detail)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}
