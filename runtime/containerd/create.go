package containerd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/moby/sys/signal"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"orch/runtime/deviceguard"
	"orch/runtime/engine"
	"orch/runtime/image"
	"orch/runtime/oci"
	"orch/runtime/shim"
)

const (
	specType = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
	// rootLabel keeps a container's layer from containerd's collector; Remove takes the layer away.
	rootLabel  = "containerd.io/gc.root"
	ownerLabel = "orch/container"
	// maxLabelBytes is containerd's limit for key and value of a label together.
	maxLabelBytes = 4096
	rollbackTime  = 20 * time.Second
)

// Create makes the container; its process waits for Start.
func (e *Engine) Create(ctx context.Context, s engine.Spec) (err error) {
	ctx = e.scope(ctx)
	if s.ID == "" || strings.ContainsAny(s.ID, "/\\ ") {
		return fmt.Errorf("creating container: %q is no ID", s.ID)
	}
	c := newContainer(s.ID)
	c.op.Lock()
	defer c.op.Unlock()
	e.mu.Lock()
	switch {
	case e.closed:
		e.mu.Unlock()
		return errors.New("creating container: the engine is closed")
	case e.containers[s.ID] != nil:
		e.mu.Unlock()
		return fmt.Errorf("container %s: %w", s.ID, engine.ErrExists)
	}
	e.containers[s.ID] = c
	e.mu.Unlock()
	if err := e.create(ctx, c, s); err != nil {
		e.rollback(c)
		// No ID in the text: it becomes an event, and equal ones are counted.
		if errors.Is(err, engine.ErrProcess) {
			return err
		}
		return fmt.Errorf("creating container: %w", err)
	}
	c.mu.Lock()
	c.ready, c.st = true, status{State: engine.Created, PID: c.st.PID}
	c.mu.Unlock()
	e.background(func() { e.watch(c) })
	return nil
}

func (e *Engine) create(ctx context.Context, c *container, s engine.Spec) error {
	runtimeName, err := handler(s.Runtime)
	if err != nil {
		return err
	}
	if runtimeName == shim.Name && s.Pod != "" {
		// The shim loads while the root file system is made.
		e.background(func() { _ = e.srv.shims.PreparePod(e.life, s.Pod) }) // Create reports the error
	}
	e.background(e.quicken)
	rec, contents, err := e.images.Find(ctx, s.Image)
	if err != nil {
		return err
	}
	if err := e.images.Unpack(ctx, rec, contents); err != nil {
		return err
	}
	stop, err := stopSignal(s.StopSignal, contents.Config.StopSignal)
	if err != nil {
		return err
	}
	c.meta = meta{
		Pod: s.Pod, Labels: s.Labels, Image: s.Image, ImageID: string(contents.ID), CreatedAt: time.Now(),
		LogPath: s.LogPath, LogMaxBytes: s.LogMaxBytes, LogMaxFiles: s.LogMaxFiles,
		TTY: s.TTY, Stdin: s.Stdin, StdinOnce: s.StdinOnce, CgroupPath: s.CgroupPath, StopSignal: stop,
	}
	rootfs, err := e.snapshots().Prepare(ctx, s.ID, contents.Chain.String(), snapshots.WithLabels(map[string]string{
		rootLabel: c.meta.CreatedAt.UTC().Format(time.RFC3339), ownerLabel: s.ID,
	}))
	if err != nil {
		return fmt.Errorf("preparing root file system: %w", err)
	}
	built, err := e.spec(s, contents, rootfs)
	if err != nil {
		return err
	}
	c.meta.Devices = deviceguard.Rules(built)
	spec, err := json.Marshal(built)
	if err != nil {
		return err
	}
	if err := e.record(ctx, c, s, containers.Container{Image: rec.Name, Runtime: containers.RuntimeInfo{Name: runtimeName}, Spec: &anypb.Any{TypeUrl: specType, Value: spec}}); err != nil {
		return err
	}
	e.images.MarkUsed(contents.ID, c.meta.CreatedAt)
	return e.createTask(ctx, c, runtimeName, spec, rootfs)
}

// stopSignal is the container's own, else the image's, else SIGTERM.
func stopSignal(own, images string) (int, error) {
	name := cmp.Or(own, images, "SIGTERM")
	sig, err := signal.ParseSignal(name)
	if err != nil {
		return 0, fmt.Errorf("stop signal %q: %w", name, err)
	}
	return int(sig), nil
}

// handler maps a runtime handler to the shim's name.
func handler(name string) (string, error) {
	switch name {
	case "", "runc":
		return shim.Name, nil
	case "runsc":
		return "io.containerd.runsc.v1", nil
	case "kata":
		return "io.containerd.kata.v2", nil
	}
	if strings.HasPrefix(name, "io.containerd.") {
		return name, nil
	}
	return "", fmt.Errorf("no runtime for %q is configured", name)
}

// spec builds the OCI spec.
func (e *Engine) spec(s engine.Spec, contents image.Contents, rootfs []mount.Mount) (*specs.Spec, error) {
	in := oci.Input{Spec: s, Image: contents.Config, Host: e.host, ReadFile: imageFiles(rootfs)}
	switch s.Security.Seccomp {
	case "", "Unconfined", "RuntimeDefault":
	default:
		b, err := os.ReadFile(s.Security.Seccomp)
		if err != nil {
			return nil, fmt.Errorf("reading seccomp profile: %w", err)
		}
		in.SeccompProfile = b
	}
	spec, err := oci.Build(in)
	if err != nil {
		return nil, err
	}
	if err := injectCDI(spec, s.CDI); err != nil {
		return nil, err
	}
	return spec, nil
}

