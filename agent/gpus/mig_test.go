package gpus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"

	"orch/agent/devices"
	"orch/gpu/cdi"
	"orch/gpu/device"
	"orch/gpu/fakenvml"
	"orch/gpu/inventory"
	"orch/gpu/mig"
	"orch/gpu/share"
	"orch/runtime/engine"
)

// migRig is a node whose driver is played, with everything that partitions cards.
type migRig struct {
	*GPUs
	t         *testing.T
	player    *fakenvml.Player
	manager   *devices.Manager
	bound     []*core.Pod
	inventory *inventory.Inventory
	p         partitioner
	wish      string
	state     string
	states    []string
	events    []string
	resets    int
}

func newMIGRig(t *testing.T, name string, n int) *migRig {
	t.Helper()
	rec, err := fakenvml.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	rec.Processes = nil
	r := &migRig{t: t, player: fakenvml.New(fakenvml.Take(rec, n))}
	log := slog.New(slog.DiscardHandler)
	if r.inventory, err = inventory.New(inventory.Config{Host: r.player, Driver: r.player, Log: log}); err != nil {
		t.Fatal(err)
	}
	r.GPUs, err = New(Config{
		Look: func() View {
			s := r.inventory.State()
			return View{Machine: s.Machine, Allocatable: s.Allocatable}
		},
		Changes: r.inventory.Subscribe, Share: share.Config{MIG: share.Mixed}, Files: func(device.Machine) (cdi.Files, error) { return cdi.Files{}, nil },
		ImageCache: func(context.Context, engine.Image) ([]byte, error) { return nil, engine.ErrNotFound }, Dir: t.TempDir(), Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.manager, err = devices.New(devices.Config{Path: filepath.Join(t.TempDir(), "ledger"), Providers: []devices.Provider{r.GPUs}, Log: log, Bound: func() []*core.Pod { return r.bound }}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.inventory.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	<-r.inventory.Ready()
	r.p = partitioner{GPUs: r.GPUs, Partition: r.partition()}
	return r
}

func (r *migRig) partition() Partition {
	return Partition{Driver: r.player, Ready: r.inventory.Ready(), Wish: func() (string, string) { return r.wish, r.state },
		State:   func(_ context.Context, s string) error { r.state, r.states = s, append(r.states, s); return nil },
		Event:   func(_, reason, message string) { r.events = append(r.events, reason+": "+message) },
		Reserve: r.manager.Reserve, Holdings: r.manager.Holdings, Promised: r.manager.Promised, Refresh: r.inventory.Refresh,
		Reset: func(context.Context, device.GPU) error { r.resets++; return errors.New("cannot be reset here") }}
}

// ask sets a wish, lets it be done, and says what the node offers.
func (r *migRig) ask(wish string) string {
	r.t.Helper()
	r.wish = wish
	if _, err := r.p.once(r.t.Context()); err != nil {
		r.t.Error(err)
	}
	return fmt.Sprint(r.offer())
}

func (r *migRig) offer() map[string]int {
	out := map[string]int{}
	for name, list := range r.Offer() {
		out[strings.TrimPrefix(name, "nvidia.com/")] = len(list)
	}
	return out
}

func (r *migRig) said(want ...string) {
	r.t.Helper()
	if got := strings.Join(r.states, " "); got != want[0] {
		r.t.Errorf("states are %q, want %q", got, want[0])
	}
	if n := len(r.events); n != 1 || !strings.Contains(r.events[0], want[1]) {
		r.t.Errorf("events are %q, want %q", r.events, want[1])
	}
	r.states, r.events = nil, nil
}

// TestLabelPartitionsCards: machines of several models and sizes, from whole cards to
// slices, to other slices, and back.
func TestLabelPartitionsCards(t *testing.T) {
	for _, tc := range []struct {
		machine         string
		n               int
		small, slices   string
		balanced, whole string
	}{
		{"h200", 1, "all-1g.18gb", "map[mig-1g.18gb:7]", "map[mig-1g.18gb:2 mig-2g.35gb:1 mig-3g.71gb:1]", "map[gpu:1]"},
		{"h100-8", 3, "all-1g.10gb", "map[mig-1g.10gb:21]", "map[mig-1g.10gb:6 mig-2g.20gb:3 mig-3g.40gb:3]", "map[gpu:3]"},
		{"h200-8", 8, "all-7g.141gb", "map[mig-7g.141gb:8]", "map[mig-1g.18gb:16 mig-2g.35gb:8 mig-3g.71gb:8]", "map[gpu:8]"},
		{"a100-40", 1, "all-1g.5gb.me", "map[mig-1g.5gb.me:1]", "map[mig-1g.5gb:2 mig-2g.10gb:1 mig-3g.20gb:1]", "map[gpu:1]"},
	} {
		t.Run(tc.machine, func(t *testing.T) {
			r := newMIGRig(t, tc.machine, tc.n)
			for _, step := range [][2]string{{tc.small, tc.slices}, {"all-balanced", tc.balanced}, {"all-disabled", tc.whole}} {
				if got := r.ask(step[0]); got != step[1] {
					t.Errorf("%s: %s, want %s", step[0], got, step[1])
				}
				r.said("pending success", "MIGConfigured: the GPUs are partitioned as "+step[0])
				calls := r.player.Calls()
				if r.ask(step[0]); r.player.Calls() != calls || len(r.states)+len(r.events) > 0 {
					t.Error("a layout that is there was done again")
				}
			}
		})
	}
}

// TestPartsAreOffered: compute instances that share a GPU instance are resources of their own.
func TestPartsAreOffered(t *testing.T) {
	r := newMIGRig(t, "h200-8", 2)
	r.p.File = mig.File{"parts": {{Layout: mig.Layout{Enabled: true, Devices: map[string]int{"1c.3g.71gb": 3, "3g.71gb": 1}}}}}
	if got := r.ask("parts"); got != "map[mig-1c.3g.71gb:6 mig-3g.71gb:2]" {
		t.Error(got)
	}
	p := podWith("a", "nvidia.com/mig-1c.3g.71gb", 3)
	if err := r.manager.Admit(p); err != nil {
		t.Fatal(err)
	}
	if r.ask("all-disabled"); r.state != MIGPending {
		t.Errorf("with a pod on three parts: %s", r.state)
	}
}

// TestHeldCardsWait: a pod's card and a pod's slice stay; the others are changed, the event
// says who is in the way, and all is done when it has ended.
func TestHeldCardsWait(t *testing.T) {
	r := newMIGRig(t, "h100-8", 2)
	pod := podWith("trainer", share.GPU, 1)
	pod.Namespace = "ml"
	if err := r.manager.Admit(pod); err != nil {
		t.Fatal(err)
	}
	if got := r.ask("all-1g.10gb"); got != "map[gpu:1 mig-1g.10gb:7]" {
		t.Error(got)
	}
	r.said("pending", "MIGConfigWaits: partitioning the GPUs as all-1g.10gb waits: GPU ")
	if err := r.manager.Release(pod.UID); err != nil {
		t.Fatal(err)
	}
	if got := r.ask("all-1g.10gb"); got != "map[mig-1g.10gb:14]" {
		t.Error(got)
	}
	r.said("success", "MIGConfigured")
	slice := podWith("slice", "nvidia.com/mig-1g.10gb", 1)
	if err := r.manager.Admit(slice); err != nil {
		t.Fatal(err)
	}
	uuid := r.manager.Holdings()[0].IDs[0]
	if got := r.ask("all-balanced"); got != "map[mig-1g.10gb:4 mig-2g.20gb:2 mig-3g.40gb:2]" {
		t.Error(got)
	}
	if _, ok := r.inventory.State().Machine.MIGDevice(uuid); !ok {
		t.Error("a pod's slice was taken from it")
	}
	r.said("pending success", "MIGConfigured")
	if got := r.ask("all-disabled"); got != "map[gpu:1 mig-1g.10gb:2 mig-2g.20gb:1 mig-3g.40gb:1]" {
		t.Error(got)
	}
	r.said("pending", "pod /slice holds "+uuid)
}

func TestPartitionFailures(t *testing.T) {
	r := newMIGRig(t, "h200", 1)
	card := r.inventory.State().Machine.GPUs[0].UUID
	if got := r.ask("all-2g.10gb"); got != "map[gpu:1]" {
		t.Error(got)
	}
	r.said("failed", "MIGConfigInvalid: MIG configuration \"all-2g.10gb\": there is none of that name; this node has all-1g.18gb")
	r.player.SetProcesses(device.Process{PID: 77, UUID: card})
	r.ask("all-balanced")
	r.said("pending", "process 77, which belongs to no pod that asked for it, uses GPU "+card)
	r.player.SetProcesses()
	r.player.Hang("SetMIGMode", 1)
	r.ask("all-balanced")
	r.said("failed", "the call passed its limit")
	if r.ask("all-balanced"); len(r.states) > 0 {
		t.Error("what the driver refused was asked again at once")
	}
	r.player.Hang("SetMIGMode", 1)
	r.p.vain, r.p.again = "", true // the time is over
	if r.ask("all-balanced"); len(r.states)+len(r.events) > 0 {
		t.Errorf("a driver that refuses again makes the node say %v, %v", r.states, r.events)
	}
	r.p.vain, r.p.again = "", false
	r.ask("all-balanced")
	r.said("pending success", "MIGConfigured")
	r.p.File = mig.File{"mine": {{Layout: mig.Layout{Enabled: true, Devices: map[string]int{"4g.71gb": 1, "3g.71gb": 1}}}}}
	if got := r.ask("mine"); got != "map[mig-3g.71gb:1 mig-4g.71gb:1]" {
		t.Error(got)
	}
}

// TestPartitionAtBoot: the label is obeyed as soon as the machine is known, and again when
// somebody changes a card behind our back.
func TestPartitionAtBoot(t *testing.T) {
	r := newMIGRig(t, "h200", 1)
	r.wish, r.state = "all-3g.71gb", MIGSuccess
	reached := make(chan string, 8)
	part := r.partition()
	part.Wish = func() (string, string) { return "all-3g.71gb", MIGSuccess }
	part.State = func(_ context.Context, s string) error { reached <- s; return nil }
	part.Event = func(string, string, string) {}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- r.GPUs.Run(ctx) }()
	go func() { done <- r.Partition(ctx, part, make(chan struct{})) }()
	deadline := time.After(time.Minute)
	for fmt.Sprint(r.offer()) != "map[mig-3g.71gb:2]" {
		select {
		case <-reached:
		case <-deadline:
			t.Fatal(r.offer())
		case <-time.After(time.Millisecond):
		}
	}
	r.player.Change(func(m *device.Machine) { m.GPUs[0].MIG.Instances = nil })
	r.player.Send(device.Event{Kind: device.EventMIGConfig, UUID: r.inventory.State().Machine.GPUs[0].UUID})
	for len(r.player.Snapshot().GPUs[0].MIG.Instances) != 2 {
		select {
		case <-reached:
		case <-deadline:
			t.Fatal("what was changed behind our back stays so")
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// slowMode is a card whose mode changes with its next reset, as an A100's does.
type slowMode struct{ *fakenvml.Player }

func (slowMode) SetMIGMode(context.Context, string, bool) (bool, error) { return false, nil }

func TestModeThatWaitsForAReset(t *testing.T) {
	r := newMIGRig(t, "a100-80", 1)
	r.p.Driver = slowMode{r.player}
	r.ask("all-2g.20gb")
	r.said("pending failed", "the mode changes with the next reset of the card, and that failed: cannot be reset here; stop what uses the card")
	r.p.vain = ""
	r.p.Reset = func(ctx context.Context, g device.GPU) error {
		_, err := r.player.SetMIGMode(ctx, g.UUID, true)
		return err
	}
	if got := r.ask("all-2g.20gb"); got != "map[mig-2g.20gb:3]" {
		t.Error(got)
	}
	r.said("pending success", "MIGConfigured")
}
