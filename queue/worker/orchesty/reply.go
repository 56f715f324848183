package orchesty

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"sluice/queue/worker"
)

// The result codes. Any other counts as success.
const (
	codeRepeat     = 1001
	codeRoute      = 1002
	codeStop       = 1003
	codeLimit      = 1004
	codeFail       = 1006
	codePage       = 1010 // another page, and items
	codeCursorOnly = 1011 // another page
)

// limitPeriod is how long a message waits that was one too many for a third
// party of which nobody knows the limit.
const limitPeriod = time.Minute

// reply is an envelope that came back.
type reply struct {
	headers map[string]string
	body    string
}

// read turns what came back into a reply, or a failure without status and timing.
func (m *message) read(answer worker.Answer, maxItems int) (worker.Reply, *worker.Failure) {
	r, err := parseReply(answer.Body)
	if answer.Status == http.StatusBadRequest {
		return worker.Reply{}, m.refusal(r, err, answer)
	}
	if err != nil {
		return worker.Reply{}, malformed(m, answer, err)
	}
	code, has := r.headers[headerResultCode]
	if !has {
		return worker.Reply{}, rejected("%s gave no verdict: its reply has no header result-code", m.worker)
	}
	n, _ := strconv.Atoi(strings.TrimSpace(code)) // what is no number counts as success
	switch n {
	case codeRepeat:
		return m.repeat(r)
	case codeStop:
		return worker.Reply{Verdict: worker.Stop, Reason: r.said()}, nil
	case codeLimit:
		return worker.Reply{}, m.limited(r)
	case codeFail:
		return worker.Reply{}, rejected("%s", orWords(r.said(), "the worker failed it and gave no reason"))
	}
	if m.request.Kind == kindBatch {
		return m.page(r, n, maxItems)
	}
	if n == codeRoute {
		return m.route(r)
	}
	return m.done(r, nil, len(m.followers))
}

// said is what the worker says of its verdict.
func (r reply) said() string { return worker.Clean(r.headers[headerResultMessage]) }

func orWords(said, otherwise string) string {
	if said == "" {
		return otherwise
	}
	return said
}

// refusal is what a status of 400 means: the node has thrown, and the envelope
// says what. Of anything else that answers so, the first line is told.
func (m *message) refusal(r reply, err error, answer worker.Answer) *worker.Failure {
	if err == nil && r.said() != "" {
		return rejected("%s", r.said())
	}
	return rejected("%s answered 400: %s", m.worker, orWords(firstLine(answer.Body), "it gave no reason"))
}

// firstLine finds words for people in a refusal. The SDK glues a stack trace to
// what it says.
func firstLine(body []byte) string {
	var refusal struct {
		Message string `json:"message"`
	}
	text := string(body[:min(len(body), 4<<10)])
	if json.Unmarshal(body, &refusal) == nil && refusal.Message != "" {
		text = refusal.Message
	} else if strings.HasPrefix(strings.TrimSpace(text), "<") {
		return ""
	}
	text, _, _ = strings.Cut(text, "\n")
	if at := strings.Index(text, "Error:"); at > 0 {
		text = text[:at]
	}
	return worker.Clean(text)
}

// repeat asks for another call, unless the message has had all that the worker
// wants. The message stays as it came, but for its headers.
func (m *message) repeat(r reply) (worker.Reply, *worker.Failure) {
	interval, err := r.integer(headerRepeatInterval)
	if err != nil {
		return worker.Reply{}, rejected("%s asks to be called again, but %s", m.worker, err)
	}
	most, err := r.integer(headerRepeatMaxHops)
	if err != nil {
		return worker.Reply{}, rejected("%s asks to be called again, but %s", m.worker, err)
	}
	hops := max(m.hops(), 1) + 1
	if hops > most {
		return worker.Reply{}, rejected("max repeat limit reached, %s", r.said())
	}
	s := m.state
	s.Hops, s.MaxHops, s.Interval, s.Attempt = hops, most, interval, m.request.Attempt
	cursor, failure := m.keep(s, r)
	if failure != nil {
		return worker.Reply{}, failure
	}
	after := min(time.Duration(min(max(interval, 0), int(worker.MaxAfter/time.Second)))*time.Second, worker.MaxAfter)
	return worker.Reply{Verdict: worker.Repeat, After: after, Reason: r.said(), Cursor: cursor}, nil
}

func (r reply) integer(name string) (int, error) {
	text, has := r.headers[name]
	if !has {
		return 0, fmt.Errorf("its reply has no header %s", name)
	}
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		return 0, fmt.Errorf("its header %s is no integer: %.40q", name, text)
	}
	return n, nil
}

// keep makes a cursor of what the next call of the message is to know.
func (m *message) keep(s state, r reply) (string, *worker.Failure) {
	s.Headers = m.stays(r.headers)
	if err := worker.CheckHeaders(s.Headers); err != nil {
		return "", m.unusable(err)
	}
	cursor, err := s.encode(m.request.Headers)
	if err != nil {
		return "", m.unusable(err)
	}
	return cursor, nil
}

// unusable fails a message whose reply no message can be made of. The node would
// say the same again.
func (m *message) unusable(err error) *worker.Failure {
	return rejected("the reply of %s cannot be used: %s", m.worker, err)
}

// limited holds a message that was one too many for a third party: for the
// period of its limit, where it carries one.
func (m *message) limited(r reply) *worker.Failure {
	return &worker.Failure{
		Class:      worker.Limited,
		RetryAfter: min(m.period(), worker.MaxRetryAfter),
		Reason:     orWords(r.said(), "the limit of a third party is exceeded"),
	}
}

