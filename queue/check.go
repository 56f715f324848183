package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/queue/process"
)

// Report is what [Check] found in one snapshot of the database.
type Report struct {
	At         time.Time     `json:"at"` // of the snapshot, by the database's clock
	Seconds    float64       `json:"duration_seconds"`
	Places     Places        `json:"places"`   // of all messages
	Versions   []VersionSums `json:"versions"` // those with messages, in order of tenant, name and number
	Foreign    int64         `json:"foreign"`  // jobs on edges that another program inserted and no runner has adopted yet
	Broken     int64         `json:"broken"`   // how many violations there are
	Violations []Finding     `json:"violations"`
	Warnings   []Finding     `json:"warnings"` // what is odd, or heals by itself
}

// Clean tells that every invariant holds.
func (r Report) Clean() bool { return r.Broken == 0 }

// Places counts processes, and messages by place. The places add up to Total.
type Places struct {
	Processes  int64 `json:"processes"`
	Total      int64 `json:"total"` // accepted and produced
	Waiting    int64 `json:"waiting"`
	Running    int64 `json:"running"`
	Held       int64 `json:"held"` // by a limit
	Retrying   int64 `json:"retrying"`
	Trashed    int64 `json:"trashed"`
	Done       int64 `json:"done"` // finished, filtered, or replaced by an edited one
	Rejected   int64 `json:"rejected"`
	Terminated int64 `json:"terminated"`
}

func (p *Places) add(o Places) {
	p.Processes += o.Processes
	p.Total += o.Total
	p.Waiting += o.Waiting
	p.Running += o.Running
	p.Held += o.Held
	p.Retrying += o.Retrying
	p.Trashed += o.Trashed
	p.Done += o.Done
	p.Rejected += o.Rejected
	p.Terminated += o.Terminated
}

func (p *Places) open() int64 { return p.Waiting + p.Running + p.Held + p.Retrying }

// VersionSums is where the messages of a topology's version are.
type VersionSums struct {
	Tenant   int64  `json:"tenant"`
	Topology string `json:"topology"`
	Version  int    `json:"version"`
	Places
}

// Finding is something that must not be, or a warning.
type Finding struct {
	Rule   string `json:"rule"`
	ID     string `json:"id"` // of a message or process, as the API has it; of a warning, what it is about
	Detail string `json:"detail"`
}

// findingsShown bounds the violations and the warnings that a report lists, each.
const findingsShown = 100

// checker writes a report.
type checker struct {
	Report
	since    uuid.UUID  // the smallest process id of which there is history: what went with its day is not missed
	firstDay *time.Time // of history; nil: nobody knows
}

func (c *checker) violation(rule, id, detail string, args ...any) {
	c.Broken++
	if len(c.Violations) < findingsShown {
		c.Violations = append(c.Violations, Finding{rule, id, fmt.Sprintf(detail, args...)})
	}
}

func (c *checker) warning(rule, id, detail string, args ...any) {
	if len(c.Warnings) < findingsShown {
		c.Warnings = append(c.Warnings, Finding{rule, id, fmt.Sprintf(detail, args...)})
	}
}

// Check proves that each message is in exactly one place, that the counters of processes say so, and that hand-offs
// were atomic. It looks at a live database in one snapshot and changes nothing; what it holds in memory does not grow
// with the database. The pool is an engine's, which sees all tenants.
func Check(ctx context.Context, pool *pgxpool.Pool) (r Report, err error) {
	start := time.Now()
	snapshot := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, pool, snapshot, func(tx pgx.Tx) error {
		r, err = check(ctx, tx)
		return err
	})
	r.Seconds = time.Since(start).Seconds()
	return r, err
}

