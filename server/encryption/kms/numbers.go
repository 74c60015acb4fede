package kms

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// numbers are upstream's for one provider.
type numbers struct {
	latency *prometheus.HistogramVec
	invalid *prometheus.CounterVec
	last    *prometheus.Desc
	size    *prometheus.Desc

	mu   sync.Mutex
	id   string // of the last status, guarded by mu
	seen time.Time
}

func newNumbers(name string) *numbers {
	provider := prometheus.Labels{"provider_name": name}
	return &numbers{
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_envelope_encryption_kms_operations_latency_seconds",
			Help: "How long calls of KMS plugins took, by their gRPC status.", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 20), ConstLabels: provider}, []string{"method_name", "grpc_status_code"}),
		invalid: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_envelope_encryption_invalid_key_id_from_status_total",
			Help: "Statuses of KMS plugins whose key ID was empty or too long.", ConstLabels: provider}, []string{"error"}),
		last: prometheus.NewDesc("apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds",
			"When a KMS plugin's status last named this key.", []string{"key_id_hash"}, provider),
		size: prometheus.NewDesc("apiserver_envelope_encryption_dek_source_cache_size", "Opened seeds and keys that are kept.", nil, provider),
	}
}

func (n *numbers) badKeyID(id string) {
	what := "too_long"
	if id == "" {
		what = "empty"
	}
	n.invalid.WithLabelValues(what).Inc()
}

func (n *numbers) keyID(id string, at time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.id, n.seen = id, at
}

// Describe is a prometheus.Collector's.
func (p *Provider) Describe(out chan<- *prometheus.Desc) {
	p.numbers.latency.Describe(out)
	p.numbers.invalid.Describe(out)
	out <- p.numbers.last
	out <- p.numbers.size
}

// Collect is a prometheus.Collector's.
func (p *Provider) Collect(out chan<- prometheus.Metric) {
	p.numbers.latency.Collect(out)
	p.numbers.invalid.Collect(out)
	p.numbers.mu.Lock()
	id, seen := p.numbers.id, p.numbers.seen
	p.numbers.mu.Unlock()
	if id != "" {
		out <- prometheus.MustNewConstMetric(p.numbers.last, prometheus.GaugeValue, float64(seen.Unix()), hashOf(id))
	}
	out <- prometheus.MustNewConstMetric(p.numbers.size, prometheus.GaugeValue, float64(p.seeds.size()))
}
