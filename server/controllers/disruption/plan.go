package disruption

import (
	"maps"
	"slices"
	"time"

	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"orch/server/controllers/workpod"
)

// deletionTimeout is how long an eviction that was allowed counts as under way
// before its pod is seen being deleted.
const deletionTimeout = 2 * time.Minute

// plan is the status a budget should have, and when it has to be looked at again.
type plan struct {
	status policy.PodDisruptionBudgetStatus
	after  time.Duration
}

// makePlan counts the pods. expected is how many there should be, the sum of
// their controllers' sizes.
func makePlan(b *policy.PodDisruptionBudget, pods []*core.Pod, expected int32, now time.Time) plan {
	var p plan
	p.status.DisruptedPods, p.after = underWay(b.Status.DisruptedPods, pods, now)
	healthy := int32(0)
	for _, pod := range pods {
		_, disrupted := p.status.DisruptedPods[pod.Name]
		if pod.DeletionTimestamp == nil && !disrupted && workpod.Ready(pod) {
			healthy++
		}
	}
	s := &p.status
	s.ObservedGeneration, s.CurrentHealthy = b.Generation, healthy
	s.ExpectedPods, s.DesiredHealthy = needed(b, int32(len(pods)), expected)
	if s.ExpectedPods > 0 {
		s.DisruptionsAllowed = max(healthy-s.DesiredHealthy, 0)
	}
	c := metav1.Condition{Type: policy.DisruptionAllowedCondition, Status: metav1.ConditionTrue, Reason: policy.SufficientPodsReason}
	if s.DisruptionsAllowed == 0 {
		c.Status, c.Reason = metav1.ConditionFalse, policy.InsufficientPodsReason
	}
	s.Conditions = withCondition(b.Status.Conditions, c, b.Generation, now)
	return p
}

// needed resolves minAvailable and maxUnavailable. A number of available pods
// needs no controllers: then the pods that are there are what is expected.
func needed(b *policy.PodDisruptionBudget, there, expected int32) (pods, healthy int32) {
	switch {
	case b.Spec.MaxUnavailable != nil:
		return expected, max(expected-scaled(b.Spec.MaxUnavailable, expected), 0)
	case b.Spec.MinAvailable == nil:
		return there, 0
	case b.Spec.MinAvailable.Type == intstr.Int:
		return there, b.Spec.MinAvailable.IntVal
	}
	return expected, scaled(b.Spec.MinAvailable, expected)
}

// byController tells whether the budget is measured against the controllers' sizes.
func byController(b *policy.PodDisruptionBudget) bool {
	return b.Spec.MaxUnavailable != nil || (b.Spec.MinAvailable != nil && b.Spec.MinAvailable.Type == intstr.String)
}

func scaled(v *intstr.IntOrString, of int32) int32 {
	n, err := intstr.GetScaledValueFromIntOrPercent(v, int(of), true)
	if err != nil {
		return 0 // validation lets nothing else in
	}
	return int32(n)
}

// underWay keeps the evictions whose pods are still to be deleted.
func underWay(was map[string]metav1.Time, pods []*core.Pod, now time.Time) (map[string]metav1.Time, time.Duration) {
	var out map[string]metav1.Time
	var after time.Duration
	for _, p := range pods {
		at, ok := was[p.Name]
		if !ok || p.DeletionTimestamp != nil || now.Sub(at.Time) >= deletionTimeout {
			continue
		}
		if out == nil {
			out = map[string]metav1.Time{}
		}
		out[p.Name] = at
		after = workpod.Soonest(after, deletionTimeout-now.Sub(at.Time))
	}
	return out, after
}

func withCondition(was []metav1.Condition, c metav1.Condition, generation int64, now time.Time) []metav1.Condition {
	out := slices.Clone(was)
	c.ObservedGeneration, c.LastTransitionTime = generation, metav1.NewTime(now.Truncate(time.Second))
	i := slices.IndexFunc(out, func(o metav1.Condition) bool { return o.Type == c.Type })
	if i < 0 {
		return append(out, c)
	}
	if out[i].Status == c.Status {
		c.LastTransitionTime = out[i].LastTransitionTime
	}
	out[i] = c
	return out
}

// sizes adds up each controller once.
type sizes map[types.UID]int32

func (s sizes) total() int32 {
	n := int32(0)
	for v := range maps.Values(s) {
		n += v
	}
	return n
}
