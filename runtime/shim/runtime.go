package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	apitypes "github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"
)

// Name of the runtime whose tasks this package runs.
const Name = "io.containerd.runc.v2"

// maxSocketPath is the kernel's limit for the path of a unix socket.
const maxSocketPath = 107

// Config of a Runtime. All paths are absolute.
type Config struct {
	// State holds bundles and pods; it is gone after a reboot (/run).
	State string
	// SocketDir holds the shims' sockets; it must be short.
	SocketDir string
	// Shim and Runc are the programs. Runc may be overridden per task by its options.
	Shim, Runc string
	// Address and EventAddress are containerd's sockets (gRPC; ttrpc for events).
	Address, EventAddress string
	// Events gets the exits of tasks whose shim has died.
	Events events.Publisher
	// Others runs the tasks of other shims. May be nil.
	Others runtime.PlatformRuntime
	Log    *slog.Logger
}

// Runtime is the set of pods (shims) and tasks of one containerd root.
type Runtime struct {
	cfg Config

	mu     sync.Mutex
	pods   map[string]*pod  // by namespace/group
	tasks  map[string]*Task // by namespace/id
	making map[string]bool  // ids whose Create runs
	closed bool
}

var _ runtime.PlatformRuntime = (*Runtime)(nil)

// New makes a Runtime. Load then finds what runs already.
func New(c Config) (*Runtime, error) {
	if len(c.SocketDir)+1+keyLength > maxSocketPath {
		return nil, fmt.Errorf("making shim runtime: socket folder %s is too long by %d bytes", c.SocketDir, len(c.SocketDir)+1+keyLength-maxSocketPath)
	}
	for _, dir := range []string{c.State, filepath.Join(c.State, podsDir), c.SocketDir} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("making shim runtime: %w", err)
		}
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Runtime{cfg: c, pods: map[string]*pod{}, tasks: map[string]*Task{}, making: map[string]bool{}}, nil
}

// ID is the plugin's name, as containerd's own.
func (r *Runtime) ID() string { return "io.containerd.runtime.v2.task" }

// Create makes the task of a container: its process exists and waits for Start.
func (r *Runtime) Create(ctx context.Context, id string, o runtime.CreateOpts) (runtime.Task, error) {
	if o.Runtime != Name && r.cfg.Others != nil {
		return r.cfg.Others.Create(ctx, id, o)
	}
	if err := identifiers.Validate(id); err != nil {
		return nil, fmt.Errorf("creating task: %w", err)
	}
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, fmt.Errorf("creating task %s: %w", id, err)
	}
	key := ns + "/" + id
	if err := r.reserve(key); err != nil {
		return nil, err
	}
	defer r.release(key)

	group := o.SandboxID
	if group == "" {
		group = groupOf(o.Spec, id)
	}
	p, err := r.acquirePod(ctx, ns, group)
	if err != nil {
		return nil, fmt.Errorf("creating task %s: %w", id, err)
	}
	t, err := r.create(ctx, p, id, o)
	p.done(r, err == nil)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.tasks[key] = t
	r.mu.Unlock()
	return t, nil
}

func (r *Runtime) reserve(key string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return fmt.Errorf("creating task: runtime is closed: %w", errdefs.ErrUnavailable)
	}
	if r.tasks[key] != nil || r.making[key] {
		return fmt.Errorf("task %s: %w", key, errdefs.ErrAlreadyExists)
	}
	r.making[key] = true
	return nil
}

func (r *Runtime) release(key string) {
	r.mu.Lock()
	delete(r.making, key)
	r.mu.Unlock()
}

