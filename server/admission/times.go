package admission

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"orch/api/histogram"
	"orch/server/registry"
)

// timeBounds are upstream's.
var timeBounds = []float64{0.005, 0.025, 0.1, 0.5, 1.0, 2.5}

// phase tells changing from checking.
type phase int

const (
	admitting phase = iota
	validating
)

var (
	phaseNames     = [...]string{"admit", "validate"}
	operationNames = [...]string{string(registry.Create), string(registry.Update), string(registry.Delete), string(registry.Connect)}
)

// times are how long one step, or all of them, took: by phase, operation and whether the
// request was refused.
type times [len(phaseNames)][len(operationNames)][2]*histogram.Histogram

func newTimes() *times {
	t := new(times)
	for p := range t {
		for o := range t[p] {
			for r := range t[p][o] {
				t[p][o][r] = histogram.New(timeBounds)
			}
		}
	}
	return t
}

func (t *times) observe(p phase, o registry.Operation, err error, took time.Duration) {
	r := 0
	if err != nil {
		r = 1
	}
	for i, name := range operationNames {
		if name == string(o) {
			t[p][i][r].Observe(took.Seconds())
		}
	}
}

// took counts what the step took since the last one ended, and says when it ended.
func (s *step) took(p phase, o registry.Operation, err error, since time.Time) time.Time {
	now := time.Now()
	s.times.observe(p, o, err, now.Sub(since))
	return now
}

func (t *times) collect(out chan<- prometheus.Metric, d *prometheus.Desc, names ...string) {
	for p := range t {
		for o := range t[p] {
			for r, h := range t[p][o] {
				if h.Count() > 0 {
					out <- h.Metric(d, append(append([]string{}, names...), phaseNames[p], operationNames[o], strconv.FormatBool(r == 1))...)
				}
			}
		}
	}
}

// Collectors show how long admission took, step by step and altogether, what pod security
// decided, and what users' webhooks and policies did.
func (l *List) Collectors() []prometheus.Collector {
	return []prometheus.Collector{l.security.numbers, l.webhooks.Collector(), l.policies.Collector(), &timesCollector{l,
		prometheus.NewDesc("apiserver_admission_controller_admission_duration_seconds", "How long each part of admission took.", []string{"name", "type", "operation", "rejected"}, nil),
		prometheus.NewDesc("apiserver_admission_step_admission_duration_seconds", "How long admission took altogether.", []string{"type", "operation", "rejected"}, nil)}}
}

type timesCollector struct {
	l          *List
	each, step *prometheus.Desc
}

// Describe says nothing: Collect shows what has been used.
func (c *timesCollector) Describe(chan<- *prometheus.Desc) {}

func (c *timesCollector) Collect(out chan<- prometheus.Metric) {
	c.l.overall.collect(out, c.step)
	for _, n := range c.l.timed {
		n.times.collect(out, c.each, n.name)
	}
}

// timed names a step's times, in the order of the steps.
type timed struct {
	name  string
	times *times
}
