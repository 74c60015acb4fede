package placement

import (
	"fmt"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"orch/gpu/fakenvml"
	gpu "orch/gpu/slices"
)

// TestPromisedPartsAreKept: a pod that preempted others gets the part that they left, and not
// whoever is placed before it.
func TestPromisedPartsAreKept(t *testing.T) {
	rec, err := fakenvml.Load("t4")
	if err != nil {
		t.Fatal(err)
	}
	c := NewCluster()
	n := &core.Node{}
	n.Name = "n"
	n.Status.Allocatable = core.ResourceList{"cpu": quantity.MustParse("64"), "memory": quantity.MustParse("512Gi"), "pods": quantity.MustParse("110"), "nvidia.com/gpu": quantity.MustParse("1")}
	c.SetNode(n)
	for i, spec := range gpu.Of(gpu.Node{Name: n.Name, Machine: rec.Machine}) {
		o := &resource.ResourceSlice{Spec: spec}
		o.Name = fmt.Sprint("s", i)
		c.Devices.SetSlice(o)
	}
	pod := func(name, mib string) *Pod {
		p := &core.Pod{}
		p.Name, p.Namespace, p.UID = name, "default", types.UID(name)
		l := core.ResourceList{"nvidia.com/gpu": quantity.MustParse("1"), "nvidia.com/gpumem": quantity.MustParse(mib)}
		p.Spec.Containers = []core.Container{{Name: "c", Resources: core.ResourceRequirements{Limits: l, Requests: l}}}
		return NewPod(p)
	}
	place := func(p *Pod) Decision { return c.Place(p, func(int) int { return 0 }) }
	important, other := pod("important", "10000"), pod("other", "6000") // of 15360
	undo := c.Reserve(important, "n", other)
	if d := place(other); d.Node != "" || !strings.Contains(d.Message(), "Insufficient nvidia.com/gpumem: 6000 MiB of one card wanted, 5360 are free at most") {
		t.Errorf("%s %s", d.Node, d.Message())
	}
	undo()
	if d := place(important); d.Node != "n" {
		t.Error(d.Message())
	}
	if d := place(other); d.Node != "n" {
		t.Error(d.Message())
	}
}
