package webhook

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Numbers are counters and histograms about webhooks, written in Prometheus' text form.
// Their labels are names of configurations, verbs and codes: the zero value of Numbers
// takes up to maxSeries of each metric and then counts no new ones. It is for parallel use.
type Numbers struct {
	mu     sync.Mutex
	series map[string]map[string]*series // metric, labels; guarded by mu
}

// maxSeries bounds the label sets of one metric.
const maxSeries = 4096

// Metric is the head of a metric. Buckets, in seconds, make it a histogram.
type Metric struct {
	Name, Help string
	Buckets    []float64
}

type series struct {
	count   uint64
	sum     float64
	buckets []uint64
	metric  *Metric
}

// Count adds one; labels are names and values in turn.
func (n *Numbers) Count(m *Metric, labels ...string) { n.add(m, 0, labels) }

// Observe adds a duration to a histogram.
func (n *Numbers) Observe(m *Metric, took time.Duration, labels ...string) {
	n.add(m, took.Seconds(), labels)
}

func (n *Numbers) add(m *Metric, value float64, labels []string) {
	var b strings.Builder
	for i := 0; i+1 < len(labels); i += 2 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%s=%q", labels[i], labels[i+1])
	}
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
	s := of[b.String()]
	if s == nil {
		if len(of) >= maxSeries {
			return
		}
		s = &series{metric: m, buckets: make([]uint64, len(m.Buckets))}
		of[b.String()] = s
	}
	s.count++
	s.sum += value
	for i, end := range m.Buckets {
		if value <= end {
			s.buckets[i]++
		}
	}
}

// WriteMetrics writes everything.
func (n *Numbers) WriteMetrics(w io.Writer) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(n.series)) {
		of := n.series[name]
		for i, labels := range slices.Sorted(maps.Keys(of)) {
			of[labels].write(&b, labels, i == 0)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (s *series) write(b *strings.Builder, labels string, first bool) {
	m, kind := s.metric, "counter"
	if m.Buckets != nil {
		kind = "histogram"
	}
	if first {
		fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n", m.Name, m.Help, m.Name, kind)
	}
	if m.Buckets == nil {
		fmt.Fprintf(b, "%s{%s} %d\n", m.Name, labels, s.count)
		return
	}
	for i, end := range m.Buckets {
		fmt.Fprintf(b, "%s_bucket{%s,le=\"%g\"} %d\n", m.Name, labels, end, s.buckets[i])
	}
	fmt.Fprintf(b, "%s_bucket{%s,le=\"+Inf\"} %d\n%s_sum{%s} %g\n%s_count{%s} %d\n", m.Name, labels, s.count, m.Name, labels, s.sum, m.Name, labels, s.count)
}
