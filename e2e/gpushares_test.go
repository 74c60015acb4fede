package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"orch/e2e/lab"
	"orch/gpu/device"
	"orch/gpu/mps"
)

// sharePod asks for a part of a card and sleeps.
func sharePod(c cluster, name, limits string, more ...string) {
	c.Pod(name, "busybox:1.36", "command: [sleep, '3600']\nresources: {limits: {"+limits+"}}", more...)
}

// shared is what the pod's condition says of what keeps it within its share.
func (c cluster) shared(pod string) string {
	c.Helper()
	return c.Get("pod/"+pod, `{.status.conditions[?(@.type=="orch.io/GPUShareEnforced")].status} {.status.conditions[?(@.type=="orch.io/GPUShareEnforced")].reason}`)
}

// TestGPUSharing: several pods on one card, by amounts, fractions and what a chart renders.
func TestGPUSharing(t *testing.T) {
	g := newGPUMachine(t, "h100-8", 1)
	h := lab.New(t).Host("sharebox")
	h.Images()
	h.StartServer(g.flags()...)
	for _, test := range []struct {
		name string
		run  func(*testing.T, cluster, gpuMachine)
	}{
		{"amounts", shareAmounts},
		{"fractions", shareFractions},
		{"chart", shareChart},
		{"whoever takes more is ended", shareWatchdog},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, newCluster(t, h), g) })
	}
}

func shareAmounts(t *testing.T, c cluster, g gpuMachine) {
	c.Gets("node/sharebox", `{.status.allocatable.nvidia\.com/gpumem} {.status.allocatable.nvidia\.com/gpucores}`, "81559 100")
	sharePod(c, "one", "nvidia.com/gpu: 1, nvidia.com/gpumem: 40000, nvidia.com/gpucores: 50")
	sharePod(c, "two", "nvidia.com/gpumem: 40000")
	c.Ready("one", "two")
	for _, pod := range []string{"one", "two"} {
		equal(t, "card of pod "+pod, strings.Join(c.given(pod), ","), g.GPUs[0].UUID)
		equal(t, "what keeps pod "+pod, c.shared(pod), "True Watchdog")
		equal(t, "what libraries are told", strings.TrimSpace(c.Exec(pod, "sh", "-c", "echo $CUDA_DEVICE_MEMORY_LIMIT_0").Stdout), "40000m")
	}
	contains(t, c.K("get", "pod", "one", "-o", "yaml"), "::share-0.40000m.50c", "main has 40000 MiB and 50 % of the multiprocessors of "+g.GPUs[0].UUID)
	sharePod(c, "three", "nvidia.com/gpu: 1, nvidia.com/gpumem: 3000")
	c.Says("0/1 nodes are available: 1 Insufficient nvidia.com/gpumem: 3000 MiB of one card wanted, 1559 are free at most.", "describe", "pod", "three")
	gpuPod(c, "whole", "nvidia.com/gpu", 1)
	c.Says("1 Insufficient nvidia.com/gpu", "describe", "pod", "whole")
	if out := c.In("apiVersion: v1\nkind: Pod\nmetadata: {name: never, annotations: {gpu-fraction: '1.5'}}\nspec: {containers: [{name: c, image: x}]}\n", "apply", "-f", "-"); !strings.Contains(out.Both(), `gpu-fraction: "1.5", it must be a number above 0 and below 1`) {
		t.Error(out.Both())
	}
	contains(t, c.Orch(nil, "gpu", "status", "-o", "wide", "--kubeconfig", c.Kubeconfig()).Both(), c.ns+"/one/main", "40000 MiB", "Watchdog")
	contains(t, c.Kubectl("get", "--raw", "/api/v1/nodes/sharebox/proxy/metrics/gpu"), "orch_gpu_shares 2", "orch_gpu_shares_unenforced 0")
	contains(t, c.Orch(nil, "gpu", "doctor", c.ns+"/one", "--kubeconfig", c.Kubeconfig()).Both(), "container main holds 40000 MiB and 50 % of the multiprocessors of GPU 0", "kept within it by: Watchdog")
	c.gone("pod", "one")
	c.Ready("three")
	c.gone("pod", "two", "three")
	c.Ready("whole")
	sharePod(c, "late", "nvidia.com/gpumem: 1000")
	c.Says("Insufficient nvidia.com/gpu: no card is shared with room or unused", "describe", "pod", "late")
	c.gone("pod", "whole", "late")
}

