package gateway

import (
	"context"
	"errors"
	"math"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"

	"sluice/gateway/auth"
	"sluice/limiter"
	"sluice/openapi"
	"sluice/queue"
	"sluice/queue/process"
)

const (
	limitsPath     = "/v1/limits"
	limitPath      = "/v1/limits/{application}"
	limitUsersPath = limitPath + "/users"
	limitUserPath  = limitPath + "/users/{user}"
)

// LimitPath is the part of a path that names an application.
type LimitPath struct {
	Application string `path:"application" maxLength:"63" doc:"The application, as nodes name it" example:"hubspot"`
}

// LimitUserPath names a user of an application.
type LimitUserPath struct {
	LimitPath
	User string `path:"user" minLength:"1" maxLength:"200" doc:"The user, as the header user of messages names them" example:"acme"`
}

// RateView is how many calls may be made in a time.
type RateView struct {
	Amount float64 `json:"amount" minimum:"0.000001" maximum:"1000000000" doc:"Calls in each period" example:"50"`
	Per    float64 `json:"per_seconds" minimum:"0.01" maximum:"31622400" doc:"The period" example:"1"`
	Burst  float64 `json:"burst,omitempty" minimum:"1" maximum:"1000000000" doc:"Calls at once after a rest; in any window there are at most so many, and what comes in its time. Absent: what comes in a second" example:"10"`
}

func (v *RateView) limit() limiter.Limit {
	if v == nil {
		return limiter.Limit{}
	}
	return limiter.Limit{Amount: v.Amount, Per: time.Duration(v.Per * float64(time.Second)), Burst: v.Burst}
}

func viewOfRate(l limiter.Limit) *RateView {
	if l.IsZero() {
		return nil
	}
	return &RateView{Amount: l.Amount, Per: l.Per.Seconds(), Burst: l.Burst}
}

// LimitView is what an application allows.
type LimitView struct {
	User     *RateView          `json:"user,omitempty" doc:"For each user; absent: any number"`
	Total    *RateView          `json:"total,omitempty" doc:"For all users together; absent: any number"`
	Parallel int                `json:"parallel,omitempty" minimum:"1" maximum:"100000" doc:"Calls under way at the same time; absent: any number"`
	Weights  map[string]float64 `json:"weights,omitempty" doc:"How topologies share what a user has, by name; one that is not named has 1"`
}

// LimitStateView is a limit with what it does now.
type LimitStateView struct {
	Application string `json:"application"`
	LimitView
	PausedAt    *time.Time `json:"paused_at,omitempty" doc:"Since when all of its messages are held"`
	PausedBy    string     `json:"paused_by,omitempty"`
	Raise       float64    `json:"raise,omitempty" doc:"By how many times the limit is raised"`
	RaisedUntil *time.Time `json:"raised_until,omitempty"`
	ClosedUntil *time.Time `json:"closed_until,omitempty" doc:"Until when the application itself has asked to be left alone"`
	Share       float64    `json:"share" doc:"The share of the limit that the application bears now: less than 1 after it refused calls"`
	Held        int64      `json:"held" doc:"Messages that are held"`
	In          float64    `json:"in_per_second" doc:"Messages that came, of the last ten seconds or so"`
	Out         float64    `json:"out_per_second" doc:"Messages that were released"`
	Running     int        `json:"running" doc:"Calls under way, or about to begin"`
	Tokens      *float64   `json:"tokens,omitempty" doc:"Calls that all users together may make at once now; absent: they have no limit"`
	Drain       *float64   `json:"drain_seconds,omitempty" doc:"How long until nothing is held, if no more comes; absent: it is paused, or nobody can tell"`
}

type limitDetailView struct {
	LimitStateView
	Topologies []limitTopologyView `json:"topologies" doc:"Whose messages they are, most held first"`
	Busiest    []limitUserView     `json:"busiest" doc:"The users with most held"`
}

type limitTopologyView struct {
	Topology string  `json:"topology"`
	Held     int64   `json:"held"`
	In       float64 `json:"in_per_second"`
	Out      float64 `json:"out_per_second"`
}

