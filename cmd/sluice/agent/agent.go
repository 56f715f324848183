// Package agent carries calls to a worker that nobody can reach, and its answers back.
//
// It runs beside the worker and only ever dials out: it waits for calls at the pull API, makes each one of the worker as
// the engine would have made it, and gives back what the worker answered, whatever the protocol. A call that it has is
// kept by heartbeats. When the link breaks, answers are kept and sent as soon as it is back; who else has got the call
// meanwhile makes it under the same idempotency key. Any number of agents may carry for one worker: each takes what it
// has room for.
//
// The package must not know what is in a call, nor anything of Sluice but the pull API.
package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Config is what an agent connects.
type Config struct {
	URL    string // of Sluice
	Key    string // of the scope pull
	Worker string // by its name; empty: the one that the key is for
	Target string // URL of the worker

	// Calls is how many calls it makes at once. Default 16. Too few leave the worker idle, too many swamp it.
	Calls int
	// Grace is how long calls under way may take to end once the agent is told to stop. Default 30 s.
	Grace time.Duration

	Link   http.RoundTripper // to Sluice; default: http.DefaultTransport
	Logger *slog.Logger      // default: discard
}

const (
	lease       = 15 * time.Second // short: what a dead agent had is offered again soon
	beatEvery   = lease / 3
	patience    = 30 * time.Second // of one claim
	linkTime    = 20 * time.Second // of any other request, and what a claim may take beyond its patience
	beatTime    = beatEvery        // of a heartbeat: the next one must not wait for it
	most        = 100              // calls, or results, in a request
	maxAnswer   = 24 << 20         // of a worker's body; more than the engine takes by itself
	maxHeaders  = 64 << 10
	firstPause  = 250 * time.Millisecond // after a link that broke; it doubles
	longestWait = 10 * time.Second
)

// Refused is the error of a request that will never be answered otherwise: the key is wrong, or the worker is unknown.
type Refused struct {
	Status int
	Detail string
}

func (e *Refused) Error() string { return e.Detail }

// Agent carries the calls of one worker.
type Agent struct {
	Config
	link   *http.Client
	worker *http.Client
	target *url.URL

	room    chan struct{} // a slot for each call
	results chan result

	under sync.WaitGroup // calls under way

	mu    sync.Mutex
	calls map[string]*carried // by id and token
}

// carried is a call that the agent has.
type carried struct {
	held
	cancel context.CancelFunc
}

