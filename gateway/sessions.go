package gateway

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"

	"sluice/gateway/auth"
	"sluice/openapi"
)

const (
	sessionPath   = "/v1/session"
	operatorsPath = "/v1/operators"
	operatorPath  = "/v1/operators/{operator_id}"

	// linkPage is where the screens use a link up. What is behind the # stays in the browser: it is in no log.
	linkPage = "/ui/link#"
)

// SessionView is who acts, as the contract shows it.
type SessionView struct {
	Kind        string     `json:"kind" enum:"operator,key"`
	Name        string     `json:"name" doc:"Of the operator or of the key"`
	Scopes      []string   `json:"scopes" enum:"ingest,worker,pull,operate,admin"`
	Worker      string     `json:"worker,omitempty" doc:"Of a key: the only worker whose calls it may take"`
	Tenant      string     `json:"tenant,omitempty" doc:"Of an operator: whose data they see"`
	HasPassword *bool      `json:"has_password,omitempty" doc:"Of an operator: whether they can sign in without a link"`
	ExpiresAt   *time.Time `json:"expires_at,omitempty" doc:"Of an operator: when they must sign in again"`
}

type credentialsView struct {
	Name     string `json:"name" minLength:"1" maxLength:"200" example:"ann"`
	Password string `json:"password" minLength:"1" maxLength:"1000"`
	Tenant   string `json:"tenant,omitempty" maxLength:"200" doc:"Default: default"`
}

type linkUseView struct {
	Token string `json:"token" minLength:"1" maxLength:"200" doc:"What stands behind the # of the link"`
}

type passwordChangeView struct {
	Password string `json:"password" minLength:"12" maxLength:"200" doc:"The new one"`
	Current  string `json:"current,omitempty" maxLength:"1000" doc:"The one before. Who has none, or came by a link, needs none"`
}

// OperatorView is an operator as the contract shows it.
type OperatorView struct {
	ID          int64      `json:"id"`
	Name        string     `json:"name"`
	Scopes      []string   `json:"scopes" enum:"operate,admin"`
	HasPassword bool       `json:"has_password" doc:"Whether they can sign in without a link"`
	CreatedAt   time.Time  `json:"created_at"`
	CreatedBy   string     `json:"created_by"`
	DisabledAt  *time.Time `json:"disabled_at,omitempty" doc:"Absent: they may sign in"`
}

type newOperatorView struct {
	Name   string   `json:"name" minLength:"1" maxLength:"200" doc:"They sign in with it, and it stands beside what they do" example:"ann"`
	Scopes []string `json:"scopes" enum:"operate,admin" minItems:"1" maxItems:"2" doc:"operate sees everything, runs topologies and decides about the trash; admin may do everything"`
}

// LinkView lets an operator in once.
type LinkView struct {
	Token   string `json:"token" doc:"It is not shown again"`
	Path    string `json:"path" doc:"Where a browser uses it, below this server's address" example:"/ui/link#…"`
	Seconds int    `json:"seconds" doc:"How long it lets in"`
}

type addedOperatorView struct {
	OperatorView
	Link LinkView `json:"link" doc:"By which they sign in for the first time"`
}

// signedIn is the answer that puts a browser into a session.
type signedIn struct {
	SetCookie http.Cookie `header:"Set-Cookie"`
	Cache     string      `header:"Cache-Control"`
	Body      SessionView
}

// signedOut is the answer that takes a browser out of its session.
type signedOut struct {
	SetCookie []http.Cookie `header:"Set-Cookie"`
}

// operatorParam names an operator.
type operatorParam struct {
	ID int64 `path:"operator_id" minimum:"1" doc:"Id of the operator"`
}

