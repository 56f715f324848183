// Package openapi holds the HTTP contracts of Sluice and what makes them uniform: how the API is set up and described,
// how a refusal looks, how lists are paged, and what every request goes through before it meets its handler.
//
// It guarantees that whatever a client sends is answered by what the document says: bad input gets a precise problem
// document (RFC 9457) and never a 5xx, a panic becomes a problem that tells nothing of the inside, and every answer
// names its request. The document itself is made from the code; the copies beside this file are what reviewers read
// and what tests compare.
//
// It knows nothing of topologies, messages or the database: it is a leaf that only the gateway stands on.
package openapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// The ways in: an API key as a bearer token, or the session of an operator who signed in.
const (
	securityScheme = "apiKey"
	sessionScheme  = "session"
)

// These are huma's own settings, of which there is one a process, so they are made once, before any API is.
func init() {
	huma.DefaultArrayNullable = false // a list is a list, never null
	huma.NewErrorWithContext = newError
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		return newError(nil, status, msg, errs...)
	}
}

// New returns Sluice's API on mux, without operations. The version is the contract's, not the program's: it stands in
// the document, which must not change from build to build.
func New(mux *http.ServeMux, version string) huma.API {
	c := huma.DefaultConfig("Sluice", version)
	c.Info.Description = "Events in, through a topology, to your workers, and nothing lost.\n\n" +
		"Errors are problem documents (RFC 9457) whose `code` is stable; `GET /problems/{code}` explains each. " +
		"Lists are paged by cursor: give `next` of one page as `after` of the following one. " +
		"Times are RFC 3339 in UTC; durations say their unit in their names."
	c.Info.License = &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}
	c.Servers = []*huma.Server{{URL: "/", Description: "The server that this document came from"}}
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		securityScheme: {
			Type:        "http",
			Scheme:      "bearer",
			Description: "An API key, `sluice_…`. It belongs to one tenant and has scopes: `ingest` posts events, `operate` also runs what is there, `admin` may do everything.",
		},
		sessionScheme: {
			Type:        "apiKey",
			In:          "cookie",
			Name:        "__Host-sluice",
			Description: "The session of an operator who signed in with a browser. Over plain HTTP, on one's own machine, the cookie is named `sluice`. It acts only for pages of this server.",
		},
	}
	c.Tags = tags()
	c.Formats = map[string]huma.Format{"application/json": jsonFormat, "json": jsonFormat}
	c.Transformers = []huma.Transformer{finish}
	c.CreateHooks = nil // no $schema in bodies
	c.DocsPath = ""     // it would load scripts from elsewhere
	c.SchemasPath = ""
	c.OpenAPIPath = "" // Serve does it: huma's own handlers race on their first requests
	return humago.New(mux, c)
}

// tags are the nouns by which operations are grouped. An operation with another one is refused by Register.
func tags() []*huma.Tag {
	return []*huma.Tag{
		{Name: "events", Description: "What producers send"},
		{Name: "topologies", Description: "Graphs of nodes, in numbered versions that never change"},
		{Name: "overview", Description: "What happened, counted by time, and what is wrong"},
		{Name: "processes", Description: "Everything that one event set off"},
		{Name: "trash", Description: "Messages whose node gave up; they wait for a person"},
		{Name: "limits", Description: "What applications allow, and the messages that wait for it"},
		{Name: "applications", Description: "What connectors talk to: settings and authorization, for each user"},
		{Name: "workers", Description: "The services that do the work of nodes"},
		{Name: "pull", Description: "For workers that cannot be reached: they take their calls"},
		{Name: "keys", Description: "Who may call this API"},
		{Name: "operators", Description: "People who sign in at the screens, and their sessions"},
		{Name: "tenants", Description: "Organisations; nothing crosses from one to another"},
		{Name: "health", Description: "Whether this server can do its work"},
	}
}

// common are the refusals that any operation may answer with.
var common = []int{
	http.StatusBadRequest, http.StatusRequestHeaderFieldsTooLarge, http.StatusTooManyRequests,
	http.StatusInternalServerError, http.StatusServiceUnavailable,
}

