package gpus

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/claims"
	"orch/agent/devices"
	"orch/agent/host"
	"orch/gpu/cdi"
	"orch/gpu/device"
	"orch/gpu/fakenvml"
	"orch/gpu/mps"
	"orch/gpu/share"
)

// claimed is a claim that was allocated these devices of the node, for a request each.
func claimed(names ...string) (*resource.ResourceClaim, []devices.ClaimDevice) {
	c := &resource.ResourceClaim{}
	c.UID, c.Namespace, c.Name = "uid", "ns", "a"
	c.Status.Allocation = &resource.AllocationResult{}
	var list []devices.ClaimDevice
	for i, n := range names {
		request := "r" + string(rune('0'+i))
		c.Status.Allocation.Devices.Results = append(c.Status.Allocation.Devices.Results, resource.DeviceRequestAllocationResult{Request: request, Driver: "gpu.nvidia.com", Pool: "n1", Device: n})
		list = append(list, devices.ClaimDevice{Requests: []string{request}, Pool: "n1", Device: n})
	}
	return c, list
}

func parameter(c *resource.ResourceClaim, text string, requests ...string) {
	c.Status.Allocation.Devices.Config = append(c.Status.Allocation.Devices.Config, resource.DeviceAllocationConfiguration{Requests: requests,
		DeviceConfiguration: resource.DeviceConfiguration{Opaque: &resource.OpaqueDeviceConfiguration{Driver: "gpu.nvidia.com", Parameters: runtime.RawExtension{Raw: []byte(text)}}}})
}

// TestResolve: names of slices are cards and MIG devices, with what cannot be had beside them.
func TestResolve(t *testing.T) {
	cards := newRig(t, "h100-8", share.Config{MIG: share.Mixed})
	mig := newRig(t, "h200-mig", share.Config{MIG: share.Mixed})
	ignored := newRig(t, "h200-mig", share.Config{})
	one := mig.machine.GPUs[0].MIGDevices()[0]
	for _, tc := range []struct {
		name, device string
		rig          *rig
		part         string
		excludes     []string
	}{
		{"a card", "gpu-3", cards, cards.machine.GPUs[3].UUID, nil},
		{"a MIG device", "gpu-0-mig-2g35gb-14-0", mig, one.UUID, []string{one.Parent}},
		{"a card that is offered whole", "gpu-0", ignored, one.Parent, func() (out []string) {
			for _, d := range ignored.machine.GPUs[0].MIGDevices() {
				out = append(out, d.UUID)
			}
			return out
		}()},
	} {
		c, list := claimed(tc.device)
		got, err := Claims{tc.rig.GPUs}.Resolve(c, list)
		if err != nil || got[0].Part != tc.part || !slices.Equal(got[0].Excludes, tc.excludes) || got[0].CDI[0] != "k8s.gpu.nvidia.com/claim=uid-"+tc.device {
			t.Errorf("%s: %+v %v", tc.name, got, err)
		}
	}
	c, list := claimed("gpu-9")
	if _, err := (Claims{cards.GPUs}).Resolve(c, list); err == nil || err.Error() != "device gpu-9 of pool n1 is not on this node" {
		t.Error(err)
	}
	c, list = claimed("gpu-0")
	list[0].Pool = "n2"
	if _, err := (Claims{cards.GPUs}).Resolve(c, list); err == nil || err.Error() != "device gpu-0 of pool n2 is not on this node" {
		t.Error(err)
	}
	c, list = claimed("gpu-0")
	cards.ill[cards.machine.GPUs[0].UUID] = true
	if _, err := (Claims{cards.GPUs}).Resolve(c, list); err == nil || err.Error() != "device gpu-0 of pool n1 is not healthy" {
		t.Error(err)
	}
	c.Status.Allocation.Devices.Results[0].Tolerations = []resource.DeviceToleration{{Operator: resource.DeviceTolerationOpExists}}
	if _, err := (Claims{cards.GPUs}).Resolve(c, list); err != nil {
		t.Error(err)
	}
	if h, why := (Claims{cards.GPUs}).ClaimHealth(devices.ClaimDevice{Part: cards.machine.GPUs[0].UUID}); h != core.ResourceHealthStatusUnhealthy || why == "" {
		t.Error(h, why)
	}
}

