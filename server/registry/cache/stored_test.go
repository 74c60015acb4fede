package cache

import (
	"testing"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"orch/api"
)

// FuzzStored: a value of the store is refused, or is an object that can be stored and read again.
func FuzzStored(f *testing.F) {
	things := &api.Facts{Group: "example.com", Version: "v1", Kind: "Thing", Plural: "things", Path: "example.com/things", Dynamic: true,
		New: func() api.Object { return &unstructured.Unstructured{Object: map[string]any{}} }}
	kinds := []*Kind{NewKind(Kind{Facts: api.Pods.Facts}), NewKind(Kind{Facts: api.CustomResourceDefinitions.Facts}), NewKind(Kind{Facts: things})}
	pod, err := kinds[0].Encode(&core.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: core.PodSpec{Containers: []core.Container{{Name: "c"}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(0), pod)
	f.Add(uint8(0), []byte(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p"}}`))
	f.Add(uint8(1), []byte(`{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1","metadata":{"name":"a.b"},"spec":{"versions":[{}]}}`))
	f.Add(uint8(2), []byte(`{"kind":"Thing","apiVersion":"example.com/v1","metadata":{"name":"t"},"spec":{"a":[1,1.5,null]}}`))
	f.Fuzz(func(t *testing.T, n uint8, b []byte) {
		k := kinds[int(n)%len(kinds)]
		o, err := k.Decode(b)
		if err != nil {
			return
		}
		i := NewItem(k, o, 1)
		if _, err := i.JSON(); err != nil {
			return // a value that no client could have sent: floats beyond JSON
		}
		again, err := k.Encode(o)
		if err != nil {
			t.Fatalf("cannot be stored again: %v", err)
		}
		if _, err := k.Decode(again); err != nil {
			t.Fatalf("cannot be read again: %v", err)
		}
	})
}