func (r *Runtime) create(ctx context.Context, p *pod, id string, o runtime.CreateOpts) (_ *Task, err error) {
	t := &Task{rt: r, pod: p, id: id, ns: p.ns, bundle: filepath.Join(r.cfg.State, p.ns, id)}
	if err := t.writeBundle(o.Spec); err != nil {
		return nil, fmt.Errorf("writing bundle of task %s: %w", id, err)
	}
	defer func() {
		if err != nil {
			t.removeBundle(r.cfg.Log)
			t.dropPipes()
		}
	}()
	opts, err := r.runcOptions(o)
	if err != nil {
		return nil, fmt.Errorf("creating task %s: %w", id, err)
	}
	req := &taskapi.CreateTaskRequest{
		ID: id, Bundle: t.bundle, Options: opts, Checkpoint: o.Checkpoint,
		Stdin: o.IO.Stdin, Stdout: o.IO.Stdout, Stderr: o.IO.Stderr, Terminal: o.IO.Terminal,
	}
	for _, m := range o.Rootfs {
		req.Rootfs = append(req.Rootfs, &apitypes.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	if err := p.pipes.put(id, o.IO.Stdout, o.IO.Stderr); err != nil {
		r.cfg.Log.Warn("a container's pipes are not kept; what it says last is lost if it ends while orch is away", "task", id, "err", err)
	}
	res, err := p.api.Create(ctx, req)
	if err != nil {
		return nil, errgrpc.ToNative(err) // the runtime's own words
	}
	t.pid = res.Pid
	if err := os.WriteFile(filepath.Join(t.bundle, "pod"), []byte(p.key), 0o600); err != nil {
		return nil, fmt.Errorf("creating task %s: %w", id, err)
	}
	return t, nil
}

// runcOptions fills in what the caller left open: which runc, and where it keeps its state.
func (r *Runtime) runcOptions(o runtime.CreateOpts) (*anypb.Any, error) {
	given := o.TaskOptions
	if given == nil || given.GetValue() == nil {
		given = o.RuntimeOptions
	}
	opts := &options.Options{}
	if given != nil && given.GetValue() != nil {
		v, err := typeurl.UnmarshalAny(given)
		if err != nil {
			return nil, fmt.Errorf("reading runtime options: %w", err)
		}
		parsed, ok := v.(*options.Options)
		if !ok {
			return nil, fmt.Errorf("reading runtime options: %s is not for runc: %w", given.GetTypeUrl(), errdefs.ErrInvalidArgument)
		}
		opts = parsed
	}
	if opts.BinaryName == "" {
		opts.BinaryName = r.cfg.Runc
	}
	if opts.Root == "" {
		opts.Root = r.runcRoot()
	}
	out, err := typeurl.MarshalAnyToProto(opts)
	if err != nil {
		return nil, fmt.Errorf("writing runtime options: %w", err)
	}
	return out, nil
}

func (r *Runtime) runcRoot() string { return filepath.Join(r.cfg.State, "runc") }

// Get finds a task.
func (r *Runtime) Get(ctx context.Context, id string) (runtime.Task, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	if t := r.find(ns, id); t != nil {
		return t, nil
	}
	if r.cfg.Others != nil {
		return r.cfg.Others.Get(ctx, id)
	}
	return nil, fmt.Errorf("task %s: %w", id, errdefs.ErrNotFound)
}

// Task finds a task of ours; nil if there is none.
func (r *Runtime) find(ns, id string) *Task {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tasks[ns+"/"+id]
}

// Tasks lists the tasks of the context's namespace, or all.
func (r *Runtime) Tasks(ctx context.Context, all bool) ([]runtime.Task, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil && !all {
		return nil, err
	}
	var out []runtime.Task
	r.mu.Lock()
	for _, t := range r.tasks {
		if all || t.ns == ns {
			out = append(out, t)
		}
	}
	r.mu.Unlock()
	if r.cfg.Others != nil {
		others, err := r.cfg.Others.Tasks(ctx, all)
		if err != nil {
			return nil, fmt.Errorf("listing tasks of other shims: %w", err)
		}
		out = append(out, others...)
	}
	return out, nil
}

// Delete removes a task whose process has ended. The shim ends with its last task.
func (r *Runtime) Delete(ctx context.Context, id string) (*runtime.Exit, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	t := r.find(ns, id)
	if t == nil {
		if r.cfg.Others != nil {
			return r.cfg.Others.Delete(ctx, id)
		}
		return nil, fmt.Errorf("task %s: %w", id, errdefs.ErrNotFound)
	}
	return t.delete(ctx)
}

// Close lets go of all shims; they and their tasks go on.
func (r *Runtime) Close() error {
	r.mu.Lock()
	r.closed = true
	pods := r.pods
	r.pods = map[string]*pod{}
	r.mu.Unlock()
	var errs []error
	for _, p := range pods {
		errs = append(errs, p.letGo())
	}
	return errors.Join(errs...)
}

// forget takes a task out of the table; false if it was gone already.
func (r *Runtime) forget(t *Task) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := t.ns + "/" + t.id
	if r.tasks[key] != t {
		return false
	}
	delete(r.tasks, key)
	return true
}

// publishExit tells of a task that ended without its shim telling so.
func (r *Runtime) publishExit(t *Task, exit runtime.Exit) {
	if r.cfg.Events == nil {
		return
	}
	ctx := namespaces.WithNamespace(context.Background(), t.ns)
	err := r.cfg.Events.Publish(ctx, runtime.TaskExitEventTopic, &eventstypes.TaskExit{
		ContainerID: t.id, ID: t.id, Pid: exit.Pid, ExitStatus: exit.Status, ExitedAt: protobuf.ToTimestamp(exit.Timestamp),
	})
	if err != nil {
		r.cfg.Log.Warn("publishing exit of a task whose shim died failed", "task", t.id, "err", err)
	}
}

// groupOf reads the pod out of a spec's annotations, as containerd's shim does.
func groupOf(spec typeurl.Any, id string) string {
	if spec == nil {
		return id
	}
	var s struct {
		Annotations map[string]string `json:"annotations"`
	}
	if json.Unmarshal(spec.GetValue(), &s) != nil {
		return id // runc will say what is wrong with it
	}
	for _, k := range []string{"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"} {
		if g := s.Annotations[k]; g != "" {
			return g
		}
	}
	return id
}

// lostExit is what is reported when nobody saw how a task ended.
func lostExit(pid uint32) runtime.Exit {
	return runtime.Exit{Pid: pid, Status: 128 + 9, Timestamp: time.Now()}
}

// unmount takes the root file system of a bundle off.
func unmount(bundle string) error {
	return mount.UnmountRecursive(filepath.Join(bundle, "rootfs"), 0)
}
