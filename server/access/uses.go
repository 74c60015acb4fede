package access

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// uses count how service account tokens are used, by upstream's names.
type uses struct {
	valid, stale, legacy, manual, auto, invalid atomic.Int64
	descs                                       []*prometheus.Desc
}

func newUses() *uses {
	u := &uses{}
	for _, d := range [][2]string{
		{"valid_tokens_total", "Uses of tokens before the time at which they should have been renewed."},
		{"stale_tokens_total", "Uses of tokens after the time at which they should have been renewed."},
		{"legacy_tokens_total", "Uses of tokens that do not run out."},
		{"legacy_manual_token_uses_total", "Uses of tokens that do not run out and that a person made."},
		{"legacy_auto_token_uses_total", "Uses of tokens that do not run out and that a server of before made."},
		{"invalid_legacy_auto_token_uses_total", "Uses of tokens that were marked invalid because nobody used them."},
	} {
		u.descs = append(u.descs, prometheus.NewDesc("serviceaccount_"+d[0], d[1], nil, nil))
	}
	return u
}

func (u *uses) Describe(out chan<- *prometheus.Desc) {
	for _, d := range u.descs {
		out <- d
	}
}

func (u *uses) Collect(out chan<- prometheus.Metric) {
	for i, n := range []*atomic.Int64{&u.valid, &u.stale, &u.legacy, &u.manual, &u.auto, &u.invalid} {
		out <- prometheus.MustNewConstMetric(u.descs[i], prometheus.CounterValue, float64(n.Load()))
	}
}

// Collectors show how service account tokens are used and how files were read again.
func (a *Access) Collectors() []prometheus.Collector {
	out := []prometheus.Collector{a.tokens.uses}
	for _, r := range a.reloads {
		out = append(out, r)
	}
	return out
}
