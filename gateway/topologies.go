package gateway

import (
	"context"
	"errors"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/queue"
	"sluice/queue/topology"
)

const (
	topologiesPath = "/v1/topologies"
	topologyPath   = "/v1/topologies/{topology}"
	versionsPath   = "/v1/topologies/{topology}/versions"
	versionPath    = "/v1/topologies/{topology}/versions/{version}"
)

// TopologyPath is the part of a path that names a topology.
type TopologyPath struct {
	Topology string `path:"topology" maxLength:"63" doc:"Name of the topology" example:"orders"`
}

// versionName names a version in a path or a query.
type versionName string

// Schema implements huma.SchemaProvider.
func (versionName) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		Type: huma.TypeString, Pattern: `^([1-9][0-9]{0,8}|draft|enabled)$`, PatternDescription: "a version's number, draft or enabled",
		Description: "A version's number, draft or enabled", Examples: []any{"3"},
	}
}

type versionInput struct {
	TopologyPath
	Version versionName `path:"version"`
}

type topologyView struct {
	Name      string     `json:"name" example:"orders"`
	Enabled   int        `json:"enabled,omitempty" doc:"The version that new events go to; absent: none"`
	Latest    int        `json:"latest,omitempty" doc:"The newest published version; absent: none"`
	Draft     bool       `json:"draft" doc:"It has a draft"`
	CreatedAt *time.Time `json:"created_at,omitempty" doc:"In lists only"`
	Held      *heldView  `json:"held,omitempty" doc:"What its edges hold, all versions together; not in lists"`
}

type heldView struct {
	Waiting  int64 `json:"waiting"`
	Running  int64 `json:"running"`
	Held     int64 `json:"held" doc:"By the limit of an application"`
	Retrying int64 `json:"retrying"`
	Trashed  int64 `json:"trashed"`
}

type versionView struct {
	Topology    string          `json:"topology"`
	Version     int             `json:"version,omitempty" minimum:"1" doc:"Its number; the draft has none"`
	State       string          `json:"state" enum:"draft,published,enabled,retired"`
	CreatedAt   time.Time       `json:"created_at"`
	CreatedBy   string          `json:"created_by"`
	PublishedAt *time.Time      `json:"published_at,omitempty"`
	PublishedBy *string         `json:"published_by,omitempty"`
	RetiredAt   *time.Time      `json:"retired_at,omitempty"`
	Nodes       int             `json:"nodes" doc:"How many nodes it has"`
	Graph       *topology.Graph `json:"graph,omitempty" doc:"Its nodes, with all defaults; not in lists"`
	Source      string          `json:"source,omitempty" doc:"The file as it was applied; not in lists"`
	Edges       []edgeView      `json:"edges,omitempty" doc:"Its persistent channels; not in lists, and a draft has none"`
	Held        *heldView       `json:"held,omitempty" doc:"What its edges hold; not in lists, and a draft holds nothing"`
}

type edgeView struct {
	ID    int64  `json:"id"`
	From  string `json:"from"`
	To    string `json:"to"`
	Queue string `json:"queue" doc:"Name of its River queue" example:"e17"`
}

type enableView struct {
	Version int `json:"version,omitempty" minimum:"1" maximum:"2147483647" doc:"Number of a published version; absent: the newest"`
}

type deletedView struct {
	Held heldView `json:"held" doc:"What it held when it was deleted"`
}

type validView struct {
	Valid bool   `json:"valid" enum:"true" doc:"A file with mistakes is a problem"`
	Name  string `json:"name" doc:"Of the topology"`
	Nodes int    `json:"nodes" doc:"How many nodes it has"`
}

type diffView struct {
	Changes []changeView `json:"changes"`
	Text    string       `json:"text" doc:"The changes for people, a line each"`
}

type changeView struct {
	Op    string `json:"op" enum:"added,removed,changed"`
	Node  string `json:"node,omitempty" doc:"Absent: the topology itself"`
	Field string `json:"field,omitempty" doc:"Absent: the node as a whole" example:"retry.attempts"`
	From  string `json:"from,omitempty"`
	To    string `json:"to,omitempty"`
}

