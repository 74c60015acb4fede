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
	"syscall"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"
)

// Task is the first process of a container, and the place of the others.
type Task struct {
	rt     *Runtime
	pod    *pod
	id, ns string
	bundle string
	pid    uint32

	mu   sync.Mutex    // one delete at a time
	exit *runtime.Exit // set once deleted
}

var _ runtime.Task = (*Task)(nil)

// ID of the container.
func (t *Task) ID() string { return t.id }

// Namespace in containerd's sense.
func (t *Task) Namespace() string { return t.ns }

// PID on the host.
func (t *Task) PID(context.Context) (uint32, error) { return t.pid, nil }

// RootPath is the mounted root file system.
func (t *Task) RootPath() string { return filepath.Join(t.bundle, "rootfs") }

func (t *Task) first() *process { return &process{task: t} }

// State of the first process.
func (t *Task) State(ctx context.Context) (runtime.State, error) { return t.first().State(ctx) }

// Kill signals the first process, or all in the container.
func (t *Task) Kill(ctx context.Context, signal uint32, all bool) error {
	return t.first().Kill(ctx, signal, all)
}

// ResizePty sets the size of the terminal.
func (t *Task) ResizePty(ctx context.Context, size runtime.ConsoleSize) error {
	return t.first().ResizePty(ctx, size)
}

// CloseIO ends the standard input.
func (t *Task) CloseIO(ctx context.Context) error { return t.first().CloseIO(ctx) }

// Start lets the first process run.
func (t *Task) Start(ctx context.Context) error { return t.first().Start(ctx) }

// Wait for the first process to end.
func (t *Task) Wait(ctx context.Context) (*runtime.Exit, error) { return t.first().Wait(ctx) }

// Pause freezes the container.
func (t *Task) Pause(ctx context.Context) error {
	_, err := t.pod.api.Pause(ctx, &taskapi.PauseRequest{ID: t.id})
	return native(err)
}

// Resume thaws it.
func (t *Task) Resume(ctx context.Context) error {
	_, err := t.pod.api.Resume(ctx, &taskapi.ResumeRequest{ID: t.id})
	return native(err)
}

// Exec adds a process; its Start runs it.
func (t *Task) Exec(ctx context.Context, id string, o runtime.ExecOpts) (runtime.ExecProcess, error) {
	if err := identifiers.Validate(id); err != nil {
		return nil, fmt.Errorf("adding process: %w", err)
	}
	_, err := t.pod.api.Exec(ctx, &taskapi.ExecProcessRequest{
		ID: t.id, ExecID: id, Spec: o.Spec,
		Stdin: o.IO.Stdin, Stdout: o.IO.Stdout, Stderr: o.IO.Stderr, Terminal: o.IO.Terminal,
	})
	if err != nil {
		return nil, native(err)
	}
	return &process{task: t, exec: id}, nil
}

// Pids lists the processes in the container.
func (t *Task) Pids(ctx context.Context) ([]runtime.ProcessInfo, error) {
	res, err := t.pod.api.Pids(ctx, &taskapi.PidsRequest{ID: t.id})
	if err != nil {
		return nil, native(err)
	}
	out := make([]runtime.ProcessInfo, 0, len(res.Processes))
	for _, p := range res.Processes {
		out = append(out, runtime.ProcessInfo{Pid: p.Pid, Info: p.Info})
	}
	return out, nil
}

// Checkpoint writes the container's state to path.
func (t *Task) Checkpoint(ctx context.Context, path string, o *anypb.Any) error {
	_, err := t.pod.api.Checkpoint(ctx, &taskapi.CheckpointTaskRequest{ID: t.id, Path: path, Options: o})
	return native(err)
}

// Update changes the resources of the running container.
func (t *Task) Update(ctx context.Context, resources *anypb.Any, annotations map[string]string) error {
	_, err := t.pod.api.Update(ctx, &taskapi.UpdateTaskRequest{ID: t.id, Resources: resources, Annotations: annotations})
	return native(err)
}

