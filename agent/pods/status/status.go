// Package status computes what Pod.status says from what the agent knows of a
// pod's containers and sandbox: container states, phase, conditions. It is pure
// and knows nothing of how the status is written (agent/report does that).
// Start reading at Compute.
package status

import (
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/agent/pods/plan"
	"orch/runtime/engine"
)

// Waiting and terminated reasons, as upstream spells them.
const (
	ContainerCreating      = "ContainerCreating"
	PodInitializing        = "PodInitializing"
	ErrImagePull           = "ErrImagePull"
	ImagePullBackOff       = "ImagePullBackOff"
	CreateConfigError      = "CreateContainerConfigError"
	CreateError            = "CreateContainerError"
	RunError               = "RunContainerError"
	PostStartHookError     = "PostStartHookError"
	ContainerStatusUnknown = "ContainerStatusUnknown"
	Completed              = "Completed"
	Error                  = "Error"
	OOMKilled              = "OOMKilled"
)

// Sandbox is what the pod's containers share, as far as it is there.
type Sandbox struct {
	// Ready is true once containers can be started in it.
	Ready bool
	// PodIPs and HostIPs have the primary address first.
	PodIPs, HostIPs []string
}

// Verdict is an end that the agent itself decided on.
type Verdict struct {
	Reason, Message string
	// Rejected is true for a pod that was never taken up.
	Rejected bool
}

// Refusal is why a pod is not resized.
type Refusal struct{ Reason, Message string }

// Input is all that Compute looks at.
type Input struct {
	plan.View
	Sandbox Sandbox
	// Finished is true once nothing of the pod runs and nothing will.
	Finished bool
	// Verdict makes the pod Failed when it has finished.
	Verdict *Verdict
	// Refused is why the pod does not get what its spec says; nil if it does.
	Refused *Refusal
	// Old is the last status; what others own in it is kept.
	Old core.PodStatus
	// Devices are those that the containers hold, with their health, by container.
	Devices map[string][]core.ResourceStatus
	// Shared are conditions that say how devices are shared.
	Shared []core.PodCondition
	// Runtime is the scheme of container IDs: containerd.
	Runtime string
}

// Compute returns the pod's status. Old is not changed.
func Compute(in Input) core.PodStatus {
	s := *in.Old.DeepCopy()
	s.ObservedGeneration = in.Pod.Generation
	if !in.StartTime.IsZero() && s.StartTime == nil {
		s.StartTime = new(stamp(in.StartTime))
	}
	if in.Verdict == nil || !in.Verdict.Rejected {
		s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses = in.containers()
	}
	s.Phase = in.phase()
	if in.Verdict != nil && (in.Finished || s.Phase == core.PodFailed) {
		s.Reason, s.Message = in.Verdict.Reason, in.Verdict.Message
	}
	if s.QOSClass == "" {
		s.QOSClass = QOS(in.Pod)
	}
	in.addresses(&s)
	s.Conditions = in.conditions(&s)
	return s
}

func (in Input) addresses(s *core.PodStatus) {
	if len(in.Sandbox.HostIPs) > 0 {
		s.HostIP, s.HostIPs = in.Sandbox.HostIPs[0], nil
		for _, ip := range in.Sandbox.HostIPs {
			s.HostIPs = append(s.HostIPs, core.HostIP{IP: ip})
		}
	}
	if len(in.Sandbox.PodIPs) > 0 {
		s.PodIP, s.PodIPs = in.Sandbox.PodIPs[0], nil
		for _, ip := range in.Sandbox.PodIPs {
			s.PodIPs = append(s.PodIPs, core.PodIP{IP: ip})
		}
	}
}

func (in Input) containers() (inits, mains, ephemerals []core.ContainerStatus) {
	for _, n := range plan.Specs(in.Pod) {
		c := in.container(n)
		switch n.Role {
		case plan.Init, plan.Sidecar:
			inits = append(inits, c)
		case plan.Main:
			mains = append(mains, c)
		case plan.Ephemeral:
			ephemerals = append(ephemerals, c)
		}
	}
	byName := func(a, b core.ContainerStatus) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(mains, byName)
	slices.SortFunc(ephemerals, byName)
	return inits, mains, ephemerals
}

