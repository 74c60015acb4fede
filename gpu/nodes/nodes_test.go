package nodes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"orch/gpu/device"
	"orch/gpu/fakenvml"
)

func machine(t *testing.T, name string) device.Machine {
	t.Helper()
	rec, err := fakenvml.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	return rec.Machine
}

func TestModulesOneAfterTheOther(t *testing.T) {
	m := machine(t, "t4")
	m.Module = device.Module{State: device.ModuleUnused}
	for _, tc := range []struct {
		name   string
		change func(*device.Machine)
		want   string
	}{
		{"nothing loaded", func(*device.Machine) {}, "nvidia"},
		{"held by vfio", func(m *device.Machine) { m.GPUs[0].PCI.Driver = "vfio-pci" }, ""},
		{"nouveau", func(m *device.Machine) { m.Module.State = device.ModuleNouveau }, ""},
		{"no module installed", func(m *device.Machine) { m.Module.State = device.ModuleAbsent }, ""},
		{"without uvm", func(m *device.Machine) { m.Module = device.Module{State: device.ModuleLoaded} }, "nvidia-uvm"},
		{"all there", func(m *device.Machine) {
			m.Module = device.Module{State: device.ModuleLoaded, Majors: map[string]uint32{"nvidia-uvm": 507}}
		}, ""},
	} {
		c := m.Clone()
		tc.change(&c)
		if got := Modules(c); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestNodesAreMadeOnceAndMendedAfterAReload(t *testing.T) {
	m := machine(t, "h200-mig")
	root := t.TempDir()
	o := New(Config{Root: root})
	changed, err := o.Prepare(t.Context(), m)
	if err != nil || !changed {
		t.Fatalf("making nodes: %v, %v", changed, err)
	}
	for _, n := range []Node{{"/dev/nvidia1", 195, 1, 0o666}, {"/dev/nvidiactl", 195, 255, 0o666}, {"/dev/nvidia-uvm", 507, 0, 0o666}, {"/dev/nvidia-uvm-tools", 507, 1, 0o666},
		{"/dev/nvidia-caps/nvidia-cap1", 234, 1, 0o400}, {"/dev/nvidia-caps/nvidia-cap30", 234, 30, 0o444}} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, n.Path), &st); err != nil {
			t.Errorf("%s: %v", n.Path, err)
			continue
		}
		if unix.Major(st.Rdev) != n.Major || unix.Minor(st.Rdev) != n.Minor || st.Mode&0o777 != n.Mode {
			t.Errorf("%s is %d:%d %o, want %+v", n.Path, unix.Major(st.Rdev), unix.Minor(st.Rdev), st.Mode&0o777, n)
		}
	}
	if got := o.Link("/dev/char/507:0"); got != "../nvidia-uvm" {
		t.Errorf("link is %q", got)
	}
	if changed, err := o.Prepare(t.Context(), m); err != nil || changed {
		t.Errorf("a second time: %v, %v", changed, err)
	}
	m = m.Clone()
	m.Module.Majors["nvidia-uvm"] = 511
	steps := Plan(m, o)
	if got := fmt.Sprint(steps); got != "[mknod /dev/nvidia-uvm c 511:0 0666 ln -s ../nvidia-uvm /dev/char/511:0 mknod /dev/nvidia-uvm-tools c 511:1 0666 ln -s ../nvidia-uvm-tools /dev/char/511:1]" {
		t.Errorf("after a reload: %s", got)
	}
	if changed, err := o.Prepare(t.Context(), m); err != nil || !changed {
		t.Errorf("mending: %v, %v", changed, err)
	}
	if major, _, ok := o.Device("/dev/nvidia-uvm"); !ok || major != 511 {
		t.Errorf("the node has major %d, %v", major, ok)
	}
}

func TestDriversThatForbidNodesGetNone(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "proc/driver/nvidia")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "params"), []byte("ResmanDebugLevel: 4294967295\nModifyDeviceFiles: 0\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if changed, err := New(Config{Root: root}).Prepare(t.Context(), machine(t, "t4")); err != nil || changed {
		t.Errorf("made nodes: %v, %v", changed, err)
	}
}

func TestFailedModuleIsNotTriedAtOnce(t *testing.T) {
	var calls []string
	o := New(Config{Root: t.TempDir(), Run: func(_ context.Context, name string, args ...string) (string, error) {
		calls = append(calls, name+" "+strings.Join(args, " "))
		return "modprobe: ERROR: could not insert 'nvidia': No such device", errors.New("exit status 1")
	}})
	m := machine(t, "t4").Clone()
	m.Module = device.Module{State: device.ModuleUnused}
	if _, err := o.Prepare(t.Context(), m); err == nil || !strings.Contains(err.Error(), "No such device") {
		t.Errorf("error is %v", err)
	}
	if _, err := o.Prepare(t.Context(), m); err != nil || !slices.Equal(calls, []string{"modprobe nvidia"}) {
		t.Errorf("calls are %v, %v", calls, err)
	}
}

func TestResetByTheToolElseByTheBus(t *testing.T) {
	g := machine(t, "t4").GPUs[0]
	for _, tc := range []struct {
		out         string
		err         error
		want        string
		unsupported bool
	}{
		{"GPU 00000000:17:00.0 was successfully reset.", nil, "", false},
		{"Unable to reset this GPU because it's being used by some other process", errors.New("exit status 255"), "being used", false},
		{"Resetting GPU 00000000:17:00.0 is not supported.", errors.New("exit status 3"), "not supported", true},
		{"", exec.ErrNotFound, "no reset", true},
	} {
		o := New(Config{Root: t.TempDir(), Run: func(_ context.Context, name string, args ...string) (string, error) {
			if got := name + " " + strings.Join(args, " "); got != "nvidia-smi --gpu-reset -i 00000000:17:00.0" {
				t.Errorf("ran %s", got)
			}
			return tc.out, tc.err
		}})
		if got := o.Reset(t.Context(), g); got.Unsupported != tc.unsupported || (tc.want == "") != (got.Err == "") || !strings.Contains(got.Err, tc.want) {
			t.Errorf("%q: %+v", tc.out, got)
		}
	}
}
