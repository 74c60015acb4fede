package plugins

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"orch/agent/devices"
	"orch/agent/host"
	"orch/agent/plugins/fakeplugin"
	"orch/runtime/engine"
)

const patience = time.Minute

// rig is a node's side: the plugins and the ledger, over a folder that outlives them.
type rig struct {
	t     testing.TB
	dir   string
	own   devices.Provider // beside the plugins; may be nil
	grace time.Duration
	limit *limits

	*Plugins
	ledger *devices.Manager
	stop   func()
	mu     sync.Mutex
	served []string
}

func newRig(t testing.TB) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "dp") // short: sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: dir, grace: time.Hour}
	t.Cleanup(func() {
		if r.stop != nil {
			r.stop()
		}
		os.RemoveAll(dir)
	})
	return r
}

// start begins a life of orch.
func (r *rig) start() *rig {
	r.t.Helper()
	var err error
	r.Plugins, err = New(Config{Dir: filepath.Join(r.dir, "device-plugins"), Path: filepath.Join(r.dir, "known.json"), Grace: r.grace,
		Served: func(name string, serving bool) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.served = append(r.served, fmt.Sprint(name, " ", serving))
		},
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		r.t.Fatal(err)
	}
	if r.limit != nil {
		r.limits = *r.limit
	}
	providers := []devices.Provider{r.Plugins}
	if r.own != nil {
		providers = append(providers, r.own)
	}
	r.ledger, err = devices.New(devices.Config{Path: filepath.Join(r.dir, "ledger.json"), Providers: append(providers, Gone{r.Plugins}), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	plugins, ledger := r.Plugins, r.ledger
	wg.Go(func() {
		if err := plugins.Run(ctx); err != nil {
			r.t.Error(err)
		}
	})
	wg.Go(func() { _ = ledger.Run(ctx) })
	r.stop = func() { cancel(); wg.Wait(); r.stop = nil }
	eventually(r.t, "the socket is there", func() bool {
		_, err := os.Stat(plugins.Socket())
		return err == nil
	})
	return r
}

// again ends this life of orch and begins another.
func (r *rig) again() {
	r.stop()
	r.start()
}

// plugin runs p in the rig's folder until the returned function is called.
func (r *rig) plugin(p *fakeplugin.Plugin) (kill func()) {
	r.t.Helper()
	p.Dir = filepath.Join(r.dir, "device-plugins")
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.Run(ctx); err != nil {
			r.t.Error(err)
		}
	})
	var once sync.Once
	kill = func() { once.Do(func() { cancel(); wg.Wait() }) }
	r.t.Cleanup(kill)
	return kill
}

func (r *rig) has(name string, capacity, allocatable int64) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("%s: %d of %d", name, allocatable, capacity), func() bool {
		c, a := r.ledger.Resources()
		qc, ok := c[core.ResourceName(name)]
		qa := a[core.ResourceName(name)]
		return ok && qc.Value() == capacity && qa.Value() == allocatable
	})
}

func eventually(t testing.TB, what string, check func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if check() {
			return
		}
	}
	t.Fatal("never: " + what)
}

const (
	nvidiaGPU = "nvidia.com/gpu"
	amdGPU    = "amd.com/gpu"
)

// nvidiaLike answers as NVIDIA's plugin does by default: with a variable for its runtime.
func nvidiaLike(ids ...string) *fakeplugin.Plugin {
	p := &fakeplugin.Plugin{Resource: nvidiaGPU, Endpoint: "nvidia-gpu.sock",
		Give: func(_ context.Context, ids []string) (*api.ContainerAllocateResponse, error) {
			return &api.ContainerAllocateResponse{Envs: map[string]string{"NVIDIA_VISIBLE_DEVICES": strings.Join(ids, ",")}}, nil
		}}
	p.Options.GetPreferredAllocationAvailable = true
	p.Prefer = func(_ context.Context, r *api.ContainerPreferredAllocationRequest) ([]string, error) {
		ids := slices.Clone(r.AvailableDeviceIDs) // the last ones first, with those that must be
		slices.Sort(ids)
		slices.Reverse(ids)
		ids = slices.DeleteFunc(ids, func(id string) bool { return slices.Contains(r.MustIncludeDeviceIDs, id) })
		return slices.Concat(r.MustIncludeDeviceIDs, ids)[:r.AllocationSize], nil
	}
	p.Set(fakeplugin.Devices(ids...))
	return p
}

