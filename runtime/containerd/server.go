package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	client "github.com/containerd/containerd/v2/client"
	srvconfig "github.com/containerd/containerd/v2/cmd/containerd/server/config"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/events/exchange"
	"github.com/containerd/containerd/v2/core/introspection"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/timeout"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/plugins/services"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	"orch/runtime/shim"

	// The plugins that listPlugins names put themselves into containerd's registry.
	_ "github.com/containerd/containerd/v2/core/runtime/v2"
	_ "github.com/containerd/containerd/v2/plugins/content/local/plugin"
	_ "github.com/containerd/containerd/v2/plugins/diff/walking/plugin"
	_ "github.com/containerd/containerd/v2/plugins/events"
	_ "github.com/containerd/containerd/v2/plugins/gc"
	_ "github.com/containerd/containerd/v2/plugins/leases"
	_ "github.com/containerd/containerd/v2/plugins/metadata"
	_ "github.com/containerd/containerd/v2/plugins/services/containers"
	_ "github.com/containerd/containerd/v2/plugins/services/content"
	_ "github.com/containerd/containerd/v2/plugins/services/diff"
	_ "github.com/containerd/containerd/v2/plugins/services/events"
	_ "github.com/containerd/containerd/v2/plugins/services/healthcheck"
	_ "github.com/containerd/containerd/v2/plugins/services/images"
	_ "github.com/containerd/containerd/v2/plugins/services/introspection"
	_ "github.com/containerd/containerd/v2/plugins/services/leases"
	_ "github.com/containerd/containerd/v2/plugins/services/namespaces"
	_ "github.com/containerd/containerd/v2/plugins/services/snapshots"
	_ "github.com/containerd/containerd/v2/plugins/services/streaming"
	_ "github.com/containerd/containerd/v2/plugins/services/tasks"
	_ "github.com/containerd/containerd/v2/plugins/services/transfer"
	_ "github.com/containerd/containerd/v2/plugins/services/version"
	_ "github.com/containerd/containerd/v2/plugins/services/warning"
	_ "github.com/containerd/containerd/v2/plugins/snapshots/native/plugin"
	_ "github.com/containerd/containerd/v2/plugins/snapshots/overlay/plugin"
	_ "github.com/containerd/containerd/v2/plugins/streaming"
	_ "github.com/containerd/containerd/v2/plugins/transfer"
)

const (
	taskPlugin = "io.containerd.runtime.v2.task"
	shimPlugin = "io.containerd.shim.v1.manager"
)

// wanted are the plugins of the server, in no order (they declare their needs).
var wanted = []string{
	"io.containerd.content.v1.content",
	"io.containerd.differ.v1.walking",
	"io.containerd.event.v1.exchange",
	"io.containerd.gc.v1.scheduler",
	"io.containerd.lease.v1.manager",
	"io.containerd.metadata.v1.bolt",
	"io.containerd.snapshotter.v1.native",
	"io.containerd.snapshotter.v1.overlayfs",
	"io.containerd.streaming.v1.manager",
	"io.containerd.transfer.v1.local",
	"io.containerd.warning.v1.deprecations",
	shimPlugin,
	taskPlugin,
	"io.containerd.service.v1.containers-service",
	"io.containerd.service.v1.content-service",
	"io.containerd.service.v1.diff-service",
	"io.containerd.service.v1.images-service",
	"io.containerd.service.v1.introspection-service",
	"io.containerd.service.v1.namespaces-service",
	"io.containerd.service.v1.snapshots-service",
	"io.containerd.service.v1.tasks-service",
	"io.containerd.grpc.v1.containers",
	"io.containerd.grpc.v1.content",
	"io.containerd.grpc.v1.diff",
	"io.containerd.grpc.v1.events",
	"io.containerd.grpc.v1.healthcheck",
	"io.containerd.grpc.v1.images",
	"io.containerd.grpc.v1.introspection",
	"io.containerd.grpc.v1.leases",
	"io.containerd.grpc.v1.namespaces",
	"io.containerd.grpc.v1.snapshots",
	"io.containerd.grpc.v1.streaming",
	"io.containerd.grpc.v1.tasks",
	"io.containerd.grpc.v1.transfer",
	"io.containerd.grpc.v1.version",
}

// server is the set of running plugins.
type server struct {
	set    *plugin.Set
	opened []*plugin.Plugin // in order of start
	shims  *shim.Runtime
	events *exchange.Exchange
	client *client.Client
}

// boot starts the plugins over the folders of c. ctx lives as long as the server.
func boot(ctx context.Context, c Config) (_ *server, err error) {
	for dir, mode := range map[string]os.FileMode{c.Root: 0o700, c.State: 0o711} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return nil, fmt.Errorf("starting containerd: %w", err)
		}
	}
	s := &server{set: plugin.NewPluginSet()}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	graph := registry.Graph(func(r *plugin.Registration) bool { return !slices.Contains(wanted, r.URI()) })
	for _, r := range graph {
		if r.URI() == taskPlugin {
			r.Config, r.InitFn = nil, func(ic *plugin.InitContext) (any, error) { return s.startTasks(ic, c) }
		}
		if err := s.open(ctx, c, r); err != nil {
			return nil, fmt.Errorf("starting containerd: plugin %s: %w", r.URI(), err)
		}
	}
	if s.shims == nil {
		return nil, errors.New("starting containerd: no task plugin")
	}
	s.client, err = s.connect()
	return s, err
}

