package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

type trashCmd struct {
	List    trashListCmd    `cmd:"" help:"List messages that failed or wait at a breakpoint, the oldest first."`
	Groups  trashGroupsCmd  `cmd:"" help:"List the causes of failures, the most frequent first."`
	Show    trashShowCmd    `cmd:"" help:"Show one of them with its body and what happened to it."`
	Approve trashApproveCmd `cmd:"" help:"Send messages again, at the node where they failed, or on from the breakpoint where they wait."`
	Edit    trashEditCmd    `cmd:"" help:"Change what is sent when a message is approved."`
	Reject  trashRejectCmd  `cmd:"" help:"Settle messages without sending them again."`
	Assign  trashAssignCmd  `cmd:"" help:"Say whose messages are."`
	Bulk    trashBulkCmd    `cmd:"" help:"Decide about many messages at once."`
	Comment trashCommentCmd `cmd:"" help:"Add a remark to what happened to a message."`

	Retention retentionCmd `cmd:"" help:"How long is kept what was decided about."`
}

func (trashCmd) Help() string {
	return examples("A message whose node gave up waits here, for as long as it takes, until someone decides; so does one that a breakpoint has parked.",
		"sluice trash list", "sluice trash approve MESSAGE-ID")
}

// entryView is an entry of the trash as the API tells it.
type entryView struct {
	MessageID string     `json:"message_id"`
	Type      string     `json:"type"`
	DueAt     *time.Time `json:"due_at"`
	Size      int64      `json:"size"`
	Topology  string     `json:"topology"`
	Version   int        `json:"version"`
	Node      string     `json:"node"`
	Reason    string     `json:"reason"`
	Attempt   int        `json:"attempt"`
	FailedAt  *time.Time `json:"failed_at"`
	Edited    bool       `json:"edited"`
	Assigned  string     `json:"assigned_to"`
	Class     string     `json:"class"`
	Cause     string     `json:"cause"`
	Failures  int        `json:"failures"`
	Pretty    string     `json:"pretty"`
	Where     whereView  `json:"where"`
	Process   struct {
		State string `json:"state"`
	} `json:"process"`
	Headers   headersView    `json:"headers"`
	Body      []byte         `json:"body"` // base64 in JSON
	Edit      *editView      `json:"edit"`
	Attempts  []attemptView  `json:"attempts"`
	Decisions []decisionView `json:"decisions"`
}

type whereView struct {
	From        string   `json:"from"`
	Worker      string   `json:"worker"`
	Application string   `json:"application"`
	Followers   []string `json:"followers"`
	MayAct      []string `json:"may_act"`
}

type headersView map[string]string

type editView struct {
	Headers headersView `json:"headers"`
	Body    []byte      `json:"body"`
	By      string      `json:"by"`
	At      *time.Time  `json:"at"`
	Diff    struct {
		Body string `json:"body"`
	} `json:"diff"`
}

type attemptView struct {
	Attempt  int        `json:"attempt"`
	Outcome  string     `json:"outcome"`
	Status   int        `json:"status"`
	Duration float64    `json:"duration_ms"`
	At       *time.Time `json:"at"`
	Reason   string     `json:"reason"`
	Request  *struct {
		Action string `json:"action"`
	} `json:"request"`
	Response *struct {
		Headers headersView `json:"headers"`
		Body    []byte      `json:"body"`
		Cut     bool        `json:"cut"`
	} `json:"response"`
}

type decisionView struct {
	Verdict string     `json:"verdict"`
	By      string     `json:"decided_by"`
	At      *time.Time `json:"decided_at"`
	Reason  string     `json:"reason"`
	Detail  struct {
		To      *string `json:"to"`
		Version int     `json:"version"`
		Bytes   *int    `json:"bytes"`
	} `json:"detail"`
}

// changed is what a decision changed, in few words.
func (d decisionView) changed() string {
	switch t := d.Detail; {
	case t.To != nil && *t.To == "":
		return "nobody's"
	case t.To != nil:
		return "to " + *t.To
	case t.Version != 0:
		return fmt.Sprintf("onto v%d", t.Version)
	case t.Bytes != nil:
		return count(*t.Bytes, "byte")
	}
	return ""
}