// amdLike answers as AMD's plugin does: with device nodes.
func amdLike(ids ...string) *fakeplugin.Plugin {
	p := &fakeplugin.Plugin{Resource: amdGPU, Endpoint: "amd.com_gpu",
		Give: func(_ context.Context, ids []string) (*api.ContainerAllocateResponse, error) {
			a := &api.ContainerAllocateResponse{Devices: []*api.DeviceSpec{{HostPath: "/dev/kfd", ContainerPath: "/dev/kfd", Permissions: "rw"}}}
			for _, id := range ids {
				a.Devices = append(a.Devices, &api.DeviceSpec{HostPath: "/dev/dri/" + id, ContainerPath: "/dev/dri/" + id, Permissions: "rw"})
			}
			return a, nil
		}}
	p.Set(fakeplugin.Devices(ids...))
	return p
}

func pod(uid, name string, counts ...int) *core.Pod {
	p := &core.Pod{}
	p.Namespace, p.Name, p.UID = "ns", uid, types.UID(uid)
	for i, n := range counts {
		c := core.Container{Name: fmt.Sprint("c", i)}
		c.Resources.Limits = core.ResourceList{core.ResourceName(name): *quantity.NewQuantity(int64(n), quantity.DecimalSI)}
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	return p
}

// take admits a pod and makes its first container.
func (r *rig) take(p *core.Pod) (host.DeviceEdits, error) {
	if err := r.ledger.Admit(p); err != nil {
		return host.DeviceEdits{}, err
	}
	if err := r.ledger.Prepare(context.Background(), p); err != nil {
		return host.DeviceEdits{}, err
	}
	return r.ledger.Edits(context.Background(), host.DeviceHolder{Pod: p, Container: &p.Spec.Containers[0]})
}

func TestNVIDIALike(t *testing.T) {
	r := newRig(t).start()
	r.plugin(nvidiaLike("GPU-0", "GPU-1", "GPU-2"))
	r.has(nvidiaGPU, 3, 3)
	e, err := r.take(pod("a", nvidiaGPU, 2))
	if want := []core.EnvVar{{Name: "NVIDIA_VISIBLE_DEVICES", Value: "GPU-2,GPU-1"}}; err != nil || !reflect.DeepEqual(e.Env, want) {
		t.Errorf("got %v, %v, want the plugin's preference %v", e.Env, err, want)
	}
	if _, err := r.take(pod("b", nvidiaGPU, 2)); err == nil || err.Error() != "Allocate failed due to requested number of devices unavailable for nvidia.com/gpu. Requested: 2, Available: 1, which is unexpected" {
		t.Error(err)
	}
}

// TestNativeRuntime: an answer for NVIDIA's container runtime gets what that would add.
func TestNativeRuntime(t *testing.T) {
	r := newRig(t).start()
	r.config.Native = func(_ context.Context, c host.DeviceHolder, name string, ids []string) (host.DeviceEdits, bool, error) {
		return host.DeviceEdits{Env: []core.EnvVar{{Name: "NVIDIA_VISIBLE_DEVICES", Value: "void"}}, Devices: []engine.Device{{Host: "/dev/" + ids[0]}}}, name == nvidiaGPU, nil
	}
	r.plugin(nvidiaLike("GPU-0"))
	r.plugin(amdLike("renderD128"))
	r.has(nvidiaGPU, 1, 1)
	r.has(amdGPU, 1, 1)
	e, err := r.take(pod("a", nvidiaGPU, 1))
	if err != nil || len(e.Devices) != 1 || e.Env[len(e.Env)-1].Value != "GPU-0" {
		t.Error(e, err)
	}
	e, err = r.take(pod("b", amdGPU, 1))
	want := []engine.Device{{Host: "/dev/kfd", Target: "/dev/kfd", Permissions: "rw"}, {Host: "/dev/dri/renderD128", Target: "/dev/dri/renderD128", Permissions: "rw"}}
	if err != nil || !reflect.DeepEqual(e.Devices, want) {
		t.Error(e, err)
	}
}

func TestAnswers(t *testing.T) {
	r := newRig(t).start()
	missing := filepath.Join(t.TempDir(), "opt", "x") // upstream's sample plugin mounts what only its own container has: no container started
	p := amdLike("0")
	p.Give = func(context.Context, []string) (*api.ContainerAllocateResponse, error) {
		return &api.ContainerAllocateResponse{
			Envs: map[string]string{"B": "2", "A": "1"}, Mounts: []*api.Mount{{HostPath: missing, ContainerPath: "/x", ReadOnly: true}},
			Annotations: map[string]string{"cdi.k8s.io/amd_1": "amd.com/gpu=0,amd.com/gpu=1", "other": "x"}, CdiDevices: []*api.CDIDevice{{Name: "amd.com/gpu=0"}},
		}, nil
	}
	r.plugin(p)
	r.has(amdGPU, 1, 1)
	e, err := r.take(pod("a", amdGPU, 1))
	want := host.DeviceEdits{
		Env:         []core.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}},
		Mounts:      []engine.Mount{{Type: "bind", Source: missing, Target: "/x", ReadOnly: true}},
		Annotations: map[string]string{"cdi.k8s.io/amd_1": "amd.com/gpu=0,amd.com/gpu=1", "other": "x"},
		CDI:         []string{"amd.com/gpu=0", "amd.com/gpu=1"}, Held: map[string][]string{amdGPU: {"0"}},
	}
	if err != nil || !reflect.DeepEqual(e, want) {
		t.Errorf("got %+v, %v\nwant %+v", e, err, want)
	}
	if st, err := os.Stat(missing); err != nil || !st.IsDir() {
		t.Errorf("the mount has no source: %v", err)
	}
}

