package draplugins

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	health "k8s.io/kubelet/pkg/apis/dra-health/v1"
	dra "k8s.io/kubelet/pkg/apis/dra/v1"
	drabeta "k8s.io/kubelet/pkg/apis/dra/v1beta1"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"orch/agent/claims"
	"orch/agent/devices"
	"orch/api"
	"orch/api/client"
	"orch/datastore/memory"
	"orch/server/registry"
)

const patience = time.Minute

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if check() {
			return
		}
	}
	t.Fatal("never: " + what)
}

// fake is one program of a driver.
type fake struct {
	dra.UnimplementedDRAPluginServer
	registration.UnimplementedRegistrationServer
	health.UnimplementedDRAResourceHealthServer
	info *registration.PluginInfo
	// mark is in the names of devices, to tell programs apart.
	mark string

	mu     sync.Mutex
	status *registration.RegistrationStatus
	refuse error
	odd    func(*dra.NodePrepareResourcesResponse)
	asked  int // how often it was told to take a claim back
	// reports are what it says of its devices; closed by the test.
	reports chan *health.NodeWatchResourcesResponse
}

func (f *fake) NodeWatchResources(_ *health.NodeWatchResourcesRequest, s health.DRAResourceHealth_NodeWatchResourcesServer) error {
	for {
		select {
		case r, ok := <-f.reports:
			if !ok {
				return nil
			}
			if err := s.Send(r); err != nil {
				return err
			}
		case <-s.Context().Done():
			return nil
		}
	}
}

func (f *fake) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return f.info, nil
}

func (f *fake) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status = s
	return &registration.RegistrationStatusResponse{}, nil
}

func (f *fake) told() *registration.RegistrationStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

func (f *fake) NodePrepareResources(_ context.Context, r *dra.NodePrepareResourcesRequest) (*dra.NodePrepareResourcesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &dra.NodePrepareResourcesResponse{Claims: map[string]*dra.NodePrepareResourceResponse{}}
	for _, c := range r.Claims {
		out.Claims[c.Uid] = &dra.NodePrepareResourceResponse{Devices: []*dra.Device{{RequestNames: []string{"r"}, PoolName: "n1", DeviceName: f.mark, CdiDeviceIds: []string{"d.io/x=" + c.Name}}}}
	}
	if f.odd != nil {
		f.odd(out)
	}
	return out, f.refuse
}

func (f *fake) NodeUnprepareResources(_ context.Context, r *dra.NodeUnprepareResourcesRequest) (*dra.NodeUnprepareResourcesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	out := &dra.NodeUnprepareResourcesResponse{Claims: map[string]*dra.NodeUnprepareResourceResponse{}}
	for _, c := range r.Claims {
		out.Claims[c.Uid] = &dra.NodeUnprepareResourceResponse{}
	}
	return out, f.refuse
}

// rig is a node's side with a folder and an API of its own.
type rig struct {
	*Plugins
	t    *testing.T
	dir  string
	api  *client.Client
	stop func()
}

// newRig begins a life of orch; slices, each a driver and a node, are there before.
func newRig(t *testing.T, grace time.Duration, slices ...[2]string) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "dra") // short: sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	reg, err := registry.New(registry.Config{Store: memory.New(), Resources: registry.BuiltIn()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = reg.Run(ctx) })
	<-reg.Ready()
	r := &rig{t: t, dir: dir, api: reg.Client(registry.User{Name: "admin", Groups: []string{api.GroupMasters}})}
	r.Plugins, err = New(Config{Dir: filepath.Join(dir, "plugins_registry"), Node: "n1", Client: r.api, Own: "own.io", Grace: grace, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range slices {
		r.slice(s[0], s[1])
	}
	wg.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		os.RemoveAll(dir)
	})
	eventually(t, "the folder is there", func() bool {
		_, err := os.Stat(r.config.Dir)
		return err == nil
	})
	return r
}

// serve runs a program of a driver: its endpoint and its socket in the registry.
func (r *rig) serve(name string, f *fake, services ...string) (stop func()) {
	r.t.Helper()
	endpoint := filepath.Join(r.dir, name+".sock")
	if f.info.Type == "" {
		f.info.Type = registration.DRAPlugin
	}
	f.info.Endpoint, f.info.SupportedVersions = endpoint, services
	var stops []func()
	for path, register := range map[string]func(*grpc.Server){
		endpoint: func(s *grpc.Server) {
			dra.RegisterDRAPluginServer(s, f)
			drabeta.RegisterDRAPluginServer(s, drabeta.V1ServerWrapper{DRAPluginServer: f})
			health.RegisterDRAResourceHealthServer(s, f)
		},
		filepath.Join(r.config.Dir, name+"-reg.sock"): func(s *grpc.Server) { registration.RegisterRegistrationServer(s, f) },
	} {
		l, err := net.Listen("unix", path)
		if err != nil {
			r.t.Fatal(err)
		}
		s := grpc.NewServer()
		register(s)
		go func() { _ = s.Serve(l) }()
		stops = append(stops, s.Stop) // it removes the socket
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			for _, s := range stops {
				s()
			}
		})
	}
	r.t.Cleanup(stop)
	return stop
}

