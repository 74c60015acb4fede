package oci

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"orch/runtime/engine"
)

// devices makes device nodes and says which may be used.
func devices(in Input, out *specs.Spec) error {
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}} // runc adds null, zero, tty, ...
	if in.Spec.Security.Privileged {
		all, err := in.Host.Devices()
		if err != nil {
			return fmt.Errorf("container spec: listing devices: %w", err)
		}
		out.Linux.Devices = all
		rules = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}
	for _, d := range in.Spec.Devices {
		nodes, err := in.Host.Device(d.Host)
		if err != nil {
			return fmt.Errorf("container spec: device %s: %w", d.Host, err)
		}
		target := cmp.Or(d.Target, d.Host)
		for _, n := range nodes {
			n.Path = target + strings.TrimPrefix(n.Path, d.Host)
			out.Linux.Devices = slices.DeleteFunc(out.Linux.Devices, func(o specs.LinuxDevice) bool { return o.Path == n.Path })
			out.Linux.Devices = append(out.Linux.Devices, n)
			rules = append(rules, specs.LinuxDeviceCgroup{
				Allow: true, Type: n.Type, Major: new(n.Major), Minor: new(n.Minor), Access: cmp.Or(d.Permissions, "rwm"),
			})
		}
	}
	if out.Linux.Resources == nil {
		out.Linux.Resources = &specs.LinuxResources{}
	}
	out.Linux.Resources.Devices = rules
	return nil
}

// resources sets the limits of the container's cgroup.
func resources(in Input, out *specs.Spec) error {
	limits := Limits(in.Spec.Resources, in.Host.SwapLimit)
	if out.Linux.Resources != nil {
		limits.Devices = out.Linux.Resources.Devices
	}
	out.Linux.Resources = limits
	if adj := in.Spec.Resources.OOMScoreAdj; adj != nil {
		// Without the right to lower it, the lowest that we may set.
		out.Process.OOMScoreAdj = new(max(*adj, in.Host.MinOOMScoreAdj))
	}
	return nil
}

// Limits turns resources into OCI's form; also used to update a running
// container. Where the kernel can limit swap, a container with a limit gets none.
func Limits(r engine.Resources, swapLimit bool) *specs.LinuxResources {
	out := &specs.LinuxResources{}
	if r.CPUShares != 0 || r.CPUQuotaUs != 0 || r.CPUPeriodUs != 0 || r.CpusetCPUs != "" || r.CpusetMems != "" {
		out.CPU = &specs.LinuxCPU{Cpus: r.CpusetCPUs, Mems: r.CpusetMems}
		if r.CPUShares != 0 {
			out.CPU.Shares = new(r.CPUShares)
		}
		if r.CPUQuotaUs != 0 {
			out.CPU.Quota = new(r.CPUQuotaUs)
		}
		if r.CPUPeriodUs != 0 {
			out.CPU.Period = new(r.CPUPeriodUs)
		}
	}
	if r.MemoryBytes != 0 {
		out.Memory = &specs.LinuxMemory{Limit: new(r.MemoryBytes)}
		if swapLimit {
			out.Memory.Swap = new(r.MemoryBytes) // memory and swap together
		}
	}
	if r.PidsLimit != 0 {
		out.Pids = &specs.LinuxPids{Limit: new(r.PidsLimit)}
	}
	for _, size := range slices.Sorted(maps.Keys(r.Hugepages)) {
		out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: size, Limit: r.Hugepages[size]})
	}
	if len(r.Unified) > 0 {
		out.Unified = maps.Clone(r.Unified)
	}
	return out
}
