package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"sluice/queue"
	"sluice/queue/topology"
	"sluice/queue/worker"
	"sluice/queue/worker/orchesty"
)

type workerTestCmd struct {
	apiFlags
	contentFlags
	Worker string `arg:"" name:"worker" help:"Name of the worker. Or its URL: then it is called from here, and need not be registered."`
	Action string `arg:"" optional:"" help:"What to call: the path below the worker's URL. Default: the action of each node that it has."`

	Node string        `placeholder:"NAME" help:"Only the node of this name."`
	Kind string        `enum:"connector,batch,custom" default:"custom" help:"Kind of the node that would call the action: ${enum}. Matters to workers that speak Orchesty's protocol."`
	Wait time.Duration `placeholder:"TIME" help:"How long to wait for a worker that cannot be reached yet."`

	Protocol string `group:"url" enum:"sluice,orchesty" default:"sluice" help:"What it speaks: ${enum}."`
	Secret   string `group:"url" from:"SLUICE_SECRET" secret:"" placeholder:"SECRET" help:"What signs the calls to it."`
	credentialFlags
}

func (workerTestCmd) Help() string {
	return examples("Shows what it is asked and what it answers, outside of any process; calls are signed as any other. The nodes of a worker are those of enabled topologies that name it, or what it says itself "+
		"if it speaks Orchesty's protocol. Without a body, {} is sent. Fails when a call does: when the worker cannot be reached, or does not say what becomes of the message.",
		"sluice worker test shop --file event.json",
		"sluice worker test shop --node total --data '{\"price\":2.5,\"quantity\":4}' -H x-source=shop",
		"sluice worker test shop check-order --data '{\"order\":\"ABC-123\"}'",
		"sluice worker test legacy hubspot-create-contact --kind connector --data '{}'",
		"sluice worker test http://127.0.0.1:9000 total --bearer-token-file token --file event.json",
		"sluice worker test http://127.0.0.1:8080 --protocol orchesty")
}

// triedNode is what a worker is asked to do.
type triedNode struct {
	Name        string `json:"node,omitempty"`
	Action      string `json:"action"`
	Kind        string `json:"kind"`
	Application string `json:"application,omitempty"`
}

// sample is the message of a test.
type sample struct {
	Headers headersView     `json:"headers"`
	Body    json.RawMessage `json:"body,omitempty"` // as JSON, as text or as bytes
	Text    *string         `json:"text,omitempty"`
	Base64  []byte          `json:"base64,omitempty"`
}

func sampleOf(headers map[string]string, body []byte) sample {
	s := sample{Headers: headers}
	switch {
	case json.Valid(body):
		s.Body = body
	case utf8.Valid(body):
		text := string(body)
		s.Text = &text
	default:
		s.Base64 = body
	}
	return s
}

func (s sample) write(w io.Writer) {
	s.Headers.write(w)
	fmt.Fprintln(w, shownBody(s.bytes()))
}

func (s sample) bytes() []byte {
	switch {
	case s.Body != nil:
		return s.Body
	case s.Text != nil:
		return []byte(*s.Text)
	}
	return s.Base64
}

// testView is how a worker answered.
type testView struct {
	Reached  bool         `json:"reached"`
	Class    string       `json:"class,omitempty"`
	Status   int          `json:"status,omitempty"`
	Duration float64      `json:"duration_ms"`
	Verdict  string       `json:"verdict,omitempty"`
	Reason   string       `json:"reason,omitempty"`
	After    float64      `json:"after_seconds,omitempty"`
	Cursor   string       `json:"cursor,omitempty"`
	Messages []triedReply `json:"messages"`
}

type triedReply struct {
	Followers []string `json:"followers,omitempty"`
	sample
}

// tried is one call with its answer.
type tried struct {
	triedNode
	Request  sample           `json:"request"`
	Response answer[testView] `json:"response"`
}

func (t tried) write(w io.Writer) {
	facts(w, "Node", t.Name, "Action", t.Action, "Kind", t.Kind, "Application", t.Application)
	fmt.Fprint(w, "\nRequest:\n\n")
	t.Request.write(w)
	v := t.Response.Shown
	fmt.Fprint(w, "\nResponse:\n\n")
	after := ""
	if v.Verdict == "repeat" {
		after = strconv.FormatFloat(v.After, 'f', -1, 64) + " s"
	}
	facts(w, "Status", number(v.Status), "Took", strconv.FormatFloat(v.Duration, 'f', 1, 64)+" ms",
		"Verdict", v.Verdict, "After", after, "Class", v.Class, "Reason", v.Reason, "Cursor", v.Cursor)
	for _, m := range v.Messages {
		to := "all followers"
		if m.Followers != nil {
			to = fmt.Sprint(m.Followers)
		}
		fmt.Fprintf(w, "\nTo %s:\n\n", line(to))
		m.write(w)
	}
}

