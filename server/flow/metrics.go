package flow

import (
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// descriptions are what the metrics page says of each: upstream's names, types and labels.
type descriptions struct {
	inflight, inqueue *prometheus.Desc

	rejected, dispatched, noRoom                *prometheus.Desc
	waiting, waitingSeats, executing, seats     *prometheus.Desc
	lengths, waits, runs, watchers, widths      *prometheus.Desc
	nominal, lower, upper, current              *prometheus.Desc
	high, average, deviation, smoothed, targets *prometheus.Desc
	demand, used, parts                         *prometheus.Desc
	fraction, r                                 *prometheus.Desc
}

func describe() descriptions {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("apiserver_"+name, help, labels, nil)
	}
	level := func(name, help string) *prometheus.Desc { return d("flowcontrol_"+name, help, "priority_level") }
	flow := func(name, help string, more ...string) *prometheus.Desc {
		return d("flowcontrol_"+name, help, append([]string{"priority_level", "flow_schema"}, more...)...)
	}
	return descriptions{
		inflight: d("current_inflight_requests", "Most requests that were being served at a time, since the last look, by kind.", "request_kind"),
		inqueue:  d("current_inqueue_requests", "Most requests that were waiting at a time, since the last look, by kind.", "request_kind"),

		rejected:     flow("rejected_requests_total", "Requests refused by API Priority and Fairness.", "reason"),
		dispatched:   flow("dispatched_requests_total", "Requests let in by API Priority and Fairness."),
		noRoom:       level("request_dispatch_no_accommodation_total", "Times that the next request had to wait for more seats than were free."),
		waiting:      flow("current_inqueue_requests", "Requests that wait in queues."),
		waitingSeats: flow("current_inqueue_seats", "Seats that waiting requests want."),
		executing:    flow("current_executing_requests", "Requests being served; watches only until they have begun."),
		seats:        flow("current_executing_seats", "Seats taken."),
		lengths:      flow("request_queue_length_after_enqueue", "Length of its queue as each request saw it, itself included."),
		waits:        flow("request_wait_duration_seconds", "How long requests waited.", "execute"),
		runs:         flow("request_execution_seconds", "How long requests took, after waiting.", "type"),
		watchers:     flow("watch_count_samples", "Watches that see what a write writes."),
		widths:       flow("work_estimated_seats", "Seats that requests were given."),

		nominal: level("nominal_limit_seats", "Seats as configured."),
		lower:   level("lower_limit_seats", "Fewest seats that lending may leave."),
		upper:   level("upper_limit_seats", "Most seats that borrowing may bring."),
		current: level("current_limit_seats", "Seats now."),

		demand: level("demand_seats", "Nanoseconds by the part of its nominal seats that a level could have used."),
		used: prometheus.NewDesc("apiserver_flowcontrol_priority_level_seat_utilization", "Nanoseconds by the part of its seats that was taken.",
			[]string{"priority_level"}, prometheus.Labels{"phase": "executing"}),
		parts: d("flowcontrol_priority_level_request_utilization", "Nanoseconds by requests as a part of what the level has seats, or places in queues, for.", "phase", "priority_level"),

		high:      level("demand_seats_high_watermark", "Most seats wanted at a time in the last period."),
		average:   level("demand_seats_average", "Seats wanted on average in the last period."),
		deviation: level("demand_seats_stdev", "Standard deviation of the seats wanted in the last period."),
		smoothed:  level("demand_seats_smoothed", "Seats wanted, smoothed over periods."),
		targets:   level("target_seats", "Seats aimed at when seats were last moved."),

		fraction: d("flowcontrol_seat_fair_frac", "Fraction of its target that each level could have."),
		r:        level("current_r", "Virtual time of the level's queues."),
	}
}

// Collector shows the numbers.
func (c *Control) Collector() prometheus.Collector { return &collector{c, describe()} }

type collector struct {
	c *Control
	d descriptions
}

// Describe says nothing: what there is to show depends on the objects in force.
func (k *collector) Describe(chan<- *prometheus.Desc) {}

func (k *collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for i, kind := range []string{"readOnly", "mutating"} {
		gauge(k.d.inflight, k.c.gauges[i].executing.take(), kind)
		gauge(k.d.inqueue, k.c.gauges[i].waiting.take(), kind)
	}
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	gauge(k.d.fraction, k.c.fraction)
	p := k.c.plan.Load()
	for _, name := range slices.Sorted(maps.Keys(p.levels)) {
		l := p.levels[name]
		gauge(k.d.nominal, float64(l.bounds.nominal), name)
		gauge(k.d.lower, float64(l.bounds.low), name)
		gauge(k.d.upper, float64(l.bounds.high), name)
		gauge(k.d.high, l.demand.High, name)
		gauge(k.d.average, l.demand.Average, name)
		gauge(k.d.deviation, l.demand.Deviation, name)
		gauge(k.d.smoothed, l.demand.smoothed, name)
		gauge(k.d.targets, l.demand.target, name)
		l.mu.Lock()
		gauge(k.d.current, float64(l.set.Limit()), name)
		gauge(k.d.r, l.set.R(), name)
		now := k.c.now()
		out <- l.wanted.Metric(now, k.d.demand, name)
		out <- l.used.Metric(now, k.d.used, name)
		out <- l.executing.Metric(now, k.d.parts, "executing", name)
		out <- l.waiting.Metric(now, k.d.parts, "waiting", name)
		out <- prometheus.MustNewConstMetric(k.d.noRoom, prometheus.CounterValue, float64(l.set.Counts().NoAccommodation), name)
		for _, s := range slices.Sorted(maps.Keys(l.counts)) {
			k.schema(out, l.counts[s], name, s)
		}
		l.mu.Unlock()
	}
}

func (k *collector) schema(out chan<- prometheus.Metric, c *counts, level, schema string) {
	gauge := func(d *prometheus.Desc, v int) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), level, schema)
	}
	count := func(d *prometheus.Desc, v uint64, more ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), append([]string{level, schema}, more...)...)
	}
	count(k.d.dispatched, c.dispatched)
	for reason, n := range map[string]uint64{"queue-full": c.full, "concurrency-limit": c.noSeats, "time-out": c.timedOut} {
		if n > 0 {
			count(k.d.rejected, n, reason)
		}
	}
	gauge(k.d.waiting, c.waiting)
	gauge(k.d.waitingSeats, c.waitingSeats)
	gauge(k.d.executing, c.executing)
	gauge(k.d.seats, c.seats)
	out <- c.lengths.Metric(k.d.lengths, level, schema)
	out <- c.waits.Metric(k.d.waits, level, schema, "true")
	if c.refusals.Count() > 0 {
		out <- c.refusals.Metric(k.d.waits, level, schema, "false")
	}
	out <- c.regular.Metric(k.d.runs, level, schema, "regular")
	if c.watches.Count() > 0 {
		out <- c.watches.Metric(k.d.runs, level, schema, "watch")
	}
	if c.watchers.Count() > 0 {
		out <- c.watchers.Metric(k.d.watchers, level, schema)
	}
	out <- c.widths.Metric(k.d.widths, level, schema)
}
