//go:build cgo

package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"orch/gpu/device"
)

// Names by NVML's numbers.
var (
	brands = map[nvml.BrandType]string{nvml.BRAND_QUADRO: "Quadro", nvml.BRAND_TESLA: "Tesla", nvml.BRAND_NVS: "NVS", nvml.BRAND_GRID: "Grid", nvml.BRAND_GEFORCE: "GeForce",
		nvml.BRAND_TITAN: "Titan", nvml.BRAND_NVIDIA_VAPPS: "NvidiaVApps", nvml.BRAND_NVIDIA_VPC: "NvidiaVPC", nvml.BRAND_NVIDIA_VCS: "NvidiaVCS", nvml.BRAND_NVIDIA_VWS: "NvidiaVWS",
		nvml.BRAND_NVIDIA_CLOUD_GAMING: "NvidiaCloudGaming", nvml.BRAND_QUADRO_RTX: "QuadroRTX", nvml.BRAND_NVIDIA_RTX: "NvidiaRTX", nvml.BRAND_NVIDIA: "Nvidia",
		nvml.BRAND_GEFORCE_RTX: "GeForceRTX", nvml.BRAND_TITAN_RTX: "TitanRTX"}
	architectures = map[nvml.DeviceArchitecture]string{nvml.DEVICE_ARCH_KEPLER: "Kepler", nvml.DEVICE_ARCH_MAXWELL: "Maxwell", nvml.DEVICE_ARCH_PASCAL: "Pascal", nvml.DEVICE_ARCH_VOLTA: "Volta",
		nvml.DEVICE_ARCH_TURING: "Turing", nvml.DEVICE_ARCH_AMPERE: "Ampere", nvml.DEVICE_ARCH_ADA: "Ada", nvml.DEVICE_ARCH_HOPPER: "Hopper", nvml.DEVICE_ARCH_BLACKWELL: "Blackwell", nvml.DEVICE_ARCH_RUBIN: "Rubin"}
	levels = map[nvml.GpuTopologyLevel]device.Level{nvml.TOPOLOGY_INTERNAL: device.LevelInternal, nvml.TOPOLOGY_SINGLE: device.LevelSingle, nvml.TOPOLOGY_MULTIPLE: device.LevelMultiple,
		nvml.TOPOLOGY_HOSTBRIDGE: device.LevelHostBridge, nvml.TOPOLOGY_NODE: device.LevelNode, nvml.TOPOLOGY_SYSTEM: device.LevelSystem}
	fabricStates    = []string{"not-supported", "not-started", "in-progress", "completed"}
	addressingModes = []string{"None", "HMM", "ATS"}
)

// describe is all that a card says of itself and that does not change by itself.
func (c *card) describe(index int) device.GPU {
	g := device.GPU{Index: index}
	g.UUID = text(c, "nvmlDeviceGetUUID", c.GetUUID)
	if p := ask(c, "nvmlDeviceGetPciInfo_v3", c.GetPciInfo); p != nil {
		g.PCI = device.PCI{Address: device.Address(cString(p.BusId[:])), Vendor: uint16(p.PciDeviceId), Device: uint16(p.PciDeviceId >> 16), Subsystem: p.PciSubSystemId}
	}
	g.Minor = ask(c, "nvmlDeviceGetMinorNumber", c.GetMinorNumber)
	g.Name = text(c, "nvmlDeviceGetName", c.GetName)
	if b := ask(c, "nvmlDeviceGetBrand", c.GetBrand); b != nil {
		g.Brand = brands[*b]
	}
	g.Serial = text(c, "nvmlDeviceGetSerial", c.GetSerial)
	g.Part = text(c, "nvmlDeviceGetBoardPartNumber", c.GetBoardPartNumber)
	g.VBIOS = text(c, "nvmlDeviceGetVbiosVersion", c.GetVbiosVersion)
	g.GSP = text(c, "nvmlDeviceGetGspFirmwareVersion", c.GetGspFirmwareVersion)
	if a := ask(c, "nvmlDeviceGetArchitecture", c.GetArchitecture); a != nil {
		g.Architecture = architectures[*a]
	}
	g.Compute = ask(c, "nvmlDeviceGetCudaComputeCapability", func() (device.Capability, nvml.Return) {
		major, minor, ret := c.GetCudaComputeCapability()
		return device.Capability{Major: major, Minor: minor}, ret
	})
	if m := ask(c, "nvmlDeviceGetMemoryInfo", c.GetMemoryInfo); m != nil {
		g.MemoryBytes = &m.Total
	}
	g.PCI.MaxLinkGen = ask(c, "nvmlDeviceGetMaxPcieLinkGeneration", c.GetMaxPcieLinkGeneration)
	g.PCI.MaxLinkWidth = ask(c, "nvmlDeviceGetMaxPcieLinkWidth", c.GetMaxPcieLinkWidth)
	c.settings(&g)
	g.Fabric = c.fabric()
	g.MIG = c.mig()
	if a := ask(c, "nvmlDeviceGetAttributes_v2", c.GetAttributes); a != nil && a.MultiprocessorCount > 0 {
		g.Attributes = attributes(*a)
	}
	g.MemoryLimits = c.has("nvmlDeviceSetMemoryLimits_v1")
	if q := ask(c, "nvmlGpmQueryDeviceSupport", c.GpmQueryDeviceSupport); q != nil {
		g.GPM = q.IsSupportedDevice != 0
	}
	g.Events = c.eventKinds()
	g.Problem = c.fatal
	return g
}