var one = &resource.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "one", UID: "u1"}, Status: resource.ResourceClaimStatus{Allocation: &resource.AllocationResult{
	Devices: resource.DeviceAllocationResult{Results: []resource.DeviceRequestAllocationResult{{Request: "r", Driver: "d.io", Pool: "n1", Device: "a"}}}}}}

func (r *rig) prepare(driver string) (devices.ClaimDriver, error) {
	d, _ := r.Driver(driver)
	return d.Prepare(r.t.Context(), one, devices.ClaimDriver{})
}

// prepares waits until the driver is asked through the program with the mark.
func (r *rig) prepares(driver, mark string) {
	r.t.Helper()
	eventually(r.t, driver+" is asked through "+mark, func() bool {
		got, err := r.prepare(driver)
		return err == nil && len(got.Devices) == 1 && got.Devices[0].Device == mark && got.Devices[0].CDI[0] == "d.io/x=one"
	})
}

func TestDriverComesAndGoes(t *testing.T) {
	for _, service := range []string{dra.DRAPluginService, drabeta.DRAPluginService} {
		t.Run(service, func(t *testing.T) {
			r := newRig(t, time.Hour)
			f := &fake{info: &registration.PluginInfo{Name: "d.io"}, mark: "a"}
			stop := r.serve("d.io", f, service)
			r.prepares("d.io", "a")
			if s := f.told(); s == nil || !s.PluginRegistered {
				t.Errorf("the driver was told %v", s)
			}
			d, ok := r.Driver("d.io")
			if err := d.Unprepare(t.Context(), devices.Claim{UID: "u1", Name: "one"}, devices.ClaimDriver{}); err != nil || !ok {
				t.Error(err, ok)
			}
			stop()
			eventually(t, "the driver is gone", func() bool { return !r.Registered("d.io") })
			if _, err := r.prepare("d.io"); err == nil || err.Error() != "DRA driver d.io is not registered" {
				t.Error(err)
			}
			r.serve("d.io", &fake{info: &registration.PluginInfo{Name: "d.io"}, mark: "b"}, service) // the same sockets again
			r.prepares("d.io", "b")
		})
	}
}

// While a driver is updated two programs of it are there; the newer one is asked, the older
// one again when that fails.
func TestRollingUpdate(t *testing.T) {
	r := newRig(t, time.Hour)
	r.serve("d.io-1", &fake{info: &registration.PluginInfo{Name: "d.io"}, mark: "old"}, dra.DRAPluginService)
	r.prepares("d.io", "old")
	stop := r.serve("d.io-2", &fake{info: &registration.PluginInfo{Name: "d.io"}, mark: "new"}, dra.DRAPluginService)
	r.prepares("d.io", "new")
	stop()
	r.prepares("d.io", "old")
}

func TestWhoIsNotTaken(t *testing.T) {
	r := newRig(t, time.Hour)
	for i, tc := range []struct {
		info     *registration.PluginInfo
		services []string
		want     string
	}{
		{&registration.PluginInfo{Name: "d.io"}, []string{"v9.DRAPlugin"}, `none of services supported by the plugin (["v9.DRAPlugin"]) are supported by the kubelet (["v1.DRAPlugin" "v1beta1.DRAPlugin"])`},
		{&registration.PluginInfo{Name: "d.io"}, nil, "invalid supported gRPC versions of DRA driver plugin d.io"},
		{&registration.PluginInfo{}, []string{dra.DRAPluginService}, "DRA driver name is empty"},
		{&registration.PluginInfo{Name: "d.io", Type: registration.CSIPlugin}, []string{"1.0.0"}, "no handler registered for plugin type: CSIPlugin"},
	} {
		f := &fake{info: tc.info}
		r.serve(fmt.Sprint("p", i), f, tc.services...)
		eventually(t, "the plugin is told", func() bool { return f.told() != nil })
		if s := f.told(); s.PluginRegistered || !strings.Contains(s.Error, tc.want) {
			t.Errorf("%v: told %v", tc.info.Name, s)
		}
	}
	if r.Registered("d.io") {
		t.Error("taken all the same")
	}
}

