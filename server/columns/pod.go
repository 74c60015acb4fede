package columns

import (
	"fmt"
	"strconv"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Pod shows readiness, a one-word status and restarts.
func Pod() []Column[core.Pod] {
	status, spec := core.PodStatus{}.SwaggerDoc(), core.PodSpec{}.SwaggerDoc()
	return list(
		name[core.Pod](),
		text("Ready", "The aggregate readiness state of this pod for accepting traffic.", func(o *core.Pod) string {
			s := summarize(o)
			return fmt.Sprintf("%d/%d", s.ready, s.total)
		}),
		text("Status", "The aggregate status of the containers in this pod.", func(o *core.Pod) string { return summarize(o).reason }),
		timed("Restarts", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
			func(o *core.Pod, now time.Time) string {
				s := summarize(o)
				if s.restarts.count != 0 && !s.restarts.last.IsZero() {
					return fmt.Sprintf("%d (%s ago)", s.restarts.count, since(s.restarts.last.Time, now))
				}
				return strconv.Itoa(s.restarts.count)
			}),
		age[core.Pod](),
		wide(text("IP", status["podIP"], func(o *core.Pod) string {
			if len(o.Status.PodIPs) > 0 {
				return o.Status.PodIPs[0].IP
			}
			return or(o.Status.PodIP, none)
		})),
		wide(text("Node", spec["nodeName"], func(o *core.Pod) string { return or(o.Spec.NodeName, none) })),
		wide(text("Nominated Node", status["nominatedNodeName"], func(o *core.Pod) string { return or(o.Status.NominatedNodeName, none) })),
		wide(text("Readiness Gates", spec["readinessGates"], readinessGates)),
	)
}

func readinessGates(o *core.Pod) string {
	if len(o.Spec.ReadinessGates) == 0 {
		return none
	}
	open := 0
	for _, gate := range o.Spec.ReadinessGates {
		if podCondition(o, gate.ConditionType) {
			open++
		}
	}
	return fmt.Sprintf("%d/%d", open, len(o.Spec.ReadinessGates))
}

func podCondition(o *core.Pod, kind core.PodConditionType) bool {
	for _, c := range o.Status.Conditions {
		if c.Type == kind {
			return c.Status == core.ConditionTrue
		}
	}
	return false
}

// restarts counts them and keeps when the last one was due.
type restarts struct {
	count int
	last  metav1.Time
}

func (r *restarts) add(s *core.ContainerStatus) {
	r.count += int(s.RestartCount)
	if t := s.LastTerminationState.Terminated; t != nil && r.last.Before(&t.FinishedAt) {
		r.last = t.FinishedAt
	}
}

type podSummary struct {
	ready, total int
	reason       string
	restarts     restarts
}

// summarize folds the containers' states into one line, as upstream's printPod:
// the first init container that has not ended well decides; else the last
// container (from the back) that is not simply running.
func summarize(o *core.Pod) podSummary {
	s := podSummary{total: len(o.Spec.Containers), reason: or(o.Status.Reason, string(o.Status.Phase))}
	for _, c := range o.Status.Conditions {
		if c.Type == core.PodScheduled && c.Reason == core.PodReasonSchedulingGated {
			s.reason = core.PodReasonSchedulingGated
		}
	}
	sidecars := map[string]bool{}
	for i := range o.Spec.InitContainers {
		if c := &o.Spec.InitContainers[i]; value(c.RestartPolicy) == core.ContainerRestartPolicyAlways {
			sidecars[c.Name] = true
			s.total++
		}
	}
	if !s.initializing(o, sidecars) || podCondition(o, core.PodInitialized) {
		s.running(o, sidecars)
	}
	switch {
	case o.DeletionTimestamp == nil:
	case o.Status.Reason == "NodeLost":
		s.reason = "Unknown"
	case o.Status.Phase != core.PodSucceeded && o.Status.Phase != core.PodFailed:
		s.reason = "Terminating"
	}
	return s
}

func (s *podSummary) initializing(o *core.Pod, sidecars map[string]bool) bool {
	for i := range o.Status.InitContainerStatuses {
		c := &o.Status.InitContainerStatuses[i]
		s.restarts.add(c)
		ended, waiting := c.State.Terminated, c.State.Waiting
		switch {
		case ended != nil && ended.ExitCode == 0:
			continue
		case sidecars[c.Name] && value(c.Started):
			if c.Ready {
				s.ready++
			}
			continue
		case ended != nil:
			s.reason = "Init:" + endReason(ended)
		case waiting != nil && waiting.Reason != "" && waiting.Reason != "PodInitializing":
			s.reason = "Init:" + waiting.Reason
		default:
			s.reason = fmt.Sprintf("Init:%d/%d", i, len(o.Spec.InitContainers))
		}
		return true
	}
	return false
}

func (s *podSummary) running(o *core.Pod, sidecars map[string]bool) {
	s.restarts = restarts{}
	for i := range o.Status.InitContainerStatuses {
		if c := &o.Status.InitContainerStatuses[i]; sidecars[c.Name] {
			s.restarts.add(c)
		}
	}
	alive := false
	for i := len(o.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := &o.Status.ContainerStatuses[i]
		s.restarts.add(c)
		switch ended, waiting := c.State.Terminated, c.State.Waiting; {
		case waiting != nil && waiting.Reason != "":
			s.reason = waiting.Reason
		case ended != nil:
			s.reason = endReason(ended)
		case c.Ready && c.State.Running != nil:
			alive = true
			s.ready++
		}
	}
	if s.reason == "Completed" && alive {
		s.reason = "NotReady"
		if podCondition(o, core.PodReady) {
			s.reason = "Running"
		}
	}
}

func endReason(t *core.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", t.ExitCode)
}
