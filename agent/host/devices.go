package host

import (
	"context"
	"maps"
	"slices"

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
	// PrepareClaims makes the pod's ResourceClaims usable, before its containers are made. It
	// can take long, and fails until the claims are ready; asking again does what is missing. The
	// error reads as upstream's: "prepare dynamic resources: ...".
	PrepareClaims(ctx context.Context, pod *core.Pod) error
	// ReleaseClaims takes a pod off its claims; those that it was the last of are given back.
	ReleaseClaims(ctx context.Context, uid types.UID) error
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

// listed are variables that name devices: those of several resources are one list.
var listed = []string{"NVIDIA_VISIBLE_DEVICES"}

// Add appends what is in more, whose annotations win. What is there already is not repeated.
func (e *DeviceEdits) Add(more DeviceEdits) {
	for _, d := range more.Devices {
		if !slices.Contains(e.Devices, d) {
			e.Devices = append(e.Devices, d)
		}
	}
	for _, m := range more.Mounts {
		if !slices.ContainsFunc(e.Mounts, func(o engine.Mount) bool { return o.Target == m.Target && o.Source == m.Source }) {
			e.Mounts = append(e.Mounts, m)
		}
	}
	for _, v := range more.Env {
		e.env(v)
	}
	for _, name := range more.CDI {
		if !slices.Contains(e.CDI, name) {
			e.CDI = append(e.CDI, name)
		}
	}
	e.Made = append(e.Made, more.Made...)
	if len(more.Annotations) > 0 && e.Annotations == nil {
		e.Annotations = map[string]string{}
	}
	maps.Copy(e.Annotations, more.Annotations)
}

func (e *DeviceEdits) env(v core.EnvVar) {
	i := slices.IndexFunc(e.Env, func(o core.EnvVar) bool { return o.Name == v.Name })
	switch {
	case i < 0 || e.Env[i].Value != v.Value && !slices.Contains(listed, v.Name):
		e.Env = append(e.Env, v)
	case e.Env[i].Value == v.Value || nothing(v.Value):
	case nothing(e.Env[i].Value):
		e.Env = slices.Clone(e.Env)
		e.Env[i].Value = v.Value
	default:
		e.Env = slices.Clone(e.Env)
		e.Env[i].Value += "," + v.Value
	}
}

// nothing tells the words for no device from a list of some.
func nothing(list string) bool { return list == "void" || list == "none" || list == "" }

// Empty tells whether nothing is added.
func (e DeviceEdits) Empty() bool {
	return len(e.Devices)+len(e.Mounts)+len(e.Env)+len(e.CDI)+len(e.Annotations)+len(e.Held)+len(e.Made) == 0
}
