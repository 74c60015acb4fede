package oci

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"orch/runtime/engine"
)

// mounts puts the usual file systems in place, then the container's own.
func mounts(in Input, out *specs.Spec) error {
	sysMode := "ro"
	if in.Spec.Security.Privileged {
		sysMode = "rw"
	}
	base := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", sysMode}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", sysMode}},
	}
	own, err := ownMounts(in.Spec.Mounts, out)
	if err != nil {
		return err
	}
	for _, m := range base {
		replaced := slices.ContainsFunc(own, func(o specs.Mount) bool { return path.Clean(o.Destination) == m.Destination })
		if !replaced {
			out.Mounts = append(out.Mounts, m)
		}
	}
	out.Mounts = append(out.Mounts, own...)
	return nil
}

// ownMounts turns the spec's mounts, outer before inner, and sets the root's
// propagation to what the widest of them needs.
func ownMounts(list []engine.Mount, out *specs.Spec) ([]specs.Mount, error) {
	sorted := slices.Clone(list)
	slices.SortStableFunc(sorted, func(a, b engine.Mount) int { return cmp.Compare(depth(a.Target), depth(b.Target)) })
	var own []specs.Mount
	for _, m := range sorted {
		if !strings.HasPrefix(m.Target, "/") {
			return nil, fmt.Errorf("container spec: mount target %q is not absolute", m.Target)
		}
		om := specs.Mount{Destination: m.Target, Type: m.Type, Source: m.Source, Options: slices.Clone(m.Options)}
		switch m.Type {
		case "", "bind":
			om.Type = "bind"
			om.Options = append(om.Options, "rbind", cmp.Or(m.Propagation, "rprivate"))
			if m.Propagation == "private" {
				om.Options[len(om.Options)-1] = "rprivate"
			}
		case "tmpfs", "proc", "sysfs", "mqueue":
			om.Source = cmp.Or(m.Source, m.Type)
		default:
			return nil, fmt.Errorf("container spec: mount %s: unknown type %q", m.Target, m.Type)
		}
		switch {
		case m.RecursiveReadOnly:
			om.Options = append(om.Options, "rro")
		case m.ReadOnly:
			om.Options = append(om.Options, "ro")
		default:
			om.Options = append(om.Options, "rw")
		}
		switch m.Propagation {
		case "", "private":
		case "rshared":
			out.Linux.RootfsPropagation = "rshared"
		case "rslave":
			if out.Linux.RootfsPropagation == "" {
				out.Linux.RootfsPropagation = "rslave"
			}
		default:
			return nil, fmt.Errorf("container spec: mount %s: unknown propagation %q", m.Target, m.Propagation)
		}
		own = append(own, om)
	}
	return own, nil
}

func depth(p string) int { return strings.Count(path.Clean(p), "/") }
