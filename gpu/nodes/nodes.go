// Package nodes owns what the NVIDIA driver needs on the host before a program can use
// it, and what distributions leave to a tool that may be missing: loaded kernel modules,
// device nodes with the right numbers, the /dev/char links that tell container managers
// of them; and the reset of a card. Plan says what is missing (pure), Owner does it. It
// touches nothing that is right already, makes no node where the driver's own parameters
// forbid it, and never loads a module while another driver holds the cards.
//
// Start reading at Plan; the effects are in owner.go.
package nodes

import (
	"fmt"
	"slices"
	"strings"

	"orch/gpu/device"
)

// Step is one thing to do: exactly one of its fields is set.
type Step struct {
	Modprobe string // a module to load
	Node     *Node  // to be made, in place of what is there
	Link     *Link
}

// Node is a character device.
type Node struct {
	Path         string
	Major, Minor uint32
	Mode         uint32 // permission bits
}

// Link is a symbolic link.
type Link struct {
	Path, Target string
}

func (s Step) String() string {
	switch {
	case s.Modprobe != "":
		return "modprobe " + s.Modprobe
	case s.Node != nil:
		return fmt.Sprintf("mknod %s c %d:%d %04o", s.Node.Path, s.Node.Major, s.Node.Minor, s.Node.Mode)
	case s.Link != nil:
		return fmt.Sprintf("ln -s %s %s", s.Link.Target, s.Link.Path)
	}
	return "nothing"
}

// View is what Plan may look at.
type View interface {
	// Device returns the numbers of a character device; ok is false for anything else.
	Device(path string) (major, minor uint32, ok bool)
	// Link returns where a symbolic link points, "" if there is none.
	Link(path string) string
	// Params are the driver's own, of /proc/driver/nvidia/params.
	Params() map[string]string
}

// Fixed numbers of the driver.
const (
	majorNVIDIA  = 195
	minorControl = 255
	minorModeset = 254
	capConfig    = 1
	capMonitor   = 2
)

// Modules says which module must be loaded next; "" if none. The others wait until it is:
// what they need is known only then.
func Modules(m device.Machine) string {
	free := slices.ContainsFunc(m.GPUs, func(g device.GPU) bool { return g.PCI.Driver == "" || g.PCI.Driver == "nvidia" })
	switch {
	case m.Module.State == device.ModuleUnused && free:
		return "nvidia"
	case m.Module.State == device.ModuleLoaded && m.Module.Majors["nvidia-uvm"] == 0:
		return "nvidia-uvm"
	}
	return ""
}

// Plan says what is missing for a loaded module, in the order in which it is done.
func Plan(m device.Machine, v View) []Step {
	if m.Module.State != device.ModuleLoaded || v.Params()["ModifyDeviceFiles"] == "0" {
		return nil
	}
	var out []Step
	for _, n := range wanted(m) {
		major, minor, ok := v.Device(n.Path)
		if !ok || major != n.Major || minor != n.Minor {
			out = append(out, Step{Node: &n})
		}
		link := Link{Path: fmt.Sprintf("/dev/char/%d:%d", n.Major, n.Minor), Target: "../" + strings.TrimPrefix(n.Path, "/dev/")}
		if v.Link(link.Path) != link.Target {
			out = append(out, Step{Link: &link})
		}
	}
	return out
}

// wanted are the nodes that the machine should have.
func wanted(m device.Machine) []Node {
	out := []Node{{"/dev/nvidiactl", majorNVIDIA, minorControl, 0o666}}
	for _, g := range m.GPUs {
		if g.Minor != nil {
			out = append(out, Node{fmt.Sprintf("/dev/nvidia%d", *g.Minor), majorNVIDIA, uint32(*g.Minor), 0o666})
		}
	}
	if _, ok := m.Module.Majors["nvidia-modeset"]; ok {
		out = append(out, Node{"/dev/nvidia-modeset", majorNVIDIA, minorModeset, 0o666})
	}
	if uvm := m.Module.Majors["nvidia-uvm"]; uvm != 0 {
		out = append(out, Node{"/dev/nvidia-uvm", uvm, 0, 0o666}, Node{"/dev/nvidia-uvm-tools", uvm, 1, 0o666})
	}
	return append(out, capabilities(m)...)
}

// capabilities are the nodes that open MIG instances. Changing the partition is root's alone.
func capabilities(m device.Machine) []Node {
	major := m.Module.Majors["nvidia-caps"]
	if major == 0 {
		return nil
	}
	node := func(minor int, mode uint32) Node {
		return Node{fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", minor), major, uint32(minor), mode}
	}
	out := []Node{node(capConfig, 0o400), node(capMonitor, 0o444)}
	for _, g := range m.GPUs {
		if g.MIG == nil {
			continue
		}
		for _, gi := range g.MIG.Instances {
			if gi.CapMinor != nil {
				out = append(out, node(*gi.CapMinor, 0o444))
			}
			for _, ci := range gi.Compute {
				if ci.CapMinor != nil {
					out = append(out, node(*ci.CapMinor, 0o444))
				}
			}
		}
	}
	return out
}