// settings are what an administrator may have set.
func (c *card) settings(g *device.GPU) {
	on := func(symbol string, f func() (nvml.EnableState, nvml.Return)) *bool {
		if v := ask(c, symbol, f); v != nil {
			return new(*v == nvml.FEATURE_ENABLED)
		}
		return nil
	}
	g.Persistence = on("nvmlDeviceGetPersistenceMode", c.GetPersistenceMode)
	g.DisplayActive = on("nvmlDeviceGetDisplayActive", c.GetDisplayActive)
	g.ECC = ask(c, "nvmlDeviceGetEccMode", func() (device.Pending, nvml.Return) {
		now, then, ret := c.GetEccMode()
		return device.Pending{Current: now == nvml.FEATURE_ENABLED, Pending: then == nvml.FEATURE_ENABLED}, ret
	})
	if m := ask(c, "nvmlDeviceGetComputeMode", c.GetComputeMode); m != nil && int(*m) < len(computeModes) {
		g.ComputeMode = computeModes[*m]
	}
	if a := ask(c, "nvmlDeviceGetAddressingMode", c.GetAddressingMode); a != nil && int(a.Value) < len(addressingModes) {
		g.AddressingMode = addressingModes[a.Value]
	}
	if p := ask(c, "nvmlDeviceGetEnforcedPowerLimit", c.GetEnforcedPowerLimit); p != nil {
		g.PowerLimitMilliwatt = new(uint64(*p))
	}
	if v := ask(c, "nvmlDeviceGetVirtualizationMode", c.GetVirtualizationMode); v != nil && *v == nvml.GPU_VIRTUALIZATION_MODE_VGPU {
		g.VGPU = &device.VGPU{}
	}
}

func (c *card) fabric() *device.Fabric {
	if v := ask(c, "nvmlDeviceGetGpuFabricInfoV", c.GetGpuFabricInfoV().V2); v != nil {
		return fabric(v.State, v.ClusterUuid, v.CliqueId, v.Status, v.HealthMask)
	}
	if v := ask(c, "nvmlDeviceGetGpuFabricInfo", c.GetGpuFabricInfo); v != nil {
		return fabric(v.State, v.ClusterUuid, v.CliqueId, v.Status, 0)
	}
	return nil
}

func fabric(state uint8, cluster [16]uint8, clique, status, health uint32) *device.Fabric {
	if state == nvml.GPU_FABRIC_STATE_NOT_SUPPORTED || int(state) >= len(fabricStates) {
		return nil
	}
	h := hex.EncodeToString(cluster[:])
	return &device.Fabric{State: fabricStates[state], ClusterUUID: fmt.Sprintf("%s-%s-%s-%s-%s", h[:8], h[8:12], h[12:16], h[16:20], h[20:]),
		CliqueID: clique, Status: int(status), HealthMask: health}
}

// maxLinks is NVML's bound of NVLinks on a card.
const maxLinks = nvml.NVLINK_MAX_LINKS

