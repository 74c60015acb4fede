// Package alloc decides which devices a container gets: what a machine offers under
// which resource name (Offer), and which of the free ones are the best for a request
// (Choose). It is pure: it reads a device.Machine and a share.Config and keeps
// nothing. Who holds what is the ledger's matter, and whether a device may be used is
// health's: both come in as arguments. Start reading at Unit, Offer, Choose.
package alloc

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"orch/gpu/device"
	"orch/gpu/share"
)

// Unit is one count of a resource: a card, a MIG device, or a share of either.
type Unit struct {
	// ID is unique on the node: a UUID, or UUID::n for the n-th share. Ledger and
	// device-plugin socket speak in it.
	ID       string
	Resource string
	// Card is the UUID of the card that it is, or lies on; MIG the UUID of the MIG
	// device, empty for a card.
	Card, MIG string
	// Replica is n of UUID::n, -1 for a device that is not shared.
	Replica int
	NUMA    *int
	// MemoryMiB of the device; 0 where nobody knows.
	MemoryMiB int64
	// Order is the place on the bus, which decides among equals: the card's index * 256,
	// plus the index of a MIG device.
	Order int
}

// Device is the UUID that the driver knows: the MIG device's, else the card's.
func (u Unit) Device() string { return cmp.Or(u.MIG, u.Card) }

// DeviceOf is the UUID in a unit's id.
func DeviceOf(id string) string {
	uuid, _, _ := strings.Cut(id, "::")
	return uuid
}

// Offer lists what a machine offers, by resource and then in the order of the bus. A
// card that does not answer is not in it. why says what a person must mend when cards
// are held back for their layout; it is empty when all is well.
func Offer(m device.Machine, c share.Config) (units []Unit, why string) {
	switch c.MIG {
	case share.Single:
		return offerSingle(m, c)
	case share.Mixed:
		return offerMixed(m, c), ""
	}
	for _, g := range usable(m) {
		units = append(units, card(g)...)
	}
	return shared(units, c), ""
}

func usable(m device.Machine) []device.GPU {
	var out []device.GPU
	for _, g := range m.GPUs {
		if g.UUID != "" && g.Problem == nil {
			out = append(out, g)
		}
	}
	return out
}

func card(g device.GPU) []Unit {
	u := Unit{ID: g.UUID, Resource: share.GPU, Card: g.UUID, Replica: -1, NUMA: g.NUMANode, Order: g.Index << 8}
	if g.MemoryBytes != nil {
		u.MemoryMiB = int64(*g.MemoryBytes >> 20)
	}
	return []Unit{u}
}

func parts(g device.GPU, name func(device.MIGDevice) string) []Unit {
	var out []Unit
	for _, d := range g.MIGDevices() {
		// A name that is none would cost the node all that it says of itself.
		if d.UUID == "" || d.Problem != nil || share.CheckName(name(d)) != nil {
			continue
		}
		out = append(out, Unit{ID: d.UUID, Resource: name(d), Card: g.UUID, MIG: d.UUID, Replica: -1, NUMA: g.NUMANode, Order: g.Index<<8 + d.Index, MemoryMiB: int64(d.Kind.MemoryMiB)})
	}
	return out
}

// offerSingle wants all cards partitioned alike, or none of them, as NVIDIA's plugin does.
func offerSingle(m device.Machine, c share.Config) ([]Unit, string) {
	var units []Unit
	on, off, profiles := 0, 0, map[string]bool{}
	for _, g := range usable(m) {
		if !g.MIG.Enabled() {
			off++
			units = append(units, card(g)...)
			continue
		}
		on++
		list := parts(g, func(d device.MIGDevice) string { profiles[d.Profile] = true; return share.GPU })
		if len(list) == 0 {
			return nil, fmt.Sprintf("MIG strategy single: GPU %s has MIG on and no MIG devices; create some, or use the strategy mixed", g.UUID)
		}
		units = append(units, list...)
	}
	switch {
	case on > 0 && off > 0:
		return nil, fmt.Sprintf("MIG strategy single: %d GPUs have MIG on and %d have it off; make them alike, or use the strategy mixed", on, off)
	case len(profiles) > 1:
		return nil, fmt.Sprintf("MIG strategy single: there are MIG devices of %d profiles; make them alike, or use the strategy mixed", len(profiles))
	}
	return shared(units, c), ""
}

func offerMixed(m device.Machine, c share.Config) []Unit {
	var units []Unit
	for _, g := range usable(m) {
		if g.MIG.Enabled() {
			units = append(units, parts(g, func(d device.MIGDevice) string { return share.MIGResource(d.Profile) })...)
		} else {
			units = append(units, card(g)...)
		}
	}
	return shared(units, c)
}

// shared turns each device of a shared resource into its replicas, and sorts.
func shared(units []Unit, c share.Config) []Unit {
	var out []Unit
	seen := map[string]int{}
	for _, u := range units {
		r, ok := c.Of(u.Resource)
		place := seen[u.Resource]
		seen[u.Resource]++
		if !ok || !picks(r, u, place) {
			out = append(out, u)
			continue
		}
		for n := range r.Replicas {
			s := u.Share(n)
			s.Resource = r.As
			out = append(out, s)
		}
	}
	Sort(out)
	return out
}

// Share is the n-th share of a device.
func (u Unit) Share(n int) Unit {
	u.ID, u.Replica = u.Device()+"::"+strconv.Itoa(n), n
	return u
}

// Sort puts units into the order of Offer.
func Sort(units []Unit) {
	slices.SortStableFunc(units, func(a, b Unit) int {
		return cmp.Or(strings.Compare(a.Resource, b.Resource), cmp.Compare(a.Order, b.Order), cmp.Compare(a.Replica, b.Replica))
	})
}

// picks tells whether the device in that place of its resource is one of the shared.
func picks(r share.Replication, u Unit, place int) bool {
	if r.First > 0 {
		return place < r.First
	}
	index := strconv.Itoa(u.Order >> 8)
	if u.MIG != "" {
		index += ":" + strconv.Itoa(u.Order&0xff)
	}
	return r.Devices == nil || slices.Contains(r.Devices, index) || slices.Contains(r.Devices, u.Device())
}

// Count says how much of each resource units are.
func Count(units []Unit) map[string]int {
	n := map[string]int{}
	for _, u := range units {
		n[u.Resource]++
	}
	return n
}
