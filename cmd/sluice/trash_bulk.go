package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

type trashBulkCmd struct {
	Approve bulkApproveCmd `cmd:"" help:"Send all messages again that a filter asks for."`
	Reject  bulkRejectCmd  `cmd:"" help:"Settle all messages that a filter asks for, without sending them again."`
	Assign  bulkAssignCmd  `cmd:"" help:"Say whose all messages are that a filter asks for."`
	Comment bulkCommentCmd `cmd:"" help:"Add a remark to all messages that a filter asks for."`
	Edit    bulkEditCmd    `cmd:"" help:"Change all messages that a filter asks for; they stay in the trash."`
	List    bulkListCmd    `cmd:"" help:"List bulks, the newest first."`
	Show    bulkShowCmd    `cmd:"" help:"Show how far a bulk has come, and which messages it left alone."`
	Watch   bulkWatchCmd   `cmd:"" help:"Watch a bulk until it is done."`
	Start   bulkStartCmd   `cmd:"" help:"Start a bulk that was previewed."`
	Pause   bulkPauseCmd   `cmd:"" help:"Pause a bulk."`
	Resume  bulkResumeCmd  `cmd:"" help:"Resume a bulk that is paused."`
	Cancel  bulkCancelCmd  `cmd:"" help:"Cancel a bulk; what is left stays as it is."`
}

func (trashBulkCmd) Help() string {
	return examples("A bulk is about exactly the messages that its preview counted. The server works it, also when this command is gone.",
		"sluice trash bulk approve --application crm --since 24h --reason 'the crm is back' --rate 50",
		"sluice trash bulk start 7",
		"sluice trash bulk reject --cause 9f86d081884c7d65 --reason 'test orders' --yes")
}

// bulkView is a bulk as the API tells it.
type bulkView struct {
	ID         int64      `json:"id"`
	Action     string     `json:"action"`
	State      string     `json:"state"`
	Reason     string     `json:"reason"`
	Version    int        `json:"version"`
	Rate       float64    `json:"rate"`
	Total      int        `json:"total"`
	More       bool       `json:"more"`
	Done       int        `json:"done"`
	Failed     int        `json:"failed"`
	Left       int        `json:"left"`
	CreatedBy  string     `json:"created_by"`
	CreatedAt  *time.Time `json:"created_at"`
	StartedBy  string     `json:"started_by"`
	StartedAt  *time.Time `json:"started_at"`
	FinishedAt *time.Time `json:"finished_at"`
	Sample     []struct {
		entryView
		Diff struct {
			Headers []struct {
				Name string `json:"name"`
			} `json:"headers"`
			Body string `json:"body"`
		} `json:"diff"`
		Error string `json:"error"`
	} `json:"sample"`
}

func (v bulkView) row() []string {
	return []string{
		strconv.FormatInt(v.ID, 10), v.Action, v.State, strconv.Itoa(v.Total), strconv.Itoa(v.Done), strconv.Itoa(v.Failed),
		v.CreatedBy, when(v.CreatedAt), v.Reason,
	}
}

func (v bulkView) over() bool { return v.State == "done" || v.State == "cancelled" }

// bulkPlan says which messages a bulk is about, and how it is done.
type bulkPlan struct {
	trashFilter
	Text string  `group:"filter" placeholder:"TEXT" help:"Only with this text in the reason or the body."`
	Rate float64 `placeholder:"N" help:"Messages a second at most. Default: as fast as it goes."`
	Yes  bool    `short:"y" help:"Start it at once, and watch it until it is done."`
}

// bulkChange says what becomes of the content.
type bulkChange struct {
	Patch      string            `placeholder:"JSON" help:"A JSON Patch (RFC 6902) of the bodies; @FILE reads it from a file."`
	SetHeader  map[string]string `mapsep:"none" placeholder:"NAME=VALUE" help:"A header that gets another value; may be given several times."`
	DropHeader []string          `placeholder:"NAME" help:"A header that goes; may be given several times."`
}

