//go:build cgo

package main

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"orch/gpu/device"
)

// fields are the figures that come from field values: one call for all of them.
var fields = []struct {
	id     uint32
	scope  uint32
	figure device.Figure
}{
	{nvml.FI_DEV_MEMORY_TEMP, 0, device.MemoryTemperatureC},
	{nvml.FI_DEV_TOTAL_ENERGY_CONSUMPTION, 0, device.EnergyMillijoule},
	{nvml.FI_DEV_PCIE_REPLAY_COUNTER, 0, device.PCIeReplays},
	{nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_TX, math.MaxUint32, device.NVLinkTxKiB}, // scope: all links
	{nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_RX, math.MaxUint32, device.NVLinkRxKiB},
	{nvml.FI_DEV_REMAPPED_COR, 0, device.RemappedCorrectable},
	{nvml.FI_DEV_REMAPPED_UNC, 0, device.RemappedUncorrected},
	{nvml.FI_DEV_REMAPPED_PENDING, 0, device.RemapPending},
	{nvml.FI_DEV_REMAPPED_FAILURE, 0, device.RemapFailure},
	{nvml.FI_DEV_RETIRED_SBE, 0, device.RetiredSBE},
	{nvml.FI_DEV_RETIRED_DBE, 0, device.RetiredDBE},
	{nvml.FI_DEV_RETIRED_PENDING, 0, device.RetiredPending},
	{nvml.FI_DEV_ECC_SBE_VOL_TOTAL, 0, device.ECCSBEVolatile},
	{nvml.FI_DEV_ECC_DBE_VOL_TOTAL, 0, device.ECCDBEVolatile},
	{nvml.FI_DEV_ECC_SBE_AGG_TOTAL, 0, device.ECCSBEAggregate},
	{nvml.FI_DEV_ECC_DBE_AGG_TOTAL, 0, device.ECCDBEAggregate},
	{nvml.FI_DEV_PERF_POLICY_POWER, 0, device.PowerViolationNS},
	{nvml.FI_DEV_PERF_POLICY_THERMAL, 0, device.ThermalViolationNS},
	{nvml.FI_DEV_PERF_POLICY_SYNC_BOOST, 0, device.SyncBoostViolationNS},
	{nvml.FI_DEV_PERF_POLICY_BOARD_LIMIT, 0, device.BoardViolationNS},
	{nvml.FI_DEV_PERF_POLICY_LOW_UTILIZATION, 0, device.LowUtilViolationNS},
	{nvml.FI_DEV_PERF_POLICY_RELIABILITY, 0, device.ReliabilityNS},
	{nvml.FI_DEV_GET_GPU_RECOVERY_ACTION, 0, device.RecoveryActionField},
}

// gpm are the profiling figures with what makes them our unit.
var gpm = []struct {
	metric nvml.GpmMetricId
	figure device.Figure
	factor float64
}{
	{nvml.GPM_METRIC_GRAPHICS_UTIL, device.GPMGraphics, 0.01},
	{nvml.GPM_METRIC_SM_UTIL, device.GPMSM, 0.01},
	{nvml.GPM_METRIC_SM_OCCUPANCY, device.GPMOccupancy, 0.01},
	{nvml.GPM_METRIC_ANY_TENSOR_UTIL, device.GPMTensor, 0.01},
	{nvml.GPM_METRIC_DRAM_BW_UTIL, device.GPMDRAM, 0.01},
	{nvml.GPM_METRIC_FP64_UTIL, device.GPMFP64, 0.01},
	{nvml.GPM_METRIC_FP32_UTIL, device.GPMFP32, 0.01},
	{nvml.GPM_METRIC_FP16_UTIL, device.GPMFP16, 0.01},
	{nvml.GPM_METRIC_PCIE_TX_PER_SEC, device.GPMPCIeTxBytesSec, 1 << 20},
	{nvml.GPM_METRIC_PCIE_RX_PER_SEC, device.GPMPCIeRxBytesSec, 1 << 20},
}

