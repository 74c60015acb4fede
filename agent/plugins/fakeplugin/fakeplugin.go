// Package fakeplugin is a device plugin for tests: it behaves as vendors' plugins do
// (it watches for the kubelet's socket and registers anew when that is made anew) and
// misbehaves where its fields say so. It touches only the folder that it is given.
// Start reading at Plugin.
package fakeplugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// Plugin is one device plugin. Its fields do not change once Run has begun.
type Plugin struct {
	api.UnimplementedDevicePluginServer

	Dir, Resource, Endpoint string
	Options                 api.DevicePluginOptions
	// Give answers Allocate for one container.
	Give func(ctx context.Context, ids []string) (*api.ContainerAllocateResponse, error)
	// Prefer answers GetPreferredAllocation, Starting PreStartContainer. May be nil.
	Prefer   func(ctx context.Context, r *api.ContainerPreferredAllocationRequest) ([]string, error)
	Starting func(ctx context.Context, ids []string) error
	// Registered is called after each try to register. May be nil.
	Registered func(error)

	mu      sync.Mutex
	list    []*api.Device
	changed chan struct{}
}

// Set makes these the plugin's devices.
func (p *Plugin) Set(list []*api.Device) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = list
	if p.changed != nil {
		close(p.changed)
	}
	p.changed = make(chan struct{})
}

// Devices makes healthy ones with the given ids.
func Devices(ids ...string) []*api.Device {
	var out []*api.Device
	for _, id := range ids {
		out = append(out, &api.Device{ID: id, Health: api.Healthy})
	}
	return out
}

// Run serves until ctx ends, and registers whenever the kubelet's socket appears.
func (p *Plugin) Run(ctx context.Context) error {
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer watch.Close()
	if err := watch.Add(p.Dir); err != nil {
		return err
	}
	for {
		again, err := p.serve(ctx, watch)
		if err != nil || !again {
			return err
		}
	}
}

// serve has one life of the plugin's socket; again is true if the kubelet's was made anew.
func (p *Plugin) serve(ctx context.Context, watch *fsnotify.Watcher) (again bool, err error) {
	path, kubelet := filepath.Join(p.Dir, p.Endpoint), filepath.Join(p.Dir, filepath.Base(api.KubeletSocket))
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return false, err
	}
	server := grpc.NewServer()
	api.RegisterDevicePluginServer(server, p)
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(l) })
	defer wg.Wait()
	defer server.Stop()
	if _, err := os.Stat(kubelet); err == nil {
		err := p.Register(ctx)
		if p.Registered != nil {
			p.Registered(err)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return false, nil
		case e, ok := <-watch.Events:
			if !ok {
				return false, errors.New("the watch of the folder ended")
			}
			if e.Name == kubelet && e.Has(fsnotify.Create) {
				return true, nil
			}
		}
	}
}

// Register tells the kubelet of the plugin, which has to be served.
func (p *Plugin) Register(ctx context.Context) error {
	return Register(ctx, p.Dir, &api.RegisterRequest{Version: api.Version, Endpoint: p.Endpoint, ResourceName: p.Resource, Options: &p.Options})
}

// Register sends any request to the kubelet's socket in the folder. It waits a little, as
// vendors' plugins do: the file is there before anybody listens on it.
func Register(ctx context.Context, dir string, r *api.RegisterRequest) error {
	conn, err := grpc.NewClient("unix:"+filepath.Join(dir, filepath.Base(api.KubeletSocket)), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = api.NewRegistrationClient(conn).Register(ctx, r, grpc.WaitForReady(true))
	return err
}

func (p *Plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &p.Options, nil
}

func (p *Plugin) ListAndWatch(_ *api.Empty, s grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	for {
		p.mu.Lock()
		if p.changed == nil {
			p.changed = make(chan struct{})
		}
		list, changed := p.list, p.changed
		p.mu.Unlock()
		if err := s.Send(&api.ListAndWatchResponse{Devices: list}); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-s.Context().Done():
			return nil
		}
	}
}

func (p *Plugin) GetPreferredAllocation(ctx context.Context, r *api.PreferredAllocationRequest) (*api.PreferredAllocationResponse, error) {
	out := &api.PreferredAllocationResponse{}
	for _, c := range r.ContainerRequests {
		if p.Prefer == nil {
			return nil, errors.New("no preference")
		}
		ids, err := p.Prefer(ctx, c)
		if err != nil {
			return nil, err
		}
		out.ContainerResponses = append(out.ContainerResponses, &api.ContainerPreferredAllocationResponse{DeviceIDs: ids})
	}
	return out, nil
}

// Allocate leaves out a container for which Give has nothing.
func (p *Plugin) Allocate(ctx context.Context, r *api.AllocateRequest) (*api.AllocateResponse, error) {
	out := &api.AllocateResponse{}
	for _, c := range r.ContainerRequests {
		answer, err := p.Give(ctx, c.DevicesIds)
		if err != nil {
			return nil, err
		}
		if answer != nil {
			out.ContainerResponses = append(out.ContainerResponses, answer)
		}
	}
	return out, nil
}

func (p *Plugin) PreStartContainer(ctx context.Context, r *api.PreStartContainerRequest) (*api.PreStartContainerResponse, error) {
	if p.Starting == nil {
		return nil, fmt.Errorf("nobody asked to be told of %v", r.DevicesIds)
	}
	return &api.PreStartContainerResponse{}, p.Starting(ctx, r.DevicesIds)
}