func (c bulkChange) into(body map[string]any) error {
	text := []byte(c.Patch)
	if name, is := strings.CutPrefix(c.Patch, "@"); is {
		var err error
		if text, err = os.ReadFile(name); err != nil {
			return err
		}
	}
	if len(text) > 0 {
		if !json.Valid(text) {
			return usagef("--patch is no JSON: want [{\"op\": \"replace\", \"path\": \"/a\", \"value\": 1}]")
		}
		body["patch"] = json.RawMessage(text)
	}
	if len(c.SetHeader) > 0 {
		body["set_headers"] = c.SetHeader
	}
	if len(c.DropHeader) > 0 {
		body["drop_headers"] = c.DropHeader
	}
	return nil
}

// run previews a bulk, and starts it if that was asked for.
func (b bulkPlan) run(ctx context.Context, p *program, api *client, body map[string]any) error {
	filter := map[string]any{}
	for name, values := range b.query() {
		filter[name] = values[0]
	}
	if b.Version != 0 {
		filter["version"] = b.Version
	}
	if b.Text != "" {
		filter["text"] = b.Text
	}
	body["filter"] = filter
	if b.Rate != 0 {
		body["rate"] = b.Rate
	}
	preview, err := ask[bulkView](ctx, api, request{method: http.MethodPost, path: "/trash/bulks"}.jsonBody(body))
	if err != nil {
		return err
	}
	if !b.Yes || preview.Shown.Total == 0 {
		return p.print(preview, preview.Shown.writePreview)
	}
	started, err := stepBulk(ctx, api, preview.Shown.ID, "start")
	if err != nil {
		return err
	}
	return watchBulk(ctx, p, api, started)
}

func (v bulkView) writePreview(w io.Writer) {
	if v.Total == 0 {
		fmt.Fprintln(w, "Nothing in the trash is like that.")
		return
	}
	all := make([][]string, len(v.Sample))
	for i, s := range v.Sample {
		note := s.Reason
		if s.Error != "" {
			note = "would be left alone: " + s.Error
		}
		all[i] = []string{s.MessageID, s.label(), s.Node, when(s.FailedAt), note}
	}
	table(w, "MESSAGE TOPOLOGY NODE FAILED REASON", all...)
	for _, s := range v.Sample {
		var names []string
		for _, h := range s.Diff.Headers {
			names = append(names, h.Name)
		}
		if names != nil {
			fmt.Fprintf(w, "\n%s: headers that change: %s\n", line(s.MessageID), line(strings.Join(names, ", ")))
		}
		if s.Diff.Body != "" {
			fmt.Fprintf(w, "\n%s\n%s\n", line(s.MessageID), lines(s.Diff.Body))
		}
	}
	more := ""
	if v.More {
		more = " (there are more than one bulk takes)"
	}
	fmt.Fprintf(w, "\n%s%s. Nothing is decided yet: sluice trash bulk start %d\n", count(v.Total, "message"), more, v.ID)
}

type bulkApproveCmd struct {
	apiFlags
	bulkPlan
	bulkChange
	Onto   int    `placeholder:"VERSION" help:"Send them on in this version of their topology, at the node of the same name."`
	Reason string `help:"Why, for the record."`
}

func (c bulkApproveCmd) Run(ctx context.Context, p *program, api *client) error {
	body := map[string]any{"action": "approve", "reason": c.Reason}
	if c.Onto != 0 {
		body["version"] = c.Onto
	}
	if err := c.into(body); err != nil {
		return err
	}
	return c.run(ctx, p, api, body)
}

func (bulkApproveCmd) Help() string {
	return examples("It counts the messages and shows some, and what would become of them; with --yes it goes on.",
		"sluice trash bulk approve --topology orders --node store --rate 50 --yes",
		`sluice trash bulk approve --cause 9f86d081884c7d65 --patch '[{"op": "replace", "path": "/currency", "value": "EUR"}]'`)
}

type bulkRejectCmd struct {
	apiFlags
	bulkPlan
	Reason string `required:"" help:"Why, for the record."`
}

func (c bulkRejectCmd) Run(ctx context.Context, p *program, api *client) error {
	return c.run(ctx, p, api, map[string]any{"action": "reject", "reason": c.Reason})
}

func (bulkRejectCmd) Help() string {
	return examples("It counts the messages and shows some; with --yes it goes on.",
		"sluice trash bulk reject --topology test --reason 'test orders'")
}

type bulkEditCmd struct {
	apiFlags
	bulkPlan
	bulkChange
	Reason string `help:"Why, for the record."`
}

