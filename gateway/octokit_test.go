package gateway_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/queue/topology"
	"sluice/queue/worker"
	"sluice/queue/worker/workertest"
)

// All of GitHub's example payloads go through docs/examples/github.yaml, as the package has them and as an odd
// serialiser might write them. What reaches each node is, byte for byte, what the worker made for it and what its
// functions predict.
func TestGitHubEvents(t *testing.T) {
	t.Parallel()
	throughGitHub(t, gitHubEvents(t), nil)
}

// The same comes out when one call in ten fails, in all the ways in which a worker fails for a moment.
func TestGitHubEventsWithFailingCalls(t *testing.T) {
	t.Parallel()
	events := gitHubEvents(t)
	f := &flaky{seed: 20, calls: map[[32]byte]int{}}
	throughGitHub(t, events[:len(events)/4], f)
	t.Logf("%d calls failed: %v", f.failed.Load(), f.names())
	for i := range f.ways {
		if f.ways[i].Load() == 0 {
			t.Errorf("no call failed in the way %q", flakyWays[i])
		}
	}
}

// throughGitHub posts events and follows them.
func throughGitHub(t *testing.T, events []gitHubEvent, f *flaky) {
	t.Helper()
	file, err := os.ReadFile("../docs/examples/github.yaml")
	must(t, err)
	graph, err := topology.Parse("github.yaml", file)
	must(t, err)
	saw := &saw{
		t: t, graph: graph, events: events, made: map[string][32]byte{}, came: map[string]int{}, keys: map[string][32]byte{},
		facts: map[fact]int{}, ids: map[string][32]byte{},
	}
	c := newCluster(t, 1)
	c.work("github", saw.work, func(h http.Handler) http.Handler {
		if f != nil {
			f.next, h = h, f
		}
		return h
	})
	c.enable("github", string(file))

	begin := time.Now()
	saw.post(c)
	posted := time.Since(begin)
	processes := c.allDone("github", 2*time.Minute)
	took := time.Since(begin)
	if len(processes) != len(events) {
		t.Errorf("%d events were posted, there are %d processes", len(events), len(processes))
	}

	want, tally := predict(graph, events)
	saw.mu.Lock()
	defer saw.mu.Unlock()
	messages := 0
	for _, n := range want {
		messages += n
	}
	saw.compare(want)
	saw.allArrived()
	saw.readBack(c)
	report := c.clean()
	if p := report.Places; p.Total != int64(messages) || p.Done != p.Total {
		t.Errorf("the check counts %d messages of which %d are done, want %d", p.Total, p.Done, messages)
	}
	for _, what := range []string{"route stop", "announce stop", "history page", "history empty page"} {
		if tally[what] == 0 {
			t.Errorf("the events make no %s: they test less than they should", what)
		}
	}
	t.Logf("%d payloads, %d messages, %d calls; %.1f s to post them, %.1f s until all was done", len(events), messages, saw.calls, posted.Seconds(), took.Seconds())
	t.Logf("arrivals by node %v; stopped, paged: %v", byNode(want), tally)
}

// post sends all events, several at a time, each with its number.
func (s *saw) post(c *cluster) {
	s.t.Helper()
	var next atomic.Int64
	var posting sync.WaitGroup
	for range connections {
		posting.Go(func() {
			for n := int(next.Add(1)) - 1; n < len(s.events); n = int(next.Add(1)) - 1 {
				e := s.events[n]
				_, err := c.post(0, "/v1/topologies/github/nodes/inbox/events", http.Header{
					"Content-Type": {"application/json"}, "X-Github-Event": {e.kind}, "X-Github-Delivery": {strconv.Itoa(n)},
				}, e.body)
				if err != nil {
					s.t.Errorf("event %d: %v", n, err)
				}
			}
		})
	}
	posting.Wait()
}

// gitHubEvent is an event with the bytes in which it is posted.
type gitHubEvent struct {
	kind string
	body []byte
}

