package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"sluice/openapi"
)

// contentFlags say what to send.
type contentFlags struct {
	Data        *string           `short:"d" xor:"content" placeholder:"TEXT" help:"The body itself."`
	File        string            `short:"f" xor:"content" placeholder:"FILE" help:"A file that holds the body; - is standard input."`
	Header      map[string]string `short:"H" mapsep:"none" placeholder:"NAME=VALUE" help:"A header that goes with it; may be given several times."`
	ContentType string            `placeholder:"TYPE" help:"What the body is. Default: application/json if it is that, else application/octet-stream."`
}

// maxContent bounds what is read into memory; the server's own limit is far below.
const maxContent = 256 << 20

// given tells whether the command line says what the content is.
func (f contentFlags) given() bool { return f.Data != nil || f.File != "" }

// open returns what to read the content from.
func (f contentFlags) open(p *program) (io.ReadCloser, error) {
	switch {
	case f.Data != nil:
		return io.NopCloser(bytes.NewReader([]byte(*f.Data))), nil
	case f.File == "-", f.File == "" && !isTerminal(p.stdin):
		return io.NopCloser(p.stdin), nil
	case f.File == "":
		return nil, usagef("nothing to send: give --data TEXT, --file FILE, or pipe it in")
	}
	return os.Open(f.File)
}

func (f contentFlags) read(p *program) ([]byte, error) {
	r, err := f.open(p)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	body, err := io.ReadAll(io.LimitReader(r, maxContent+1))
	if err == nil && len(body) > maxContent {
		err = fmt.Errorf("the body is larger than %d bytes: put large data elsewhere and send a reference to it", maxContent)
	}
	return body, err
}

// headers are those of a request that carries the body.
func (f contentFlags) headers(body []byte) map[string]string {
	headers := headersOf(f.Header)
	switch {
	case f.ContentType != "":
		headers["Content-Type"] = f.ContentType
	case headers["Content-Type"] == "" && json.Valid(body):
		headers["Content-Type"] = "application/json"
	case headers["Content-Type"] == "":
		headers["Content-Type"] = "application/octet-stream"
	}
	return headers
}

type sendCmd struct {
	apiFlags
	contentFlags
	Topology       string        `arg:"" help:"Name of the topology."`
	Node           string        `arg:"" help:"Name of the start node."`
	Version        int           `placeholder:"N" help:"Number of the version. Default: the enabled one."`
	IdempotencyKey string        `short:"k" placeholder:"TEXT" help:"Makes sending again harmless. With --ndjson, the number of the line is added to it."`
	Ndjson         bool          `help:"Each line is an event of its own."`
	Wait           bool          `help:"Wait until the process has ended."`
	Timeout        time.Duration `default:"10m" help:"How long to wait at most: for the end, or with --ndjson until the topology has room for another event."`
}

func (sendCmd) Help() string {
	return examples("The body is sent as it is. With --wait the command fails when the process ends in the trash.",
		`sluice send orders inbox --data '{"order":"ABC-123"}'`,
		"sluice send orders inbox --file order.json --idempotency-key ABC-123 --wait",
		"sluice send orders inbox -H x-source=shop -f invoice.pdf --content-type application/pdf",
		"zcat orders.ndjson.gz | sluice send orders inbox --ndjson --idempotency-key import-7")
}

// acceptedView is an accepted event.
type acceptedView struct {
	CorrelationID string `json:"correlation_id"`
	Duplicate     bool   `json:"duplicate"`
	Version       int    `json:"version"`
}

func (c sendCmd) path() string {
	if c.Version != 0 {
		return pathOf("topologies", c.Topology, "versions", strconv.Itoa(c.Version), "nodes", c.Node, "events")
	}
	return pathOf("topologies", c.Topology, "nodes", c.Node, "events")
}

