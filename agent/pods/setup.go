package pods

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"orch/agent/host"
	"orch/agent/pods/spec"
	"orch/agent/pods/status"
	"orch/api"
	"orch/api/client"
)

// sandbox is what a pod's containers share, while it is made and afterwards. The
// parts come up side by side; operations wait for those that they need:
//
//	namespaces ─ network        -> net
//	volumes, cgroup, files      -> base (with the namespaces)
//
// A part that fails is tried again until the pod is stopped.
type sandbox struct {
	host.Sandbox
	cancel context.CancelFunc
	// parts are the goroutines that make it; takedown waits for them.
	parts sync.WaitGroup
	// base and net are closed once the part is there; before, its fields are unset.
	base, net chan struct{}
	volumes   map[string]host.Mounted
	files     files
	ips       []string
	pod       atomic.Pointer[core.Pod] // newest spec, for retries
	class     core.PodQOSClass
	update    func(pod *core.Pod)
	// pauseMu lets one start at a time make the shared PID namespace.
	pauseMu sync.Mutex
}

// Retry times of a part.
const (
	partFirstRetry = 250 * time.Millisecond
	partMaxRetry   = 15 * time.Second
)

// prepare begins to make the sandbox, once.
func (w *worker) prepare(ctx context.Context) {
	if w.sandbox != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	s := newSandbox(w.p.config, w.pod)
	s.cancel = cancel
	s.class = w.last.QOSClass
	if s.class == "" {
		s.class = status.QOS(w.pod)
	}
	p := w.p
	s.update = func(pod *core.Pod) {
		if err := p.Cgroups.EnsurePod(pod, s.class); err != nil {
			p.Log.Warn("updating a pod's control group failed", "namespace", pod.Namespace, "pod", pod.Name, "err", err)
		}
	}
	w.sandbox = s
	var known []string
	if w.known != nil {
		s.Sandbox, known = w.known.sandbox.Sandbox, w.known.sandbox.IPs
	}
	w.bringUp(ctx, s, known)
	w.sweep(ctx)
}

// sweep kills and removes containers that an earlier run left and that have no
// place in the pod.
func (w *worker) sweep(ctx context.Context) {
	strays := w.strays
	w.strays = nil
	if len(strays) == 0 {
		return
	}
	p := w.p
	p.wg.Go(func() {
		for _, id := range strays {
			p.removeStray(ctx, id)
		}
	})
}

