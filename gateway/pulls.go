package gateway

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"
	"golang.org/x/net/http/httpguts"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/queue/pull"
)

const (
	longestClaim   = 60 * time.Second
	maxAnswers     = 100
	maxAnswerBytes = 32 << 20 // of the bodies of answers in one call, as they are written
	maxAnswerHead  = 64 << 10 // of the headers of an answer, as of one that comes over the network
)

type claimView struct {
	Max   int     `json:"max,omitempty" minimum:"1" maximum:"100" default:"1" doc:"How many calls to take at most. There may be fewer, if they are large"`
	Wait  float64 `json:"wait_seconds,omitempty" minimum:"0" maximum:"60" default:"0" doc:"How long to wait for the first one"`
	Lease int     `json:"lease_seconds,omitempty" minimum:"5" maximum:"300" default:"30" doc:"For how long they are not offered to anybody else, without a heartbeat. Short for what is always there, long for a script that sends no heartbeats"`
}

type claimedView struct {
	Calls []pullCallView `json:"calls" doc:"None: there were none in this time"`
}

type pullCallView struct {
	ID      string            `json:"id" format:"uuid"`
	Token   string            `json:"token" format:"uuid" doc:"Goes with each sign of life and with the result. Once the call is offered to somebody else it is worth nothing"`
	Lease   float64           `json:"lease_seconds" doc:"For how long nobody else is offered the call, without a heartbeat"`
	Left    float64           `json:"seconds_left" doc:"After that nobody waits for the result any more"`
	Method  string            `json:"method" example:"POST"`
	Path    string            `json:"path" doc:"And query, below where the worker would listen" example:"/create-order"`
	Headers map[string]string `json:"headers" doc:"Those of the protocol that the worker speaks"`
	Body    *string           `json:"body,omitempty" doc:"Where it is UTF-8"`
	Base64  []byte            `json:"body_base64,omitempty" doc:"Where it is not"`
}

type heldCallView struct {
	ID    uuid.UUID `json:"id" format:"uuid"`
	Token uuid.UUID `json:"token" format:"uuid"`
}

type beatView struct {
	Calls []heldCallView `json:"calls" minItems:"1" maxItems:"1000" doc:"That are being worked"`
	Lease int            `json:"lease_seconds,omitempty" minimum:"5" maximum:"300" default:"30" doc:"For how long they are not offered to anybody else"`
}

type lostView struct {
	Lost []string `json:"lost" doc:"Ids of calls that somebody else has, or that nobody waits for any more: what becomes of them changes nothing"`
}

type pullResultView struct {
	ID      uuid.UUID         `json:"id" format:"uuid"`
	Token   uuid.UUID         `json:"token" format:"uuid"`
	Status  int               `json:"status,omitempty" minimum:"200" maximum:"599" default:"200" doc:"HTTP status, as the worker would answer"`
	Headers map[string]string `json:"headers,omitempty" doc:"HTTP headers, as the worker would answer"`
	Body    *string           `json:"body,omitempty"`
	Base64  []byte            `json:"body_base64,omitempty" doc:"Or as bytes"`
}

type pullResultsView struct {
	Results []pullResultView `json:"results" minItems:"1" maxItems:"100"`
}

type answeredView struct {
	Results []answeredCallView `json:"results" doc:"In the order in which they came"`
}

type answeredCallView struct {
	ID    string `json:"id" format:"uuid"`
	State string `json:"state" enum:"accepted,lost" doc:"lost: somebody else has the call, or nobody waits for it any more, and nothing has changed"`
}

func (g *gateway) addPulls() {
	tags, take := []string{"pull"}, openapi.Scope(string(auth.Pull))
	conflict := []int{http.StatusConflict}
	register(g, huma.Operation{
		OperationID: "claim-calls", Method: http.MethodPost, Path: workerPath + "/claim", Tags: tags, Security: take, Errors: conflict,
		Summary:     "Take calls of a worker that cannot be reached",
		Description: "Each is with who took it until its lease is over; then it is offered again. It waits until there is one. A worker for which nobody asks is held to be out of reach: its messages wait.",
		Metadata:    map[string]any{timeKey: longestClaim + 15*time.Second},
	}, g.claimCalls)
	register(g, huma.Operation{
		OperationID: "beat-calls", Method: http.MethodPost, Path: workerPath + "/heartbeat", Tags: tags, Security: take, Errors: conflict,
		Summary: "Say that calls are being worked", Description: "Their leases begin anew.",
	}, g.beatCalls)
	register(g, huma.Operation{
		OperationID: "answer-calls", Method: http.MethodPost, Path: workerPath + "/result", Tags: tags, Security: take, Errors: conflict,
		Summary: "Give back what the worker answered", Description: "To say the same twice does no harm.",
		MaxBodyBytes: maxAnswerBytes, Metadata: map[string]any{timeKey: testTime},
	}, g.answerCalls)
}