func shareFractions(t *testing.T, c cluster, g gpuMachine) {
	for _, name := range []string{"left", "right", "more"} {
		c.Apply("apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + ", annotations: {gpu-fraction: '0.5'}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {name: main, image: 'busybox:1.36', command: [sleep, '3600']}\n")
		if name != "more" {
			c.Ready(name)
		}
	}
	equal(t, "cards", c.given("left")[0]+" "+c.given("right")[0], g.GPUs[0].UUID+" "+g.GPUs[0].UUID)
	contains(t, c.K("get", "pod", "left", "-o", "yaml"), `nvidia.com/gpumem-percentage: "50"`, "main has 40779 MiB and 50 % of the multiprocessors")
	c.Says("Insufficient nvidia.com/gpu", "describe", "pod", "more")
	c.gone("pod", "left")
	c.Ready("more")
	c.gone("pod", "right", "more")
}

func shareChart(t *testing.T, c cluster, g gpuMachine) {
	c.K("apply", "-f", gpuManifest("vllm"))
	c.K("rollout", "status", "deployment/vllm-opt-deployment-vllm", "--timeout=150s")
	for _, pod := range strings.Fields(c.K("get", "pods", "-l", "model=opt", "-o", "jsonpath={.items[*].metadata.name}")) {
		equal(t, "card", c.given(pod)[0], g.GPUs[0].UUID)
	}
	// The chart's rolling update begins with a surge, which a whole card would not have room for.
	c.K("set", "env", "deployment/vllm-opt-deployment-vllm", "MODEL=new")
	c.K("rollout", "status", "deployment/vllm-opt-deployment-vllm", "--timeout=150s")
	c.gone("deployment", "vllm-opt-deployment-vllm")
	c.Eventually(patience, "the models are gone", func() error {
		if s := c.K("get", "pods", "-o", "name"); s != "" {
			return errors.New(s)
		}
		return nil
	})
}

// processOf is a process of a container, by the kernel's list of its groups.
func processOf(t *testing.T, id string) int {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if b, err := os.ReadFile(d); err == nil && strings.Contains(string(b), id) {
			var pid int
			fmt.Sscanf(d, "/proc/%d/", &pid)
			return pid
		}
	}
	t.Fatalf("container %s has no process", id)
	return 0
}

func shareWatchdog(t *testing.T, c cluster, g gpuMachine) {
	sharePod(c, "greedy", "nvidia.com/gpumem: 3000", "restartPolicy: Never")
	sharePod(c, "modest", "nvidia.com/gpumem: 3000", "restartPolicy: Never")
	c.Ready("greedy", "modest")
	rewrite(t, g.recording, func(rec *device.Recording) {
		for pod, mib := range map[string]uint64{"greedy": 3900, "modest": 2900} {
			id := strings.TrimPrefix(c.Get("pod/"+pod, "{.status.containerStatuses[0].containerID}"), "containerd://")
			rec.Processes = append(rec.Processes, device.Process{PID: processOf(t, id), Kind: device.ProcessCompute, UUID: g.GPUs[0].UUID, UsedBytes: new(mib << 20)})
		}
	})
	began := time.Now()
	c.Gets("pod/greedy", "{.status.containerStatuses[0].state.terminated.reason}", "GPUMemoryLimitExceeded")
	t.Logf("the offender was ended after %s", time.Since(began).Round(100*time.Millisecond))
	message := "container main used 3900 MiB of GPU " + g.GPUs[0].UUID + ", its share is 3000 MiB"
	contains(t, c.Get("pod/greedy", "{.status.containerStatuses[0].state.terminated.message}"), message)
	c.Says(message, "describe", "pod", "greedy")
	c.Says("GPUMemoryLimitExceeded", "get", "events")
	equal(t, "its neighbour", c.Get("pod/modest", "{.status.phase}"), "Running")
	c.gone("pod", "greedy", "modest")
}

// TestGPUShareByDriver: a driver that can limit memory by control group is told of a
// container's before its process runs.
func TestGPUShareByDriver(t *testing.T) {
	g := newGPUMachine(t, "h100-8", 1)
	rewrite(t, g.recording, func(rec *device.Recording) { rec.Machine.GPUs[0].MemoryLimits = true })
	h := lab.New(t).Host("limitbox")
	h.Images()
	h.StartServer(g.flags()...)
	c := newCluster(t, h)
	sharePod(c, "one", "nvidia.com/gpumem: 3000")
	c.Ready("one") // the group is there, else the driver would have refused
	equal(t, "what keeps the pod", c.shared("one"), "True Driver")
	contains(t, c.Get("pod/one", `{.status.conditions[?(@.type=="orch.io/GPUShareEnforced")].message}`), "the driver refuses more memory")
	c.gone("pod", "one")
}

