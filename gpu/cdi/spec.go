package cdi

import (
	"encoding/json"
	"fmt"
	"path"
	"strconv"

	"orch/gpu/device"
)

// Kind of the devices that are published.
const Kind = "nvidia.com/gpu"

// specVersion is the oldest that has what is used: names may begin with a digit.
const specVersion = "0.5.0"

type spec struct {
	Version string       `json:"cdiVersion"`
	Kind    string       `json:"kind"`
	Devices []specDevice `json:"devices"`
	Edits   specEdits    `json:"containerEdits"`
}

type specDevice struct {
	Name  string    `json:"name"`
	Edits specEdits `json:"containerEdits"`
}

type specEdits struct {
	Env    []string    `json:"env,omitempty"`
	Nodes  []specNode  `json:"deviceNodes,omitempty"`
	Mounts []specMount `json:"mounts,omitempty"`
}

type specNode struct {
	Path string `json:"path"`
	// Host is where the node lies on the host, empty for Path.
	Host  string `json:"hostPath,omitempty"`
	Type  string `json:"type"`
	Major uint32 `json:"major"`
	Minor uint32 `json:"minor"`
}

type specMount struct {
	HostPath      string   `json:"hostPath"`
	ContainerPath string   `json:"containerPath"`
	Options       []string `json:"options"`
}

// Spec is the CDI file of the machine, for container engines that are not ours: every
// card and MIG device by index, by UUID, and all of them. It is nil where there is none.
// The device nodes lie below devRoot on the host; empty is "/".
func Spec(m device.Machine, f Files, devRoot string) ([]byte, error) {
	s := spec{Version: specVersion, Kind: Kind}
	edits := func(e Edits) specEdits { return edits(e, devRoot) }
	shared, err := For(m, f, Request{Capabilities: everything})
	if err != nil {
		return nil, fmt.Errorf("making the CDI file: %w", err)
	}
	shared.Env = append(shared.Env, "NVIDIA_VISIBLE_DEVICES=void")
	s.Edits = edits(shared)
	var all []Node
	add := func(uuid string, names ...string) error {
		nodes, err := f.Nodes, error(nil)
		if !m.Integrated() {
			nodes, err = deviceNodes(m, uuid)
		}
		if err != nil {
			return fmt.Errorf("making the CDI file: %w", err)
		}
		for _, name := range append(names, uuid) {
			s.Devices = append(s.Devices, specDevice{Name: name, Edits: edits(Edits{Nodes: nodes})})
		}
		all = append(all, nodes...)
		return nil
	}
	for _, g := range m.GPUs {
		if g.UUID == "" || g.Problem != nil || g.Minor == nil && !g.Integrated {
			continue
		}
		if !g.MIG.Enabled() {
			if err := add(g.UUID, strconv.Itoa(g.Index)); err != nil {
				return nil, err
			}
			continue
		}
		for _, d := range g.MIGDevices() {
			if err := add(d.UUID, fmt.Sprintf("%d:%d", g.Index, d.Index)); err != nil {
				return nil, err
			}
		}
	}
	if len(s.Devices) == 0 {
		return nil, nil
	}
	s.Devices = append(s.Devices, specDevice{Name: "all", Edits: edits(Edits{Nodes: unique(all)})})
	return json.MarshalIndent(s, "", "  ")
}

func unique(nodes []Node) []Node {
	var out []Node
	seen := map[Node]bool{}
	for _, n := range nodes {
		if !seen[n] {
			seen[n] = true
			out = append(out, n)
		}
	}
	return out
}

func edits(e Edits, devRoot string) specEdits {
	out := specEdits{Env: e.Env}
	for _, n := range e.Nodes {
		node := specNode{Path: n.Path, Type: "c", Major: n.Major, Minor: n.Minor}
		if root := path.Clean("/" + devRoot); root != "/" {
			node.Host = path.Join(root, n.Path)
		}
		out.Nodes = append(out.Nodes, node)
	}
	for _, m := range e.Mounts {
		out.Mounts = append(out.Mounts, specMount{HostPath: m.Source, ContainerPath: m.Target, Options: Options})
	}
	return out
}
