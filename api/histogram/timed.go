package histogram

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Timed counts for how long a value was in which bucket, as upstream's timing histograms
// do: one observation for every nanosecond. It has one owner or its owner's lock. Make it
// with NewTimed.
type Timed struct {
	bounds []float64 // shared, never changed
	spent  []uint64  // nanoseconds
	sum    float64
	value  float64
	since  time.Time
}

// NewTimed makes one of the value 0 from now on. bounds is kept.
func NewTimed(bounds []float64, now time.Time) *Timed {
	return &Timed{bounds: bounds, spent: make([]uint64, len(bounds)+1), since: now}
}

// Set says what the value is from now on.
func (t *Timed) Set(now time.Time, v float64) {
	if v != t.value {
		t.advance(now)
		t.value = v
	}
}

func (t *Timed) advance(now time.Time) {
	passed := now.Sub(t.since)
	if passed <= 0 {
		return
	}
	i, _ := slices.BinarySearch(t.bounds, t.value)
	t.spent[i] += uint64(passed)
	t.sum += t.value * float64(passed)
	t.since = now
}

// Metric is the state at now, as a metrics page shows it.
func (t *Timed) Metric(now time.Time, d *prometheus.Desc, labels ...string) prometheus.Metric {
	t.advance(now)
	buckets, n := make(map[float64]uint64, len(t.bounds)), uint64(0)
	for i, b := range t.bounds {
		n += t.spent[i]
		buckets[b] = n
	}
	return prometheus.MustNewConstHistogram(d, n+t.spent[len(t.bounds)], t.sum, buckets, labels...)
}
