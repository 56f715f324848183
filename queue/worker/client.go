package worker

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// How the client deals with the network. None of it is worth a setting yet.
const (
	dialTimeout     = 5 * time.Second
	tlsTimeout      = 5 * time.Second
	maxReplyHeaders = 64 << 10
	maxExplanation  = 4 << 10         // bytes read of the body of an error
	maxDrained      = 64 << 10        // and of what follows, to keep the connection
	explanationWait = 2 * time.Second // and how long for
	maxEndpoints    = 4096            // parsed URLs kept
)

// Dial makes a connection, as [net.Dialer.DialContext] does.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Config sets a client up. The zero value works.
type Config struct {
	// Version is Sluice's, for the User-Agent. Default "dev".
	Version string
	// Dial connects to workers, or to the proxy. A policy on who may be called
	// belongs here, below DNS, where a name cannot change its mind. It has 5 s.
	// Default: a net.Dialer.
	Dial Dial
	// TLS has the roots and client certificates for workers behind https.
	// Default: the system's roots.
	TLS *tls.Config
	// Proxy chooses a proxy for a call. Default: none, whatever the environment
	// says, so that a call goes where the worker's URL leads.
	Proxy func(*http.Request) (*url.URL, error)
	// Timeout bounds a call whose request and context have no deadline. Too low
	// fails slow workers, too high keeps slots busy. Default 30 s.
	Timeout time.Duration
	// MaxReply is the longest reply taken, in bytes. It bounds the memory of a
	// call: one reply is held at a time. Default 16 MiB.
	MaxReply int64
	// MaxMessages is how many messages one reply may hold. Default 10,000.
	MaxMessages int
	// MaxIdle is how many idle connections are kept to one worker. Fewer than
	// calls in flight means a new connection for each call beyond; more costs a
	// file descriptor and 10 KB each. Default 1024.
	MaxIdle int
	// IdleTimeout closes idle connections. It should be below the worker's own,
	// or calls meet a connection as it is closed: common servers take 5 s, hence
	// the default of 4 s.
	IdleTimeout time.Duration
}

// Client calls workers. It is safe for concurrent use and keeps connections
// open between calls.
type Client struct {
	transport   *http.Transport
	userAgent   []string
	timeout     time.Duration
	maxReply    int64
	maxMessages int
	now         func() time.Time // the golden transcripts stand still

	mu        sync.RWMutex
	endpoints map[endpointKey]*endpoint
	ways      map[string]*http.Transport // by [credentials.way]
}

// endpoint is where a call goes, parsed once.
type endpointKey struct{ url, action string }

type endpoint struct {
	blank         http.Request
	authorization []string
	err           error
}

// NewClient makes a client.
func NewClient(config Config) *Client {
	c := &Client{
		userAgent:   []string{"Sluice/" + cmp.Or(encodeValue(config.Version), "dev")},
		timeout:     cmp.Or(config.Timeout, 30*time.Second),
		maxReply:    cmp.Or(config.MaxReply, 16<<20),
		maxMessages: cmp.Or(config.MaxMessages, 10_000),
		now:         time.Now,
		endpoints:   make(map[endpointKey]*endpoint),
		ways:        make(map[string]*http.Transport),
	}
	dial := config.Dial
	if dial == nil {
		dial = (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext
	}
	// HTTP/1.1 alone: with one call to a connection, a broken connection breaks
	// one call, and a call waits for no other.
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	c.transport = &http.Transport{
		Protocols: &protocols,
		Proxy:     config.Proxy,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			return dial(ctx, network, address)
		},
		TLSClientConfig:        config.TLS,
		TLSHandshakeTimeout:    tlsTimeout,
		MaxIdleConnsPerHost:    cmp.Or(config.MaxIdle, 1024),
		IdleConnTimeout:        cmp.Or(config.IdleTimeout, 4*time.Second),
		MaxResponseHeaderBytes: maxReplyHeaders,
		DisableCompression:     true, // bytes are passed on as they come, and there is no bomb to go off
	}
	return c
}

