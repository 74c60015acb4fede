package pods_test

import (
	"context"
	"errors"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/host"
	"orch/api"
	"orch/runtime/engine"
	"orch/runtime/fakeengine"
)

// givenDevices notes who gave devices back.
type givenDevices struct {
	mu       sync.Mutex
	released map[types.UID]bool
	refuse   error
	status   map[string][]core.ResourceStatus
	shared   []core.PodCondition
	made     func(ctx context.Context, cgroup string) error
	// claims are how many more times they are not ready, letGo how often they are not given back.
	claims, letGo int
	left          []string // what was done with claims
	admit         func(pod *core.Pod) error
}

func (d *givenDevices) PrepareClaims(_ context.Context, pod *core.Pod) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.claims--; d.claims >= 0 {
		return errors.New("prepare dynamic resources: not yet")
	}
	d.left = append(d.left, "prepared for "+pod.Name)
	return nil
}

func (d *givenDevices) ReleaseClaims(context.Context, types.UID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.letGo--; d.letGo >= 0 {
		return errors.New("unprepare dynamic resources: not yet")
	}
	d.left = append(d.left, "released")
	return nil
}

func (d *givenDevices) Admit(pod *core.Pod) error {
	if d.admit != nil {
		return d.admit(pod)
	}
	return nil
}

func (d *givenDevices) Keep(map[types.UID]bool) error { return nil }
func (d *givenDevices) Edits(context.Context, host.DeviceHolder) (host.DeviceEdits, error) {
	if d.made == nil {
		return host.DeviceEdits{}, nil
	}
	return host.DeviceEdits{Made: []func(context.Context, string) error{d.made}}, nil
}

func (d *givenDevices) Prepare(context.Context, *core.Pod) error          { return d.refuse }
func (d *givenDevices) Allocated(types.UID) map[core.ResourceName]int64   { return nil }
func (d *givenDevices) Status(types.UID) map[string][]core.ResourceStatus { return d.status }
func (d *givenDevices) Conditions(types.UID) []core.PodCondition          { return d.shared }
func (d *givenDevices) Changed() <-chan struct{}                          { return nil }

func (d *givenDevices) Release(uid types.UID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.released[uid] = true
	return nil
}

// stuckVolumes take as long as the test to unmount.
type stuckVolumes struct{ *fakeVolumes }

func (stuckVolumes) Unmount(ctx context.Context, _ types.UID) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestEndedPodHasGivenItsDevicesBack: the scheduler counts the devices of a pod that has
// ended as free, so the next pod was refused with UnexpectedAdmissionError while the old one
// was still being taken off the host.
func TestEndedPodHasGivenItsDevicesBack(t *testing.T) {
	r := newRig(t, fakeengine.Options{Script: func(engine.Spec) fakeengine.Script { return fakeengine.Script{Exits: true} }})
	r.stop()
	d := &givenDevices{released: map[types.UID]bool{}}
	r.deps.Devices, r.deps.Volumes = d, stuckVolumes{r.volumes}
	r.start()
	r.create("metadata: {name: a}\nspec: {restartPolicy: Never, containers: [{name: main, image: app:1}]}")
	pod := r.await("a", "ended", func(p *core.Pod) bool { return p.Status.Phase == core.PodSucceeded })
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.released[pod.UID] {
		t.Error("its status says that it has ended, and it still holds its devices")
	}
}

// TestRefusedDevicesRejectThePod: what a device plugin refuses was given back, and the pod
// fails as upstream's does.
func TestRefusedDevicesRejectThePod(t *testing.T) {
	r := newRig(t, fakeengine.Options{})
	r.stop()
	given := &givenDevices{released: map[types.UID]bool{}, refuse: errors.New("Allocate failed due to rpc error: no, which is unexpected")}
	r.deps.Devices = given
	r.start()
	pod := r.create("{metadata: {name: a}, spec: {containers: [{name: c, image: 'x:1'}]}}")
	got := r.await("a", "rejection", func(p *core.Pod) bool { return p.Status.Phase == core.PodFailed })
	if got.Status.Reason != "UnexpectedAdmissionError" || got.Status.Message != "Pod was rejected: Allocate failed due to rpc error: no, which is unexpected" {
		t.Errorf("%s: %s", got.Status.Reason, got.Status.Message)
	}
	given.mu.Lock()
	defer given.mu.Unlock()
	if !given.released[pod.UID] {
		t.Error("the devices were not given back")
	}
}