// gitHubEvents returns each payload twice: in the bytes that the package has, and in odd ones. The order is mixed, and
// the same each time.
func gitHubEvents(t *testing.T) []gitHubEvent {
	t.Helper()
	dir := filepath.Join(workertest.Installed(t, "octokit", os.DirFS("testdata/octokit")), "node_modules", "@octokit", "webhooks-examples")
	files, err := filepath.Glob(filepath.Join(dir, "*", "index.json"))
	must(t, err)
	var events []gitHubEvent
	r := rand.New(rand.NewPCG(1, 2))
	for _, file := range files {
		data, err := os.ReadFile(file)
		must(t, err)
		var kinds []struct {
			Name     string
			Examples []json.RawMessage // the bytes as they are in the file
		}
		must(t, json.Unmarshal(data, &kinds))
		for _, k := range kinds {
			for _, body := range k.Examples {
				events = append(events, gitHubEvent{k.Name, body}, gitHubEvent{k.Name, odd(r, len(events)/2%4, body)})
			}
		}
	}
	if len(events) < 2*700 {
		t.Fatalf("the package has %d payloads, it had 726", len(events)/2)
	}
	r.Shuffle(len(events), func(i, k int) { events[i], events[k] = events[k], events[i] })
	return events
}

// What is put before the first member of a payload, each of it JSON that few programs would give back as it came.
const (
	doubled  = `"action":"first", "action" :null,"sender":{"type":"Bot"},"sender":{},"action":{"action":{}},`
	numbered = `"id":123456789012345678901234567890,"ratio":-0.0,"tiny":1e-400,"huge":1E+400,"n":{"exact":0.1000000000000000055511151231257827021181583404541015625},`
	lettered = `"žluťoučký\u0000\ud83d\ude00":{"𝄞 ` + "\u2028\u2029\ufeff \x7f" + ` <&> \/ / \ud800 \b":"é e` + "\u0301" + `"},"latin":{"caf` + "\xe9" + `":1},`
)

// odd writes a payload anew, in one of four ways.
func odd(r *rand.Rand, way int, body []byte) []byte {
	inner := bytes.TrimPrefix(body, []byte("{")) // they are objects, and none is empty
	switch way {
	case 0:
		return slices.Concat([]byte("{"+doubled), inner)
	case 1:
		return slices.Concat([]byte("{"+numbered), inner)
	case 2:
		return slices.Concat([]byte("{"+lettered), inner)
	}
	return spaced(r, body)
}

// spaced puts space wherever JSON allows it.
func spaced(r *rand.Rand, body []byte) []byte {
	out := make([]byte, 0, 2*len(body))
	space := func() {
		for range r.IntN(4) {
			out = append(out, " \t\r\n"[r.IntN(4)])
		}
	}
	text := false
	out = append(out, "\r\n\t "...)
	for i := 0; i < len(body); i++ {
		switch b := body[i]; {
		case text && b == '\\':
			out = append(out, b)
			i++
			out = append(out, body[i])
		case b == '"':
			text = !text
			out = append(out, b)
		case !text && strings.IndexByte("{}[]:,", b) >= 0:
			space()
			out = append(out, b)
			space()
		default:
			out = append(out, b)
		}
	}
	return append(out, "\n\n\t\r\n "...)
}

// The worker. What it makes of a message is a function of the message and its node alone.

// Kinds of event that go further than to entities.
var (
	conversations = []string{"commit_comment", "discussion", "discussion_comment", "issue_comment", "issues", "pull_request", "pull_request_review", "pull_request_review_comment", "pull_request_review_thread"}
	works         = []string{"check_run", "check_suite", "create", "deployment", "deployment_status", "push", "release", "repository", "workflow_job", "workflow_run"}
	noise         = []string{"meta", "ping"}
)

// makeOf is what the worker makes of a message at a node.
func makeOf(node string, r *worker.Request) worker.Reply {
	switch node {
	case "route":
		return route(r)
	case "entities":
		return entities(r)
	case "announce":
		return announce(r)
	case "history":
		return history(r)
	case "chat":
		return worker.Pass()
	}
	return worker.Send(worker.Message{Body: []byte("stored")}) // nobody follows
}