// TestClaimIsPrepared: its parameters are read, a dirty card is refused, and a container gets its
// devices beside those that it asked for plainly.
func TestClaimIsPrepared(t *testing.T) {
	r := newRig(t, "h100-8", share.Config{MIG: share.Mixed})
	driver := Claims{r.GPUs}
	c, list := claimed("gpu-1", "gpu-2")
	list, err := driver.Resolve(c, list)
	if err != nil {
		t.Fatal(err)
	}
	known := devices.ClaimDriver{Devices: list}
	parameter(c, `{"apiVersion":"resource.nvidia.com/v1beta1","kind":"GpuConfig","sharing":{"strategy":"TimeSlicing","timeSlicingConfig":{"interval":"Long"}}}`, "r1")
	ready, err := driver.Prepare(t.Context(), c, known)
	if err != nil || string(ready.State) != `{"sharing":{"gpu-2":{"strategy":"TimeSlicing","interval":"Long"}},"slices":{"gpu-2":"nvidia-smi is not among the driver's files, and NVML has no call for it"}}` {
		t.Errorf("%s %v", ready.State, err)
	}
	e, err := driver.ClaimEdits(t.Context(), host.DeviceHolder{Pod: &core.Pod{}, Container: &core.Container{}}, devices.Claim{}, ready.Devices, ready.State)
	if err != nil || len(e.Devices) != 5 {
		t.Fatalf("%v %+v", err, e.Devices)
	}
	more, err := r.Edits(t.Context(), host.DeviceHolder{Pod: &core.Pod{}, Container: &core.Container{}}, share.GPU, []string{r.machine.GPUs[5].UUID})
	if err != nil {
		t.Fatal(err)
	}
	mounts := len(e.Mounts)
	e.Add(more)
	visible := ""
	for _, v := range e.Env {
		if v.Name == "NVIDIA_VISIBLE_DEVICES" {
			visible += v.Value + ";"
		}
	}
	want := strings.Join([]string{r.machine.GPUs[1].UUID, r.machine.GPUs[2].UUID, r.machine.GPUs[5].UUID}, ",") + ";"
	if len(e.Devices) != 6 || len(e.Mounts) != mounts || visible != want {
		t.Errorf("%d nodes, %d mounts, %s", len(e.Devices), len(e.Mounts), visible)
	}
	r.processes = []device.Process{{PID: 42, UUID: r.machine.GPUs[1].UUID, Kind: device.ProcessCompute}}
	if _, err := driver.Prepare(t.Context(), c, known); err == nil || !strings.Contains(err.Error(), "is not free: process 42") {
		t.Error(err)
	}
	known.Devices[0].Admin = true
	if _, err := driver.Prepare(t.Context(), c, known); err != nil {
		t.Error(err)
	}
	parameter(c, `{"apiVersion":"resource.nvidia.com/v1beta1","kind":"GpuConfig","sharing":{}}`)
	if _, err := driver.Prepare(t.Context(), c, known); err == nil || !strings.Contains(err.Error(), "device gpu-1: reading its parameters: sharing.strategy") {
		t.Error(err)
	}
}

