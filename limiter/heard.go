package limiter

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// MaxClosed is how long an application is left alone at most by what one answer says.
const MaxClosed = 24 * time.Hour

// Heard reads from the headers of an answer for how long an application asks to be left alone: Retry-After of one that
// refuses, and what RateLimit, RateLimit-Remaining and -Reset, or these with X- before them, say when nothing is left.
// Times are held against the answer's own Date. 0: it does not say. What cannot be read says nothing.
func Heard(h http.Header, refused bool, now time.Time) time.Duration {
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	var closed time.Duration
	if refused {
		closed = after(h.Get("Retry-After"), now)
	}
	for _, w := range windows(h) {
		if w.left == 0 || refused && w.left < 0 {
			closed = max(closed, after(w.reset, now))
		}
	}
	return min(closed, MaxClosed)
}

// window is what an answer says of one window of a limit.
type window struct {
	left  float64 // negative: it does not say
	reset string
}

// names of pairs of headers, as they are found.
var pairs = [][2]string{
	{"Ratelimit-Remaining", "Ratelimit-Reset"},
	{"X-Ratelimit-Remaining", "X-Ratelimit-Reset"},
	{"X-Rate-Limit-Remaining", "X-Rate-Limit-Reset"},
}

func windows(h http.Header) []window {
	var all []window
	for _, p := range pairs {
		if reset := h.Get(p[1]); reset != "" {
			all = append(all, window{count(h.Get(p[0])), reset})
		}
	}
	for _, field := range h["Ratelimit"] {
		// Each item of the list is a policy with parameters: "default";r=0;t=30. An older draft has a list of pairs instead:
		// limit=100, remaining=0, reset=30.
		old := window{left: -1}
		for item := range strings.SplitSeq(field, ",") {
			w := window{left: -1}
			for part := range strings.SplitSeq(item, ";") {
				name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
				switch name {
				case "r":
					w.left = count(value)
				case "t":
					w.reset = value
				case "remaining":
					old.left = count(value)
				case "reset":
					old.reset = value
				}
			}
			all = append(all, w)
		}
		all = append(all, old)
	}
	return all
}

// count reads a number that is not negative, or returns -1.
func count(text string) float64 {
	n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil || n < 0 || math.IsNaN(n) {
		return -1
	}
	return n
}

// The numbers from which on one stands for a time and not for a wait: in seconds or milliseconds since 1970.
const (
	fromSeconds = 1e9
	fromMillis  = 1e12
)

// after is how long it is until what a header says: a wait in seconds, a time in seconds or milliseconds since 1970, or a date.
func after(text string, now time.Time) time.Duration {
	text = strings.TrimSpace(text)
	n := count(text)
	var wait float64 // in seconds
	switch since := float64(now.UnixMilli()) / 1000; {
	case n < 0:
		at, err := http.ParseTime(text)
		if err != nil {
			if at, err = time.Parse(time.RFC3339, text); err != nil {
				return 0
			}
		}
		wait = float64(at.UnixMilli())/1000 - since
	case n >= fromMillis:
		wait = n/1000 - since
	case n >= fromSeconds:
		wait = n - since
	default:
		wait = n
	}
	return time.Duration(min(max(wait, 0), MaxClosed.Seconds()) * float64(time.Second))
}
