package job

import (
	"slices"

	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/server/controllers/workpod"
)

// outcome is what came of a plan.
type outcome struct {
	created int
	// deleted tells that the pods to be removed or ended are on their way out.
	deleted bool
	err     error
}

// conclude completes the status after the plan was acted on, and lists the pods whose
// finalizer goes once the status that counts them is written.
func (l *look) conclude(o outcome) (untrack []*core.Pod) {
	active, terminating, ready := int32(len(l.active)), int32(len(l.terminating)), int32(0)
	for _, p := range l.active {
		if workpod.Ready(p) {
			ready++
		}
	}
	for _, p := range slices.Concat(l.remove, l.end) {
		if !o.deleted {
			l.finish = nil // not everything is on its way out yet
			break
		}
		active, terminating = active-1, terminating+1
		if workpod.Ready(p) {
			ready--
		}
	}
	active += int32(o.created)
	if l.ran {
		l.judgeLate(active)
	}
	l.status.Active, l.status.Ready, l.status.Terminating = active, &ready, &terminating
	untrack, all := l.track()
	l.conditions(all && len(untrack) == 0 && terminating == 0)
	return untrack
}

// judgeLate finds out whether enough pods have succeeded; else the job says whether it is suspended.
func (l *look) judgeLate(active int32) {
	j := l.job
	enough := l.succeeded > 0
	if j.Spec.Completions != nil {
		enough = l.succeeded >= *j.Spec.Completions
	}
	if enough && active == 0 {
		l.finish = l.newCondition(batch.JobSuccessCriteriaMet, batch.JobReasonCompletionsReached, "Reached expected number of succeeded pods")
		return
	}
	if suspended(j) {
		if l.suspend(core.ConditionTrue, "JobSuspended", "Job suspended") {
			l.events = append(l.events, event{core.EventTypeNormal, "Suspended", "Job suspended"})
			l.status.StartTime = nil
		}
		return
	}
	if l.suspend(core.ConditionFalse, "JobResumed", "Job resumed") {
		l.events = append(l.events, event{core.EventTypeNormal, "Resumed", "Job resumed"})
		l.status.StartTime = &metav1.Time{Time: l.now} // the deadline counts from here
	}
}

// suspend sets the Suspended condition; a job that never was suspended does not say so.
func (l *look) suspend(s core.ConditionStatus, reason, message string) bool {
	c := l.newCondition(batch.JobSuspended, reason, message)
	c.Status = s
	i := slices.IndexFunc(l.status.Conditions, func(c batch.JobCondition) bool { return c.Type == batch.JobSuspended })
	switch {
	case i < 0 && s == core.ConditionFalse:
		return false
	case i < 0:
		l.status.Conditions = append(l.status.Conditions, *c)
	case l.status.Conditions[i].Status == s && l.status.Conditions[i].Reason == reason && l.status.Conditions[i].Message == message:
		return false
	default:
		l.status.Conditions[i] = *c
	}
	return true
}

// track notes the pods that have ended in the status and lists those whose finalizer
// may go; all is false if some had to be left for the next look.
func (l *look) track() (untrack []*core.Pod, all bool) {
	u := l.status.UncountedTerminatedPods
	all = true
	var newDone []int
	for _, p := range l.byIndex() {
		if !tracked(p) || !l.countable(p) {
			continue
		}
		untrack = append(untrack, p)
		i := indexOf(l.job, p)
		switch {
		case p.Status.Phase == core.PodSucceeded && !slices.Contains(u.Failed, p.UID):
			switch {
			case !indexed(l.job) && !slices.Contains(u.Succeeded, p.UID):
				u.Succeeded = append(u.Succeeded, p.UID)
			case indexed(l.job) && i >= 0 && !l.was.has(i):
				newDone = append(newDone, i)
			}
		case hasFailed(l.job, p) || (l.finish != nil && l.finish.Type != batch.JobSuccessCriteriaMet):
			if !slices.Contains(u.Failed, p.UID) && (!indexed(l.job) || i >= 0) && judge(l.job.Spec.PodFailurePolicy, p).counts() {
				u.Failed = append(u.Failed, p.UID)
			}
		}
		if len(newDone)+len(u.Succeeded)+len(u.Failed) >= uncountedMost {
			all = false
			break
		}
	}
	if indexed(l.job) {
		l.status.Succeeded, l.status.CompletedIndexes = int32(l.done.total()), l.done.String()
		if l.job.Spec.BackoffLimitPerIndex != nil {
			lost := l.lost.String()
			l.status.FailedIndexes = &lost
		}
	}
	return untrack, all && len(u.Succeeded)+len(u.Failed) == 0
}

func (l *look) byIndex() []*core.Pod {
	if !indexed(l.job) {
		return l.pods
	}
	pods := slices.Clone(l.pods)
	slices.SortStableFunc(pods, func(a, b *core.Pod) int { return indexOf(l.job, a) - indexOf(l.job, b) })
	return pods
}

// countable pods have ended for good, or the job has.
func (l *look) countable(p *core.Pod) bool {
	if l.job.DeletionTimestamp != nil || l.finish != nil || p.Status.Phase == core.PodSucceeded {
		return true
	}
	return hasFailed(l.job, p) && l.held[indexOf(l.job, p)] != p
}

// conditions says in the status that the job is about to be over, and, when nothing
// is left to be counted, that it is.
func (l *look) conditions(counted bool) {
	f := l.finish
	if f == nil {
		return
	}
	end := batch.JobFailed
	if f.Type == batch.JobSuccessCriteriaMet {
		end = batch.JobComplete
	}
	if f.Type != batch.JobFailed && find(l.status.Conditions, f.Type) == nil {
		l.status.Conditions = append(l.status.Conditions, *f)
	}
	if !counted {
		return
	}
	c := l.newCondition(end, f.Reason, f.Message)
	l.status.Conditions = append(l.status.Conditions, *c)
	if end == batch.JobFailed {
		l.events = append(l.events, event{core.EventTypeWarning, f.Reason, f.Message})
		return
	}
	l.status.CompletionTime = &c.LastTransitionTime
	if l.job.Spec.Completions != nil && l.status.Succeeded > *l.job.Spec.Completions {
		l.events = append(l.events, event{core.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached"})
	}
	l.events = append(l.events, event{core.EventTypeNormal, "Completed", "Job completed"})
}
