package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"orch/e2e/lab"
)

func gpuManifest(name string) string { return filepath.Join("testdata", "gpu", name+".yaml") }

// gpuImages packs what the manifests call a CUDA image and a Triton: a shell, and a server
// that says that it is ready.
func gpuImages(t *testing.T, h *lab.Host) {
	t.Helper()
	h.Images()
	root := t.TempDir()
	for _, dir := range []string{"bin", "tmp", "etc", "www/v2/health"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, filepath.Join(root, "www/v2/health/ready"), "ready\n")
	writeFile(t, filepath.Join(root, "bin/tritonserver"), "#!/bin/sh\necho serving $*\ntrap 'exit 0' TERM\nhttpd -f -p 8000 -h /www &\nwait\n")
	b, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(root, "bin/busybox"), string(b))
	for _, program := range []string{"busybox", "tritonserver"} {
		if err := os.Chmod(filepath.Join(root, "bin", program), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"images", "pack", "--name", "nvidia/cuda:12.8.0-base", "--name", "nvcr.io/nvidia/tritonserver:24.01-py3", "--output", filepath.Join(h.Dir, "agent", "images", "gpu.tar"), "--cmd", "/bin/sh"}
	for _, link := range []string{"sh", "echo", "ls", "grep", "sleep", "httpd", "cat"} {
		args = append(args, "--link", "/bin/"+link+"=/bin/busybox")
	}
	if out := h.Orch(nil, append(args, root)...); out.Code != 0 {
		t.Fatal(out.Both())
	}
}

// TestGPUManifests: what people write for NVIDIA's stack, on a machine of eight cards.
func TestGPUManifests(t *testing.T) {
	g := newGPUMachine(t, "h100-8", 0)
	h := lab.New(t).Host("gpubox")
	gpuImages(t, h)
	h.StartServer(g.flags()...)
	for _, test := range []struct {
		name string
		run  func(*testing.T, cluster)
	}{
		{"one card runs nvidia-smi, four train", gpuLimits},
		{"affinity to a product", gpuAffinity},
		{"taint and toleration", gpuTaint},
		{"model server", gpuServing},
		{"job", gpuJob},
		{"daemon set reads the metrics", gpuDaemonSet},
		{"orch gpu", gpuCommands},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, newCluster(t, h)) })
	}
}

// given are the cards of a pod.
func (c cluster) given(pod string) []string {
	c.Helper()
	return strings.Split(strings.TrimSpace(c.Exec(pod, "sh", "-c", "echo $NVIDIA_VISIBLE_DEVICES").Stdout), ",")
}

// gone deletes pods at once, so that the next subtest finds their cards free.
func (c cluster) gone(what ...string) {
	c.Helper()
	c.K(append([]string{"delete", "--grace-period=1"}, what...)...)
}

func gpuLimits(t *testing.T, c cluster) {
	c.Apply(strings.Split(readFile(t, manifest("gpu-pod")), "---")[0])
	c.K("apply", "-f", gpuManifest("training"))
	c.Gets("pod/gpu-pod", "{.status.phase}", "Succeeded")
	contains(t, c.K("logs", "gpu-pod"), "this is nvidia-smi")
	c.Ready("training-pod")
	equal(t, "cards of the training pod", fmt.Sprint(len(c.given("training-pod"))), "4")
	c.gone("pod", "training-pod", "gpu-pod")
}

func gpuAffinity(t *testing.T, c cluster) {
	c.K("apply", "-f", gpuManifest("affinity"))
	c.Ready("large-model")
	contains(t, c.Says("FailedScheduling", "describe", "pod", "small-model"), "1 node(s) didn't match Pod's node affinity/selector")
	c.gone("pod", "large-model", "small-model")
}

