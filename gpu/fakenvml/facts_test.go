package fakenvml

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"orch/gpu/device"
)

// The facts that the recordings in machines/ are made of, from NVIDIA's public
// documentation and the probes in the design notes; a recording of a real machine
// takes the place of a made one as soon as there is one.

// card is what all cards of a model have in common.
type card struct {
	name, brand, arch  string
	major, minor       int
	memoryMiB          uint64
	device             uint16
	class              uint16
	milliwatt          uint64
	sms                int
	ecc, mps, consumer bool
	gpm                bool
	mig                []profile
	migSlices          int
	memTemperature     bool
}

// profile is a row of `nvidia-smi mig -lgip`.
type profile struct {
	name                         string
	id, index, slices, instances int
	memoryMiB                    uint64
	sms, ce, dec, enc, jpeg, ofa int
	starts                       []int
	size                         int
}

func a100Profiles(g1, g1x2, g3, g7 string, m1, m2, m3, m7 uint64) []profile {
	return []profile{
		{"1g." + g1, 19, 0, 1, 7, m1, 14, 1, 0, 0, 0, 0, []int{0, 1, 2, 3, 4, 5, 6}, 1},
		{"1g." + g1 + "+me", 20, 7, 1, 1, m1, 14, 1, 1, 0, 1, 1, []int{0, 1, 2, 3, 4, 5, 6}, 1},
		{"1g." + g1x2, 15, 9, 1, 4, m2, 14, 1, 1, 0, 0, 0, []int{0, 2, 4, 6}, 2},
		{"2g." + g1x2, 14, 1, 2, 3, m2, 28, 2, 1, 0, 0, 0, []int{0, 2, 4}, 2},
		{"3g." + g3, 9, 2, 3, 2, m3, 42, 3, 2, 0, 0, 0, []int{0, 4}, 4},
		{"4g." + g3, 5, 3, 4, 1, m3, 56, 4, 2, 0, 0, 0, []int{0}, 4},
		{"7g." + g7, 0, 4, 7, 1, m7, 98, 7, 5, 0, 1, 1, []int{0}, 8},
	}
}

// hopperProfiles are those of H100, H200 and B200: every slice has a decoder and a JPEG engine.
func hopperProfiles(names [4]string, memory [4]uint64, sms [6]int) []profile {
	return []profile{
		{"1g." + names[0], 19, 0, 1, 7, memory[0], sms[0], 1, 1, 0, 1, 0, []int{0, 1, 2, 3, 4, 5, 6}, 1},
		{"1g." + names[0] + "+me", 20, 7, 1, 1, memory[0], sms[0], 1, 1, 0, 1, 1, []int{0, 1, 2, 3, 4, 5, 6}, 1},
		{"1g." + names[1], 15, 9, 1, 4, memory[1], sms[1], 1, 1, 0, 1, 0, []int{0, 2, 4, 6}, 2},
		{"2g." + names[1], 14, 1, 2, 3, memory[1], sms[2], 2, 2, 0, 2, 0, []int{0, 2, 4}, 2},
		{"3g." + names[2], 9, 2, 3, 2, memory[2], sms[3], 3, 3, 0, 3, 0, []int{0, 4}, 4},
		{"4g." + names[2], 5, 3, 4, 1, memory[2], sms[4], 4, 4, 0, 4, 0, []int{0}, 4},
		{"7g." + names[3], 0, 4, 7, 1, memory[3], sms[5], 8, 7, 0, 7, 1, []int{0}, 8},
	}
}