// allFigures are the card's, then those of its MIG devices.
func (c *card) allFigures(uuid string) []device.Figures {
	out := []device.Figures{c.figures(uuid)}
	mode := ask(c, "nvmlDeviceGetMigMode", func() (int, nvml.Return) { now, _, ret := c.GetMigMode(); return now, ret })
	if mode == nil || *mode != nvml.DEVICE_MIG_ENABLE {
		return out
	}
	for i := range c.maxMIGDevices() {
		d, gi, _, ok := c.migDevice(i)
		if !ok {
			continue
		}
		f := device.Figures{UUID: text(d, "nvmlDeviceGetUUID", d.GetUUID), UnixNano: time.Now().UnixNano(), Values: map[device.Figure]float64{}}
		d.memory(f.Values)
		c.profiling(f.UUID, f.Values, func(s nvml.GpmSample) nvml.Return { return c.GpmMigSampleGet(gi, s) }, "nvmlGpmMigSampleGet")
		f.Problem = d.fatal
		out = append(out, f)
	}
	return out
}

func (c *card) figures(uuid string) device.Figures {
	f := device.Figures{UUID: uuid, UnixNano: time.Now().UnixNano(), Values: map[device.Figure]float64{}}
	put := func(name device.Figure, v *uint32) {
		if v != nil {
			f.Values[name] = float64(*v)
		}
	}
	put(device.SMClockMHz, ask(c, "nvmlDeviceGetClockInfo", func() (uint32, nvml.Return) { return c.GetClockInfo(nvml.CLOCK_SM) }))
	put(device.MemClockMHz, ask(c, "nvmlDeviceGetClockInfo", func() (uint32, nvml.Return) { return c.GetClockInfo(nvml.CLOCK_MEM) }))
	put(device.TemperatureC, ask(c, "nvmlDeviceGetTemperature", func() (uint32, nvml.Return) { return c.GetTemperature(nvml.TEMPERATURE_GPU) }))
	put(device.PowerMilliwatt, ask(c, "nvmlDeviceGetPowerUsage", c.GetPowerUsage))
	put(device.EncoderUtilPercent, ask(c, "nvmlDeviceGetEncoderUtilization", func() (uint32, nvml.Return) { v, _, ret := c.GetEncoderUtilization(); return v, ret }))
	put(device.DecoderUtilPercent, ask(c, "nvmlDeviceGetDecoderUtilization", func() (uint32, nvml.Return) { v, _, ret := c.GetDecoderUtilization(); return v, ret }))
	if u := ask(c, "nvmlDeviceGetUtilizationRates", c.GetUtilizationRates); u != nil {
		f.Values[device.GPUUtilPercent], f.Values[device.MemUtilPercent] = float64(u.Gpu), float64(u.Memory)
	}
	if r := ask(c, "nvmlDeviceGetCurrentClocksThrottleReasons", c.GetCurrentClocksThrottleReasons); r != nil {
		f.Values[device.ClockEventReasons] = float64(*r)
	}
	if p := ask(c, "nvmlDeviceGetPerformanceState", c.GetPerformanceState); p != nil && *p != nvml.PSTATE_UNKNOWN {
		f.Values[device.PState] = float64(*p)
	}
	c.memory(f.Values)
	c.fieldValues(f.Values)
	c.profiling(uuid, f.Values, func(s nvml.GpmSample) nvml.Return { return c.GpmSampleGet(s) }, "nvmlGpmSampleGet")
	f.Problem = c.fatal
	return f
}

