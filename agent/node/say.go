package node

import (
	"fmt"

	core "k8s.io/api/core/v1"
)

// pressures are the conditions whose first state is worth an event too; Ready is one
// only when it changes, as upstream's agent has it.
var pressures = []struct {
	kind    core.NodeConditionType
	yes, no string
}{
	{core.NodeMemoryPressure, "NodeHasInsufficientMemory", "NodeHasSufficientMemory"},
	{core.NodeDiskPressure, "NodeHasDiskPressure", "NodeHasNoDiskPressure"},
	{core.NodePIDPressure, "NodeHasInsufficientPID", "NodeHasSufficientPID"},
}

// happened is what to say of a node that was seen before as was (nil: not at all):
// the reasons of events, in upstream's words.
func happened(was, is *core.Node) []string {
	if was == nil {
		was = &core.Node{}
	}
	var reasons []string
	add := func(yes bool, ifYes, ifNo string) {
		if yes {
			reasons = append(reasons, ifYes)
		} else {
			reasons = append(reasons, ifNo)
		}
	}
	for _, p := range pressures {
		if now := conditionStatus(is, p.kind); now != "" && now != conditionStatus(was, p.kind) {
			add(now == core.ConditionTrue, p.yes, p.no)
		}
	}
	before, now := conditionStatus(was, core.NodeReady), conditionStatus(is, core.NodeReady)
	if before != "" && now != "" && before != now {
		add(now == core.ConditionTrue, "NodeReady", "NodeNotReady")
	}
	if was.Spec.Unschedulable != is.Spec.Unschedulable {
		add(is.Spec.Unschedulable, "NodeNotSchedulable", "NodeSchedulable")
	}
	return reasons
}

func conditionStatus(n *core.Node, kind core.NodeConditionType) core.ConditionStatus {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == kind {
			return n.Status.Conditions[i].Status
		}
	}
	return ""
}

// say tells what happened to the node since the last call.
func (n *Node) say(is *core.Node) {
	was := n.said
	n.said = is
	if n.deps.Say == nil {
		return
	}
	for _, reason := range happened(was, is) {
		n.deps.Say(reason, fmt.Sprintf("Node %s status is now: %s", n.config.Name, reason))
	}
}
