package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/queue"
	"sluice/queue/worker"
)

const (
	applicationsPath    = "/v1/applications"
	applicationPath     = "/v1/applications/{application}"
	userApplicationPath = "/v1/applications/{application}/users/{user}"
)

// ApplicationPath is the part of a path that names an application.
type ApplicationPath struct {
	Application string `path:"application" maxLength:"200" doc:"Key of the application" example:"hub-spot"`
	Worker      string `query:"worker" maxLength:"63" doc:"That has it; needed only if several have" example:"legacy"`
}

// UserApplicationPath names what a user has of an application.
type UserApplicationPath struct {
	ApplicationPath
	User string `path:"user" minLength:"1" maxLength:"200" doc:"Whose it is" example:"acme"`
}

func (in *ApplicationPath) of(ctx context.Context, user string) (queue.ApplicationOf, auth.Principal) {
	by, _ := auth.FromContext(ctx)
	return queue.ApplicationOf{Tenant: by.TenantID, Key: in.Application, Worker: in.Worker, User: user}, by
}

type listedApplicationView struct {
	Key           string       `json:"key"`
	Worker        string       `json:"worker" doc:"That has it"`
	Name          string       `json:"name"`
	Description   string       `json:"description,omitempty"`
	Authorization string       `json:"authorization,omitempty" doc:"basic, oauth or oauth2, as a rule"`
	Type          string       `json:"type,omitempty" doc:"cron or webhook, as a rule"`
	Installable   bool         `json:"installable"`
	Install       *installView `json:"install,omitempty" doc:"What the user has of it; absent: nothing, or nobody was asked about"`
	Unknown       string       `json:"install_unknown,omitempty" doc:"Why its worker could not say what the user has"`
}

type installView struct {
	Enabled    bool       `json:"enabled" doc:"Connectors find it"`
	Authorized bool       `json:"authorized"`
	ExpiresAt  *time.Time `json:"expires_at,omitempty" doc:"When its authorization ends, unless it is refreshed"`
}

// ApplicationView is an application as its worker tells of it.
type ApplicationView struct {
	Key           string   `json:"key"`
	Worker        string   `json:"worker" doc:"That has it"`
	Name          string   `json:"name"`
	Description   string   `json:"description,omitempty"`
	Info          string   `json:"info,omitempty"`
	Logo          string   `json:"logo,omitempty" doc:"An image as a data URI"`
	Authorization string   `json:"authorization,omitempty" doc:"basic, oauth or oauth2, as a rule"`
	Type          string   `json:"type,omitempty" doc:"cron or webhook, as a rule"`
	Installable   bool     `json:"installable"`
	Actions       []string `json:"actions" doc:"That it can be asked to do"`
}

type userApplicationView struct {
	ApplicationView
	User       string                   `json:"user"`
	Enabled    bool                     `json:"enabled" doc:"Connectors find it"`
	Authorized bool                     `json:"authorized"`
	Forms      []formView               `json:"forms" doc:"Its settings, in sections"`
	Webhooks   []applicationWebhookView `json:"webhooks" doc:"Events that it can tell of"`
	Buttons    json.RawMessage          `json:"buttons,omitempty" doc:"The worker's own words for what people can do with it"`
	Limit      *declaredLimitView       `json:"limit,omitempty" doc:"What it allows, by its worker's word; absent: its worker was never asked"`
	Warning    string                   `json:"warning,omitempty" doc:"What its worker said of a callback that failed; the change stands"`
}

type declaredLimitView struct {
	User      *RateView  `json:"user,omitempty" doc:"Of this user; absent: any number of calls"`
	Total     *RateView  `json:"total,omitempty" doc:"Of all users together"`
	AskedAt   *time.Time `json:"asked_at,omitempty" doc:"When its worker said so; absent: never, and calls wait until it does"`
	Error     string     `json:"error,omitempty" doc:"Why its worker could not be asked since"`
	Overruled bool       `json:"overruled" doc:"An operator has set a limit, which holds instead"`
}

type formView struct {
	Key         string      `json:"key" example:"authorization_form"`
	Name        string      `json:"name"`
	Description string      `json:"description,omitempty"`
	ReadOnly    bool        `json:"read_only"`
	Fields      []fieldView `json:"fields"`
}

