package server

import (
	"strings"
	"testing"

	"orch/datastore/memory"
)

// TestHealthByUpstreamsNames: probes that asked for one of upstream's checks got 404, and a store that failed was healthy.
func TestHealthByUpstreamsNames(t *testing.T) {
	root := user(t, start(t, memory.New(), nil), "root", "system:masters")
	for code, body := root.do("GET", "/metrics/slis", ""); !strings.Contains(body, `kubernetes_healthcheck{name="etcd",type="healthz"} 1`); code, body = root.do("GET", "/metrics/slis", "") {
		if code != 200 || t.Context().Err() != nil {
			t.Fatalf("before any probe: %d %s", code, body)
		}
	}
	for page, names := range map[string][]string{
		"/livez":   {"ping", "log", "etcd", "poststarthook/rbac/bootstrap-roles", "poststarthook/crd-informer-synced", "autoregister-completion"},
		"/readyz":  {"ping", "etcd", "informer-sync", "shutdown", "poststarthook/apiservice-registration-controller"},
		"/healthz": {"ping", "etcd", "poststarthook/start-kube-aggregator-informers"},
	} {
		code, body := root.do("GET", page+"?verbose", "")
		for _, n := range names {
			if !strings.Contains(body, "[+]"+n+" ok\n") {
				t.Errorf("%s: %d %s, want %s", page, code, body, n)
			}
		}
	}
	if code, body := root.do("GET", "/metrics/slis", ""); code != 200 || !strings.Contains(body, `kubernetes_healthcheck{name="etcd",type="livez"} 1`) ||
		!strings.Contains(body, `kubernetes_healthchecks_total{name="etcd",status="success",type="readyz"} 1`) {
		t.Errorf("/metrics/slis: %d %s", code, body)
	}
	for path, want := range map[string]string{
		"/readyz?verbose&exclude=etcd&exclude=none": "[+]etcd excluded: ok\n", "/readyz?verbose&exclude=none": "warn: some health checks cannot be excluded: no matches for \"none\"\n",
		"/livez?verbose": "livez check passed\n", "/livez?exclude=etcd": "ok", "/livez/etcd": "ok", "/readyz/poststarthook/rbac/bootstrap-roles": "ok",
	} {
		if code, body := root.do("GET", path, ""); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s, want %s", path, code, body, want)
		}
	}
	if code, _ := root.do("GET", "/livez/none", ""); code != 404 {
		t.Errorf("a check that is none: %d", code)
	}
}

// TestAdmissionSpeaksBeforeTheStore: an object that came with a version was refused for that, whatever admission had to say.
func TestAdmissionSpeaksBeforeTheStore(t *testing.T) {
	root := user(t, start(t, memory.New(), nil), "root", "system:masters")
	for namespace, want := range map[string]int{"none": 404, "default": 500} {
		if code, body := root.do("POST", "/api/v1/namespaces/"+namespace+"/configmaps", `{"metadata":{"name":"a","resourceVersion":"5"}}`); code != want {
			t.Errorf("%s: %d %s, want %d", namespace, code, body, want)
		}
	}
}
