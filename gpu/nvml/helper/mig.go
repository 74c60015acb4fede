//go:build cgo

package main

import (
	"slices"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"orch/gpu/device"
)

// mig is how a card is partitioned; nil for one that cannot be.
func (c *card) mig() *device.MIG {
	mode := ask(c, "nvmlDeviceGetMigMode", func() (device.Pending, nvml.Return) {
		now, then, ret := c.GetMigMode()
		return device.Pending{Current: now == nvml.DEVICE_MIG_ENABLE, Pending: then == nvml.DEVICE_MIG_ENABLE}, ret
	})
	if mode == nil {
		return nil
	}
	m := &device.MIG{Mode: *mode}
	if n := ask(c, "nvmlDeviceGetMaxMigDeviceCount", c.GetMaxMigDeviceCount); n != nil {
		m.Max = *n
	}
	for i := range int(nvml.GPU_INSTANCE_PROFILE_COUNT) {
		if p, ok := c.profile(i); ok {
			m.Profiles = append(m.Profiles, p)
		}
	}
	if mode.Current {
		m.Instances = c.instances(m.Profiles)
	}
	return m
}

// profile is a row of the card's profiles. The driver gives the name where it has the
// newer call; older ones get it from their size, as nvidia-smi makes it.
func (c *card) profile(index int) (device.Profile, bool) {
	if v := ask(c, "nvmlDeviceGetGpuInstanceProfileInfoV", c.GetGpuInstanceProfileInfoV(index).V2); v != nil {
		p := row(index, nvml.GpuInstanceProfileInfo{Id: v.Id, IsP2pSupported: v.IsP2pSupported, SliceCount: v.SliceCount, InstanceCount: v.InstanceCount,
			MultiprocessorCount: v.MultiprocessorCount, CopyEngineCount: v.CopyEngineCount, DecoderCount: v.DecoderCount, EncoderCount: v.EncoderCount,
			JpegCount: v.JpegCount, OfaCount: v.OfaCount, MemorySizeMB: v.MemorySizeMB})
		p.Name = strings.TrimPrefix(cString(v.Name[:]), "MIG ")
		c.complete(&p)
		return p, true
	}
	v := ask(c, "nvmlDeviceGetGpuInstanceProfileInfo", func() (nvml.GpuInstanceProfileInfo, nvml.Return) { return c.GetGpuInstanceProfileInfo(index) })
	if v == nil {
		return device.Profile{}, false
	}
	p := row(index, *v)
	total := uint64(0)
	if m := ask(c, "nvmlDeviceGetMemoryInfo", c.GetMemoryInfo); m != nil {
		total = m.Total
	}
	p.Name = device.ProfileName(index, p.Slices, p.MemoryMiB<<20, total)
	c.complete(&p)
	return p, true
}

func row(index int, v nvml.GpuInstanceProfileInfo) device.Profile {
	return device.Profile{ID: int(v.Id), Index: index, Slices: int(v.SliceCount), MemoryMiB: v.MemorySizeMB, Instances: int(v.InstanceCount), P2P: v.IsP2pSupported != 0,
		Attributes: device.Attributes{Multiprocessors: new(int(v.MultiprocessorCount)), CopyEngines: new(int(v.CopyEngineCount)), Decoders: new(int(v.DecoderCount)),
			Encoders: new(int(v.EncoderCount)), JPEGs: new(int(v.JpegCount)), OFAs: new(int(v.OfaCount))}}
}

// complete adds where instances of the profile may stand, and what may be in one. The
// driver says what may be in one only of instances that exist; without one the kinds
// follow from the number of slices.
func (c *card) complete(p *device.Profile) {
	info := &nvml.GpuInstanceProfileInfo{Id: uint32(p.ID), InstanceCount: uint32(p.Instances)}
	places := ask(c, "nvmlDeviceGetGpuInstancePossiblePlacements_v2", func() ([]nvml.GpuInstancePlacement, nvml.Return) { return c.GetGpuInstancePossiblePlacements(info) })
	if places != nil {
		for _, at := range *places {
			p.Placements = append(p.Placements, device.Placement{Start: int(at.Start), Size: int(at.Size)})
		}
	}
	slices.SortFunc(p.Placements, func(a, b device.Placement) int { return a.Start - b.Start })
	all := 0
	if n := p.Attributes.Multiprocessors; n != nil && p.Slices > 0 {
		all = *n / p.Slices
	}
	for _, k := range computeKinds {
		if k.slices <= p.Slices && (k.slices != 3 || p.Slices != 4) {
			p.Compute = append(p.Compute, device.ComputeProfile{ID: k.index, Index: k.index, Slices: k.slices, Instances: p.Slices / k.slices, Multiprocessors: all * k.slices})
		}
	}
}

