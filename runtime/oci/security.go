package oci

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultCaps are what a container gets that asks for nothing.
var defaultCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

var maskedPaths = []string{
	"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
	"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
	"/sys/firmware", "/sys/devices/virtual/powercap",
}

var readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}

// security sets capabilities, masks and labels.
func security(in Input, out *specs.Spec) error {
	sec := in.Spec.Security
	p := out.Process
	caps, err := capabilities(in)
	if err != nil {
		return err
	}
	p.Capabilities = &specs.LinuxCapabilities{
		Bounding:  caps,
		Effective: slices.Clone(caps),
		Permitted: slices.Clone(caps),
	}
	p.NoNewPrivileges = sec.NoNewPrivileges
	p.ApparmorProfile = sec.AppArmor
	if in.Host.SELinux {
		p.SelinuxLabel = sec.SELinux
	}
	if !sec.Privileged && !sec.Unmasked {
		out.Linux.MaskedPaths = maskedPaths
		out.Linux.ReadonlyPaths = readonlyPaths
	}
	return nil
}

// capabilities starts from the defaults (all, when privileged), drops, then adds;
// ALL goes first, so that dropping all and adding one leaves that one.
func capabilities(in Input) ([]string, error) {
	sec := in.Spec.Security
	caps := slices.Clone(defaultCaps)
	if sec.Privileged {
		return slices.Clone(in.Host.Caps), nil
	}
	add, drop := capNames(sec.AddCaps), capNames(sec.DropCaps)
	if slices.Contains(add, "CAP_ALL") {
		caps = slices.Clone(in.Host.Caps)
	}
	if slices.Contains(drop, "CAP_ALL") {
		caps = nil
	}
	for _, c := range add {
		if c != "CAP_ALL" && !slices.Contains(caps, c) {
			if !knownCap(c) {
				return nil, fmt.Errorf("container spec: unknown capability %q", c)
			}
			caps = append(caps, c)
		}
	}
	caps = slices.DeleteFunc(caps, func(c string) bool { return slices.Contains(drop, c) })
	return caps, nil
}

func capNames(names []string) []string {
	out := make([]string, 0, len(names))
	for _, n := range names {
		n = strings.ToUpper(n)
		if !strings.HasPrefix(n, "CAP_") {
			n = "CAP_" + n
		}
		out = append(out, n)
	}
	return out
}

// CapNames are the kernel's capabilities by number.
var capNumbers = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

func knownCap(name string) bool { return slices.Contains(capNumbers, name) }

// CapsOf turns a capability mask (as in /proc/self/status) into names.
func CapsOf(mask uint64) []string {
	var out []string
	for i, name := range capNumbers {
		if mask&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return out
}

// seccompProfile comes last: the default profile depends on the capabilities.
func seccompProfile(in Input, out *specs.Spec) error {
	sec := in.Spec.Security
	if sec.Privileged || !in.Host.Seccomp {
		return nil
	}
	switch sec.Seccomp {
	case "", "Unconfined":
		return nil
	case "RuntimeDefault":
		out.Linux.Seccomp = seccomp.DefaultProfile(out)
		if !in.Host.X32 {
			// Building the filter is a good part of a container's start, and a third of
			// it is for an interface that this kernel has not.
			out.Linux.Seccomp.Architectures = slices.DeleteFunc(out.Linux.Seccomp.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
		}
		return nil
	}
	profile := &specs.LinuxSeccomp{}
	if err := json.Unmarshal(in.SeccompProfile, profile); err != nil {
		return fmt.Errorf("container spec: reading seccomp profile %s: %w", sec.Seccomp, err)
	}
	out.Linux.Seccomp = profile
	return nil
}