func (v entryView) label() string { return fmt.Sprintf("%s v%d", v.Topology, v.Version) }

func (v entryView) row() []string {
	return []string{v.MessageID, v.label(), v.Node, v.Type, when(v.FailedAt), v.due(), yes(v.Edited), v.Assigned, v.Reason}
}

// due is until when somebody should have decided.
func (v entryView) due() string {
	if v.DueAt != nil && v.DueAt.Before(time.Now()) {
		return when(v.DueAt) + " (overdue)"
	}
	return when(v.DueAt)
}

// trashFilter says which messages of the trash are meant.
type trashFilter struct {
	Topology      string        `group:"filter" placeholder:"NAME" help:"Only of this topology."`
	Version       int           `group:"filter" placeholder:"N" help:"Only of this version of it."`
	Node          string        `group:"filter" placeholder:"NAME" help:"Only of this node."`
	Application   string        `group:"filter" placeholder:"NAME" help:"Only of nodes that are for this application."`
	Worker        string        `group:"filter" placeholder:"NAME" help:"Only of nodes that call this worker."`
	Type          string        `group:"filter" placeholder:"TYPE" help:"Only what failed (failure), or only what waits at a breakpoint (breakpoint)."`
	Overdue       bool          `group:"filter" help:"Only what waits at a breakpoint and should have been decided by now."`
	Class         string        `group:"filter" placeholder:"CLASS" help:"Only this kind of failure: rejected, exhausted, reply, storage, cancelled or deleted."`
	Cause         string        `group:"filter" placeholder:"CAUSE" help:"Only with this cause, as the command groups shows it."`
	CorrelationID string        `group:"filter" placeholder:"ID" help:"Only of this process."`
	Entity        string        `group:"filter" placeholder:"KIND:VALUE" help:"Only of processes that are about this entity, such as order:ABC-123; or a value of any kind."`
	Since         time.Duration `group:"filter" placeholder:"DURATION" help:"Only what failed within this time."`
	FailedAfter   string        `group:"filter" placeholder:"TIME" help:"Only what failed then or later, as 2026-01-02T15:04:05Z."`
	AssignedTo    string        `group:"filter" placeholder:"WHO" help:"Only what is theirs."`
	FailedBefore  string        `group:"filter" placeholder:"TIME" help:"Only what failed before then."`
}

func (f trashFilter) query() url.Values {
	after := f.FailedAfter
	if f.Since > 0 {
		after = time.Now().Add(-f.Since).UTC().Format(time.RFC3339)
	}
	due := ""
	if f.Overdue {
		due = time.Now().UTC().Format(time.RFC3339)
	}
	return queryOf("type", f.Type, "due_before", due, "topology", f.Topology, "version", number(f.Version), "node", f.Node, "application", f.Application, "worker", f.Worker,
		"class", f.Class, "cause", f.Cause, "correlation_id", f.CorrelationID, "entity", f.Entity, "failed_after", after, "failed_before", f.FailedBefore, "assigned_to", f.AssignedTo)
}

type trashListCmd struct {
	apiFlags
	trashFilter
	Text   string `group:"filter" placeholder:"TEXT" help:"Only with this text in the reason or the body. There is no index for it: say since when, too."`
	Newest bool   `help:"The newest first."`
	Limit  int    `default:"50" help:"How many to list at most."`
}

func (trashListCmd) Help() string {
	return examples("",
		"sluice trash list",
		"sluice trash list --type breakpoint --overdue",
		"sluice trash list --application crm --since 2h --text 'no such customer' --newest",
		"sluice trash list --topology orders --node store --limit 1000 --output json")
}