func (p *Pods) removeStray(ctx context.Context, id string) {
	_ = p.Engine.Signal(ctx, id, int(unix.SIGKILL), true) // Remove says what is wrong
	for wait := endFirstRetry; wait < endMaxRetry; wait *= 2 {
		err := p.Engine.Remove(ctx, id)
		if err == nil || ctx.Err() != nil {
			return
		}
		p.Log.Debug("removing a left-over container failed", "container", id, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	p.Log.Warn("removing a left-over container was given up", "container", id)
}

// bringUp starts the parts. known are the addresses of a network that is there already.
func (w *worker) bringUp(ctx context.Context, s *sandbox, known []string) {
	p, box := w.p, w.box
	namespaces := make(chan struct{})
	s.parts.Go(func() {
		if w.part(ctx, "FailedCreatePodSandBox", func() error { return p.Namespaces.Create(ctx, s.Sandbox) }) {
			close(namespaces)
		}
	})
	s.parts.Go(func() {
		select {
		case <-namespaces:
		case <-ctx.Done():
			return
		}
		if !w.part(ctx, "FailedCreatePodSandBox", func() error { return p.join(ctx, s, known) }) {
			return
		}
		close(s.net)
		box.post(func() {})
	})
	s.parts.Go(func() {
		parts := []func() bool{
			func() bool {
				return w.part(ctx, "FailedMount", func() (err error) {
					s.volumes, err = p.Volumes.Mount(ctx, s.pod.Load())
					return err
				})
			},
			func() bool {
				return w.part(ctx, "FailedCreatePodContainer", func() error { return p.Cgroups.EnsurePod(s.pod.Load(), s.class) })
			},
			func() bool {
				return w.part(ctx, "FailedCreatePodSandBox", func() (err error) {
					s.files, err = p.makeFiles(s.pod.Load(), s.Sandbox)
					return err
				})
			},
		}
		if p.Devices != nil && claims(s.pod.Load()) {
			parts = append(parts, func() bool {
				return w.part(ctx, "FailedPrepareDynamicResources", func() error { return p.Devices.PrepareClaims(ctx, p.newest(s.pod.Load())) })
			})
		}
		done := make(chan bool, len(parts))
		for _, f := range parts {
			s.parts.Go(func() { done <- f() })
		}
		if pre, ok := p.Engine.(interface {
			PreparePod(ctx context.Context, podUID string) error
		}); ok {
			s.parts.Go(func() { _ = pre.PreparePod(ctx, string(s.UID)) }) // a head start only: Start says what is wrong
		}
		ok := true
		for range parts {
			ok = <-done && ok
		}
		if !ok {
			return
		}
		select {
		case <-namespaces:
			close(s.base)
		case <-ctx.Done():
		}
	})
	p.wg.Go(s.parts.Wait)
}

// part does one part of the sandbox until it succeeds; false if it was given up.
func (w *worker) part(ctx context.Context, reason string, do func() error) bool {
	retry := partFirstRetry
	told := ""
	for {
		err := do()
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if text := err.Error(); text != told || retry >= partMaxRetry {
			told = text
			w.box.post(func() { w.event(core.EventTypeWarning, reason, partMessage(reason, text)) })
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(retry):
		}
		retry = min(2*retry, partMaxRetry)
	}
}

func partMessage(reason, text string) string {
	switch reason {
	case "FailedCreatePodSandBox":
		return "Failed to create pod sandbox: " + text
	case "FailedPrepareDynamicResources":
		return "Failed to prepare dynamic resources: " + text
	case "FailedCreatePodContainer":
		return "unable to ensure pod container exists: " + text
	}
	return text
}

// claims tells whether a pod has ResourceClaims, also one for its extended resources.
func claims(pod *core.Pod) bool {
	return len(pod.Spec.ResourceClaims) > 0 || pod.Status.ExtendedResourceClaimStatus != nil
}

// newest is the pod as the API has it: the names of claims come by its status.
func (p *Pods) newest(pod *core.Pod) *core.Pod {
	if now := client.Cached(p.Client, api.Pods, pod.Namespace, pod.Name); now != nil && now.UID == pod.UID {
		return now
	}
	return pod
}

func newSandbox(c Config, pod *core.Pod) *sandbox {
	s := &sandbox{base: make(chan struct{}), net: make(chan struct{})}
	s.pod.Store(pod)
	s.Namespace, s.Name, s.UID = pod.Namespace, pod.Name, pod.UID
	dir := filepath.Join(c.RunDir, "ns", string(pod.UID))
	if !pod.Spec.HostNetwork {
		s.NetNS, s.UTS = filepath.Join(dir, "net"), filepath.Join(dir, "uts")
		s.Hostname = spec.UTSName(pod, c.DNS.Domain)
		s.Ports = portMappings(pod)
		s.IngressBits = bits(pod.Annotations["kubernetes.io/ingress-bandwidth"])
		s.EgressBits = bits(pod.Annotations["kubernetes.io/egress-bandwidth"])
	}
	if !pod.Spec.HostIPC {
		s.IPC = filepath.Join(dir, "ipc")
	}
	return s
}

func bits(text string) int64 {
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return 0
	}
	return q.Value()
}

func portMappings(pod *core.Pod) []host.PortMapping {
	var out []host.PortMapping
	for _, list := range [][]core.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for _, c := range list {
			for _, p := range c.Ports {
				if p.HostPort > 0 {
					out = append(out, host.PortMapping{HostIP: p.HostIP, HostPort: p.HostPort, ContainerPort: p.ContainerPort, Protocol: p.Protocol})
				}
			}
		}
	}
	return out
}

// join brings the pod into the network, and writes down what came of it.
func (p *Pods) join(ctx context.Context, s *sandbox, known []string) error {
	switch {
	case len(known) > 0:
		s.ips = known
		return nil
	case s.NetNS == "":
		s.ips = p.config.HostIPs
	default:
		if !await(ctx, p.kept) {
			return ctx.Err()
		}
		if err := p.Network.Ready(); err != nil {
			return fmt.Errorf("network is not ready: %w", err)
		}
		ips, err := p.Network.Setup(ctx, s.Sandbox)
		if err != nil {
			return fmt.Errorf("setting up the pod's network: %w", err)
		}
		s.ips = addresses(ips)
	}
	if err := p.writeHosts(s.pod.Load(), s.ips); err != nil {
		return err
	}
	return p.save(saved{s.Sandbox, s.ips})
}

func addresses(ips []netip.Addr) []string {
	var out []string
	for _, ip := range ips {
		out = append(out, ip.String())
	}
	return out
}

// state tells whether containers can start, and the pod's addresses.
func (s *sandbox) state() (ready bool, ips []string) {
	select {
	case <-s.net:
		return true, s.ips
	default:
		return false, nil
	}
}

// stopTrying ends the making of parts; what is there stays until teardown.
func (s *sandbox) stopTrying() { s.cancel() }

// respec brings limits of the pod up to a changed spec.
func (s *sandbox) respec(pod *core.Pod) {
	s.pod.Store(pod)
	select {
	case <-s.base:
		s.update(pod)
	default:
	}
}