// TestHealthOfDevicesIsInTheStatus of containers, and only there.
func TestHealthOfDevicesIsInTheStatus(t *testing.T) {
	r := newRig(t, fakeengine.Options{})
	r.stop()
	want := core.ResourceStatus{Name: "amd.com/gpu", Resources: []core.ResourceHealth{{ResourceID: "0", Health: core.ResourceHealthStatusUnhealthy}}}
	r.deps.Devices = &givenDevices{released: map[types.UID]bool{}, status: map[string][]core.ResourceStatus{"c": {want}}}
	r.start()
	r.create("{metadata: {name: a}, spec: {containers: [{name: c, image: 'x:1'}, {name: d, image: 'x:1'}]}}")
	got := r.await("a", "running", func(p *core.Pod) bool { return p.Status.Phase == core.PodRunning })
	if s := got.Status.ContainerStatuses; !reflect.DeepEqual(s[0].AllocatedResourcesStatus, []core.ResourceStatus{want}) || s[1].AllocatedResourcesStatus != nil {
		t.Errorf("%v, %v", s[0].AllocatedResourcesStatus, s[1].AllocatedResourcesStatus)
	}
}

// TestWhoTakesMoreThanItsShareIsEnded: the status says why, what devices want done with a
// container's cgroup comes before its process, and how they are shared is a condition.
func TestWhoTakesMoreThanItsShareIsEnded(t *testing.T) {
	r := newRig(t, fakeengine.Options{})
	r.stop()
	cgroups := make(chan string, 8)
	d := &givenDevices{released: map[types.UID]bool{}, shared: []core.PodCondition{{Type: api.ConditionGPUShare, Status: core.ConditionTrue, Reason: "Watchdog"}},
		made: func(_ context.Context, cgroup string) error { cgroups <- cgroup; return nil }}
	r.deps.Devices = d
	r.start()
	r.create("{metadata: {name: a}, spec: {restartPolicy: Never, containers: [{name: c, image: 'x:1'}]}}")
	got := r.await("a", "running", func(p *core.Pod) bool { return p.Status.Phase == core.PodRunning })
	id := strings.TrimPrefix(got.Status.ContainerStatuses[0].ContainerID, "fake://")
	if i := strings.Index(id, "://"); i >= 0 {
		id = id[i+3:]
	}
	if dir := <-cgroups; filepath.Base(dir) != id || !strings.Contains(dir, "/kubepods/") {
		t.Errorf("the cgroup is %s, the container %s", dir, id)
	}
	if !slices.ContainsFunc(got.Status.Conditions, func(c core.PodCondition) bool { return c.Type == api.ConditionGPUShare && c.Reason == "Watchdog" }) {
		t.Errorf("%+v", got.Status.Conditions)
	}
	r.pods.End(got.UID, "another", "TooMuch", "of nothing")
	r.pods.End(got.UID, id, "TooMuch", "3 of 2")
	got = r.await("a", "failed", func(p *core.Pod) bool { return p.Status.Phase == core.PodFailed })
	if s := got.Status.ContainerStatuses[0].State.Terminated; s == nil || s.Reason != "TooMuch" || s.Message != "3 of 2" || s.ExitCode != 137 {
		t.Errorf("%+v", got.Status.ContainerStatuses)
	}
}

// TestClaimsComeBeforeContainersAndGoBeforeTheEnd: a pod waits for its claims, says so, and has
// ended for others only when it is off them.
func TestClaimsComeBeforeContainersAndGoBeforeTheEnd(t *testing.T) {
	r := newRig(t, fakeengine.Options{Script: func(engine.Spec) fakeengine.Script { return fakeengine.Script{Exits: true} }})
	r.stop()
	d := &givenDevices{released: map[types.UID]bool{}, claims: 2, letGo: 2}
	r.deps.Devices = d
	r.start()
	r.create("metadata: {name: a}\nspec: {restartPolicy: Never, resourceClaims: [{name: r, resourceClaimName: x}], containers: [{name: main, image: app:1, resources: {claims: [{name: r}]}}]}")
	r.await("a", "ended", func(p *core.Pod) bool { return p.Status.Phase == core.PodSucceeded })
	d.mu.Lock()
	defer d.mu.Unlock()
	if want := []string{"prepared for a", "released"}; len(d.left) < 2 || !reflect.DeepEqual(d.left[:2], want) {
		t.Errorf("done with claims: %v, want %v", d.left, want)
	}
	if all := r.events.all(); !strings.Contains(all, "FailedPrepareDynamicResources") || !strings.Contains(all, "Failed to prepare dynamic resources: prepare dynamic resources: not yet") {
		t.Errorf("events are %v", all)
	}
}
