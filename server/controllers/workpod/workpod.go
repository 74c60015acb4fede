// Package workpod is what the workload controllers share about pods: whether a
// pod is active, ready and available, how one is made from a template, in which
// order surplus pods go, and which pods a controller owns. Everything but
// Claim.Apply, Create and Delete is pure.
package workpod

import (
	"cmp"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
)

// Active pods are neither finished nor being deleted.
func Active(p *core.Pod) bool {
	return p.DeletionTimestamp == nil && !Finished(p)
}

// Finished pods will not run again.
func Finished(p *core.Pod) bool {
	return p.Status.Phase == core.PodSucceeded || p.Status.Phase == core.PodFailed
}

// Condition returns the pod's condition of the type, nil if it has none.
func Condition(p *core.Pod, t core.PodConditionType) *core.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// Ready tells whether the pod's Ready condition is true.
func Ready(p *core.Pod) bool {
	c := Condition(p, core.PodReady)
	return c != nil && c.Status == core.ConditionTrue
}

// Available tells whether the pod has been ready for minReady; if only time is
// missing, in says how much.
func Available(p *core.Pod, minReady time.Duration, now time.Time) (ok bool, in time.Duration) {
	c := Condition(p, core.PodReady)
	if c == nil || c.Status != core.ConditionTrue {
		return false, 0
	}
	if minReady == 0 {
		return true, 0
	}
	if c.LastTransitionTime.IsZero() {
		return false, 0
	}
	in = minReady - now.Sub(c.LastTransitionTime.Time)
	return in <= 0, max(in, 0)
}

// Soonest is the smaller of two waits, where 0 means none.
func Soonest(a, b time.Duration) time.Duration {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}

// FromTemplate makes a pod of the template, controlled by owner. The server
// completes generateName.
func FromTemplate(t *core.PodTemplateSpec, f *api.Facts, owner api.Object) *core.Pod {
	t = t.DeepCopy()
	return &core.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       owner.GetNamespace(),
			GenerateName:    owner.GetName() + "-",
			Labels:          t.Labels,
			Annotations:     t.Annotations,
			Finalizers:      t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{OwnerRef(f, owner)},
		},
		Spec: t.Spec,
	}
}

// OwnerRef is the reference of a controller.
func OwnerRef(f *api.Facts, owner api.Object) metav1.OwnerReference {
	return *metav1.NewControllerRef(owner, f.GVK())
}

// restarts is the most that a container of the pod was restarted, with those of
// the sidecars apart.
func restarts(p *core.Pod) (regular, sidecar int32) {
	for _, s := range p.Status.ContainerStatuses {
		regular = max(regular, s.RestartCount)
	}
	always := map[string]bool{}
	for _, c := range p.Spec.InitContainers {
		always[c.Name] = c.RestartPolicy != nil && *c.RestartPolicy == core.ContainerRestartPolicyAlways
	}
	for _, s := range p.Status.InitContainerStatuses {
		if always[s.Name] {
			sidecar = max(sidecar, s.RestartCount)
		}
	}
	return regular, sidecar
}

func compareRestarts(a, b *core.Pod) int {
	ra, sa := restarts(a)
	rb, sb := restarts(b)
	return cmp.Or(cmp.Compare(rb, ra), cmp.Compare(sb, sa))
}