type limitUserView struct {
	User       string    `json:"user" doc:"Empty: messages that name none"`
	Rate       *RateView `json:"rate,omitempty" doc:"What holds for this user; absent: any number"`
	Weight     float64   `json:"weight" doc:"The share among the users, when there is not enough for all"`
	Overridden bool      `json:"overridden" doc:"Something is other for this user than for all"`
	Held       int64     `json:"held"`
	In         float64   `json:"in_per_second"`
	Out        float64   `json:"out_per_second"`
	Tokens     *float64  `json:"tokens,omitempty" doc:"Calls that may be made at once now"`
	Drain      *float64  `json:"drain_seconds,omitempty"`
}

type overrideView struct {
	Rate   *RateView `json:"rate,omitempty" doc:"Absent: as for all"`
	Weight float64   `json:"weight,omitempty" minimum:"0.01" maximum:"1000" doc:"The share among the users; absent: 1"`
}

type raiseView struct {
	Factor float64 `json:"factor" minimum:"0.01" maximum:"1000" doc:"By how many times; 1 ends it" example:"2"`
	During float64 `json:"during_seconds,omitempty" minimum:"0" maximum:"31622400" default:"3600" doc:"For how long"`
}

// HeldFilterView chooses held messages.
type HeldFilterView struct {
	User     *string `json:"user,omitempty" maxLength:"200" doc:"Only of this user; empty: of messages that name none"`
	Topology string  `json:"topology,omitempty" maxLength:"63" doc:"Only of this topology"`

	Processes []correlationID `json:"processes,omitempty" maxItems:"1000" doc:"Only of these processes"`
}

type heldChoiceView struct {
	Count int64 `json:"count" doc:"Messages that are held now"`
	UpTo  int64 `json:"up_to" doc:"Give it to terminate-held: what comes later is not meant"`
}

type terminateHeldView struct {
	HeldFilterView
	UpTo   int64  `json:"up_to" minimum:"1" doc:"As counted before: what came later stays"`
	Reason string `json:"reason,omitempty" maxLength:"1000" doc:"Why, for the record"`
}

