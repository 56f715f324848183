package process

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// A message's line is drawn from what was recorded, whatever came of it, and ends where it is now.
func TestDraw(t *testing.T) {
	t.Parallel()
	birth := time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	at := func(s int) time.Time { return birth.Add(time.Duration(s) * time.Second) }
	pointer := func(s int) *time.Time { p := at(s); return &p }
	try := func(n, ends, took int, outcome string) Attempt {
		return Attempt{Number: n, At: at(ends), Duration: time.Duration(took) * time.Second, Outcome: outcome}
	}
	for name, c := range map[string]struct {
		step  Step
		where placed
		want  []string
		ended int // 0: it has not
	}{
		"waits":                       {Step{Message: Message{Place: PlaceWaiting}}, placed{}, []string{"waiting 0-"}, 0},
		"runs":                        {Step{Message: Message{Place: PlaceRunning}}, placed{runningSince: pointer(4)}, []string{"waiting 0-4", "running 4-"}, 0},
		"done at once":                {Step{Message: Message{Place: PlaceDone}, Attempts: []Attempt{try(1, 2, 2, "done")}}, placed{}, []string{"running 0-2"}, 2},
		"held before its call":        {Step{Message: Message{Place: PlaceDone}, Attempts: []Attempt{try(1, 9, 1, "done")}}, placed{limited: true}, []string{"held 0-8", "running 8-9"}, 9},
		"held":                        {Step{Message: Message{Place: PlaceHeld}}, placed{limited: true, heldAt: pointer(0)}, []string{"held 0-"}, 0},
		"held after nobody was there": {Step{Message: Message{Place: PlaceHeld}, Attempts: []Attempt{try(1, 3, 1, "unavailable")}}, placed{heldAt: pointer(5)}, []string{"waiting 0-2", "running 2-3", "waiting 3-5", "held 5-"}, 0},
		"retries":                     {Step{Message: Message{Place: PlaceRetrying}, Attempts: []Attempt{try(1, 3, 1, "retried")}}, placed{}, []string{"waiting 0-2", "running 2-3", "retry 3-"}, 0},
		"pages":                       {Step{Message: Message{Place: PlaceDone}, Attempts: []Attempt{try(1, 2, 2, "page"), try(1, 5, 2, "done")}}, placed{}, []string{"running 0-2", "waiting 2-3", "running 3-5"}, 5},
		"approved": {Step{
			Message: Message{Place: PlaceDone}, Attempts: []Attempt{try(1, 2, 2, "failed"), try(2, 20, 3, "done")}, Decisions: []Decision{{Verdict: "comment", At: at(5)}, {Verdict: "approve", At: at(10)}},
		}, placed{}, []string{"running 0-2", "trash 2-10", "waiting 10-17", "running 17-20"}, 20},
		"rejected":          {Step{Message: Message{Place: PlaceRejected}, Attempts: []Attempt{try(1, 2, 2, "failed")}, Decisions: []Decision{{Verdict: "reject", At: at(9)}}}, placed{}, []string{"running 0-2", "trash 2-9"}, 9},
		"terminated":        {Step{Message: Message{Place: PlaceTerminated}, Decisions: []Decision{{Verdict: "terminate", At: at(9)}}}, placed{}, []string{"waiting 0-9"}, 9},
		"deleted":           {Step{Message: Message{Place: PlaceTrash}, Decisions: []Decision{{Verdict: "trash", At: at(9)}}}, placed{}, []string{"waiting 0-9", "trash 9-"}, 0},
		"parked, passed on": {Step{Message: Message{Place: PlaceDone}, Attempts: []Attempt{try(1, 2, 0, "parked"), try(2, 8, 0, "done")}, Decisions: []Decision{{Verdict: "approve", At: at(7)}}}, placed{}, []string{"waiting 0-2", "parked 2-7", "waiting 7-8"}, 8},
	} {
		s := c.step
		s.CreatedAt = birth
		s.draw(c.where)
		var got []string
		for _, p := range s.Spans {
			end := ""
			if p.To != nil {
				end = fmt.Sprint(p.To.Sub(birth).Seconds())
			}
			got = append(got, fmt.Sprintf("%s %g-%s", p.Kind, p.From.Sub(birth).Seconds(), end))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		if ended := s.EndedAt; ended == nil != (c.ended == 0) || ended != nil && !ended.Equal(at(c.ended)) {
			t.Errorf("%s: ended at %v", name, ended)
		}
	}
}
