// Package engine is the contract for containers on this host: images,
// containers, processes in them. It knows neither Kubernetes objects nor
// networks: namespaces, cgroups and mounts come in as paths and values.
//
// The life of a container. Create prepares a root file system from an image
// that is present and makes the container (its first process waits). Start lets
// it run. When the process ends, an Exit event comes, once, and Inspect shows
// the exit code until Remove. Containers with the same Pod share one shim.
// Everything outlives the process that holds the Engine: a new Engine over the
// same data finds running containers by List, goes on collecting their output,
// and reports exits that happened in between.
//
// Implementations: containerd (in this process) and fakeengine; both pass enginetest.
package engine

import (
	"context"
	"errors"
	"io"
	"time"
)

var (
	// ErrNotFound: no such container, image or process.
	ErrNotFound = errors.New("not found")
	// ErrExists: a container with that ID is there already.
	ErrExists = errors.New("already exists")
	// ErrNotRunning: the container has no running process.
	ErrNotRunning = errors.New("not running")
	// ErrProcess: Create or Start could not make the first process run (command
	// not found, no permission). The error's text has the runtime's words.
	ErrProcess = errors.New("process could not be run")
)

// State of a container.
type State string

const (
	Created State = "created"
	Running State = "running"
	Exited  State = "exited"
)

// Spec says all about a container to be made. The zero value of a field is
// what the image says, or the runtime's default.
type Spec struct {
	// ID is unique on the host: 64 hexadecimal digits by custom.
	ID string
	// Pod groups containers that share a shim (the pod's UID).
	Pod string
	// Labels are kept with the container and come back by List.
	Labels map[string]string
	// Image is a reference that Images knows (name or digest).
	Image string
	// Runtime names the handler: "" or "runc"; others as found on the host.
	Runtime string

	Command    []string // replaces the image's entrypoint
	Args       []string // replaces the image's cmd
	Env        []string // KEY=value, after the image's; later wins
	WorkingDir string

	User     User
	Security Security
	Hostname string
	Mounts   []Mount
	Devices  []Device
	// CDI are devices by their CDI names (vendor/class=name), as the specifications in
	// /etc/cdi and /var/run/cdi describe them when the container is created.
	CDI     []string
	Sysctls map[string]string
	// Annotations are handed to the low-level runtime.
	Annotations map[string]string

	Namespaces Namespaces
	// CgroupPath is absolute below the hierarchy's root: /kubepods/burstable/pod<uid>/<id>.
	CgroupPath string
	Resources  Resources

	TTY, Stdin, StdinOnce bool
	// LogPath gets the output in CRI log format. Empty: output is thrown away.
	LogPath string
	// LogMaxBytes and LogMaxFiles bound the log (rotation); 0 means 10 MiB and 5.
	LogMaxBytes int64
	LogMaxFiles int
	// StopSignal names what Signal 0 sends ("SIGUSR1").
	StopSignal string
}

// User is who the process runs as; nil fields mean what the image says.
type User struct {
	UID, GID *int64
	// Groups are supplementary, beside those the image's /etc/group gives.
	Groups []int64
	// StrictGroups leaves the image's /etc/group memberships out.
	StrictGroups bool
}

// Security restricts the process.
type Security struct {
	Privileged      bool
	NoNewPrivileges bool
	ReadOnlyRoot    bool
	// AddCaps and DropCaps are without CAP_; "ALL" is allowed.
	AddCaps, DropCaps []string
	// Seccomp is "RuntimeDefault", "Unconfined", or the path of a profile. Empty is Unconfined.
	Seccomp string
	// Unmasked leaves /proc paths unmasked (procMount: Unmasked).
	Unmasked bool
	AppArmor string
	// SELinux is a process label, empty for none.
	SELinux string
}

// Mount brings a host path or a file system into the container.
type Mount struct {
	// Type is "bind" (also ""), "tmpfs", "proc", "sysfs", "mqueue".
	Type, Source, Target string
	ReadOnly             bool
	// Propagation is "private" (also ""), "rslave" or "rshared".
	Propagation       string
	Options           []string
	RecursiveReadOnly bool
}

// Device is a device node of the host to be made in the container.
type Device struct{ Host, Target, Permissions string }

// Namespaces: a path of a pinned namespace, "host", or "" for a fresh one.
type Namespaces struct{ Network, IPC, UTS, PID, User string }

// Resources limit the container's cgroup; zero means unset.
type Resources struct {
	CPUShares              uint64
	CPUQuotaUs             int64
	CPUPeriodUs            uint64
	MemoryBytes            int64
	PidsLimit              int64
	OOMScoreAdj            *int
	CpusetCPUs, CpusetMems string
	// Hugepages maps a page size ("2MB") to bytes.
	Hugepages map[string]uint64
	// Unified holds cgroup v2 files and values.
	Unified map[string]string
}