func check(ctx context.Context, tx pgx.Tx) (Report, error) {
	c := &checker{Report: Report{Versions: []VersionSums{}, Violations: []Finding{}, Warnings: []Finding{}}}
	for _, step := range []struct {
		name string
		do   func(context.Context, pgx.Tx) error
	}{
		{"session", c.open},
		{"messages", c.checkMessages},
		{"processes", c.checkProcesses},
		{"lanes", c.checkLanes},
		{"counters of edges", c.checkEdges},
		{"counts of limits", c.checkLimits},
		{"roll-ups", c.checkRollups},
		{"idempotency keys", c.checkKeys},
		{"keys of entities", c.checkEntityKeys},
		{"foreign jobs", c.countForeign},
		{"cancelled jobs", c.checkCancelled},
		{"runners", c.checkRunners},
	} {
		if err := step.do(ctx, tx); err != nil {
			return c.Report, fmt.Errorf("check %s: %w", step.name, err)
		}
	}
	return c.Report, nil
}

// errWalled says that the check would find everything clean because it sees nothing.
var errWalled = errors.New("the check needs a session that sees all tenants")

// open readies the session: tables are read from end to end and joined by hashing, whatever the pool's sessions are for
// and the planner believes about tables that have just been filled (measured with 20,000 keys, which it would merge by
// their tenant alone: 20 s, and half a second). What takes more memory than the server can well spare goes through its disk.
func (c *checker) open(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, `
		set local enable_seqscan = on; set local enable_nestloop = off; set local enable_mergejoin = off;
		set local jit = off; set local work_mem = '64MB'; set local statement_timeout = 0`); err != nil {
		return err
	}
	var sees string
	var firstDay *time.Time
	if err := tx.QueryRow(ctx, `
		select now(), coalesce(current_setting('sluice.tenant_id', true), ''),
		       (select min(to_date(right(c.relname, 8), 'YYYYMMDD'))
		        from pg_inherits i join pg_class c on c.oid = i.inhrelid
		        where i.inhparent = 'sluice.process'::regclass and c.relname ~ '^process_[0-9]{8}$')`).Scan(&c.At, &sees, &firstDay); err != nil {
		return err
	}
	if sees != "*" {
		return errWalled
	}
	c.firstDay = firstDay
	if firstDay != nil {
		c.since = firstIDAt(*firstDay)
	}
	return nil
}

// evidence is what there is about one message.
type evidence struct {
	ProcessID   uuid.UUID
	ID          int64
	Messages    int // its row
	Successors  int
	Jobs        int
	Trashed     int
	Done        int // attempts that settled it
	Filtered    int
	Replaced    int // decisions that settled it
	Rejected    int
	Terminated  int
	EdgesDiffer bool // not all of these name the same edge
	Batch       bool // its node makes successors page after page
}

// checkMessages looks at every message that has not exactly one place, and at every one whose successors should not be.
func (c *checker) checkMessages(ctx context.Context, tx pgx.Tx) error {
	rows, _ := tx.Query(ctx, oddMessagesSQL, c.since)
	defer rows.Close()
	for rows.Next() {
		e, err := pgx.RowToStructByName[evidence](rows)
		if err != nil {
			return err
		}
		c.judgeMessage(e)
	}
	return rows.Err()
}

func (c *checker) judgeMessage(e evidence) {
	id := process.MessageID{Process: e.ProcessID, Number: e.ID}.String()
	settled := e.Done + e.Filtered + e.Replaced + e.Rejected + e.Terminated
	switch places := e.Jobs + e.Trashed + settled; {
	case e.Messages == 0 && places > 0:
		c.violation("message-missing", id, "there is no such message, but %s", e.places())
	case e.Messages > 0 && places == 0:
		c.violation("message-lost", id, "it has no job, is not held or in the trash, and was not settled")
	case places > 1:
		c.violation("message-twice", id, "it is in %d places: %s", places, e.places())
	}
	if e.EdgesDiffer {
		c.violation("edge-differs", id, "its row, job, trash entry and attempts do not all name the same edge")
	}
	switch {
	case e.Successors == 0:
	case e.Messages == 0:
		c.violation("parent-missing", id, "it has %d successors and does not exist", e.Successors)
	case !e.mayHaveSuccessors():
		c.violation("hand-off-torn", id, "it has %d successors, but %s", e.Successors, e.places())
	}
}