func (g *gateway) addSessions() {
	tags, change := []string{"operators"}, openapi.Scope("admin")
	refused := []int{http.StatusUnauthorized, http.StatusForbidden}
	register(g, huma.Operation{
		OperationID: "sign-in", Method: http.MethodPost, Path: sessionPath, Tags: tags, Security: openapi.Public(), Errors: refused,
		Summary: "Sign in", Description: "For browsers: the answer sets a cookie that acts as an API key with the operator's scopes would. It is not for scripts, and not sent by pages from elsewhere. Whoever fails too often is told to wait.",
	}, g.signIn)
	register(g, huma.Operation{
		OperationID: "sign-in-by-link", Method: http.MethodPost, Path: sessionPath + "/link", Tags: tags, Security: openapi.Public(), Errors: refused,
		Summary: "Sign in by a link", Description: "A link works once, and for an hour.",
	}, g.enterByLink)
	register(g, huma.Operation{
		OperationID: "get-session", Method: http.MethodGet, Path: sessionPath, Tags: tags, Security: openapi.Scope(),
		Summary: "Tell who acts",
	}, g.getSession)
	register(g, huma.Operation{
		OperationID: "sign-out", Method: http.MethodDelete, Path: sessionPath, Tags: tags, Security: openapi.Scope(), DefaultStatus: http.StatusNoContent,
		Summary: "Sign out", Description: "Ends the session that the cookie is of. With an API key nothing happens.",
	}, g.signOut)
	register(g, huma.Operation{
		OperationID: "sign-out-everywhere", Method: http.MethodDelete, Path: sessionPath + "s", Tags: tags, Security: openapi.Scope(), DefaultStatus: http.StatusNoContent,
		Summary: "Sign out everywhere", Description: "Ends all sessions of the operator, and the link that is not used yet. With an API key nothing happens.",
	}, g.signOutEverywhere)
	register(g, huma.Operation{
		OperationID: "set-password", Method: http.MethodPut, Path: sessionPath + "/password", Tags: tags, Security: openapi.Scope(), DefaultStatus: http.StatusNoContent,
		Errors:  []int{http.StatusConflict},
		Summary: "Set one's password", Description: "Ends all other sessions of the operator.",
	}, g.setPassword)

	register(g, huma.Operation{
		OperationID: "list-operators", Method: http.MethodGet, Path: operatorsPath, Tags: tags, Security: change,
		Summary: "List operators", Description: "In the order in which they were added, those who are disabled too.",
	}, g.listOperators)
	register(g, huma.Operation{
		OperationID: "add-operator", Method: http.MethodPost, Path: operatorsPath, Tags: tags, Security: change, DefaultStatus: http.StatusCreated,
		Errors:  []int{http.StatusConflict},
		Summary: "Add an operator", Description: "The answer has a link by which they sign in for the first time. It works once, and for an hour.",
	}, g.addOperator)
	register(g, huma.Operation{
		OperationID: "make-operator-link", Method: http.MethodPost, Path: operatorPath + "/link", Tags: tags, Security: change, DefaultStatus: http.StatusCreated,
		Summary: "Make a link for an operator", Description: "For one who has forgotten the password, or never had one. It ends the link before.",
	}, g.makeLink)
	register(g, huma.Operation{
		OperationID: "disable-operator", Method: http.MethodDelete, Path: operatorPath, Tags: tags, Security: change, DefaultStatus: http.StatusNoContent,
		Errors:  []int{http.StatusConflict},
		Summary: "Disable an operator", Description: "Their sessions end at once. What they did stays written down. To disable one again changes nothing.",
	}, g.disableOperator)
	register(g, huma.Operation{
		OperationID: "enable-operator", Method: http.MethodPost, Path: operatorPath + "/enable", Tags: tags, Security: change, DefaultStatus: http.StatusNoContent,
		Summary: "Let a disabled operator in again", Description: "With the scopes and the password from before.",
	}, g.enableOperator)
}

func (g *gateway) signIn(ctx context.Context, in *answer[credentialsView]) (*signedIn, error) {
	v := visitOf(ctx)
	if err := v.own(); err != nil {
		return nil, err
	}
	secret, err := g.config.Sessions.SignIn(ctx, auth.Credentials{
		Tenant: cmp.Or(in.Body.Tenant, defaultTenant), Name: in.Body.Name, Password: in.Body.Password,
	}, v.address())
	if err != nil {
		return nil, err
	}
	return g.entered(ctx, secret)
}

// defaultTenant is the tenant that every database has.
const defaultTenant = "default"

func (g *gateway) enterByLink(ctx context.Context, in *answer[linkUseView]) (*signedIn, error) {
	if err := visitOf(ctx).own(); err != nil {
		return nil, err
	}
	secret, err := g.config.Sessions.EnterByLink(ctx, in.Body.Token)
	if err != nil {
		return nil, err
	}
	return g.entered(ctx, secret)
}

// entered answers with a new session. The one that the browser was in before is ended: nobody holds its cookie any more.
func (g *gateway) entered(ctx context.Context, secret string) (*signedIn, error) {
	v := visitOf(ctx)
	by, err := g.config.Sessions.Find(ctx, secret)
	if err != nil {
		return nil, err
	}
	if before := v.session(); before != "" {
		if was, err := g.config.Sessions.Find(ctx, before); err == nil {
			if err := g.asTenant(auth.NewContext(ctx, was), func(tx pgx.Tx, by auth.Principal) error { return auth.SignOut(ctx, tx, by, before) }); err != nil {
				return nil, err
			}
		}
	}
	view, err := g.describeSession(ctx, by, secret)
	if err != nil {
		return nil, err
	}
	cookie := http.Cookie{Name: plainCookie, Value: secret, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: int(auth.SessionTime.Seconds())} //nolint:gosec // Secure where the browser sees us encrypted, below
	if v.encrypted() {
		cookie.Name, cookie.Secure = safeCookie, true
	}
	return &signedIn{SetCookie: cookie, Cache: "no-store", Body: view}, nil
}

