package mig

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"

	"orch/gpu/device"
	"orch/gpu/share"
)

// Demand is what a pod asks for that waits because its node offers too little. Of several the
// first comes first.
type Demand struct {
	Pod      string
	Resource string // nvidia.com/gpu or nvidia.com/mig-<profile>
	Count    int
}

// Idle is what Reshape may look at beside the cards themselves.
type Idle struct {
	Held Held
	// Usable tells whether a card or MIG device, by UUID, may be given out.
	Usable func(uuid string) bool
	// Young tells of a card that was reshaped a moment ago: what was made there waits for its
	// pod, so it stays, or two pods would undo each other's for ever.
	Young func(card string) bool
}

// Reshaping is what Reshape came to.
type Reshaping struct {
	// Plans change idle cards, one each, in the order of the cards; For says for which pods.
	Plans []Plan
	For   map[string][]string
	// Short are demands that cannot be met now.
	Short []Demand
}

// Reshape plans how idle cards are partitioned anew for pods that wait. What is free is
// left to them as it is; else an instance is made where it costs least: beside idle ones, then in
// the place of some, then on a whole card; and where it leaves the largest room. A pod gets all
// that it asks for, or nothing. Cards of which somebody holds a part are never changed, and
// without demand nothing is. A change of the mode comes alone: what follows it is planned anew.
func Reshape(m device.Machine, demands []Demand, idle Idle) Reshaping {
	b := newBoard(m, idle)
	out := Reshaping{For: map[string][]string{}}
	for _, d := range demands {
		before := b.clone()
		for range d.Count {
			if !b.meet(d) {
				b = before
				out.Short = append(out.Short, d)
				break
			}
		}
	}
	for _, c := range b {
		if p := c.plan(); len(p.Steps) > 0 {
			out.Plans = append(out.Plans, p)
			out.For[c.g.UUID] = c.pods
		}
	}
	return out
}

// maxPotential is how many of a resource are counted.
const maxPotential = 8

// Potential says how many of each resource the cards could offer at once, what is free
// included: each alone, as if nobody else asked for another; and not beyond 8.
func Potential(m device.Machine, idle Idle) map[string]int {
	names := map[string]bool{}
	for _, g := range m.GPUs {
		if g.MIG == nil || g.UUID == "" {
			continue // a machine of such cards alone has nothing to plan
		}
		names[share.GPU] = true
		for _, p := range g.MIG.Profiles {
			names[share.MIGResource(p.Name)] = true
		}
	}
	out := map[string]int{}
	for name := range names {
		b, d := newBoard(m, idle), Demand{Resource: name}
		for n := 0; n < maxPotential && b.meet(d); n++ {
			out[name]++
		}
	}
	return out
}

// card is a card as it would be.
type card struct {
	g device.GPU
	// on is the mode, fixed that it stays what it is: somebody holds a part, it is ill, or young.
	on, fixed bool
	// taken is who gets the whole of it.
	taken string
	items []item
	// gone are the ids of instances that go; pods whom the changes are for.
	gone []int
	pods []string
	// usable tells of each MIG device whether it may be given out, by GPU instance.
	usable map[int]bool
}

// board are the cards, those too that cannot be partitioned.
type board []card

func newBoard(m device.Machine, idle Idle) board {
	var b board
	for _, g := range m.GPUs {
		if g.UUID == "" || g.Problem != nil {
			continue
		}
		c := card{g: g, on: g.MIG.Enabled(), usable: map[int]bool{}}
		c.fixed = g.MIG == nil || idle.Held[g.UUID] != "" || !idle.Usable(g.UUID) || g.MIG.Mode.Current != g.MIG.Mode.Pending || idle.Young(g.UUID)
		c.taken = idle.Held[g.UUID]
		if !idle.Usable(g.UUID) {
			c.taken = cmp.Or(c.taken, "nobody")
		}
		if c.on {
			c.items = present(g.MIG, idle.Held)
		}
		for _, d := range g.MIGDevices() {
			c.usable[d.GI] = idle.Usable(d.UUID)
		}
		for i := range c.items {
			c.fixed = c.fixed || c.items[i].who != ""
		}
		b = append(b, c)
	}
	return b
}

func (b board) clone() board {
	out := slices.Clone(b)
	for i := range out {
		out[i].items, out[i].gone, out[i].pods = slices.Clone(b[i].items), slices.Clone(b[i].gone), slices.Clone(b[i].pods)
	}
	return out
}

// meet gives the pod one more unit.
func (b board) meet(d Demand) bool {
	if d.Resource == share.GPU {
		return b.meetWhole(d.Pod)
	}
	for i := range b {
		for n := range b[i].items {
			it := &b[i].items[n]
			if it.who == "" && it.resource() == d.Resource && (it.gi < 0 || b[i].usable[it.gi]) {
				it.who = cmp.Or(d.Pod, "somebody")
				return true
			}
		}
	}
	best := offer{cost: none}
	at := -1
	for i := range b {
		if o := b[i].carve(d.Resource); o.better(best) {
			best, at = o, i
		}
	}
	if at < 0 {
		return false
	}
	b[at].take(best, cmp.Or(d.Pod, "somebody"))
	return true
}

