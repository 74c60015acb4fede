// Package devices knows which devices the cluster has, who holds them, and which a pod
// would get on a node. It is pure as placement is: its owner, the scheduler's loop, tells
// it of slices, classes, taint rules, claims and pods, and asks.
//
// There are two ways to a device, and both count for each other: a ResourceClaim, which
// upstream's structured allocator fills from any driver's ResourceSlices, and a plain
// limit such as nvidia.com/gpu, which is filled with units that the slices of the
// built-in driver offer (gpu/alloc chooses among them). A device held one way is taken
// the other way too, and so is whatever shares a counter with it, such as the partitions
// of a card.
//
// An allocation counts from the decision on (Assume), long before the API shows it.
// Start reading at State, then Attempt (attempt.go) for claims and units.go for limits.
package devices

import (
	"maps"
	"slices"
	"time"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/cel"

	gpu "orch/gpu/slices"
)

// maxExpressions bounds the compiled selectors that are kept; the oldest goes first.
const maxExpressions = 256

// State is everything known. It has one owner and no lock.
type State struct {
	// MaxSearch bounds the search for the claims of one pod; 0: 10 s, as upstream.
	MaxSearch time.Duration

	slices  map[string]*resource.ResourceSlice
	pools   map[poolID]*pool
	general map[poolID]*pool // those with slices that name no node
	nodes   map[string]*node
	rules   map[string]*resource.DeviceTaintRule
	classes classes
	claims  map[types.NamespacedName]*claim
	// reserved finds the claims that are reserved for a pod.
	reserved map[types.UID][]*claim
	// unborn are allocations of claims that are not in the API yet, by their pod.
	unborn map[types.UID][]resource.DeviceRequestAllocationResult
	// leftovers finds the claim that was made for a pod's extended resources.
	leftovers map[types.UID]*claim
	cel       *cel.Cache
	// clock goes up with each change of what can be allocated; everywhere is when that last
	// changed for all nodes alike.
	clock, everywhere uint64
}

// New returns an empty one.
func New() *State {
	return &State{
		slices: map[string]*resource.ResourceSlice{}, pools: map[poolID]*pool{}, general: map[poolID]*pool{}, nodes: map[string]*node{},
		rules: map[string]*resource.DeviceTaintRule{}, classes: newClasses(),
		claims: map[types.NamespacedName]*claim{}, reserved: map[types.UID][]*claim{},
		unborn: map[types.UID][]resource.DeviceRequestAllocationResult{}, leftovers: map[types.UID]*claim{},
		cel: cel.NewCache(maxExpressions, cel.Features{EnableConsumableCapacity: true}),
	}
}

// node is what is known of devices on one node.
type node struct {
	name  string
	pools map[poolID]int // slices that name the node, by pool
	// holders are the pods on the node that hold devices by a plain limit.
	holders map[types.UID]Holding
	// changed is when what can be allocated here last changed; answers are those given
	// since, by what was asked.
	changed uint64
	answers map[string]answer
	// gpus is what the built-in driver's slices say, view what of it is free; nil: to be
	// made anew.
	gpus *gpu.Pool
	view *view
}

func (s *State) node(name string) *node {
	n := s.nodes[name]
	if n == nil {
		n = &node{name: name, pools: map[poolID]int{}, holders: map[types.UID]Holding{}, answers: map[string]answer{}}
		s.nodes[name] = n
	}
	return n
}

func (s *State) drop(n *node) {
	if len(n.pools) == 0 && len(n.holders) == 0 {
		delete(s.nodes, n.name)
	}
}

// SetNode notes that a node is another: selectors of slices may match it now.
func (s *State) SetNode(old, new *core.Node) {
	if n := s.nodes[new.Name]; n != nil || len(s.slices) > 0 {
		if old != nil && maps.Equal(old.Labels, new.Labels) {
			return
		}
		n = s.node(new.Name)
		s.clock++
		n.changed = s.clock
	}
}

// RemoveNode forgets a node; its slices go with their own removal.
func (s *State) RemoveNode(name string) {
	if n := s.nodes[name]; n != nil {
		clear(n.answers)
		s.drop(n)
	}
}

