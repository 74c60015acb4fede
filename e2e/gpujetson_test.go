package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"orch/e2e/lab"
	"orch/gpu/device"
)

// TestGPUOfAJetson: the GPU inside a system on chip is one nvidia.com/gpu, and its pod gets
// what the board's own lists name.
func TestGPUOfAJetson(t *testing.T) {
	root, recording := t.TempDir(), filepath.Join(t.TempDir(), "orin.json")
	const lib = "usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1.1"
	for path, text := range map[string]string{
		"etc/nvidia-container-runtime/host-files-for-container.d/devices.csv": "dev, /dev/nvhost-ctrl-gpu\ndev, /dev/nvmap\n",
		"etc/nvidia-container-runtime/host-files-for-container.d/drivers.csv": "lib, /" + lib + "\n",
		lib: "cuda of the board",
	} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, path, text)
	}
	if err := os.Mkdir(filepath.Join(root, "dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(root, "dev", "nvhost-ctrl-gpu"), unix.S_IFCHR|0o666, int(unix.Mkdev(505, 1))); err != nil {
		t.Fatal(err)
	}
	rec := device.Recording{Machine: device.Machine{Tier: device.TierSysfs, Module: device.Module{State: device.ModuleLoaded, Version: "36.4.3"}, Driver: device.Driver{Version: "36.4.3"},
		GPUs: []device.GPU{{UUID: "tegra", Integrated: true, Name: "NVIDIA Jetson AGX Orin Developer Kit", Architecture: "Ampere", Compute: &device.Capability{Major: 8, Minor: 7}}}}}
	f, err := os.Create(recording)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rec.WriteTo(f); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	h := lab.New(t).Host("orin")
	h.Images()
	h.StartServer("--gpu-recording", recording, "--gpu-driver-root", root, "--gpu-dev-root", root)
	c := newCluster(t, h)
	equal(t, "allocatable", c.K("get", "node", "orin", "-o", `jsonpath={.status.allocatable.nvidia\.com/gpu}`), "1")
	contains(t, c.K("get", "node", "orin", "-o", `jsonpath={.status.conditions[?(@.type=="GPUDriverReady")]}`), `"status":"True"`)
	contains(t, c.K("get", "resourceslices", "-o", "jsonpath={.items[*].spec.devices[*].name}"), "gpu-0")
	gpuPod(c, "infer", "nvidia.com/gpu", 1)
	c.Ready("infer")
	contains(t, c.Exec("infer", "sh", "-c", "ls /dev; cat /usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1").Stdout, "nvhost-ctrl-gpu", "cuda of the board")
	contains(t, c.Exec("infer", "sh", "-c", "head -c 1 /dev/nvhost-ctrl-gpu; true").Both(), "No such device or address")
}
