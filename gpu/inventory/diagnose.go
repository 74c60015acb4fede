package inventory

import (
	"fmt"
	"slices"
	"strings"

	"orch/gpu/device"
	"orch/gpu/health"
)

// Finding is something wrong with the driver as a whole, in one sentence that says what
// to do.
type Finding struct {
	Reason  string
	Message string
	// Fatal: no GPU may be given out while it stands.
	Fatal bool
}

// Diagnose says what is wrong, the root first. A machine without NVIDIA GPUs has no finding.
func Diagnose(m device.Machine) []Finding {
	var out []Finding
	add := func(fatal bool, reason, format string, args ...any) {
		out = append(out, Finding{reason, fmt.Sprintf(format, args...), fatal})
	}
	cards := len(m.GPUs)
	if cards == 0 && m.Module.State != device.ModuleLoaded {
		return nil
	}
	switch {
	case m.Module.State == device.ModuleNouveau:
		add(true, "NouveauInUse", "the nouveau kernel driver holds %s: install the NVIDIA driver, put \"blacklist nouveau\" into /etc/modprobe.d and reboot", count(cards))
	case m.Module.State == device.ModuleVFIO:
		add(true, "BoundToVFIO", "%s bound to vfio-pci for virtual machines: containers get none", count(cards))
	case m.Module.State == device.ModuleAbsent && m.Integrated():
		add(true, "DriverNotInstalled", "the GPU of this board has no device node: install NVIDIA's L4T kernel and drivers (JetPack)")
	case m.Module.State == device.ModuleAbsent && m.Tier != device.TierNVML:
		add(true, "DriverNotInstalled", "%s on the bus and no NVIDIA driver for kernel %s: install the driver, nothing else is needed", count(cards), or(m.Host.Kernel, "of this node"))
	case m.Module.State == device.ModuleUnused:
		add(true, "ModuleNotLoaded", "the nvidia kernel module is installed and not loaded: run \"modprobe nvidia\"; if that fails, dmesg says why")
	}
	if mismatch(m) {
		add(true, "DriverLibraryMismatch", "the loaded nvidia kernel module is %s, the driver's libraries are %s: reboot the node, or unload and load the nvidia modules",
			m.Module.Version, otherThan(m.Module.Version, m.Driver.LibraryVersion))
	}
	if m.Problem != nil && len(out) == 0 {
		out = append(out, problemFinding(m))
	}
	if m.Module.State == device.ModuleLoaded && m.Module.Majors["nvidia-uvm"] == 0 && !m.Integrated() {
		add(true, "UVMNotLoaded", "the nvidia_uvm kernel module is not loaded, so CUDA does not work: run \"modprobe nvidia-uvm\"")
	}
	if f, ok := fabricFinding(m); ok {
		out = append(out, f)
	}
	return out
}

func count(n int) string {
	if n == 1 {
		return "1 NVIDIA GPU is"
	}
	return fmt.Sprintf("%d NVIDIA GPUs are", n)
}

func mismatch(m device.Machine) bool {
	if m.Module.State != device.ModuleLoaded {
		return false
	}
	if m.Integrated() { // its library counts versions in another way
		return false
	}
	said := m.Problem != nil && m.Problem.Code == device.CodeVersionMismatch
	return said || m.Module.Version != "" && m.Driver.LibraryVersion != "" && m.Module.Version != m.Driver.LibraryVersion
}

// otherThan says a version, or that it is another one where the file's name does not tell.
func otherThan(module, library string) string {
	if library == "" || library == module {
		return "of another version"
	}
	return library
}

