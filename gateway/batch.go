package gateway

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/queue"
	"sluice/queue/topology"
)

// Many events in one call. The call is read as a whole before its first event is stored, so that a call that breaks off,
// or is too large, has stored nothing; then it is parsed and stored chunk by chunk. A line that is no event is refused
// by itself.

const (
	maxEvents  = 10_000 // in a call
	eventChunk = 1000   // events that are given to the engine at once
)

type batchInput struct {
	StartPath
	RawBody []byte `contentType:"application/x-ndjson"`
}

type batchVersionInput struct {
	StartVersionPath
	RawBody []byte `contentType:"application/x-ndjson"`
}

type batchView struct {
	Accepted   int             `json:"accepted" doc:"How many events are stored and will be worked"`
	Duplicates int             `json:"duplicates" doc:"How many were accepted before, with their keys"`
	Refused    int             `json:"refused" doc:"How many were not stored"`
	Items      []batchItemView `json:"items" doc:"What became of each event, in order"`
}

type batchItemView struct {
	Line          int              `json:"line" minimum:"1" doc:"The event's line in the body, from 1; blank lines count and are no events"`
	CorrelationID string           `json:"correlation_id,omitempty" format:"uuid" doc:"Names the process that the event set off; absent where it was refused"`
	Duplicate     bool             `json:"duplicate,omitempty" doc:"The event was accepted before, with this key"`
	Version       int              `json:"version,omitempty" minimum:"1" doc:"The version that works it"`
	Error         *openapi.Problem `json:"error,omitempty" doc:"Why the event was refused"`
}

const batchText = "One event a line: `{\"key\": …, \"headers\": {…}, \"body\": …}`. `body` is any JSON value, of which the bytes from its first to its last character are kept as they are; instead of it may stand `text`, " +
	"or `base64` for bytes. The content type is `application/json` with a `body`, `text/plain; charset=utf-8` with a `text`, and none with `base64`, unless `headers` has one. `key` makes sending again harmless.\n\n" +
	"Events are independent: a line that is refused has its reason among `items`, and the others are stored all the same. A problem for the call as a whole means that nothing was stored, " +
	"but for 503, which leaves it open. A reason with `retry_after`, such as that the topology is full, may be gone after as many seconds: send those events again. At most 10,000 events a call."

func (g *gateway) addBatch() {
	openapi.Describe[batchInput, answer[batchView]](g.api, huma.Operation{
		OperationID: "start-processes", Method: http.MethodPost, Path: eventsPath + "/batch", Tags: []string{"events"}, Security: openapi.Scope("ingest"),
		Summary: "Post many events to the enabled version", Description: batchText, DefaultStatus: http.StatusAccepted, Errors: []int{http.StatusConflict},
	})
	openapi.Describe[batchVersionInput, answer[batchView]](g.api, huma.Operation{
		OperationID: "start-processes-of-version", Method: http.MethodPost, Path: eventsPathVersion + "/batch", Tags: []string{"events"}, Security: openapi.Scope("ingest"),
		Summary: "Post many events to a version", Description: batchText, DefaultStatus: http.StatusAccepted, Errors: []int{http.StatusConflict},
	})
	for _, path := range []string{eventsPath + "/batch", eventsPathVersion + "/batch"} {
		g.api.OpenAPI().Paths[path].Post.RequestBody.Content["application/x-ndjson"].Schema = &huma.Schema{Type: huma.TypeString}
		g.handle(http.MethodPost, path, g.postBatch)
	}
}

var ndjsonTypes = []string{"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"}

func (g *gateway) postBatch(w http.ResponseWriter, r *http.Request, by auth.Principal) error {
	to, err := startOf(r, by)
	if err != nil {
		return err
	}
	if err := wantType(r.Header, ndjsonTypes); err != nil {
		return err
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(4 * g.config.BodyTime)) // as much larger as it is
	b, err := g.readBody(r, g.config.MaxBatch)
	defer b.release()
	if err != nil {
		return err
	}
	lines := linesOf(b.bytes)
	switch n := len(lines); {
	case n == 0:
		return openapi.ValidationFailed.Because("the body has no events: send one a line").With(openapi.Detail{Detail: "no events", Pointer: "#"})
	case n > maxEvents:
		return openapi.PayloadTooLarge.Because("%d events in one call, %d are allowed; nothing was stored", n, maxEvents)
	}
	done := &batchResult{view: batchView{Items: make([]batchItemView, 0, len(lines))}, translate: g.translate}
	for len(lines) > 0 {
		n := min(len(lines), eventChunk)
		g.storeChunk(r.Context(), to, lines[:n], done)
		lines = lines[n:]
		if done.view.Accepted+done.view.Duplicates == 0 && done.whole != nil {
			return done.whole
		}
	}
	return writeJSON(w, http.StatusAccepted, done.view)
}

