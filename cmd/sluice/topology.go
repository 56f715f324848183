package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"sluice/openapi"
	"sluice/queue"
	"sluice/queue/topology"
)

type topologyCmd struct {
	Apply    topologyApplyCmd    `cmd:"" help:"Make files the drafts of their topologies."`
	Validate topologyValidateCmd `cmd:"" help:"Say what is wrong with files, and change nothing."`
	Import   topologyImportCmd   `cmd:"" help:"Turn topologies of Orchesty's into topology files."`
	List     topologyListCmd     `cmd:"" help:"List topologies."`
	Show     topologyShowCmd     `cmd:"" help:"Show a topology, or one version of it."`
	Publish  topologyPublishCmd  `cmd:"" help:"Freeze the draft as the next version."`
	Enable   topologyEnableCmd   `cmd:"" help:"Send new events to a version."`
	Disable  topologyDisableCmd  `cmd:"" help:"Take no new events."`
	Rollback topologyRollbackCmd `cmd:"" help:"Enable the version before the enabled one."`
	Delete   topologyDeleteCmd   `cmd:"" help:"Take a topology, or one version, out of use."`
	Diff     topologyDiffCmd     `cmd:"" help:"Compare two versions."`
	Edges    topologyEdgesCmd    `cmd:"" help:"Tell what edges hold, and for how long."`
}

func (topologyCmd) Help() string {
	return examples("A topology is a graph of nodes, kept as a file in your repository. Applied it is a draft; published, a numbered version that never changes; enabled, the version that new events go to.",
		"sluice topology apply orders.yaml --enable", "sluice topology list")
}

// versionView is a version as the API tells it.
type versionView struct {
	Topology    string         `json:"topology"`
	Version     int            `json:"version"` // 0: the draft
	State       string         `json:"state"`
	Source      string         `json:"source"`
	CreatedAt   *time.Time     `json:"created_at"`
	CreatedBy   string         `json:"created_by"`
	PublishedAt *time.Time     `json:"published_at"`
	PublishedBy string         `json:"published_by"`
	Graph       topology.Graph `json:"graph"`
	Held        *queue.Held    `json:"held"`
}

func (v versionView) label() string {
	if v.Version == 0 {
		return v.Topology + " draft"
	}
	return fmt.Sprintf("%s v%d", v.Topology, v.Version)
}

// source is a topology file that was read and makes sense by itself.
type source struct {
	file  string
	data  []byte
	graph topology.Graph
}

func (s source) request(method, path string) request {
	return request{method: method, path: path, body: s.data, headers: map[string]string{
		"Content-Type": "application/yaml", // which JSON is, too
		"Sluice-File":  s.file,
	}}
}

// readTopologies reads files and tells all that is wrong with any of them, so that none is applied before all can be.
func readTopologies(p *program, files []string) ([]source, error) {
	sources := make([]source, 0, len(files))
	seen := map[string]string{}
	bad := 0
	for _, file := range files {
		s := source{file: file}
		var err error
		if file == "-" {
			s.file = "(standard input)"
			s.data, err = io.ReadAll(io.LimitReader(p.stdin, topology.MaxFileSize+1))
		} else {
			s.data, err = os.ReadFile(file)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: name a topology file", err)
		}
		if s.graph, err = topology.Parse(s.file, s.data); err != nil {
			fmt.Fprintln(p.stderr, lines(err.Error()))
			bad++
			continue
		}
		if first, twice := seen[s.graph.Name]; twice {
			return nil, fmt.Errorf("%s and %s both hold the topology %s: keep one", first, s.file, s.graph.Name)
		}
		seen[s.graph.Name] = s.file
		sources = append(sources, s)
	}
	if bad > 0 {
		return nil, fmt.Errorf("%s of %d not valid: mend what is said above", count(bad, "file"), len(files))
	}
	return sources, nil
}

// invalid tells the mistakes that the API found in a file, one a line, and says whether that is what err is about.
func (p *program) invalid(err error) bool {
	var e *apiError
	if !errors.As(err, &e) || e.Code != openapi.InvalidTopology.Code {
		return false
	}
	for _, m := range e.Errors {
		text := m.Detail
		if m.Location != "" && !strings.HasPrefix(text, m.Location) {
			text = m.Location + ": " + text
		}
		fmt.Fprintln(p.stderr, line(text))
	}
	return true
}