// record stores the container in containerd.
func (e *Engine) record(ctx context.Context, c *container, s engine.Spec, r containers.Container) error {
	ext, err := encodeMeta(c.meta)
	if err != nil {
		return err
	}
	labels := map[string]string{}
	for k, v := range s.Labels {
		if len(k)+len(v) <= maxLabelBytes { // all of them are in meta
			labels[k] = v
		}
	}
	r.ID, r.Labels, r.SandboxID = s.ID, labels, s.Pod
	r.SnapshotKey, r.Snapshotter = s.ID, e.cfg.Snapshotter
	r.Extensions = map[string]typeurl.Any{metaName: ext}
	if _, err := e.srv.client.ContainerService().Create(ctx, r); err != nil {
		return fmt.Errorf("recording container: %w", err)
	}
	return nil
}

// createTask opens the pipes and has the shim make the process.
func (e *Engine) createTask(ctx context.Context, c *container, runtimeName string, spec []byte, rootfs []mount.Mount) error {
	out, err := e.openOutput(c, true)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.out = out
	c.mu.Unlock()
	task, err := e.srv.shims.Create(ctx, c.id, runtime.CreateOpts{
		Spec: &anypb.Any{TypeUrl: specType, Value: spec}, Rootfs: e.volatile(rootfs), IO: out.paths,
		Runtime: runtimeName, SandboxID: c.meta.Pod,
	})
	if err != nil {
		return processError{fmt.Errorf("failed to create containerd task: failed to create shim task: %w", err)}
	}
	out.start()
	e.keepDevices(c)
	pid, err := task.PID(ctx)
	if err != nil {
		return fmt.Errorf("asking for the process: %w", err)
	}
	c.mu.Lock()
	c.task = task
	c.st.PID = int(pid)
	c.first, _ = os.FindProcess(int(pid)) // by pidfd: never a stranger with the same number
	c.mu.Unlock()
	return nil
}

// rollback undoes what a failed Create left.
func (e *Engine) rollback(c *container) {
	ctx, cancel := context.WithTimeout(e.life, rollbackTime)
	defer cancel()
	if task := c.taskIfAlive(); task != nil {
		_ = task.Kill(ctx, 9, false)
		if _, err := task.Wait(ctx); err == nil {
			_, _ = e.srv.shims.Delete(ctx, c.id)
		}
	}
	c.mu.Lock()
	out := c.out
	c.mu.Unlock()
	if out != nil {
		out.abandon()
	}
	if err := e.erase(ctx, c); err != nil {
		e.log.Warn("cleaning up after a container that could not be made failed", "container", c.id, "err", err)
	}
}

// erase removes the records of a container and takes it out of the table.
func (e *Engine) erase(ctx context.Context, c *container) error {
	var errs []error
	if err := e.srv.client.ContainerService().Delete(ctx, c.id); err != nil && !errdefs.IsNotFound(err) {
		errs = append(errs, fmt.Errorf("removing record: %w", err))
	}
	if err := e.snapshots().Remove(ctx, c.id); err != nil && !errdefs.IsNotFound(err) {
		errs = append(errs, fmt.Errorf("removing root file system: %w", err))
	}
	errs = append(errs, os.RemoveAll(e.pipesDir(c.id)), e.guard.Forget(c.id))
	if err := os.Remove(e.statusPath(c.id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	e.usage.forget(c.id)
	e.mu.Lock()
	if e.containers[c.id] == c {
		delete(e.containers, c.id)
	}
	e.mu.Unlock()
	return nil
}

// processError marks an error as engine.ErrProcess and keeps the runtime's
// words, which people and tools look for, as they are.
type processError struct{ error }

func (p processError) Unwrap() []error { return []error{p.error, engine.ErrProcess} }

// Start lets the process run.
func (e *Engine) Start(ctx context.Context, id string) (int, error) {
	c, err := e.find(id)
	if err != nil {
		return 0, err
	}
	c.op.Lock()
	defer c.op.Unlock()
	v, ok := c.view()
	task := c.taskIfAlive()
	switch {
	case !ok:
		return 0, fmt.Errorf("container %s: %w", id, engine.ErrNotFound)
	case v.State != engine.Created || task == nil:
		return 0, fmt.Errorf("starting container %s: it is %s already: %w", id, v.State, engine.ErrExists)
	}
	if err := task.Start(e.scope(ctx)); err != nil {
		return 0, processError{fmt.Errorf("failed to start containerd task %q: %w", id, err)}
	}
	now := time.Now()
	c.mu.Lock()
	c.st.State, c.st.StartedAt = engine.Running, now
	c.mu.Unlock()
	e.save(c)
	e.hub.publish(engine.Event{ID: id, Pod: c.meta.Pod, Kind: "start", Time: now})
	return v.PID, nil
}

// Remove deletes a container that does not run.
func (e *Engine) Remove(ctx context.Context, id string) error {
	c, err := e.find(id)
	if errors.Is(err, engine.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	switch c.state() {
	case engine.Running:
		return fmt.Errorf("removing container %s: it is running", id)
	case engine.Created:
		// Its process waits for a start that will not come.
		if task := c.taskIfAlive(); task != nil {
			_ = task.Kill(e.scope(ctx), 9, false)
		}
	}
	select {
	case <-c.gone:
	case <-ctx.Done():
		return fmt.Errorf("removing container %s: waiting for its process: %w", id, ctx.Err())
	}
	c.op.Lock()
	defer c.op.Unlock()
	if e.forgotten(c) {
		return nil
	}
	if err := e.erase(e.scope(ctx), c); err != nil {
		return fmt.Errorf("removing container %s: %w", id, err)
	}
	return nil
}

func (e *Engine) forgotten(c *container) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.containers[c.id] != c
}
