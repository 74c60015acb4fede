package alloc

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"orch/gpu/device"
	"orch/gpu/fakenvml"
	"orch/gpu/share"
)

func load(t testing.TB, name string) device.Machine {
	t.Helper()
	rec, err := fakenvml.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	return rec.Machine
}

func TestOffer(t *testing.T) {
	slices := share.Config{Method: share.TimeSlicing, Resources: []share.Replication{{Name: share.GPU, As: share.GPU + ".shared", Replicas: 3, First: 1}}}
	for _, tc := range []struct {
		name, machine string
		config        share.Config
		want          map[string]int
		why           string
	}{
		{"cards", "h100-8", share.Config{}, map[string]int{share.GPU: 8}, ""},
		{"first card shared", "h100-8", slices, map[string]int{share.GPU: 7, share.GPU + ".shared": 3}, ""},
		{"MIG ignored", "h200-mig", share.Config{MIG: share.None}, map[string]int{share.GPU: len(load(t, "h200-mig").GPUs)}, ""},
		{"single without MIG", "h100-8", share.Config{MIG: share.Single}, map[string]int{share.GPU: 8}, ""},
	} {
		got, why := Offer(load(t, tc.machine), tc.config)
		if !reflect.DeepEqual(Count(got), tc.want) || why != tc.why {
			t.Errorf("%s: %v %q, want %v", tc.name, Count(got), why, tc.want)
		}
	}
	mixed, _ := Offer(load(t, "h200-mig"), share.Config{MIG: share.Mixed})
	devices := 0
	for _, g := range load(t, "h200-mig").GPUs {
		devices += len(g.MIGDevices())
	}
	n := 0
	for _, u := range mixed {
		if strings.HasPrefix(u.Resource, "nvidia.com/mig-") && u.MIG == u.ID {
			n++
		}
	}
	if n != devices || n == 0 {
		t.Errorf("mixed offers %d of %d MIG devices: %v", n, devices, Count(mixed))
	}
}

func TestSingleWantsAllAlike(t *testing.T) {
	m := load(t, "h200-mig")
	profiles := map[string]bool{}
	for _, d := range m.GPUs[0].MIGDevices() {
		profiles[d.Profile] = true
	}
	units, why := Offer(m, share.Config{MIG: share.Single})
	if (len(profiles) > 1 || len(m.GPUs) > 1) && (why == "" || units != nil) {
		t.Errorf("%d units of %d profiles, %q", len(units), len(profiles), why)
	}
	m.GPUs[0].MIG.Instances = nil
	if units, why := Offer(m, share.Config{MIG: share.Single}); units != nil || !strings.Contains(why, "has MIG on and no MIG devices") {
		t.Errorf("%v %q", units, why)
	}
}

func TestBrokenCardsAreNotOffered(t *testing.T) {
	m := load(t, "h100-8").Clone()
	m.GPUs[2].Problem = &device.Problem{Code: device.CodeGPULost}
	m.GPUs[3].UUID = ""
	if got, _ := Offer(m, share.Config{}); len(got) != 6 {
		t.Errorf("%d of 6 are offered", len(got))
	}
}

// pairs is a box of two halves: cards 0 to 3 and 4 to 7 have NVLinks among them.
func pairs() device.Machine {
	var m device.Machine
	for i := range 8 {
		g := device.GPU{Index: i, UUID: string(rune('A' + i))}
		for j := range 8 {
			p := device.Peer{UUID: string(rune('A' + j)), Level: device.LevelSystem}
			if i/4 == j/4 {
				p.NVLinks = 4
			}
			if i != j {
				g.Peers = append(g.Peers, p)
			}
		}
		m.GPUs = append(m.GPUs, g)
	}
	return m
}

func ids(units []Unit) string {
	var s []string
	for _, u := range units {
		s = append(s, u.ID)
	}
	return strings.Join(s, " ")
}

