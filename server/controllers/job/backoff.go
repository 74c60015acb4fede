package job

import (
	"slices"
	"time"

	core "k8s.io/api/core/v1"

	"orch/server/controllers/workpod"
)

const (
	backoffFirst = 10 * time.Second
	backoffMost  = 10 * time.Minute
)

// record is how a job has fared since its last success.
type record struct {
	failures int32
	// last is when the last failure was; zero without one.
	last time.Time
}

// after is the record with pods that have ended since.
func (r record) after(succeeded, failed []*core.Pod) record {
	if len(failed) == 0 && len(succeeded) == 0 {
		return r
	}
	var since time.Time
	if len(succeeded) > 0 {
		r = record{}
		since = latest(succeeded)
	}
	for _, p := range failed {
		if at := endedAt(p); len(succeeded) == 0 || at.After(since) {
			r.failures++
			if at.After(r.last) {
				r.last = at
			}
		}
	}
	return r
}

func latest(pods []*core.Pod) (t time.Time) {
	for _, p := range pods {
		if at := endedAt(p); at.After(t) {
			t = at
		}
	}
	return t
}

// wait is how long to wait before the next pod: ten seconds after the first
// failure, twice as long after each further one, ten minutes at most.
func (r record) wait(now time.Time) time.Duration {
	if r.failures == 0 {
		return 0
	}
	d := backoffFirst
	for i := int32(1); i < r.failures && d < backoffMost; i++ {
		d *= 2
	}
	return max(r.last.Add(min(d, backoffMost)).Sub(now), 0)
}

// endedAt is when a pod ended: when its last container did, else when it ceased to
// be ready, else when its deletion was asked for, else when it was made.
func endedAt(p *core.Pod) time.Time {
	if t := containersEnded(p); !t.IsZero() {
		return t
	}
	if c := workpod.Condition(p, core.PodReady); c != nil && c.Status == core.ConditionFalse && !c.LastTransitionTime.IsZero() {
		return c.LastTransitionTime.Time
	}
	if p.DeletionTimestamp != nil {
		grace := int64(0)
		if p.DeletionGracePeriodSeconds != nil {
			grace = *p.DeletionGracePeriodSeconds
		}
		return p.DeletionTimestamp.Add(-time.Duration(grace) * time.Second)
	}
	return p.CreationTimestamp.Time
}

func containersEnded(p *core.Pod) (t time.Time) {
	var sidecars []string
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == core.ContainerRestartPolicyAlways {
			sidecars = append(sidecars, c.Name)
		}
	}
	all := slices.Clone(p.Status.ContainerStatuses)
	for _, s := range p.Status.InitContainerStatuses {
		if slices.Contains(sidecars, s.Name) {
			all = append(all, s)
		}
	}
	for _, s := range all {
		if s.State.Terminated == nil || s.State.Terminated.FinishedAt.IsZero() {
			return time.Time{}
		}
		if at := s.State.Terminated.FinishedAt.Time; at.After(t) {
			t = at
		}
	}
	return t
}
