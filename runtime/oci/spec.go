// Package oci turns what the engine is asked for (engine.Spec) and what an image
// says into the OCI runtime spec that runc gets. It is pure: facts about the host and
// files of the image come in as values. Defaults are those that Kubernetes users
// know from containerd's CRI plugin: capabilities, masked paths, mounts, seccomp.
//
// One file per chapter: process.go (who and what), security.go, mounts.go,
// resources.go. Start reading at Build.
package oci

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"orch/runtime/engine"
)

// Host is what this machine offers.
type Host struct {
	// CgroupV2 is true with the unified hierarchy.
	CgroupV2 bool
	// SwapLimit is true when the kernel can limit swap.
	SwapLimit bool
	// Caps are the capabilities that this process may hand on, with CAP_.
	Caps []string
	// MinOOMScoreAdj is the lowest value that may be set.
	MinOOMScoreAdj int
	// SELinux is true when the kernel enforces or logs labels. Without it labels are
	// left out, as other runtimes do: the same pods run on both kinds of hosts.
	SELinux bool
	// Seccomp is true when the kernel filters system calls.
	Seccomp bool
	// X32 is true when the kernel has the x32 system call interface.
	X32 bool
	// Devices are all device nodes of the host, for privileged containers.
	Devices func() ([]specs.LinuxDevice, error)
	// Device describes one device node, or all below a folder.
	Device func(path string) ([]specs.LinuxDevice, error)
}

// Input of Build.
type Input struct {
	Spec  engine.Spec
	Image imagespec.ImageConfig
	Host  Host
	// ReadFile reads a file of the image's root file system (/etc/passwd).
	// An absent file is fs.ErrNotExist.
	ReadFile func(path string) ([]byte, error)
	// SeccompProfile is the JSON of the profile when Spec names a file.
	SeccompProfile []byte
}

// Build makes the spec.
func Build(in Input) (*specs.Spec, error) {
	s := in.Spec
	out := &specs.Spec{
		Version:     specs.Version,
		Root:        &specs.Root{Path: "rootfs", Readonly: s.Security.ReadOnlyRoot},
		Process:     &specs.Process{Terminal: s.TTY},
		Annotations: maps.Clone(s.Annotations),
		Linux:       &specs.Linux{CgroupsPath: s.CgroupPath},
	}
	if s.Pod != "" {
		if out.Annotations == nil {
			out.Annotations = map[string]string{}
		}
		out.Annotations["io.kubernetes.cri.sandbox-id"] = s.Pod
	}
	steps := []func(Input, *specs.Spec) error{namespaces, process, user, security, mounts, devices, resources, seccompProfile}
	for _, step := range steps {
		if err := step(in, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// namespaces joins those of the pod and asks for fresh ones otherwise.
func namespaces(in Input, out *specs.Spec) error {
	s := in.Spec
	add := func(t specs.LinuxNamespaceType, where string) error {
		switch {
		case where == "host":
			return nil
		case where == "" || filepath.IsAbs(where):
			out.Linux.Namespaces = append(out.Linux.Namespaces, specs.LinuxNamespace{Type: t, Path: where})
			return nil
		}
		return fmt.Errorf("container spec: %s namespace %q is neither a path nor \"host\"", t, where)
	}
	errs := []error{
		add(specs.PIDNamespace, s.Namespaces.PID),
		add(specs.IPCNamespace, s.Namespaces.IPC),
		add(specs.UTSNamespace, s.Namespaces.UTS),
		add(specs.NetworkNamespace, s.Namespaces.Network),
		add(specs.MountNamespace, ""),
	}
	if in.Host.CgroupV2 && !s.Security.Privileged {
		errs = append(errs, add(specs.CgroupNamespace, ""))
	}
	if s.Namespaces.User != "" {
		errs = append(errs, add(specs.UserNamespace, s.Namespaces.User))
	}
	if s.Namespaces.UTS == "" {
		out.Hostname = s.Hostname // a joined namespace has its name already
	}
	if len(s.Sysctls) > 0 {
		out.Linux.Sysctl = maps.Clone(s.Sysctls)
	}
	return errors.Join(errs...)
}
