//go:build gpusuite

package gpusuite

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"orch/gpu/device"
	"orch/gpu/health"
	"orch/gpu/metrics"
)

// ticksPerSecond is the kernel's USER_HZ, which never changes.
const ticksPerSecond = 100

// cpu is the time that a process has used.
func cpu(pid int) time.Duration {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, ok := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * time.Second / ticksPerSecond
}

// resident is a process' memory in MiB.
func resident(pid int) float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for _, line := range strings.Split(string(b), "\n") {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(v), " kB"))
			return float64(kib) / 1024
		}
	}
	return 0
}

// events: the driver takes the registration, and waiting is waiting.
func waitForEvents(r *run) {
	c := newClient(r)
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- c.Watch(ctx, func(device.Event) {}) }()
	select {
	case err := <-done:
		r.absent("the driver reports no events here: %v", err)
	case <-time.After(2 * time.Second):
	}
	before := cpu(c.Stats().PID)
	time.Sleep(10 * time.Second)
	used := cpu(c.Stats().PID) - before
	r.figure("cpuPercentWaiting", used.Seconds()*10)
	if used > 20*time.Millisecond {
		r.fail("waiting for events used %v of 10 s", used)
	}
}

// benignXID: a program writes where nothing is; the card serves on.
func benignXID(r *run) {
	n := r.onNode()
	c := newClient(r)
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	seen := make(chan device.Event, 64)
	go func() {
		_ = c.Watch(ctx, func(e device.Event) {
			if e.Kind != device.EventXID {
				return
			}
			select {
			case seen <- e:
			default:
			}
		})
	}()
	time.Sleep(time.Second) // the registration has no answer of its own
	r.start(n, pod{name: "bad", command: []string{"/cudacheck", "bad"}, limits: oneCard()})
	if state, text := r.ends(n, "bad", time.Minute); state.ExitCode != 0 {
		r.fail("a bad address was not refused as such: %s", text)
	}
	select {
	case e := <-seen:
		r.figure("xid", e.Data)
		if class := health.Lookup(int(e.Data)).Class; class != health.ClassApp {
			r.fail("XID %d is of class %q, want a program's own", e.Data, class)
		}
	case <-time.After(time.Second):
		r.note("no event within a second of the program's end (the driver may not report it here)")
	}
	r.succeeds(n, pod{name: "after", command: []string{"/cudacheck", "add"}, limits: oneCard()})
	if text := n.Kubectl("get", "node", n.Name, "-o", `jsonpath={.status.conditions[?(@.type=="GPUsHealthy")].status}`); text == "False" {
		r.fail("the card is not healthy after a program's own error")
	}
}

// page is one scrape: the figures read and written.
func (r *run) page() time.Duration {
	r.Helper()
	began := time.Now()
	var cards []string
	for _, g := range r.machine.GPUs {
		cards = append(cards, g.UUID)
	}
	f, err := r.suite.client.Figures(r.ctx, cards...)
	r.must(err)
	var b bytes.Buffer
	r.must(metrics.Write(&b, metrics.Sample{Machine: r.machine, Figures: f, Hostname: "gpubox"}))
	return time.Since(began)
}

// scrape: what a page costs, idle and under load, and whether the helper grows.
func scrape(r *run) {
	n := r.onNode()
	pid := r.suite.client.Stats().PID
	measure := func(name string) {
		before, began := cpu(pid)+cpu(os.Getpid()), time.Now()
		var took []time.Duration
		for range 1000 {
			took = append(took, r.page())
		}
		used := cpu(pid) + cpu(os.Getpid()) - before
		slices.Sort(took)
		p99 := Quantile(took, 0.99) / float64(len(r.machine.GPUs))
		r.figure(name+"P50Milliseconds", Quantile(took, 0.5))
		r.figure(name+"P99MillisecondsPerCard", p99)
		r.figure(name+"CorePercentAt15s", used.Seconds()/1000/15*100)
		r.note("%s: 1000 scrapes in %v", name, time.Since(began).Round(time.Millisecond))
		if p99 >= 10 || used.Seconds()/1000/15*100 >= 0.5 {
			r.fail("%s: p99 %.2f ms a card, %.3f %% of a core at 15 s", name, p99, used.Seconds()/1000/15*100)
		}
	}
	measure("idle")
	r.start(n, pod{name: "load", command: []string{"/cudacheck", "busy", "tensor", "600"}, limits: oneCard()})
	r.says(n, "load", "busy")
	measure("busy")
	r.remove(n, "load")
	first := resident(pid)
	for end := time.Now().Add(*soak / 2); time.Now().Before(end) && r.ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
		r.page()
	}
	last := resident(pid)
	r.figure("helperResidentMiB", last)
	r.figure("helperGrowthMiB", last-first)
	if last >= 20 || last-first > 1 {
		r.fail("the helper has %.1f MiB, and had %.1f", last, first)
	}
}

