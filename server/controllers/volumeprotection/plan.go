package volumeprotection

import (
	"slices"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api/reconcile"
)

// This file is pure: who uses what.

// claimName is the claim of a volume, empty if it is none.
func claimName(p *core.Pod, v *core.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return p.Name + "-" + v.Name
	}
	return ""
}

// usesClaim: only pods that have a node count, as a node starts no pod with a claim
// that is being deleted.
func usesClaim(p *core.Pod, c *core.PersistentVolumeClaim) bool {
	if p.Spec.NodeName == "" {
		return false
	}
	return slices.ContainsFunc(p.Spec.Volumes, func(v core.Volume) bool {
		if claimName(p, &v) != c.Name {
			return false
		}
		owned := slices.ContainsFunc(c.OwnerReferences, func(o metav1.OwnerReference) bool { return o.UID == p.UID })
		return v.PersistentVolumeClaim != nil || owned && !shutDown(p)
	})
}

// shutDown: the node is done with the pod.
func shutDown(p *core.Pod) bool {
	return p.DeletionTimestamp != nil && p.DeletionGracePeriodSeconds != nil && *p.DeletionGracePeriodSeconds == 0
}

// claimsLetGo are the claims of a pod that is gone, has ended, or has no node yet.
func claimsLetGo(was, is *core.Pod) []reconcile.Key {
	p := is
	if p == nil {
		p = was
	} else if p.Spec.NodeName != "" && p.Status.Phase != core.PodSucceeded && p.Status.Phase != core.PodFailed && !shutDown(p) {
		return nil
	}
	var keys []reconcile.Key
	for i := range p.Spec.Volumes {
		if n := claimName(p, &p.Spec.Volumes[i]); n != "" {
			keys = append(keys, reconcile.Key{Namespace: p.Namespace, Name: n})
		}
	}
	return keys
}

// letGo are the names that an object no longer uses.
func letGo[T any](was, is *T, names func(*T) []string) []reconcile.Key {
	if was == nil {
		return nil
	}
	var now []string
	if is != nil {
		now = names(is)
	}
	var keys []reconcile.Key
	for _, n := range names(was) {
		if !slices.Contains(now, n) {
			keys = append(keys, reconcile.Key{Name: n})
		}
	}
	return keys
}

func classesOfClaim(c *core.PersistentVolumeClaim) (names []string) {
	add := func(s *string) {
		if s != nil && *s != "" {
			names = append(names, *s)
		}
	}
	add(c.Spec.VolumeAttributesClassName)
	add(c.Status.CurrentVolumeAttributesClassName)
	if m := c.Status.ModifyVolumeStatus; m != nil {
		add(&m.TargetVolumeAttributesClassName)
	}
	return names
}

func classesOfVolume(v *core.PersistentVolume) []string {
	if n := v.Spec.VolumeAttributesClassName; n != nil && *n != "" {
		return []string{*n}
	}
	return nil
}