func TestOddAnswers(t *testing.T) {
	r := newRig(t, time.Hour)
	f := &fake{info: &registration.PluginInfo{Name: "d.io"}, mark: "a"}
	r.serve("d.io", f, dra.DRAPluginService)
	r.prepares("d.io", "a")
	for _, tc := range []struct {
		name   string
		odd    func(*dra.NodePrepareResourcesResponse)
		refuse error
		want   string
	}{
		{"nothing", func(o *dra.NodePrepareResourcesResponse) { o.Claims = nil }, nil, "the driver skipped the claim"},
		{"another claim", func(o *dra.NodePrepareResourcesResponse) { o.Claims["u2"] = o.Claims["u1"] }, nil, "the driver answered for the unknown claim UID u2"},
		{"an error", func(o *dra.NodePrepareResourcesResponse) { o.Claims["u1"].Error = "no card" }, nil, "no card"},
		{"refusal", nil, errors.New("busy"), "rpc error: code = Unknown desc = busy"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f.mu.Lock()
			f.odd, f.refuse = tc.odd, tc.refuse
			f.mu.Unlock()
			if _, err := r.prepare("d.io"); err == nil || err.Error() != tc.want {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
}

func (r *rig) slice(driver, node string) {
	r.t.Helper()
	_, err := client.Create(r.t.Context(), r.api, api.ResourceSlices, &resource.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: driver + "-" + node},
		Spec: resource.ResourceSliceSpec{Driver: driver, NodeName: &node, Pool: resource.ResourcePool{Name: node, ResourceSliceCount: 1}}})
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) has(driver, node string) bool {
	_, err := client.Get(r.t.Context(), r.api, api.ResourceSlices, "", driver+"-"+node)
	return err == nil
}

// TestSlicesOfAbsentDriversGo: of those that were there before, and did not come back, and of
// one that went; not of others.
func TestSlicesOfAbsentDriversGo(t *testing.T) {
	r := newRig(t, 400*time.Millisecond, [2]string{"left.io", "n1"}, [2]string{"own.io", "n1"}, [2]string{"left.io", "n2"})
	stop := r.serve("d.io", &fake{info: &registration.PluginInfo{Name: "d.io"}, mark: "a"}, dra.DRAPluginService)
	r.prepares("d.io", "a")
	r.slice("d.io", "n1") // as drivers do when they are registered
	eventually(t, "the slices of a driver that did not come back are gone", func() bool { return !r.has("left.io", "n1") })
	if !r.has("d.io", "n1") || !r.has("own.io", "n1") || !r.has("left.io", "n2") {
		t.Error("slices of others are gone", r.has("d.io", "n1"), r.has("own.io", "n1"), r.has("left.io", "n2"))
	}
	went := time.Now()
	stop()
	eventually(t, "the slices of the driver are gone", func() bool { return !r.has("d.io", "n1") })
	if took := time.Since(went); took < 300*time.Millisecond {
		t.Errorf("gone after %v", took)
	}
	if !r.has("own.io", "n1") {
		t.Error("the slices of the driver inside orch are gone")
	}
}

// What a driver says of its devices holds as long as it says, and no longer than it is there.
func TestHealth(t *testing.T) {
	r := newRig(t, time.Hour)
	f := &fake{info: &registration.PluginInfo{Name: "d.io"}, mark: "a", reports: make(chan *health.NodeWatchResourcesResponse, 4)}
	stop := r.serve("d.io", f, dra.DRAPluginService, health.DRAResourceHealthService)
	say := func(is health.HealthStatus, seconds int64, message string) {
		f.reports <- &health.NodeWatchResourcesResponse{Devices: []*health.DeviceHealth{{Device: &health.DeviceIdentifier{PoolName: "n1", DeviceName: "a"}, Health: is, HealthCheckTimeoutSeconds: seconds, Message: message}}}
	}
	is := func(want core.ResourceHealthStatus, message string) {
		t.Helper()
		for {
			changed := r.Changed()
			d, _ := r.Driver("d.io")
			got, m := d.(claims.Nurse).ClaimHealth(devices.ClaimDevice{Pool: "n1", Device: "a"})
			if got == want && m == message {
				return
			}
			select {
			case <-changed:
			case <-time.After(patience):
				t.Fatalf("the device is %s %q, want %s %q", got, m, want, message)
			}
		}
	}
	is(core.ResourceHealthStatusUnknown, "")
	say(health.HealthStatus_UNHEALTHY, 60, "too hot")
	is(core.ResourceHealthStatusUnhealthy, "too hot")
	say(health.HealthStatus_HEALTHY, 3, "")
	is(core.ResourceHealthStatusHealthy, "")
	is(core.ResourceHealthStatusUnknown, "") // it fell silent
	say(health.HealthStatus_HEALTHY, 60, "")
	is(core.ResourceHealthStatusHealthy, "")
	stop()
	is(core.ResourceHealthStatusUnknown, "")
}

// A driver whose devices need no taking back is not asked to.
func TestDriverThatLeavesDevicesPrepared(t *testing.T) {
	r := newRig(t, time.Hour)
	f := &fake{info: &registration.PluginInfo{Name: "d.io"}, mark: "a"}
	r.serve("d.io", f, dra.DRAPluginService)
	r.prepares("d.io", "a")
	claim := one.DeepCopy()
	claim.Status.Allocation.Devices.Results[0].SkipNodeOperations = []resource.SkipNodeOperation{resource.SkipNodeOperationNodeUnprepareResources}
	d, _ := r.Driver("d.io")
	for i, c := range []*resource.ResourceClaim{claim, one} {
		known, err := d.Prepare(t.Context(), c, devices.ClaimDriver{})
		if err == nil {
			err = d.Unprepare(t.Context(), devices.Claim{UID: "u1", Name: "one"}, known)
		}
		if f.mu.Lock(); err != nil || f.asked != i {
			t.Errorf("%v, asked %d times, want %d", err, f.asked, i)
		}
		f.mu.Unlock()
	}
}
