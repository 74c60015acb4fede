package access

import (
	"crypto/sha256"
	"fmt"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// reloads count how files that configure access were read again, by upstream's names: of
// both files at a time, as they are read together.
type reloads struct {
	total *prometheus.CounterVec
	last  *prometheus.GaugeVec
	id    string
}

// newReloads makes those of one file; what is authentication or authorization.
func newReloads(what string) *reloads {
	host, _ := os.Hostname() // without one all servers are called the same
	prefix, labels := "apiserver_"+what+"_config_controller_automatic_reload", []string{"status", "apiserver_id_hash"}
	return &reloads{
		id:    fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(host))),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "s_total", Help: "Times that the configuration of " + what + " was read again."}, labels),
		last:  prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: prefix + "_last_timestamp_seconds", Help: "When the configuration of " + what + " was read again last."}, labels),
	}
}

func (r *reloads) count(now time.Time, err error) {
	status := "success"
	if err != nil {
		status = "failure"
	}
	r.total.WithLabelValues(status, r.id).Inc()
	r.last.WithLabelValues(status, r.id).Set(float64(now.Unix()))
}

func (r *reloads) Describe(out chan<- *prometheus.Desc) {
	r.total.Describe(out)
	r.last.Describe(out)
}

func (r *reloads) Collect(out chan<- prometheus.Metric) {
	r.total.Collect(out)
	r.last.Collect(out)
}

// reloadsOf are those of the files that there are.
func reloadsOf(o Options) []*reloads {
	var out []*reloads
	if o.AuthenticationConfig != "" {
		out = append(out, newReloads("authentication"))
	}
	if o.AuthorizationConfig != "" {
		out = append(out, newReloads("authorization"))
	}
	return out
}