type fieldView struct {
	Key         string          `json:"key"`
	Type        string          `json:"type" doc:"text, number, url, password, selectbox, multiselect or checkbox"`
	Label       string          `json:"label"`
	Description string          `json:"description,omitempty"`
	Value       json.RawMessage `json:"value,omitempty" doc:"Of a password: true if there is one; it is never shown"`
	Required    bool            `json:"required"`
	ReadOnly    bool            `json:"read_only"`
	Disabled    bool            `json:"disabled"`
	Choices     []choiceView    `json:"choices,omitempty"`
}

type choiceView struct {
	Value string `json:"value"`
	Label string `json:"label"`
}

type applicationWebhookView struct {
	Name     string `json:"name" doc:"Of the event" example:"order.created"`
	Default  bool   `json:"default"`
	Enabled  bool   `json:"enabled" doc:"The third party tells of it"`
	Topology string `json:"topology,omitempty" doc:"That it goes to"`
}

type settingsView struct {
	Forms map[string]map[string]json.RawMessage `json:"forms" doc:"By form, by field. What is not named stays; passwords are set by themselves" example:"{\"authorization_form\":{\"url\":\"https://example.com\"}}"`
}

type passwordView struct {
	Form     string `json:"form" maxLength:"200" example:"authorization_form"`
	Field    string `json:"field" maxLength:"200" example:"password"`
	Password string `json:"password" maxLength:"10000" doc:"It is never shown"`
}

type authorizeView struct {
	ReturnTo string `json:"return_to,omitempty" maxLength:"2000" doc:"Page that the browser is sent to afterwards; absent: it is told that all is well" example:"https://example.com/applications"`
}

type authorizationView struct {
	URL       string    `json:"url" doc:"Open it in a browser. It works once"`
	ExpiresAt time.Time `json:"expires_at" doc:"Until when whoever gave consent may come back"`
}

type doneView struct {
	Warning string `json:"warning,omitempty" doc:"What its worker said of a callback that failed; the change stands"`
}

func (g *gateway) addApplications() {
	tags, look, change := []string{"applications"}, openapi.Scope("operate"), openapi.Scope("admin")
	conflict, slowly := []int{http.StatusConflict, http.StatusBadGateway}, map[string]any{timeKey: testTime}
	register(g, huma.Operation{
		OperationID: "list-applications", Method: http.MethodGet, Path: applicationsPath, Tags: tags, Security: look, Metadata: slowly,
		Summary: "List the applications of all workers", Description: "As the workers said when they were last asked. With `user`, what that user has of them, as the workers say now.",
	}, g.listApplications)
	register(g, huma.Operation{
		OperationID: "get-application", Method: http.MethodGet, Path: applicationPath, Tags: tags, Security: look, Metadata: slowly, Errors: conflict,
		Summary: "Show an application, as its worker tells of it",
	}, g.getApplication)
	register(g, huma.Operation{
		OperationID: "do-application", Method: http.MethodPost, Path: applicationPath + "/actions/{action}", Tags: tags, Security: change, Metadata: slowly, Errors: conflict,
		Summary: "Ask an application to do one of its actions", Description: "The body goes to the action as it is; without one, the action is asked without. The answer is what it says, in JSON.",
	}, g.doApplication)
	register(g, huma.Operation{
		OperationID: "get-user-application", Method: http.MethodGet, Path: userApplicationPath, Tags: tags, Security: look, Metadata: slowly, Errors: conflict,
		Summary: "Show what a user has of an application", Description: "With its settings. Passwords are not shown.",
	}, g.getUserApplication)
	register(g, huma.Operation{
		OperationID: "install-application", Method: http.MethodPost, Path: userApplicationPath, Tags: tags, Security: change, DefaultStatus: http.StatusCreated, Metadata: slowly, Errors: conflict,
		Summary: "Install an application for a user", Description: "Connectors do not find it before it is enabled.",
	}, g.changeApplication(g.config.Engine.InstallApplication))
	register(g, huma.Operation{
		OperationID: "set-application", Method: http.MethodPut, Path: userApplicationPath + "/settings", Tags: tags, Security: change, Metadata: slowly, Errors: conflict,
		Summary: "Save settings of a user's application", Description: "What does not fit its forms is refused, and then nothing is saved.",
	}, g.setApplication)
	register(g, huma.Operation{
		OperationID: "set-application-password", Method: http.MethodPut, Path: userApplicationPath + "/password", Tags: tags, Security: change, Metadata: slowly, Errors: conflict,
		Summary: "Save a password of a user's application",
	}, g.setApplicationPassword)
	register(g, huma.Operation{
		OperationID: "enable-application", Method: http.MethodPost, Path: userApplicationPath + "/enable", Tags: tags, Security: change, Metadata: slowly, Errors: conflict,
		Summary: "Let connectors find a user's application",
	}, g.changeApplication(g.config.Engine.EnableApplication))
	register(g, huma.Operation{
		OperationID: "disable-application", Method: http.MethodPost, Path: userApplicationPath + "/disable", Tags: tags, Security: change, Metadata: slowly, Errors: conflict,
		Summary: "Hide a user's application from connectors", Description: "Its settings stay.",
	}, g.changeApplication(g.config.Engine.DisableApplication))
	register(g, huma.Operation{
		OperationID: "authorize-application", Method: http.MethodPost, Path: userApplicationPath + "/authorize", Tags: tags, Security: change, Metadata: slowly, Errors: conflict,
		Summary:     "Begin to authorize a user's application by OAuth 2",
		Description: "The answer has where the browser must go. Whoever gives consent there comes back to `/api/applications/authorize/token`, once, within ten minutes, as long as the key that began it is not revoked.",
	}, g.authorizeApplication)
	register(g, huma.Operation{
		OperationID: "uninstall-application", Method: http.MethodDelete, Path: userApplicationPath, Tags: tags, Security: change, DefaultStatus: http.StatusOK, Metadata: slowly, Errors: conflict,
		Summary: "Take an application away from a user, with its settings",
	}, g.uninstallApplication)
	g.addWebhooks()
	g.mux.HandleFunc("GET "+authorizedPath, g.finishAuthorization)
}