// Container is what the engine knows of one container.
type Container struct {
	ID, Pod string
	Labels  map[string]string
	// Image as it was asked for, ImageID the digest of its configuration (sha256:...).
	Image, ImageID                   string
	State                            State
	PID                              int
	CreatedAt, StartedAt, FinishedAt time.Time
	ExitCode                         int
	// OOMKilled is true when the kernel killed a process of it for memory.
	OOMKilled bool
	LogPath   string
}

// Event tells that a container changed.
type Event struct {
	ID, Pod string
	// Kind is "start", "exit" or "oom".
	Kind     string
	ExitCode int
	Time     time.Time
}

// IO connects a process to a client. Nil members are not connected. With TTY
// Stderr is unused.
type IO struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Resize carries terminal sizes until it is closed. May be nil.
	Resize <-chan Size
}

type Size struct{ Width, Height uint16 }

// ExecSpec is a further process in a running container.
type ExecSpec struct {
	Command []string
	TTY     bool
	Env     []string
}

// Stats are the counters of a container's cgroup.
type Stats struct {
	Time             time.Time
	CPUNanos         uint64
	MemoryBytes      uint64 // usage
	MemoryWorkingSet uint64
	MemoryRSS        uint64
	MemoryCache      uint64
	Pids             uint64
	// CPUPeriods counts the periods of a CPU limit, CPUThrottled those of them in which the
	// container had to wait, CPUThrottledNanos for how long.
	CPUPeriods, CPUThrottled, CPUThrottledNanos uint64
	// RootfsBytes and RootfsInodes are used in the writable layer.
	RootfsBytes, RootfsInodes uint64
}

// Engine runs containers. All methods may be called from many goroutines;
// calls on one container are serialised.
type Engine interface {
	Images() Images
	Create(ctx context.Context, s Spec) error
	// Start returns the pid on the host.
	Start(ctx context.Context, id string) (pid int, err error)
	// Signal sends to the first process, or with all to every process in the
	// container. Signal 0 means the container's stop signal: Spec.StopSignal, else
	// the image's, else SIGTERM.
	Signal(ctx context.Context, id string, signal int, all bool) error
	// Remove deletes a container that is not running, with its root file system.
	// Removing one that is not there is no error.
	Remove(ctx context.Context, id string) error
	List(ctx context.Context) ([]Container, error)
	Inspect(ctx context.Context, id string) (Container, error)
	// Events delivers until ctx ends; slow readers lose nothing (bounded by coalescing per container).
	Events(ctx context.Context) <-chan Event
	Update(ctx context.Context, id string, r Resources) error
	// Exec runs a process and returns its exit code; when ctx ends it is killed.
	Exec(ctx context.Context, id string, s ExecSpec, io IO) (exitCode int, err error)
	// Attach connects to the first process's streams until they end or ctx ends.
	Attach(ctx context.Context, id string, io IO) error
	// ReopenLog makes the log writer open LogPath anew (after rotation by others).
	ReopenLog(ctx context.Context, id string) error
	Stats(ctx context.Context, id string) (Stats, error)
	// RootPath is the container's root file system as seen from the host (for
	// termination messages and debugging), empty if unknown.
	RootPath(ctx context.Context, id string) (string, error)
	// Version names the runtime and its version, as in Node.status.nodeInfo: containerd://2.4.2.
	Version() string
}

// Image is one that is present.
type Image struct {
	// ID is the digest of the image's configuration.
	ID string
	// Names are tagged references, Digests those by manifest digest.
	Names, Digests []string
	Bytes          int64
	Pinned         bool
	// User is the image's USER as numbers or a name; Username is set if it is no number.
	UID      *int64
	Username string
	LastUsed time.Time
	// Env is that of the image's configuration, KEY=value.
	Env []string
}

// Auth is what a registry wants to see; all empty is anonymous.
type Auth struct{ Username, Password, IdentityToken, RegistryToken string }

// PullProgress reports bytes done and total (0 while unknown).
type PullProgress func(done, total int64)

// Images are the image store of an Engine.
type Images interface {
	// Resolve finds a present image by any reference people write ("busybox:1.36",
	// "docker.io/library/busybox:1.36", a digest, an ID). ErrNotFound if absent.
	Resolve(ctx context.Context, ref string) (Image, error)
	List(ctx context.Context) ([]Image, error)
	// Pull fetches ref, trying auths in order, through the configured mirrors.
	Pull(ctx context.Context, ref string, auths []Auth, p PullProgress) (Image, error)
	// Import reads an OCI or docker archive (tar, gzip or zstd) and returns what it
	// held, under the names that the archive has (the host may know more).
	Import(ctx context.Context, r io.Reader, pin bool) ([]Image, error)
	Remove(ctx context.Context, id string) error
	// Mount shows the root of a present image at target, a directory that it makes,
	// read-only. What is mounted there already stays. Until Unmount the image's layers are
	// kept, whoever removes the image; the mount outlives this process.
	Mount(ctx context.Context, id, target string) error
	// Unmount takes away what Mount put at target, also after a reboot. Nothing there is no error.
	Unmount(ctx context.Context, target string) error
	// UsageBytes is the disk space of content and unpacked layers.
	UsageBytes(ctx context.Context) (int64, error)
}
