package apply

import (
	"encoding/json"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"orch/api"
)

const thingModel = `{"type":"object","x-kubernetes-group-version-kind":[{"group":"example.com","version":"v1","kind":"Thing"}],"properties":{
 "apiVersion":{"type":"string"},"kind":{"type":"string"},"status":{"type":"object","properties":{"ready":{"type":"boolean"}}},
 "metadata":{"type":"object","properties":{"name":{"type":"string"},"uid":{"type":"string"},"creationTimestamp":{"type":"string"},"labels":{"type":"object","additionalProperties":{"type":"string"}},
  "finalizers":{"type":"array","items":{"type":"string"},"x-kubernetes-list-type":"set"},
  "ownerReferences":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["uid"],"items":{"type":"object","x-kubernetes-map-type":"atomic","properties":{"uid":{"type":"string"},"name":{"type":"string"}}}}}},
 "spec":{"type":"object","properties":{
  "text":{"type":"string"},"number":{"type":"integer"},"flag":{"type":"boolean"},"either":{"x-kubernetes-int-or-string":true},
  "list":{"type":"array","items":{"type":"string"}},"set":{"type":"array","items":{"type":"integer"},"x-kubernetes-list-type":"set"},
  "ports":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["port","protocol"],"items":{"type":"object","properties":{"port":{"type":"integer"},"protocol":{"type":"string","default":"TCP"},"more":{"type":"object","additionalProperties":{"type":"number"}}}}},
  "whole":{"type":"object","x-kubernetes-map-type":"atomic","properties":{"a":{"type":"string"}}},
  "free":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}}}`

const thing = `{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"n","uid":"u","creationTimestamp":"2026-01-01T00:00:00Z","labels":{"a/b":"c","<d>":"e"},"finalizers":["x/y","z"],"ownerReferences":[{"uid":"1","name":"o"}]},
 "status":{"ready":true},
 "spec":{"text":"t","number":5,"flag":true,"either":"50%","list":["a","b"],"set":[1,2,3],"ports":[{"port":80,"protocol":"TCP"},{"port":80,"protocol":"UDP","more":{"x":1.5}},{"port":443}],
  "whole":{"a":"b"},"free":{"deep":[{"er":{"v":null}}],"map":{"k":{"l":1}},"é\"":2}}}`

func things(t *testing.T, status, taught bool) (*api.Facts, *Applier) {
	t.Helper()
	f := &api.Facts{Group: "example.com", Version: "v1", Kind: "Thing", Plural: "things", Dynamic: true, Status: status}
	f.New = func() api.Object {
		u := &unstructured.Unstructured{Object: map[string]any{}}
		u.SetGroupVersionKind(f.GVK())
		return u
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	a := New(func() time.Time { return at })
	if taught {
		model := &spec.Schema{}
		if err := json.Unmarshal([]byte(thingModel), model); err != nil {
			t.Fatal(err)
		}
		a.Teach(f, func() (managedfields.TypeConverter, error) {
			return managedfields.NewTypeConverter(map[string]*spec.Schema{"Thing": model}, false)
		}, nil)
	}
	return f, a
}

// disturb changes something somewhere in a tree: takes it away, makes it null, empty or double.
func disturb(r *rand.Rand, v any, depth int) any {
	switch v := v.(type) {
	case map[string]any:
		for k, child := range v {
			if depth == 0 && k != "spec" && k != "metadata" && k != "status" || depth == 1 && k == "name" {
				continue
			}
			switch r.IntN(12) {
			case 0:
				delete(v, k)
			case 1:
				if depth > 0 {
					v[k] = nil
				}
			case 2:
				if _, is := child.(map[string]any); is && depth > 0 {
					v[k] = map[string]any{}
				}
			default:
				v[k] = disturb(r, child, depth+1)
			}
		}
		return v
	case []any:
		switch r.IntN(6) {
		case 0:
			return []any{}
		case 1:
			return append(v, runtime.DeepCopyJSONValue(v[:min(1, len(v))]).([]any)...)
		}
		for i := range v {
			v[i] = disturb(r, v[i], depth+1)
		}
	}
	return v
}

// TestFreshSameAsUpstream: what the writer of a new custom resource owns is what upstream's
// code says, whatever the object looks like.
func TestFreshSameAsUpstream(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	quick := 0
	for round := range 4000 {
		f, a := things(t, round%2 == 0, round%3 != 0)
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON([]byte(thing)); err != nil {
			t.Fatal(err)
		}
		for range r.IntN(4) {
			u.Object = disturb(r, u.Object, 0).(map[string]any)
		}
		if _, ok := u.Object["metadata"]; !ok {
			u.Object["metadata"] = map[string]any{}
		}
		theirs := u.DeepCopy()
		by := Manager{f, "m", ""}
		if !a.createDynamic(u, by) {
			continue // upstream's code has it
		}
		quick++
		a.updateDynamic(f.New(), theirs, by)
		if l, ok, _ := unstructured.NestedFieldNoCopy(theirs.Object, "metadata", "managedFields"); ok {
			l.([]any)[0].(map[string]any)["time"] = a.stamp().Format(time.RFC3339) // upstream's code asks the clock
		}
		if d := cmp.Diff(theirs.Object, u.Object); d != "" {
			t.Fatalf("round %d (-upstream +ours):\n%s", round, d)
		}
	}
	if quick < 2000 {
		t.Errorf("only %d of 4000 objects were found quickly", quick)
	}
}

func BenchmarkCreateDynamic(b *testing.B) {
	f := &api.Facts{Group: "example.com", Version: "v1", Kind: "Thing", Plural: "things", Dynamic: true}
	f.New = func() api.Object {
		u := &unstructured.Unstructured{Object: map[string]any{}}
		u.SetGroupVersionKind(f.GVK())
		return u
	}
	a := New(time.Now)
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON([]byte(thing)); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		unstructured.RemoveNestedField(u.Object, "metadata", "managedFields")
		a.Create(u, Manager{f, "bench", ""})
	}
}
