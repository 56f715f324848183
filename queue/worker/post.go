package worker

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"time"
)

// Post is a call in the words of another protocol than this package's. It goes
// the same way as a message: one deadline, no redirects, a bounded reply, every
// failure sorted into its [Class].
type Post struct {
	// Method is that of HTTP; empty is POST.
	Method string
	// Path is below the worker's URL; see [CheckAction].
	Path string
	// Query goes behind the path.
	Query url.Values
	// Header has the headers of HTTP, under their canonical names.
	Header http.Header
	// Body is read once, or twice if an idle connection breaks; nil is none.
	Body func() io.Reader
	// Size is how many bytes the body has.
	Size int64
	// Replies tells of which statuses the body is a reply: it comes back whole.
	// Any other is a failure, as it is for [Client.Call].
	Replies func(status int) bool
	// Deadline is when Sluice stops to wait.
	Deadline time.Time
}

// Answer is what came back for a [Post].
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
	Timing Timing
	// Room is what a large body takes, nil for a small one; the caller releases it.
	Room Room
}

// Response is what is kept of an answer that was none, as [Failure.Response].
func (a Answer) Response() *Response {
	return response(&http.Response{Header: a.Header, ContentLength: int64(len(a.Body))}, a.Body)
}

// Post sends a call in other words than a message's. The error is always a
// [*Failure]. What [Client.Call] says of deadlines, memory and broken
// connections holds here too.
func (c *Client) Post(ctx context.Context, target Target, post Post) (Answer, error) {
	x := c.begin(ctx, target, &Request{Action: post.Path, Deadline: post.Deadline})
	if err := CheckAction(post.Path); err != nil {
		return Answer{}, &Failure{Class: Rejected, Reason: reason("the message cannot be sent: %s", err), Err: err}
	}
	p := posting{exchange: &x, post: post}
	result, err := x.end(x.trip(ctx, target.URL, &p))
	if err != nil {
		return Answer{}, err
	}
	return Answer{Status: result.Status, Header: p.header, Body: p.body, Timing: result.Timing, Room: result.Room}, nil
}

// posting is the words of a post.
type posting struct {
	*exchange
	post   Post
	header http.Header // of the reply
	body   []byte      // of the reply
}

func (p *posting) outgoing(ctx context.Context, e *endpoint, _ time.Time) *http.Request {
	req := e.blank.WithContext(ctx)
	if p.post.Method != "" {
		req.Method = p.post.Method
	}
	if len(p.post.Query) > 0 {
		to := *req.URL
		to.RawQuery = p.post.Query.Encode()
		req.URL = &to
	}
	req.Body = http.NoBody
	if p.post.Body != nil && p.post.Size > 0 {
		req.Body, req.ContentLength = io.NopCloser(p.post.Body()), p.post.Size
		req.GetBody = func() (io.ReadCloser, error) {
			if p.replays++; p.replays > 1 {
				return nil, errBrokeTwice
			}
			return io.NopCloser(p.post.Body()), nil
		}
	}
	req.Header = p.post.Header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Header["User-Agent"], req.Header["Accept-Encoding"] = p.client.userAgent, identity
	if shown := p.authorization(e); shown != nil {
		req.Header["Authorization"] = shown
	}
	return req
}

func (p *posting) incoming(ctx context.Context, resp *http.Response, giveUp func()) (Result, *Failure) {
	if classOf(resp.StatusCode) != 0 && !p.post.Replies(resp.StatusCode) {
		return Result{}, p.refused(resp, giveUp)
	}
	body, failure := p.whole(ctx, resp)
	p.header, p.body = resp.Header, body
	return Result{Status: resp.StatusCode}, failure
}
