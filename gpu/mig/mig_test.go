package mig

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"orch/gpu/device"
	"orch/gpu/fakenvml"
)

func load(t testing.TB, name string) (*fakenvml.Player, device.Machine) {
	t.Helper()
	rec, err := fakenvml.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	rec.Processes = nil
	return fakenvml.New(rec), rec.Machine
}

// apply does the steps of a card until none is left, and gives what was blocked.
func apply(t testing.TB, p *fakenvml.Player, card string, want Layout, held Held) (blocked string) {
	t.Helper()
	for range 3 {
		m, err := p.Machine(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		g, _ := m.GPU(card)
		plan, err := For(g, want, held)
		if err != nil {
			t.Fatal(err)
		}
		if plan.Blocked != "" || len(plan.Steps) == 0 {
			return plan.Blocked
		}
		for _, s := range plan.Steps {
			if err := do(p, card, s); err != nil {
				t.Fatalf("%s: %+v: %v", want, s, err)
			}
		}
	}
	t.Fatalf("%s is not reached in three rounds", want)
	return ""
}

func do(p *fakenvml.Player, card string, s Step) (err error) {
	switch ctx := context.Background(); s.Op {
	case Enable, Disable:
		_, err = p.SetMIGMode(ctx, card, s.Op == Enable)
	case Destroy:
		err = p.DestroyInstance(ctx, card, s.GI)
	case Create:
		_, err = p.CreateInstance(ctx, card, s.Profile.ID, &s.At, s.Parts...)
	}
	return err
}

// counts are the card's MIG devices by profile.
func counts(g device.GPU) map[string]int {
	out := map[string]int{}
	for _, d := range g.MIGDevices() {
		out[d.Profile]++
	}
	return out
}

// TestBuiltInLayouts: each layout that a card knows can be made, from whatever the one
// before it was.
func TestBuiltInLayouts(t *testing.T) {
	for _, name := range []string{"a100-40", "a100-80", "h100", "h200", "h200-mig", "b200"} {
		p, m := load(t, name)
		card := m.GPUs[0].UUID
		layouts := layoutsOf(m.GPUs[0].MIG)
		for _, config := range slices.Sorted(maps.Keys(layouts)) {
			wish, err := Wish(nil, config, m)
			if err != nil {
				t.Fatal(name, err)
			}
			if why := apply(t, p, card, wish[card], nil); why != "" {
				t.Errorf("%s %s: %s", name, config, why)
			}
			now := p.Snapshot().GPUs[0]
			if now.MIG.Enabled() != wish[card].Enabled || !maps.Equal(counts(now), orEmpty(wish[card].Devices)) {
				t.Errorf("%s %s: %v", name, config, counts(now))
			}
		}
	}
}

func orEmpty(m map[string]int) map[string]int {
	out := maps.Clone(m)
	if out == nil {
		out = map[string]int{}
	}
	maps.DeleteFunc(out, func(_ string, n int) bool { return n == 0 })
	return out
}

func TestNamesAsNVIDIAHasThem(t *testing.T) {
	_, m := load(t, "h200")
	l := layoutsOf(m.GPUs[0].MIG)
	for name, want := range map[string]string{
		"all-1g.18gb": "7 x 1g.18gb", "all-1g.18gb.me": "1 x 1g.18gb+me", "all-1g.35gb": "4 x 1g.35gb", "all-balanced": "2 x 1g.18gb, 1 x 2g.35gb, 1 x 3g.71gb",
		"all-7g.141gb": "1 x 7g.141gb", "all-enabled": "no MIG device", "all-disabled": "MIG off",
	} {
		if got := l[name].String(); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

// TestHeldInstancesStay: whatever is wanted and whoever holds what, nobody loses an
// instance; where nothing is in the way the card becomes what was wished, and instances
// that fit are not made anew.
func TestHeldInstancesStay(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, name := range []string{"a100-40", "h200", "b200"} {
		for n := range 300 {
			p, m := load(t, name)
			card := m.GPUs[0].UUID
			apply(t, p, card, randomLayout(r, m.GPUs[0]), nil)
			before := p.Snapshot().GPUs[0]
			held := Held{}
			for _, d := range before.MIGDevices() {
				if r.IntN(3) == 0 {
					held[d.UUID] = "pod a/b"
				}
			}
			if !before.MIG.Enabled() && r.IntN(3) == 0 {
				held[card] = "pod a/b"
			}
			want := randomLayout(r, before)
			why := apply(t, p, card, want, held)
			after := p.Snapshot().GPUs[0]
			checkHeld(t, fmt.Sprintf("%s %d", name, n), before, after, held)
			if reached := after.MIG.Enabled() == want.Enabled && maps.Equal(counts(after), orEmpty(want.Devices)); reached != (why == "") {
				t.Fatalf("%s %d: want %s, got %v, blocked %q", name, n, want, counts(after), why)
			}
			if len(held) == 0 && why != "" {
				t.Fatalf("%s %d: nobody holds anything, and yet: %s", name, n, why)
			}
			if why != "" && !strings.Contains(why, "pod a/b") {
				t.Fatalf("%s %d: %q does not say who", name, n, why)
			}
		}
	}
}

func checkHeld(t *testing.T, what string, before, after device.GPU, held Held) {
	t.Helper()
	m := device.Machine{GPUs: []device.GPU{after}}
	for _, d := range before.MIGDevices() {
		now, ok := m.MIGDevice(d.UUID)
		if held[d.UUID] != "" && (!ok || now.Placement != d.Placement) {
			t.Fatalf("%s: the held %s at %v is gone", what, d.Profile, d.Placement)
		}
	}
	if held[before.UUID] != "" && after.MIG.Enabled() {
		t.Fatalf("%s: the mode of a held card was changed", what)
	}
}

// randomLayout is one that the card can have.
func randomLayout(r *rand.Rand, g device.GPU) Layout {
	for {
		l := Layout{Enabled: r.IntN(8) > 0, Devices: map[string]int{}}
		for range r.IntN(8) {
			if l.Enabled {
				l.Devices[g.MIG.Profiles[r.IntN(len(g.MIG.Profiles))].Name]++
			}
		}
		if check(g, l) == nil {
			return l
		}
	}
}

func TestInstancesThatFitAreKept(t *testing.T) {
	p, m := load(t, "h200")
	card := m.GPUs[0].UUID
	apply(t, p, card, Layout{true, map[string]int{"1g.18gb": 7}}, nil)
	before := p.Snapshot().GPUs[0]
	plan, err := For(before, Layout{true, map[string]int{"1g.18gb": 3, "3g.71gb": 1}}, Held{before.MIGDevices()[0].UUID: "pod a/b"})
	if err != nil {
		t.Fatal(err)
	}
	destroyed, created := 0, 0
	for i, s := range plan.Steps {
		switch s.Op {
		case Destroy:
			destroyed++
		case Create:
			created++
			if i != len(plan.Steps)-1 || s.Profile.Name != "3g.71gb" || s.At.Start != 4 {
				t.Errorf("step %d is %+v", i, s)
			}
		}
	}
	if destroyed != 4 || created != 1 || len(plan.Parts) != 4 {
		t.Errorf("%d destroyed, %d created, parts %v", destroyed, created, plan.Parts)
	}
}

// TestPartsOfInstances: compute instances that take a part of their GPU instance share it with
// others, as few GPU instances as it takes, from whatever the layout before was.
func TestPartsOfInstances(t *testing.T) {
	p, m := load(t, "h200")
	card := m.GPUs[0].UUID
	for _, tc := range []struct {
		devices   map[string]int
		instances int
	}{
		{map[string]int{"1c.2g.35gb": 2}, 1}, {map[string]int{"1c.2g.35gb": 3}, 2}, {map[string]int{"2g.35gb": 3}, 3},
		{map[string]int{"1c.3g.71gb": 1, "2c.3g.71gb": 1, "3g.71gb": 1}, 2}, {map[string]int{"1c.7g.141gb": 7}, 1},
		{map[string]int{"2c.4g.71gb": 1, "1c.4g.71gb": 2, "1c.3g.71gb": 3}, 2}, {map[string]int{"1g.18gb": 7}, 7},
	} {
		want := Layout{true, tc.devices}
		if why := apply(t, p, card, want, nil); why != "" {
			t.Fatalf("%s: %s", want, why)
		}
		now, err := p.Machine(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := counts(now.GPUs[0]); !maps.Equal(got, tc.devices) || len(now.GPUs[0].MIG.Instances) != tc.instances {
			t.Errorf("%s: %v in %d GPU instances, want %d", want, got, len(now.GPUs[0].MIG.Instances), tc.instances)
		}
	}
	// A part that is held keeps its GPU instance as it is.
	apply(t, p, card, Layout{true, map[string]int{"1c.2g.35gb": 2, "1g.18gb": 2}}, nil)
	now, _ := p.Machine(t.Context())
	var held Held
	for _, d := range now.GPUs[0].MIGDevices() {
		if d.Profile == "1c.2g.35gb" {
			held = Held{d.UUID: "pod a/b"}
		}
	}
	if why := apply(t, p, card, Layout{true, map[string]int{"2g.35gb": 1}}, held); why != "pod a/b holds the MIG device 2g.35gb of GPU 0, which is not wanted" {
		t.Errorf("held: %q", why)
	}
	if why := apply(t, p, card, Layout{true, map[string]int{"1c.2g.35gb": 2, "3g.71gb": 1}}, held); why != "" {
		t.Errorf("beside a held one: %q", why)
	}
	for devices, want := range map[string]string{"3c.7g.141gb": "", "5c.7g.141gb": "7g.141gb has no compute instance of 5 slices", "1c.1g.5gb": "there is no profile 1g.5gb"} {
		_, err := wantedOf(now.GPUs[0].MIG, Layout{true, map[string]int{devices: 1}})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", devices, err)
		}
	}
	if _, err := wantedOf(now.GPUs[0].MIG, Layout{true, map[string]int{"1c.7g.141gb": 8}}); err == nil || !strings.Contains(err.Error(), "it holds 1 of 7g.141gb at most, not 2") {
		t.Error(err)
	}
}

func TestFile(t *testing.T) {
	f, err := Parse([]byte(`
version: v1
mig-configs:
  mine:
  - {devices: all, mig-enabled: false}
  - {device-filter: ["0x233510DE", "0x233010DE"], devices: [0], mig-enabled: true, mig-devices: {1g.18gb: 2, 3g.71gb: 1}}
  all-balanced: [{devices: all, mig-enabled: true, mig-devices: {}}]
`))
	if err != nil {
		t.Fatal(err)
	}
	_, m := load(t, "h200-8")
	wish, err := Wish(f, "mine", m)
	if err != nil || wish[m.GPUs[0].UUID].String() != "2 x 1g.18gb, 1 x 3g.71gb" || wish[m.GPUs[1].UUID].Enabled || len(wish) != 8 {
		t.Errorf("%v %v", wish, err)
	}
	if wish, err = Wish(f, "all-balanced", m); err != nil || len(wish[m.GPUs[0].UUID].Devices) != 0 {
		t.Errorf("the file's own all-balanced: %v %v", wish, err)
	}
}

func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		"mig-configs: {a: [{devices: all, mig-enabled: false}]}":                                           `version: "", it must be v1`,
		"version: v2\nmig-configs: {}":                                                                     `version: "v2", it must be v1`,
		"version: v1":                                                                                      "mig-configs: at least one entry is required",
		"version: v1\nmig-configs: {a: []}":                                                                "mig-configs.a: at least one entry is required",
		"version: v1\nmig-configs: {a: [{devices: all}]}":                                                  "mig-configs.a[0].mig-enabled: it is required",
		"version: v1\nmig-configs: {a: [{mig-enabled: false}]}":                                            "mig-configs.a[0].devices: not given, it must be all or a list of indices",
		"version: v1\nmig-configs: {a: [{devices: some, mig-enabled: false}]}":                             `devices: "some", it must be all or a list of indices`,
		"version: v1\nmig-configs: {a: [{devices: all, mig-enabled: true}]}":                               "mig-devices: it is required where mig-enabled is true",
		"version: v1\nmig-configs: {a: [{devices: all, mig-enabled: false, mig-devices: {1g.5gb: 1}}]}":    "mig-devices: there are none where mig-enabled is false",
		"version: v1\nmig-configs: {a: [{devices: all, mig-enabled: true, mig-devices: {big: 1}}]}":        "mig-devices.big: it is no profile",
		"version: v1\nmig-configs: {a: [{devices: all, mig-enabled: true, mig-devices: {4c.3g.20gb: 1}}]}": "it takes 4 of 3 slices",
		"version: v1\nmig-configs: {a: [{devices: all, mig-enabled: true, mig-devices: {0c.3g.20gb: 1}}]}": "it takes 0 of 3 slices",
		"version: v1\nmig-configs: {a: [{devices: all, mig-enabled: true, mig-devices: {1g.5gb: -1}}]}":    "mig-devices.1g.5gb: -1, it may be 0 to 8",
		"version: v1\nmig-configs: {a: [{device-filter: h100, devices: all, mig-enabled: false}]}":         `device-filter: "h100", it must be a PCI id`,
		"version: v1\nmig-configs: {a: [{devices: all, mig-enabled: false, other: 1}]}":                    `unknown field`,
		"{": "reading the MIG configuration",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\n%v, want %q", text, err, want)
		}
	}
	_, m := load(t, "h200")
	_, plain := load(t, "t4")
	file := File{"much": {{Layout: Layout{true, map[string]int{"3g.71gb": 2, "1g.18gb": 1}}}}, "many": {{Layout: Layout{true, map[string]int{"7g.141gb": 2}}}}, "other": {{Layout: Layout{true, map[string]int{"1g.5gb": 1}}}}}
	for _, tc := range []struct {
		name, want string
		m          device.Machine
	}{
		{"much", "GPU 0 (NVIDIA H200) has no room for 1 x 1g.18gb, 2 x 3g.71gb at the same time", m}, {"many", "it holds 1 of 7g.141gb at most, not 2", m},
		{"other", "there is no profile 1g.5gb, but 1g.18gb, ", m}, {"all-1g.5gb", "there is none of that name; this node has all-1g.18gb, ", m},
		{"many", "GPU 0 (Tesla T4) cannot be partitioned", plain}, {"all-balanced", "this node has ", plain},
	} {
		if _, err := Wish(file, tc.name, tc.m); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}