// Process finds a process that Exec added.
func (t *Task) Process(ctx context.Context, id string) (runtime.ExecProcess, error) {
	p := &process{task: t, exec: id}
	if _, err := p.State(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// Stats as the shim reads them.
func (t *Task) Stats(ctx context.Context) (*anypb.Any, error) {
	res, err := t.pod.api.Stats(ctx, &taskapi.StatsRequest{ID: t.id})
	if err != nil {
		return nil, native(err)
	}
	return res.Stats, nil
}

// writeBundle makes the task's directory anew: one that is left over from a
// crash (no table entry) has no shim that knows it.
func (t *Task) writeBundle(spec typeurl.Any) error {
	if err := os.MkdirAll(filepath.Dir(t.bundle), 0o711); err != nil {
		return err
	}
	if err := os.Mkdir(t.bundle, 0o700); errors.Is(err, os.ErrExist) {
		t.removeBundle(t.rt.cfg.Log)
		err = os.Mkdir(t.bundle, 0o700)
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if gid := mappedRootGroup(spec); gid != 0 {
		// The user namespace's root must be able to pass through.
		if err := errors.Join(os.Chown(t.bundle, -1, gid), os.Chmod(t.bundle, 0o710)); err != nil {
			return err
		}
	}
	for _, dir := range []string{"rootfs", "work"} {
		if err := os.Mkdir(filepath.Join(t.bundle, dir), 0o711); err != nil {
			return err
		}
	}
	if spec == nil || spec.GetValue() == nil {
		return nil
	}
	return os.WriteFile(filepath.Join(t.bundle, "config.json"), spec.GetValue(), 0o600)
}

func mappedRootGroup(spec typeurl.Any) int {
	if spec == nil {
		return 0
	}
	var s struct {
		Linux struct {
			GIDMappings []struct {
				ContainerID uint32 `json:"containerID"`
				HostID      int    `json:"hostID"`
			} `json:"gidMappings"`
		} `json:"linux"`
	}
	if json.Unmarshal(spec.GetValue(), &s) != nil {
		return 0 // runc will say what is wrong with it
	}
	for _, m := range s.Linux.GIDMappings {
		if m.ContainerID == 0 {
			return m.HostID
		}
	}
	return 0
}

func (t *Task) removeBundle(log *slog.Logger) {
	if err := unmount(t.bundle); err != nil {
		// Removing now would empty what is mounted there.
		log.Warn("unmounting the root of a container failed; its folder stays", "task", t.id, "err", err)
		return
	}
	err := os.RemoveAll(t.bundle)
	if errors.Is(err, syscall.ENOTEMPTY) {
		err = os.RemoveAll(t.bundle) // the shim wrote its last file meanwhile
	}
	if err != nil {
		log.Warn("removing a container's folder failed", "task", t.id, "err", err)
	}
}

// dropPipes lets the pod's keeper forget the output pipes.
func (t *Task) dropPipes() {
	if err := t.pod.pipes.drop(t.id); err != nil {
		t.rt.cfg.Log.Warn("letting go of a container's pipes failed", "task", t.id, "err", err)
	}
}

// delete asks the shim to delete the task, then removes its traces.
func (t *Task) delete(ctx context.Context) (*runtime.Exit, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.exit != nil {
		return t.exit, nil
	}
	res, err := t.pod.api.Delete(ctx, &taskapi.DeleteRequest{ID: t.id})
	exit := lostExit(t.pid)
	switch err = native(err); {
	case err == nil:
		exit = runtime.Exit{Pid: res.Pid, Status: res.ExitStatus, Timestamp: res.ExitedAt.AsTime()}
	case errdefs.IsNotFound(err), errors.Is(err, ttrpc.ErrClosed), errdefs.IsUnavailable(err):
		// The shim does not know it, or is gone: podDied cleans up.
	default:
		return nil, fmt.Errorf("deleting task %s: %w", t.id, err)
	}
	t.exit = &exit
	if t.rt.forget(t) {
		t.removeBundle(t.rt.cfg.Log)
		t.dropPipes()
		t.rt.mu.Lock()
		t.pod.users--
		t.rt.mu.Unlock()
		t.rt.endIfUnused(t.pod)
	}
	return &exit, nil
}

// process is one process of a task; exec is empty for the first one.
type process struct {
	task *Task
	exec string
}

var _ runtime.ExecProcess = (*process)(nil)

func (p *process) ID() string {
	if p.exec == "" {
		return p.task.id
	}
	return p.exec
}

func (p *process) State(ctx context.Context) (runtime.State, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	res, err := p.task.pod.api.State(ctx, &taskapi.StateRequest{ID: p.task.id, ExecID: p.exec})
	if err != nil {
		return runtime.State{}, native(err)
	}
	return runtime.State{
		Pid: res.Pid, Status: statuses[res.Status], Terminal: res.Terminal,
		Stdin: res.Stdin, Stdout: res.Stdout, Stderr: res.Stderr,
		ExitStatus: res.ExitStatus, ExitedAt: res.ExitedAt.AsTime(),
	}, nil
}

var statuses = map[tasktypes.Status]runtime.Status{
	tasktypes.Status_CREATED: runtime.CreatedStatus,
	tasktypes.Status_RUNNING: runtime.RunningStatus,
	tasktypes.Status_STOPPED: runtime.StoppedStatus,
	tasktypes.Status_PAUSED:  runtime.PausedStatus,
	tasktypes.Status_PAUSING: runtime.PausingStatus,
}

func (p *process) Kill(ctx context.Context, signal uint32, all bool) error {
	_, err := p.task.pod.api.Kill(ctx, &taskapi.KillRequest{ID: p.task.id, ExecID: p.exec, Signal: signal, All: all})
	return native(err)
}

func (p *process) ResizePty(ctx context.Context, size runtime.ConsoleSize) error {
	_, err := p.task.pod.api.ResizePty(ctx, &taskapi.ResizePtyRequest{ID: p.task.id, ExecID: p.exec, Width: size.Width, Height: size.Height})
	return native(err)
}

func (p *process) CloseIO(ctx context.Context) error {
	_, err := p.task.pod.api.CloseIO(ctx, &taskapi.CloseIORequest{ID: p.task.id, ExecID: p.exec, Stdin: true})
	return native(err)
}

func (p *process) Start(ctx context.Context) error {
	_, err := p.task.pod.api.Start(ctx, &taskapi.StartRequest{ID: p.task.id, ExecID: p.exec})
	return native(err)
}

func (p *process) Wait(ctx context.Context) (*runtime.Exit, error) {
	res, err := p.task.pod.api.Wait(ctx, &taskapi.WaitRequest{ID: p.task.id, ExecID: p.exec})
	if err != nil {
		return nil, native(err)
	}
	return &runtime.Exit{Pid: p.task.pid, Status: res.ExitStatus, Timestamp: res.ExitedAt.AsTime()}, nil
}

func (p *process) Delete(ctx context.Context) (*runtime.Exit, error) {
	res, err := p.task.pod.api.Delete(ctx, &taskapi.DeleteRequest{ID: p.task.id, ExecID: p.exec})
	if err != nil {
		return nil, native(err)
	}
	return &runtime.Exit{Pid: res.Pid, Status: res.ExitStatus, Timestamp: res.ExitedAt.AsTime()}, nil
}

// native turns a shim's answer into containerd's kinds of errors; a closed
// connection stays recognisable.
func native(err error) error {
	if err == nil || errors.Is(err, ttrpc.ErrClosed) {
		return err
	}
	return errgrpc.ToNative(err)
}

// withNamespace puts a task's namespace into a context of ours.
func (t *Task) withNamespace(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, t.ns)
}
