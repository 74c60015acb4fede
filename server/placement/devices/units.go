package devices

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/structured"

	"orch/api"
	"orch/gpu/alloc"
	"orch/gpu/share"
	gpu "orch/gpu/slices"
)

// view is what of a node's units is free.
type view struct {
	// free units by resource, healthy ones by resource whoever holds them.
	free    map[string][]alloc.Unit
	healthy map[string]int
	held    []string
	// parts are the units of which parts can be given; chosen is what pods that want some were
	// answered, by their wish: of a large fleet few nodes change from one pod to the next.
	parts  []alloc.Unit
	chosen map[string]choice
	// unnamed and wanted are sums over the holders.
	unnamed, wanted map[string]int
}

// choice is an answer of Choose.
type choice struct {
	units Units
	err   error
}

// gpus reads the pool of the built-in driver.
func (s *State) gpus(n *node) *gpu.Pool {
	if n.gpus == nil {
		var list []*resource.ResourceSlice
		if p := s.pools[builtin(n.name)]; p != nil {
			list = slices.Collect(maps.Values(p.slices))
		}
		n.gpus = new(gpu.Read(list))
	}
	return n.gpus
}

// Hold counts what a pod on a node holds by plain limits.
func (s *State) Hold(name string, pod types.UID, h Holding) {
	if h.empty() {
		return
	}
	n := s.node(name)
	n.holders[pod] = h
	s.plain(n, h.Units, 1)
}

// Release ends what Hold began.
func (s *State) Release(name string, pod types.UID) {
	n := s.nodes[name]
	if n == nil {
		return
	}
	h, ok := n.holders[pod]
	if !ok {
		return
	}
	delete(n.holders, pod)
	s.plain(n, h.Units, -1)
	s.drop(n)
}

func (s *State) plain(n *node, units []string, sign int) {
	s.clock++
	n.changed, n.view = s.clock, nil
	if len(units) == 0 || s.pools[builtin(n.name)] == nil {
		return
	}
	p, devices := s.pool(builtin(n.name)), s.gpus(n)
	for _, id := range units {
		if d, ok := devices.DeviceOf(id); ok {
			p.count(p.plain, structured.MakeDeviceID(api.GPUDriver, n.name, d.Name), sign)
		}
	}
}

// recount finds the devices of the units anew after the slices have changed.
func (s *State) recount(n *node) {
	n.gpus = nil
	p := s.pools[builtin(n.name)]
	if p == nil {
		return
	}
	for id, count := range p.plain {
		p.count(p.plain, id, -count)
	}
	for _, h := range n.holders {
		s.plain(n, h.Units, 1)
	}
}

// look makes the view of a node.
func (s *State) look(n *node) *view {
	if n.view != nil {
		return n.view
	}
	v := &view{free: map[string][]alloc.Unit{}, healthy: map[string]int{}, unnamed: map[string]int{}, wanted: map[string]int{}}
	n.view = v
	for _, h := range n.holders {
		v.held = append(v.held, h.Units...)
		for r, k := range h.Unnamed {
			v.unnamed[r] += k
		}
		for r, k := range h.Wanted {
			v.wanted[r] += k
		}
	}
	slices.Sort(v.held) // by map order it came
	devices := s.gpus(n)
	taken := s.takenOf(n, devices)
	for _, u := range devices.Units {
		d, _ := devices.DeviceOf(u.ID)
		if d.Tainted {
			continue
		}
		v.healthy[u.Resource]++
		if devices.Complete && u.Resource == share.GPU && !slices.ContainsFunc(taken, func(t holder) bool { return (!t.amounts || t.Name != d.Name) && t.excludes(d, u) }) {
			v.parts = append(v.parts, u)
		}
		if devices.Complete && !slices.Contains(v.held, u.ID) && !slices.ContainsFunc(taken, func(t holder) bool { return t.excludes(d, u) }) {
			v.free[u.Resource] = append(v.free[u.Resource], u)
		}
	}
	return v
}

// holder is a device that is taken; parts: only replicas or amounts of it are; amounts:
// only those.
type holder struct {
	gpu.Device
	parts, amounts bool
}

func (h holder) excludes(d gpu.Device, u alloc.Unit) bool {
	if h.Name == d.Name {
		return !h.parts || u.Replica < 0
	}
	return h.Conflicts(d)
}

func (s *State) takenOf(n *node, devices *gpu.Pool) []holder {
	p := s.pools[builtin(n.name)]
	if p == nil {
		return nil
	}
	whole, other := map[string]bool{}, map[string]bool{} // by name of the device: an id is held that is no replica's, or no amount's
	for _, h := range n.holders {
		for _, id := range h.Units {
			d, ok := devices.DeviceOf(id)
			if !ok {
				continue
			}
			whole[d.Name] = whole[d.Name] || id == d.UUID
			if _, amount := alloc.ParseShare(id); !amount {
				other[d.Name] = true
			}
		}
	}
	shared := map[string]bool{}
	for id := range p.shares {
		shared[id.Device.String()] = true
	}
	var out []holder
	for _, d := range devices.Devices {
		id := structured.MakeDeviceID(api.GPUDriver, n.name, d.Name)
		switch {
		case p.claimed[id] > 0 || shared[d.Name]:
			out = append(out, holder{Device: d})
		case p.plain[id] > 0:
			out = append(out, holder{Device: d, parts: !whole[d.Name], amounts: !other[d.Name]})
		}
	}
	return out
}

