package job

import (
	"fmt"
	"slices"

	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
)

// verdict is what the pod failure policy makes of a failed pod.
type verdict struct {
	// action of the first rule that matches; empty if none does.
	action batch.PodFailurePolicyAction
	// message says why the job fails, for FailJob.
	message string
}

// counts tells whether the failure counts towards the limits.
func (v verdict) counts() bool { return v.action != batch.PodFailurePolicyActionIgnore }

func judge(policy *batch.PodFailurePolicy, p *core.Pod) verdict {
	if policy == nil {
		return verdict{}
	}
	for i, rule := range policy.Rules {
		var why string
		switch {
		case rule.OnExitCodes != nil:
			c := matchExit(p, rule.OnExitCodes)
			if c == nil {
				continue
			}
			why = fmt.Sprintf("Container %s for pod %s/%s failed with exit code %v matching %v rule at index %d",
				c.Name, p.Namespace, p.Name, c.State.Terminated.ExitCode, rule.Action, i)
		case len(rule.OnPodConditions) > 0:
			c := matchCondition(p, rule.OnPodConditions)
			if c == nil {
				continue
			}
			why = fmt.Sprintf("Pod %s/%s has condition %v matching %v rule at index %d", p.Namespace, p.Name, c.Type, rule.Action, i)
		default:
			continue
		}
		v := verdict{action: rule.Action}
		if v.action == batch.PodFailurePolicyActionFailJob {
			v.message = why
		}
		return v
	}
	return verdict{}
}

func matchExit(p *core.Pod, want *batch.PodFailurePolicyOnExitCodesRequirement) *core.ContainerStatus {
	for _, list := range [][]core.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses} {
		for i := range list {
			t := list[i].State.Terminated
			if t == nil || t.ExitCode == 0 || (want.ContainerName != nil && *want.ContainerName != list[i].Name) {
				continue
			}
			in := slices.Contains(want.Values, t.ExitCode)
			if (want.Operator == batch.PodFailurePolicyOnExitCodesOpIn && in) || (want.Operator == batch.PodFailurePolicyOnExitCodesOpNotIn && !in) {
				return &list[i]
			}
		}
	}
	return nil
}

func matchCondition(p *core.Pod, want []batch.PodFailurePolicyOnPodConditionsPattern) *core.PodCondition {
	for i := range p.Status.Conditions {
		c := &p.Status.Conditions[i]
		if slices.ContainsFunc(want, func(w batch.PodFailurePolicyOnPodConditionsPattern) bool {
			return w.Type == c.Type && w.Status == c.Status
		}) {
			return c
		}
	}
	return nil
}

// succeeds tells whether the indexes that succeeded are enough for the success policy, and by which rule.
func succeeds(policy *batch.SuccessPolicy, completions int, done indexes) (string, bool) {
	if policy == nil || len(done) == 0 {
		return "", false
	}
	for i, rule := range policy.Rules {
		have, need := done.total(), -1
		if rule.SucceededCount != nil {
			need = int(*rule.SucceededCount)
		}
		if rule.SucceededIndexes != nil {
			of := parseIndexes(*rule.SucceededIndexes, completions)
			if len(of) == 0 {
				continue
			}
			have = done.common(of)
			if need < 0 {
				need = of.total()
			}
			need = min(need, of.total())
		}
		if need >= 0 && have >= need {
			return fmt.Sprintf("Matched rules at index %d", i), true
		}
	}
	return "", false
}