func (c bulkEditCmd) Run(ctx context.Context, p *program, api *client) error {
	body := map[string]any{"action": "edit", "reason": c.Reason}
	if err := c.into(body); err != nil {
		return err
	}
	return c.run(ctx, p, api, body)
}

func (bulkEditCmd) Help() string {
	return examples("It counts the messages and shows some, and what would become of them; with --yes it goes on.",
		"sluice trash bulk edit --node store --set-header x-region=eu --drop-header x-debug",
		"sluice trash bulk edit --node store --patch @mend.json --yes")
}

type bulkAssignCmd struct {
	apiFlags
	bulkPlan
	To     string `required:"" placeholder:"WHO" help:"Whose they are from now on; '' is nobody."`
	Reason string `help:"Why, for the record."`
}

func (c bulkAssignCmd) Run(ctx context.Context, p *program, api *client) error {
	return c.run(ctx, p, api, map[string]any{"action": "assign", "to": c.To, "reason": c.Reason})
}

func (bulkAssignCmd) Help() string {
	return examples("It counts the messages and shows some; with --yes it goes on.",
		"sluice trash bulk assign --application crm --to ann --yes")
}

type bulkCommentCmd struct {
	apiFlags
	bulkPlan
	Remark string `required:"" name:"remark" placeholder:"TEXT" help:"The remark."`
}

func (c bulkCommentCmd) Run(ctx context.Context, p *program, api *client) error {
	return c.run(ctx, p, api, map[string]any{"action": "comment", "reason": c.Remark})
}

func (bulkCommentCmd) Help() string {
	return examples("It counts the messages and shows some; with --yes it goes on.",
		"sluice trash bulk comment --cause 9f86d081884c7d65 --remark 'ticket 4711' --yes")
}

type bulkListCmd struct {
	apiFlags
	Limit int `default:"20" help:"How many to list at most."`
}

func (bulkListCmd) Help() string { return examples("", "sluice trash bulk list") }

func (c bulkListCmd) Run(ctx context.Context, p *program, api *client) error {
	l, err := list[bulkView](ctx, api, "/trash/bulks", nil, c.Limit)
	if err != nil {
		return err
	}
	defer l.more(p)
	return p.print(l, func(w io.Writer) {
		table(w, "BULK ACTION STATE TOTAL DONE FAILED BY CREATED REASON", rows(l, bulkView.row)...)
	})
}

// bulkID names a bulk.
type bulkID struct {
	ID int64 `arg:"" name:"bulk" help:"Number of the bulk."`
}

func (b bulkID) path(more ...string) string {
	return pathOf(append([]string{"trash", "bulks", strconv.FormatInt(b.ID, 10)}, more...)...)
}

type bulkShowCmd struct {
	apiFlags
	bulkID
	Limit int `default:"50" help:"How many of the messages to list at most that it left alone."`
}

func (bulkShowCmd) Help() string { return examples("", "sluice trash bulk show 7") }

func (c bulkShowCmd) Run(ctx context.Context, p *program, api *client) error {
	b, err := ask[bulkView](ctx, api, request{method: http.MethodGet, path: c.path()})
	if err != nil {
		return err
	}
	type failure struct {
		MessageID string `json:"message_id"`
		Error     string `json:"error"`
	}
	failures, err := list[failure](ctx, api, c.path("failures"), nil, c.Limit)
	if err != nil {
		return err
	}
	return p.print(map[string]any{"bulk": b, "failures": failures.Items}, func(w io.Writer) {
		v := b.Shown
		facts(w, "Bulk", strconv.FormatInt(v.ID, 10), "Action", v.Action, "State", v.State, "Reason", v.Reason,
			"Previewed", when(v.CreatedAt)+" by "+v.CreatedBy, "Started", when(v.StartedAt), "Started by", v.StartedBy, "Finished", when(v.FinishedAt),
			"Progress", v.progress())
		if len(failures.Items) > 0 {
			fmt.Fprintln(w)
			table(w, "MESSAGE LEFT-ALONE-BECAUSE", rows(failures, func(f failure) []string { return []string{f.MessageID, f.Error} })...)
		}
	})
}

