package webhook

import (
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"orch/api/histogram"
)

// Numbers are counters and histograms about webhooks, policies and conversions. Their
// labels are names of configurations, verbs and codes: the zero value of Numbers takes up
// to maxSeries of each metric and then counts no new ones. It is for parallel use and a
// prometheus.Collector.
type Numbers struct {
	mu     sync.Mutex
	series map[string]map[string]*series // metric, values of labels; guarded by mu
}

// maxSeries bounds the label sets of one metric.
const maxSeries = 4096

// Metric is the head of a metric. Buckets, in seconds, make it a histogram.
type Metric struct {
	Name, Help string
	Buckets    []float64
}

// series is one set of labels; times is nil for a counter.
type series struct {
	desc   *prometheus.Desc
	values []string
	count  uint64
	times  *histogram.Histogram
}

// Count adds one; labels are names and values in turn.
func (n *Numbers) Count(m *Metric, labels ...string) {
	n.with(m, labels, func(s *series) { s.count++ })
}

// Observe adds a duration to a histogram.
func (n *Numbers) Observe(m *Metric, took time.Duration, labels ...string) {
	n.with(m, labels, func(s *series) { s.times.Observe(took.Seconds()) })
}

func (n *Numbers) with(m *Metric, labels []string, do func(*series)) {
	var names, values []string
	for i := 0; i+1 < len(labels); i += 2 {
		names, values = append(names, labels[i]), append(values, strings.ToValidUTF8(labels[i+1], "?"))
	}
	key := strings.Join(values, "\x00")
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.series == nil {
		n.series = map[string]map[string]*series{}
	}
	of := n.series[m.Name]
	if of == nil {
		of = map[string]*series{}
		n.series[m.Name] = of
	}
	s := of[key]
	if s == nil {
		if len(of) >= maxSeries {
			return
		}
		s = &series{desc: prometheus.NewDesc(m.Name, m.Help, names, nil), values: values}
		if m.Buckets != nil {
			s.times = histogram.New(m.Buckets)
		}
		of[key] = s
	}
	do(s)
}

// Describe says nothing: Collect shows what has been counted.
func (n *Numbers) Describe(chan<- *prometheus.Desc) {}

// Collect shows everything.
func (n *Numbers) Collect(out chan<- prometheus.Metric) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, of := range n.series {
		for _, s := range of {
			if s.times != nil {
				out <- s.times.Metric(s.desc, s.values...)
			} else {
				out <- prometheus.MustNewConstMetric(s.desc, prometheus.CounterValue, float64(s.count), s.values...)
			}
		}
	}
}