func (g *gateway) addLimits() {
	tags, look, change := []string{"limits"}, openapi.Scope("operate"), openapi.Scope("admin")
	register(g, huma.Operation{
		OperationID: "list-limits", Method: http.MethodGet, Path: limitsPath, Tags: tags, Security: look,
		Summary: "List the limits of applications", Description: "In the order of their names, each with what it holds now.",
	}, g.listLimits)
	register(g, huma.Operation{
		OperationID: "get-limit", Method: http.MethodGet, Path: limitPath, Tags: tags, Security: look,
		Summary: "Tell what a limit holds", Description: "How many, how fast they come and go, how long it will take, and whose they are.",
	}, g.getLimit)
	register(g, huma.Operation{
		OperationID: "set-limit", Method: http.MethodPut, Path: limitPath, Tags: tags, Security: change,
		Summary: "Say what an application allows", Description: "It holds within a second, for messages that are held already, too.",
	}, g.setLimit)
	register(g, huma.Operation{
		OperationID: "remove-limit", Method: http.MethodDelete, Path: limitPath, Tags: tags, Security: change,
		Summary: "Let an application be called without limits", Description: "What is held goes on at once.",
	}, g.removeLimit)
	register(g, huma.Operation{
		OperationID: "pause-application", Method: http.MethodPost, Path: limitPath + "/pause", Tags: tags, Security: look,
		Summary: "Hold all messages for an application", Description: "Calls under way end. An application without a limit cannot be paused: set one.",
	}, g.pauseApplication)
	register(g, huma.Operation{
		OperationID: "resume-application", Method: http.MethodPost, Path: limitPath + "/resume", Tags: tags, Security: look,
		Summary: "End the pause of an application",
	}, g.resumeApplication)
	register(g, huma.Operation{
		OperationID: "raise-limit", Method: http.MethodPost, Path: limitPath + "/raise", Tags: tags, Security: change,
		Summary: "Raise a limit for a while", Description: "By a factor, and for an hour if nothing else is said. A factor below 1 lowers it.",
	}, g.raiseLimit)
	register(g, huma.Operation{
		OperationID: "list-limit-users", Method: http.MethodGet, Path: limitUsersPath, Tags: tags, Security: look,
		Summary: "List the users of an application", Description: "In the order of their names: those whose messages were held, and those for whom something is other.",
	}, g.listLimitUsers)
	register(g, huma.Operation{
		OperationID: "get-limit-user", Method: http.MethodGet, Path: limitUserPath, Tags: tags, Security: look,
		Summary: "Tell what is held of a user",
	}, g.getLimitUser)
	register(g, huma.Operation{
		OperationID: "set-limit-user", Method: http.MethodPut, Path: limitUserPath, Tags: tags, Security: change,
		Summary: "Say what is other for a user",
	}, g.setLimitUser)
	register(g, huma.Operation{
		OperationID: "remove-limit-user", Method: http.MethodDelete, Path: limitUserPath, Tags: tags, Security: change,
		Summary: "Make a user one like all",
	}, g.removeLimitUser)
	register(g, huma.Operation{
		OperationID: "count-held", Method: http.MethodPost, Path: limitPath + "/count-held", Tags: tags, Security: look,
		Summary: "Count messages that a limit holds", Description: "All, or of a user, a topology, or chosen processes. The answer says what terminate-held would end.",
	}, g.countHeld)
	register(g, huma.Operation{
		OperationID: "terminate-held", Method: http.MethodPost, Path: limitPath + "/terminate-held", Tags: tags, Security: look,
		Summary: "End messages that a limit holds", Metadata: map[string]any{timeKey: time.Minute},
		Description: "They are settled as terminated: those that were counted and are still held. What came since stays, and so do other messages of their processes; to end a process as a whole, terminate it.",
	}, g.terminateHeld)
}

func viewOfLimit(s queue.LimitState) LimitStateView {
	v := LimitStateView{
		Application: s.Application,
		LimitView:   LimitView{User: viewOfRate(s.User), Total: viewOfRate(s.Total), Parallel: s.Parallel, Weights: s.Weights},
		PausedAt:    utc(s.PausedAt), PausedBy: s.PausedBy, RaisedUntil: utc(s.RaisedUntil), ClosedUntil: utc(s.ClosedUntil),
		Share: rounded(s.Share), Held: s.Held, In: rounded(s.In), Out: rounded(s.Out), Running: s.Running, Drain: seconds(s.Drain),
	}
	if s.RaisedUntil != nil {
		v.Raise = s.Raise
	}
	if !s.Total.IsZero() {
		tokens := rounded(s.Tokens)
		v.Tokens = &tokens
	}
	return v
}

func viewOfLimitUser(k queue.LimitKey) limitUserView {
	v := limitUserView{
		User: k.User, Rate: viewOfRate(k.Limit), Weight: k.Weight, Overridden: k.Overridden, Held: k.Held,
		In: rounded(k.In), Out: rounded(k.Out), Drain: seconds(k.Drain),
	}
	if !k.Limit.IsZero() {
		tokens := rounded(k.Tokens)
		v.Tokens = &tokens
	}
	return v
}

func viewsOfLimitUsers(keys []queue.LimitKey) []limitUserView {
	views := make([]limitUserView, len(keys))
	for i, k := range keys {
		views[i] = viewOfLimitUser(k)
	}
	return views
}

// rounded is a number to the thousandth.
func rounded(n float64) float64 { return math.Round(n*1000) / 1000 }

func seconds(d *time.Duration) *float64 {
	if d == nil {
		return nil
	}
	s := rounded(d.Seconds())
	return &s
}

