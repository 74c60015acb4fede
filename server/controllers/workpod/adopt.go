package workpod

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

// Selector is what a controller selects by; one that selects everything by being empty selects nothing.
func Selector(s *metav1.LabelSelector) (labels.Selector, error) {
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err == nil && sel.Empty() {
		return labels.Nothing(), nil
	}
	return sel, err
}

// Selects tells whether a controller with the selector wants an object of these labels; a selector that cannot
// be read wants none.
func Selects(s *metav1.LabelSelector, l map[string]string) bool {
	sel, err := Selector(s)
	return err == nil && sel.Matches(labels.Set(l))
}

// Adopts watches a kind whose objects may be without a controller: such a one concerns all in its namespace that
// want it and so may adopt it. One without labels is nobody's, as upstream.
func Adopts[O, T any, PO client.PtrTo[O], PT client.PtrTo[T]](c client.Cache, owner api.Kind[O], owned api.Kind[T], wants func(PO, PT) bool) reconcile.Watch {
	return reconcile.Map(owned, func(_, is *T) []reconcile.Key {
		o := PT(is)
		if is == nil || o.GetDeletionTimestamp() != nil || len(o.GetLabels()) == 0 || metav1.GetControllerOfNoCopy(o) != nil {
			return nil
		}
		return reconcile.Keys(c, owner, o.GetNamespace(), func(by PO) bool { return wants(by, o) })
	})
}
