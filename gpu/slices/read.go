package slices

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	resource "k8s.io/api/resource/v1"

	"orch/gpu/alloc"
	"orch/gpu/device"
)

// Device is one device of a pool.
type Device struct {
	Name string
	// UUID is what the node's driver knows it by; empty for a MIG device that is yet to be made.
	UUID string
	// Card is the UUID of the card that it is, or lies on.
	Card string
	// MIG tells a part of a card from a whole one.
	MIG bool
	// Profile and At are a MIG device's.
	Profile string
	At      device.Placement
	// Resource is what it serves for requests that are no claims; empty if they do not get it.
	Resource string
	// Tainted: nobody gets it who does not tolerate that (NoSchedule or NoExecute).
	Tainted bool
	// shares a GPU instance with others.
	partial bool
}

// Conflicts tells that two devices are not there at once: holding one makes the other unavailable.
func (d Device) Conflicts(o Device) bool {
	switch {
	case d.Card != o.Card:
		return false
	case d.Name == o.Name || !d.MIG || !o.MIG:
		return true
	case d.partial && o.partial && d.At == o.At:
		return false
	}
	return d.At.Overlaps(o.At)
}

// Pool is a node's GPUs as its slices tell of them.
type Pool struct {
	Node string
	// Complete: all slices of the newest generation are there. Nothing should be given out
	// of a pool that is not.
	Complete bool
	// Machine has what alloc.Choose wants to know: cards, their places and links.
	Machine device.Machine
	// Units are what alloc.Offer gave on the node, tainted ones too, in its order.
	Units []alloc.Unit
	// Devices are all, in the order of the slices.
	Devices []Device
	oneOnly map[string]bool
	byUUID  map[string]int
	byName  map[string]int
}

// OneOnly tells that a container may have one share of the resource at most.
func (p *Pool) OneOnly(resource string) bool { return p.oneOnly[resource] }

// Device finds a device by its name.
func (p *Pool) Device(name string) (Device, bool) { return p.at(p.byName, name) }

// DeviceOf finds the device of a unit by the unit's id.
func (p *Pool) DeviceOf(unit string) (Device, bool) { return p.at(p.byUUID, alloc.DeviceOf(unit)) }

func (p *Pool) at(index map[string]int, key string) (Device, bool) {
	i, ok := index[key]
	if !ok || key == "" {
		return Device{}, false
	}
	return p.Devices[i], true
}

// PoolOf is what the slices of a node say, without writing them.
func PoolOf(n Node) Pool {
	var list []*resource.ResourceSlice
	for _, spec := range Of(n) {
		list = append(list, &resource.ResourceSlice{Spec: spec})
	}
	return Read(list)
}

// Read reads the slices of one node's pool; others among them are not looked at. Attributes
// that are missing or of another type are as if nothing was said.
func Read(list []*resource.ResourceSlice) Pool {
	newest, p := current(list)
	p.oneOnly, p.byUUID, p.byName = map[string]bool{}, map[string]int{}, map[string]int{}
	r := reader{Pool: &p, links: map[string]string{}}
	for _, s := range newest {
		for i := range s.Spec.Devices {
			r.device(&s.Spec.Devices[i])
		}
	}
	r.finish()
	return p
}

// current are the slices of the newest generation, in the order in which Of made them.
func current(list []*resource.ResourceSlice) (newest []*resource.ResourceSlice, p Pool) {
	for _, s := range list {
		if s.Spec.Driver != Driver || s.Spec.NodeName == nil || s.Spec.Pool.Name != *s.Spec.NodeName {
			continue
		}
		if len(newest) > 0 && s.Spec.Pool.Generation > newest[0].Spec.Pool.Generation {
			newest = newest[:0]
		}
		if len(newest) == 0 || s.Spec.Pool.Generation == newest[0].Spec.Pool.Generation {
			newest, p.Node = append(newest, s), *s.Spec.NodeName
		}
	}
	if len(newest) > 0 {
		p.Complete = int64(len(newest)) == newest[0].Spec.Pool.ResourceSliceCount
	}
	slices.SortStableFunc(newest, func(a, b *resource.ResourceSlice) int { return cmp.Compare(a.Name, b.Name) })
	return newest, p
}

