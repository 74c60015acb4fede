package pods_test

import (
	"context"
	"sync"
	"testing"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/host"
	"orch/runtime/engine"
	"orch/runtime/fakeengine"
)

// givenDevices notes who gave devices back.
type givenDevices struct {
	mu       sync.Mutex
	released map[types.UID]bool
}

func (d *givenDevices) Admit(*core.Pod) error         { return nil }
func (d *givenDevices) Keep(map[types.UID]bool) error { return nil }
func (d *givenDevices) Edits(context.Context, host.DeviceHolder) (host.DeviceEdits, error) {
	return host.DeviceEdits{}, nil
}

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