// memory of a card or MIG device. The newer call tells what the driver keeps for itself
// from what programs hold.
func (c *card) memory(into map[device.Figure]float64) {
	if m := ask(c, "nvmlDeviceGetMemoryInfo_v2", c.GetMemoryInfo_v2); m != nil {
		into[device.FBTotalBytes], into[device.FBFreeBytes] = float64(m.Total), float64(m.Free)
		into[device.FBUsedBytes], into[device.FBReservedBytes] = float64(m.Used), float64(m.Reserved)
		return
	}
	if m := ask(c, "nvmlDeviceGetMemoryInfo", c.GetMemoryInfo); m != nil {
		into[device.FBTotalBytes], into[device.FBFreeBytes], into[device.FBUsedBytes] = float64(m.Total), float64(m.Free), float64(m.Used)
	}
}

func (c *card) fieldValues(into map[device.Figure]float64) {
	values := make([]nvml.FieldValue, len(fields))
	for i, f := range fields {
		values[i].FieldId, values[i].ScopeId = f.id, f.scope
	}
	if ask(c, "nvmlDeviceGetFieldValues", func() (bool, nvml.Return) { return true, c.GetFieldValues(values) }) == nil {
		return
	}
	for i, v := range values {
		if nvml.Return(v.NvmlReturn) != nvml.SUCCESS {
			continue
		}
		if n, ok := number(v); ok {
			into[fields[i].figure] = n
		}
	}
}

func number(v nvml.FieldValue) (float64, bool) {
	raw := binary.NativeEndian.Uint64(v.Value[:])
	switch nvml.ValueType(v.ValueType) {
	case nvml.VALUE_TYPE_DOUBLE:
		return math.Float64frombits(raw), true
	case nvml.VALUE_TYPE_UNSIGNED_INT:
		return float64(binary.NativeEndian.Uint32(v.Value[:])), true
	case nvml.VALUE_TYPE_UNSIGNED_LONG, nvml.VALUE_TYPE_UNSIGNED_LONG_LONG:
		return float64(raw), true
	case nvml.VALUE_TYPE_SIGNED_LONG_LONG:
		return float64(int64(raw)), true
	case nvml.VALUE_TYPE_SIGNED_INT:
		return float64(int32(binary.NativeEndian.Uint32(v.Value[:]))), true
	case nvml.VALUE_TYPE_UNSIGNED_SHORT:
		return float64(binary.NativeEndian.Uint16(v.Value[:])), true
	}
	return 0, false
}

// profiling reads GPM: figures are over the time between two samples, so the first
// reading only starts. One sample is kept for each card and MIG device.
func (c *card) profiling(uuid string, into map[device.Figure]float64, take func(nvml.GpmSample) nvml.Return, symbol string) {
	if c.fatal != nil || uuid == "" || c.need("nvmlGpmQueryDeviceSupport", "nvmlGpmSampleAlloc", "nvmlGpmSampleFree", "nvmlGpmMetricsGet", symbol) != nil {
		return
	}
	if q := ask(c, "nvmlGpmQueryDeviceSupport", c.GpmQueryDeviceSupport); q == nil || q.IsSupportedDevice == 0 {
		return
	}
	now := ask(c, "nvmlGpmSampleAlloc", c.lib.GpmSampleAlloc)
	if now == nil {
		return
	}
	if ret := take(*now); ret != nvml.SUCCESS {
		(*now).Free()
		return
	}
	before := c.samples[uuid]
	c.samples[uuid] = *now
	if before == nil {
		return
	}
	get := nvml.GpmMetricsGetType{NumMetrics: uint32(len(gpm)), Sample1: before, Sample2: *now}
	for i, m := range gpm {
		get.Metrics[i].MetricId = uint32(m.metric)
	}
	ret := c.lib.GpmMetricsGet(&get)
	before.Free()
	if ret != nvml.SUCCESS {
		return
	}
	for i, m := range gpm {
		if v := get.Metrics[i]; nvml.Return(v.NvmlReturn) == nvml.SUCCESS && !math.IsNaN(v.Value) && !math.IsInf(v.Value, 0) {
			into[m.figure] = v.Value * m.factor
		}
	}
}