func TestChooseCards(t *testing.T) {
	m := pairs()
	all, _ := Offer(m, share.Config{})
	without := func(gone string) []Unit {
		var out []Unit
		for _, u := range all {
			if !strings.Contains(gone, u.ID) {
				out = append(out, u)
			}
		}
		return out
	}
	for _, tc := range []struct {
		name  string
		free  []Unit
		count int
		want  string
	}{
		{"four of one half", all, 4, "A B C D"},
		{"the half that is whole", without("B"), 4, "E F G H"},
		{"one from the broken half", without("B"), 1, "A"},
		{"two leave the other half whole", without("AB"), 2, "C D"},
		{"all", all, 8, "A B C D E F G H"},
	} {
		got, err := Choose(m, Request{Resource: share.GPU, Count: tc.count, Free: tc.free})
		if err != nil || ids(got) != tc.want {
			t.Errorf("%s: %s, %v, want %s", tc.name, ids(got), err, tc.want)
		}
	}
}

func TestChooseSharesSpreads(t *testing.T) {
	m := pairs()
	c := share.Config{Method: share.TimeSlicing, Resources: []share.Replication{{Name: share.GPU, As: share.GPU, Replicas: 2}}}
	all, _ := Offer(m, c)
	got, err := Choose(m, Request{Resource: share.GPU, Count: 2, Free: all, Held: []string{"A::1", "B::0"}})
	if err != nil || ids(got) != "C::0 D::0" {
		t.Errorf("%s %v", ids(got), err)
	}
	_, err = Choose(m, Request{Resource: share.GPU, Count: 2, Free: all, OneOnly: true})
	if err == nil || err.Error() != "request for 'nvidia.com/gpu: 2' too large: maximum request size for shared resources is 1" {
		t.Error(err)
	}
}

func TestChooseRefuses(t *testing.T) {
	m := pairs()
	all, _ := Offer(m, share.Config{})
	if _, err := Choose(m, Request{Resource: share.GPU, Count: 9, Free: all}); !errors.Is(err, ErrTooFew) {
		t.Error(err)
	}
	if _, err := Choose(m, Request{Resource: share.GPU, Free: all}); err == nil {
		t.Error("none is no number of devices")
	}
}

// TestNoDoubleUse gives and takes back at random: nothing is out twice, nothing is lost.
func TestNoDoubleUse(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for _, name := range fakenvml.Names() {
		m := load(t, name)
		all, _ := Offer(m, share.Config{MIG: share.Mixed, Resources: []share.Replication{{Name: share.GPU, As: share.GPU, Replicas: 3}}})
		held := map[string]bool{}
		for range 300 {
			var free []Unit
			var use []string
			for _, u := range all {
				if held[u.ID] {
					use = append(use, u.ID)
				} else {
					free = append(free, u)
				}
			}
			if len(all) == 0 {
				break
			}
			want := Request{Resource: all[r.IntN(len(all))].Resource, Count: 1 + r.IntN(3), Free: free, Held: use}
			got, err := Choose(m, want)
			if err != nil && !errors.Is(err, ErrTooFew) {
				t.Fatal(err)
			}
			for _, u := range got {
				if held[u.ID] || u.Resource != want.Resource {
					t.Fatalf("%s: %s is given twice, or for another resource", name, u.ID)
				}
				held[u.ID] = true
			}
			for id := range held {
				if r.IntN(3) == 0 {
					delete(held, id)
				}
			}
		}
	}
}

func BenchmarkChooseFourOfEight(b *testing.B) {
	m := load(b, "h200-8")
	all, _ := Offer(m, share.Config{})
	for b.Loop() {
		if _, err := Choose(m, Request{Resource: share.GPU, Count: 4, Free: all}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestNamesThatAreNoneAreNotOffered: a driver's profile name that is too long, or no name at all,
// takes its device away and nothing else.
func TestNamesThatAreNoneAreNotOffered(t *testing.T) {
	rec, err := fakenvml.Load("h200-mig")
	if err != nil {
		t.Fatal(err)
	}
	before, _ := Offer(rec.Machine, share.Config{MIG: share.Mixed})
	for _, name := range []string{"1g." + strings.Repeat("8", 60) + "gb", "1g 18gb", "", "../1g"} {
		m := rec.Machine.Clone()
		for i, p := range m.GPUs[0].MIG.Profiles {
			if p.Name == "3g.71gb" {
				m.GPUs[0].MIG.Profiles[i].Name = name
			}
		}
		if got, _ := Offer(m, share.Config{MIG: share.Mixed}); len(got) != len(before)-1 {
			t.Errorf("%q: %d are offered, want %d", name, len(got), len(before)-1)
		}
	}
}
