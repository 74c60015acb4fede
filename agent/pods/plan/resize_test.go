package plan

import (
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"orch/runtime/engine"
)

func cpu(s string) core.ResourceRequirements {
	return core.ResourceRequirements{Requests: core.ResourceList{core.ResourceCPU: resource.MustParse(s)}}
}

func TestLimitsFollowTheSpec(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	restart := []core.ContainerResizePolicy{{ResourceName: core.ResourceCPU, RestartPolicy: core.RestartContainer}}
	for name, c := range map[string]struct {
		was    *core.ResourceRequirements
		policy []core.ContainerResizePolicy
		unfit  bool
		before time.Time
		want   Verb // empty: nothing
	}{
		"unchanged":           {was: new(cpu("2"))},
		"same amount":         {was: new(cpu("2000m"))},
		"changed":             {was: new(cpu("1")), want: Resize},
		"by restart":          {was: new(cpu("1")), policy: restart, want: Kill},
		"no room":             {was: new(cpu("1")), unfit: true},
		"failed a moment ago": {was: new(cpu("1")), before: now.Add(time.Second), want: Wait},
		"not known":           {},
	} {
		pod := &core.Pod{Spec: core.PodSpec{Containers: []core.Container{{Name: "c", Resources: cpu("2"), ResizePolicy: c.policy}}}}
		v := View{Pod: pod, Now: now, Unfit: c.unfit, Containers: map[string]*Container{"c": {NotBefore: c.before,
			Current: &Instance{ID: "x", State: engine.Running, Hooked: true, Resources: c.was}}}}
		acts := Plan(v)
		if got := len(acts); (c.want == "") != (got == 0) || (got > 0 && acts[0].Verb != c.want) {
			t.Errorf("%s: %+v, want %q", name, acts, c.want)
		}
		if len(acts) > 0 && acts[0].Verb == Kill && !acts[0].Restart {
			t.Errorf("%s: %+v does not start again", name, acts[0])
		}
	}
}
