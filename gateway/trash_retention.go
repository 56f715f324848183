package gateway

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/trash"
)

const retentionPath = "/v1/trash/retention"

// RetentionView says how long is kept what was decided about.
type RetentionView struct {
	RejectedDays int `json:"rejected_days" minimum:"0" maximum:"36500" doc:"Days after the end of a process of which something was rejected; 0: for ever"`
	ResolvedDays int `json:"resolved_days" minimum:"0" maximum:"36500" doc:"Days after the end of a process of which something was sent again, and nothing rejected; 0: for ever"`
}

type retentionDetailView struct {
	RetentionView
	SetBy     string     `json:"set_by,omitempty" doc:"Absent while nobody has set anything: all is kept"`
	SetAt     *time.Time `json:"set_at,omitempty"`
	Deleted   int64      `json:"deleted" doc:"How many processes have gone so far"`
	DeletedAt *time.Time `json:"deleted_at,omitempty" doc:"When some went last"`
}

func (g *gateway) addRetention() {
	tags := []string{"trash"}
	register(g, huma.Operation{
		OperationID: "get-trash-retention", Method: http.MethodGet, Path: retentionPath, Tags: tags, Security: openapi.Scope("operate"),
		Summary: "See how long is kept what was decided about", Description: "What waits in the trash stays until somebody decides, whatever is set here.",
	}, g.getRetention)
	register(g, huma.Operation{
		OperationID: "set-trash-retention", Method: http.MethodPut, Path: retentionPath, Tags: tags, Security: openapi.Scope("admin"),
		Summary: "Say how long is kept what was decided about",
		Description: "Unless somebody says so, nothing goes. What goes is the process with all its messages, attempts and decisions, some minutes after its time is up; what it was about can then be posted anew under the " +
			"same idempotency key. Processes about which nobody decided are not meant.",
	}, g.setRetention)
}

func (g *gateway) getRetention(ctx context.Context, _ *struct{}) (*answer[retentionDetailView], error) {
	by, _ := auth.FromContext(ctx)
	r, err := g.config.Trash.Retention(ctx, by.TenantID)
	return &answer[retentionDetailView]{viewOfRetention(r)}, err
}

func (g *gateway) setRetention(ctx context.Context, in *answer[RetentionView]) (*answer[retentionDetailView], error) {
	by, _ := auth.FromContext(ctx)
	const day = 24 * time.Hour
	if err := g.config.Trash.SetRetention(ctx, by.TenantID, by.Actor(), time.Duration(in.Body.RejectedDays)*day, time.Duration(in.Body.ResolvedDays)*day); err != nil {
		return nil, err
	}
	return g.getRetention(ctx, nil)
}

func viewOfRetention(r trash.Retention) retentionDetailView {
	view := retentionDetailView{
		RetentionView: RetentionView{RejectedDays: int(r.Rejected.Hours() / 24), ResolvedDays: int(r.Resolved.Hours() / 24)},
		SetBy:         r.SetBy, Deleted: r.Deleted, DeletedAt: utc(r.DeletedAt),
	}
	if r.SetBy != "" {
		view.SetAt = utc(&r.SetAt)
	}
	return view
}
