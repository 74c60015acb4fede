package node

import (
	"reflect"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// devices has two cards.
type devices struct {
	none
	labels map[string]string
	cards  int64
}

func (d devices) Resources() (capacity, allocatable core.ResourceList) {
	if d.cards == 0 {
		return nil, nil
	}
	return core.ResourceList{"nvidia.com/gpu": *resource.NewQuantity(d.cards, resource.DecimalSI)},
		core.ResourceList{"nvidia.com/gpu": *resource.NewQuantity(d.cards-1, resource.DecimalSI)}
}
func (d devices) OwnsResource(n core.ResourceName) bool {
	return strings.HasPrefix(string(n), "nvidia.com/")
}
func (d devices) OwnsCondition(kind core.NodeConditionType) bool {
	return kind == "GPUDriverReady"
}
func (d devices) Labels() map[string]string { return d.labels }
func (d devices) OwnsLabel(key string) bool { return strings.HasPrefix(key, "nvidia.com/gpu.") }

func TestExtraLabels(t *testing.T) {
	e := devices{labels: map[string]string{"nvidia.com/gpu.count": "2", "nvidia.com/gpu.family": "hopper"}}
	have := map[string]string{"a": "b", "nvidia.com/gpu.count": "1", "nvidia.com/gpu.memory": "9", "nvidia.com/mig.config": "all-1g"}
	got, changed := extraLabels(have, e)
	want := map[string]string{"a": "b", "nvidia.com/gpu.count": "2", "nvidia.com/gpu.family": "hopper", "nvidia.com/mig.config": "all-1g"}
	if !changed || !reflect.DeepEqual(got, want) {
		t.Errorf("%v %v", got, changed)
	}
	if _, changed := extraLabels(got, e); changed {
		t.Error("changed though nothing is to be changed")
	}
}

// TestResourcesThatAreGone: what devices owned and no longer offer leaves the node, what
// others set stays.
func TestResourcesThatAreGone(t *testing.T) {
	two := resource.MustParse("2")
	server := core.NodeStatus{
		Capacity:    core.ResourceList{"nvidia.com/gpu": two, "example.com/licence": two},
		Allocatable: core.ResourceList{"nvidia.com/gpu": two, "example.com/licence": two},
	}
	for _, tc := range []struct {
		cards     int64
		has, free int64
	}{{0, 0, 0}, {4, 4, 3}} {
		own := core.NodeStatus{Capacity: core.ResourceList{}, Allocatable: core.ResourceList{}}
		e := devices{cards: tc.cards}
		extend(&own, e)
		got := Merge(server, own, e, time.Now())
		capacity, allocatable := got.Capacity["nvidia.com/gpu"], got.Allocatable["nvidia.com/gpu"]
		if capacity.Value() != tc.has || allocatable.Value() != tc.free {
			t.Errorf("%d cards: %v of %v", tc.cards, allocatable.String(), capacity.String())
		}
		if q := got.Capacity["example.com/licence"]; q.Value() != 2 {
			t.Errorf("the licences of others are %v", q.String())
		}
	}
}

// TestConditionsThatAreGone: a driver that is no longer there was said to answer, and a layout
// that had been mended to be wrong, for as long as the node was.
func TestConditionsThatAreGone(t *testing.T) {
	server := core.NodeStatus{Conditions: []core.NodeCondition{{Type: "GPUDriverReady", Status: "True"}, {Type: "FanFailure", Status: "True"}}}
	own := core.NodeStatus{Capacity: core.ResourceList{}, Allocatable: core.ResourceList{}}
	if got := Merge(server, own, devices{}, time.Now()).Conditions; len(got) != 1 || got[0].Type != "FanFailure" {
		t.Errorf("%+v", got)
	}
	own.Conditions = []core.NodeCondition{{Type: "GPUDriverReady", Status: "False"}}
	if got := Merge(server, own, devices{}, time.Now()).Conditions; len(got) != 2 || got[0].Status != "False" {
		t.Errorf("%+v", got)
	}
}
