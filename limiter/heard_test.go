package limiter

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func headers(lines string) http.Header {
	h := http.Header{}
	for line := range strings.SplitSeq(lines, "\n") {
		if name, value, ok := strings.Cut(line, ": "); ok {
			h.Add(name, value)
		}
	}
	return h
}

func TestHeard(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		lines   string
		refused bool
		want    time.Duration
	}{
		{"", true, 0},
		{"Retry-After: 30", true, 30 * time.Second},
		{"Retry-After: 30", false, 0}, // of an answer that did not refuse it means something else
		{"Retry-After: 0.5", true, 500 * time.Millisecond},
		{"Retry-After: -3", true, 0},
		{"Retry-After: soon", true, 0},
		{"Retry-After: NaN", true, 0},
		{"Retry-After: 1e300", true, MaxClosed},
		{"Retry-After: Sun, 22 Nov 2026 12:00:20 GMT", true, 20 * time.Second},
		{"Retry-After: Sun, 22 Nov 2026 11:00:20 GMT\nDate: Sun, 22 Nov 2026 11:00:00 GMT", true, 20 * time.Second},
		{"X-RateLimit-Remaining: 0\nX-RateLimit-Reset: 1795348830", false, 30 * time.Second},
		{"X-RateLimit-Remaining: 0\nX-RateLimit-Reset: 1795348830500", false, 30500 * time.Millisecond},
		{"X-RateLimit-Remaining: 0\nX-RateLimit-Reset: 7", false, 7 * time.Second},
		{"X-RateLimit-Remaining: 12\nX-RateLimit-Reset: 7", false, 0},
		{"X-RateLimit-Reset: 7", true, 7 * time.Second},
		{"X-RateLimit-Reset: 7", false, 0},
		{"X-Rate-Limit-Remaining: 0\nX-Rate-Limit-Reset: 2026-11-22T12:00:09Z", false, 9 * time.Second},
		{"RateLimit-Remaining: 0\nRateLimit-Reset: 12", false, 12 * time.Second},
		{`RateLimit: "burst";r=5;t=1, "day";r=0;t=40`, false, 40 * time.Second},
		{"RateLimit: limit=100, remaining=0, reset=50", false, 50 * time.Second},
		{"RateLimit: limit=100, remaining=3, reset=50", false, 0},
		{"RateLimit: ,;;=,r=0", false, 0},
		{"Retry-After: 3\nRateLimit-Remaining: 0\nRateLimit-Reset: 12", true, 12 * time.Second},
	} {
		if got := Heard(headers(c.lines), c.refused, noon); got != c.want {
			t.Errorf("%q: %v, want %v", c.lines, got, c.want)
		}
	}
}

// Whatever an answer says, an application is left alone for a while that makes sense.
func FuzzHeard(f *testing.F) {
	f.Add("30", "0", "1795348830", `"default";r=0;t=30`)
	f.Add("Sun, 22 Nov 2026 12:00:20 GMT", "-1", "1e400", "limit=1, remaining=0, reset=NaN")
	f.Fuzz(func(t *testing.T, retry, left, reset, policy string) {
		h := http.Header{"Retry-After": {retry}, "X-Ratelimit-Remaining": {left}, "X-Ratelimit-Reset": {reset}, "Ratelimit": {policy}}
		for _, refused := range []bool{true, false} {
			if got := Heard(h, refused, noon); got < 0 || got > MaxClosed {
				t.Fatalf("left alone for %v", got)
			}
		}
	})
}

// Each refusal costs a share, and time without one gives it back.
func TestSlowed(t *testing.T) {
	t.Parallel()
	share := 1.0
	for range 100 {
		share = Slower(share)
	}
	if share != slowFloor {
		t.Errorf("slowed to %v, want the floor", share)
	}
	if got := Slowed(0.5, slowRest); got != 0.5 {
		t.Errorf("recovers at once: %v", got)
	}
	if got := Slowed(0.5, slowRest+10*time.Second); got < 0.599 || got > 0.601 {
		t.Errorf("%v after ten seconds, want 0.6", got)
	}
	if got := Slowed(0.5, time.Hour); got != 1 {
		t.Errorf("%v after an hour", got)
	}
}