// problemFinding is for a driver that does not answer although the module looks well.
func problemFinding(m device.Machine) Finding {
	p := m.Problem
	switch p.Code {
	case device.CodeLibraryNotFound:
		if m.Integrated() {
			return Finding{"NoNVML", "this board's driver has no libnvidia-ml.so.1: its GPU is known without memory, health and metrics", false}
		}
		return Finding{"DriverLibraryNotFound", "the nvidia kernel module is loaded and libnvidia-ml.so.1 was not found: install the driver's libraries (package libnvidia-compute or the like)", false}
	case device.CodeDriverNotLoaded:
		return Finding{"DriverNotLoaded", "the driver's library says that the kernel driver is not loaded: run \"modprobe nvidia\" and look into dmesg", true}
	case device.CodeNoPermission:
		return Finding{"DriverNoPermission", "the driver's device nodes may not be opened: " + p.Error(), true}
	case device.CodeHang:
		return Finding{"DriverHangs", "the NVIDIA driver does not answer: " + p.Error() + ": reboot the node", true}
	case device.CodeNoHelper:
		return Finding{"NoNVML", "GPUs are known by /proc and /sys only, without memory, MIG and metrics: " + p.Error(), false}
	case device.CodeStopped:
		return Finding{"DriverReleased", "the driver is released on purpose, for an upgrade or a reset", true}
	}
	return Finding{"DriverFailed", "the NVIDIA driver does not answer: " + p.Error(), true}
}

// fabricFinding: boxes with NVSwitches need the fabric manager before CUDA works at all.
func fabricFinding(m device.Machine) (Finding, bool) {
	waiting := 0
	for _, g := range m.GPUs {
		if g.Fabric != nil && g.Fabric.State != "completed" {
			waiting++
		}
	}
	stopped := m.Host.FabricManager != nil && !*m.Host.FabricManager
	if m.NVSwitches == 0 && waiting == 0 || m.NVSwitches > 0 && !stopped && waiting == 0 || m.Tier != device.TierNVML {
		return Finding{}, false
	}
	if stopped && m.NVSwitches > 0 {
		return Finding{"FabricManagerNotRunning", fmt.Sprintf("this node has %d NVSwitches and nvidia-fabricmanager does not run, so CUDA does not start: run \"systemctl enable --now nvidia-fabricmanager\" (of version %s)", m.NVSwitches, m.Driver.Version), true}, true
	}
	return Finding{"FabricNotReady", fmt.Sprintf("%d of %d GPUs have not joined the NVLink fabric yet", waiting, len(m.GPUs)), true}, true
}

// Condition is a node condition to set.
type Condition struct {
	Type    string // GPUDriverReady, GPUsHealthy
	Status  string // True or False
	Reason  string
	Message string
}

// Conditions of a node with GPUs; none for one without.
func Conditions(s State) []Condition {
	if len(s.Machine.GPUs) == 0 && s.Machine.Module.State != device.ModuleLoaded {
		return nil
	}
	driver := Condition{"GPUDriverReady", "True", "DriverReady", fmt.Sprintf("NVIDIA driver %s answers for %d GPUs", or(s.Machine.Driver.Version, s.Machine.Module.Version), len(s.Machine.GPUs))}
	if len(s.Findings) > 0 {
		driver.Reason = s.Findings[0].Reason
		var all []string
		for _, f := range s.Findings {
			all = append(all, f.Message)
			if f.Fatal {
				driver.Status = "False"
			}
		}
		driver.Message = strings.Join(all, "; ")
	}
	units := Condition{"GPUsHealthy", "True", "AllHealthy", "all GPUs are healthy"}
	var sentences []string
	for _, u := range sortedUnits(s) {
		sentences = append(sentences, u.Sentence())
		units.Status, units.Reason = "False", "GPU"+string(u.State)
	}
	if len(sentences) > 0 {
		units.Message = strings.Join(sentences, "; ")
	}
	return []Condition{driver, units}
}

// sortedUnits are the ill ones, in a steady order.
func sortedUnits(s State) []health.Unit {
	keys := make([]Key, 0, len(s.Units))
	for k := range s.Units {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b Key) int {
		if c := strings.Compare(a.UUID, b.UUID); c != 0 {
			return c
		}
		return a.GI - b.GI
	})
	out := make([]health.Unit, len(keys))
	for i, k := range keys {
		out[i] = s.Units[k]
	}
	return out
}

// Usable tells whether GPUs may be given out at all: no finding forbids it.
func (s State) Usable() bool {
	return len(s.Machine.GPUs) > 0 && !slices.ContainsFunc(s.Findings, func(f Finding) bool { return f.Fatal })
}
