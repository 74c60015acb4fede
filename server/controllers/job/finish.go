package job

import (
	"time"

	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/server/controllers/workpod"
)

func (l *look) newCondition(t batch.JobConditionType, reason, message string) *batch.JobCondition {
	now := metav1.NewTime(l.now)
	return &batch.JobCondition{Type: t, Status: core.ConditionTrue, LastProbeTime: now, LastTransitionTime: now, Reason: reason, Message: message}
}

func (l *look) fail(reason, message string) {
	l.finish = l.newCondition(batch.JobFailureTarget, reason, message)
}

// find returns the condition of the type, if it is true.
func find(list []batch.JobCondition, t batch.JobConditionType) *batch.JobCondition {
	for i := range list {
		if list[i].Type == t && list[i].Status == core.ConditionTrue {
			return &list[i]
		}
	}
	return nil
}

// finished tells whether a job is over, and since when.
func finished(j *batch.Job) bool {
	return find(j.Status.Conditions, batch.JobComplete) != nil || find(j.Status.Conditions, batch.JobFailed) != nil
}

// judgeEarly finds out whether the job is over by what an earlier look has found, by
// its failure policy, its limit of failures, or its time, in this order.
func (l *look) judgeEarly() {
	j := l.job
	if met := find(j.Status.Conditions, batch.JobSuccessCriteriaMet); met != nil {
		l.finish = met
		return
	}
	if target := find(j.Status.Conditions, batch.JobFailureTarget); target != nil {
		l.finish = l.newCondition(batch.JobFailed, target.Reason, target.Message)
		return
	}
	for _, p := range l.pods {
		if hasFailed(j, p) {
			if v := judge(j.Spec.PodFailurePolicy, p); v.message != "" {
				l.fail(batch.JobReasonPodFailurePolicy, v.message)
				return
			}
		}
	}
	if limit := j.Spec.BackoffLimit; limit != nil && (l.failed > *limit || l.restartedTooOften(*limit)) {
		l.fail(batch.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
		return
	}
	if d := j.Spec.ActiveDeadlineSeconds; d != nil && l.status.StartTime != nil && !suspended(j) {
		left := l.status.StartTime.Add(time.Duration(*d) * time.Second).Sub(l.now)
		if left <= 0 {
			l.fail(batch.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
			return
		}
		l.after = workpod.Soonest(l.after, left)
	}
}

// restartedTooOften counts restarts of containers, where those replace new pods.
func (l *look) restartedTooOften(limit int32) bool {
	if l.job.Spec.Template.Spec.RestartPolicy != core.RestartPolicyOnFailure {
		return false
	}
	n := int32(0)
	for _, p := range l.pods {
		if p.Status.Phase != core.PodRunning && p.Status.Phase != core.PodPending {
			continue
		}
		for _, s := range p.Status.InitContainerStatuses {
			n += s.RestartCount
		}
		for _, s := range p.Status.ContainerStatuses {
			n += s.RestartCount
		}
	}
	return n >= max(limit, 1)
}

// judgeIndexes finds the indexes that are done and those that are lost, and whether
// the job is over by them.
func (l *look) judgeIndexes() {
	j := l.job
	l.was = parseIndexes(j.Status.CompletedIndexes, completions(j))
	l.done = l.was
	for _, p := range l.pods {
		if i := indexOf(j, p); i >= 0 && tracked(p) && p.Status.Phase == core.PodSucceeded {
			l.done = l.done.with(i)
		}
	}
	l.succeeded = int32(l.done.total())
	if j.Spec.BackoffLimitPerIndex != nil {
		l.judgeLost()
	}
	if l.finish != nil {
		return
	}
	if message, ok := succeeds(j.Spec.SuccessPolicy, completions(j), l.done); ok {
		l.finish = l.newCondition(batch.JobSuccessCriteriaMet, batch.JobReasonSuccessPolicy, message)
	}
}

func (l *look) judgeLost() {
	j := l.job
	if j.Status.FailedIndexes != nil {
		l.lost = parseIndexes(*j.Status.FailedIndexes, completions(j))
	}
	for _, p := range l.pods {
		if i := indexOf(j, p); i >= 0 && tracked(p) && l.losesIndex(p) {
			l.lost = l.lost.with(i)
		}
	}
	if l.finish == nil {
		lost := l.lost.total()
		switch {
		case j.Spec.MaxFailedIndexes != nil && lost > int(*j.Spec.MaxFailedIndexes):
			l.fail(batch.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
		case lost > 0 && lost+l.done.total() >= completions(j):
			l.fail(batch.JobReasonFailedIndexes, "Job has failed indexes")
		}
	}
	l.held = map[int]*core.Pod{}
	busy := indexes(nil).with(indexesOf(j, l.active)...)
	for _, p := range l.pods {
		i := indexOf(j, p)
		if i < 0 || !tracked(p) || !hasFailed(j, p) || l.done.has(i) || l.lost.has(i) || busy.has(i) {
			continue
		}
		if was := l.held[i]; was == nil || (tries(p) >= tries(was) && !endedAt(p).Before(endedAt(was))) {
			l.held[i] = p
		}
	}
}

func tries(p *core.Pod) int32 {
	counted, ignored := indexFailures(p)
	return counted + ignored
}

// losesIndex tells whether a pod's failure was the last that its index may have.
func (l *look) losesIndex(p *core.Pod) bool {
	if !hasFailed(l.job, p) {
		return false
	}
	v := judge(l.job.Spec.PodFailurePolicy, p)
	if v.action == batch.PodFailurePolicyActionFailIndex {
		return true
	}
	counted, _ := indexFailures(p)
	return v.counts() && counted >= *l.job.Spec.BackoffLimitPerIndex
}