// Close closes the idle connections. Calls in flight end by themselves.
func (c *Client) Close() {
	c.transport.CloseIdleConnections()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeWays()
}

// Call sends a message to a worker and returns its reply. The error is always a
// [*Failure]. It returns by the deadline of the request, of ctx or of
// [Config.Timeout], whatever the worker does. The time that a large reply waits
// for [Target.Room] does not count, as it is not the worker's; a call that finds
// none in as much time again is given up, and was [Cancelled].
//
// An idle connection may break as a call is written to it. As HTTP allows for
// what is idempotent, such a call goes out once more on another connection, with
// the same key and the same attempt.
func (c *Client) Call(ctx context.Context, target Target, request Request) (Result, error) {
	x := c.begin(ctx, target, &request)
	return x.end(x.do(ctx, target.URL))
}

func (c *Client) begin(ctx context.Context, target Target, request *Request) exchange {
	x := exchange{client: c, request: request, caller: ctx, name: target.name(), secrets: target.Secrets, credentials: target.Credentials, via: target.Via, makeRoom: target.Room}
	x.timing.Start = c.now()
	return x
}

// end completes what has become of a call.
func (x *exchange) end(result Result, failure *Failure) (Result, error) {
	x.timing.Total = x.elapsed()
	if failure != nil {
		if x.room != nil {
			x.room.Release()
		}
		failure.Timing = x.timing
		return Result{}, failure
	}
	result.Timing, result.Room = x.timing, x.room
	return result, nil
}

// exchange is one call on its way.
type exchange struct {
	client  *Client
	request *Request
	headers map[string]string // the request's, names in lower case
	caller  context.Context
	name    string // of the worker, for people
	secrets []Secret
	timing  Timing
	replays int

	credentials Credentials

	via      func(deadline time.Time) http.RoundTripper
	makeRoom func() Room
	room     Room          // what the reply takes, once it is large
	ends     time.Time     // the deadline, moved on by waits for room
	alarm    *time.Timer   // that ends the call then
	patience time.Duration // for room
}

func (x *exchange) do(ctx context.Context, to string) (Result, *Failure) {
	x.headers = fold(x.request.Headers)
	if err := x.check(); err != nil {
		return Result{}, &Failure{Class: Rejected, Reason: reason("the message cannot be sent: %s", err), Err: err}
	}
	return x.trip(ctx, to, x)
}

// words are what a protocol puts into a call and makes of what comes back.
type words interface {
	outgoing(ctx context.Context, e *endpoint, deadline time.Time) *http.Request
	incoming(ctx context.Context, resp *http.Response, giveUp func()) (Result, *Failure)
}

// trip sends a call, and ends it when its time is up.
func (x *exchange) trip(ctx context.Context, to string, w words) (Result, *Failure) {
	e := x.client.endpoint(to, x.request.Action)
	if e.err != nil {
		return Result{}, unreached(x.name, e.err)
	}
	deadline := x.deadline()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	x.ends, x.patience = deadline, time.Until(deadline)
	x.alarm = time.AfterFunc(x.patience, func() { cancel(context.DeadlineExceeded) })
	defer x.alarm.Stop()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: x.connected})

	// RoundTrip rather than an http.Client: no redirects, no cookies, no copies.
	var way http.RoundTripper = x.client.way(x.credentials)
	if x.via != nil {
		way = x.via(deadline)
	}
	resp, err := way.RoundTrip(w.outgoing(ctx, e, deadline))
	if err != nil {
		return Result{}, x.broken(ctx, "broke off before a reply", err)
	}
	defer resp.Body.Close()
	x.timing.Answered = x.elapsed()
	return w.incoming(ctx, resp, func() { cancel(nil) })
}

