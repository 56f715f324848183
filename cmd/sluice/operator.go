package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/gateway/auth"
)

type operatorCmd struct {
	Add     operatorAddCmd     `cmd:"" help:"Add somebody, and print the link by which they sign in."`
	List    operatorListCmd    `cmd:"" help:"List who may sign in."`
	Link    operatorLinkCmd    `cmd:"" help:"Print another link for somebody, who has forgotten the password say."`
	Disable operatorDisableCmd `cmd:"" help:"Shut somebody out, at once."`
	Enable  operatorEnableCmd  `cmd:"" help:"Let somebody in again."`
}

func (operatorCmd) Help() string {
	return examples("Operators sign in at the screens, which every gateway serves under /ui/. Without an API key, the first one is added with --database-url, or DATABASE_URL.",
		"sluice operator add ann --scope admin --database-url postgres://sluice@db/sluice",
		"sluice operator add bob --scope operate")
}

// uiPage is where a browser uses a link up. What is behind the # is sent to nobody.
const uiPage = "/ui/link#"

// operatorView is an operator as the API tells them.
type operatorView struct {
	ID          int64      `json:"id"`
	Name        string     `json:"name"`
	Scopes      []string   `json:"scopes"`
	HasPassword bool       `json:"has_password"`
	CreatedAt   *time.Time `json:"created_at,omitempty"`
	CreatedBy   string     `json:"created_by,omitempty"`
	DisabledAt  *time.Time `json:"disabled_at,omitempty"`
}

func (v operatorView) row() []string {
	enters := "by link"
	switch {
	case v.DisabledAt != nil:
		enters = "disabled " + when(v.DisabledAt)
	case v.HasPassword:
		enters = "by password"
	}
	return []string{strconv.FormatInt(v.ID, 10), v.Name, strings.Join(v.Scopes, ","), enters, when(v.CreatedAt), v.CreatedBy}
}

func viewOfOperator(o auth.Operator) operatorView {
	return operatorView{
		ID: o.ID, Name: o.Name, Scopes: o.Scopes.Strings(), HasPassword: o.HasPassword, CreatedAt: &o.CreatedAt, CreatedBy: o.CreatedBy, DisabledAt: o.DisabledAt,
	}
}

// linkView is what lets an operator in once.
type linkView struct {
	Link    string `json:"link"`
	Seconds int    `json:"seconds"`
}

func (v linkView) tell(w io.Writer) {
	fmt.Fprintf(w, "%s\n\nOpen it in a browser: it signs in once, within %s.\n", v.Link, time.Duration(v.Seconds)*time.Second)
}

// serverURL is where the gateway is as far as is known here.
func (f keyFlags) serverURL() string {
	if f.URL != "" {
		return strings.TrimRight(f.URL, "/")
	}
	return defaultURL
}

// linkOf is what a token is used with.
func (f keyFlags) linkOf(token string) linkView {
	return linkView{Link: f.serverURL() + uiPage + token, Seconds: int(auth.LinkTime.Seconds())}
}

// apiLink is a link as the API tells it.
type apiLink struct {
	Path    string `json:"path"`
	Seconds int    `json:"seconds"`
}

func (l apiLink) at(c *client) linkView { return linkView{c.base + l.Path, l.Seconds} }

type operatorAddCmd struct {
	keyFlags
	Name  string   `arg:"" help:"By which they sign in, and which stands beside what they do."`
	Scope []string `required:"" enum:"operate,admin" help:"operate sees everything, runs topologies and decides about the trash; admin may do everything."`
}

func (operatorAddCmd) Help() string {
	return examples("", "sluice operator add bob --scope operate",
		"sluice operator add ann --scope admin --url https://sluice.example --database-url postgres://sluice@db/sluice")
}

func (c operatorAddCmd) Run(ctx context.Context, p *program) error {
	var link linkView
	direct, err := c.direct(ctx, p, func(db *pgxpool.Pool, tenant int64, by string) error {
		scopes, err := auth.ParseScopes(c.Scope)
		if err != nil {
			return err
		}
		return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
			o, err := auth.AddOperator(ctx, tx, tenant, auth.Operator{Name: c.Name, Scopes: scopes, CreatedBy: by})
			if err != nil {
				return err
			}
			token, err := auth.MakeLink(ctx, tx, tenant, o.ID, by)
			link = c.linkOf(token)
			return err
		})
	})
	if !direct && err == nil {
		var api *client
		if api, err = c.client(p); err != nil {
			return err
		}
		var added answer[struct{ Link apiLink }]
		added, err = ask[struct{ Link apiLink }](ctx, api, request{method: http.MethodPost, path: "/operators"}.
			jsonBody(map[string]any{"name": c.Name, "scopes": c.Scope}))
		link = added.Shown.Link.at(api)
	}
	if errors.Is(err, auth.ErrExists) {
		return fmt.Errorf("there is an operator %q already: see `sluice operator list`", c.Name)
	}
	if err != nil {
		return err
	}
	return p.print(link, link.tell)
}

