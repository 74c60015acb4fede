package placement

import (
	"slices"

	core "k8s.io/api/core/v1"
)

// Preemption is a node that would fit the pod without the victims.
type Preemption struct {
	Node    string
	Victims []*Pod
}

// Preempt finds the node where the fewest and least important pods of lower
// priority would have to go for p to fit. protected tells which victims would
// break a PodDisruptionBudget; such nodes come last. The zero value: none.
func (c *Cluster) Preempt(p *Pod, protected func(*Pod) bool) Preemption {
	if p.Spec.PreemptionPolicy != nil && *p.Spec.PreemptionPolicy == core.PreemptNever {
		return Preemption{}
	}
	var found Preemption
	var foundCost cost
	for _, n := range c.order {
		victims, ok := c.victims(p, n)
		if !ok || len(victims) == 0 {
			continue
		}
		k := costOf(victims, protected)
		if found.Node == "" || k.less(foundCost) {
			found, foundCost = Preemption{n.Name, victims}, k
		}
	}
	return found
}

// victims takes every pod of lower priority off the node, and puts back, most
// important first, those that p leaves room for. The cluster is as before on return.
func (c *Cluster) victims(p *Pod, n *Node) ([]*Pod, bool) {
	var lower []*Pod
	for _, other := range n.Pods() {
		if other.Priority() < p.Priority() {
			lower = append(lower, other)
		}
	}
	if len(lower) == 0 {
		return nil, false
	}
	for _, v := range lower {
		n.imagine(v, -1)
	}
	var victims []*Pod
	fits := c.refusal(p, n).fits()
	slices.SortStableFunc(lower, func(a, b *Pod) int { return int(b.Priority()) - int(a.Priority()) })
	for i, v := range lower {
		n.imagine(v, 1)
		if !fits {
			continue
		}
		if !c.refusal(p, n).fits() {
			n.imagine(v, -1)
			victims = append(victims, lower[i])
		}
	}
	for _, v := range victims {
		n.imagine(v, 1)
	}
	return victims, fits
}

// cost orders the candidates as upstream does: broken budgets, the highest
// priority, the sum of priorities, the number of victims.
type cost struct {
	broken int
	top    int32
	sum    int64
	count  int
}

func costOf(victims []*Pod, protected func(*Pod) bool) cost {
	k := cost{count: len(victims), top: victims[0].Priority()}
	for _, v := range victims {
		k.top = max(k.top, v.Priority())
		k.sum += int64(v.Priority())
		if protected(v) {
			k.broken++
		}
	}
	return k
}

func (a cost) less(b cost) bool {
	switch {
	case a.broken != b.broken:
		return a.broken < b.broken
	case a.top != b.top:
		return a.top < b.top
	case a.sum != b.sum:
		return a.sum < b.sum
	}
	return a.count < b.count
}
