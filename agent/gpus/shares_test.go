package gpus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/devices"
	"orch/agent/host"
	"orch/api"
	"orch/gpu/alloc"
	"orch/gpu/cdi"
	"orch/gpu/device"
	"orch/gpu/mps"
	"orch/gpu/share"
	"orch/runtime/engine"
)

// partOf is a pod that wants so much of one card.
func partOf(uid string, mib, cores int64) *core.Pod {
	p := podWith(uid, share.GPU, 1)
	l := p.Spec.Containers[0].Resources.Limits
	l[share.Memory], l[share.Cores] = *resource.NewQuantity(mib, resource.DecimalSI), *resource.NewQuantity(cores, resource.DecimalSI)
	return p
}

// chosen writes the scheduler's choice into a pod.
func chosen(p *core.Pod, ids ...string) *core.Pod {
	b, _ := json.Marshal(map[string]any{"main": map[string][]string{share.GPU: ids}})
	p.Annotations = map[string]string{api.AnnotationDevices: string(b)}
	return p
}

func heldIDs(r *rig) string {
	var out []string
	for _, h := range r.manager.Holdings() {
		out = append(out, h.Pod+"="+strings.Join(h.IDs, "+"))
	}
	return strings.Join(out, " ")
}

// TestPartsOfCards: pods share a card up to what it has; nobody gets a shared card whole,
// or a part of one that is held whole; what ends makes room, also over a restart.
func TestPartsOfCards(t *testing.T) {
	r := newRig(t, "mixed", share.Config{})
	capacity, allocatable := r.manager.Resources()
	sum := int64(0)
	for _, g := range r.machine.GPUs {
		sum += int64(*g.MemoryBytes >> 20)
	}
	if m, c := capacity[share.Memory], allocatable[share.Cores]; m.Value() != sum || c.Value() != int64(100*len(r.machine.GPUs)) {
		t.Errorf("%v %v", capacity, allocatable)
	}
	admit := func(p *core.Pod, says string) {
		t.Helper()
		err := r.manager.Admit(p)
		if err == nil && says != "" || err != nil && (says == "" || !strings.Contains(err.Error(), says)) {
			t.Fatalf("%s: %v, want %q; held are %s", p.Name, err, says, heldIDs(r))
		}
	}
	admit(partOf("a", 10000, 30), "")
	admit(partOf("b", 5000, 30), "")
	ids := heldIDs(r)
	card, _, _ := strings.Cut(strings.TrimPrefix(ids, "a="), "::")
	if ids != fmt.Sprintf("a=%s::share-0.10000m.30c b=%[1]s::share-1.5000m.30c", card) {
		t.Error(ids)
	}
	if s := r.manager.Status("a")["main"]; len(s) != 1 || s[0].Name != share.GPU || s[0].Resources[0].Health != core.ResourceHealthStatusHealthy {
		t.Errorf("%+v", s)
	}
	rest := int64(len(r.machine.GPUs) - 1)
	admit(podWith("whole", share.GPU, rest+1), fmt.Sprintf("Available: %d", rest))
	admit(podWith("whole", share.GPU, rest), "")
	admit(partOf("c", 300, 50), "Allocate failed due to Insufficient nvidia.com/gpucores: 50 % of one card wanted")
	admit(partOf("c", 1<<20, 0), "Allocate failed due to Insufficient nvidia.com/gpumem: 1048576 MiB of one card wanted, the largest has")
	admit(partOf("c", 300, 40), "")
	// Another orch over the same file.
	m, err := devices.New(devices.Config{Path: filepath.Join(filepath.Dir(r.config.Dir), "ledger"), Providers: []devices.Provider{r.GPUs}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	r.manager = m
	admit(partOf("d", 10, 1), "Insufficient nvidia.com/gpucores")
	if err := m.Release("b"); err != nil {
		t.Fatal(err)
	}
	admit(partOf("d", 5000, 30), "")
	if !strings.Contains(heldIDs(r), "d="+card+"::share-1.5000m.30c") {
		t.Error(heldIDs(r))
	}
}

// TestTheSchedulersParts: what the binding names is taken if it can be had, and nothing else.
func TestTheSchedulersParts(t *testing.T) {
	r := newRig(t, "h100-8", share.Config{})
	a, b := r.machine.GPUs[5].UUID, r.machine.GPUs[6].UUID
	for _, tc := range []struct {
		pod  *core.Pod
		says string
	}{
		{chosen(partOf("a", 1000, 10), a+"::share-3.1000m.10c"), ""},
		{chosen(podWith("b", share.GPU, 1), b), ""},
		{chosen(partOf("c", 1000, 10), a+"::share-3.1000m.10c"), "Allocate failed due to the scheduler's choice: " + a + "::share-3.1000m.10c is in use, which is unexpected"},
		{chosen(partOf("c", 1000, 10), b+"::share-0.1000m.10c"), b + " cannot be given in parts now"},
		{chosen(partOf("c", 1000, 10), a+"::share-0.9000m.10c"), "is not the share that is wanted"},
		{chosen(podWith("c", share.GPU, 1), a), "being in use"},
		{chosen(partOf("c", 1000, 10), a+"::share-0.1000m.10c"), ""},
	} {
		err := r.manager.Admit(tc.pod)
		if (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s %s: %v", tc.pod.Name, tc.pod.Annotations, err)
		}
	}
	r.ill[a] = true
	if err := r.manager.Admit(chosen(partOf("d", 1000, 10), a+"::share-1.1000m.10c")); err == nil {
		t.Error("a part of a sick card is given")
	}
	if s := r.manager.Status("a")["main"]; s[0].Resources[0].Health != core.ResourceHealthStatusUnhealthy {
		t.Errorf("%+v", s)
	}
}

// guarded is a rig with what keeps shares; limits notes what the driver was told.
func guarded(t *testing.T, machine string, s share.Config, alter func(*Guard)) *rig {
	t.Helper()
	r := newRig(t, machine, s)
	guard := Guard{Holdings: func() []devices.Holding { return r.manager.Holdings() }, Processes: func(_ context.Context, cards ...string) ([]device.Process, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return slices.DeleteFunc(slices.Clone(r.processes), func(p device.Process) bool { return !slices.Contains(cards, p.UUID) }), nil
	}}
	if alter != nil {
		alter(&guard)
	}
	r.config.Guard = guard
	return r
}

func condition(r *rig, uid types.UID) string {
	c := r.manager.Conditions(uid)
	if len(c) == 0 {
		return ""
	}
	return fmt.Sprintf("%s %s %s: %s", c[0].Type, c[0].Status, c[0].Reason, c[0].Message)
}

func env(e host.DeviceEdits, name string) string {
	for _, v := range e.Env {
		if v.Name == name {
			return v.Value
		}
	}
	return ""
}

// TestLadder: the strongest means that there is keeps a share, and the condition says which.
func TestLadder(t *testing.T) {
	all := func(r *rig, can bool) {
		r.machine = r.machine.Clone()
		for i := range r.machine.GPUs {
			r.machine.GPUs[i].MemoryLimits = can
		}
	}
	t.Run("watchdog", func(t *testing.T) {
		r := guarded(t, "h100-8", share.Config{}, nil)
		e, err := r.edits(t, partOf("a", 3000, 30))
		if err != nil || env(e, "CUDA_DEVICE_MEMORY_LIMIT_0") != "3000m" || env(e, "CUDA_DEVICE_SM_LIMIT") != "30" || len(e.Made) > 0 {
			t.Errorf("%+v %v", e.Env, err)
		}
		card := r.machine.GPUs[0].UUID
		if got := condition(r, "a"); got != "orch.io/GPUShareEnforced True Watchdog: main has 3000 MiB and 30 % of the multiprocessors of "+card+": a container that uses more memory is ended; the multiprocessors are counted when cards are chosen, and not kept" {
			t.Error(got)
		}
		if _, err := r.edits(t, podWith("whole", share.GPU, 1)); err != nil || condition(r, "whole") != "" {
			t.Errorf("a whole card is no share: %s %v", condition(r, "whole"), err)
		}
	})
	t.Run("driver", func(t *testing.T) {
		var told []string
		var answer error
		r := guarded(t, "h100-8", share.Config{}, func(g *Guard) {
			g.Limit = func(_ context.Context, card, cgroup string, bytes uint64) error {
				told = append(told, fmt.Sprint(cgroup, " ", bytes>>20))
				return answer
			}
		})
		all(r, true)
		e, err := r.edits(t, partOf("a", 3000, 0))
		if err != nil || len(e.Made) != 1 || !strings.Contains(condition(r, "a"), "True Driver: main has 3000 MiB of") {
			t.Fatalf("%+v %v %s", e, err, condition(r, "a"))
		}
		if err := e.Made[0](t.Context(), "/sys/fs/cgroup/x"); err != nil || strings.Join(told, ",") != "/sys/fs/cgroup/x 3000" {
			t.Error(told, err)
		}
		answer = errors.New("no permission")
		if err := e.Made[0](t.Context(), "/x"); err == nil || !strings.Contains(err.Error(), "limiting the memory of GPU") {
			t.Error("a container runs without its limit:", err)
		}
		// The function is there, the card does not do it: the next rung.
		answer = &device.Problem{Code: device.CodeNotSupported, Text: "Not Supported"}
		if err := e.Made[0](t.Context(), "/x"); err != nil || !strings.Contains(condition(r, "a"), "True Watchdog") {
			t.Error(err, condition(r, "a"))
		}
	})
	t.Run("MIG", func(t *testing.T) {
		r := guarded(t, "h200-mig", share.Config{MIG: share.Mixed}, nil)
		d := r.machine.GPUs[0].MIGDevices()[0]
		if _, err := r.edits(t, podWith("a", share.MIGResource(d.Profile), 1)); err != nil || !strings.Contains(condition(r, "a"), "True MIG: main has ") {
			t.Error(err, condition(r, "a"))
		}
	})
	t.Run("time slices", func(t *testing.T) {
		r := guarded(t, "h100-8", share.Config{Method: share.TimeSlicing, Resources: []share.Replication{{Name: share.GPU, As: share.GPU, Replicas: 4}}}, nil)
		if _, err := r.edits(t, podWith("a", share.GPU, 1)); err != nil || !strings.Contains(condition(r, "a"), "False None: main has 20389 MiB and 25 % of the multiprocessors of") {
			t.Error(err, condition(r, "a"))
		}
	})
	t.Run("after a restart nothing is said before it is known", func(t *testing.T) {
		r := guarded(t, "h100-8", share.Config{}, nil)
		if _, err := r.edits(t, partOf("a", 3000, 0)); err != nil {
			t.Fatal(err)
		}
		r.machine = device.Machine{}
		if got := condition(r, "a"); got != "" {
			t.Error(got)
		}
	})
	t.Run("nobody can tell", func(t *testing.T) {
		r := guarded(t, "h100-8", share.Config{}, func(g *Guard) { g.Processes = nil })
		if _, err := r.edits(t, partOf("a", 3000, 0)); err != nil || !strings.Contains(condition(r, "a"), "False None") {
			t.Error(err, condition(r, "a"))
		}
	})
}

// TestWatchdog: who uses more than its share for two looks is ended, by name and number;
// neighbours, processes of the host and short excesses are not.
func TestWatchdog(t *testing.T) {
	r := guarded(t, "h100-8", share.Config{}, nil)
	for _, p := range []*core.Pod{partOf("greedy", 3000, 0), partOf("modest", 3000, 0)} {
		if _, err := r.edits(t, p); err != nil {
			t.Fatal(err)
		}
	}
	card := r.machine.GPUs[0].UUID
	containers := map[int]string{1: "g", 2: "g", 3: "m", 4: ""}
	uses := func(mib ...uint64) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.processes = nil
		for i, n := range mib {
			r.processes = append(r.processes, device.Process{PID: i + 1, UUID: card, Kind: device.ProcessCompute, UsedBytes: new(n << 20)})
		}
	}
	var ended []string
	w := watchdog{GPUs: r.GPUs, over: map[string]int{}, Keeping: Keeping{
		ContainerOf: func(pid int) string { return containers[pid] },
		Container: func(id string) (types.UID, string, bool) {
			return map[string]types.UID{"g": "greedy", "m": "modest"}[id], "main", true
		},
		End: func(uid types.UID, id, reason, message string) {
			ended = append(ended, fmt.Sprintf("%s %s %s: %s", uid, id, reason, message))
		},
	}}
	for _, look := range []struct {
		mib  []uint64
		want string
	}{
		{[]uint64{1500, 1600, 3100, 50000}, ""}, // rounding and a little more is allowed
		{[]uint64{3000, 900, 3000, 50000}, ""},  // once is no offence
		{[]uint64{1000, 900, 3000, 50000}, ""},  // it gave it back
		{[]uint64{3000, 900, 3000, 50000}, ""},  //
		{[]uint64{3000, 901, 3000, 50000}, "greedy g GPUMemoryLimitExceeded: container main used 3901 MiB of GPU " + card + ", its share is 3000 MiB (process 1)"},
		{[]uint64{3000, 901, 3000, 50000}, ""}, // it is told once
	} {
		ended = nil
		uses(look.mib...)
		w.look(t.Context())
		if got := strings.Join(ended, "; "); got != look.want {
			t.Errorf("%v: %s, want %s", look.mib, got, look.want)
		}
	}
}

// TestKeepIsIdle: without shares nobody is asked.
func TestKeepIsIdle(t *testing.T) {
	asked := make(chan struct{}, 100)
	r := guarded(t, "h100-8", share.Config{}, func(g *Guard) {
		g.Processes = func(context.Context, ...string) ([]device.Process, error) { asked <- struct{}{}; return nil, nil }
	})
	if _, err := r.edits(t, podWith("whole", share.GPU, 1)); err != nil {
		t.Fatal(err)
	}
	ready, released := make(chan struct{}), make(chan struct{}, 1)
	close(ready)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Keep(ctx, Keeping{Ready: ready, Released: released}) }()
	select {
	case <-asked:
		t.Error("the driver is asked though nobody shares")
	case <-time.After(lookEvery * 3 / 2):
	}
	if _, err := r.edits(t, partOf("a", 3000, 0)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-asked:
	case <-time.After(time.Minute):
		t.Error("the driver is not asked though somebody shares")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// withMPS is a guarded rig whose driver has a control program, with the daemons it runs.
func withMPS(t *testing.T, s share.Config) (*rig, *mps.Daemons) {
	t.Helper()
	bin, dir := t.TempDir(), t.TempDir()
	if out, err := exec.Command("go", "build", "-o", filepath.Join(bin, "usr/bin", mps.Name), "orch/gpu/mps/standin").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	var r *rig
	d, err := mps.New(mps.Config{Program: func() (mps.Program, error) { return r.MPSProgram() }, Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	left := func() int { entries, _ := os.ReadDir(dir); return len(entries) }
	t.Cleanup(func() { // whatever fails, no process stays
		r.config.Guard.Holdings = func() []devices.Holding { return nil }
		_ = d.Want(nil)
		for end := time.Now().Add(time.Minute); left() > 0 && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	r = guarded(t, "h100-8", s, func(g *Guard) {
		g.MPS, g.Claims = d, func() map[types.UID]devices.Claim { return r.manager.Claims() }
	})
	r.config.Files = func(m device.Machine) (cdi.Files, error) {
		return cdi.Files{Version: m.Driver.Version, Arch: "amd64", Root: bin, Others: []cdi.File{{Path: "/usr/bin/" + mps.Name, Of: cdi.Compute}}}, nil
	}
	return r, d
}

// TestMPSOfReplicas: with sharing.mps a container gets its daemon before it starts, and the
// daemon goes with the last client.
func TestMPSOfReplicas(t *testing.T) {
	r, d := withMPS(t, share.Config{Method: share.MPS, OneOnly: true, Resources: []share.Replication{{Name: share.GPU, As: share.GPU, Replicas: 4}}})
	p := podWith("a", share.GPU, 1)
	e, err := r.edits(t, p)
	if err != nil || env(e, "CUDA_MPS_PIPE_DIRECTORY") != mps.TargetPipe || !slices.ContainsFunc(e.Mounts, func(m engine.Mount) bool { return m.Target == "/dev/shm" && !m.ReadOnly }) {
		t.Fatalf("%+v %v", e, err)
	}
	s := d.Status()
	if len(s) != 1 || !s[0].Ready || s[0].ThreadPercent != 25 || s[0].MemoryMiB[0] != 20389 {
		t.Errorf("%+v", s)
	}
	if got := condition(r, "a"); !strings.Contains(got, "True MPS: main has 20389 MiB and 25 % of the multiprocessors") {
		t.Error(got)
	}
	if c := r.Conditions(); len(c) != 1 || c[0].Type != "GPUMPSReady" || c[0].Status != core.ConditionTrue {
		t.Errorf("%+v", c)
	}
	shm := podWith("b", share.GPU, 1)
	shm.Spec.Containers[0].VolumeMounts = []core.VolumeMount{{Name: "big", MountPath: "/dev/shm/"}}
	if _, err := r.edits(t, shm); err == nil || !strings.Contains(err.Error(), "mounts the volume big at /dev/shm, where clients of MPS meet their server") {
		t.Error(err)
	}
	for _, uid := range []types.UID{"a", "b"} {
		if err := r.manager.Release(uid); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.wantMPS(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); len(d.Status()) > 0 || len(r.Conditions()) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the daemon outlives its last client")
		}
	}
}

// TestMPSOfParts: parts are kept by MPS where that is wished for, each client told its own limits.
func TestMPSOfParts(t *testing.T) {
	r, d := withMPS(t, share.Config{})
	r.config.Guard.PartsByMPS = true
	files := r.config.Files
	without := func(m device.Machine) (cdi.Files, error) { return cdi.Files{Version: m.Driver.Version}, nil }
	r.config.Files = without
	if _, err := r.edits(t, partOf("early", 3000, 0)); err != nil || !strings.Contains(condition(r, "early"), "True Watchdog") {
		t.Errorf("without the program: %v %s", err, condition(r, "early"))
	}
	if err := r.manager.Release("early"); err != nil {
		t.Fatal(err)
	}
	r.config.Files = files
	r.files.Store(nil)
	e, err := r.edits(t, partOf("a", 3000, 30))
	if err != nil || env(e, "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT") != "0=3000M" || env(e, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE") != "30" || env(e, "CUDA_MPS_PIPE_DIRECTORY") == "" {
		t.Fatalf("%+v %v", e.Env, err)
	}
	if got := condition(r, "a"); !strings.Contains(got, "True MPS: main has 3000 MiB and 30 % of the multiprocessors of") {
		t.Error(got)
	}
	if s := d.Status(); len(s) != 1 || s[0].ThreadPercent != 0 || s[0].MemoryMiB != nil {
		t.Errorf("parts are not alike, the daemon has limits for all: %+v", s)
	}
	two := partOf("two", 3000, 0)
	two.Spec.Containers[0].Resources.Limits[share.GPU] = resource.MustParse("2")
	if e, err := r.edits(t, two); err != nil || env(e, "CUDA_MPS_PIPE_DIRECTORY") != "" || !strings.Contains(condition(r, "two"), "True Watchdog") {
		t.Errorf("one client has one daemon: %v %s", err, condition(r, "two"))
	}
	if !r.hasCut() {
		t.Error("the watchdog does not stand behind MPS, whose limits a pod can set itself")
	}
	r.config.Files = without // a driver that is being replaced
	r.files.Store(nil)
	if err := r.wantMPS(); err != nil || len(d.Status()) != 1 || !strings.Contains(condition(r, "a"), "True MPS") {
		t.Errorf("a daemon that has clients goes: %v %s", err, condition(r, "a"))
	}
	r.config.Files = files
	r.files.Store(nil)
}

// TestPartsAndWholesAtRandom admits and releases pods of both kinds, over restarts: no card
// is given beyond what it has, or whole beside a part.
func TestPartsAndWholesAtRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	r := newRig(t, "mixed", share.Config{})
	path := filepath.Join(filepath.Dir(r.config.Dir), "ledger")
	live := map[types.UID]bool{}
	for i := range 400 {
		uid := types.UID(fmt.Sprint("p", i))
		p := podWith(string(uid), share.GPU, 1+random.Int64N(2))
		if random.IntN(4) > 0 {
			p = partOf(string(uid), 1+random.Int64N(30000), random.Int64N(70))
			p.Spec.Containers[0].Resources.Limits[share.GPU] = *resource.NewQuantity(1+random.Int64N(2), resource.DecimalSI)
			if random.IntN(3) == 0 {
				early := *p.Spec.Containers[0].DeepCopy()
				early.Name, early.Resources.Limits[share.Memory] = "early", *resource.NewQuantity(1+random.Int64N(30000), resource.DecimalSI)
				p.Spec.InitContainers = []core.Container{early}
			}
		}
		if err := r.manager.Admit(p); err == nil {
			live[uid] = true
		}
		for uid := range live {
			if random.IntN(5) == 0 {
				delete(live, uid)
				if err := r.manager.Release(uid); err != nil {
					t.Fatal(err)
				}
			}
		}
		if random.IntN(10) == 0 {
			m, err := devices.New(devices.Config{Path: path, Providers: []devices.Provider{r.GPUs}, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			r.manager = m
		}
		checkCards(t, r)
	}
}

// checkCards looks for a card that is given twice.
func checkCards(t *testing.T, r *rig) {
	t.Helper()
	var parts []string
	whole := map[string]types.UID{}
	for _, h := range r.manager.Holdings() {
		for _, id := range h.IDs {
			if _, cut := alloc.ParseShare(id); cut {
				parts = append(parts, id)
			} else if other, twice := whole[id]; twice && other != h.UID {
				t.Fatalf("%s is given to %s and %s", id, other, h.UID)
			} else {
				whole[id] = h.UID
			}
		}
	}
	for card, a := range alloc.Used(parts) {
		g, _ := r.machine.GPU(card)
		if _, also := whole[card]; also || a.MemoryMiB > int64(*g.MemoryBytes>>20) || a.CorePercent > 100 {
			t.Fatalf("of %s %s are given, whole %v", card, a, also)
		}
	}
}