func (c sendCmd) Run(ctx context.Context, p *program) error {
	if c.Ndjson && c.Wait {
		return usagef("--wait follows one event: leave it out with --ndjson")
	}
	api, err := c.client(p)
	if err != nil {
		return err
	}
	if c.Ndjson {
		return c.sendLines(ctx, p, api)
	}
	body, err := c.read(p)
	if err != nil {
		return err
	}
	r := request{method: http.MethodPost, path: c.path(), body: body, headers: c.headers(body)}
	if c.IdempotencyKey != "" {
		r.headers["Idempotency-Key"] = c.IdempotencyKey
	}
	accepted, err := ask[acceptedView](ctx, api, r)
	if err != nil {
		return err
	}
	if c.Wait {
		return c.follow(ctx, p, api, accepted.Shown.CorrelationID)
	}
	return p.print(accepted, func(w io.Writer) {
		again := ""
		if accepted.Shown.Duplicate {
			again = " (accepted before, with this key)"
		}
		fmt.Fprintf(w, "%s%s\n", line(accepted.Shown.CorrelationID), again)
	})
}

// follow waits until nothing of the process is on its way any more.
func (c sendCmd) follow(ctx context.Context, p *program, api *client, id string) error {
	limited, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	var last processView
	done := p.during(5*time.Second, func(elapsed time.Duration) string {
		return fmt.Sprintf("Process %s is %s after %s.", id, "still running", elapsed)
	})
	defer done()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		of, err := ask[processView](limited, api, request{method: http.MethodGet, path: pathOf("processes", id)})
		switch {
		case err != nil && limited.Err() != nil && ctx.Err() == nil:
			return fmt.Errorf("process %s still has %s on the way after %s: look at it with `sluice process show %s`",
				id, count(last.Open, "message"), c.Timeout, id)
		case err != nil:
			return err
		}
		last = of.Shown
		if last.State != "running" {
			if err := p.print(of, last.write); err != nil {
				return err
			}
			if last.State == "parked" {
				p.note("%s for a person to decide: see `sluice trash list --type breakpoint`", count(last.Trashed, "message"))
			}
			if last.State == "failed" {
				return fmt.Errorf("%s in the trash: see `sluice trash list --topology %s`", count(last.Trashed, "message"), last.Topology)
			}
			return nil
		}
		select {
		case <-time.After(pause):
		case <-limited.Done():
		}
	}
}

// Bounds of one call that carries many events.
const (
	batchEvents = 1000
	batchBytes  = 4 << 20
	maxLine     = 16 << 20
)

// sent is what became of many events.
type sent struct {
	Accepted   int `json:"accepted"`
	Duplicates int `json:"duplicates"`
	Refused    int `json:"refused"`
}

// tally is what became of events so far.
type tally struct {
	mu   sync.Mutex
	sent sent
}

func (t *tally) add(more sent) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent.Accepted += more.Accepted
	t.sent.Duplicates += more.Duplicates
	t.sent.Refused += more.Refused
}

func (t *tally) now() sent {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sent
}

// batchView is the answer to one call that carried many events.
type batchView struct {
	sent
	Items []struct {
		Error *openapi.Problem `json:"error"`
	} `json:"items"`
}

// sendLines sends each line as an event, many in one call.
func (c sendCmd) sendLines(ctx context.Context, p *program, api *client) error {
	r, err := c.open(p)
	if err != nil {
		return err
	}
	defer r.Close()
	var so tally
	done := p.during(5*time.Second, func(time.Duration) string {
		return fmt.Sprintf("%d events accepted so far.", so.now().Accepted)
	})
	err = c.sendBatches(ctx, p, api, r, &so)
	done()
	total := so.now()
	if err != nil && total.Accepted+total.Duplicates > 0 {
		return fmt.Errorf("%w: %d events were accepted before that; with an --idempotency-key it is safe to send all again", err, total.Accepted+total.Duplicates)
	}
	if err != nil {
		return err
	}
	if err := p.print(total, func(w io.Writer) {
		fmt.Fprintf(w, "%d accepted, %d accepted before, %d refused\n", total.Accepted, total.Duplicates, total.Refused)
	}); err != nil {
		return err
	}
	if total.Refused > 0 {
		return fmt.Errorf("%s refused: the reasons stand above", count(total.Refused, "event"))
	}
	return nil
}

