package server

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"orch/datastore/memory"
)

// told runs a server with an AdmissionConfiguration of these plugins.
func told(t *testing.T, plugins string, enable ...string) *caller {
	t.Helper()
	path := filepath.Join(t.TempDir(), "admission.yaml")
	if err := os.WriteFile(path, []byte("apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n"+plugins), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, memory.New(), func(c *Config) { c.AdmissionConfig, c.EnableAdmissionPlugins = path, enable })
	for _, ns := range []string{"a", "free"} {
		setUp(t, user(t, s, "admin", "system:masters"), [2]string{"/api/v1/namespaces", fmt.Sprintf(`{"metadata":{"name":%q}}`, ns)})
		makeAccount(t, s, ns, "default")
	}
	return user(t, s, "admin", "system:masters")
}

func TestPodSecurityAsConfigured(t *testing.T) {
	admin := told(t, `
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: baseline}
    exemptions: {namespaces: [free], usernames: [trusted], runtimeClasses: [kata]}
`)
	trusted := user(t, admin.s, "trusted", "system:masters")
	const host = `,"hostNetwork":true`
	setUp(t, admin, [2]string{"/apis/node.k8s.io/v1/runtimeclasses", `{"metadata":{"name":"kata"},"handler":"kata"}`})
	for _, tc := range []struct {
		name, namespace, extra string
		who                    *caller
		code                   int
	}{
		{"by default", "a", host, admin, 403},
		{"harmless", "a", "", admin, 201},
		{"exempt namespace", "free", host, admin, 201},
		{"exempt user", "a", host, trusted, 201},
		{"exempt runtime class", "a", host + `,"runtimeClassName":"kata"`, admin, 201},
	} {
		code, m := tc.who.message("POST", "/api/v1/namespaces/"+tc.namespace+"/pods?dryRun=All", pod(tc.extra))
		if code != tc.code || code == 403 && !strings.Contains(m, `violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)`) {
			t.Errorf("%s: %d %s", tc.name, code, m)
		}
	}
	r, err := http.NewRequest("PATCH", admin.s.url()+"/api/v1/namespaces/free", strings.NewReader(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"restricted"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/merge-patch+json")
	resp, err := admin.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if w := resp.Header.Get("Warning"); resp.StatusCode != 200 || !strings.Contains(w, `namespace \"free\" is exempt from Pod Security, and the policy (enforce=restricted:latest) will be ignored`) {
		t.Errorf("%s %s", resp.Status, w)
	}
	_, page := admin.do("GET", "/metrics", "")
	for _, want := range []string{
		`pod_security_evaluations_total{decision="deny",mode="enforce",policy_level="baseline",policy_version="latest",request_operation="create",resource="pod",subresource=""} 1`,
		`pod_security_exemptions_total{request_operation="create",resource="pod",subresource=""} 3`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %s", want)
		}
	}
}

func TestLimitedResources(t *testing.T) {
	admin := told(t, `
- name: ResourceQuota
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: ResourceQuotaConfiguration
    limitedResources:
    - {resource: pods, matchContains: [requests.cpu]}
    - resource: pods
      matchScopes: [{scopeName: PriorityClass, operator: In, values: [dear]}]
`)
	setUp(t, admin, [2]string{"/apis/scheduling.k8s.io/v1/priorityclasses", `{"metadata":{"name":"dear"},"value":5}`})
	const cpu, dear = `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"x","resources":{"requests":{"cpu":"1"}}}]}}`, `,"priorityClassName":"dear"`
	const pods = "/api/v1/namespaces/a/pods?dryRun=All"
	refused := func(body, says string) {
		t.Helper()
		if code, m := admin.message("POST", pods, body); code != 403 || !strings.Contains(m, says) {
			t.Errorf("%d %s, want %q", code, m, says)
		}
	}
	refused(cpu, "insufficient quota to consume: requests.cpu")
	refused(pod(dear), "insufficient quota to match these scopes: [{PriorityClass In [dear]}]")
	if code, m := admin.message("POST", pods, pod("")); code != 201 {
		t.Errorf("a pod that uses nothing limited: %d %s", code, m)
	}
	setUp(t, admin, [2]string{"/api/v1/namespaces/a/resourcequotas", `{"metadata":{"name":"cpu"},"spec":{"hard":{"requests.cpu":"2"}}}`},
		[2]string{"/api/v1/namespaces/a/resourcequotas", `{"metadata":{"name":"dear"},"spec":{"hard":{"pods":"1"},"scopeSelector":{"matchExpressions":[{"scopeName":"PriorityClass","operator":"In","values":["dear"]}]}}}`})
	if code, m := admin.message("POST", pods, cpu); code != 201 {
		t.Errorf("under a quota: %d %s", code, m)
	}
	refused(pod(dear), "must specify requests.cpu")
	if code, m := admin.message("POST", pods, strings.Replace(cpu, `"spec":{`, `"spec":{"priorityClassName":"dear",`, 1)); code != 201 {
		t.Errorf("in a scope under a quota: %d %s", code, m)
	}
}

func TestEventRateLimit(t *testing.T) {
	admin := told(t, `
- name: EventRateLimit
  configuration:
    apiVersion: eventratelimit.admission.k8s.io/v1alpha1
    kind: Configuration
    limits: [{type: SourceAndObject, qps: 1, burst: 2}]
`, "EventRateLimit")
	event := func(i int, about string) (int, string) {
		return admin.message("POST", "/api/v1/namespaces/a/events", fmt.Sprintf(`{"metadata":{"name":"e%s%d"},"involvedObject":{"kind":"Pod","namespace":"a","name":%q},"source":{"component":"me"}}`, about, i, about))
	}
	codes := map[string]int{}
	begun := time.Now()
	for i := 0; codes["x429"] < 2 || codes["y429"] < 2; i++ {
		if time.Since(begun) > time.Minute {
			t.Fatalf("nothing is refused: %v", codes)
		}
		for _, about := range []string{"x", "y"} {
			code, m := event(i, about)
			codes[fmt.Sprint(about, code)]++
			if code == 429 && !strings.Contains(m, "limit reached on type SourceAndObject for key mePoda"+about) {
				t.Error(m)
			}
		}
	}
	most := 3 + int(time.Since(begun).Seconds())
	if codes["x201"] < 2 || codes["y201"] < 2 || codes["x201"] > most || codes["y201"] > most {
		t.Errorf("%v", codes)
	}
	if _, err := New(Config{DataDir: t.TempDir(), BindAddress: "127.0.0.1", AdvertiseAddress: "192.0.2.1", NodeName: "one", ClusterCIDR: "10.42.0.0/16", ServiceCIDR: "10.43.0.0/16",
		ClusterDomain: "cluster.local", ServiceNodePortRange: "30000-32767", EnableAdmissionPlugins: []string{"EventRateLimit"}}, memory.New(), nil); err == nil || !strings.Contains(err.Error(), "EventRateLimit needs limits") {
		t.Errorf("without limits: %v", err)
	}
}

// A webhook is shown the user that the kubeconfig has for its address.
func TestWebhooksAreShownWhoAsks(t *testing.T) {
	got := make(chan string, 4)
	h := newHooks(t, nil, map[string]http.HandlerFunc{"/who": func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header.Get("Authorization")
		http.Error(w, "no", 500)
	}})
	u, err := url.Parse(h.URL)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(config, []byte(fmt.Sprintf("apiVersion: v1\nkind: Config\nusers: [{name: %q, user: {token: secret}}]\n", u.Host)), 0o600); err != nil {
		t.Fatal(err)
	}
	admin := told(t, fmt.Sprintf(`
- name: ValidatingAdmissionWebhook
  configuration: {apiVersion: apiserver.config.k8s.io/v1, kind: WebhookAdmissionConfiguration, kubeConfigFile: %s}
`, config))
	for _, path := range []string{validatingPath, mutatingPath} {
		setUp(t, admin, [2]string{path, h.configuration("", "w", "/who", `,"failurePolicy":"Ignore"`)})
	}
	if code, m := admin.message("POST", mapsPath, configMap("x", "")); code != 201 {
		t.Fatal(code, m)
	}
	if mutating, validating := <-got, <-got; mutating != "" || validating != "Bearer secret" {
		t.Errorf("the mutating webhook saw %q, the validating one %q", mutating, validating)
	}
}