// open starts one plugin. A snapshotter that this host cannot run is left out.
func (s *server) open(ctx context.Context, c Config, r plugin.Registration) error {
	ic := plugin.NewContext(ctx, s.set, map[string]string{
		plugins.PropertyRootDir:      filepath.Join(c.Root, r.URI()),
		plugins.PropertyStateDir:     filepath.Join(c.State, r.URI()),
		plugins.PropertyGRPCAddress:  c.Address,
		plugins.PropertyTTRPCAddress: c.eventAddress(),
	})
	ic.RegisterReadiness = func() func() { return func() {} }
	if r.Config != nil {
		// The registry's value is shared by all servers in this process: use a copy.
		own := reflect.New(reflect.TypeOf(r.Config).Elem())
		own.Elem().Set(reflect.ValueOf(r.Config).Elem())
		decoded, err := pluginConfig(c).Decode(ctx, r.URI(), own.Interface())
		if err != nil {
			return fmt.Errorf("reading configuration: %w", err)
		}
		ic.Config = decoded
	}
	p := r.Init(ic)
	if err := s.set.Add(p); err != nil {
		return err
	}
	if _, err := p.Instance(); err != nil {
		if plugin.IsSkipPlugin(err) || (r.Type == plugins.SnapshotPlugin && r.ID != c.Snapshotter) {
			return nil
		}
		return err
	}
	s.opened = append(s.opened, p)
	return nil
}

// pluginConfig holds what differs from the plugins' own defaults.
func pluginConfig(c Config) *srvconfig.Config {
	return &srvconfig.Config{Plugins: map[string]any{
		// Space is given back soon after a removal; a burst of them is one round. Between
		// rounds the scheduler looks whether one is due every 5 ms / pause_threshold (or
		// more): by default four times a second, here every eight minutes.
		"io.containerd.gc.v1.scheduler": map[string]any{
			"deletion_threshold": 1, "schedule_delay": "1s", "startup_delay": "5s", "pause_threshold": 1e-5,
		},
		shimPlugin: map[string]any{"socket_dir": c.SocketDir},
		"io.containerd.transfer.v1.local": map[string]any{
			"unpack_config": []map[string]any{{"platform": platformName(), "snapshotter": c.Snapshotter, "differ": "walking"}},
		},
	}}
}

// startTasks makes our task runtime, with containerd's own behind it for other shims.
func (s *server) startTasks(ic *plugin.InitContext, c Config) (any, error) {
	others, err := otherShims(ic, c)
	if err != nil {
		return nil, err
	}
	ep, err := ic.GetByID(plugins.EventPlugin, "exchange")
	if err != nil {
		return nil, err
	}
	s.events = ep.(*exchange.Exchange)
	s.shims, err = shim.New(shim.Config{
		State: filepath.Join(c.State, "tasks"), SocketDir: c.SocketDir,
		Shim: c.Shim, Runc: c.Runc,
		Address: c.Address, EventAddress: c.eventAddress(),
		Events: s.events, Others: others, Log: c.Log,
	})
	if err != nil {
		return nil, err
	}
	if err := s.shims.Load(ic.Context); err != nil {
		return nil, err
	}
	return s.shims, nil
}

// connect makes a client that calls the services without a socket.
func (s *server) connect() (*client.Client, error) {
	var missing []error
	get := func(t plugin.Type, id string) any {
		p := s.set.Get(t, id)
		if p == nil {
			missing = append(missing, fmt.Errorf("no plugin %s.%s", t, id))
			return nil
		}
		v, err := p.Instance()
		if err != nil {
			missing = append(missing, fmt.Errorf("plugin %s.%s: %w", t, id, err))
		}
		return v
	}
	service := func(id string) any { return get(plugins.ServicePlugin, id) }
	contents, _ := service(services.ContentService).(content.Store)
	images, _ := service(services.ImagesService).(imagesapi.ImagesClient)
	snaps, _ := service(services.SnapshotsService).(map[string]snapshots.Snapshotter)
	containers, _ := service(services.ContainersService).(containersapi.ContainersClient)
	tasks, _ := service(services.TasksService).(tasksapi.TasksClient)
	diffs, _ := service(services.DiffService).(diffapi.DiffClient)
	spaces, _ := service(services.NamespacesService).(namespacesapi.NamespacesClient)
	intro, _ := service(services.IntrospectionService).(introspection.Service)
	lease, _ := get(plugins.LeasePlugin, "manager").(leases.Manager)
	if err := errors.Join(missing...); err != nil {
		return nil, fmt.Errorf("starting containerd: %w", err)
	}
	return client.New("", client.WithDefaultNamespace(Namespace), client.WithServices(
		client.WithContentStore(contents), client.WithImageClient(images), client.WithSnapshotters(snaps),
		client.WithContainerClient(containers), client.WithTaskClient(tasks), client.WithDiffClient(diffs),
		client.WithNamespaceClient(spaces), client.WithIntrospectionService(intro), client.WithLeasesService(lease),
		client.WithEventService(s.events),
	))
}

// close stops the plugins, the last first.
func (s *server) close() error {
	var errs []error
	for _, p := range slices.Backward(s.opened) {
		v, err := p.Instance()
		if err != nil {
			continue
		}
		if c, ok := v.(io.Closer); ok {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// setTimeouts bounds waits of containerd that are endless by default: a
// database that another process holds is refused, not waited for.
func setTimeouts() { timeout.Set("io.containerd.timeout.bolt.open", boltOpenTime) }
