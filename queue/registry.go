package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/queue/topology"
	"sluice/queue/vault"
	"sluice/queue/worker"
)

// Errors of the registry of workers.
var (
	ErrNoWorker    = errors.New("no worker of that name")
	ErrWorkerTaken = errors.New("a worker of that name is registered")
	ErrWorkerUsed  = errors.New("worker is named by topologies in use")
	ErrBadWorker   = errors.New("worker cannot be registered")
)

// Worker is a registered worker service.
type Worker struct {
	Name         string
	URL          string // empty: it takes its calls itself
	Protocol     worker.Protocol
	Dialect      *string // of a protocol that has several
	CreatedAt    time.Time
	DownSince    *time.Time // when a runner found that it cannot be reached
	DownReason   *string
	ListedAt     *time.Time // when it said what it has: see [Engine.RefreshWorker]
	ListingError *string    // why it could not be asked since
	Credentials
}

// workerColumns are those of a [Worker].
const workerColumns = `name, url, protocol, dialect, created_at, down_since, down_reason, listed_at, listing_error, ` + credentialColumns

// NewWorker is a worker that is to be registered.
type NewWorker struct {
	Name     string
	URL      string          // empty: it takes its calls itself
	Protocol worker.Protocol // empty: Sluice's own
	Dialect  string          // empty: the published one of a protocol that has several
	Vault    vault.Ring      // seals its secret; without a key it is stored as it is
}

// AddWorker registers a worker that speaks Sluice's protocol. See [RegisterWorker].
func AddWorker(ctx context.Context, tx pgx.Tx, tenant int64, name, address, by string) (Worker, worker.Secret, error) {
	return RegisterWorker(ctx, tx, tenant, NewWorker{Name: name, URL: address}, by)
}

// RegisterWorker registers a worker and returns it with the secret that signs the calls to it, which is not shown again.
// One that speaks Orchesty's protocol, which knows no signatures, has none.
func RegisterWorker(ctx context.Context, tx pgx.Tx, tenant int64, w NewWorker, by string) (Worker, worker.Secret, error) {
	if err := checkWay(w.URL); err != nil {
		return Worker{}, worker.Secret{}, err
	}
	if err := w.settle(); err != nil {
		return Worker{}, worker.Secret{}, err
	}
	secret, secrets := worker.Secret{}, []string{}
	if w.Protocol == worker.Sluice {
		secret = worker.NewSecret()
		stored, err := storedSecret(w.Vault, workerKey{tenant, w.Name}, secret)
		if err != nil {
			return Worker{}, worker.Secret{}, err
		}
		secrets = append(secrets, stored)
	}
	rows, _ := tx.Query(ctx, `
		insert into sluice.worker (tenant_id, name, url, secrets, protocol, dialect, pull) values ($1, $2, $3, $4, $5, nullif($6, ''), $3 = '')
		returning `+workerColumns, tenant, w.Name, w.URL, secrets, w.Protocol, w.Dialect)
	added, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Worker])
	switch sqlState(err) {
	case uniqueViolation:
		return added, secret, fmt.Errorf("%w: %s", ErrWorkerTaken, w.Name)
	case checkViolation:
		return added, secret, fmt.Errorf("%w: a name is lower-case letters and digits joined by single dashes, at most 63", ErrBadWorker)
	}
	if err != nil {
		return added, secret, err
	}
	return added, secret, topology.NoteChange(ctx, tx, tenant, by, "add-worker", w.Name)
}

// settle fills in what a registration leaves out, and refuses what goes with nothing.
func (w *NewWorker) settle() error {
	switch w.Protocol {
	case "", worker.Sluice:
		if w.Protocol = worker.Sluice; w.Dialect != "" {
			return fmt.Errorf("%w: the protocol sluice has no dialects", ErrBadWorker)
		}
		return nil
	case worker.Orchesty:
		w.Dialect = cmp.Or(w.Dialect, worker.DialectA)
		return checkDialect(w.Dialect)
	}
	return fmt.Errorf("%w: its protocol is sluice or orchesty, not %.40q", ErrBadWorker, w.Protocol)
}

func checkDialect(dialect string) error {
	if dialect != worker.DialectA && dialect != worker.DialectB {
		return fmt.Errorf("%w: its dialect is a or b, not %.40q", ErrBadWorker, dialect)
	}
	return nil
}

// checkWay takes a URL, or none of a worker that takes its calls itself.
func checkWay(address string) error {
	if address == "" {
		return nil
	}
	return checkWorkerURL(address)
}

func checkWorkerURL(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.Fragment != "" {
		return fmt.Errorf("%w: %q is no http or https URL", ErrBadWorker, address)
	}
	return nil
}

// SetWorkerURL moves a worker to another address, or without one says that it takes its calls itself. Calls under way end
// where they started.
func SetWorkerURL(ctx context.Context, tx pgx.Tx, tenant int64, name, address, by string) error {
	if err := checkWay(address); err != nil {
		return err
	}
	tag, err := tx.Exec(ctx, `
		update sluice.worker set url = $3, pull = $3 = '' where tenant_id = $1 and name = $2 and removed_at is null`, tenant, name, address)
	if sqlState(err) == checkViolation {
		return errNotTLS
	}
	if err != nil {
		return err
	}
	if tag.RowsAffected() == 0 {
		return ErrNoWorker
	}
	return topology.NoteChange(ctx, tx, tenant, by, "move-worker", name)
}