func (c trashListCmd) Run(ctx context.Context, p *program, api *client) error {
	q := c.query()
	maps.Copy(q, queryOf("text", c.Text))
	if c.Newest {
		q.Set("order", "newest")
	}
	l, err := list[entryView](ctx, api, "/trash", q, c.Limit)
	if err != nil {
		return err
	}
	defer l.more(p)
	return p.print(l, func(w io.Writer) {
		if len(l.Items) == 0 {
			fmt.Fprintln(w, emptyTrash(q))
			return
		}
		table(w, "MESSAGE TOPOLOGY NODE TYPE SINCE DUE EDITED ASSIGNED REASON", rows(l, entryView.row)...)
	})
}

func emptyTrash(filter url.Values) string {
	if len(filter) > 0 {
		return "Nothing in the trash is like that."
	}
	return "The trash is empty."
}

// groupsView are the causes of failures as the API tells them.
type groupsView struct {
	Items   []groupView `json:"items"`
	Causes  int64       `json:"causes"`
	Entries int64       `json:"entries"`
}

type groupView struct {
	Cause     string     `json:"cause"`
	Class     string     `json:"class"`
	Text      string     `json:"text"`
	Count     int64      `json:"count"`
	Share     float64    `json:"share"`
	FirstSeen *time.Time `json:"first_seen"`
	LastSeen  *time.Time `json:"last_seen"`
}

type trashGroupsCmd struct {
	apiFlags
	trashFilter
	Limit int `default:"50" help:"How many to list at most."`
}

func (trashGroupsCmd) Help() string {
	return examples("Messages that failed for the same reason, but for numbers, ids and quotations in it, have the same cause.",
		"sluice trash groups",
		"sluice trash groups --application crm --since 24h",
		"sluice trash list --cause 9f86d081884c7d65")
}

func (c trashGroupsCmd) Run(ctx context.Context, p *program, api *client) error {
	q := c.query()
	q.Set("limit", strconv.Itoa(c.Limit))
	groups, err := ask[groupsView](ctx, api, request{method: http.MethodGet, path: "/trash/groups", query: q})
	if err != nil {
		return err
	}
	return p.print(groups, func(w io.Writer) {
		g := groups.Shown
		if len(g.Items) == 0 {
			fmt.Fprintln(w, emptyTrash(c.query()))
			return
		}
		all := make([][]string, len(g.Items))
		for i, v := range g.Items {
			all[i] = []string{
				strconv.FormatInt(v.Count, 10), fmt.Sprintf("%.1f%%", 100*v.Share), v.Class, v.Cause, when(v.FirstSeen), when(v.LastSeen), v.Text,
			}
		}
		table(w, "COUNT SHARE CLASS CAUSE FIRST LAST REASON", all...)
		fmt.Fprintf(w, "\n%s of %s.\n", count(g.Entries, "message"), count(g.Causes, "cause"))
	})
}

type trashShowCmd struct {
	apiFlags
	ID   string `arg:"" name:"message-id" help:"Id of the message."`
	Body bool   `help:"Write the body as it is, and nothing else."`
}

func (trashShowCmd) Help() string {
	return examples("",
		"sluice trash show 0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-4711",
		"sluice trash show 0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-4711 --body > order.json")
}

func (c trashShowCmd) Run(ctx context.Context, p *program, api *client) error {
	entry, err := ask[entryView](ctx, api, request{method: http.MethodGet, path: pathOf("trash", c.ID)})
	if err != nil {
		return err
	}
	if c.Body {
		_, err := p.stdout.Write(entry.Shown.Body)
		return err
	}
	return p.print(entry, entry.Shown.write)
}

