package gputaint

import (
	"testing"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestPlan(t *testing.T) {
	ours := core.Taint{Key: "nvidia.com/gpu", Value: "present", Effect: core.TaintEffectNoSchedule}
	theirs := core.Taint{Key: "nvidia.com/gpu", Value: "team-a", Effect: core.TaintEffectNoSchedule}
	other := core.Taint{Key: "example.com/x", Effect: core.TaintEffectNoSchedule}
	evicts := core.Taint{Key: "nvidia.com/gpu", Value: "present", Effect: core.TaintEffectNoExecute}
	cards := func(n *core.Node) {
		n.Status.Capacity = core.ResourceList{"nvidia.com/mig-1g.10gb": resource.MustParse("7")}
	}
	gone := func(n *core.Node) { n.Status.Capacity = core.ResourceList{"nvidia.com/gpu": resource.MustParse("0")} }
	broken := func(n *core.Node) { n.Labels = map[string]string{"nvidia.com/gpu.present": "true"} }
	for name, tc := range map[string]struct {
		wished bool
		node   func(*core.Node)
		taints []core.Taint
		marked bool
		want   []core.Taint
		mark   bool
	}{
		"no cards":                      {true, nil, []core.Taint{other}, false, []core.Taint{other}, false},
		"cards":                         {true, cards, []core.Taint{other}, false, []core.Taint{other, ours}, true},
		"cards whose driver fails":      {true, broken, nil, false, []core.Taint{ours}, true},
		"tainted already":               {true, cards, []core.Taint{ours}, true, []core.Taint{ours}, true},
		"somebody's taint will do":      {true, cards, []core.Taint{theirs}, false, []core.Taint{theirs}, false},
		"one that evicts is another":    {true, cards, []core.Taint{evicts}, false, []core.Taint{evicts, ours}, true},
		"ours was taken off by hand":    {true, cards, nil, true, []core.Taint{ours}, true},
		"the cards went":                {true, gone, []core.Taint{other, ours}, true, []core.Taint{other}, false},
		"no wish, nothing of ours":      {false, cards, []core.Taint{theirs}, false, []core.Taint{theirs}, false},
		"the wish went":                 {false, cards, []core.Taint{ours, other}, true, []core.Taint{other}, false},
		"the wish went, no taint there": {false, cards, []core.Taint{other}, true, []core.Taint{other}, false},
	} {
		n := &core.Node{}
		n.Spec.Taints = tc.taints
		if tc.node != nil {
			tc.node(n)
		}
		if tc.marked {
			n.Annotations = map[string]string{annotation: "true"}
		}
		before := n.DeepCopy()
		next, changed := plan(n, tc.wished)
		_, mark := next.Annotations[annotation]
		if !equality.Semantic.DeepEqual(next.Spec.Taints, tc.want) || mark != tc.mark {
			t.Errorf("%s: taints %v, marked %v", name, next.Spec.Taints, mark)
		}
		if same := equality.Semantic.DeepEqual(before, next); changed == same {
			t.Errorf("%s: changed %v", name, changed)
		}
		if !equality.Semantic.DeepEqual(before, n) {
			t.Errorf("%s: the cache's own node was written to", name)
		}
		if _, again := plan(next, tc.wished); again {
			t.Errorf("%s: it never rests", name)
		}
	}
}