// line is a line of the body that is not blank.
type line struct {
	number int
	text   []byte
}

func linesOf(text []byte) []line {
	var lines []line
	for number := 1; len(text) > 0; number++ {
		var l []byte
		l, text, _ = bytes.Cut(text, []byte("\n"))
		if l = bytes.TrimSpace(l); len(l) > 0 {
			lines = append(lines, line{number, l})
		}
	}
	return lines
}

// storeChunk stores the events of some lines and notes what became of each.
func (g *gateway) storeChunk(ctx context.Context, to queue.Event, lines []line, done *batchResult) {
	events := make([]queue.Event, 0, len(lines))
	refused := make([]error, len(lines))
	for i, l := range lines {
		ev := to
		if done.whole != nil {
			refused[i] = done.whole // what kept all out before will keep these out, too
		} else if refused[i] = g.parseEvent(l.text, &ev); refused[i] == nil {
			events = append(events, ev)
		}
	}
	ctx, cancel := g.acceptance(ctx)
	defer cancel()
	accepted, errs := g.acceptMany(ctx, events)
	next, kept := 0, 0
	for i, l := range lines {
		if refused[i] != nil {
			done.refuse(l.number, refused[i])
			continue
		}
		if err := errs[next]; err != nil {
			done.refuse(l.number, err)
			if keepsAllOut(err) {
				kept++
			}
		} else {
			done.accept(l.number, accepted[next])
		}
		next++
	}
	if kept > 0 && kept == len(events) {
		done.whole = errs[0]
	}
}

// keepsAllOut tells whether an error is about where events go, or about the server, and not about one event.
func keepsAllOut(err error) bool {
	for _, everywhere := range []error{
		topology.ErrNotFound, topology.ErrNotEnabled, queue.ErrNoNode, queue.ErrOverloaded, queue.ErrUnavailable,
	} {
		if errors.Is(err, everywhere) {
			return true
		}
	}
	_, full := errors.AsType[*queue.FullError](err)
	return full
}

// batchResult gathers what became of the events of a call.
type batchResult struct {
	view      batchView
	whole     error // what would keep out any event
	translate func(error) *openapi.Problem
}

func (d *batchResult) accept(number int, a queue.Accepted) {
	if a.Duplicate {
		d.view.Duplicates++
	} else {
		d.view.Accepted++
	}
	d.view.Items = append(d.view.Items, batchItemView{
		Line: number, CorrelationID: a.Process.String(), Duplicate: a.Duplicate, Version: a.Version,
	})
}

func (d *batchResult) refuse(number int, err error) {
	var p *openapi.Problem
	if !errors.As(err, &p) {
		if p = d.translate(err); p == nil {
			p = openapi.Internal.Because("the event could not be stored")
		}
	}
	d.view.Refused++
	d.view.Items = append(d.view.Items, batchItemView{Line: number, Error: p})
}

// eventLine is a line as it is read.
type eventLine struct {
	Key     *exactText           `json:"key"`
	Headers map[string]exactText `json:"headers"`
	Body    json.RawMessage      `json:"body"`
	Text    *exactText           `json:"text"`
	Base64  *exactText           `json:"base64"`
}

// exactText is a text that must come out as it was meant. The standard library puts a question mark where it finds half
// of a surrogate pair.
type exactText string

// UnmarshalJSON implements json.Unmarshaler.
func (t *exactText) UnmarshalJSON(data []byte) error {
	if len(data) == 0 || data[0] != '"' {
		return errors.New("not a string")
	}
	if halfPair(data) {
		return errors.New(`a string has half of a surrogate pair (\ud800 to \udfff): that is no character`)
	}
	if bytes.IndexByte(data, '\\') < 0 { // as nearly all: what is between the quotes is the text
		*t = exactText(data[1 : len(data)-1])
		return nil
	}
	return json.Unmarshal(data, (*string)(t))
}

