package garbage

import (
	"testing"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
)

func TestJudge(t *testing.T) {
	cases := []struct {
		name       string
		owners     map[string]standing
		finalizers []string
		deleting   bool
		dependents []node
		want       verdict // drop: only its length counts
		drops      int
	}{
		{name: "all owners are there", owners: map[string]standing{"a": solid, "b": solid}},
		{name: "the only owner is gone", owners: map[string]standing{"a": absent}, want: verdict{delete: true, propagation: metav1.DeletePropagationBackground}},
		{name: "one of two is gone", owners: map[string]standing{"a": absent, "b": solid}, drops: 1},
		{name: "the owner waits, nobody depends on this", owners: map[string]standing{"a": waiting}, want: verdict{delete: true, propagation: metav1.DeletePropagationBackground}},
		{name: "the owner waits, others depend on this", owners: map[string]standing{"a": waiting}, dependents: []node{{}}, want: verdict{delete: true, propagation: metav1.DeletePropagationForeground}},
		{name: "a circle is broken", owners: map[string]standing{"a": waiting}, dependents: []node{{waits: true}}, want: verdict{delete: true, unblock: true, propagation: metav1.DeletePropagationForeground}},
		{name: "being deleted already", owners: map[string]standing{"a": absent}, deleting: true},
		{name: "asks to orphan", owners: map[string]standing{"a": absent}, finalizers: []string{metav1.FinalizerOrphanDependents}, want: verdict{delete: true, propagation: metav1.DeletePropagationOrphan}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			o := &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Finalizers: c.finalizers}}
			for name := range c.owners {
				o.OwnerReferences = append(o.OwnerReferences, metav1.OwnerReference{Name: name, UID: types.UID(name)})
			}
			if c.deleting {
				o.DeletionTimestamp = &metav1.Time{}
			}
			got := judge(o, func(r metav1.OwnerReference) standing { return c.owners[r.Name] }, c.dependents)
			if got.delete != c.want.delete || got.propagation != c.want.propagation || got.unblock != c.want.unblock || len(got.drop) != c.drops {
				t.Errorf("verdict = %+v, want %+v and %d dropped", got, c.want, c.drops)
			}
		})
	}
}

func TestGraphKeepsOnlyWhatHasOwners(t *testing.T) {
	g := newGraph()
	object := func(name string, owners ...string) *core.ConfigMap {
		o := &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}}
		for _, owner := range owners {
			o.OwnerReferences = append(o.OwnerReferences, metav1.OwnerReference{UID: types.UID(owner), BlockOwnerDeletion: new(true)})
		}
		return o
	}
	see := func(was, is *core.ConfigMap) int {
		var c client.Change
		if was != nil {
			c.Old = was
		}
		if is != nil {
			c.New = is
		}
		return len(g.observe(api.ConfigMaps.Facts, c))
	}
	see(nil, object("alone"))
	if len(g.nodes)+len(g.dependents)+len(g.finishing) != 0 {
		t.Errorf("an object without owners is kept: %+v", g.nodes)
	}
	if n := see(nil, object("child", "parent")); n != 1 {
		t.Errorf("a new dependent woke %d, want itself", n)
	}
	if n := see(object("child", "parent"), object("child", "parent")); n != 0 {
		t.Errorf("a change that is none of ours woke %d", n)
	}
	waits := object("parent")
	waits.DeletionTimestamp, waits.Finalizers = &metav1.Time{}, []string{metav1.FinalizerDeleteDependents}
	if n := see(object("parent"), waits); n != 2 {
		t.Errorf("an owner that began to wait woke %d, want itself and its dependent", n)
	}
	if n := see(object("child", "parent"), nil); n != 1 {
		t.Errorf("the end of a dependent woke %d, want its owner", n)
	}
	see(waits, nil)
	if len(g.nodes)+len(g.dependents)+len(g.finishing) != 0 {
		t.Errorf("something is left: %+v %+v %+v", g.nodes, g.dependents, g.finishing)
	}
}
