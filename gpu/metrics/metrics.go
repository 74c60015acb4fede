// Package metrics writes GPU figures in Prometheus' text form under the names and
// labels of NVIDIA's DCGM exporter, so that its dashboards and alerts go on working,
// and beside them what DCGM cannot know: how long and with how much energy each
// namespace used GPUs, and how long they were held without being used. It is pure:
// figures, owners and the clock come in with a Sample. A figure that the driver does not
// say has no line; nothing is made up. Start reading at Sample, then rows.
package metrics

import (
	"cmp"
	"io"
	"slices"
	"strconv"

	"orch/gpu/device"
)

// Owner is a container that was given a device.
type Owner struct {
	Namespace, Pod, UID, Container string
	// Claim is by which ResourceClaim; empty for one that asked otherwise.
	Claim Claim
}

// Claim is a ResourceClaim of the owner's namespace, and the device that it was allocated.
type Claim struct {
	Name, Driver, Pool, Device string
}

// Sample is all that one scrape shows.
type Sample struct {
	Machine  device.Machine
	Figures  []device.Figures
	Hostname string
	// Owners of a device by its UUID (a card's or a MIG device's). Nil: none is known.
	Owners map[string][]Owner
	// XIDs of each card by UUID: the last one, and how many of each lately.
	XIDs map[string]XIDs
	// Usage is what the account has added up.
	Usage Usage
	// Shares are those who have parts of devices.
	Shares Shares
}

// Shares counts containers that have parts of devices, and of these those that nothing
// keeps from taking more.
type Shares struct{ All, Unenforced int }

func (s Shares) appendTo(b []byte) []byte {
	for _, family := range []struct {
		name, help string
		value      int
	}{
		{"orch_gpu_shares", "Containers that have a part of a GPU.", s.All},
		{"orch_gpu_shares_unenforced", "Containers that have a part of a GPU and could take more of it.", s.Unenforced},
	} {
		b = appendHead(b, family.name, gauge, family.help)
		b = append(strconv.AppendInt(append(append(b, family.name...), ' '), int64(family.value), 10), '\n')
	}
	return b
}

// XIDs are the errors that a card's driver reported.
type XIDs struct {
	Last   uint64
	Counts map[uint64]int
}

// row is a family of the exporter: name, type, unit and where the value comes from.
type row struct {
	name, kind, help string
	value            func(device.Figures) (float64, bool)
}

const (
	gauge   = "gauge"
	counter = "counter"
)

// plain reads a figure and divides it into the exporter's unit.
func plain(f device.Figure, divide float64) func(device.Figures) (float64, bool) {
	return func(v device.Figures) (float64, bool) {
		n, ok := v.Get(f)
		return n / divide, ok
	}
}

func nvlinkTotal(v device.Figures) (float64, bool) {
	rx, okRx := v.Get(device.NVLinkRxKiB)
	tx, okTx := v.Get(device.NVLinkTxKiB)
	return rx + tx, okRx && okTx
}

const mebibyte = 1 << 20