type topologyApplyCmd struct {
	apiFlags
	Files   []string `arg:"" name:"file" help:"Topology files, YAML or JSON; - is standard input."`
	Publish bool     `help:"Publish what has changed."`
	Enable  bool     `help:"Publish what has changed, and send new events to it."`
}

func (topologyApplyCmd) Help() string {
	return examples("Checks all files before it applies the first one. A file that is the same as the newest version is not published again, so this may run as often as you like.",
		"sluice topology apply orders.yaml",
		"sluice topology apply topologies/*.yaml --enable",
		"git show main:orders.yaml | sluice topology apply - --publish")
}

// applied is what became of one file.
type applied struct {
	File     string `json:"file"`
	Topology string `json:"topology"`
	Version  int    `json:"version,omitempty"` // absent: it is a draft
	State    string `json:"state"`
	Changed  bool   `json:"changed"`
}

func (c topologyApplyCmd) Run(ctx context.Context, p *program) error {
	sources, err := readTopologies(p, c.Files)
	if err != nil {
		return err
	}
	api, err := c.client(p)
	if err != nil {
		return err
	}
	bad := 0
	for _, s := range sources {
		if _, err := api.send(ctx, s.request(http.MethodPost, "/topologies/validate")); p.invalid(err) {
			bad++
		} else if err != nil {
			return err
		}
	}
	if bad > 0 {
		return fmt.Errorf("%s not valid, nothing was applied: mend what is said above", count(bad, "file"))
	}
	results := []applied{}
	for _, s := range sources {
		a, err := c.apply(ctx, api, s)
		if err != nil {
			return fmt.Errorf("%s: %w", s.file, err)
		}
		results = append(results, a)
	}
	return p.print(results, func(w io.Writer) {
		for _, a := range results {
			switch {
			case a.Version == 0:
				fmt.Fprintf(w, "%s: applied as draft\n", a.Topology)
			case a.Changed:
				fmt.Fprintf(w, "%s: v%d %s\n", a.Topology, a.Version, a.State)
			default:
				fmt.Fprintf(w, "%s: unchanged, v%d %s\n", a.Topology, a.Version, a.State)
			}
		}
	})
}

func (c topologyApplyCmd) apply(ctx context.Context, api *client, s source) (applied, error) {
	name := s.graph.Name
	a := applied{File: s.file, Topology: name}
	if c.Publish || c.Enable {
		newest, err := newestVersion(ctx, api, name)
		if err != nil {
			return a, err
		}
		if newest.Version != 0 && newest.Source == string(s.data) {
			a.Version, a.State = newest.Version, newest.State
			if !c.Enable || newest.State == "enabled" {
				return a, nil
			}
			return a.enable(ctx, api)
		}
	}
	a.Changed = true
	draft, err := ask[versionView](ctx, api, s.request(http.MethodPut, pathOf("topologies", name, "draft")))
	if err != nil {
		return a, err
	}
	a.State = draft.Shown.State
	if !c.Publish && !c.Enable {
		return a, nil
	}
	published, err := ask[versionView](ctx, api, request{method: http.MethodPost, path: pathOf("topologies", name, "publish")})
	if err != nil {
		return a, err
	}
	a.Version, a.State = published.Shown.Version, published.Shown.State
	if !c.Enable {
		return a, nil
	}
	return a.enable(ctx, api)
}

func (a applied) enable(ctx context.Context, api *client) (applied, error) {
	enabled, err := enableVersion(ctx, api, a.Topology, a.Version)
	a.Changed, a.State = true, enabled.Shown.State
	return a, err
}

// newestVersion returns the newest published version with its source, or none.
func newestVersion(ctx context.Context, api *client, name string) (versionView, error) {
	summary, err := ask[topologyView](ctx, api, request{method: http.MethodGet, path: pathOf("topologies", name)})
	var e *apiError
	if errors.As(err, &e) && e.Status == http.StatusNotFound || err == nil && summary.Shown.Latest == nil {
		return versionView{}, nil
	}
	if err != nil {
		return versionView{}, err
	}
	v, err := ask[versionView](ctx, api, request{
		method: http.MethodGet, path: pathOf("topologies", name, "versions", strconv.Itoa(*summary.Shown.Latest)),
	})
	return v.Shown, err
}

