package histogram

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

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
