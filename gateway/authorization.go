package gateway

import (
	"context"
	"net/http"

	"sluice/openapi"
	"sluice/queue"
)

// authorizedPath is where third parties send browsers back to. It is the worker's SDK that tells them so.
const authorizedPath = "/api/applications/authorize/token"

// maxAuthorized bounds what a browser may come back with.
const maxAuthorized = 16 << 10

func (g *gateway) authorizeApplication(ctx context.Context, in *struct {
	UserApplicationPath
	Body *authorizeView `required:"false"`
}) (*answer[authorizationView], error) {
	of, by := in.of(ctx, in.User)
	start := queue.AuthorizationStart{ApplicationOf: of, KeyID: by.KeyID, OperatorID: by.OperatorID}
	if in.Body != nil {
		start.ReturnTo = in.Body.ReturnTo
	}
	open, err := g.config.Engine.StartAuthorization(ctx, start, by.Actor())
	return &answer[authorizationView]{authorizationView{URL: open.URL, ExpiresAt: open.ExpiresAt.UTC()}}, err
}

// finishAuthorization is public: what a browser comes with is a state that only we and the third party know.
func (g *gateway) finishAuthorization(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), testTime)
	defer cancel()
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer") // the code is in this page's URL
	if len(r.URL.RawQuery) > maxAuthorized {
		openapi.WriteError(w, r, openapi.InvalidRequest.Because("the query is longer than %d bytes", maxAuthorized))
		return
	}
	to, err := g.config.Engine.FinishAuthorization(ctx, r.URL.Query())
	switch {
	case err != nil:
		openapi.WriteError(w, r, err)
	case to == "":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("The application is authorized. You may close this window.\n"))
	default:
		http.Redirect(w, r, to, http.StatusFound) //nolint:gosec // it is the page that the operator gave, as it was kept
	}
}