// Serves tells whether units of the node serve a resource, so that its count does not.
func (s *State) Serves(name string, resource core.ResourceName) bool {
	n := s.nodes[name]
	return n != nil && n.pools[builtin(name)] > 0 &&
		slices.ContainsFunc(s.gpus(n).Units, func(u alloc.Unit) bool { return u.Resource == string(resource) })
}

// Room says whether n more units of a resource that the node Serves can be given, and
// whether they could if no pod held any.
func (s *State) Room(name, resource string, want int) (fits, ever bool) {
	v := s.look(s.node(name))
	return v.unnamed[resource] == 0 && len(v.free[resource])-v.wanted[resource] >= want, v.healthy[resource] >= want
}

// Choose picks the units that a pod gets on a node; those of resources that the node does
// not serve are not its matter.
func (s *State) Choose(name string, l Limits) (Units, error) {
	if l.wish == "" {
		return s.choose(name, l)
	}
	v := s.look(s.node(name))
	if got, ok := v.chosen[l.wish]; ok {
		return got.units, got.err
	}
	u, err := s.choose(name, l)
	if v.chosen == nil || len(v.chosen) >= maxAnswers {
		v.chosen = map[string]choice{}
	}
	v.chosen[l.wish] = choice{u, err}
	return u, err
}

func (s *State) choose(name string, l Limits) (Units, error) {
	var asks []alloc.Ask
	for _, a := range l.Asks {
		a.Wants = slices.DeleteFunc(slices.Clone(a.Wants), func(w alloc.Want) bool { return !s.Serves(name, core.ResourceName(w.Resource)) })
		if len(a.Wants) > 0 {
			asks = append(asks, a)
		}
	}
	if len(asks) == 0 {
		return nil, nil
	}
	n := s.node(name)
	v, devices := s.look(n), s.gpus(n)
	free, held, parts := maps.Clone(v.free), slices.Clone(v.held), v.parts
	units, err := alloc.Walk(asks, func(_ alloc.Ask, w alloc.Want, has []string) ([]string, error) {
		if w.Part() {
			ids, err := s.parts(n, w, parts, held, has)
			held = append(held, ids...)
			free[w.Resource] = without(free[w.Resource], ids)
			return ids, err
		}
		picked, err := alloc.Choose(devices.Machine, alloc.Request{Resource: w.Resource, Count: w.Count, Free: free[w.Resource], Held: held, OneOnly: devices.OneOnly(w.Resource)})
		if err != nil {
			return nil, err
		}
		var ids []string
		for _, u := range picked {
			ids = append(ids, u.ID)
		}
		held = append(held, ids...)
		free[w.Resource], parts = without(free[w.Resource], ids), without(parts, ids)
		return ids, nil
	})
	if err != nil {
		return nil, fmt.Errorf("choosing devices on %s: %w", name, err)
	}
	return Units(units), nil
}

// without leaves out units whose devices are given in a way that excludes them: a replica
// only itself.
func without(units []alloc.Unit, ids []string) []alloc.Unit {
	return slices.DeleteFunc(slices.Clone(units), func(u alloc.Unit) bool {
		return slices.ContainsFunc(ids, func(id string) bool {
			_, amount := alloc.ParseShare(id)
			return id == u.ID || amount && alloc.DeviceOf(id) == u.Device()
		})
	})
}

// parts chooses parts of cards, beside what is held.
func (s *State) parts(n *node, w alloc.Want, free []alloc.Unit, held, spare []string) ([]string, error) {
	if s.look(n).unnamed[w.Resource] > 0 {
		return nil, &alloc.Shortage{Resource: w.Resource, Why: "a pod has some of them, and nobody has said which"}
	}
	var all []alloc.Unit
	for _, u := range s.gpus(n).Units {
		if u.Resource == w.Resource {
			all = append(all, u)
		}
	}
	return alloc.ChooseShares(s.gpus(n).Machine, alloc.ShareRequest{Want: w.Share, Free: free, All: all, Held: held, Spare: spare})
}

// PartsFit says why the pod's parts of cards cannot be had on a node, "" if they can;
// ever tells whether they could if no pod held any.
func (s *State) PartsFit(name string, l Limits) (why string, ever bool) {
	_, err := s.Choose(name, l)
	if short, ok := errors.AsType[*alloc.Shortage](err); ok {
		return short.Error(), !short.Never
	}
	if err != nil { // of whole devices; Room has said so
		return err.Error(), true
	}
	return "", true
}

// Joins tells whether the pod's parts would all be of cards that are shared already.
func (s *State) Joins(name string, l Limits) bool {
	u, err := s.Choose(name, l)
	if err != nil {
		return false
	}
	begun := alloc.SharedCards(s.look(s.node(name)).held)
	for _, id := range u.Holding().Units {
		if _, amount := alloc.ParseShare(id); amount && !slices.Contains(begun, alloc.DeviceOf(id)) {
			return false
		}
	}
	return true
}
