// Package sysfs is the second tier: what the kernel says of NVIDIA GPUs without the
// driver's library. It reads /sys/bus/pci, /proc/driver/nvidia, /proc/devices and
// /proc/modules, hears the bus and the modules through the kernel's uevents and XIDs
// through its log. It owns the two sockets while Watch runs and no state. It refuses to
// guess: memory sizes, MIG profiles and figures are not there to be read.
//
// All paths are below Config.Root, so that tests, and nodes whose host is mounted
// elsewhere, work the same. Start reading at Source.Machine; events are in watch.go.
package sysfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"orch/gpu/device"
)

// Config of a Source; the zero value reads this host.
type Config struct {
	// Root is put before every path; empty is "/".
	Root string
	// Library, if set, finds the driver's library and the version its file name says.
	Library func() (path, version string)
	Log     *slog.Logger
}

// Source reads the kernel.
type Source struct {
	config Config
}

// New makes a source.
func New(config Config) *Source {
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	return &Source{config: config}
}

// PCI numbers.
const (
	vendorNVIDIA = 0x10de
	classVGA     = 0x0300
	class3D      = 0x0302
	classBridge  = 0x0680 // NVSwitch
)

// Machine reads what there is. A host without anything of NVIDIA's is an empty machine.
func (s *Source) Machine(context.Context) (device.Machine, error) {
	m := device.Machine{Tier: device.TierNone}
	m.Host = device.Host{Product: s.text("/sys/class/dmi/id/product_name"), Kernel: s.text("/proc/sys/kernel/osrelease")}
	if err := s.bus(&m); err != nil {
		return m, err
	}
	m.Module = s.module(m)
	if len(m.GPUs) == 0 {
		s.chip(&m)
	}
	if len(m.GPUs) > 0 || m.Module.State == device.ModuleLoaded {
		m.Tier = device.TierSysfs
	}
	if s.config.Library != nil { // a sandbox may show the library and hide the bus
		m.Driver.Library, m.Driver.LibraryVersion = s.config.Library()
	}
	m.Driver.Version = m.Module.Version
	for i := range m.GPUs {
		if !m.GPUs[i].Integrated {
			s.driver(&m.GPUs[i])
		}
	}
	if m.NVSwitches > 0 {
		m.Host.FabricManager = new(s.runs("nv-fabricmanager"))
	}
	m.IMEXChannels = s.channels()
	return m, nil
}

func (s *Source) path(p string) string { return filepath.Join("/", s.config.Root, p) }

// text is a file's content without the newline, empty if it cannot be read: every file
// here may be missing.
func (s *Source) text(p string) string {
	b, err := os.ReadFile(s.path(p))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// hex reads a number like 0x10de.
func (s *Source) hex(p string) uint64 {
	n, err := strconv.ParseUint(strings.TrimPrefix(s.text(p), "0x"), 16, 64)
	if err != nil {
		return 0
	}
	return n
}

// bus finds the cards, in the order of their addresses, which is that of the driver.
func (s *Source) bus(m *device.Machine) error {
	const devices = "/sys/bus/pci/devices"
	entries, err := os.ReadDir(s.path(devices))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a machine without PCI, or a sandbox
	}
	if err != nil {
		return fmt.Errorf("reading the PCI bus: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(devices, e.Name())
		if s.hex(dir+"/vendor") != vendorNVIDIA {
			continue
		}
		switch class := s.hex(dir+"/class") >> 8; class {
		case classBridge:
			m.NVSwitches++
		case classVGA, class3D:
			g := device.GPU{Index: len(m.GPUs), PCI: device.PCI{Address: e.Name(), Vendor: vendorNVIDIA, Device: uint16(s.hex(dir + "/device")), Class: uint16(class),
				Subsystem: uint32(s.hex(dir+"/subsystem_device")<<16 | s.hex(dir+"/subsystem_vendor"))}}
			s.place(&g, dir)
			m.GPUs = append(m.GPUs, g)
		}
	}
	return nil
}

// place is where a card stands: its bridges, NUMA node and CPUs.
func (s *Source) place(g *device.GPU, dir string) {
	if target, err := os.Readlink(s.path(dir + "/driver")); err == nil {
		g.PCI.Driver = filepath.Base(target)
	}
	if target, err := os.Readlink(s.path(dir)); err == nil {
		for _, part := range strings.Split(filepath.Clean(target), "/") {
			switch {
			case strings.HasPrefix(part, "pci"):
				g.PCI.Root = part
			case g.PCI.Root != "" && part != g.PCI.Address:
				g.PCI.Path = append(g.PCI.Path, part)
			}
		}
	}
	// -1 is the kernel's word for "no NUMA": nothing is known then.
	if n, err := strconv.Atoi(s.text(dir + "/numa_node")); err == nil && n >= 0 {
		g.NUMANode = new(n)
	}
	g.CPUs = s.text(dir + "/local_cpulist")
	if n, err := strconv.Atoi(s.text(dir + "/max_link_width")); err == nil && n > 0 {
		g.PCI.MaxLinkWidth = new(n)
	}
}

// driver adds what /proc/driver/nvidia says of a card.
func (s *Source) driver(g *device.GPU) {
	for line := range strings.Lines(s.text("/proc/driver/nvidia/gpus/" + g.PCI.Address + "/information")) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		if strings.Contains(value, "?") { // what the driver has not read yet is question marks
			continue
		}
		switch strings.TrimSpace(key) {
		case "Model":
			g.Name = value
		case "GPU UUID":
			g.UUID = value
		case "Video BIOS":
			g.VBIOS = value
		case "GPU Firmware":
			if value != "N/A" {
				g.GSP = value
			}
		case "Device Minor":
			if n, err := strconv.Atoi(value); err == nil {
				g.Minor = new(n)
			}
		}
	}
	if g.Minor != nil {
		g.MIG = s.partition(*g.Minor)
	}
}