func (v entryView) write(w io.Writer) {
	since := "Failed"
	if v.Type == "breakpoint" {
		since = "Waits"
	}
	facts(w,
		"Message", v.MessageID,
		since, when(v.FailedAt)+" at node "+v.Node+" of "+v.label(),
		"Due", v.due(),
		"May act", strings.Join(v.Where.MayAct, ", "),
		"Reason", v.Reason,
		"Class", v.Class,
		"Cause", v.Cause,
		"Came from", v.Where.From,
		"Goes on to", strings.Join(v.Where.Followers, ", "),
		"Worker", v.Where.Worker,
		"Application", v.Where.Application,
		"Process", v.Process.State,
		"Assigned to", v.Assigned,
		"Size", count(v.Size, "byte"),
	)
	if v.Failures > 1 {
		fmt.Fprintf(w, "\nIt has failed %d times.\n", v.Failures)
	}
	if len(v.Attempts) > 0 {
		fmt.Fprintln(w)
		all := make([][]string, len(v.Attempts))
		for i, a := range v.Attempts {
			all[i] = []string{strconv.Itoa(a.Attempt), a.Outcome, number(a.Status), when(a.At), a.Reason}
		}
		table(w, "ATTEMPT OUTCOME STATUS AT REASON", all...)
		if last := v.Attempts[len(v.Attempts)-1]; last.Response != nil {
			fmt.Fprintf(w, "\nThe last answer, %d:\n\n", last.Status)
			last.Response.Headers.write(w)
			fmt.Fprintln(w, shownBody(last.Response.Body))
		}
	}
	if len(v.Decisions) > 0 {
		fmt.Fprintln(w)
		all := make([][]string, len(v.Decisions))
		for i, d := range v.Decisions {
			all[i] = []string{d.Verdict, d.By, when(d.At), d.changed(), d.Reason}
		}
		table(w, "DECISION BY AT CHANGED REASON", all...)
	}
	fmt.Fprintln(w)
	v.Headers.write(w)
	if v.Pretty != "" {
		fmt.Fprintln(w, shownBody([]byte(v.Pretty)))
	} else {
		fmt.Fprintln(w, shownBody(v.Body))
	}
	if v.Edit != nil {
		fmt.Fprintf(w, "\nEdited %s by %s; this is sent when it is approved:\n\n", when(v.Edit.At), line(v.Edit.By))
		v.Edit.Headers.write(w)
		fmt.Fprintln(w, shownBody(v.Edit.Body))
		if v.Edit.Diff.Body != "" {
			fmt.Fprintf(w, "\n%s\n", lines(v.Edit.Diff.Body))
		}
	}
}

func (h headersView) write(w io.Writer) {
	for _, name := range slices.Sorted(maps.Keys(h)) {
		fmt.Fprintf(w, "%s: %s\n", line(name), line(h[name]))
	}
	if len(h) > 0 {
		fmt.Fprintln(w)
	}
}

// idFlags name messages.
type idFlags struct {
	IDs []string `arg:"" name:"message-id" help:"Ids of the messages; - reads them from standard input, one a line."`
}

func (f idFlags) read(p *program) ([]string, error) {
	var ids []string
	for _, id := range f.IDs {
		if id != "-" {
			ids = append(ids, id)
			continue
		}
		scanner := bufio.NewScanner(p.stdin)
		for scanner.Scan() {
			if id := strings.TrimSpace(scanner.Text()); id != "" {
				ids = append(ids, id)
			}
		}
		if err := scanner.Err(); err != nil {
			return nil, err
		}
	}
	if len(ids) == 0 {
		return nil, usagef("no message ids: find them with `sluice trash list`")
	}
	return ids, nil
}

// decisionsAtOnce is how many messages are decided about in one call, all of them or none.
const decisionsAtOnce = 500

// decide makes a decision about messages, and tells how far it came if it fails on the way.
func decide(ids []string, do func(ids []string) error) error {
	done := 0
	for chunk := range slices.Chunk(ids, decisionsAtOnce) {
		if err := do(chunk); err != nil {
			if done > 0 {
				return fmt.Errorf("after the first %d messages: %w", done, err)
			}
			return err
		}
		done += len(chunk)
	}
	return nil
}

type trashApproveCmd struct {
	apiFlags
	idFlags
	Onto   int    `placeholder:"VERSION" help:"Send them on in this version of their topology, at the node of the same name."`
	Reason string `help:"Why, for the record."`
}

