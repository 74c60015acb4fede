package alloc

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"orch/gpu/device"
	"orch/gpu/share"
)

// Share is a part of a card that a container holds. Its id says how much, so that ledger,
// binding and status need no second place for it: "GPU-...::share-0.3000m.30c". Whoever
// passes a share on passes on its slot: of two ids in one slot the larger one counts.
type Share struct {
	Card string
	Slot int
	share.Amount
}

const shareMark = "share-"

// ID is the unit id.
func (s Share) ID() string {
	return fmt.Sprintf("%s::%s%d.%dm.%dc", s.Card, shareMark, s.Slot, s.MemoryMiB, s.CorePercent)
}

// ParseShare reads an id; ok is false for one of another kind.
func ParseShare(id string) (s Share, ok bool) {
	card, rest, _ := strings.Cut(id, "::")
	rest, ok = strings.CutPrefix(rest, shareMark)
	fields := strings.Split(rest, ".")
	if !ok || len(fields) != 3 {
		return Share{}, false
	}
	number := func(text, unit string) int64 {
		digits, has := strings.CutSuffix(text, unit)
		n, err := strconv.ParseInt(digits, 10, 64)
		if !has || err != nil || n < 0 {
			ok = false
		}
		return n
	}
	s = Share{Card: card, Slot: int(number(fields[0], "")), Amount: share.Amount{MemoryMiB: number(fields[1], "m"), CorePercent: number(fields[2], "c")}}
	return s, ok
}

// ShareRequest asks for parts of cards.
type ShareRequest struct {
	Want share.Request
	// Free are the units of nvidia.com/gpu that health allows and that nobody holds but in
	// shares. Only whole ones count: a card that is offered in replicas is shared already.
	Free []Unit
	// All are those of the node, for the sentence that says what is short.
	All []Unit
	// Held are the ids in use on the node; those that are no shares are not looked at.
	Held []string
	// Spare are shares that the pod's earlier containers pass on.
	Spare []string
}

// usage is what is given out of a card.
type usage struct {
	slots map[int]share.Amount
	spare []Share
}

func (u usage) sum() (a share.Amount) {
	for _, s := range u.slots {
		a.MemoryMiB += s.MemoryMiB
		a.CorePercent += s.CorePercent
	}
	return a
}

// without is the sum as it is once the share's slot is given on.
func (u usage) without(s Share) share.Amount {
	a := u.sum()
	a.MemoryMiB -= u.slots[s.Slot].MemoryMiB
	a.CorePercent -= u.slots[s.Slot].CorePercent
	return a
}

// usageOf sums shares by card.
func usageOf(held, spare []string) map[string]*usage {
	out := map[string]*usage{}
	at := func(card string) *usage {
		if out[card] == nil {
			out[card] = &usage{slots: map[int]share.Amount{}}
		}
		return out[card]
	}
	for _, id := range held {
		if s, ok := ParseShare(id); ok {
			old := at(s.Card).slots[s.Slot]
			at(s.Card).slots[s.Slot] = share.Amount{MemoryMiB: max(old.MemoryMiB, s.MemoryMiB), CorePercent: max(old.CorePercent, s.CorePercent)}
		}
	}
	for _, id := range spare {
		if s, ok := ParseShare(id); ok {
			at(s.Card).spare = append(at(s.Card).spare, s)
		}
	}
	return out
}

// Used is what is given out of each card, by UUID.
func Used(held []string) map[string]share.Amount {
	out := map[string]share.Amount{}
	for card, u := range usageOf(held, nil) {
		out[card] = u.sum()
	}
	return out
}

// place is where a share could go.
type place struct {
	unit  Unit
	share Share
	// shared: somebody has a part of the card already. spare: it is the pod's own from before.
	shared, spare bool
	leftMiB       int64
}

// allCores is what the multiprocessors of a card sum up to.
const allCores = 100

// Shortage says why shares do not fit, in the words of resources: what is short and of
// which resource. Never: not even an empty node would do.
type Shortage struct {
	Resource, Why string
	Never         bool
}