// New returns an agent, or says what of its configuration cannot be.
func New(c Config) (*Agent, error) {
	target, err := url.Parse(c.Target)
	if err != nil || target.Host == "" || target.Scheme != "http" && target.Scheme != "https" {
		return nil, fmt.Errorf("%q is no http or https URL of a worker", c.Target)
	}
	c.Calls = cmp.Or(c.Calls, 16)
	c.Grace = cmp.Or(c.Grace, 30*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Link == nil {
		c.Link = http.DefaultTransport
	}
	own := &http.Transport{MaxIdleConnsPerHost: c.Calls, MaxResponseHeaderBytes: maxHeaders, DisableCompression: true} // no proxy: it is beside us
	return &Agent{
		Config: c, link: &http.Client{Transport: c.Link}, target: target,
		worker: &http.Client{Transport: own, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		room:   make(chan struct{}, c.Calls), results: make(chan result, c.Calls), calls: map[string]*carried{},
	}, nil
}

// Run carries calls until ctx ends, and then ends those under way. It returns [*Refused] when Sluice will not have it, and
// nil after it was told to stop; a link that breaks is no reason to return.
func (a *Agent) Run(ctx context.Context) error {
	defer a.worker.CloseIdleConnections()
	if err := a.introduce(ctx); err != nil {
		return err
	}
	a.Logger.InfoContext(ctx, "Carrying calls", "worker", a.Worker, "to", a.target.Redacted(), "calls", a.Calls)
	// What is under way goes on after ctx, until the grace is over.
	work, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var back sync.WaitGroup
	senders, stopSending := context.WithCancel(work)
	defer stopSending()
	back.Go(func() { a.sendLoop(senders) })
	back.Go(func() { a.beatLoop(senders) })
	err := a.claimLoop(ctx, work)

	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.under.Wait()
		for range a.Calls { // whoever has all the room knows that each result was sent
			select {
			case a.room <- struct{}{}:
			case <-senders.Done():
			}
		}
	}()
	grace := time.NewTimer(a.Grace)
	defer grace.Stop()
	select {
	case <-ended:
	case <-grace.C:
		a.Logger.WarnContext(ctx, "Calls under way cut off: they are made again elsewhere")
		cut()
		<-ended
	}
	stopSending()
	back.Wait()
	return err
}

// introduce finds out which worker the key is for, if nobody has said so, and whether the key is good at all.
func (a *Agent) introduce(ctx context.Context) error {
	var me struct{ Worker string }
	err := a.persist(ctx, "ask who we are", func(ctx context.Context) error {
		return a.ask(ctx, request{method: http.MethodGet, path: "/v1/session", within: linkTime}, &me)
	})
	if err != nil {
		return err
	}
	if a.Worker = cmp.Or(a.Worker, me.Worker); a.Worker == "" {
		return &Refused{Detail: "the key is for any worker: say for which one this agent is"}
	}
	return nil
}

// claimLoop takes calls for as long as ctx lasts; what it takes is worked in work.
func (a *Agent) claimLoop(ctx, work context.Context) error {
	for {
		n := a.takeRoom(ctx)
		if n == 0 {
			return nil
		}
		var got struct{ Calls []call }
		err := a.persist(ctx, "take calls", func(ctx context.Context) error {
			return a.ask(ctx, a.post("claim", patience+linkTime, map[string]any{"max": n, "wait_seconds": patience.Seconds(), "lease_seconds": lease.Seconds()}), &got)
		})
		for range n - min(n, len(got.Calls)) {
			<-a.room
		}
		for _, c := range got.Calls {
			a.carry(work, c)
		}
		if err != nil {
			if ctx.Err() == nil {
				return err
			}
			return nil // it was told to stop, which breaks off whatever it waits for
		}
	}
}

// takeRoom waits for room for one call, and takes what more there is.
func (a *Agent) takeRoom(ctx context.Context) (n int) {
	if ctx.Err() != nil {
		return 0
	}
	select {
	case <-ctx.Done():
		return 0
	case a.room <- struct{}{}:
	}
	for n = 1; n < most; n++ {
		select {
		case a.room <- struct{}{}:
		default:
			return n
		}
	}
	return n
}

// carry makes a call of the worker, beside the others. Its room is free once its result was sent.
func (a *Agent) carry(work context.Context, c call) {
	ctx, cancel := context.WithTimeout(work, time.Duration(c.Left*float64(time.Second)))
	a.mu.Lock()
	a.calls[c.key()] = &carried{c.held, cancel}
	a.mu.Unlock()
	a.under.Go(func() {
		defer cancel()
		r := a.make(ctx, c)
		if ctx.Err() != nil && r.Status == 0 { // nobody waits for it
			a.forget(c.held)
			<-a.room
			return
		}
		a.results <- r // there is room for as many as there are calls
	})
}

func (a *Agent) forget(h held) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.calls, h.key())
}

// hop are headers that are between two, not from one end to the other.
var hop = []string{"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length", "Host"}

// make makes a call of the worker. A worker that cannot be reached is a gateway's 502, as of any proxy.
func (a *Agent) make(ctx context.Context, c call) result {
	r := result{held: c.held}
	to, err := a.target.Parse(strings.TrimRight(a.target.EscapedPath(), "/") + c.Path)
	if err != nil || to.Host != a.target.Host {
		return r.says(http.StatusBadRequest, "the call has a path that cannot be")
	}
	req, err := http.NewRequestWithContext(ctx, c.Method, to.String(), bytes.NewReader(c.body()))
	if err != nil {
		return r.says(http.StatusBadRequest, "the call cannot be made: "+err.Error())
	}
	for name, value := range c.Headers {
		req.Header.Set(name, value)
	}
	for _, name := range hop {
		req.Header.Del(name)
	}
	resp, err := a.worker.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return r
		}
		return r.says(http.StatusBadGateway, "the agent does not reach the worker: "+reason(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case ctx.Err() != nil:
		return r
	case err != nil:
		return r.says(http.StatusInternalServerError, "the worker's answer broke off: "+reason(err))
	case len(body) > maxAnswer:
		return r.says(http.StatusInternalServerError, fmt.Sprintf("the worker's answer is larger than the %d bytes that an agent carries", maxAnswer))
	}
	r.Status, r.Headers = resp.StatusCode, map[string]string{}
	for name, values := range resp.Header {
		r.Headers[name] = strings.Join(values, ", ")
	}
	for _, name := range hop {
		delete(r.Headers, name)
	}
	if utf8.Valid(body) {
		text := string(body)
		r.Body = &text
	} else {
		r.Base64 = body
	}
	return r
}

