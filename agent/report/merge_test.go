package report

import (
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// TestScheduledSaysWhichGeneration: of all conditions PodScheduled alone had no observedGeneration.
func TestScheduledSaysWhichGeneration(t *testing.T) {
	bound := metav1.NewTime(time.Unix(100, 0))
	server := core.PodStatus{Conditions: []core.PodCondition{{Type: core.PodScheduled, Status: core.ConditionTrue, LastTransitionTime: bound}}}
	agent := core.PodStatus{Conditions: []core.PodCondition{{Type: core.PodScheduled, Status: core.ConditionTrue, ObservedGeneration: 3, LastTransitionTime: metav1.Now()}}}
	if got := Merge(server, agent).Conditions; len(got) != 1 || got[0].ObservedGeneration != 3 || !got[0].LastTransitionTime.Equal(&bound) {
		t.Errorf("%+v", got)
	}
}