func (s *Shortage) Error() string { return "Insufficient " + s.Resource + ": " + s.Why }

// Unwrap makes it one of those that say that not enough is free.
func (s *Shortage) Unwrap() error { return ErrTooFew }

// ChooseShares picks the cards of a request and names what of them is given: first what
// the pod has from before, then the fullest card where it fits, so that others stay
// whole. Under the MIG strategy single a share is a MIG device that is large enough. The
// error is a *Shortage. Equal inputs give equal answers.
func ChooseShares(m device.Machine, r ShareRequest) ([]string, error) {
	used := usageOf(r.Held, r.Spare)
	var places []place
	for _, u := range r.Free {
		if p, ok := fit(u, r.Want, used[u.Card]); ok {
			places = append(places, p)
		}
	}
	if len(places) < r.Want.Cards {
		return nil, shortage(r, used, len(places))
	}
	slices.SortStableFunc(places, func(a, b place) int {
		return cmp.Or(first(a.spare, b.spare), first(a.shared, b.shared), cmp.Compare(a.leftMiB, b.leftMiB), cmp.Compare(a.unit.Order, b.unit.Order))
	})
	begun := 0
	for begun < r.Want.Cards && (places[begun].spare || places[begun].shared) {
		begun++
	}
	picked := places[:begun]
	if rest := r.Want.Cards - begun; rest > 0 {
		picked = slices.Concat(picked, fresh(m, places[begun:], rest))
	}
	out := make([]string, len(picked))
	for i, p := range picked {
		out[i] = p.unit.ID
		if p.unit.MIG == "" {
			out[i] = p.share.ID()
		}
	}
	return out, nil
}

func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// fresh takes n untouched cards: of the smallest that there are enough of those that are
// near each other.
func fresh(m device.Machine, places []place, n int) []place {
	end := n
	for end < len(places) && places[end].leftMiB == places[n-1].leftMiB {
		end++
	}
	begin := n - 1
	for begin > 0 && places[begin-1].leftMiB == places[n-1].leftMiB {
		begin--
	}
	out := slices.Clone(places[:begin])
	alike := places[begin:end]
	var units []Unit
	for _, p := range alike {
		units = append(units, p.unit)
	}
	slices.SortStableFunc(units, func(a, b Unit) int { return cmp.Compare(a.Order, b.Order) })
	for _, u := range near(m, units, n-begin) {
		out = append(out, alike[slices.IndexFunc(alike, func(p place) bool { return p.unit.ID == u.ID })])
	}
	return out
}

// fit tells whether and where on a unit the request fits.
func fit(u Unit, want share.Request, has *usage) (place, bool) {
	size := u.MemoryMiB
	if size == 0 || u.Replica >= 0 {
		return place{}, false
	}
	a := want.On(size)
	p := place{unit: u, leftMiB: size - a.MemoryMiB}
	if u.MIG != "" {
		return p, p.leftMiB >= 0
	}
	if has == nil {
		has = &usage{}
	}
	sum := has.sum()
	p.share = Share{Card: u.Card, Slot: freeSlot(has.slots), Amount: a}
	p.shared = len(has.slots) > 0
	for _, s := range has.spare { // what is passed on makes room for what takes its place
		if rest := has.without(s); rest.MemoryMiB+a.MemoryMiB <= size && rest.CorePercent+a.CorePercent <= allCores {
			p.share.Slot, p.spare, sum = s.Slot, true, rest
			break
		}
	}
	p.leftMiB = size - sum.MemoryMiB - a.MemoryMiB
	return p, p.leftMiB >= 0 && sum.CorePercent+a.CorePercent <= allCores
}

func freeSlot(slots map[int]share.Amount) int {
	n := 0
	for ; ; n++ {
		if _, taken := slots[n]; !taken {
			return n
		}
	}
}

