package pods_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"orch/agent/cgroup"
	"orch/agent/host"
	"orch/agent/image"
	"orch/agent/pods"
	"orch/agent/pods/spec"
	"orch/api"
	"orch/api/client"
	"orch/datastore/memory"
	"orch/runtime/engine"
	"orch/runtime/fakeengine"
	"orch/server/registry"
)

// patience is how long a test waits for what must happen, on a machine that is busy.
const patience = time.Minute

// rig is a node on a real registry over the memory store, with a fake engine, network
// and volumes.
type rig struct {
	t       *testing.T
	client  *client.Client
	engine  *fakeengine.Engine
	config  pods.Config
	deps    pods.Deps
	net     *fakeNet
	volumes *fakeVolumes
	events  *recorder
	pods    *pods.Pods
	stop    func()
}

func newRig(t *testing.T, o fakeengine.Options) *rig {
	t.Helper()
	reg, err := registry.New(registry.Config{Store: memory.New(), Resources: registry.BuiltIn(), Now: time.Now, Log: slog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- reg.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-reg.Ready()
	dir := t.TempDir()
	group := "orch-test-" + filepath.Base(filepath.Dir(dir))
	t.Cleanup(func() { clean(t, dir, group) })
	tree, err := cgroup.New(cgroup.Config{Root: group})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, client: reg.Client(registry.User{Name: "system:node:n1", Groups: []string{api.GroupNodes}}), engine: fakeengine.New(o),
		net: &fakeNet{ips: map[types.UID]netip.Addr{}}, volumes: &fakeVolumes{}, events: &recorder{}}
	r.config = pods.Config{NodeName: "n1", HostIPs: []string{"192.0.2.1"}, RootDir: filepath.Join(dir, "root"), RunDir: filepath.Join(dir, "run"),
		LogDir: filepath.Join(dir, "logs"), DNS: spec.DNS{Servers: []string{"10.43.0.10"}, Domain: "cluster.local"}}
	r.deps = pods.Deps{Client: r.client, Engine: r.engine, Network: r.net, Namespaces: &fakeNamespaces{pinned: map[string]bool{}}, Volumes: r.volumes, Cgroups: tree,
		Puller: image.NewPuller(r.engine.Images(), 3, nil), Events: r.events, Allocatable: func() core.ResourceList { return core.ResourceList{} }, Log: slog.Default()}
	must(t, client.Create[core.Namespace], ctx, r.client, api.Namespaces, &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	r.start()
	t.Cleanup(func() { r.stop() })
	return r
}

func must[T any, P client.PtrTo[T]](t *testing.T, do func(context.Context, client.Transport, api.Kind[T], P) (*T, error), ctx context.Context, c client.Transport, k api.Kind[T], o P) *T {
	t.Helper()
	out, err := do(ctx, c, k, o)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// start runs the pods; stop ends that, as a restart of the agent would.
func (r *rig) start() {
	p, err := pods.New(r.config, r.deps)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	var once sync.Once
	r.pods, r.stop = p, func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				r.t.Error(err)
			}
		})
	}
	select {
	case <-p.Synced():
	case <-time.After(patience):
		r.t.Fatal("pods did not sync")
	}
}

// create makes a pod that is bound to the node.
func (r *rig) create(text string) *core.Pod {
	r.t.Helper()
	pod := &core.Pod{}
	if err := yaml.UnmarshalStrict([]byte(text), pod); err != nil {
		r.t.Fatal(err)
	}
	pod.Namespace, pod.Spec.NodeName = "default", "n1"
	return must(r.t, client.Create[core.Pod], context.Background(), r.client, api.Pods, pod)
}

// await returns the pod once cond holds.
func (r *rig) await(name, what string, cond func(*core.Pod) bool) *core.Pod {
	r.t.Helper()
	var last *core.Pod
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	found := make(chan *core.Pod, 1)
	var mu sync.Mutex
	err := r.client.Subscribe(ctx, api.Pods.Facts, func(c client.Change) {
		if o, ok := c.New.(*core.Pod); ok && o.Name == name {
			mu.Lock()
			last = o
			mu.Unlock()
			if cond(o) {
				select {
				case found <- o:
				default:
				}
			}
		}
	})
	if err != nil {
		r.t.Fatal(err)
	}
	select {
	case p := <-found:
		return p
	case <-ctx.Done():
		mu.Lock()
		defer mu.Unlock()
		var b []byte
		if last != nil {
			b, _ = yaml.Marshal(last.Status)
		}
		r.t.Fatalf("waiting for %s to be %s; last status:\n%s\nevents: %s\ncalls: %s", name, what, b, r.events.all(), strings.Join(r.engine.Calls(), "\n"))
		return nil
	}
}