// computeKinds are the compute instance profiles by size.
var computeKinds = []struct{ index, slices int }{
	{nvml.COMPUTE_INSTANCE_PROFILE_1_SLICE, 1}, {nvml.COMPUTE_INSTANCE_PROFILE_2_SLICE, 2}, {nvml.COMPUTE_INSTANCE_PROFILE_3_SLICE, 3},
	{nvml.COMPUTE_INSTANCE_PROFILE_4_SLICE, 4}, {nvml.COMPUTE_INSTANCE_PROFILE_6_SLICE, 6}, {nvml.COMPUTE_INSTANCE_PROFILE_7_SLICE, 7}, {nvml.COMPUTE_INSTANCE_PROFILE_8_SLICE, 8},
}

// instances are those that exist. MIG device handles say UUID and ids; GPU instances
// say their place.
func (c *card) instances(profiles []device.Profile) []device.GPUInstance {
	var out []device.GPUInstance
	if c.need("nvmlGpuInstanceGetInfo") != nil {
		return nil
	}
	for _, p := range profiles {
		info := &nvml.GpuInstanceProfileInfo{Id: uint32(p.ID), InstanceCount: uint32(max(p.Instances, 1))}
		found := ask(c, "nvmlDeviceGetGpuInstances", func() ([]nvml.GpuInstance, nvml.Return) { return c.GetGpuInstances(info) })
		if found == nil {
			continue
		}
		for _, gi := range *found {
			if v, ret := gi.GetInfo(); ret == nvml.SUCCESS {
				out = append(out, device.GPUInstance{ID: int(v.Id), ProfileID: int(v.ProfileId), Placement: device.Placement{Start: int(v.Placement.Start), Size: int(v.Placement.Size)}})
			}
		}
	}
	slices.SortFunc(out, func(a, b device.GPUInstance) int { return a.ID - b.ID })
	out = slices.CompactFunc(out, func(a, b device.GPUInstance) bool { return a.ID == b.ID })
	c.compute(out)
	return out
}

// migDevice is the handle of a MIG device with its ids.
func (c *card) migDevice(index int) (d *card, gi, ci int, ok bool) {
	h := ask(c, "nvmlDeviceGetMigDeviceHandleByIndex", func() (nvml.Device, nvml.Return) { return c.GetMigDeviceHandleByIndex(index) })
	if h == nil {
		return nil, 0, 0, false
	}
	d = &card{session: c.session, Device: *h}
	g, i := ask(d, "nvmlDeviceGetGpuInstanceId", d.GetGpuInstanceId), ask(d, "nvmlDeviceGetComputeInstanceId", d.GetComputeInstanceId)
	if g == nil || i == nil {
		return nil, 0, 0, false
	}
	return d, *g, *i, true
}

// maxMIGDevices is how many handles a card may have.
func (c *card) maxMIGDevices() int {
	if n := ask(c, "nvmlDeviceGetMaxMigDeviceCount", c.GetMaxMigDeviceCount); n != nil {
		return *n
	}
	return 0
}

// compute puts the compute instances into their GPU instances.
func (c *card) compute(into []device.GPUInstance) {
	for index := range c.maxMIGDevices() {
		d, gi, ci, ok := c.migDevice(index)
		at := slices.IndexFunc(into, func(g device.GPUInstance) bool { return g.ID == gi })
		if !ok || at < 0 {
			continue
		}
		out := device.ComputeInstance{ID: ci, Index: index, UUID: text(d, "nvmlDeviceGetUUID", d.GetUUID)}
		if a := ask(d, "nvmlDeviceGetAttributes_v2", d.GetAttributes); a != nil {
			out.Attributes, out.Slices, out.MemoryBytes = attributes(*a), int(a.ComputeInstanceSliceCount), new(a.MemorySizeMB<<20)
		}
		for _, k := range computeKinds {
			if k.slices == out.Slices {
				out.ProfileID = k.index
			}
		}
		out.Problem = d.fatal
		into[at].Compute = append(into[at].Compute, out)
	}
}

func (c *card) setMIGMode(on bool) (bool, *device.Problem) {
	if bad := c.need("nvmlDeviceSetMigMode", "nvmlDeviceGetMigMode"); bad != nil {
		return false, bad
	}
	mode := nvml.DEVICE_MIG_DISABLE
	if on {
		mode = nvml.DEVICE_MIG_ENABLE
	}
	if _, ret := c.SetMigMode(mode); ret != nvml.SUCCESS {
		return false, failed("nvmlDeviceSetMigMode", ret)
	}
	now, _, ret := c.GetMigMode()
	if ret != nvml.SUCCESS {
		return false, failed("nvmlDeviceGetMigMode", ret)
	}
	return now == mode, nil
}

