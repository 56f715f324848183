package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/gateway/auth"
	"sluice/migrations"
	"sluice/queue"
)

type keyCmd struct {
	Create keyCreateCmd `cmd:"" help:"Make an API key, and print it this once."`
	List   keyListCmd   `cmd:"" help:"List API keys."`
	Revoke keyRevokeCmd `cmd:"" help:"Make a key worthless."`
}

func (keyCmd) Help() string {
	return examples("The first key cannot be made with a key: give --database-url, or set DATABASE_URL and no key.",
		"sluice key create admin --scope admin --database-url postgres://sluice@db/sluice",
		"sluice key create shop --scope ingest")
}

// defaultTenant is the tenant that every database has.
const defaultTenant = "default"

// keyFlags lead to keys and operators: through the API, or straight to the database as long as there is no key.
type keyFlags struct {
	apiFlags
	DatabaseURL string `group:"direct" placeholder:"URL" help:"Go to the database instead. So is done, with DATABASE_URL, when no API key is given."`
	Tenant      string `group:"direct" default:"${tenant}" help:"Whose keys or operators, with --database-url."`
}

// keyView is a key as the API tells it.
type keyView struct {
	ID        int64      `json:"id"`
	Name      string     `json:"name"`
	Scopes    []string   `json:"scopes"`
	Key       string     `json:"key,omitempty"` // only when it is made
	CreatedAt *time.Time `json:"created_at,omitempty"`
	CreatedBy string     `json:"created_by,omitempty"`
	RevokedAt *time.Time `json:"revoked_at,omitempty"`
}

func (v keyView) row() []string {
	return []string{strconv.FormatInt(v.ID, 10), v.Name, strings.Join(v.Scopes, ","), when(v.CreatedAt), v.CreatedBy, when(v.RevokedAt)}
}

func viewOf(k auth.Key) keyView {
	return keyView{
		ID: k.ID, Name: k.Name, Scopes: k.Scopes.Strings(), CreatedAt: &k.CreatedAt, CreatedBy: k.CreatedBy, RevokedAt: k.RevokedAt,
	}
}

// direct calls f with a connection to the database, if that is the way to go.
func (f keyFlags) direct(ctx context.Context, p *program, do func(db *pgxpool.Pool, tenant int64, by string) error) (bool, error) {
	url := f.DatabaseURL
	if url == "" {
		if _, err := f.client(p); err == nil || !errors.Is(err, errNoKey) {
			return false, nil
		}
		found, err := p.secret("DATABASE_URL")
		if err != nil || found == "" {
			return false, err
		}
		url = found
	}
	if err := checkURL(url); err != nil {
		return true, err
	}
	pool, err := queue.Open(ctx, url, 1)
	if err != nil {
		return true, err
	}
	defer pool.Close()
	if err := migrations.Check(ctx, pool); err != nil {
		return true, connectError(err)
	}
	tenant, err := auth.FindTenant(ctx, pool, f.Tenant)
	if errors.Is(err, auth.ErrNotFound) {
		return true, fmt.Errorf("there is no tenant %q: see --tenant", f.Tenant)
	}
	if err != nil {
		return true, connectError(err)
	}
	return true, do(pool, tenant.ID, atKeyboard())
}

// atKeyboard is who sits there, for the record.
func atKeyboard() string {
	if u, err := user.Current(); err == nil {
		return u.Username + " (command line)"
	}
	return "command line"
}

type keyCreateCmd struct {
	keyFlags
	Name   string   `arg:"" help:"What the key is for, for people."`
	Scope  []string `required:"" enum:"ingest,worker,pull,operate,admin" help:"What it may do: ingest posts events, worker also keeps documents, for workers on Orchesty's SDK, pull takes the calls of workers that cannot be reached, operate also runs what is there, admin may do everything."`
	Worker string   `help:"With --scope pull: the only worker whose calls it takes."`
}

