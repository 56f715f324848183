package gateway

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"sluice/gateway/auth"
	"sluice/openapi"
)

// scopeError says that somebody may not do what was asked for.
type scopeError struct{ scopes []string }

func (e *scopeError) Error() string {
	return fmt.Sprintf("this needs the scope %s", strings.Join(e.scopes, " or "))
}

// crossError says that a browser was made to send something by a page that is not ours.
type crossError struct{ reason error }

func (e *crossError) Error() string {
	return "the request was sent by a page from elsewhere: " + e.reason.Error()
}

// Names of the cookie that a session is kept in. A browser takes one with the prefix only from a page that came encrypted,
// and from no neighbour under the same domain. The other one is for a Sluice on one's own machine.
const (
	safeCookie  = "__Host-sluice"
	plainCookie = "sluice"
)

// visit is a request as the operations of sessions need it.
type visit struct{ *http.Request }

// session is the secret of the session that the browser is in, or "".
func (v visit) session() string {
	for _, name := range []string{safeCookie, plainCookie} {
		if c, err := v.Cookie(name); err == nil {
			return c.Value
		}
	}
	return ""
}

// encrypted tells whether the browser sees the page encrypted, before a proxy too: it says where the page came from.
func (v visit) encrypted() bool {
	return v.TLS != nil || strings.HasPrefix(v.Header.Get("Origin"), "https://")
}

// address is where the request came from, which may be a proxy.
func (v visit) address() string {
	host, _, err := net.SplitHostPort(v.RemoteAddr)
	if err != nil {
		return v.RemoteAddr
	}
	return host
}

// own is nil unless a page from elsewhere sent what may change something. Browsers send cookies along with that.
func (v visit) own() error {
	if err := new(http.CrossOriginProtection).Check(v.Request); err != nil {
		return &crossError{err}
	}
	return nil
}

// identify finds out who comes: a program by its key, or else an operator by the session.
func (g *gateway) identify(v visit) (auth.Principal, error) {
	authorization, session := v.Header.Get("Authorization"), v.session()
	if authorization != "" || session == "" {
		return g.config.Keys.Authenticate(v.Context(), authorization)
	}
	if err := v.own(); err != nil {
		return auth.Principal{}, err
	}
	return g.config.Sessions.Find(v.Context(), session)
}

// admit finds out who comes and whether they may do what asks for these scopes.
func (g *gateway) admit(v visit, scopes []string) (auth.Principal, error) {
	p, err := g.identify(v)
	if err == nil {
		err = allow(p, scopes)
	}
	return p, err
}

// allow is nil if somebody may do what asks for these scopes.
func allow(p auth.Principal, scopes []string) error {
	for _, scope := range scopes {
		if !p.Can(auth.Scope(scope)) {
			return &scopeError{scopes}
		}
	}
	return nil
}

// timeKey is where the metadata of an operation say how long it may take, if not as long as others.
const timeKey = "time"

type visitKey struct{}

// visitOf is the request of one of huma's operations.
func visitOf(ctx context.Context) visit {
	v, _ := ctx.Value(visitKey{}).(visit) // enter puts it there
	return v
}

// enter is what every request to one of huma's operations goes through, before anything of it is read.
func (g *gateway) enter(hctx huma.Context, next func(huma.Context)) {
	op := hctx.Operation()
	most, ok := op.Metadata[timeKey].(time.Duration)
	if !ok {
		most = g.config.RequestTime
	}
	ctx, cancel := context.WithTimeout(hctx.Context(), most)
	defer cancel()
	r, _ := humago.Unwrap(hctx)
	v := visit{r.WithContext(ctx)}
	ctx = context.WithValue(ctx, visitKey{}, v)
	if scopes, keyed := openapi.Scopes(op); keyed {
		p, err := g.admit(v, scopes)
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
		p, err := g.admit(visit{r}, scopes)
		if err == nil {
			err = h(w, r, p)
		}
		if err != nil {
			openapi.WriteError(w, r, err)
		}
	})
}