func (in Input) container(n plan.Named) core.ContainerStatus {
	s := core.ContainerStatus{Name: n.Name, Image: n.Image, Started: new(false)}
	if known, ok := in.known(n); ok {
		return known
	}
	c := in.Containers[n.Name]
	if c == nil {
		c = &plan.Container{}
	}
	last := c.Last
	shown := c.Current
	switch {
	case c.Running():
		s.State.Running = &core.ContainerStateRunning{StartedAt: stamp(c.Current.StartedAt)}
	case c.Ended() && (c.Waiting.Reason == "" || in.Finished):
		s.State.Terminated = in.terminated(c.Current)
	case c.Ended():
		s.State.Waiting = waiting(c.Waiting)
		last = c.Current
	case in.Finished && (last != nil || n.Role == plan.Ephemeral || in.hadTurn()):
		// It never got to run, or its end was not seen.
		s.State.Terminated = in.lost(last)
	case c.Waiting.Reason != "":
		s.State.Waiting = waiting(c.Waiting)
	default:
		s.State.Waiting = &core.ContainerStateWaiting{Reason: in.notYet()}
	}
	if last != nil {
		s.LastTerminationState.Terminated = in.terminated(last)
	}
	if shown == nil || shown.State == engine.Created {
		shown = c.Last
	}
	if shown != nil {
		s.RestartCount = int32(shown.Attempt)
		s.ContainerID, s.ImageID = in.id(shown), shown.ImageRef
		if shown.Image != "" {
			s.Image = shown.Image
		}
	}
	s.Started = new(c.Started(n.Container))
	switch n.Role {
	case plan.Init:
		s.Ready = plan.Passed(c)
	case plan.Sidecar, plan.Main:
		s.Ready = c.Ready(n.Container)
	}
	if c.Running() && n.Role != plan.Ephemeral {
		s.Resources = n.Resources.DeepCopy()
		if r := c.Current.Resources; r != nil {
			s.Resources = r.DeepCopy()
		}
		s.AllocatedResources = s.Resources.Requests.DeepCopy()
	}
	if n.Role == plan.Main { // as upstream's UpdateAllocatedResourcesStatus
		s.AllocatedResourcesStatus = in.Devices[n.Name]
	}
	s.VolumeMounts = mounts(n.Container)
	return s
}

// known gives the old status of a container of a pod that had ended before this
// agent took it up: nothing newer is known, and nothing will be.
func (in Input) known(n plan.Named) (core.ContainerStatus, bool) {
	if in.Containers[n.Name] != nil || !Terminal(in.Old.Phase) {
		return core.ContainerStatus{}, false
	}
	for _, list := range [][]core.ContainerStatus{in.Old.InitContainerStatuses, in.Old.ContainerStatuses, in.Old.EphemeralContainerStatuses} {
		for _, s := range list {
			if s.Name == n.Name {
				return *s.DeepCopy(), true
			}
		}
	}
	return core.ContainerStatus{}, false
}

func waiting(w plan.Waiting) *core.ContainerStateWaiting {
	return &core.ContainerStateWaiting{Reason: w.Reason, Message: w.Message}
}

func (in Input) notYet() string {
	if len(in.Pod.Spec.InitContainers) > 0 {
		return PodInitializing
	}
	return ContainerCreating
}

// hadTurn tells whether the pod's containers had their turn: without that, those that did not run
// wait for ever, and their end is not one that nobody saw.
func (in Input) hadTurn() bool {
	var last *plan.Named
	for _, n := range plan.Specs(in.Pod) {
		c := in.Containers[n.Name]
		switch n.Role {
		case plan.Main:
			if c != nil && (c.Current != nil || c.Last != nil) {
				return true
			}
		case plan.Init, plan.Sidecar:
			last = &n
		}
	}
	if last == nil {
		return true
	}
	c := in.Containers[last.Name]
	return c != nil && (plan.Passed(c) || last.Role == plan.Sidecar && c.Started(last.Container))
}

func (in Input) id(i *plan.Instance) string {
	if i.ID == "" {
		return ""
	}
	return in.Runtime + "://" + i.ID
}

func (in Input) terminated(i *plan.Instance) *core.ContainerStateTerminated {
	return &core.ContainerStateTerminated{
		ExitCode: int32(i.ExitCode), Reason: i.Reason, Message: i.Message,
		StartedAt: stamp(i.StartedAt), FinishedAt: stamp(i.FinishedAt),
		ContainerID: in.id(i),
	}
}

// lost describes a container of a finished pod that has no end of its own.
func (in Input) lost(last *plan.Instance) *core.ContainerStateTerminated {
	if last != nil {
		return in.terminated(last)
	}
	return &core.ContainerStateTerminated{
		ExitCode: 137, Reason: ContainerStatusUnknown,
		Message: "The container could not be located when the pod was terminated",
	}
}

func mounts(c *core.Container) []core.VolumeMountStatus {
	var out []core.VolumeMountStatus
	for _, m := range c.VolumeMounts {
		s := core.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			s.RecursiveReadOnly = new(core.RecursiveReadOnlyDisabled)
			if m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != core.RecursiveReadOnlyDisabled {
				s.RecursiveReadOnly = new(core.RecursiveReadOnlyEnabled)
			}
		}
		out = append(out, s)
	}
	return out
}

// stamp cuts a time to what the wire carries, so that equal statuses stay equal.
func stamp(t time.Time) metav1.Time {
	if t.IsZero() {
		return metav1.Time{}
	}
	return metav1.NewTime(t.Truncate(time.Second))
}
