// Package device holds what is known about the GPUs of one machine as plain values:
// a Machine with its driver, kernel module and GPUs, their MIG instances and profiles,
// their links to each other; Figures that change by themselves; processes; events.
// It owns no effect, reads no clock and imports nothing of ours; whoever finds
// devices (gpu/nvml, gpu/sysfs, gpu/fakenvml) makes these values and everybody else
// reads them. It refuses to guess: what a driver did not say is nil or empty, and a
// card that answers nothing but its place on the bus is still a GPU with a Problem.
//
// The JSON form of a Recording is what `orch gpu record` writes. Start reading at
// Machine, then GPU, then Recording.
package device

import (
	"cmp"
	"maps"
	"slices"
)

// Tier says who answered.
type Tier string

// Tiers, from nothing to everything.
const (
	TierNone  Tier = "none"  // no NVIDIA GPU and no driver found
	TierSysfs Tier = "sysfs" // /proc/driver/nvidia and /sys/bus/pci: count, UUIDs, injection, XIDs
	TierNVML  Tier = "nvml"  // the driver's management library: everything
)

// Machine is all that is known of a machine's GPUs at one moment. It is a value that
// others hold too: whoever changes one makes a Clone first, and sets new pointers
// rather than writing through those that are there.
type Machine struct {
	Tier   Tier   `json:"tier"`
	Host   Host   `json:"host"`
	Driver Driver `json:"driver"`
	Module Module `json:"module"`
	// GPUs are in the order of NVML's index, which is that of the PCI bus.
	GPUs []GPU `json:"gpus,omitempty"`
	// NVSwitches is the number of NVSwitch bridges on the PCI bus.
	NVSwitches int `json:"nvSwitches,omitempty"`
	// IMEXChannels are the minors below /dev/nvidia-caps-imex-channels.
	IMEXChannels []int `json:"imexChannels,omitempty"`
	// Missing names the NVML functions that this driver lacks, sorted.
	Missing []string `json:"missing,omitempty"`
	// Problem is what keeps the whole driver from answering; nil if it does.
	Problem *Problem `json:"problem,omitempty"`
}

// Host is the machine around the cards.
type Host struct {
	// Product is DMI's product name.
	Product string `json:"product,omitempty"`
	Kernel  string `json:"kernel,omitempty"`
	// FabricManager tells whether nvidia-fabricmanager runs; nil where nobody looked.
	FabricManager *bool `json:"fabricManager,omitempty"`
}

// Driver is the NVIDIA driver as its user-space side says it.
type Driver struct {
	// Version is as NVML says it, "580.159.03", leading zeros kept.
	Version string `json:"version,omitempty"`
	// CUDA is the newest CUDA version this driver runs, "13.0".
	CUDA string `json:"cuda,omitempty"`
	NVML string `json:"nvml,omitempty"`
	// Library is the path libnvidia-ml was found at, LibraryVersion what the name of
	// that file says: a library that differs from the module answers nothing.
	Library        string `json:"library,omitempty"`
	LibraryVersion string `json:"libraryVersion,omitempty"`
	// Root is where the driver's files lie when not in "/" (a driver container, Talos).
	Root string `json:"root,omitempty"`
}

// Module is the kernel's side of the driver.
type Module struct {
	State ModuleState `json:"state"`
	// Version is what the loaded module says in /proc/driver/nvidia/version.
	Version string `json:"version,omitempty"`
	// Open tells the open kernel modules from the closed ones; nil is unknown.
	Open *bool `json:"open,omitempty"`
	// Majors are the device majors of /proc/devices by name: "nvidia", "nvidiactl",
	// "nvidia-uvm", "nvidia-caps", "nvidia-caps-imex-channels", "nvidia-modeset".
	// All but the first two and the last are chosen when the module loads.
	Majors map[string]uint32 `json:"majors,omitempty"`
}

// ModuleState is what /proc/modules and the bus say.
type ModuleState string

// States of the kernel module.
const (
	ModuleUnknown ModuleState = ""
	ModuleAbsent  ModuleState = "absent"  // not on this host at all
	ModuleUnused  ModuleState = "unused"  // on this host, not loaded
	ModuleLoaded  ModuleState = "loaded"  // nvidia is loaded
	ModuleNouveau ModuleState = "nouveau" // nouveau holds the cards
	ModuleVFIO    ModuleState = "vfio"    // all cards are bound to vfio-pci
)

// Clone copies a machine so that setting fields of the copy, down to its MIG instances,
// does not show in the original.
func (m Machine) Clone() Machine {
	m.GPUs = slices.Clone(m.GPUs)
	for i := range m.GPUs {
		m.GPUs[i] = m.GPUs[i].Clone()
	}
	m.IMEXChannels, m.Missing = slices.Clone(m.IMEXChannels), slices.Clone(m.Missing)
	m.Module.Majors = maps.Clone(m.Module.Majors)
	return m
}

// Integrated tells a system on chip that has its GPU inside from a machine with cards.
func (m Machine) Integrated() bool {
	return len(m.GPUs) > 0 && !slices.ContainsFunc(m.GPUs, func(g GPU) bool { return !g.Integrated })
}

// GPU returns the card with that UUID.
func (m Machine) GPU(uuid string) (GPU, bool) {
	i := slices.IndexFunc(m.GPUs, func(g GPU) bool { return g.UUID == uuid })
	if uuid == "" || i < 0 {
		return GPU{}, false
	}
	return m.GPUs[i], true
}

// MIGDevice returns the MIG device with that UUID and the card it lies on.
func (m Machine) MIGDevice(uuid string) (MIGDevice, bool) {
	for _, g := range m.GPUs {
		for _, d := range g.MIGDevices() {
			if d.UUID == uuid {
				return d, true
			}
		}
	}
	return MIGDevice{}, false
}

// Sort puts the GPUs into the order of their index, then of the bus.
func (m *Machine) Sort() {
	slices.SortStableFunc(m.GPUs, func(a, b GPU) int {
		return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.PCI.Address, b.PCI.Address))
	})
}
