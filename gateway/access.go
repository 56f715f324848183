package gateway

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"sluice/gateway/auth"
	"sluice/openapi"
)

// scopeError says that a key may not do what it was used for.
type scopeError struct{ scopes []string }

func (e *scopeError) Error() string {
	return fmt.Sprintf("this needs a key with the scope %s", strings.Join(e.scopes, " or "))
}

// admit finds out who comes and whether they may do what asks for these scopes.
func (g *gateway) admit(ctx context.Context, authorization string, scopes []string) (auth.Principal, error) {
	p, err := g.config.Keys.Authenticate(ctx, authorization)
	if err != nil {
		return p, err
	}
	for _, scope := range scopes {
		if !p.Can(auth.Scope(scope)) {
			return p, &scopeError{scopes}
		}
	}
	return p, nil
}

// timeKey is where the metadata of an operation say how long it may take, if not as long as others.
const timeKey = "time"

// enter is what every request to one of huma's operations goes through, before anything of it is read.
func (g *gateway) enter(hctx huma.Context, next func(huma.Context)) {
	op := hctx.Operation()
	most, ok := op.Metadata[timeKey].(time.Duration)
	if !ok {
		most = g.config.RequestTime
	}
	ctx, cancel := context.WithTimeout(hctx.Context(), most)
	defer cancel()
	if scopes, keyed := openapi.Scopes(op); keyed {
		p, err := g.admit(ctx, hctx.Header("Authorization"), scopes)
		if err != nil {
			_ = huma.WriteErr(g.api, hctx, http.StatusInternalServerError, "authenticate", err) // it becomes what it is by translate
			return
		}
		ctx = auth.NewContext(ctx, p)
	}
	next(huma.WithContext(hctx, ctx))
}

// rawHandler is a handler of ours, where huma's way costs too much or does too much to a body.
type rawHandler func(w http.ResponseWriter, r *http.Request, by auth.Principal) error

// handle adds a handler of ours at the place of an operation, with what enter does for huma's.
func (g *gateway) handle(method, path string, h rawHandler) {
	item := g.api.OpenAPI().Paths[path]
	op := item.Post
	if method == http.MethodPut {
		op = item.Put
	}
	scopes, _ := openapi.Scopes(op)
	g.mux.HandleFunc(method+" "+path, func(w http.ResponseWriter, r *http.Request) {
		p, err := g.admit(r.Context(), r.Header.Get("Authorization"), scopes)
		if err == nil {
			err = h(w, r, p)
		}
		if err != nil {
			openapi.WriteError(w, r, err)
		}
	})
}