type operatorListCmd struct {
	keyFlags
	Limit int `default:"500" help:"How many to list at most."`
}

func (operatorListCmd) Help() string { return examples("", "sluice operator list") }

func (c operatorListCmd) Run(ctx context.Context, p *program) error {
	l := listing[operatorView]{Items: []answer[operatorView]{}}
	direct, err := c.direct(ctx, p, func(db *pgxpool.Pool, tenant int64, _ string) error {
		operators, err := auth.ListOperators(ctx, db, tenant, 0, c.Limit)
		for _, o := range operators {
			l.Items = append(l.Items, answer[operatorView]{Shown: viewOfOperator(o)})
		}
		return err
	})
	if !direct && err == nil {
		var api *client
		if api, err = c.client(p); err != nil {
			return err
		}
		l, err = list[operatorView](ctx, api, "/operators", nil, c.Limit)
	}
	if err != nil {
		return err
	}
	defer l.more(p)
	return p.print(l, func(w io.Writer) {
		if len(l.Items) == 0 {
			fmt.Fprintln(w, "No operators yet. Add one: sluice operator add NAME --scope admin")
			return
		}
		table(w, "ID NAME SCOPES ENTERS ADDED BY", rows(l, operatorView.row)...)
	})
}

// operatorFlags name an operator, and lead to them.
type operatorFlags struct {
	keyFlags
	ID int64 `arg:"" name:"operator-id" help:"Id of the operator: see sluice operator list."`
}

// act does something about the operator, by the API's operation or by the function.
func (f operatorFlags) act(ctx context.Context, p *program, r request, do func(db *pgxpool.Pool, tenant int64, by string) error) error {
	direct, err := f.direct(ctx, p, do)
	if !direct && err == nil {
		var api *client
		if api, err = f.client(p); err != nil {
			return err
		}
		_, err = api.send(ctx, r)
	}
	if errors.Is(err, auth.ErrNotFound) {
		return f.missing()
	}
	return err
}

func (f operatorFlags) missing() error {
	return fmt.Errorf("there is no operator %d who may sign in: see `sluice operator list`", f.ID)
}

func (f operatorFlags) path(more ...string) string {
	return pathOf(append([]string{"operators", strconv.FormatInt(f.ID, 10)}, more...)...)
}

type operatorLinkCmd struct{ operatorFlags }

func (operatorLinkCmd) Help() string {
	return examples("It ends the link before. Who came by a link may set a new password.", "sluice operator link 2")
}

func (c operatorLinkCmd) Run(ctx context.Context, p *program) error {
	var link linkView
	direct, err := c.direct(ctx, p, func(db *pgxpool.Pool, tenant int64, by string) error {
		token, err := auth.MakeLink(ctx, db, tenant, c.ID, by)
		link = c.linkOf(token)
		return err
	})
	if !direct && err == nil {
		var api *client
		if api, err = c.client(p); err != nil {
			return err
		}
		var made answer[apiLink]
		made, err = ask[apiLink](ctx, api, request{method: http.MethodPost, path: c.path("link")})
		link = made.Shown.at(api)
	}
	if errors.Is(err, auth.ErrNotFound) {
		return c.missing()
	}
	if err != nil {
		return err
	}
	return p.print(link, link.tell)
}

type operatorDisableCmd struct{ operatorFlags }

func (operatorDisableCmd) Help() string {
	return examples("Their sessions end at once; what they did stays written down.", "sluice operator disable 2")
}

func (c operatorDisableCmd) Run(ctx context.Context, p *program) error {
	err := c.act(ctx, p, request{method: http.MethodDelete, path: c.path()}, func(db *pgxpool.Pool, tenant int64, by string) error {
		return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error { return auth.DisableOperator(ctx, tx, tenant, c.ID, by) })
	})
	if err != nil {
		return err
	}
	return p.print(map[string]int64{"disabled": c.ID}, func(w io.Writer) { fmt.Fprintf(w, "Disabled operator %d.\n", c.ID) })
}

type operatorEnableCmd struct{ operatorFlags }

func (operatorEnableCmd) Help() string {
	return examples("With the scopes and the password from before.", "sluice operator enable 2")
}

func (c operatorEnableCmd) Run(ctx context.Context, p *program) error {
	err := c.act(ctx, p, request{method: http.MethodPost, path: c.path("enable")}, func(db *pgxpool.Pool, tenant int64, by string) error {
		return auth.EnableOperator(ctx, db, tenant, c.ID, by)
	})
	if err != nil {
		return err
	}
	return p.print(map[string]int64{"enabled": c.ID}, func(w io.Writer) { fmt.Fprintf(w, "Enabled operator %d.\n", c.ID) })
}
