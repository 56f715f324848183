package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/jackc/pgx/v5"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/queue/document"
	"sluice/queue/process"
)

// What workers on Orchesty's SDK ask of their engine. Paths, bodies and answers are Orchesty's, which is why they go past
// huma and stand in docs/orchesty.md, not in the contract: a worker that nobody has changed must not see the difference.

// orchestyKey is the header by which the SDK says who it is.
const orchestyKey = "Orchesty-Api-Key"

// orchestyHandler answers a request of a worker.
type orchestyHandler func(ctx context.Context, r *http.Request, by auth.Principal) (any, error)

// handleOrchesty adds a route that asks for a key with a scope. The header of the SDK counts, or else the usual one.
func (g *gateway) handleOrchesty(pattern, scope string, tell teller, h orchestyHandler) {
	g.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), g.config.RequestTime)
		defer cancel()
		authorization := r.Header.Get("Authorization")
		if key := r.Header.Get(orchestyKey); key != "" {
			authorization = "Bearer " + key
		}
		by, err := g.config.Keys.Authenticate(ctx, authorization) // workers are no browsers
		if err == nil {
			err = allow(by, []string{scope})
		}
		if err != nil {
			writeOrchestyError(w, r, err, tellText)
			return
		}
		answer, err := h(auth.NewContext(ctx, by), r, by)
		if err != nil {
			writeOrchestyError(w, r, err, tell)
			return
		}
		writeAnswer(w, http.StatusOK, answer)
	})
}

// teller is the form in which a route tells what is wrong.
type teller func(text string) any

func tellText(text string) any { return map[string]string{"message": text} }

func tellError(text string) any { return map[string]any{"message": map[string]string{"error": text}} }

// writeOrchestyError tells a worker what is wrong, in the form that it looks for.
func writeOrchestyError(w http.ResponseWriter, r *http.Request, err error, tell teller) {
	p := openapi.ProblemOf(r.Context(), err)
	status := p.Status
	if status == http.StatusUnprocessableEntity || status == http.StatusConflict {
		status = http.StatusBadRequest
	}
	p.SetHeaders(r, w.Header())
	text := p.Detail
	if text == "" {
		text = p.Title
	}
	writeAnswer(w, status, tell(strings.TrimPrefix(text, document.ErrInvalid.Error()+": ")))
}

func writeAnswer(w http.ResponseWriter, status int, value any) {
	body, ready := value.(json.RawMessage)
	if !ready {
		body, _ = json.Marshal(value) // maps and structs of texts and numbers always can
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body) //nolint:gosec // JSON, said to be that, which nobody is to guess about; a client that left is no one to tell
}

// stored is what a worker is told of what it sent.
func stored(data any) any {
	type done struct {
		Status string `json:"status"`
		Data   any    `json:"data"`
	}
	return struct {
		Message done `json:"message"`
	}{done{"OK", data}}
}

const documentsPath = "/document/{kind}"

func (g *gateway) addDocuments() {
	for method, h := range map[string]orchestyHandler{
		http.MethodGet: g.findDocuments, http.MethodPost: g.saveDocuments, http.MethodPut: g.saveDocuments, http.MethodDelete: g.deleteDocuments,
	} {
		g.handleOrchesty(method+" "+documentsPath, "worker", tellError, h)
	}
}

// withOwnQuery keeps the queries of documents from being read as queries are: the SDK escapes little in them.
func withOwnQuery(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/document/") && r.URL.RawQuery != "" {
			u := *r.URL
			r = r.WithContext(context.WithValue(r.Context(), queryKey{}, u.RawQuery))
			u.RawQuery = ""
			r.URL = &u
		}
		next.ServeHTTP(w, r)
	})
}

type queryKey struct{}

// documentQuery reads which documents a request is about.
func documentQuery(r *http.Request) (document.Kind, document.Filter, error) {
	query, _ := r.Context().Value(queryKey{}).(string)
	kind := document.Kind(r.PathValue("kind"))
	f, err := document.ParseQuery(kind, query)
	return kind, f, err
}

func (g *gateway) findDocuments(ctx context.Context, r *http.Request, by auth.Principal) (any, error) {
	kind, f, err := documentQuery(r)
	if err != nil {
		return nil, err
	}
	if kind == document.Nodes {
		return g.findNodes(ctx, by.TenantID, f.IDs)
	}
	var found []byte
	err = g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		found, err = g.documents.Find(ctx, tx, by.TenantID, kind, f)
		return err
	})
	return json.RawMessage(found), err
}

func (g *gateway) saveDocuments(ctx context.Context, r *http.Request, by auth.Principal) (any, error) {
	b, err := g.readBody(r, g.config.MaxBody)
	defer b.release()
	if err != nil {
		return nil, err
	}
	return stored(""), process.ForTenant(ctx, g.config.TenantPool, by.TenantID, func(tx pgx.Tx) error {
		return g.documents.Save(ctx, tx, by.TenantID, document.Kind(r.PathValue("kind")), b.bytes)
	})
}

func (g *gateway) deleteDocuments(ctx context.Context, r *http.Request, by auth.Principal) (any, error) {
	kind, f, err := documentQuery(r)
	if err != nil {
		return nil, err
	}
	var n int64
	err = process.ForTenant(ctx, g.config.TenantPool, by.TenantID, func(tx pgx.Tx) (err error) {
		n, err = g.documents.Delete(ctx, tx, by.TenantID, kind, f)
		return err
	})
	return stored(map[string]int64{"deleted": n}), err
}
