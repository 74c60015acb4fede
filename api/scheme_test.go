package api

import (
	"reflect"
	"testing"
)

// TestSchemeKnowsEveryKind: a kind whose group is not in the scheme could be stored
// and not be read.
func TestSchemeKnowsEveryKind(t *testing.T) {
	known := Scheme().AllKnownTypes()
	used := map[string]bool{}
	for _, f := range All() {
		used[f.GroupVersion().String()] = true
		if got, want := known[f.GVK()], reflect.TypeOf(f.New()).Elem(); got != want {
			t.Errorf("%s is %v in the scheme, want %v", f.GVK(), got, want)
		}
		if !f.Computed && known[f.ListGVK()] == nil {
			t.Errorf("%s is not in the scheme", f.ListGVK())
		}
	}
	for gvk := range known {
		if gv := gvk.GroupVersion().String(); !used[gv] && gvk.Version != "__internal" && gv != "meta.k8s.io/v1" {
			t.Errorf("%s is in the scheme for nothing: no kind of %s is served", gvk, gv)
			used[gv] = true
		}
	}
}
