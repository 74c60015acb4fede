package server

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	apireg "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	custommetrics "k8s.io/metrics/pkg/client/custom_metrics"
	externalmetrics "k8s.io/metrics/pkg/client/external_metrics"

	"orch/api"
	"orch/api/client"
	"orch/server/aggregator/extensiontest"
)

// autoscaler is the configuration of a client that is upstream's autoscaler.
func autoscaler(t *testing.T, s *Server) *rest.Config {
	t.Helper()
	file, err := s.Kubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	c, err := clientcmd.RESTConfigFromKubeConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	c.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:kube-system:horizontal-pod-autoscaler", Groups: []string{"system:serviceaccounts", "system:authenticated"}}
	return c
}

// An autoscaler finds its metrics with the clients that the one of upstream has, in an
// adapter behind an APIService, with the rights that it has in every cluster.
func TestMetricsForAutoscalers(t *testing.T) {
	s, e, c := serving(t, func(e *extensiontest.Server) { e.NoAggregated = true })
	for name, at := range map[string][2]string{"v1beta2.custom.metrics.k8s.io": {"custom.metrics.k8s.io", "v1beta2"}, "v1beta1.external.metrics.k8s.io": {"external.metrics.k8s.io", "v1beta1"}} {
		must[apireg.APIService](t)(client.Create(t.Context(), c, api.APIServices, apiService(at[0], at[1], e.CA)))
		says(t, c, name, "Passed")
	}
	config := autoscaler(t, s)
	found := memory.NewMemCacheClient(discovery.NewDiscoveryClientForConfigOrDie(config))
	objects := custommetrics.NewForConfig(config, restmapper.NewDeferredDiscoveryRESTMapper(found), custommetrics.NewAvailableAPIsGetter(found))
	web := labels.SelectorFromSet(labels.Set{"app": "web"})
	pods, err := objects.NamespacedMetrics("default").GetForObjects(schema.GroupKind{Kind: "Pod"}, web, "http_requests", labels.Everything())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, v := range pods.Items {
		got[v.DescribedObject.Name] = v.Value.MilliValue()
	}
	if len(got) != 2 || got["web-1"] != 500 || got["web-2"] != 12000 {
		t.Errorf("of pods: %v", got)
	}
	if v, err := objects.NamespacedMetrics("default").GetForObject(schema.GroupKind{Kind: "Service"}, "web", "hits", labels.Everything()); err != nil || v.Value.Value() != 1000 {
		t.Errorf("of a Service: %+v %v", v, err)
	}
	if v, err := objects.RootScopedMetrics().GetForObject(schema.GroupKind{Kind: "Node"}, "n1", "load", labels.Everything()); err != nil || v.Value.Value() != 90 {
		t.Errorf("of a node: %+v %v", v, err)
	}
	if _, err := objects.NamespacedMetrics("default").GetForObject(schema.GroupKind{Kind: "Service"}, "web", "none", labels.Everything()); !apierrors.IsNotFound(err) {
		t.Errorf("no such metric: %v", err)
	}
	things, err := externalmetrics.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	queue, err := things.NamespacedMetrics("default").List("queue_length", labels.SelectorFromSet(labels.Set{"queue": "jobs"}))
	if err != nil || len(queue.Items) != 1 || queue.Items[0].Value.Value() != 42 {
		t.Errorf("of the queue: %+v %v", queue, err)
	}
	if code, text := user(t, s, "bob").do("GET", "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/queue_length", ""); code != 403 || !strings.Contains(text, `cannot list resource \"queue_length\" in API group \"external.metrics.k8s.io\"`) {
		t.Errorf("who may not: %d %s", code, text)
	}
	metricsAreShown(t, s)
}

// metricsAreShown looks into discovery: metrics of objects are subresources of kinds that the
// adapter does not have, which must not lose them.
func metricsAreShown(t *testing.T, s *Server) {
	t.Helper()
	admin := user(t, s, "alice", api.GroupMasters)
	if code, text := admin.do("GET", "/apis/custom.metrics.k8s.io/v1beta2", ""); code != 200 || !strings.Contains(text, `"pods/http_requests"`) {
		t.Errorf("%d %s", code, text)
	}
	admin.header = http.Header{"Accept": {surfaceType}}
	_, text := admin.do("GET", "/apis", "")
	var doc struct {
		Items []struct {
			Metadata struct{ Name string }
			Versions []struct {
				Freshness string
				Resources []struct {
					Resource, Scope string
					Subresources    []struct{ Subresource string }
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	var seen []string
	for _, g := range doc.Items {
		if strings.HasSuffix(g.Metadata.Name, ".metrics.k8s.io") {
			for _, r := range g.Versions[0].Resources {
				line := g.Versions[0].Freshness + " " + r.Scope + " " + r.Resource
				for _, sub := range r.Subresources {
					line += "/" + sub.Subresource
				}
				seen = append(seen, line)
			}
		}
	}
	const want = "Current Namespaced pods/http_requests, Current Namespaced services/hits, Current Cluster nodes/load, Current Namespaced queue_length"
	if got := strings.Join(seen, ", "); got != want {
		t.Errorf("discovery has %s", got)
	}
}