func (g *gateway) listLimits(ctx context.Context, in *struct{ openapi.Page }) (*answer[openapi.List[LimitStateView]], error) {
	var after string
	if err := in.Cursor(&after); err != nil {
		return nil, err
	}
	var rows []queue.LimitState
	err := g.look(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		rows, err = queue.Limits(ctx, tx, by.TenantID, after, in.Limit+1)
		return err
	})
	if err != nil {
		return nil, err
	}
	views := make([]LimitStateView, len(rows))
	for i, s := range rows {
		views[i] = viewOfLimit(s)
	}
	list, err := openapi.Cut(views, in.Page, func(last LimitStateView) []any { return []any{last.Application} })
	return &answer[openapi.List[LimitStateView]]{list}, err
}

// describe is the answer of what shows a limit, or changes it.
func (g *gateway) describe(ctx context.Context, tx pgx.Tx, tenant int64, application string) (*answer[limitDetailView], error) {
	s, err := queue.FindLimit(ctx, tx, tenant, application)
	if err != nil {
		return nil, err
	}
	v := limitDetailView{LimitStateView: viewOfLimit(s), Topologies: make([]limitTopologyView, len(s.Topologies)), Busiest: viewsOfLimitUsers(s.Busiest)}
	for i, t := range s.Topologies {
		v.Topologies[i] = limitTopologyView{Topology: t.Topology, Held: t.Held, In: rounded(t.RateIn), Out: rounded(t.RateOut)}
	}
	return &answer[limitDetailView]{v}, nil
}

// onLimit changes a limit and shows what it is then.
func (g *gateway) onLimit(ctx context.Context, application string, change func(tx pgx.Tx, by auth.Principal) error) (out *answer[limitDetailView], err error) {
	err = g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) error {
		if err := change(tx, by); err != nil {
			return err
		}
		out, err = g.describe(ctx, tx, by.TenantID, application)
		return err
	})
	return out, err
}

func (g *gateway) getLimit(ctx context.Context, in *LimitPath) (*answer[limitDetailView], error) {
	var out *answer[limitDetailView]
	err := g.look(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		out, err = g.describe(ctx, tx, by.TenantID, in.Application)
		return err
	})
	return out, err
}

func (g *gateway) setLimit(ctx context.Context, in *struct {
	LimitPath
	Body LimitView
}) (*answer[limitDetailView], error) {
	l := queue.Limit{
		Application: in.Application, User: in.Body.User.limit(), Total: in.Body.Total.limit(), Parallel: in.Body.Parallel, Weights: in.Body.Weights,
	}
	return g.onLimit(ctx, in.Application, func(tx pgx.Tx, by auth.Principal) error {
		return queue.SetLimit(ctx, tx, by.TenantID, l, by.Actor())
	})
}

func (g *gateway) removeLimit(ctx context.Context, in *LimitPath) (*struct{}, error) {
	return nil, g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) error {
		return queue.RemoveLimit(ctx, tx, by.TenantID, in.Application, by.Actor())
	})
}

func (g *gateway) pauseApplication(ctx context.Context, in *LimitPath) (*answer[limitDetailView], error) {
	return g.onLimit(ctx, in.Application, func(tx pgx.Tx, by auth.Principal) error {
		return queue.PauseLimit(ctx, tx, by.TenantID, in.Application, by.Actor())
	})
}

func (g *gateway) resumeApplication(ctx context.Context, in *LimitPath) (*answer[limitDetailView], error) {
	return g.onLimit(ctx, in.Application, func(tx pgx.Tx, by auth.Principal) error {
		return queue.ResumeLimit(ctx, tx, by.TenantID, in.Application, by.Actor())
	})
}

func (g *gateway) raiseLimit(ctx context.Context, in *struct {
	LimitPath
	Body raiseView
}) (*answer[limitDetailView], error) {
	during := time.Duration(in.Body.During * float64(time.Second))
	return g.onLimit(ctx, in.Application, func(tx pgx.Tx, by auth.Principal) error {
		return queue.RaiseLimit(ctx, tx, by.TenantID, in.Application, in.Body.Factor, during, by.Actor())
	})
}

