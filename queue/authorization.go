package queue

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/queue/worker"
)

// Errors of authorizations.
var (
	// ErrNoAuthorization says that nobody is expected back with such a state: it never was ours, was used, is over, was
	// replaced by a newer one, or began with a key that is revoked or by an operator who is disabled. They look the same from outside.
	ErrNoAuthorization = errors.New("this authorization is unknown, used or over: begin it again")
	// ErrNotAuthorizable says that an application cannot be authorized in a browser.
	ErrNotAuthorizable = errors.New("application cannot be authorized")
	// ErrBadReturn says that a page is none that a browser may be sent to.
	ErrBadReturn = errors.New("return_to is no http or https URL without a user")
	// ErrRefusedAuthorization says that the third party sent the browser back without consent.
	ErrRefusedAuthorization = errors.New("the third party did not give its consent")
)

// authorizationLife is how long whoever is to give consent has for it.
const authorizationLife = 10 * time.Minute

// noPage is what a worker is told where the browser is to end on none: the SDK wants one.
const noPage = "about:blank"

// Authorization is one that somebody is about to give.
type Authorization struct {
	URL       string // where the browser must go
	ExpiresAt time.Time
}

// AuthorizationStart begins one: for whose application, and what comes after.
type AuthorizationStart struct {
	ApplicationOf
	ReturnTo string // page that the browser ends on; empty: none

	// The API key or the operator that begins it, the other being 0: it must still be good at the end.
	KeyID, OperatorID int64
}

// StartAuthorization begins to authorize a user's application. The worker makes the third party's URL; its state, which
// anybody could guess, is replaced by one of ours, and put back when the browser returns with ours.
func (e *Engine) StartAuthorization(ctx context.Context, a AuthorizationStart, by string) (Authorization, error) {
	if err := checkReturn(a.ReturnTo); err != nil {
		return Authorization{}, err
	}
	target, err := e.find(ctx, &a.ApplicationOf)
	if err != nil {
		return Authorization{}, err
	}
	doc, err := e.ask(ctx, target, worker.ApplicationCall{
		Method: http.MethodGet, Path: []string{a.Key, "authorize"}, User: a.User, Query: url.Values{"redirect_url": {cmp.Or(a.ReturnTo, noPage)}},
	})
	if err != nil {
		return Authorization{}, err
	}
	to, theirs, err := authorizeURL(doc)
	if err != nil {
		return Authorization{}, err
	}
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	state := base64.RawURLEncoding.EncodeToString(secret)
	query := to.Query()
	query.Set("state", state)
	to.RawQuery = query.Encode()
	open := Authorization{URL: to.String()}
	digest := sha256.Sum256([]byte(state))
	err = e.pool.QueryRow(ctx, `
		with over as (
			delete from sluice.authorization_open where tenant_id = $1 and expires_at < now() and (worker, application, user_name) <> ($3, $4, $5)
		)
		insert into sluice.authorization_open (tenant_id, digest, worker, application, user_name, state, return_to, key_id, operator_id, started_by, expires_at)
		values ($1, $2, $3, $4, $5, $6, $7, nullif($8::bigint, 0), nullif($9::bigint, 0), $10, now() + $11::interval)
		on conflict (tenant_id, worker, application, user_name) do update
		set digest = excluded.digest, state = excluded.state, return_to = excluded.return_to, key_id = excluded.key_id,
		    operator_id = excluded.operator_id, started_by = excluded.started_by, expires_at = excluded.expires_at
		returning expires_at`,
		a.Tenant, digest[:], a.Worker, a.Key, a.User, theirs, a.ReturnTo, a.KeyID, a.OperatorID, by, authorizationLife).Scan(&open.ExpiresAt)
	if err != nil {
		return Authorization{}, err
	}
	return open, e.note(ctx, a.ApplicationOf, by, "begin-authorization")
}

func checkReturn(page string) error {
	if page == "" {
		return nil
	}
	u, err := url.Parse(page)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https" {
		return ErrBadReturn
	}
	return nil
}

// authorizeURL is the third party's, with the worker's own state in it.
func authorizeURL(doc json.RawMessage) (to *url.URL, state string, _ error) {
	var said struct {
		URL string `json:"authorizeUrl"`
	}
	if err := json.Unmarshal(doc, &said); err != nil {
		return nil, "", fmt.Errorf("%w: its worker names no page for it", ErrNotAuthorizable)
	}
	to, err := url.Parse(said.URL)
	if err != nil || to.Host == "" || to.Scheme != "http" && to.Scheme != "https" {
		return nil, "", fmt.Errorf("%w: its worker names no page for it", ErrNotAuthorizable)
	}
	if state = to.Query().Get("state"); state == "" {
		return nil, "", fmt.Errorf("%w: its authorization has no state, so whoever comes back could be anybody", ErrNotAuthorizable)
	}
	return to, state, nil
}

// FinishAuthorization takes what a browser came back with from a third party, lets the worker exchange it, and returns the
// page that the browser ends on, or nothing. Whatever comes of it, its state is used up.
func (e *Engine) FinishAuthorization(ctx context.Context, query url.Values) (returnTo string, _ error) {
	digest := sha256.Sum256([]byte(query.Get("state")))
	a := ApplicationOf{}
	var state, by string
	err := e.pool.QueryRow(ctx, `
		with used as (delete from sluice.authorization_open where digest = $1 returning *)
		select u.tenant_id, u.worker, u.application, u.user_name, u.state, u.return_to, u.started_by
		from used u
		left join sluice.api_key k on k.tenant_id = u.tenant_id and k.id = u.key_id and k.revoked_at is null
		left join sluice.operator o on o.tenant_id = u.tenant_id and o.id = u.operator_id and o.disabled_at is null
		where u.expires_at > now() and (k.id is not null or o.id is not null)`, digest[:]).Scan(&a.Tenant, &a.Worker, &a.Key, &a.User, &state, &returnTo, &by)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", ErrNoAuthorization
	}
	if err != nil {
		return "", err
	}
	if why := query.Get("error"); why != "" {
		return "", fmt.Errorf("%w: %s", ErrRefusedAuthorization, worker.Clean(why))
	}
	target, err := e.catalog.worker(ctx, workerKey{a.Tenant, a.Worker})
	if err != nil {
		return "", err
	}
	passed := maps.Clone(query)
	passed.Set("state", state)
	if _, err := e.ask(ctx, target, worker.ApplicationCall{Method: http.MethodGet, Path: []string{"authorize", "token"}, Query: passed}); err != nil {
		return "", err
	}
	return returnTo, e.note(ctx, a, by, "authorize-application")
}