func (c sendCmd) sendBatches(ctx context.Context, p *program, api *client, r io.Reader, so *tally) error {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, maxLine)
	var batch []numbered
	size := 0
	for n := 1; scanner.Scan(); n++ {
		body := bytes.TrimSpace(scanner.Bytes())
		if len(body) == 0 {
			continue
		}
		event := numbered{n, c.envelope(n, body)}
		if len(batch) == batchEvents || size+len(event.text) > batchBytes {
			if err := c.sendBatch(ctx, p, api, batch, so); err != nil {
				return err
			}
			batch, size = nil, 0
		}
		batch, size = append(batch, event), size+len(event.text)
	}
	if errors.Is(scanner.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("a line is longer than %d bytes: send that event by itself", maxLine)
	}
	if scanner.Err() != nil {
		return scanner.Err()
	}
	return c.sendBatch(ctx, p, api, batch, so)
}

// numbered is a line of the input as it is sent.
type numbered struct {
	number int
	text   []byte
}

// envelope is one event among many. By hand, because encoding/json would write the body anew.
func (c sendCmd) envelope(number int, body []byte) []byte {
	var b bytes.Buffer
	field := func(name string, value []byte) {
		b.WriteByte("{,"[min(b.Len(), 1)])
		fmt.Fprintf(&b, "%q:", name)
		b.Write(value)
	}
	text := func(v any) []byte {
		encoded, _ := json.Marshal(v) // texts always can
		return encoded
	}
	if c.IdempotencyKey != "" {
		field("key", text(fmt.Sprintf("%s-%d", c.IdempotencyKey, number)))
	}
	if len(c.Header) > 0 {
		field("headers", text(c.Header))
	}
	switch {
	case json.Valid(body):
		field("body", body)
	case utf8.Valid(body):
		field("text", text(string(body)))
	default:
		field("base64", text(body))
	}
	b.WriteByte('}')
	return b.Bytes()
}

// sendBatch sends events until each of them is stored, or refused for good. Those that the server has no time or no room
// for are sent again when it says, which is how it slows us down; patience ends when nothing at all was taken for long.
func (c sendCmd) sendBatch(ctx context.Context, p *program, api *client, events []numbered, so *tally) error {
	progress := time.Now()
	for len(events) > 0 {
		var body bytes.Buffer
		for _, e := range events {
			body.Write(e.text)
			body.WriteByte('\n')
		}
		got, err := ask[batchView](ctx, api, request{
			method: http.MethodPost, path: c.path() + "/batch", body: body.Bytes(), timeout: 5 * time.Minute,
			headers: map[string]string{"Content-Type": "application/x-ndjson"},
		})
		var left []numbered
		var reason *apiError
		switch {
		case err == nil:
			left, reason = c.sortOut(p, events, got.Shown, so)
		case errors.As(err, &reason) && c.maySendAgain(reason.Problem):
			left = events
		default:
			return err
		}
		switch {
		case len(left) < len(events):
			progress = time.Now()
		case time.Since(progress) > c.Timeout:
			return fmt.Errorf("no event was taken for %s: %w", c.Timeout, reason)
		}
		if events = left; len(events) == 0 {
			return nil
		}
		select {
		case <-time.After(max(reason.retryAfter, time.Duration(reason.RetryAfter), time.Second)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// sortOut counts what became of events and tells why some were refused. It returns those to send again, with the reason.
func (c sendCmd) sortOut(p *program, events []numbered, got batchView, so *tally) (left []numbered, reason *apiError) {
	so.add(sent{Accepted: got.Accepted, Duplicates: got.Duplicates})
	for i, item := range got.Items {
		switch {
		case item.Error == nil || i >= len(events):
		case c.maySendAgain(*item.Error):
			left, reason = append(left, events[i]), &apiError{Problem: *item.Error}
		default:
			so.add(sent{Refused: 1})
			p.note("line %d: %s", events[i].number, (&apiError{Problem: *item.Error}).Error())
		}
	}
	return left, reason
}

// maySendAgain tells whether a refusal will pass. After a 503 nobody knows what was stored, so then it takes a key.
func (c sendCmd) maySendAgain(p openapi.Problem) bool {
	return p.Status == http.StatusTooManyRequests || p.Status == http.StatusServiceUnavailable && c.IdempotencyKey != ""
}
