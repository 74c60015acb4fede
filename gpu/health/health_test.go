package health

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"orch/gpu/device"
)

var at = time.Date(2026, 11, 28, 6, 0, 0, 0, time.UTC)

func policy(t *testing.T, disable, enable string) Policy {
	t.Helper()
	p, err := ParsePolicy(disable, enable)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func xid(n int) Input { return Input{Event: &device.Event{Kind: device.EventXID, Data: uint64(n)}} }

func figures(v map[device.Figure]float64) Input {
	return Input{Checked: &Reading{Figures: device.Figures{Values: v}}}
}

func TestCatalogueIsSorted(t *testing.T) {
	for i, x := range catalogue {
		if i > 0 && catalogue[i-1].Number >= x.Number || x.Text == "" {
			t.Errorf("row %d: %+v", i, x)
		}
		if got := Lookup(x.Number); got != x {
			t.Errorf("looked up %d, found %+v", x.Number, got)
		}
	}
	if x := Lookup(9999); x.Class != ClassDoubt {
		t.Errorf("an unknown error is %+v", x)
	}
}

func TestApplicationErrorsNeverHurtACard(t *testing.T) {
	p := policy(t, "", "")
	for _, n := range []int{13, 31, 43, 45, 68, 109} {
		in := xid(n)
		in.Event.PID, in.Event.Process = 4242, "python3"
		u, d := Step(New("GPU-1", nil), in, p, at)
		if u.State != Healthy || d.Do != DoNothing || len(d.Notices) != 1 || d.Notices[0].PID != 4242 || d.Notices[0].Reason != "GPUApplicationError" {
			t.Errorf("XID %d: %+v, %+v", n, u, d)
		}
	}
}

func TestWhatErrorsCount(t *testing.T) {
	for _, tc := range []struct {
		disable, enable string
		xid             int
		want            State
	}{
		{"", "", 48, Draining}, {"", "", 79, Draining}, {"", "", 95, Draining}, {"", "", 119, Draining}, {"", "", 140, Draining}, {"", "", 143, Draining}, {"", "", 74, Draining}, {"", "", 64, Draining},
		{"", "", 63, Suspect}, {"", "", 94, Suspect}, {"", "", 154, Suspect}, {"", "", 4711, Suspect}, {"", "", 93, Healthy},
		{"all", "", 48, Healthy}, {"xids", "", 79, Healthy}, {"48, 79", "", 48, Healthy}, {"48, 79", "", 74, Draining},
		{"", "31", 31, Suspect}, {"", "all", 13, Suspect}, {"all", "48", 48, Draining}, {"all", "48", 79, Healthy},
	} {
		if u, _ := Step(New("GPU-1", nil), xid(tc.xid), policy(t, tc.disable, tc.enable), at); u.State != tc.want {
			t.Errorf("%+v: %s", tc, u.State)
		}
	}
	if p, err := ParsePolicy("48,foo", "-3"); err == nil || !strings.Contains(err.Error(), "foo, -3") || !p.Ignored[48] {
		t.Errorf("nonsense: %v, %+v", err, p)
	}
}

func TestRecoveryActionsAndRemaps(t *testing.T) {
	p := policy(t, "", "")
	for _, tc := range []struct {
		name  string
		v     map[device.Figure]float64
		want  State
		evict bool
	}{
		{"none", map[device.Figure]float64{device.RecoveryActionField: 0}, Healthy, false},
		{"reset", map[device.Figure]float64{device.RecoveryActionField: 1}, Draining, true},
		{"reboot", map[device.Figure]float64{device.RecoveryActionField: 2}, Draining, true},
		{"drain P2P", map[device.Figure]float64{device.RecoveryActionField: 3}, Draining, true},
		{"drain and reset", map[device.Figure]float64{device.RecoveryActionField: 4}, Draining, false},
		{"remap pending", map[device.Figure]float64{device.RemapPending: 1}, Draining, false},
		{"remap failed", map[device.Figure]float64{device.RemapFailure: 1}, Draining, true},
		{"nothing said", nil, Healthy, false},
	} {
		u, _ := Step(New("GPU-1", nil), xid(63), p, at)
		u, _ = Step(u, figures(tc.v), p, at)
		if u.State != tc.want || u.Evict != tc.evict {
			t.Errorf("%s: %+v", tc.name, u)
		}
	}
}

func TestSliceHasNoReset(t *testing.T) {
	p := policy(t, "", "")
	u, _ := Step(New("GPU-1", new(3)), xid(94), p, at)
	u, _ = Step(u, figures(map[device.Figure]float64{device.RecoveryActionField: 1}), p, at)
	u, d := Step(u, Input{Drained: true}, p, at)
	if u.State != Verifying || d.Do != DoVerify {
		t.Errorf("a drained slice: %+v, %+v", u, d)
	}
}

func TestZombieKeepsACardBack(t *testing.T) {
	if why, ok := HandOver(device.Figures{Values: map[device.Figure]float64{device.FBUsedBytes: 50 << 30}}, nil); ok || !strings.Contains(why, "although no process holds it") {
		t.Errorf("50 GiB without a process: %q, %v", why, ok)
	}
	if why, ok := HandOver(device.Figures{}, []device.Process{{PID: 7}}); ok || why != "process 7 still holds an unknown amount of its memory" {
		t.Errorf("a process: %q, %v", why, ok)
	}
	if why, ok := HandOver(device.Figures{Values: map[device.Figure]float64{device.FBUsedBytes: 4 << 20}}, nil); !ok {
		t.Errorf("an idle card: %q", why)
	}
	screen := []device.Process{{PID: 9, Kind: device.ProcessGraphics}}
	if why, ok := HandOver(device.Figures{Values: map[device.Figure]float64{device.FBUsedBytes: 2 << 30}}, screen); !ok {
		t.Errorf("a card with a screen: %q", why)
	}
	parts := []device.Process{{PID: 1, GI: new(1)}, {PID: 2, GI: new(2)}, {PID: 3}}
	if got := Within(parts, 2); len(got) != 1 || got[0].PID != 2 || len(Within(parts, -1)) != 3 {
		t.Errorf("on instance 2 are %v", got)
	}
}

// TestNoIllnessLastsForever: whatever comes in whatever order, resets are bounded, a
// Failed card stays so until something is new, and states and sentences fit.
func TestNoIllnessLastsForever(t *testing.T) {
	p := policy(t, "", "")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	inputs := []func() Input{
		func() Input { return xid(catalogue[rng.IntN(len(catalogue))].Number) },
		func() Input {
			return figures(map[device.Figure]float64{device.RecoveryActionField: float64(rng.IntN(9))})
		},
		func() Input { return figures(map[device.Figure]float64{device.RemapPending: float64(rng.IntN(2))}) },
		func() Input { return Input{Drained: true} },
		func() Input { return Input{Reset: &ResetDone{}} },
		func() Input { return Input{Reset: &ResetDone{Err: "no", Unsupported: rng.IntN(2) == 0}} },
		func() Input { return Input{Found: &device.Problem{Code: rng.IntN(30) - 7}} },
	}
	for range 2000 {
		u := New("GPU-1", nil)
		if rng.IntN(3) == 0 {
			u.GI = new(1)
		}
		for range 60 {
			before := u
			u, _ = Step(u, inputs[rng.IntN(len(inputs))](), p, at)
			if u.Attempts > maxAttempts || before.State == Failed && u.State != Failed || u.GI != nil && u.State == Resetting {
				t.Fatalf("from %+v to %+v", before, u)
			}
			if (len(u.Taints()) == 0) != (u.State == Healthy) || u.State != Healthy && u.Cause.Text == "" {
				t.Fatalf("%+v has taints %v", u, u.Taints())
			}
		}
	}
}

// TestEveryIllnessEnds: an owner that does what it is told, and a card that never gets
// well, come to Failed; a new driver gives it another chance.
func TestEveryIllnessEnds(t *testing.T) {
	p := policy(t, "", "")
	for action := range 8 {
		for _, gi := range []*int{nil, new(2)} {
			ill := figures(map[device.Figure]float64{device.RecoveryActionField: float64(action), device.RemapFailure: float64(1 / (action + 1))})
			u, d := Step(New("GPU-1", gi), xid(63), p, at)
			for steps := 0; d.Do != DoNothing; steps++ {
				if steps > 30 {
					t.Fatalf("action %d: it goes on and on: %+v", action, u)
				}
				switch d.Do {
				case DoCheck, DoVerify:
					u, d = Step(u, ill, p, at)
				case DoDrain:
					u, d = Step(u, Input{Drained: true}, p, at)
				case DoReset:
					u, d = Step(u, Input{Reset: &ResetDone{}}, p, at)
				}
			}
			if u.State != Failed || !strings.Contains(u.Sentence(), "reboot the node") && !strings.Contains(u.Sentence(), "a person must look at the hardware") {
				t.Errorf("action %d: %+v: %s", action, u, u.Sentence())
			}
			if u, d = Step(u, Input{Renewed: true}, p, at); u.State != Verifying || d.Do != DoVerify {
				t.Errorf("after a reload: %+v", u)
			}
			if u, _ = Step(u, figures(nil), p, at); u.State != Healthy || u.Attempts != 0 || u.Cause.Text != "" {
				t.Errorf("well again: %+v", u)
			}
		}
	}
}

// TestEveryXIDDoesWhatItsClassSays: all rows of the catalogue, on cards and on MIG devices.
func TestEveryXIDDoesWhatItsClassSays(t *testing.T) {
	p := policy(t, "", "")
	want := map[Class]struct {
		state  State
		do     Do
		evict  bool
		reason string
	}{
		ClassNote: {Healthy, DoNothing, false, "GPUXid"}, ClassApp: {Healthy, DoNothing, false, "GPUApplicationError"},
		ClassDoubt: {Suspect, DoCheck, false, "GPUXid"}, ClassReset: {Draining, DoDrain, true, "GPUXid"},
		ClassReboot: {Draining, DoDrain, true, "GPUXid"}, ClassFail: {Draining, DoDrain, true, "GPUXid"},
	}
	seen := map[Class]int{}
	for _, x := range Catalogue() {
		w, ok := want[x.Class]
		if !ok {
			t.Fatalf("XID %d has the class %q", x.Number, x.Class)
		}
		seen[x.Class]++
		for _, gi := range []*int{nil, new(3)} {
			u, d := Step(New("GPU-1", gi), xid(x.Number), p, at)
			if u.State != w.state || d.Do != w.do || u.Evict != w.evict || d.Notices[0].Reason != w.reason || (u.State != Healthy) != (u.Cause.XID == x.Number) {
				t.Errorf("XID %d (%s): %+v, %+v", x.Number, x.Class, u, d)
			}
			if next, _ := Step(u, Input{Drained: true}, p, at); u.State == Draining && (next.State == Failed) != (x.Class == ClassReboot || x.Class == ClassFail) {
				t.Errorf("XID %d (%s), drained: %+v", x.Number, x.Class, next)
			}
		}
	}
	if len(seen) != len(want) {
		t.Errorf("classes without an XID: %v", seen)
	}
}
