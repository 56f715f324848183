package orchesty

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"sluice/queue/worker"
)

// Bounds of what a worker may say of an application, and how long it has. A third
// party may have to be asked meanwhile.
const (
	applicationTime  = 25 * time.Second
	maxApplication   = 8 << 20
	maxFields        = 2000
	maxTextOfSetting = 20_000 // bytes of a description, or an info
)

// Ask asks a worker for something about an application and returns what it says, in
// JSON. The error is always a [*worker.Failure]: rejected with the worker's own first
// line where it refused.
func (c *Client) Ask(ctx context.Context, target worker.Target, call worker.ApplicationCall) (json.RawMessage, error) {
	path, err := pathOfCall(target, call)
	if err != nil {
		return nil, rejected("the worker cannot be asked: %s", err)
	}
	post := worker.Post{
		Method: call.Method, Path: path, Query: call.Query, Deadline: time.Now().Add(applicationTime),
		Replies: func(status int) bool {
			return status == http.StatusBadRequest || status == http.StatusInternalServerError
		},
	}
	if call.Body != nil {
		body, err := json.Marshal(call.Body)
		if err != nil {
			return nil, rejected("the worker cannot be asked: %s", err)
		}
		body = asciiJSON(body)
		post.Header = http.Header{"Content-Type": {"application/json"}}
		post.Body, post.Size = func() io.Reader { return bytes.NewReader(body) }, int64(len(body))
	}
	answer, err := c.http.Post(ctx, target, post)
	if answer.Room != nil {
		defer answer.Room.Release()
	}
	switch {
	case err != nil:
		return nil, err
	case answer.Status >= http.StatusBadRequest:
		f := rejected("%s", orWords(firstLine(answer.Body), fmt.Sprintf("worker %s answered %d and gave no reason", target.Name, answer.Status)))
		f.Reason, f.Status = strings.TrimSuffix(strings.TrimPrefix(f.Reason, "Error occurred: "), "undefined"), answer.Status // the SDK's ends
		return nil, f
	case len(answer.Body) > maxApplication:
		return nil, notListed(target, path, fmt.Errorf("%d bytes, more than %d", len(answer.Body), maxApplication))
	}
	return slices.Clone(json.RawMessage(answer.Body)), nil
}

// pathOfCall is where a worker is asked. Dialect b names the worker after the user.
func pathOfCall(target worker.Target, call worker.ApplicationCall) (string, error) {
	path := []string{"applications"}
	if call.Webhooks {
		path = []string{"webhook", "applications"}
	}
	rest := call.Path
	if call.User != "" {
		path = append(path, rest[0], "users", call.User)
		rest = rest[1:]
		if target.Dialect == worker.DialectB {
			path = append(path, "sdk", target.Name)
		}
	}
	path = append(path, rest...)
	for _, segment := range path {
		if strings.ContainsRune(segment, '/') || len(segment) > maxListedName {
			return "", fmt.Errorf("%.80q can be no part of an address", segment)
		}
	}
	return strings.Join(path, "/"), nil
}

// asciiJSON writes JSON in ASCII alone: what is beyond stands in texts, where an
// escape says the same.
func asciiJSON(doc []byte) []byte {
	if !slices.ContainsFunc(doc, func(c byte) bool { return c >= utf8.RuneSelf }) {
		return doc
	}
	b := make([]byte, 0, len(doc)*2)
	for len(doc) > 0 {
		_, size := utf8.DecodeRune(doc)
		if size == 1 && doc[0] < utf8.RuneSelf {
			b = append(b, doc[0])
		} else {
			b, _ = appendEscaped(b, doc[:size], unbounded)
		}
		doc = doc[size:]
	}
	return b
}

// application is what a worker writes of one.
type application struct {
	Key           string         `json:"key"`
	Name          string         `json:"name"`
	Description   string         `json:"description"`
	Info          string         `json:"info"`
	Logo          *string        `json:"logo"`
	Authorization string         `json:"authorization_type"`
	Type          string         `json:"application_type"`
	Installable   bool           `json:"isInstallable"`
	Authorized    bool           `json:"authorized"`
	Enabled       bool           `json:"enabled"`
	Actions       []string       `json:"syncMethods"`
	Settings      inOrder        `json:"applicationSettings"`
	Buttons       anything       `json:"customActions"`
	Webhooks      []eventSetting `json:"webhookSettings"`
}

type eventSetting struct {
	Name     string `json:"name"`
	Default  bool   `json:"default"`
	Enabled  bool   `json:"enabled"`
	Topology string `json:"topology"`
}

type anything = json.RawMessage

// inOrder are the members of an object, in the order in which they were written.
type inOrder []json.RawMessage

