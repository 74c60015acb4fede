package sysfs

import (
	"os"
	"regexp"
	"slices"
	"strings"

	"orch/gpu/device"
)

// chips are NVIDIA's systems on chip by what the device tree calls them.
var chips = []struct {
	compatible   string
	architecture string
	compute      device.Capability
}{
	{"nvidia,tegra264", "Blackwell", device.Capability{Major: 11, Minor: 0}}, // Thor
	{"nvidia,tegra234", "Ampere", device.Capability{Major: 8, Minor: 7}},     // Orin
	{"nvidia,tegra194", "Volta", device.Capability{Major: 7, Minor: 2}},      // Xavier
	{"nvidia,tegra186", "Pascal", device.Capability{Major: 6, Minor: 2}},     // TX2
	{"nvidia,tegra210", "Maxwell", device.Capability{Major: 5, Minor: 3}},    // Nano
}

// chipUUID is the name that NVIDIA's device plugin gives the one GPU of such a board.
const chipUUID = "tegra"

// chipNodes: one of them is there when the GPU's driver is.
var chipNodes = []string{"/dev/nvhost-ctrl-gpu", "/dev/nvgpu", "/dev/nvhost-gpu"}

// releaseLine is the first line of the board's release file: R36 and REVISION 4.3 are
// the driver's version 36.4.3.
var releaseLine = regexp.MustCompile(`# R(\d+) \(release\), REVISION: ([\d.]+)`)

// chip finds the GPU inside a system on chip: it is on no bus, and its driver has neither
// /proc/driver/nvidia nor nvidia-uvm.
func (s *Source) chip(m *device.Machine) {
	compatible := strings.Split(s.text("/proc/device-tree/compatible"), "\x00")
	for _, c := range chips {
		if !slices.Contains(compatible, c.compatible) {
			continue
		}
		model := strings.TrimRight(s.text("/proc/device-tree/model"), "\x00")
		m.GPUs = []device.GPU{{UUID: chipUUID, Integrated: true, Name: model, Architecture: c.architecture, Compute: &c.compute}}
		m.Host.Product = model
		m.Module.State = device.ModuleAbsent
		for _, n := range chipNodes {
			if _, err := os.Stat(s.path(n)); err == nil {
				m.Module.State = device.ModuleLoaded
			}
		}
		if v := releaseLine.FindStringSubmatch(s.text("/etc/nv_tegra_release")); v != nil {
			m.Module.Version = v[1] + "." + v[2]
		}
		return
	}
}
