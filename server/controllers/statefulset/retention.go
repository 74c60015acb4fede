package statefulset

import (
	"slices"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/server/controllers/workpod"
)

// retention says what becomes of claims when the set is scaled down, or deleted: a claim that goes
// is owned by what goes before it, the garbage collector does the rest.
func retention(s *apps.StatefulSet) (scaled, deleted bool) {
	p := s.Spec.PersistentVolumeClaimRetentionPolicy
	if p == nil {
		return false, false
	}
	return p.WhenScaled == apps.DeletePersistentVolumeClaimRetentionPolicyType, p.WhenDeleted == apps.DeletePersistentVolumeClaimRetentionPolicyType
}

// owners are the objects that a claim should belong to.
func owners(s *apps.StatefulSet, p *core.Pod) (set, pod bool) {
	scaled, deleted := retention(s)
	condemned := !inRange(s, p)
	return deleted && !(scaled && condemned), scaled && condemned
}

func refersTo(r *metav1.OwnerReference, o api.Object, f *api.Facts) bool {
	return r.APIVersion == f.GVK().GroupVersion().String() && r.Kind == f.Kind && r.Name == o.GetName()
}

func ownedBy(c *core.PersistentVolumeClaim, o api.Object) bool {
	return slices.ContainsFunc(c.OwnerReferences, func(r metav1.OwnerReference) bool { return r.UID == o.GetUID() })
}

// stale tells whether the claim belongs to an earlier object of the name.
func stale(c *core.PersistentVolumeClaim, o api.Object, f *api.Facts) bool {
	i := slices.IndexFunc(c.OwnerReferences, func(r metav1.OwnerReference) bool { return refersTo(&r, o, f) })
	return i >= 0 && c.OwnerReferences[i].UID != o.GetUID()
}

// contested tells whether somebody else controls a claim that the set is to delete one day.
func contested(c *core.PersistentVolumeClaim, s *apps.StatefulSet, p *core.Pod) bool {
	if scaled, deleted := retention(s); !scaled && !deleted {
		return false
	}
	for i := range c.OwnerReferences {
		r := &c.OwnerReferences[i]
		switch {
		case refersTo(r, s, api.StatefulSets.Facts):
			if r.UID != s.UID {
				return true
			}
		case refersTo(r, p, api.Pods.Facts):
			if r.UID != p.UID {
				return true
			}
		case r.Controller != nil && *r.Controller:
			return true
		}
	}
	return false
}

// ownersRight tells whether the claim's owners are what the policy says. Claims in a state
// that nobody can explain count as right: they are not touched.
func ownersRight(c *core.PersistentVolumeClaim, s *apps.StatefulSet, p *core.Pod) bool {
	if stale(c, s, api.StatefulSets.Facts) || stale(c, p, api.Pods.Facts) {
		return true
	}
	if contested(c, s, p) {
		return !ownedBy(c, s) && !ownedBy(c, p)
	}
	for _, r := range c.OwnerReferences {
		if (r.UID == s.UID || r.UID == p.UID) && (r.Controller == nil || !*r.Controller) {
			return false
		}
	}
	set, pod := owners(s, p)
	return ownedBy(c, s) == set && ownedBy(c, p) == pod
}

// withOwners is the claim with the owners that the policy says.
func withOwners(c *core.PersistentVolumeClaim, s *apps.StatefulSet, p *core.Pod) *core.PersistentVolumeClaim {
	foreign := contested(c, s, p)
	next := c.DeepCopy()
	next.OwnerReferences = slices.DeleteFunc(next.OwnerReferences, func(r metav1.OwnerReference) bool {
		return refersTo(&r, s, api.StatefulSets.Facts) || refersTo(&r, p, api.Pods.Facts)
	})
	if foreign {
		return next
	}
	set, pod := owners(s, p)
	if set {
		next.OwnerReferences = append(next.OwnerReferences, workpod.OwnerRef(api.StatefulSets.Facts, s))
	}
	if pod {
		next.OwnerReferences = append(next.OwnerReferences, workpod.OwnerRef(api.Pods.Facts, p))
	}
	return next
}

// goesWith tells whether the claim is owned by a pod of that name, which is gone by now.
func goesWith(c *core.PersistentVolumeClaim, pod string) bool {
	return slices.ContainsFunc(c.OwnerReferences, func(r metav1.OwnerReference) bool {
		return r.APIVersion == "v1" && r.Kind == api.Pods.Kind && r.Name == pod
	})
}
