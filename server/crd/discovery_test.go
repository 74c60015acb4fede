package crd_test

import (
	"net/http"
	"strings"
	"testing"
)

// TestDiscoveryFollowsDefinitions: the aggregated document is the same while nothing changes
// (304), and another one at once when a definition comes or goes.
func TestDiscoveryFollowsDefinitions(t *testing.T) {
	w := start(t)
	ask := func(etag string) (code int, now string, body string) {
		t.Helper()
		req, err := http.NewRequest("GET", w.url+"/apis", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
		if etag != "" {
			req.Header.Set("If-None-Match", etag)
		}
		resp, err := w.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var b strings.Builder
		if err := resp.Write(&b); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, resp.Header.Get("Etag"), b.String()
	}
	_, before, _ := ask("")
	if code, _, _ := ask(before); code != http.StatusNotModified {
		t.Errorf("the same document again: %d", code)
	}
	w.must(201, "POST", crdPath, `
metadata: {name: things.fresh.example.com}
spec:
  group: fresh.example.com
  scope: Namespaced
  names: {plural: things, kind: Thing}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`)
	w.until("things.fresh.example.com", "Established", func(a answer) bool {
		return strings.Contains(a.raw, `"type":"Established"`) && w.do("GET", "/apis/fresh.example.com/v1/things", "").code == 200
	})
	code, with, body := ask(before)
	if code != 200 || with == before || !strings.Contains(body, "fresh.example.com") {
		t.Errorf("with the definition: %d, %s was %s", code, with, before)
	}
	const things = "/apis/fresh.example.com/v1/namespaces/default/things"
	w.must(201, "POST", things, "apiVersion: fresh.example.com/v1\nkind: Thing\nmetadata: {name: a}")
	meta := w.must(200, "GET", things, "", "Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")
	if meta.get("kind") != "PartialObjectMetadataList" || meta.get("items.0.kind") != "PartialObjectMetadata" || meta.get("items.0.metadata.name") != "a" {
		t.Errorf("as metadata: %s", meta.raw)
	}
	table := w.must(200, "GET", things, "", "Accept", "application/json;as=Table;g=meta.k8s.io;v=v1")
	if table.get("kind") != "Table" || table.get("rows.0.cells.0") != "a" || table.get("columnDefinitions.1.name") != "Age" {
		t.Errorf("as table: %s", table.raw)
	}
	for as, want := range map[string]string{"Table": `{"type":"ADDED","object":{"kind":"Table"`, "PartialObjectMetadata": `{"type":"ADDED","object":{"kind":"PartialObjectMetadata"`} {
		if got := w.must(200, "GET", things+"?watch=1&timeoutSeconds=1", "", "Accept", "application/json;as="+as+";g=meta.k8s.io;v=v1"); !strings.HasPrefix(got.raw, want) {
			t.Errorf("watched as %s: %s", as, got.raw)
		}
	}
	w.must(406, "GET", things, "", "Accept", "application/vnd.kubernetes.protobuf")
	w.must(200, "DELETE", crdPath+"/things.fresh.example.com", "")
	w.until("things.fresh.example.com", "its end", func(a answer) bool { return a.code == 404 })
	if _, after, body := ask(""); after == with || strings.Contains(body, "fresh.example.com") {
		t.Errorf("without the definition: %s as before", after)
	}
}
