package openapi

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Problem is a refusal as the API tells it (RFC 9457). It is an error: a handler returns it, wrapped or not. Kinds make
// problems; what is left empty is filled in when it is written.
type Problem struct {
	Type      string   `json:"type" format:"uri-reference" example:"/problems/not-found" doc:"The kind of problem; it can be fetched for an explanation"`
	Title     string   `json:"title" example:"Not found" doc:"The kind of problem in words; the same each time"`
	Status    int      `json:"status" example:"404" doc:"The HTTP status"`
	Detail    string   `json:"detail,omitempty" example:"there is no topology named \"orders\"" doc:"What is wrong this time, for people"`
	Instance  string   `json:"instance,omitempty" format:"uri-reference" example:"/v1/topologies/orders" doc:"The path of the request"`
	Code      string   `json:"code" example:"not-found" doc:"The kind of problem, for programs; never changes its meaning"`
	RequestID string   `json:"request_id,omitempty" doc:"The request as the server's log names it; also in the header X-Request-Id"`
	Messages  *int64   `json:"messages,omitempty" doc:"How many messages are in question, where the problem is about them"`
	Errors    []Detail `json:"errors,omitempty" doc:"The single mistakes, where the request has several"`

	// RetryAfter is told in the header Retry-After, too. Zero leaves it out, but for 429 and 503, which always have one.
	RetryAfter Seconds `json:"retry_after,omitempty" doc:"After how many seconds trying again makes sense"`
}

// Seconds is a time span that is told in whole seconds, rounded up.
type Seconds time.Duration

func (s Seconds) whole() int64 { return int64((time.Duration(s) + time.Second - 1) / time.Second) }

// MarshalJSON implements json.Marshaler.
func (s Seconds) MarshalJSON() ([]byte, error) { return strconv.AppendInt(nil, s.whole(), 10), nil }

// UnmarshalJSON implements json.Unmarshaler.
func (s *Seconds) UnmarshalJSON(data []byte) error {
	var n int32
	err := json.Unmarshal(data, &n)
	*s = Seconds(time.Duration(n) * time.Second)
	return err
}

// Schema implements huma.SchemaProvider.
func (Seconds) Schema(huma.Registry) *huma.Schema {
	least := 1.0
	return &huma.Schema{Type: huma.TypeInteger, Minimum: &least, Examples: []any{1}}
}

// Detail is one mistake in a request.
type Detail struct {
	Detail   string `json:"detail" example:"expected number to be at most 500" doc:"What is wrong"`
	Pointer  string `json:"pointer,omitempty" example:"#/nodes/0/name" doc:"Where in the body, as a JSON pointer in a URI fragment (RFC 6901); # is the body as a whole"`
	Location string `json:"location,omitempty" example:"query.limit" doc:"Where outside of the body: path.<name>, query.<name> or header.<name>; or a place in a file"`
}

// Error implements error.
func (p *Problem) Error() string {
	if p.Detail == "" {
		return p.Title
	}
	return p.Detail
}

// GetStatus tells huma the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType tells huma the content type.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// With adds single mistakes to the problem.
func (p *Problem) With(errs ...Detail) *Problem {
	p.Errors = append(p.Errors, errs...)
	return p
}

// Retry sets when the client may try again.
func (p *Problem) Retry(after time.Duration) *Problem {
	p.RetryAfter = Seconds(after)
	return p
}

// Counting sets how many messages are in question.
func (p *Problem) Counting(messages int64) *Problem {
	p.Messages = &messages
	return p
}

// WriteProblem answers a request with a problem, for handlers that are not huma's.
func WriteProblem(w http.ResponseWriter, r *http.Request, p *Problem) {
	q := p.completed(r.Context(), r.URL)
	body, _ := json.Marshal(q) // strings and numbers always can
	h := w.Header()
	h.Del("Content-Length")
	h.Set("Content-Type", q.ContentType(""))
	q.headers(h.Set)
	w.WriteHeader(q.Status)
	_, _ = w.Write(append(body, '\n')) // a client that left is no one to tell
}

// SetHeaders sets the headers that belong to a problem, for handlers that tell it in another form.
func (p *Problem) SetHeaders(r *http.Request, h http.Header) {
	p.completed(r.Context(), r.URL).headers(h.Set)
}

