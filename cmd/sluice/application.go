package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

type applicationCmd struct {
	List      applicationListCmd      `cmd:"" help:"List the applications of all workers."`
	Show      applicationShowCmd      `cmd:"" help:"Show an application, or what a user has of it."`
	Install   applicationInstallCmd   `cmd:"" help:"Install an application for a user."`
	Set       applicationSetCmd       `cmd:"" help:"Save settings of a user's application."`
	Password  applicationPasswordCmd  `cmd:"" help:"Save a password of a user's application."`
	Authorize applicationAuthorizeCmd `cmd:"" help:"Begin to authorize a user's application in a browser."`
	Enable    applicationEnableCmd    `cmd:"" help:"Let connectors find a user's application."`
	Disable   applicationDisableCmd   `cmd:"" help:"Hide a user's application from connectors."`
	Webhooks  webhooksCmd             `cmd:"" help:"Subscribe to events of a user's application, and take that back."`
	Do        applicationDoCmd        `cmd:"" help:"Ask an application to do one of its actions."`
	Uninstall applicationUninstallCmd `cmd:"" help:"Take an application away from a user, with its settings."`
}

func (applicationCmd) Help() string {
	return examples("An application is a third party that a worker's connectors talk to. A user installs it, sets it up, authorizes it, and enables it. Workers that speak Orchesty's protocol have applications: docs/orchesty.md.",
		"sluice application list", "sluice application install hub-spot acme", "sluice application set hub-spot acme authorization_form.url=https://example.com",
		"sluice application enable hub-spot acme")
}

// applicationFlags are the flags of what is about one application.
type applicationFlags struct {
	apiFlags
	Application string `arg:"" help:"Key of the application."`
	Worker      string `help:"Worker that has it; needed only if several have."`
}

// userFlags are those of what is about a user's application.
type userFlags struct {
	applicationFlags
	User string `arg:"" help:"Whose it is."`
}

func (f applicationFlags) request(method string, more ...string) request {
	return request{method: method, path: pathOf(append([]string{"applications", f.Application}, more...)...), query: queryOf("worker", f.Worker)}
}

func (f userFlags) request(method string, more ...string) request {
	return f.applicationFlags.request(method, append([]string{"users", f.User}, more...)...)
}

// change does something about a user's application, and tells what it is then.
func (f userFlags) change(ctx context.Context, p *program, api *client, r request) error {
	changed, err := ask[applicationView](ctx, api, r)
	if err != nil {
		return err
	}
	if changed.Shown.Warning != "" {
		p.note("Warning: %s", changed.Shown.Warning)
	}
	return p.print(changed, changed.Shown.write)
}

// applicationView is an application as the API tells it, with what a user has of it.
type applicationView struct {
	Key           string   `json:"key"`
	Worker        string   `json:"worker"`
	Name          string   `json:"name"`
	Description   string   `json:"description"`
	Authorization string   `json:"authorization"`
	Type          string   `json:"type"`
	Actions       []string `json:"actions"`
	User          string   `json:"user"`
	Enabled       bool     `json:"enabled"`
	Authorized    bool     `json:"authorized"`
	Warning       string   `json:"warning"`
	Forms         []struct {
		Key    string `json:"key"`
		Name   string `json:"name"`
		Fields []struct {
			Key      string          `json:"key"`
			Type     string          `json:"type"`
			Label    string          `json:"label"`
			Value    json.RawMessage `json:"value"`
			Required bool            `json:"required"`
			ReadOnly bool            `json:"read_only"`
		} `json:"fields"`
	} `json:"forms"`
	Webhooks []struct {
		Name     string `json:"name"`
		Enabled  bool   `json:"enabled"`
		Topology string `json:"topology"`
	} `json:"webhooks"`
	Install *struct {
		Enabled    bool       `json:"enabled"`
		Authorized bool       `json:"authorized"`
		ExpiresAt  *time.Time `json:"expires_at"`
	} `json:"install"`
	Unknown string `json:"install_unknown"`
}

func (v applicationView) row() []string {
	state := v.Unknown
	if v.Install != nil {
		state = v.state(v.Install.Enabled, v.Install.Authorized)
	}
	return []string{v.Key, v.Name, v.Worker, v.Authorization, v.Type, state}
}

func (applicationView) state(enabled, authorized bool) string {
	state := "disabled"
	if enabled {
		state = "enabled"
	}
	if !authorized {
		state += ", not authorized"
	}
	return state
}