func TestGarbageIsRefused(t *testing.T) {
	r := newRig(t).start()
	dir := filepath.Join(r.dir, "device-plugins")
	for _, tc := range []struct{ version, name, endpoint, want string }{
		{"v1alpha", amdGPU, "a.sock", `requested API version "v1alpha" is not supported by kubelet. Supported version is ["v1beta1"]`},
		{api.Version, "gpu", "a.sock", `the ResourceName "gpu" is invalid`},
		{api.Version, "kubernetes.io/gpu", "a.sock", `the ResourceName "kubernetes.io/gpu" is invalid`},
		{api.Version, "x.kubernetes.io/gpu", "a.sock", "is invalid"},
		{api.Version, "requests.amd.com/gpu", "a.sock", "is invalid"},
		{api.Version, "amd.com/" + strings.Repeat("x", 64), "a.sock", "is invalid"},
		{api.Version, amdGPU, "../a.sock", "bad socketPath"},
		{api.Version, amdGPU, "/run/a.sock", "bad socketPath"},
		{api.Version, amdGPU, "kubelet.sock", "bad socketPath"},
		{api.Version, amdGPU, "", "bad socketPath"},
		{api.Version, amdGPU, strings.Repeat("x", maxRegistration), "larger than max"},
	} {
		err := fakeplugin.Register(t.Context(), dir, &api.RegisterRequest{Version: tc.version, ResourceName: tc.name, Endpoint: tc.endpoint})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%.80v: %v, want %s", tc, err, tc.want)
		}
	}
	if got := r.Offer(); len(got) != 0 {
		t.Errorf("garbage is offered: %v", got)
	}
}

