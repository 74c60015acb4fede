// Package mig plans how cards are partitioned: it reads which layout is wanted, in the
// form of NVIDIA's mig-parted, knows those that follow from a card's own profiles by
// name (all-disabled, all-1g.10gb, all-balanced, ...), and says step by step what must
// change on a card (For). It is pure; agent/gpus does the steps. It refuses layouts that
// no card could have, and never takes an instance away that somebody holds.
//
// Start reading at File and Wish, then Layout and For in plan.go; reshape.go plans for pods that wait.
package mig

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"orch/gpu/device"
)

// Layout is what one card should be.
type Layout struct {
	Enabled bool
	// Devices counts MIG devices by profile; empty leaves an enabled card without any.
	Devices map[string]int
}

// File is a configuration: layouts by the name that a node's label has.
type File map[string][]Spec

// Spec is a layout and the cards that it is for.
type Spec struct {
	// Filter has PCI ids as NVML spells them, device above vendor; empty takes all models.
	Filter []uint32
	// Indices of cards; nil takes all.
	Indices []int
	Layout
}

// for tells whether the spec is about a card.
func (s Spec) matches(g device.GPU) bool {
	id := uint32(g.PCI.Device)<<16 | uint32(g.PCI.Vendor)
	return (len(s.Filter) == 0 || slices.Contains(s.Filter, id)) && (s.Indices == nil || slices.Contains(s.Indices, g.Index))
}

// maxDevices bounds the count of a profile: no card has more.
const maxDevices = 8

// form is mig-parted's, version v1.
type form struct {
	Version string                `json:"version"`
	Configs map[string][]formSpec `json:"mig-configs"`
}

type formSpec struct {
	Filter  json.RawMessage `json:"device-filter"`
	Devices json.RawMessage `json:"devices"`
	Enabled *bool           `json:"mig-enabled"`
	MIG     map[string]int  `json:"mig-devices"`
}

// Parse reads a configuration. An error names the field that is wrong.
func Parse(text []byte) (File, error) {
	var f form
	if err := yaml.UnmarshalStrict(text, &f); err != nil {
		return nil, fmt.Errorf("reading the MIG configuration: %w", err)
	}
	if f.Version != "v1" {
		return nil, fmt.Errorf("reading the MIG configuration: version: %q, it must be v1", f.Version)
	}
	if len(f.Configs) == 0 {
		return nil, errors.New("reading the MIG configuration: mig-configs: at least one entry is required")
	}
	out := File{}
	for _, name := range slices.Sorted(maps.Keys(f.Configs)) {
		if len(f.Configs[name]) == 0 {
			return nil, fmt.Errorf("reading the MIG configuration: mig-configs.%s: at least one entry is required", name)
		}
		for i, s := range f.Configs[name] {
			spec, err := s.parse()
			if err != nil {
				return nil, fmt.Errorf("reading the MIG configuration: mig-configs.%s[%d].%w", name, i, err)
			}
			out[name] = append(out[name], spec)
		}
	}
	return out, nil
}

func (s formSpec) parse() (out Spec, err error) {
	if s.Enabled == nil {
		return out, errors.New("mig-enabled: it is required")
	}
	out.Enabled, out.Layout.Devices = *s.Enabled, s.MIG
	switch {
	case *s.Enabled && s.MIG == nil:
		return out, errors.New("mig-devices: it is required where mig-enabled is true; {} is none")
	case !*s.Enabled && len(s.MIG) > 0:
		return out, errors.New("mig-devices: there are none where mig-enabled is false")
	}
	for name, n := range s.MIG {
		if err := profileName(name); err != nil {
			return out, err
		}
		if n < 0 || n > maxDevices {
			return out, fmt.Errorf("mig-devices.%s: %d, it may be 0 to %d", name, n, maxDevices)
		}
	}
	if out.Filter, err = s.filter(); err != nil {
		return out, err
	}
	out.Indices, err = s.indices()
	return out, err
}

