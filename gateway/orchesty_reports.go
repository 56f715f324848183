package gateway

import (
	"context"
	"encoding/json"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/queue/report"
)

// What workers on Orchesty's SDK report. A connector waits for the answer before it goes on, so nothing but the body is
// waited for here.

// maxReport is the largest report, in bytes: a line with its trace.
const maxReport = 256 << 10

func (g *gateway) addReports() {
	g.handleOrchesty("POST /metrics/{measurement}", "worker", tellError, g.takeMetrics)
	g.handleOrchesty("POST /logger/logs", "worker", tellError, g.takeLine)
}

// callReport is a call that a connector made. Its values may be of any kind: what is none of the expected is left out.
type callReport struct {
	Fields struct {
		Duration loose `json:"sent_request_total_duration"`
		Status   loose `json:"response_code"`
	} `json:"fields"`
	Tags struct {
		User        loose `json:"user_id"`
		Node        loose `json:"node_id"`
		Application loose `json:"application_id"`
		Correlation loose `json:"correlation_id"`
		URL         loose `json:"url"`
	} `json:"tags"`
}

func (g *gateway) takeMetrics(_ context.Context, r *http.Request, by auth.Principal) (any, error) {
	var c callReport
	switch r.PathValue("measurement") {
	case "monolith": // of each request that the worker served: the engine has timed those that it made
		var fields map[string]json.RawMessage
		return stored(""), g.readReport(r, &fields)
	case "connectors":
		if err := g.readReport(r, &c); err != nil {
			return nil, err
		}
	default:
		return nil, openapi.NotFound.Because("there is no such measurement")
	}
	if g.config.Reports != nil {
		user := c.Tags.User.text
		if user == "0" { // of none
			user = ""
		}
		g.config.Reports.Call(report.Call{
			Tenant: by.TenantID, Process: processOf(c.Tags.Correlation), NodeID: c.Tags.Node.text, User: user, Application: c.Tags.Application.text,
			URL: c.Tags.URL.text, Status: int(c.Fields.Status.within(0, 999)), Duration: time.Duration(c.Fields.Duration.within(0, 1e9) * float64(time.Millisecond)),
		})
	}
	return stored(""), nil
}

// lineReport is what a worker logs for people.
type lineReport struct {
	Message     *loose `json:"message"`
	Service     *loose `json:"service"`
	Timestamp   *loose `json:"timestamp"`
	Level       loose  `json:"levelName"`
	Node        loose  `json:"nodeId"`
	Correlation loose  `json:"correlationId"`
	Stack       struct {
		Trace loose `json:"trace"`
	} `json:"stacktrace"`
}

func (g *gateway) takeLine(_ context.Context, r *http.Request, by auth.Principal) (any, error) {
	var l lineReport
	if err := g.readReport(r, &l); err != nil {
		return nil, err
	}
	if l.Message == nil || l.Service == nil || l.Timestamp == nil {
		return nil, openapi.InvalidRequest.Because("a line needs message, service and timestamp")
	}
	if g.config.Reports != nil {
		g.config.Reports.Log(report.Line{
			Tenant: by.TenantID, Process: processOf(l.Correlation), NodeID: l.Node.text, Level: l.Level.text, Message: l.Message.text, Trace: l.Stack.Trace.text,
		})
	}
	return stored(""), nil
}

func (g *gateway) readReport(r *http.Request, into any) error {
	b, err := g.readBody(r, maxReport)
	defer b.release()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b.bytes, into); err != nil {
		return openapi.InvalidRequest.Because("the report is no JSON object as it should be")
	}
	return nil
}

// processOf is the process that a report names, or none.
func processOf(l loose) uuid.UUID {
	id, err := uuid.Parse(strings.TrimSpace(l.text))
	if err != nil {
		return uuid.Nil
	}
	return id
}

// loose is a JSON value of any kind, as text and as a number.
type loose struct {
	text   string
	number float64
}

// UnmarshalJSON takes everything.
func (l *loose) UnmarshalJSON(data []byte) error {
	*l = loose{}
	switch {
	case string(data) == "null":
	case data[0] == '"':
		return json.Unmarshal(data, &l.text)
	default:
		l.text = string(data)
		_ = json.Unmarshal(data, &l.number) // what is no number is 0
	}
	return nil
}

// within is the number, or 0 if it is not between these.
func (l loose) within(least, most float64) float64 {
	if math.IsNaN(l.number) || l.number < least || l.number > most {
		return 0
	}
	return l.number
}
