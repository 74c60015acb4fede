// Package cdi computes what must change in a container that is given GPUs: device
// nodes, the driver's libraries and programs, the loader's cache, environment. Nothing
// runs on the host or in the container for it: where NVIDIA's toolkit calls hook
// programs, the edits have the mounts that those would have led to. It is pure but for
// Find, which looks at the files of the driver. It owns the knowledge of what belongs
// to the driver; it refuses to decide who gets which device (gpu/alloc).
//
// Start reading at Find (files.go), then For, then Spec (spec.go), which publishes
// the same for other container engines.
package cdi

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"orch/gpu/cdi/ldcache"
	"orch/gpu/device"
)

// Node is a device node that a container gets, and the right to use it.
type Node struct {
	Path         string
	Major, Minor uint32
}

// Mount is a bind mount. It is read-only, without set-user-ID programs and devices.
type Mount struct {
	// Source is on the host, Target in the container.
	Source, Target string
}

// Options of every Mount.
var Options = []string{"ro", "nosuid", "nodev", "rbind", "rprivate"}

// Edits are what changes in a container.
type Edits struct {
	Nodes  []Node
	Mounts []Mount
	Env    []string
	// Cache are the entries that the container's ld.so.cache needs before its own.
	Cache []ldcache.Entry
}

// Request is what a container was given.
type Request struct {
	// Devices are UUIDs of cards and MIG devices.
	Devices      []string
	Capabilities []Capability
	// IMEXChannels are minors below /dev/nvidia-caps-imex-channels.
	IMEXChannels []int
	// MIGConfig and MIGMonitor give the rights to change and to watch MIG devices.
	MIGConfig, MIGMonitor bool
}

// Majors and minors that never change.
const (
	majorNVIDIA   = 195
	minorControl  = 255
	minorModeset  = 254
	minorUVM      = 0
	minorUVMTools = 1
	capMIGConfig  = 1
	capMIGMonitor = 2
)

// For computes the edits. An error says which device or node there is not.
func For(m device.Machine, f Files, r Request) (Edits, error) {
	if m.Integrated() {
		return boardEdits(f, r), nil
	}
	nodes, err := nodesFor(m, r)
	if err != nil {
		return Edits{}, err
	}
	e := Edits{Nodes: nodes}
	if len(r.Devices) > 0 {
		e.Env = append(e.Env, "NVIDIA_VISIBLE_DEVICES="+strings.Join(r.Devices, ","))
	}
	wants := func(c Capability) bool { return slices.Contains(r.Capabilities, c) }
	flags, known := ldcache.FlagsFor(archOf(f))
	for _, l := range f.Libraries {
		if !wants(l.Of) {
			continue
		}
		dir := path.Dir(l.Path)
		e.Mounts = append(e.Mounts, Mount{path.Join(f.Root, l.Path), l.Path})
		for _, name := range l.Links {
			e.Mounts = append(e.Mounts, Mount{path.Join(f.Root, l.Path), path.Join(dir, name)})
			if known {
				e.Cache = append(e.Cache, ldcache.Entry{Flags: flags, Name: name, Path: path.Join(dir, name)})
			}
		}
		if strings.HasPrefix(path.Base(l.Path), "libcuda.so.") {
			e.Env = append(e.Env, "NVIDIA_CTK_LIBCUDA_DIR="+dir)
		}
	}
	for _, o := range f.Others {
		if wants(o.Of) {
			e.Mounts = append(e.Mounts, Mount{path.Join(f.Root, o.Path), target(o.Path)})
		}
	}
	return e, nil
}

// boardEdits are those of an integrated GPU: all that the board's lists name, whatever
// the image says of capabilities, as NVIDIA's runtime does there.
func boardEdits(f Files, r Request) Edits {
	e := Edits{Nodes: f.Nodes}
	if len(r.Devices) > 0 {
		e.Env = append(e.Env, "NVIDIA_VISIBLE_DEVICES="+strings.Join(r.Devices, ","))
	}
	flags, known := ldcache.FlagsFor(archOf(f))
	named := map[string]bool{}
	for _, l := range f.Libraries {
		named[l.Path] = true
	}
	for _, l := range f.Libraries {
		for _, name := range append([]string{path.Base(l.Path)}, l.Links...) {
			at := path.Join(path.Dir(l.Path), name)
			if at != l.Path && named[at] {
				continue // the lists have it
			}
			named[at] = true
			e.Mounts = append(e.Mounts, Mount{path.Join(f.Root, l.Path), at})
			if known {
				e.Cache = append(e.Cache, ldcache.Entry{Flags: flags, Name: name, Path: at})
			}
		}
	}
	for _, o := range f.Others {
		e.Mounts = append(e.Mounts, Mount{path.Join(f.Root, o.Path), o.Path})
	}
	return e
}

