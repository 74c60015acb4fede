package statefulset

import (
	"cmp"
	"slices"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"orch/server/controllers/workpod"
)

// observed is everything that a plan is made from.
type observed struct {
	set  *apps.StatefulSet
	pods []*core.Pod
	// current is the revision that the set had, update the one it is to have.
	current, update revision
	collisions      int32
	// claim looks a claim up; nil if there is none.
	claim func(name string) *core.PersistentVolumeClaim
	now   time.Time
}

// revision is a saved template and the name it is saved under.
type revision struct {
	name     string
	template *core.PodTemplateSpec
}

// plan says what to do for a set.
type plan struct {
	create []*core.Pod
	// claims are pods whose missing claims are made, repair those whose labels, volumes or
	// claims' owners are put right, release those that go and whose claims' owners are.
	claims, repair, release []*core.Pod
	remove                  []*core.Pod
	status                  apps.StatefulSetStatus
	// after is when a ready pod will count as available.
	after time.Duration
}

// makePlan goes through the pods in order. A set that is managed in order takes one
// step at a look and waits until it has worked; a parallel one takes all at once.
func makePlan(o observed) plan {
	w := &work{observed: o, ordered: o.set.Spec.PodManagementPolicy != apps.ParallelPodManagement}
	w.sort()
	w.countStatus()
	if o.set.DeletionTimestamp == nil {
		w.steps()
	}
	w.finishStatus()
	return w.plan
}

// work is a plan in the making.
type work struct {
	observed
	plan
	ordered bool
	// replicas by ordinal, those that are missing made new; condemned the rest, highest ordinal first.
	replicas, condemned []*core.Pod
	// unhealthy is the first pod that does not serve.
	unhealthy *core.Pod
}

func created(p *core.Pod) bool { return p.Status.Phase != "" }

func runs(p *core.Pod) bool { return p.Status.Phase == core.PodRunning && workpod.Ready(p) }

func terminating(p *core.Pod) bool { return p.DeletionTimestamp != nil }

func revisionOf(p *core.Pod) string { return p.Labels[apps.StatefulSetRevisionLabel] }

// available tells whether a pod serves, and notes when it will if only time is missing.
func (w *work) available(p *core.Pod) bool {
	ok, in := workpod.Available(p, time.Duration(w.set.Spec.MinReadySeconds)*time.Second, w.now)
	w.after = workpod.Soonest(w.after, in)
	return ok
}

func (w *work) unavailable(p *core.Pod) bool { return !w.available(p) || terminating(p) }

// sort tells the pods that the set is to have from those that it is not to have.
func (w *work) sort() {
	w.replicas = make([]*core.Pod, size(w.set))
	for _, p := range w.pods {
		switch n := ordinal(p); {
		case inRange(w.set, p):
			w.replicas[n-first(w.set)] = p
		case n >= 0:
			w.condemned = append(w.condemned, p)
		}
	}
	for i := range w.replicas {
		if w.replicas[i] == nil {
			r := w.revisionFor(i)
			w.replicas[i] = newPod(w.set, r.template, r.name, first(w.set)+i)
		}
	}
	slices.SortFunc(w.condemned, func(a, b *core.Pod) int { return cmp.Compare(ordinal(b), ordinal(a)) })
	for _, p := range slices.Concat(w.replicas, backwards(w.condemned)) {
		if w.unhealthy == nil && w.unavailable(p) {
			w.unhealthy = p
		}
	}
}

func backwards(pods []*core.Pod) []*core.Pod {
	out := slices.Clone(pods)
	slices.Reverse(out)
	return out
}

// revisionFor is the revision that the i-th pod is made of when it is missing: below the
// partition, or while others of the old revision are left, the old one.
func (w *work) revisionFor(i int) revision {
	if w.set.Spec.UpdateStrategy.Type != apps.RollingUpdateStatefulSetStrategyType {
		return w.update
	}
	keep := int(w.set.Status.CurrentReplicas)
	if w.set.Spec.UpdateStrategy.RollingUpdate != nil {
		keep = w.partition()
	}
	if i < keep {
		return w.current
	}
	return w.update
}