func (keyCreateCmd) Help() string {
	return examples("The key is shown once; what is kept cannot be turned back into it.",
		"sluice key create shop --scope ingest",
		"sluice key create shop-agent --scope pull --worker shop",
		"sluice key create deploy --scope admin --output json | jq -r .key",
		"sluice key create admin --scope admin --database-url postgres://sluice@db/sluice")
}

func (c keyCreateCmd) Run(ctx context.Context, p *program) error {
	var made answer[keyView]
	direct, err := c.direct(ctx, p, func(db *pgxpool.Pool, tenant int64, by string) error {
		scopes, err := auth.ParseScopes(c.Scope)
		if err != nil {
			return err
		}
		key, text, err := auth.CreateKeyFor(ctx, db, auth.NewKey{Tenant: tenant, Name: c.Name, Scopes: scopes, Worker: c.Worker}, by)
		made.Shown = viewOf(key)
		made.Shown.Key = text
		return err
	})
	if !direct && err == nil {
		var api *client
		if api, err = c.client(p); err != nil {
			return err
		}
		made, err = ask[keyView](ctx, api, request{method: http.MethodPost, path: "/keys"}.
			jsonBody(map[string]any{"name": c.Name, "scopes": c.Scope, "worker": c.Worker}))
	}
	if err != nil {
		return err
	}
	return p.print(made, func(w io.Writer) {
		k := made.Shown
		facts(w, "Key", k.Key, "Id", strconv.FormatInt(k.ID, 10), "Name", k.Name, "Scopes", strings.Join(k.Scopes, ", "))
		fmt.Fprintln(w, "\nKeep it: it is not shown again.")
	})
}

type keyListCmd struct {
	keyFlags
	Limit int `default:"500" help:"How many to list at most."`
}

func (keyListCmd) Help() string {
	return examples("", "sluice key list", "sluice key list --database-url postgres://sluice@db/sluice")
}

func (c keyListCmd) Run(ctx context.Context, p *program) error {
	l := listing[keyView]{Items: []answer[keyView]{}}
	direct, err := c.direct(ctx, p, func(db *pgxpool.Pool, tenant int64, _ string) error {
		keys, err := auth.ListKeys(ctx, db, tenant, 0, c.Limit)
		for _, k := range keys {
			l.Items = append(l.Items, answer[keyView]{Shown: viewOf(k)})
		}
		return err
	})
	if !direct && err == nil {
		var api *client
		if api, err = c.client(p); err != nil {
			return err
		}
		l, err = list[keyView](ctx, api, "/keys", nil, c.Limit)
	}
	if err != nil {
		return err
	}
	defer l.more(p)
	return p.print(l, func(w io.Writer) {
		if len(l.Items) == 0 {
			fmt.Fprintln(w, "No keys yet. Make one: sluice key create NAME --scope ingest")
			return
		}
		table(w, "ID NAME SCOPES CREATED BY REVOKED", rows(l, keyView.row)...)
	})
}

type keyRevokeCmd struct {
	keyFlags
	ID int64 `arg:"" name:"key-id" help:"Id of the key."`
}

func (keyRevokeCmd) Help() string {
	return examples("Every node refuses it within a second.", "sluice key revoke 3")
}

func (c keyRevokeCmd) Run(ctx context.Context, p *program) error {
	direct, err := c.direct(ctx, p, func(db *pgxpool.Pool, tenant int64, by string) error {
		return auth.RevokeKey(ctx, db, tenant, c.ID, by)
	})
	if !direct && err == nil {
		var api *client
		if api, err = c.client(p); err != nil {
			return err
		}
		_, err = api.send(ctx, request{method: http.MethodDelete, path: pathOf("keys", strconv.FormatInt(c.ID, 10))})
	}
	if errors.Is(err, auth.ErrNotFound) {
		return fmt.Errorf("there is no key %d: see `sluice key list`", c.ID)
	}
	if err != nil {
		return err
	}
	return p.print(map[string]int64{"revoked": c.ID}, func(w io.Writer) { fmt.Fprintf(w, "Revoked key %d.\n", c.ID) })
}
