package extensiontest

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

type object = map[string]any

func resources(group string) []any {
	verbs := []string{"create", "delete", "deletecollection", "get", "list", "patch", "watch"}
	if group == Group {
		return []any{object{"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": verbs, "shortNames": []string{"fl"}}}
	}
	return []any{
		object{"name": "nodes", "singularName": "", "namespaced": false, "kind": "NodeMetrics", "verbs": []string{"get", "list"}},
		object{"name": "pods", "singularName": "", "namespaced": true, "kind": "PodMetrics", "verbs": []string{"get", "list"}},
	}
}

func aggregated(group, version string) object {
	var list []any
	for _, r := range resources(group) {
		o := r.(object)
		scope := "Cluster"
		if o["namespaced"].(bool) {
			scope = "Namespaced"
		}
		list = append(list, object{"resource": o["name"], "scope": scope, "singularResource": o["singularName"], "verbs": o["verbs"], "shortNames": o["shortNames"],
			"responseKind": object{"group": group, "version": version, "kind": o["kind"]}})
	}
	return object{"metadata": object{"name": group}, "versions": []any{object{"version": version, "freshness": "Current", "resources": list}}}
}

// document serves discovery and OpenAPI, with an ETag.
func (s *Server) document(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked = append(s.asked, r.URL.Path)
	s.mu.Unlock()
	contentType := "application/json"
	var doc any
	switch path := r.URL.Path; {
	case path == "/apis":
		if s.NoAggregated || !strings.Contains(r.Header.Get("Accept"), "as=APIGroupDiscoveryList") {
			doc = object{"kind": "APIGroupList", "apiVersion": "v1", "groups": []any{}}
			break
		}
		contentType = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
		doc = object{"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "items": []any{aggregated(Group, Version), aggregated("metrics.k8s.io", "v1beta1")}}
	case path == root:
		doc = object{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": Group + "/" + Version, "resources": resources(Group)}
	case path == metrics:
		doc = object{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "metrics.k8s.io/v1beta1", "resources": resources("")}
	case path == custom, path == external:
		doc = metricsDocument(path)
	case path == "/openapi/v2":
		doc = openAPIV2()
	case path == "/openapi/v3" && !s.NoV3:
		doc = object{"paths": object{strings.TrimPrefix(root, "/"): object{"serverRelativeURL": "/openapi/v3" + root + "?hash=1"}}}
	case path == "/openapi/v3"+root && !s.NoV3:
		doc = openAPIV3()
	default:
		http.NotFound(w, r)
		return
	}
	data, err := json.Marshal(doc)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	tag := fmt.Sprintf(`"%x"`, sha256.Sum256(data))
	w.Header().Set("Etag", tag)
	w.Header().Set("Content-Type", contentType)
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(data)
}

const model = "com.example.wardle.v1alpha1.Flunder"

func flunder(ref string) object {
	return object{"type": "object", "description": "Flunder is an example of a type.",
		"x-kubernetes-group-version-kind": []any{object{"group": Group, "version": Version, "kind": "Flunder"}},
		"properties": object{
			"apiVersion": object{"type": "string"}, "kind": object{"type": "string"},
			"metadata": object{"$ref": ref + "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"},
			"spec":     object{"type": "object", "description": "What is wanted of the Flunder.", "properties": object{"reference": object{"type": "string", "description": "Whom it refers to."}}},
		}}
}

// objectMeta differs from what other servers say, as that of another release would.
func objectMeta() object {
	return object{"type": "object", "properties": object{"name": object{"type": "string"}, "namespace": object{"type": "string"}, "wardle": object{"type": "string"}}}
}

func openAPIV2() object {
	return object{"swagger": "2.0", "info": object{"title": "wardle", "version": "1"},
		"paths": object{
			root + "/namespaces/{namespace}/flunders": object{"get": object{"operationId": "listFlunders", "x-kubernetes-action": "list",
				"x-kubernetes-group-version-kind": object{"group": Group, "version": Version, "kind": "Flunder"},
				"responses":                       object{"200": object{"description": "OK", "schema": object{"$ref": "#/definitions/" + model}}}}},
			"/apis/other.example.com/v1/things": object{"get": object{"responses": object{"200": object{"description": "OK", "schema": object{"$ref": "#/definitions/other"}}}}},
		},
		"definitions": object{model: flunder("#/definitions/"), "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": objectMeta(), "other": object{"type": "object"}}}
}

func openAPIV3() object {
	return object{"openapi": "3.0.0", "info": object{"title": "wardle", "version": "1"},
		"paths": object{root + "/namespaces/{namespace}/flunders": object{"get": object{"operationId": "listFlunders", "x-kubernetes-action": "list",
			"x-kubernetes-group-version-kind": object{"group": Group, "version": Version, "kind": "Flunder"},
			"responses":                       object{"200": object{"description": "OK", "content": object{"application/json": object{"schema": object{"$ref": "#/components/schemas/" + model}}}}}}}},
		"components": object{"schemas": object{model: flunder("#/components/schemas/"), "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": objectMeta()}}}
}