// route names followers: it stops a kind, passes kinds on as they are, and writes others anew.
func route(r *worker.Request) worker.Reply {
	kind := r.Headers["x-github-event"]
	switch {
	case slices.Contains(noise, kind):
		return worker.Send()
	case slices.Contains(conversations, kind):
		return worker.Pass("announce", "entities")
	case slices.Contains(works, kind):
		wrapped := slices.Concat([]byte(`{ "event":`), r.Body, []byte(` }`))
		return worker.Send(
			worker.Message{Followers: []string{"history"}, SameBody: true},
			worker.Message{Followers: []string{"entities"}, Body: wrapped, Headers: map[string]string{"content-type": "application/json"}},
		)
	}
	return worker.Send(worker.Message{Followers: []string{"entities"}, Body: append([]byte("\n"), r.Body...), Headers: map[string]string{"content-type": "text/plain; charset=utf-8"}})
}

// entities makes a message of each member that is an object, in the bytes that it has. The content types make the reply
// use each of the forms in which a body can be written.
func entities(r *worker.Request) worker.Reply {
	var messages []worker.Message
	for _, m := range members(r.Body) {
		if m.value[0] != '{' {
			continue
		}
		message := worker.Message{Body: m.value}
		if kind := []string{"application/json", "text/plain", ""}[len(messages)%3]; kind != "" {
			message.Headers = map[string]string{"content-type": kind}
		}
		messages = append(messages, message)
	}
	return worker.Send(messages...)
}

type member struct {
	name  string
	value json.RawMessage
}

// members reads an object and keeps its order, its doublets and the bytes of its values.
func members(body []byte) []member {
	d := json.NewDecoder(bytes.NewReader(body))
	if _, err := d.Token(); err != nil {
		return nil
	}
	var found []member
	for d.More() {
		name, err := d.Token()
		var value json.RawMessage
		if err != nil || d.Decode(&value) != nil {
			return nil
		}
		found = append(found, member{fmt.Sprint(name), value})
	}
	return found
}

// announce filters: it stops what a robot did, and what happens all the time.
func announce(r *worker.Request) worker.Reply {
	var action, sender json.RawMessage
	for _, m := range members(r.Body) {
		switch m.name {
		case "action":
			action = m.value
		case "sender":
			sender = m.value
		}
	}
	if bytes.Contains(sender, []byte(`"Bot"`)) || slices.Contains([]string{`"labeled"`, `"unlabeled"`, `"edited"`, `"synchronize"`}, string(action)) {
		return worker.Reply{Verdict: worker.Stop, Reason: "nothing to talk about"}
	}
	return worker.Pass()
}

const (
	pieceSize  = 5000 // cuts letters in two
	pagePieces = 3
)

// history pages: the pieces of the body, three a page, and between them a page with nothing on it.
func history(r *worker.Request) worker.Reply {
	from := 0
	if r.Cursor != "" {
		from, _ = strconv.Atoi(strings.TrimSuffix(r.Cursor, cursorEnd))
	}
	reply := worker.Send()
	if r.Page != 2 {
		for range pagePieces {
			if to := min(from+pieceSize, len(r.Body)); to > from {
				reply.Messages = append(reply.Messages, worker.Message{Body: r.Body[from:to]})
				from = to
			}
		}
	}
	if from < len(r.Body) {
		reply.Cursor = strconv.Itoa(from) + cursorEnd
	}
	return reply
}

// cursorEnd is what a cursor may hold: anything.
const cursorEnd = " % \"𝄞\"\n"

