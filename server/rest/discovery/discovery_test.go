package discovery

import (
	"encoding/json"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
)

var update = flag.Bool("update", false, "rewrite golden files")

type table struct {
	kinds   []*api.Facts
	changed chan struct{}
}

func (t *table) Kinds() []*api.Facts      { return t.kinds }
func (t *table) Changed() <-chan struct{} { return t.changed }

func ask(d *Documents, path, accept string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", path, nil)
	r.Header.Set("Accept", accept)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w
}

const v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

// The whole surface, one line each resource: what clients can see is reviewed here.
func TestSurface(t *testing.T) {
	d := New(&table{kinds: api.All()}, nil)
	var text strings.Builder
	for _, path := range []string{"/api", "/apis"} {
		w := ask(d, path, v2+",application/json")
		if got := w.Header().Get("Content-Type"); got != v2 {
			t.Fatalf("%s: Content-Type %s", path, got)
		}
		var list apidiscovery.APIGroupDiscoveryList
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil {
			t.Fatal(err)
		}
		for _, g := range list.Items {
			for _, v := range g.Versions {
				text.WriteString("# " + strings.TrimPrefix(g.Name+"/"+v.Version, "/") + "\n")
				for _, r := range v.Resources {
					line(&text, r.Resource, r.ResponseKind, string(r.Scope), r.Verbs, strings.Join(r.ShortNames, ","), strings.Join(r.Categories, ","))
					for _, s := range r.Subresources {
						line(&text, "  "+r.Resource+"/"+s.Subresource, s.ResponseKind, "", s.Verbs)
					}
				}
			}
		}
	}
	const golden = "testdata/surface.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text.String()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func line(b *strings.Builder, name string, k *metav1.GroupVersionKind, scope string, verbs []string, more ...string) {
	words := append([]string{name, strings.TrimPrefix(k.Group+"/"+k.Version+"."+k.Kind, "/"), scope, strings.Join(verbs, ",")}, more...)
	b.WriteString(strings.TrimRight(strings.Join(words, " | "), " |") + "\n")
}

func TestOldDocuments(t *testing.T) {
	d := New(&table{kinds: api.All()}, nil)
	w := ask(d, "/api/v1", "application/json")
	var list metav1.APIResourceList
	if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil {
		t.Fatal(err)
	}
	found := map[string]metav1.APIResource{}
	for _, r := range list.APIResources {
		found[r.Name] = r
	}
	want := metav1.APIResource{Name: "pods", SingularName: "pod", Namespaced: true, Kind: "Pod", ShortNames: []string{"po"}, Categories: []string{"all"},
		Verbs: metav1.Verbs{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}, StorageVersionHash: "xPOwRZ+Yhw8="}
	if diff := cmp.Diff(want, found["pods"]); diff != "" {
		t.Errorf("pods: -want +got\n%s", diff)
	}
	if r := found["pods/eviction"]; r.Group != "policy" || r.Version != "v1" || r.Kind != "Eviction" {
		t.Errorf("pods/eviction: %+v", r)
	}
}

// An object in the old form of a client that prefers it is not the aggregated one.
func TestPreferenceAndETag(t *testing.T) {
	d := New(&table{kinds: api.All()}, nil)
	if w := ask(d, "/apis", "application/json,"+v2); !strings.Contains(w.Body.String(), `"kind":"APIGroupList"`) {
		t.Errorf("plain JSON first: %s", w.Body.String()[:80])
	}
	w := ask(d, "/apis", v2)
	if again := ask(d, "/apis", v2, "If-None-Match", w.Header().Get("Etag")); again.Code != http.StatusNotModified {
		t.Errorf("with the ETag: %d", again.Code)
	}
	if w := ask(d, "/apis", "application/vnd.kubernetes.protobuf"); !strings.HasPrefix(w.Body.String(), "k8s\x00") {
		t.Errorf("protobuf: %q", w.Body.String()[:10])
	}
}

func TestChangedTable(t *testing.T) {
	tab := &table{kinds: api.All(), changed: make(chan struct{})}
	d := New(tab, nil)
	if d.Serves("/apis/x.io/v1") {
		t.Fatal("serves a group that is not there")
	}
	tab.kinds = append(tab.kinds, &api.Facts{Group: "x.io", Version: "v1", Kind: "Thing", Plural: "things", Dynamic: true})
	old := tab.changed
	tab.changed = make(chan struct{})
	close(old)
	if !d.Serves("/apis/x.io/v1") || !strings.Contains(ask(d, "/apis", v2).Body.String(), `"things"`) {
		t.Error("the new kind is not shown")
	}
}
