package host

import (
	"context"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/runtime/engine"
)

// Devices gives devices of this node (GPUs, what device plugins offer) to containers
// that ask for them as extended resources.
type Devices interface {
	// Admit gives a pod every device that its containers ask for, or none. What it gave
	// is on the disk when it returns; asking again changes nothing. The error reads as
	// upstream's: "Allocate failed due to ..., which is unexpected".
	Admit(pod *core.Pod) error
	// Release takes a pod's devices back.
	Release(uid types.UID) error
	// Keep releases what pods hold whose UID is not among live. Called once at the start.
	Keep(live map[types.UID]bool) error
	// Edits are what a container gets for its devices; empty for one that has none.
	Edits(ctx context.Context, c DeviceHolder) (DeviceEdits, error)
}

// DeviceHolder is a container about to be made.
type DeviceHolder struct {
	Pod       *core.Pod
	Container *core.Container
	Image     engine.Image
}

// DeviceEdits are added to a container's spec. Env comes before the pod's own, which wins.
type DeviceEdits struct {
	Devices []engine.Device
	Mounts  []engine.Mount
	Env     []core.EnvVar
	// Held are the ids by resource, for the status and the container's label.
	Held map[string][]string
}

// Empty tells whether nothing is added.
func (e DeviceEdits) Empty() bool {
	return len(e.Devices) == 0 && len(e.Mounts) == 0 && len(e.Env) == 0 && len(e.Held) == 0
}
