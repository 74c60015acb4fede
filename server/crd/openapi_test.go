package crd_test

import (
	"strings"
	"testing"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	openapiv3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
)

// TestDocuments: both versions of the OpenAPI documents show a custom resource, in both
// encodings, and forget it.
func TestDocuments(t *testing.T) {
	w := start(t)
	before := w.must(200, "GET", "/openapi/v2", "")
	w.define(fixture(t, "trainingjob.yaml"))
	index := w.must(200, "GET", "/openapi/v3", "")
	entry, _ := index.body["paths"].(map[string]any)["apis/ml.example.com/v1"].(map[string]any)
	if entry == nil {
		t.Fatalf("no document in the index: %s", index.raw)
	}
	doc := w.must(200, "GET", entry["serverRelativeURL"].(string), "")
	schemas := doc.body["components"].(map[string]any)["schemas"].(map[string]any)
	model, _ := schemas["com.example.ml.v1.TrainingJob"].(map[string]any)
	if model == nil || model["x-kubernetes-group-version-kind"] == nil || schemas["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"] == nil {
		t.Errorf("version 3: %s", doc.raw)
	}
	paths := doc.body["paths"].(map[string]any)
	for _, p := range []string{"trainingjobs", "namespaces/{namespace}/trainingjobs/{name}/scale", "namespaces/{namespace}/trainingjobs/{name}/status"} {
		if paths["/apis/ml.example.com/v1/"+p] == nil {
			t.Errorf("version 3 has no path %s", p)
		}
	}
	var v3 openapiv3.Document
	a := w.must(200, "GET", entry["serverRelativeURL"].(string), "", "Accept", "application/com.github.proto-openapi.spec.v3.v1.0+protobuf")
	if err := proto.Unmarshal([]byte(a.raw), &v3); err != nil || len(v3.GetPaths().GetPath()) != len(paths) {
		t.Errorf("version 3 as protobuf: %v", err)
	}
	after := w.must(200, "GET", "/openapi/v2", "")
	was, is := before.body["definitions"].(map[string]any), after.body["definitions"].(map[string]any)
	if len(is) != len(was)+2 || is["com.example.ml.v1.TrainingJobList"] == nil {
		t.Errorf("version 2 has %d definitions, before %d", len(is), len(was))
	}
	if after.body["paths"].(map[string]any)["/apis/ml.example.com/v1/namespaces/{namespace}/trainingjobs/{name}"] == nil {
		t.Error("version 2 has no path of the kind")
	}
	var v2 openapiv2.Document
	a = w.must(200, "GET", "/openapi/v2", "", "Accept", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
	if err := proto.Unmarshal([]byte(a.raw), &v2); err != nil || len(v2.GetDefinitions().GetAdditionalProperties()) != len(is) {
		t.Errorf("version 2 as protobuf: %v, %d definitions", err, len(v2.GetDefinitions().GetAdditionalProperties()))
	}
	w.must(200, "DELETE", crdPath+"/trainingjobs.ml.example.com", "")
	w.until("trainingjobs.ml.example.com", "its end", func(a answer) bool { return a.code == 404 })
	w.eventually("the documents forget it", func() bool {
		return !strings.Contains(w.do("GET", "/openapi/v3", "").raw, "ml.example.com") && !strings.Contains(w.do("GET", "/openapi/v2", "").raw, "com.example.ml")
	})
}

// TestDocumentOfAKindWithoutSchema: kubectl takes the properties of a definition for all that there
// are, so version 2 names none where everything is allowed.
func TestDocumentOfAKindWithoutSchema(t *testing.T) {
	w := start(t)
	w.define(`{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"anythings.free.example.com"},"spec":{
		"group":"free.example.com","scope":"Namespaced","names":{"plural":"anythings","kind":"Anything"},
		"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`)
	doc := w.must(200, "GET", "/openapi/v2", "")
	model, _ := doc.body["definitions"].(map[string]any)["com.example.free.v1.Anything"].(map[string]any)
	if len(model) != 2 || model["type"] != "object" || model["x-kubernetes-group-version-kind"] == nil {
		t.Errorf("version 2: %v", model)
	}
}
