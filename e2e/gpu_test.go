package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"orch/e2e/lab"
	"orch/gpu/device"
	"orch/gpu/fakenvml"
)

// gpuMachine is a recorded machine as a host has it: the recording, a tree with the
// driver's files, and device nodes without a card behind them (opening one gives ENXIO).
type gpuMachine struct {
	device.Machine
	recording, root string
}

// capsOfCard is how many capabilities the driver numbers for a card.
const capsOfCard = 15 * 9

// newGPUMachine plays the first n cards of a machine of the catalogue, 0 for all.
func newGPUMachine(t *testing.T, name string, n int) gpuMachine {
	t.Helper()
	g := gpuMachine{recording: filepath.Join(t.TempDir(), name+".json"), root: t.TempDir()}
	rec, err := fakenvml.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	if n > 0 {
		rec = fakenvml.Take(rec, n)
	}
	f, err := os.Create(g.recording)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rec.WriteTo(f); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	g.Machine = rec.Machine
	lib := filepath.Join(g.root, "usr", "lib", "x86_64-linux-gnu")
	for _, dir := range []string{lib, filepath.Join(g.root, "usr", "bin"), filepath.Join(g.root, "dev", "nvidia-caps")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range []string{"libcuda", "libnvidia-ml", "libnvidia-ptxjitcompiler"} {
		writeFile(t, filepath.Join(lib, l+".so."+g.Driver.Version), l+" of "+g.Driver.Version)
	}
	writeFile(t, filepath.Join(g.root, "usr", "bin", "nvidia-smi"), "#!/bin/sh\necho this is nvidia-smi\n")
	if err := os.Chmod(filepath.Join(g.root, "usr", "bin", "nvidia-smi"), 0o755); err != nil {
		t.Fatal(err)
	}
	node := func(path string, major, minor uint32) {
		path = filepath.Join(g.root, "dev", path)
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(major, minor))); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	node("nvidiactl", 195, 255)
	node("nvidia-modeset", 195, 254)
	node("nvidia-uvm", g.Module.Majors["nvidia-uvm"], 0)
	node("nvidia-uvm-tools", g.Module.Majors["nvidia-uvm"], 1)
	for _, card := range g.GPUs {
		node(fmt.Sprintf("nvidia%d", *card.Minor), 195, uint32(*card.Minor))
		if card.MIG == nil {
			continue
		}
		for i := range capsOfCard { // of all instances that it may come to have
			minor := 3 + *card.Minor*capsOfCard + i
			node(fmt.Sprintf("nvidia-caps/nvidia-cap%d", minor), g.Module.Majors["nvidia-caps"], uint32(minor))
		}
	}
	return g
}

func (g gpuMachine) flags(more ...string) []string {
	return append([]string{"--gpu-recording", g.recording, "--gpu-driver-root", g.root, "--gpu-dev-root", g.root}, more...)
}

// gpuPod asks for n of a resource and sleeps.
func gpuPod(c cluster, name, resource string, n int, more ...string) {
	c.Pod(name, "busybox:1.36", fmt.Sprintf("command: [sleep, '3600']\nresources: {limits: {%s: %d}}", resource, n), more...)
}

