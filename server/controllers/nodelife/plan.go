package nodelife

import (
	"slices"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// grace is how long a node may be silent before nobody believes that it is ready.
const grace = 40 * time.Second

type rule struct {
	condition core.NodeConditionType
	status    core.ConditionStatus
	taint     string
}

// watched says which condition, at which status, puts which taint on a node.
var watched = []rule{
	{core.NodeReady, core.ConditionFalse, core.TaintNodeNotReady},
	{core.NodeReady, core.ConditionUnknown, core.TaintNodeUnreachable},
	{core.NodeMemoryPressure, core.ConditionTrue, core.TaintNodeMemoryPressure},
	{core.NodeDiskPressure, core.ConditionTrue, core.TaintNodeDiskPressure},
	{core.NodePIDPressure, core.ConditionTrue, core.TaintNodePIDPressure},
	{core.NodeNetworkUnavailable, core.ConditionTrue, core.TaintNodeNetworkUnavailable},
}

// expires are the conditions that a silent node cannot vouch for.
var expires = []core.NodeConditionType{core.NodeReady, core.NodeMemoryPressure, core.NodeDiskPressure, core.NodePIDPressure}

// plan is what a node's conditions and taints should be.
type plan struct {
	conditions []core.NodeCondition
	taints     []core.Taint
	// lost is set when the node stops being ready by our word.
	lost bool
	// after is when its silence has to be looked at.
	after time.Duration
}

// makePlan judges a node that was last heard at heard. With allDown no node of the
// cluster is ready: the fault is more likely on this side, so nothing is evicted.
func makePlan(n *core.Node, heard time.Time, allDown bool, now time.Time) plan {
	p := plan{conditions: n.Status.Conditions}
	if silent := now.Sub(heard); silent < grace {
		p.after = grace - silent
	} else {
		p.conditions, p.lost = forgotten(n.Status.Conditions, now)
	}
	p.taints = taints(n, p.conditions, allDown, now)
	return p
}

// forgotten sets the conditions that the node would have to renew to unknown; lost
// tells whether it had been ready until now.
func forgotten(was []core.NodeCondition, now time.Time) (out []core.NodeCondition, lost bool) {
	out = slices.Clone(was)
	at := metav1.NewTime(now.Truncate(time.Second))
	for _, t := range expires {
		i := slices.IndexFunc(out, func(c core.NodeCondition) bool { return c.Type == t })
		if i < 0 {
			out = append(out, core.NodeCondition{Type: t, Status: core.ConditionUnknown, Reason: "NodeStatusNeverUpdated",
				Message: "Kubelet never posted node status.", LastTransitionTime: at})
			continue
		}
		if c := &out[i]; c.Status != core.ConditionUnknown {
			lost = lost || (t == core.NodeReady && c.Status == core.ConditionTrue)
			c.Status, c.Reason, c.Message, c.LastTransitionTime = core.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status.", at
		}
	}
	return out, lost
}

// taints keeps the user's own and sets those that the conditions ask for.
func taints(n *core.Node, conditions []core.NodeCondition, allDown bool, now time.Time) []core.Taint {
	want := map[core.Taint]bool{} // key and effect only
	for _, w := range watched {
		if statusOf(conditions, w.condition) != w.status {
			continue
		}
		want[core.Taint{Key: w.taint, Effect: core.TaintEffectNoSchedule}] = true
		if w.condition == core.NodeReady && !allDown {
			want[core.Taint{Key: w.taint, Effect: core.TaintEffectNoExecute}] = true
		}
	}
	if n.Spec.Unschedulable {
		want[core.Taint{Key: core.TaintNodeUnschedulable, Effect: core.TaintEffectNoSchedule}] = true
	}
	var out []core.Taint
	for _, t := range n.Spec.Taints {
		bare := core.Taint{Key: t.Key, Effect: t.Effect}
		if !ours(t) || want[bare] {
			out = append(out, t)
			delete(want, bare)
		}
	}
	for _, w := range watched {
		for _, effect := range []core.TaintEffect{core.TaintEffectNoSchedule, core.TaintEffectNoExecute} {
			if t := (core.Taint{Key: w.taint, Effect: effect}); want[t] {
				out = append(out, stamped(t, now))
			}
		}
	}
	if t := (core.Taint{Key: core.TaintNodeUnschedulable, Effect: core.TaintEffectNoSchedule}); want[t] {
		out = append(out, stamped(t, now))
	}
	return out
}

func stamped(t core.Taint, now time.Time) core.Taint {
	t.TimeAdded = &metav1.Time{Time: now.Truncate(time.Second)}
	return t
}

// ours are the taints that follow from conditions.
func ours(t core.Taint) bool {
	if t.Effect == core.TaintEffectNoExecute {
		return t.Key == core.TaintNodeNotReady || t.Key == core.TaintNodeUnreachable
	}
	return t.Effect == core.TaintEffectNoSchedule && (t.Key == core.TaintNodeUnschedulable ||
		slices.ContainsFunc(watched, func(r rule) bool { return r.taint == t.Key }))
}

// statusOf a condition; a node without Ready has not said anything yet.
func statusOf(conditions []core.NodeCondition, t core.NodeConditionType) core.ConditionStatus {
	for _, c := range conditions {
		if c.Type == t {
			return c.Status
		}
	}
	return ""
}

// eviction tells when a pod has to leave a node with these taints; ok is false
// if it may stay.
func eviction(p *core.Pod, nodeTaints []core.Taint, now time.Time) (at time.Time, ok bool) {
	for _, t := range nodeTaints {
		if t.Effect != core.TaintEffectNoExecute {
			continue
		}
		due, leaves := leavesAt(p, t, now)
		if leaves && (!ok || due.Before(at)) {
			at, ok = due, true
		}
	}
	return at, ok
}

// leavesAt: at once without a matching toleration, after the shortest of the
// tolerated times with some, never with one without a time.
func leavesAt(p *core.Pod, t core.Taint, now time.Time) (time.Time, bool) {
	since := now
	if t.TimeAdded != nil {
		since = t.TimeAdded.Time
	}
	tolerated, limited := false, false
	shortest := time.Duration(0)
	for i := range p.Spec.Tolerations {
		tol := &p.Spec.Tolerations[i]
		if !tolerates(tol, t) {
			continue
		}
		tolerated = true
		if tol.TolerationSeconds == nil {
			continue
		}
		d := time.Duration(max(*tol.TolerationSeconds, 0)) * time.Second
		if !limited || d < shortest {
			shortest, limited = d, true
		}
	}
	switch {
	case !tolerated:
		return now, true
	case !limited:
		return time.Time{}, false
	}
	return since.Add(shortest), true
}

func tolerates(tol *core.Toleration, t core.Taint) bool {
	if (tol.Effect != "" && tol.Effect != t.Effect) || (tol.Key != "" && tol.Key != t.Key) {
		return false
	}
	switch tol.Operator {
	case core.TolerationOpExists:
		return true
	case "", core.TolerationOpEqual:
		return tol.Key != "" && tol.Value == t.Value
	}
	return false
}
