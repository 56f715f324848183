package main

import (
	"context"
	"net/http"
)

type webhooksCmd struct {
	Subscribe   webhooksSubscribeCmd   `cmd:"" help:"Let a third party tell a topology of an event."`
	Unsubscribe webhooksUnsubscribeCmd `cmd:"" help:"Take back all that a third party tells a topology of."`
}

func (webhooksCmd) Help() string {
	return examples("`sluice application show` has the events that an application can tell of, and where they go.",
		"sluice application webhooks subscribe hub-spot acme contact.created contacts", "sluice application webhooks unsubscribe hub-spot acme contacts")
}

type webhooksSubscribeCmd struct {
	userFlags
	Event    string `arg:"" help:"One of its events: see show."`
	Topology string `arg:"" help:"That it starts."`
}

func (webhooksSubscribeCmd) Help() string {
	return examples("The topology needs a start node that has the name which the application's author gave.",
		"sluice application webhooks subscribe hub-spot acme contact.created contacts")
}

func (c webhooksSubscribeCmd) Run(ctx context.Context, p *program, api *client) error {
	return c.change(ctx, p, api, c.request(http.MethodPost, "webhooks", "subscribe").jsonBody(map[string]string{"event": c.Event, "topology": c.Topology}))
}

type webhooksUnsubscribeCmd struct {
	userFlags
	Topology string `arg:"" help:"Which; it may be gone."`
}

func (webhooksUnsubscribeCmd) Help() string {
	return examples("All events that go there are taken back.", "sluice application webhooks unsubscribe hub-spot acme contacts")
}

func (c webhooksUnsubscribeCmd) Run(ctx context.Context, p *program, api *client) error {
	return c.change(ctx, p, api, c.request(http.MethodPost, "webhooks", "unsubscribe").jsonBody(map[string]string{"topology": c.Topology}))
}