// Register adds an operation to the API, with the refusals that every operation of its kind shares; op.Errors adds
// others to them. Unless op.Security says otherwise (see Scope and Public), a key is asked for.
//
// It panics when the operation has no id, summary or known tag: the document would be poorer for it.
func Register[I, O any](api huma.API, op huma.Operation, handler func(context.Context, *I) (*O, error)) {
	known := func(name string) bool {
		return slices.ContainsFunc(api.OpenAPI().Tags, func(t *huma.Tag) bool { return t.Name == name })
	}
	if op.OperationID == "" || op.Summary == "" || len(op.Tags) != 1 || !known(op.Tags[0]) {
		panic(fmt.Sprintf("openapi: %s %s needs an operation id, a summary and one of the known tags", op.Method, op.Path))
	}
	if op.Security == nil {
		op.Security = Scope()
	}
	op.Errors = append(op.Errors, common...)
	if len(op.Security) > 0 {
		op.Errors = append(op.Errors, http.StatusUnauthorized, http.StatusForbidden)
	}
	if hasParam(op.Path) {
		op.Errors = append(op.Errors, http.StatusNotFound)
	}
	if op.Method == http.MethodPost || op.Method == http.MethodPut || op.Method == http.MethodPatch {
		op.Errors = append(op.Errors, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	}
	op.Errors = append(op.Errors, http.StatusUnprocessableEntity)
	slices.Sort(op.Errors)
	op.Errors = slices.Compact(op.Errors)
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	huma.Register(api, op, handler)
	for _, status := range []string{"429", "503"} {
		op.Responses[status].Headers = map[string]*huma.Header{
			"Retry-After": {Description: "Seconds to wait before trying again", Schema: &huma.Schema{Type: huma.TypeInteger}},
		}
	}
}

// Describe adds an operation to the document only. Its handler is one that the caller puts on the mux, because it does
// what huma cannot: read a body as it comes, or answer before the end of it.
func Describe[I, O any](api huma.API, op huma.Operation) {
	Register[I, O](described{api}, op, nil)
}

type described struct{ huma.API }

func (described) Adapter() huma.Adapter { return nowhere{} }

type nowhere struct{ huma.Adapter }

func (nowhere) Handle(*huma.Operation, func(huma.Context)) {}

// Scope is the security of an operation that needs a key, or the session of an operator, with these scopes. Without scopes
// any will do.
func Scope(scopes ...string) []map[string][]string {
	return []map[string][]string{{securityScheme: append([]string{}, scopes...)}, {sessionScheme: {}}}
}

// Public is the security of an operation that needs no key.
func Public() []map[string][]string { return []map[string][]string{} }

// Scopes returns what Scope said about an operation, and whether it asks for a key at all.
func Scopes(op *huma.Operation) (scopes []string, keyed bool) {
	for _, requirement := range op.Security {
		if scopes, keyed = requirement[securityScheme]; keyed {
			return scopes, true
		}
	}
	return nil, false
}

// Write returns the API's document as YAML, the same bytes for the same operations.
func Write(api huma.API) ([]byte, error) {
	doc, err := api.OpenAPI().YAML()
	if err != nil {
		return nil, fmt.Errorf("write the API's document: %w", err)
	}
	return doc, nil
}

// Serve adds the routes that explain the API to its own mux: the document at /openapi.yaml and /openapi.json (3.1), the
// same for older tools at /openapi-3.0.json, and each kind of problem at /problems/{code}. They need no key. Operations
// must all be registered before the first request.
func Serve(mux *http.ServeMux, api huma.API) {
	serve := func(path, contentType string, write func() ([]byte, error)) {
		once := sync.OnceValues(func() (document, error) {
			body, err := write()
			sum := sha256.Sum256(body)
			return document{body: body, tag: `"` + hex.EncodeToString(sum[:8]) + `"`}, err
		})
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			d, err := once()
			if err != nil {
				WriteError(w, r, err)
				return
			}
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("ETag", d.tag)
			w.Header().Set("Cache-Control", "no-cache")
			if r.Header.Get("If-None-Match") == d.tag {
				w.WriteHeader(http.StatusNotModified)
				return
			}
			_, _ = w.Write(d.body) // a client that left is no one to tell
		})
	}
	serve("/openapi.yaml", "application/yaml", func() ([]byte, error) { return Write(api) })
	serve("/openapi.json", "application/json", func() ([]byte, error) { return json.Marshal(api.OpenAPI()) })
	serve("/openapi-3.0.json", "application/json", func() ([]byte, error) { return api.OpenAPI().Downgrade() })
	mux.HandleFunc("GET /problems/{code}", explain)
}

type document struct {
	body []byte
	tag  string
}

// explain says what a kind of problem means, so that the type of a problem document leads somewhere.
func explain(w http.ResponseWriter, r *http.Request) {
	i := slices.IndexFunc(kinds, func(k Kind) bool { return k.Code == r.PathValue("code") })
	if i < 0 {
		WriteProblem(w, r, NotFound.Because("there is no such kind of problem"))
		return
	}
	w.Header().Set("Content-Type", "text/markdown; charset=utf-8")
	_, _ = fmt.Fprintf(w, "# %s\n\nStatus %d, code `%s`.\n\n%s\n", kinds[i].Title, kinds[i].Status, kinds[i].Code, kinds[i].Meaning)
}

// hasParam tells whether a path names something that may not exist.
func hasParam(path string) bool { return strings.Contains(path, "{") }