func (w *work) partition() int {
	if r := w.set.Spec.UpdateStrategy.RollingUpdate; r != nil && r.Partition != nil {
		return int(*r.Partition)
	}
	return 0
}

// steps plans until something has to be waited for.
func (w *work) steps() {
	for _, p := range w.replicas {
		if w.replica(p) && w.ordered {
			return
		}
	}
	for _, p := range w.condemned {
		if !w.claimsRight(p) {
			w.release = append(w.release, p)
		}
	}
	for _, p := range w.condemned {
		if w.condemn(p) && w.ordered {
			return
		}
	}
	if w.set.Spec.UpdateStrategy.Type == apps.RollingUpdateStatefulSetStrategyType {
		w.roll()
	}
}

// replica plans for one pod that the set is to have; true: the ones after it have to wait.
func (w *work) replica(p *core.Pod) bool {
	switch {
	case workpod.Finished(p):
		if !terminating(p) {
			w.remove = append(w.remove, p)
		}
		return true
	case !created(p):
		if !w.claimsStale(p) {
			w.create = append(w.create, p)
		}
		return true
	}
	if p.Status.Phase == core.PodPending && w.claimsMissing(p) {
		w.claims = append(w.claims, p)
	}
	if w.ordered && (terminating(p) || !runs(p) || !w.available(p)) {
		return true
	}
	if !identified(p) || !mounted(w.set, p) || !w.claimsRight(p) {
		w.repair = append(w.repair, p)
	}
	return false
}

// condemn plans the removal of a pod that the set is not to have; true: the ones before it have to wait.
func (w *work) condemn(p *core.Pod) bool {
	if terminating(p) {
		return true
	}
	if w.ordered && p != w.unhealthy && !(runs(p) && w.available(p)) {
		return true
	}
	w.remove = append(w.remove, p)
	return true
}

func (w *work) each(p *core.Pod, check func(*core.PersistentVolumeClaim) bool) bool {
	for i := range w.set.Spec.VolumeClaimTemplates {
		if !check(w.claim(claimName(w.set, &w.set.Spec.VolumeClaimTemplates[i], ordinal(p)))) {
			return false
		}
	}
	return true
}

// claimsRight tells whether the owners of the pod's claims are right; missing ones are.
func (w *work) claimsRight(p *core.Pod) bool {
	return w.each(p, func(c *core.PersistentVolumeClaim) bool { return c == nil || ownersRight(c, w.set, p) })
}

func (w *work) claimsMissing(p *core.Pod) bool {
	return !w.each(p, func(c *core.PersistentVolumeClaim) bool {
		return c != nil && c.DeletionTimestamp == nil && ownersRight(c, w.set, p)
	})
}

// claimsStale tells whether a new pod has to wait for claims that go with its predecessor.
func (w *work) claimsStale(p *core.Pod) bool {
	if scaled, _ := retention(w.set); !scaled {
		return false
	}
	return !w.each(p, func(c *core.PersistentVolumeClaim) bool { return c == nil || !goesWith(c, p.Name) })
}

// roll plans the removal of pods of old revisions, from the highest ordinal down
// to the partition, with at most maxUnavailable of all missing.
func (w *work) roll() {
	limit := 1
	if r := w.set.Spec.UpdateStrategy.RollingUpdate; r != nil && r.MaxUnavailable != nil {
		n, err := intstr.GetScaledValueFromIntOrPercent(r.MaxUnavailable, size(w.set), false)
		if err == nil {
			limit = max(n, 1)
		}
	}
	missing := 0
	for _, p := range w.replicas {
		if w.unavailable(p) {
			missing++
		}
	}
	budget := limit - missing
	for i := len(w.replicas) - 1; i >= w.partition(); i-- {
		p := w.replicas[i]
		if revisionOf(p) == w.update.name || terminating(p) || !created(p) {
			continue
		}
		switch {
		case !w.ordered && !w.available(p): // it does not serve anyway
		case budget > 0:
			budget--
		default:
			continue
		}
		w.remove = append(w.remove, p)
		w.status.CurrentReplicas--
	}
}
