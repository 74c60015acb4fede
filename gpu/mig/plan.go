package mig

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"orch/gpu/device"
)

// Op is what a step does.
type Op string

// Steps. A change of the mode stands alone: what can follow it, only the card knows then.
const (
	Enable  Op = "turn MIG on"
	Disable Op = "turn MIG off"
	Destroy Op = "destroy"
	Create  Op = "create"
)

// Step is one change of a card.
type Step struct {
	Op Op
	// GI is the instance to destroy.
	GI int
	// Profile and At are what to create, and where.
	Profile device.Profile
	At      device.Placement
}

// Plan is what must change on a card. With nothing to do and nothing in the way, the card
// is as it should be.
type Plan struct {
	Card  string
	Steps []Step
	// Parts are the UUIDs that nobody may get while the steps are done.
	Parts []string
	// Blocked says who is in the way; then there are no steps.
	Blocked string
}

// Held says who holds a device, by its UUID; absent: nobody.
type Held map[string]string

// totalSlices is how many compute slices the instances of a card share.
const totalSlices = 7

// For plans a card. Instances that fit stay, and so do all that somebody holds.
func For(g device.GPU, want Layout, held Held) (Plan, error) {
	p := Plan{Card: g.UUID}
	if err := check(g, want); err != nil {
		return p, err
	}
	if g.MIG == nil {
		return p, nil
	}
	if want.Enabled != g.MIG.Mode.Current {
		return p.mode(g, want.Enabled, held), nil
	}
	if !want.Enabled {
		return p, nil
	}
	wanted, err := wantedOf(g.MIG, want)
	if err != nil {
		return p, err
	}
	return p.layout(g, wanted, held)
}

// mode turns partitioning on or off, which wants a card that nobody holds a part of.
func (p Plan) mode(g device.GPU, on bool, held Held) Plan {
	op := Disable
	if on {
		op = Enable
	}
	p.Parts = []string{g.UUID}
	for _, d := range g.MIGDevices() {
		p.Parts = append(p.Parts, d.UUID)
	}
	for _, uuid := range p.Parts {
		if who := held[uuid]; who != "" {
			p.Blocked = fmt.Sprintf("GPU %d must be idle to %s, and %s holds %s", g.Index, op, who, uuid)
			return p
		}
	}
	if !on {
		for _, gi := range g.MIG.Instances {
			p.Steps = append(p.Steps, Step{Op: Destroy, GI: gi.ID})
		}
	}
	p.Steps = append(p.Steps, Step{Op: op})
	return p
}

// item is an instance, present or wanted.
type item struct {
	profile device.Profile
	at      device.Placement
	gi      int
	who     string // who holds it
	odd     bool   // not one compute instance over all of it: it fits no wish
}

// layout keeps as many instances as possible.
func (p Plan) layout(g device.GPU, wanted []device.Profile, held Held) (Plan, error) {
	var fixed, idle []item
	rest := slices.Clone(wanted)
	for _, i := range present(g.MIG, held) {
		at := slices.IndexFunc(rest, func(w device.Profile) bool { return w.ID == i.profile.ID })
		switch {
		case i.who == "":
			idle = append(idle, i)
		case i.odd || at < 0:
			p.Blocked = fmt.Sprintf("%s holds the MIG device %s of GPU %d, which is not wanted", i.who, i.profile.Name, g.Index)
			return p, nil
		default:
			rest = slices.Delete(rest, at, at+1)
			fixed = append(fixed, i)
		}
	}
	keep, made, ok := choose(fixed, idle, rest)
	if !ok {
		var who []string
		for _, i := range fixed {
			who = append(who, fmt.Sprintf("%s holds %s", i.who, i.profile.Name))
		}
		p.Blocked = fmt.Sprintf("GPU %d has no room for the rest where its instances lie: %s", g.Index, strings.Join(who, ", "))
		return p, nil
	}
	for n, i := range idle {
		if keep&(1<<n) != 0 {
			continue
		}
		p.Steps = append(p.Steps, Step{Op: Destroy, GI: i.gi})
		for _, d := range g.MIGDevices() {
			if d.GI == i.gi {
				p.Parts = append(p.Parts, d.UUID)
			}
		}
	}
	for _, i := range made {
		p.Steps = append(p.Steps, Step{Op: Create, Profile: i.profile, At: i.at})
	}
	return p, nil
}

