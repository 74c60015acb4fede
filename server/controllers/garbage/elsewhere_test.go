package garbage

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
)

// A kind stays while its server cannot be asked, and is forgotten when it is served no longer.
func TestKindsOfOthersStayWhileTheirServerIsAway(t *testing.T) {
	e := &elsewhere{graph: newGraph(), kinds: map[schema.GroupKind]*remote{}}
	of := func(version string) *api.Facts {
		return &api.Facts{Group: "x.io", Version: version, Kind: "Thing", Plural: "things"}
	}
	fresh := e.adopt([]*api.Facts{of("v1")}, nil)
	if len(fresh) != 1 {
		t.Fatalf("%d kinds are new", len(fresh))
	}
	first := fresh[0].Facts
	stopped := 0
	fresh[0].stop = func() { stopped++ }
	e.graph.observe(first, client.Change{New: &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{UID: "a", OwnerReferences: []metav1.OwnerReference{{UID: "o"}}}}})
	for name, step := range map[string]func() []*remote{
		"as it was":       func() []*remote { return e.adopt([]*api.Facts{of("v1")}, nil) },
		"cannot be asked": func() []*remote { return e.adopt(nil, []schema.GroupVersion{{Group: "x.io", Version: "v1"}}) },
	} {
		if n := step(); len(n) != 0 || e.kindOf(first.GroupKind()) != first || stopped != 0 || len(e.graph.nodes) != 1 {
			t.Errorf("%s: %d new, %d stopped, %d nodes", name, len(n), stopped, len(e.graph.nodes))
		}
	}
	if n := e.adopt([]*api.Facts{of("v2")}, nil); len(n) != 1 || stopped != 1 || len(e.graph.nodes) != 0 || e.kindOf(first.GroupKind()).Version != "v2" {
		t.Errorf("another version: %d new, %d stopped, %d nodes", len(n), stopped, len(e.graph.nodes))
	}
	if n := e.adopt(nil, nil); len(n) != 0 || e.kindOf(first.GroupKind()) != nil {
		t.Error("a kind that nobody serves is still known")
	}
}

// What a broken watch did not tell comes out when the kind is listed again.
func TestRetainDropsWhatIsGone(t *testing.T) {
	g, f := newGraph(), &api.Facts{Group: "x.io", Version: "v1", Kind: "Thing", Plural: "things"}
	see := func(kind *api.Facts, uid, owner types.UID) {
		g.observe(kind, client.Change{New: &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{UID: uid, OwnerReferences: []metav1.OwnerReference{{APIVersion: "x.io/v1", Kind: "Thing", UID: owner}}}}})
	}
	see(f, "a", "b")
	see(f, "b", "root")
	see(api.ConfigMaps.Facts, "mine", "b")
	if got := g.dependentsOfKind(schema.GroupKind{Group: "x.io", Kind: "Thing"}); len(got) != 3 {
		t.Errorf("dependents of the kind: %v", got)
	}
	look := g.retain(f, map[types.UID]bool{"a": true})
	if n, _, _ := g.find("b"); n != nil || len(g.nodes) != 2 {
		t.Errorf("left: %v", g.nodes)
	}
	if len(look) != 2 { // what depended on b
		t.Errorf("to be looked at: %v", look)
	}
	if g.retain(f, map[types.UID]bool{"a": true}) != nil {
		t.Error("nothing is gone, and yet something is to be looked at")
	}
}