// WriteError answers a request with the problem that an error is, for handlers that are not huma's. An error that is
// none, and that the server's translation does not know, is logged and told as an internal error.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	WriteProblem(w, r, ProblemOf(r.Context(), err))
}

// ProblemOf finds the problem that an error is, for handlers that answer in another form. It logs what is none of the client's.
func ProblemOf(ctx context.Context, err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	if p := bodyProblem(err); p != nil {
		return p
	}
	x := exchangeOf(ctx)
	if p := x.config.Translate(err); p != nil {
		return p
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return Unavailable.Because("the request was given up") // there is no one left to read it
	}
	x.config.Logger.LogAttrs(ctx, slog.LevelError, "Request failed", x.attrs(err)...)
	return Internal.problem("")
}

// newError is how huma makes its errors.
func newError(hctx huma.Context, status int, msg string, errs ...error) huma.StatusError {
	for _, err := range errs {
		if p, ok := errors.AsType[*Problem](err); ok {
			return p // a resolver's
		}
	}
	if status >= http.StatusInternalServerError {
		ctx := context.Background()
		if hctx != nil {
			ctx = hctx.Context()
		}
		return ProblemOf(ctx, errors.Join(append([]error{errors.New(msg)}, errs...)...))
	}
	p := kindOf(status).problem(msg)
	for _, err := range errs {
		p.Errors = append(p.Errors, detailOf(err))
	}
	return p
}

// detailOf leaves out the value that huma would echo: it may be a secret, and it may be the whole body.
func detailOf(err error) Detail {
	var located huma.ErrorDetailer
	if !errors.As(err, &located) {
		return Detail{Detail: err.Error()}
	}
	d := located.ErrorDetail()
	if d.Location == "body" || strings.HasPrefix(d.Location, "body.") || strings.HasPrefix(d.Location, "body[") {
		return Detail{Detail: d.Message, Pointer: pointer(strings.TrimPrefix(d.Location, "body"))}
	}
	return Detail{Detail: d.Message, Location: d.Location}
}

// pointer turns huma's path of a field (.nodes[0].name) into a JSON pointer in a URI fragment (#/nodes/0/name).
func pointer(path string) string {
	path = strings.ReplaceAll(path, "[", ".")
	var b strings.Builder
	b.WriteByte('#')
	for i, part := range strings.Split(path, ".") {
		if i == 0 {
			continue // what stands before the first dot is nothing
		}
		part = strings.NewReplacer("]", "", "~", "~0", "/", "~1").Replace(part)
		b.WriteByte('/')
		b.WriteString(strings.ReplaceAll(url.PathEscape(part), "%7E", "~"))
	}
	return b.String()
}

// finish completes the problems that go out through huma. It works on a copy, for a handler may return a shared one.
func finish(hctx huma.Context, _ string, v any) (any, error) {
	p, ok := v.(*Problem)
	if !ok {
		return v, nil
	}
	u := hctx.URL()
	q := p.completed(hctx.Context(), &u)
	q.headers(hctx.SetHeader)
	return q, nil
}

// longest is as much of a request's path as a problem repeats.
const longest = 500

func (p *Problem) completed(ctx context.Context, u *url.URL) *Problem {
	q := *p
	if q.Status == 0 {
		q.Status = http.StatusInternalServerError
	}
	k := kindOf(q.Status)
	if q.Code == "" {
		q.Code = k.Code
	}
	if q.Type == "" {
		q.Type = "/problems/" + q.Code
	}
	if q.Title == "" {
		q.Title = k.Title
	}
	if q.Instance == "" {
		if path := u.EscapedPath(); len(path) <= longest {
			q.Instance = path
		}
	}
	if q.RequestID == "" {
		q.RequestID = RequestID(ctx)
	}
	if q.RetryAfter <= 0 {
		q.RetryAfter = defaultRetry(q.Status)
	}
	return &q
}

// defaultRetry is when to try again after a refusal with that status that does not know better. 0: it will not help.
func defaultRetry(status int) Seconds {
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		return Seconds(time.Second)
	}
	return 0
}

func (p *Problem) headers(set func(name, value string)) {
	set("Cache-Control", "no-store")
	if p.RetryAfter > 0 {
		set("Retry-After", strconv.FormatInt(p.RetryAfter.whole(), 10))
	}
	if p.Status == http.StatusUnauthorized {
		set("WWW-Authenticate", `Bearer realm="sluice"`)
	}
}
