package alloc

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"orch/gpu/device"
	"orch/gpu/share"
)

// box has cards of so many GiB, named A, B and so on.
func box(gib ...uint64) device.Machine {
	var m device.Machine
	for i, n := range gib {
		m.GPUs = append(m.GPUs, device.GPU{Index: i, UUID: string(rune('A' + i)), MemoryBytes: new(n << 30)})
	}
	return m
}

// without are the units of a machine but for those of cards that are held whole.
func without(m device.Machine, whole string) []Unit {
	units, _ := Offer(m, share.Config{})
	return slices.DeleteFunc(units, func(u Unit) bool { return whole != "" && strings.Contains(whole, u.Card) })
}

func TestShareIDs(t *testing.T) {
	s := Share{Card: "GPU-1", Slot: 2, Amount: share.Amount{MemoryMiB: 3000, CorePercent: 30}}
	if got, ok := ParseShare(s.ID()); !ok || got != s || s.ID() != "GPU-1::share-2.3000m.30c" || DeviceOf(s.ID()) != "GPU-1" {
		t.Error(s.ID(), got, ok)
	}
	for _, id := range []string{"GPU-1", "GPU-1::0", "GPU-1::share-", "GPU-1::share-0.1m", "GPU-1::share-0.xm.1c", "GPU-1::share--1.1m.1c", "GPU-1::share-0.1c.1m"} {
		if s, ok := ParseShare(id); ok {
			t.Errorf("%s is %+v", id, s)
		}
	}
}

func TestChooseShares(t *testing.T) {
	m := box(80, 80, 24)
	for _, tc := range []struct {
		name        string
		want        share.Request
		held, spare []string
		whole       string
		// ids, or the error.
		expect string
	}{
		{"the smallest card that is unused", share.Request{Cards: 1, MemoryMiB: 3000}, nil, nil, "", "C::share-0.3000m.0c"},
		{"a large one where it must be", share.Request{Cards: 1, MemoryMiB: 30000}, nil, nil, "", "A::share-0.30000m.0c"},
		{"beside others", share.Request{Cards: 1, MemoryMiB: 3000, CorePercent: 10}, []string{"B::share-0.3000m.30c"}, nil, "", "B::share-1.3000m.10c"},
		{"in the fullest", share.Request{Cards: 1, MemoryMiB: 3000}, []string{"A::share-0.3000m.0c", "B::share-0.6000m.0c"}, nil, "", "B::share-1.3000m.0c"},
		{"a slot that became free", share.Request{Cards: 1, MemoryMiB: 1}, []string{"A::share-1.3000m.0c"}, nil, "", "A::share-0.1m.0c"},
		{"half a card is half of that card", share.Request{Cards: 1, MemoryPercent: 50, CorePercent: 50}, nil, nil, "C", "A::share-0.40960m.50c"},
		{"two halves", share.Request{Cards: 1, MemoryPercent: 50, CorePercent: 50}, []string{"A::share-0.40960m.50c"}, nil, "", "A::share-1.40960m.50c"},
		{"different cards", share.Request{Cards: 2, MemoryMiB: 3000}, nil, nil, "", "C::share-0.3000m.0c A::share-0.3000m.0c"},
		{"never beside a whole one", share.Request{Cards: 1, MemoryMiB: 3000}, nil, nil, "ABC", "Insufficient nvidia.com/gpu: no card is shared with room or unused"},
		{"more than any card", share.Request{Cards: 1, MemoryMiB: 90000}, nil, nil, "", "Insufficient nvidia.com/gpumem: 90000 MiB of one card wanted, the largest has 81920"},
		{"more than is free", share.Request{Cards: 1, MemoryMiB: 50000}, []string{"A::share-0.40000m.0c"}, nil, "B", "Insufficient nvidia.com/gpumem: 50000 MiB of one card wanted, 41920 are free at most"},
		{"multiprocessors", share.Request{Cards: 1, MemoryMiB: 1, CorePercent: 30}, []string{"A::share-0.1m.80c"}, nil, "BC", "Insufficient nvidia.com/gpucores: 30 % of one card wanted"},
		{"more cards than there are", share.Request{Cards: 4, MemoryMiB: 1}, nil, nil, "", "Insufficient nvidia.com/gpu: parts of 4 cards wanted, there are 3"},
		{"more cards than are free", share.Request{Cards: 3, MemoryMiB: 1}, nil, nil, "A", "Insufficient nvidia.com/gpu: 1 MiB of each of 3 cards wanted, 2 have that free"},
		{"what an init container had", share.Request{Cards: 1, MemoryMiB: 60000}, []string{"A::share-0.50000m.0c"}, []string{"A::share-0.50000m.0c"}, "BC", "A::share-0.60000m.0c"},
		{"not more than its slot gives", share.Request{Cards: 1, MemoryMiB: 60000}, []string{"A::share-0.50000m.0c", "A::share-1.30000m.0c"}, []string{"A::share-0.50000m.0c"}, "BC", "Insufficient nvidia.com/gpumem"},
	} {
		got, err := ChooseShares(m, ShareRequest{Want: tc.want, Free: without(m, tc.whole), All: without(m, ""), Held: tc.held, Spare: tc.spare})
		if err != nil {
			if !errors.Is(err, ErrTooFew) || !strings.HasPrefix(err.Error(), tc.expect) {
				t.Errorf("%s: %v", tc.name, err)
			}
			continue
		}
		if s := strings.Join(got, " "); s != tc.expect {
			t.Errorf("%s: %s, want %s", tc.name, s, tc.expect)
		}
	}
}