func (g *gateway) listApplications(ctx context.Context, in *struct {
	openapi.Page
	User string `query:"user" maxLength:"200" doc:"Tell what this user has of them"`
}) (*answer[openapi.List[listedApplicationView]], error) {
	var afterKey, afterWorker string
	if err := in.Cursor(&afterKey, &afterWorker); err != nil {
		return nil, err
	}
	var rows []queue.ListedApplication
	var tenant int64
	err := g.look(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		tenant = by.TenantID
		rows, err = queue.ListApplications(ctx, tx, by.TenantID, afterKey, afterWorker, in.Limit+1)
		return err
	})
	if err != nil {
		return nil, err
	}
	views := make([]listedApplicationView, len(rows))
	for i, a := range rows {
		views[i] = listedApplicationView{
			Key: a.Key, Worker: a.Worker, Name: a.Name, Description: a.Description, Authorization: a.Authorization, Type: a.Type, Installable: a.Installable,
		}
	}
	list, err := openapi.Cut(views, in.Page, func(last listedApplicationView) []any { return []any{last.Key, last.Worker} })
	if err == nil && in.User != "" {
		err = g.addInstalls(ctx, tenant, in.User, list.Items)
	}
	return &answer[openapi.List[listedApplicationView]]{list}, err
}

// addInstalls tells what a user has of the applications.
func (g *gateway) addInstalls(ctx context.Context, tenant int64, user string, views []listedApplicationView) error {
	var workers []string
	for _, v := range views {
		if !slices.Contains(workers, v.Worker) {
			workers = append(workers, v.Worker)
		}
	}
	installs, why, err := g.config.Engine.Installs(ctx, tenant, user, workers)
	if err != nil {
		return err
	}
	for i, v := range views {
		views[i].Unknown = why[v.Worker]
		for _, install := range installs[v.Worker] {
			if install.Key == v.Key {
				views[i].Install = &installView{Enabled: install.Enabled, Authorized: install.Authorized, ExpiresAt: utc(install.Expires)}
			}
		}
	}
	return nil
}

func viewOfApplication(a worker.Application, from string) ApplicationView {
	view := ApplicationView{
		Key: a.Key, Worker: from, Name: a.Name, Description: a.Description, Info: a.Info, Logo: a.Logo,
		Authorization: a.Authorization, Type: a.Type, Installable: a.Installable, Actions: a.Actions,
	}
	if view.Actions == nil {
		view.Actions = []string{}
	}
	return view
}

