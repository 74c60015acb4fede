package gpus

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	engines "tags.cncf.io/container-device-interface/pkg/cdi"

	"orch/gpu/cdi"
	"orch/gpu/device"
	"orch/gpu/share"
)

// publish runs one round and lists what an engine finds in the folder.
func publish(t *testing.T, r *rig, dir string) []string {
	t.Helper()
	p := publisher{GPUs: r.GPUs, dir: dir}
	p.once()
	cache, err := engines.NewCache(engines.WithAutoRefresh(false), engines.WithSpecDirs(dir))
	if err != nil {
		t.Fatal(err)
	}
	return cache.ListDevices()
}

// TestPublishedFollowsTheDriver: reload with another major of nvidia-uvm, other MIG
// devices, a driver that goes and comes.
func TestPublishedFollowsTheDriver(t *testing.T) {
	r := newRig(t, "h200-mig", share.Config{})
	dir := t.TempDir()
	if got := publish(t, r, dir); !slices.Contains(got, "nvidia.com/gpu=0:0") || !slices.Contains(got, "nvidia.com/gpu=all") {
		t.Fatalf("published are %v", got)
	}
	file := filepath.Join(dir, SpecFile)
	st, err := os.Stat(file)
	if err != nil || st.Mode().Perm() != 0o644 {
		t.Fatal(st, err)
	}
	publish(t, r, dir)
	if again, err := os.Stat(file); err != nil || !os.SameFile(st, again) {
		t.Error("a file that is right was written again")
	}
	r.machine = r.machine.Clone()
	r.machine.Module.Majors["nvidia-uvm"] = 233
	gone := r.machine.GPUs[0].MIGDevices()[0]
	r.machine.GPUs[0].MIG.Instances = slices.DeleteFunc(r.machine.GPUs[0].MIG.Instances, func(i device.GPUInstance) bool { return i.ID == gone.GI })
	if got := publish(t, r, dir); slices.Contains(got, "nvidia.com/gpu="+gone.UUID) || !slices.Contains(got, "nvidia.com/gpu=0:1") {
		t.Errorf("published after a MIG device went: %v", got)
	}
	if b, err := os.ReadFile(file); err != nil || !strings.Contains(string(b), `"major": 233`) {
		t.Error("the major of nvidia-uvm is stale", err)
	}
	r.machine.Module.State = device.ModuleUnused
	if got := publish(t, r, dir); len(got) != 0 {
		t.Errorf("without a driver %v are published", got)
	}
	if l, err := os.ReadDir(dir); err != nil || len(l) != 0 {
		t.Errorf("left over: %v, %v", l, err)
	}
}

// TestPublishedBesideOthers: a file of NVIDIA's toolkit for the same kind stays, and ours
// goes: an engine refuses devices that two files of a folder describe.
func TestPublishedBesideOthers(t *testing.T) {
	r := newRig(t, "h100-8", share.Config{})
	dir := t.TempDir()
	theirs := filepath.Join(dir, "nvidia.yaml")
	const text = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: theirs\n  containerEdits: {env: [A=B]}\n"
	for _, step := range []struct {
		name, text, want string
		n                int
	}{
		{"alone", "", "nvidia.com/gpu=0", 17},
		{"theirs came", text, "nvidia.com/gpu=theirs", 1},
		{"theirs is of another kind", strings.Replace(text, "gpu", "nic", 1), "nvidia.com/gpu=0", 18},
		{"theirs is broken", "kind: [", "nvidia.com/gpu=0", 17},
	} {
		if step.text != "" {
			if err := os.WriteFile(theirs, []byte(step.text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := publish(t, r, dir); len(got) != step.n || !slices.Contains(got, step.want) {
			t.Errorf("%s: %v", step.name, got)
		}
		if step.text != "" {
			if b, err := os.ReadFile(theirs); err != nil || string(b) != step.text {
				t.Errorf("%s: their file is %q, %v", step.name, b, err)
			}
		}
	}
}

func TestPublishedNeedsTheFiles(t *testing.T) {
	r := newRig(t, "h100-8", share.Config{})
	dir := t.TempDir()
	publish(t, r, dir)
	r.config.Files = func(device.Machine) (cdi.Files, error) { return cdi.Files{}, errors.New("no libcuda") }
	r.files.Store(nil)
	if got := publish(t, r, dir); len(got) != 0 {
		t.Errorf("published are %v", got)
	}
}

// TestPublishHearsTheFolder: what others put into the folder counts without anything
// happening to the cards, and a file of ours that is deleted comes back.
func TestPublishHearsTheFolder(t *testing.T) {
	r := newRig(t, "h100-8", share.Config{})
	dir := filepath.Join(t.TempDir(), "cdi")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Publish(ctx, dir) }()
	there := func(want bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			if _, err := os.Stat(filepath.Join(dir, SpecFile)); (err == nil) == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("the file is there: %v", !want)
			}
		}
	}
	there(true)
	if err := os.Remove(filepath.Join(dir, SpecFile)); err != nil {
		t.Fatal(err)
	}
	there(true)
	if err := os.WriteFile(filepath.Join(dir, "nvidia.yaml"), []byte("kind: nvidia.com/gpu\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	there(false)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
