package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/host"
	"orch/agent/pods"
	"orch/agent/pods/spec"
	"orch/agent/stream"
	"orch/network/cni"
	"orch/network/netns"
	"orch/runtime/engine"
)

// pinned answers the agent's wish for namespaces with network/netns.
type pinned struct{}

var _ host.Namespaces = pinned{}

func (pinned) Create(_ context.Context, s host.Sandbox) error {
	want := netns.Spec{Hostname: s.Hostname}
	for _, n := range []struct {
		path string
		spec *string
	}{{s.NetNS, &want.Net}, {s.IPC, &want.IPC}, {s.UTS, &want.UTS}} {
		if n.path != "" && !netns.Is(n.path) {
			*n.spec = n.path
		}
	}
	return netns.Create(want)
}

func (pinned) Remove(_ context.Context, s host.Sandbox) error {
	var paths []string
	for _, p := range []string{s.NetNS, s.IPC, s.UTS} {
		if p != "" {
			paths = append(paths, p)
		}
	}
	return netns.Remove(paths...)
}

func (pinned) Pinned(path string) bool { return netns.Is(path) }

// podDialer reaches ports inside pods for port-forward.
type podDialer struct{}

func (podDialer) DialPod(ctx context.Context, ns string, port uint16) (conn net.Conn, err error) {
	err = netns.Do(ns, func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, "tcp", net.JoinHostPort("localhost", strconv.Itoa(int(port))))
		return err
	})
	return conn, err
}

// joined answers the agent's wish for pod networks with network/cni, once the
// node knows its range.
type joined struct{ *nodeNetwork }

var _ host.PodNetwork = joined{}

func podOf(s host.Sandbox) cni.Pod {
	p := cni.Pod{ID: string(s.UID), Namespace: s.Namespace, Name: s.Name, UID: string(s.UID), NetNS: s.NetNS,
		IngressBits: s.IngressBits, EgressBits: s.EgressBits}
	for _, m := range s.Ports {
		p.Ports = append(p.Ports, cni.PortMapping{HostPort: int(m.HostPort), ContainerPort: int(m.ContainerPort), Protocol: string(m.Protocol), HostIP: m.HostIP})
	}
	return p
}

func (j joined) Setup(ctx context.Context, s host.Sandbox) ([]netip.Addr, error) {
	n, err := j.wait(ctx)
	if err != nil {
		return nil, err
	}
	r, err := n.Setup(ctx, podOf(s))
	return r.IPs, err
}

func (j joined) Teardown(ctx context.Context, s host.Sandbox) error {
	n, err := j.wait(ctx)
	if err != nil {
		return err
	}
	return n.Teardown(ctx, podOf(s))
}

func (j joined) Keep(ctx context.Context, live map[types.UID]bool) error {
	n, err := j.wait(ctx)
	if err != nil {
		return err
	}
	return n.Keep(ctx, func(id string) bool { return live[types.UID(id)] })
}

// Changed closes when pods can be joined; afterwards nothing changes any more.
func (j joined) Changed() <-chan struct{} {
	select {
	case <-j.ready:
		return nil
	default:
		return j.ready
	}
}

// shown tells the stream handler what runs, from what the agent shows of its pods.
type shown struct{ *pods.Pods }

func (s shown) Lookup(namespace, name string) (stream.Pod, bool) {
	found, ok := s.Pods.Lookup(namespace, name)
	if !ok {
		return stream.Pod{}, false
	}
	out := stream.Pod{UID: found.Pod.UID, NetNS: found.NetNS}
	terminals := map[string][2]bool{} // TTY, Stdin
	for _, list := range [][]core.Container{found.Pod.Spec.InitContainers, found.Pod.Spec.Containers} {
		for _, c := range list {
			terminals[c.Name] = [2]bool{c.TTY, c.Stdin}
		}
	}
	for _, c := range found.Pod.Spec.EphemeralContainers {
		terminals[c.Name] = [2]bool{c.TTY, c.Stdin}
	}
	for _, c := range found.Containers {
		out.Containers = append(out.Containers, stream.Container{Name: c.Name, ID: c.ID, Running: c.State == engine.Running,
			TTY: terminals[c.Name][0], Stdin: terminals[c.Name][1], LogPath: c.LogPath, PreviousLogPath: c.PreviousLogPath})
	}
	return out, true
}

// fields gives volumes the values of the downward API, as the environment has them.
type fields struct{ allocatable func() core.ResourceList }

func (fields) Field(pod *core.Pod, path string) (string, error) { return spec.Field(pod, path) }

func (f fields) Resource(pod *core.Pod, ref *core.ResourceFieldSelector) (string, error) {
	for _, list := range [][]core.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == ref.ContainerName {
				return spec.Resource(&list[i], ref, f.allocatable())
			}
		}
	}
	return "", fmt.Errorf("container %s not found", ref.ContainerName)
}