func (v applicationView) write(w io.Writer) {
	state := ""
	if v.User != "" {
		state = v.state(v.Enabled, v.Authorized)
	}
	facts(w, "Application", v.Key, "Name", v.Name, "Worker", v.Worker, "Description", v.Description, "Authorization", v.Authorization, "Type", v.Type,
		"Actions", strings.Join(v.Actions, ", "), "User", v.User, "State", state)
	for _, form := range v.Forms {
		fmt.Fprintf(w, "\n%s\n", line(form.Name))
		var fields [][]string
		for _, f := range form.Fields {
			note := ""
			switch {
			case f.ReadOnly:
				note = "read only"
			case f.Required:
				note = "required"
			}
			fields = append(fields, []string{form.Key + "." + f.Key, f.Type, shownSetting(f.Type, f.Value), note, f.Label})
		}
		table(w, "FIELD TYPE VALUE NOTE LABEL", fields...)
	}
	if len(v.Webhooks) > 0 {
		var hooks [][]string
		for _, h := range v.Webhooks {
			hooks = append(hooks, []string{h.Name, yes(h.Enabled), h.Topology})
		}
		fmt.Fprintln(w)
		table(w, "EVENT SUBSCRIBED TOPOLOGY", hooks...)
	}
}

// shownSetting is a value for people. Of a password it is only told whether there is one.
func shownSetting(kind string, value json.RawMessage) string {
	var text string
	switch {
	case kind == "password" && string(value) == "true":
		return "(set)"
	case kind == "password", string(value) == "null":
		return ""
	case json.Unmarshal(value, &text) == nil:
		return text
	}
	return string(value)
}

type applicationListCmd struct {
	apiFlags
	User  string `help:"Tell what this user has of them."`
	Limit int    `default:"500" help:"How many to list at most."`
}

func (applicationListCmd) Help() string {
	return examples("What workers have is as they said when they were last asked: `sluice worker refresh`. What a user has is asked now.",
		"sluice application list", "sluice application list --user acme --output json")
}

func (c applicationListCmd) Run(ctx context.Context, p *program, api *client) error {
	l, err := list[applicationView](ctx, api, "/applications", queryOf("user", c.User), c.Limit)
	if err != nil {
		return err
	}
	defer l.more(p)
	return p.print(l, func(w io.Writer) {
		if len(l.Items) == 0 {
			fmt.Fprintln(w, "No applications. Workers that speak Orchesty's protocol have them: sluice worker refresh NAME")
			return
		}
		table(w, "KEY NAME WORKER AUTHORIZATION TYPE INSTALL", rows(l, applicationView.row)...)
	})
}

type applicationShowCmd struct {
	applicationFlags
	User string `arg:"" optional:"" help:"Whose; without one, the application itself."`
}

func (applicationShowCmd) Help() string {
	return examples("With a user, it has the user's settings. Passwords are never shown.",
		"sluice application show hub-spot", "sluice application show hub-spot acme")
}

func (c applicationShowCmd) Run(ctx context.Context, p *program, api *client) error {
	r := c.request(http.MethodGet)
	if c.User != "" {
		r = userFlags(c).request(http.MethodGet)
	}
	shown, err := ask[applicationView](ctx, api, r)
	if err != nil {
		return err
	}
	return p.print(shown, shown.Shown.write)
}

type applicationInstallCmd struct{ userFlags }

func (applicationInstallCmd) Help() string {
	return examples("Connectors do not find it before it is enabled.", "sluice application install hub-spot acme")
}

func (c applicationInstallCmd) Run(ctx context.Context, p *program, api *client) error {
	return c.change(ctx, p, api, c.request(http.MethodPost))
}

type applicationSetCmd struct {
	userFlags
	Settings []string `arg:"" name:"FORM.FIELD=VALUE" help:"What to save. A value that is JSON is taken as such: 7, true, [\"a\"]; all else is text."`
}

func (applicationSetCmd) Help() string {
	return examples("What is not named stays. All is checked before anything is saved. Text that looks like JSON needs quotes of its own.",
		"sluice application set hub-spot acme authorization_form.url=https://example.com limiter_form.useLimit=true limiter_form.value=100 limiter_form.time=60",
		`sluice application set hub-spot acme 'authorization_form.account="007"'`)
}

func (c applicationSetCmd) Run(ctx context.Context, p *program, api *client) error {
	forms := map[string]map[string]json.RawMessage{}
	for _, text := range c.Settings {
		name, value, found := strings.Cut(text, "=")
		form, field, dotted := strings.Cut(name, ".")
		if !found || !dotted || form == "" || field == "" {
			return usagef("%s: write FORM.FIELD=VALUE", text)
		}
		if forms[form] == nil {
			forms[form] = map[string]json.RawMessage{}
		}
		forms[form][field] = json.RawMessage(value)
		if !json.Valid([]byte(value)) {
			quoted, err := json.Marshal(value)
			if err != nil {
				return err
			}
			forms[form][field] = quoted
		}
	}
	return c.change(ctx, p, api, c.request(http.MethodPut, "settings").jsonBody(map[string]any{"forms": forms}))
}

