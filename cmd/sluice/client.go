package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/openapi"
)

// apiFlags say which Sluice a command talks to, and as whom.
type apiFlags struct {
	URL string `group:"api" from:"SLUICE_URL" placeholder:"URL" help:"Where Sluice is. Default: the sluice dev of this machine, or ${url}."`
	Key string `group:"api" from:"SLUICE_API_KEY" secret:"" placeholder:"KEY" help:"API key. Default: that of the sluice dev of this machine."`
}

// AfterApply notes how the API is reached, for the commands that ask for a client.
func (f *apiFlags) AfterApply(p *program) error { //nolint:unparam // kong wants it so
	p.api = f
	return nil
}

const (
	defaultURL  = "http://127.0.0.1:8080"
	callTimeout = time.Minute
	maxAnswer   = 256 << 20 // a page of the trash may hold large bodies
)

// client calls the API of a running Sluice.
type client struct {
	base string
	key  string
	http *http.Client
}

// errNoKey says that nothing was found to talk to the API with.
var errNoKey = errors.New("no API key: give one with --key or SLUICE_API_KEY, or start `sluice dev`, whose key is found by itself")

// client finds out where Sluice is and with which key it is to be called.
func (f *apiFlags) client(p *program) (*client, error) {
	c := &client{base: strings.TrimRight(f.URL, "/"), key: f.Key}
	if f.Key == "" {
		// The key of a dev goes nowhere but to that dev.
		if d, err := readDevAccess(p); err == nil && (c.base == "" || c.base == d.URL) {
			c.base, c.key = d.URL, d.Key
		}
	}
	if c.base == "" {
		c.base = defaultURL
	}
	u, err := url.Parse(c.base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, usagef("--url %q is no http or https URL", c.base)
	}
	if c.key == "" {
		return nil, errNoKey
	}
	c.http = &http.Client{
		Timeout: callTimeout,
		// Whoever redirects would be given the key.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// request is one call of the API.
type request struct {
	method  string
	path    string // below /v1
	query   url.Values
	headers map[string]string
	body    []byte
	timeout time.Duration // default: callTimeout
}

// pathOf joins the parts of a path; each may hold anything.
func pathOf(parts ...string) string {
	for i, part := range parts {
		parts[i] = url.PathEscape(part)
	}
	return "/" + strings.Join(parts, "/")
}

// queryOf is a query of names and values; those without a value are left out.
func queryOf(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}

// jsonBody makes a request's body of a value.
func (r request) jsonBody(v any) request {
	r.body, _ = json.Marshal(v) // texts, numbers and lists of them always can
	r.headers = maps.Clone(r.headers)
	if r.headers == nil {
		r.headers = map[string]string{}
	}
	r.headers["Content-Type"] = "application/json"
	return r
}

// send makes a call and returns what came, or a [*apiError] when it was refused.
func (c *client) send(ctx context.Context, r request) ([]byte, error) {
	h := *c.http
	if r.timeout != 0 {
		h.Timeout = r.timeout
	}
	address := c.base + "/v1" + r.path
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, address, bytes.NewReader(r.body))
	if err != nil {
		return nil, usagef("%s", err)
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	req.Header.Set("User-Agent", "sluice-cli/"+version())
	for name, value := range r.headers {
		req.Header.Set(name, value)
	}
	resp, err := h.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, c.unreachable(ctx, err)
	case len(body) > maxAnswer:
		return nil, fmt.Errorf("the answer of %s is larger than %d bytes: ask for less, with --limit", c.base, maxAnswer)
	case resp.StatusCode >= 300:
		return nil, c.refused(resp, body)
	}
	return body, nil
}

func (c *client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if of, ok := errors.AsType[*url.Error](err); ok {
		err = of.Err // without the URL, which stands before it
	}
	return fmt.Errorf("cannot reach Sluice at %s: %w: is it running? start one with `sluice dev`, or say where it is with --url", c.base, err)
}

// apiError is a refusal by the API.
type apiError struct {
	openapi.Problem
	retryAfter time.Duration
}

func (c *client) refused(resp *http.Response, body []byte) error {
	e := &apiError{}
	kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if kind != "application/problem+json" || json.Unmarshal(body, &e.Problem) != nil || e.Title == "" {
		return fmt.Errorf("%s answered %s, and not in the way of Sluice: is the URL right?", c.base, resp.Status)
	}
	seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	e.retryAfter = time.Duration(seconds) * time.Second
	return e
}

// Error is what is wrong, on one line, and under it one line for each mistake where there are several.
func (e *apiError) Error() string {
	text := e.Detail
	if text == "" {
		text = e.Title
	}
	mistakes := make([]string, len(e.Errors))
	for i, m := range e.Errors {
		mistakes[i] = m.Detail
		switch {
		case m.Location != "":
			mistakes[i] = m.Location + ": " + m.Detail
		case m.Pointer != "" && m.Pointer != "#":
			mistakes[i] = m.Pointer + ": " + m.Detail
		}
	}
	switch {
	case len(mistakes) > 1:
		return text + ":\n" + strings.Join(mistakes, "\n")
	case len(mistakes) == 1 && (e.Detail == "" || e.Detail == validationFailed):
		return mistakes[0]
	case len(mistakes) == 1:
		return fmt.Sprintf("%s (%s)", text, mistakes[0])
	}
	return text
}

// validationFailed is the detail of a problem that leaves it to its mistakes to say what is wrong.
const validationFailed = "validation failed"

// answer is what came: as it is, for JSON output, and the part of it that is shown to people.
type answer[T any] struct {
	Shown T
	raw   json.RawMessage
}

// UnmarshalJSON keeps both.
func (a *answer[T]) UnmarshalJSON(data []byte) error {
	a.raw = slices.Clone(data)
	return json.Unmarshal(data, &a.Shown)
}

// MarshalJSON gives back what came, all of it.
func (a answer[T]) MarshalJSON() ([]byte, error) {
	if a.raw == nil {
		return json.Marshal(a.Shown) // it came another way
	}
	return a.raw, nil
}

// ask makes a call that is answered with a JSON document.
func ask[T any](ctx context.Context, c *client, r request) (answer[T], error) {
	var a answer[T]
	body, err := c.send(ctx, r)
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return a, fmt.Errorf("%s answered what this program does not understand: %w: is it another version? this is %s", c.base, err, version())
	}
	return a, nil
}

