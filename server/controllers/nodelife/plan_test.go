package nodelife

import (
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api/reconcile/plantest"
)

type input struct {
	Now    metav1.Time
	Silent metav1.Duration
	// AllDown: no other node is ready.
	AllDown bool
	Node    core.Node
	Pods    []core.Pod
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) any {
		p := makePlan(&in.Node, in.Now.Add(-in.Silent.Duration), in.AllDown, in.Now.Time)
		out := map[string]any{"conditions": p.conditions, "taints": p.taints, "lost": p.lost, "after": p.after.String()}
		evictions := map[string]string{}
		for i := range in.Pods {
			evictions[in.Pods[i].Name] = "stays"
			if at, ok := eviction(&in.Pods[i], p.taints, in.Now.Time); ok {
				evictions[in.Pods[i].Name] = "leaves in " + at.Sub(in.Now.Time).Round(time.Second).String()
			}
		}
		if len(evictions) > 0 {
			out["pods"] = evictions
		}
		return out
	})
}
