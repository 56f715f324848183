package gateway_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"

	"sluice/openapi"
	"sluice/queue/worker"
	"sluice/queue/worker/workertest"
)

// The two contracts are valid OpenAPI.
func TestContractsAreValid(t *testing.T) {
	t.Parallel()
	gatewayContract, err := contract()
	ok(t, err)
	for name, v := range map[string]validator.Validator{"gateway": gatewayContract, "worker": workerContract(t)} {
		if fine, errs := v.ValidateDocument(); !fine {
			for _, e := range errs {
				t.Errorf("%s: %s: %s %v", name, e.Message, e.Reason, e.SchemaValidationErrors)
			}
		}
	}
}

func workerDocument(t *testing.T) libopenapi.Document {
	t.Helper()
	doc, err := libopenapi.NewDocument(openapi.Worker())
	ok(t, err)
	return doc
}

func workerContract(t *testing.T) validator.Validator {
	t.Helper()
	v, errs := validator.NewValidator(workerDocument(t))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return v
}

// theirOwn are the headers of a call that HTTP itself asks for.
var theirOwn = map[string]bool{"Content-Type": true, "Content-Length": true}

// What Sluice calls a worker with is what the worker's contract says, header by header, and it says nothing more.
func TestCallsAreAsTheContractHasThem(t *testing.T) {
	t.Parallel()
	v := workerContract(t)
	model, err := workerDocument(t).BuildV3Model()
	ok(t, err)
	op := model.Model.Paths.PathItems.GetOrZero("/{action}").Post
	documented := map[string]bool{} // and whether it was seen
	for _, p := range op.Parameters {
		if p.In == "header" {
			documented[p.Name] = false
		}
	}
	var mu sync.Mutex
	target := workertest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		if fine, errs := v.ValidateHttpRequest(r); !fine {
			for _, e := range errs {
				t.Errorf("%s: %s %v", e.Message, e.Reason, e.SchemaValidationErrors)
			}
		}
		for name := range r.Header {
			if strings.HasPrefix(name, "Sluice-Header-") {
				name = "Sluice-Header-{Name}"
			}
			if _, is := documented[name]; !is && !theirOwn[name] {
				t.Errorf("the contract knows no header %s", name)
			}
			documented[name] = true
		}
		for _, p := range op.Parameters {
			if p.In == "header" && p.Required != nil && *p.Required && r.Header.Get(p.Name) == "" {
				t.Errorf("the contract says that there is a header %s", p.Name)
			}
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	target.Secrets = []worker.Secret{worker.NewSecret(), worker.NewSecret()}
	client := worker.NewClient(worker.Config{Version: "1.2.3"})
	t.Cleanup(client.Close)
	bare := worker.Request{Action: "a", MessageID: "m-1", CorrelationID: "m", Topology: "t", Version: 1, Node: "n", Attempt: 1, Deadline: time.Now().Add(time.Minute)}
	full := bare
	full.Application, full.Page, full.Cursor, full.Attempt = "crm", 2, " % ö\n", 7
	full.Headers, full.Body = map[string]string{"content-type": "application/json", "x-kind": "ö"}, []byte("{}")
	for _, r := range []worker.Request{bare, full} {
		_, err := client.Call(t.Context(), target, r)
		ok(t, err)
	}
	for name, seen := range documented {
		if !seen {
			t.Errorf("the contract has a header %s that no call had", name)
		}
	}
}

// What a worker may answer, by status, comes to what the contract says of it.
func TestStatusesAreAsTheContractHasThem(t *testing.T) {
	t.Parallel()
	model, err := workerDocument(t).BuildV3Model()
	ok(t, err)
	said := model.Model.Paths.PathItems.GetOrZero("/{action}").Post.Responses.Codes
	target := workertest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.URL.Path[1:])
		w.WriteHeader(status)
	}))
	client := worker.NewClient(worker.Config{})
	t.Cleanup(client.Close)
	for status := 200; status < 600; status++ {
		if status == 304 {
			continue // has no body, and Go's server says so loudly
		}
		name := strconv.Itoa(status)
		if said.GetOrZero(name) == nil {
			name = name[:1] + "XX"
		}
		if name == "2XX" {
			name = "200" // which says the same
		}
		entry := said.GetOrZero(name)
		if entry == nil {
			t.Errorf("the contract does not say what %d comes to", status)
			continue
		}
		_, err := client.Call(t.Context(), target, worker.Request{Action: strconv.Itoa(status), MessageID: "m-1", CorrelationID: "m", Topology: "t", Version: 1, Node: "n", Attempt: 1})
		got := "Done"
		if failure, is := errors.AsType[*worker.Failure](err); is {
			got = failure.Class.String()
		}
		want := map[string]string{"Done": "Done", "transient": "uses up an attempt", "unavailable": "out of service", "limited": "Called too much", "rejected": "in the trash"}[got]
		if !strings.Contains(entry.Description, want) {
			t.Errorf("%d is %s, the contract says of %s: %s", status, got, name, entry.Description)
		}
	}
}