// TestGPUs: a node whose machine has eight cards, with only the driver installed.
func TestGPUs(t *testing.T) {
	g := newGPUMachine(t, "h100-8", 0)
	h := lab.New(t).Host("gpubox")
	h.Images()
	server := h.StartServer(g.flags()...)
	c := newCluster(t, h)
	c.Gets("node/gpubox", `{.status.allocatable.nvidia\.com/gpu}`, "8")
	equal(t, "product", c.K("get", "node", "gpubox", "-o", `jsonpath={.metadata.labels.nvidia\.com/gpu\.product}`), strings.ReplaceAll(g.GPUs[0].Name, " ", "-"))
	contains(t, c.K("get", "node", "gpubox", "-o", "jsonpath={.metadata.labels}"), `"feature.node.kubernetes.io/pci-10de.present":"true"`)
	c.Gets("node/gpubox", `{.status.conditions[?(@.type=="GPUDriverReady")].status}`, "True")
	contains(t, c.K("get", "runtimeclass", "nvidia"), "nvidia")

	gpuPod(c, "one", "nvidia.com/gpu", 1, "runtimeClassName: nvidia")
	gpuPod(c, "four", "nvidia.com/gpu", 4)
	c.Sleeper("none")
	c.Ready("one", "four", "none")
	nodes := c.Exec("one", "sh", "-c", "ls /dev | grep nvidia | tr '\\n' ' '").Stdout
	contains(t, nodes, "nvidia-uvm nvidia-uvm-tools")
	equal(t, "cards in pod one", fmt.Sprint(cardNodes(nodes)), "1")
	equal(t, "cards in pod four", fmt.Sprint(cardNodes(c.Exec("four", "sh", "-c", "ls /dev | grep nvidia | tr '\\n' ' '").Stdout)), "4")
	equal(t, "devices of a pod that asked for none", c.Exec("none", "sh", "-c", "ls /dev | grep nvidia").Stdout, "")
	contains(t, c.Exec("one", "nvidia-smi").Stdout, "this is nvidia-smi")
	contains(t, c.Exec("one", "cat", "/usr/lib/x86_64-linux-gnu/libcuda.so.1").Stdout, "libcuda of "+g.Driver.Version)
	contains(t, c.Exec("one", "sh", "-c", "echo x > /usr/lib/x86_64-linux-gnu/libcuda.so.1").Stderr, "Read-only")
	contains(t, c.Exec("one", "sh", "-c", "grep -c libcuda.so.1 /etc/ld.so.cache").Stdout, "1")
	given := strings.TrimSpace(c.Exec("one", "sh", "-c", "echo $NVIDIA_VISIBLE_DEVICES").Stdout)
	contains(t, given, "GPU-")
	// Its own card is not there behind the node; another one may not even be asked.
	contains(t, c.Exec("one", "sh", "-c", "cat /dev/nvidia[0-9]*").Stderr, "No such device or address")
	contains(t, c.Exec("none", "sh", "-c", "mknod /tmp/stolen c 195 0 && cat /tmp/stolen").Stderr, "Operation not permitted")

	gpuPod(c, "five", "nvidia.com/gpu", 5)
	c.Eventually(patience, "the fifth pod is told why it waits", func() error {
		return missing(c.K("describe", "pod", "five"), "Insufficient nvidia.com/gpu")
	})
	t.Run("the ledger outlives orch", func(t *testing.T) {
		server.Kill()
		server.Restart()
		c := cluster{h.For(t), c.ns}
		c.Ready("one", "four")
		equal(t, "device after a restart", strings.TrimSpace(c.Exec("one", "sh", "-c", "echo $NVIDIA_VISIBLE_DEVICES").Stdout), given)
		gpuPod(c, "three", "nvidia.com/gpu", 3)
		c.Ready("three")
		three := strings.TrimSpace(c.Exec("three", "sh", "-c", "echo $NVIDIA_VISIBLE_DEVICES").Stdout)
		four := strings.TrimSpace(c.Exec("four", "sh", "-c", "echo $NVIDIA_VISIBLE_DEVICES").Stdout)
		seen := map[string]bool{}
		for _, uuid := range strings.Split(three+","+four+","+given, ",") {
			if seen[uuid] {
				t.Errorf("%s is in two live containers", uuid)
			}
			seen[uuid] = true
		}
		c.K("delete", "pod", "four", "three", "--grace-period=1")
		c.Ready("five")
	})
	t.Run("other container engines", func(t *testing.T) { gpuByCDI(t, h.For(t), g) })
	t.Run("metrics", func(t *testing.T) {
		var page string
		h.Eventually(patience, "the metrics are served", func() error {
			a, err := (&http.Client{Transport: &http.Transport{DialContext: h.Dial}}).Get("http://127.0.0.1:9400/metrics")
			if err != nil {
				return err
			}
			defer a.Body.Close()
			b, err := io.ReadAll(a.Body)
			page = string(b)
			return err
		})
		contains(t, page, `pod="one"`)
		contains(t, page, "DCGM_FI_DEV_GPU_UTIL{gpu=\"0\",UUID=\""+g.GPUs[0].UUID)
	})
}

