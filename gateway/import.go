package gateway

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"sluice/openapi"
	"sluice/queue/topology/orchesty"
)

// importedView is a topology of Orchesty's as it would be here.
type importedView struct {
	Topology string           `json:"topology" doc:"Its name"`
	Nodes    int              `json:"nodes" doc:"How many nodes it has"`
	Source   string           `json:"source" doc:"The topology file, to be applied when it has been looked at"`
	Report   []importItemView `json:"report" doc:"What could not be carried over as it was"`
}

type importItemView struct {
	Effect string `json:"effect" enum:"lost,changed" doc:"lost: the topology does without it; changed: it is there in another way"`
	Where  string `json:"where,omitempty" doc:"The node, as it is called in the drawing; absent: the topology itself"`
	What   string `json:"what"`
	Why    string `json:"why"`
	Do     string `json:"do" doc:"What to do about it"`
}

// DrawingFile is a topology of Orchesty's as it comes in.
type DrawingFile struct {
	File    string   `header:"Sluice-File" maxLength:"255" doc:"Name of the file, of which the topology's name is made where it has none" example:"orders.tplg.json"`
	Name    string   `query:"name" maxLength:"63" doc:"Name of the topology; absent: the drawing's, or the file's" example:"orders"`
	Worker  []string `query:"worker,explode" maxItems:"100" doc:"THERE=HERE: the name here of a worker that is called THERE, or is at that host:port; may be repeated" example:"[\"Shop Worker=shop\"]"`
	RawBody []byte   `contentType:"application/octet-stream"`
}

func (g *gateway) addImport(tags []string, look []map[string][]string) {
	register(g, huma.Operation{
		OperationID: "import-topology", Method: http.MethodPost, Path: topologiesPath + "/import", Tags: tags, Security: look,
		Summary: "Turn a topology of Orchesty's into a topology file",
		Description: "The body is a .tplg.json export, BPMN, or a bridge's topology.json, at most 4 MiB. The answer has the topology file, and a report of what " +
			"could not be carried over: what, where, why, and what to do. Nothing is changed.",
		MaxBodyBytes: orchesty.MaxFileSize + 1,
	}, g.importTopology)
}

func (g *gateway) importTopology(_ context.Context, in *DrawingFile) (*answer[importedView], error) {
	workers := map[string]string{}
	for _, text := range in.Worker {
		at := strings.LastIndexByte(text, '=')
		if at < 1 || at == len(text)-1 {
			return nil, openapi.ValidationFailed.Because("a worker is mapped by THERE=HERE").
				With(openapi.Detail{Detail: "expected THERE=HERE", Location: "query.worker"})
		}
		workers[text[:at]] = text[at+1:]
	}
	got, err := orchesty.Import(in.File, in.RawBody, orchesty.Options{Name: in.Name, Workers: workers})
	if errors.Is(err, orchesty.ErrUnreadable) {
		return nil, openapi.InvalidTopology.Because("%s", strings.ToValidUTF8(err.Error(), "\ufffd"))
	}
	if err != nil {
		return nil, err
	}
	view := importedView{Topology: got.Graph.Name, Nodes: len(got.Graph.Nodes), Source: string(got.File), Report: []importItemView{}}
	for _, item := range got.Report {
		view.Report = append(view.Report, importItemView{string(item.Effect), item.Where, item.What, item.Why, item.Do})
	}
	return &answer[importedView]{view}, nil
}