// LeftoverQuery is the part of a query that says what becomes of messages.
type LeftoverQuery struct {
	Messages string `query:"messages" enum:"drain,trash" doc:"What becomes of messages that are still there: drain lets them finish, trash moves what waits to the trash. Without it, what holds messages is not deleted"`
}

func (g *gateway) addTopologies() {
	tags, look, change := []string{"topologies"}, openapi.Scope("operate"), openapi.Scope("admin")
	conflict := []int{http.StatusConflict}
	register(g, huma.Operation{
		OperationID: "list-topologies", Method: http.MethodGet, Path: topologiesPath, Tags: tags, Security: look,
		Summary: "List topologies", Description: "In the order of their names.",
	}, g.listTopologies)
	register(g, huma.Operation{
		OperationID: "get-topology", Method: http.MethodGet, Path: topologyPath, Tags: tags, Security: look,
		Summary: "Get a topology",
	}, g.getTopology)
	register(g, huma.Operation{
		OperationID: "validate-topology", Method: http.MethodPost, Path: topologiesPath + "/validate", Tags: tags, Security: look,
		Summary: "Check a topology file", Description: fileText + " Nothing is changed.", MaxBodyBytes: maxFile,
	}, g.validateTopology)
	g.describeFile(g.api.OpenAPI().Paths[topologiesPath+"/validate"].Post)
	g.addImport(tags, look)
	register(g, huma.Operation{
		OperationID: "apply-topology", Method: http.MethodPut, Path: topologyPath + "/draft", Tags: tags, Security: change,
		Summary: "Make a file the draft of its topology", Description: fileText + " The draft before is replaced; a topology that is not there is created.", MaxBodyBytes: maxFile,
	}, g.applyTopology)
	g.describeFile(g.api.OpenAPI().Paths[topologyPath+"/draft"].Put)
	register(g, huma.Operation{
		OperationID: "publish-topology", Method: http.MethodPost, Path: topologyPath + "/publish", Tags: tags, Security: change, DefaultStatus: http.StatusCreated,
		Summary: "Freeze the draft as the next version", Description: "Its edges become persistent channels. It takes no events before it is enabled.", Errors: conflict,
	}, g.publishTopology)
	register(g, huma.Operation{
		OperationID: "enable-topology", Method: http.MethodPost, Path: topologyPath + "/enable", Tags: tags, Security: change,
		Summary: "Send new events to a version", Description: "Within a second on every node. The version enabled before finishes what it has.", Errors: conflict,
	}, g.enableTopology)
	register(g, huma.Operation{
		OperationID: "disable-topology", Method: http.MethodPost, Path: topologyPath + "/disable", Tags: tags, Security: change,
		Summary: "Take no new events", Description: "What is in flight finishes.",
	}, g.disableTopology)
	register(g, huma.Operation{
		OperationID: "rollback-topology", Method: http.MethodPost, Path: topologyPath + "/rollback", Tags: tags, Security: change,
		Summary: "Enable the version before the enabled one", Errors: conflict,
	}, g.rollbackTopology)
	register(g, huma.Operation{
		OperationID: "delete-topology", Method: http.MethodDelete, Path: topologyPath, Tags: tags, Security: change,
		Summary: "Take a topology out of use", Description: "It goes from sight with all its versions. Its history stays.", Errors: conflict,
	}, func(ctx context.Context, in *struct {
		TopologyPath
		LeftoverQuery
	}) (*answer[deletedView], error) {
		return g.deleteTopology(ctx, in.Topology, 0, in.LeftoverQuery)
	})
	register(g, huma.Operation{
		OperationID: "list-versions", Method: http.MethodGet, Path: versionsPath, Tags: tags, Security: look,
		Summary: "List the versions of a topology", Description: "The draft first, then the newest.",
	}, g.listVersions)
	register(g, huma.Operation{
		OperationID: "get-version", Method: http.MethodGet, Path: versionPath, Tags: tags, Security: look,
		Summary: "Get a version of a topology",
	}, g.getVersion)
	register(g, huma.Operation{
		OperationID: "delete-version", Method: http.MethodDelete, Path: versionPath, Tags: tags, Security: change,
		Summary: "Take a published version out of use", Description: "It takes no events any more, and is not rolled back to. If it is enabled, the topology is disabled.", Errors: conflict,
	}, func(ctx context.Context, in *struct {
		TopologyPath
		LeftoverQuery
		Version int `path:"version" minimum:"1" maximum:"2147483647" doc:"Number of a published version"`
	}) (*answer[deletedView], error) {
		return g.deleteTopology(ctx, in.Topology, in.Version, in.LeftoverQuery)
	})
	register(g, huma.Operation{
		OperationID: "diff-topology", Method: http.MethodGet, Path: topologyPath + "/diff", Tags: tags, Security: look,
		Summary: "Compare two versions",
	}, g.diffTopology)
}

