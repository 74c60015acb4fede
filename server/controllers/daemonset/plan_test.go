package daemonset

import (
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api/reconcile/plantest"
)

type input struct {
	Now   metav1.Time
	Set   apps.DaemonSet
	Nodes []core.Node
	Pods  []core.Pod
	Hash  string
	// Waits are the seconds that failed pods on nodes have to wait.
	Waits map[string]int
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) any {
		o := observed{set: &in.Set, hash: in.Hash, now: in.Now.Time, wait: func(n string) time.Duration { return time.Duration(in.Waits[n]) * time.Second }}
		for i := range in.Nodes {
			o.nodes = append(o.nodes, &in.Nodes[i])
		}
		for i := range in.Pods {
			o.pods = append(o.pods, &in.Pods[i])
		}
		p := makePlan(o)
		names := func(pods []*core.Pod) (out []string) {
			for _, p := range pods {
				out = append(out, p.Name)
			}
			return out
		}
		out := map[string]any{"create": p.create, "remove": names(p.remove), "failed": names(p.failed), "succeeded": names(p.succeeded), "status": p.status}
		if p.after > 0 {
			out["after"] = p.after.String()
		}
		return out
	})
}

func TestBackoffDoublesAndEnds(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b := newBackoff(func() time.Time { return now })
	d := &apps.DaemonSet{ObjectMeta: metav1.ObjectMeta{UID: "u"}}
	for _, want := range []time.Duration{0, 1, 2, 4, 8} {
		if got := b.wait(d, "n"); got != want*time.Second {
			t.Errorf("wait = %v, want %vs", got, int(want))
		}
		now = now.Add(b.wait(d, "n"))
		b.next(d, "n")
	}
	now = now.Add(time.Hour)
	b.next(d, "n")
	if got := b.wait(d, "n"); got != backoffFirst {
		t.Errorf("after an hour wait = %v", got)
	}
	d.Status.ObservedGeneration = 2
	if got := b.wait(d, "n"); got != 0 {
		t.Errorf("a changed set waits %v", got)
	}
}

func TestTolerationsOfDaemons(t *testing.T) {
	own := core.Toleration{Key: core.TaintNodeNotReady, Operator: core.TolerationOpExists, Effect: core.TaintEffectNoExecute, TolerationSeconds: new(int64)}
	got := tolerations(&core.PodSpec{HostNetwork: true, Tolerations: []core.Toleration{own}})
	if len(got) != 7 || got[0].TolerationSeconds != nil {
		t.Errorf("tolerations = %+v", got)
	}
}