// mayHaveSuccessors tells whether the hand-off that made the successors also moved the message: it is done, or was
// replaced by its one successor, or its node is a batch node, which makes successors with each page.
func (e evidence) mayHaveSuccessors() bool {
	return e.Done > 0 || e.Replaced > 0 && e.Successors == 1 || e.Batch
}

// places says where a message is, in words.
func (e evidence) places() string {
	var words []string
	for _, p := range []struct {
		n     int
		words string
	}{
		{e.Jobs, "it has a job or is held"}, {e.Trashed, "it is in the trash"}, {e.Done, "an attempt finished it"},
		{e.Filtered, "an attempt filtered it"}, {e.Replaced, "an edited message replaced it"},
		{e.Rejected, "it was rejected"}, {e.Terminated, "it was terminated"},
	} {
		switch {
		case p.n == 1:
			words = append(words, p.words)
		case p.n > 1:
			words = append(words, fmt.Sprintf("%s (%d times)", p.words, p.n))
		}
	}
	if words == nil {
		return "it is nowhere"
	}
	return strings.Join(words, ", ")
}

// account is what a process says of its messages, and what is true.
type account struct {
	ID         uuid.UUID
	VersionID  int64 // 0: there are messages of a process that does not exist
	Total      int64
	Open       int64
	Trashed    int64
	Done       int64
	Rejected   int64
	Terminated int64
	Finished   bool
	Strayed    bool // lies in the default partition

	FoundTotal      int64
	FoundWaiting    int64
	FoundRunning    int64
	FoundHeld       int64
	FoundRetrying   int64
	FoundTrashed    int64
	FoundDone       int64
	FoundRejected   int64
	FoundTerminated int64
	VersionsDiffer  bool // there are messages on edges of another version than the process's, to which nobody sent any
}

func (a account) found() Places {
	return Places{
		Processes: 1, Total: a.FoundTotal, Waiting: a.FoundWaiting, Running: a.FoundRunning, Held: a.FoundHeld, Retrying: a.FoundRetrying,
		Trashed: a.FoundTrashed, Done: a.FoundDone, Rejected: a.FoundRejected, Terminated: a.FoundTerminated,
	}
}

// checkProcesses compares every process's counters with what there is, and sums up by version what there is.
func (c *checker) checkProcesses(ctx context.Context, tx pgx.Tx) error {
	sums, byID, err := versionSums(ctx, tx)
	if err != nil {
		return err
	}
	strayed := 0
	rows, _ := tx.Query(ctx, accountsSQL, c.since)
	defer rows.Close()
	for rows.Next() {
		a, err := pgx.RowToStructByName[account](rows)
		if err != nil {
			return err
		}
		c.judgeProcess(a)
		if a.Strayed {
			strayed++
		}
		found := a.found()
		c.Places.add(found)
		if v := byID[a.VersionID]; v != nil {
			v.add(found)
		}
	}
	if strayed > 0 {
		c.warning("default-partition", "process_default",
			"%d processes came when no partition was made for their day; they keep working, but history cannot be dropped by day there", strayed)
	}
	for _, v := range sums {
		if v.Processes > 0 {
			c.Versions = append(c.Versions, *v)
		}
	}
	return rows.Err()
}

// versionSums returns an empty sum for each published version, in order, and by the version's id.
func versionSums(ctx context.Context, tx pgx.Tx) (sums []*VersionSums, byID map[int64]*VersionSums, err error) {
	byID = map[int64]*VersionSums{}
	rows, _ := tx.Query(ctx, `
		select v.id, v.tenant_id, t.name, v.number
		from sluice.topology_version v
		join sluice.topology t on t.tenant_id = v.tenant_id and t.id = v.topology_id
		where v.number is not null
		order by v.tenant_id, t.name, v.number, v.id`)
	var id int64
	var v VersionSums
	_, err = pgx.ForEachRow(rows, []any{&id, &v.Tenant, &v.Topology, &v.Version}, func() error {
		sum := v
		sums, byID[id] = append(sums, &sum), &sum
		return nil
	})
	return sums, byID, err
}

