package report

import (
	"testing"

	core "k8s.io/api/core/v1"
)

// TestResizeConditionsGoWhenTheyAreOver: a condition that the agent does not report any more is not kept
// because the server has it, as those of others are.
func TestResizeConditionsGoWhenTheyAreOver(t *testing.T) {
	server := core.PodStatus{Conditions: []core.PodCondition{{Type: core.PodResizeInProgress, Status: core.ConditionTrue}, {Type: "example.com/gate", Status: core.ConditionTrue},
		{Type: core.PodReady, Status: core.ConditionFalse}}}
	got := Merge(server, core.PodStatus{Conditions: []core.PodCondition{{Type: core.PodReady, Status: core.ConditionTrue}}})
	if len(got.Conditions) != 2 || got.Conditions[0].Type != "example.com/gate" || got.Conditions[1].Status != core.ConditionTrue {
		t.Errorf("conditions %+v", got.Conditions)
	}
	got = Merge(got, core.PodStatus{Conditions: []core.PodCondition{{Type: core.PodResizePending, Status: core.ConditionTrue}}})
	if len(got.Conditions) != 3 {
		t.Errorf("conditions %+v", got.Conditions)
	}
}
