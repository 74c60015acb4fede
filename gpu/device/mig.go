package device

import (
	"fmt"
	"math"
	"slices"
)

// MIG is how a card is or may be partitioned. A card has GPU instances (memory and
// engines), which have compute instances (multiprocessors); a container gets one compute
// instance, which is what has a UUID and what NVML calls a MIG device.
type MIG struct {
	Mode Pending `json:"mode"`
	// Max is the most MIG devices the card can have.
	Max       int           `json:"max,omitempty"`
	Profiles  []Profile     `json:"profiles,omitempty"`
	Instances []GPUInstance `json:"instances,omitempty"`
}

// Profile is a kind of GPU instance that the card offers.
type Profile struct {
	// ID is the number that nvidia-smi and DRA device names use (19 is 1g of an A100).
	ID int `json:"id"`
	// Index is NVML's NVML_GPU_INSTANCE_PROFILE_* constant, which creation asks by.
	Index int `json:"index"`
	// Name is without a "MIG " in front: "1g.18gb", "1g.18gb+me".
	Name       string     `json:"name"`
	Slices     int        `json:"slices"`
	MemoryMiB  uint64     `json:"memoryMiB"`
	Attributes Attributes `json:"attributes,omitzero"`
	// Instances is how many of this kind an empty card holds.
	Instances int  `json:"instances"`
	P2P       bool `json:"p2p,omitempty"`
	// Placements are all that an empty card offers, in memory slices.
	Placements []Placement      `json:"placements,omitempty"`
	Compute    []ComputeProfile `json:"compute,omitempty"`
}

// ComputeProfile is a kind of compute instance within a GPU instance of a Profile.
type ComputeProfile struct {
	ID int `json:"id"`
	// Index is NVML's NVML_COMPUTE_INSTANCE_PROFILE_* constant.
	Index           int `json:"index"`
	Slices          int `json:"slices"`
	Instances       int `json:"instances"`
	Multiprocessors int `json:"multiprocessors,omitempty"`
}

// Placement is a range of a card's memory slices.
type Placement struct {
	Start int `json:"start"`
	Size  int `json:"size"`
}

// Overlaps tells whether two instances could not stand beside each other.
func (p Placement) Overlaps(q Placement) bool {
	return p.Start < q.Start+q.Size && q.Start < p.Start+p.Size
}

// GPUInstance is a part of a card that exists. Its id is unique on the card.
type GPUInstance struct {
	ID        int       `json:"id"`
	ProfileID int       `json:"profileID"`
	Placement Placement `json:"placement"`
	// CapMinor is the minor below /dev/nvidia-caps that gives access; nil is unknown.
	CapMinor *int              `json:"capMinor,omitempty"`
	Compute  []ComputeInstance `json:"compute,omitempty"`
}

// ComputeInstance is what a container is given. Its id is unique in its GPU instance.
type ComputeInstance struct {
	ID        int `json:"id"`
	ProfileID int `json:"profileID"`
	Slices    int `json:"slices,omitempty"`
	// UUID is "MIG-...", opaque: nothing may be read out of it.
	UUID string `json:"uuid,omitempty"`
	// Index is the j of "i:j", NVML's index of MIG devices on the card.
	Index       int        `json:"index"`
	MemoryBytes *uint64    `json:"memoryBytes,omitempty"`
	Attributes  Attributes `json:"attributes,omitzero"`
	CapMinor    *int       `json:"capMinor,omitempty"`
	Problem     *Problem   `json:"problem,omitempty"`
}

// MIGDevice is a compute instance seen from outside, with all that names it.
type MIGDevice struct {
	ComputeInstance
	Parent     string // UUID of the card
	ParentPCI  string
	GI         int
	GICapMinor *int
	Placement  Placement
	// Profile is the name that nvidia.com/mig-<name> is made of: that of the GPU
	// instance, with "<n>c." in front when the compute instance has only a part of it.
	Profile string
	// Kind is the GPU instance's row; zero where the card's profiles are unknown.
	Kind Profile
}

// Enabled tells whether the card is partitioned now.
func (m *MIG) Enabled() bool { return m != nil && m.Mode.Current }

// Profile returns the row with that id.
func (m *MIG) Profile(id int) (Profile, bool) {
	if m == nil {
		return Profile{}, false
	}
	i := slices.IndexFunc(m.Profiles, func(p Profile) bool { return p.ID == id })
	if i < 0 {
		return Profile{}, false
	}
	return m.Profiles[i], true
}

// ProfileNamed returns the row with that name, "1g.18gb+me".
func (m *MIG) ProfileNamed(name string) (Profile, bool) {
	if m == nil {
		return Profile{}, false
	}
	i := slices.IndexFunc(m.Profiles, func(p Profile) bool { return p.Name == name })
	if i < 0 {
		return Profile{}, false
	}
	return m.Profiles[i], true
}

// MIGDevices are the card's MIG devices, in the order of their index.
func (g GPU) MIGDevices() []MIGDevice {
	if !g.MIG.Enabled() {
		return nil
	}
	var out []MIGDevice
	for _, gi := range g.MIG.Instances {
		kind, _ := g.MIG.Profile(gi.ProfileID)
		for _, ci := range gi.Compute {
			name := kind.Name
			if name != "" && ci.Slices > 0 && ci.Slices < kind.Slices {
				name = fmt.Sprintf("%dc.%s", ci.Slices, name)
			}
			out = append(out, MIGDevice{ComputeInstance: ci, Parent: g.UUID, ParentPCI: g.PCI.Address, GI: gi.ID,
				GICapMinor: gi.CapMinor, Placement: gi.Placement, Profile: name, Kind: kind})
		}
	}
	slices.SortStableFunc(out, func(a, b MIGDevice) int { return a.Index - b.Index })
	return out
}

func (m *MIG) clone() *MIG {
	if m == nil {
		return nil
	}
	c := *m
	c.Profiles = slices.Clone(m.Profiles)
	for i, p := range c.Profiles {
		c.Profiles[i].Placements, c.Profiles[i].Compute = slices.Clone(p.Placements), slices.Clone(p.Compute)
	}
	c.Instances = slices.Clone(m.Instances)
	for i, gi := range c.Instances {
		c.Instances[i].Compute = slices.Clone(gi.Compute)
	}
	return &c
}

// profileSuffix is what a profile's name ends in, by NVML's index.
var profileSuffix = map[int]string{7: "+me", 8: "+me", 10: "+gfx", 11: "+gfx", 12: "+gfx", 13: "-me", 14: "-me", 15: "+me.all", 16: "+me.all", 17: "+gfx"}

// ProfileName makes the name of a profile where the driver does not give one: memory
// is counted in eighths of the card's, rounded up, as nvidia-smi does.
func ProfileName(index, slices int, memoryBytes, cardBytes uint64) string {
	const gib = 1 << 30
	if cardBytes == 0 {
		return ""
	}
	eighths := math.Ceil(8 * float64(memoryBytes) / float64(cardBytes))
	total := (cardBytes + gib - 1) / gib
	return fmt.Sprintf("%dg.%.0fgb%s", slices, math.Round(eighths/8*float64(total)), profileSuffix[index])
}