// predict runs the worker's functions over the graph, without Sluice: what will arrive where.
func predict(g topology.Graph, events []gitHubEvent) (want map[fact]int, tally map[string]int) {
	want, tally = map[fact]int{}, map[string]int{}
	var arrive func(name string, r worker.Request)
	arrive = func(name string, r worker.Request) {
		n, _ := g.Node(name)
		want[factOf(name, &r)]++
		if n.Kind == topology.Batch {
			r.Page = 1
		}
		for ; ; r.Page++ {
			reply := makeOf(name, &r)
			switch {
			case r.Page > 0 && len(reply.Messages) == 0:
				tally[name+" empty page"]++
			case r.Page > 0:
				tally[name+" page"]++
			case reply.Verdict == worker.Stop || len(reply.Messages) == 0:
				tally[name+" stop"]++
			}
			for _, m := range reply.Messages {
				next := worker.Request{Body: m.Body, Headers: map[string]string{"x-github-event": r.Headers["x-github-event"]}}
				if m.SameBody {
					next.Body, next.Headers["content-type"] = r.Body, r.Headers["content-type"]
				} else {
					next.Headers["content-type"] = m.Headers["content-type"]
				}
				to := m.Followers
				if to == nil {
					to = n.Followers
				}
				for _, follower := range to {
					arrive(follower, next)
				}
			}
			if r.Cursor = reply.Cursor; r.Cursor == "" {
				return
			}
		}
	}
	for _, e := range events {
		arrive("route", worker.Request{Body: e.body, Headers: map[string]string{"x-github-event": e.kind, "content-type": "application/json"}})
	}
	return want, tally
}

// fact is that such a message arrived at a node.
type fact struct {
	event, node, contentType string
	sum                      [32]byte
}

func factOf(node string, r *worker.Request) fact {
	kind := cmp.Or(r.Headers["content-type"], "application/octet-stream") // what a worker is told where there is none
	return fact{r.Headers["x-github-event"], node, kind, sha256.Sum256(r.Body)}
}

// saw is what the worker saw and made.
type saw struct {
	t      *testing.T
	graph  topology.Graph
	events []gitHubEvent

	mu    sync.Mutex
	calls int
	made  map[string][32]byte // by the name of the output and the node that it is for: what was made for it
	came  map[string]int      // by the same: how many messages brought it
	keys  map[string][32]byte // by idempotency key: what came with it
	facts map[fact]int
	ids   map[string][32]byte // by message id: what came
	wrong int
}

// madeBy is the header in which an output carries its name: the effect that made it, and its place among the others.
const madeBy = "x-made-by"

// work is the worker: it does what makeOf says, and keeps the books.
func (s *saw) work(_ context.Context, r *worker.Request) (worker.Reply, error) {
	reply := makeOf(r.Node, r)
	reply.Messages = slices.Clone(reply.Messages)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	s.arrived(r)
	for i := range reply.Messages {
		m := &reply.Messages[i]
		name := fmt.Sprintf("%s/%d", r.IdempotencyKey(), i)
		sum := sha256.Sum256(m.Body)
		if m.SameBody {
			sum = sha256.Sum256(r.Body)
		}
		to := m.Followers
		if to == nil {
			node, _ := s.graph.Node(r.Node)
			to = node.Followers
		}
		for _, follower := range to {
			s.made[name+" "+follower] = sum
		}
		m.Headers = maps.Clone(m.Headers)
		if m.Headers == nil {
			m.Headers = map[string]string{}
		}
		m.Headers[madeBy] = name
	}
	return reply, nil
}

// arrived notes what came with a call, and holds it against what was sent on its way.
func (s *saw) arrived(r *worker.Request) {
	key, sum := r.IdempotencyKey(), sha256.Sum256(r.Body)
	if before, again := s.keys[key]; again {
		if before != sum {
			s.complain("node %s was called twice with key %s, and with other bytes", r.Node, key)
		}
		return
	}
	s.keys[key] = sum
	if r.Page > 1 {
		if s.ids[r.MessageID] != sum {
			s.complain("page %d of %s was asked for with other bytes than the first", r.Page, r.MessageID)
		}
		return
	}
	s.ids[r.MessageID] = sum
	s.facts[factOf(r.Node, r)]++
	if name := r.Headers[madeBy]; name != "" {
		if made, known := s.made[name+" "+r.Node]; !known || made != sum {
			s.complain("node %s got %d bytes that are not those of %s (known: %t): %.300q", r.Node, len(r.Body), name, known, r.Body)
		}
		s.came[name+" "+r.Node]++
		return
	}
	delivery := r.Headers["x-github-delivery"]
	n, err := strconv.Atoi(delivery)
	if err != nil || r.Node != "route" || !bytes.Equal(r.Body, s.events[n].body) || r.Headers["x-github-event"] != s.events[n].kind {
		s.complain("node %s got %d bytes that are not those of event %q: %.300q", r.Node, len(r.Body), delivery, r.Body)
	}
	s.came["event "+delivery]++
}