// TestReplicasAreNotCutAgain: a card offered in replicas has no amounts left to give.
func TestReplicasAreNotCutAgain(t *testing.T) {
	m := box(80)
	units, _ := Offer(m, share.Config{Method: share.TimeSlicing, Resources: []share.Replication{{Name: share.GPU, As: share.GPU, Replicas: 2}}})
	if ids, err := ChooseShares(m, ShareRequest{Want: share.Request{Cards: 1, MemoryMiB: 1}, Free: units}); err == nil {
		t.Error(ids)
	}
}

// TestShareOfSingleMIG: where nvidia.com/gpu is a MIG device, a share is one of these.
func TestShareOfSingleMIG(t *testing.T) {
	m := load(t, "h200-mig").Clone()
	m.GPUs = m.GPUs[:1]
	d := m.GPUs[0].MIGDevices()[0]
	m.GPUs[0].MIG.Instances = m.GPUs[0].MIG.Instances[:1]
	units, why := Offer(m, share.Config{MIG: share.Single})
	if why != "" {
		t.Fatal(why)
	}
	got, err := ChooseShares(m, ShareRequest{Want: share.Request{Cards: 1, MemoryMiB: 1000}, Free: units})
	if err != nil || got[0] != d.UUID {
		t.Error(got, err)
	}
}

// TestSharesNeverOverfill gives and takes back at random.
func TestSharesNeverOverfill(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	m := box(16, 24, 24, 80)
	var held []string
	for range 3000 {
		want := share.Request{Cards: 1 + r.IntN(2), MemoryMiB: 1 + r.Int64N(30000), CorePercent: r.Int64N(60)}
		got, err := ChooseShares(m, ShareRequest{Want: want, Free: without(m, ""), Held: held})
		if err == nil {
			if len(got) != want.Cards {
				t.Fatalf("%v for %+v", got, want)
			}
			for _, id := range got {
				if slices.Contains(held, id) {
					t.Fatalf("%s is given twice", id)
				}
			}
			held = append(held, got...)
		}
		for card, a := range Used(held) {
			g, _ := m.GPU(card)
			if a.MemoryMiB > int64(*g.MemoryBytes>>20) || a.CorePercent > 100 {
				t.Fatalf("%s: %v given out", card, a)
			}
		}
		held = slices.DeleteFunc(held, func(string) bool { return r.IntN(4) == 0 })
	}
}
