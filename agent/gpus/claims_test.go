package gpus

import (
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"orch/agent/devices"
	"orch/agent/host"
	"orch/gpu/device"
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
	if err != nil || string(ready.State) != `{"sharing":{"gpu-2":{"strategy":"TimeSlicing","interval":"Long"}}}` {
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