// UnmarshalJSON takes an object, or a list of what would be in it.
func (o *inOrder) UnmarshalJSON(b []byte) error {
	if b[0] != '{' {
		return json.Unmarshal(b, (*[]json.RawMessage)(o))
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if _, err := d.Token(); err != nil {
		return err
	}
	for d.More() {
		var member json.RawMessage
		if _, err := d.Token(); err != nil { // its key, which it has in itself too
			return err
		}
		if err := d.Decode(&member); err != nil {
			return err
		}
		*o = append(*o, member)
	}
	return nil
}

type form struct {
	Key         string  `json:"key"`
	Name        string  `json:"publicName"`
	Description string  `json:"description"`
	ReadOnly    bool    `json:"readOnly"`
	Fields      []field `json:"fields"`
}

type field struct {
	Type        string            `json:"type"`
	Key         string            `json:"key"`
	Value       anything          `json:"value"`
	Label       string            `json:"label"`
	Description string            `json:"description"`
	Required    bool              `json:"required"`
	ReadOnly    bool              `json:"readOnly"`
	Disabled    bool              `json:"disabled"`
	Choices     []json.RawMessage `json:"choices"`
}

// Application asks for an application: by itself, or as the user has it.
func (c *Client) Application(ctx context.Context, target worker.Target, key, user string) (worker.Application, error) {
	doc, err := c.Ask(ctx, target, worker.ApplicationCall{Method: http.MethodGet, Path: []string{key}, User: user})
	if err != nil {
		return worker.Application{}, err
	}
	a, err := parseApplication(doc)
	if err != nil {
		return worker.Application{}, notListed(target, "application "+key, err)
	}
	return a, nil
}

func parseApplication(doc []byte) (worker.Application, error) {
	var from application
	if err := json.Unmarshal(doc, &from); err != nil || from.Key == "" {
		return worker.Application{}, errors.New("want an application")
	}
	a := worker.Application{
		Key: worker.Clean(from.Key), Name: worker.Clean(from.Name), Description: text(from.Description), Info: text(from.Info),
		Authorization: worker.Clean(from.Authorization), Type: worker.Clean(from.Type), Installable: from.Installable,
		Authorized: from.Authorized, Enabled: from.Enabled, Buttons: from.Buttons,
	}
	if from.Logo != nil && strings.HasPrefix(*from.Logo, "data:image/") {
		a.Logo = *from.Logo
	}
	for _, name := range from.Actions {
		if checkListed(name) == nil {
			a.Actions = append(a.Actions, name)
		}
	}
	for _, w := range from.Webhooks {
		a.Webhooks = append(a.Webhooks, worker.ApplicationWebhook{Name: worker.Clean(w.Name), Default: w.Default, Enabled: w.Enabled, Topology: worker.Clean(w.Topology)})
	}
	var err error
	a.Forms, err = parseForms(from.Settings)
	return a, err
}

func parseForms(members inOrder) ([]worker.Form, error) {
	var forms []worker.Form
	fields := 0
	for _, member := range members {
		var from form
		if err := json.Unmarshal(member, &from); err != nil || from.Key == "" {
			return nil, errors.New("want a form with a key and fields")
		}
		to := worker.Form{Key: from.Key, Name: worker.Clean(from.Name), Description: text(from.Description), ReadOnly: from.ReadOnly}
		if fields += len(from.Fields); fields > maxFields {
			return nil, fmt.Errorf("more than %d settings", maxFields)
		}
		for _, f := range from.Fields {
			to.Fields = append(to.Fields, f.parsed())
		}
		forms = append(forms, to)
	}
	return forms, nil
}

// parsed is a field, of a password without what is in it, whatever the worker says.
func (f field) parsed() worker.Field {
	to := worker.Field{
		Key: f.Key, Type: f.Type, Label: worker.Clean(f.Label), Description: text(f.Description), Value: f.Value,
		Required: f.Required, ReadOnly: f.ReadOnly, Disabled: f.Disabled,
	}
	if f.Type == worker.FieldPassword {
		to.Value = json.RawMessage("true")
		if empty := strings.TrimSpace(string(f.Value)); empty == "" || empty == "null" || empty == "false" || empty == `""` {
			to.Value = json.RawMessage("false")
		}
	}
	for _, choice := range f.Choices {
		var value string
		var labelled map[string]string
		if json.Unmarshal(choice, &value) == nil {
			to.Choices = append(to.Choices, worker.Choice{Value: value, Label: value})
		} else if json.Unmarshal(choice, &labelled) == nil {
			for _, value := range slices.Sorted(maps.Keys(labelled)) {
				to.Choices = append(to.Choices, worker.Choice{Value: value, Label: labelled[value]})
			}
		}
	}
	return to
}

// text is a text of several lines that can be shown.
func text(s string) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	if len(s) > maxTextOfSetting {
		s = strings.ToValidUTF8(s[:maxTextOfSetting], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
			return -1
		}
		return r
	}, s)
}
