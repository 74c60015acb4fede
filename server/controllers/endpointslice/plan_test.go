package endpointslice

import (
	"fmt"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api/reconcile/plantest"
)

type input struct {
	Service core.Service
	Pods    []core.Pod
	Zones   map[string]string
	Slices  []discovery.EndpointSlice
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) any {
		var pods []*core.Pod
		for i := range in.Pods {
			pods = append(pods, &in.Pods[i])
		}
		var slices []*discovery.EndpointSlice
		for i := range in.Slices {
			slices = append(slices, &in.Slices[i])
		}
		f := frame{meta: metav1.ObjectMeta{GenerateName: in.Service.Name + "-"}}
		p := makePlan(f, desired(&in.Service, pods, func(n string) string { return in.Zones[n] }), slices)
		names := func(list []*discovery.EndpointSlice) (out []string) {
			for _, s := range list {
				out = append(out, s.Name)
			}
			return out
		}
		return map[string]any{"create": p.create, "update": p.update, "remove": names(p.remove)}
	})
}

// pods makes ready pods with addresses.
func pods(from, to int) []*core.Pod {
	var out []*core.Pod
	for i := from; i < to; i++ {
		p := &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i), UID: types.UID(fmt.Sprint("u", i))}}
		p.Spec.NodeName, p.Status.PodIP = "n1", fmt.Sprintf("10.42.%d.%d", i/250, i%250)
		p.Status.Conditions = []core.PodCondition{{Type: core.PodReady, Status: core.ConditionTrue}}
		out = append(out, p)
	}
	return out
}

func TestChangesTouchFewSlices(t *testing.T) {
	s := &core.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: core.ServiceSpec{Ports: []core.ServicePort{{Port: 80}}}}
	none := func(string) string { return "" }
	first := makePlan(frame{}, desired(s, pods(0, 250), none), nil)
	if len(first.create) != 3 || len(first.create[0].Endpoints) != 100 || len(first.create[2].Endpoints) != 50 {
		t.Fatalf("250 endpoints made %d slices", len(first.create))
	}
	for i, slice := range first.create {
		slice.Name = fmt.Sprint("s", i)
	}
	cases := []struct {
		name                   string
		pods                   []*core.Pod
		create, update, remove int
	}{
		{"nothing changed", pods(0, 250), 0, 0, 0},
		{"one more goes where there is room", pods(0, 251), 0, 1, 0},
		{"one less", pods(1, 250), 0, 1, 0},
		{"one less and one more share a write", pods(1, 251), 0, 1, 0},
		{"more than fit", pods(0, 301), 1, 1, 0},
		{"a slice that empties goes", pods(0, 200), 0, 0, 1},
		{"all gone leaves an empty one", nil, 1, 0, 3},
	}
	for _, c := range cases {
		p := makePlan(frame{}, desired(s, c.pods, none), first.create)
		if len(p.create) != c.create || len(p.update) != c.update || len(p.remove) != c.remove {
			t.Errorf("%s: %d created, %d updated, %d removed; want %d, %d, %d", c.name, len(p.create), len(p.update), len(p.remove), c.create, c.update, c.remove)
		}
	}
}

func TestWhatIsWrittenSaysSince(t *testing.T) {
	p := plan{create: []*discovery.EndpointSlice{{}}, update: []*discovery.EndpointSlice{{}}}
	p.stamp(time.Unix(0, 0))
	for _, s := range append(p.create, p.update...) {
		if got := s.Annotations[core.EndpointsLastChangeTriggerTime]; got != "1970-01-01T00:00:00Z" {
			t.Errorf("annotation %q", got)
		}
	}
}
