package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"time"

	"sluice/queue/topology"
)

type topologyEdgesCmd struct {
	apiFlags
	Name    string        `arg:"" help:"Name of the topology."`
	Version string        `placeholder:"N" help:"A version's number, or enabled. Default: all that are in use."`
	Watch   bool          `short:"w" help:"Look again and again, until Ctrl-C, and tell how fast messages come and go."`
	Every   time.Duration `default:"2s" help:"How often to look with --watch."`
}

func (topologyEdgesCmd) Help() string {
	return examples("OLDEST is how long the message that has waited longest could have been worked. With --output json, --watch prints a document each time.",
		"sluice topology edges orders",
		"sluice topology edges orders --watch",
		"sluice topology edges orders --version 3 --output json")
}

// depthsView is what edges hold, as the API tells it.
type depthsView struct {
	Messages int64           `json:"messages"`
	Bytes    int64           `json:"bytes"`
	Bounds   topology.Bounds `json:"bounds"`
	Items    []depthView     `json:"items"`
}

type depthView struct {
	Version  int      `json:"version"`
	From     string   `json:"from"`
	To       string   `json:"to"`
	Messages int64    `json:"messages"`
	Bytes    int64    `json:"bytes"`
	Waiting  int64    `json:"waiting"`
	Running  int64    `json:"running"`
	Held     int64    `json:"held"`
	Retrying int64    `json:"retrying"`
	Trashed  int64    `json:"trashed"`
	Arrived  int64    `json:"arrived"`
	Departed int64    `json:"departed"`
	Age      *float64 `json:"age_seconds"`
}

// minEvery keeps a watch from being a burden.
const minEvery = 200 * time.Millisecond

func (c topologyEdgesCmd) Run(ctx context.Context, p *program, api *client) error {
	if c.Watch && c.Every < minEvery {
		return usagef("--every %s is too often: use %s or more", c.Every, minEvery)
	}
	r := request{method: http.MethodGet, path: pathOf("topologies", c.Name, "edges")}
	if c.Version != "" {
		r.path = pathOf("topologies", c.Name, "versions", c.Version, "edges")
	}
	now, err := ask[depthsView](ctx, api, r)
	if err != nil {
		return err
	}
	if !c.Watch {
		return p.print(now, func(w io.Writer) { now.Shown.write(w, nil, 0) })
	}
	return c.watch(ctx, p, api, r, now)
}

// watch goes on where a look fails: it is for times of trouble, too.
func (c topologyEdgesCmd) watch(ctx context.Context, p *program, api *client, r request, now answer[depthsView]) error {
	var before *depthsView
	var between time.Duration
	for {
		looked := time.Now()
		err := p.print(now, func(w io.Writer) {
			if isTerminal(p.stdout) {
				fmt.Fprint(w, "\x1b[H\x1b[2J") // home, and clear
			}
			now.Shown.write(w, before, between)
			if !isTerminal(p.stdout) {
				fmt.Fprintln(w)
			}
		})
		if err != nil {
			return err
		}
		shown := now.Shown
		for {
			select {
			case <-ctx.Done():
				return nil // how it ends
			case <-time.After(c.Every):
			}
			if now, err = ask[depthsView](ctx, api, r); err == nil {
				break
			}
			if ctx.Err() == nil {
				p.note("%s", explain(err))
			}
		}
		before, between = &shown, time.Since(looked)
	}
}

// write shows what edges hold, and where there was a look before, how fast that changes.
func (d depthsView) write(w io.Writer, before *depthsView, between time.Duration) {
	if len(d.Items) == 0 {
		fmt.Fprintln(w, "No edges: no version is published.")
		return
	}
	heading := "VERSION FROM TO OPEN BYTES WAITING RUNNING HELD RETRYING TRASH OLDEST"
	if before != nil {
		heading += " IN/S OUT/S"
	}
	type name struct {
		version  int
		from, to string
	}
	last := map[name]depthView{}
	if before != nil {
		for _, e := range before.Items {
			last[name{e.Version, e.From, e.To}] = e
		}
	}
	rows := make([][]string, len(d.Items))
	for i, e := range d.Items {
		rows[i] = append([]string{versionNumber(&e.Version), e.From, e.To}, e.cells()...)
		if before != nil {
			was, known := last[name{e.Version, e.From, e.To}]
			rows[i] = append(rows[i], rate(e.Arrived-was.Arrived, between, known), rate(e.Departed-was.Departed, between, known))
		}
	}
	table(w, heading, rows...)
	messages, bytes := count(d.Messages, "message"), amount(d.Bytes)
	if d.Bounds.Messages != 0 {
		messages = fmt.Sprintf("%d of %s", d.Messages, count(d.Bounds.Messages, "message"))
	}
	if d.Bounds.Bytes != 0 {
		bytes += " of " + amount(d.Bounds.Bytes)
	}
	fmt.Fprintf(w, "\nOpen: %s, %s.\n", messages, bytes)
}

func (e depthView) cells() []string {
	cells := make([]string, 0, 8)
	for _, n := range []int64{e.Messages, e.Waiting, e.Running, e.Held, e.Retrying, e.Trashed} {
		cells = append(cells, strconv.FormatInt(n, 10))
	}
	age := ""
	if e.Age != nil {
		age = lapse(time.Duration(*e.Age * float64(time.Second)))
	}
	return append(append(cells[:1:1], amount(e.Bytes)), append(cells[1:], age)...)
}

func rate(change int64, in time.Duration, known bool) string {
	if !known || in <= 0 {
		return ""
	}
	return strconv.FormatFloat(float64(change)/in.Seconds(), 'f', 1, 64)
}

// amount tells bytes, to a tenth of the unit that fits.
func amount(bytes int64) string {
	if bytes < 1<<10 {
		return fmt.Sprintf("%d B", bytes)
	}
	value, unit := float64(bytes)/(1<<10), 0
	for value >= 1024 && unit < 3 {
		value, unit = value/1024, unit+1
	}
	return strconv.FormatFloat(math.Round(value*10)/10, 'f', -1, 64) + " " + []string{"KiB", "MiB", "GiB", "TiB"}[unit]
}

// lapse tells a time as exactly as it matters.
func lapse(d time.Duration) string {
	to := time.Minute
	switch {
	case d < time.Second:
		to = time.Millisecond
	case d < time.Hour:
		to = time.Second
	}
	return topology.Duration(d.Round(to)).String()
}