// reader is one Read under way.
type reader struct {
	*Pool
	links map[string]string // by card
}

type facts map[resource.QualifiedName]resource.DeviceAttribute

func (f facts) text(name resource.QualifiedName) string {
	if v := f[name].StringValue; v != nil {
		return *v
	}
	return ""
}

func (f facts) number(name resource.QualifiedName) (int, bool) {
	if v := f[name].IntValue; v != nil {
		return int(*v), true
	}
	return 0, false
}

func (r *reader) device(d *resource.Device) {
	f := facts(d.Attributes)
	out := Device{Name: d.Name, UUID: f.text("uuid"), MIG: f.text("type") == typeMIG, Profile: f.text("profile"), Resource: f.text(AttrResource)}
	out.Card = out.UUID
	if out.MIG {
		out.Card = f.text("parentUUID")
		out.At, out.partial = placement(d)
	}
	out.Tainted = slices.ContainsFunc(d.Taints, func(t resource.DeviceTaint) bool { return t.Effect != resource.DeviceTaintEffectNone })
	if _, twice := r.byName[d.Name]; out.Card == "" || twice {
		return
	}
	r.byName[d.Name] = len(r.Devices)
	if out.UUID != "" {
		r.byUUID[out.UUID] = len(r.Devices)
	}
	r.Devices = append(r.Devices, out)
	r.machine(out, f)
	capacity := d.Capacity[memory].Value
	r.units(out, f, capacity.Value()>>20)
}

// placement follows from the counters that the device consumes.
func placement(d *resource.Device) (at device.Placement, partial bool) {
	at.Start = -1
	for _, c := range d.ConsumesCounters {
		for name, n := range c.Counters {
			text, ok := strings.CutPrefix(name, sliceCounter)
			i, err := strconv.Atoi(text)
			if !ok || err != nil {
				continue
			}
			if at.Start < 0 || i < at.Start {
				at.Start = i
			}
			at.Size++
			partial = partial || n.Value.MilliValue() < 1000
		}
	}
	at.Start = max(at.Start, 0)
	return at, partial
}

// machine notes the card.
func (r *reader) machine(d Device, f facts) {
	if _, ok := r.Machine.GPU(d.Card); ok {
		return
	}
	g := device.GPU{UUID: d.Card, Name: f.text("productName")}
	if order, ok := f.number(AttrOrder); ok {
		g.Index = order >> 8
	}
	if n, ok := f.number("resource.kubernetes.io/numaNode"); ok {
		g.NUMANode = &n
	}
	if !d.MIG {
		r.links[d.Card] = f.text(AttrLinks)
	}
	r.Machine.GPUs = append(r.Machine.GPUs, g)
}

func (r *reader) units(d Device, f facts, mib int64) {
	if d.Resource == "" || d.UUID == "" {
		return
	}
	order, _ := f.number(AttrOrder)
	u := alloc.Unit{ID: d.UUID, Resource: d.Resource, Card: d.Card, Replica: -1, Order: order, MemoryMiB: mib}
	if d.MIG {
		u.MIG = d.UUID
	}
	if n, ok := f.number("resource.kubernetes.io/numaNode"); ok {
		u.NUMA = &n
	}
	n, shared := f.number(AttrReplicas)
	if !shared {
		r.Units = append(r.Units, u)
		return
	}
	if v := f[AttrOneOnly].BoolValue; v != nil && *v {
		r.oneOnly[d.Resource] = true
	}
	for i := range min(n, maxReplicas) {
		r.Units = append(r.Units, u.Share(i))
	}
}

// maxReplicas bounds what a slice that somebody else wrote can make of one device.
const maxReplicas = 1024

// finish puts units and cards into the order of the bus, and the links to the cards.
func (r *reader) finish() {
	alloc.Sort(r.Units)
	r.Machine.Sort()
	var cards []string // those that the links are about
	for _, g := range r.Machine.GPUs {
		if i, ok := r.byUUID[g.UUID]; ok && r.Devices[i].Resource != "" {
			cards = append(cards, g.UUID)
		}
	}
	for i := range r.Machine.GPUs {
		g := &r.Machine.GPUs[i]
		g.Peers = peers(r.links[g.UUID], cards)
	}
}
