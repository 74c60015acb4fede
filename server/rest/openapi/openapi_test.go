package openapi

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"

	"orch/api"
)

func serverOf(t *testing.T) *httptest.Server {
	t.Helper()
	d, err := New()
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(d)
	t.Cleanup(s.Close)
	return s
}

func get(t *testing.T, url string, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

type document struct {
	Paths      map[string]map[string]json.RawMessage
	Components struct {
		Schemas map[string]map[string]any
	}
	Definitions map[string]map[string]any
}

// Every kind has its paths and a definition that says its group, version and kind.
func TestEveryKindIsDescribed(t *testing.T) {
	s := serverOf(t)
	_, data := get(t, s.URL+"/openapi/v3")
	var index struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	if err := json.Unmarshal(data, &index); err != nil {
		t.Fatal(err)
	}
	docs := map[string]document{}
	for name, entry := range index.Paths {
		resp, data := get(t, s.URL+entry.ServerRelativeURL)
		if resp.StatusCode != 200 || resp.Header.Get("Cache-Control") != "public, immutable" {
			t.Fatalf("%s: %s, Cache-Control %q", name, resp.Status, resp.Header.Get("Cache-Control"))
		}
		var d document
		if err := json.Unmarshal(data, &d); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		docs[name] = d
	}
	_, data = get(t, s.URL+"/openapi/v2")
	var v2 document
	if err := json.Unmarshal(data, &v2); err != nil {
		t.Fatal(err)
	}
	for _, f := range api.All() {
		base := "api/" + f.Version
		if f.Group != "" {
			base = "apis/" + f.Group + "/" + f.Version
		}
		path := "/" + base + "/namespaces/{namespace}/" + f.Plural
		if f.Cluster {
			path = "/" + base + "/" + f.Plural
		}
		for version, d := range map[string]document{"v2": v2, "v3": docs[base]} {
			if d.Paths[path] == nil {
				t.Errorf("%s: no path %s", version, path)
			}
			if !describes(d, f) {
				t.Errorf("%s: no definition of %s", version, f.GVK())
			}
		}
	}
}

func describes(d document, f *api.Facts) bool {
	all := d.Definitions
	if all == nil {
		all = d.Components.Schemas
	}
	for _, schema := range all {
		kinds, _ := schema["x-kubernetes-group-version-kind"].([]any)
		for _, k := range kinds {
			m := k.(map[string]any)
			if m["group"] == f.Group && m["version"] == f.Version && m["kind"] == f.Kind {
				return true
			}
		}
	}
	return false
}

// kubectl looks for these: without them it would not send dryRun or fieldValidation.
func TestPatchOffersDryRunAndFieldValidation(t *testing.T) {
	s := serverOf(t)
	_, data := get(t, s.URL+"/openapi/v3/apis/apps/v1")
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	patch := string(d.Paths["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"])
	for _, want := range []string{`"name":"dryRun"`, `"name":"fieldValidation"`, `"name":"fieldManager"`, `"name":"force"`, `"operationId":"patchAppsV1NamespacedDeployment"`} {
		if !strings.Contains(patch, want) {
			t.Errorf("patch operation lacks %s", want)
		}
	}
}

func TestConditionalAndEncodings(t *testing.T) {
	s := serverOf(t)
	resp, _ := get(t, s.URL+"/openapi/v2")
	etag := resp.Header.Get("Etag")
	resp, body := get(t, s.URL+"/openapi/v2", "If-None-Match", etag)
	if resp.StatusCode != 304 || len(body) != 0 {
		t.Errorf("with the ETag: %s and %d bytes", resp.Status, len(body))
	}
	resp, body = get(t, s.URL+"/openapi/v2", "Accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
	var doc openapi_v2.Document
	if err := proto.Unmarshal(body, &doc); err != nil || len(doc.Paths.Path) < 100 {
		t.Errorf("protobuf: %s, %v, %d paths", resp.Status, err, len(doc.GetPaths().GetPath()))
	}
	if resp, _ = get(t, s.URL+"/openapi/v2", "Accept", "text/html"); resp.StatusCode != 406 {
		t.Errorf("text/html: %s", resp.Status)
	}
	if resp, _ = get(t, s.URL+"/openapi/v3/apis/none/v1"); resp.StatusCode != 404 {
		t.Errorf("unknown group: %s", resp.Status)
	}
}

func TestSetAddsAndRemoves(t *testing.T) {
	d, err := New()
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(d)
	defer s.Close()
	open := func(bool) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(`{"a":1}`)), nil }
	d.Set("v3/apis/x.io/v1", Document{Hash: "H", Open: open})
	if _, body := get(t, s.URL+"/openapi/v3/apis/x.io/v1"); string(body) != `{"a":1}` {
		t.Errorf("got %s", body)
	}
	d.Set("v3/apis/x.io/v1", Document{})
	if resp, _ := get(t, s.URL+"/openapi/v3/apis/x.io/v1"); resp.StatusCode != 404 {
		t.Errorf("after removal: %s", resp.Status)
	}
}

// TestDocumentsAreWhole: each embedded document is the one that the index speaks of, and its
// protobuf twin opens.
func TestDocumentsAreWhole(t *testing.T) {
	d, err := New()
	if err != nil {
		t.Fatal(err)
	}
	for name, doc := range d.documents() {
		for _, protobuf := range []bool{false, true} {
			r, err := doc.Open(protobuf)
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(r)
			if err := errors.Join(err, r.Close()); err != nil || len(data) == 0 {
				t.Errorf("%s: %d bytes, %v", name, len(data), err)
			}
			if hash := fmt.Sprintf("%X", sha256.Sum256(data)); !protobuf && hash != doc.Hash {
				t.Errorf("%s has hash %s, the index says %s", name, hash, doc.Hash)
			}
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	d, err := New()
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range []string{"v2", "v3/api/v1", "v3/apis/apps/v1"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				r, err := d.documents()[name].Open(true)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, r); err != nil {
					b.Fatal(err)
				}
				r.Close()
			}
		})
	}
}
