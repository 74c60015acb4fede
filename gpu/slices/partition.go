package slices

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	resource "k8s.io/api/resource/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"

	"orch/gpu/device"
)

// engines are the capacities of a partition beside its memory, and the counters of a
// card that they are taken from.
var engines = []struct {
	capacity resource.QualifiedName
	counter  string
	of       func(a device.Attributes) *int
}{
	{"multiprocessors", "multiprocessors", func(a device.Attributes) *int { return a.Multiprocessors }},
	{"copyEngines", "copy-engines", func(a device.Attributes) *int { return a.CopyEngines }},
	{"decoders", "decoders", func(a device.Attributes) *int { return a.Decoders }},
	{"encoders", "encoders", func(a device.Attributes) *int { return a.Encoders }},
	{"jpegEngines", "jpeg-engines", func(a device.Attributes) *int { return a.JPEGs }},
	{"ofaEngines", "ofa-engines", func(a device.Attributes) *int { return a.OFAs }},
}

const (
	memory       = "memory"
	memorySlice  = "memorySlice"
	sliceCounter = "memory-slice-"
)

// partition is a MIG device to write: one that is there, or could be made.
type partition struct {
	// profile is the GPU instance's row on the card.
	profile device.Profile
	at      device.Placement
	live    *device.MIGDevice
	// room is how many other partitions of the card it is in the way of.
	room int
}

// part is how much of its GPU instance the device has, in thousandths: all of it, unless
// it is one of several compute instances. Rounded down, so that all of them fit, and none fits
// beside what takes the whole instance.
func (p partition) part() int64 {
	if p.live == nil || p.live.Slices <= 0 || p.live.Slices >= p.profile.Slices {
		return 1000
	}
	return int64(1000 * p.live.Slices / p.profile.Slices)
}

func (p partition) name(g device.GPU) string {
	profile := p.profile.Name
	if p.live != nil {
		profile = p.live.Profile
	}
	name := fmt.Sprintf("%s-mig-%s-%d-%d", cardName(g), strings.NewReplacer(".", "", "+", "-").Replace(profile), p.profile.ID, p.at.Start)
	if p.part() < 1000 {
		name += fmt.Sprintf("-%d", p.live.ID) // several lie in one place
	}
	return name
}

// partitionsOf lists the MIG devices of a card, those that are there first. Of those that could
// be made, small ones come first, and of one size those that leave the most room: the
// scheduler takes the first that fits.
func partitionsOf(g device.GPU, dynamic bool) []partition {
	var all, live, possible []partition
	for _, p := range g.MIG.Profiles {
		for _, at := range p.Placements {
			all = append(all, partition{profile: p, at: at})
		}
	}
	for _, d := range g.MIGDevices() {
		if d.UUID != "" {
			live = append(live, partition{profile: d.Kind, at: d.Placement, live: &d})
		}
	}
	slices.SortStableFunc(live, func(a, b partition) int { return cmp.Compare(a.live.Index, b.live.Index) })
	if !dynamic {
		return live
	}
	for _, p := range all {
		if slices.ContainsFunc(live, func(l partition) bool { return l.profile.ID == p.profile.ID && l.at == p.at }) {
			continue
		}
		for _, other := range all {
			if other.at.Overlaps(p.at) {
				p.room++
			}
		}
		possible = append(possible, p)
	}
	slices.SortStableFunc(possible, func(a, b partition) int {
		return cmp.Or(cmp.Compare(a.profile.Slices, b.profile.Slices), cmp.Compare(a.profile.MemoryMiB, b.profile.MemoryMiB),
			cmp.Compare(a.profile.ID, b.profile.ID), cmp.Compare(a.room, b.room), cmp.Compare(a.at.Start, b.at.Start))
	})
	return append(live, possible...)
}

