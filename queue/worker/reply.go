package worker

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// reader turns the worker's HTTP reply into a [Reply] to a request.
type reader struct {
	request     *Request
	headers     map[string]string // the request's, names in lower case
	maxMessages int
	large       bool // the reply is: its messages must not keep all of it in memory
}

// rejection is a worker's word that a message fails for good.
type rejection string

func (r rejection) Error() string { return string(r) }

// read reads a reply with a status of 2xx. It fails with a rejection if the
// worker says so, otherwise for a reply that breaks the protocol.
func (r reader) read(status int, header http.Header, body []byte) (Reply, error) {
	if status != http.StatusNoContent && isResult(header.Get(headerContentType)) {
		reply, err := r.result(body)
		return r.settle(reply), err
	}
	if status == http.StatusNoContent && r.request.Page > 0 {
		return Reply{Verdict: Done}, nil // the last page, with nothing on it
	}
	set, err := ownHeaders(header)
	if err != nil {
		return Reply{}, err
	}
	m := Message{Body: body, Headers: set, Drop: dropped(header)}
	kind := header.Get(headerContentType)
	if status == http.StatusNoContent {
		m.Body, m.SameBody, kind = nil, true, ""
	}
	if !printable(kind) {
		return Reply{}, errors.New("header Content-Type is not printable ASCII")
	}
	if err := r.inherit(&m, kind); err != nil {
		return Reply{}, err
	}
	return Reply{Verdict: Done, Messages: []Message{m}}, nil
}

// settle gives a filter one name, whichever way the worker said it.
func (r reader) settle(reply Reply) Reply {
	if reply.Verdict == Done && len(reply.Messages) == 0 {
		reply.Messages = nil
		if r.request.Page == 0 {
			reply.Verdict = Stop
		}
	}
	return reply
}

func isResult(mediaType string) bool {
	mediaType, _, _ = strings.Cut(mediaType, ";")
	return strings.EqualFold(strings.TrimSpace(mediaType), ResultType)
}

func dropped(header http.Header) []string {
	var names []string
	for _, line := range header[headerDrop] {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.ToLower(strings.TrimSpace(name)); name != "" {
				names = append(names, name)
			}
		}
	}
	return names
}

// inherit completes the headers of a new message: the request's carry on but for
// those dropped, then the new ones are set. The content type belongs to the
// body: it carries on with the same body, a new body has its own or none.
func (r reader) inherit(m *Message, mediaType string) error {
	set, drop := m.Headers, m.Drop
	m.Drop = nil
	if len(set) == 0 && len(drop) == 0 && (m.SameBody || mediaType == r.headers[contentType]) {
		m.Headers = r.headers // all the same, so nothing to copy
		return nil
	}
	headers := make(map[string]string, len(r.headers)+len(set)+1)
	maps.Copy(headers, r.headers)
	for _, name := range drop {
		if name == "*" {
			clear(headers)
			if kind, found := r.headers[contentType]; found && m.SameBody {
				headers[contentType] = kind
			}
		}
	}
	for _, name := range drop {
		delete(headers, name)
	}
	if !m.SameBody {
		delete(headers, contentType)
		if mediaType != "" {
			headers[contentType] = mediaType
		}
	}
	maps.Copy(headers, set)
	if err := CheckHeaders(headers); err != nil {
		return err
	}
	m.Headers = headers
	return nil
}

// document is a result document, as far as it is read.
type document struct {
	result    string
	followers []string
	messages  []value // nil: not given
	after     *time.Duration
	reason    string
	cursor    string
}

// result reads a result document.
func (r reader) result(body []byte) (Reply, error) {
	root, err := parseJSON(body)
	if err != nil {
		return Reply{}, err
	}
	doc, err := r.document(root)
	if err != nil {
		return Reply{}, err
	}
	reply := Reply{Cursor: doc.cursor, Reason: clean(doc.reason)}
	switch doc.result {
	case "done":
		reply.Verdict = Done
		reply.Messages, err = r.messages(doc)
		return reply, err
	case "stop":
		reply.Verdict = Stop
		return reply, nil
	case "repeat":
		reply.Verdict, reply.After = Repeat, *doc.after
		return reply, nil
	default: // fail, the document has checked it
		if reply.Reason == "" {
			return Reply{}, rejection("the worker failed it and gave no reason")
		}
		return Reply{}, rejection(reply.Reason)
	}
}

// fields says which fields go with which result.
var fields = map[string]string{
	"done":   " result followers messages cursor ",
	"stop":   " result reason ",
	"repeat": " result reason after_seconds ",
	"fail":   " result reason ",
}

func (r reader) document(root value) (document, error) {
	var doc document
	var names []string
	err := root.members(func(name string, v value) (err error) {
		names = append(names, name)
		switch name {
		case "result":
			doc.result, err = v.text()
		case "followers":
			doc.followers, err = followers(v)
		case "messages":
			doc.messages, err = r.list(v)
		case "after_seconds":
			doc.after, err = after(v)
		case "reason":
			doc.reason, err = v.text()
		case "cursor":
			doc.cursor, err = cursor(v)
		default:
			return fmt.Errorf("unknown field %.80q", name)
		}
		return at(name, err)
	})
	if err != nil {
		return document{}, err
	}
	allowed, known := fields[doc.result]
	switch {
	case doc.result == "":
		return document{}, errors.New("result: want done, stop, repeat or fail")
	case !known:
		return document{}, fmt.Errorf("result: want done, stop, repeat or fail, got %.80q", doc.result)
	case doc.result == "repeat" && doc.after == nil:
		return document{}, errors.New("after_seconds: repeat needs it")
	case doc.cursor != "" && r.request.Page == 0:
		return document{}, errors.New("cursor: only a batch node has pages")
	}
	for _, name := range names {
		if !strings.Contains(allowed, " "+name+" ") {
			return document{}, fmt.Errorf("%s: does not go with %s", name, doc.result)
		}
	}
	return doc, nil
}

