package gpus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/devices"
	"orch/agent/host"
	"orch/gpu/cdi"
	"orch/gpu/cdi/ldcache"
	"orch/gpu/device"
	"orch/gpu/fakenvml"
	"orch/gpu/share"
	"orch/runtime/engine"
)

// rig is the provider over a catalogue machine.
type rig struct {
	*GPUs
	manager   *devices.Manager
	machine   device.Machine
	ill       map[string]bool
	mu        sync.Mutex // guards processes where a watchdog reads them
	processes []device.Process
	figures   []device.Figures
	image     []byte // its loader cache; nil: none
	changes   chan struct{}
}

func newRig(t testing.TB, machine string, s share.Config) *rig {
	t.Helper()
	rec, err := fakenvml.Load(machine)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{machine: rec.Machine, ill: map[string]bool{}, changes: make(chan struct{}, 1)}
	dir := t.TempDir()
	r.GPUs, err = New(Config{
		Node: "n1",
		Look: func() View {
			return View{Machine: r.machine, Allocatable: func(uuid string) bool { return !r.ill[uuid] }}
		},
		Changes: func(context.Context) <-chan struct{} { return r.changes },
		Share:   s,
		Files: func(m device.Machine) (cdi.Files, error) {
			return cdi.Files{Version: m.Driver.Version, Arch: "amd64", Libraries: []cdi.File{{Path: "/usr/lib64/libcuda.so.580", Of: cdi.Compute, Links: []string{"libcuda.so.1"}}}}, nil
		},
		Use: func(_ context.Context, card string) ([]device.Figures, []device.Process, error) {
			return r.figures, slices.DeleteFunc(slices.Clone(r.processes), func(p device.Process) bool { return p.UUID != card }), nil
		},
		ImageCache: func(context.Context, engine.Image) ([]byte, error) {
			if r.image == nil {
				return nil, fmt.Errorf("no cache: %w", engine.ErrNotFound)
			}
			return r.image, nil
		},
		Dir: filepath.Join(dir, "caches"), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.manager, err = devices.New(devices.Config{Path: filepath.Join(dir, "ledger"), Providers: []devices.Provider{r.GPUs}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func podWith(uid, name string, n int64) *core.Pod {
	p := &core.Pod{}
	p.UID, p.Name = types.UID(uid), uid
	c := core.Container{Name: "main"}
	c.Resources.Limits = core.ResourceList{core.ResourceName(name): *resource.NewQuantity(n, resource.DecimalSI)}
	p.Spec.Containers = []core.Container{c}
	return p
}

func (r *rig) edits(t testing.TB, p *core.Pod) (host.DeviceEdits, error) {
	t.Helper()
	if err := r.manager.Admit(p); err != nil {
		t.Fatal(err)
	}
	return r.manager.Edits(context.Background(), host.DeviceHolder{Pod: p, Container: &p.Spec.Containers[0]})
}

func TestWholeCards(t *testing.T) {
	r := newRig(t, "h100-8", share.Config{})
	r.ill[r.machine.GPUs[1].UUID] = true
	capacity, allocatable := r.manager.Resources()
	if c, a := capacity[share.GPU], allocatable[share.GPU]; c.Value() != 8 || a.Value() != 7 {
		t.Errorf("%s of %s", a.String(), c.String())
	}
	e, err := r.edits(t, podWith("a", share.GPU, 4))
	if err != nil {
		t.Fatal(err)
	}
	cards := 0
	for _, d := range e.Devices {
		if strings.HasPrefix(d.Host, "/dev/nvidia") && len(d.Host) == len("/dev/nvidia0") {
			cards++
		}
	}
	if cards != 4 || len(e.Held[share.GPU]) != 4 || slices.Contains(e.Held[share.GPU], r.machine.GPUs[1].UUID) {
		t.Errorf("%d card nodes, held %v", cards, e.Held)
	}
	i := slices.IndexFunc(e.Env, func(v core.EnvVar) bool { return v.Name == "NVIDIA_VISIBLE_DEVICES" })
	if i < 0 || e.Env[i].Value != strings.Join(e.Held[share.GPU], ",") {
		t.Errorf("environment is %v", e.Env)
	}
}

// TestCacheHasBoth: the container's loader finds the driver first, then what the image had.
func TestCacheHasBoth(t *testing.T) {
	for name, image := range map[string][]byte{
		"an image with a cache": ldcache.Append(nil, []ldcache.Entry{{Flags: ldcache.X86_64, Name: "libc.so.6", Path: "/lib64/libc.so.6"}, {Flags: ldcache.X86_64, Name: "libcuda.so.1", Path: "/stubs/libcuda.so.1"}}),
		"one without":           nil, "one that is no cache": []byte("#!/bin/sh"),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "h200", share.Config{})
			r.image = image
			e, err := r.edits(t, podWith("a", share.GPU, 1))
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(e.Mounts, func(m engine.Mount) bool { return m.Target == "/etc/ld.so.cache" })
			if i < 0 || !e.Mounts[i].ReadOnly {
				t.Fatalf("mounts are %v", e.Mounts)
			}
			text, err := os.ReadFile(e.Mounts[i].Source)
			if err != nil {
				t.Fatal(err)
			}
			entries, err := ldcache.Parse(text)
			if err != nil || entries[0].Path != "/usr/lib64/libcuda.so.1" {
				t.Errorf("%v %v", entries, err)
			}
			if had := bytes.Contains(text, []byte("libc.so.6")); had != (name == "an image with a cache") {
				t.Errorf("the image's own libraries are there: %v", had)
			}
		})
	}
}

func TestHandOver(t *testing.T) {
	r := newRig(t, "h200", share.Config{})
	uuid := r.machine.GPUs[0].UUID
	r.processes = []device.Process{{PID: 7, Kind: device.ProcessGraphics, UUID: uuid}, {PID: 42, Kind: device.ProcessCompute, UUID: uuid, UsedBytes: new(uint64(3 << 30))}}
	p := podWith("a", share.GPU, 1)
	_, err := r.edits(t, p)
	if want := "preparing nvidia.com/gpu: GPU " + uuid + " is not free: process 42 still holds 3072 MiB of its memory"; err == nil || err.Error() != want {
		t.Errorf("error is %v, want %q", err, want)
	}
	r.processes = r.processes[:1]
	if _, err := r.edits(t, p); err != nil {
		t.Error(err)
	}
}

// TestZombieAtHandOver: memory of the last holder that no process answers for keeps the
// card, and only that, from the next pod.
func TestZombieAtHandOver(t *testing.T) {
	r := newRig(t, "h100-8", share.Config{})
	r.figures = []device.Figures{{UUID: r.machine.GPUs[0].UUID, Values: map[device.Figure]float64{device.FBUsedBytes: 50 << 30}}}
	p := podWith("a", share.GPU, 8)
	_, err := r.edits(t, p)
	if err == nil || !strings.Contains(err.Error(), "GPU "+r.machine.GPUs[0].UUID+" is not free: 51200 MiB of its memory are in use although no process holds it") {
		t.Errorf("error is %v", err)
	}
	r.figures[0].Values[device.FBUsedBytes] = 4 << 20
	if _, err := r.edits(t, p); err != nil {
		t.Error(err)
	}
}

func TestSharesSeeEachOther(t *testing.T) {
	r := newRig(t, "h200", share.Config{Method: share.TimeSlicing, Resources: []share.Replication{{Name: share.GPU, As: share.GPU, Replicas: 2}}})
	r.processes = []device.Process{{PID: 42, Kind: device.ProcessCompute, UUID: r.machine.GPUs[0].UUID}}
	for _, uid := range []string{"a", "b"} {
		if _, err := r.edits(t, podWith(uid, share.GPU, 1)); err != nil {
			t.Error(err)
		}
	}
	if err := r.manager.Admit(podWith("c", share.GPU, 1)); err == nil {
		t.Error("a third of two shares")
	}
}

func TestCapabilitiesOfPodAndImage(t *testing.T) {
	c := host.DeviceHolder{Container: &core.Container{}, Image: engine.Image{Env: []string{"A=b", "NVIDIA_DRIVER_CAPABILITIES=video"}}}
	if got := capabilitiesOf(c); got != "video" {
		t.Error(got)
	}
	c.Container.Env = []core.EnvVar{{Name: "NVIDIA_DRIVER_CAPABILITIES", Value: "all"}}
	if got := capabilitiesOf(c); got != "all" {
		t.Error(got)
	}
	r := newRig(t, "h200", share.Config{})
	p := podWith("a", share.GPU, 1)
	p.Spec.Containers[0].Env = []core.EnvVar{{Name: "NVIDIA_DRIVER_CAPABILITIES", Value: "../../etc/shadow"}}
	if _, err := r.edits(t, p); err == nil || !strings.Contains(err.Error(), "is none of compute, utility") {
		t.Error(err)
	}
}

func TestChangesAreTold(t *testing.T) {
	r := newRig(t, "h200", share.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	before := r.Changed()
	r.changes <- struct{}{}
	<-before
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	e := Extra{r.manager, r.GPUs}
	if !e.OwnsCondition("GPULayoutValid") || e.OwnsCondition("GPUFanFailure") {
		t.Error("whose conditions are whose")
	}
	if !e.OwnsResource("nvidia.com/mig-1g.18gb") || e.OwnsResource("example.com/x") || !e.OwnsLabel("nvidia.com/gpu.count") || e.Labels()["nvidia.com/gpu.count"] != "1" {
		t.Error("what the node says of its GPUs")
	}
}

func TestFilesThatAreMissingAreSaid(t *testing.T) {
	r := newRig(t, "h200", share.Config{})
	r.config.Files = func(device.Machine) (cdi.Files, error) {
		return cdi.Files{}, errors.New("libcuda.so.580 is in none of /usr/lib")
	}
	if _, err := r.edits(t, podWith("a", share.GPU, 1)); err == nil || !strings.Contains(err.Error(), "libcuda.so.580 is in none") {
		t.Error(err)
	}
}

func TestOldCachesAreDeleted(t *testing.T) {
	r := newRig(t, "h200", share.Config{})
	for i := range maxCaches + 10 {
		if _, err := r.cacheFor(t.Context(), engine.Image{}, []ldcache.Entry{{Flags: ldcache.X86_64, Name: fmt.Sprint(i), Path: "/x"}}); err != nil {
			t.Fatal(err)
		}
	}
	if l, err := os.ReadDir(r.config.Dir); err != nil || len(l) != maxCaches {
		t.Errorf("%d caches, %v", len(l), err)
	}
}

func BenchmarkEdits(b *testing.B) {
	r := newRig(b, "h200-8", share.Config{})
	p := podWith("a", share.GPU, 2)
	if err := r.manager.Admit(p); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := r.manager.Edits(b.Context(), host.DeviceHolder{Pod: p, Container: &p.Spec.Containers[0]}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestReloadWhilePodsRun: the driver is loaded anew, with another major for nvidia-uvm and other
// files, while a pod holds its card. It keeps it, and its container starts again with what there is now.
func TestReloadWhilePodsRun(t *testing.T) {
	r := newRig(t, "h100-8", share.Config{})
	p := podWith("a", share.GPU, 1)
	before, err := r.edits(t, p)
	if err != nil {
		t.Fatal(err)
	}
	held := r.manager.Holdings()
	r.machine = r.machine.Clone()
	delete(r.machine.Module.Majors, "nvidia-uvm")
	if _, err := r.edits(t, p); err == nil || !strings.Contains(err.Error(), "nvidia-uvm is not loaded") {
		t.Errorf("between the modules: %v", err)
	}
	r.machine.Module.Majors["nvidia-uvm"], r.machine.Module.Version, r.machine.Driver.Version = 233, "590.1", "590.1"
	r.config.Files = func(device.Machine) (cdi.Files, error) {
		return cdi.Files{Version: "590.1", Arch: "amd64", Libraries: []cdi.File{{Path: "/usr/lib64/libcuda.so.590.1", Of: cdi.Compute, Links: []string{"libcuda.so.1"}}}}, nil
	}
	after, err := r.edits(t, p)
	if err != nil || fmt.Sprint(r.manager.Holdings()) != fmt.Sprint(held) {
		t.Fatalf("%v, holdings %v", err, r.manager.Holdings())
	}
	if fmt.Sprint(after.Devices) != fmt.Sprint(before.Devices) || after.Mounts[0].Source != "/usr/lib64/libcuda.so.590.1" {
		t.Errorf("devices %v, mounts %v", after.Devices, after.Mounts)
	}
}