func (g *gateway) listLimitUsers(ctx context.Context, in *struct {
	LimitPath
	openapi.Page
}) (*answer[openapi.List[limitUserView]], error) {
	// The user without a name comes before all others.
	after, first := "", in.After == ""
	if err := in.Cursor(&after); err != nil {
		return nil, err
	}
	var rows []queue.LimitKey
	err := g.look(ctx, func(tx pgx.Tx, by auth.Principal) error {
		if first {
			nameless, err := queue.FindLimitKey(ctx, tx, by.TenantID, in.Application, "")
			if err == nil {
				rows = append(rows, nameless)
			} else if !errors.Is(err, queue.ErrNoUser) {
				return err
			}
		}
		named, err := queue.LimitKeys(ctx, tx, by.TenantID, in.Application, after, in.Limit+1)
		rows = append(rows, named...)
		return err
	})
	if err != nil {
		return nil, err
	}
	list, err := openapi.Cut(viewsOfLimitUsers(rows[:min(len(rows), in.Limit+1)]), in.Page, func(last limitUserView) []any { return []any{last.User} })
	return &answer[openapi.List[limitUserView]]{list}, err
}

func (g *gateway) getLimitUser(ctx context.Context, in *LimitUserPath) (*answer[limitUserView], error) {
	var out answer[limitUserView]
	err := g.look(ctx, func(tx pgx.Tx, by auth.Principal) error {
		k, err := queue.FindLimitKey(ctx, tx, by.TenantID, in.Application, in.User)
		out.Body = viewOfLimitUser(k)
		return err
	})
	return &out, err
}

func (g *gateway) setLimitUser(ctx context.Context, in *struct {
	LimitUserPath
	Body overrideView
}) (*answer[limitUserView], error) {
	var out answer[limitUserView]
	err := g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) error {
		o := queue.Override{User: in.User, Limit: in.Body.Rate.limit(), Weight: in.Body.Weight}
		if err := queue.SetOverride(ctx, tx, by.TenantID, in.Application, o, by.Actor()); err != nil {
			return err
		}
		k, err := queue.FindLimitKey(ctx, tx, by.TenantID, in.Application, in.User)
		out.Body = viewOfLimitUser(k)
		return err
	})
	return &out, err
}

func (g *gateway) removeLimitUser(ctx context.Context, in *LimitUserPath) (*struct{}, error) {
	return nil, g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) error {
		return queue.RemoveOverride(ctx, tx, by.TenantID, in.Application, in.User, by.Actor())
	})
}

func (v HeldFilterView) filter(application string) queue.HeldFilter {
	f := queue.HeldFilter{Application: application, User: v.User, Topology: v.Topology}
	for _, id := range v.Processes {
		f.Processes = append(f.Processes, id.uuid())
	}
	return f
}

func (g *gateway) countHeld(ctx context.Context, in *struct {
	LimitPath
	Body HeldFilterView
}) (*answer[heldChoiceView], error) {
	var out answer[heldChoiceView]
	err := g.look(ctx, func(tx pgx.Tx, by auth.Principal) error {
		c, err := queue.CountHeld(ctx, tx, by.TenantID, in.Body.filter(in.Application))
		out.Body = heldChoiceView{Count: c.Count, UpTo: c.UpTo}
		return err
	})
	return &out, err
}

func (g *gateway) terminateHeld(ctx context.Context, in *struct {
	LimitPath
	Body terminateHeldView
}) (*answer[terminatedView], error) {
	by, _ := auth.FromContext(ctx)
	begin := func(ctx context.Context, do func(pgx.Tx) error) error {
		return process.ForTenant(ctx, g.config.TenantPool, by.TenantID, do)
	}
	n, err := queue.TerminateHeld(ctx, begin, by.TenantID, in.Body.filter(in.Application), in.Body.UpTo, by.Actor(), in.Body.Reason)
	if err != nil {
		return nil, err
	}
	return &answer[terminatedView]{terminatedView{Terminated: int(n)}}, nil
}
