package openapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path"
	"runtime/debug"
	"strings"
	"time"
	"unicode/utf8"
)

// Config is what Handler may be told. Its zero value works.
type Config struct {
	// Logger gets what went wrong on this side. Nil discards it.
	Logger *slog.Logger
	// Translate turns an error of the domain into the problem that it is for the client, or nil when it does not know
	// it: then it is logged and told as an internal error. So handlers return errors as they are.
	Translate func(error) *Problem
	// MaxHeaderBytes is how much all headers of a request may take together; 0 is 64 KiB. The server's own limit must
	// be above it, for what the server refuses it refuses in plain text.
	MaxHeaderBytes int
	// BodyTime is how long the body of a request may take to arrive; 0 is 30 s. It holds for bodies that no handler
	// reads, too: the server reads the rest of them before it answers.
	BodyTime time.Duration
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Translate == nil {
		c.Translate = func(error) *Problem { return nil }
	}
	if c.MaxHeaderBytes == 0 {
		c.MaxHeaderBytes = 64 << 10
	}
	if c.BodyTime == 0 {
		c.BodyTime = 30 * time.Second
	}
	return c
}

// Handler is what every request goes through on its way to mux. It gives the request an id, refuses what no handler
// could take (text that is not UTF-8 or has a NUL in it, which Postgres would refuse later), turns the mux's own plain
// answers into problems, and recovers panics.
func Handler(mux *http.ServeMux, c Config) http.Handler {
	c = c.withDefaults()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := &exchange{id: requestID(r), config: &c, method: r.Method}
		r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
		x.pattern = &r.Pattern
		if r.Body != nil && r.Body != http.NoBody {
			b := &body{ReadCloser: r.Body, control: http.NewResponseController(w)}
			_ = b.control.SetReadDeadline(time.Now().Add(c.BodyTime)) // a test's recorder has none
			r.Body = b
		}
		aw := &answer{ResponseWriter: w, r: r}
		aw.Header().Set("X-Request-Id", x.id)
		aw.Header().Set("X-Content-Type-Options", "nosniff")
		defer aw.rescue(x)
		if p := refuse(r, c.MaxHeaderBytes); p != nil {
			WriteProblem(w, r, p)
			return
		}
		mux.ServeHTTP(aw, r)
	})
}

// refuse returns what is wrong with a request whatever its handler is.
func refuse(r *http.Request, maxHeaderBytes int) *Problem {
	if !wellFormed(r.URL.Path) {
		return InvalidRequest.Because("the path is not UTF-8 text")
	}
	if !isClean(r.URL.EscapedPath()) {
		return NotFound.Because("there is nothing at this path")
	}
	if r.URL.RawQuery != "" {
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			return InvalidRequest.Because("the query is not well formed")
		}
		for name, values := range query {
			if !wellFormed(name) || !wellFormed(strings.Join(values, "")) {
				return InvalidRequest.Because("the query is not UTF-8 text")
			}
		}
	}
	size := len(r.RequestURI)
	for name, values := range r.Header {
		for _, v := range values {
			size += len(name) + len(v) + len(": \r\n")
		}
	}
	if size > maxHeaderBytes {
		return HeadersTooLarge.Because("the headers take %d bytes together, %d are allowed", size, maxHeaderBytes)
	}
	return nil
}

// wellFormed tells whether Postgres would take s as text.
func wellFormed(s string) bool {
	return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0
}

// isClean tells whether the mux takes a path as it is. It would send a client elsewhere from a path with empty or dotted
// segments, but no client means one.
func isClean(p string) bool {
	return p == "" || p == "*" || p == "/" || path.Clean(p) == strings.TrimSuffix(p, "/")
}

// exchange is what is known of the request that a context belongs to.
type exchange struct {
	id      string
	config  *Config
	method  string
	pattern *string // set by the mux
}

type exchangeKey struct{}

// adrift stands for a request that did not come through Handler: in tests, mostly.
var adrift = func() *exchange {
	c := Config{}.withDefaults()
	return &exchange{config: &c, pattern: new(string)}
}()

