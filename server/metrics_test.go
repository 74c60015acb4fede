package server

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"orch/api"
	"orch/api/events"
	"orch/datastore/bolt"
	"orch/datastore/memory"
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
	policy := filepath.Join(t.TempDir(), "audit.yaml")
	if err := os.WriteFile(policy, []byte(`{"apiVersion":"audit.k8s.io/v1","kind":"Policy","rules":[{"level":"Metadata"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, store, func(c *Config) {
		c.Audit.PolicyFile, c.Audit.Log.Path = policy, filepath.Join(t.TempDir(), "audit.log")
	})
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
	usersRules(t, admin)
	s.Add(Part{Name: "controllers"}) // as the program does; it has no part in this test but its name
	admin.do("GET", "/readyz", "")
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
	if problems, err := promlint.New(strings.NewReader(page)).Lint(); err != nil {
		t.Error(err)
	} else {
		for _, p := range problems {
			if odd[p.Metric] == "" {
				t.Errorf("%s: %s", p.Metric, p.Text)
			}
		}
	}
	if _, page := admin.do("GET", "/metrics/slis", ""); !strings.Contains(page, `kubernetes_healthcheck{name="ping",type="readyz"} 1`) {
		t.Errorf("service levels: %s", page)
	}
}

// TestObjectsAndQueuesAreCounted: the numbers, by upstream's names, move with what is stored and done.
func TestObjectsAndQueuesAreCounted(t *testing.T) {
	s := start(t, memory.New(), nil)
	admin := user(t, s, "admin", api.GroupMasters)
	value := func(series string) (n float64) {
		t.Helper()
		_, page := admin.do("GET", "/metrics", "")
		_, rest, found := strings.Cut(page, "\n"+series+" ")
		if !found {
			t.Fatalf("no %s", series)
		}
		line, _, _ := strings.Cut(rest, "\n")
		n, err := strconv.ParseFloat(line, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	// Of a kind that no part of the server makes objects of.
	const ranges, old, plain = "/api/v1/namespaces/default/limitranges", `apiserver_storage_objects{resource="limitranges"}`, `apiserver_resource_objects{group="",resource="limitranges"}`
	limits := func(name string) [2]string {
		return [2]string{ranges, fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"limits":[]}}`, name)}
	}
	setUp(t, admin, limits("a"))
	before := value(old)
	setUp(t, admin, limits("b"), limits("c"))
	if n, m := value(old), value(plain); n != before+2 || m != n {
		t.Errorf("%v and %v after %v and two more", n, m, before)
	}
	admin.do("DELETE", ranges+"/b", "")
	if n := value(old); n != before+1 {
		t.Errorf("%v after one of %v has gone", n, before+2)
	}
	const adds, worked = `workqueue_adds_total{name="resource-quota"}`, `workqueue_work_duration_seconds_count{name="resource-quota"}`
	idle := value(adds)
	setUp(t, admin, [2]string{"/api/v1/namespaces/default/resourcequotas", `{"metadata":{"name":"q"},"spec":{"hard":{"pods":"1"}}}`})
	waitFor(t, "the queue's numbers", func() bool { return value(adds) > idle && value(worked) > 0 })
}

// odd are names that promlint would not give, which dashboards know all the same.
var odd = map[string]string{
	"apiserver_admission_webhook_fail_open_count": "upstream's name", "apiserver_admission_webhook_rejection_count": "upstream's name",
	"authenticated_user_requests": "upstream's name", "authentication_attempts": "upstream's name",
}

// usersRules has webhooks and policies of all sorts judge a ConfigMap.
func usersRules(t *testing.T, admin *caller) {
	t.Helper()
	const rules = `"rules":[{"apiGroups":[""],"apiVersions":["v1"],"resources":["configmaps"],"operations":["CREATE"]}],"sideEffects":"None","admissionReviewVersions":["v1"],"clientConfig":{"url":"https://127.0.0.1:1/"}`
	hook := func(name, extra string) string {
		return `{"name":"` + name + `.example.com","failurePolicy":"Ignore",` + rules + extra + `}`
	}
	condition := func(x string) string { return `,"matchConditions":[{"name":"c","expression":"` + x + `"}]` }
	constraints := `"matchConstraints":{"resourceRules":[{"apiGroups":[""],"apiVersions":["v1"],"resources":["configmaps"],"operations":["CREATE"]}]}`
	setUp(t, admin,
		[2]string{validatingPath, `{"metadata":{"name":"w"},"webhooks":[` + strings.Join([]string{hook("down", ""), hook("out", condition("false")), hook("bad", condition("object.nothing == 1"))}, ",") + `]}`},
		[2]string{vapPath, policyBody("p", `"validations":[{"expression":"false"}],`+constraints)}, [2]string{vapbPath, bindingBody("p", `,"validationActions":["Warn"]`)},
		[2]string{mapPath, policyBody("p", `"reinvocationPolicy":"Never","mutations":[{"patchType":"ApplyConfiguration","applyConfiguration":{"expression":"Object{}"}}],`+constraints)}, [2]string{mapbPath, bindingBody("p", "")})
	makeAccount(t, admin.s, "m", "default")
	for path, body := range map[string]string{"/api/v1/namespaces/m/configmaps": configMap("judged", ""), "/api/v1/namespaces/m/pods": pod("")} {
		if code, m := admin.message("POST", path, body); code != 201 {
			t.Fatal(code, m)
		}
	}
	if code, m := admin.message("PATCH", validatingPath+"/w", `{"webhooks":[`+strings.Replace(hook("down", ""), "Ignore", "Fail", 1)+`]}`); code != 200 {
		t.Fatal(code, m)
	}
	if code, m := admin.message("POST", "/api/v1/namespaces/m/configmaps", configMap("refused", "")); code != 500 {
		t.Errorf("a webhook that is down and must not be: %d %s", code, m)
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