// describeSession tells an operator of their session.
func (g *gateway) describeSession(ctx context.Context, by auth.Principal, secret string) (view SessionView, err error) {
	var s auth.Session
	err = g.asTenant(auth.NewContext(ctx, by), func(tx pgx.Tx, by auth.Principal) (err error) {
		s, err = auth.Describe(ctx, tx, by, secret)
		return err
	})
	return SessionView{
		Kind: "operator", Name: by.OperatorName, Scopes: by.Scopes.Strings(), Tenant: s.Tenant, HasPassword: &s.HasPassword, ExpiresAt: utc(&s.ExpiresAt),
	}, err
}

func (g *gateway) getSession(ctx context.Context, _ *struct{}) (*answer[SessionView], error) {
	by, _ := auth.FromContext(ctx)
	if by.OperatorID == 0 {
		return &answer[SessionView]{SessionView{Kind: "key", Name: by.KeyName, Worker: by.Worker, Scopes: by.Scopes.Strings()}}, nil
	}
	view, err := g.describeSession(ctx, by, visitOf(ctx).session())
	return &answer[SessionView]{view}, err
}

func (g *gateway) signOut(ctx context.Context, _ *struct{}) (*signedOut, error) {
	return out(), g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) error {
		if by.OperatorID == 0 {
			return nil
		}
		return auth.SignOut(ctx, tx, by, visitOf(ctx).session())
	})
}

func (g *gateway) signOutEverywhere(ctx context.Context, _ *struct{}) (*signedOut, error) {
	return out(), g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) error {
		if by.OperatorID == 0 {
			return nil
		}
		return auth.SignOutEverywhere(ctx, tx, by)
	})
}

// out has the browser forget its cookies.
func out() *signedOut {
	return &signedOut{SetCookie: []http.Cookie{
		{Name: plainCookie, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode}, //nolint:gosec // it has no value
		{Name: safeCookie, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: true},
	}}
}

func (g *gateway) setPassword(ctx context.Context, in *answer[passwordChangeView]) (*struct{}, error) {
	return nil, g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) error {
		if by.OperatorID == 0 {
			return openapi.Conflict.Because("only an operator who is signed in has a password: an API key has none")
		}
		return auth.SetPassword(ctx, tx, by, visitOf(ctx).session(), in.Body.Current, in.Body.Password)
	})
}

func viewOfOperator(o auth.Operator) OperatorView {
	return OperatorView{
		ID: o.ID, Name: o.Name, Scopes: o.Scopes.Strings(), HasPassword: o.HasPassword, CreatedAt: o.CreatedAt.UTC(), CreatedBy: o.CreatedBy, DisabledAt: utc(o.DisabledAt),
	}
}

func viewOfLink(token string) LinkView {
	return LinkView{Token: token, Path: linkPage + token, Seconds: int(auth.LinkTime.Seconds())}
}

func (g *gateway) listOperators(ctx context.Context, in *struct{ openapi.Page }) (*answer[openapi.List[OperatorView]], error) {
	var after int64
	if err := in.Cursor(&after); err != nil {
		return nil, err
	}
	var operators []auth.Operator
	err := g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		operators, err = auth.ListOperators(ctx, tx, by.TenantID, after, in.Limit+1)
		return err
	})
	if err != nil {
		return nil, err
	}
	views := make([]OperatorView, len(operators))
	for i, o := range operators {
		views[i] = viewOfOperator(o)
	}
	list, err := openapi.Cut(views, in.Page, func(last OperatorView) []any { return []any{last.ID} })
	return &answer[openapi.List[OperatorView]]{list}, err
}

func (g *gateway) addOperator(ctx context.Context, in *answer[newOperatorView]) (*answer[addedOperatorView], error) {
	scopes, err := auth.ParseScopes(in.Body.Scopes)
	if err != nil {
		return nil, err
	}
	var view addedOperatorView
	err = g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) error {
		added, err := auth.AddOperator(ctx, tx, by.TenantID, auth.Operator{Name: in.Body.Name, Scopes: scopes, CreatedBy: by.Actor()})
		if err != nil {
			return err
		}
		token, err := auth.MakeLink(ctx, tx, by.TenantID, added.ID, by.Actor())
		view = addedOperatorView{viewOfOperator(added), viewOfLink(token)}
		return err
	})
	return &answer[addedOperatorView]{view}, err
}

func (g *gateway) makeLink(ctx context.Context, in *operatorParam) (*answer[LinkView], error) {
	var token string
	err := g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		token, err = auth.MakeLink(ctx, tx, by.TenantID, in.ID, by.Actor())
		return err
	})
	return &answer[LinkView]{viewOfLink(token)}, err
}

func (g *gateway) disableOperator(ctx context.Context, in *operatorParam) (*struct{}, error) {
	return nil, g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) error {
		return auth.DisableOperator(ctx, tx, by.TenantID, in.ID, by.Actor())
	})
}

func (g *gateway) enableOperator(ctx context.Context, in *operatorParam) (*struct{}, error) {
	return nil, g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) error {
		return auth.EnableOperator(ctx, tx, by.TenantID, in.ID, by.Actor())
	})
}
