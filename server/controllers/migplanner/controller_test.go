package migplanner

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
)

// waiting is a pod that the scheduler found no place for, so many seconds ago.
func waiting(name string, ago int, asks string, n int64, change ...func(*core.Pod)) *core.Pod {
	p := &core.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(time.Unix(1000-int64(ago), 0))}}
	c := core.Container{Name: "main"}
	c.Resources.Limits = core.ResourceList{core.ResourceName(asks): *resource.NewQuantity(n, resource.DecimalSI)}
	c.Resources.Requests = c.Resources.Limits
	p.Spec.Containers = []core.Container{c}
	p.Status.Conditions = []core.PodCondition{{Type: core.PodScheduled, Status: core.ConditionFalse, Reason: core.PodReasonUnschedulable, Message: "0/1 nodes are available: 1 Insufficient " + asks + "."}}
	for _, f := range change {
		f(p)
	}
	return p
}

func gpuNode(name, potential string, told ...string) *core.Node {
	n := &core.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{capable: "true", "kubernetes.io/hostname": name}, Annotations: map[string]string{api.AnnotationMIGPotential: potential}}}
	var list []api.MIGDemand
	for _, pod := range told {
		list = append(list, api.MIGDemand{Namespace: "a", Pod: pod, UID: types.UID(pod)})
	}
	if list != nil {
		b, _ := json.Marshal(list)
		n.Annotations[api.AnnotationMIGDemand] = string(b)
	}
	return n
}

func TestAssign(t *testing.T) {
	const slice, gpu = "nvidia.com/mig-3g.71gb", "nvidia.com/gpu"
	much, little, none := `{"nvidia.com/mig-3g.71gb":4,"nvidia.com/gpu":2}`, `{"nvidia.com/mig-3g.71gb":1,"nvidia.com/gpu":1}`, `{}`
	label := func(n *core.Node, k, v string) *core.Node { n.Labels[k] = v; return n }
	for name, tc := range map[string]struct {
		pods  []*core.Pod
		nodes []*core.Node
		want  string
	}{
		"the least that will do":     {[]*core.Pod{waiting("p", 1, slice, 1)}, []*core.Node{gpuNode("x", much), gpuNode("y", little)}, "x: y: p"},
		"more than the least":        {[]*core.Pod{waiting("p", 1, slice, 2)}, []*core.Node{gpuNode("x", much), gpuNode("y", little)}, "x: p y:"},
		"the oldest first":           {[]*core.Pod{waiting("p", 1, slice, 1), waiting("q", 2, slice, 1)}, []*core.Node{gpuNode("y", little)}, "y: q"},
		"it stays where it was told": {[]*core.Pod{waiting("p", 1, slice, 1)}, []*core.Node{gpuNode("x", much, "p"), gpuNode("y", little)}, "x: p y:"},
		"it goes where it can":       {[]*core.Pod{waiting("p", 1, slice, 1)}, []*core.Node{gpuNode("x", none, "p"), gpuNode("y", little)}, "x: y: p"},
		"none can":                   {[]*core.Pod{waiting("p", 1, slice, 9)}, []*core.Node{gpuNode("x", much)}, "x:"},
		"whole cards":                {[]*core.Pod{waiting("p", 1, gpu, 2)}, []*core.Node{gpuNode("x", much)}, "x: p"},
		"a label wishes a layout":    {[]*core.Pod{waiting("p", 1, slice, 1)}, []*core.Node{label(gpuNode("x", much), wish, "all-balanced")}, ""},
		"no such cards":              {[]*core.Pod{waiting("p", 1, slice, 1)}, []*core.Node{label(gpuNode("x", much), capable, "false")}, ""},
		"nonsense of a node":         {[]*core.Pod{waiting("p", 1, slice, 1)}, []*core.Node{gpuNode("x", `{"nvidia.com/gpu":`)}, "x:"},
		"another node is asked for": {[]*core.Pod{waiting("p", 1, slice, 1, func(p *core.Pod) { p.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": "y"} })},
			[]*core.Node{gpuNode("x", much), gpuNode("y", much)}, "x: y: p"},
		"bound": {[]*core.Pod{waiting("p", 1, slice, 1, func(p *core.Pod) { p.Spec.NodeName = "x" })}, []*core.Node{gpuNode("x", much)}, "x:"},
		"it lacks something else": {[]*core.Pod{waiting("p", 1, slice, 1, func(p *core.Pod) { p.Status.Conditions[0].Message = "0/1 nodes are available: 1 Insufficient cpu." })},
			[]*core.Node{gpuNode("x", much)}, "x:"},
		"tainted": {[]*core.Pod{waiting("p", 1, slice, 1)}, []*core.Node{func() *core.Node {
			n := gpuNode("x", much)
			n.Spec.Taints = []core.Taint{{Key: "k", Effect: core.TaintEffectNoSchedule}}
			return n
		}()}, "x:"},
		"cordoned": {[]*core.Pod{waiting("p", 1, slice, 1)}, []*core.Node{func() *core.Node { n := gpuNode("x", much); n.Spec.Unschedulable = true; return n }()}, "x:"},
	} {
		plan := assign(tc.pods, tc.nodes, true)
		var got []string
		for _, n := range tc.nodes {
			if list, on := plan[n.Name]; on {
				got = append(got, n.Name+":")
				for _, d := range list {
					got = append(got, d.Pod)
				}
			}
		}
		if s := strings.Join(got, " "); s != tc.want {
			t.Errorf("%s: %q, want %q", name, s, tc.want)
		}
	}
	if plan := assign([]*core.Pod{waiting("p", 1, slice, 1)}, []*core.Node{gpuNode("x", much)}, false); len(plan) != 0 {
		t.Errorf("nobody wished it: %v", plan)
	}
	var many []*core.Pod
	for i := range 100 {
		many = append(many, waiting(fmt.Sprintf("p%d", i), i, slice, 1))
	}
	if plan := assign(many, []*core.Node{gpuNode("x", `{"nvidia.com/mig-3g.71gb":1000}`)}, true); len(plan["x"]) != api.MaxMIGDemand {
		t.Errorf("%d pods are told to one node", len(plan["x"]))
	}
}