var (
	t4      = card{name: "Tesla T4", brand: "Tesla", arch: "Turing", major: 7, minor: 5, memoryMiB: 15360, device: 0x1eb8, class: 0x0302, milliwatt: 70000, sms: 40, ecc: true}
	l4      = card{name: "NVIDIA L4", brand: "Nvidia", arch: "Ada", major: 8, minor: 9, memoryMiB: 23034, device: 0x27b8, class: 0x0302, milliwatt: 72000, sms: 58, ecc: true}
	a10     = card{name: "NVIDIA A10", brand: "Nvidia", arch: "Ampere", major: 8, minor: 6, memoryMiB: 23028, device: 0x2236, class: 0x0302, milliwatt: 150000, sms: 72, ecc: true}
	rtx4090 = card{name: "NVIDIA GeForce RTX 4090", brand: "GeForce", arch: "Ada", major: 8, minor: 9, memoryMiB: 24564, device: 0x2684, class: 0x0300, milliwatt: 450000, sms: 128, consumer: true}
	a100x40 = card{name: "NVIDIA A100-SXM4-40GB", brand: "Nvidia", arch: "Ampere", major: 8, memoryMiB: 40960, device: 0x20b0, class: 0x0302, milliwatt: 400000, sms: 108, ecc: true, memTemperature: true,
		mig: a100Profiles("5gb", "10gb", "20gb", "40gb", 4864, 9856, 19968, 40192)}
	a100x80 = card{name: "NVIDIA A100-SXM4-80GB", brand: "Nvidia", arch: "Ampere", major: 8, memoryMiB: 81920, device: 0x20b2, class: 0x0302, milliwatt: 400000, sms: 108, ecc: true, memTemperature: true,
		mig: a100Profiles("10gb", "20gb", "40gb", "80gb", 9728, 19968, 40192, 80640)}
	h100 = card{name: "NVIDIA H100 80GB HBM3", brand: "Nvidia", arch: "Hopper", major: 9, memoryMiB: 81559, device: 0x2330, class: 0x0302, milliwatt: 700000, sms: 132, ecc: true, gpm: true, memTemperature: true,
		mig: hopperProfiles([4]string{"10gb", "20gb", "40gb", "80gb"}, [4]uint64{9984, 20096, 40448, 81152}, [6]int{16, 26, 32, 60, 64, 132})}
	h200 = card{name: "NVIDIA H200", brand: "Nvidia", arch: "Hopper", major: 9, memoryMiB: 143771, device: 0x2335, class: 0x0302, milliwatt: 700000, sms: 132, ecc: true, gpm: true, memTemperature: true,
		mig: hopperProfiles([4]string{"18gb", "35gb", "71gb", "141gb"}, [4]uint64{16384, 33280, 71168, 143104}, [6]int{16, 26, 32, 60, 64, 132})}
	b200 = card{name: "NVIDIA B200", brand: "Nvidia", arch: "Blackwell", major: 10, memoryMiB: 183359, device: 0x2901, class: 0x0302, milliwatt: 1000000, sms: 148, ecc: true, gpm: true, memTemperature: true,
		mig: hopperProfiles([4]string{"23gb", "45gb", "90gb", "180gb"}, [4]uint64{22144, 45184, 91264, 182784}, [6]int{18, 30, 36, 70, 72, 148})}
)

// box is one machine of the catalogue.
type box struct {
	name, product string
	cards         []card
	switches      int
	linksPerCard  int // to every other card, through switches
	nvlinkPairs   bool
	mig           map[int][]string // index of a card -> profiles of its instances, first fit
	driver, cuda  string
}

func times(n int, c card) []card { return slices.Repeat([]card{c}, n) }

var boxes = []box{
	{name: "t4", product: "Google Compute Engine", cards: times(1, t4)},
	{name: "l4", product: "Google Compute Engine", cards: times(1, l4)},
	{name: "a10", product: "PowerEdge R750", cards: times(1, a10)},
	{name: "a100-40", product: "ProLiant XL675d Gen10 Plus", cards: times(1, a100x40)},
	{name: "a100-80", product: "PowerEdge XE8545", cards: times(4, a100x80), linksPerCard: 4},
	{name: "h100", product: "PowerEdge XE9680", cards: times(1, h100)},
	{name: "h200", product: "PowerEdge XE9680", cards: times(1, h200)},
	{name: "h200-mig", product: "PowerEdge XE9680", cards: times(2, h200), mig: map[int][]string{0: {"2g.35gb", "1g.18gb", "1g.18gb", "3g.71gb"}, 1: {}}},
	{name: "b200", product: "DGX B200", cards: times(1, b200)},
	{name: "rtx", product: "Z790 AORUS ELITE", cards: times(2, rtx4090)},
	{name: "mixed", product: "AS -4124GS-TNR", cards: []card{t4, a100x40, a100x40, rtx4090}},
	{name: "h100-8", product: "DGXH100", cards: times(8, h100), switches: 4, linksPerCard: 18},
	{name: "h200-8", product: "PowerEdge XE9680", cards: times(8, h200), switches: 4, linksPerCard: 18},
}

