package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/queue/topology"
	"sluice/queue/worker"
)

// Errors of applications.
var (
	ErrNoApplication  = errors.New("no worker has said that it has such an application")
	ErrManyHave       = errors.New("several workers have this application: say which one is meant")
	ErrBadUser        = errors.New("user cannot have an application")
	ErrNoApplications = errors.New("a worker of this protocol has no applications")
)

// applicationCaller asks workers about their applications.
type applicationCaller interface {
	Ask(ctx context.Context, target worker.Target, call worker.ApplicationCall) (json.RawMessage, error)
	Application(ctx context.Context, target worker.Target, key, user string) (worker.Application, error)
}

// Ask asks a worker about an application, or fails with [ErrNoApplications].
func (c Callers) Ask(ctx context.Context, target worker.Target, call worker.ApplicationCall) (json.RawMessage, error) {
	if a, can := c[target.Protocol].(applicationCaller); can {
		return a.Ask(ctx, target, call)
	}
	return nil, ErrNoApplications
}

// Application asks a worker for an application, or fails with [ErrNoApplications].
func (c Callers) Application(ctx context.Context, target worker.Target, key, user string) (worker.Application, error) {
	if a, can := c[target.Protocol].(applicationCaller); can {
		return a.Application(ctx, target, key, user)
	}
	return worker.Application{}, ErrNoApplications
}

func (e *Engine) applications() (applicationCaller, error) {
	if a, can := e.config.Caller.(applicationCaller); can {
		return a, nil
	}
	return nil, ErrNoApplications
}

// ListedApplication is an application that a worker said it has.
type ListedApplication struct {
	worker.ListedApplication
	Worker string
}

// ListApplications returns what the tenant's workers said that they have, in order of keys, from the one after the given
// key and worker.
func ListApplications(ctx context.Context, db topology.DB, tenant int64, afterKey, afterWorker string, most int) ([]ListedApplication, error) {
	rows, _ := db.Query(ctx, `
		select a.value as application, w.name as worker
		from sluice.worker w, jsonb_array_elements(w.listing -> 'applications') a
		where w.tenant_id = $1 and w.removed_at is null and (a.value ->> 'key' collate "C", w.name collate "C") > ($2, $3)
		order by a.value ->> 'key' collate "C", w.name collate "C" limit $4`, tenant, afterKey, afterWorker, most)
	type row struct {
		Application worker.ListedApplication
		Worker      string
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[row])
	listed := make([]ListedApplication, len(found))
	for i, r := range found {
		listed[i] = ListedApplication{r.Application, r.Worker}
	}
	return listed, err
}

// ApplicationOf names an application, as a user has it, or by itself without one.
type ApplicationOf struct {
	Tenant int64
	Key    string
	Worker string // empty: the only one that has it
	User   string
}

// String names it for the record.
func (a ApplicationOf) String() string {
	if a.User == "" {
		return a.Key
	}
	return a.Key + " of user " + a.User
}

// maxApplicationUser bounds names of users, in bytes: they become parts of paths.
const maxApplicationUser = 200

// check refuses users whom the limiter's keys, or an address, could not name.
func (a ApplicationOf) check() error {
	switch {
	case a.User == "." || a.User == "..", strings.ContainsAny(a.User, "/|;"), a.User != worker.Clean(a.User), len(a.User) > maxApplicationUser:
		return fmt.Errorf("%w: a name is at most %d bytes without / | ; and control characters", ErrBadUser, maxApplicationUser)
	}
	return nil
}

// find fills in the worker that has the application, and says where it is.
func (e *Engine) find(ctx context.Context, a *ApplicationOf) (worker.Target, error) {
	if err := a.check(); err != nil {
		return worker.Target{}, err
	}
	if _, err := e.applications(); err != nil {
		return worker.Target{}, err
	}
	rows, _ := e.pool.Query(ctx, `
		select name from sluice.worker
		where tenant_id = $1 and removed_at is null and listing -> 'applications' @> jsonb_build_array(jsonb_build_object('key', $2::text))
		  and ($3 = '' or name = $3)
		order by name limit 2`, a.Tenant, a.Key, a.Worker)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	switch {
	case err != nil:
		return worker.Target{}, err
	case len(names) == 0:
		return worker.Target{}, fmt.Errorf("%w: %q; ask the workers what they have", ErrNoApplication, a.Key)
	case len(names) > 1:
		return worker.Target{}, fmt.Errorf("%w: %v", ErrManyHave, names)
	}
	a.Worker = names[0]
	return e.catalog.worker(ctx, workerKey{a.Tenant, a.Worker})
}

// ask asks the worker of an application.
func (e *Engine) ask(ctx context.Context, target worker.Target, call worker.ApplicationCall) (json.RawMessage, error) {
	asked, err := e.applications()
	if err != nil {
		return nil, err
	}
	return asked.Ask(ctx, target, call)
}