// rewrite changes a recording; it is whole at any moment.
func rewrite(t *testing.T, path string, change func(*device.Recording)) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := device.ReadRecording(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	change(&rec)
	var text strings.Builder
	if _, err := rec.WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	writeFile(t, path+".new", text.String())
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// TestGPUMPS: NVIDIA's sharing file with mps, with a program that stands in for the driver's
// control daemon.
func TestGPUMPS(t *testing.T) {
	g := newGPUMachine(t, "h100-8", 1)
	if out, err := exec.Command("go", "build", "-o", filepath.Join(g.root, "usr", "bin", mps.Name), "orch/gpu/mps/standin").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	config := filepath.Join(t.TempDir(), "sharing.yaml")
	writeFile(t, config, "version: v1\nsharing:\n  mps:\n    resources:\n    - {name: nvidia.com/gpu, replicas: 4}\n")
	h := lab.New(t).Host("mpsbox")
	h.Images()
	server := h.StartServer(g.flags("--gpu-config", config)...)
	c := newCluster(t, h)
	c.Gets("node/mpsbox", `{.status.allocatable.nvidia\.com/gpu}`, "4")
	daemons := func() []int {
		var out []int
		dirs, _ := filepath.Glob("/proc/[0-9]*/exe")
		for _, d := range dirs {
			if exe, err := os.Readlink(d); err == nil && exe == filepath.Join(g.root, "usr", "bin", mps.Name) {
				var pid int
				fmt.Sscanf(d, "/proc/%d/", &pid)
				out = append(out, pid)
			}
		}
		return out
	}
	if n := len(daemons()); n != 0 {
		t.Errorf("%d daemons without a client", n)
	}
	gpuPod(c, "one", "nvidia.com/gpu", 1)
	gpuPod(c, "two", "nvidia.com/gpu", 1)
	defer func() { // the daemon goes with its last client
		c.gone("pod", "one", "two")
		c.Eventually(patience, "the daemon is gone", func() error {
			if pids := daemons(); len(pids) > 0 {
				return fmt.Errorf("%d is there", pids[0])
			}
			return nil
		})
	}()
	c.Ready("one", "two")
	first := daemons()
	if len(first) != 1 {
		t.Fatalf("daemons %v", first)
	}
	for _, pod := range []string{"one", "two"} {
		equal(t, "what keeps pod "+pod, c.shared(pod), "True MPS")
		contains(t, c.Exec(pod, "sh", "-c", "ls $CUDA_MPS_PIPE_DIRECTORY; cat /dev/shm/mps-standin").Stdout, "control", g.GPUs[0].UUID)
	}
	contains(t, c.K("get", "pod", "one", "-o", "yaml"), "main has 20389 MiB and 25 % of the multiprocessors")
	c.Gets("node/mpsbox", `{.status.conditions[?(@.type=="GPUMPSReady")].status}`, "True")
	t.Run("a claim has a daemon of its own", func(t *testing.T) {
		c.gone("pod", "two", "one")
		c.Apply("apiVersion: resource.k8s.io/v1\nkind: ResourceClaim\nmetadata: {name: card}\nspec: {devices: {requests: [{name: r, exactly: {deviceClassName: gpu.nvidia.com}}], config: [{opaque: {driver: gpu.nvidia.com, parameters: {apiVersion: resource.nvidia.com/v1beta1, kind: GpuConfig, sharing: {strategy: MPS, mpsConfig: {defaultActiveThreadPercentage: 40}}}}}]}}\n")
		for _, pod := range []string{"a", "b"} {
			claimed(c, pod, map[string]string{"card": "resourceClaimName: card"}, map[string]string{"main": "card"})
		}
		c.Ready("a", "b")
		equal(t, "what keeps pod a", c.shared("a"), "True MPS")
		contains(t, c.Exec("b", "sh", "-c", "ls $CUDA_MPS_PIPE_DIRECTORY").Stdout, "control")
		c.gone("pod", "a", "b")
		gpuPod(c, "one", "nvidia.com/gpu", 1)
		gpuPod(c, "two", "nvidia.com/gpu", 1)
		c.Ready("one", "two")
		if first = daemons(); len(first) != 1 {
			t.Fatalf("daemons %v", first)
		}
	})
	t.Run("clients and daemon outlive orch", func(t *testing.T) {
		server.Kill()
		server.Restart()
		c := cluster{h.For(t), c.ns}
		c.Ready("one", "two")
		if now := daemons(); len(now) != 1 || now[0] != first[0] {
			t.Errorf("daemons %v, before %v", now, first)
		}
	})
	t.Run("a daemon that dies is told and comes back", func(t *testing.T) {
		c := cluster{h.For(t), c.ns}
		c.Gets("node/mpsbox", `{.status.conditions[?(@.type=="GPUMPSReady")].status}`, "True") // it is followed again
		if err := syscall.Kill(first[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		c.Says("MPSDaemonFailed", "describe", "pod", "one")
		c.Says("CUDA in container main fails until the container starts again", "describe", "pod", "two")
		c.Eventually(patience, "another daemon", func() error {
			if now := daemons(); len(now) != 1 || now[0] == first[0] {
				return fmt.Errorf("daemons %v", now)
			}
			return nil
		})
	})
}
