package cdi

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"orch/gpu/device"
)

// TestBoard: what a container needs of a Jetson is what the board's lists name and the
// board has.
func TestBoard(t *testing.T) {
	root := t.TempDir()
	file := func(path, text string) {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m := device.Machine{GPUs: []device.GPU{{UUID: "tegra", Integrated: true}}}
	where := Where{FS: os.DirFS(root), Root: root, Arch: "arm64", Version: "36.4.3", Integrated: true}
	if _, err := Find(where); err == nil || !strings.Contains(err.Error(), "host-files-for-container.d") {
		t.Errorf("without lists: %v", err)
	}
	file("etc/nvidia-container-runtime/host-files-for-container.d/devices.csv", "dev, /dev/nvhost-ctrl-gpu\ndev, /dev/nvhost-absent\ndev,/dev/nvgpu/igpu0/*\n\n# a remark\ndev, ../etc/passwd\n")
	file("etc/nvidia-container-runtime/host-files-for-container.d/drivers.csv", "lib, /usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1.1\nsym, /usr/lib/aarch64-linux-gnu/libcuda.so\ndir, /usr/share/alsa\nlib, /usr/lib/none.so\nwhat, /etc/shadow\n")
	file("usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1.1", "cuda")
	file("usr/share/alsa/a", "")
	file("etc/shadow", "secret")
	if err := os.Symlink("nvidia/libcuda.so.1.1", filepath.Join(root, "usr/lib/aarch64-linux-gnu/libcuda.so")); err != nil {
		t.Fatal(err)
	}
	for name, minor := range map[string]uint32{"nvhost-ctrl-gpu": 1, "nvgpu/igpu0/ctrl": 2, "nvgpu/igpu0/as": 3} {
		path := filepath.Join(root, "dev", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(505, minor))); err != nil {
			t.Fatal(err)
		}
	}
	f, err := Find(where)
	if err != nil {
		t.Fatal(err)
	}
	e, err := For(m, f, Request{Devices: []string{"tegra"}, Capabilities: []Capability{Utility}})
	if err != nil {
		t.Fatal(err)
	}
	if want := []Node{{"/dev/nvhost-ctrl-gpu", 505, 1}, {"/dev/nvgpu/igpu0/as", 505, 3}, {"/dev/nvgpu/igpu0/ctrl", 505, 2}}; !slices.Equal(e.Nodes, want) {
		t.Errorf("nodes %v", e.Nodes)
	}
	var targets, cache []string
	for _, x := range e.Mounts {
		if from := strings.TrimPrefix(x.Source, root); from != x.Target && x.Target != "/usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1" {
			t.Errorf("%s comes from %s", x.Target, from)
		}
		targets = append(targets, x.Target)
	}
	for _, c := range e.Cache {
		cache = append(cache, c.Name+" "+c.Path)
	}
	if want := []string{"/usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1.1", "/usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1", "/usr/lib/aarch64-linux-gnu/libcuda.so", "/usr/share/alsa"}; !slices.Equal(targets, want) {
		t.Errorf("mounts %v", targets)
	}
	if want := []string{"libcuda.so.1.1 /usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1.1", "libcuda.so.1 /usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1", "libcuda.so /usr/lib/aarch64-linux-gnu/libcuda.so"}; !slices.Equal(cache, want) {
		t.Errorf("loader's cache %v", cache)
	}
	if spec, err := Spec(m, f, ""); err != nil || !strings.Contains(string(spec), `"name": "tegra"`) || !strings.Contains(string(spec), "nvhost-ctrl-gpu") {
		t.Errorf("%v %s", err, spec)
	}
}