func enableVersion(ctx context.Context, api *client, name string, version int) (answer[versionView], error) {
	body := map[string]int{}
	if version != 0 {
		body["version"] = version
	}
	return ask[versionView](ctx, api, request{method: http.MethodPost, path: pathOf("topologies", name, "enable")}.jsonBody(body))
}

type topologyValidateCmd struct {
	apiFlags
	Files   []string `arg:"" name:"file" help:"Topology files, YAML or JSON; - is standard input."`
	Offline bool     `help:"Ask no Sluice: all is checked but that the workers are registered."`
}

func (topologyValidateCmd) Help() string {
	return examples("",
		"sluice topology validate orders.yaml",
		"sluice topology validate --offline topologies/*.yaml")
}

func (c topologyValidateCmd) Run(ctx context.Context, p *program) error {
	sources, err := readTopologies(p, c.Files)
	if err != nil {
		return err
	}
	if !c.Offline {
		api, err := c.client(p)
		if err != nil {
			return err
		}
		bad := 0
		for _, s := range sources {
			if _, err := api.send(ctx, s.request(http.MethodPost, "/topologies/validate")); p.invalid(err) {
				bad++
			} else if err != nil {
				return err
			}
		}
		if bad > 0 {
			return fmt.Errorf("%s of %d not valid: mend what is said above", count(bad, "file"), len(sources))
		}
	}
	type valid struct {
		File     string `json:"file"`
		Topology string `json:"topology"`
		Nodes    int    `json:"nodes"`
	}
	var results []valid
	for _, s := range sources {
		results = append(results, valid{s.file, s.graph.Name, len(s.graph.Nodes)})
	}
	return p.print(results, func(w io.Writer) {
		for _, r := range results {
			fmt.Fprintf(w, "%s: valid: topology %s with %s\n", line(r.File), r.Topology, count(r.Nodes, "node"))
		}
	})
}

// topologyView is a topology in a list.
type topologyView struct {
	Name      string      `json:"name"`
	Enabled   *int        `json:"enabled"`
	Latest    *int        `json:"latest"`
	Draft     bool        `json:"draft"`
	CreatedAt *time.Time  `json:"created_at"`
	Held      *queue.Held `json:"held"`
}

func (t topologyView) row() []string {
	return []string{t.Name, versionNumber(t.Enabled), versionNumber(t.Latest), yes(t.Draft), when(t.CreatedAt)}
}

