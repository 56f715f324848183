package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// served is `sluice serve` in a process of its own.
type served struct {
	t       *testing.T
	address string
	cmd     *exec.Cmd
	log     watched
	gone    chan struct{}
}

// serve starts a process on the rig's database, or on another way to it.
func (r *crashRig) serve(url, address string, args ...string) *served {
	t := r.t
	t.Helper()
	s := &served{t: t, address: address, gone: make(chan struct{})}
	s.cmd = exec.Command(os.Args[0], append([]string{"serve", "--listen", address, "--database-url", url}, args...)...)
	s.cmd.Env = append(os.Environ(), asProgram+"=1")
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.cmd.Wait(); close(s.gone) }()
	t.Cleanup(func() {
		_ = s.cmd.Process.Signal(syscall.SIGCONT)
		s.kill()
		for _, bad := range []string{"DATA RACE", "panic:", "fatal error:"} {
			if log := s.log.String(); strings.Contains(log, bad) {
				t.Errorf("%s: %s", bad, log)
			}
		}
	})
	return s
}

func (s *served) kill() {
	_ = s.cmd.Process.Kill()
	<-s.gone
}

// ready waits until the process says that it is.
func (s *served) ready() {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		resp, err := http.Get("http://" + s.address + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-s.gone:
			s.t.Fatalf("it ended:\n%s", s.log.String())
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("not ready:\n%s", s.log.String())
		}
	}
}

// alive fails if the process has ended.
func (s *served) alive() {
	s.t.Helper()
	select {
	case <-s.gone:
		s.t.Fatalf("it ended:\n%s", s.log.String())
	default:
	}
}

// terminate asks the process to drain, and waits until it has.
func (s *served) terminate() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	select {
	case <-s.gone:
	case <-time.After(time.Minute):
		s.t.Fatalf("it does not drain:\n%s", s.log.String())
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		s.t.Errorf("exit code %d:\n%s", code, s.log.String())
	}
}

// freeAddress is an address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// feed posts events at a steady rate to whichever of some addresses takes them, each with a key, until it is accepted.
// It remembers what was promised.
type feed struct {
	rig       *crashRig
	client    *http.Client
	addresses []string
	pause     time.Duration // before an event is posted again

	events   atomic.Int64 // begun
	accepted atomic.Int64
	refused  atomic.Int64 // connections: nobody was there, so nothing was said
	cut      atomic.Int64 // answers that did not come
	busy     atomic.Int64 // answers that said to come again later
	again    atomic.Int64 // events that had been stored before
	slowest  atomic.Int64 // answer, in nanoseconds

	mu       sync.Mutex
	promises map[int]string
	said     map[string]int // answers other than 202, by status and code
	stop     chan struct{}
	group    sync.WaitGroup
}

// feed starts with so many producers at once; events a second in all.
func (r *crashRig) feed(producers int, rate float64, addresses ...string) *feed {
	f := &feed{
		rig: r, addresses: addresses, pause: cmp.Or(r.pause, 50*time.Millisecond), promises: map[int]string{}, said: map[string]int{}, stop: make(chan struct{}),
		client: &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: producers}},
	}
	began := time.Now()
	for range producers {
		f.group.Go(func() {
			for {
				select {
				case <-f.stop:
					return
				default:
				}
				n := int(f.events.Add(1)) - 1
				time.Sleep(time.Until(began.Add(time.Duration(float64(n) / rate * float64(time.Second))))) //nolint:forbidigo // the pace of the load
				f.post(n)
			}
		})
	}
	r.t.Cleanup(f.client.CloseIdleConnections)
	return f
}

// end stops and waits until all that was begun is accepted. It returns how many events that is.
func (f *feed) end() int {
	close(f.stop)
	f.group.Wait()
	return int(f.events.Load())
}

func (f *feed) post(n int) {
	deadline := time.Now().Add(3 * time.Minute)
	for try := n; ; try++ {
		if f.try(f.addresses[try%len(f.addresses)], n) {
			return
		}
		if time.Now().After(deadline) {
			f.rig.t.Errorf("event %d was not accepted in time", n)
			return
		}
		time.Sleep(f.pause) //nolint:forbidigo // a producer's pause before it tries again, with a deadline
	}
}

