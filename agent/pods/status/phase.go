package status

import (
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"orch/agent/pods/plan"
)

// Terminal tells whether a pod in that phase has ended.
func Terminal(p core.PodPhase) bool { return p == core.PodSucceeded || p == core.PodFailed }

// tally counts the main containers by what they do.
type tally struct{ running, waiting, stopped, succeeded int }

// phase follows upstream's getPhase; a phase that ended the pod is never left.
func (in Input) phase() core.PodPhase {
	if Terminal(in.Old.Phase) {
		return in.Old.Phase
	}
	if in.Finished && in.Verdict != nil {
		return core.PodFailed
	}
	t := in.tally()
	if in.Finished {
		return in.finalPhase(t)
	}
	if !plan.Initialized(in.View) && t.running == 0 && t.stopped == 0 {
		return core.PodPending
	}
	switch {
	case t.waiting > 0:
		return core.PodPending
	default:
		return core.PodRunning
	}
}

// finalPhase is for pods of which nothing runs any more, by themselves or because
// they were told to end: then containers that would have been restarted count too.
func (in Input) finalPhase(t tally) core.PodPhase {
	for _, n := range plan.Specs(in.Pod) {
		if c := in.Containers[n.Name]; n.Role == plan.Init && c.Ended() && c.Current.ExitCode != 0 && t.stopped == 0 {
			return core.PodFailed
		}
	}
	if t.stopped == len(in.Pod.Spec.Containers) && t.succeeded == t.stopped {
		return core.PodSucceeded
	}
	return core.PodFailed
}

func (in Input) tally() tally {
	var t tally
	for _, n := range plan.Specs(in.Pod) {
		if n.Role != plan.Main {
			continue
		}
		c := in.Containers[n.Name]
		switch {
		case c.Running():
			t.running++
		case c.Ended():
			t.stopped++
			if c.Current.ExitCode == 0 {
				t.succeeded++
			}
		case c != nil && c.Last != nil:
			t.stopped++ // between two attempts
		default:
			t.waiting++
		}
	}
	return t
}

// QOS is the pod's quality-of-service class, as upstream's ComputePodQOS.
func QOS(pod *core.Pod) core.PodQOSClass {
	any, guaranteed := false, true
	for _, n := range plan.Specs(pod) {
		if n.Role == plan.Ephemeral {
			continue
		}
		for _, r := range []core.ResourceName{core.ResourceCPU, core.ResourceMemory} {
			request, limit := n.Resources.Requests[r], n.Resources.Limits[r]
			any = any || !request.IsZero() || !limit.IsZero()
			guaranteed = guaranteed && isGuaranteed(request, limit)
		}
	}
	switch {
	case !any:
		return core.PodQOSBestEffort
	case guaranteed:
		return core.PodQOSGuaranteed
	}
	return core.PodQOSBurstable
}

func isGuaranteed(request, limit resource.Quantity) bool {
	return !limit.IsZero() && (request.IsZero() || request.Cmp(limit) == 0)
}