func (g *gateway) listTopologies(ctx context.Context, in *struct{ openapi.Page }) (*answer[openapi.List[topologyView]], error) {
	var after string
	if err := in.Cursor(&after); err != nil {
		return nil, err
	}
	var rows []topology.Topology
	err := g.look(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		rows, err = topology.List(ctx, tx, by.TenantID, after, in.Limit+1)
		return err
	})
	if err != nil {
		return nil, err
	}
	views := make([]topologyView, len(rows))
	for i, t := range rows {
		views[i] = topologyView{Name: t.Name, Enabled: t.Enabled, Latest: t.Latest, Draft: t.Draft, CreatedAt: utc(&t.CreatedAt)}
	}
	list, err := openapi.Cut(views, in.Page, func(last topologyView) []any { return []any{last.Name} })
	return &answer[openapi.List[topologyView]]{list}, err
}

func (g *gateway) getTopology(ctx context.Context, in *TopologyPath) (*answer[topologyView], error) {
	var out answer[topologyView]
	err := g.look(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		out.Body, err = summaryOf(ctx, tx, by.TenantID, in.Topology)
		return err
	})
	return &out, err
}

// versionsOnTop are the draft, if there is one, and the newest version.
const versionsOnTop = 2

func summaryOf(ctx context.Context, tx pgx.Tx, tenant int64, name string) (topologyView, error) {
	view := topologyView{Name: name}
	top, err := topology.Versions(ctx, tx, tenant, name, 0, versionsOnTop)
	if err != nil {
		return view, err
	}
	for _, v := range top {
		view.Draft = view.Draft || v.Number == 0
		view.Latest = max(view.Latest, v.Number)
	}
	enabled, err := topology.Enabled(ctx, tx, tenant, name)
	if err != nil && !errors.Is(err, topology.ErrNotEnabled) {
		return view, err
	}
	view.Enabled = enabled.Number
	held, err := queue.HeldBy(ctx, tx, tenant, name, 0)
	view.Held = viewOfHeld(held)
	return view, err
}

func viewOfHeld(h queue.Held) *heldView {
	return &heldView{Waiting: h.Waiting, Running: h.Running, Held: h.Held, Retrying: h.Retrying, Trashed: h.Trashed}
}

const (
	fileText = "The body is a topology file, YAML or JSON, at most 1 MiB. Each of its mistakes is named with its place and how to mend it; the header `Sluice-File` is how the file is called there."
	maxFile  = topology.MaxFileSize + 1 // huma refuses a body that reaches its bound
)

// TopologyFile is a topology file as it comes in.
type TopologyFile struct {
	File    string `header:"Sluice-File" maxLength:"255" doc:"Name of the file, for the places of mistakes" example:"orders.yaml"`
	RawBody []byte `contentType:"application/yaml"`
}

var fileTypes = []string{"application/yaml", "application/json", "application/x-yaml", "text/yaml", "text/x-yaml"}

// Resolve implements huma.Resolver.
func (in *TopologyFile) Resolve(hctx huma.Context) []error {
	given := http.Header{}
	given.Set("Content-Type", hctx.Header("Content-Type"))
	given.Set("Content-Encoding", hctx.Header("Content-Encoding"))
	if err := wantType(given, fileTypes); err != nil {
		return []error{err}
	}
	return nil
}