func (c *checker) judgeProcess(a account) {
	id, found := a.ID.String(), a.found()
	if a.VersionID == 0 {
		c.violation("process-missing", id, "there are messages, jobs or trash entries of this process, but not the process")
		return
	}
	for _, n := range []struct {
		counter   string
		says, was int64
	}{
		{"total", a.Total, found.Total}, {"open", a.Open, found.open()}, {"trashed", a.Trashed, found.Trashed},
		{"done", a.Done, found.Done}, {"rejected", a.Rejected, found.Rejected}, {"terminated", a.Terminated, found.Terminated},
	} {
		if n.says != n.was {
			c.violation("counter-wrong", id, "%s is %d and should be %d", n.counter, n.says, n.was)
		}
	}
	if sum := a.Open + a.Trashed + a.Done + a.Rejected + a.Terminated; a.Total != sum {
		c.violation("conservation", id, "total is %d, the places add up to %d", a.Total, sum)
	}
	switch over := a.Open == 0 && a.Trashed == 0; {
	case over && !a.Finished:
		c.violation("not-finished", id, "nothing is open or in the trash, but it has not finished")
	case !over && a.Finished:
		c.violation("finished-early", id, "it has finished with %d open and %d in the trash", a.Open, a.Trashed)
	}
	if a.VersionsDiffer {
		c.violation("version-differs", id, "messages of it are on edges of another version than its own, and nobody sent any there from the trash")
	}
}

// checkLanes proves that every lane in which messages wait has its one token, and that its messages stand within it.
func (c *checker) checkLanes(ctx context.Context, tx pgx.Tx) error {
	rows, _ := tx.Query(ctx, wrongLanesSQL)
	var edge int64
	var key, rule, detail string
	_, err := pgx.ForEachRow(rows, []any{&edge, &key, &rule, &detail}, func() error {
		c.violation(rule, queueName(edge), "lane %q: %s", key, detail)
		return nil
	})
	return err
}

// checkEdges compares what the counters of edges say with what is there.
func (c *checker) checkEdges(ctx context.Context, tx pgx.Tx) error {
	rows, _ := tx.Query(ctx, wrongCountsSQL)
	var edge, says, is, saysBytes, isBytes int64
	_, err := pgx.ForEachRow(rows, []any{&edge, &says, &is, &saysBytes, &isBytes}, func() error {
		c.violation("depth-wrong", queueName(edge), "its counters say %d messages of %d bytes, there are %d of %d", says, saysBytes, is, isBytes)
		return nil
	})
	return err
}

// checkLimits compares what the counts of limits say with what is held.
func (c *checker) checkLimits(ctx context.Context, tx pgx.Tx) error {
	rows, _ := tx.Query(ctx, wrongHoldsSQL)
	var limit, says, is int64
	var user, of string
	_, err := pgx.ForEachRow(rows, []any{&limit, &of, &user, &says, &is}, func() error {
		c.violation("held-wrong", fmt.Sprintf("limit %d", limit), "the counts of its %s %q say %d messages held, there are %d", of, user, says, is)
		return nil
	})
	return err
}

// checkKeys looks for promises about events that are not there: asked again, they would be called duplicates.
func (c *checker) checkKeys(ctx context.Context, tx pgx.Tx) error {
	rows, _ := tx.Query(ctx, `
		select k.process_id from sluice.idempotency_key k
		left join sluice.process p on p.tenant_id = k.tenant_id and p.id = k.process_id
		where p.id is null and k.process_id >= $1`, c.since)
	var id uuid.UUID
	_, err := pgx.ForEachRow(rows, []any{&id}, func() error {
		c.violation("key-without-process", id.String(), "an idempotency key promises this process, which does not exist")
		return nil
	})
	return err
}