// complain reports what must not be, but not all of it.
func (s *saw) complain(format string, args ...any) {
	if s.wrong++; s.wrong <= 20 {
		s.t.Errorf(format, args...)
	}
}

// compare holds what arrived against what was predicted.
func (s *saw) compare(want map[fact]int) {
	for f, n := range want {
		if s.facts[f] != n {
			s.complain("%d times at node %s for event %s: bytes %x of type %q, want %d times", s.facts[f], f.node, f.event, f.sum[:4], f.contentType, n)
		}
	}
	for f, n := range s.facts {
		if want[f] == 0 {
			s.complain("%d times at node %s for event %s: bytes %x of type %q, which nothing predicts", n, f.node, f.event, f.sum[:4], f.contentType)
		}
	}
}

// allArrived makes sure that each output came to each node that it was made for, as one message, and nothing else came.
func (s *saw) allArrived() {
	for name := range s.made {
		if s.came[name] != 1 {
			s.complain("%s came in %d messages, want 1", name, s.came[name])
		}
	}
	for n := range s.events {
		if name := fmt.Sprintf("event %d", n); s.came[name] != 1 {
			s.complain("%s came in %d messages, want 1", name, s.came[name])
		}
	}
	if len(s.came) != len(s.made)+len(s.events) {
		s.complain("%d different messages came, %d were made and %d posted", len(s.came), len(s.made), len(s.events))
	}
}

// readBack asks the API for the bytes of some messages.
func (s *saw) readBack(c *cluster) {
	s.t.Helper()
	for n, id := range slices.Sorted(maps.Keys(s.ids)) {
		if n%100 != 0 {
			continue
		}
		status, body, err := c.call(0, "GET", "/v1/messages/"+id+"/body", http.Header{}, nil)
		if err != nil || status != http.StatusOK || sha256.Sum256(body) != s.ids[id] {
			s.complain("the body of message %s: status %d, error %v, %d bytes that are not those which came", id, status, err, len(body))
		}
	}
}

func byNode(facts map[fact]int) map[string]int {
	n := map[string]int{}
	for f, times := range facts {
		n[f.node] += times
	}
	return n
}

// flaky stands before a worker and lets one call in ten fail. Which, and how, follows from the seed and what is called.
type flaky struct {
	next   http.Handler
	seed   uint64
	failed atomic.Int64
	ways   [len(flakyWays)]atomic.Int64

	mu    sync.Mutex
	calls map[[32]byte]int
}

var flakyWays = [...]string{"500", "503", "429", "connection closed", "reply cut short", "reply lost"}

func (f *flaky) names() map[string]int64 {
	n := map[string]int64{}
	for i := range f.ways {
		n[flakyWays[i]] = f.ways[i].Load()
	}
	return n
}

// choose returns the way in which a call fails, or "".
func (f *flaky) choose(r *http.Request, body []byte) string {
	id := sha256.Sum256(fmt.Appendf(nil, "%s %s %s %s", r.URL.Path, r.Header.Get("Sluice-Header-X-Github-Delivery"), r.Header.Get("Sluice-Page"), body))
	f.mu.Lock()
	f.calls[id]++
	call := f.calls[id]
	f.mu.Unlock()
	dice := rand.New(rand.NewPCG(f.seed+uint64(call), binary.BigEndian.Uint64(id[:])))
	if dice.IntN(10) > 0 {
		return ""
	}
	way := dice.IntN(len(flakyWays))
	f.failed.Add(1)
	f.ways[way].Add(1)
	return flakyWays[way]
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	say := ""
	switch way := f.choose(r, body); way {
	case "":
		f.next.ServeHTTP(w, r)
		return
	case "500", "503", "429":
		status, _ := strconv.Atoi(way)
		http.Error(w, "not now", status)
		return
	case "reply cut short":
		say = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nthe first bytes"
	case "reply lost":
		f.next.ServeHTTP(httptest.NewRecorder(), r)
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	io.WriteString(conn, say)
	conn.Close()
}