func viewOfUserApplication(a worker.Application, from, user string) userApplicationView {
	view := userApplicationView{
		ApplicationView: viewOfApplication(a, from), User: user, Enabled: a.Enabled, Authorized: a.Authorized,
		Forms: []formView{}, Webhooks: []applicationWebhookView{}, Buttons: a.Buttons,
	}
	for _, f := range a.Forms {
		form := formView{Key: f.Key, Name: f.Name, Description: f.Description, ReadOnly: f.ReadOnly, Fields: []fieldView{}}
		for _, s := range f.Fields {
			field := fieldView{
				Key: s.Key, Type: s.Type, Label: s.Label, Description: s.Description, Value: s.Value,
				Required: s.Required, ReadOnly: s.ReadOnly, Disabled: s.Disabled,
			}
			for _, c := range s.Choices {
				field.Choices = append(field.Choices, choiceView(c))
			}
			form.Fields = append(form.Fields, field)
		}
		view.Forms = append(view.Forms, form)
	}
	for _, w := range a.Webhooks {
		view.Webhooks = append(view.Webhooks, applicationWebhookView(w))
	}
	return view
}

func (g *gateway) getApplication(ctx context.Context, in *ApplicationPath) (*answer[ApplicationView], error) {
	of, _ := in.of(ctx, "")
	a, from, err := g.config.Engine.Application(ctx, of)
	return &answer[ApplicationView]{viewOfApplication(a, from)}, err
}

func (g *gateway) getUserApplication(ctx context.Context, in *UserApplicationPath) (*answer[userApplicationView], error) {
	of, _ := in.of(ctx, in.User)
	a, from, err := g.config.Engine.Application(ctx, of)
	if err != nil {
		return nil, err
	}
	view := viewOfUserApplication(a, from, in.User)
	err = g.look(ctx, func(tx pgx.Tx, by auth.Principal) error {
		d, err := queue.FindDeclared(ctx, tx, by.TenantID, in.Application, in.User)
		if d != nil {
			view.Limit = &declaredLimitView{User: viewOfRate(d.User), Total: viewOfRate(d.Total), AskedAt: utc(d.AskedAt), Error: d.Error, Overruled: d.Overruled}
		}
		return err
	})
	return &answer[userApplicationView]{view}, err
}

// changeApplication is the handler of a change that takes nothing but whose application it is about.
func (g *gateway) changeApplication(change func(context.Context, queue.ApplicationOf, string) (queue.Done, error)) func(context.Context, *UserApplicationPath) (*answer[userApplicationView], error) {
	return func(ctx context.Context, in *UserApplicationPath) (*answer[userApplicationView], error) {
		of, by := in.of(ctx, in.User)
		return viewOfDone(in.User)(change(ctx, of, by.Actor()))
	}
}

func viewOfDone(user string) func(queue.Done, error) (*answer[userApplicationView], error) {
	return func(done queue.Done, err error) (*answer[userApplicationView], error) {
		view := viewOfUserApplication(done.Application, done.Worker, user)
		view.Warning = done.Warning
		return &answer[userApplicationView]{view}, err
	}
}

func (g *gateway) setApplication(ctx context.Context, in *struct {
	UserApplicationPath
	Body settingsView
}) (*answer[userApplicationView], error) {
	of, by := in.of(ctx, in.User)
	return viewOfDone(in.User)(g.config.Engine.SetApplication(ctx, of, in.Body.Forms, by.Actor()))
}

func (g *gateway) setApplicationPassword(ctx context.Context, in *struct {
	UserApplicationPath
	Body passwordView
}) (*answer[userApplicationView], error) {
	of, by := in.of(ctx, in.User)
	return viewOfDone(in.User)(g.config.Engine.SetApplicationPassword(ctx, of, queue.ApplicationPassword(in.Body), by.Actor()))
}

func (g *gateway) uninstallApplication(ctx context.Context, in *UserApplicationPath) (*answer[doneView], error) {
	of, by := in.of(ctx, in.User)
	done, err := g.config.Engine.UninstallApplication(ctx, of, by.Actor())
	return &answer[doneView]{doneView{done.Warning}}, err
}

func (g *gateway) doApplication(ctx context.Context, in *struct {
	ApplicationPath
	Action string          `path:"action" minLength:"1" maxLength:"200" doc:"One of the application's actions" example:"listChannels"`
	Body   json.RawMessage `required:"false"`
}) (*answer[json.RawMessage], error) {
	of, by := in.of(ctx, "")
	said, err := g.config.Engine.DoApplication(ctx, of, in.Action, in.Body, by.Actor())
	if err == nil && !json.Valid(said) { // an action may answer with any text
		said, err = json.Marshal(string(said))
	}
	return &answer[json.RawMessage]{said}, err
}
