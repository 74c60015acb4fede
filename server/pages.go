package server

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/pprof"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"

	"orch/api"
	"orch/api/reconcile"
)

// pages are the routes behind authorization beside the API itself.
func (s *Server) pages() map[string]http.Handler {
	pages := s.flow.DebugPages()
	maps.Copy(pages, map[string]http.Handler{
		"/.well-known/openid-configuration": http.HandlerFunc(s.access.OpenIDConfiguration),
		"/openid/v1/jwks":                   http.HandlerFunc(s.access.KeySet),
		api.PathToken:                       http.HandlerFunc(s.rotateToken),
		api.PathEncryption:                  s.encryption.Page(s.registry),
		"/metrics":                          http.HandlerFunc(s.metrics),
		"/debug/pprof/":                     http.HandlerFunc(pprof.Index),
		"/debug/pprof/profile":              http.HandlerFunc(pprof.Profile),
		"/debug/pprof/trace":                http.HandlerFunc(pprof.Trace),
		"/debug/pprof/symbol":               http.HandlerFunc(pprof.Symbol),
	})
	return pages
}

// rotateToken answers POST of an api.TokenRotation.
func (s *Server) rotateToken(w http.ResponseWriter, r *http.Request) {
	var in api.TokenRotation
	if r.Method != http.MethodPost {
		http.Error(w, "only POST is answered here", http.StatusMethodNotAllowed)
		return
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 4<<10)).Decode(&in); err != nil {
		http.Error(w, "the body is no token rotation", http.StatusBadRequest)
		return
	}
	file, err := s.pki.RotateToken(in.Secret)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(api.TokenRotation{File: file}) // the client went away: nothing to do
}

// metrics writes the numbers of process, store and controllers in Prometheus' text form.
func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	var b strings.Builder
	writeProcess(&b)
	head(&b, "orch_store_revision", "gauge", "Newest revision that reads show.")
	fmt.Fprintf(&b, "orch_store_revision %d\n", s.registry.Revision())
	s.writeLoops(&b)
	_ = s.admit.WriteMetrics(&b)
	_ = s.crd.WriteMetrics(&b)
	_ = s.rest.WriteMetrics(&b) // a Builder takes everything
	_ = s.aggregator.WriteMetrics(&b)
	if s.audit != nil {
		s.audit.WriteMetrics(&b)
	}
	_, _ = io.WriteString(w, b.String()) // the scraper went away: nothing to do
}

func head(b *strings.Builder, name, kind, help string) {
	fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func (s *Server) writeLoops(b *strings.Builder) {
	var loops []reconcile.Metrics
	for _, l := range s.loops {
		loops = append(loops, l.Metrics()...)
	}
	head(b, "workqueue_depth", "gauge", "Keys that wait for a worker.")
	for _, m := range loops {
		fmt.Fprintf(b, "workqueue_depth{name=%q} %d\n", m.Name, m.Ready)
	}
	head(b, "controller_runtime_reconcile_total", "counter", "Keys worked on.")
	for _, m := range loops {
		fmt.Fprintf(b, "controller_runtime_reconcile_total{controller=%q,result=\"success\"} %d\n", m.Name, m.Runs-m.Failed)
		fmt.Fprintf(b, "controller_runtime_reconcile_total{controller=%q,result=\"error\"} %d\n", m.Name, m.Failed)
	}
}

// writeProcess has what dashboards for Go programs ask for, under the usual names.
func writeProcess(b *strings.Builder) {
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/total:bytes"},
		{Name: "/gc/cycles/total:gc-cycles"}, {Name: "/gc/heap/allocs:bytes"}, {Name: "/sched/gomaxprocs:threads"},
	}
	metrics.Read(samples)
	for i, m := range []struct{ name, kind, help string }{
		{"go_memstats_heap_alloc_bytes", "gauge", "Bytes of live and not yet swept heap objects."},
		{"go_memstats_sys_bytes", "gauge", "Bytes obtained from the system."},
		{"go_gc_cycles_total_gc_cycles_total", "counter", "Garbage collections done."},
		{"go_memstats_alloc_bytes_total", "counter", "Bytes allocated on the heap since the start."},
		{"go_sched_gomaxprocs_threads", "gauge", "Threads that run Go code at a time."},
	} {
		head(b, m.name, m.kind, m.help)
		fmt.Fprintf(b, "%s %d\n", m.name, samples[i].Value.Uint64())
	}
	head(b, "go_goroutines", "gauge", "Goroutines.")
	fmt.Fprintf(b, "go_goroutines %d\n", runtime.NumGoroutine())
	head(b, "go_info", "gauge", "The Go version.")
	fmt.Fprintf(b, "go_info{version=%q} 1\n", runtime.Version())
	if resident, ok := residentBytes(); ok {
		head(b, "process_resident_memory_bytes", "gauge", "Resident memory.")
		fmt.Fprintf(b, "process_resident_memory_bytes %d\n", resident)
	}
}

func residentBytes() (int, bool) {
	raw, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, false
	}
	f := strings.Fields(string(raw))
	if len(f) < 2 {
		return 0, false
	}
	pages, err := strconv.Atoi(f[1])
	return pages * os.Getpagesize(), err == nil
}
