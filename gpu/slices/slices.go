// Package slices writes a node's GPUs down as ResourceSlices of the driver
// gpu.nvidia.com (Of), and reads them again (Read): scheduler and agent know the same
// devices by the same names, and choose alike. Names, attributes, capacities and
// counters are those of NVIDIA's DRA driver; attributes below orch.io say as what a
// device serves requests that are no claims. The package is pure. It refuses to know
// who holds a device, and when slices are written.
//
// Start reading at Node, Of and Pool; card.go and partition.go are the two kinds of devices.
package slices

import (
	"cmp"
	"slices"

	resource "k8s.io/api/resource/v1"

	"orch/gpu/alloc"
	"orch/gpu/device"
	"orch/gpu/share"
)

// Driver is the name that NVIDIA's driver has, too.
const Driver = "gpu.nvidia.com"

// Taint keys of NVIDIA's driver.
const (
	TaintXID         = Driver + "/xid" // its value is the number
	TaintLost        = Driver + "/gpu-lost"
	TaintUnmonitored = Driver + "/unmonitored"
)

// Attributes of ours; a device has the first only if requests that are no claims get it.
const (
	// AttrResource is the name of the resource that the device serves now.
	AttrResource = "orch.io/resource"
	// AttrReplicas is into how many shares it is divided, absent for one that is not.
	AttrReplicas = "orch.io/replicas"
	// AttrOneOnly: a container gets one share at most.
	AttrOneOnly = "orch.io/oneOnly"
	// AttrOrder is the place on the bus: the card's index * 256, plus the MIG device's.
	AttrOrder = "orch.io/order"
	// AttrLinks is what lies between the card and the others (links.go).
	AttrLinks = "orch.io/links"
)

// maxDevices is the most of one slice where a device has taints or counters.
const maxDevices = resource.ResourceSliceMaxDevicesWithAdvancedFeatures

// Node is what slices are made of.
type Node struct {
	Name    string
	Machine device.Machine
	Share   share.Config
	// Dynamic offers all MIG devices that could be made, beside those that are there.
	Dynamic bool
	// Others tells that somebody else provides a resource (a device plugin): devices that
	// serve it are left out. Nil: nobody does.
	Others func(resource string) bool
	// Taints of cards and MIG devices, by UUID; those of a card are its parts' as well.
	Taints map[string][]resource.DeviceTaint
}

// Of is the node's pool: the counters first, then the devices. The generation is left to
// who publishes. Equal nodes give equal slices; a node without GPUs gives none.
func Of(n Node) []resource.ResourceSliceSpec {
	units, _ := alloc.Offer(n.Machine, n.Share)
	w := writer{Node: n, served: map[string]service{}, cards: cardsOf(n.Machine), foreign: map[string]bool{}}
	for _, u := range units {
		if n.Others != nil && n.Others(u.Resource) {
			w.foreign[u.Device()] = true
			continue
		}
		s := w.served[u.Device()]
		s.resource, s.order = u.Resource, u.Order
		if u.Replica >= 0 {
			s.replicas++
		}
		w.served[u.Device()] = s
	}
	for _, g := range w.cards {
		w.card(g)
	}
	return w.slices()
}

// cardsOf are the cards that can be named, in the order of the bus.
func cardsOf(m device.Machine) []device.GPU {
	var out []device.GPU
	for _, g := range m.GPUs {
		if g.UUID != "" {
			out = append(out, g)
		}
	}
	slices.SortStableFunc(out, func(a, b device.GPU) int { return cmp.Compare(a.Index, b.Index) })
	return out
}

// service is as what a device serves requests that are no claims.
type service struct {
	resource        string
	replicas, order int
}

// writer is one Of under way.
type writer struct {
	Node
	served   map[string]service // by UUID
	foreign  map[string]bool    // by UUID: another gives it out
	cards    []device.GPU
	devices  []resource.Device
	counters []resource.CounterSet
}

// card adds a card and its partitions. A partitioned card is a device itself only where
// requests that are no claims get it whole.
func (w *writer) card(g device.GPU) {
	if w.foreign[g.UUID] {
		return
	}
	if !g.MIG.Enabled() {
		w.devices = append(w.devices, w.whole(g, nil))
		return
	}
	set := counterSet(g)
	var made []resource.Device
	if _, served := w.served[g.UUID]; served {
		made = append(made, w.whole(g, set))
	}
	made = append(made, w.partitions(g, set)...)
	if set != nil && len(made) > 0 {
		w.counters = append(w.counters, *set)
	}
	w.devices = append(w.devices, made...)
}

// slices divides what was collected by the limits of the API.
func (w *writer) slices() []resource.ResourceSliceSpec {
	var out []resource.ResourceSliceSpec
	for c := range slices.Chunk(w.counters, resource.ResourceSliceMaxCounterSets) {
		out = append(out, resource.ResourceSliceSpec{SharedCounters: c})
	}
	for c := range slices.Chunk(w.devices, maxDevices) {
		out = append(out, resource.ResourceSliceSpec{Devices: c})
	}
	for i := range out {
		out[i].Driver, out[i].NodeName = Driver, new(w.Name)
		out[i].Pool = resource.ResourcePool{Name: w.Name, ResourceSliceCount: int64(len(out))}
	}
	return out
}

// taints are those of the card and of its part. A card that does not answer has one
// whatever else is known: nobody can be given it.
func (w *writer) taints(g device.GPU, part *device.MIGDevice) []resource.DeviceTaint {
	out := slices.Clone(w.Taints[g.UUID])
	problem := g.Problem
	if part != nil {
		problem = cmp.Or(problem, part.Problem)
		for _, t := range w.Taints[part.UUID] {
			if !slices.ContainsFunc(out, func(o resource.DeviceTaint) bool { return o.Key == t.Key && o.Effect == t.Effect }) {
				out = append(out, t)
			}
		}
	}
	if problem != nil && len(out) == 0 {
		key := TaintUnmonitored
		if problem.Code == device.CodeGPULost {
			key = TaintLost
		}
		out = append(out, resource.DeviceTaint{Key: key, Effect: resource.DeviceTaintEffectNoSchedule})
	}
	return out[:min(len(out), resource.DeviceTaintsMaxLength)]
}
