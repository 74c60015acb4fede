package host

import (
	"context"
	"maps"

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
	// Prepare asks whoever offers the devices whether the pod may have those that Admit
	// gave it. It can take long; asking again changes nothing. The error reads as Admit's.
	Prepare(ctx context.Context, pod *core.Pod) error
	// Release takes a pod's devices back.
	Release(uid types.UID) error
	// Keep releases what pods hold whose UID is not among live. Called once at the start.
	Keep(live map[types.UID]bool) error
	// Edits are what a container gets for its devices; empty for one that has none.
	Edits(ctx context.Context, c DeviceHolder) (DeviceEdits, error)
	// Allocated counts what all pods hold, by resource; nil if this one holds nothing.
	Allocated(uid types.UID) map[core.ResourceName]int64
	// Status says how the devices of a pod are, by container.
	Status(uid types.UID) map[string][]core.ResourceStatus
	// Conditions are what the pod's status says of how its devices are shared.
	Conditions(uid types.UID) []core.PodCondition
	// Changed is closed when Status or Conditions may answer anew; ask for it before asking these.
	Changed() <-chan struct{}
}

// DeviceHolder is a container about to be made.
type DeviceHolder struct {
	Pod       *core.Pod
	Container *core.Container
	Image     engine.Image
	// Prepared is what a provider of devices said when it was asked to prepare them.
	Prepared []byte
}

// DeviceEdits are added to a container's spec. Env comes before the pod's own, which wins.
type DeviceEdits struct {
	Devices []engine.Device
	Mounts  []engine.Mount
	Env     []core.EnvVar
	// CDI are names of devices that specifications on the host describe (vendor/class=name).
	CDI         []string
	Annotations map[string]string
	// Held are the ids by resource, for the status and the container's label.
	Held map[string][]string
	// Made are called when the container is made and before its process runs, with its
	// cgroup as a folder; an error keeps it from running.
	Made []func(ctx context.Context, cgroup string) error
}

// Add appends what is in more, whose annotations win.
func (e *DeviceEdits) Add(more DeviceEdits) {
	e.Devices, e.Mounts = append(e.Devices, more.Devices...), append(e.Mounts, more.Mounts...)
	e.Env, e.CDI = append(e.Env, more.Env...), append(e.CDI, more.CDI...)
	e.Made = append(e.Made, more.Made...)
	if len(more.Annotations) > 0 && e.Annotations == nil {
		e.Annotations = map[string]string{}
	}
	maps.Copy(e.Annotations, more.Annotations)
}

// Empty tells whether nothing is added.
func (e DeviceEdits) Empty() bool {
	return len(e.Devices)+len(e.Mounts)+len(e.Env)+len(e.CDI)+len(e.Annotations)+len(e.Held)+len(e.Made) == 0
}