// parse reads the file and holds it against the workers that are registered.
func (in *TopologyFile) parse(ctx context.Context, tx pgx.Tx, tenant int64) (topology.Graph, error) {
	known, err := queue.KnownWorkers(ctx, tx, tenant)
	if err != nil {
		return topology.Graph{}, err
	}
	file := strings.ToValidUTF8(in.File, "\ufffd")
	if err := topology.CheckWorkers(file, in.RawBody, slices.Collect(maps.Keys(known))); err != nil {
		return topology.Graph{}, err
	}
	return topology.Parse(file, in.RawBody)
}

// describeFile says in the contract what a topology file may be written in.
func (g *gateway) describeFile(op *huma.Operation) {
	op.RequestBody.Content = map[string]*huma.MediaType{}
	for _, media := range fileTypes[:2] {
		op.RequestBody.Content[media] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Description: "A topology file: GET /schemas/topology.json"}}
	}
}

func (g *gateway) validateTopology(ctx context.Context, in *TopologyFile) (*answer[validView], error) {
	var graph topology.Graph
	err := g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		graph, err = in.parse(ctx, tx, by.TenantID)
		return err
	})
	return &answer[validView]{validView{Valid: true, Name: graph.Name, Nodes: len(graph.Nodes)}}, err
}

func (g *gateway) applyTopology(ctx context.Context, in *struct {
	TopologyPath
	TopologyFile
}) (*answer[versionView], error) {
	return g.changeVersion(ctx, func(tx pgx.Tx, by auth.Principal) (topology.Version, error) {
		graph, err := in.parse(ctx, tx, by.TenantID)
		if err != nil {
			return topology.Version{}, err
		}
		if graph.Name != in.Topology {
			return topology.Version{}, openapi.InvalidTopology.Because("the file holds the topology %s, the path says %.80q", graph.Name, in.Topology).
				With(openapi.Detail{Detail: "not the name in the path", Pointer: "#/topology"})
		}
		return topology.SaveDraft(ctx, tx, by.TenantID, graph, string(in.RawBody), by.Actor())
	})
}

// changeVersion runs what changes a topology and answers with the version that came of it.
func (g *gateway) changeVersion(ctx context.Context, change func(tx pgx.Tx, by auth.Principal) (topology.Version, error)) (*answer[versionView], error) {
	var v topology.Version
	err := g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		v, err = change(tx, by)
		return err
	})
	return &answer[versionView]{wholeVersion(v)}, err
}

func (g *gateway) publishTopology(ctx context.Context, in *TopologyPath) (*answer[versionView], error) {
	return g.changeVersion(ctx, func(tx pgx.Tx, by auth.Principal) (topology.Version, error) {
		return queue.Publish(ctx, tx, by.TenantID, in.Topology, by.Actor())
	})
}

func (g *gateway) enableTopology(ctx context.Context, in *struct {
	TopologyPath
	Body *enableView `required:"false"`
}) (*answer[versionView], error) {
	number := 0
	if in.Body != nil {
		number = in.Body.Version
	}
	return g.changeVersion(ctx, func(tx pgx.Tx, by auth.Principal) (topology.Version, error) {
		return topology.Enable(ctx, tx, by.TenantID, in.Topology, number, by.Actor())
	})
}

func (g *gateway) rollbackTopology(ctx context.Context, in *TopologyPath) (*answer[versionView], error) {
	return g.changeVersion(ctx, func(tx pgx.Tx, by auth.Principal) (topology.Version, error) {
		return topology.Rollback(ctx, tx, by.TenantID, in.Topology, by.Actor())
	})
}

func (g *gateway) disableTopology(ctx context.Context, in *TopologyPath) (*struct{}, error) {
	return nil, g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) error {
		return topology.Disable(ctx, tx, by.TenantID, in.Topology, by.Actor())
	})
}

// deleteTopology deletes a topology, or one version of it if number is not 0.
func (g *gateway) deleteTopology(ctx context.Context, name string, number int, left LeftoverQuery) (*answer[deletedView], error) {
	var held queue.Held
	err := g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		held, err = queue.Delete(ctx, tx, by.TenantID, name, number, queue.Leftover(left.Messages), by.Actor())
		return err
	})
	return &answer[deletedView]{deletedView{Held: *viewOfHeld(held)}}, err
}

// newestFirst goes before any number in a list of versions: it is the cursor of a draft, which stands before them all.
const newestFirst = math.MaxInt32

