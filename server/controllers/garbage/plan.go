package garbage

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
)

// standing is how an owner stands to one of its dependents.
type standing int

const (
	solid   standing = iota // it is there
	absent                  // it is gone, or never was
	waiting                 // it is being deleted and waits for its dependents
)

// verdict is what becomes of an object with owners.
type verdict struct {
	// drop are owners to be struck from the object's references, because others stay.
	drop []metav1.OwnerReference
	// unblock takes blockOwnerDeletion off the references first, to end a circle.
	unblock bool
	// delete, with that propagation.
	delete      bool
	propagation metav1.DeletionPropagation
}

// judge decides, as upstream's attemptToDeleteItem: an object goes when no owner
// is left; while one stays, references to the others are struck.
func judge(o api.Object, stand func(metav1.OwnerReference) standing, dependents []node) verdict {
	if o.GetDeletionTimestamp() != nil {
		return verdict{} // on its way; its finalizers are looked after elsewhere
	}
	var solidOwners, waits int
	var drop []metav1.OwnerReference
	for _, ref := range o.GetOwnerReferences() {
		switch stand(ref) {
		case solid:
			solidOwners++
			continue
		case waiting:
			waits++
		}
		drop = append(drop, ref)
	}
	switch {
	case len(drop) == 0:
		return verdict{}
	case solidOwners > 0:
		return verdict{drop: drop}
	case waits > 0 && len(dependents) > 0:
		circle := slices.ContainsFunc(dependents, func(d node) bool { return d.waits })
		return verdict{delete: true, propagation: metav1.DeletePropagationForeground, unblock: circle}
	}
	return verdict{delete: true, propagation: propagationOf(o)}
}

// propagationOf keeps to what the object's finalizers ask for.
func propagationOf(o api.Object) metav1.DeletionPropagation {
	switch {
	case slices.Contains(o.GetFinalizers(), metav1.FinalizerOrphanDependents):
		return metav1.DeletePropagationOrphan
	case slices.Contains(o.GetFinalizers(), metav1.FinalizerDeleteDependents):
		return metav1.DeletePropagationForeground
	}
	return metav1.DeletePropagationBackground
}

// blocking are the dependents that a foreground deletion of their owner waits for.
func blocking(owner identity, dependents []node) []node {
	return slices.DeleteFunc(dependents, func(d node) bool {
		return !slices.ContainsFunc(d.owners, func(r metav1.OwnerReference) bool { return r.UID == owner.uid && blocks(r) })
	})
}
