//go:build gpusuite

package gpusuite

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/gpu/device"
)

func quantity(s string) resource.Quantity { return resource.MustParse(s) }

// cudaInContainer: a kernel runs, and nvidia-smi sees the one card that was given.
func cudaInContainer(r *run) {
	n := r.onNode()
	got := r.answer(r.succeeds(n, pod{name: "add", command: []string{"/cudacheck", "add"}, limits: oneCard()}))
	r.figure("cudacheck", got)
	if got["cards"] != float64(1) {
		r.fail("the container sees %v cards, want 1", got["cards"])
	}
	list := r.succeeds(n, pod{name: "smi", command: []string{"nvidia-smi", "-L"}, limits: oneCard()})
	if strings.Count(list, "UUID: GPU-") != 1 || !slices.ContainsFunc(r.machine.GPUs, func(g device.GPU) bool { return strings.Contains(list, g.UUID) }) {
		r.fail("nvidia-smi -L in the container says %q", list)
	}
}

// noRequest: neither nodes nor libraries, and a node made by hand cannot be opened.
func noRequest(r *run) {
	n := r.onNode()
	text := r.succeeds(n, pod{name: "none", command: []string{"sh", "-c",
		"ls /dev | grep -c nvidia; /cudacheck add; mknod /tmp/card c 195 0 && head -c 1 /tmp/card 2>&1; true"}})
	r.note("%s", strings.TrimSpace(text))
	if !strings.HasPrefix(text, "0\n") || !strings.Contains(text, `"failed":"dlopen"`) {
		r.fail("a container without a request has something of the driver: %q", text)
	}
	if !strings.Contains(text, "not permitted") && !strings.Contains(text, "denied") {
		r.fail("a node made by hand could be opened: %q", text)
	}
	removed(r, n)
}

// removed: on cgroup v1 a device rule can be taken away under a running container.
func removed(r *run, n *node) {
	dirs, err := filepath.Glob("/sys/fs/cgroup/devices")
	if err != nil || len(dirs) == 0 {
		r.note("cgroup v2: rules are a program, which is not taken away here")
		return
	}
	r.start(n, pod{name: "loses", command: []string{"sh", "-c", "echo here; while ! test -e /tmp/go; do sleep 0.1; done; /cudacheck add"}, limits: oneCard()})
	r.says(n, "loses", "here")
	group := r.cgroup(n, "loses", "devices")
	r.must(os.WriteFile(filepath.Join("/sys/fs/cgroup/devices", group, "devices.deny"), []byte("c 195:* rwm"), 0o644))
	n.Kubectl("exec", "loses", "--", "touch", "/tmp/go")
	if state, text := r.ends(n, "loses", time.Minute); state.ExitCode == 0 {
		r.fail("CUDA ran without its device rule: %s", text)
	}
}

// cgroup of the first process of a pod's container, below a v1 controller ("" for v2).
func (r *run) cgroup(n *node, name, controller string) string {
	r.Helper()
	p, err := n.set.CoreV1().Pods("default").Get(r.ctx, name, metav1.GetOptions{})
	r.must(err)
	uid := strings.ReplaceAll(string(p.UID), "-", "_")
	for pid := range n.Containers() {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		for _, line := range strings.Split(string(b), "\n") {
			part := strings.SplitN(line, ":", 3)
			if len(part) == 3 && slices.Contains(strings.Split(part[1], ","), controller) && (strings.Contains(part[2], string(p.UID)) || strings.Contains(part[2], uid)) {
				return part[2]
			}
		}
	}
	r.note("no process of pod %s was found", name)
	r.Fatalf("no process of pod %s was found", name)
	return ""
}

func asUser(r *run) {
	n := r.onNode()
	r.succeeds(n, pod{name: "user", command: []string{"/cudacheck", "add"}, limits: oneCard(), user: 1000})
}

// hookFree: the loader finds the driver by its cache alone, and no program of NVIDIA's ran.
func hookFree(r *run) {
	n := r.onNode()
	text := r.succeeds(n, pod{name: "plain", command: []string{"sh", "-c", "echo path=$LD_LIBRARY_PATH; /cudacheck add; grep -c nvidia /proc/mounts"}, limits: oneCard()})
	r.note("%s", strings.TrimSpace(text))
	if !strings.Contains(text, "path=\n") || strings.Contains(text, "failed") {
		r.fail("it printed %q", text)
	}
	if b, _ := filepath.Glob("/usr/bin/nvidia-container-*"); len(b) > 0 {
		r.note("NVIDIA's toolkit is on this host (%s); orch does not call it", strings.Join(b, " "))
	}
}

// latency times pods from their creation to the end of their first CUDA program, beside
// pods that get no card: the difference is what the card costs, its driver included.
func latency(r *run) {
	n := r.onNode()
	const rounds = 100
	var with, without, open []time.Duration
	for i := range rounds {
		for _, limits := range []core.ResourceList{nil, oneCard()} {
			command := []string{"true"}
			if limits != nil {
				command = []string{"/cudacheck", "add"}
			}
			name := fmt.Sprintf("round-%d-%d", i, len(limits))
			began := time.Now()
			r.start(n, pod{name: name, command: command, limits: limits})
			state, text := r.ends(n, name, time.Minute)
			took := time.Since(began)
			if state.ExitCode != 0 {
				r.fail("round %d: %s", i, text)
				return
			}
			if limits == nil {
				without = append(without, took)
			} else {
				with = append(with, took)
				seconds, _ := r.answer(text)["openSeconds"].(float64)
				open = append(open, time.Duration(seconds*float64(time.Second)))
			}
			r.remove(n, name)
		}
	}
	for name, list := range map[string][]time.Duration{"withCard": with, "withoutCard": without, "driverOpens": open} {
		slices.Sort(list)
		r.figure(name+"P50Milliseconds", Quantile(list, 0.5))
		r.figure(name+"P99Milliseconds", Quantile(list, 0.99))
	}
	if started := r.startedDifference(n); started > 20*time.Millisecond {
		r.fail("a card adds %v to the start of a container, 20 ms are allowed", started)
	}
}

// startedDifference is the median of what a card adds until a container's first
// instruction, with a program that does not touch the card.
func (r *run) startedDifference(n *node) time.Duration {
	var with, without []time.Duration
	for i := range 20 {
		for _, limits := range []core.ResourceList{nil, oneCard()} {
			name := fmt.Sprintf("start-%d-%d", i, len(limits))
			began := time.Now()
			r.start(n, pod{name: name, command: []string{"true"}, limits: limits})
			r.ends(n, name, time.Minute)
			if took := time.Since(began); limits == nil {
				without = append(without, took)
			} else {
				with = append(with, took)
			}
			r.remove(n, name)
		}
	}
	slices.Sort(with)
	slices.Sort(without)
	d := with[len(with)/2] - without[len(without)/2]
	r.figure("cardAddsMilliseconds", float64(d.Microseconds())/1000)
	return d
}
