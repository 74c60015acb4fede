package pods

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/host"
	"orch/agent/image"
	"orch/agent/pause"
	"orch/agent/pods/spec"
	"orch/api"
	"orch/api/client"
	"orch/runtime/engine"
)

func runtimeName(version string) string {
	name, _, _ := strings.Cut(version, "://")
	return name
}

// build gathers what the container's spec depends on.
func (s *starting) build(ctx context.Context, id string, img engine.Image) (engine.Spec, error) {
	p := s.p
	var err error
	_, ips := s.sandbox.state()
	in := spec.Input{
		Pod: s.pod, Container: s.named.Container, Role: s.named.Role, Attempt: s.attempt, ID: id, Image: img,
		Objects: objects{ctx, p.Client}, Services: p.services(s.pod.Namespace),
		PodIPs: ips, HostIPs: p.config.HostIPs, Allocatable: p.Allocatable(), MemoryCapacity: p.MemoryCapacity,
		Sandbox: s.sandbox.Sandbox, Volumes: map[string]host.Mounted{}, SubPaths: map[int]string{},
		CgroupPath: p.Cgroups.PodPath(s.sandbox.class, s.pod.UID), CgroupV2: p.Cgroups.V2(), PidsLimit: p.config.PodPidsLimit,
		OOMFloor: p.config.OOMFloor, SeccompDir: filepath.Join(p.config.RootDir, "seccomp"),
		LogPath: p.logPath(s.pod, s.named.Name, s.attempt), LogBytes: p.config.LogMaxBytes, LogFiles: p.config.LogMaxFiles,
	}
	maps.Copy(in.Volumes, s.sandbox.volumes)
	if in.PIDNamespace, err = s.pidNamespace(); err != nil {
		return engine.Spec{}, err
	}
	if in.Files, err = s.mounts(id); err != nil {
		return engine.Spec{}, err
	}
	if err := s.placeVolumes(ctx, &in); err != nil {
		return engine.Spec{}, err
	}
	if p.Devices != nil {
		if in.Devices, err = p.Devices.Edits(ctx, host.DeviceHolder{Pod: s.pod, Container: s.named.Container, Image: img}); err != nil {
			return engine.Spec{}, err
		}
		s.made = in.Devices.Made
	}
	if err := os.MkdirAll(filepath.Dir(in.LogPath), 0o755); err != nil {
		return engine.Spec{}, fmt.Errorf("making the log directory: %w", err)
	}
	return spec.Build(in)
}

// pidNamespace makes the namespace of a pod that shares its processes.
func (s *starting) pidNamespace() (string, error) {
	if s.pid != "" || s.pod.Spec.ShareProcessNamespace == nil || !*s.pod.Spec.ShareProcessNamespace {
		return s.pid, nil
	}
	s.sandbox.pauseMu.Lock()
	defer s.sandbox.pauseMu.Unlock()
	pin := s.p.pausePin(s.pod.UID)
	pid, err := pause.Start(s.p.config.PauseDir, pin)
	if err != nil {
		return "", err
	}
	return pin, s.p.Cgroups.Join(s.p.Cgroups.PodPath(s.sandbox.class, s.pod.UID), "pause", pid)
}

// pausePin is where the PID namespace of a pod is pinned, if it has one.
func (p *Pods) pausePin(uid types.UID) string {
	return filepath.Join(p.config.RunDir, "ns", string(uid), "pid")
}

// mounts are the files that the agent brings into every container.
func (s *starting) mounts(id string) ([]engine.Mount, error) {
	f := s.sandbox.files
	words := s.p.messageFile(s.pod, s.named.Name, id)
	if err := os.MkdirAll(filepath.Dir(words), 0o750); err != nil {
		return nil, fmt.Errorf("making the container's directory: %w", err)
	}
	if err := os.WriteFile(words, nil, 0o666); err != nil {
		return nil, fmt.Errorf("making the termination message file: %w", err)
	}
	if err := os.Chmod(words, 0o666); err != nil { // whatever the umask says
		return nil, fmt.Errorf("making the termination message file: %w", err)
	}
	readOnly := s.named.SecurityContext != nil && s.named.SecurityContext.ReadOnlyRootFilesystem != nil && *s.named.SecurityContext.ReadOnlyRootFilesystem
	return []engine.Mount{
		{Type: "bind", Source: f.hosts, Target: "/etc/hosts", ReadOnly: readOnly},
		{Type: "bind", Source: f.hostname, Target: "/etc/hostname", ReadOnly: readOnly},
		{Type: "bind", Source: f.resolv, Target: "/etc/resolv.conf", ReadOnly: readOnly},
		{Type: "bind", Source: f.shm, Target: "/dev/shm"},
		{Type: "bind", Source: words, Target: spec.MessagePath(s.named.Container)},
	}, nil
}

// services are those that environments name.
func (p *Pods) services(namespace string) []*core.Service {
	out := client.CachedList(p.Client, api.Services, namespace, nil)
	if s := client.Cached(p.Client, api.Services, api.NamespaceDefault, api.KubernetesService); s != nil && namespace != api.NamespaceDefault {
		out = append(out, s)
	}
	return out
}

// auths reads the pod's pull secrets. Missing ones are skipped, as upstream does.
func (p *Pods) auths(ctx context.Context, pod *core.Pod, ref string) []engine.Auth {
	var secrets []*core.Secret
	for _, r := range pod.Spec.ImagePullSecrets {
		s, err := client.Get(ctx, p.Client, api.Secrets, pod.Namespace, r.Name)
		if err != nil {
			p.Events.EventAt(p.reference(pod, ""), core.EventTypeWarning, "FailedToRetrieveImagePullSecret",
				fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", r.Name))
			continue
		}
		secrets = append(secrets, s)
	}
	auths, err := image.Auths(ref, secrets)
	if err != nil {
		p.Log.Warn("reading pull secrets failed", "namespace", pod.Namespace, "pod", pod.Name, "err", err)
	}
	return auths
}

// objects reads from the API server, within the operation's context.
type objects struct {
	ctx context.Context
	c   *client.Client
}

func (o objects) ConfigMap(namespace, name string) (*core.ConfigMap, error) {
	return client.Get(o.ctx, o.c, api.ConfigMaps, namespace, name)
}

func (o objects) Secret(namespace, name string) (*core.Secret, error) {
	return client.Get(o.ctx, o.c, api.Secrets, namespace, name)
}
