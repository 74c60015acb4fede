package fakenvml

import (
	"context"
	"errors"
	"testing"

	"orch/gpu/device"
)

func code(err error) int {
	if p, ok := errors.AsType[*device.Problem](err); ok {
		return p.Code
	}
	return 0
}

func TestPlayerRefusesWhatACardRefuses(t *testing.T) {
	ctx := t.Context()
	rec, err := Load("h200-mig")
	if err != nil {
		t.Fatal(err)
	}
	p := New(rec)
	full, empty := rec.Machine.GPUs[0].UUID, rec.Machine.GPUs[1].UUID
	if _, err := p.CreateInstance(ctx, full, 19, nil); code(err) != device.CodeInsufficientResource {
		t.Errorf("an eighth slice: %v", err)
	}
	if _, err := p.SetMIGMode(ctx, full, false); code(err) != device.CodeInUse {
		t.Errorf("mode off with instances: %v", err)
	}
	made, err := p.CreateInstance(ctx, empty, 9, &device.Placement{Start: 4, Size: 4})
	if err != nil || made.Placement.Start != 4 || made.Compute[0].UUID == "" || made.CapMinor == nil {
		t.Fatalf("made %+v, %v", made, err)
	}
	if _, err := p.CreateInstance(ctx, empty, 9, &device.Placement{Start: 4, Size: 4}); code(err) != device.CodeInsufficientResource {
		t.Errorf("the same place twice: %v", err)
	}
	p.SetProcesses(device.Process{PID: 7, UUID: empty, GI: new(made.ID)})
	if err := p.DestroyInstance(ctx, empty, made.ID); code(err) != device.CodeInUse {
		t.Errorf("destroying a used instance: %v", err)
	}
	p.SetProcesses()
	if err := p.DestroyInstance(ctx, empty, made.ID); err != nil {
		t.Error(err)
	}
	p.Change(func(m *device.Machine) { m.GPUs[0].MemoryLimits = true })
	limited := p.Snapshot().GPUs[0].UUID
	for _, tc := range []struct {
		cgroup         string
		request, limit uint64
		code           int
	}{{t.TempDir(), 1, 2, 0}, {t.TempDir(), 3, 2, device.CodeInvalidArgument}, {t.TempDir(), 1, 1 << 50, device.CodeInvalidArgument}, {"/not/there", 1, 2, device.CodeOperatingSystem}} {
		if err := p.SetMemoryLimits(ctx, limited, tc.cgroup, tc.request, tc.limit); tc.code == 0 && err != nil || tc.code != 0 && code(err) != tc.code {
			t.Errorf("%+v: %v", tc, err)
		}
	}
	p.Change(func(m *device.Machine) { m.GPUs[0].MemoryLimits = false })
	if err := p.SetMemoryLimits(ctx, empty, "/x", 1, 2); code(err) != device.CodeFunctionNotFound {
		t.Errorf("memory limits on a driver without them: %v", err)
	}
}

func TestOneLostCardLeavesTheOthers(t *testing.T) {
	ctx := t.Context()
	rec, err := Load("h100-8")
	if err != nil {
		t.Fatal(err)
	}
	p := New(rec)
	lost := rec.Machine.GPUs[3].UUID
	p.Fail(lost, &device.Problem{Op: "card", Code: device.CodeGPULost, Text: "GPU is lost"})
	p.Unsupported(device.EnergyMillijoule)
	m, err := p.Machine(ctx)
	if err != nil || len(m.GPUs) != 8 || m.GPUs[3].Problem == nil || m.GPUs[3].MemoryBytes != nil || m.GPUs[4].Problem != nil {
		t.Fatalf("machine is %+v, %v", m.GPUs, err)
	}
	var cards []string
	for _, g := range rec.Machine.GPUs {
		cards = append(cards, g.UUID)
	}
	figures, err := p.Figures(ctx, cards...)
	if err != nil || len(figures) != 8 || figures[3].Problem == nil || figures[4].Problem != nil {
		t.Fatalf("figures are %+v, %v", figures, err)
	}
	if _, ok := figures[4].Get(device.EnergyMillijoule); ok {
		t.Error("an unsupported figure is there")
	}
}

func TestWatchTellsOfLostEvents(t *testing.T) {
	rec, err := Load("t4")
	if err != nil {
		t.Fatal(err)
	}
	p := New(rec)
	for i := range maxWaiting + 1 {
		p.Send(device.Event{Kind: device.EventXID, Data: uint64(i)})
	}
	ctx, cancel := context.WithCancel(t.Context())
	var got []device.Event
	if err := p.Watch(ctx, func(e device.Event) {
		got = append(got, e)
		if e.Data == maxWaiting {
			cancel()
		}
	}); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Kind != device.EventOverflow {
		t.Errorf("got %v", got)
	}
}

// TestInstancesOfDifferentSizesHaveTheirOwnIDs: 2g at 2 and 3g at 4 were both number 5, so that
// one was destroyed for the other.
func TestInstancesOfDifferentSizesHaveTheirOwnIDs(t *testing.T) {
	seen := map[int]device.Placement{}
	for size, starts := range map[int][]int{1: {0, 1, 2, 3, 4, 5, 6}, 2: {0, 2, 4, 6}, 4: {0, 4}, 8: {0}} {
		for _, start := range starts {
			at := device.Placement{Start: start, Size: size}
			id := instance("GPU-1", 0, device.Profile{Slices: 1}, at).ID
			if other, taken := seen[id]; taken {
				t.Errorf("%+v and %+v are both %d", at, other, id)
			}
			seen[id] = at
		}
	}
}
