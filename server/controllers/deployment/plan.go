package deployment

import (
	"cmp"
	"slices"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"orch/server/controllers/workpod"
)

// observed is what a plan is made from. Nothing in it is changed.
type observed struct {
	deployment *apps.Deployment
	sets       []*apps.ReplicaSet // those it controls
	// oldPods tells whether pods of the old sets still run; only asked for
	// the Recreate strategy.
	oldPods func(newSet *apps.ReplicaSet) bool
	now     time.Time
}

// plan is one step of a rollout. Each step changes sets in one direction only;
// the next look sees what came of it.
type plan struct {
	// create is the set of the current template, when it has to be made.
	create *apps.ReplicaSet
	// changes are sets to be written.
	changes []change
	// remove are old sets beyond the history limit.
	remove []*apps.ReplicaSet
	// revision is what the deployment's annotation should say; empty: leave it.
	revision string
	status   apps.DeploymentStatus
	// after is when the progress deadline has to be looked at.
	after time.Duration
}

// change is the wanted state of one set.
type change struct {
	set         *apps.ReplicaSet
	replicas    int32
	minReady    int32
	annotations map[string]string // to be set; nil: none
}

// differs tells whether there is anything to write.
func (c change) differs() bool {
	return c.replicas != size(c.set) || c.minReady != c.set.Spec.MinReadySeconds || len(c.annotations) > 0
}

// rollout gathers the plan while it is made.
type rollout struct {
	observed
	newSet *apps.ReplicaSet   // nil if it does not exist
	old    []*apps.ReplicaSet // oldest first
	plan
}

// makePlan decides the next step, as upstream's syncDeployment does.
func makePlan(o observed) plan {
	slices.SortFunc(o.sets, byCreation)
	r := &rollout{observed: o}
	r.newSet = findNew(o.deployment, o.sets)
	for _, s := range o.sets {
		if s != r.newSet {
			r.old = append(r.old, s)
		}
	}
	d := o.deployment
	r.status = *d.Status.DeepCopy()
	switch {
	case d.DeletionTimestamp != nil:
		r.finishStatus()
		return r.plan
	case d.Spec.Paused:
		r.notePause()
		r.adoptNew()
		r.scale()
		r.cleanup()
	case r.scalingEvent():
		r.notePause()
		r.adoptNew()
		r.scale()
	case d.Spec.Strategy.Type == apps.RecreateDeploymentStrategyType:
		r.notePause()
		r.recreate()
	default:
		r.notePause()
		r.rolling()
	}
	r.finishStatus()
	return r.plan
}

