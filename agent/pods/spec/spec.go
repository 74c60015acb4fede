// Package spec turns a container of a pod into what the engine runs: command,
// environment, mounts, security, resources, and the files that the agent makes
// for pods (hosts, resolv.conf). It is pure: objects it refers to are asked for
// through Input. Start reading at Build.
package spec

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"

	"orch/agent/host"
	"orch/agent/pods/plan"
	"orch/runtime/engine"
)

// Labels under which a container is found again, as upstream's runtimes set them.
const (
	LabelPodName      = "io.kubernetes.pod.name"
	LabelPodNamespace = "io.kubernetes.pod.namespace"
	LabelPodUID       = "io.kubernetes.pod.uid"
	LabelContainer    = "io.kubernetes.container.name"
	LabelAttempt      = "io.kubernetes.container.restartCount"
	LabelHash         = "io.kubernetes.container.hash"
	LabelGrace        = "io.kubernetes.pod.terminationGracePeriod"
	LabelMessagePath  = "io.kubernetes.container.terminationMessagePath"
	LabelKind         = "io.cri-containerd.kind"
	// LabelDevices has the ids of the container's devices by resource, as JSON.
	LabelDevices = "orch.io/devices"
)

// Input is all that a container's Spec depends on.
type Input struct {
	Pod       *core.Pod
	Container *core.Container
	Role      plan.Role
	Attempt   int
	ID        string
	Image     engine.Image
	Objects   Objects
	// Services are those of the pod's namespace and default/kubernetes.
	Services        []*core.Service
	PodIPs, HostIPs []string
	Allocatable     core.ResourceList
	MemoryCapacity  int64

	Sandbox host.Sandbox
	// PIDNamespace is "host", a path, or empty for one of its own.
	PIDNamespace string
	Volumes      map[string]host.Mounted
	// SubPaths are the host paths of mounts with a subPath, by index.
	SubPaths map[int]string
	// Files are mounts that the agent makes itself (hosts, resolv.conf, shm, ...).
	// A mount of the user at the same place wins.
	Files []engine.Mount
	// Devices are what the container was given beside its own wishes.
	Devices host.DeviceEdits
	// CgroupPath is the pod's.
	CgroupPath string
	CgroupV2   bool
	PidsLimit  int64
	// OOMFloor is the lowest oom_score_adj that this process may set.
	OOMFloor   int
	SeccompDir string
	LogPath    string
	LogBytes   int64
	LogFiles   int
}

// Build makes the engine's Spec. Errors read as messages of CreateContainerConfigError.
func Build(in Input) (engine.Spec, error) {
	vars, err := Env(in)
	if err != nil {
		return engine.Spec{}, err
	}
	sec, user, err := security(in)
	if err != nil {
		return engine.Spec{}, err
	}
	mounts, devices, err := mounts(in)
	if err != nil {
		return engine.Spec{}, err
	}
	c := in.Container
	return engine.Spec{
		ID: in.ID, Pod: string(in.Pod.UID), Labels: labels(in), Image: in.Image.ID,
		Command: expandAll(c.Command, vars.Lookup), Args: expandAll(c.Args, vars.Lookup),
		Env: vars.List(), WorkingDir: c.WorkingDir,
		User: user, Security: sec, Hostname: in.Sandbox.Hostname,
		Mounts: mounts, Devices: devices, CDI: in.Devices.CDI, Annotations: in.Devices.Annotations, Sysctls: sysctls(in),
		Namespaces: namespaces(in),
		CgroupPath: path.Join(in.CgroupPath, in.ID), Resources: resources(in),
		TTY: c.TTY, Stdin: c.Stdin, StdinOnce: c.StdinOnce,
		LogPath: in.LogPath, LogMaxBytes: in.LogBytes, LogMaxFiles: in.LogFiles,
		StopSignal: stopSignal(c),
	}, nil
}