// incoming reads what came back for a call in this package's protocol.
func (x *exchange) incoming(ctx context.Context, resp *http.Response, giveUp func()) (Result, *Failure) {
	if classOf(resp.StatusCode) != 0 {
		return Result{}, x.refused(resp, giveUp)
	}
	return x.accepted(ctx, resp)
}

// check refuses what cannot be put on the wire as it is.
func (x *exchange) check() error {
	if err := CheckHeaders(x.headers); err != nil {
		return err
	}
	if err := CheckAction(x.request.Action); err != nil {
		return err
	}
	key := x.request.IdempotencyKey()
	if key == "" || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '.' }) {
		return fmt.Errorf("message id %.80q is empty or holds a space, a dot or what is not ASCII", x.request.MessageID)
	}
	if encodedLen(x.request.Cursor) > MaxCursorBytes {
		return fmt.Errorf("the cursor is longer than %d bytes, percent-encoded", MaxCursorBytes)
	}
	return nil
}

// deadline is the earliest of those that were given.
func (x *exchange) deadline() time.Time {
	d := x.request.Deadline
	if given, ok := x.caller.Deadline(); ok && (d.IsZero() || given.Before(d)) {
		d = given
	}
	if d.IsZero() {
		d = x.timing.Start.Add(x.client.timeout)
	}
	return d
}

func (x *exchange) elapsed() time.Duration { return x.client.now().Sub(x.timing.Start) }

// connected notes that the call has a connection: from here on the message may
// have reached the worker.
func (x *exchange) connected(httptrace.GotConnInfo) {
	if x.timing.Connected == 0 {
		x.timing.Connected = max(x.elapsed(), 1)
	}
}

// payload makes a request's body of bytes. net/http knows this very type to be in
// memory, and so writes headers and body at once.
func payload(b []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(b)) }

var errBrokeTwice = errors.New("the worker closed the connection, twice")

// replay lets net/http send the body again when an idle connection turned out to
// be closed, but once only: a message that kills its worker would otherwise kill
// it as often as there are idle connections. (An empty body is not asked for, so
// its calls are not counted.)
func (x *exchange) replay() (io.ReadCloser, error) {
	if x.replays++; x.replays > 1 {
		return nil, errBrokeTwice
	}
	return payload(x.request.Body), nil
}

// outgoing makes the HTTP request.
func (x *exchange) outgoing(ctx context.Context, e *endpoint, deadline time.Time) *http.Request {
	req := e.blank.WithContext(ctx)
	req.Body = http.NoBody
	if len(x.request.Body) > 0 {
		req.Body, req.GetBody = payload(x.request.Body), x.replay
		req.ContentLength = int64(len(x.request.Body))
	}
	req.Header = x.header(e, deadline)
	return req
}

// The values that never change need not be made for each call.
var (
	octetStream = []string{"application/octet-stream"}
	identity    = []string{"identity"}
)

// header writes all that the contract says of a call. The keys are canonical
// already, and the values share one array.
func (x *exchange) header(e *endpoint, deadline time.Time) http.Header {
	r, n := x.request, 20+len(x.headers)
	h, values := make(http.Header, n), make([]string, 0, n)
	set := func(key, value string) {
		values = append(values, value)
		h[key] = values[len(values)-1 : len(values) : len(values)]
	}
	known := func(key, value string) {
		if value != "" {
			set(key, encodeValue(value))
		}
	}
	h["User-Agent"] = x.client.userAgent
	h["Accept-Encoding"] = identity
	if shown := x.authorization(e); shown != nil {
		h["Authorization"] = shown
	}
	h[headerContentType] = octetStream
	for name, value := range x.headers {
		if name != contentType {
			set(http.CanonicalHeaderKey(ownHeaderPrefix+name), encodeValue(value))
		} else if value != "" {
			set(headerContentType, value)
		}
	}
	key, timestamp := r.IdempotencyKey(), strconv.FormatInt(x.timing.Start.Unix(), 10)
	set(headerWebhookID, key)
	set(headerWebhookTimestamp, timestamp)
	var room [4 + len(signatureVersion) + 44]byte // one signature, as is usual
	if signatures := appendSignatures(room[:0], key, timestamp, r.Body, x.secrets); len(signatures) > 0 {
		set(headerWebhookSignature, string(signatures))
	}
	set(headerIdempotencyKey, key)
	known(headerMessageID, r.MessageID)
	set(headerAttempt, strconv.Itoa(r.Attempt))
	known(headerCorrelationID, r.CorrelationID)
	known(headerTopology, r.Topology)
	set(headerVersion, strconv.Itoa(r.Version))
	known(headerNode, r.Node)
	known(headerApplication, r.Application)
	set(headerDeadline, deadline.UTC().Format(deadlineFormat))
	if r.Page > 0 {
		set(headerPage, strconv.Itoa(r.Page))
		known(headerCursor, r.Cursor)
	}
	return h
}