func (f *feed) try(address string, n int) bool {
	req, err := http.NewRequest(http.MethodPost, "http://"+address+"/v1/topologies/flow/nodes/in/events", strings.NewReader(fmt.Sprintf("event %d", n)))
	if err != nil {
		f.rig.t.Error(err)
		return true
	}
	req.Header.Set("Authorization", "Bearer "+f.rig.key)
	req.Header.Set("Idempotency-Key", fmt.Sprintf("event-%d", n))
	asked := time.Now()
	resp, err := f.client.Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) {
		f.refused.Add(1)
		return false
	}
	var body []byte
	if err == nil {
		body, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	if err != nil {
		f.cut.Add(1)
		said := err.Error()
		f.note(said[strings.LastIndex(said, ": ")+1:])
		return false
	}
	for took := int64(time.Since(asked)); ; {
		old := f.slowest.Load()
		if took <= old || f.slowest.CompareAndSwap(old, took) {
			break
		}
	}
	if resp.StatusCode != http.StatusAccepted {
		var problem struct{ Code string }
		_ = json.Unmarshal(body, &problem) // what is no problem document has no code
		f.note(fmt.Sprint(resp.StatusCode, " ", problem.Code))
		f.busy.Add(1)
		if resp.StatusCode != http.StatusServiceUnavailable && resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" {
			f.rig.t.Errorf("event %d: %s, Retry-After %q: %s", n, resp.Status, resp.Header.Get("Retry-After"), body)
		}
		return false
	}
	var promise struct {
		CorrelationID string `json:"correlation_id"`
		Duplicate     bool   `json:"duplicate"`
	}
	if err := json.Unmarshal(body, &promise); err != nil {
		f.rig.t.Errorf("event %d: %v: %s", n, err, body)
	}
	if promise.Duplicate {
		f.again.Add(1)
	}
	f.accepted.Add(1)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.promises[n] = promise.CorrelationID
	return true
}

func (f *feed) note(said string) {
	if len(said) > 100 {
		said = said[:100]
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.said[said]++
}

func (f *feed) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fmt.Sprintf("%d events accepted, %d of them stored before; %d connections refused, %d answers cut, %d told to come later, slowest answer %v %v",
		f.accepted.Load(), f.again.Load(), f.refused.Load(), f.cut.Load(), f.busy.Load(),
		time.Duration(f.slowest.Load()).Round(time.Millisecond), f.said)
}

// promised proves that each promise was kept: its process is there, and there is one for each event.
func (f *feed) promised() {
	t := f.rig.t
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	pairs := make([][2]string, 0, len(f.promises))
	for n, id := range f.promises {
		pairs = append(pairs, [2]string{fmt.Sprintf("event %d", n), id})
	}
	b, err := json.Marshal(pairs)
	if err != nil {
		t.Fatal(err)
	}
	var broken, twice int
	err = f.rig.ask(fmt.Sprintf(`
		with promise as materialized (select x->>0 as body, (x->>1)::uuid as process_id from jsonb_array_elements('%s') as x),
		stored as materialized (
		    select convert_from(body, 'UTF8') as body, process_id from sluice.message where parent_id is null and body is not null
		)
		select (select count(*) from (select * from promise except select * from stored) x),
		       (select count(*) - count(distinct body) from stored)`, b), &broken, &twice)
	if err != nil || broken > 0 || twice > 0 {
		t.Errorf("of %d promises %d were not kept, %d events were stored twice, %v", len(pairs), broken, twice, err)
	}
}

// Three processes share the work, and each is restarted in turn while producers post to whichever is there: nobody hears
// of it. Nothing is lost and nothing comes twice.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		roles []string
	}{
		{"joined", []string{"gateway,runner", "gateway,runner", "gateway,runner"}},
		{"split", []string{"gateway", "gateway", "runner"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rounds := size(1, 10)
			r := startCrashRig(t)
			var all []*served
			var doors []string
			for _, roles := range c.roles {
				s := r.serve(r.url, freeAddress(t), "--roles", roles)
				all = append(all, s)
				if strings.Contains(roles, "gateway") {
					doors = append(doors, s.address)
				}
			}
			for _, s := range all {
				s.ready()
			}
			r.kill()
			r.pause = time.Millisecond
			f := r.feed(16, 200, doors...)
			restarts, longest := 0, time.Duration(0)
			for range rounds {
				for k := range all {
					before := f.accepted.Load()
					r.until("events between restarts", func() bool { return f.accepted.Load() > before+100 })
					began := time.Now()
					all[k].terminate()
					longest = max(longest, time.Since(began))
					all[k] = r.serve(r.url, all[k].address, "--roles", c.roles[k])
					all[k].ready()
					restarts++
				}
			}
			events := f.end()
			t.Logf("%d restarts, drained within %v: %s", restarts, longest.Round(time.Millisecond), f)
			if n := f.cut.Load() + f.busy.Load(); n > 0 {
				t.Errorf("producers heard of it %d times", n)
			}
			r.prove(events)
			f.promised()
			if n := r.repeats(); n > 0 {
				t.Errorf("%d effects were asked for twice, though nobody died", n)
			}
			for _, s := range all {
				s.terminate()
			}
		})
	}
}

// repeats is how many effects the worker was asked for more than once.
func (r *crashRig) repeats() (n int) {
	r.sink.mu.Lock()
	defer r.sink.mu.Unlock()
	for _, calls := range r.sink.calls {
		if calls > 1 {
			n++
		}
	}
	return n
}