// target is where a program that lies in an unusual folder is looked for.
func target(p string) string {
	if slices.Contains(programFolders, path.Dir(p)) {
		return path.Join("/usr/bin", path.Base(p))
	}
	return p
}

func archOf(f Files) string { return cmp.Or(f.Arch, "amd64") }

func nodesFor(m device.Machine, r Request) ([]Node, error) {
	out := []Node{{"/dev/nvidiactl", majorNVIDIA, minorControl}}
	if uvm, ok := m.Module.Majors["nvidia-uvm"]; ok {
		out = append(out, Node{"/dev/nvidia-uvm", uvm, minorUVM}, Node{"/dev/nvidia-uvm-tools", uvm, minorUVMTools})
	} else if slices.Contains(r.Capabilities, Compute) && len(r.Devices) > 0 {
		return nil, fmt.Errorf("the kernel module nvidia-uvm is not loaded: run modprobe nvidia-uvm")
	}
	// Servers often run without that module; images that ask for all capabilities do there too.
	_, modeset := m.Module.Majors["nvidia-modeset"]
	if modeset && (slices.Contains(r.Capabilities, Graphics) || slices.Contains(r.Capabilities, Display)) {
		out = append(out, Node{"/dev/nvidia-modeset", majorNVIDIA, minorModeset})
	}
	for _, uuid := range r.Devices {
		nodes, err := deviceNodes(m, uuid)
		if err != nil {
			return nil, err
		}
		for _, n := range nodes {
			if !slices.Contains(out, n) { // two parts of one card share its node
				out = append(out, n)
			}
		}
	}
	for _, c := range []struct {
		wanted bool
		minor  int
	}{{r.MIGConfig, capMIGConfig}, {r.MIGMonitor, capMIGMonitor}} {
		if c.wanted {
			n, err := capNode(m, c.minor)
			if err != nil {
				return nil, err
			}
			out = append(out, n)
		}
	}
	for _, minor := range r.IMEXChannels {
		major, ok := m.Module.Majors["nvidia-caps-imex-channels"]
		if !ok || minor < 0 {
			return nil, fmt.Errorf("IMEX channel %d: this driver has no IMEX channels", minor)
		}
		out = append(out, Node{fmt.Sprintf("/dev/nvidia-caps-imex-channels/channel%d", minor), major, uint32(minor)})
	}
	return out, nil
}

// deviceNodes are those of a card, and of a part of it that of the card and its two capabilities.
func deviceNodes(m device.Machine, uuid string) ([]Node, error) {
	g, isCard := m.GPU(uuid)
	d, isPart := m.MIGDevice(uuid)
	if isPart {
		g, _ = m.GPU(d.Parent)
	}
	if !isCard && !isPart {
		return nil, fmt.Errorf("GPU %s is not on this node any more", uuid)
	}
	if g.Minor == nil {
		return nil, fmt.Errorf("GPU %s has no device node: the driver does not say its minor number", uuid)
	}
	out := []Node{{fmt.Sprintf("/dev/nvidia%d", *g.Minor), majorNVIDIA, uint32(*g.Minor)}}
	if !isPart {
		return out, nil
	}
	for _, minor := range []*int{d.GICapMinor, d.CapMinor} {
		if minor == nil {
			return nil, fmt.Errorf("MIG device %s has no capability: the driver does not say its minor number", uuid)
		}
		n, err := capNode(m, *minor)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}

func capNode(m device.Machine, minor int) (Node, error) {
	major, ok := m.Module.Majors["nvidia-caps"]
	if !ok || minor < 0 {
		return Node{}, fmt.Errorf("capability %d: this driver has no nvidia-caps", minor)
	}
	return Node{fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", minor), major, uint32(minor)}, nil
}
