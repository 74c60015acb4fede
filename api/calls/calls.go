// Package calls counts requests that this process makes of HTTP servers, under the names
// that client-go has for them and dashboards ask for. It registers nothing anywhere: who
// owns a Calls shows it. Start reading at Calls.
package calls

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// maxHosts bounds the hosts that are told apart; what goes to further ones is counted
// together as "other".
const maxHosts = 256

// Calls is a prometheus.Collector, for parallel use. Make it with New; nil counts nothing.
type Calls struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec

	mu    sync.Mutex
	hosts map[string]bool // guarded by mu
}

// New makes one that has counted nothing.
func New() *Calls {
	return &Calls{
		hosts: map[string]bool{},
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "rest_client_requests_total",
			Help: "Requests made of HTTP servers, by status, method and host."}, []string{"code", "method", "host"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "rest_client_request_duration_seconds",
			Help: "How long servers took to begin their answers.", Buckets: []float64{0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60}}, []string{"verb", "host"}),
	}
}

// Wrap counts what goes through a transport; nil is http.DefaultTransport.
func (c *Calls) Wrap(next http.RoundTripper) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	if c == nil {
		return next
	}
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		host, began := c.host(r.URL.Host), time.Now()
		resp, err := next.RoundTrip(r)
		code := "<error>"
		if err == nil {
			code = strconv.Itoa(resp.StatusCode)
		}
		c.requests.WithLabelValues(code, r.Method, host).Inc()
		c.seconds.WithLabelValues(r.Method, host).Observe(time.Since(began).Seconds())
		return resp, err
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (c *Calls) host(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.hosts[name] {
		if len(c.hosts) >= maxHosts {
			return "other"
		}
		c.hosts[name] = true
	}
	return name
}

// Describe is a prometheus.Collector's.
func (c *Calls) Describe(out chan<- *prometheus.Desc) {
	c.requests.Describe(out)
	c.seconds.Describe(out)
}

// Collect is a prometheus.Collector's.
func (c *Calls) Collect(out chan<- prometheus.Metric) {
	c.requests.Collect(out)
	c.seconds.Collect(out)
}