// profileName refuses what cannot be a profile: "<n>g.<m>gb" and what follows, "<n>c." in front of
// it for a compute instance that takes only a part.
func profileName(name string) error {
	of, part := split(name)
	g, rest, ok := strings.Cut(of, "g.")
	gb, _, okGB := strings.Cut(rest, "gb")
	if !ok || !okGB || !digits(g) || !digits(gb) {
		return fmt.Errorf("mig-devices.%s: it is no profile; one looks like 1g.10gb or 1c.2g.20gb", name)
	}
	if all, err := strconv.Atoi(g); of != name && (err != nil || part < 1 || part > all) {
		return fmt.Errorf("mig-devices.%s: it takes %d of %s slices", name, part, g)
	}
	return nil
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// filter is one PCI id or several, "0x233010DE".
func (s formSpec) filter() ([]uint32, error) {
	if len(s.Filter) == 0 || string(s.Filter) == "null" {
		return nil, nil
	}
	var one string
	var list []string
	if json.Unmarshal(s.Filter, &one) == nil {
		if one == "" {
			return nil, nil
		}
		list = []string{one}
	} else if json.Unmarshal(s.Filter, &list) != nil {
		return nil, fmt.Errorf("device-filter: %s, it must be a PCI id such as 0x233010DE, or a list of them", s.Filter)
	}
	var out []uint32
	for _, text := range list {
		id, err := strconv.ParseUint(strings.TrimPrefix(strings.ToLower(text), "0x"), 16, 32)
		if err != nil {
			return nil, fmt.Errorf("device-filter: %q, it must be a PCI id such as 0x233010DE", text)
		}
		out = append(out, uint32(id))
	}
	return out, nil
}

// indices are nil for all.
func (s formSpec) indices() ([]int, error) {
	var all string
	if json.Unmarshal(s.Devices, &all) == nil && all == "all" {
		return nil, nil
	}
	out := []int{}
	if err := json.Unmarshal(s.Devices, &out); err != nil || len(s.Devices) == 0 || out == nil {
		return nil, fmt.Errorf("devices: %s, it must be all or a list of indices", cmp.Or(string(s.Devices), "not given"))
	}
	return out, nil
}

// Wish is what each card should be under a name, by UUID; a card that is not in it is
// left as it is. A name of the file goes before the one that every node knows.
func Wish(f File, name string, m device.Machine) (map[string]Layout, error) {
	var err error
	out := map[string]Layout{}
	if specs, ok := f[name]; ok {
		for _, g := range m.GPUs {
			for _, s := range specs { // the last one that is for the card counts, as with mig-parted
				if g.UUID != "" && s.matches(g) {
					out[g.UUID] = s.Layout
				}
			}
		}
	} else if out, err = builtIn(f, name, m); err != nil {
		return nil, err
	}
	for _, g := range m.GPUs {
		if l, ok := out[g.UUID]; ok {
			if err := check(g, l); err != nil {
				return nil, fmt.Errorf("MIG configuration %q: %w", name, err)
			}
		}
	}
	return out, nil
}

// builtIn are the layouts that follow from the cards' own profiles. Cards that cannot be
// partitioned, or have no such profile, stay as they are.
func builtIn(f File, name string, m device.Machine) (map[string]Layout, error) {
	out := map[string]Layout{}
	var known []string
	for _, g := range m.GPUs {
		if g.UUID == "" || g.MIG == nil {
			continue
		}
		layouts := layoutsOf(g.MIG)
		known = append(known, slices.Collect(maps.Keys(layouts))...)
		if l, ok := layouts[name]; ok {
			out[g.UUID] = l
		}
	}
	known = append(known, slices.Collect(maps.Keys(f))...)
	slices.Sort(known)
	switch {
	case len(out) > 0 || name == "all-disabled":
		return out, nil
	case len(known) == 0:
		return nil, fmt.Errorf("MIG configuration %q: this node has no GPU that can be partitioned", name)
	}
	return nil, fmt.Errorf("MIG configuration %q: there is none of that name; this node has %s", name, strings.Join(slices.Compact(known), ", "))
}

func layoutsOf(m *device.MIG) map[string]Layout {
	out := map[string]Layout{"all-disabled": {}, "all-enabled": {Enabled: true}}
	smallest := map[int]device.Profile{} // by slices
	for _, p := range m.Profiles {
		out["all-"+strings.ReplaceAll(p.Name, "+", ".")] = Layout{true, map[string]int{p.Name: p.Instances}}
		if strings.ContainsAny(p.Name, "+-") {
			continue
		}
		if old, ok := smallest[p.Slices]; !ok || p.MemoryMiB < old.MemoryMiB {
			smallest[p.Slices] = p
		}
	}
	one, hasOne := smallest[1]
	two, hasTwo := smallest[2]
	if hasOne && hasTwo {
		l := Layout{true, map[string]int{one.Name: 2, two.Name: 1}}
		if three, ok := smallest[3]; ok {
			l.Devices[three.Name] = 1
		}
		out["all-balanced"] = l
	}
	return out
}

// check refuses what a card could never be.
func check(g device.GPU, l Layout) error {
	if !l.Enabled {
		return nil
	}
	if g.MIG == nil {
		return fmt.Errorf("GPU %d (%s) cannot be partitioned: leave it out by devices or device-filter", g.Index, g.Name)
	}
	wanted, err := wantedOf(g.MIG, l)
	if err != nil {
		return fmt.Errorf("GPU %d (%s): %w", g.Index, g.Name, err)
	}
	if !placeable(wanted) {
		return nil // the driver says the places only once the mode is on
	}
	if _, ok := place(nil, wanted); !ok {
		return fmt.Errorf("GPU %d (%s) has no room for %s at the same time", g.Index, g.Name, l)
	}
	return nil
}

func (l Layout) String() string {
	if !l.Enabled {
		return "MIG off"
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(l.Devices)) {
		if n := l.Devices[name]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d x %s", n, name))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "no MIG device")
}
