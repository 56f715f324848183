package gateway

import (
	"context"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/queue"
)

// The way of an event. What is done here is done for each one, so it goes past huma, which would read the body into a
// buffer of its own and find out by reflection what is known: who comes, which headers are kept, the body into memory
// of its exact size, the engine, and an answer that is put together by hand.

const (
	eventsPath        = "/v1/topologies/{topology}/nodes/{node}/events"
	eventsPathVersion = "/v1/topologies/{topology}/versions/{version}/nodes/{node}/events"
)

// StartPath is the part of a path that says where an event goes. It has a capital letter, like all that is part of
// several inputs or answers here, because huma looks into no others.
type StartPath struct {
	Topology string `path:"topology" doc:"Name of the topology" example:"orders"`
	Node     string `path:"node" doc:"Name of one of its start nodes" example:"inbox"`
}

// StartVersionPath is the same for a version that is named.
type StartVersionPath struct {
	StartPath
	Version int `path:"version" minimum:"1" maximum:"2147483647" doc:"Number of a published version; it need not be the enabled one"`
}

// EventHeaders may hold the key that makes sending an event again harmless.
type EventHeaders struct {
	IdempotencyKey string `header:"Idempotency-Key" minLength:"1" maxLength:"255" doc:"Makes sending again harmless: the same key with the same body is one event, for a day or longer; with another body it is refused. Without it, Webhook-Id counts, then X-Event-Id" example:"order-ABC-123"`
	WebhookID      string `header:"Webhook-Id" maxLength:"255" doc:"The key, if there is no Idempotency-Key"`
	EventID        string `header:"X-Event-Id" maxLength:"255" doc:"The key, if there is neither of these"`
}

type eventInput struct {
	StartPath
	EventHeaders
	RawBody []byte `contentType:"*/*"`
}

type eventVersionInput struct {
	StartVersionPath
	EventHeaders
	RawBody []byte `contentType:"*/*"`
}

type acceptedView struct {
	CorrelationID string `json:"correlation_id" format:"uuid" doc:"Names the process that the event set off"`
	Duplicate     bool   `json:"duplicate" doc:"The event was accepted before, with this key, and is not worked again"`
	Version       int    `json:"version,omitempty" minimum:"1" doc:"The version that works it; absent where it was accepted before"`
}

type acceptedOutput struct {
	Location string `header:"Location" doc:"Path of the process"`
	Body     acceptedView
}

const eventText = "The answer comes when the event is durable. Its body is kept and handed on byte by byte, whatever it is; an empty one is a body too, and a compressed one " +
	"stays compressed. With it go the content type, the headers that the server is configured to keep, and each header `Sluice-Header-<Name>` under its name, its value percent-decoded. " +
	"A 429 says that nothing was accepted because more comes in than can be stored, or because the topology has as much open as its `bounds` allow. " +
	"A 503 that says so leaves open whether the event was stored: send it again with the same `Idempotency-Key`."

func (g *gateway) addEvents() {
	openapi.Describe[eventInput, acceptedOutput](g.api, huma.Operation{
		OperationID: "start-process", Method: http.MethodPost, Path: eventsPath, Tags: []string{"events"}, Security: openapi.Scope("ingest"),
		Summary: "Post an event to the enabled version", Description: eventText, DefaultStatus: http.StatusAccepted, Errors: []int{http.StatusConflict},
	})
	openapi.Describe[eventVersionInput, acceptedOutput](g.api, huma.Operation{
		OperationID: "start-process-of-version", Method: http.MethodPost, Path: eventsPathVersion, Tags: []string{"events"}, Security: openapi.Scope("ingest"),
		Summary: "Post an event to a version", Description: eventText, DefaultStatus: http.StatusAccepted, Errors: []int{http.StatusConflict},
	})
	for _, path := range []string{eventsPath, eventsPathVersion} {
		anyBody(g.api.OpenAPI().Paths[path].Post)
		g.handle(http.MethodPost, path, g.postEvent)
	}
	g.addBatch()
}

// anyBody says in the contract that a body is bytes of any type, and may be empty.
func anyBody(op *huma.Operation) {
	op.RequestBody.Required = false
	op.RequestBody.Content = map[string]*huma.MediaType{"*/*": {}}
}

func (g *gateway) postEvent(w http.ResponseWriter, r *http.Request, by auth.Principal) error {
	ev, err := startOf(r, by)
	if err != nil {
		return err
	}
	if ev.Key, err = idempotencyKey(r.Header); err != nil {
		return err
	}
	if ev.Headers, err = g.keeper.choose(r.Header); err != nil {
		return err
	}
	b, err := g.readBody(r, g.config.MaxBody)
	defer b.release()
	if err != nil {
		return err
	}
	ev.Body = b.bytes
	ctx, cancel := g.acceptance(r.Context())
	defer cancel()
	accepted, err := g.accept(ctx, ev)
	if err != nil {
		return err
	}
	writeAccepted(w, accepted)
	return nil
}

// acceptance is the context in which events are stored. It does not end with a client that seems to have gone: once the
// event is here it is stored all the same, and who has only closed its side of the connection waits for the answer.
func (g *gateway) acceptance(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), g.config.AcceptTime)
}

// startOf reads from a request's path where its events go.
func startOf(r *http.Request, by auth.Principal) (queue.Event, error) {
	ev := queue.Event{Tenant: by.TenantID, Topology: r.PathValue("topology"), Node: r.PathValue("node")}
	if text := r.PathValue("version"); text != "" {
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil || n < 1 {
			return ev, openapi.ValidationFailed.Because("%.40q is no version's number", text).
				With(openapi.Detail{Detail: "expected a whole number from 1", Location: "path.version"})
		}
		ev.Version = int(n)
	}
	return ev, nil
}

var jsonType = []string{"application/json"}

// writeAccepted writes an acceptedOutput. Nothing in it needs to be escaped.
func writeAccepted(w http.ResponseWriter, a queue.Accepted) {
	id := a.Process.String()
	b := append(make([]byte, 0, 128), `{"correlation_id":"`...)
	b = append(b, id...)
	b = append(b, `","duplicate":`...)
	b = strconv.AppendBool(b, a.Duplicate)
	if a.Version != 0 {
		b = append(b, `,"version":`...)
		b = strconv.AppendInt(b, int64(a.Version), 10)
	}
	h := w.Header()
	h["Content-Type"] = jsonType
	h["Location"] = []string{"/v1/processes/" + id}
	w.WriteHeader(http.StatusAccepted)
	_, _ = w.Write(append(b, "}\n"...)) // a client that left is no one to tell
}