// broken is the failure of a call without a reply, or without all of it.
func (x *exchange) broken(ctx context.Context, what string, err error) *Failure {
	switch {
	case errors.Is(x.caller.Err(), context.Canceled):
		return &Failure{Class: Cancelled, Reason: "the call was given up", Err: context.Cause(x.caller)}
	case x.timing.Connected == 0 || x.timing.Answered == 0 && isAlert(err):
		return unreached(x.name, err)
	case ctx.Err() != nil:
		took := x.elapsed().Round(time.Millisecond)
		return &Failure{Class: Transient, Reason: reason("%s took too long: given up after %s", x.name, took), Err: context.Cause(ctx)}
	}
	return &Failure{Class: Transient, Reason: reason("the call to %s %s: %s", x.name, what, plain(err)), Err: err}
}

// refused is the failure that a status other than 2xx stands for. The start of
// the body may explain it; a worker that sends it slowly is not waited for.
func (x *exchange) refused(resp *http.Response, cancel context.CancelFunc) *Failure {
	defer time.AfterFunc(explanationWait, cancel).Stop()
	var body []byte
	if resp.StatusCode >= 300 { // below is 101, whose body is a connection
		body, _ = io.ReadAll(io.LimitReader(resp.Body, maxExplanation))
		// With the rest read, if it is short, the connection can be kept.
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxDrained))
	}
	return refusal(x.name, resp, body, x.client.now())
}

// whole reads the body of a reply, all of it or none.
func (x *exchange) whole(ctx context.Context, resp *http.Response) ([]byte, *Failure) {
	if encoding := resp.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return nil, malformed(x.name, resp, nil, fmt.Errorf("its body is encoded (%.40q), though identity was asked for", encoding))
	}
	if resp.ContentLength < 0 && len(resp.TransferEncoding) == 0 {
		return nil, malformed(x.name, resp, nil, errors.New("its body has neither a Content-Length nor chunks, so nobody can tell whether it is whole"))
	}
	body, err := x.readReply(ctx, resp)
	switch {
	case errors.Is(err, errReplyTooLong):
		return nil, malformed(x.name, resp, body, fmt.Errorf("its body is longer than %d bytes", x.client.maxReply))
	case errors.Is(err, errNoRoom):
		return nil, &Failure{Class: Cancelled, Status: resp.StatusCode, Reason: reason("there was no memory for the reply of %s", x.name), Err: err}
	case err != nil:
		f := x.broken(ctx, fmt.Sprintf("broke off %d bytes into the reply", len(body)), err)
		f.Status = resp.StatusCode
		return nil, f
	}
	return body, nil
}

// accepted reads the reply of a worker that answered 2xx.
func (x *exchange) accepted(ctx context.Context, resp *http.Response) (Result, *Failure) {
	body, failure := x.whole(ctx, resp)
	if failure != nil {
		return Result{}, failure
	}
	reply, err := reader{x.request, x.headers, x.client.maxMessages, x.room != nil}.read(resp.StatusCode, resp.Header, body)
	var rejected rejection
	switch {
	case errors.As(err, &rejected):
		return Result{}, &Failure{Class: Rejected, Status: resp.StatusCode, Reason: string(rejected), Response: response(resp, body)}
	case err != nil:
		return Result{}, malformed(x.name, resp, body, err)
	}
	return Result{Reply: reply, Status: resp.StatusCode, Rates: rates(resp.Header)}, nil
}

