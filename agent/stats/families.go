package stats

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// scrapeLimit ends a scrape whose counters cannot be read.
const scrapeLimit = 10 * time.Second

// family is one name of a page with its series.
type family struct {
	name, help string
	kind       prometheus.ValueType
	labels     []string
	series     []series
}

type series struct {
	value  float64
	labels []string
}

func (f *family) add(value float64, labels ...string) {
	f.series = append(f.series, series{value, labels})
}

// page writes what rows emits of a sample, and families of others.
func (s *Stats) page(rows func(l look, emit func(family)), more func(ctx context.Context) ([]*dto.MetricFamily, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), scrapeLimit)
		defer cancel()
		l, err := s.sample(ctx, false)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		reg := prometheus.NewRegistry()
		reg.MustRegister(collected{func(emit func(family)) { rows(l, emit) }})
		all := prometheus.Gatherers{reg}
		if more != nil {
			own := prometheus.NewRegistry()
			own.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
			all = append(all, own, prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return more(ctx) }))
		}
		promhttp.HandlerFor(all, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}).ServeHTTP(w, r)
	})
}

// more are the families of Source.More.
func (s *Stats) more(ctx context.Context) ([]*dto.MetricFamily, error) {
	if s.More == nil {
		return nil, nil
	}
	text, err := s.More(ctx)
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	byName, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	var out []*dto.MetricFamily
	for _, f := range byName {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return out, nil
}

// collected makes metrics of families. It describes none: which there are follows from
// what runs.
type collected struct{ rows func(emit func(family)) }

func (collected) Describe(chan<- *prometheus.Desc) {}

func (c collected) Collect(out chan<- prometheus.Metric) {
	c.rows(func(f family) {
		d := prometheus.NewDesc(f.name, f.help, f.labels, nil)
		for _, s := range f.series {
			out <- prometheus.MustNewConstMetric(d, f.kind, s.value, s.labels...)
		}
	})
}
