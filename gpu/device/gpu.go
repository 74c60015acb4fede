package device

import (
	"fmt"
	"slices"
	"strings"
)

// GPU is one card. What a figure's nil means is always the same: the driver does not
// say, which for a consumer card is the rule rather than a fault.
type GPU struct {
	// Index is NVML's, and nvidia-smi's. It may change when a card is lost or added:
	// it names a card within one Machine only.
	Index int `json:"index"`
	// UUID is "GPU-...". It is empty only for a card that the driver cannot talk to.
	UUID string `json:"uuid,omitempty"`
	// Minor is N of /dev/nvidiaN, which need not be the index.
	Minor *int `json:"minor,omitempty"`
	PCI   PCI  `json:"pci"`
	// Integrated: it is a part of the system on chip, as on a Jetson. It is on no bus and
	// has no minor; which nodes and files belong to it the board's own lists say.
	Integrated bool `json:"integrated,omitempty"`

	Name   string `json:"name,omitempty"`
	Brand  string `json:"brand,omitempty"` // NVML's brand in NVIDIA's spelling: "Nvidia", "Tesla", "GeForce"
	Serial string `json:"serial,omitempty"`
	Part   string `json:"part,omitempty"`
	VBIOS  string `json:"vbios,omitempty"`
	GSP    string `json:"gsp,omitempty"` // firmware version

	// Architecture is NVIDIA's word: "Turing", "Ampere", "Ada", "Hopper", "Blackwell".
	Architecture string      `json:"architecture,omitempty"`
	Compute      *Capability `json:"compute,omitempty"`
	MemoryBytes  *uint64     `json:"memoryBytes,omitempty"`
	// Attributes are those of the whole card, as far as the driver says.
	Attributes Attributes `json:"attributes,omitzero"`

	NUMANode *int `json:"numaNode,omitempty"`
	// CPUs is the set of CPUs near the card in the kernel's list form, "0-31,64-95".
	CPUs string `json:"cpus,omitempty"`

	MIG    *MIG    `json:"mig,omitempty"` // nil: the card cannot be partitioned
	Peers  []Peer  `json:"peers,omitempty"`
	Fabric *Fabric `json:"fabric,omitempty"`
	VGPU   *VGPU   `json:"vgpu,omitempty"`

	Persistence   *bool    `json:"persistence,omitempty"`
	DisplayActive *bool    `json:"displayActive,omitempty"`
	ECC           *Pending `json:"ecc,omitempty"`
	// ComputeMode is "Default", "ExclusiveThread", "Prohibited" or "ExclusiveProcess".
	ComputeMode string `json:"computeMode,omitempty"`
	// AddressingMode is "None", "HMM" or "ATS".
	AddressingMode      string  `json:"addressingMode,omitempty"`
	PowerLimitMilliwatt *uint64 `json:"powerLimitMilliwatt,omitempty"`
	// MemoryLimits tells whether the driver can limit memory by cgroup or namespace.
	MemoryLimits bool `json:"memoryLimits,omitempty"`
	// GPM tells whether the profiling figures (GPM*) can be read: Hopper and newer.
	GPM bool `json:"gpm,omitempty"`
	// Events are the NVML event kinds that this card reports.
	Events []EventKind `json:"events,omitempty"`

	// Problem is what the driver answered instead of facts; nil for a card that answers.
	Problem *Problem `json:"problem,omitempty"`
}

// PCI is a card's place on the bus and what it says there.
type PCI struct {
	// Address is sysfs' form, "0000:1b:00.0".
	Address string `json:"address"`
	Vendor  uint16 `json:"vendor,omitempty"`
	Device  uint16 `json:"device,omitempty"`
	// Class is the upper 16 bits: 0x0300 a VGA controller, 0x0302 a 3D controller.
	Class     uint16 `json:"class,omitempty"`
	Subsystem uint32 `json:"subsystem,omitempty"`
	// Root is the PCIe root complex, "pci0000:16".
	Root string `json:"root,omitempty"`
	// Path are the bridges between root and card, from the root down.
	Path []string `json:"path,omitempty"`
	// Driver is the kernel driver that holds the card: "nvidia", "nouveau", "vfio-pci", "".
	Driver       string `json:"driver,omitempty"`
	MaxLinkGen   *int   `json:"maxLinkGen,omitempty"`
	MaxLinkWidth *int   `json:"maxLinkWidth,omitempty"`
}

// Capability is a CUDA compute capability.
type Capability struct {
	Major int `json:"major"`
	Minor int `json:"minor"`
}

func (c Capability) String() string { return fmt.Sprintf("%d.%d", c.Major, c.Minor) }

// Pending is a setting that needs a reset to take effect.
type Pending struct {
	Current bool `json:"current"`
	Pending bool `json:"pending"`
}

