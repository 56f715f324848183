package gateway

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"sluice/openapi"
	"sluice/queue"
)

type subscribeView struct {
	Event    string `json:"event" minLength:"1" maxLength:"200" doc:"One of the application's events" example:"order.created"`
	Topology string `json:"topology" minLength:"1" maxLength:"200" doc:"That it starts, by a start node that has the name which the application's author gave" example:"flow"`
}

type unsubscribeView struct {
	Topology string `json:"topology" minLength:"1" maxLength:"200" doc:"It may be gone" example:"flow"`
}

func (g *gateway) addWebhooks() {
	tags, change := []string{"applications"}, openapi.Scope("admin")
	conflict, slowly := []int{http.StatusConflict, http.StatusBadGateway}, map[string]any{timeKey: testTime}
	register(g, huma.Operation{
		OperationID: "subscribe-webhook", Method: http.MethodPost, Path: userApplicationPath + "/webhooks/subscribe", Tags: tags, Security: change, Metadata: slowly, Errors: conflict,
		Summary:     "Let a third party tell a topology of an event",
		Description: "The worker subscribes it, and with it each event for which the application's author named a topology. An event that goes to the topology already stays as it is.",
	}, g.subscribeWebhook)
	register(g, huma.Operation{
		OperationID: "unsubscribe-webhooks", Method: http.MethodPost, Path: userApplicationPath + "/webhooks/unsubscribe", Tags: tags, Security: change, Metadata: slowly, Errors: conflict,
		Summary:     "Take back all that a third party tells a topology of",
		Description: "What the third party does not give up is told as a warning, and can be tried again.",
	}, g.unsubscribeWebhooks)
}

func (g *gateway) subscribeWebhook(ctx context.Context, in *struct {
	UserApplicationPath
	Body subscribeView
}) (*answer[userApplicationView], error) {
	of, by := in.of(ctx, in.User)
	return viewOfDone(in.User)(g.config.Engine.SubscribeWebhook(ctx, of, queue.WebhookOf(in.Body), by.Actor()))
}

func (g *gateway) unsubscribeWebhooks(ctx context.Context, in *struct {
	UserApplicationPath
	Body unsubscribeView
}) (*answer[userApplicationView], error) {
	of, by := in.of(ctx, in.User)
	return viewOfDone(in.User)(g.config.Engine.UnsubscribeWebhooks(ctx, of, in.Body.Topology, by.Actor()))
}