// halfPair tells whether a JSON string has a surrogate without its other half.
func halfPair(s []byte) bool {
	for i := bytes.IndexByte(s, '\\'); i >= 0 && i+1 < len(s); i = nextEscape(s, i+2) {
		switch unit := escapeUnit(s, i); {
		case unit >= 0xdc00 && unit <= 0xdfff:
			return true
		case unit >= 0xd800 && unit <= 0xdbff:
			i += 6
			if low := escapeUnit(s, i); low < 0xdc00 || low > 0xdfff {
				return true
			}
		}
	}
	return false
}

func nextEscape(s []byte, from int) int {
	if from >= len(s) {
		return -1
	}
	if i := bytes.IndexByte(s[from:], '\\'); i >= 0 {
		return from + i
	}
	return -1
}

// escapeUnit is the number of an escape \uXXXX, or -1.
func escapeUnit(s []byte, i int) int {
	if i+6 > len(s) || s[i] != '\\' || s[i+1] != 'u' {
		return -1
	}
	unit := 0
	for _, c := range s[i+2 : i+6] {
		digit := unhex(c)
		if digit < 0 {
			return -1
		}
		unit = unit<<4 | digit
	}
	return unit
}

// parseEvent reads a line into an event that has its destination.
func (g *gateway) parseEvent(text []byte, ev *queue.Event) error {
	if !utf8.Valid(text) {
		return badLine("the line is not UTF-8 text")
	}
	var l eventLine
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return badLine(lineMistake(err))
	}
	if d.InputOffset() != int64(len(text)) {
		return badLine("there is more behind the event: one event a line")
	}
	if l.Key != nil {
		ev.Key = string(*l.Key)
		if err := checkKey(ev.Key); err != nil {
			return badLine("key: " + err.Error())
		}
	}
	kind, err := l.content(ev)
	if err != nil {
		return err
	}
	if int64(len(ev.Body)) > g.config.MaxBody {
		return tooLarge(g.config.MaxBody)
	}
	ev.Headers = make(map[string]string, len(l.Headers)+1)
	if kind != "" {
		ev.Headers[contentType] = kind
	}
	for name, value := range l.Headers {
		ev.Headers[strings.ToLower(name)] = string(value)
	}
	return checkHeaders(ev.Headers)
}

// content finds the event's body, and the content type that goes with how it is written.
func (l eventLine) content(ev *queue.Event) (kind string, err error) {
	given := 0
	if l.Body != nil {
		given++
		ev.Body, kind = l.Body, "application/json"
	}
	if l.Text != nil {
		given++
		ev.Body, kind = []byte(*l.Text), "text/plain; charset=utf-8"
	}
	if l.Base64 != nil {
		given++
		kind = ""
		if ev.Body, err = base64.StdEncoding.Strict().DecodeString(string(*l.Base64)); err != nil {
			return "", badLine("base64: not base64 of the standard alphabet, with padding")
		}
	}
	if given != 1 {
		return "", badLine("an event has one of body, text and base64")
	}
	return kind, nil
}

// lineMistake says what is wrong with a line without naming the Go types that it met here.
func lineMistake(err error) string {
	var mismatch *json.UnmarshalTypeError
	text := strings.TrimPrefix(err.Error(), "json: ")
	switch {
	case errors.As(err, &mismatch) && mismatch.Field != "":
		return fmt.Sprintf("%s: this %s does not fit", mismatch.Field, mismatch.Value)
	case errors.As(err, &mismatch):
		return "an event is an object: {\"body\": …}"
	case strings.HasPrefix(text, "unknown field"):
		return text + ": an event has key, headers, and one of body, text and base64"
	case strings.Contains(text, "EOF"):
		return "the JSON ends early: one event a line"
	}
	return text
}

func badLine(what string) *openapi.Problem { return openapi.ValidationFailed.Because("%s", what) }

// wantType refuses a request whose body is said to be something else than one of the types. One that says nothing is
// taken at its word of being what belongs here.
func wantType(h http.Header, types []string) error {
	if coding := h.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return openapi.UnsupportedMediaType.Because("the body has the content encoding %.40q: send it uncompressed", coding)
	}
	given := h.Get("Content-Type")
	if given == "" {
		return nil
	}
	media, _, _ := strings.Cut(given, ";")
	for _, t := range types {
		if strings.EqualFold(strings.TrimSpace(media), t) {
			return nil
		}
	}
	return openapi.UnsupportedMediaType.Because("the body is said to be %.80q: send it as %s", given, types[0])
}

// writeJSON answers with a value, for handlers that are not huma's.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header()["Content-Type"] = jsonType
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // a client that left is no one to tell
	return nil
}
