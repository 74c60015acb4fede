//go:build gpusuite

package gpusuite

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
)

// overMPS gives the card to four clients of one MPS daemon.
const overMPS = `version: v1
sharing:
  mps:
    resources:
    - name: nvidia.com/gpu
      replicas: 4
`

// sharing: who takes more memory than its share is named and stopped, its neighbours live.
func sharing(r *run) {
	n := r.onNode()
	share := func(mib int) core.ResourceList {
		return core.ResourceList{"nvidia.com/gpu": quantity("1"), "nvidia.com/gpumem": quantity(fmt.Sprint(mib))}
	}
	for i := range 3 {
		name := fmt.Sprintf("neighbour-%d", i)
		r.start(n, pod{name: name, command: []string{"/cudacheck", "hold", fmt.Sprint(1 << 30), "600"}, limits: share(4096)})
		r.says(n, name, "holds")
	}
	r.start(n, pod{name: "offender", command: []string{"/cudacheck", "hold", fmt.Sprint(8 << 30), "600"}, limits: share(2048)})
	began := time.Now()
	state, text := r.ends(n, "offender", time.Minute)
	r.figure("offenderEndedAfterMilliseconds", time.Since(began).Milliseconds())
	r.note("offender: exit code %d %s %s", state.ExitCode, state.Reason, strings.TrimSpace(text))
	if state.ExitCode == 0 {
		r.fail("who took four times its share ended well")
	}
	if said := n.Kubectl("get", "events", "--field-selector", "involvedObject.name=offender"); !strings.Contains(said, "GPU") && state.ExitCode != 2 {
		r.fail("no event names the offender: %s", said)
	}
	for i := range 3 {
		if text := r.log(n, fmt.Sprintf("neighbour-%d", i)); strings.Contains(text, "failed") {
			r.fail("a neighbour suffered: %s", text)
		}
		r.remove(n, fmt.Sprintf("neighbour-%d", i))
	}
	r.remove(n, "offender")
	if _, err := exec.LookPath("nvidia-cuda-mps-control"); err != nil {
		r.note("no MPS daemon on this machine")
		return
	}
	clients(r, r.onNodeSharing(overMPS))
}

// clients: MPS refuses a client what is beyond its quarter of the memory.
func clients(r *run, n *node) {
	quarter := *r.machine.GPUs[0].MemoryBytes / 4
	r.start(n, pod{name: "client", command: []string{"/cudacheck", "hold", fmt.Sprint(1 << 30), "600"}, limits: oneCard()})
	r.says(n, "client", "holds")
	r.start(n, pod{name: "greedy", command: []string{"/cudacheck", "hold", fmt.Sprint(quarter * 3 / 2), "600"}, limits: oneCard()})
	if state, text := r.ends(n, "greedy", time.Minute); state.ExitCode != 2 {
		r.fail("a client beyond its quarter ended with %d: %s", state.ExitCode, text)
	}
	if text := r.log(n, "client"); strings.Contains(text, "failed") {
		r.fail("its neighbour suffered: %s", text)
	}
}

// suspend moves what a process holds to the host's memory and back.
func suspend(r *run) {
	for _, gib := range []uint64{1, 10, 40} {
		bytes := gib << 30
		if bytes > *r.machine.GPUs[0].MemoryBytes*8/10 {
			r.note("%d GiB do not fit", gib)
			continue
		}
		held := exec.CommandContext(r.ctx, beside("cudacheck"), "hold", fmt.Sprint(bytes), "600")
		said, err := held.StdoutPipe()
		r.must(err)
		held.Stderr = os.Stderr
		r.must(held.Start())
		line := make([]byte, 200)
		_, err = said.Read(line)
		if err != nil || !strings.Contains(string(line), "holds") {
			_ = held.Process.Kill()
			r.fail("holding %d GiB: %s", gib, line)
			return
		}
		b, err := exec.CommandContext(r.ctx, beside("cudacheck"), "suspend", fmt.Sprint(held.Process.Pid), "0.5").Output()
		_ = held.Process.Kill()
		_ = held.Wait() // it was killed
		r.note("%d GiB: %s", gib, strings.TrimSpace(string(b)))
		if err != nil {
			r.absent("the driver does not suspend processes here: %v", err)
		}
		for _, l := range strings.Split(strings.TrimSpace(string(b)), "\n") {
			for name, v := range r.answer(l) {
				r.figure(fmt.Sprintf("%s%dGiB", name, gib), v)
			}
		}
	}
}