// SetWorkerDialect says which dialect of its protocol a worker speaks from now on.
func SetWorkerDialect(ctx context.Context, tx pgx.Tx, tenant int64, name, dialect, by string) error {
	if err := checkDialect(dialect); err != nil {
		return err
	}
	var protocol worker.Protocol
	err := tx.QueryRow(ctx, `
		update sluice.worker set dialect = case when protocol = 'orchesty' then $3 end
		where tenant_id = $1 and name = $2 and removed_at is null returning protocol`, tenant, name, dialect).Scan(&protocol)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return ErrNoWorker
	case err != nil:
		return err
	case protocol != worker.Orchesty:
		return fmt.Errorf("%w: the protocol %s has no dialects", ErrBadWorker, protocol)
	}
	return topology.NoteChange(ctx, tx, tenant, by, "move-worker", name)
}

// ListWorkers returns a tenant's workers in order of their names, from the one after the given name.
func ListWorkers(ctx context.Context, db topology.DB, tenant int64, after string, limit int) ([]Worker, error) {
	rows, _ := db.Query(ctx, `
		select `+workerColumns+` from sluice.worker
		where tenant_id = $1 and removed_at is null and name > $2
		order by name limit $3`, tenant, after, limit)
	return pgx.CollectRows(rows, pgx.RowToStructByName[Worker])
}

// KnownWorkers returns the names of a tenant's workers.
func KnownWorkers(ctx context.Context, db topology.DB, tenant int64) (map[string]bool, error) {
	rows, _ := db.Query(ctx, `select name from sluice.worker where tenant_id = $1 and removed_at is null`, tenant)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	known := make(map[string]bool, len(names))
	for _, n := range names {
		known[n] = true
	}
	return known, err
}

// RemoveWorker forgets a worker. One that an enabled version names stays. Messages of other versions that are for it go
// on waiting, until a worker of that name is registered again.
func RemoveWorker(ctx context.Context, tx pgx.Tx, tenant int64, name, by string) error {
	var users []string
	if err := tx.QueryRow(ctx, `
		select coalesce(array_agg(distinct t.name), '{}')
		from sluice.topology t
		join sluice.topology_version v on v.tenant_id = t.tenant_id and v.id = t.enabled_version_id
		where t.tenant_id = $1 and v.graph @? format('$.nodes[*] ? (@.worker == %s)', to_jsonb($2::text))::jsonpath`,
		tenant, name).Scan(&users); err != nil {
		return err
	}
	if len(users) > 0 {
		return fmt.Errorf("%w: %v; disable them first", ErrWorkerUsed, users)
	}
	tag, err := tx.Exec(ctx, `
		update sluice.worker set removed_at = now() where tenant_id = $1 and name = $2 and removed_at is null`, tenant, name)
	if err != nil {
		return err
	}
	if tag.RowsAffected() == 0 {
		return ErrNoWorker
	}
	return topology.NoteChange(ctx, tx, tenant, by, "remove-worker", name)
}

// testTimeout is how long a test waits for the worker.
const testTimeout = 30 * time.Second

// TestCall is a call of a worker with a message that belongs to no process.
type TestCall struct {
	Worker  string
	Action  string
	Kind    topology.Kind // of the node that would call; empty: custom
	Headers map[string]string
	Body    []byte
}

// TestWorker calls an action of a registered worker outside of any process.
func (e *Engine) TestWorker(ctx context.Context, tenant int64, call TestCall) (worker.Result, error) {
	target, err := e.catalog.worker(ctx, workerKey{tenant, call.Worker})
	if err != nil {
		return worker.Result{}, err
	}
	id := e.clock.newProcessID().String()
	r := worker.Request{
		Action: call.Action, Kind: string(cmp.Or(call.Kind, topology.Custom)), MessageID: id + "-0", CorrelationID: id, Topology: "test", Node: "test", Attempt: 1,
		Headers: call.Headers, Body: call.Body, Deadline: time.Now().Add(testTimeout),
	}
	if call.Kind == topology.Batch {
		r.Page = 1
	}
	result, err := e.config.Caller.Call(ctx, target, r)
	if result.Room != nil {
		result.Room.Release()
	}
	return result, err
}

// markWorker notes for people that a worker went down, or came back when reason is empty.
func (e *Engine) markWorker(key workerKey, reason string) {
	ctx, cancel := context.WithTimeout(context.Background(), statementTimeout)
	defer cancel()
	if _, err := e.pool.Exec(ctx, `
		update sluice.worker
		set down_since = case when $3 <> '' then coalesce(down_since, now()) end, down_reason = nullif($3, '')
		where tenant_id = $1 and name = $2 and removed_at is null`, key.tenant, key.name, reason); err != nil {
		e.log.WarnContext(ctx, "State of worker not noted", "worker", key.name, "err", err)
	}
}