// partition reads the GPU and compute instances that exist, by their capabilities. A card
// without any says nothing: it may be whole, or empty.
func (s *Source) partition(minor int) *device.MIG {
	base := fmt.Sprintf("/proc/driver/nvidia/capabilities/gpu%d/mig", minor)
	m := &device.MIG{}
	for _, gi := range s.numbered(base, "gi") {
		dir := fmt.Sprintf("%s/gi%d", base, gi)
		out := device.GPUInstance{ID: gi, CapMinor: s.capMinor(dir)}
		for _, ci := range s.numbered(dir, "ci") {
			out.Compute = append(out.Compute, device.ComputeInstance{ID: ci, CapMinor: s.capMinor(fmt.Sprintf("%s/ci%d", dir, ci))})
		}
		m.Instances = append(m.Instances, out)
	}
	if len(m.Instances) == 0 {
		return nil
	}
	m.Mode = device.Pending{Current: true, Pending: true}
	return m
}

// numbered lists the numbers of the entries prefixN, sorted.
func (s *Source) numbered(dir, prefix string) []int {
	entries, err := os.ReadDir(s.path(dir))
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range entries {
		if rest, ok := strings.CutPrefix(e.Name(), prefix); ok {
			if n, err := strconv.Atoi(rest); err == nil {
				out = append(out, n)
			}
		}
	}
	slices.Sort(out)
	return out
}

func (s *Source) capMinor(dir string) *int {
	for line := range strings.Lines(s.text(dir + "/access")) {
		if value, ok := strings.CutPrefix(line, "DeviceFileMinor:"); ok {
			if n, err := strconv.Atoi(strings.TrimSpace(value)); err == nil {
				return new(n)
			}
		}
	}
	return nil
}

// versionLine is the first line of /proc/driver/nvidia/version, of either kind of module.
var versionLine = regexp.MustCompile(`NVRM version:.*\s(\d+\.\d+(?:\.\d+)?)\s`)

// module is the kernel's side.
func (s *Source) module(m device.Machine) device.Module {
	out := device.Module{Majors: s.majors()}
	version := s.text("/proc/driver/nvidia/version")
	if v := versionLine.FindStringSubmatch(version + " "); v != nil {
		out.Version = v[1]
		out.Open = new(strings.Contains(version, "Open Kernel Module"))
	}
	loaded := map[string]bool{}
	for line := range strings.Lines(s.text("/proc/modules")) {
		name, _, _ := strings.Cut(line, " ")
		loaded[name] = true
	}
	bound := func(driver string) bool {
		return len(m.GPUs) > 0 && !slices.ContainsFunc(m.GPUs, func(g device.GPU) bool { return g.PCI.Driver != driver })
	}
	switch {
	case version != "" || loaded["nvidia"]:
		out.State = device.ModuleLoaded
	case slices.ContainsFunc(m.GPUs, func(g device.GPU) bool { return g.PCI.Driver == "nouveau" }):
		out.State = device.ModuleNouveau
	case bound("vfio-pci"):
		out.State = device.ModuleVFIO
	case s.installed(m.Host.Kernel):
		out.State = device.ModuleUnused
	default:
		out.State = device.ModuleAbsent
	}
	return out
}

// installed looks for the module among those of the running kernel.
func (s *Source) installed(kernel string) bool {
	for line := range strings.Lines(s.text("/lib/modules/" + kernel + "/modules.dep")) {
		name, _, _ := strings.Cut(filepath.Base(firstWord(line)), ".")
		if name == "nvidia" || name == "nvidia-current" {
			return true
		}
	}
	return false
}

func firstWord(line string) string {
	w, _, _ := strings.Cut(line, ":")
	return w
}

// majors are the character devices of NVIDIA's modules.
func (s *Source) majors() map[string]uint32 {
	out := map[string]uint32{}
	for line := range strings.Lines(s.text("/proc/devices")) {
		f := strings.Fields(line)
		if len(f) == 0 || len(f) == 2 && f[0] == "Block" {
			if len(f) == 2 {
				break
			}
			continue
		}
		if len(f) != 2 || !strings.HasPrefix(f[1], "nvidia") {
			continue
		}
		if n, err := strconv.ParseUint(f[0], 10, 32); err == nil {
			out[f[1]] = uint32(n)
		}
	}
	if n, ok := out["nvidia-frontend"]; ok { // the name before R550
		out["nvidia"] = n
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// runs tells whether a process of that name exists; the kernel keeps 15 bytes of it.
func (s *Source) runs(name string) bool {
	entries, err := os.ReadDir(s.path("/proc"))
	if err != nil {
		return false
	}
	name = name[:min(len(name), 15)]
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			return false
		}
		return s.text("/proc/"+e.Name()+"/comm") == name
	})
}

func (s *Source) channels() []int {
	return s.numbered("/dev/nvidia-caps-imex-channels", "channel")
}