// messages are what a done passes on. Not to give any passes the request's on;
// but for a batch it is a page with nothing on it, since nobody wants the event
// that set the batch off to come out of each page.
func (r reader) messages(doc document) ([]Message, error) {
	switch {
	case doc.messages != nil:
	case r.request.Page > 0, doc.followers != nil && len(doc.followers) == 0:
		return nil, nil
	default:
		return []Message{{Followers: doc.followers, SameBody: true, Headers: r.headers}}, nil
	}
	messages := make([]Message, 0, len(doc.messages))
	for i, v := range doc.messages {
		m, err := r.message(v, doc.followers)
		if err != nil {
			return nil, fmt.Errorf("messages[%d]: %w", i, err)
		}
		if m.Followers == nil || len(m.Followers) > 0 { // one that goes to nobody is filtered
			messages = append(messages, m)
		}
	}
	return messages, nil
}

func (r reader) list(v value) ([]value, error) {
	list := []value{}
	err := v.elements(func(i int, element value) error {
		if i == r.maxMessages {
			return fmt.Errorf("more than %d messages", r.maxMessages)
		}
		list = append(list, element)
		return nil
	})
	return list, err
}

func (r reader) message(v value, to []string) (Message, error) {
	m := Message{Followers: to, SameBody: true}
	mediaType, bodies := "", 0
	err := v.members(func(name string, v value) (err error) {
		switch name {
		case "followers":
			m.Followers, err = followers(v)
		case "headers":
			m.Headers, err = headers(v)
		case "drop":
			m.Drop, err = texts(v)
		case "body":
			bodies++
			m.Body, mediaType = v, "application/json"
			if r.large {
				m.Body = bytes.Clone(v)
			}
		case "text":
			bodies++
			mediaType = "text/plain; charset=utf-8"
			var text string
			text, err = v.text()
			m.Body = []byte(text)
		case "base64":
			bodies++
			m.Body, err = decode64(v)
		default:
			return fmt.Errorf("unknown field %.80q", name)
		}
		return at(name, err)
	})
	switch {
	case err != nil:
		return Message{}, err
	case bodies > 1:
		return Message{}, errors.New("more than one of body, text and base64")
	case bodies == 1:
		m.SameBody = false
	}
	for i, name := range m.Drop {
		m.Drop[i] = strings.ToLower(name)
	}
	if err := r.inherit(&m, mediaType); err != nil {
		return Message{}, at("headers", err)
	}
	return m, nil
}

// at says where an error is.
func at(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", name, err)
}

func followers(v value) ([]string, error) {
	names, err := texts(v)
	if err != nil {
		return nil, err
	}
	seen := make(map[string]bool, len(names))
	for _, name := range names {
		switch {
		case name == "":
			return nil, errors.New("an empty name")
		case seen[name]:
			return nil, fmt.Errorf("%.80q is there twice", name)
		}
		seen[name] = true
	}
	return names, nil
}

// texts reads a list of strings; an empty list is not nil.
func texts(v value) ([]string, error) {
	list := []string{}
	err := v.elements(func(i int, element value) error {
		text, err := element.text()
		list = append(list, text)
		return err
	})
	return list, err
}

func headers(v value) (map[string]string, error) {
	set := make(map[string]string)
	err := v.members(func(name string, v value) error {
		text, err := v.text()
		if err != nil {
			return fmt.Errorf("%.80q: %w", name, err)
		}
		name = strings.ToLower(name)
		if _, twice := set[name]; twice {
			return fmt.Errorf("%.80q is there twice", name)
		}
		set[name] = text
		return nil
	})
	return set, err
}

func decode64(v value) ([]byte, error) {
	text, err := v.text()
	if err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, errors.New("not base64 of the standard alphabet, with padding")
	}
	return b, nil
}

func after(v value) (*time.Duration, error) {
	if err := v.want("a number"); err != nil {
		return nil, err
	}
	seconds, err := strconv.ParseFloat(string(v), 64)
	if err != nil || seconds < 0 || seconds > MaxAfter.Seconds() {
		return nil, fmt.Errorf("want 0 to %d, got %.40s", MaxAfter/time.Second, v)
	}
	d := time.Duration(seconds * float64(time.Second))
	return &d, nil
}

func cursor(v value) (string, error) {
	text, err := v.text()
	switch {
	case err != nil:
		return "", err
	case strings.IndexByte(text, 0) >= 0:
		return "", errors.New("holds NUL")
	case encodedLen(text) > MaxCursorBytes:
		return "", fmt.Errorf("%d bytes, percent-encoded, more than %d", encodedLen(text), MaxCursorBytes)
	}
	return text, nil
}