// checkEntityKeys looks for keys of messages that are not there.
func (c *checker) checkEntityKeys(ctx context.Context, tx pgx.Tx) error {
	rows, _ := tx.Query(ctx, `
		select k.process_id, k.kind, k.value, k.message_id from sluice.entity_key k
		left join sluice.message m on m.tenant_id = k.tenant_id and m.process_id = k.process_id and m.id = k.message_id
		where m.id is null and k.process_id >= $1`, c.since)
	var id uuid.UUID
	var kind, value string
	var message int64
	_, err := pgx.ForEachRow(rows, []any{&id, &kind, &value, &message}, func() error {
		c.violation("entity-without-message", id.String(), "it is about %s %q because of message %d, which does not exist", kind, value, message)
		return nil
	})
	return err
}

func (c *checker) countForeign(ctx context.Context, tx pgx.Tx) error {
	return tx.QueryRow(ctx, foreignSQL).Scan(&c.Foreign)
}

// checkCancelled warns of jobs that someone cancelled through River: they count as waiting until they are moved to the
// trash, which takes a moment.
func (c *checker) checkCancelled(ctx context.Context, tx pgx.Tx) error {
	return c.warn(ctx, tx, cancelledOnEdgesSQL, "cancelled-job", "%d messages wait to be moved to the trash, because their jobs were cancelled through River")
}

// checkRunners warns of claims that nobody will commit: they are taken over when the lease of their runner is over.
func (c *checker) checkRunners(ctx context.Context, tx pgx.Tx) error {
	return c.warn(ctx, tx, silentRunnersSQL, "silent-runner", "%d messages are claimed by a runner whose lease is over, and will be taken over")
}

// warn makes warnings of a statement that returns names and numbers.
func (c *checker) warn(ctx context.Context, tx pgx.Tx, sql, rule, detail string) error {
	rows, _ := tx.Query(ctx, sql)
	var about string
	var n int64
	_, err := pgx.ForEachRow(rows, []any{&about, &n}, func() error {
		c.warning(rule, about, detail, n)
		return nil
	})
	return err
}

