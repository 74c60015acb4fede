package status

import (
	"testing"

	core "k8s.io/api/core/v1"

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
