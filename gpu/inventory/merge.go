package inventory

import (
	"slices"

	"orch/gpu/device"
)

// Merge makes one machine of what the host and the driver say. The bus decides which
// cards there are and where; the driver what they are. A card that only one of them
// knows stays.
func Merge(host, driver device.Machine) device.Machine {
	m := host.Clone()
	m.Problem = driver.Problem
	if host.Problem != nil && m.Problem == nil {
		m.Problem = host.Problem
	}
	if driver.Problem != nil && len(driver.GPUs) == 0 {
		m.Tier = hostTier(m)
		if driver.Problem.Code == device.CodeNoDevices {
			m.Problem = host.Problem
		}
		m.Sort()
		return m
	}
	m.Tier, m.Missing = device.TierNVML, driver.Missing
	m.Driver = mergeDriver(host.Driver, driver.Driver)
	taken := map[string]bool{}
	for _, g := range driver.GPUs {
		i := slices.IndexFunc(m.GPUs, func(h device.GPU) bool { return same(h, g) })
		if i < 0 {
			m.GPUs = append(m.GPUs, g)
			taken[g.PCI.Address] = true
			continue
		}
		m.GPUs[i] = mergeGPU(m.GPUs[i], g)
		taken[m.GPUs[i].PCI.Address] = true
	}
	for i, g := range m.GPUs {
		if !taken[g.PCI.Address] && g.PCI.Driver == "nvidia" && g.Problem == nil {
			m.GPUs[i].Problem = &device.Problem{Op: "card", Code: device.CodeGPUNotFound, Text: "it is on the bus and the driver does not list it"}
		}
	}
	number(&m)
	m.Sort()
	return m
}

// stale is what a driver that is silent now said before, of the cards that are still there.
func stale(before, host device.Machine) device.Machine {
	before = before.Clone()
	before.GPUs = slices.DeleteFunc(before.GPUs, func(g device.GPU) bool {
		return !slices.ContainsFunc(host.GPUs, func(h device.GPU) bool { return h.PCI.Address == g.PCI.Address })
	})
	return before
}

func hostTier(m device.Machine) device.Tier {
	if len(m.GPUs) == 0 && m.Module.State != device.ModuleLoaded {
		return device.TierNone
	}
	return device.TierSysfs
}

// same tells whether the host's and the driver's card are one. A card that the driver
// could not even place is the one with its index.
func same(host, driver device.GPU) bool {
	if driver.PCI.Address != "" && !host.Integrated {
		return host.PCI.Address == driver.PCI.Address
	}
	return host.Index == driver.Index
}

func mergeDriver(host, nvml device.Driver) device.Driver {
	out := nvml
	if out.Library == "" || out.Library == "libnvidia-ml.so.1" {
		out.Library = or(host.Library, out.Library)
	}
	out.LibraryVersion = or(host.LibraryVersion, nvml.LibraryVersion) // the file may be newer than what was loaded
	out.Version, out.Root = or(nvml.Version, host.Version), or(nvml.Root, host.Root)
	return out
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// mergeGPU lays what the driver says over what the host says.
func mergeGPU(host, g device.GPU) device.GPU {
	pci := host.PCI
	pci.Subsystem = max(pci.Subsystem, g.PCI.Subsystem)
	if g.PCI.MaxLinkGen != nil {
		pci.MaxLinkGen, pci.MaxLinkWidth = g.PCI.MaxLinkGen, g.PCI.MaxLinkWidth
	}
	if pci.Device == 0 {
		pci.Vendor, pci.Device = g.PCI.Vendor, g.PCI.Device
	}
	g.PCI, g.Integrated = pci, host.Integrated
	g.UUID, g.Name, g.VBIOS = or(g.UUID, host.UUID), or(g.Name, host.Name), or(g.VBIOS, host.VBIOS)
	g.CPUs = or(host.CPUs, g.CPUs)
	if host.NUMANode != nil {
		g.NUMANode = host.NUMANode
	}
	if g.Minor == nil {
		g.Minor = host.Minor
	}
	if g.MIG != nil && host.MIG != nil {
		minors(g.MIG, host.MIG)
	}
	return g
}

// minors takes over which device node opens which instance: only the kernel says it.
func minors(to, from *device.MIG) {
	for i := range to.Instances {
		gi := &to.Instances[i]
		at := slices.IndexFunc(from.Instances, func(h device.GPUInstance) bool { return h.ID == gi.ID })
		if at < 0 {
			continue
		}
		gi.CapMinor = from.Instances[at].CapMinor
		for j := range gi.Compute {
			ci := &gi.Compute[j]
			for _, h := range from.Instances[at].Compute {
				if h.ID == ci.ID {
					ci.CapMinor = h.CapMinor
				}
			}
		}
	}
}

// number gives cards that the driver does not list indices after those that it does.
func number(m *device.Machine) {
	top := -1
	for _, g := range m.GPUs {
		if g.Problem == nil || g.Problem.Code != device.CodeGPUNotFound {
			top = max(top, g.Index)
		}
	}
	for i, g := range m.GPUs {
		if g.Problem != nil && g.Problem.Code == device.CodeGPUNotFound {
			top++
			m.GPUs[i].Index = top
		}
	}
}

// remember gives a card that does not say who it is any more the name it had at that
// place: what is held against it, and who holds it, is known by that name.
func remember(m *device.Machine, before device.Machine) {
	for i, g := range m.GPUs {
		if g.UUID != "" || g.Problem == nil {
			continue
		}
		for _, old := range before.GPUs {
			if old.UUID != "" && old.PCI.Address == g.PCI.Address {
				m.GPUs[i].UUID, m.GPUs[i].Name = old.UUID, or(g.Name, old.Name)
				if g.Minor == nil {
					m.GPUs[i].Minor = old.Minor
				}
			}
		}
	}
}