func (w *writer) partitions(g device.GPU, set *resource.CounterSet) []resource.Device {
	var out []resource.Device
	for _, p := range partitionsOf(g, w.Dynamic) {
		if p.live != nil && w.foreign[p.live.UUID] {
			continue
		}
		a := w.of(g)
		a.text("type", typeMIG)
		a.text("parentUUID", g.UUID)
		profile := p.profile.Name
		if p.live != nil {
			profile = p.live.Profile
			a.text("uuid", p.live.UUID)
			w.serve(a, p.live.UUID)
		}
		a.text("profile", profile)
		d := resource.Device{Name: p.name(g), Attributes: a, Capacity: p.capacity(slicesOf(g)), Taints: w.taints(g, p.live)}
		if set != nil {
			d.ConsumesCounters = []resource.DeviceCounterConsumption{{CounterSet: set.Name, Counters: p.counters()}}
		}
		out = append(out, d)
	}
	return out
}

// attributes are the device's own where it is there and says so, else its profile's.
func (p partition) attributes() device.Attributes {
	if p.live != nil && p.live.Attributes != (device.Attributes{}) {
		return p.live.Attributes
	}
	return p.profile.Attributes
}

func (p partition) memoryBytes() int64 {
	if p.live != nil && p.live.MemoryBytes != nil && p.profile.MemoryMiB == 0 {
		return int64(*p.live.MemoryBytes)
	}
	return int64(p.profile.MemoryMiB) << 20
}

// capacity says what the device has. Which slices of the memory those are is left out for
// one that has all of the card's: the API's limit of entries is near.
func (p partition) capacity(all int) map[resource.QualifiedName]resource.DeviceCapacity {
	out := map[resource.QualifiedName]resource.DeviceCapacity{}
	for _, e := range engines {
		if n := e.of(p.attributes()); n != nil {
			out[e.capacity] = resource.DeviceCapacity{Value: count(*n)}
		}
	}
	if n := p.memoryBytes(); n > 0 {
		out[memory] = resource.DeviceCapacity{Value: *quantity.NewQuantity(n, quantity.BinarySI)}
	}
	for i := p.at.Start; i < p.at.Start+p.at.Size && p.at.Size < all; i++ {
		out[resource.QualifiedName(fmt.Sprint(memorySlice, i))] = resource.DeviceCapacity{Value: count(1)}
	}
	return out
}

// counters are what the device takes from its card's.
func (p partition) counters() map[string]resource.Counter {
	out := map[string]resource.Counter{}
	for _, e := range engines {
		if n := e.of(p.attributes()); n != nil {
			out[e.counter] = resource.Counter{Value: count(*n)}
		}
	}
	if n := p.memoryBytes(); n > 0 {
		out[memory] = resource.Counter{Value: *quantity.NewQuantity(n*p.part()/1000, quantity.BinarySI)}
	}
	for i := p.at.Start; i < p.at.Start+p.at.Size; i++ {
		out[fmt.Sprint(sliceCounter, i)] = resource.Counter{Value: *quantity.NewMilliQuantity(p.part(), quantity.DecimalSI)}
	}
	return out
}

func count(n int) quantity.Quantity { return *quantity.NewQuantity(int64(n), quantity.DecimalSI) }

// slicesOf is how many memory slices a card has.
func slicesOf(g device.GPU) int {
	n := 0
	for _, p := range partitionsOf(g, true) {
		n = max(n, p.at.Start+p.at.Size)
	}
	return n
}

// counterSet is what the partitions of a card share: of each kind as much as the largest
// partition has, and no less than those that are there together. It is nil for a card that says
// nothing of its partitions.
func counterSet(g device.GPU) *resource.CounterSet {
	most, live := map[string]quantity.Quantity{}, map[string]quantity.Quantity{}
	for _, p := range partitionsOf(g, true) {
		for name, c := range p.counters() {
			if old, ok := most[name]; !ok || old.Cmp(c.Value) < 0 {
				most[name] = c.Value
			}
			if p.live != nil {
				sum := live[name]
				sum.Add(c.Value)
				live[name] = sum
			}
		}
	}
	if len(most) == 0 {
		return nil
	}
	set := &resource.CounterSet{Name: cardName(g) + "-counter-set", Counters: map[string]resource.Counter{}}
	for name, n := range most {
		if sum := live[name]; sum.Cmp(n) > 0 {
			n = sum
		}
		if strings.HasPrefix(name, sliceCounter) { // one, also where only parts of it are used
			n = count(1)
		}
		set.Counters[name] = resource.Counter{Value: n}
	}
	return set
}
