package tally

import (
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"orch/api/histogram"
)

// descriptions are what the metrics page says of each.
type descriptions struct {
	total, duration, sli, sizes, lasting, terminated, aborted *prometheus.Desc
	events, eventSizes, outdated, handshakes, lists           *prometheus.Desc
	attempts, attemptTimes, users, expiry                     *prometheus.Desc
}

func describe() descriptions {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	of := []string{"verb", "group", "version", "resource", "subresource", "scope", "component"}
	with := func(more ...string) []string { return append(append([]string{}, of...), more...) }
	return descriptions{
		total:      d("apiserver_request_total", "Requests answered.", with("dry_run", "code")...),
		duration:   d("apiserver_request_duration_seconds", "How long requests took.", with("dry_run")...),
		sli:        d("apiserver_request_sli_duration_seconds", "How long requests took, without waiting for their turn.", of...),
		sizes:      d("apiserver_response_sizes", "Bytes of the answers to reads.", of...),
		lasting:    d("apiserver_longrunning_requests", "Watches, execs and the like that are open.", of...),
		terminated: d("apiserver_request_terminations_total", "Requests ended in self-defense.", with("code")...),
		aborted:    d("apiserver_request_aborts_total", "Requests that were given up before they were answered.", of[:6]...),
		events:     d("apiserver_watch_events_total", "Events sent to watches.", "group", "version", "resource"),
		eventSizes: d("apiserver_watch_events_sizes", "Bytes of the events sent to watches.", "group", "version", "resource"),
		lists:      d("apiserver_watch_list_duration_seconds", "How long it took until watches had sent their initial events.", "group", "version", "resource", "scope"),
		outdated:   d("apiserver_requested_deprecated_apis", "Deprecated APIs that were asked for.", "group", "version", "resource", "subresource", "removed_release"),
		handshakes: d("apiserver_tls_handshake_errors_total", "Connections whose TLS handshake failed."),

		attempts:     d("authentication_attempts", "Authentications by their result.", "result"),
		attemptTimes: d("authentication_duration_seconds", "How long authentications took.", "result"),
		users:        d("authenticated_user_requests", "Authenticated requests by a few well-known users.", "username"),
		expiry:       d("apiserver_client_certificate_expiration_seconds", "How long the certificates of clients were still good for when they were used."),
	}
}

// Collector shows the numbers.
func (t *Tally) Collector() prometheus.Collector { return &collector{t, describe()} }

type collector struct {
	t *Tally
	d descriptions
}

// Describe says nothing: what there is to show depends on what was asked for.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

const component = "apiserver"

func (c *collector) Collect(out chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	for _, e := range sorted[Request, *Series](&c.t.series) {
		c.series(out, e.Key, e.Value)
	}
	for _, e := range sorted[Kind, *Watched](&c.t.watches) {
		count(c.d.events, e.Value.Sizes.Count(), e.Key.Group, e.Key.Version, e.Key.Resource)
		out <- e.Value.Sizes.Metric(c.d.eventSizes, e.Key.Group, e.Key.Version, e.Key.Resource)
	}
	for _, e := range sorted[Listing, *histogram.Histogram](&c.t.lists) {
		out <- e.Value.Metric(c.d.lists, e.Key.Group, e.Key.Version, e.Key.Resource, e.Key.Scope)
	}
	for _, e := range sorted[Outdated, bool](&c.t.outdated) {
		out <- prometheus.MustNewConstMetric(c.d.outdated, prometheus.GaugeValue, 1, e.Key.Group, e.Key.Version, e.Key.Resource, e.Key.Sub, e.Key.Removed)
	}
	count(c.d.handshakes, c.t.Handshakes.Load())
	for i, name := range resultNames {
		count(c.d.attempts, c.t.authentications[i].Load(), name)
		out <- c.t.authnTimes[i].Metric(c.d.attemptTimes, name)
	}
	for _, e := range sorted[string, *atomic.Uint64](&c.t.users) {
		count(c.d.users, e.Value.Load(), e.Key)
	}
	out <- c.t.Expiry.Metric(c.d.expiry)
}

func (c *collector) series(out chan<- prometheus.Metric, r Request, s *Series) {
	labels := []string{r.Verb, r.Group, r.Version, r.Resource, r.Sub, r.Scope, component}
	with := func(more ...string) []string { return append(append([]string{}, labels...), more...) }
	for _, e := range sorted[int, *atomic.Uint64](&s.codes) {
		out <- prometheus.MustNewConstMetric(c.d.total, prometheus.CounterValue, float64(e.Value.Load()), with(r.DryRun, strconv.Itoa(e.Key))...)
	}
	for _, e := range sorted[int, *atomic.Uint64](&s.terminated) {
		out <- prometheus.MustNewConstMetric(c.d.terminated, prometheus.CounterValue, float64(e.Value.Load()), with(strconv.Itoa(e.Key))...)
	}
	if s.lasts.Load() {
		out <- prometheus.MustNewConstMetric(c.d.lasting, prometheus.GaugeValue, float64(s.Lasting.Load()), labels...)
	}
	if n := s.aborted.Load(); n > 0 {
		out <- prometheus.MustNewConstMetric(c.d.aborted, prometheus.CounterValue, float64(n), labels[:6]...)
	}
	if s.duration.Count() == 0 {
		return
	}
	out <- s.duration.Metric(c.d.duration, with(r.DryRun)...)
	if r.DryRun == "" {
		out <- s.sli.Metric(c.d.sli, labels...)
		if s.sizes != nil {
			out <- s.sizes.Metric(c.d.sizes, labels...)
		}
	}
}