func exchangeOf(ctx context.Context) *exchange {
	if x, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		return x
	}
	return adrift
}

func (x *exchange) attrs(err error) []slog.Attr {
	return []slog.Attr{
		slog.String("request_id", x.id), slog.String("method", x.method), slog.String("route", *x.pattern), slog.Any("err", err),
	}
}

// RequestID returns the id of the request that ctx belongs to. The client may choose it with the header X-Request-Id.
func RequestID(ctx context.Context) string { return exchangeOf(ctx).id }

func requestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); id != "" && len(id) <= 64 && strings.Trim(id, idChars) == "" {
		return id
	}
	return rand.Text()
}

const idChars = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_."

// body marks the errors of reading a request's body as what they are: the client's. When all of it has come, its deadline
// is over: left in place it would end the request that waits for its answer.
type body struct {
	io.ReadCloser
	control *http.ResponseController
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		_ = b.control.SetReadDeadline(time.Time{})
	default:
		err = &bodyError{err}
	}
	return n, err
}

type bodyError struct{ err error }

func (e *bodyError) Error() string { return "read the body: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// bodyProblem returns the problem that an error of reading a request's body is, or nil for other errors.
func bodyProblem(err error) *Problem {
	// The first kind comes from a reader that the handler put around the body.
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return PayloadTooLarge.Because("the body is larger than %d bytes", tooLarge.Limit)
	}
	broken, ok := errors.AsType[*bodyError](err)
	if !ok {
		return nil
	}
	if timeout, ok := errors.AsType[net.Error](broken.err); ok && timeout.Timeout() {
		return RequestTimeout.Because("the body did not arrive in time")
	}
	return InvalidRequest.Because("the body ended early or is badly framed")
}

// answer watches an answer go out: whether it began, and whether it is one that the mux itself gives in plain text.
type answer struct {
	http.ResponseWriter
	r        *http.Request
	began    bool
	replaced bool
	lost     bool
}

// Unwrap lets http.ResponseController reach what is below.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if status < http.StatusOK || a.began {
		a.ResponseWriter.WriteHeader(status)
		return
	}
	a.began = true
	if status >= http.StatusBadRequest && a.r.Pattern == "" { // no handler was found
		a.replaced = true
		WriteProblem(a.ResponseWriter, a.r, a.noRoute(status))
		return
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) noRoute(status int) *Problem {
	switch status {
	case http.StatusNotFound:
		return NotFound.Because("there is nothing at this path")
	case http.StatusMethodNotAllowed:
		return MethodNotAllowed.Because("this path takes %s", a.Header().Get("Allow"))
	default:
		return kindOf(status).problem("")
	}
}

// Write implements http.ResponseWriter.
func (a *answer) Write(p []byte) (int, error) {
	a.began = true
	if a.replaced {
		return len(p), nil
	}
	n, err := a.ResponseWriter.Write(p)
	a.lost = a.lost || err != nil
	return n, err
}

// Flush implements http.Flusher.
func (a *answer) Flush() {
	a.began = true
	_ = http.NewResponseController(a.ResponseWriter).Flush() // a writer that cannot flush does not buffer
}

// rescue turns a panic into a problem, or cuts the connection when the answer has begun, so that a half answer is not
// taken for a whole one.
func (a *answer) rescue(x *exchange) {
	v := recover()
	if v == nil {
		return
	}
	err, ok := v.(error)
	if !ok {
		err = fmt.Errorf("%v", v)
	}
	if a.lost || errors.Is(err, http.ErrAbortHandler) { // huma panics when the client is gone
		panic(http.ErrAbortHandler)
	}
	x.config.Logger.LogAttrs(a.r.Context(), slog.LevelError, "Handler panicked",
		append(x.attrs(err), slog.String("stack", string(debug.Stack())))...)
	if a.began {
		panic(http.ErrAbortHandler)
	}
	WriteProblem(a.ResponseWriter, a.r, Internal.problem(""))
}