// TestIntervalOfAClaim: the driver's nvidia-smi sets the cards' time slices, and sets them back; one
// that is not there is said; one that refuses is an error that leaves nothing set.
func TestIntervalOfAClaim(t *testing.T) {
	r := newRig(t, "h100-8", share.Config{})
	root := t.TempDir()
	log := filepath.Join(root, "log")
	smi := func(text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Join(root, "usr/bin"), 0o755), os.WriteFile(filepath.Join(root, "usr/bin/nvidia-smi"), []byte("#!/bin/sh\necho $LD_LIBRARY_PATH $@ >>"+log+"\n"+text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	there := true
	r.config.Files = func(m device.Machine) (cdi.Files, error) {
		f := cdi.Files{Root: root, Version: m.Driver.Version, Libraries: []cdi.File{{Path: "/usr/lib64/libnvidia-ml.so.580"}}}
		if there {
			f.Others = []cdi.File{{Path: "/usr/bin/nvidia-smi"}}
		}
		return f, nil
	}
	ran := func() string {
		b, _ := os.ReadFile(log)
		os.Remove(log)
		return strings.ReplaceAll(string(b), filepath.Join(root, "usr/lib64")+" compute-policy -i ", "")
	}
	driver := Claims{r.GPUs}
	c, list := claimed("gpu-1", "gpu-2", "gpu-3")
	parameter(c, `{"apiVersion":"resource.nvidia.com/v1beta1","kind":"GpuConfig","sharing":{"strategy":"TimeSlicing","timeSlicingConfig":{"interval":"Long"}}}`, "r0", "r1")
	list, err := driver.Resolve(c, list)
	if err != nil {
		t.Fatal(err)
	}
	known := devices.ClaimDriver{Devices: list}
	says := func(state []byte) string {
		var out []string
		for _, d := range list {
			for _, c := range driver.Conditions(d, state) {
				out = append(out, d.Device+" "+c.Type+"="+string(c.Status)+" "+c.Reason+": "+c.Message)
			}
		}
		return strings.Join(out, "; ")
	}
	one, two := r.machine.GPUs[1].UUID, r.machine.GPUs[2].UUID
	smi("")
	ready, err := driver.Prepare(t.Context(), c, known)
	if got := ran(); err != nil || got != one+" --set-timeslice 3\n"+two+" --set-timeslice 3\n" {
		t.Fatalf("it ran %q, %v", got, err)
	}
	if got := says(ready.State); got != "gpu-1 TimeSliceSet=True Applied: the card's time slice is Long; gpu-2 TimeSliceSet=True Applied: the card's time slice is Long" {
		t.Error(got)
	}
	if err := driver.Unprepare(t.Context(), devices.Claim{}, ready); err != nil {
		t.Error(err)
	}
	if got := ran(); got != one+" --set-timeslice 0\n"+two+" --set-timeslice 0\n" {
		t.Errorf("afterwards it ran %q", got)
	}
	smi("case $@ in *" + two + "*3) echo not on this card; exit 1;; esac")
	if _, err := driver.Prepare(t.Context(), c, known); err == nil || err.Error() != "device gpu-2: setting the time slice to Long: nvidia-smi compute-policy: not on this card (exit status 1)" {
		t.Error(err)
	}
	if got := ran(); got != one+" --set-timeslice 3\n"+two+" --set-timeslice 3\n"+one+" --set-timeslice 0\n" {
		t.Errorf("when it was refused it ran %q", got)
	}
	there = false
	r.files.Store(nil)
	ready, err = driver.Prepare(t.Context(), c, known)
	if got := says(ready.State); err != nil || !strings.HasPrefix(got, "gpu-1 TimeSliceSet=False NotSupported: the interval Long of the claim's GpuConfig is not applied: nvidia-smi is not among the driver's files") {
		t.Error(got, err)
	}
	if err := driver.Unprepare(t.Context(), devices.Claim{}, ready); err != nil || ran() != "" {
		t.Error("what was not set was set back", err)
	}
}

// TestClaimsAreHolders: in the report, among what of a resource is held, and in the metrics' labels.
func TestClaimsAreHolders(t *testing.T) {
	r := newRig(t, "h200-mig", share.Config{MIG: share.Mixed})
	c, list := claimed("gpu-0-mig-1g18gb-19-2", "gpu-0-mig-2g35gb-14-0")
	list, err := Claims{r.GPUs}.Resolve(c, list)
	if err != nil {
		t.Fatal(err)
	}
	list[1].Admin = true
	held := devices.Claim{UID: c.UID, Namespace: "ns", Name: "a", Drivers: map[string]devices.ClaimDriver{"gpu.nvidia.com": {Devices: list}},
		Pods: map[types.UID]devices.ClaimPod{"p": {Name: "p", Containers: map[string][]devices.ClaimRequest{"x": {{Claim: "r"}}, "y": {{Claim: "r"}}}}}}
	if _, err := r.manager.HoldClaim(held, false); err != nil {
		t.Fatal(err)
	}
	var figures []device.Figures
	for _, d := range r.machine.GPUs[0].MIGDevices() {
		figures = append(figures, device.Figures{UUID: d.UUID, Values: map[device.Figure]float64{device.FBUsedBytes: 1 << 30}})
	}
	page := NewPage(r.GPUs, "node", func(context.Context) ([]device.Figures, error) { return figures, nil }, r.manager.Holdings)
	got := page.Report(t.Context())
	for _, res := range got.Resources {
		if want := map[string]int64{"nvidia.com/mig-1g.18gb": 1}[res.Name]; res.Held != want {
			t.Errorf("%d of %s are held, want %d", res.Held, res.Name, want)
		}
	}
	for _, p := range got.Cards[0].Devices {
		if p.UUID == list[0].Part && (len(p.Holders) != 2 || p.Holders[0].Claim != "a" || p.Holders[0].Name() != "ns/p (claim a)" || p.Holders[0].Resource != "nvidia.com/mig-1g.18gb") {
			t.Errorf("holders are %+v", p.Holders)
		}
	}
	text, err := page.read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := `container="x",namespace="ns",pod="p",pod_uid="p",dra_claim_name="a",dra_claim_namespace="ns",dra_driver_name="gpu.nvidia.com",dra_pool_name="n1",dra_device_name="gpu-0-mig-1g18gb-19-2",dra_mig_profile="1g.18gb",dra_mig_device_uuid="` + list[0].Part + `"`
	if !strings.Contains(string(text), want) || strings.Contains(string(text), `dra_device_name="gpu-0-mig-2g35gb-14-0"`) {
		t.Errorf("the page has not %s:\n%s", want, text)
	}
}

// TestMPSOfAClaim: one daemon serves the devices of a claim that have the same parameters,
// with the claim's limits.
func TestMPSOfAClaim(t *testing.T) {
	r, d := withMPS(t, share.Config{})
	driver := Claims{r.GPUs}
	c, list := claimed("gpu-1", "gpu-2", "gpu-3")
	list, err := driver.Resolve(c, list)
	if err != nil {
		t.Fatal(err)
	}
	const head = `{"apiVersion":"resource.nvidia.com/v1beta1","kind":"GpuConfig","sharing":{"strategy":"MPS","mpsConfig":`
	parameter(c, head+`{"defaultActiveThreadPercentage":50,"defaultPinnedDeviceMemoryLimit":"10Gi","defaultPerDevicePinnedMemoryLimit":{"1":"5Gi"}}}}`, "r0", "r1")
	parameter(c, head+`{"defaultActiveThreadPercentage":10}}}`, "r2")
	ready, err := driver.Prepare(t.Context(), c, devices.ClaimDriver{Devices: list})
	if err != nil {
		t.Fatal(err)
	}
	held, err := r.manager.HoldClaim(devices.Claim{UID: c.UID, Namespace: c.Namespace, Name: c.Name, Drivers: map[string]devices.ClaimDriver{"gpu.nvidia.com": ready},
		Pods: map[types.UID]devices.ClaimPod{"p": {Name: "p", Containers: map[string][]devices.ClaimRequest{"main": {{Claim: "a"}}}}}}, false)
	if err != nil {
		t.Fatal(err)
	}
	holder := host.DeviceHolder{Pod: &core.Pod{}, Container: &core.Container{Name: "main"}}
	e, err := driver.ClaimEdits(t.Context(), holder, held, ready.Devices[:2], ready.State)
	if err != nil || env(e, "CUDA_MPS_PIPE_DIRECTORY") != mps.TargetPipe {
		t.Fatalf("%+v %v", e.Env, err)
	}
	s := d.Status()
	if len(s) != 2 || s[0].Key != "claim-uid-0" || !slices.Equal(s[0].Devices, []string{r.machine.GPUs[1].UUID, r.machine.GPUs[2].UUID}) || s[0].ThreadPercent != 50 || !slices.Equal(s[0].MemoryMiB, []int64{10 << 10, 5 << 10}) || s[1].ThreadPercent != 10 {
		t.Errorf("%+v", s)
	}
	if got := condition(r, "p"); !strings.Contains(got, "True MPS: main has a share of "+r.machine.GPUs[1].UUID) {
		t.Error(got)
	}
	if _, err := driver.ClaimEdits(t.Context(), holder, held, ready.Devices, ready.State); err == nil || !strings.Contains(err.Error(), "that have different MPS parameters") {
		t.Error(err)
	}
	r.config.Guard.MPS = nil
	if _, err := driver.Prepare(t.Context(), c, devices.ClaimDriver{Devices: list}); err == nil || !strings.Contains(err.Error(), "device gpu-1: this node does not run MPS") {
		t.Error(err)
	}
	r.config.Guard.MPS = d
}

// dynamic is a rig whose cards get MIG devices made for claims.
func dynamic(t *testing.T) (*rig, *fakenvml.Player) {
	r := newRig(t, "h200-mig", share.Config{MIG: share.Mixed})
	player := fakenvml.New(device.Recording{Machine: r.machine})
	r.config.Guard.Holdings = r.manager.Holdings
	r.config.Dynamic = &Dynamic{Driver: player, Refresh: func(ctx context.Context) (err error) {
		r.machine, err = player.Machine(ctx)
		return err
	}}
	return r, player
}

// hold has the claim's devices resolved and held, as agent/claims does.
func (r *rig) hold(c *resource.ResourceClaim, list []devices.ClaimDevice) (devices.ClaimDriver, error) {
	list, err := Claims{r.GPUs}.Resolve(c, list)
	if err != nil {
		return devices.ClaimDriver{}, err
	}
	held, err := r.manager.HoldClaim(devices.Claim{UID: c.UID, Namespace: c.Namespace, Name: c.Name, Pods: map[types.UID]devices.ClaimPod{"p": {Name: "p"}},
		Drivers: map[string]devices.ClaimDriver{"gpu.nvidia.com": {Devices: list}}}, true)
	return held.Drivers["gpu.nvidia.com"], err
}

// TestMIGDeviceIsMadeForAClaim: idle ones make room, nobody gets it in between, and it goes with the claim.
func TestMIGDeviceIsMadeForAClaim(t *testing.T) {
	r, player := dynamic(t)
	ctx, driver := t.Context(), Claims{r.GPUs}
	const name = "gpu-0-mig-3g71gb-9-0" // where 2g and two 1g lie
	before := r.machine.GPUs[0].MIGDevices()
	plain := podWith("plain", share.MIGResource("2g.35gb"), 1)
	if err := r.manager.Admit(plain); err != nil {
		t.Fatal(err)
	}
	c, list := claimed(name)
	if _, err := r.hold(c, list); err == nil || !strings.Contains(err.Error(), "is in use by pod") {
		t.Fatalf("a place that is held was taken: %v", err)
	}
	if err := r.manager.Release("plain"); err != nil {
		t.Fatal(err)
	}
	known, err := r.hold(c, list)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.manager.Admit(podWith("late", share.MIGResource("2g.35gb"), 1)); err == nil {
		t.Error("what makes room for a claim was given to a pod")
	}
	player.SetProcesses(device.Process{PID: 7, UUID: r.machine.GPUs[0].UUID, GI: &before[0].GI, Kind: device.ProcessCompute})
	if _, err := driver.Prepare(ctx, c, known); err == nil || !strings.Contains(err.Error(), "process 7 uses the MIG device in its place") {
		t.Errorf("a process was cut off: %v", err)
	}
	player.SetProcesses()
	ready, err := driver.Prepare(ctx, c, known)
	if err != nil {
		t.Fatal(err)
	}
	made, ok := r.machine.MIGDevice(ready.Devices[0].Part)
	if !ok || made.Profile != "3g.71gb" || made.Placement.Start != 0 || len(r.machine.GPUs[0].MIGDevices()) != 2 {
		t.Fatalf("made is %+v, there are %+v", made, r.machine.GPUs[0].MIGDevices())
	}
	// orch is killed before it can write that down: the device is nobody else's, and is found again.
	for _, d := range r.Offer()[share.MIGResource("3g.71gb")] {
		if d.ID == made.UUID {
			t.Error("it is offered before its claim knows of it")
		}
	}
	again, err := driver.Prepare(ctx, c, known)
	if err != nil || again.Devices[0].Part != made.UUID || string(again.State) != `{"made":["`+name+`"]}` {
		t.Errorf("%+v %s %v", again, again.State, err)
	}
	if err := r.manager.ClaimPrepared(c.UID, "gpu.nvidia.com", again); err != nil {
		t.Fatal(err)
	}
	if n := len(r.Offer()[share.MIGResource("3g.71gb")]); n != 2 {
		t.Errorf("%d are offered", n)
	}
	other, list := claimed("gpu-0-mig-1g18gb-19-1")
	other.UID, other.Name = "other", "b"
	if _, err := r.hold(other, list); err == nil || !strings.Contains(err.Error(), "is in use by ResourceClaim ns/a") {
		t.Errorf("a place that a claim has was taken: %v", err)
	}
	if err := driver.Unprepare(ctx, devices.Claim{}, again); err != nil {
		t.Fatal(err)
	}
	if err := driver.Unprepare(ctx, devices.Claim{}, again); err != nil || len(r.machine.GPUs[0].MIGDevices()) != 1 {
		t.Errorf("%v, left are %+v", err, r.machine.GPUs[0].MIGDevices())
	}
}

// TestMIGDeviceThatWasThereStays when its claim goes; one that was made and never written down does not.
func TestMIGDeviceThatWasThereStays(t *testing.T) {
	r, _ := dynamic(t)
	driver, n := Claims{r.GPUs}, len(r.machine.GPUs[0].MIGDevices())
	c, list := claimed("gpu-0-mig-2g35gb-14-0")
	known, err := r.hold(c, list)
	if err != nil {
		t.Fatal(err)
	}
	ready, err := driver.Prepare(t.Context(), c, known)
	if err != nil || string(ready.State) != "{}" {
		t.Fatalf("%s %v", ready.State, err)
	}
	if err := driver.Unprepare(t.Context(), devices.Claim{}, ready); err != nil || len(r.machine.GPUs[0].MIGDevices()) != n {
		t.Errorf("%v, left are %+v", err, r.machine.GPUs[0].MIGDevices())
	}
	c, list = claimed("gpu-1-mig-1g18gb-19-0")
	c.UID, c.Name = "b", "b"
	if known, err = r.hold(c, list); err != nil {
		t.Fatal(err)
	}
	if _, err := driver.Prepare(t.Context(), c, known); err != nil || len(r.machine.GPUs[1].MIGDevices()) != 1 {
		t.Fatal(err)
	}
	if err := driver.Unprepare(t.Context(), devices.Claim{}, known); err != nil || len(r.machine.GPUs[1].MIGDevices()) != 0 {
		t.Errorf("%v, left are %+v", err, r.machine.GPUs[1].MIGDevices())
	}
}

// BenchmarkClaimOfAPod is the device part of a pod with a claim of four cards: taken, prepared, given to
// a container.
func BenchmarkClaimOfAPod(b *testing.B) {
	r := newRig(b, "h100-8", share.Config{MIG: share.Mixed})
	claim, _ := claimed("gpu-1", "gpu-2", "gpu-3", "gpu-4")
	claim.Status.ReservedFor = []resource.ResourceClaimConsumerReference{{Resource: "pods", Name: "p", UID: "p"}}
	ready := make(chan struct{})
	close(ready)
	all, err := claims.New(claims.Config{Ledger: r.manager, Ready: ready, Boot: "boot", Log: slog.New(slog.DiscardHandler),
		Get:    func(context.Context, string, string) (*resource.ResourceClaim, error) { return claim, nil },
		Driver: func(string) (claims.Driver, bool) { return Claims{r.GPUs}, true }})
	if err != nil {
		b.Fatal(err)
	}
	pod := podWith("p", "example.com/none", 1)
	pod.Namespace, pod.Name = "ns", "p"
	pod.Spec.ResourceClaims = []core.PodResourceClaim{{Name: "r", ResourceClaimName: &claim.Name}}
	pod.Spec.Containers[0].Resources.Claims = []core.ResourceClaim{{Name: "r"}}
	for b.Loop() {
		if err := all.Prepare(b.Context(), pod); err != nil {
			b.Fatal(err)
		}
		if e, err := all.Edits(b.Context(), host.DeviceHolder{Pod: pod, Container: &pod.Spec.Containers[0]}); err != nil || len(e.Devices) < 4 {
			b.Fatal(e, err)
		}
		b.StopTimer()
		if err := all.Release(b.Context(), "p"); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