// underLoad compares figures with a load whose nature is known.
func underLoad(r *run) {
	n := r.onNode()
	card := r.machine.GPUs[0]
	r.start(n, pod{name: "tensor", command: []string{"/cudacheck", "busy", "tensor", "600"}, limits: oneCard()})
	r.says(n, "tensor", "busy")
	time.Sleep(3 * time.Second)
	r.page() // profiling figures are of the time since the last reading
	time.Sleep(2 * time.Second)
	f, err := r.suite.client.Figures(r.ctx, card.UUID)
	r.must(err)
	smi := strings.Split(strings.TrimSpace(r.host("nvidia-smi", "--query-gpu=utilization.gpu,clocks.sm,power.draw,memory.used", "--format=csv,noheader,nounits", "--id="+card.UUID)), ", ")
	for i, x := range []struct {
		figure device.Figure
		unit   float64
		off    float64 // part by which samples of a running load may differ
	}{{device.GPUUtilPercent, 1, 0.1}, {device.SMClockMHz, 1, 0.1}, {device.PowerMilliwatt, 1000, 0.2}} {
		ours, ok := f[0].Get(x.figure)
		theirs, err := strconv.ParseFloat(smi[i], 64)
		r.figure(string(x.figure), ours/x.unit)
		if ok != (err == nil) || ok && math.Abs(ours/x.unit-theirs) > x.off*theirs {
			r.fail("%s is %v (%v), nvidia-smi says %s", x.figure, ours/x.unit, ok, smi[i])
		}
	}
	if tensor, ok := f[0].Get(device.GPMTensor); !ok {
		r.note("this card has no profiling figures")
	} else if r.figure("tensorActive", tensor); tensor < 0.05 {
		r.fail("the tensor cores are busy for %v of the time, under a load of nothing else", tensor)
	}
	r.remove(n, "tensor")
	r.start(n, pod{name: "copy", command: []string{"/cudacheck", "busy", "copy", "600"}, limits: oneCard()})
	r.says(n, "copy", "busy")
	r.page()
	time.Sleep(2 * time.Second)
	f, err = r.suite.client.Figures(r.ctx, card.UUID)
	r.must(err)
	if dram, ok := f[0].Get(device.GPMDRAM); ok {
		if r.figure("dramActive", dram); dram < 0.2 {
			r.fail("memory is busy for %v of the time, under a load of copies", dram)
		}
	}
	r.remove(n, "copy")
	r.heldMemory(n, card)
}

// heldMemory: what a program allocates is what the card's used memory grows by, beside the
// program's context, which a program that allocates little shows.
func (r *run) heldMemory(n *node, card device.GPU) {
	used := func(name string, bytes uint64) float64 {
		r.start(n, pod{name: name, command: []string{"/cudacheck", "hold", fmt.Sprint(bytes), "600"}, limits: oneCard()})
		r.says(n, name, "holds")
		f, err := r.suite.client.Figures(r.ctx, card.UUID)
		r.must(err)
		v, _ := f[0].Get(device.FBUsedBytes)
		r.remove(n, name)
		return v
	}
	big := *card.MemoryBytes / 2 >> 21 << 21
	got := used("much", big) - used("little", 2<<20) + 2<<20
	r.figure("allocatedBytes", big)
	r.figure("usedGrewBytes", got)
	if math.Abs(got-float64(big)) > 0.01*float64(big) {
		r.fail("%d bytes were allocated, used memory grew by %.0f", big, got)
	}
}

// timeSliced gives the card to four at a time.
const timeSliced = `version: v1
sharing:
  timeSlicing:
    resources:
    - name: nvidia.com/gpu
      replicas: 4
`

// attribution: each process' memory is found by its PID, and the PID's cgroup is its pod's.
func attribution(r *run) {
	n := r.onNodeSharing(timeSliced)
	card := r.machine.GPUs[0]
	want := map[string]uint64{"small": 1 << 30, "large": 3 << 30}
	groups := map[string]string{}
	for name, bytes := range want {
		r.start(n, pod{name: name, command: []string{"/cudacheck", "hold", fmt.Sprint(bytes), "600"}, limits: oneCard()})
		r.says(n, name, "holds")
		groups[name] = r.podUID(n, name)
	}
	processes, err := r.suite.client.Processes(r.ctx, card.UUID)
	r.must(err)
	for name, bytes := range want {
		i := slices.IndexFunc(processes, func(p device.Process) bool {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.PID))
			return strings.Contains(string(b), groups[name]) || strings.Contains(string(b), strings.ReplaceAll(groups[name], "-", "_"))
		})
		if i < 0 {
			r.fail("none of the card's processes is pod %s's: %+v", name, processes)
			continue
		}
		if processes[i].UsedBytes == nil {
			r.absent("the driver does not say what a process holds")
		}
		got := *processes[i].UsedBytes
		r.figure(name+"Bytes", got)
		if context := got - bytes; got < bytes || context > 1<<30 {
			r.fail("pod %s allocated %d bytes, its process holds %d", name, bytes, got)
		}
	}
}
