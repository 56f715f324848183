package rollup

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"sluice/migrations/pgtest"
)

// Quantiles are right to within a bucket, and those of sums are those of all that was summed up.
func TestQuantile(t *testing.T) {
	t.Parallel()
	if _, some := (Histogram)(nil).Quantile(0.5); some {
		t.Error("nothing has a quantile")
	}
	bucketOf := func(us int32) int {
		n, found := slices.BinarySearch(bounds, us)
		if found {
			n++
		}
		return n
	}
	var sum Histogram
	var all []float64
	for part := range 10 {
		var h Histogram
		for n := range 1000 {
			us := math.Pow(1.004, float64(n*10+part)/10) * 300
			all = append(all, us)
			h = h.grown(bucketOf(int32(us)))
			h[bucketOf(int32(us))]++
		}
		sum = sum.plus(h)
	}
	slices.Sort(all)
	for _, q := range []float64{0.01, 0.5, 0.95, 0.99, 1} {
		want := all[min(int(q*float64(len(all))), len(all)-1)]
		d, _ := sum.Quantile(q)
		if got := float64(d.Microseconds()); math.Abs(got-want) > want*0.2 {
			t.Errorf("quantile %v is %v, want about %v", q, got, want)
		}
	}
	if sum.Total() != 10000 {
		t.Errorf("%d calls", sum.Total())
	}
	for us, want := range map[int32]time.Duration{0: 100 * time.Microsecond, 50: 100 * time.Microsecond, math.MaxInt32: 28 * time.Minute} {
		h := Histogram(nil).grown(bucketOf(us))
		h[bucketOf(us)] = 1
		if d, some := h.Quantile(1); !some || d > want {
			t.Errorf("of %d us: %v", us, d)
		}
	}
}

// A histogram comes back from the database as it went there, and Postgres sorts into the buckets that we mean.
func TestHistogramIsKept(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	for _, h := range []Histogram{nil, {5}, {0, 0, 1}, {1, 0, 0, 7}, slices.Concat(make(Histogram, 93), Histogram{3})} {
		var back pgtype.Array[int64]
		ok(t, pool.QueryRow(t.Context(), `select $1::text::int[]`, h.text()).Scan(&back))
		if got := histogramOf(back); !slices.Equal(got, h) {
			t.Errorf("%v is kept as %v", h, got)
		}
	}
	for us, want := range map[int32]int{0: 0, 99: 0, 100: 1, 118: 1, 119: 2, math.MaxInt32: len(bounds)} {
		var bucket int
		ok(t, pool.QueryRow(t.Context(), `select width_bucket($1::int, $2::int[])`, us, bounds).Scan(&bucket))
		if low, high := edgesOf(bucket); bucket != want || us > 0 && us < math.MaxInt32 && (float64(us) < low || float64(us) >= high) {
			t.Errorf("%d us are in bucket %d", us, bucket)
		}
	}
}
