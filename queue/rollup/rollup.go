// Package rollup counts what happened: attempts and messages, by the minute, and from minutes by the quarter of an hour,
// the hour and the day. Screens, alerts and metrics read these counts, so that nobody ever counts records while others
// wait for them.
//
// Every record counts once. A minute is counted when no transaction that began in it can still commit, in the transaction
// that says so, by the one runner that holds the lock on the mark: see seal. What is counted reconciles exactly with the
// records, which the check of package queue proves. Nothing is added to the statements that move messages.
//
// The package knows the tables of records and what they are called by, nothing of engines, gateways or screens.
package rollup

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// Scope is what is counted by.
type Scope string

// The scopes. Subjects of edges and topologies are ids, of the others names.
const (
	All         Scope = "all" // that a tenant has, together; the subject is empty
	Edge        Scope = "edge"
	Topology    Scope = "topology"
	Application Scope = "application"
	Worker      Scope = "worker"
)

var scopes = []string{string(All), string(Edge), string(Topology), string(Application), string(Worker)}

// Counts is what happened in a time.
type Counts struct {
	Events      int64 // that came in
	Arrived     int64 // messages that were made
	Done        int64 // attempts, by outcome
	Filtered    int64
	Failed      int64
	Parked      int64
	Retried     int64
	Repeated    int64
	Unavailable int64
	Pages       int64
	LatencyUS   int64     // of all answered calls together
	Latency     Histogram // of answered calls
}

// Settled is how many messages left their edge, whether well or not.
func (c *Counts) Settled() int64 { return c.Done + c.Filtered + c.Failed }

// Calls is how many calls were made and answered.
func (c *Counts) Calls() int64 {
	return c.Done + c.Filtered + c.Failed + c.Retried + c.Repeated + c.Pages
}

// Bad is how many calls failed, for good or not.
func (c *Counts) Bad() int64 { return c.Failed + c.Retried }

// Add adds what happened in another time, or to another subject.
func (c *Counts) Add(o *Counts) {
	c.Events += o.Events
	c.Arrived += o.Arrived
	c.Done += o.Done
	c.Filtered += o.Filtered
	c.Failed += o.Failed
	c.Parked += o.Parked
	c.Retried += o.Retried
	c.Repeated += o.Repeated
	c.Unavailable += o.Unavailable
	c.Pages += o.Pages
	c.LatencyUS += o.LatencyUS
	c.Latency = c.Latency.plus(o.Latency)
}

// record adds attempts that ended alike. What was answered by nobody has no latency.
func (c *Counts) record(outcome string, bucket int, n, us int64) {
	switch outcome {
	case "done":
		c.Done += n
	case "filtered":
		c.Filtered += n
	case "failed":
		c.Failed += n
	case "retried":
		c.Retried += n
	case "repeat":
		c.Repeated += n
	case "page":
		c.Pages += n
	case "unavailable":
		c.Unavailable += n
		return
	default:
		c.Parked += n
		return
	}
	c.LatencyUS += us
	c.Latency = c.Latency.grown(bucket)
	c.Latency[bucket] += n
}

// Histogram counts calls by how long they took, in buckets that are the same always and everywhere, so that histograms add
// up. Bucket 0 is of what took less than the first of bounds, and each further one reaches a fifth higher than the one
// before: a quantile is right to within that.
type Histogram []int64

// bounds are where buckets begin, but for the first, in microseconds: from 100 us to 14 minutes.
var bounds = func() []int32 {
	b := make([]int32, 93)
	for i := range b {
		b[i] = int32(math.Round(100 * math.Pow(2, float64(i)/4)))
	}
	return b
}()

func (h Histogram) grown(bucket int) Histogram {
	for len(h) <= bucket {
		h = append(h, 0)
	}
	return h
}

func (h Histogram) plus(o Histogram) Histogram {
	if len(o) > 0 {
		h = h.grown(len(o) - 1)
	}
	for i, n := range o {
		h[i] += n
	}
	return h
}

// Total is how many calls it counts.
func (h Histogram) Total() (n int64) {
	for _, c := range h {
		n += c
	}
	return n
}

// Quantile is the time that a share q of all calls took at most, and false if there were none.
func (h Histogram) Quantile(q float64) (time.Duration, bool) {
	total := h.Total()
	if total == 0 {
		return 0, false
	}
	rank, below := q*float64(total), 0.0
	for i, n := range h {
		if n == 0 || below+float64(n) < rank {
			below += float64(n)
			continue
		}
		low, high := edgesOf(i)
		share := (rank - below) / float64(n)
		return time.Duration(low * math.Pow(high/low, share) * float64(time.Microsecond)), true
	}
	_, high := edgesOf(len(h) - 1)
	return time.Duration(high * float64(time.Microsecond)), true
}

// edgesOf is where a bucket begins and ends, in microseconds.
func edgesOf(bucket int) (low, high float64) {
	switch {
	case bucket <= 0:
		return 1, float64(bounds[0])
	case bucket >= len(bounds):
		return float64(bounds[len(bounds)-1]), 2 * float64(bounds[len(bounds)-1])
	}
	return float64(bounds[bucket-1]), float64(bounds[bucket])
}

// text is the histogram as Postgres reads an array whose subscripts are the buckets, without the empty ones around.
func (h Histogram) text() string {
	first := 0
	for first < len(h) && h[first] == 0 {
		first++
	}
	if first == len(h) {
		return "{}"
	}
	var b strings.Builder
	b.WriteString("[" + strconv.Itoa(first) + ":" + strconv.Itoa(len(h)-1) + "]={")
	for i, n := range h[first:] {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatInt(n, 10))
	}
	b.WriteByte('}')
	return b.String()
}

// histogramOf reads what text wrote.
func histogramOf(a pgtype.Array[int64]) Histogram {
	if len(a.Elements) == 0 {
		return nil
	}
	h := make(Histogram, int(a.Dims[0].LowerBound)+len(a.Elements))
	copy(h[a.Dims[0].LowerBound:], a.Elements)
	return h
}
