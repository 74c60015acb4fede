package deployment

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	apps "k8s.io/api/apps/v1"
)

// Annotations that deployments put on their sets.
const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	desiredAnnotation  = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation      = "deployment.kubernetes.io/max-replicas"
)

// sizeAnnotations tell a set how large its deployment is, so that a change of
// that size is noticed and shared out in proportion.
func sizeAnnotations(d *apps.Deployment) map[string]string {
	return map[string]string{
		desiredAnnotation: strconv.Itoa(int(replicas(d))),
		maxAnnotation:     strconv.Itoa(int(replicas(d) + maxSurge(d))),
	}
}

// scalingEvent tells whether the deployment's size was changed since its sets
// were last written.
func (r *rollout) scalingEvent() bool {
	return slices.ContainsFunc(active(r.sets), func(s *apps.ReplicaSet) bool {
		desired, err := strconv.Atoi(s.Annotations[desiredAnnotation])
		return err == nil && int32(desired) != replicas(r.deployment)
	})
}

func active(sets []*apps.ReplicaSet) []*apps.ReplicaSet {
	return slices.DeleteFunc(slices.Clone(sets), func(s *apps.ReplicaSet) bool { return size(s) == 0 })
}

// scale brings the sets to the deployment's size without going on with a rollout.
func (r *rollout) scale() {
	d := r.deployment
	if one := r.onlyActive(); one != nil {
		r.changeTo(one, replicas(d))
		return
	}
	if r.saturated() {
		for _, s := range active(r.old) {
			r.changeTo(s, 0)
		}
		return
	}
	switch {
	case isRolling(d):
		r.scaleInProportion()
	case !d.Spec.Paused:
		r.recreate() // several sets with pods must not last
	}
}

// onlyActive is the one set with pods, or the newest if none has any; nil if
// there are several.
func (r *rollout) onlyActive() *apps.ReplicaSet {
	switch with := active(r.sets); {
	case len(with) == 1:
		return with[0]
	case len(with) > 1:
		return nil
	case r.newSet != nil:
		return r.newSet
	case len(r.old) > 0:
		return r.old[len(r.old)-1]
	}
	return nil
}

// saturated: the new set has all that the deployment wants, and it is available.
func (r *rollout) saturated() bool {
	if r.newSet == nil {
		return false
	}
	want := replicas(r.deployment)
	desired, err := strconv.Atoi(r.newSet.Annotations[desiredAnnotation])
	return err == nil && size(r.newSet) == want && int32(desired) == want && r.newSet.Status.AvailableReplicas == want
}

// scaleInProportion shares a change of the deployment's size among its sets by
// their sizes, so that a rollout under way keeps its mixture. The largest
// set takes what rounding leaves over.
func (r *rollout) scaleInProportion() {
	d := r.deployment
	sets := active(r.sets)
	allowed := int32(0)
	if replicas(d) > 0 {
		allowed = replicas(d) + maxSurge(d)
	}
	add := allowed - total(sets)
	slices.SortStableFunc(sets, func(a, b *apps.ReplicaSet) int {
		age := byCreation(a, b)
		if add > 0 {
			age = -age // the newer grows first, the older shrinks first
		}
		return cmp.Or(cmp.Compare(size(b), size(a)), age)
	})
	sizes := make([]int32, len(sets))
	added := int32(0)
	for i, s := range sets {
		sizes[i] = size(s)
		if add != 0 {
			share := proportion(d, s, add, added)
			sizes[i] += share
			added += share
		}
	}
	for i, s := range sets {
		if i == 0 && add != 0 {
			sizes[i] = max(sizes[i]+add-added, 0)
		}
		r.changeTo(s, sizes[i])
	}
}

// proportion is the set's share of what is to be added (negative: taken).
func proportion(d *apps.Deployment, s *apps.ReplicaSet, add, added int32) int32 {
	if size(s) == 0 || add == added {
		return 0
	}
	share := fraction(d, s)
	if add > 0 {
		return min(share, add-added)
	}
	return max(share, add-added)
}

// fraction is how much the set grows when it keeps its part of the deployment.
func fraction(d *apps.Deployment, s *apps.ReplicaSet) int32 {
	if replicas(d) == 0 {
		return -size(s)
	}
	before, err := strconv.Atoi(s.Annotations[maxAnnotation])
	if err != nil || before == 0 {
		before = int(d.Status.Replicas)
	}
	if before == 0 {
		return 0
	}
	after := float64(size(s)) * float64(replicas(d)+maxSurge(d)) / float64(before)
	return int32(math.Round(after)) - size(s)
}
