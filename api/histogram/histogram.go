// Package histogram counts observations in buckets, for metrics pages. It is made for
// hot paths: an observation is a search in a short list and two atomic additions. It
// registers nothing anywhere; who owns a Histogram shows it. Start reading at New.
package histogram

import (
	"math"
	"slices"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Histogram may be used by many goroutines. Make it with New.
type Histogram struct {
	bounds []float64 // shared, never changed
	counts []atomic.Uint64
	sum    atomic.Uint64 // bits of a float64
}

// New makes one with these upper bounds, in order; what is above all of them is counted
// too. bounds is kept.
func New(bounds []float64) *Histogram {
	return &Histogram{bounds: bounds, counts: make([]atomic.Uint64, len(bounds)+1)}
}

// Observe counts v.
func (h *Histogram) Observe(v float64) {
	i, _ := slices.BinarySearch(h.bounds, v)
	h.counts[i].Add(1)
	for {
		old := h.sum.Load()
		if h.sum.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+v)) {
			return
		}
	}
}

// Count is the number of observations.
func (h *Histogram) Count() (n uint64) {
	for i := range h.counts {
		n += h.counts[i].Load()
	}
	return n
}

// Metric is the state now, as a metrics page shows it.
func (h *Histogram) Metric(d *prometheus.Desc, labels ...string) prometheus.Metric {
	buckets, n := make(map[float64]uint64, len(h.bounds)), uint64(0)
	for i, b := range h.bounds {
		n += h.counts[i].Load()
		buckets[b] = n
	}
	n += h.counts[len(h.bounds)].Load()
	return prometheus.MustNewConstHistogram(d, n, math.Float64frombits(h.sum.Load()), buckets, labels...)
}

// Exponential gives n bounds from first on, each factor times the one before.
func Exponential(first, factor float64, n int) []float64 {
	return prometheus.ExponentialBuckets(first, factor, n)
}
