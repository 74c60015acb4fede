// Package labels computes the node labels of a machine's GPUs, under the keys and in
// the forms of NVIDIA's GPU Feature Discovery and of Node Feature Discovery's PCI
// labels, which charts and selectors read. It is pure, and owns the keys: a label of
// Owned that Of does not give is to be taken off the node. Start reading at Of.
package labels

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"orch/gpu/device"
	"orch/gpu/share"
)

const (
	prefix    = "nvidia.com/"
	pci       = "feature.node.kubernetes.io/pci-"
	maxLength = 63
)

// switches turn the parts of NVIDIA's operator off on nodes that need none of them, so
// that one which is installed all the same does not fight over the cards.
var switches = []string{
	"container-toolkit", "dcgm", "dcgm-exporter", "device-plugin", "driver", "gpu-feature-discovery", "mig-manager",
	"node-status-exporter", "operator-validator", "operands",
}

// Options are what the labels say beside the machine.
type Options struct {
	Share share.Config
	// Now becomes the label gfd.timestamp; zero leaves it out.
	Now time.Time
}

// Of gives all labels of the machine; none for one without NVIDIA devices.
func Of(m device.Machine, o Options) map[string]string {
	if len(m.GPUs) == 0 {
		return nil
	}
	out := bus(m)
	out[prefix+"gpu.present"] = "true"
	for _, s := range switches {
		out[prefix+"gpu.deploy."+s] = "false"
	}
	if m.Problem != nil || m.Tier == device.TierNone {
		return out
	}
	if !o.Now.IsZero() {
		out[prefix+"gfd.timestamp"] = strconv.FormatInt(o.Now.Unix(), 10)
	}
	for _, part := range []map[string]string{versions(m.Driver), machine(m), cards(m, o.Share), partitions(m, o.Share)} {
		maps.Copy(out, part)
	}
	return out
}