// rows are the families, the 25 of the exporter's default first.
var rows = []row{
	{"DCGM_FI_DEV_SM_CLOCK", gauge, "Clock of the multiprocessors in MHz.", plain(device.SMClockMHz, 1)},
	{"DCGM_FI_DEV_MEM_CLOCK", gauge, "Clock of the memory in MHz.", plain(device.MemClockMHz, 1)},
	{"DCGM_FI_DEV_MEMORY_TEMP", gauge, "Temperature of the memory in degrees C.", plain(device.MemoryTemperatureC, 1)},
	{"DCGM_FI_DEV_GPU_TEMP", gauge, "Temperature of the GPU in degrees C.", plain(device.TemperatureC, 1)},
	{"DCGM_FI_DEV_POWER_USAGE", gauge, "Power drawn in W.", plain(device.PowerMilliwatt, 1000)},
	{"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", counter, "Energy since the driver was loaded in mJ.", plain(device.EnergyMillijoule, 1)},
	{"DCGM_FI_DEV_PCIE_REPLAY_COUNTER", counter, "PCIe packets sent again.", plain(device.PCIeReplays, 1)},
	{"DCGM_FI_DEV_GPU_UTIL", gauge, "Time in which the GPU was busy in %.", plain(device.GPUUtilPercent, 1)},
	{"DCGM_FI_DEV_MEM_COPY_UTIL", gauge, "Time in which the memory was busy in %.", plain(device.MemUtilPercent, 1)},
	{"DCGM_FI_DEV_ENC_UTIL", gauge, "Use of the encoders in %.", plain(device.EncoderUtilPercent, 1)},
	{"DCGM_FI_DEV_DEC_UTIL", gauge, "Use of the decoders in %.", plain(device.DecoderUtilPercent, 1)},
	{"DCGM_FI_DEV_XID_ERRORS", gauge, "The last XID error, 0 for none.", nil},
	{"DCGM_FI_DEV_FB_FREE", gauge, "Free memory in MiB.", plain(device.FBFreeBytes, mebibyte)},
	{"DCGM_FI_DEV_FB_USED", gauge, "Used memory in MiB.", plain(device.FBUsedBytes, mebibyte)},
	{"DCGM_FI_DEV_FB_RESERVED", gauge, "Memory reserved by the driver in MiB.", plain(device.FBReservedBytes, mebibyte)},
	{"DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", counter, "Data over all NVLinks, both ways, in KiB.", nvlinkTotal},
	{"DCGM_FI_DEV_VGPU_LICENSE_STATUS", gauge, "1 when a virtual GPU is licensed.", nil},
	{"DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", counter, "Rows of memory remapped after uncorrectable errors.", plain(device.RemappedUncorrected, 1)},
	{"DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", counter, "Rows of memory remapped after correctable errors.", plain(device.RemappedCorrectable, 1)},
	{"DCGM_FI_DEV_ROW_REMAP_FAILURE", gauge, "1 when remapping a row has failed.", plain(device.RemapFailure, 1)},
	{"DCGM_FI_PROF_GR_ENGINE_ACTIVE", gauge, "Share of time in which the graphics or compute engine was active.", plain(device.GPMGraphics, 1)},
	{"DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", gauge, "Share of cycles in which the tensor pipe was active.", plain(device.GPMTensor, 1)},
	{"DCGM_FI_PROF_DRAM_ACTIVE", gauge, "Share of cycles in which the memory interface was active.", plain(device.GPMDRAM, 1)},
	{"DCGM_FI_PROF_PCIE_TX_BYTES", gauge, "Bytes a second sent over PCIe.", plain(device.GPMPCIeTxBytesSec, 1)},
	{"DCGM_FI_PROF_PCIE_RX_BYTES", gauge, "Bytes a second received over PCIe.", plain(device.GPMPCIeRxBytesSec, 1)},

	{"DCGM_FI_PROF_SM_ACTIVE", gauge, "Share of cycles in which a multiprocessor had a warp.", plain(device.GPMSM, 1)},
	{"DCGM_FI_PROF_SM_OCCUPANCY", gauge, "Share of resident warps of the most there can be.", plain(device.GPMOccupancy, 1)},
	{"DCGM_FI_PROF_PIPE_FP64_ACTIVE", gauge, "Share of cycles in which the fp64 pipe was active.", plain(device.GPMFP64, 1)},
	{"DCGM_FI_PROF_PIPE_FP32_ACTIVE", gauge, "Share of cycles in which the fp32 pipe was active.", plain(device.GPMFP32, 1)},
	{"DCGM_FI_PROF_PIPE_FP16_ACTIVE", gauge, "Share of cycles in which the fp16 pipe was active.", plain(device.GPMFP16, 1)},
	{"DCGM_FI_DEV_POWER_VIOLATION", counter, "Time throttled for power in ns.", plain(device.PowerViolationNS, 1)},
	{"DCGM_FI_DEV_THERMAL_VIOLATION", counter, "Time throttled for heat in ns.", plain(device.ThermalViolationNS, 1)},
	{"DCGM_FI_DEV_SYNC_BOOST_VIOLATION", counter, "Time throttled for sync boost in ns.", plain(device.SyncBoostViolationNS, 1)},
	{"DCGM_FI_DEV_BOARD_LIMIT_VIOLATION", counter, "Time throttled for the board's limit in ns.", plain(device.BoardViolationNS, 1)},
	{"DCGM_FI_DEV_LOW_UTIL_VIOLATION", counter, "Time throttled for low use in ns.", plain(device.LowUtilViolationNS, 1)},
	{"DCGM_FI_DEV_RELIABILITY_VIOLATION", counter, "Time throttled for reliability in ns.", plain(device.ReliabilityNS, 1)},
	{"DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", counter, "Single-bit ECC errors since the driver was loaded.", plain(device.ECCSBEVolatile, 1)},
	{"DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", counter, "Double-bit ECC errors since the driver was loaded.", plain(device.ECCDBEVolatile, 1)},
	{"DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", counter, "Single-bit ECC errors of the card's life.", plain(device.ECCSBEAggregate, 1)},
	{"DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", counter, "Double-bit ECC errors of the card's life.", plain(device.ECCDBEAggregate, 1)},
	{"DCGM_FI_DEV_RETIRED_SBE", counter, "Pages retired after single-bit errors.", plain(device.RetiredSBE, 1)},
	{"DCGM_FI_DEV_RETIRED_DBE", counter, "Pages retired after double-bit errors.", plain(device.RetiredDBE, 1)},
	{"DCGM_FI_DEV_RETIRED_PENDING", counter, "1 when pages wait to be retired.", plain(device.RetiredPending, 1)},
}

