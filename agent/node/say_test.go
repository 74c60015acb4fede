package node

import (
	"slices"
	"testing"

	core "k8s.io/api/core/v1"
)

// TestNodesEvents: kubectl describe node showed no events at all.
func TestNodesEvents(t *testing.T) {
	node := func(memory, ready core.ConditionStatus, cordoned bool) *core.Node {
		n := &core.Node{}
		n.Spec.Unschedulable = cordoned
		n.Status.Conditions = []core.NodeCondition{{Type: core.NodeMemoryPressure, Status: memory}, {Type: core.NodeReady, Status: ready}}
		return n
	}
	const yes, no, unknown = core.ConditionTrue, core.ConditionFalse, core.ConditionUnknown
	for name, tt := range map[string]struct {
		was, is *core.Node
		want    []string
	}{
		"registered":                 {nil, node(no, no, false), []string{"NodeHasSufficientMemory"}},
		"nothing new":                {node(no, yes, true), node(no, yes, true), nil},
		"becomes ready":              {node(no, no, false), node(no, yes, false), []string{"NodeReady"}},
		"comes back":                 {node(unknown, unknown, false), node(no, yes, false), []string{"NodeHasSufficientMemory", "NodeReady"}},
		"memory is short, not ready": {node(no, yes, false), node(yes, no, false), []string{"NodeHasInsufficientMemory", "NodeNotReady"}},
		"cordoned":                   {node(no, yes, false), node(no, yes, true), []string{"NodeNotSchedulable"}},
		"uncordoned":                 {node(no, yes, true), node(no, yes, false), []string{"NodeSchedulable"}},
	} {
		if got := happened(tt.was, tt.is); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