// uuid makes the same one for the same words.
func uuid(prefix string, words ...any) string {
	h := sha256.Sum256(fmt.Append(nil, words...))
	return fmt.Sprintf("%s-%x-%x-%x-%x-%x", prefix, h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

func (b box) recording() device.Recording {
	m := device.Machine{Tier: device.TierNVML, NVSwitches: b.switches,
		Host:   device.Host{Product: b.product, Kernel: "6.8.0-60-generic"},
		Driver: device.Driver{Version: "580.159.03", CUDA: "13.0", NVML: "13.580.159.03", Library: "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.159.03", LibraryVersion: "580.159.03"},
		Module: device.Module{State: device.ModuleLoaded, Version: "580.159.03", Open: new(true), Majors: map[string]uint32{"nvidia": 195, "nvidiactl": 195,
			"nvidia-modeset": 195, "nvidia-uvm": 507, "nvidia-caps": 234, "nvidia-caps-imex-channels": 504}},
		Missing: []string{"nvmlDeviceSetMemoryLimits_v1"}}
	if b.switches > 0 {
		m.Host.FabricManager = new(true)
	}
	rec := device.Recording{Version: device.RecordingVersion, Note: "made from NVIDIA's public documentation, not recorded"}
	for i, c := range b.cards {
		m.GPUs = append(m.GPUs, b.gpu(i, c))
	}
	for i := range m.GPUs {
		for j := range m.GPUs {
			if i != j {
				m.GPUs[i].Peers = append(m.GPUs[i].Peers, b.peer(m.GPUs[i], m.GPUs[j]))
			}
		}
	}
	rec.Machine = m
	for i, c := range b.cards {
		rec.Figures = append(rec.Figures, figures(m.GPUs[i], c)...)
	}
	return rec
}

func (b box) gpu(i int, c card) device.GPU {
	half := max(1, (len(b.cards)+1)/2)
	numa := i / half
	root := fmt.Sprintf("pci0000:%02x", 0x16+0x20*(i/2))
	g := device.GPU{Index: i, UUID: uuid("GPU", b.name, "/", i), Minor: new(i), Name: c.name, Brand: c.brand, Architecture: c.arch,
		Compute: &device.Capability{Major: c.major, Minor: c.minor}, MemoryBytes: new(c.memoryMiB << 20),
		Attributes: device.Attributes{Multiprocessors: new(c.sms)}, NUMANode: new(numa), CPUs: fmt.Sprintf("%d-%d", numa*32, numa*32+31),
		Persistence: new(false), DisplayActive: new(c.consumer), ComputeMode: "Default", AddressingMode: "HMM", PowerLimitMilliwatt: new(c.milliwatt), GPM: c.gpm,
		PCI: device.PCI{Address: fmt.Sprintf("0000:%02x:00.0", 0x17+0x10*i), Vendor: 0x10de, Device: c.device, Class: c.class, Root: root,
			Path: []string{fmt.Sprintf("0000:%02x:01.0", 0x16+0x20*(i/2))}, Driver: "nvidia", MaxLinkGen: new(4), MaxLinkWidth: new(16)},
		Events: []device.EventKind{device.EventXID}}
	if !c.consumer {
		g.Serial, g.Part, g.VBIOS, g.GSP = fmt.Sprintf("16500240%05d", i), "900-00000-0000-000", "96.00.B7.00.02", "580.159.03"
		g.ECC = &device.Pending{Current: c.ecc, Pending: c.ecc}
		g.Events = []device.EventKind{device.EventSBE, device.EventDBE, device.EventXID}
	}
	if b.switches > 0 {
		g.Fabric = &device.Fabric{State: "completed", ClusterUUID: uuid("x", b.name, "fabric")[2:], CliqueID: 1}
	}
	if c.mig != nil {
		g.Events = append(g.Events, device.EventMIGConfig)
		g.MIG = b.partition(i, g.UUID, c)
	}
	return g
}

func (b box) peer(from, to device.GPU) device.Peer {
	p := device.Peer{UUID: to.UUID, NVLinks: b.linksPerCard, Level: device.LevelSystem}
	switch {
	case from.PCI.Root == to.PCI.Root:
		p.Level = device.LevelHostBridge
	case *from.NUMANode == *to.NUMANode:
		p.Level = device.LevelNode
	}
	return p
}

func (b box) partition(i int, uuidOfCard string, c card) *device.MIG {
	m := &device.MIG{Max: 7}
	for _, p := range c.mig {
		row := device.Profile{ID: p.id, Index: p.index, Name: p.name, Slices: p.slices, MemoryMiB: p.memoryMiB, Instances: p.instances,
			Attributes: device.Attributes{Multiprocessors: new(p.sms), CopyEngines: new(p.ce), Decoders: new(p.dec), Encoders: new(p.enc), JPEGs: new(p.jpeg), OFAs: new(p.ofa)}}
		for _, s := range p.starts {
			row.Placements = append(row.Placements, device.Placement{Start: s, Size: p.size})
		}
		per := p.sms / p.slices
		for index, n := range []int{1, 2, 3, 4, 7} {
			if n <= p.slices && (n != 3 || p.slices != 4) {
				row.Compute = append(row.Compute, device.ComputeProfile{ID: index, Index: index, Slices: n, Instances: p.slices / n, Multiprocessors: per * n})
			}
		}
		m.Profiles = append(m.Profiles, row)
	}
	names, on := b.mig[i]
	m.Mode = device.Pending{Current: on, Pending: on}
	for _, name := range names {
		kind, _ := m.ProfileNamed(name)
		at := slices.IndexFunc(kind.Placements, func(p device.Placement) bool {
			return !slices.ContainsFunc(m.Instances, func(g device.GPUInstance) bool { return g.Placement.Overlaps(p) })
		})
		index := len(m.Instances)
		made := instance(uuidOfCard, i, kind, kind.Placements[at])
		made.Compute[0].Index = index
		m.Instances = append(m.Instances, made)
	}
	return m
}