// entity is a card or a MIG device with its labels, ready to be written.
type entity struct {
	uuid, card string
	licensed   *bool
	figures    device.Figures
	labels     [][]byte // one set for each owner, at least one
}

// Write writes the whole page.
func Write(w io.Writer, s Sample) error {
	list := entities(s)
	b := make([]byte, 0, 16<<10)
	for _, r := range rows {
		b = appendFamily(b, r, list, func(e *entity) (float64, bool) { return s.of(r, e) })
	}
	b = appendXIDCounts(b, s, list)
	b = s.Shares.appendTo(s.Usage.appendTo(b))
	_, err := w.Write(b)
	return err
}

// of is a row's value for an entity; two rows are not the driver's figures.
func (s *Sample) of(r row, e *entity) (float64, bool) {
	switch {
	case r.value != nil:
		return r.value(e.figures)
	case r.name == "DCGM_FI_DEV_XID_ERRORS":
		return float64(s.XIDs[e.card].Last), e.figures.Problem == nil || s.XIDs[e.card].Last != 0
	case e.licensed != nil && *e.licensed:
		return 1, true
	}
	return 0, e.uuid == e.card
}

func appendFamily(b []byte, r row, list []entity, value func(*entity) (float64, bool)) []byte {
	head := false
	for i := range list {
		v, ok := value(&list[i])
		if !ok {
			continue
		}
		if !head {
			b = appendHead(b, r.name, r.kind, r.help)
			head = true
		}
		for _, l := range list[i].labels {
			b = append(append(append(b, r.name...), '{'), l...)
			b = append(b, "} "...)
			b = append(strconv.AppendFloat(b, v, 'f', -1, 64), '\n')
		}
	}
	return b
}

func appendHead(b []byte, name, kind, help string) []byte {
	b = append(append(append(append(b, "# HELP "...), name...), ' '), help...)
	b = append(append(b, "\n# TYPE "...), name...)
	return append(append(append(b, ' '), kind...), '\n')
}

