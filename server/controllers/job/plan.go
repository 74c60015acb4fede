package job

import (
	"slices"
	"time"

	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/server/controllers/workpod"
)

const (
	// burst bounds how many pods one look at a job creates or deletes.
	burst = 500
	// uncountedMost bounds the pods that one look counts, and so the size of the status.
	uncountedMost = 500
)

// observed is everything that a plan is made from.
type observed struct {
	job  *batch.Job
	pods []*core.Pod
	// record of failures before these pods.
	record record
	now    time.Time
}

// plan says what to do for a job, before its status is written.
type plan struct {
	// create are the pods to make: a completion index each, -1 for jobs without.
	create []creation
	// remove are pods that are too many: they are not counted. end are the pods that
	// run when the job is over: they are deleted, and counted as failed unless it succeeded.
	remove, end []*core.Pod
	// after is when time alone will change something.
	after time.Duration
}

// creation is a pod to be made.
type creation struct {
	index int
	// counted and ignored are the failures of the index so far.
	counted, ignored int32
}

// look is one look at a job: what is seen, what follows, and the status in the making.
type look struct {
	observed
	plan
	status batch.JobStatus
	// active pods neither ended nor are being deleted; terminating are being deleted and have not ended.
	active, terminating []*core.Pod
	// newRecord includes the pods that ended since.
	newRecord record
	// succeeded and failed count everything, also what is not in the counters yet.
	succeeded, failed int32
	// was are the indexes that had succeeded, done those that have, lost those that failed for good.
	was, done, lost indexes
	// held are failed pods, by index, that stay until their replacements know their count.
	held map[int]*core.Pod
	// finish is why the job is over; nil if it is not.
	finish *batch.JobCondition
	// ran tells that the number of pods was looked after.
	ran bool
	// events tell what has changed, once the status is written.
	events []event
}

// event is something to tell about the job.
type event struct{ kind, reason, message string }

// newLook makes the plan of a job that is not finished.
func newLook(o observed) *look {
	l := &look{observed: o, status: *o.job.Status.DeepCopy()}
	if l.status.UncountedTerminatedPods == nil {
		l.status.UncountedTerminatedPods = &batch.UncountedTerminatedPods{}
	}
	l.count()
	if l.status.StartTime == nil && !suspended(l.job) {
		l.status.StartTime = &metav1.Time{Time: l.now}
	}
	l.judgeEarly()
	if indexed(l.job) {
		l.judgeIndexes()
	}
	switch {
	case l.finish != nil:
		l.end = l.active
	case l.job.DeletionTimestamp == nil:
		l.ran = true
		l.manage()
	}
	return l
}

func suspended(j *batch.Job) bool { return j.Spec.Suspend != nil && *j.Spec.Suspend }

// tracked pods have not been counted for good.
func tracked(p *core.Pod) bool { return slices.Contains(p.Finalizers, batch.JobTrackingFinalizer) }

// replacesFailedOnly jobs wait until a pod that is being deleted has ended.
func replacesFailedOnly(j *batch.Job) bool {
	return j.Spec.PodReplacementPolicy != nil && *j.Spec.PodReplacementPolicy == batch.Failed
}

// hasFailed tells whether a pod counts as failed; one that is being deleted does,
// unless the job waits for its end.
func hasFailed(j *batch.Job, p *core.Pod) bool {
	if p.Status.Phase == core.PodFailed {
		return true
	}
	return !replacesFailedOnly(j) && p.DeletionTimestamp != nil && p.Status.Phase != core.PodSucceeded
}

// count looks through the pods, after those that lost their finalizer since are in the counters.
func (l *look) count() {
	withFinalizer := map[types.UID]bool{}
	for _, p := range l.pods {
		if tracked(p) {
			withFinalizer[p.UID] = true
		}
		switch {
		case workpod.Active(p):
			l.active = append(l.active, p)
		case p.DeletionTimestamp != nil && !workpod.Finished(p):
			l.terminating = append(l.terminating, p)
		}
	}
	u := l.status.UncountedTerminatedPods
	succeeded, failed := len(u.Succeeded), len(u.Failed)
	u.Succeeded = slices.DeleteFunc(u.Succeeded, func(id types.UID) bool { return !withFinalizer[id] })
	u.Failed = slices.DeleteFunc(u.Failed, func(id types.UID) bool { return !withFinalizer[id] })
	if !indexed(l.job) {
		l.status.Succeeded += int32(succeeded - len(u.Succeeded))
	}
	l.status.Failed += int32(failed - len(u.Failed))
	newSucceeded := l.fresh(u.Succeeded, func(p *core.Pod) bool { return p.Status.Phase == core.PodSucceeded })
	newFailed := l.fresh(u.Failed, func(p *core.Pod) bool { return hasFailed(l.job, p) })
	l.succeeded = l.status.Succeeded + int32(len(newSucceeded)+len(u.Succeeded))
	l.failed = l.status.Failed + int32(len(u.Failed))
	for _, p := range newFailed {
		if judge(l.job.Spec.PodFailurePolicy, p).counts() {
			l.failed++
		}
	}
	l.newRecord = l.record.after(newSucceeded, newFailed)
}

