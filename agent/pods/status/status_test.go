package status

import (
	"testing"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"orch/agent/pods/plan"
	"orch/runtime/engine"
)

// TestContainersBehindAFailedInitContainerWait: what never had its turn is not lost.
func TestContainersBehindAFailedInitContainerWait(t *testing.T) {
	pod := &core.Pod{Spec: core.PodSpec{RestartPolicy: core.RestartPolicyNever,
		InitContainers: []core.Container{{Name: "one"}, {Name: "two"}, {Name: "three"}}, Containers: []core.Container{{Name: "main"}}}}
	ended := func(code int) *plan.Container {
		return &plan.Container{Current: &plan.Instance{ID: "x", State: engine.Exited, ExitCode: code}}
	}
	in := Input{View: plan.View{Pod: pod, Containers: map[string]*plan.Container{"one": ended(0), "two": ended(1)}}, Finished: true}
	s := Compute(in)
	if w := s.ContainerStatuses[0].State.Waiting; s.Phase != core.PodFailed || w == nil || w.Reason != PodInitializing {
		t.Errorf("phase %s, main %+v", s.Phase, s.ContainerStatuses[0].State)
	}
	if s.InitContainerStatuses[2].State.Waiting == nil || s.InitContainerStatuses[1].State.Terminated == nil {
		t.Errorf("init containers %+v", s.InitContainerStatuses)
	}
	in.Containers["two"], in.Containers["three"] = ended(0), ended(0)
	if s = Compute(in); s.ContainerStatuses[0].State.Terminated == nil || s.ContainerStatuses[0].State.Terminated.Reason != ContainerStatusUnknown {
		t.Errorf("a container whose end nobody saw: %+v", s.ContainerStatuses[0].State)
	}
}

func TestResizeIsSaidWhileItLasts(t *testing.T) {
	amount := func(s string) core.ResourceRequirements {
		return core.ResourceRequirements{Requests: core.ResourceList{core.ResourceCPU: resource.MustParse(s)}}
	}
	pod := &core.Pod{Spec: core.PodSpec{Containers: []core.Container{{Name: "main", Resources: amount("2")}}}}
	c := &plan.Container{Current: &plan.Instance{ID: "x", State: engine.Running, Hooked: true, Resources: new(amount("1"))}}
	in := Input{View: plan.View{Pod: pod, Containers: map[string]*plan.Container{"main": c}}}
	s := Compute(in)
	if find(s.Conditions, core.PodResizeInProgress) == nil || s.ContainerStatuses[0].Resources.Requests.Cpu().String() != "1" {
		t.Errorf("under way: %+v", s)
	}
	in.Old, in.Refused = s, &Refusal{Reason: core.PodReasonDeferred, Message: "no room"}
	s = Compute(in)
	if p := find(s.Conditions, core.PodResizePending); p == nil || p.Reason != core.PodReasonDeferred || find(s.Conditions, core.PodResizeInProgress) != nil {
		t.Errorf("deferred: %+v", s.Conditions)
	}
	in.Old, in.Refused, c.Current.Resources = s, nil, new(amount("2"))
	s = Compute(in)
	if find(s.Conditions, core.PodResizePending) != nil || s.ContainerStatuses[0].AllocatedResources.Cpu().String() != "2" {
		t.Errorf("done: %+v", s)
	}
}
