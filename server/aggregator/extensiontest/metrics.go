package extensiontest

import (
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
)

// Where metrics of objects and of things outside the cluster are, in the shape of the
// adapters that autoscalers ask. As with those, only the old form of discovery lists them.
const (
	custom   = "/apis/custom.metrics.k8s.io/v1beta2"
	external = "/apis/external.metrics.k8s.io/v1beta1"
)

func metricsDocument(path string) object {
	version := strings.TrimPrefix(path, "/apis/")
	list := func(kind string, names ...string) (out []any) {
		for _, name := range names {
			out = append(out, object{"name": name, "singularName": "", "namespaced": !strings.HasPrefix(name, "nodes/"), "kind": kind, "verbs": []string{"get"}})
		}
		return out
	}
	resources := list("ExternalMetricValueList", "queue_length")
	if path == custom {
		resources = list("MetricValueList", "pods/http_requests", "services/hits", "nodes/load")
	}
	return object{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}
}

// series are the metrics that there are, by what follows the version in the path.
func series() map[string][]object {
	return map[string][]object{
		"/namespaces/default/pods/*/http_requests": {
			value("Pod", "web-1", "http_requests", "500m", object{"app": "web"}), value("Pod", "web-2", "http_requests", "12", object{"app": "web"}),
			value("Pod", "db-1", "http_requests", "7", object{"app": "db"})},
		"/namespaces/default/services/web/hits": {value("Service", "web", "hits", "1k", nil)},
		"/nodes/n1/load":                        {value("Node", "n1", "load", "90", nil)},
		"/namespaces/default/queue_length": {
			{"metricName": "queue_length", "metricLabels": object{"queue": "jobs"}, "timestamp": "2026-11-28T05:00:00Z", "value": "42"},
			{"metricName": "queue_length", "metricLabels": object{"queue": "mails"}, "timestamp": "2026-11-28T05:00:00Z", "value": "3"}},
	}
}

func value(kind, name, metric, amount string, its object) object {
	o := object{"describedObject": object{"kind": kind, "name": name, "namespace": "default", "apiVersion": "/v1"}, "metric": object{"name": metric},
		"timestamp": "2026-11-28T05:00:00Z", "windowSeconds": 60, "value": amount}
	if kind == "Node" {
		delete(o["describedObject"].(object), "namespace")
	}
	if its != nil {
		o["labels"] = its
	}
	return o
}

// observe answers with the values of a metric, of the objects or things that are selected.
func (s *Server) observe(w http.ResponseWriter, r *http.Request) {
	path, kind, version := strings.TrimPrefix(r.URL.Path, external), "ExternalMetricValueList", strings.TrimPrefix(external, "/apis/")
	if strings.HasPrefix(r.URL.Path, custom) {
		path, kind, version = strings.TrimPrefix(r.URL.Path, custom), "MetricValueList", strings.TrimPrefix(custom, "/apis/")
	}
	selected, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err != nil {
		refuse(w, 400, "BadRequest", err.Error())
		return
	}
	values, known := series()[path]
	if !known {
		refuse(w, 404, "NotFound", "the server could not find the metric "+path[strings.LastIndexByte(path, '/')+1:])
		return
	}
	items := []any{}
	for _, v := range values {
		of, _ := v["labels"].(object)
		if kind == "ExternalMetricValueList" {
			of = v["metricLabels"].(object)
		}
		its := labels.Set{}
		for key, is := range of {
			its[key] = is.(string)
		}
		if !selected.Matches(its) {
			continue
		}
		shown := object{}
		for key, is := range v {
			if key != "labels" {
				shown[key] = is
			}
		}
		items = append(items, shown)
	}
	answer(w, 200, object{"kind": kind, "apiVersion": version, "metadata": object{}, "items": items})
}

// measure serves what `kubectl top` asks for.
func (s *Server) measure(w http.ResponseWriter, r *http.Request) {
	usage := object{"cpu": "250m", "memory": "64Mi"}
	head := func(name, namespace string) object {
		return object{"metadata": object{"name": name, "namespace": namespace}, "timestamp": "2026-11-28T05:00:00Z", "window": "30s"}
	}
	node, pod := head("n1", ""), head("web", "default")
	node["usage"], pod["containers"] = usage, []any{object{"name": "app", "usage": usage}}
	list := func(kind string, o object) object {
		return object{"kind": kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": object{}, "items": []any{o}}
	}
	switch path := strings.TrimPrefix(r.URL.Path, metrics); path {
	case "/nodes":
		answer(w, 200, list("NodeMetricsList", node))
	case "/pods", "/namespaces/default/pods":
		answer(w, 200, list("PodMetricsList", pod))
	default:
		http.NotFound(w, r)
	}
}