// peers are the other cards as this one sees them. Links into switches lead to every
// card that has such links too.
func (s *session) peers(index int) ([]device.Peer, *device.Problem) {
	me, bad := s.byIndex(index)
	if bad != nil {
		return nil, bad
	}
	n, ret := s.lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return nil, failed("nvmlDeviceGetCount_v2", ret)
	}
	direct, switched := me.links()
	var out []device.Peer
	for i := range n {
		if i == index {
			continue
		}
		other, bad := s.byIndex(i)
		if bad != nil {
			continue // that card says so itself
		}
		p := device.Peer{UUID: text(other, "nvmlDeviceGetUUID", other.GetUUID)}
		if l := ask(me, "nvmlDeviceGetTopologyCommonAncestor", func() (nvml.GpuTopologyLevel, nvml.Return) { return me.GetTopologyCommonAncestor(other.Device) }); l != nil {
			p.Level = levels[*l]
		}
		if pci := ask(other, "nvmlDeviceGetPciInfo_v3", other.GetPciInfo); pci != nil {
			p.NVLinks = direct[device.Address(cString(pci.BusId[:]))]
		}
		if switched > 0 {
			_, theirs := other.links()
			p.NVLinks += min(switched, theirs)
		}
		if p.UUID != "" {
			out = append(out, p)
		}
	}
	return out, me.fatal
}

// links counts the active NVLinks by the card at their other end, and those to switches.
func (c *card) links() (direct map[string]int, switched int) {
	direct = map[string]int{}
	for link := range int(maxLinks) {
		state := ask(c, "nvmlDeviceGetNvLinkState", func() (nvml.EnableState, nvml.Return) { return c.GetNvLinkState(link) })
		if state == nil {
			break // no such link, so none after it
		}
		if *state != nvml.FEATURE_ENABLED {
			continue
		}
		kind := ask(c, "nvmlDeviceGetNvLinkRemoteDeviceType", func() (nvml.IntNvLinkDeviceType, nvml.Return) { return c.GetNvLinkRemoteDeviceType(link) })
		if kind != nil && *kind == nvml.NVLINK_DEVICE_TYPE_SWITCH {
			switched++
			continue
		}
		if p := ask(c, "nvmlDeviceGetNvLinkRemotePciInfo_v2", func() (nvml.PciInfo, nvml.Return) { return c.GetNvLinkRemotePciInfo(link) }); p != nil {
			direct[device.Address(cString(p.BusId[:]))]++
		}
	}
	return direct, switched
}

// processLists are NVML's three, with the functions that read them.
func (c *card) processes(uuid string) ([]device.Process, *device.Problem) {
	lists := []struct {
		kind   device.ProcessKind
		symbol string
		read   func() ([]nvml.ProcessInfo, nvml.Return)
	}{
		{device.ProcessCompute, "nvmlDeviceGetComputeRunningProcesses", c.GetComputeRunningProcesses},
		{device.ProcessGraphics, "nvmlDeviceGetGraphicsRunningProcesses", c.GetGraphicsRunningProcesses},
		{device.ProcessMPS, "nvmlDeviceGetMPSComputeRunningProcesses", c.GetMPSComputeRunningProcesses},
	}
	shares := map[uint32]float64{}
	if samples := ask(c, "nvmlDeviceGetProcessUtilization", func() ([]nvml.ProcessUtilizationSample, nvml.Return) { return c.GetProcessUtilization(0) }); samples != nil {
		newest := map[uint32]uint64{}
		for _, s := range *samples {
			if s.TimeStamp >= newest[s.Pid] {
				newest[s.Pid], shares[s.Pid] = s.TimeStamp, float64(s.SmUtil)
			}
		}
	}
	out := []device.Process{}
	for _, l := range lists {
		found := ask(c, l.symbol, l.read)
		if found == nil {
			continue
		}
		for _, p := range *found {
			q := device.Process{PID: int(p.Pid), Kind: l.kind, UUID: uuid}
			if p.UsedGpuMemory != math.MaxUint64 {
				q.UsedBytes = new(p.UsedGpuMemory)
			}
			if p.GpuInstanceId != math.MaxUint32 {
				q.GI, q.CI = new(int(p.GpuInstanceId)), new(int(p.ComputeInstanceId))
			}
			if v, ok := shares[p.Pid]; ok {
				q.SMPercent = new(v)
			}
			out = append(out, q)
		}
	}
	return out, c.fatal
}

func attributes(a nvml.DeviceAttributes) device.Attributes {
	return device.Attributes{Multiprocessors: new(int(a.MultiprocessorCount)), CopyEngines: new(int(a.SharedCopyEngineCount)), Decoders: new(int(a.SharedDecoderCount)),
		Encoders: new(int(a.SharedEncoderCount)), JPEGs: new(int(a.SharedJpegCount)), OFAs: new(int(a.SharedOfaCount))}
}

// cString reads a C string out of a fixed array.
func cString(a []int8) string {
	b := make([]byte, len(a))
	for i, c := range a {
		b[i] = byte(c)
	}
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