// SetSlice adds or replaces a slice; it reports whether it changed.
func (s *State) SetSlice(o *resource.ResourceSlice) bool {
	if old := s.slices[o.Name]; old != nil {
		if apiequality.Semantic.DeepEqual(old.Spec, o.Spec) {
			return false
		}
		s.RemoveSlice(o.Name)
	}
	s.slices[o.Name] = o
	p := s.pool(poolOf(o))
	p.slices[o.Name] = withTaints(o, s.rules)
	if name := nodeOf(o); name != "" {
		p.nodes[name]++
		s.node(name).pools[p.id]++
	} else {
		p.general++
		s.general[p.id] = p
	}
	s.republished(p)
	return true
}

// RemoveSlice forgets a slice. Who holds its devices goes on holding them.
func (s *State) RemoveSlice(name string) {
	o := s.slices[name]
	if o == nil {
		return
	}
	delete(s.slices, name)
	p := s.pools[poolOf(o)]
	delete(p.slices, name)
	s.republished(p)
	if name := nodeOf(o); name != "" {
		n := s.nodes[name]
		if n.pools[p.id]--; n.pools[p.id] == 0 {
			delete(n.pools, p.id)
		}
		if p.nodes[name]--; p.nodes[name] == 0 {
			delete(p.nodes, name)
		}
		s.drop(n)
	} else {
		if p.general--; p.general == 0 {
			delete(s.general, p.id)
		}
	}
	s.dropPool(p)
}

func nodeOf(o *resource.ResourceSlice) string {
	if o.Spec.NodeName == nil {
		return ""
	}
	return *o.Spec.NodeName
}

// touch notes that what can be allocated from a pool changed.
func (s *State) touch(p *pool) {
	s.clock++
	if p.general > 0 {
		s.everywhere = s.clock
	}
	for name := range p.nodes {
		n := s.nodes[name]
		n.changed, n.view = s.clock, nil
	}
}

// republished is for a pool whose slices changed.
func (s *State) republished(p *pool) {
	s.touch(p)
	for name := range p.nodes {
		if p.id == builtin(name) {
			s.recount(s.nodes[name])
		}
	}
}

// SetClass adds or replaces a class; it reports whether that may help somebody.
func (s *State) SetClass(o *resource.DeviceClass) bool {
	if old := s.classes.byName[o.Name]; old != nil && apiequality.Semantic.DeepEqual(old.Spec, o.Spec) {
		return false
	}
	s.classes.set(o)
	s.clock++
	s.everywhere = s.clock
	return true
}

// RemoveClass forgets a class.
func (s *State) RemoveClass(name string) {
	s.classes.remove(name)
	s.clock++
	s.everywhere = s.clock
}

// SetRule adds or replaces a taint rule; it reports whether the rule changed.
func (s *State) SetRule(o *resource.DeviceTaintRule) bool {
	if old := s.rules[o.Name]; old != nil && apiequality.Semantic.DeepEqual(old.Spec, o.Spec) {
		return false
	}
	s.rules[o.Name] = o
	s.retaint()
	return true
}

// RemoveRule forgets a taint rule.
func (s *State) RemoveRule(name string) {
	delete(s.rules, name)
	s.retaint()
}

func (s *State) retaint() {
	for name, o := range s.slices {
		s.pools[poolOf(o)].slices[name] = withTaints(o, s.rules)
	}
	for _, p := range s.pools {
		s.republished(p)
	}
}

// withTaints is the slice with the taints that rules put on its devices.
func withTaints(o *resource.ResourceSlice, rules map[string]*resource.DeviceTaintRule) *resource.ResourceSlice {
	out := o
	for _, name := range slices.Sorted(maps.Keys(rules)) {
		sel := rules[name].Spec.DeviceSelector
		if sel == nil || !suits(sel.Driver, o.Spec.Driver) || !suits(sel.Pool, o.Spec.Pool.Name) {
			continue
		}
		for i := range o.Spec.Devices {
			if !suits(sel.Device, o.Spec.Devices[i].Name) {
				continue
			}
			if out == o {
				out = o.DeepCopy()
			}
			out.Spec.Devices[i].Taints = append(out.Spec.Devices[i].Taints, rules[name].Spec.Taint)
		}
	}
	return out
}

func suits(want *string, is string) bool { return want == nil || *want == is }
