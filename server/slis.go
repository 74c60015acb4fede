package server

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// slis counts what the checks of health have said, for /metrics/slis.
type slis struct {
	all *prometheus.Registry
	now *prometheus.GaugeVec
	sum *prometheus.CounterVec
}

func newSLIs() slis {
	s := slis{
		all: prometheus.NewRegistry(),
		now: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kubernetes_healthcheck", Help: "The last result of each check of health: 1 is good."}, []string{"name", "type"}),
		sum: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kubernetes_healthchecks_total", Help: "Checks of health by result."}, []string{"name", "status", "type"}),
	}
	s.all.MustRegister(s.now, s.sum)
	return s
}

// checked takes one result in; page is livez, readyz or healthz.
func (s slis) checked(page, check string, err error) {
	good, status := 1.0, "success"
	if err != nil {
		good, status = 0, "error"
	}
	s.now.WithLabelValues(check, page).Set(good)
	s.sum.WithLabelValues(check, status, page).Inc()
}

func (s slis) page() http.Handler {
	return promhttp.HandlerFor(s.all, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes})
}
