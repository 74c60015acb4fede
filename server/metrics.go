package server

import (
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"orch/api/reconcile"
	"orch/datastore"
)

// newMetrics is the registry of /metrics, with what every Go program shows.
func newMetrics() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// metricsPage shows what has been registered, in the format that is asked for.
func (s *Server) metricsPage() http.Handler {
	return promhttp.HandlerFor(s.metrics, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes, ErrorHandling: promhttp.ContinueOnError})
}

// maxScrapes bounds how many look at a time: a page costs milliseconds.
const maxScrapes = 8

// Expose shows further numbers on /metrics. Call it before Run.
func (s *Server) Expose(c prometheus.Collector) { s.metrics.MustRegister(c) }

// collector shows store, kinds, controllers and build.
type collector struct {
	s     *Server
	store datastore.Store

	build, revision, size, oldSize, objects, oldObjects *prometheus.Desc
	depth, adds, retries, waited, worked                *prometheus.Desc
	unfinished, longest, runs                           *prometheus.Desc
	leads, managed                                      *prometheus.Desc
}

func newCollector(s *Server, store datastore.Store) *collector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &collector{
		s: s, store: store,
		build: d("kubernetes_build_info", "What this program was built from.", "major", "minor", "git_version", "git_commit", "git_tree_state",
			"build_date", "go_version", "compiler", "platform"),
		revision:   d("orch_store_revision", "Newest revision that reads show."),
		size:       d("apiserver_storage_size_bytes", "Bytes of the store's file.", "storage_cluster_id"),
		oldSize:    d("apiserver_storage_db_total_size_in_bytes", "Bytes of the store's file, under its old name.", "endpoint"),
		objects:    d("apiserver_resource_objects", "Stored objects of each kind.", "group", "resource"),
		oldObjects: d("apiserver_storage_objects", "Stored objects of each kind, under its old name.", "resource"),

		leads:   d("leader_election_master_status", "Whether this process does the work that one of several does: always, where there are no others.", "name"),
		managed: d("running_managed_controllers", "Controllers that run in this process.", "name", "manager"),

		depth:      d("workqueue_depth", "Keys that wait for a worker.", "name"),
		adds:       d("workqueue_adds_total", "Keys that came to the queue.", "name"),
		retries:    d("workqueue_retries_total", "Keys that came back after an error.", "name"),
		waited:     d("workqueue_queue_duration_seconds", "How long keys waited for a worker.", "name"),
		worked:     d("workqueue_work_duration_seconds", "How long keys were worked on.", "name"),
		unfinished: d("workqueue_unfinished_work_seconds", "How long the keys being worked on have taken so far, all together.", "name"),
		longest:    d("workqueue_longest_running_processor_seconds", "How long the key that is being worked on the longest has taken so far.", "name"),
		runs:       d("controller_runtime_reconcile_total", "Keys worked on, by how it ended.", "controller", "result"),
	}
}

// Describe says nothing: kinds and controllers come at run time.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

func (c *collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	cfg := c.s.cfg
	gauge(c.build, 1, "1", "37", cfg.Version, cfg.Commit, "clean", cfg.BuildDate, runtime.Version(), runtime.Compiler, runtime.GOOS+"/"+runtime.GOARCH)
	gauge(c.revision, float64(c.s.registry.Revision()))
	if sized, is := c.store.(interface{ Size() (int64, error) }); is {
		if n, err := sized.Size(); err == nil {
			gauge(c.size, float64(n), "etcd-0")
			gauge(c.oldSize, float64(n), "etcd-0")
		}
	}
	for _, r := range c.s.registry.Resources() {
		if r.Computed || r.SameAs != nil || r.Unserved || c.s.registry.For(r.Facts) != r {
			continue
		}
		if r.Dynamic && c.s.registry.Find(r.Group, r.Version, r.Plural) != r {
			continue
		}
		n, _ := c.s.registry.Amount(r)
		gauge(c.objects, float64(n), r.Group, r.Plural)
		gauge(c.oldObjects, float64(n), r.GroupResource().String())
	}
	for _, l := range c.s.loops {
		for _, m := range l.Metrics() {
			c.loop(out, m)
			gauge(c.managed, 1, m.Name, "kube-controller-manager")
		}
	}
	for _, p := range c.s.more {
		if name := leaders[p.Name]; name != "" {
			gauge(c.leads, 1, name)
		}
	}
}

// leaders are the leases that the parts would hold elsewhere.
var leaders = map[string]string{"controllers": "kube-controller-manager", "scheduler": "kube-scheduler"}

func (c *collector) loop(out chan<- prometheus.Metric, m reconcile.Metrics) {
	put := func(d *prometheus.Desc, t prometheus.ValueType, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, t, v, labels...)
	}
	put(c.depth, prometheus.GaugeValue, float64(m.Ready), m.Name)
	put(c.adds, prometheus.CounterValue, float64(m.Added), m.Name)
	put(c.retries, prometheus.CounterValue, float64(m.Retried), m.Name)
	put(c.unfinished, prometheus.GaugeValue, m.Unfinished.Seconds(), m.Name)
	put(c.longest, prometheus.GaugeValue, m.Longest.Seconds(), m.Name)
	out <- m.Waited.Metric(c.waited, m.Name)
	out <- m.Worked.Metric(c.worked, m.Name)
	put(c.runs, prometheus.CounterValue, float64(m.Runs-m.Failed), m.Name, "success")
	put(c.runs, prometheus.CounterValue, float64(m.Failed), m.Name, "error")
}