// Attributes count the engines of a card or of a part of it; nil is unknown.
type Attributes struct {
	Multiprocessors *int `json:"multiprocessors,omitempty"`
	CopyEngines     *int `json:"copyEngines,omitempty"`
	Decoders        *int `json:"decoders,omitempty"`
	Encoders        *int `json:"encoders,omitempty"`
	JPEGs           *int `json:"jpegs,omitempty"`
	OFAs            *int `json:"ofas,omitempty"`
}

// Level is how far two cards are from each other on the machine's buses.
type Level string

// Levels, from near to far, with nvidia-smi's word for each.
const (
	LevelInternal   Level = "internal"   // two GPUs on one board
	LevelSingle     Level = "single"     // PIX: one PCIe switch
	LevelMultiple   Level = "multiple"   // PXB: several switches
	LevelHostBridge Level = "hostbridge" // PHB: the same host bridge
	LevelNode       Level = "node"       // NODE: the same NUMA node
	LevelSystem     Level = "system"     // SYS: across sockets
)

// Peer is what lies between a card and another one.
type Peer struct {
	UUID  string `json:"uuid"`
	Level Level  `json:"level,omitempty"`
	// NVLinks counts the active links between the two, through switches or not.
	NVLinks int `json:"nvLinks,omitempty"`
}

// Fabric is a card's membership in an NVLink fabric behind NVSwitches.
type Fabric struct {
	// State is "not-supported", "not-started", "in-progress" or "completed".
	State       string `json:"state"`
	ClusterUUID string `json:"clusterUUID,omitempty"`
	CliqueID    uint32 `json:"cliqueID,omitempty"`
	// Status is the NVML code of the registration, 0 for success.
	Status int `json:"status,omitempty"`
	// HealthMask is NVML's, 0 where it has none.
	HealthMask uint32 `json:"healthMask,omitempty"`
}

// Clique is the value of the label nvidia.com/gpu.clique, empty for none.
func (f *Fabric) Clique() string {
	if f == nil || f.State != "completed" || f.ClusterUUID == "" || strings.Trim(f.ClusterUUID, "0-") == "" {
		return ""
	}
	return fmt.Sprintf("%s.%d", f.ClusterUUID, f.CliqueID)
}

// VGPU is set for a virtual GPU of a guest.
type VGPU struct {
	HostDriverVersion string `json:"hostDriverVersion,omitempty"`
	HostDriverBranch  string `json:"hostDriverBranch,omitempty"`
	Licensed          *bool  `json:"licensed,omitempty"`
}

// Clone copies a card as Machine.Clone does.
func (g GPU) Clone() GPU {
	g.PCI.Path, g.Peers, g.Events = slices.Clone(g.PCI.Path), slices.Clone(g.Peers), slices.Clone(g.Events)
	g.MIG = g.MIG.clone()
	return g
}

// Family is the lower-case word of the label nvidia.com/gpu.family, which follows from the
// compute capability as GPU Feature Discovery derives it.
func (g GPU) Family() string {
	if g.Compute == nil {
		return "undefined"
	}
	switch c := *g.Compute; c.Major {
	case 1:
		return "tesla"
	case 2:
		return "fermi"
	case 3:
		return "kepler"
	case 5:
		return "maxwell"
	case 6:
		return "pascal"
	case 7:
		if c.Minor < 5 {
			return "volta"
		}
		return "turing"
	case 8:
		if c.Minor < 9 {
			return "ampere"
		}
		return "ada-lovelace"
	case 9:
		return "hopper"
	case 10, 12:
		return "blackwell"
	case 13:
		return "rubin"
	}
	return "undefined"
}

// NVMLBusID is the address as NVML, nvidia-smi and DCGM spell it: "00000000:1B:00.0".
func (p PCI) NVMLBusID() string {
	domain, rest, ok := strings.Cut(p.Address, ":")
	if !ok {
		return strings.ToUpper(p.Address)
	}
	return fmt.Sprintf("%08s:%s", strings.ToUpper(domain), strings.ToUpper(rest))
}

// Address turns any spelling of a PCI bus id into sysfs' one: domain of four digits
// (more only where it needs them), lower case, with a function.
func Address(busID string) string {
	s := strings.ToLower(strings.TrimSpace(busID))
	domain, rest, ok := strings.Cut(s, ":")
	if !ok {
		return s
	}
	if !strings.Contains(rest, ":") { // "1b:00.0"
		domain, rest = "0", s
	}
	domain = strings.TrimLeft(domain, "0")
	if !strings.Contains(rest, ".") {
		rest += ".0"
	}
	return fmt.Sprintf("%04s:%s", domain, rest)
}