func (trashApproveCmd) Help() string {
	return examples("All of them are sent again, or none.",
		"sluice trash approve 0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-4711",
		"sluice trash list --node store --limit 500 --output json | jq -r '.items[].message_id' | sluice trash approve - --reason 'the store is back'",
		"sluice trash approve 0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-4711 --onto 5")
}

// sentView is what became of an approved message.
type sentView struct {
	MessageID string `json:"message_id"`
	SentAs    string `json:"sent_as"`
}

func (c trashApproveCmd) Run(ctx context.Context, p *program) error {
	ids, err := c.read(p)
	if err != nil {
		return err
	}
	api, err := c.client(p)
	if err != nil {
		return err
	}
	all := map[string][]sentView{"sent": {}}
	err = decide(ids, func(ids []string) error {
		type approved struct {
			Sent []sentView `json:"sent"`
		}
		a, err := ask[approved](ctx, api, request{method: http.MethodPost, path: "/trash/approve"}.
			jsonBody(c.body(ids)))
		all["sent"] = append(all["sent"], a.Shown.Sent...)
		return err
	})
	if err != nil {
		return err
	}
	return p.print(all, func(w io.Writer) {
		fmt.Fprintf(w, "Sent %s again.\n", count(len(ids), "message"))
		for _, s := range all["sent"] {
			if s.SentAs != s.MessageID {
				fmt.Fprintf(w, "%s goes on as %s\n", line(s.MessageID), line(s.SentAs))
			}
		}
	})
}

func (c trashApproveCmd) body(ids []string) map[string]any {
	body := map[string]any{"message_ids": ids, "reason": c.Reason}
	if c.Onto != 0 {
		body["version"] = c.Onto
	}
	return body
}

type trashAssignCmd struct {
	apiFlags
	idFlags
	To     string `required:"" placeholder:"WHO" help:"Whose they are from now on; '' is nobody."`
	Reason string `help:"Why, for the record."`
}

func (trashAssignCmd) Help() string {
	return examples("It keeps nobody else from deciding about them.",
		"sluice trash assign 0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-4711 --to ann")
}

func (c trashAssignCmd) Run(ctx context.Context, p *program) error {
	ids, err := c.read(p)
	if err != nil {
		return err
	}
	api, err := c.client(p)
	if err != nil {
		return err
	}
	err = decide(ids, func(ids []string) error {
		_, err := api.send(ctx, request{method: http.MethodPost, path: "/trash/assign"}.
			jsonBody(map[string]any{"message_ids": ids, "to": c.To, "reason": c.Reason}))
		return err
	})
	if err != nil {
		return err
	}
	return p.print(map[string]int{"assigned": len(ids)}, func(w io.Writer) {
		fmt.Fprintf(w, "Assigned %s.\n", count(len(ids), "message"))
	})
}

type trashCommentCmd struct {
	apiFlags
	ID   string `arg:"" name:"message-id" help:"Id of the message."`
	Text string `arg:"" help:"The remark."`
}

func (trashCommentCmd) Help() string {
	return examples("",
		"sluice trash comment 0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-4711 'asked the customer'")
}

func (c trashCommentCmd) Run(ctx context.Context, p *program, api *client) error {
	entry, err := ask[entryView](ctx, api, request{method: http.MethodPost, path: pathOf("trash", c.ID, "comments")}.jsonBody(map[string]any{"text": c.Text}))
	if err != nil {
		return err
	}
	return p.print(entry, func(w io.Writer) { fmt.Fprintln(w, "Noted.") })
}

type trashRejectCmd struct {
	apiFlags
	idFlags
	Reason string `required:"" help:"Why, for the record."`
}

func (trashRejectCmd) Help() string {
	return examples("All of them are rejected, or none.",
		"sluice trash reject 0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-4711 --reason 'a test order'")
}