func gpuTaint(t *testing.T, c cluster) {
	c.Kubectl("taint", "node", "gpubox", "nvidia.com/gpu=present:NoSchedule")
	defer c.Kubectl("taint", "node", "gpubox", "nvidia.com/gpu-")
	c.K("apply", "-f", manifest("gpu-taint"))
	gpuPod(c, "intolerant", "nvidia.com/gpu", 1)
	c.Ready("tolerant")
	c.Says("untolerated taint", "describe", "pod", "intolerant")
	out := c.Orch(nil, "gpu", "doctor", "intolerant", "-n", c.ns, "--kubeconfig", c.Kubeconfig())
	contains(t, out.Both(), "the pod does not tolerate the taint nvidia.com/gpu=present:NoSchedule", "add tolerations")
	c.gone("pod", "tolerant", "intolerant")
}

func gpuServing(t *testing.T, c cluster) {
	c.K("apply", "-f", manifest("gpu-inference"))
	c.K("rollout", "status", "deployment/model-server", "--timeout=150s")
	names := strings.Fields(c.K("get", "pods", "-l", "app=model-server", "-o", "jsonpath={.items[*].metadata.name}"))
	if len(names) != 2 || c.given(names[0])[0] == c.given(names[1])[0] {
		t.Errorf("%v have the same card", names)
	}
	c.gone("deployment", "model-server")
}

func gpuJob(t *testing.T, c cluster) {
	c.K("apply", "-f", gpuManifest("job"))
	c.K("wait", "--for=condition=Complete", "--timeout=150s", "job/train")
	seen := map[string]bool{}
	for _, pod := range strings.Fields(c.K("get", "pods", "-l", "job-name=train", "-o", "jsonpath={.items[*].metadata.name}")) {
		log := c.K("logs", pod)
		contains(t, log, "cards 4")
		_, have, _ := strings.Cut(log, "have ")
		if n := len(strings.Split(have, ",")); n != 4 {
			t.Errorf("%s has %d cards", pod, n)
		}
		seen[pod] = true
	}
	if len(seen) != 2 {
		t.Errorf("%d pods", len(seen))
	}
}

func gpuDaemonSet(t *testing.T, c cluster) {
	c.K("apply", "-f", manifest("daemonset"))
	c.K("rollout", "status", "daemonset/gpu-monitor", "--timeout=150s")
	c.Says("DCGM_FI_DEV_", "logs", "daemonset/gpu-monitor")
	c.gone("daemonset", "gpu-monitor")
}

// gpuCommands: what a person asks about the cards.
func gpuCommands(t *testing.T, c cluster) {
	config := []string{"--kubeconfig", c.Kubeconfig()}
	orch := func(args ...string) string { return c.Orch(nil, append(args, config...)...).Both() }
	gpuPod(c, "user", "nvidia.com/gpu", 2)
	gpuPod(c, "greedy", "nvidia.com/gpu", 7)
	c.Sleeper("plain")
	c.Ready("user", "plain")
	status := orch("gpu", "status")
	contains(t, status, "NVIDIA H100 80GB HBM3", "Healthy")
	equal(t, "cards of the pod", fmt.Sprint(strings.Count(status, c.ns+"/user/main")), "2")
	contains(t, orch("top", "gpu", "gpubox"), "MEMORY%", c.ns+"/user/main")
	contains(t, orch("gpu", "doctor", "-n", c.ns, "user"), "ok       driver", "nvidia.com/gpu 8 of 8", "container main holds GPU ")
	c.Eventually(patience, "the doctor says who holds the cards", func() error {
		return missing(orch("gpu", "doctor", c.ns+"/greedy"), "Insufficient nvidia.com/gpu: 6 of 8 are free, the pod asks for 7; they are held by "+c.ns+"/user")
	})
	contains(t, orch("gpu", "doctor", c.ns+"/plain"), "no container asks for a GPU")
	file := filepath.Join(t.TempDir(), "machine.json")
	contains(t, orch("gpu", "record", "-f", file), "wrote "+file)
	if s := readFile(t, file); !strings.Contains(s, c.given("user")[0]) || !strings.Contains(s, `"taken"`) {
		t.Error("the recording does not have the cards")
	}
	contains(t, c.Kubectl("get", "--raw", "/api/v1/nodes/gpubox/proxy/metrics/gpu"), "DCGM_FI_DEV_GPU_UTIL", `pod="user"`)
	c.Kubectl("create", "serviceaccount", "-n", c.ns, "nobody")
	if out := c.KubectlIn("", "get", "--raw", "/api/v1/nodes/gpubox/proxy/gpu/status", "--as", "system:serviceaccount:"+c.ns+":nobody"); !strings.Contains(out.Both(), "Forbidden") && !strings.Contains(out.Both(), "forbidden") {
		t.Errorf("without the right to nodes/proxy: %s", out.Both())
	}
	c.gone("pod", "user", "greedy", "plain")
}

