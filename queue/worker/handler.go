package worker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Func handles one message. Its error fails the attempt, which will be repeated;
// a [*Failure] says more precisely what is to become of the message.
type Func func(ctx context.Context, request *Request) (Reply, error)

// Handler serves the worker's side of the contract with a function: it verifies
// the signature, reads the request and writes the reply. The context ends when
// Sluice stops to wait. One handler may serve one action, on a mux, or several,
// by [Request.Action]: the path of the HTTP request.
type Handler struct {
	Func Func
	// Secrets are those a call may be signed with. Without any, every call is
	// taken, which is for closed networks only.
	Secrets []Secret
	// Tolerance is that of [Verify].
	Tolerance time.Duration
	// MaxBody is the longest body taken, in bytes. Default 64 MiB.
	MaxBody int64
}

// ServeHTTP answers one call.
func (h Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "a worker is called with POST", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, cmp.Or(h.MaxBody, 64<<20)))
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		http.Error(w, fmt.Sprintf("the body is longer than %d bytes", tooLong.Limit), http.StatusRequestEntityTooLarge)
		return
	case err != nil:
		http.Error(w, "the body could not be read", http.StatusBadRequest)
		return
	}
	if len(h.Secrets) > 0 {
		if err := Verify(r.Header, body, h.Secrets, h.Tolerance, time.Now()); err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
	}
	request, err := incoming(r, body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx := r.Context()
	if !request.Deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, request.Deadline)
		defer cancel()
	}
	reply, err := h.Func(ctx, request)
	if err == nil {
		err = write(w, request, reply)
	}
	if err != nil {
		writeFailure(w, err)
	}
}

// incoming reads a call from its HTTP request.
func incoming(r *http.Request, body []byte) (*Request, error) {
	text := func(key string) string { return decodeValue(r.Header.Get(key)) }
	var wrong error
	number := func(key string) int {
		n, err := strconv.Atoi(cmp.Or(r.Header.Get(key), "0"))
		if err != nil || n < 0 {
			wrong = fmt.Errorf("header %s is no number", key)
		}
		return n
	}
	request := &Request{
		Action:        strings.TrimPrefix(r.URL.Path, "/"),
		MessageID:     text(headerMessageID),
		CorrelationID: text(headerCorrelationID),
		Topology:      text(headerTopology),
		Version:       number(headerVersion),
		Node:          text(headerNode),
		Application:   text(headerApplication),
		Attempt:       number(headerAttempt),
		Page:          number(headerPage),
		Cursor:        text(headerCursor),
		Body:          body,
	}
	if request.MessageID == "" {
		wrong = errors.New("header " + headerMessageID + " is missing: this is no call by Sluice")
	}
	if deadline := r.Header.Get(headerDeadline); deadline != "" {
		at, err := time.Parse(time.RFC3339, deadline)
		if err != nil {
			wrong = errors.New("header " + headerDeadline + " is no time of RFC 3339")
		}
		request.Deadline = at
	}
	own, err := ownHeaders(r.Header)
	if err != nil {
		wrong = err
	}
	if own == nil {
		own = make(map[string]string)
	}
	if kind := r.Header.Get(headerContentType); kind != "" {
		own[contentType] = kind
	}
	request.Headers = own
	return request, wrong
}

// write answers with a reply, in the simple form if it can be said so. It fails
// before it has written anything.
func write(w http.ResponseWriter, request *Request, reply Reply) error {
	reply.Messages = slices.Clone(reply.Messages) // the function may keep its own
	for i := range reply.Messages {
		m := &reply.Messages[i]
		m.Headers = fold(m.Headers)
		if err := CheckHeaders(m.Headers); err != nil {
			return fmt.Errorf("messages[%d]: %w", i, err)
		}
	}
	if reply.Verdict == Done && len(reply.Messages) == 1 && reply.Messages[0].Followers == nil && reply.Cursor == "" &&
		!(request.Page > 0 && reply.Messages[0].SameBody) { // to a batch, 204 is a page with nothing on it
		writeSimple(w, reply.Messages[0])
		return nil
	}
	doc, err := encode(reply)
	if err != nil {
		return err
	}
	w.Header().Set(headerContentType, ResultType)
	w.Write(doc)
	return nil
}