func byCreation(a, b *apps.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// rolling grows the new set and shrinks the old ones, one direction per step.
func (r *rollout) rolling() {
	if !r.ensureNew() {
		return
	}
	if r.changeTo(r.newSet, newSize(r.deployment, r.sets, r.newSet)) {
		return
	}
	if r.shrinkOld() {
		return
	}
	if complete(r.deployment, countStatus(r.deployment, r.sets, r.newSet)) {
		r.cleanup()
	}
}

// recreate lets the new set begin only when every old pod is gone.
func (r *rollout) recreate() {
	r.adoptNew()
	shrunk := false
	for _, s := range r.old {
		shrunk = r.changeTo(s, 0) || shrunk
	}
	if shrunk || r.oldPods(r.newSet) {
		return
	}
	if !r.ensureNew() || r.changeTo(r.newSet, replicas(r.deployment)) {
		return
	}
	if complete(r.deployment, countStatus(r.deployment, r.sets, r.newSet)) {
		r.cleanup()
	}
}

// shrinkOld takes pods from the old sets, the broken ones first, without going
// below what must stay available.
func (r *rollout) shrinkOld() bool {
	oldTotal := total(r.old)
	if oldTotal == 0 {
		return false
	}
	wanted := replicas(r.deployment)
	minAvailable := wanted - maxUnavailable(r.deployment)
	newUnavailable := size(r.newSet) - r.newSet.Status.AvailableReplicas
	budget := oldTotal + size(r.newSet) - minAvailable - newUnavailable
	if budget <= 0 {
		return false
	}
	sizes := map[*apps.ReplicaSet]int32{}
	available := r.newSet.Status.AvailableReplicas
	cleaned := int32(0)
	for _, s := range r.old { // pods that do not serve cost nothing to take
		sizes[s] = size(s)
		available += s.Status.AvailableReplicas
		if n := min(budget-cleaned, size(s)-s.Status.AvailableReplicas); n > 0 {
			sizes[s] -= n
			cleaned += n
		}
	}
	spare := available - minAvailable
	changed := false
	for _, s := range r.old {
		if n := min(sizes[s], spare); n > 0 {
			sizes[s] -= n
			spare -= n
		}
		changed = r.changeTo(s, sizes[s]) || changed
	}
	return changed
}

// changeTo plans the set's size and, with it, its annotations about the
// deployment's size; true if anything is to be written for the size's sake.
func (r *rollout) changeTo(s *apps.ReplicaSet, n int32) bool {
	d := r.deployment
	c := r.changeOf(s)
	c.replicas = n
	if size(s) == 0 && n == 0 {
		return false // old and empty: leave its annotations alone
	}
	for k, v := range sizeAnnotations(d) {
		if s.Annotations[k] != v {
			c.annotate(k, v)
		}
	}
	return c.differs()
}

// changeOf returns the planned change of a set, begun if there is none.
func (r *rollout) changeOf(s *apps.ReplicaSet) *change {
	for i := range r.changes {
		if r.changes[i].set == s {
			return &r.changes[i]
		}
	}
	r.changes = append(r.changes, change{set: s, replicas: size(s), minReady: s.Spec.MinReadySeconds})
	return &r.changes[len(r.changes)-1]
}

func (c *change) annotate(k, v string) {
	if c.annotations == nil {
		c.annotations = map[string]string{}
	}
	c.annotations[k] = v
}

// cleanup plans the removal of old, empty sets beyond the history limit.
func (r *rollout) cleanup() {
	limit := r.deployment.Spec.RevisionHistoryLimit
	if limit == nil {
		return
	}
	alive := slices.DeleteFunc(slices.Clone(r.old), func(s *apps.ReplicaSet) bool { return s.DeletionTimestamp != nil })
	slices.SortStableFunc(alive, func(a, b *apps.ReplicaSet) int { return cmp.Compare(revisionOf(a), revisionOf(b)) })
	for i := range max(len(alive)-int(*limit), 0) {
		s := alive[i]
		if s.Status.Replicas == 0 && size(s) == 0 && s.Generation <= s.Status.ObservedGeneration {
			r.remove = append(r.remove, s)
		}
	}
}

// newSize is how large the new set may be now.
func newSize(d *apps.Deployment, all []*apps.ReplicaSet, newSet *apps.ReplicaSet) int32 {
	wanted := replicas(d)
	if d.Spec.Strategy.Type == apps.RecreateDeploymentStrategyType {
		return wanted
	}
	current := int32(0)
	if newSet != nil {
		current = size(newSet)
	}
	if current >= wanted {
		return wanted
	}
	room := wanted + maxSurge(d) - total(all)
	return current + max(min(room, wanted-current), 0)
}

func replicas(d *apps.Deployment) int32 {
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

func size(s *apps.ReplicaSet) int32 {
	if s.Spec.Replicas == nil {
		return 1
	}
	return *s.Spec.Replicas
}

func total(sets []*apps.ReplicaSet) int32 {
	n := int32(0)
	for _, s := range sets {
		n += size(s)
	}
	return n
}

func isRolling(d *apps.Deployment) bool {
	return d.Spec.Strategy.Type != apps.RecreateDeploymentStrategyType
}

func maxSurge(d *apps.Deployment) int32 {
	surge, _ := fenceposts(d)
	return surge
}

func maxUnavailable(d *apps.Deployment) int32 {
	if !isRolling(d) || replicas(d) == 0 {
		return 0
	}
	_, unavailable := fenceposts(d)
	return min(unavailable, replicas(d))
}

// fenceposts resolves maxSurge, rounded up, and maxUnavailable, rounded down; they
// are never both 0, or nothing could move.
func fenceposts(d *apps.Deployment) (surge, unavailable int32) {
	u := d.Spec.Strategy.RollingUpdate
	if !isRolling(d) || u == nil {
		return 0, 0
	}
	surge = scaled(u.MaxSurge, replicas(d), true)
	unavailable = scaled(u.MaxUnavailable, replicas(d), false)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, unavailable
}

func scaled(v *intstr.IntOrString, of int32, up bool) int32 {
	zero := intstr.FromInt32(0)
	n, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(v, zero), int(of), up)
	if err != nil {
		return 0 // validation lets nothing else in
	}
	return int32(n)
}

// stillRunning tells whether pods that belong to another set than newSet have
// not ended; terminating ones count, their processes may still be there.
func stillRunning(pods []*core.Pod) bool {
	return slices.ContainsFunc(pods, func(p *core.Pod) bool { return !workpod.Finished(p) })
}