func appendXIDCounts(b []byte, s Sample, list []entity) []byte {
	const name = "DCGM_EXP_XID_ERRORS_COUNT"
	head := false
	for _, e := range list {
		if e.uuid != e.card {
			continue
		}
		counts := s.XIDs[e.card].Counts
		for _, xid := range sortedKeys(counts) {
			if !head {
				b = appendHead(b, name, gauge, "XID errors of each number within the last minutes.")
				head = true
			}
			b = append(append(append(b, name...), '{'), e.labels[0]...)
			b = append(strconv.AppendUint(append(b, `,xid="`...), xid, 10), `"} `...)
			b = append(strconv.AppendInt(b, int64(counts[xid]), 10), '\n')
		}
	}
	return b
}

func sortedKeys(m map[uint64]int) []uint64 {
	var out []uint64
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// entities pairs figures with what they are of, in the order of the bus.
func entities(s Sample) []entity {
	var out []entity
	for _, f := range s.Figures {
		g, ok := s.Machine.GPU(f.UUID)
		var mig *device.MIGDevice
		if !ok {
			d, found := s.Machine.MIGDevice(f.UUID)
			if !found {
				continue // gone since it was read
			}
			mig = &d
			g, _ = s.Machine.GPU(d.Parent)
		}
		e := entity{uuid: f.UUID, card: g.UUID, figures: f}
		if g.VGPU != nil {
			e.licensed = g.VGPU.Licensed
		}
		owners := s.Owners[f.UUID]
		if len(owners) == 0 {
			owners = []Owner{{}}
		}
		for _, o := range owners {
			e.labels = append(e.labels, labelsOf(&s, g, mig, o))
		}
		out = append(out, e)
	}
	place := map[string]int{}
	for i, g := range s.Machine.GPUs {
		place[g.UUID] = i
	}
	slices.SortStableFunc(out, func(a, b entity) int { return cmp.Compare(place[a.card], place[b.card]) })
	return out
}

// labelsOf are the exporter's labels in its order; hostname in both spellings that its
// versions have had.
func labelsOf(s *Sample, g device.GPU, mig *device.MIGDevice, o Owner) []byte {
	node := ""
	if g.Minor != nil {
		node = "nvidia" + strconv.Itoa(*g.Minor)
	}
	pairs := [][2]string{
		{"gpu", strconv.Itoa(g.Index)}, {"UUID", g.UUID}, {"pci_bus_id", g.PCI.NVMLBusID()}, {"device", node}, {"modelName", g.Name},
	}
	if mig != nil {
		pairs = append(pairs, [2]string{"GPU_I_PROFILE", mig.Profile}, [2]string{"GPU_I_ID", strconv.Itoa(mig.GI)})
	}
	pairs = append(pairs, [2]string{"Hostname", s.Hostname}, [2]string{"hostname", s.Hostname}, [2]string{"DCGM_FI_DRIVER_VERSION", s.Machine.Driver.Version})
	if o.Pod != "" {
		pairs = append(pairs, [2]string{"container", o.Container}, [2]string{"namespace", o.Namespace}, [2]string{"pod", o.Pod}, [2]string{"pod_uid", o.UID})
	}
	if c := o.Claim; c.Name != "" {
		pairs = append(pairs, [2]string{"dra_claim_name", c.Name}, [2]string{"dra_claim_namespace", o.Namespace}, [2]string{"dra_driver_name", c.Driver},
			[2]string{"dra_pool_name", c.Pool}, [2]string{"dra_device_name", c.Device})
		if mig != nil {
			pairs = append(pairs, [2]string{"dra_mig_profile", mig.Profile}, [2]string{"dra_mig_device_uuid", mig.UUID})
		}
	}
	return appendPairs(nil, pairs)
}

func appendPairs(b []byte, pairs [][2]string) []byte {
	for i, p := range pairs {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, p[0]...), '=', '"')
		for _, c := range []byte(p[1]) {
			switch c {
			case '\\', '"':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, '\\', 'n')
			default:
				b = append(b, c)
			}
		}
		b = append(b, '"')
	}
	return b
}