func labels(in Input) map[string]string {
	l := map[string]string{
		LabelPodName: in.Pod.Name, LabelPodNamespace: in.Pod.Namespace, LabelPodUID: string(in.Pod.UID),
		LabelContainer: in.Container.Name, LabelAttempt: fmt.Sprint(in.Attempt), LabelHash: plan.Hash(in.Container),
		LabelMessagePath: MessagePath(in.Container), LabelKind: "container",
	}
	if len(in.Devices.Held) > 0 {
		if b, err := json.Marshal(in.Devices.Held); err == nil { // strings only: it does not fail
			l[LabelDevices] = string(b)
		}
	}
	if g := in.Pod.Spec.TerminationGracePeriodSeconds; g != nil {
		l[LabelGrace] = fmt.Sprint(*g)
	}
	return l
}

// MessagePath is where the container may leave its last words.
func MessagePath(c *core.Container) string {
	if c.TerminationMessagePath != "" {
		return c.TerminationMessagePath
	}
	return core.TerminationMessagePathDefault
}

func stopSignal(c *core.Container) string {
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		return string(*c.Lifecycle.StopSignal)
	}
	return ""
}

func namespaces(in Input) engine.Namespaces {
	orHost := func(p string) string {
		if p == "" {
			return "host"
		}
		return p
	}
	return engine.Namespaces{
		Network: orHost(in.Sandbox.NetNS), IPC: orHost(in.Sandbox.IPC), UTS: orHost(in.Sandbox.UTS), PID: in.PIDNamespace,
	}
}

// sysctls are the pod's; beside them, in a network of its own, any user may
// bind low ports and ping, as containerd's CRI has it by default.
func sysctls(in Input) map[string]string {
	out := map[string]string{}
	if in.Sandbox.NetNS != "" {
		out["net.ipv4.ip_unprivileged_port_start"] = "0"
		out["net.ipv4.ping_group_range"] = "0 2147483647"
	}
	if sc := in.Pod.Spec.SecurityContext; sc != nil {
		for _, s := range sc.Sysctls {
			out[strings.ReplaceAll(s.Name, "/", ".")] = s.Value
		}
	}
	return out
}

func mounts(in Input) ([]engine.Mount, []engine.Device, error) {
	var out []engine.Mount
	taken := map[string]bool{}
	for i, m := range in.Container.VolumeMounts {
		v, ok := in.Volumes[m.Name]
		if !ok {
			return nil, nil, fmt.Errorf("cannot find volume %q to mount into container %q", m.Name, in.Container.Name)
		}
		source := v.Path
		if s, ok := in.SubPaths[i]; ok {
			source = s
		}
		target := m.MountPath
		if !strings.HasPrefix(target, "/") {
			target = "/" + target
		}
		taken[path.Clean(target)] = true
		out = append(out, engine.Mount{
			Type: "bind", Source: source, Target: target, ReadOnly: m.ReadOnly || v.ReadOnly,
			Propagation: propagation(m.MountPropagation), Options: v.Options,
			RecursiveReadOnly: m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != core.RecursiveReadOnlyDisabled,
		})
	}
	for _, f := range slices.Concat(in.Files, in.Devices.Mounts) {
		if !taken[path.Clean(f.Target)] {
			out = append(out, f)
		}
	}
	devices := slices.Clone(in.Devices.Devices)
	for _, d := range in.Container.VolumeDevices {
		v, ok := in.Volumes[d.Name]
		if !ok {
			return nil, nil, fmt.Errorf("cannot find volume %q to pass into container %q", d.Name, in.Container.Name)
		}
		devices = append(devices, engine.Device{Host: v.Path, Target: d.DevicePath, Permissions: "mrw"})
	}
	return out, devices, nil
}

func propagation(p *core.MountPropagationMode) string {
	switch {
	case p == nil:
		return ""
	case *p == core.MountPropagationHostToContainer:
		return "rslave"
	case *p == core.MountPropagationBidirectional:
		return "rshared"
	}
	return ""
}