func writeSimple(w http.ResponseWriter, m Message) {
	header := w.Header()
	if len(m.Drop) > 0 {
		header.Set(headerDrop, strings.Join(m.Drop, ", "))
	}
	header[headerContentType] = nil // or net/http would guess one
	for name, value := range m.Headers {
		if name == contentType && !m.SameBody && !isResult(value) {
			header.Set(headerContentType, value)
		} else {
			header.Set(ownHeaderPrefix+name, encodeValue(value))
		}
	}
	if m.SameBody {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	header.Set("Content-Length", strconv.Itoa(len(m.Body)))
	w.WriteHeader(http.StatusOK)
	w.Write(m.Body)
}

// writeFailure answers with the status that the client sorts into the same class.
func writeFailure(w http.ResponseWriter, err error) {
	var f *Failure
	if !errors.As(err, &f) {
		http.Error(w, clean(err.Error()), http.StatusInternalServerError)
		return
	}
	if f.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.FormatFloat(math.Ceil(f.RetryAfter.Seconds()), 'f', 0, 64))
	}
	switch f.Class {
	case Rejected:
		w.Header().Set(headerContentType, ResultType)
		fmt.Fprintf(w, `{"result":"fail","reason":%s}`, quote(f.Reason))
	case Limited:
		http.Error(w, f.Reason, http.StatusTooManyRequests)
	case Unavailable:
		http.Error(w, f.Reason, http.StatusServiceUnavailable)
	default:
		http.Error(w, f.Reason, http.StatusInternalServerError)
	}
}

// encode writes a result document. By hand, because encoding/json would write
// the bodies anew.
func encode(reply Reply) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"result":"%s"`, reply.Verdict)
	switch reply.Verdict {
	case Done:
		b.WriteString(`,"messages":[`)
		for i, m := range reply.Messages {
			if i > 0 {
				b.WriteByte(',')
			}
			encodeMessage(&b, m)
		}
		b.WriteByte(']')
		if reply.Cursor != "" {
			fmt.Fprintf(&b, `,"cursor":%s`, quote(reply.Cursor))
		}
	case Stop:
	case Repeat:
		fmt.Fprintf(&b, `,"after_seconds":%s`, strconv.FormatFloat(reply.After.Seconds(), 'f', -1, 64))
	default:
		return nil, fmt.Errorf("the reply has no verdict: %s", reply.Verdict)
	}
	if reply.Reason != "" && reply.Verdict != Done {
		fmt.Fprintf(&b, `,"reason":%s`, quote(reply.Reason))
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func encodeMessage(b *bytes.Buffer, m Message) {
	separator := byte('{')
	field := func(name string) {
		b.WriteByte(separator)
		fmt.Fprintf(b, `"%s":`, name)
		separator = ','
	}
	if m.Followers != nil {
		field("followers")
		quoteList(b, m.Followers)
	}
	if len(m.Headers) > 0 {
		field("headers")
		for i, name := range slices.Sorted(maps.Keys(m.Headers)) {
			b.WriteByte("{,"[min(i, 1)])
			b.WriteString(quote(name) + ":" + quote(m.Headers[name]))
		}
		b.WriteByte('}')
	}
	if len(m.Drop) > 0 {
		field("drop")
		quoteList(b, m.Drop)
	}
	if !m.SameBody {
		form, body := encodeBody(m)
		field(form)
		b.Write(body)
	}
	if separator == '{' {
		b.WriteByte('{')
	}
	b.WriteByte('}')
}

// encodeBody chooses the form for a body. JSON and text stay readable if they
// come out of it as they went in, and if their content type is given: left out,
// these two forms would imply one.
func encodeBody(m Message) (form string, body []byte) {
	kind, typed := m.Headers[contentType]
	switch {
	case typed && strings.Contains(kind, "json") && isValue(m.Body):
		return "body", m.Body
	case typed && utf8.Valid(m.Body):
		return "text", []byte(quote(string(m.Body)))
	}
	return "base64", []byte(`"` + base64.StdEncoding.EncodeToString(m.Body) + `"`)
}

// isValue reports whether a body is a JSON value without space around it.
func isValue(body []byte) bool {
	v, err := parseJSON(body)
	return err == nil && len(v) == len(body)
}

func quote(s string) string {
	b, _ := json.Marshal(s) // a string always marshals
	return string(b)
}

func quoteList(b *bytes.Buffer, list []string) {
	for i, s := range list {
		b.WriteByte("[,"[min(i, 1)])
		b.WriteString(quote(s))
	}
	if len(list) == 0 {
		b.WriteByte('[')
	}
	b.WriteByte(']')
}
