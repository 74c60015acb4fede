//go:build gpusuite

package gpusuite

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/gpu/device"
)

func (r *run) podUID(n *node, name string) string {
	r.Helper()
	p, err := n.set.CoreV1().Pods("default").Get(r.ctx, name, metav1.GetOptions{})
	r.must(err)
	return string(p.UID)
}

// holder is the host's PID of the pod's process that holds memory of the card.
func (r *run) holder(n *node, name, card string) int {
	r.Helper()
	uid := r.podUID(n, name)
	processes, err := r.suite.client.Processes(r.ctx, card)
	r.must(err)
	for _, p := range processes {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.PID))
		if strings.Contains(string(b), uid) || strings.Contains(string(b), strings.ReplaceAll(uid, "-", "_")) {
			return p.PID
		}
	}
	r.note("no process of pod %s holds the card: %+v", name, processes)
	r.Fatalf("no process of pod %s holds the card: %+v", name, processes)
	return 0
}

// handOver: who is killed with most of the memory in hand leaves the card to the next.
func handOver(r *run) {
	n := r.onNode()
	card := r.machine.GPUs[0]
	f, err := r.suite.client.Figures(r.ctx, card.UUID)
	r.must(err)
	idle, _ := f[0].Get(device.FBUsedBytes)
	bytes := min(50<<30, *card.MemoryBytes*6/10)
	r.start(n, pod{name: "killed", command: []string{"/cudacheck", "hold", fmt.Sprint(bytes), "600"}, limits: oneCard()})
	r.says(n, "killed", "holds")
	r.must(syscall.Kill(r.holder(n, "killed", card.UUID), syscall.SIGKILL))
	took := r.wait(time.Minute, "the memory to be free", func() error {
		f, err := r.suite.client.Figures(r.ctx, card.UUID)
		if err != nil {
			return err
		}
		if v, _ := f[0].Get(device.FBUsedBytes); v > idle+64<<20 {
			return fmt.Errorf("%.0f bytes are in use", v)
		}
		return nil
	})
	r.figure("heldBytes", bytes)
	r.figure("freeAfterMilliseconds", took.Milliseconds())
	if took > 2*time.Second {
		r.fail("the memory was free after %v, 2 s are allowed", took)
	}
	r.succeeds(n, pod{name: "next", command: []string{"/cudacheck", "add"}, limits: oneCard()})
}

// helperDies: the agent starts another, and one that is released holds nothing.
func helperDies(r *run) {
	c := newClient(r)
	_, err := c.Figures(r.ctx, r.machine.GPUs[0].UUID)
	r.must(err)
	first := c.Stats().PID
	r.must(syscall.Kill(first, syscall.SIGKILL))
	took := r.wait(10*time.Second, "an answer of the next helper", func() error {
		f, err := c.Figures(r.ctx, r.machine.GPUs[0].UUID)
		if err == nil && f[0].Problem != nil {
			err = f[0].Problem
		}
		return err
	})
	r.figure("answersAgainAfterMilliseconds", took.Milliseconds())
	if c.Stats().PID == first {
		r.fail("the helper that was killed still counts")
	}
	r.must(c.Release(r.ctx))
	if open := openNodes(first, c.Stats().PID); len(open) > 0 {
		r.fail("released, the helper still holds %v", open)
	}
}

// openNodes are the driver's device nodes that these processes have open.
func openNodes(pids ...int) (out []string) {
	for _, pid := range pids {
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, l := range links {
			if to, err := os.Readlink(l); err == nil && pid != 0 && strings.HasPrefix(to, "/dev/nvidia") {
				out = append(out, to)
			}
		}
	}
	return out
}

// soakPods allocates, runs and frees; one in twenty is killed. At the end nothing is held.
func soakPods(r *run) {
	n := r.onNode()
	card := r.machine.GPUs[0]
	rounds, killed := 0, 0
	for end := time.Now().Add(*soak / 2); time.Now().Before(end) && r.ctx.Err() == nil; rounds++ {
		name := fmt.Sprintf("soak-%d", rounds)
		if rand.IntN(20) > 0 {
			r.succeeds(n, pod{name: name, command: []string{"/cudacheck", "add"}, limits: oneCard()})
			r.remove(n, name)
			continue
		}
		killed++
		r.start(n, pod{name: name, command: []string{"/cudacheck", "hold", fmt.Sprint(4 << 30), "600"}, limits: oneCard()})
		r.says(n, name, "holds")
		r.must(syscall.Kill(r.holder(n, name, card.UUID), syscall.SIGKILL))
		r.remove(n, name)
	}
	r.figure("rounds", rounds)
	r.figure("killed", killed)
	if text := n.Kubectl("get", "--raw", "/api/v1/nodes/"+n.Name+"/proxy/gpu/status"); strings.Contains(text, `"pod"`) {
		r.fail("somebody holds a card at the end: %s", text)
	}
	processes, err := r.suite.client.Processes(r.ctx, card.UUID)
	r.must(err)
	if len(processes) > 0 {
		r.fail("processes hold the card at the end: %+v", processes)
	}
}
