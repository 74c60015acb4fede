package containerd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"orch/runtime/deviceguard/guardtest"
	"orch/runtime/engine"
)

// TestRunningContainerKeepsItsDevice: rules are major:minor; what somebody writes over them
// while the container runs (systemd that is told to reload) is put right, also by a later orch.
func TestRunningContainerKeepsItsDevice(t *testing.T) {
	c := testConfig(t)
	e := open(t, c)
	busybox(t, e)
	node := filepath.Join(t.TempDir(), "nvidia0")
	if err := unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(195, 0))); err != nil {
		t.Fatal(err)
	}
	s := engine.Spec{ID: "carded", Pod: "p", Image: "busybox:test", Command: []string{"sleep", "1000"}, LogPath: filepath.Join(t.TempDir(), "0.log"), CgroupPath: cgroupOf(c.Root, "carded")}
	s.Devices = []engine.Device{{Host: node, Target: "/dev/nvidia0", Permissions: "rw"}}
	if err := e.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Start(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	defer func() { end(t, e, s.ID) }()
	opens := func() string {
		var out strings.Builder
		_, err := e.Exec(t.Context(), s.ID, engine.ExecSpec{Command: []string{"cat", "/dev/nvidia0"}}, engine.IO{Stderr: &out})
		if err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	const allowed, denied = "No such device or address", "Operation not permitted"
	if got := opens(); !strings.Contains(got, allowed) {
		t.Fatalf("at first: %s", got)
	}
	if n := e.checkDevices(); n != 1 {
		t.Errorf("%d containers are guarded", n)
	}
	deny(t, e, s.CgroupPath)
	if got := opens(); !strings.Contains(got, denied) {
		t.Fatalf("its rules were not written over: %s", got)
	}
	e.checkDevices()
	if got := opens(); !strings.Contains(got, allowed) {
		t.Errorf("after a check: %s", got)
	}
	if err := e.Update(t.Context(), s.ID, engine.Resources{MemoryBytes: 96 << 20}); err != nil {
		t.Fatal(err)
	}
	if got := opens(); !strings.Contains(got, allowed) {
		t.Errorf("after new limits: %s", got)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	deny(t, e, s.CgroupPath)
	e = open(t, c)
	until(t, "a later orch puts the rules right", func() bool { return strings.Contains(opens(), allowed) })
}

// deny writes over the rules of a control group as systemd does.
func deny(t *testing.T, e *Engine, cgroup string) {
	t.Helper()
	var err error
	if e.host.CgroupV2 {
		err = guardtest.Deny(filepath.Join("/sys/fs/cgroup", cgroup))
	} else {
		err = os.WriteFile(filepath.Join("/sys/fs/cgroup/devices", cgroup, "devices.deny"), []byte("c 195:0 rw"), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
}