// TestGPUMIGByLabel: a machine of two cards is partitioned by the node's label, around a
// pod that holds one of them.
func TestGPUMIGByLabel(t *testing.T) {
	g := newGPUMachine(t, "h200-8", 2)
	h := lab.New(t).Host("migbox")
	h.Images()
	layouts := filepath.Join(t.TempDir(), "mig.yaml")
	writeFile(t, layouts, "version: v1\nmig-configs:\n  halves:\n  - {devices: all, mig-enabled: true, mig-devices: {3g.71gb: 2}}\n")
	server := h.StartServer(g.flags("--mig-config-file", layouts)...)
	c := newCluster(t, h)
	state := func(want string) {
		t.Helper()
		c.Gets("node/migbox", `{.metadata.labels.nvidia\.com/mig\.config\.state}`, want)
	}
	offers := func(resource, want string) {
		t.Helper()
		c.Gets("node/migbox", `{.status.allocatable.nvidia\.com/`+strings.ReplaceAll(resource, ".", `\.`)+`}`, want)
	}
	gpuPod(c, "whole", "nvidia.com/gpu", 1)
	c.Ready("whole")
	c.Kubectl("label", "node", "migbox", "nvidia.com/mig.config=all-1g.18gb")
	offers("mig-1g.18gb", "7")
	offers("gpu", "1")
	state("pending")
	c.Eventually(patience, "the event says who is in the way", func() error {
		return missing(c.Kubectl("get", "events", "-A"), "MIGConfigWaits", "pod "+c.ns+"/whole holds")
	})
	c.K("apply", "-f", manifest("mig"))
	c.Ready("mig-pod")
	slice := c.given("mig-pod")[0]
	contains(t, slice, "MIG-")
	c.gone("pod", "whole")
	offers("mig-1g.18gb", "14")
	state("success")
	contains(t, h.Orch(nil, "gpu", "status", "--kubeconfig", h.Kubeconfig()).Both(), "MIG 1g.18gb", c.ns+"/mig-pod/main")

	t.Run("a name that no card has is refused", func(t *testing.T) {
		h.For(t).Kubectl("label", "--overwrite", "node", "migbox", "nvidia.com/mig.config=all-1g.5gb")
		state("failed")
		c.Eventually(patience, "the event says what there is", func() error {
			return missing(h.Kubectl("get", "events", "-A"), "MIGConfigInvalid", "all-1g.18gb")
		})
	})
	t.Run("at boot the layout is made again", func(t *testing.T) {
		h := h.For(t)
		h.Kubectl("label", "--overwrite", "node", "migbox", "nvidia.com/mig.config=halves")
		c.gone("pod", "mig-pod")
		offers("mig-3g.71gb", "4")
		state("success")
		server.Kill() // the recorded machine starts anew, without instances, as a card does at boot
		server.Restart()
		c.Eventually(patience, "the layout is there", func() error {
			if got := h.Kubectl("get", "node", "migbox", "-o", `jsonpath={.status.allocatable.nvidia\.com/mig-3g\.71gb}`); got != "4" {
				return errors.New("it offers " + got)
			}
			return nil
		})
		out := h.Orch(nil, "gpu", "doctor", "--kubeconfig", h.Kubeconfig())
		contains(t, out.Both(), "ok       cards", "mig-3g.71gb 4 of 4")
	})
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