// progress is how far a bulk has come, on one line.
func (v bulkView) progress() string {
	const width = 30
	share := 1.0
	if v.Total > 0 {
		share = float64(v.Done+v.Failed) / float64(v.Total)
	}
	full := int(share * width)
	return fmt.Sprintf("[%s%s] %3.0f%%  %d of %d done, %d left alone", strings.Repeat("#", full), strings.Repeat("-", width-full), 100*share, v.Done, v.Total, v.Failed)
}

type bulkWatchCmd struct {
	apiFlags
	bulkID
}

func (bulkWatchCmd) Help() string { return examples("", "sluice trash bulk watch 7") }

func (c bulkWatchCmd) Run(ctx context.Context, p *program, api *client) error {
	b, err := ask[bulkView](ctx, api, request{method: http.MethodGet, path: c.path()})
	if err != nil {
		return err
	}
	return watchBulk(ctx, p, api, b)
}

// watchBulk shows how far a bulk has come until it is over or paused. It fails when messages were left alone.
func watchBulk(ctx context.Context, p *program, api *client, b answer[bulkView]) error {
	bar := p.output == "text" && isTerminal(p.stderr)
	told := time.Now()
	for !b.Shown.over() && b.Shown.State != "paused" && b.Shown.State != "preview" {
		switch {
		case bar:
			fmt.Fprintf(p.stderr, "\r%s", b.Shown.progress())
		case time.Since(told) > 10*time.Second:
			told = time.Now()
			p.note("%s", b.Shown.progress())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
		var err error
		if b, err = ask[bulkView](ctx, api, request{method: http.MethodGet, path: bulkID{b.Shown.ID}.path()}); err != nil {
			return err
		}
	}
	if bar {
		fmt.Fprintf(p.stderr, "\r%s\n", b.Shown.progress())
	}
	if err := p.print(b, func(w io.Writer) {
		fmt.Fprintf(w, "Bulk %d is %s: %d of %s done, %d left alone.\n", b.Shown.ID, line(b.Shown.State), b.Shown.Done, count(b.Shown.Total, "message"), b.Shown.Failed)
	}); err != nil {
		return err
	}
	if b.Shown.Failed > 0 {
		return fmt.Errorf("%s left alone: see why with `sluice trash bulk show %d`", count(b.Shown.Failed, "message"), b.Shown.ID)
	}
	return nil
}

func stepBulk(ctx context.Context, api *client, id int64, step string) (answer[bulkView], error) {
	return ask[bulkView](ctx, api, request{method: http.MethodPost, path: bulkID{id}.path(step)})
}

// takeStep takes a step with a bulk, and says how far it has come.
func (b bulkID) takeStep(ctx context.Context, p *program, api *client, step string) error {
	taken, err := stepBulk(ctx, api, b.ID, step)
	if err != nil {
		return err
	}
	return p.print(taken, func(w io.Writer) {
		fmt.Fprintf(w, "Bulk %d is %s. %s\n", b.ID, line(taken.Shown.State), taken.Shown.progress())
	})
}

type bulkStartCmd struct {
	apiFlags
	bulkID
}

func (bulkStartCmd) Help() string { return examples("", "sluice trash bulk start 7") }

func (c bulkStartCmd) Run(ctx context.Context, p *program, api *client) error {
	return c.takeStep(ctx, p, api, "start")
}

type bulkPauseCmd struct {
	apiFlags
	bulkID
}

func (bulkPauseCmd) Help() string { return examples("", "sluice trash bulk pause 7") }

func (c bulkPauseCmd) Run(ctx context.Context, p *program, api *client) error {
	return c.takeStep(ctx, p, api, "pause")
}

type bulkResumeCmd struct {
	apiFlags
	bulkID
}

func (bulkResumeCmd) Help() string { return examples("", "sluice trash bulk resume 7") }

func (c bulkResumeCmd) Run(ctx context.Context, p *program, api *client) error {
	return c.takeStep(ctx, p, api, "resume")
}

type bulkCancelCmd struct {
	apiFlags
	bulkID
}

func (bulkCancelCmd) Help() string { return examples("", "sluice trash bulk cancel 7") }

func (c bulkCancelCmd) Run(ctx context.Context, p *program, api *client) error {
	return c.takeStep(ctx, p, api, "cancel")
}