func present(m *device.MIG, held Held) []item {
	var out []item
	for _, gi := range m.Instances {
		k, ok := m.Profile(gi.ProfileID)
		i := item{profile: k, at: gi.Placement, gi: gi.ID, odd: !ok || len(gi.Compute) != 1}
		for _, ci := range gi.Compute {
			i.odd = i.odd || ci.Slices > 0 && ci.Slices != k.Slices
			i.who = cmp.Or(i.who, held[ci.UUID])
		}
		out = append(out, i)
	}
	return out
}

// choose finds the largest set of idle instances, as bits, that can stay beside what is
// fixed and what is made; a card has seven at most.
func choose(fixed, idle []item, rest []device.Profile) (keep uint, made []item, ok bool) {
	sets := make([]uint, 1<<len(idle))
	for i := range sets {
		sets[i] = uint(i)
	}
	slices.SortStableFunc(sets, func(a, b uint) int { return bits.OnesCount(b) - bits.OnesCount(a) })
	for _, set := range sets {
		around, left, fits := slices.Clone(fixed), slices.Clone(rest), true
		for n, i := range idle {
			if set&(1<<n) == 0 {
				continue
			}
			at := slices.IndexFunc(left, func(w device.Profile) bool { return w.ID == i.profile.ID })
			if fits = fits && !i.odd && at >= 0; !fits {
				break
			}
			around, left = append(around, i), slices.Delete(left, at, at+1)
		}
		if !fits {
			continue
		}
		if made, ok := place(around, left); ok {
			return set, made, true
		}
	}
	return 0, nil, false
}

// place finds places for profiles beside what is there, the largest first.
func place(around []item, profiles []device.Profile) ([]item, bool) {
	slots := 0
	for _, i := range around {
		slots += i.profile.Slices
	}
	for _, p := range profiles {
		slots += p.Slices
	}
	if slots > totalSlices {
		return nil, false
	}
	return fit(around, nil, profiles)
}

// fit tries the places of the first profile, and those of the others for each.
func fit(around, made []item, profiles []device.Profile) ([]item, bool) {
	if len(profiles) == 0 {
		return made, true
	}
	p := profiles[0]
	for _, at := range p.Placements {
		taken := func(i item) bool { return i.at.Overlaps(at) }
		if slices.ContainsFunc(around, taken) || slices.ContainsFunc(made, taken) {
			continue
		}
		if out, ok := fit(around, append(slices.Clip(made), item{profile: p, at: at}), profiles[1:]); ok {
			return out, true
		}
	}
	return nil, false
}

// wantedOf lists the profiles of a layout one by one, the largest first.
func wantedOf(m *device.MIG, l Layout) ([]device.Profile, error) {
	var out []device.Profile
	for name, n := range l.Devices {
		p, ok := m.ProfileNamed(name)
		if !ok {
			var have []string
			for _, p := range m.Profiles {
				have = append(have, p.Name)
			}
			return nil, fmt.Errorf("there is no profile %s, but %s", name, strings.Join(have, ", "))
		}
		if n > p.Instances {
			return nil, fmt.Errorf("it holds %d of %s at most, not %d", p.Instances, name, n)
		}
		for range n {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b device.Profile) int {
		return cmp.Or(cmp.Compare(size(b), size(a)), cmp.Compare(b.Slices, a.Slices), strings.Compare(a.Name, b.Name))
	})
	return out, nil
}

func size(p device.Profile) int {
	if len(p.Placements) == 0 {
		return p.Slices
	}
	return p.Placements[0].Size
}

// placeable tells whether the places of all are known.
func placeable(profiles []device.Profile) bool {
	return !slices.ContainsFunc(profiles, func(p device.Profile) bool { return len(p.Placements) == 0 })
}