// create makes a GPU instance and its compute instances; if one of these fails all is
// taken back.
func (c *card) create(profile int, at *device.Placement, parts []int) (device.GPUInstance, *device.Problem) {
	var out device.GPUInstance
	if bad := c.need("nvmlDeviceCreateGpuInstance", "nvmlGpuInstanceGetInfo", "nvmlGpuInstanceGetComputeInstanceProfileInfo", "nvmlGpuInstanceCreateComputeInstance", "nvmlGpuInstanceDestroy"); bad != nil {
		return out, bad
	}
	info := &nvml.GpuInstanceProfileInfo{Id: uint32(profile)}
	gi, symbol, ret := c.createAt(info, at)
	if ret != nvml.SUCCESS {
		return out, failed(symbol, ret)
	}
	v, ret := gi.GetInfo()
	if ret != nvml.SUCCESS {
		gi.Destroy()
		return out, failed("nvmlGpuInstanceGetInfo", ret)
	}
	if bad := fill(gi, parts); bad != nil {
		if again := c.destroy(int(v.Id)); again != nil {
			bad.Text += "; taking the GPU instance back: " + again.Error()
		}
		return out, bad
	}
	all := []device.GPUInstance{{ID: int(v.Id), ProfileID: int(v.ProfileId), Placement: device.Placement{Start: int(v.Placement.Start), Size: int(v.Placement.Size)}}}
	c.compute(all)
	return all[0], nil
}

func (c *card) createAt(info *nvml.GpuInstanceProfileInfo, at *device.Placement) (nvml.GpuInstance, string, nvml.Return) {
	if at == nil {
		gi, ret := c.CreateGpuInstance(info)
		return gi, "nvmlDeviceCreateGpuInstance", ret
	}
	const symbol = "nvmlDeviceCreateGpuInstanceWithPlacement"
	if c.need(symbol) != nil {
		return nil, symbol, nvml.ERROR_FUNCTION_NOT_FOUND
	}
	gi, ret := c.CreateGpuInstanceWithPlacement(info, &nvml.GpuInstancePlacement{Start: uint32(at.Start), Size: uint32(at.Size)})
	return gi, symbol, ret
}

// fill makes the compute instances of so many slices; without parts the largest that the GPU instance offers.
func fill(gi nvml.GpuInstance, parts []int) *device.Problem {
	if len(parts) == 0 {
		return makePart(gi, 0)
	}
	for _, n := range parts {
		if bad := makePart(gi, n); bad != nil {
			return bad
		}
	}
	return nil
}

// makePart makes one of n slices; 0 is the largest.
func makePart(gi nvml.GpuInstance, n int) *device.Problem {
	bad := &device.Problem{Op: "nvmlGpuInstanceGetComputeInstanceProfileInfo", Code: device.CodeNotFound, Text: "the GPU instance offers no such compute instance"}
	for _, k := range slices.Backward(computeKinds) {
		if n > 0 && k.slices != n {
			continue
		}
		info, ret := gi.GetComputeInstanceProfileInfo(k.index, nvml.COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED)
		if ret != nvml.SUCCESS {
			continue
		}
		if _, ret = gi.CreateComputeInstance(&info); ret == nvml.SUCCESS {
			return nil
		}
		bad = failed("nvmlGpuInstanceCreateComputeInstance", ret)
	}
	return bad
}

// destroy removes what is in a GPU instance, then itself.
func (c *card) destroy(id int) *device.Problem {
	if bad := c.need("nvmlDeviceGetGpuInstanceById", "nvmlGpuInstanceGetComputeInstanceProfileInfo", "nvmlGpuInstanceGetComputeInstances", "nvmlComputeInstanceDestroy", "nvmlGpuInstanceDestroy"); bad != nil {
		return bad
	}
	gi, ret := c.GetGpuInstanceById(id)
	if ret != nvml.SUCCESS {
		return failed("nvmlDeviceGetGpuInstanceById", ret)
	}
	for _, k := range computeKinds {
		info, ret := gi.GetComputeInstanceProfileInfo(k.index, nvml.COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED)
		if ret != nvml.SUCCESS {
			continue
		}
		found, ret := gi.GetComputeInstances(&info)
		if ret != nvml.SUCCESS {
			continue
		}
		for _, ci := range found {
			if ret := ci.Destroy(); ret != nvml.SUCCESS {
				return failed("nvmlComputeInstanceDestroy", ret)
			}
		}
	}
	if ret := gi.Destroy(); ret != nvml.SUCCESS {
		return failed("nvmlGpuInstanceDestroy", ret)
	}
	return nil
}