// A result document is taken if and only if the contract's schema takes it.
func TestResultsAreAsTheContractHasThem(t *testing.T) {
	t.Parallel()
	model, err := workerDocument(t).BuildV3Model()
	ok(t, err)
	raw, err := model.Model.RenderJSON("")
	ok(t, err)
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	ok(t, err)
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	ok(t, compiler.AddResource("worker.json", parsed))
	schema, err := compiler.Compile("worker.json#/components/schemas/Result")
	ok(t, err)

	var mu sync.Mutex
	var reply []byte
	target := workertest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set("Content-Type", worker.ResultType)
		_, _ = w.Write(reply)
	}))
	client := worker.NewClient(worker.Config{})
	t.Cleanup(client.Close)
	taken := func(doc []byte) error {
		mu.Lock()
		reply = doc
		mu.Unlock()
		_, err := client.Call(t.Context(), target, worker.Request{Action: "a", MessageID: "m-1", CorrelationID: "m", Topology: "t", Version: 1, Node: "n", Attempt: 1, Page: 1, Body: []byte("x")})
		if errors.Is(err, worker.ErrProtocol) {
			return err
		}
		return nil // done, or failed in the way that the document says
	}
	agree := func(doc []byte) string {
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
		if err != nil {
			return err.Error()
		}
		bySchema, byCode := schema.Validate(value), taken(doc)
		if (bySchema == nil) != (byCode == nil) {
			return fmt.Sprintf("%s\nthe contract: %v\nthe code: %v", doc, bySchema, byCode)
		}
		return ""
	}

	// The examples of the contract are taken by both.
	examples := model.Model.Paths.PathItems.GetOrZero("/{action}").Post.Responses.Codes.GetOrZero("200").Content.GetOrZero(worker.ResultType).Examples
	for name, example := range examples.FromOldest() {
		var value any
		ok(t, example.Value.Decode(&value))
		doc, err := json.Marshal(value)
		ok(t, err)
		if err := taken(doc); err != nil {
			t.Errorf("example %s: %v", name, err)
		}
		if difference := agree(doc); difference != "" {
			t.Error(difference)
		}
	}

	valid := 0
	rapid.Check(t, func(rt *rapid.T) {
		doc, err := json.Marshal(randomResult(rt))
		ok(t, err)
		if taken(doc) == nil {
			valid++
		}
		if difference := agree(doc); difference != "" {
			rt.Fatal(difference)
		}
	})
	if valid < 10 {
		t.Errorf("only %d of the documents were right", valid)
	}
}

// randomResult makes a document that is often right.
func randomResult(rt *rapid.T) map[string]any {
	value := func(name string) any {
		if rare(rt, 15, name+" is wrong") {
			return rapid.SampledFrom([]any{nil, true, 1, -1, "", "x", []any{}, []any{1}, []any{""}, map[string]any{}}).Draw(rt, name)
		}
		switch name {
		case "followers":
			return rapid.SampledFrom([]any{[]any{}, []any{"a"}, []any{"a", "b"}, []any{"a", "a"}}).Draw(rt, name)
		case "after_seconds":
			return rapid.SampledFrom([]any{0, 0.5, 30, 2592000, 2592000.5, -0.1, 1e300}).Draw(rt, name)
		case "headers":
			return rapid.SampledFrom([]any{map[string]any{}, map[string]any{"x-a": "ö", "content-type": "a/b"}, map[string]any{"x": 1}, map[string]any{"": "x"}, map[string]any{"a b": "x"}}).Draw(rt, name)
		case "drop":
			return rapid.SampledFrom([]any{[]any{}, []any{"*"}, []any{"x", "x"}}).Draw(rt, name)
		case "base64":
			return rapid.SampledFrom([]any{"", "AP8="}).Draw(rt, name)
		case "body":
			return rapid.SampledFrom([]any{nil, 1, "x", map[string]any{"a": []any{1}}}).Draw(rt, name)
		}
		return rapid.SampledFrom([]any{"", "x", "ö"}).Draw(rt, name)
	}
	some := func(names ...string) map[string]any {
		object := map[string]any{}
		for _, name := range names {
			if rare(rt, 2, "with "+name) {
				object[name] = value(name)
			}
		}
		if rare(rt, 15, "with more") {
			name := rapid.SampledFrom([]string{"result", "followers", "reason", "after_seconds", "cursor", "messages", "body", "Result"}).Draw(rt, "more")
			object[name] = value(name)
		}
		return object
	}
	of := map[string][]string{"done": {"followers", "cursor"}, "stop": {"reason"}, "repeat": {"reason"}, "fail": {"reason"}}
	kind := rapid.SampledFrom([]string{"done", "done", "done", "stop", "repeat", "fail"}).Draw(rt, "result")
	doc := some(of[kind]...)
	if _, odd := doc["result"]; !odd {
		doc["result"] = kind
	}
	if kind == "repeat" && !rare(rt, 10, "without time") {
		doc["after_seconds"] = value("after_seconds")
	}
	if kind == "done" && rare(rt, 2, "with messages") {
		messages := []any{}
		for range rapid.IntRange(0, 3).Draw(rt, "messages") {
			m := some("headers", "drop", "followers")
			if body := rapid.SampledFrom([]string{"body", "text", "base64", ""}).Draw(rt, "body is"); body != "" {
				m[body] = value(body)
			}
			if rare(rt, 10, "another body") {
				m["text"] = value("text")
			}
			messages = append(messages, m)
		}
		doc["messages"] = messages
	}
	return doc
}