// oneWay refuses a worker that has a URL and takes its calls itself, or neither.
func oneWay(url string, pulls bool) error {
	if (url == "") != pulls {
		return openapi.ValidationFailed.Because("a worker has either a url or pull: true").With(openapi.Detail{Detail: "either this or pull: true", Pointer: "#/url"})
	}
	return nil
}

// forWorker is who comes, if their key is for this worker.
func forWorker(ctx context.Context, name string) (auth.Principal, error) {
	by, _ := auth.FromContext(ctx)
	if by.Worker != "" && by.Worker != name {
		return by, &scopeError{[]string{fmt.Sprintf("%s, for this worker or any", auth.Pull)}}
	}
	return by, nil
}

func (g *gateway) claimCalls(ctx context.Context, in *struct {
	WorkerPath
	Body claimView
}) (*answer[claimedView], error) {
	by, err := forWorker(ctx, in.Worker)
	if err != nil {
		return nil, err
	}
	waiting, cancel := context.WithTimeout(ctx, time.Duration(in.Body.Wait*float64(time.Second)))
	defer cancel()
	go func() {
		select {
		case <-g.config.Closing:
			cancel()
		case <-waiting.Done():
		}
	}()
	calls, err := g.config.Engine.ClaimCalls(ctx, by.TenantID, in.Worker, pull.Wish{Most: in.Body.Max, Lease: time.Duration(in.Body.Lease) * time.Second, Enough: waiting.Done()})
	if err != nil {
		return nil, err
	}
	view := claimedView{Calls: make([]pullCallView, len(calls))}
	for i, c := range calls {
		view.Calls[i] = pullCallView{
			ID: c.ID.String(), Token: c.Token.String(), Lease: c.Lease.Seconds(), Left: c.Left.Seconds(), Method: c.Method, Path: c.Path, Headers: c.Headers,
		}
		if utf8.Valid(c.Body) {
			text := string(c.Body)
			view.Calls[i].Body = &text
		} else {
			view.Calls[i].Base64 = c.Body
		}
	}
	return &answer[claimedView]{view}, nil
}

func (g *gateway) beatCalls(ctx context.Context, in *struct {
	WorkerPath
	Body beatView
}) (*answer[lostView], error) {
	by, err := forWorker(ctx, in.Worker)
	if err != nil {
		return nil, err
	}
	held := make([]pull.Held, len(in.Body.Calls))
	for i, c := range in.Body.Calls {
		held[i] = pull.Held(c)
	}
	lost, err := g.config.Engine.BeatCalls(ctx, by.TenantID, in.Worker, held, time.Duration(in.Body.Lease)*time.Second)
	if err != nil {
		return nil, err
	}
	view := lostView{Lost: make([]string, len(lost))}
	for i, id := range lost {
		view.Lost[i] = id.String()
	}
	return &answer[lostView]{view}, nil
}

func (g *gateway) answerCalls(ctx context.Context, in *struct {
	WorkerPath
	Body pullResultsView
}) (*answer[answeredView], error) {
	by, err := forWorker(ctx, in.Worker)
	if err != nil {
		return nil, err
	}
	answers := make([]pull.Answer, len(in.Body.Results))
	for i, r := range in.Body.Results {
		if err := checkAnswer(r); err != nil {
			return nil, openapi.ValidationFailed.Because("%s", err).With(openapi.Detail{Detail: err.Error(), Pointer: fmt.Sprintf("#/results/%d", i)})
		}
		answers[i] = pull.Answer{Held: pull.Held{ID: r.ID, Token: r.Token}, Status: r.Status, Headers: r.Headers, Body: r.Base64}
		if r.Body != nil {
			answers[i].Body = []byte(*r.Body)
		}
	}
	lost, err := g.config.Engine.AnswerCalls(ctx, by.TenantID, in.Worker, answers)
	if err != nil {
		return nil, err
	}
	view := answeredView{Results: make([]answeredCallView, len(answers))}
	for i, a := range answers {
		view.Results[i] = answeredCallView{ID: a.ID.String(), State: "accepted"}
		if slices.Contains(lost, a.ID) {
			view.Results[i].State = "lost"
		}
	}
	return &answer[answeredView]{view}, nil
}

// checkAnswer refuses what could not have come over the network.
func checkAnswer(r pullResultView) error {
	if r.Body != nil && r.Base64 != nil {
		return fmt.Errorf("a result has one of body and body_base64")
	}
	size := 0
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(r.Headers[name]) {
			return fmt.Errorf("%.80q is no header of HTTP, or has a value that cannot be", name)
		}
		size += len(name) + len(r.Headers[name])
	}
	if size > maxAnswerHead {
		return fmt.Errorf("the headers are longer than %d bytes", maxAnswerHead)
	}
	return nil
}
