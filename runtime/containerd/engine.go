package containerd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/version"

	"orch/runtime/deviceguard"
	"orch/runtime/engine"
	"orch/runtime/image"
	"orch/runtime/oci"
)

// Engine is the engine.Engine over a containerd in this process.
type Engine struct {
	cfg    Config
	log    *slog.Logger
	srv    *server
	socks  *sockets
	images *image.Store
	host   oci.Host
	hub    hub
	usage  usageCache
	guard  deviceguard.Guard
	// guarded has something in it when a container with devices was made.
	guarded chan struct{}
	// ownCgroup is for quicken; empty: unknown.
	ownCgroup string

	// life is the parent of all background work; it carries namespace and logger.
	life context.Context //nolint:containedctx // the engine's own life, not a call's
	stop context.CancelFunc
	work sync.WaitGroup

	mu         sync.Mutex
	containers map[string]*container
	closed     bool
}

var _ engine.Engine = (*Engine)(nil)

// New starts containerd over the folders of c and takes over what runs already.
// The engine works from here on; Run serves until its context ends. Without Run, call Close.
func New(c Config) (_ *Engine, err error) {
	if c, err = c.complete(); err != nil {
		return nil, err
	}
	setTimeouts()
	e := &Engine{cfg: c, log: c.Log, containers: map[string]*container{}, guarded: make(chan struct{}, 1), ownCgroup: ownCgroupFile()}
	e.life, e.stop = context.WithCancel(namespaces.WithNamespace(context.Background(), Namespace))
	e.life = withLog(e.life, c.Log)
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
		}
	}()
	if err := mkdirs(0o711, c.Root, c.State, e.statusDir(), e.ioDir()); err != nil {
		return nil, fmt.Errorf("container engine: %w", err)
	}
	if e.host, err = hostFacts(); err != nil {
		return nil, fmt.Errorf("container engine: %w", err)
	}
	e.guard = deviceguard.Guard{Mount: "/sys/fs/cgroup", V2: e.host.CgroupV2, Pins: filepath.Join(c.State, "devices")}
	if e.cfg.Snapshotter == "" {
		e.cfg.Snapshotter = defaultSnapshotter(c.Root)
	}
	if e.srv, err = boot(e.life, e.cfg); err != nil {
		return nil, fmt.Errorf("container engine: %w", err)
	}
	e.images = image.NewStore(image.Config{
		Client: e.srv.client, Snapshotter: e.cfg.Snapshotter, Registries: c.Registries, MaxParallel: c.MaxParallelPulls, Log: c.Log,
	})
	if err := e.load(); err != nil {
		return nil, fmt.Errorf("container engine: %w", err)
	}
	if e.socks, err = e.srv.listen(e.cfg); err != nil {
		return nil, fmt.Errorf("container engine: %w", err)
	}
	if err := e.guard.Forgotten(func(id string) bool { return e.containers[id] != nil }); err != nil {
		c.Log.Warn("dropping device rules of containers that are gone failed", "err", err)
	}
	e.work.Go(e.watchOOM)
	e.work.Go(e.guardDevices)
	return e, nil
}

// Run blocks until ctx ends, then closes the engine. Containers go on.
func (e *Engine) Run(ctx context.Context) error {
	<-ctx.Done()
	return e.Close()
}

// Close lets go of everything; containers and their shims go on. Their output
// waits in pipes until the next New.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	containers := e.containers
	e.mu.Unlock()
	e.stop()
	var errs []error
	errs = append(errs, e.socks.close())
	for _, c := range containers {
		c.letGo()
	}
	if e.srv != nil && e.srv.shims != nil {
		errs = append(errs, e.srv.shims.Close())
	}
	e.work.Wait()
	if e.srv != nil {
		errs = append(errs, e.srv.close())
	}
	return errors.Join(errs...)
}

// background runs f beside the caller; Close waits for it.
func (e *Engine) background(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		e.work.Go(f)
	}
}

// Images of the engine.
func (e *Engine) Images() engine.Images { return scopedImages{e} }

// ImageFile reads a file of an image as a container would see it; see image.Store.File.
func (e *Engine) ImageFile(ctx context.Context, ref, path string, max int64) ([]byte, error) {
	return e.images.File(e.scope(ctx), ref, path, max)
}

// Version as in Node.status.nodeInfo.
func (e *Engine) Version() string {
	return "containerd://" + strings.TrimSuffix(version.Version, "+unknown")
}

// PreparePod starts the shim of a pod ahead of its first container. Call it
// when the pod's network is being set up; the first Create then need not wait for it.
func (e *Engine) PreparePod(ctx context.Context, pod string) error {
	e.background(e.quicken)
	return e.srv.shims.PreparePod(e.scope(ctx), pod)
}

// scope puts our namespace and logger into a caller's context.
func (e *Engine) scope(ctx context.Context) context.Context {
	return scoped{Context: ctx, values: e.life}
}

// scoped has the life of one context and the values of another first.
type scoped struct {
	context.Context
	values context.Context
}

func (s scoped) Value(key any) any {
	if v := s.values.Value(key); v != nil {
		return v
	}
	return s.Context.Value(key)
}

func (e *Engine) snapshots() snapshots.Snapshotter {
	return e.srv.client.SnapshotService(e.cfg.Snapshotter)
}

func (e *Engine) statusDir() string { return filepath.Join(e.cfg.Root, "status") }
func (e *Engine) ioDir() string     { return filepath.Join(e.cfg.State, "io") }

// find returns the container or ErrNotFound.
func (e *Engine) find(id string) (*container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.containers[id]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("container %s: %w", id, engine.ErrNotFound)
}

// List shows all containers.
func (e *Engine) List(context.Context) ([]engine.Container, error) {
	e.mu.Lock()
	all := make([]*container, 0, len(e.containers))
	for _, c := range e.containers {
		all = append(all, c)
	}
	e.mu.Unlock()
	out := make([]engine.Container, 0, len(all))
	for _, c := range all {
		if v, ok := c.view(); ok {
			out = append(out, v)
		}
	}
	return out, nil
}

// Inspect shows one.
func (e *Engine) Inspect(_ context.Context, id string) (engine.Container, error) {
	c, err := e.find(id)
	if err != nil {
		return engine.Container{}, err
	}
	v, ok := c.view()
	if !ok {
		return engine.Container{}, fmt.Errorf("container %s: %w", id, engine.ErrNotFound)
	}
	return v, nil
}

// RootPath is the mounted root of a container that has a process, empty otherwise.
func (e *Engine) RootPath(_ context.Context, id string) (string, error) {
	c, err := e.find(id)
	if err != nil {
		return "", err
	}
	if t, ok := c.taskIfAlive().(interface{ RootPath() string }); ok {
		return t.RootPath(), nil
	}
	return "", nil
}

// Events delivers until ctx ends.
func (e *Engine) Events(ctx context.Context) <-chan engine.Event { return e.hub.subscribe(ctx) }