// period is that of the longest limit that the message carries for the node's
// application. A limiter key is "user|application;seconds;amount", or several.
func (m *message) period() time.Duration {
	longest := 0
	parts := strings.Split(m.headers[headerLimiterKey], ";")
	for i := 0; i+2 < len(parts); i += 3 {
		_, application, _ := strings.Cut(parts[i], "|")
		seconds, err := strconv.Atoi(parts[i+1])
		if err == nil && seconds > longest && (m.request.Application == "" || application == m.request.Application) {
			longest = seconds
		}
	}
	if longest == 0 {
		return limitPeriod
	}
	return time.Duration(min(longest, int(worker.MaxRetryAfter/time.Second))) * time.Second
}

// route sends the message to the followers that the worker has chosen, by id.
func (m *message) route(r reply) (worker.Reply, *worker.Failure) {
	var names []string
	for id := range strings.SplitSeq(r.headers[headerForce], ",") {
		id = strings.TrimSpace(id)
		if old, found := strings.CutPrefix(id, "pipes."); found { // as in pipes.<topology>.<node>
			_, id, _ = strings.Cut(old, ".")
		}
		i := slices.IndexFunc(m.followers, func(f follower) bool { return f.ID == id })
		if i < 0 {
			return worker.Reply{}, rejected("unknown follower of id [%s]: %s sent a message to what does not follow node %s", id, m.worker, m.request.Node)
		}
		if !slices.Contains(names, m.followers[i].Name) {
			names = append(names, m.followers[i].Name)
		}
	}
	return m.done(r, names, len(names))
}

// done sends the message on: to the named followers, or to all.
func (m *message) done(r reply, names []string, targets int) (worker.Reply, *worker.Failure) {
	headers := m.goesOn(r.headers, targets)
	if err := worker.CheckHeaders(headers); err != nil {
		return worker.Reply{}, m.unusable(err)
	}
	next := worker.Message{Followers: names, Headers: headers}
	if r.body == string(m.request.Body) {
		next.SameBody = true
	} else {
		next.Body = []byte(r.body)
	}
	return worker.Reply{Verdict: worker.Done, Messages: []worker.Message{next}, Reason: r.unusual()}, nil
}

// unusual is what a worker says of a success, if it is not what the SDK always
// says.
func (r reply) unusual() string {
	if said := r.said(); !strings.HasPrefix(said, "Processed successfully") && !strings.HasPrefix(said, "Message will be ") {
		return said
	}
	return ""
}

// page reads a page of a batch.
func (m *message) page(r reply, code, maxItems int) (worker.Reply, *worker.Failure) {
	if code == codeRoute {
		return worker.Reply{}, rejected("%s chose followers for a whole page of batch %s, which no engine of Orchesty's does: choose in a node after it", m.worker, m.request.Node)
	}
	items, err := parseItems(r.body, maxItems)
	if err != nil {
		return worker.Reply{}, m.unusable(err)
	}
	page := worker.Reply{Verdict: worker.Done, Reason: r.unusual()}
	if code == codePage || code == codeCursorOnly {
		cursor, has := r.headers[headerCursor]
		if !has {
			return worker.Reply{}, rejected("%s asks for another page, but its reply has no header cursor", m.worker)
		}
		var failure *worker.Failure
		if page.Cursor, failure = m.keep(state{Cursor: &cursor}, r); failure != nil {
			return worker.Reply{}, failure
		}
	}
	if code == codeCursorOnly {
		return page, nil
	}
	page.Messages = make([]worker.Message, 0, len(items))
	for i, item := range items {
		headers := m.item(r.headers, item.headers)
		if err := worker.CheckHeaders(headers); err != nil {
			return worker.Reply{}, m.unusable(fmt.Errorf("item %d: %w", i, err))
		}
		page.Messages = append(page.Messages, worker.Message{Headers: headers, Body: []byte(item.body)})
	}
	return page, nil
}

var (
	errNotJSON     = errors.New("the reply is not a JSON object")
	errBadHeaders  = errors.New("its headers are not a JSON object")
	errBodyNotText = errors.New("its body is not a string")
	errNotUTF8Text = errors.New("the reply is not UTF-8")
)

// parseReply reads an envelope. A body that is missing or null is empty.
func parseReply(doc []byte) (reply, error) {
	if !utf8.Valid(doc) {
		return reply{}, errNotUTF8Text
	}
	return parseEnvelope(doc)
}

func parseEnvelope(doc []byte) (reply, error) {
	var fields map[string]json.RawMessage // a struct would take Body for body
	if err := json.Unmarshal(doc, &fields); err != nil || fields == nil {
		return reply{}, errNotJSON
	}
	var raw map[string]json.RawMessage
	if headers, has := fields["headers"]; has {
		if err := json.Unmarshal(headers, &raw); err != nil {
			return reply{}, errBadHeaders
		}
	}
	var r reply
	var err error
	if r.headers, err = texts(raw); err != nil {
		return reply{}, err
	}
	if body, has := fields["body"]; has {
		if body[0] != '"' && !bytes.Equal(body, []byte("null")) {
			return reply{}, errBodyNotText
		}
		if err := json.Unmarshal(body, &r.body); err != nil {
			return reply{}, errBodyNotText
		}
	}
	return r, nil
}

// parseItems reads the body of a page: a JSON list of envelopes.
func parseItems(body string, most int) ([]reply, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal([]byte(body), &raw); err != nil || raw == nil {
		return nil, errors.New("its body is no list of items")
	}
	if len(raw) > most {
		return nil, fmt.Errorf("a page of %d items, more than %d", len(raw), most)
	}
	items := make([]reply, len(raw))
	for i, doc := range raw {
		item, err := parseEnvelope(doc)
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
		items[i] = item
	}
	return items, nil
}