// reason is an error without the URL, which everybody here knows.
func reason(err error) string {
	if of, ok := errors.AsType[*url.Error](err); ok {
		err = of.Err
	}
	return err.Error()
}

// sendLoop gives results back; those that gather meanwhile go with the next request.
func (a *Agent) sendLoop(ctx context.Context) {
	for {
		var batch []result
		select {
		case <-ctx.Done():
			return
		case r := <-a.results:
			batch = a.gather(r)
		}
		if err := a.send(ctx, batch); err != nil && len(batch) > 1 { // one that cannot be must not take the others along
			for _, r := range batch {
				_ = a.send(ctx, []result{r})
			}
		}
		for _, r := range batch {
			a.forget(r.held)
			<-a.room
		}
	}
}

// send gives results back. It returns an error when they are refused, or ctx ends.
func (a *Agent) send(ctx context.Context, batch []result) error {
	var said struct{ Results []struct{ ID, State string } }
	err := a.persist(ctx, "give results back", func(ctx context.Context) error {
		return a.ask(ctx, a.post("result", linkTime, map[string]any{"results": batch}), &said)
	})
	if err != nil && ctx.Err() == nil {
		a.Logger.WarnContext(ctx, "Results refused", "results", len(batch), "err", err)
	}
	for _, r := range said.Results {
		if r.State == "lost" { // given back before, or somebody else has the call
			a.Logger.DebugContext(ctx, "Nobody waits for a result", "call", r.ID)
		}
	}
	return err
}

func (a *Agent) gather(first result) []result {
	batch, size := []result{first}, first.size()
	for len(batch) < most && size < maxAnswer {
		select {
		case r := <-a.results:
			batch, size = append(batch, r), size+r.size()
		default:
			return batch
		}
	}
	return batch
}

// beatLoop keeps the calls that the agent has, and ends those that it has no longer.
func (a *Agent) beatLoop(ctx context.Context) {
	beats := time.NewTicker(beatEvery)
	defer beats.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-beats.C:
		}
		a.mu.Lock()
		kept := make([]held, 0, len(a.calls))
		for _, c := range a.calls {
			kept = append(kept, c.held)
		}
		a.mu.Unlock()
		for len(kept) > 0 {
			n := min(len(kept), most)
			var said struct{ Lost []string }
			if err := a.ask(ctx, a.post("heartbeat", beatTime, map[string]any{"calls": kept[:n], "lease_seconds": lease.Seconds()}), &said); err == nil {
				a.end(kept[:n], said.Lost)
			}
			kept = kept[n:] // the next beat tries again
		}
	}
}

// end ends calls that somebody else has, or that nobody waits for.
func (a *Agent) end(asked []held, lost []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	gone := map[string]bool{}
	for _, id := range lost {
		gone[id] = true
	}
	for _, h := range asked {
		if c := a.calls[h.key()]; c != nil && gone[h.ID] {
			c.cancel()
		}
	}
}

// persist does something until it succeeds, is refused for good, or ctx ends.
func (a *Agent) persist(ctx context.Context, what string, do func(context.Context) error) error {
	pause := firstPause
	broken := false
	for {
		err := do(ctx)
		if refused, ok := errors.AsType[*Refused](err); err == nil || ctx.Err() != nil || ok && refused.Status != 0 {
			if broken && err == nil {
				a.Logger.InfoContext(ctx, "Link restored")
			}
			return err
		}
		if !broken {
			broken = true
			a.Logger.WarnContext(ctx, "Link broken, trying on", "to", what, "err", err)
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2+1))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
		pause = min(2*pause, longestWait)
	}
}
