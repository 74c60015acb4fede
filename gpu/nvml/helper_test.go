package nvml

import (
	"bufio"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"orch/gpu/device"
	"orch/gpu/health"
	"orch/gpu/inventory"
	"orch/gpu/nvml/wire"
	"orch/gpu/sysfs"
)

// built is what TestMain makes once: the helper, and drivers to load.
var built struct {
	dir, helper string
}

func TestMain(m *testing.M) {
	code, err := withPrograms(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func withPrograms(m *testing.M) (int, error) {
	if _, err := exec.LookPath("gcc"); err != nil {
		return 0, fmt.Errorf("no C compiler (scripts/deps installs one): the helper cannot be built here, nor tested: %w", err)
	}
	dir, err := os.MkdirTemp("", "orch-nvml-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	built.dir, built.helper = dir, filepath.Join(dir, "helper")
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", built.helper, "./helper")
	build.Env = append(os.Environ(), "CGO_ENABLED=1", "CGO_CFLAGS=-O2 -g -Wno-deprecated-declarations", "CGO_LDFLAGS=-Wl,--no-as-needed -l:libdl.so.2 -l:libpthread.so.0")
	for _, cmd := range []*exec.Cmd{build, exec.Command("go", "run", "./oldglibc", built.helper)} { // as scripts/bundle does
		if out, err := cmd.CombinedOutput(); err != nil {
			return 1, fmt.Errorf("building the helper: %w\n%s", err, out)
		}
	}
	return m.Run(), nil
}

// driver builds the fake library, without some functions, and returns its folder and
// the folder that steers it.
func driver(t testing.TB, without ...string) (lib, steer string) {
	t.Helper()
	lib, steer = t.TempDir(), t.TempDir()
	header, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/NVIDIA/go-nvml/pkg/nvml").Output()
	if err != nil {
		t.Fatalf("finding nvml.h: %v", err)
	}
	args := []string{"-shared", "-fPIC", "-w", "-DNVML_NO_UNVERSIONED_FUNC_DEFS=1", "-I", strings.TrimSpace(string(header)), "-o", filepath.Join(lib, Library), "testdata/fakenvml.c"}
	for _, w := range without {
		args = append(args, "-DWITHOUT_"+w)
	}
	if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("building the fake driver: %v\n%s", err, out)
	}
	return lib, steer
}

// does steers a function of the driver; empty lets it answer again.
func does(t testing.TB, steer, function, what string) {
	t.Helper()
	path := filepath.Join(steer, function)
	if what == "" {
		os.Remove(path)
		return
	}
	// By rename: the library may look at any moment.
	if err := errors.Join(os.WriteFile(path+".new", []byte(what), 0o644), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

func client(t testing.TB, lib, steer string, change ...func(*Config)) *Client {
	t.Helper()
	config := Config{Program: func() (*os.File, error) { return os.Open(built.helper) },
		Env:    []string{"LD_LIBRARY_PATH=" + lib, "FAKE_NVML=" + steer},
		Limits: map[wire.Op]time.Duration{}}
	for _, f := range change {
		f(&config)
	}
	c, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Release(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

func code(err error) int {
	if p, ok := errors.AsType[*device.Problem](err); ok {
		return p.Code
	}
	return 0
}

// TestHelperStartsOnOldHosts: what it needs of glibc, hosts of the last ten years have.
func TestHelperStartsOnOldHosts(t *testing.T) {
	f, err := elf.Open(built.helper)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	needs, err := f.DynamicVersionNeeds()
	if err != nil || len(needs) == 0 {
		t.Fatalf("needs %v, %v", needs, err)
	}
	for _, n := range needs {
		for _, v := range n.Needs {
			if minor, ok := strings.CutPrefix(v.Dep, "GLIBC_2."); ok {
				if i, _, _ := strings.Cut(minor, "."); len(i) > 2 || len(i) == 2 && i > "17" {
					t.Errorf("it needs %s of %s", v.Dep, n.Name)
				}
			}
		}
	}
	libraries, err := f.ImportedLibraries()
	if err != nil || !slices.Contains(libraries, "libdl.so.2") || !slices.Contains(libraries, "libpthread.so.0") {
		t.Errorf("libraries are %v, %v", libraries, err)
	}
}

func TestMachineFromARealHelper(t *testing.T) {
	lib, steer := driver(t)
	c := client(t, lib, steer)
	m, err := c.Machine(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if m.Driver.Version != "580.159.03" || m.Driver.CUDA != "13.0" || len(m.GPUs) != 2 {
		t.Fatalf("machine is %+v", m)
	}
	g := m.GPUs[1]
	if g.UUID != "GPU-fake-1" || g.PCI.Address != "0000:27:00.0" || g.PCI.Vendor != 0x10de || g.PCI.Device != 0x2335 || *g.Minor != 1 || *g.MemoryBytes != 143771<<20 ||
		g.Architecture != "Hopper" || g.Family() != "hopper" || g.Brand != "Nvidia" || !g.GPM || g.MemoryLimits || g.ComputeMode != "Default" || g.VBIOS != "" {
		t.Errorf("card is %+v", g)
	}
	if len(g.Peers) != 1 || g.Peers[0] != (device.Peer{UUID: "GPU-fake-0", Level: device.LevelNode, NVLinks: 3}) {
		t.Errorf("peers are %+v", g.Peers)
	}
	p, ok := g.MIG.ProfileNamed("1g.18gb")
	if !ok || p.ID != 19 || len(p.Placements) != 7 || p.Placements[6].Start != 6 || p.Instances != 7 {
		t.Errorf("profile is %+v", p)
	}
	d := g.MIGDevices()
	if len(d) != 1 || d[0].UUID != "MIG-fake-1-0" || d[0].GI != 1 || d[0].Profile != "1g.18gb" || *d[0].MemoryBytes != 16384<<20 {
		t.Errorf("MIG devices are %+v", d)
	}
	for _, want := range []string{"nvmlDeviceSetMemoryLimits_v1", "nvmlDeviceGetGpuFabricInfoV"} {
		if !strings.Contains(strings.Join(m.Missing, " "), want) {
			t.Errorf("%s is not among the missing: %v", want, m.Missing)
		}
	}
}

func TestFiguresAndProcesses(t *testing.T) {
	lib, steer := driver(t)
	c := client(t, lib, steer)
	if _, err := c.Figures(t.Context(), "GPU-fake-0"); err != nil { // the first sample of GPM
		t.Fatal(err)
	}
	f, err := c.Figures(t.Context(), "GPU-fake-0", "GPU-fake-1", "GPU-none")
	if err != nil || len(f) != 4 {
		t.Fatalf("figures are %+v, %v", f, err)
	}
	for name, want := range map[device.Figure]float64{device.EnergyMillijoule: 9007199254740991, device.PowerMilliwatt: 71234, device.GPUUtilPercent: 12,
		device.FBUsedBytes: 384 << 20, device.FBReservedBytes: 640 << 20, device.GPMTensor: 0.5, device.GPMPCIeTxBytesSec: 1 << 20, device.RecoveryActionField: 0, device.TemperatureC: 31} {
		if got, ok := f[0].Get(name); !ok || got != want {
			t.Errorf("%s is %v, %v, want %v", name, got, ok, want)
		}
	}
	if _, ok := f[1].Get(device.GPUUtilPercent); ok {
		t.Error("a figure that the card does not support is there")
	}
	if f[2].UUID != "MIG-fake-1-0" || f[3].Problem == nil || f[3].Problem.Code != device.CodeNotFound {
		t.Errorf("figures are %+v", f[2:])
	}
	p, err := c.Processes(t.Context(), "GPU-fake-0", "GPU-fake-1")
	if err != nil || len(p) != 2 || p[0].PID != 4242 || p[0].GI != nil || *p[0].UsedBytes != 384<<20 || *p[0].SMPercent != 12 || p[1].SMPercent != nil || *p[1].GI != 1 || *p[1].CI != 0 {
		t.Errorf("processes are %+v, %v", p, err)
	}
}

func TestInstancesAreMadeAndRemoved(t *testing.T) {
	lib, steer := driver(t)
	c := client(t, lib, steer)
	gi, err := c.CreateInstance(t.Context(), "GPU-fake-1", 19, &device.Placement{Start: 4, Size: 1})
	if err != nil || gi.Placement.Start != 4 || len(gi.Compute) != 1 || gi.Compute[0].UUID == "" {
		t.Fatalf("made %+v, %v", gi, err)
	}
	if _, err := c.CreateInstance(t.Context(), "GPU-fake-1", 19, &device.Placement{Start: 4, Size: 1}); code(err) != device.CodeInsufficientResource {
		t.Errorf("the same place twice: %v", err)
	}
	does(t, steer, "nvmlGpuInstanceCreateComputeInstance", "ret 999")
	if _, err := c.CreateInstance(t.Context(), "GPU-fake-1", 19, &device.Placement{Start: 5, Size: 1}); code(err) != device.CodeUnknown {
		t.Errorf("without a compute instance: %v", err)
	}
	does(t, steer, "nvmlGpuInstanceCreateComputeInstance", "")
	if _, err := c.CreateInstance(t.Context(), "GPU-fake-1", 19, &device.Placement{Start: 5, Size: 1}, 1, 2); code(err) != device.CodeNotFound {
		t.Errorf("compute instances that there are not: %v", err)
	}
	part, err := c.CreateInstance(t.Context(), "GPU-fake-1", 19, &device.Placement{Start: 5, Size: 1}, 1)
	if err != nil || len(part.Compute) != 1 { // the place is free: what failed was taken back
		t.Errorf("made %+v, %v", part, err)
	}
	if err := c.DestroyInstance(t.Context(), "GPU-fake-1", part.ID); err != nil {
		t.Error(err)
	}
	if err := c.DestroyInstance(t.Context(), "GPU-fake-1", gi.ID); err != nil {
		t.Error(err)
	}
	m, err := c.Machine(t.Context())
	if err != nil || len(m.GPUs[1].MIG.Instances) != 1 {
		t.Errorf("what is left: %+v, %v", m.GPUs[1].MIG.Instances, err)
	}
	if err := c.SetComputeMode(t.Context(), "GPU-fake-0", "ExclusiveProcess"); err != nil {
		t.Error(err)
	}
	if err := c.SetComputeMode(t.Context(), "GPU-fake-0", "Fast"); code(err) != device.CodeInvalidArgument {
		t.Errorf("a mode that is none: %v", err)
	}
	if err := c.SetMemoryLimits(t.Context(), "GPU-fake-0", "/kubepods/x", 1, 2); code(err) != device.CodeFunctionNotFound {
		t.Errorf("memory limits: %v", err)
	}
}

func TestMissingFunctionEndsTheHelperAndIsDoneWithout(t *testing.T) {
	lib, steer := driver(t, "nvmlDeviceGetTemperature", "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetGpuInstanceProfileInfoV")
	c := client(t, lib, steer)
	f, err := c.Figures(t.Context(), "GPU-fake-0")
	if err != nil || f[0].Problem != nil {
		t.Fatalf("figures are %+v, %v", f, err)
	}
	if _, ok := f[0].Get(device.TemperatureC); ok {
		t.Error("a temperature without the function")
	}
	if got, ok := f[0].Get(device.FBUsedBytes); !ok || got != 1<<30 {
		t.Errorf("memory by the old call is %v, %v", got, ok)
	}
	m, err := c.Machine(t.Context())
	if err != nil || m.GPUs[1].MIG.Profiles[0].Name != "1g.18gb" {
		t.Errorf("the name of a profile on an old driver: %+v, %v", m.GPUs[1].MIG, err)
	}
	if s := c.Stats(); s.Starts != 2 || s.Crashes != 1 {
		t.Errorf("stats are %+v, want one restart", s)
	}
	if !strings.Contains(strings.Join(m.Missing, " "), "nvmlDeviceGetTemperature") {
		t.Errorf("missing are %v", m.Missing)
	}
}

func TestHungCardIsKilledAndTheOthersGoOn(t *testing.T) {
	lib, steer := driver(t)
	now := time.Now()
	c := client(t, lib, steer, func(c *Config) {
		c.Limits[wire.OpCard], c.Limits[wire.OpFigures] = 5*time.Second, 5*time.Second
		c.Now = func() time.Time { return now }
	})
	does(t, steer, "nvmlDeviceGetName.0", "sleep 60000")
	m, err := c.Machine(t.Context())
	if err != nil || len(m.GPUs) != 2 || m.GPUs[0].Problem == nil || m.GPUs[0].Problem.Code != device.CodeHang || m.GPUs[1].Name != "NVIDIA H200" {
		t.Fatalf("machine is %+v, %v", m.GPUs, err)
	}
	before := c.Stats()
	if before.Kills != 1 || before.Starts != 2 {
		t.Errorf("stats are %+v", before)
	}
	if m, err = c.Machine(t.Context()); err != nil || m.GPUs[0].Problem == nil || c.Stats() != before {
		t.Errorf("a card under penalty was asked: %+v, %v", c.Stats(), err)
	}
	does(t, steer, "nvmlDeviceGetName.0", "")
	now = now.Add(time.Minute)
	if m, err = c.Machine(t.Context()); err != nil || m.GPUs[0].Problem != nil {
		t.Errorf("after it was mended: %+v, %v", m.GPUs[0].Problem, err)
	}
}

func TestCrashCostsOneCall(t *testing.T) {
	lib, steer := driver(t)
	c := client(t, lib, steer)
	does(t, steer, "nvmlDeviceGetPowerUsage.1", "segv")
	f, err := c.Figures(t.Context(), "GPU-fake-1", "GPU-fake-0")
	if err != nil || f[0].Problem == nil || f[0].Problem.Code != device.CodeCrash || !strings.Contains(f[0].Problem.Text, "SIGSEGV") || f[1].Problem != nil {
		t.Errorf("figures are %+v, %v", f, err)
	}
}

func TestLostCardIsNotAskedFurther(t *testing.T) {
	lib, steer := driver(t)
	c := client(t, lib, steer)
	does(t, steer, "nvmlDeviceGetName.0", "ret 15")
	m, err := c.Machine(t.Context())
	if err != nil || m.GPUs[0].Problem == nil || m.GPUs[0].Problem.Code != device.CodeGPULost || m.GPUs[0].UUID != "GPU-fake-0" || m.GPUs[0].MemoryBytes != nil || m.GPUs[1].Problem != nil {
		t.Errorf("machine is %+v, %v", m.GPUs, err)
	}
}

func TestBrokenDriverIsSaidOnceAndTriedLater(t *testing.T) {
	lib, steer := driver(t)
	now := time.Now()
	c := client(t, lib, steer, func(c *Config) { c.Now = func() time.Time { return now } })
	does(t, steer, "nvmlInit_v2", "ret 18")
	for range 3 {
		if _, err := c.Machine(t.Context()); code(err) != device.CodeVersionMismatch {
			t.Fatalf("machine: %v", err)
		}
	}
	if s := c.Stats(); s.Starts != 1 {
		t.Errorf("started %d times", s.Starts)
	}
	does(t, steer, "nvmlInit_v2", "")
	now = now.Add(time.Second)
	if _, err := c.Machine(t.Context()); err != nil {
		t.Errorf("after it was mended: %v", err)
	}
}

func TestNoDriverAndNoHelper(t *testing.T) {
	c := client(t, t.TempDir(), "", func(c *Config) { c.Root = t.TempDir() })
	if _, err := c.Machine(t.Context()); code(err) != device.CodeLibraryNotFound {
		t.Errorf("without a library: %v", err)
	}
	c = client(t, "", "", func(c *Config) { c.Program = func() (*os.File, error) { return nil, errors.New("not in this build") } })
	if _, err := c.Machine(t.Context()); code(err) != device.CodeNoHelper {
		t.Errorf("without a helper: %v", err)
	}
}

func TestLibraryInAnUnusualFolder(t *testing.T) {
	lib, steer := driver(t)
	root := t.TempDir()
	dir := filepath.Join(root, "usr/local/nvidia/lib64")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.Rename(filepath.Join(lib, Library), filepath.Join(dir, "libnvidia-ml.so.580.159.03")),
		os.Symlink("libnvidia-ml.so.580.159.03", filepath.Join(dir, Library))); err != nil {
		t.Fatal(err)
	}
	c := client(t, t.TempDir(), steer, func(c *Config) { c.Root = root })
	m, err := c.Machine(t.Context())
	if err != nil || m.Driver.Library != filepath.Join(dir, Library) || LibraryVersion(m.Driver.Library) != "580.159.03" {
		t.Errorf("driver is %+v, %v", m.Driver, err)
	}
	loader := map[string]string{"amd64": "/lib64/ld-linux-x86-64.so.2", "arm64": "/lib/ld-linux-aarch64.so.1"}[runtime.GOARCH]
	c = client(t, t.TempDir(), steer, func(c *Config) { c.Root, c.Loader = root, loader })
	if m, err = c.Machine(t.Context()); err != nil || len(m.GPUs) != 2 {
		t.Errorf("by an explicit loader: %+v, %v", m, err)
	}
}

func TestEventsFlowBetweenCalls(t *testing.T) {
	lib, steer := driver(t)
	c := client(t, lib, steer)
	events := make(chan device.Event, 4)
	over := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { over <- c.Watch(ctx, func(e device.Event) { events <- e }) }()
	does(t, steer, "xid", "79")
	e := <-events
	if e.Kind != device.EventXID || e.Data != 79 || e.UUID != "GPU-fake-1" || e.GI == nil || *e.GI != 1 {
		t.Errorf("event is %+v", e)
	}
	if _, err := c.Machine(t.Context()); err != nil { // while the thread waits
		t.Error(err)
	}
	cancel()
	if err := <-over; err != nil {
		t.Errorf("watching ended with %v", err)
	}
	go func() { over <- c.Watch(t.Context(), func(e device.Event) { events <- e }) }()
	does(t, steer, "xid", "-1")
	if err := <-over; code(err) != device.CodeCrash {
		t.Errorf("events that are over: %v", err)
	}
}

func TestCallerThatLeavesDoesNotHoldTheOthers(t *testing.T) {
	lib, steer := driver(t)
	c := client(t, lib, steer)
	if _, err := c.Figures(t.Context(), "GPU-fake-0"); err != nil {
		t.Fatal(err)
	}
	does(t, steer, "nvmlDeviceGetPowerUsage", "sleep 300")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Figures(ctx, "GPU-fake-0"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a caller that left got %v", err)
	}
	does(t, steer, "nvmlDeviceGetPowerUsage", "")
	if f, err := c.Figures(t.Context(), "GPU-fake-1"); err != nil || f[0].UUID != "GPU-fake-1" || f[0].Problem != nil {
		t.Errorf("the next caller got %+v, %v", f, err)
	}
}

func TestReleaseLeavesNoProcess(t *testing.T) {
	lib, steer := driver(t)
	c := client(t, lib, steer)
	if _, err := c.Machine(t.Context()); err != nil {
		t.Fatal(err)
	}
	pid := c.Stats().PID
	if err := c.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("process %d is still there: %v", pid, err)
	}
	if _, err := c.Machine(t.Context()); code(err) != device.CodeStopped {
		t.Errorf("a call while released: %v", err)
	}
	c.Resume()
	if _, err := c.Machine(t.Context()); err != nil {
		t.Errorf("after Resume: %v", err)
	}
}

// resident is the memory of a process in bytes.
func resident(t testing.TB, pid int) int {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

func TestMemoryIsFlatOverTenThousandCalls(t *testing.T) {
	lib, steer := driver(t)
	c := client(t, lib, steer)
	ask := func(n int) int {
		for range n {
			if f, err := c.Figures(t.Context(), "GPU-fake-0"); err != nil || f[0].Problem != nil {
				t.Fatal(err, f)
			}
		}
		return resident(t, c.Stats().PID)
	}
	warm := ask(2000)
	end := ask(10000)
	t.Logf("resident after 2,000 calls %.1f MiB, after 12,000 %.1f MiB", float64(warm)/(1<<20), float64(end)/(1<<20))
	if end > 20<<20 {
		t.Errorf("the helper holds %d bytes, 20 MiB are the budget", end)
	}
	if end > warm+1<<20 {
		t.Errorf("the helper grew from %d to %d bytes", warm, end)
	}
}

// BenchmarkFigures is one card's 25 series and more through the process boundary.
func BenchmarkFigures(b *testing.B) {
	lib, steer := driver(b)
	c := client(b, lib, steer)
	if _, err := c.Figures(b.Context(), "GPU-fake-0"); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := c.Figures(b.Context(), "GPU-fake-0"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCall is the cheapest call: what the boundary itself costs.
func BenchmarkCall(b *testing.B) {
	lib, steer := driver(b)
	c := client(b, lib, steer)
	for b.Loop() {
		if err := c.SetComputeMode(b.Context(), "GPU-fake-0", "Default"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStart is from nothing to the first whole answer.
func BenchmarkStart(b *testing.B) {
	lib, steer := driver(b)
	c := client(b, lib, steer)
	for b.Loop() {
		if _, err := c.Machine(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := c.Release(b.Context()); err != nil {
			b.Fatal(err)
		}
		c.Resume()
	}
}

// loaded is a host, in a folder, whose module holds the fake driver's two cards.
func loaded(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	files := map[string]string{"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.03  Tue Sep  1 2026\n", "proc/devices": "195 nvidia\n507 nvidia-uvm\n"}
	for i, address := range []string{"0000:17:00.0", "0000:27:00.0"} {
		dir := "sys/bus/pci/devices/" + address
		files[dir+"/vendor"], files[dir+"/device"], files[dir+"/class"], files[dir+"/numa_node"] = "0x10de\n", "0x2335\n", "0x030200\n", "0\n"
		files["proc/driver/nvidia/gpus/"+address+"/information"] = fmt.Sprintf("GPU UUID:\t GPU-fake-%d\nDevice Minor:\t %d\n", i, i)
	}
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func inventoryOf(t testing.TB, ctx context.Context, c *Client, root string) (*inventory.Inventory, <-chan error) {
	t.Helper()
	i, err := inventory.New(inventory.Config{Host: sysfs.New(sysfs.Config{Root: root}), Driver: c})
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { over <- i.Run(ctx) }()
	return i, over
}

func TestInventoryOverARealHelper(t *testing.T) {
	lib, steer := driver(t)
	c := client(t, lib, steer)
	ctx, cancel := context.WithCancel(t.Context())
	i, over := inventoryOf(t, ctx, c, loaded(t))
	<-i.Ready()
	s := i.State()
	if s.Machine.Tier != device.TierNVML || len(s.Machine.GPUs) != 2 || !s.Allocatable("GPU-fake-0") || !s.Allocatable("MIG-fake-1-0") || *s.Machine.GPUs[0].NUMANode != 0 || s.Machine.GPUs[1].PCI.Driver != "" {
		t.Errorf("state is %+v", s)
	}
	changed := i.Subscribe(ctx)
	does(t, steer, "xid", "79")
	for s.Allocatable("MIG-fake-1-0") { // an error of the whole card, through the library's event set
		<-changed
		s = i.State()
	}
	if u := s.Units[inventory.Card("GPU-fake-1")]; u.State != health.Draining || !s.Allocatable("GPU-fake-0") {
		t.Errorf("units are %+v", s.Units)
	}
	cancel()
	if err := <-over; err != nil {
		t.Error(err)
	}
}

// TestNewCardOpensTheDriverAnew: NVML counts cards when it is opened.
func TestNewCardOpensTheDriverAnew(t *testing.T) {
	lib, steer := driver(t)
	c := client(t, lib, steer)
	ctx, cancel := context.WithCancel(t.Context())
	root := loaded(t)
	i, over := inventoryOf(t, ctx, c, root)
	<-i.Ready()
	if err := i.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	before := c.Stats().PID
	dir := filepath.Join(root, "sys/bus/pci/devices/0000:37:00.0")
	for name, text := range map[string]string{"vendor": "0x10de", "device": "0x2335", "class": "0x030200"} {
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := i.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	if s := i.State(); len(s.Machine.GPUs) != 3 || c.Stats().PID == before || !s.Allocatable("GPU-fake-0") {
		t.Errorf("helper %d as before, state %+v", before, s.Machine.GPUs)
	}
	cancel()
	if err := <-over; err != nil {
		t.Error(err)
	}
}

// BenchmarkReady is from an agent's start to a node that knows what it can give out.
func BenchmarkReady(b *testing.B) {
	lib, steer := driver(b)
	c := client(b, lib, steer)
	root := loaded(b)
	for b.Loop() {
		ctx, cancel := context.WithCancel(b.Context())
		i, over := inventoryOf(b, ctx, c, root)
		<-i.Ready()
		cancel()
		if err := errors.Join(<-over, c.Release(b.Context())); err != nil {
			b.Fatal(err)
		}
		c.Resume()
	}
}
