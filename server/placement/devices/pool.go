package devices

import (
	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/dynamic-resource-allocation/structured"

	"orch/api"
)

type poolID struct{ driver, name string }

func poolOf(o *resource.ResourceSlice) poolID { return poolID{o.Spec.Driver, o.Spec.Pool.Name} }

// builtin is the pool in which orch's own agent on a node describes its GPUs.
func builtin(node string) poolID { return poolID{api.GPUDriver, node} }

// pool is the slices of one pool and what is taken of its devices.
type pool struct {
	id      poolID
	slices  map[string]*resource.ResourceSlice // with the taints of rules
	nodes   map[string]int                     // slices that name a node, by node
	general int                                // slices that name none
	// claimed and plain count the holders of a device by the way they came to it, shares
	// the allocations of part of one; state is the same as the allocator wants it.
	claimed, plain map[structured.DeviceID]int
	shares         map[structured.SharedDeviceID]int
	state          structured.AllocatedState
}

func (s *State) pool(id poolID) *pool {
	p := s.pools[id]
	if p == nil {
		p = &pool{id: id, slices: map[string]*resource.ResourceSlice{}, nodes: map[string]int{},
			claimed: map[structured.DeviceID]int{}, plain: map[structured.DeviceID]int{}, shares: map[structured.SharedDeviceID]int{}, state: nothing()}
		s.pools[id] = p
	}
	return p
}

func nothing() structured.AllocatedState {
	return structured.AllocatedState{AllocatedDevices: sets.New[structured.DeviceID](),
		AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](), AggregatedCapacity: structured.NewConsumedCapacityCollection()}
}

func (s *State) dropPool(p *pool) {
	if len(p.slices)+len(p.claimed)+len(p.plain)+len(p.shares) == 0 {
		delete(s.pools, p.id)
	}
}

// take counts (sign 1) or no longer counts (-1) what a claim got. Administrators look at
// devices without having them.
func (s *State) take(results []resource.DeviceRequestAllocationResult, sign int) {
	for i := range results {
		r := &results[i]
		if r.AdminAccess != nil && *r.AdminAccess {
			continue
		}
		p := s.pool(poolID{r.Driver, r.Pool})
		id := structured.MakeDeviceID(r.Driver, r.Pool, r.Device)
		if r.ShareID != nil {
			p.share(structured.MakeSharedDeviceID(id, r.ShareID), structured.NewDeviceConsumedCapacity(id, r.ConsumedCapacity), sign)
		} else {
			p.count(p.claimed, id, sign)
		}
		s.touch(p)
		s.dropPool(p)
	}
}

func (p *pool) count(by map[structured.DeviceID]int, id structured.DeviceID, sign int) {
	if by[id] += sign; by[id] <= 0 {
		delete(by, id)
	}
	if p.claimed[id]+p.plain[id] > 0 {
		p.state.AllocatedDevices.Insert(id)
	} else {
		p.state.AllocatedDevices.Delete(id)
	}
}

// share counts a share's capacity once, however often the share is known.
func (p *pool) share(id structured.SharedDeviceID, used structured.DeviceConsumedCapacity, sign int) {
	was := p.shares[id]
	if p.shares[id] += sign; p.shares[id] <= 0 {
		delete(p.shares, id)
	}
	switch is := p.shares[id]; {
	case was == 0 && is > 0:
		p.state.AllocatedSharedDeviceIDs.Insert(id)
		if len(used.ConsumedCapacity) > 0 {
			p.state.AggregatedCapacity.Insert(used)
		}
	case was > 0 && is <= 0:
		p.state.AllocatedSharedDeviceIDs.Delete(id)
		if len(used.ConsumedCapacity) > 0 {
			p.state.AggregatedCapacity.Remove(used)
		}
	}
}

// near lists the slices that matter on a node: those of all pools that have a slice for
// it or for no node in particular, whole pools, since the allocator wants to know whether
// one is complete.
func (s *State) near(n *node) (all []*resource.ResourceSlice, state structured.AllocatedState) {
	var pools []*pool
	for id := range n.pools {
		pools = append(pools, s.pools[id])
	}
	for id, p := range s.general {
		if n.pools[id] == 0 {
			pools = append(pools, p)
		}
	}
	for _, p := range pools {
		for _, o := range p.slices {
			all = append(all, o)
		}
	}
	if len(pools) == 1 {
		return all, pools[0].state
	}
	state = nothing()
	for _, p := range pools {
		for id := range p.state.AllocatedDevices {
			state.AllocatedDevices.Insert(id)
		}
		for id := range p.state.AllocatedSharedDeviceIDs {
			state.AllocatedSharedDeviceIDs.Insert(id)
		}
		for id, used := range p.state.AggregatedCapacity {
			state.AggregatedCapacity[id] = used
		}
	}
	return all, state
}
