package inventory

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"orch/gpu/device"
	"orch/gpu/fakenvml"
)

// running is an inventory over a machine of the catalogue.
func running(t *testing.T, ctx context.Context, name string) (*Inventory, *fakenvml.Player) {
	t.Helper()
	rec, err := fakenvml.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	p := fakenvml.New(rec)
	i, err := New(Config{Host: hostOf{p}, Driver: p})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if err := i.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	synctest.Wait()
	return i, p
}

func TestARecordingPlaysAsTheMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		i, p := running(t, ctx, "h200-mig")
		p.Send(device.Event{Kind: device.EventXID, UUID: i.State().Machine.GPUs[0].UUID, Data: 31})
		synctest.Wait()
		rec, err := i.Record(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := rec.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		again, err := device.ReadRecording(&b)
		if err != nil || len(again.Figures) != 6 || len(again.Events) != 1 || len(again.Machine.GPUs[0].MIGDevices()) != 4 || again.Machine.GPUs[0].MIG.Instances[0].CapMinor == nil {
			t.Errorf("recording is %+v, %v", again, err)
		}
	})
}

// TestReleasedDriverIsLeftAlone: between Release and Resume nobody opens the driver, what
// is known stands, and nothing is given out.
func TestReleasedDriverIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		i, p := running(t, ctx, "h200-mig")
		mig := i.State().Machine.GPUs[0].MIGDevices()[0].UUID
		if err := i.Release(ctx); err != nil {
			t.Fatal(err)
		}
		p.Change(func(m *device.Machine) { m.GPUs[1].PCI.Driver = "vfio-pci" }) // another session, but not ours to open
		if err := i.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
		s := i.State()
		if _, ok := s.Machine.MIGDevice(mig); !ok || s.Allocatable(mig) || s.Findings[0].Reason != "DriverReleased" {
			t.Errorf("released: %v, %+v", ok, s.Findings)
		}
		if err := i.Resume(ctx); err != nil {
			t.Fatal(err)
		}
		if s = i.State(); !s.Allocatable(mig) || len(s.Findings) != 0 {
			t.Errorf("resumed: %+v", s.Findings)
		}
	})
}

func TestSlowSubscriberSeesTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		i, p := running(t, ctx, "h100")
		changed := i.Subscribe(ctx)
		for range 300 {
			p.Send(device.Event{Kind: device.EventXID, UUID: i.State().Machine.GPUs[0].UUID, Data: 13})
			synctest.Wait()
		}
		<-changed
		s := i.State()
		if n := len(s.Notices); n != maxNotices || s.Notices[n-1].Seq != 300 {
			t.Errorf("%d notices, the last is %d", n, s.Notices[n-1].Seq)
		}
		select {
		case <-changed:
			t.Error("an old change was kept")
		default:
		}
	})
}

func TestFindingsSayWhatToDo(t *testing.T) {
	card := []device.GPU{{PCI: device.PCI{Address: "0000:01:00.0"}}}
	for _, tc := range []struct {
		m     device.Machine
		want  string
		fatal bool
	}{
		{device.Machine{}, "", false},
		{device.Machine{GPUs: card, Module: device.Module{State: device.ModuleNouveau}}, "NouveauInUse", true},
		{device.Machine{GPUs: card, Module: device.Module{State: device.ModuleAbsent}}, "DriverNotInstalled", true},
		{device.Machine{GPUs: card, Module: device.Module{State: device.ModuleUnused}}, "ModuleNotLoaded", true},
		{device.Machine{GPUs: card, Module: device.Module{State: device.ModuleVFIO}}, "BoundToVFIO", true},
		{loadedWith(card, "580", "575", nil), "DriverLibraryMismatch", true},
		{loadedWith(card, "580", "580", &device.Problem{Code: device.CodeVersionMismatch}), "DriverLibraryMismatch", true},
		{loadedWith(card, "580", "", &device.Problem{Code: device.CodeLibraryNotFound}), "DriverLibraryNotFound", false},
		{loadedWith(card, "580", "580", &device.Problem{Code: device.CodeHang}), "DriverHangs", true},
		{loadedWith(card, "580", "580", &device.Problem{Code: device.CodeNoHelper}), "NoNVML", false},
		{device.Machine{GPUs: card, Module: device.Module{State: device.ModuleLoaded}}, "UVMNotLoaded", true},
	} {
		got := Diagnose(tc.m)
		if tc.want == "" && len(got) == 0 {
			continue
		}
		if len(got) == 0 || got[0].Reason != tc.want || got[0].Fatal != tc.fatal || got[0].Message == "" {
			t.Errorf("%+v: %+v, want %s", tc.m, got, tc.want)
		}
	}
}

func loadedWith(cards []device.GPU, module, library string, p *device.Problem) device.Machine {
	return device.Machine{GPUs: cards, Problem: p, Driver: device.Driver{LibraryVersion: library},
		Module: device.Module{State: device.ModuleLoaded, Version: module, Majors: map[string]uint32{"nvidia-uvm": 507}}}
}

// TestNodeWithoutGPUsAsksNoDriver: a node without GPUs starts no helper, now or later.
func TestNodeWithoutGPUsAsksNoDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		p := fakenvml.New(device.Recording{Machine: device.Machine{Module: device.Module{State: device.ModuleAbsent}}})
		i, err := New(Config{Host: hostOf{p}, Driver: p})
		if err != nil {
			t.Fatal(err)
		}
		over := make(chan error, 1)
		go func() { over <- i.Run(ctx) }()
		<-i.Ready()
		time.Sleep(24 * time.Hour)
		if s := i.State(); p.Calls() != 0 || s.Machine.Tier != device.TierNone || len(Conditions(s)) != 0 || len(s.Findings) != 0 {
			t.Errorf("%d calls, state %+v", p.Calls(), s)
		}
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
}

// TestModulesAndNodesAreMadeInOneReading: what one preparation brings decides the next.
func TestModulesAndNodesAreMadeInOneReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		rec, err := fakenvml.Load("t4")
		if err != nil {
			t.Fatal(err)
		}
		loaded := rec.Machine.Module
		rec.Machine.Module = device.Module{State: device.ModuleUnused}
		p := fakenvml.New(rec)
		var seen []device.ModuleState
		i, err := New(Config{Host: hostOf{p}, Driver: p, Prepare: func(_ context.Context, m device.Machine) (bool, error) {
			seen = append(seen, m.Module.State)
			if m.Module.State == device.ModuleUnused {
				p.Change(func(m *device.Machine) { m.Module = loaded })
				return true, nil
			}
			return false, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if err := i.Run(ctx); err != nil {
				t.Error(err)
			}
		}()
		<-i.Ready()
		if s := i.State(); len(seen) != 2 || !s.Usable() {
			t.Errorf("prepared for %v, state %+v", seen, s)
		}
	})
}
