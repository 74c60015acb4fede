package histogram

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

func TestTimedCountsNanoseconds(t *testing.T) {
	now := time.Unix(1000, 0)
	h := NewTimed([]float64{0.5, 1}, now)
	h.Set(now.Add(10), 1)
	h.Set(now.Add(20), 1)
	h.Set(now.Add(30), 2)
	h.Set(now.Add(25), 0) // a clock that goes back counts nothing
	var m dto.Metric
	if err := h.Metric(now.Add(70), prometheus.NewDesc("x", "x", nil, nil)).Write(&m); err != nil {
		t.Fatal(err)
	}
	got := m.GetHistogram()
	if got.GetSampleCount() != 70 || got.GetSampleSum() != 20 || got.Bucket[0].GetCumulativeCount() != 50 || got.Bucket[1].GetCumulativeCount() != 70 {
		t.Errorf("%v", got)
	}
}

func TestBucketsAreCumulativeAndInclusive(t *testing.T) {
	h := New([]float64{1, 2})
	for _, v := range []float64{0.5, 1, 1.5, 3} {
		h.Observe(v)
	}
	var m dto.Metric
	if err := h.Metric(prometheus.NewDesc("x", "x", []string{"l"}, nil), "a").Write(&m); err != nil {
		t.Fatal(err)
	}
	got := m.GetHistogram()
	if got.GetSampleCount() != 4 || got.GetSampleSum() != 6 || got.Bucket[0].GetCumulativeCount() != 2 || got.Bucket[1].GetCumulativeCount() != 3 {
		t.Errorf("%v", got)
	}
}
