package placement

import (
	"fmt"
	"testing"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"orch/gpu/fakenvml"
	gpu "orch/gpu/slices"
)

// BenchmarkShares places parts of cards on a fleet of 500 nodes with eight cards each.
func BenchmarkShares(b *testing.B) {
	rec, err := fakenvml.Load("h100-8")
	if err != nil {
		b.Fatal(err)
	}
	c := NewCluster()
	for i := range 500 {
		n := &core.Node{}
		n.Name = fmt.Sprint("n", i)
		n.Status.Allocatable = core.ResourceList{"cpu": quantity.MustParse("64"), "memory": quantity.MustParse("512Gi"), "pods": quantity.MustParse("110"), "nvidia.com/gpu": quantity.MustParse("8")}
		c.SetNode(n)
		for j, spec := range gpu.Of(gpu.Node{Name: n.Name, Machine: rec.Machine}) {
			o := &resource.ResourceSlice{Spec: spec}
			o.Name = fmt.Sprint(n.Name, "-", j)
			c.Devices.SetSlice(o)
		}
	}
	pod := func(i int) *Pod {
		p := &core.Pod{}
		p.Name, p.Namespace, p.UID = fmt.Sprint("p", i), "default", types.UID(fmt.Sprint("p", i))
		l := core.ResourceList{"nvidia.com/gpu": quantity.MustParse("1"), "nvidia.com/gpumem": quantity.MustParse("20000")}
		p.Spec.Containers = []core.Container{{Name: "c", Resources: core.ResourceRequirements{Limits: l, Requests: l}}}
		return NewPod(p)
	}
	i := 0
	for b.Loop() {
		p := pod(i)
		d := c.Place(p, func(int) int { return 0 })
		if d.Node == "" {
			b.Fatal(d.Message())
		}
		bound := p.Pod.DeepCopy()
		bound.Spec.NodeName = d.Node
		c.AddPod(NewPod(bound).With(d.Units), d.Node)
		i++
	}
}