// Owned tells whether a key is one of those that Of may give.
func Owned(key string) bool {
	if strings.HasPrefix(key, pci) && strings.Contains(key, "10de") {
		return true
	}
	name, ok := strings.CutPrefix(key, prefix)
	if !ok || name == "mig.config" || name == "mig.config.state" || name == "device-plugin.config" || name == "gpu-driver-upgrade-state" {
		return false // wishes of people, or other owners'
	}
	for _, p := range []string{"gpu.", "mig-", "mig.", "cuda.", "gfd.", "vgpu.", "mps."} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// bus gives Node Feature Discovery's labels of the PCI bus.
func bus(m device.Machine) map[string]string {
	out := map[string]string{pci + "10de.present": "true"}
	for _, g := range m.GPUs {
		if g.PCI.Class != 0 {
			out[pci+hex4(g.PCI.Class)+"_10de.present"] = "true"
		}
	}
	return out
}

func hex4(n uint16) string {
	s := strconv.FormatUint(uint64(n), 16)
	return strings.Repeat("0", 4-len(s)) + s
}

func versions(d device.Driver) map[string]string {
	out := map[string]string{}
	if v := strings.Split(d.Version, "."); len(v) == 2 || len(v) == 3 {
		v = append(v, "")
		for i, names := range [][2]string{{"major", "major"}, {"minor", "minor"}, {"revision", "rev"}} {
			out[prefix+"cuda.driver-version."+names[0]] = v[i]
			out[prefix+"cuda.driver."+names[1]] = v[i]
		}
		out[prefix+"cuda.driver-version.full"] = d.Version
	}
	if major, minor, ok := strings.Cut(d.CUDA, "."); ok {
		for name, v := range map[string]string{"major": major, "minor": minor} {
			out[prefix+"cuda.runtime-version."+name] = v
			out[prefix+"cuda.runtime."+name] = v
		}
		out[prefix+"cuda.runtime-version.full"] = d.CUDA
	}
	return out
}

// machine gives the labels of the cards together.
func machine(m device.Machine) map[string]string {
	out := map[string]string{
		prefix + "gpu.machine":  "unknown",
		prefix + "gpu.mode":     mode(m.GPUs),
		prefix + "mig.capable":  strconv.FormatBool(slices.ContainsFunc(m.GPUs, func(g device.GPU) bool { return g.MIG != nil })),
		prefix + "vgpu.present": "false",
	}
	if p := value(m.Host.Product); p != "" {
		out[prefix+"gpu.machine"] = p
	}
	clique := m.GPUs[0].Fabric.Clique()
	for _, g := range m.GPUs {
		if g.Fabric.Clique() != clique {
			clique = "" // a node is in one clique or in none
		}
		if g.VGPU != nil {
			out[prefix+"vgpu.present"] = "true"
			out[prefix+"vgpu.host-driver-version"] = value(g.VGPU.HostDriverVersion)
			out[prefix+"vgpu.host-driver-branch"] = value(g.VGPU.HostDriverBranch)
		}
	}
	if clique != "" {
		out[prefix+"gpu.clique"] = value(clique)
	}
	return out
}

// mode is by the PCI class that all cards have in common.
func mode(gpus []device.GPU) string {
	for _, g := range gpus {
		if g.PCI.Class != gpus[0].PCI.Class {
			return "unknown"
		}
	}
	switch gpus[0].PCI.Class {
	case 0x0300:
		return "graphics"
	case 0x0302:
		return "compute"
	}
	return "unknown"
}

// cards gives the labels of whole cards. Where there are several models, those of the
// one that is last by name win, of cards that are not partitioned before others: a
// label can say one thing only.
func cards(m device.Machine, c share.Config) map[string]string {
	counts, models := map[string]int{}, map[string]device.GPU{}
	whole := map[string]bool{}
	for _, g := range m.GPUs {
		if g.Name == "" || g.Problem != nil {
			continue
		}
		counts[g.Name]++
		if !whole[g.Name] || !g.MIG.Enabled() {
			models[g.Name], whole[g.Name] = g, !g.MIG.Enabled()
		}
	}
	out := map[string]string{}
	for _, ofWhole := range []bool{false, true} {
		for _, name := range slices.Sorted(maps.Keys(models)) {
			if whole[name] == ofWhole {
				maps.Copy(out, model(models[name], counts[name], c))
			}
		}
	}
	if c.Method == share.MPS {
		out[prefix+"mps.capable"] = strconv.FormatBool(!slices.ContainsFunc(m.GPUs, func(g device.GPU) bool { return g.MIG.Enabled() }))
	} else {
		out[prefix+"mps.capable"] = "false"
	}
	return out
}

func model(g device.GPU, count int, c share.Config) map[string]string {
	s := sharing(share.GPU, c)
	if g.MIG.Enabled() {
		s = shares{replicas: 0, method: share.Exclusive}
	}
	out := describe(share.GPU, s, count, g.Name)
	if g.MemoryBytes != nil && *g.MemoryBytes >= 1<<20 {
		out[share.GPU+".memory"] = strconv.FormatUint(*g.MemoryBytes>>20, 10)
	}
	if g.Compute != nil {
		out[share.GPU+".family"] = g.Family()
		out[share.GPU+".compute.major"] = strconv.Itoa(g.Compute.Major)
		out[share.GPU+".compute.minor"] = strconv.Itoa(g.Compute.Minor)
	}
	return out
}

// shares is how a resource is shared, as its labels say it.
type shares struct {
	replicas int
	method   share.Method
	suffix   string
}

func sharing(resource string, c share.Config) shares {
	r, ok := c.Of(resource)
	if !ok {
		return shares{replicas: 1, method: share.Exclusive}
	}
	s := shares{replicas: r.Replicas, method: c.Method}
	if !r.Renamed() {
		s.suffix = "SHARED"
	}
	return s
}

// describe gives product, count, replicas and sharing-strategy of a resource.
func describe(resource string, s shares, count int, product ...string) map[string]string {
	if s.suffix != "" {
		product = append(slices.Clip(product), s.suffix)
	}
	return map[string]string{
		resource + ".product":          value(strings.Join(product, "-")),
		resource + ".count":            strconv.Itoa(count),
		resource + ".replicas":         strconv.Itoa(s.replicas),
		resource + ".sharing-strategy": string(s.method),
	}
}

// partitions gives the labels of MIG devices, by strategy.
func partitions(m device.Machine, c share.Config) map[string]string {
	if c.MIG != share.Single && c.MIG != share.Mixed {
		return nil
	}
	out := map[string]string{prefix + "mig.strategy": string(c.MIG)}
	byProfile := map[string][]device.MIGDevice{}
	var on []device.GPU
	off, empty := 0, false
	for _, g := range m.GPUs {
		if !g.MIG.Enabled() {
			off++
			continue
		}
		on = append(on, g)
		devices := g.MIGDevices()
		empty = empty || len(devices) == 0
		for _, d := range devices {
			byProfile[d.Profile] = append(byProfile[d.Profile], d)
		}
	}
	switch {
	case len(on) == 0:
	case c.MIG == share.Mixed:
		for profile, devices := range byProfile {
			maps.Copy(out, partition(m, share.MIGResource(profile), devices, c))
		}
	case empty || off > 0 || len(byProfile) != 1:
		invalid := describe(share.GPU, shares{method: share.Exclusive}, 0, on[0].Name, "MIG", "INVALID")
		invalid[share.GPU+".memory"] = "0"
		maps.Copy(out, invalid)
	default:
		for _, devices := range byProfile {
			maps.Copy(out, partition(m, share.GPU, devices, c))
		}
	}
	return out
}

// partition describes the MIG devices of one profile.
func partition(m device.Machine, resource string, devices []device.MIGDevice, c share.Config) map[string]string {
	d := devices[0]
	parent, _ := m.GPU(d.Parent)
	out := describe(resource, sharing(resource, c), len(devices), parent.Name, "MIG", strings.ReplaceAll(d.Profile, "+", "."))
	memory := d.Kind.MemoryMiB
	if d.MemoryBytes != nil {
		memory = *d.MemoryBytes >> 20
	}
	if memory > 0 {
		out[resource+".memory"] = strconv.FormatUint(memory, 10)
	}
	if d.Kind.Slices > 0 {
		out[resource+".slices.gi"] = strconv.Itoa(d.Kind.Slices)
	}
	if d.Slices > 0 {
		out[resource+".slices.ci"] = strconv.Itoa(d.Slices)
	}
	a := d.Attributes
	for name, n := range map[string]*int{
		"multiprocessors": a.Multiprocessors, "engines.copy": a.CopyEngines, "engines.decoder": a.Decoders,
		"engines.encoder": a.Encoders, "engines.jpeg": a.JPEGs, "engines.ofa": a.OFAs,
	} {
		if n != nil {
			out[resource+"."+name] = strconv.Itoa(*n)
		}
	}
	return out
}

// value makes a label value of a name: spaces become dashes, what a label may not have
// is left out, and so is what is too long.
func value(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || r == '.' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z':
			return r
		}
		return -1
	}, s)
	return strings.Trim(s[:min(len(s), maxLength)], "-_.")
}
