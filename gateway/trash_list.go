package gateway

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/queue/process"
	"sluice/trash"
)

// TrashFilter is the part of a query that says which entries of the trash are meant.
type TrashFilter struct {
	Topology     string        `query:"topology" maxLength:"63" doc:"Only of this topology; also one that was deleted"`
	Version      int           `query:"version" minimum:"1" maximum:"2147483647" doc:"Only of this version of it"`
	Node         string        `query:"node" maxLength:"63" doc:"Only of this node"`
	Application  string        `query:"application" maxLength:"63" doc:"Only of nodes that are for this application"`
	Worker       string        `query:"worker" maxLength:"63" doc:"Only of nodes that call this worker"`
	Type         string        `query:"type" enum:"failure,breakpoint" doc:"Only what failed, or only what waits at a breakpoint"`
	DueBefore    time.Time     `query:"due_before" doc:"Only what waits at a breakpoint and is due before then"`
	Class        string        `query:"class" enum:"rejected,exhausted,reply,storage,cancelled,deleted" doc:"Only this kind of failure"`
	Cause        causeID       `query:"cause" doc:"Only with this cause"`
	Correlation  correlationID `query:"correlation_id" doc:"Only of this process"`
	Entity       string        `query:"entity" maxLength:"1000" doc:"Only of processes that are about this entity, as KIND:VALUE, or VALUE of any kind" example:"order:ABC-123"`
	FailedAfter  time.Time     `query:"failed_after" doc:"Only what failed then or later"`
	FailedBefore time.Time     `query:"failed_before" doc:"Only what failed before then"`
	Assigned     string        `query:"assigned_to" maxLength:"200" doc:"Only what is theirs"`
}

func (f TrashFilter) filter() (trash.Filter, error) {
	if f.Version != 0 && f.Topology == "" {
		return trash.Filter{}, versionAlone()
	}
	entity, err := entityOf(f.Entity, openapi.Detail{Location: "query.entity"})
	return trash.Filter{
		Entity:   entity,
		Topology: f.Topology, Version: f.Version, Node: f.Node, Application: f.Application, Worker: f.Worker,
		Class: process.Class(f.Class), Cause: f.Cause.parse(), Process: f.Correlation.uuid(), Assigned: f.Assigned,
		From: f.FailedAfter, Until: f.FailedBefore, Type: trash.Type(f.Type), DueBefore: f.DueBefore,
	}, err
}

// causeID is a cause as the API shows it: the hash in hex digits.
type causeID string

// Schema implements huma.SchemaProvider.
func (causeID) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Pattern: "^[0-9a-f]{16}$", Examples: []any{"9f86d081884c7d65"}}
}

func (c causeID) parse() *int64 {
	n, err := strconv.ParseUint(string(c), 16, 64)
	if err != nil {
		return nil // there is none: the pattern lets nothing else through
	}
	hash := int64(n)
	return &hash
}

func causeText(hash *int64) string {
	if hash == nil {
		return ""
	}
	return fmt.Sprintf("%016x", uint64(*hash))
}

func (g *gateway) listTrash(ctx context.Context, in *struct {
	openapi.Page
	TrashFilter
	Text  string `query:"text" maxLength:"200" doc:"Only with this text in the reason, or in the first 64 KiB of the body, where upper and lower case differ"`
	Order string `query:"order" enum:"oldest,newest" default:"oldest" doc:"What comes first"`
}) (*answer[openapi.List[EntryView]], error) {
	f, err := in.filter()
	if err != nil {
		return nil, err
	}
	f.Text = in.Text
	var after *trash.Mark
	if in.After != "" {
		var micros int64
		after = &trash.Mark{}
		if err := in.Cursor(&micros, &after.Message); err != nil {
			return nil, err
		}
		after.FailedAt = time.UnixMicro(micros)
	}
	by, _ := auth.FromContext(ctx)
	page, err := g.config.Trash.List(ctx, by.TenantID, f, trash.Order(in.Order), after, in.Limit)
	if err != nil {
		return nil, err
	}
	views := openapi.List[EntryView]{Items: make([]EntryView, len(page.Entries))}
	for i, e := range page.Entries {
		views.Items[i] = viewOfEntry(e)
	}
	if page.Next != nil {
		views.Next, err = openapi.CursorOf(page.Next.FailedAt.UnixMicro(), page.Next.Message)
	}
	return &answer[openapi.List[EntryView]]{views}, err
}

type groupsView struct {
	Items   []groupView `json:"items"`
	Causes  int64       `json:"causes" doc:"How many causes there are; items may be fewer"`
	Entries int64       `json:"entries" doc:"How many entries all of them have"`
}

type groupView struct {
	Cause     string    `json:"cause,omitempty" doc:"To filter by; absent for entries that are not sorted yet"`
	Type      string    `json:"type" enum:"failure,breakpoint"`
	Class     string    `json:"class,omitempty"`
	Text      string    `json:"text" doc:"The reason without what differs from entry to entry"`
	Example   string    `json:"example" doc:"The reason of the last of them"`
	Count     int64     `json:"count"`
	Share     float64   `json:"share" doc:"Of all entries that were asked for, from 0 to 1"`
	FirstSeen time.Time `json:"first_seen" doc:"When the first of those failed that are in the trash now"`
	LastSeen  time.Time `json:"last_seen"`
}

func (g *gateway) listGroups(ctx context.Context, in *struct {
	TrashFilter
	Limit int `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"How many causes at most"`
}) (*answer[groupsView], error) {
	f, err := in.filter()
	if err != nil {
		return nil, err
	}
	by, _ := auth.FromContext(ctx)
	groups, err := g.config.Trash.Groups(ctx, by.TenantID, f, in.Limit)
	view := groupsView{Items: make([]groupView, len(groups.Groups)), Causes: groups.Causes, Entries: groups.Entries}
	for i, c := range groups.Groups {
		view.Items[i] = groupView{
			Cause: causeText(c.Cause), Type: string(trash.Entry{Class: c.Class}.Type()), Class: classText(c.Class), Text: c.Text, Example: c.Reason, Count: c.Count,
			Share: float64(c.Count) / float64(groups.Entries), FirstSeen: c.FirstSeen.UTC(), LastSeen: c.LastSeen.UTC(),
		}
	}
	return &answer[groupsView]{view}, err
}