// fresh are the pods that ended so and are not counted yet.
func (l *look) fresh(counted []types.UID, ended func(*core.Pod) bool) (out []*core.Pod) {
	for _, p := range l.pods {
		if tracked(p) && ended(p) && !slices.Contains(counted, p.UID) && (!indexed(l.job) || indexOf(l.job, p) >= 0) {
			out = append(out, p)
		}
	}
	return out
}

// manage plans how many pods run.
func (l *look) manage() {
	j := l.job
	if suspended(j) {
		l.remove = l.surplus(len(l.active))
		return
	}
	parallelism := 1
	if j.Spec.Parallelism != nil {
		parallelism = int(*j.Spec.Parallelism)
	}
	want := parallelism
	switch {
	case j.Spec.Completions != nil:
		want = max(min(completions(j)-int(l.succeeded), parallelism), 0)
	case l.succeeded > 0: // once one has succeeded, the rest may finish, and none is added
		want = len(l.active)
	}
	if l.remove = l.surplus(max(len(l.active)-want, 0)); len(l.remove) > 0 {
		l.remove = l.remove[:min(len(l.remove), burst)]
		return
	}
	missing := want - len(l.active)
	if replacesFailedOnly(j) {
		missing -= len(l.terminating)
	}
	if missing > 0 {
		l.start(min(missing, burst))
	}
}

// start plans new pods, unless failures make it wait.
func (l *look) start(n int) {
	perIndex := l.job.Spec.BackoffLimitPerIndex != nil
	if wait := l.newRecord.wait(l.now); wait > 0 && !perIndex {
		l.after = workpod.Soonest(l.after, wait)
		return
	}
	if !indexed(l.job) {
		l.create = slices.Repeat([]creation{{index: -1}}, n)
		return
	}
	taken := l.done.with(indexesOf(l.job, l.active)...).union(l.lost)
	if replacesFailedOnly(l.job) {
		taken = taken.with(indexesOf(l.job, l.terminating)...)
	}
	soonest := time.Duration(0)
	for _, i := range taken.free(n, completions(l.job)) {
		c := creation{index: i}
		if before := l.held[i]; before != nil {
			counted, ignored := indexFailures(before)
			r := record{failures: counted + ignored + 1, last: endedAt(before)}
			if wait := r.wait(l.now); wait > 0 {
				soonest = workpod.Soonest(soonest, wait)
				continue
			}
			if c.counted, c.ignored = counted, ignored+1; judge(l.job.Spec.PodFailurePolicy, before).counts() {
				c.counted, c.ignored = counted+1, ignored
			}
		}
		l.create = append(l.create, c)
	}
	if len(l.create) == 0 || soonest > 0 {
		l.after = workpod.Soonest(l.after, soonest)
	}
}

// surplus picks at least n of the active pods to go: those whose index is taken, or none, come first.
func (l *look) surplus(n int) []*core.Pod {
	left := l.active
	var out []*core.Pod
	if indexed(l.job) {
		left = nil
		by := map[int][]*core.Pod{}
		for _, p := range l.active {
			by[indexOf(l.job, p)] = append(by[indexOf(l.job, p)], p)
		}
		for i := -1; i < completions(l.job) && len(by) > 0; i++ {
			pods := by[i]
			delete(by, i)
			switch {
			case i < 0:
				out = append(out, pods...)
			case len(pods) > 0:
				extra := workpod.Surplus(pods, len(pods)-1, nil, l.now)
				out = append(out, extra...)
				left = append(left, slices.DeleteFunc(slices.Clone(pods), func(p *core.Pod) bool { return slices.Contains(extra, p) })...)
			}
		}
	}
	if len(out) < n {
		out = append(out, workpod.Surplus(left, n-len(out), nil, l.now)...)
	}
	return out
}