func versionNumber(n *int) string {
	if n == nil || *n == 0 {
		return ""
	}
	return "v" + strconv.Itoa(*n)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

type topologyListCmd struct {
	apiFlags
	Limit int `default:"500" help:"How many to list at most."`
}

func (topologyListCmd) Help() string {
	return examples("", "sluice topology list", "sluice topology list --output json")
}

func (c topologyListCmd) Run(ctx context.Context, p *program, api *client) error {
	l, err := list[topologyView](ctx, api, "/topologies", nil, c.Limit)
	if err != nil {
		return err
	}
	defer l.more(p)
	return p.print(l, func(w io.Writer) {
		if len(l.Items) == 0 {
			fmt.Fprintln(w, "No topologies yet. Apply one: sluice topology apply FILE --enable")
			return
		}
		table(w, "NAME ENABLED NEWEST DRAFT CREATED", rows(l, topologyView.row)...)
	})
}

// rows makes a row of each item.
func rows[T any](l listing[T], row func(T) []string) [][]string {
	all := make([][]string, len(l.Items))
	for i, item := range l.Items {
		all[i] = row(item.Shown)
	}
	return all
}

type topologyShowCmd struct {
	apiFlags
	Name    string `arg:"" help:"Name of the topology."`
	Version string `placeholder:"N" help:"A version's number, draft or enabled. Default: the enabled one, else the newest, else the draft."`
	Source  bool   `help:"Print the file as it was applied, and nothing else."`
}

func (topologyShowCmd) Help() string {
	return examples("",
		"sluice topology show orders",
		"sluice topology show orders --version draft",
		"sluice topology show orders --version 3 --source > orders.yaml")
}

func (c topologyShowCmd) Run(ctx context.Context, p *program, api *client) error {
	if c.Version == "" {
		summary, err := ask[topologyView](ctx, api, request{method: http.MethodGet, path: pathOf("topologies", c.Name)})
		if err != nil {
			return err
		}
		switch t := summary.Shown; {
		case versionNumber(t.Enabled) != "":
			c.Version = "enabled"
		case versionNumber(t.Latest) != "":
			c.Version = strconv.Itoa(*t.Latest)
		default:
			c.Version = "draft"
		}
	}
	v, err := ask[versionView](ctx, api, request{method: http.MethodGet, path: pathOf("topologies", c.Name, "versions", c.Version)})
	if err != nil {
		return err
	}
	if c.Source {
		_, err := io.WriteString(p.stdout, v.Shown.Source)
		return err
	}
	return p.print(v, func(w io.Writer) { v.Shown.write(w) })
}

func (v versionView) write(w io.Writer) {
	published := when(v.PublishedAt)
	if published != "" {
		published += " by " + v.PublishedBy
	}
	facts(w,
		"Topology", v.label(),
		"State", v.State,
		"About", v.Graph.Description,
		"Applied", when(v.CreatedAt)+" by "+v.CreatedBy,
		"Published", published,
		"Holds", held(v.Held),
		"Bounds", bounds(v.Graph.Bounds),
	)
	fmt.Fprintln(w)
	var all [][]string
	for _, n := range v.Graph.Nodes {
		calls := ""
		if n.Worker != "" {
			calls = n.Worker + "/" + n.Action
		}
		atOnce := ""
		if n.Concurrency != 0 {
			atOnce = strconv.Itoa(n.Concurrency)
		}
		all = append(all, []string{n.Name, string(n.Kind), calls, n.Application, atOnce, n.OrderBy.String(), strings.Join(n.Followers, ", ")})
	}
	table(w, "NODE KIND CALLS APPLICATION CONCURRENCY ORDER_BY FOLLOWERS", all...)
}

func bounds(b topology.Bounds) string {
	var most []string
	if b.Messages != 0 {
		most = append(most, count(b.Messages, "message"))
	}
	if b.Bytes != 0 {
		most = append(most, amount(b.Bytes))
	}
	return strings.Join(most, ", ")
}

func held(h *queue.Held) string {
	if h == nil {
		return ""
	}
	if h.Total() == 0 {
		return "no messages"
	}
	return fmt.Sprintf("%s: %d waiting, %d running, %d held, %d retrying, %d in the trash",
		count(h.Total(), "message"), h.Waiting, h.Running, h.Held, h.Retrying, h.Trashed)
}

type topologyPublishCmd struct {
	apiFlags
	Name string `arg:"" help:"Name of the topology."`
}

func (topologyPublishCmd) Help() string {
	return examples("A version takes no events before it is enabled.", "sluice topology publish orders")
}

func (c topologyPublishCmd) Run(ctx context.Context, p *program, api *client) error {
	v, err := ask[versionView](ctx, api, request{method: http.MethodPost, path: pathOf("topologies", c.Name, "publish")})
	if err != nil {
		return err
	}
	return p.print(v, func(w io.Writer) {
		fmt.Fprintf(w, "Published %s. Send new events to it: sluice topology enable %s\n", line(v.Shown.label()), line(c.Name))
	})
}

type topologyEnableCmd struct {
	apiFlags
	Name    string `arg:"" help:"Name of the topology."`
	Version int    `placeholder:"N" help:"Number of the version. Default: the newest."`
}

func (topologyEnableCmd) Help() string {
	return examples("The version that was enabled before finishes what it has.",
		"sluice topology enable orders", "sluice topology enable orders --version 3")
}

func (c topologyEnableCmd) Run(ctx context.Context, p *program, api *client) error {
	v, err := enableVersion(ctx, api, c.Name, c.Version)
	if err != nil {
		return err
	}
	return p.print(v, func(w io.Writer) { fmt.Fprintf(w, "Enabled %s.\n", line(v.Shown.label())) })
}

type topologyDisableCmd struct {
	apiFlags
	Name string `arg:"" help:"Name of the topology."`
}

func (topologyDisableCmd) Help() string {
	return examples("What is in flight finishes.", "sluice topology disable orders")
}

func (c topologyDisableCmd) Run(ctx context.Context, p *program, api *client) error {
	if _, err := api.send(ctx, request{method: http.MethodPost, path: pathOf("topologies", c.Name, "disable")}); err != nil {
		return err
	}
	return p.print(map[string]string{"topology": c.Name, "state": "disabled"}, func(w io.Writer) {
		fmt.Fprintf(w, "Disabled %s. It takes no new events; what is in flight finishes.\n", line(c.Name))
	})
}

type topologyRollbackCmd struct {
	apiFlags
	Name string `arg:"" help:"Name of the topology."`
}

func (topologyRollbackCmd) Help() string {
	return examples("", "sluice topology rollback orders")
}

func (c topologyRollbackCmd) Run(ctx context.Context, p *program, api *client) error {
	v, err := ask[versionView](ctx, api, request{method: http.MethodPost, path: pathOf("topologies", c.Name, "rollback")})
	if err != nil {
		return err
	}
	return p.print(v, func(w io.Writer) { fmt.Fprintf(w, "Rolled back: new events go to %s.\n", line(v.Shown.label())) })
}

type topologyDeleteCmd struct {
	apiFlags
	Name     string `arg:"" help:"Name of the topology."`
	Version  int    `placeholder:"N" help:"Delete only the version with this number."`
	Messages string `enum:"drain,trash," default:"" help:"What becomes of messages that it holds: drain lets them finish, trash puts those that do not run into the trash."`
}

func (topologyDeleteCmd) Help() string {
	return examples("One that holds messages is not deleted unless you say what becomes of them.",
		"sluice topology delete orders",
		"sluice topology delete orders --version 2 --messages drain",
		"sluice topology delete orders --messages trash")
}

func (c topologyDeleteCmd) Run(ctx context.Context, p *program, api *client) error {
	path, what := pathOf("topologies", c.Name), c.Name
	if c.Version != 0 {
		path += pathOf("versions", strconv.Itoa(c.Version))
		what = fmt.Sprintf("%s v%d", c.Name, c.Version)
	}
	done := p.during(2*time.Second, func(elapsed time.Duration) string {
		return fmt.Sprintf("Still deleting %s, %s so far.", what, elapsed)
	})
	type deleted struct {
		Held queue.Held `json:"held"`
	}
	d, err := ask[deleted](ctx, api, request{
		method: http.MethodDelete, path: path, query: queryOf("messages", c.Messages), timeout: 30 * time.Minute,
	})
	done()
	if err != nil {
		return err
	}
	return p.print(d, func(w io.Writer) {
		fmt.Fprintf(w, "Deleted %s.", line(what))
		if h := d.Shown.Held; h.Total() > 0 {
			fmt.Fprintf(w, " It held %s.", held(&h))
		}
		fmt.Fprintln(w)
	})
}

type topologyDiffCmd struct {
	apiFlags
	Name string `arg:"" help:"Name of the topology."`
	From string `default:"enabled" placeholder:"N" help:"A version's number, draft or enabled."`
	To   string `default:"draft" placeholder:"N" help:"A version's number, draft or enabled."`
}

func (topologyDiffCmd) Help() string {
	return examples("",
		"sluice topology diff orders",
		"sluice topology diff orders --from 3 --to 4")
}

func (c topologyDiffCmd) Run(ctx context.Context, p *program, api *client) error {
	type difference struct {
		Text string `json:"text"`
	}
	d, err := ask[difference](ctx, api, request{
		method: http.MethodGet, path: pathOf("topologies", c.Name, "diff"), query: queryOf("from", c.From, "to", c.To),
	})
	if err != nil {
		return err
	}
	return p.print(d, func(w io.Writer) {
		if strings.TrimSpace(d.Shown.Text) == "" {
			fmt.Fprintf(w, "No difference between %s and %s of %s.\n", c.From, c.To, line(c.Name))
			return
		}
		fmt.Fprintln(w, lines(d.Shown.Text))
	})
}

// headersOf turns flags of the form name=value into the headers of a request. What becomes a message's header is
// percent-encoded on the way, so that it may hold any text.
func headersOf(flags map[string]string) map[string]string {
	headers := map[string]string{}
	for name, value := range flags {
		if strings.EqualFold(name, "content-type") {
			headers["Content-Type"] = value
		} else {
			headers["Sluice-Header-"+name] = url.PathEscape(value)
		}
	}
	return headers
}
