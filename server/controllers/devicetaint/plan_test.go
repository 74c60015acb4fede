package devicetaint

import (
	"fmt"
	"slices"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
)

func TestUntolerated(t *testing.T) {
	at := metav1.NewTime(time.Unix(1000, 0))
	lost := taint{DeviceTaint: resource.DeviceTaint{Key: "a", Value: "1", Effect: resource.DeviceTaintEffectNoExecute, TimeAdded: &at}, rule: "r"}
	exists := resource.DeviceTolerationOpExists
	for _, tc := range []struct {
		name        string
		tolerations []resource.DeviceToleration
		want        string
	}{
		{"none", nil, "[{r 1000}]"},
		{"another key", []resource.DeviceToleration{{Key: "b", Operator: exists}}, "[{r 1000}]"},
		{"another effect", []resource.DeviceToleration{{Key: "a", Operator: exists, Effect: resource.DeviceTaintEffectNoSchedule}}, "[{r 1000}]"},
		{"for good", []resource.DeviceToleration{{Key: "a", Value: "1"}}, "[]"},
		{"every effect", []resource.DeviceToleration{{Operator: exists}}, "[]"},
		{"for a while", []resource.DeviceToleration{{Key: "a", Operator: exists, TolerationSeconds: new(int64(30))}}, "[{r 1030}]"},
		{"the shortest", []resource.DeviceToleration{{Key: "a", Operator: exists, TolerationSeconds: new(int64(30))}, {Key: "a", Value: "1", TolerationSeconds: new(int64(-5))}}, "[{r 1000}]"},
		{"one for good beside one for a while", []resource.DeviceToleration{{Key: "a", Operator: exists, TolerationSeconds: new(int64(30))}, {Key: "a", Operator: exists}}, "[]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := []string{}
			for _, x := range untolerated([]taint{lost}, tc.tolerations) {
				got = append(got, fmt.Sprintf("{%s %d}", x.rule, x.at.Unix()))
			}
			if s := fmt.Sprint(got); s != tc.want {
				t.Errorf("got %s, want %s", s, tc.want)
			}
		})
	}
}

func TestSoonest(t *testing.T) {
	if soonest(nil) != nil {
		t.Error("nothing is a reason to evict")
	}
	e := soonest([]tainted{{"b", time.Unix(5, 0)}, {"", time.Unix(3, 0)}, {"a", time.Unix(9, 0)}, {"b", time.Unix(9, 0)}})
	if e.at.Unix() != 3 || len(e.rules) != 2 || e.rules[0] != "a" || e.rules[1] != "b" {
		t.Errorf("got %+v", e)
	}
}

func TestPlainIDs(t *testing.T) {
	status := []core.ContainerStatus{{AllocatedResourcesStatus: []core.ResourceStatus{
		{Name: "nvidia.com/gpu", Resources: []core.ResourceHealth{{ResourceID: "GPU-3"}}},
		{Name: "claim:x", Resources: []core.ResourceHealth{{ResourceID: "GPU-4"}}}}}}
	for _, tc := range []struct {
		name, annotation string
		want             []string
	}{
		{"what the scheduler chose, shares as their card", `{"c":{"nvidia.com/gpu":["GPU-2","GPU-1"]},"d":{"nvidia.com/gpu.shared":["GPU-1::4"]}}`, []string{"GPU-1", "GPU-2"}},
		{"what the agent took, without claims", "", []string{"GPU-3"}},
		{"nonsense", "{", []string{"GPU-3"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := &core.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{api.AnnotationDevices: tc.annotation}}, Status: core.PodStatus{ContainerStatuses: status}}
			if got := plainIDs(p); !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// A slice of an older generation is about to go: its taints count no more.
func TestViewOfGenerations(t *testing.T) {
	v := newView()
	old := &resource.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "old"}, Spec: resource.ResourceSliceSpec{Driver: "d", Pool: resource.ResourcePool{Name: "p", Generation: 1},
		Devices: []resource.Device{{Name: "x", Taints: []resource.DeviceTaint{{Key: "k", Effect: resource.DeviceTaintEffectNoExecute}}}}}}
	v.slice(nil, old)
	if len(v.taints(device{"d", "p", "x"})) != 1 || !v.evicts() {
		t.Error("the taint is not seen")
	}
	next := old.DeepCopy()
	next.Name, next.Spec.Pool.Generation, next.Spec.Devices[0].Taints = "new", 2, nil
	v.slice(nil, next)
	if got := v.taints(device{"d", "p", "x"}); len(got) != 0 {
		t.Errorf("taints of the old generation: %v", got)
	}
	v.slice(old, nil)
	v.slice(next, nil)
	if v.evicts() || len(v.pools) != 0 {
		t.Errorf("something is left: %+v", v.pools)
	}
}
