// Package host says what the agent asks of its machine, beside containers: pod
// networks, namespaces, volumes, the service proxy and DNS. They are interfaces
// and plain values; what touches the machine (network/cni, network/netns,
// agent/volume, ...) is chosen and adapted where orch is put together. The
// package refuses any effect of its own. Start reading at Sandbox.
package host

import (
	"context"
	"net/netip"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Sandbox is what the containers of one pod share on the host. It is made before
// the first container and lives until the pod is gone; it is kept in a file of
// the run directory, so that a restarted agent finds it.
type Sandbox struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       types.UID `json:"uid"`
	// Hostname is what the UTS namespace says.
	Hostname string `json:"hostname,omitempty"`
	// NetNS, IPC and UTS are paths of pinned namespaces; empty: the host's.
	NetNS string `json:"netns,omitempty"`
	IPC   string `json:"ipc,omitempty"`
	UTS   string `json:"uts,omitempty"`

	Ports []PortMapping `json:"ports,omitempty"`
	// IngressBits and EgressBits are limits in bits a second, 0 for none
	// (annotations kubernetes.io/ingress-bandwidth and egress-bandwidth).
	IngressBits int64 `json:"ingressBits,omitempty"`
	EgressBits  int64 `json:"egressBits,omitempty"`
}

// PortMapping brings a port of the host to the pod.
type PortMapping struct {
	HostIP        string        `json:"hostIP,omitempty"`
	HostPort      int32         `json:"hostPort"`
	ContainerPort int32         `json:"containerPort"`
	Protocol      core.Protocol `json:"protocol"`
}

// PodNetwork joins pods to the network. All calls are idempotent by UID.
type PodNetwork interface {
	// Setup gives the pod's network namespace its interfaces and returns the pod's
	// addresses, the primary one first.
	Setup(ctx context.Context, s Sandbox) ([]netip.Addr, error)
	// Teardown releases all that Setup took. The namespace may be gone already.
	Teardown(ctx context.Context, s Sandbox) error
	// Keep releases what pods hold whose UID is not among live. Called once at the start.
	Keep(ctx context.Context, live map[types.UID]bool) error
	// Ready says why pods cannot be joined now; nil when they can.
	Ready() error
	// Changed is closed when Ready may answer anew; ask for it before asking Ready.
	Changed() <-chan struct{}
}

// Namespaces pins kernel namespaces to files.
type Namespaces interface {
	// Create makes the namespaces that the sandbox has paths for: all or none.
	// A path that is pinned already is kept.
	Create(ctx context.Context, s Sandbox) error
	// Remove unpins them. Paths that are not there are no error.
	Remove(ctx context.Context, s Sandbox) error
	// Pinned tells whether path is a pinned namespace.
	Pinned(path string) bool
}

// Mounted is where a volume lies on the host.
type Mounted struct {
	// Path is a directory (or a file, a socket, a device for hostPath).
	Path     string
	ReadOnly bool
	// Options are for the bind mount into containers (noexec, ...).
	Options []string
}

// SubPath asks for a part of a volume as a mount source.
type SubPath struct {
	Pod       types.UID
	Volume    string
	Container string
	// Index is the place of the mount in the container's volumeMounts.
	Index int
	// Path is relative, expanded and free of "..".
	Path string
	// Host is the volume as Mount returned it. What is missing below it is made
	// as a directory.
	Host Mounted
}

// ImageVolume asks for a volume of a pod that shows an image, or a directory in it.
type ImageVolume struct {
	Pod    types.UID
	Volume string
	// Image is the ID of a present image.
	Image string
	// Path is relative, expanded and free of ".."; empty for the whole.
	Path string
}

// Volumes puts the volumes of pods on the host. Content that changes with
// objects (config maps, secrets, tokens, the downward API) is kept up to date
// by the implementation itself, from Mount to Unmount.
type Volumes interface {
	// Mount makes every volume of the pod available and returns where each lies,
	// by name; volumes of type image, which containers bring when they start, are not
	// among them. Mounting a mounted pod again is no error. Errors read as the
	// message of a FailedMount event.
	Mount(ctx context.Context, pod *core.Pod) (map[string]Mounted, error)
	// SubPath makes sure that a part of a volume can be mounted without leaving
	// the volume by a link, and returns its path on the host.
	SubPath(ctx context.Context, s SubPath) (string, error)
	// Image mounts an image as a volume and returns where it lies. Doing it again is no error.
	Image(ctx context.Context, v ImageVolume) (Mounted, error)
	// Images are the IDs of those that are mounted as volumes.
	Images() ([]string, error)
	// Unmount takes a pod's volumes away, with what emptyDirs hold. It works by what
	// lies on the disk, also for pods that this process never mounted.
	Unmount(ctx context.Context, uid types.UID) error
}

// Part is a long-running part of the agent: the service proxy, DNS, volumes.
type Part interface {
	Run(ctx context.Context) error
}