// gpuByCDI: containerd's client, which is no kubelet, gives a card by the file that orch publishes.
// The folder stands in for the machine's, which other tests use too.
func gpuByCDI(t *testing.T, h *lab.Host, g gpuMachine) {
	const script = `mkdir -p /var/run/cdi && mount --bind "$1/agent/cdi" /var/run/cdi && shift && exec "$@"`
	out := h.Run("", "unshare", "--mount", "sh", "-c", script, "sh", h.Dir,
		lab.Binary(), "ctr", "--address", filepath.Join(h.Dir, "agent", "run", "containerd", "containerd.sock"), "run", "--rm", "--device", "nvidia.com/gpu=2",
		"docker.io/library/busybox:1.36", fmt.Sprintf("by-cdi-%d", os.Getpid()), "sh", "-c", "ls /dev; nvidia-smi; cat /usr/lib/x86_64-linux-gnu/libcuda.so.1; cat /dev/nvidia2")
	contains(t, out.Both(), fmt.Sprintf("nvidia%d", *g.GPUs[2].Minor), "nvidia-uvm", "this is nvidia-smi", "libcuda of "+g.Driver.Version, "No such device or address")
	equal(t, "cards", fmt.Sprint(cardNodes(out.Stdout)), "1")
}

func cardNodes(list string) int {
	n := 0
	for _, f := range strings.Fields(list) {
		if strings.Trim(f, "0123456789") == "nvidia" && f != "nvidia" {
			n++
		}
	}
	return n
}

// TestGPUShares: NVIDIA's sharing file, and MIG devices under their own names.
func TestGPUShares(t *testing.T) {
	g := newGPUMachine(t, "h200-mig", 0)
	config := filepath.Join(t.TempDir(), "sharing.yaml")
	device := g.GPUs[0].MIGDevices()[0]
	profile := strings.ReplaceAll(device.Profile, "+", ".")
	writeFile(t, config, "version: v1\nflags: {migStrategy: mixed}\nsharing:\n  timeSlicing:\n    resources:\n    - {name: nvidia.com/mig-"+profile+", replicas: 2}\n")
	h := lab.New(t).Host("migbox")
	h.Images()
	server := h.StartServer(g.flags("--gpu-config", config, "--gpu-taint")...)
	c := newCluster(t, h)
	of := 0
	for _, card := range g.GPUs {
		for _, d := range card.MIGDevices() {
			if d.Profile == device.Profile {
				of++
			}
		}
	}
	equal(t, "shares", c.K("get", "node", "migbox", "-o", `jsonpath={.status.allocatable.nvidia\.com/mig-`+strings.ReplaceAll(profile, ".", `\.`)+`}`), fmt.Sprint(2*of))
	gpuPod(c, "slice", "nvidia.com/mig-"+profile, 1)
	c.Ready("slice")
	equal(t, "capabilities", fmt.Sprint(len(strings.Fields(c.Exec("slice", "ls", "/dev/nvidia-caps").Stdout))), "2")
	contains(t, c.Exec("slice", "sh", "-c", "echo $NVIDIA_VISIBLE_DEVICES").Stdout, "MIG-")
	c.K("delete", "pod", "slice", "--grace-period=0", "--force")
	c.Eventually(patience, "the slice is given back", func() error {
		if out := h.Orch(nil, "gpu", "status", "--kubeconfig", h.Kubeconfig()).Both(); strings.Contains(out, c.ns+"/slice") {
			return errors.New(out)
		}
		return nil
	})
	t.Run("nodes with GPUs are for pods that ask for some", func(t *testing.T) {
		const taint = `{.spec.taints[?(@.key=="nvidia.com/gpu")].effect}`
		c := cluster{h.For(t), c.ns}
		c.Gets("node/migbox", taint, "NoSchedule")
		c.Sleeper("plain")
		c.Says("untolerated taint", "describe", "pod", "plain")
		server.Stop()
		server.RestartWithout("--gpu-taint")
		c.Gets("node/migbox", taint, "")
		c.Ready("plain")
	})
	t.Run("a configuration that is wrong is refused", func(t *testing.T) {
		writeFile(t, config, "version: v1\nsharing: {timeSlicing: {resources: [{name: nvidia.com/gpu, replicas: 1}]}}\n")
		out := h.For(t).Orch(nil, "server", "--data-dir", t.TempDir(), "--https-listen-port", "7443", "--node-ip", h.IP.String(), "--gpu-config", config)
		contains(t, out.Both(), "sharing.timeSlicing.resources[0].replicas: 1, it may be 2 to 1024")
	})
}