// listing is what a list command prints.
type listing[T any] struct {
	Items []answer[T] `json:"items"`
	Next  string      `json:"next,omitempty"` // there is more
}

// pageSize is how many items are asked for at once.
const pageSize = 200

// list asks for a list, page after page, until it has limit items or all.
func list[T any](ctx context.Context, c *client, path string, query url.Values, limit int) (listing[T], error) {
	all := listing[T]{Items: []answer[T]{}}
	for {
		q := maps.Clone(query)
		if q == nil {
			q = url.Values{}
		}
		q.Set("limit", strconv.Itoa(min(limit-len(all.Items), pageSize)))
		if all.Next != "" {
			q.Set("after", all.Next)
		}
		page, err := ask[listing[T]](ctx, c, request{method: http.MethodGet, path: path, query: q})
		if err != nil {
			return all, err
		}
		all.Items = append(all.Items, page.Shown.Items...)
		all.Next = page.Shown.Next
		if all.Next == "" || len(all.Items) >= limit {
			return all, nil
		}
	}
}

// more tells of a list that it goes on.
func (l listing[T]) more(p *program) {
	if l.Next != "" && p.output == "text" {
		p.note("There are more than these %d: see them with --limit.", len(l.Items))
	}
}

// explain is what an error says to whoever sits at the keyboard.
func explain(err error) string {
	var refused *apiError
	switch {
	case errors.Is(err, context.Canceled):
		return "interrupted"
	case errors.As(err, &refused):
		return err.Error() + advice(refused)
	}
	return err.Error()
}

// lists are the commands that show what there is, by where it is in the API.
var lists = map[string]string{
	"/v1/topologies": "topology", "/v1/processes": "process", "/v1/trash": "trash", "/v1/limits": "limits", "/v1/applications": "application", "/v1/workers": "worker", "/v1/keys": "key",
}

// advice is what to do about a refusal where the API, which knows no flags, cannot say it.
func advice(e *apiError) string {
	switch e.Code {
	case openapi.Unauthenticated.Code:
		return ": give another with --key or SLUICE_API_KEY; `sluice key create` makes one"
	case openapi.Forbidden.Code:
		return ": use a key that may, or make one with `sluice key create --scope`"
	case openapi.NotFound.Code:
		for path, command := range lists {
			if strings.HasPrefix(e.Instance, path) {
				return fmt.Sprintf(": see `sluice %s list`", command)
			}
		}
	case openapi.HoldsMessages.Code:
		return ": add --messages drain to let them finish, or --messages trash to put them in the trash"
	case openapi.NotEnabled.Code:
		return ": enable it with `sluice topology enable`"
	case openapi.Unavailable.Code, openapi.TooManyRequests.Code:
		return fmt.Sprintf(": try again in %s", max(e.retryAfter, time.Second))
	}
	return ""
}