func (c trashRejectCmd) Run(ctx context.Context, p *program) error {
	ids, err := c.read(p)
	if err != nil {
		return err
	}
	api, err := c.client(p)
	if err != nil {
		return err
	}
	err = decide(ids, func(ids []string) error {
		_, err := api.send(ctx, request{method: http.MethodPost, path: "/trash/reject"}.
			jsonBody(map[string]any{"message_ids": ids, "reason": c.Reason}))
		return err
	})
	if err != nil {
		return err
	}
	return p.print(map[string]int{"rejected": len(ids)}, func(w io.Writer) {
		fmt.Fprintf(w, "Rejected %s.\n", count(len(ids), "message"))
	})
}

type trashEditCmd struct {
	apiFlags
	contentFlags
	ID      string `arg:"" name:"message-id" help:"Id of the message."`
	Discard bool   `xor:"content" help:"Forget the edit: the message is sent as it failed."`
	Approve bool   `help:"Approve it as well."`
	Reason  string `help:"Why, for the record of --approve."`
}

func (trashEditCmd) Help() string {
	return examples("Without --data or --file it opens $EDITOR. The message that failed is kept as it was.",
		"sluice trash edit 0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-4711",
		"sluice trash edit 0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-4711 --file mended.json --approve",
		"sluice trash edit 0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-4711 --discard")
}

func (c trashEditCmd) Run(ctx context.Context, p *program, api *client) error {
	path := pathOf("trash", c.ID, "body")
	if c.Discard {
		if _, err := api.send(ctx, request{method: http.MethodDelete, path: path}); err != nil {
			return err
		}
		return p.print(map[string]any{"message_id": c.ID, "edited": false}, func(w io.Writer) {
			fmt.Fprintln(w, "Forgot the edit. The message is sent as it failed when it is approved.")
		})
	}
	body, err := c.edited(ctx, p, api)
	if err != nil {
		return err
	}
	headers := headersOf(c.Header)
	if c.ContentType != "" {
		headers["Content-Type"] = c.ContentType
	}
	entry, err := ask[entryView](ctx, api, request{method: http.MethodPut, path: path, body: body, headers: headers})
	if err != nil {
		return err
	}
	if c.Approve {
		return trashApproveCmd{apiFlags: c.apiFlags, idFlags: idFlags{[]string{c.ID}}, Reason: c.Reason}.Run(ctx, p)
	}
	return p.print(entry, func(w io.Writer) {
		fmt.Fprintf(w, "Edited. Send it: sluice trash approve %s\n", line(c.ID))
	})
}

// edited is the new body: as the command line says it, or as it comes out of the editor.
func (c trashEditCmd) edited(ctx context.Context, p *program, api *client) ([]byte, error) {
	if c.given() {
		return c.read(p)
	}
	if !isTerminal(p.stdin) && p.getenv("EDITOR") == "" && p.getenv("VISUAL") == "" {
		return c.read(p)
	}
	entry, err := ask[entryView](ctx, api, request{method: http.MethodGet, path: pathOf("trash", c.ID)})
	if err != nil {
		return nil, err
	}
	body := entry.Shown.Body
	if entry.Shown.Edit != nil {
		body = entry.Shown.Edit.Body
	}
	changed, err := p.edit(ctx, body)
	if err == nil && bytes.Equal(changed, body) && len(c.Header) == 0 {
		return nil, errors.New("nothing was changed: the message stays as it is")
	}
	return changed, err
}

// edit opens the user's editor on a text, and returns what it was changed to.
func (p *program) edit(ctx context.Context, text []byte) ([]byte, error) {
	editor := p.getenv("VISUAL")
	if editor == "" {
		editor = p.getenv("EDITOR")
	}
	if editor == "" {
		editor = "vi"
	}
	dir, err := os.MkdirTemp("", "sluice-edit-") // which nobody else may enter
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := dir + "/body"
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return nil, err
	}
	// As git does: the variable may hold arguments, so the shell takes it apart.
	cmd := exec.CommandContext(ctx, "sh", "-c", editor+` "$1"`, editor, path)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.stdin, p.stdout, p.stderr
	if p.output != "text" {
		cmd.Stdout = p.stderr
	}
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("editor %q: %w: the message stays as it is", editor, err)
	}
	return os.ReadFile(path)
}
