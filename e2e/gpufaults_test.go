package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"orch/e2e/lab"
)

// TestGPUFaults: what may go wrong on a node with GPUs, or be tried by a user.
func TestGPUFaults(t *testing.T) {
	g := newGPUMachine(t, "h100-8", 0)
	h := lab.New(t).Host("faulty")
	h.Images()
	victim := t.TempDir()
	writeFile(t, filepath.Join(victim, "ld.so.cache"), "the host's own")
	hostileImage(t, h, "folders", victim, map[string]string{"usr/lib": "", "usr/bin": "", "usr/lib64": ""})
	hostileImage(t, h, "cache", victim, map[string]string{"etc/ld.so.cache": "ld.so.cache"})
	server := h.StartServer(g.flags()...)
	for _, test := range []struct {
		name string
		run  func(*testing.T, cluster)
	}{
		{"killed between allocation and start", func(t *testing.T, c cluster) { gpuKilled(t, c, server) }},
		{"hostile image", func(t *testing.T, c cluster) { gpuHostile(t, c, victim) }},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, newCluster(t, h)) })
	}
}

// gpuKilled: a pod was given its cards, its container cannot start yet, and orch is killed. The
// cards stay the pod's, nobody else's, and come back when it goes.
func gpuKilled(t *testing.T, c cluster, server *lab.Process) {
	c.Apply("apiVersion: v1\nkind: Pod\nmetadata: {name: early}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n" +
		"  - {name: main, image: 'not.here:1', imagePullPolicy: Never, resources: {limits: {nvidia.com/gpu: 5}}}\n")
	c.Says("ErrImageNeverPull", "describe", "pod", "early")
	status := func() string { return c.Orch(nil, "gpu", "status", "--kubeconfig", c.Kubeconfig()).Both() }
	held := func() (cards []string) {
		for _, line := range strings.Split(status(), "\n") {
			if strings.Contains(line, c.ns+"/early") {
				cards = append(cards, strings.Fields(line)[0]+" "+strings.Fields(line)[1])
			}
		}
		return cards
	}
	before := held()
	if len(before) != 5 {
		t.Fatalf("the pod holds %v of\n%s", before, status())
	}
	server.Kill()
	server.Restart()
	equal(t, "cards after orch was killed", strings.Join(held(), ","), strings.Join(before, ","))
	gpuPod(c, "greedy", "nvidia.com/gpu", 4)
	c.Says("Insufficient nvidia.com/gpu", "describe", "pod", "greedy")
	gpuPod(c, "modest", "nvidia.com/gpu", 3)
	c.Ready("modest")
	c.K("delete", "pod", "early", "--force", "--grace-period=0")
	c.Ready("greedy")
	seen := map[string]bool{}
	for _, uuid := range append(c.given("greedy"), c.given("modest")...) {
		if seen[uuid] {
			t.Errorf("%s is in two containers", uuid)
		}
		seen[uuid] = true
	}
	c.gone("pod", "greedy", "modest")
}

// hostileImage is an image that asks for all cards by its environment, and whose links lead out of it
// to a folder of the host.
func hostileImage(t *testing.T, h *lab.Host, name, victim string, links map[string]string) {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"bin", "usr", "etc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range links {
		if err := os.Symlink(strings.Repeat("../", 12)+strings.TrimPrefix(filepath.Join(victim, target), "/"), filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, filepath.Join(root, "bin", "busybox"), readFile(t, "/bin/busybox"))
	if err := os.Chmod(filepath.Join(root, "bin", "busybox"), 0o755); err != nil {
		t.Fatal(err)
	}
	args := []string{"images", "pack", "--name", "hostile:" + name, "--env", "NVIDIA_VISIBLE_DEVICES=all", "--env", "NVIDIA_DRIVER_CAPABILITIES=all", "--output", filepath.Join(h.Dir, "agent", "images", name+".tar"), "--cmd", "/bin/sh"}
	for _, link := range []string{"sh", "echo", "ls", "grep", "sleep", "cat"} {
		args = append(args, "--link", "/bin/"+link+"=/bin/busybox")
	}
	if out := h.Orch(nil, append(args, root)...); out.Code != 0 {
		t.Fatal(out.Both())
	}
}

// gpuHostile: variables of an image and annotations of a user give nothing, and what is mounted for
// a pod that did ask stays inside its container.
func gpuHostile(t *testing.T, c cluster, victim string) {
	const annotated = "apiVersion: v1\nkind: Pod\nmetadata: {name: sly, annotations: {cdi.k8s.io/x_y: nvidia.com/gpu=all, orch.io/allocated-devices: '{\"main\":{\"nvidia.com/gpu\":[\"0\"]}}'}}\nspec:\n" +
		"  terminationGracePeriodSeconds: 0\n  containers:\n  - {name: main, image: 'hostile:folders', imagePullPolicy: Never, command: [/bin/sleep, '3600'], env: [{name: NVIDIA_VISIBLE_DEVICES, value: all}]}\n"
	c.Apply(annotated)
	c.Pod("asks", "hostile:folders", "command: [/bin/sleep, '3600']\nimagePullPolicy: Never\nresources: {limits: {nvidia.com/gpu: 1}}")
	c.Ready("sly", "asks")
	equal(t, "devices of a pod that asked for none", c.Exec("sly", "/bin/sh", "-c", "ls /dev | grep nvidia").Stdout, "")
	equal(t, "cards of a pod that asked for one", strings.Join([]string{c.given("asks")[0][:4], c.Exec("asks", "/bin/sh", "-c", "ls /dev | grep -c 'nvidia[0-9]'").Stdout}, " "), "GPU- 1")
	entries, err := os.ReadDir(victim)
	if err != nil || len(entries) != 1 || readFile(t, filepath.Join(victim, "ld.so.cache")) != "the host's own" {
		t.Errorf("on the host: %v, %v", entries, err)
	}
	contains(t, c.Exec("asks", "/bin/sh", "-c", "cat /etc/ld.so.cache").Stdout, "libcuda.so.1")
	// A file of the image that is read on the host is not read through such a link.
	c.Pod("reads", "hostile:cache", "command: [/bin/sleep, '3600']\nimagePullPolicy: Never\nresources: {limits: {nvidia.com/gpu: 1}}")
	c.Says("path escapes", "describe", "pod", "reads")
	c.gone("pod", "sly", "asks", "reads")
}