func (r *rig) awaitGone(name string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	gone := make(chan struct{}, 1)
	if err := r.client.Subscribe(ctx, api.Pods.Facts, func(c client.Change) {
		if o, ok := c.Old.(*core.Pod); ok && o.Name == name && c.New == nil {
			gone <- struct{}{}
		}
	}); err != nil {
		r.t.Fatal(err)
	}
	if _, err := client.Get(ctx, r.client, api.Pods, "default", name); apierrors.IsNotFound(err) {
		return
	}
	select {
	case <-gone:
	case <-ctx.Done():
		r.t.Fatalf("pod %s did not go; calls: %s", name, strings.Join(r.engine.Calls(), "\n"))
	}
}

func (r *rig) delete(name string) {
	r.t.Helper()
	if err := client.Delete(context.Background(), r.client, api.Pods, "default", name, metav1.DeleteOptions{}); err != nil {
		r.t.Fatal(err)
	}
}

func ready(p *core.Pod) bool { return conditionIs(p, core.PodReady, core.ConditionTrue) }

// waitsFor tells whether the first container waits for that reason.
func waitsFor(reason string) func(*core.Pod) bool {
	return func(p *core.Pod) bool {
		s := p.Status.ContainerStatuses
		return len(s) > 0 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == reason
	}
}

func conditionIs(p *core.Pod, t core.PodConditionType, s core.ConditionStatus) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c core.PodCondition) bool { return c.Type == t && c.Status == s })
}

type fakeNet struct {
	mu   sync.Mutex
	next byte
	ips  map[types.UID]netip.Addr
	err  error
}

func (f *fakeNet) Setup(_ context.Context, s host.Sandbox) ([]netip.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return nil, f.err
	}
	if _, ok := f.ips[s.UID]; !ok {
		f.next++
		f.ips[s.UID] = netip.AddrFrom4([4]byte{10, 42, 0, f.next})
	}
	return []netip.Addr{f.ips[s.UID]}, nil
}

func (f *fakeNet) Teardown(_ context.Context, s host.Sandbox) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.ips, s.UID)
	return nil
}
func (f *fakeNet) Keep(context.Context, map[types.UID]bool) error { return nil }
func (f *fakeNet) Ready() error                                   { return nil }

func (f *fakeNet) Changed() <-chan struct{} { return nil }

func (f *fakeNet) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

type fakeNamespaces struct {
	mu     sync.Mutex
	pinned map[string]bool
}

func (f *fakeNamespaces) Create(_ context.Context, s host.Sandbox) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range []string{s.NetNS, s.IPC, s.UTS} {
		if p != "" {
			f.pinned[p] = true
		}
	}
	return nil
}

func (f *fakeNamespaces) Remove(_ context.Context, s host.Sandbox) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range []string{s.NetNS, s.IPC, s.UTS} {
		delete(f.pinned, p)
	}
	return nil
}

func (f *fakeNamespaces) Pinned(path string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pinned[path]
}

type fakeVolumes struct{}

func (*fakeVolumes) Mount(_ context.Context, pod *core.Pod) (map[string]host.Mounted, error) {
	out := map[string]host.Mounted{}
	for _, v := range pod.Spec.Volumes {
		if v.Image != nil {
			continue
		}
		out[v.Name] = host.Mounted{Path: "/volumes/" + v.Name}
	}
	return out, nil
}
func (*fakeVolumes) SubPath(_ context.Context, s host.SubPath) (string, error) {
	return filepath.Join(s.Host.Path, s.Path), nil
}
func (*fakeVolumes) Image(_ context.Context, v host.ImageVolume) (host.Mounted, error) {
	if v.Path == "absent" {
		return host.Mounted{}, errors.New("ImageVolumeMountFailed: no such file or directory")
	}
	return host.Mounted{Path: filepath.Join("/images", v.Image, v.Path), ReadOnly: true}, nil
}
func (*fakeVolumes) Images() ([]string, error)                { return nil, nil }
func (*fakeVolumes) Unmount(context.Context, types.UID) error { return nil }

type recorder struct {
	mu   sync.Mutex
	list []string
}

func (r *recorder) EventAt(ref core.ObjectReference, eventType, reason, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, fmt.Sprintf("%s %s %s %s: %s", ref.Name, ref.FieldPath, eventType, reason, message))
}

func (r *recorder) all() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.list, "\n")
}

var _ engine.Engine = (*fakeengine.Engine)(nil)

// clean takes away what pods that were still there left on the host.
func clean(t *testing.T, dir, group string) {
	mounts, err := filepath.Glob(filepath.Join(dir, "run/pods/*/shm"))
	if err != nil {
		t.Error(err)
	}
	for _, m := range mounts {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil && err != unix.EINVAL {
			t.Error(err)
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/" + group, "/sys/fs/cgroup/" + group} {
		roots, err := filepath.Glob(pattern)
		if err != nil {
			t.Error(err)
		}
		for _, root := range roots {
			rmdirs(t, root)
		}
	}
}

func rmdirs(t *testing.T, dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			rmdirs(t, filepath.Join(dir, e.Name()))
		}
	}
	if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
		t.Error(err)
	}
}
