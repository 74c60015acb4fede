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

// DialPod tries the loopback addresses one after the other. Both at once, as the
// name localhost would be dialled, is done by threads outside the namespace.
func (podDialer) DialPod(ctx context.Context, ns string, port uint16) (conn net.Conn, err error) {
	err = netns.Do(ns, func() error {
		var d net.Dialer
		var errs [2]error
		for i, loopback := range []string{"127.0.0.1", "::1"} {
			if conn, errs[i] = d.DialContext(ctx, "tcp", net.JoinHostPort(loopback, strconv.Itoa(int(port)))); errs[i] == nil {
				return nil
			}
		}
		return fmt.Errorf("failed to connect to localhost:%d inside the pod's network namespace: %w; %w", port, errs[0], errs[1])
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
	for _, c := range declared(found.Pod) {
		c.Waiting = waitingReason(&found.Status, c.Name)
		if made, ok := found.Find(c.Name); ok {
			c.ID, c.Running, c.LogPath, c.PreviousLogPath = made.ID, made.State == engine.Running, made.LogPath, made.PreviousLogPath
		}
		out.Containers = append(out.Containers, c)
	}
	return out, true
}

// declared are the containers that a pod's spec names.
func declared(pod *core.Pod) []stream.Container {
	var out []stream.Container
	for _, list := range [][]core.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range list {
			out = append(out, stream.Container{Name: c.Name, TTY: c.TTY, Stdin: c.Stdin})
		}
	}
	for _, c := range pod.Spec.EphemeralContainers {
		out = append(out, stream.Container{Name: c.Name, TTY: c.TTY, Stdin: c.Stdin})
	}
	return out
}

func waitingReason(s *core.PodStatus, container string) string {
	for _, list := range [][]core.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for _, c := range list {
			if c.Name == container && c.State.Waiting != nil {
				return c.State.Waiting.Reason
			}
		}
	}
	return ""
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