// TestRegistersAndDoesNotAnswer: nothing behind the endpoint, or something that speaks
// another language, costs no more than the limit and leaves nothing behind.
func TestRegistersAndDoesNotAnswer(t *testing.T) {
	r := newRig(t)
	l := defaultLimits()
	l.connect = 300 * time.Millisecond
	r.limit = &l
	r.start()
	dir := filepath.Join(r.dir, "device-plugins")
	listener, err := net.Listen("unix", filepath.Join(dir, "noise.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.0 418 teapot\r\n\r\n")
			c.Close()
		}
	}()
	for _, endpoint := range []string{"absent.sock", "noise.sock"} {
		err := fakeplugin.Register(t.Context(), dir, &api.RegisterRequest{Version: api.Version, ResourceName: amdGPU, Endpoint: endpoint})
		if err == nil || !strings.Contains(err.Error(), "failed to get device plugin options") {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
	if len(r.resources) != 0 {
		t.Error("a plugin that never answered is known")
	}
}

func TestBadAnswersRejectThePod(t *testing.T) {
	for name, tc := range map[string]struct {
		give func(context.Context, []string) (*api.ContainerAllocateResponse, error)
		want string
	}{
		"refused": {func(context.Context, []string) (*api.ContainerAllocateResponse, error) {
			return nil, errors.New("request too large")
		},
			"Allocate failed due to rpc error: code = Unknown desc = request too large, which is unexpected"},
		"nothing": {func(context.Context, []string) (*api.ContainerAllocateResponse, error) { return nil, nil }, "Allocate failed due to no containers return in allocation response"},
		"slow": {func(ctx context.Context, _ []string) (*api.ContainerAllocateResponse, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, "DeadlineExceeded"},
		"mount": {func(context.Context, []string) (*api.ContainerAllocateResponse, error) {
			return &api.ContainerAllocateResponse{Mounts: []*api.Mount{{HostPath: "../etc", ContainerPath: "/x"}}}, nil
		}, "not having absolute paths"},
		"device": {func(context.Context, []string) (*api.ContainerAllocateResponse, error) {
			return &api.ContainerAllocateResponse{Devices: []*api.DeviceSpec{{HostPath: "/dev/x", Permissions: "all"}}}, nil
		}, `with permissions "all"`},
		"cdi": {func(context.Context, []string) (*api.ContainerAllocateResponse, error) {
			return &api.ContainerAllocateResponse{CdiDevices: []*api.CDIDevice{{Name: "gpu0"}}}, nil
		}, "not being a qualified name"},
		"env": {func(context.Context, []string) (*api.ContainerAllocateResponse, error) {
			return &api.ContainerAllocateResponse{Envs: map[string]string{"A=B": "x"}}, nil
		}, "variable"},
		"huge": {func(context.Context, []string) (*api.ContainerAllocateResponse, error) {
			return &api.ContainerAllocateResponse{Envs: map[string]string{"A": strings.Repeat("x", 300<<10)}}, nil
		}, "262144 are the most"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			l := defaultLimits()
			l.allocate = 200 * time.Millisecond
			if name != "slow" {
				l.allocate = patience
			}
			r.limit = &l
			r.start()
			p := amdLike("0")
			p.Give = tc.give
			r.plugin(p)
			r.has(amdGPU, 1, 1)
			if _, err := r.take(pod("a", amdGPU, 1)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
}

// TestSlowPreference: a plugin that thinks for ever about which device does not keep pods
// from any; one that refuses does, as upstream has it.
func TestSlowPreference(t *testing.T) {
	r := newRig(t)
	l := defaultLimits()
	l.prefer = 100 * time.Millisecond
	r.limit = &l
	r.start()
	p := nvidiaLike("GPU-0", "GPU-1", "GPU-2")
	var refuse atomic.Bool
	p.Prefer = func(ctx context.Context, _ *api.ContainerPreferredAllocationRequest) ([]string, error) {
		if refuse.Load() {
			return nil, errors.New("no idea")
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	r.plugin(p)
	r.has(nvidiaGPU, 3, 3)
	if _, err := r.take(pod("a", nvidiaGPU, 1)); err != nil {
		t.Error(err)
	}
	refuse.Store(true)
	r.limits.prefer = patience
	if _, err := r.take(pod("b", nvidiaGPU, 1)); err == nil || !strings.Contains(err.Error(), "device plugin GetPreferredAllocation rpc failed with err: rpc error: code = Unknown desc = no idea") {
		t.Error(err)
	}
}

func TestHealthFlaps(t *testing.T) {
	r := newRig(t).start()
	p := amdLike("0", "1")
	r.plugin(p)
	r.has(amdGPU, 2, 2)
	a := pod("a", amdGPU, 2)
	if _, err := r.take(a); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		p.Set([]*api.Device{{ID: "0", Health: api.Unhealthy}, {ID: "1", Health: api.Healthy}, {ID: "0", Health: api.Unhealthy}, {ID: ""}})
		r.has(amdGPU, 2, 1)
		want := []core.ResourceStatus{{Name: amdGPU, Resources: []core.ResourceHealth{{ResourceID: "0", Health: "Unhealthy"}, {ResourceID: "1", Health: "Healthy"}}}}
		if got := r.ledger.Status("a")["c0"]; !reflect.DeepEqual(got, want) {
			t.Errorf("status is %v", got)
		}
		p.Set(fakeplugin.Devices("0", "1"))
		r.has(amdGPU, 2, 2)
	}
	p.Set(nil)
	r.has(amdGPU, 0, 0)
	if got := r.ledger.Status("a")["c0"][0].Resources[0].Health; got != core.ResourceHealthStatusUnknown {
		t.Errorf("a device that is gone is %s", got)
	}
}

// TestPluginDies: capacity stays for the grace, nothing can be allocated, who has devices
// keeps them; then the resource is at 0, and a plugin that comes back has it again.
func TestPluginDies(t *testing.T) {
	r := newRig(t)
	r.grace = 3 * time.Second // in which all of the following happens
	r.start()
	kill := r.plugin(amdLike("0", "1"))
	r.has(amdGPU, 2, 2)
	a := pod("a", amdGPU, 1)
	first, err := r.take(a)
	if err != nil {
		t.Fatal(err)
	}
	kill()
	r.has(amdGPU, 2, 0)
	if got := r.ledger.Status("a")["c0"][0].Resources[0].Health; got != core.ResourceHealthStatusUnknown {
		t.Errorf("a device of a dead plugin is %s", got)
	}
	if _, err := r.take(pod("b", amdGPU, 1)); err == nil || err.Error() != "Allocate failed due to no healthy devices present; cannot allocate unhealthy devices amd.com/gpu, which is unexpected" {
		t.Error(err)
	}
	if again, err := r.take(a); err != nil || !reflect.DeepEqual(again, first) {
		t.Errorf("a container of a pod that has its devices does not start again: %v", err)
	}
	r.has(amdGPU, 0, 0)
	r.plugin(amdLike("0", "1"))
	r.has(amdGPU, 2, 2)
	if want := []string{"amd.com/gpu true", "amd.com/gpu false", "amd.com/gpu true"}; !reflect.DeepEqual(r.served, want) {
		t.Errorf("told were %v", r.served)
	}
}

// TestBuiltInStepsAside: NVIDIA's own plugin takes over and leaves; no card twice.
func TestBuiltInStepsAside(t *testing.T) {
	r := newRig(t)
	r.grace = 300 * time.Millisecond
	r.own = builtIn{nvidiaGPU: {{ID: "GPU-0", Part: "GPU-0", Healthy: true}, {ID: "GPU-1", Part: "GPU-1", Healthy: true}},
		"nvidia.com/gpu.shared": {{ID: "GPU-0::0", Part: "GPU-0", Shared: true, Healthy: true}, {ID: "GPU-1::0", Part: "GPU-1", Shared: true, Healthy: true}}}
	r.start()
	r.has(nvidiaGPU, 2, 2)
	if e, err := r.take(pod("own", nvidiaGPU, 1)); err != nil || e.Env[0].Name != "OWN" {
		t.Fatal(e, err)
	}
	kill := r.plugin(nvidiaLike("GPU-0", "GPU-1", "GPU-2"))
	r.has(nvidiaGPU, 3, 3)
	e, err := r.take(pod("theirs", nvidiaGPU, 2))
	if err != nil || e.Env[0].Value != "GPU-1,GPU-2" {
		t.Errorf("%v, %v", e.Env, err)
	}
	if err := r.ledger.Admit(pod("share", "nvidia.com/gpu.shared", 1)); err == nil {
		t.Error("a card that the plugin gave whole was given as a share")
	}
	kill()
	r.has(nvidiaGPU, 2, 2) // after the grace
	if err := r.ledger.Admit(pod("more", nvidiaGPU, 1)); err == nil {
		t.Error("a card was given twice")
	}
}

type builtIn map[string][]devices.Device

func (b builtIn) Offer() map[string][]devices.Device        { return b }
func (b builtIn) Choose(c devices.Choice) ([]string, error) { return c.Free[:c.Count], nil }
func (b builtIn) Edits(context.Context, host.DeviceHolder, string, []string) (host.DeviceEdits, error) {
	return host.DeviceEdits{Env: []core.EnvVar{{Name: "OWN"}}}, nil
}

// TestPluginIsReplaced: a new one at the same socket, and one beside the old.
func TestPluginIsReplaced(t *testing.T) {
	r := newRig(t).start()
	r.plugin(amdLike("0"))
	r.has(amdGPU, 1, 1)
	second := amdLike("0", "1")
	second.Endpoint = "second.sock"
	kill := r.plugin(second)
	r.has(amdGPU, 2, 2)
	kill()
	r.has(amdGPU, 1, 1) // the first serves on
	third := amdLike("0", "1", "2")
	r.plugin(third) // takes the first's socket
	r.has(amdGPU, 3, 3)
}

func TestOrchRestarts(t *testing.T) {
	r := newRig(t).start()
	kill := r.plugin(nvidiaLike("GPU-0", "GPU-1"))
	r.has(nvidiaGPU, 2, 2)
	if _, err := r.take(pod("a", nvidiaGPU, 1)); err != nil {
		t.Fatal(err)
	}
	r.again()
	r.has(nvidiaGPU, 2, 2) // it saw the new socket and registered
	kill()
	r.has(nvidiaGPU, 2, 0)
	r.again()
	r.has(nvidiaGPU, 2, 0) // known, though its plugin is not there
	if err := r.ledger.Admit(pod("b", nvidiaGPU, 1)); err == nil {
		t.Error("a resource whose plugin is not back yet was taken for a number")
	}
	a := pod("a", nvidiaGPU, 1)
	if got := r.ledger.Allocated("a"); got[nvidiaGPU] != 1 {
		t.Errorf("allocated is %v", got)
	}
	if e, err := r.take(a); err != nil || e.Env[0].Value != "GPU-1" {
		t.Errorf("the pod's devices after two restarts: %v, %v", e.Env, err)
	}
	if len(r.served) != 1 {
		t.Errorf("told were %v, want it once", r.served)
	}
}

// TestKilledBetweenAdmitAndPrepare: the ledger has the device, the plugin was not asked yet.
func TestKilledBetweenAdmitAndPrepare(t *testing.T) {
	r := newRig(t).start()
	r.plugin(nvidiaLike("GPU-0", "GPU-1"))
	r.has(nvidiaGPU, 2, 2)
	a := pod("a", nvidiaGPU, 1)
	if err := r.ledger.Admit(a); err != nil {
		t.Fatal(err)
	}
	r.again()
	r.has(nvidiaGPU, 2, 2)
	if e, err := r.take(a); err != nil || e.Env[0].Value != "GPU-1" {
		t.Errorf("%v, %v", e.Env, err)
	}
	if e, err := r.take(pod("b", nvidiaGPU, 1)); err != nil || e.Env[0].Value != "GPU-0" {
		t.Errorf("%v, %v", e.Env, err)
	}
}

// TestPreStart: a plugin that wants to be told of each start is, and no container starts without.
func TestPreStart(t *testing.T) {
	r := newRig(t).start()
	p := amdLike("0")
	p.Options.PreStartRequired = true
	told := make(chan string, 10)
	p.Starting = func(_ context.Context, ids []string) error { told <- ids[0]; return nil }
	kill := r.plugin(p)
	r.has(amdGPU, 1, 1)
	a := pod("a", amdGPU, 1)
	for range 2 {
		if _, err := r.take(a); err != nil {
			t.Fatal(err)
		}
		if got := <-told; got != "0" {
			t.Error(got)
		}
	}
	kill()
	r.has(amdGPU, 1, 0)
	if _, err := r.take(a); err == nil || !strings.Contains(err.Error(), "endpoint not found in cache for a registered resource: amd.com/gpu") {
		t.Error(err)
	}
}

func TestTooManyDevicesEndThePlugin(t *testing.T) {
	var ids []string
	for i := range maxDevices + 1 {
		ids = append(ids, fmt.Sprint("d", i))
	}
	r := newRig(t).start()
	p := amdLike("0")
	r.plugin(p)
	r.has(amdGPU, 1, 1)
	p.Set(fakeplugin.Devices(ids...))
	r.has(amdGPU, 1, 0)
}

func TestDamagedFileOfKnownResources(t *testing.T) {
	r := newRig(t)
	for _, text := range []string{"{", `{"version":9}`, `{"version":1,"resources":{"amd.com/gpu":[{"id":"0"}]}}`} {
		if err := os.WriteFile(filepath.Join(r.dir, "known.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := New(Config{Dir: r.dir, Path: filepath.Join(r.dir, "known.json"), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(p.Offer()); got != strings.Count(text, "amd.com") {
			t.Errorf("%s: %d resources are known", text, got)
		}
	}
}
