package status

import (
	"fmt"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"

	"orch/agent/pods/plan"
	"orch/api"
)

// Condition reasons, as upstream spells them.
const (
	podCompleted  = "PodCompleted"
	podFailed     = "PodFailed"
	notInit       = "ContainersNotInitialized"
	notReady      = "ContainersNotReady"
	gatesNotReady = "ReadinessGatesNotReady"
)

// conditions sets the agent's own conditions and keeps all others. A condition
// keeps its transition time while its status stays.
func (in Input) conditions(s *core.PodStatus) []core.PodCondition {
	ready := in.containersReady(s)
	own := []core.PodCondition{
		{Type: core.PodReadyToStartContainers, Status: truth(in.Sandbox.Ready && !in.Finished)},
		in.initialized(s),
		in.podReady(ready),
		ready,
		{Type: core.PodScheduled, Status: core.ConditionTrue},
	}
	own = append(append(own, in.resize()...), in.Shared...)
	var out []core.PodCondition
	for _, c := range own {
		c.ObservedGeneration = in.Pod.Generation
		c.LastTransitionTime = stamp(in.Now)
		if old := find(in.Old.Conditions, c.Type); old != nil && old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		out = append(out, c)
	}
	for _, c := range in.Old.Conditions {
		if !Passing(c.Type) && !slices.ContainsFunc(own, func(o core.PodCondition) bool { return o.Type == c.Type }) {
			out = append(out, c)
		}
	}
	return out
}

func find(all []core.PodCondition, t core.PodConditionType) *core.PodCondition {
	i := slices.IndexFunc(all, func(c core.PodCondition) bool { return c.Type == t })
	if i < 0 {
		return nil
	}
	return &all[i]
}

func truth(b bool) core.ConditionStatus {
	if b {
		return core.ConditionTrue
	}
	return core.ConditionFalse
}

func (in Input) initialized(s *core.PodStatus) core.PodCondition {
	c := core.PodCondition{Type: core.PodInitialized, Status: core.ConditionTrue}
	if s.Phase == core.PodSucceeded {
		c.Reason = podCompleted
		return c
	}
	if plan.Initialized(in.View) {
		return c
	}
	var missing []string
	for _, n := range plan.Specs(in.Pod) {
		k := in.Containers[n.Name]
		if n.Role == plan.Init && !plan.Passed(k) || n.Role == plan.Sidecar && !k.Started(n.Container) {
			missing = append(missing, n.Name)
		}
	}
	c.Status, c.Reason = core.ConditionFalse, notInit
	c.Message = fmt.Sprintf("containers with incomplete status: [%s]", strings.Join(missing, " "))
	return c
}

func (in Input) containersReady(s *core.PodStatus) core.PodCondition {
	c := core.PodCondition{Type: core.ContainersReady, Status: core.ConditionFalse}
	switch s.Phase {
	case core.PodSucceeded:
		c.Reason = podCompleted
		return c
	case core.PodFailed:
		c.Reason = podFailed
		return c
	}
	var missing []string
	for _, n := range plan.Specs(in.Pod) {
		if (n.Role == plan.Main || n.Role == plan.Sidecar) && !in.Containers[n.Name].Ready(n.Container) {
			missing = append(missing, n.Name)
		}
	}
	if len(missing) > 0 {
		c.Reason = notReady
		c.Message = fmt.Sprintf("containers with unready status: [%s]", strings.Join(missing, " "))
		return c
	}
	c.Status = core.ConditionTrue
	return c
}

func (in Input) podReady(containers core.PodCondition) core.PodCondition {
	c := containers
	c.Type = core.PodReady
	if containers.Status != core.ConditionTrue {
		return c
	}
	var problems []string
	for _, g := range in.Pod.Spec.ReadinessGates {
		switch have := find(in.Old.Conditions, g.ConditionType); {
		case have == nil:
			problems = append(problems, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", g.ConditionType))
		case have.Status != core.ConditionTrue:
			problems = append(problems, fmt.Sprintf("the status of pod readiness gate %q is not %q, but %v", g.ConditionType, "True", have.Status))
		}
	}
	if len(problems) > 0 {
		c.Status, c.Reason, c.Message = core.ConditionFalse, gatesNotReady, strings.Join(problems, ", ")
	}
	return c
}

// resize says that limits are to change, and why they do not; nothing where they are right.
func (in Input) resize() []core.PodCondition {
	switch {
	case in.Finished || !in.Resizing():
		return nil
	case in.Refused != nil:
		return []core.PodCondition{{Type: core.PodResizePending, Status: core.ConditionTrue, Reason: in.Refused.Reason, Message: in.Refused.Message}}
	}
	return []core.PodCondition{{Type: core.PodResizeInProgress, Status: core.ConditionTrue}}
}

// Passing conditions are the agent's and are there only while they hold.
func Passing(t core.PodConditionType) bool {
	return t == core.PodResizePending || t == core.PodResizeInProgress
}

// Owned tells whether the agent decides on that condition.
func Owned(t core.PodConditionType) bool {
	switch t {
	case core.PodReadyToStartContainers, core.PodInitialized, core.PodReady, core.ContainersReady, core.PodScheduled, core.PodResizePending, core.PodResizeInProgress, api.ConditionGPUShare:
		return true
	}
	return false
}