func (b board) meetWhole(pod string) bool {
	pod = cmp.Or(pod, "somebody")
	at := -1
	for i, c := range b {
		if !c.on && c.taken == "" {
			b[i].taken = pod
			return true
		}
		promised := slices.ContainsFunc(c.items, func(i item) bool { return i.who != "" })
		if c.on && !c.fixed && !promised && (at < 0 || len(c.items) < len(b[at].items)) {
			at = i
		}
	}
	if at < 0 {
		return false
	}
	c := &b[at]
	c.on, c.taken = false, pod
	c.changedFor(pod)
	return true
}

func (c *card) changedFor(pod string) {
	if !slices.Contains(c.pods, pod) {
		c.pods = append(c.pods, pod)
	}
}

// cost of an offer, the cheapest first.
type cost int

const (
	beside  cost = iota // room is there
	instead             // idle instances go
	opened              // a whole card is partitioned
	none
)

// offer is a way in which a card could have one more instance.
type offer struct {
	cost cost
	lost int // idle instances that go
	room int // the largest instance that could still be made, in memory slices
	keep []item
	made item
	gone []int
}

func (o offer) better(than offer) bool {
	return cmp.Or(cmp.Compare(o.cost, than.cost), cmp.Compare(o.lost, than.lost), cmp.Compare(than.room, o.room)) < 0
}

// carve finds the best way to make an instance that serves the resource.
func (c card) carve(resource string) offer {
	best := offer{cost: none}
	if c.fixed || c.taken != "" {
		return best
	}
	at := slices.IndexFunc(c.g.MIG.Profiles, func(p device.Profile) bool { return share.MIGResource(p.Name) == resource })
	unplaced := slices.ContainsFunc(c.items, func(i item) bool { return i.at.Size == 0 })
	if at < 0 || unplaced {
		return best
	}
	profile, cheapest := want{c.g.MIG.Profiles[at], []int{c.g.MIG.Profiles[at].Slices}}, beside
	if !c.g.MIG.Mode.Current {
		cheapest = opened
		if len(profile.Placements) == 0 { // the driver says them only once the mode is on
			return offer{cost: opened, made: item{want: profile, gi: -1}}
		}
	}
	var idle []int // of items that may go
	for n, i := range c.items {
		if i.who == "" && i.gi >= 0 {
			idle = append(idle, n)
		}
	}
	sets := make([]uint, 1<<len(idle)) // a card has seven at most
	for i := range sets {
		sets[i] = uint(i)
	}
	slices.SortStableFunc(sets, func(a, b uint) int { return bits.OnesCount(a) - bits.OnesCount(b) })
	for _, set := range sets {
		if best.cost < none && bits.OnesCount(set) > best.lost {
			break
		}
		o := offer{cost: cheapest}
		for n, i := range c.items {
			if at := slices.Index(idle, n); at >= 0 && set&(1<<at) != 0 {
				o.cost, o.lost, o.gone = instead, o.lost+1, append(o.gone, i.gi)
			} else {
				o.keep = append(o.keep, i)
			}
		}
		for _, place := range profile.Placements {
			o.made = item{want: profile, at: place, gi: -1}
			if !fits(o.keep, o.made) {
				continue
			}
			o.room = room(c.g.MIG, append(slices.Clip(o.keep), o.made))
			if o.better(best) {
				best = o
			}
		}
	}
	return best
}

// take does what was offered.
func (c *card) take(o offer, pod string) {
	c.changedFor(pod)
	o.made.who = pod
	c.on, c.items, c.gone = true, append(o.keep, o.made), append(c.gone, o.gone...)
}

// fits tells whether an instance can stand beside others.
func fits(others []item, made item) bool {
	slots, alike := made.Slices, 1
	for _, o := range others {
		if o.at.Overlaps(made.at) {
			return false
		}
		slots += o.Slices
		if o.ID == made.ID {
			alike++
		}
	}
	return slots <= totalSlices && alike <= made.Instances
}

// room is the size of the largest instance that could be made beside those.
func room(m *device.MIG, items []item) int {
	best := 0
	for _, p := range m.Profiles {
		if size(p) <= best {
			continue
		}
		for _, at := range p.Placements {
			if fits(items, item{want: want{Profile: p}, at: at}) {
				best = size(p)
				break
			}
		}
	}
	return best
}

// resource is the name that the instance serves; one in parts serves another.
func (i item) resource() string {
	if len(i.parts) != 1 || i.parts[0] != i.Slices {
		return ""
	}
	return share.MIGResource(i.Name)
}

// plan is what makes the card as it would be.
func (c card) plan() Plan {
	p := Plan{Card: c.g.UUID}
	if c.on != c.g.MIG.Enabled() {
		return p.mode(c.g, c.on, nil)
	}
	for _, gi := range c.gone {
		p.Steps = append(p.Steps, Step{Op: Destroy, GI: gi})
		for _, d := range c.g.MIGDevices() {
			if d.GI == gi {
				p.Parts = append(p.Parts, d.UUID)
			}
		}
	}
	for _, i := range c.items {
		if i.gi < 0 {
			p.Steps = append(p.Steps, i.create())
		}
	}
	return p
}

// String is the demand in a sentence.
func (d Demand) String() string { return fmt.Sprintf("%d x %s", d.Count, d.Resource) }
