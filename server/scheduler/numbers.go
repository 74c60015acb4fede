package scheduler

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"orch/api/histogram"
)

// result is how an attempt to place a pod ended.
type result int

const (
	scheduled result = iota
	noNode
	failed
)

var resultNames = [...]string{"scheduled", "unschedulable", "error"}

// mostAttempts is where the label of the attempts ends, as upstream's does.
const mostAttempts = 16

// Bounds, upstream's.
var (
	attemptBounds = histogram.Exponential(0.001, 2, 15)
	sliBounds     = histogram.Exponential(0.01, 2, 20)
	countBounds   = histogram.Exponential(1, 2, 5)
	victimBounds  = histogram.Exponential(1, 2, 7)
)

// numbers are what the metrics page shows of the scheduler.
type numbers struct {
	attempts [len(resultNames)]struct {
		total atomic.Uint64
		took  *histogram.Histogram
	}
	// sli is from when a pod was first seen to its binding, by attempts that it took (0: the first).
	sli   [mostAttempts]*histogram.Histogram
	tries *histogram.Histogram
	// preemptions are attempts to make room, victims how many pods each that found some ends.
	preemptions atomic.Uint64
	victims     *histogram.Histogram
}

func newNumbers() *numbers {
	n := &numbers{tries: histogram.New(countBounds), victims: histogram.New(victimBounds)}
	for i := range n.attempts {
		n.attempts[i].took = histogram.New(attemptBounds)
	}
	for i := range n.sli {
		n.sli[i] = histogram.New(sliBounds)
	}
	return n
}

func (n *numbers) attempt(r result, took time.Duration) {
	n.attempts[r].total.Add(1)
	n.attempts[r].took.Observe(took.Seconds())
}

func (n *numbers) bound(attempts int, since time.Duration) {
	n.sli[min(max(attempts, 1), mostAttempts)-1].Observe(since.Seconds())
	n.tries.Observe(float64(attempts))
}

func (n *numbers) preempted(victims int) {
	n.preemptions.Add(1)
	if victims > 0 {
		n.victims.Observe(float64(victims))
	}
}

// Collector shows the numbers.
func (s *Scheduler) Collector() prometheus.Collector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("scheduler_"+name, help, labels, nil)
	}
	return &collector{s,
		d("pending_pods", "Pods that wait for a node, by why.", "queue"),
		d("schedule_attempts_total", "Attempts to place a pod by their result.", "result", "profile"),
		d("scheduling_attempt_duration_seconds", "How long attempts took, the binding included.", "result", "profile"),
		d("pod_scheduling_sli_duration_seconds", "How long pods waited for their node, by attempts.", "attempts"),
		d("pod_scheduling_attempts", "Attempts that pods took until they were placed."),
		d("preemption_attempts_total", "Attempts to make room for a pod by ending others."),
		d("preemption_victims", "Pods that are ended to make room for one."),
	}
}

type collector struct {
	s                                        *Scheduler
	pending, attempts, durations, sli, tries *prometheus.Desc
	preemptions, victims                     *prometheus.Desc
}

// Describe says nothing: Collect shows what there is.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

func (c *collector) Collect(out chan<- prometheus.Metric) {
	for queue, s := range map[string]state{"active": active, "backoff": backingOff, "unschedulable": unschedulable} {
		out <- prometheus.MustNewConstMetric(c.pending, prometheus.GaugeValue, float64(c.s.queue.waiting[s].Load()), queue)
	}
	out <- prometheus.MustNewConstMetric(c.pending, prometheus.GaugeValue, float64(c.s.queue.held.Load()), "gated")
	n := c.s.numbers
	for i, name := range resultNames {
		out <- prometheus.MustNewConstMetric(c.attempts, prometheus.CounterValue, float64(n.attempts[i].total.Load()), name, c.s.cfg.Name)
		out <- n.attempts[i].took.Metric(c.durations, name, c.s.cfg.Name)
	}
	for i, h := range n.sli {
		if i == 0 || h.Count() > 0 {
			label := strconv.Itoa(i + 1)
			if i+1 == mostAttempts {
				label += "+"
			}
			out <- h.Metric(c.sli, label)
		}
	}
	out <- n.tries.Metric(c.tries)
	out <- prometheus.MustNewConstMetric(c.preemptions, prometheus.CounterValue, float64(n.preemptions.Load()))
	out <- n.victims.Metric(c.victims)
}
