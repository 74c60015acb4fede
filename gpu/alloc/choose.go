package alloc

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"orch/gpu/device"
)

// Request asks for units of one resource.
type Request struct {
	Resource string
	Count    int
	// Free are the units that nobody holds and health allows; others are not looked at.
	Free []Unit
	// Held are the ids in use, of the same resource: shares go where fewest are held.
	Held []string
	// OneOnly refuses more than one share (share.Config.OneOnly).
	OneOnly bool
}

// ErrTooFew says that not enough is free.
var ErrTooFew = errors.New("not enough devices are free")

// maxExhaustive is the most cards of which every subset is looked at (16 over 8 is
// 12,870); no machine has more in one box.
const maxExhaustive = 16

// Choose picks the units for a request: cards that are near each other and leave the
// others near each other, MIG devices from the card that has fewest left, shares from
// the device that has fewest users. Equal inputs give equal answers.
func Choose(m device.Machine, r Request) ([]Unit, error) {
	var free []Unit
	for _, u := range r.Free {
		if u.Resource == r.Resource {
			free = append(free, u)
		}
	}
	switch {
	case r.Count < 1:
		return nil, fmt.Errorf("allocating %s: %d is no number of devices", r.Resource, r.Count)
	case len(free) < r.Count:
		return nil, fmt.Errorf("allocating %s: %d wanted, %d free: %w", r.Resource, r.Count, len(free), ErrTooFew)
	case free[0].Replica >= 0 && r.OneOnly && r.Count > 1:
		return nil, fmt.Errorf("request for '%s: %d' too large: maximum request size for shared resources is 1", r.Resource, r.Count)
	}
	slices.SortStableFunc(free, func(a, b Unit) int { return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.Replica, b.Replica)) })
	switch {
	case slices.ContainsFunc(free, func(u Unit) bool { return u.Replica >= 0 }):
		return spread(free, r), nil
	case free[0].MIG != "":
		return pack(free, r.Count), nil
	}
	return near(m, free, r.Count), nil
}

// spread takes shares one by one, each from the device with the fewest users.
func spread(free []Unit, r Request) []Unit {
	users := map[string]int{}
	for _, id := range r.Held {
		users[DeviceOf(id)]++
	}
	var out []Unit
	for len(out) < r.Count {
		best := 0
		for i, u := range free {
			if users[u.Device()] < users[free[best].Device()] {
				best = i
			}
		}
		u := free[best]
		users[u.Device()]++
		out = append(out, u)
		free = slices.Delete(free, best, best+1)
	}
	return out
}

// pack takes MIG devices from the fullest cards, so that whole cards stay empty.
func pack(free []Unit, n int) []Unit {
	left := map[string]int{}
	for _, u := range free {
		left[u.Card]++
	}
	slices.SortStableFunc(free, func(a, b Unit) int { return cmp.Compare(left[a.Card], left[b.Card]) })
	return free[:n]
}

// near takes the cards with the best links among them; among equals those that leave
// the best links behind, then the first on the bus.
func near(m device.Machine, free []Unit, n int) []Unit {
	if len(free) == n || len(free) > maxExhaustive {
		return free[:n]
	}
	links := scores(m, free)
	var best []int
	bestIn, bestOut := -1, -1
	subsets(len(free), n, func(set []int) {
		in, out := links.within(set), links.without(set)
		if in > bestIn || in == bestIn && out > bestOut {
			best, bestIn, bestOut = slices.Clone(set), in, out
		}
	})
	picked := make([]Unit, n)
	for i, k := range best {
		picked[i] = free[k]
	}
	return picked
}

// matrix has the worth of the way between each two cards.
type matrix [][]int

// nearness is what a way is worth without NVLink; a link is worth linkWorth. The
// proportions are those by which NVIDIA's own allocator ranks.
var nearness = map[device.Level]int{
	device.LevelInternal: 60, device.LevelSingle: 50, device.LevelMultiple: 40,
	device.LevelHostBridge: 30, device.LevelNode: 20, device.LevelSystem: 10,
}

const linkWorth = 100

func scores(m device.Machine, free []Unit) matrix {
	out := make(matrix, len(free))
	for i, a := range free {
		out[i] = make([]int, len(free))
		g, _ := m.GPU(a.Card)
		for j, b := range free {
			k := slices.IndexFunc(g.Peers, func(p device.Peer) bool { return p.UUID == b.Card })
			switch {
			case i == j || k < 0:
			case g.Peers[k].NVLinks > 0:
				out[i][j] = linkWorth * g.Peers[k].NVLinks
			default:
				out[i][j] = nearness[g.Peers[k].Level]
			}
		}
	}
	return out
}

func (x matrix) within(set []int) (sum int) {
	for i, a := range set {
		for _, b := range set[i+1:] {
			sum += x[a][b]
		}
	}
	return sum
}

func (x matrix) without(set []int) int {
	var rest []int
	for i := range x {
		if !slices.Contains(set, i) {
			rest = append(rest, i)
		}
	}
	return x.within(rest)
}

// subsets calls each with every n of 0..all-1, in lexical order. The slice is reused.
func subsets(all, n int, each func([]int)) {
	set := make([]int, n)
	var fill func(at, from int)
	fill = func(at, from int) {
		if at == n {
			each(set)
			return
		}
		for i := from; i <= all-n+at; i++ {
			set[at] = i
			fill(at+1, i+1)
		}
	}
	fill(0, 0)
}
