package sysfs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"orch/gpu/device"
)

// tree lays out a fake root: files of a txtar archive; one whose content begins with
// "-> " is a symbolic link.
func tree(t *testing.T, name string) string {
	t.Helper()
	a, err := txtar.ParseFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for _, f := range a.Files {
		path := filepath.Join(root, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if len(f.Data) > 3 && string(f.Data[:3]) == "-> " {
			err = os.Symlink(string(f.Data[3:len(f.Data)-1]), path)
		} else {
			err = os.WriteFile(path, f.Data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestMachineOfAFakeTree(t *testing.T) {
	s := New(Config{Root: tree(t, "h100.txtar"), Library: func() (string, string) { return "/usr/lib64/libnvidia-ml.so.1", "580.159.03" }})
	got, err := s.Machine(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := device.Machine{Tier: device.TierSysfs, Host: device.Host{Product: "DGXH100", Kernel: "6.8.0-60-generic", FabricManager: new(true)}, NVSwitches: 1,
		Driver: device.Driver{Version: "580.159.03", Library: "/usr/lib64/libnvidia-ml.so.1", LibraryVersion: "580.159.03"},
		Module: device.Module{State: device.ModuleLoaded, Version: "580.159.03", Open: new(true),
			Majors: map[string]uint32{"nvidia": 195, "nvidiactl": 195, "nvidia-uvm": 507, "nvidia-caps": 234}},
		IMEXChannels: []int{0},
		GPUs: []device.GPU{
			{Index: 0, UUID: "GPU-b850f46d-d5ea-c752-ddf3-c4453e44d3f7", Minor: new(1), Name: "NVIDIA H100 80GB HBM3", VBIOS: "96.00.74.00.01", GSP: "580.159.03", NUMANode: new(0), CPUs: "0-55",
				PCI: device.PCI{Address: "0000:1b:00.0", Vendor: 0x10de, Device: 0x2330, Class: 0x0302, Subsystem: 0x16c110de, Root: "pci0000:16", Path: []string{"0000:16:01.0", "0000:17:00.0"}, Driver: "nvidia", MaxLinkWidth: new(16)},
				MIG: &device.MIG{Mode: device.Pending{Current: true, Pending: true}, Instances: []device.GPUInstance{{ID: 2, CapMinor: new(21), Compute: []device.ComputeInstance{{ID: 0, CapMinor: new(22)}}}}}},
			{Index: 1, PCI: device.PCI{Address: "0000:43:00.0", Vendor: 0x10de, Device: 0x2330, Class: 0x0302, Driver: "nvidia"}},
		}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("machine differs (-want +got):\n%s", diff)
	}
}

func TestStatesOfTheModule(t *testing.T) {
	for name, want := range map[string]device.ModuleState{"nouveau.txtar": device.ModuleNouveau, "unused.txtar": device.ModuleUnused, "absent.txtar": device.ModuleAbsent} {
		m, err := New(Config{Root: tree(t, name)}).Machine(t.Context())
		if err != nil || m.Module.State != want || len(m.GPUs) != 1 || m.GPUs[0].NUMANode != nil {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
	m, err := New(Config{Root: t.TempDir()}).Machine(t.Context())
	if err != nil || m.Tier != device.TierNone || len(m.GPUs) != 0 {
		t.Errorf("an empty root: %+v, %v", m, err)
	}
}

// TestChip: the GPU of a Jetson is inside the chip, which the device tree names.
func TestChip(t *testing.T) {
	root := tree(t, "orin.txtar")
	got, err := New(Config{Root: root}).Machine(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := device.Machine{Tier: device.TierSysfs, Host: device.Host{Product: "NVIDIA Jetson AGX Orin Developer Kit", Kernel: "5.15.148-tegra"},
		Driver: device.Driver{Version: "36.4.3"}, Module: device.Module{State: device.ModuleLoaded, Version: "36.4.3"},
		GPUs: []device.GPU{{UUID: "tegra", Integrated: true, Name: "NVIDIA Jetson AGX Orin Developer Kit", Architecture: "Ampere", Compute: &device.Capability{Major: 8, Minor: 7}}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("machine differs (-want +got):\n%s", diff)
	}
	if err := os.Remove(filepath.Join(root, "dev", "nvhost-ctrl-gpu")); err != nil {
		t.Fatal(err)
	}
	if got, err = New(Config{Root: root}).Machine(t.Context()); err != nil || got.Module.State != device.ModuleAbsent || len(got.GPUs) != 1 {
		t.Errorf("without its driver: %+v, %v", got, err)
	}
}

func TestParseXID(t *testing.T) {
	for _, tc := range []struct {
		line string
		want device.Event
		ok   bool
	}{
		{"6,1234,5678,-;NVRM: Xid (PCI:0000:1b:00): 31, pid=4242, name=python3, Ch 00000008, intr 00000000. MMU Fault", device.Event{PCI: "0000:1b:00.0", Data: 31, PID: 4242, Process: "python3",
			Text: "pid=4242, name=python3, Ch 00000008, intr 00000000. MMU Fault"}, true},
		{"NVRM: Xid (PCI:0000:0d:00 GPU-I:05): 94, pid=7194, Contained: CE User Channel (0x9).", device.Event{PCI: "0000:0d:00.0", Data: 94, PID: 7194, GI: new(5), Text: "pid=7194, Contained: CE User Channel (0x9)."}, true},
		{"NVRM: Xid (0000:03:00): 14, Channel 00000001", device.Event{PCI: "0000:03:00.0", Data: 14, Text: "Channel 00000001"}, true},
		{"NVRM: Xid (PCI:0000:41:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.", device.Event{PCI: "0000:41:00.0", Data: 79, Text: "pid='<unknown>', name=<unknown>, GPU has fallen off the bus."}, true},
		{"NVRM: Xid (PCI:0000:41:00): 99999999999999999999, x", device.Event{}, false},
		{"NVRM: GPU at 0000:03:00: GPU-b850f46d", device.Event{}, false},
		{"nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 20034, Fatal", device.Event{}, false},
	} {
		got, ok := ParseXID(tc.line)
		if tc.ok {
			tc.want.Kind, tc.want.FromLog = device.EventXID, true
		}
		if diff := cmp.Diff(tc.want, got); ok != tc.ok || diff != "" {
			t.Errorf("%q: %v\n%s", tc.line, ok, diff)
		}
	}
}

func TestUeventsThatConcernUs(t *testing.T) {
	for message, want := range map[string]bool{
		"add@/devices/pci0000:16/0000:1b:00.0\x00ACTION=add\x00DEVPATH=/devices/pci0000:16/0000:1b:00.0\x00SUBSYSTEM=pci\x00PCI_ID=10DE:2330\x00": true,
		"add@/x\x00ACTION=add\x00SUBSYSTEM=pci\x00PCI_ID=8086:1533\x00":                                                                           false,
		"add@/module/nvidia_uvm\x00ACTION=add\x00DEVPATH=/module/nvidia_uvm\x00SUBSYSTEM=module\x00":                                              true,
		"remove@/module/nvidia\x00ACTION=remove\x00DEVPATH=/module/nvidia\x00SUBSYSTEM=module\x00":                                                true,
		"add@/module/zfs\x00ACTION=add\x00DEVPATH=/module/zfs\x00SUBSYSTEM=module\x00":                                                            false,
		"change@/block/sda\x00ACTION=change\x00SUBSYSTEM=block\x00":                                                                               false,
		"": false,
	} {
		if got := Concerns([]byte(message)); got != want {
			t.Errorf("%q: %v", message, got)
		}
	}
}

// kernelLog is a pipe in the place of the log, its end for writing.
func kernelLog(t *testing.T, root string) *os.File {
	t.Helper()
	path := filepath.Join(root, "dev/kmsg")
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), syscall.Mkfifo(path, 0o600)); err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(path, os.O_RDWR, 0) // a reader too, so that opening does not wait
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	return log
}

// watch hears the kernel below root; XIDs come out of the channel. The test ends it.
func watch(t *testing.T, root string) <-chan device.Event {
	ctx, cancel := context.WithCancel(t.Context())
	events, over := make(chan device.Event, 16), make(chan error, 1)
	go func() {
		over <- New(Config{Root: root}).Watch(ctx, func(e device.Event) {
			if e.Kind == device.EventXID { // the bus of this machine may speak too
				events <- e
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-over; err != nil {
			t.Errorf("watching ended with %v", err)
		}
	})
	return events
}

func TestWatchHearsTheKernelLog(t *testing.T) {
	root := tree(t, "unused.txtar") // a card
	log := kernelLog(t, root)
	events := watch(t, root)
	if _, err := log.WriteString("6,1,1,-;usb 1-1: new device\n6,2,2,-;NVRM: Xid (PCI:0000:1b:00): 79, pid=7, name=x, GPU has fallen off the bus.\n"); err != nil {
		t.Fatal(err)
	}
	if e := <-events; e.Data != 79 || e.PID != 7 || e.PCI != "0000:1b:00.0" {
		t.Errorf("event is %+v", e)
	}
}

// TestTheKernelLogWakesNobodyWithoutACard: what is not opened cannot wake. The first uevent
// that concerns NVIDIA opens it.
func TestTheKernelLogWakesNobodyWithoutACard(t *testing.T) {
	empty := New(Config{Root: t.TempDir()})
	if empty.present(t.Context()) {
		t.Error("a host without anything of NVIDIA's would hear the log")
	}
	for _, file := range []string{"unused.txtar", "nouveau.txtar", "orin.txtar"} {
		if !New(Config{Root: tree(t, file)}).present(t.Context()) {
			t.Errorf("%s: the log is not heard", file)
		}
	}
	ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	bus, kernel := os.NewFile(uintptr(ends[0]), "bus"), os.NewFile(uintptr(ends[1]), "kernel")
	defer kernel.Close()
	given := newSign()
	over := make(chan error, 1)
	go func() { over <- empty.readUevents(t.Context(), bus, given, func(device.Event) {}) }()
	if _, err := kernel.WriteString("add@/x\x00ACTION=add\x00SUBSYSTEM=pci\x00PCI_ID=10DE:2330\x00"); err != nil {
		t.Fatal(err)
	}
	if !given.wait(t.Context()) {
		t.Error("a card came and the log is not heard")
	}
	bus.Close()
	<-over
}
