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
	// Profile and At are what to create, and where; Parts the slices of its compute
	// instances, nil for one over all of it.
	Profile device.Profile
	At      device.Placement
	Parts   []int
}

func (s Step) String() string {
	switch s.Op {
	case Create:
		return fmt.Sprintf("%s %s", s.Op, s.Profile.Name)
	case Destroy:
		return fmt.Sprintf("%s instance %d", s.Op, s.GI)
	}
	return string(s.Op)
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

// want is a GPU instance as it should be.
type want struct {
	device.Profile
	// parts are the slices of its compute instances, the largest first; usually one over all.
	parts []int
}

// item is an instance, present or wanted.
type item struct {
	want
	at  device.Placement
	gi  int
	who string // who holds it
}

func (i item) is(w want) bool { return i.ID == w.ID && slices.Equal(i.parts, w.parts) }

// layout keeps as many instances as possible.
func (p Plan) layout(g device.GPU, wanted []want, held Held) (Plan, error) {
	var fixed, idle []item
	rest := slices.Clone(wanted)
	for _, i := range present(g.MIG, held) {
		at := slices.IndexFunc(rest, i.is)
		switch {
		case i.who == "":
			idle = append(idle, i)
		case at < 0:
			p.Blocked = fmt.Sprintf("%s holds the MIG device %s of GPU %d, which is not wanted", i.who, i.Name, g.Index)
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
			who = append(who, fmt.Sprintf("%s holds %s", i.who, i.Name))
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
		p.Steps = append(p.Steps, i.create())
	}
	return p, nil
}

// create is the step that makes it.
func (i item) create() Step {
	s := Step{Op: Create, Profile: i.Profile, At: i.at}
	if len(i.parts) > 1 || i.parts[0] != i.Slices {
		s.Parts = i.parts
	}
	return s
}

func present(m *device.MIG, held Held) []item {
	var out []item
	for _, gi := range m.Instances {
		k, _ := m.Profile(gi.ProfileID) // one that is unknown fits no wish
		i := item{want: want{Profile: k}, at: gi.Placement, gi: gi.ID}
		for _, ci := range gi.Compute {
			n := ci.Slices
			if n == 0 && len(gi.Compute) == 1 {
				n = k.Slices // the driver does not say
			}
			i.parts = append(i.parts, n)
			i.who = cmp.Or(i.who, held[ci.UUID])
		}
		slices.SortFunc(i.parts, func(a, b int) int { return b - a })
		out = append(out, i)
	}
	return out
}

// choose finds the largest set of idle instances, as bits, that can stay beside what is
// fixed and what is made; a card has seven at most.
func choose(fixed, idle []item, rest []want) (keep uint, made []item, ok bool) {
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
			at := slices.IndexFunc(left, i.is)
			if fits = at >= 0; !fits {
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

// place finds places for instances beside what is there, the largest first.
func place(around []item, wanted []want) ([]item, bool) {
	slots := 0
	for _, i := range around {
		slots += i.Slices
	}
	for _, w := range wanted {
		slots += w.Slices
	}
	if slots > totalSlices {
		return nil, false
	}
	return fit(around, nil, wanted)
}

// fit tries the places of the first, and those of the others for each.
func fit(around, made []item, wanted []want) ([]item, bool) {
	if len(wanted) == 0 {
		return made, true
	}
	w := wanted[0]
	for _, at := range w.Placements {
		taken := func(i item) bool { return i.at.Overlaps(at) }
		if slices.ContainsFunc(around, taken) || slices.ContainsFunc(made, taken) {
			continue
		}
		if out, ok := fit(around, append(slices.Clip(made), item{want: w, at: at}), wanted[1:]); ok {
			return out, true
		}
	}
	return nil, false
}

func size(p device.Profile) int {
	if len(p.Placements) == 0 {
		return p.Slices
	}
	return p.Placements[0].Size
}

// placeable tells whether the places of all are known.
func placeable(wanted []want) bool {
	return !slices.ContainsFunc(wanted, func(p want) bool { return len(p.Placements) == 0 })
}