// tester is a way to a worker: by Sluice, or from here.
type tester interface {
	nodes(ctx context.Context) ([]triedNode, error)
	call(ctx context.Context, node triedNode, with sample) (answer[testView], error)
}

func (c workerTestCmd) Run(ctx context.Context, p *program) error {
	body := []byte("{}")
	if c.given() {
		var err error
		if body, err = c.read(p); err != nil {
			return err
		}
	}
	headers := map[string]string{"content-type": c.contentFlags.headers(body)["Content-Type"]}
	maps.Copy(headers, c.Header)
	by, closeTester, err := c.tester(p)
	if err != nil {
		return err
	}
	defer closeTester()
	nodes, err := c.chosen(ctx, by)
	if err != nil {
		return err
	}
	done := struct {
		Worker string  `json:"worker"`
		Calls  []tried `json:"calls"`
	}{c.Worker, []tried{}}
	failed := false
	for _, node := range nodes {
		t := tried{triedNode: node, Request: sampleOf(headers, body)}
		if t.Response, err = c.once(ctx, by, t); err != nil {
			return err
		}
		failed = failed || t.Response.Shown.Verdict == ""
		done.Calls = append(done.Calls, t)
	}
	if err := p.print(done, func(w io.Writer) {
		for i, t := range done.Calls {
			if i > 0 {
				fmt.Fprint(w, "\n\n")
			}
			t.write(w)
		}
	}); err != nil {
		return err
	}
	if failed {
		return &toldError{exitFailed}
	}
	return nil
}

// once makes a call, again and again while the worker cannot be reached and there is time to wait for it.
func (c workerTestCmd) once(ctx context.Context, by tester, t tried) (answer[testView], error) {
	for until := time.Now().Add(c.Wait); ; {
		got, err := by.call(ctx, t.triedNode, t.Request)
		if err != nil || got.Shown.Class != worker.Unavailable.String() || time.Now().After(until) {
			return got, err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return got, ctx.Err()
		}
	}
}

// chosen are the nodes to call.
func (c workerTestCmd) chosen(ctx context.Context, by tester) ([]triedNode, error) {
	if c.Action != "" {
		return []triedNode{{Action: c.Action, Kind: c.Kind}}, nil
	}
	all, err := by.nodes(ctx)
	if err != nil {
		return nil, err
	}
	nodes := slices.DeleteFunc(slices.Clone(all), func(n triedNode) bool { return c.Node != "" && n.Name != c.Node })
	switch {
	case len(all) == 0:
		return nil, fmt.Errorf("it is not known which nodes %s has: name an action, as in `sluice worker test %s ACTION`", c.Worker, c.Worker)
	case len(nodes) == 0:
		names := make([]string, len(all))
		for i, n := range all {
			names[i] = n.Name
		}
		return nil, fmt.Errorf("%s has no node %s: it has %s", c.Worker, c.Node, strings.Join(names, ", "))
	}
	return nodes, nil
}

// tester finds the way to the worker.
func (c workerTestCmd) tester(p *program) (by tester, closeTester func(), err error) {
	if strings.Contains(c.Worker, "://") {
		d, err := c.direct()
		return d, d.close, err
	}
	if c.credentialFlags != (credentialFlags{}) {
		return nil, nil, usagef("a worker that is registered has its credentials: see sluice worker credentials --help")
	}
	api, err := c.client(p)
	return registered{api, c.Worker}, func() {}, err
}

// registered is a worker that Sluice calls.
type registered struct {
	api  *client
	name string
}

func (r registered) call(ctx context.Context, node triedNode, with sample) (answer[testView], error) {
	return ask[testView](ctx, r.api, request{method: http.MethodPost, path: pathOf("workers", r.name, "test")}.jsonBody(struct {
		Action string `json:"action"`
		Kind   string `json:"kind"`
		sample
	}{node.Action, node.Kind, with}))
}

