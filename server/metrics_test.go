package server

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"orch/api/events"
	"orch/datastore/bolt"
	"orch/server/scheduler"
)

// TestMetricsOfDashboards scrapes a server that has done a little of everything: the page
// parses, and has what dashboards ask for, with the types and labels they expect.
func TestMetricsOfDashboards(t *testing.T) {
	store, err := bolt.Open(bolt.Config{Path: filepath.Join(t.TempDir(), "state.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	s := start(t, store, nil)
	said, err := events.New(events.Config{Client: s.Client("scheduler"), Component: "x"})
	if err != nil {
		t.Fatal(err)
	}
	sched, err := scheduler.New(scheduler.Config{Client: s.Client("scheduler"), Events: said})
	if err != nil {
		t.Fatal(err)
	}
	s.Expose(sched.Collector())
	admin := user(t, s, "root", "system:masters")
	plain := user(t, s, "alice")
	admin.do("POST", "/api/v1/namespaces", `{"metadata":{"name":"m"}}`)
	admin.do("POST", "/api/v1/namespaces/m/configmaps?dryRun=All", `{"metadata":{"name":"a"}}`)
	admin.do("GET", "/api/v1/configmaps", "")
	admin.do("GET", "/api/v1/namespaces/default/endpoints", "")
	admin.do("GET", "/api/v1/namespaces/m/configmaps/none", "")
	admin.do("GET", "/api/v1/namespaces/m/configmaps?watch=1&timeoutSeconds=1", "")
	admin.do("GET", "/api/v1/namespaces?watch=1&timeoutSeconds=1&allowWatchBookmarks=true", "")
	admin.do("GET", "/api/v1/configmaps?timeout=1ns", "")
	plain.do("GET", "/api/v1/pods", "")
	_, page := admin.do("GET", "/metrics", "")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	got, err := parser.TextToMetricFamilies(strings.NewReader(page))
	if err != nil {
		t.Fatalf("%v\n%s", err, page)
	}
	// These need what is not done here: a refusal, a client that goes, another server.
	rare := []string{"apiserver_flowcontrol_rejected_requests_total", "apiserver_request_terminations_total", "apiserver_request_aborts_total", "aggregator_unavailable_apiservice"}
	f, err := os.Open("testdata/dashboards.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if line := lines.Text(); line != "" && line[0] != '#' {
			name, rest, _ := strings.Cut(line, " ")
			kind, labels, _ := strings.Cut(rest, " ")
			if m := got[name]; m != nil {
				matchesDashboard(t, m, kind, labels)
			} else if !slices.Contains(rare, name) {
				t.Errorf("no %s", name)
			}
		}
	}
	for name, m := range got {
		if m.GetHelp() == "" {
			t.Errorf("%s has no HELP", name)
		}
	}
}

func matchesDashboard(t *testing.T, m *dto.MetricFamily, kind, labels string) {
	t.Helper()
	if is := strings.ToLower(m.GetType().String()); is != kind {
		t.Errorf("%s is a %s, want %s", m.GetName(), is, kind)
	}
	for l := range strings.SplitSeq(labels, ",") {
		if l != "" && !slices.ContainsFunc(m.Metric[0].Label, func(p *dto.LabelPair) bool { return p.GetName() == l }) {
			t.Errorf("%s lacks the label %s: %v", m.GetName(), l, m.Metric[0].Label)
		}
	}
}
