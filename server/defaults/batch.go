package defaults

import (
	"maps"
	"math"

	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
)

// Job fills a job; its selector and the labels that go with it are made when it
// is created, by the registry.
func Job(o *batch.Job) {
	s := &o.Spec
	jobTemplate(s)
	if s.Completions == nil && s.Parallelism == nil {
		s.Completions = new(int32(1))
	}
	point(&s.Parallelism, 1)
	if s.BackoffLimitPerIndex != nil {
		point(&s.BackoffLimit, math.MaxInt32)
	}
	point(&s.BackoffLimit, 6)
	if len(o.Labels) == 0 {
		o.Labels = maps.Clone(s.Template.Labels)
	}
	point(&s.CompletionMode, batch.NonIndexedCompletion)
	point(&s.Suspend, false)
	if s.PodFailurePolicy != nil {
		point(&s.PodReplacementPolicy, batch.Failed)
	}
	point(&s.PodReplacementPolicy, batch.TerminatingOrFailed)
	point(&s.ManualSelector, false)
}

// CronJob fills a cron job; the jobs that it makes are filled when they are made.
func CronJob(o *batch.CronJob) {
	s := &o.Spec
	jobTemplate(&s.JobTemplate.Spec)
	fill(&s.ConcurrencyPolicy, batch.AllowConcurrent)
	point(&s.Suspend, false)
	point(&s.SuccessfulJobsHistoryLimit, 3)
	point(&s.FailedJobsHistoryLimit, 1)
}

func jobTemplate(s *batch.JobSpec) {
	PodTemplate(&s.Template)
	if s.PodFailurePolicy == nil {
		return
	}
	for i := range s.PodFailurePolicy.Rules {
		conditions := s.PodFailurePolicy.Rules[i].OnPodConditions
		for j := range conditions {
			fill(&conditions[j].Status, core.ConditionTrue)
		}
	}
}