// nodes are those that the worker said it has, or else those of enabled topologies that name it.
func (r registered) nodes(ctx context.Context) ([]triedNode, error) {
	of, err := ask[workerDetailView](ctx, r.api, request{method: http.MethodGet, path: pathOf("workers", r.name)})
	if err == nil && of.Shown.Protocol == string(worker.Orchesty) && of.Shown.ListedAt == nil {
		of, err = ask[workerDetailView](ctx, r.api, request{method: http.MethodPost, path: pathOf("workers", r.name, "refresh")})
	}
	if err != nil {
		return nil, err
	}
	var nodes []triedNode
	for _, n := range of.Shown.Nodes {
		nodes = append(nodes, triedNode{n.Name, n.Name, n.Kind, n.Application})
	}
	if len(nodes) > 0 {
		return nodes, nil
	}
	topologies, err := list[topologyView](ctx, r.api, "/topologies", nil, 1000)
	for _, t := range topologies.Items {
		if err != nil || t.Shown.Enabled == nil {
			continue
		}
		var v answer[versionView]
		v, err = ask[versionView](ctx, r.api, request{method: http.MethodGet, path: pathOf("topologies", t.Shown.Name, "versions", "enabled")})
		for _, n := range v.Shown.Graph.Nodes {
			if found := (triedNode{n.Name, n.Action, string(n.Kind), n.Application}); n.Worker == r.name && !slices.Contains(nodes, found) {
				nodes = append(nodes, found)
			}
		}
	}
	return nodes, err
}

// direct is a worker that is called from here.
type direct struct {
	target  worker.Target
	callers queue.Callers
	close   func()
}

func (c workerTestCmd) direct() (direct, error) {
	d := direct{close: func() {}}
	said, err := c.credentials()
	if err != nil {
		return d, err
	}
	credentials, err := worker.ParseCredentials(worker.CredentialTexts{
		BearerToken: said["bearer_token"], ClientCertificate: said["client_certificate"], ClientKey: said["client_key"], ServerCA: said["server_ca"],
	})
	if err != nil {
		return d, usagef("%s", err)
	}
	d.target = worker.Target{Name: c.Worker, URL: c.Worker, Protocol: worker.Protocol(c.Protocol), Credentials: credentials}
	if d.target.Protocol == worker.Orchesty {
		d.target.Dialect = worker.DialectA
	}
	if c.Secret != "" {
		secret, err := worker.ParseSecret(c.Secret)
		if err != nil {
			return d, usagef("--secret: %s", err)
		}
		d.target.Secrets = []worker.Secret{secret}
	}
	d.callers, d.close = newCallers()
	return d, nil
}

func (d direct) nodes(ctx context.Context) ([]triedNode, error) {
	listing, err := d.callers.List(ctx, d.target)
	if errors.Is(err, queue.ErrNotListed) {
		return nil, nil
	}
	var nodes []triedNode
	for _, n := range listing.Nodes {
		nodes = append(nodes, triedNode{n.Name, n.Name, n.Kind, n.Application})
	}
	return nodes, err
}

// directTime is how long a worker may take that is called from here.
const directTime = 30 * time.Second

func (d direct) call(ctx context.Context, node triedNode, with sample) (answer[testView], error) {
	id := uuid.NewString()
	r := worker.Request{
		Action: node.Action, Kind: node.Kind, MessageID: id + "-0", CorrelationID: id, Topology: "test", Node: cmp.Or(node.Name, "test"), Attempt: 1,
		Headers: with.Headers, Body: with.bytes(), Deadline: time.Now().Add(directTime),
	}
	if node.Kind == string(topology.Batch) {
		r.Page = 1
	}
	began := time.Now()
	result, err := d.callers.Call(ctx, d.target, r)
	v := testView{Reached: true, Status: result.Status, Duration: float64(time.Since(began).Microseconds()) / 1000, Messages: []triedReply{}}
	if failure, ok := errors.AsType[*worker.Failure](err); ok {
		v.Reached, v.Status = failure.Status != 0, failure.Status
		v.Class, v.Reason = failure.Class.String(), failure.Reason
		return answer[testView]{Shown: v}, ctx.Err()
	}
	v.Verdict, v.Reason, v.After, v.Cursor = result.Verdict.String(), result.Reason, result.After.Seconds(), result.Cursor
	for _, m := range result.Messages {
		body := m.Body
		if m.SameBody {
			body = r.Body
		}
		v.Messages = append(v.Messages, triedReply{m.Followers, sampleOf(m.Headers, body)})
	}
	return answer[testView]{Shown: v}, err
}

// newCallers are clients of each protocol, and what closes them.
func newCallers() (queue.Callers, func()) {
	own, foreign := worker.NewClient(worker.Config{Version: version()}), orchesty.NewClient(worker.Config{Version: version()})
	return queue.Callers{worker.Sluice: own, worker.Orchesty: foreign}, func() {
		own.Close()
		foreign.Close()
	}
}
