package queue

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"sluice/queue/topology"
	"sluice/queue/worker"
)

// retryModel is what the documentation of retry says, as plainly as it can be said.
type retryModel struct {
	topology.Retry
	used int // attempts used up
}

// fate is what a call's result comes to.
type fate struct {
	outcome  outcome
	atLeast  time.Duration // of the pause, with the least jitter
	atMost   time.Duration
	attempts int // used up then
}

// next says what a failure comes to.
func (m *retryModel) next(f *worker.Failure) fate {
	honoured := f.RetryAfter
	if m.RetryAfter == topology.RetryAfterIgnore {
		honoured = 0
	}
	pause := func(outcome outcome, failures int) fate {
		rest := float64(m.Initial)
		for i := 1; i < failures && rest < float64(m.Max); i++ {
			rest *= m.Factor
		}
		rest = min(rest, float64(m.Max))
		const rounding = 1e-9
		least, most := time.Duration(rest*(1-m.Jitter-rounding)), time.Duration(rest*(1+m.Jitter+rounding))+1
		return fate{outcome, max(least, honoured), max(most, honoured), m.used}
	}
	waits := f.Class == worker.Unavailable || f.Class == worker.Limited
	switch {
	case f.Class == worker.Rejected: // trying again would change nothing
		return fate{outcome: outcomeFailed}
	case waits && m.Outage == topology.OutageWait && f.Class == worker.Unavailable && honoured == 0: // the circuit says when
		return fate{outcome: outcomeUnavailable, attempts: m.used}
	case waits && m.Outage == topology.OutageWait: // it is not the message's fault
		return pause(outcomeRetried, 1)
	}
	if m.used++; m.used == m.Attempts {
		return fate{outcome: outcomeFailed}
	}
	return pause(outcomeRetried, m.used)
}

// Whatever a worker answers, message by message and call by call, what comes of it is what the settings of its node say.
func TestRetries(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := retryModel{Retry: topology.Retry{
			Attempts:   rapid.IntRange(1, 12).Draw(t, "attempts"),
			Initial:    topology.Duration(rapid.Int64Range(int64(time.Millisecond), int64(time.Hour)).Draw(t, "initial")),
			Factor:     rapid.SampledFrom([]float64{1, 1.5, 2, 10, 1000}).Draw(t, "factor"),
			Max:        topology.Duration(rapid.Int64Range(int64(time.Millisecond), int64(24*time.Hour)).Draw(t, "max")),
			Jitter:     rapid.SampledFrom([]float64{0, 0.2, 1}).Draw(t, "jitter"),
			RetryAfter: rapid.SampledFrom([]topology.RetryAfter{topology.RetryAfterHonour, topology.RetryAfterIgnore}).Draw(t, "retry_after"),
			Outage:     rapid.SampledFrom([]topology.Outage{topology.OutageWait, topology.OutageCount}).Draw(t, "outage"),
		}}
		kind := rapid.SampledFrom([]topology.Kind{topology.Custom, topology.Batch}).Draw(t, "kind")
		n := &node{Node: topology.Node{Name: "n", Kind: kind, Worker: "w", Retry: m.Retry}}
		d := &delivery{edge: &edge{to: n}}
		for range rapid.IntRange(1, 40).Draw(t, "calls") {
			s := &settlement{d: d}
			want := fate{attempts: m.used}
			switch what := rapid.SampledFrom([]string{"fail", "fail", "fail", "repeat", "page", "done", "stop"}).Draw(t, "answer"); what {
			case "fail":
				f := &worker.Failure{
					Class:      rapid.SampledFrom([]worker.Class{worker.Transient, worker.Transient, worker.Limited, worker.Unavailable, worker.Rejected}).Draw(t, "class"),
					RetryAfter: time.Duration(rapid.SampledFrom([]int64{0, 0, 0, int64(time.Second), int64(24 * time.Hour)}).Draw(t, "asked")),
				}
				want = m.next(f)
				s.fail(f)
			case "repeat":
				want.outcome, want.atLeast, want.atMost = outcomeRepeat, time.Minute, time.Minute
				s.read(worker.Result{Reply: worker.Reply{Verdict: worker.Repeat, After: time.Minute}})
			case "page":
				want.outcome = outcomeDone
				if kind == topology.Batch { // each page has all attempts
					m.used = 0
					want = fate{outcome: outcomePage}
				}
				s.read(worker.Result{Reply: worker.Reply{Verdict: worker.Done, Cursor: "next"}})
			case "done":
				want.outcome = outcomeDone
				s.read(worker.Result{Reply: worker.Reply{Verdict: worker.Done}})
			case "stop":
				want.outcome = outcomeFiltered
				s.read(worker.Result{Reply: worker.Reply{Verdict: worker.Stop}})
			}
			if s.outcome != want.outcome || s.delay < want.atLeast || s.delay > want.atMost {
				t.Fatalf("it came to %s after %v, want %s after %v to %v", s.outcome, s.delay, want.outcome, want.atLeast, want.atMost)
			}
			if s.leaves() {
				return
			}
			if s.failures != want.attempts {
				t.Fatalf("%d attempts are used up after %s, want %d", s.failures, s.outcome, want.attempts)
			}
			d = &delivery{edge: d.edge, failures: s.failures, attempt: d.attempt + 1}
		}
	})
}
