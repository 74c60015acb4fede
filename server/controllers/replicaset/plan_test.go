package replicaset

import (
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api/reconcile/plantest"
)

type input struct {
	Now  metav1.Time
	Set  apps.ReplicaSet
	Pods []core.Pod
	// Error of acting on the plan, for the condition.
	Error string
}

type failure string

func (f failure) Error() string { return string(f) }

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) any {
		var pods []*core.Pod
		for i := range in.Pods {
			pods = append(pods, &in.Pods[i])
		}
		p := makePlan(&in.Set, pods, func() []*core.Pod { return pods }, in.Now.Time)
		out := map[string]any{"create": p.create}
		var failed error
		if in.Error != "" {
			failed = failure(in.Error)
		}
		noteFailure(&p.status, p, failed, in.Now.Time)
		out["status"] = p.status
		var remove []string
		for _, pod := range p.remove {
			remove = append(remove, pod.Name)
		}
		out["remove"] = remove
		if p.after > 0 {
			out["after"] = p.after.Round(time.Second).String()
		}
		return out
	})
}
