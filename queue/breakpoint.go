package queue

import (
	"fmt"
	"time"

	"sluice/queue/process"
	"sluice/queue/worker"
)

// park is what becomes of a message at a breakpoint: it waits in the trash for a person, and when it comes from there, it
// goes on as it is to all that follow. Nobody is called, and nothing has failed.
func park(d *delivery) *settlement {
	n := d.edge.to
	s := &settlement{d: d}
	if !d.approved {
		s.outcome, s.class, s.delay = outcomeParked, process.ClassBreakpoint, time.Duration(n.Due)
		if s.reason = n.Title.Of(d.headers, d.body); s.reason == "" {
			s.reason = parkedReason(n)
		}
		return s
	}
	s.outcome, s.reason = outcomeDone, "approved"
	s.addSuccessors(worker.Message{SameBody: true, Headers: d.headers}, n.next)
	return s
}

// parkedReason is why a message waits that has no title.
func parkedReason(n *node) string { return fmt.Sprintf("waits at breakpoint %s", n.Name) }