type applicationPasswordCmd struct {
	userFlags
	Field string `arg:"" name:"FORM.FIELD" help:"Which one."`
}

func (applicationPasswordCmd) Help() string {
	return examples("The password comes from standard input, so that it is in no list of processes and in no history. One line feed at its end is left out.",
		"sluice application password hub-spot acme authorization_form.client_secret")
}

// maxPassword is more than any password has.
const maxPassword = 10_000

func (c applicationPasswordCmd) Run(ctx context.Context, p *program) error {
	form, field, dotted := strings.Cut(c.Field, ".")
	if !dotted {
		return usagef("%s: write FORM.FIELD", c.Field)
	}
	text, err := io.ReadAll(io.LimitReader(p.stdin, maxPassword+2))
	if err != nil {
		return fmt.Errorf("read the password: %w", err)
	}
	password := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	if password == "" || len(password) > maxPassword {
		return usagef("give a password of at most %d bytes on standard input", maxPassword)
	}
	api, err := c.client(p)
	if err != nil {
		return err
	}
	return c.change(ctx, p, api, c.request(http.MethodPut, "password").jsonBody(map[string]string{"form": form, "field": field, "password": password}))
}

type applicationAuthorizeCmd struct {
	userFlags
	ReturnTo string `placeholder:"URL" help:"Page that the browser ends on."`
}

func (applicationAuthorizeCmd) Help() string {
	return examples("Prints where to go with a browser. Whoever gives consent there comes back to Sluice, once, within ten minutes, as long as the API key that began it is good.",
		"sluice application authorize hub-spot acme", "sluice application authorize hub-spot acme --return-to https://example.com/applications")
}

func (c applicationAuthorizeCmd) Run(ctx context.Context, p *program, api *client) error {
	body := map[string]string{}
	if c.ReturnTo != "" {
		if _, err := url.Parse(c.ReturnTo); err != nil {
			return usagef("--return-to: %s", err)
		}
		body["return_to"] = c.ReturnTo
	}
	type view struct {
		URL       string     `json:"url"`
		ExpiresAt *time.Time `json:"expires_at"`
	}
	begun, err := ask[view](ctx, api, c.request(http.MethodPost, "authorize").jsonBody(body))
	if err != nil {
		return err
	}
	return p.print(begun, func(w io.Writer) {
		fmt.Fprintf(w, "Open in a browser, until %s:\n%s\n", when(begun.Shown.ExpiresAt), line(begun.Shown.URL))
	})
}

type applicationEnableCmd struct{ userFlags }

func (applicationEnableCmd) Help() string {
	return examples("", "sluice application enable hub-spot acme")
}

func (c applicationEnableCmd) Run(ctx context.Context, p *program, api *client) error {
	return c.change(ctx, p, api, c.request(http.MethodPost, "enable"))
}

type applicationDisableCmd struct{ userFlags }

func (applicationDisableCmd) Help() string {
	return examples("What needs it fails until it is enabled again. Its settings stay.", "sluice application disable hub-spot acme")
}

func (c applicationDisableCmd) Run(ctx context.Context, p *program, api *client) error {
	return c.change(ctx, p, api, c.request(http.MethodPost, "disable"))
}

type applicationDoCmd struct {
	applicationFlags
	Action string `arg:"" help:"One of its actions: see show."`
	Data   string `help:"JSON that goes along."`
}

func (applicationDoCmd) Help() string {
	return examples("Prints what the action says.",
		"sluice application do slack listChannels", `sluice application do slack listChannels --data '{"user":"acme"}'`)
}

func (c applicationDoCmd) Run(ctx context.Context, p *program, api *client) error {
	r := c.request(http.MethodPost, "actions", c.Action)
	if c.Data != "" {
		if !json.Valid([]byte(c.Data)) {
			return usagef("--data is no JSON")
		}
		r = r.jsonBody(json.RawMessage(c.Data))
	}
	said, err := ask[json.RawMessage](ctx, api, r)
	if err != nil {
		return err
	}
	return p.print(said, func(w io.Writer) { fmt.Fprintln(w, shownBody(said.Shown)) })
}

type applicationUninstallCmd struct{ userFlags }

func (applicationUninstallCmd) Help() string {
	return examples("It is disabled first.", "sluice application uninstall hub-spot acme")
}

func (c applicationUninstallCmd) Run(ctx context.Context, p *program, api *client) error {
	type view struct {
		Warning string `json:"warning"`
	}
	done, err := ask[view](ctx, api, c.request(http.MethodDelete))
	if err != nil {
		return err
	}
	if done.Shown.Warning != "" {
		p.note("Warning: %s", done.Shown.Warning)
	}
	return p.print(done, func(w io.Writer) { fmt.Fprintf(w, "Took %s away from %s.\n", line(c.Application), line(c.User)) })
}