var (
	errReplyTooLong = errors.New("reply too long")
	errNoRoom       = errors.New("no room for the reply")
)

// readReply reads a body of at most the client's limit. It trusts a stated
// length only so far: memory is taken when more than a little has come.
func (x *exchange) readReply(ctx context.Context, resp *http.Response) ([]byte, error) {
	length, limit := resp.ContentLength, x.client.maxReply
	if length > limit {
		return nil, errReplyTooLong
	}
	size := min(length, SmallReply)
	if length < 0 {
		size = 512
	}
	b := make([]byte, 0, size+1) // one more, so that the end shows without growing
	for {
		n, err := resp.Body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case int64(len(b)) > limit:
			return b, errReplyTooLong
		case err == io.EOF:
			return b, nil
		case err != nil:
			return b, err
		case len(b) == cap(b):
			size := length + 1
			if length < 0 {
				size = min(2*int64(cap(b)), limit) + 1
				if cap(b) <= SmallReply {
					size = min(size, SmallReply+1)
				}
			}
			if err := x.grow(ctx, size); err != nil {
				return b, err
			}
			b = append(make([]byte, 0, size), b...)
		}
	}
}

// grow waits for room for a reply of that size. The clock of the call stands
// still meanwhile.
func (x *exchange) grow(ctx context.Context, size int64) error {
	if x.makeRoom == nil || size <= SmallReply+1 {
		return nil
	}
	if x.room == nil {
		x.room = x.makeRoom()
	}
	if !x.alarm.Stop() {
		return context.DeadlineExceeded
	}
	began := time.Now()
	waiting, cancel := context.WithTimeoutCause(ctx, x.patience, errNoRoom)
	defer cancel()
	if err := x.room.Grow(waiting, size); err != nil {
		return context.Cause(waiting)
	}
	x.ends = x.ends.Add(time.Since(began))
	x.alarm.Reset(time.Until(x.ends))
	return nil
}

// endpoint returns where an action of a worker is called.
func (c *Client) endpoint(to, action string) *endpoint {
	key := endpointKey{to, action}
	c.mu.RLock()
	e := c.endpoints[key]
	c.mu.RUnlock()
	if e != nil {
		return e
	}
	e = newEndpoint(to, action)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.endpoints) >= maxEndpoints {
		clear(c.endpoints) // so many are a sign that they come and go
	}
	c.endpoints[key] = e
	return e
}

var errURL = errors.New("its URL is not valid, want http or https, a host and a path")

func newEndpoint(to, action string) *endpoint {
	u, err := url.Parse(to)
	if err != nil {
		return &endpoint{err: errURL} // err quotes the URL, which may hold a password
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return &endpoint{err: errURL}
	}
	if action != "" {
		var path strings.Builder
		path.WriteString(strings.TrimSuffix(u.EscapedPath(), "/"))
		for segment := range strings.SplitSeq(action, "/") {
			path.WriteString("/" + url.PathEscape(segment))
		}
		u.RawPath = path.String()
		if u.Path, err = url.PathUnescape(u.RawPath); err != nil {
			return &endpoint{err: errURL}
		}
	}
	e := &endpoint{}
	if u.User != nil {
		password, _ := u.User.Password()
		pair := u.User.Username() + ":" + password
		e.authorization = []string{"Basic " + base64.StdEncoding.EncodeToString([]byte(pair))}
		u.User = nil
	}
	u.Fragment, u.RawFragment = "", ""
	e.blank = http.Request{Method: http.MethodPost, URL: u, Host: u.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	return e
}