// shortage finds the sentence for a request that does not fit.
func shortage(r ShareRequest, used map[string]*usage, fit int) *Shortage {
	var largest, mostFree, cards int64
	enough := false // of memory, somewhere
	for _, u := range r.All {
		if u.Replica < 0 {
			largest, cards = max(largest, u.MemoryMiB), cards+1
		}
	}
	for _, u := range r.Free {
		if u.Replica >= 0 || u.MemoryMiB == 0 {
			continue
		}
		free := u.MemoryMiB
		if has := used[u.Card]; has != nil && u.MIG == "" {
			free -= has.sum().MemoryMiB
		}
		mostFree = max(mostFree, free)
		enough = enough || free >= r.Want.On(u.MemoryMiB).MemoryMiB
	}
	want := r.Want.On(largest)
	switch {
	case cards == 0:
		return &Shortage{share.GPU, "parts of cards wanted, no card is offered as a whole", true}
	case want.MemoryMiB > largest:
		return &Shortage{share.Memory, fmt.Sprintf("%d MiB of one card wanted, the largest has %d", want.MemoryMiB, largest), true}
	case int64(r.Want.Cards) > cards:
		return &Shortage{share.GPU, fmt.Sprintf("parts of %d cards wanted, there are %d", r.Want.Cards, cards), true}
	case fit > 0 && fit < r.Want.Cards:
		return &Shortage{share.GPU, fmt.Sprintf("%s of each of %d cards wanted, %d have that free", want, r.Want.Cards, fit), false}
	case enough:
		return &Shortage{share.Cores, fmt.Sprintf("%d %% of one card wanted, no card with enough memory has that free", want.CorePercent), false}
	case mostFree == 0:
		return &Shortage{share.GPU, "no card is shared with room or unused", false}
	}
	return &Shortage{share.Memory, fmt.Sprintf("%d MiB of one card wanted, %d are free at most", want.MemoryMiB, mostFree), false}
}

// CheckShares tells why shares that somebody else chose for the request cannot be had;
// nil if they can.
func CheckShares(r ShareRequest, chosen []string) error {
	used := usageOf(r.Held, r.Spare)
	if len(chosen) != r.Want.Cards {
		return fmt.Errorf("%d shares are chosen where %d are wanted", len(chosen), r.Want.Cards)
	}
	seen := map[string]bool{}
	for _, id := range chosen {
		i := slices.IndexFunc(r.Free, func(u Unit) bool { return u.Device() == DeviceOf(id) })
		if i < 0 || seen[DeviceOf(id)] {
			return fmt.Errorf("%s cannot be given in parts now", DeviceOf(id))
		}
		seen[DeviceOf(id)] = true
		u, has := r.Free[i], used[r.Free[i].Card]
		p, ok := fit(u, r.Want, has)
		if !ok {
			return fmt.Errorf("there is no room for %s on %s", r.Want.On(u.MemoryMiB), u.ID)
		}
		if u.MIG != "" {
			if id != u.ID {
				return fmt.Errorf("%s is no share of a MIG device", id)
			}
			continue
		}
		s, ok := ParseShare(id)
		if !ok || s.Amount != p.share.Amount {
			return fmt.Errorf("%s is not the share that is wanted, %s", id, p.share.Amount)
		}
		if !has.gives(s.Slot) {
			return fmt.Errorf("%s is in use", id)
		}
	}
	return nil
}

// gives tells whether a slot is empty, or is passed on.
func (u *usage) gives(slot int) bool {
	if u == nil {
		return true
	}
	_, taken := u.slots[slot]
	return !taken || slices.ContainsFunc(u.spare, func(s Share) bool { return s.Slot == slot })
}

// SharedCards are those of which somebody holds a share, sorted.
func SharedCards(held []string) []string {
	return slices.Sorted(maps.Keys(usageOf(held, nil)))
}

// sameSlot tells that two ids are of one place on one card.
func sameSlot(a, b string) bool {
	x, ok := ParseShare(a)
	y, also := ParseShare(b)
	return ok && also && x.Card == y.Card && x.Slot == y.Slot
}