func (g *gateway) listVersions(ctx context.Context, in *struct {
	TopologyPath
	openapi.Page
}) (*answer[openapi.List[versionView]], error) {
	var below int32
	if err := in.Cursor(&below); err != nil {
		return nil, err
	}
	var rows []topology.Version
	err := g.look(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		rows, err = topology.Versions(ctx, tx, by.TenantID, in.Topology, int(below), in.Limit+1)
		return err
	})
	if err != nil {
		return nil, err
	}
	views := make([]versionView, len(rows))
	for i, v := range rows {
		views[i] = viewOfVersion(v)
	}
	list, err := openapi.Cut(views, in.Page, func(last versionView) []any {
		if last.Version == 0 {
			return []any{newestFirst}
		}
		return []any{last.Version}
	})
	return &answer[openapi.List[versionView]]{list}, err
}

func (g *gateway) getVersion(ctx context.Context, in *versionInput) (*answer[versionView], error) {
	var out answer[versionView]
	err := g.look(ctx, func(tx pgx.Tx, by auth.Principal) error {
		v, err := findVersion(ctx, tx, by.TenantID, in.Topology, in.Version)
		if err != nil {
			return err
		}
		out.Body = wholeVersion(v)
		if v.Number != 0 {
			held, err := queue.HeldBy(ctx, tx, by.TenantID, in.Topology, v.Number)
			out.Body.Held = viewOfHeld(held)
			return err
		}
		return nil
	})
	return &out, err
}

// findVersion finds the version that a name stands for.
func findVersion(ctx context.Context, tx pgx.Tx, tenant int64, topologyName string, name versionName) (v topology.Version, err error) {
	switch name {
	case "draft":
		v, err = topology.Draft(ctx, tx, tenant, topologyName)
	case "enabled":
		v, err = topology.Enabled(ctx, tx, tenant, topologyName)
	default:
		number, _ := strconv.Atoi(string(name)) // its schema lets nothing else through
		v, err = topology.Numbered(ctx, tx, tenant, topologyName, number)
	}
	if errors.Is(err, topology.ErrNoDraft) || errors.Is(err, topology.ErrNotEnabled) {
		err = openapi.NotFound.Because("%s", err) // whoever looks for something finds nothing; that is no conflict
	}
	return v, err
}

func (g *gateway) diffTopology(ctx context.Context, in *struct {
	TopologyPath
	From versionName `query:"from" required:"true"`
	To   versionName `query:"to" required:"true"`
}) (*answer[diffView], error) {
	var from, to topology.Version
	err := g.look(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		if from, err = findVersion(ctx, tx, by.TenantID, in.Topology, in.From); err != nil {
			return err
		}
		to, err = findVersion(ctx, tx, by.TenantID, in.Topology, in.To)
		return err
	})
	if err != nil {
		return nil, err
	}
	changes := topology.Diff(from.Graph, to.Graph)
	view := diffView{Changes: make([]changeView, len(changes)), Text: topology.DiffText(changes)}
	for i, c := range changes {
		view.Changes[i] = changeView{Op: string(c.Op), Node: c.Node, Field: c.Field, From: c.From, To: c.To}
	}
	return &answer[diffView]{view}, nil
}

func viewOfVersion(v topology.Version) versionView {
	return versionView{
		Topology: v.Topology, Version: v.Number, State: v.State(), Nodes: len(v.Graph.Nodes), CreatedAt: v.CreatedAt.UTC(), CreatedBy: v.CreatedBy,
		PublishedAt: utc(v.PublishedAt), PublishedBy: v.PublishedBy, RetiredAt: utc(v.RetiredAt),
	}
}

// wholeVersion is a version as it is shown by itself.
func wholeVersion(v topology.Version) versionView {
	view := viewOfVersion(v)
	view.Graph, view.Source = &v.Graph, v.Source
	for _, e := range v.Edges {
		view.Edges = append(view.Edges, edgeView{ID: e.ID, From: e.From, To: e.To, Queue: "e" + strconv.FormatInt(e.ID, 10)})
	}
	return view
}

// utc is a time as the contract has it. Postgres gives times in the zone of this machine.
func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}