// Application returns an application as its worker tells of it, and the worker's name.
func (e *Engine) Application(ctx context.Context, a ApplicationOf) (worker.Application, string, error) {
	target, err := e.find(ctx, &a)
	if err != nil {
		return worker.Application{}, "", err
	}
	shown, err := e.shown(ctx, target, a)
	return shown, a.Worker, err
}

func (e *Engine) shown(ctx context.Context, target worker.Target, a ApplicationOf) (worker.Application, error) {
	asked, err := e.applications()
	if err != nil {
		return worker.Application{}, err
	}
	return asked.Application(ctx, target, a.Key, a.User)
}

// Install is what a user has of an application.
type Install struct {
	Key        string     `json:"key"`
	User       string     `json:"user"`
	Enabled    bool       `json:"enabled"`
	Authorized bool       `json:"authorized"`
	Expires    *time.Time `json:"-"`
	Until      string     `json:"expires"`
}

// Installs asks workers what a user has installed, all of them at once. Of a worker that does not say, why has the reason.
func (e *Engine) Installs(ctx context.Context, tenant int64, user string, workers []string) (installs map[string][]Install, why map[string]string, _ error) {
	if err := (ApplicationOf{User: user}).check(); err != nil {
		return nil, nil, err
	}
	installs, why = map[string][]Install{}, map[string]string{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, name := range workers {
		all.Go(func() {
			found, err := e.installsOf(ctx, tenant, user, name)
			mu.Lock()
			defer mu.Unlock()
			if installs[name] = found; err != nil {
				why[name] = reasonOf(err)
			}
		})
	}
	all.Wait()
	return installs, why, ctx.Err()
}

// reasonOf is what a person is told of a worker that did not do what it was asked.
func reasonOf(err error) string {
	if failure, is := errors.AsType[*worker.Failure](err); is {
		return failure.Reason
	}
	return "it could not be asked"
}

func (e *Engine) installsOf(ctx context.Context, tenant int64, user, name string) ([]Install, error) {
	target, err := e.catalog.worker(ctx, workerKey{tenant, name})
	if err != nil {
		return nil, err
	}
	path := []string{"users", user}
	if target.Dialect == worker.DialectB {
		path = append(path, "sdk", target.Name)
	}
	doc, err := e.ask(ctx, target, worker.ApplicationCall{Method: http.MethodGet, Path: path})
	if err != nil {
		return nil, err
	}
	var listed struct{ Items []Install }
	if err := json.Unmarshal(doc, &listed); err != nil {
		return nil, &worker.Failure{Class: worker.Transient, Reason: "its list of what is installed is none", Err: worker.ErrProtocol}
	}
	for i, install := range listed.Items {
		if at, err := time.Parse(time.RFC3339, install.Until); err == nil {
			listed.Items[i].Expires = &at
		}
	}
	return listed.Items, nil
}

// Done is what became of a change of an application. Warning is what its worker said of a callback that failed: the change
// stands all the same.
type Done struct {
	Worker      string
	Application worker.Application
	Warning     string
}

// InstallApplication installs an application for a user. It stays disabled until it is enabled.
func (e *Engine) InstallApplication(ctx context.Context, a ApplicationOf, by string) (Done, error) {
	return e.change(ctx, a, "install-application", by, func(target worker.Target) (string, error) {
		if _, err := e.ask(ctx, target, worker.ApplicationCall{Method: http.MethodPost, Path: []string{a.Key, "install"}, User: a.User}); err != nil {
			return "", err
		}
		return e.callBack(ctx, target, a, "afterInstallCallback"), nil
	})
}

// change does something about what a user has of an application, notes who did it, and returns what it is then.
func (e *Engine) change(ctx context.Context, a ApplicationOf, action, by string, do func(target worker.Target) (warning string, _ error)) (Done, error) {
	target, err := e.find(ctx, &a)
	if err != nil {
		return Done{}, err
	}
	if a.User == "" {
		return Done{}, fmt.Errorf("%w: it has no name", ErrBadUser)
	}
	done := Done{Worker: a.Worker}
	if done.Warning, err = do(target); err != nil {
		return done, err
	}
	if err := e.note(ctx, a, by, action); err != nil {
		return done, err
	}
	said, err := e.refreshLimits(ctx, a)
	if err != nil {
		return done, err
	}
	done.Warning = joined(done.Warning, said)
	if action != "uninstall-application" {
		done.Application, err = e.shown(ctx, target, a)
	}
	return done, err
}

// joined is what was said, one after the other.
func joined(warnings ...string) string {
	return strings.Join(slices.DeleteFunc(warnings, func(w string) bool { return w == "" }), "; ")
}

// note writes down who did what with an application.
func (e *Engine) note(ctx context.Context, a ApplicationOf, by, action string) error {
	_, err := e.pool.Exec(ctx, `
		insert into sluice.audit (tenant_id, actor, action, subject, detail)
		values ($1, $2, $3, $4, jsonb_build_object('application', $5::text, 'user', $6::text, 'worker', $7::text))`,
		a.Tenant, by, action, a.String(), a.Key, a.User, a.Worker)
	return err
}

// callBack tells an application what has happened to it. That it fails changes nothing, and is told.
func (e *Engine) callBack(ctx context.Context, target worker.Target, a ApplicationOf, name string) (warning string) {
	body := map[string]string{"user": a.User, "name": a.Key}
	if target.Dialect == worker.DialectB {
		body["sdk"] = target.Name
	}
	if _, err := e.ask(ctx, target, worker.ApplicationCall{Method: http.MethodPost, Path: []string{a.Key, "sync", name}, Body: body}); err != nil {
		return fmt.Sprintf("its %s failed: %s", name, reasonOf(err))
	}
	return ""
}

// SetApplication saves settings of a user's application: of each form the fields that are given. What does not fit the
// form is refused with a [*SettingsError] before anything is saved; the worker would drop it without a word.
func (e *Engine) SetApplication(ctx context.Context, a ApplicationOf, forms map[string]map[string]json.RawMessage, by string) (Done, error) {
	return e.change(ctx, a, "set-application", by, func(target worker.Target) (string, error) {
		shown, err := e.shown(ctx, target, a)
		if err != nil {
			return "", err
		}
		if err := CheckSettings(shown.Forms, forms); err != nil {
			return "", err
		}
		_, err = e.ask(ctx, target, worker.ApplicationCall{Method: http.MethodPut, Path: []string{a.Key, "settings"}, User: a.User, Body: forms})
		return "", err
	})
}

// ApplicationPassword is a setting that is never shown.
type ApplicationPassword struct{ Form, Field, Password string }

// SetApplicationPassword saves a password of a user's application.
func (e *Engine) SetApplicationPassword(ctx context.Context, a ApplicationOf, p ApplicationPassword, by string) (Done, error) {
	return e.change(ctx, a, "set-application-password", by, func(target worker.Target) (string, error) {
		shown, err := e.shown(ctx, target, a)
		if err != nil {
			return "", err
		}
		if err := checkPassword(shown.Forms, p); err != nil {
			return "", err
		}
		_, err = e.ask(ctx, target, worker.ApplicationCall{
			Method: http.MethodPut, Path: []string{a.Key, "password"}, User: a.User,
			Body: map[string]string{"formKey": p.Form, "fieldKey": p.Field, "password": p.Password},
		})
		return "", err
	})
}

// EnableApplication lets connectors find a user's application.
func (e *Engine) EnableApplication(ctx context.Context, a ApplicationOf, by string) (Done, error) {
	return e.change(ctx, a, "enable-application", by, func(target worker.Target) (string, error) {
		if err := e.switchState(ctx, target, a, map[string]bool{"enabled": true}); err != nil {
			return "", err
		}
		return e.callBack(ctx, target, a, "afterEnableCallback"), nil
	})
}

// DisableApplication hides a user's application from connectors: what needs it fails. Its settings stay.
func (e *Engine) DisableApplication(ctx context.Context, a ApplicationOf, by string) (Done, error) {
	return e.change(ctx, a, "disable-application", by, func(target worker.Target) (string, error) {
		return e.disable(ctx, target, a)
	})
}

func (e *Engine) disable(ctx context.Context, target worker.Target, a ApplicationOf) (warning string, _ error) {
	if err := e.switchState(ctx, target, a, map[string]bool{"enabled": false}); err != nil {
		return "", err
	}
	return e.callBack(ctx, target, a, "afterDisableCallback"), nil
}

func (e *Engine) switchState(ctx context.Context, target worker.Target, a ApplicationOf, state map[string]bool) error {
	_, err := e.ask(ctx, target, worker.ApplicationCall{Method: http.MethodPut, Path: []string{a.Key, "changeState"}, User: a.User, Body: state})
	return err
}

// UninstallApplication takes an application away from a user, with its settings. It is disabled first, as its author may
// have something to clear up then.
func (e *Engine) UninstallApplication(ctx context.Context, a ApplicationOf, by string) (Done, error) {
	return e.change(ctx, a, "uninstall-application", by, func(target worker.Target) (string, error) {
		warning, err := e.disable(ctx, target, a)
		if err != nil {
			return "", err
		}
		if _, err := e.ask(ctx, target, worker.ApplicationCall{Method: http.MethodDelete, Path: []string{a.Key, "uninstall"}, User: a.User}); err != nil {
			return "", err
		}
		return joined(warning, e.callBack(ctx, target, a, "afterUninstallCallback")), nil
	})
}

// DoApplication asks an application to do one of its actions, which its author has made, and returns what it says. The
// user, if there is one, goes along in the body, which is where such an action looks.
func (e *Engine) DoApplication(ctx context.Context, a ApplicationOf, action string, body json.RawMessage, by string) (json.RawMessage, error) {
	target, err := e.find(ctx, &a)
	if err != nil {
		return nil, err
	}
	call := worker.ApplicationCall{Method: http.MethodGet, Path: []string{a.Key, "sync", action}}
	if body != nil {
		call.Method, call.Body = http.MethodPost, body
	}
	said, err := e.ask(ctx, target, call)
	if err != nil {
		return nil, err
	}
	return said, e.note(ctx, a, by, "do-application "+action)
}