// The statements of the check read tables from end to end.
const (
	// notDropped tells of a decision whether the history of its process is there: that of the first day with a partition, or
	// later, or of a process that came when none was made for its day.
	notDropped = `(process_id >= $1 or process_id in (select id from sluice.process where id < $1))`

	// oddMessagesSQL gathers what there is about each message, and returns what is not as with nearly all: one row, one
	// place, and successors only when it is done. Decisions about messages of days that were dropped are left out.
	oddMessagesSQL = `
with job as (` + edgeJobs + `
), fact as (
    select tenant_id, process_id, id, edge_id, 'message' as what from sluice.message
    union all
    select tenant_id, process_id, parent_id, null, 'successor' from sluice.message where parent_id is not null
    union all
    select tenant_id, process_id, id, edge_id, 'job' from job where process_id is not null
    union all
    select tenant_id, process_id, message_id, edge_id, 'trash' from sluice.trash
    union all
    select tenant_id, process_id, message_id, edge_id, outcome::text from sluice.attempt where outcome in ('done', 'filtered')
    union all
    select tenant_id, process_id, message_id, null, verdict from sluice.decision
    where verdict in ('replace', 'reject', 'terminate') and ` + notDropped + `
), message as (
    select tenant_id, process_id, id,
           count(*) filter (where what = 'message')::int as messages,
           count(*) filter (where what = 'successor')::int as successors,
           count(*) filter (where what = 'job')::int as jobs,
           count(*) filter (where what = 'trash')::int as trashed,
           count(*) filter (where what = 'done')::int as done,
           count(*) filter (where what = 'filtered')::int as filtered,
           count(*) filter (where what = 'replace')::int as replaced,
           count(*) filter (where what = 'reject')::int as rejected,
           count(*) filter (where what = 'terminate')::int as terminated,
           min(edge_id) as edge_id, min(edge_id) <> max(edge_id) as edges_differ
    from fact
    group by tenant_id, process_id, id
)
select process_id, id, messages, successors, jobs, trashed, done, filtered, replaced, rejected, terminated,
       coalesce(edges_differ, false) as edges_differ,
       successors > 0 and exists (
           select from sluice.edge e
           where e.tenant_id = m.tenant_id and e.id = m.edge_id
           and (select jsonb_path_exists(v.graph, '$.nodes[*] ? (@.kind == "batch" && @.name == $name)', jsonb_build_object('name', e.to_node))
                from sluice.topology_version v where v.tenant_id = e.tenant_id and v.id = e.version_id)) as batch
from message m
where messages <> 1 or jobs + trashed + done + filtered + replaced + rejected + terminated <> 1
or edges_differ or successors > 0 and done = 0`

	// accountsSQL returns every process with its counters and what they should be.
	accountsSQL = `
with job as (` + edgeJobs + `
), fact as (
    select m.tenant_id, m.process_id, 'message' as what, e.version_id
    from sluice.message m join sluice.edge e on e.tenant_id = m.tenant_id and e.id = m.edge_id
    union all
    select tenant_id, process_id, case state when 'running' then 'running' when 'held' then 'held' when 'retryable' then 'retrying'
                                             when 'scheduled' then 'retrying' else 'waiting' end, null
    from job where process_id is not null
    union all
    select tenant_id, process_id, 'trash', null from sluice.trash
    union all
    select tenant_id, process_id, 'done', null from sluice.attempt where outcome in ('done', 'filtered')
    union all
    select tenant_id, process_id, verdict, null from sluice.decision
    where verdict in ('replace', 'reject', 'terminate') and ` + notDropped + `
), found as (
    select tenant_id, process_id,
           count(*) filter (where what = 'message') as total,
           count(*) filter (where what = 'waiting') as waiting,
           count(*) filter (where what = 'running') as running,
           count(*) filter (where what = 'held') as held,
           count(*) filter (where what = 'retrying') as retrying,
           count(*) filter (where what = 'trash') as trashed,
           count(*) filter (where what in ('done', 'replace')) as done,
           count(*) filter (where what = 'reject') as rejected,
           count(*) filter (where what = 'terminate') as terminated,
           min(version_id) as first_version, max(version_id) as last_version
    from fact
    group by tenant_id, process_id
)
select coalesce(p.id, f.process_id) as id, coalesce(p.version_id, 0) as version_id,
       coalesce(p.total, 0)::bigint as total, coalesce(p.open, 0)::bigint as open, coalesce(p.trashed, 0)::bigint as trashed,
       coalesce(p.done, 0)::bigint as done, coalesce(p.rejected, 0)::bigint as rejected,
       coalesce(p.terminated, 0)::bigint as terminated, p.finished_at is not null as finished,
       coalesce(p.tableoid = 'sluice.process_default'::regclass, false) as strayed,
       coalesce(f.total, 0) as found_total, coalesce(f.waiting, 0) as found_waiting, coalesce(f.running, 0) as found_running, coalesce(f.held, 0) as found_held,
       coalesce(f.retrying, 0) as found_retrying, coalesce(f.trashed, 0) as found_trashed, coalesce(f.done, 0) as found_done,
       coalesce(f.rejected, 0) as found_rejected, coalesce(f.terminated, 0) as found_terminated,
       case when f.first_version <> p.version_id or f.last_version <> p.version_id then exists (
           select from sluice.message m
           join sluice.edge e on e.tenant_id = m.tenant_id and e.id = m.edge_id
           where m.tenant_id = p.tenant_id and m.process_id = p.id and e.version_id <> p.version_id and not exists (
               select from sluice.decision d
               where d.tenant_id = p.tenant_id and d.process_id = p.id and d.version_id = e.version_id)
       ) else false end as versions_differ
from found f
full join sluice.process p on p.tenant_id = f.tenant_id and p.id = f.process_id`

	// wrongLanesSQL returns the lanes that are not as they must be, and tokens of no lane. A token that was cancelled or
	// deleted through River is put right by itself.
	wrongLanesSQL = `
with waiting as (
    select tenant_id, edge_id, key, count(*) as n, min(place) as first, max(place) as last
    from sluice.lane_message group by tenant_id, edge_id, key
), token as (` + laneJobs + `
), lane as (
    select coalesce(l.edge_id, w.edge_id) as edge_id, coalesce(l.key, w.key) as key, l.token, l.head, l.tail, w.n, w.first, w.last
    from sluice.lane l full join waiting w using (tenant_id, edge_id, key)
)
select edge_id, key, 'lane-missing', n || ' messages wait in it, and it is not there' from lane where tail is null
union all
select edge_id, key, 'lane-stuck', n || ' messages wait and there is no token' from lane where n > 0 and tail is not null and token is null
union all
select edge_id, key, 'lane-torn', 'messages stand at ' || first || ' to ' || last || ', it reaches from ' || head || ' to before ' || tail
from lane where first < head or last >= tail
union all
select t.edge_id, t.key, 'token-stray', 'job ' || t.id || ' is not its token'
from token t left join sluice.lane l on l.edge_id = t.edge_id and l.key = t.key and l.token = t.id
where l.token is null
order by 1, 2, 3`

	// wrongCountsSQL returns the edges whose counters differ from what they hold.
	wrongCountsSQL = `
with job as (` + edgeJobs + `
), held as (
    select j.edge_id, count(*) as messages, coalesce(sum(octet_length(coalesce(m.body, p.body))), 0) as bytes
    from job j
    join sluice.message m on m.tenant_id = j.tenant_id and m.process_id = j.process_id and m.id = j.id
    left join sluice.message p on p.tenant_id = m.tenant_id and p.process_id = m.process_id and p.id = m.payload_id
    group by j.edge_id
), counter as (
    select edge_id, sum(arrived - departed) as messages, sum(bytes) as bytes from sluice.edge_count group by edge_id
)
select edge_id, coalesce(c.messages, 0)::bigint, coalesce(h.messages, 0)::bigint, coalesce(c.bytes, 0)::bigint, coalesce(h.bytes, 0)::bigint
from held h full join counter c using (edge_id)
where coalesce(c.messages, 0) <> coalesce(h.messages, 0) or coalesce(c.bytes, 0) <> coalesce(h.bytes, 0)
order by edge_id`

	// wrongHoldsSQL returns the gates, keys and lines of limits that count other than what is held.
	wrongHoldsSQL = `
with hold as (
    select limit_id, user_name, edge_id, count(*) as n from sluice.limiter_hold group by limit_id, user_name, edge_id
), delta as (
    select limit_id, user_name, edge_id, sum(held) as n from sluice.limiter_delta group by limit_id, user_name, edge_id
), fact as (
    select limit_id, 'line' as what, user_name || ' e' || edge_id as of, n as "is", 0 as says from hold
    union all select limit_id, 'line', user_name || ' e' || edge_id, 0, n from delta
    union all select limit_id, 'line', user_name || ' e' || edge_id, 0, held from sluice.limiter_line
    union all select limit_id, 'key', user_name, n, 0 from hold
    union all select limit_id, 'key', user_name, 0, n from delta
    union all select limit_id, 'key', user_name, 0, held from sluice.limiter_key
    union all select limit_id, 'gate', '', n, 0 from hold
    union all select limit_id, 'gate', '', 0, n from delta
    union all select limit_id, 'gate', '', 0, held from sluice.limiter_gate
)
select limit_id, what, of, sum(says)::bigint, sum("is")::bigint from fact group by limit_id, what, of having sum(says) <> sum("is") order by 1, 2, 3`

	foreignSQL = `
with job as (` + edgeJobs + `
)
select count(*) from job where process_id is null and state not in ('cancelled', 'discarded')`

	cancelledOnEdgesSQL = `
with job as (` + edgeJobs + `
)
select 'e' || edge_id, count(*) from job where process_id is not null and state in ('cancelled', 'discarded')
group by edge_id order by edge_id limit 100`

	silentRunnersSQL = `
with job as (` + edgeJobs + `
)
select 'runner ' || coalesce(claimant, 'unknown'), count(*) from job
where state = 'running' and not exists (select from sluice.runner r where r.id::text = claimant and r.lease_until > now())
group by claimant order by claimant limit 100`
)
