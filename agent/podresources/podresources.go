// Package podresources serves the pod-resources API v1 on a socket of this node, where
// exporters (DCGM's among them) ask which container holds which device. It owns the
// socket and nothing else: what it says is the ledger's. It refuses more than so many
// questions a second, as upstream does. Start reading at Server.
package podresources

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"

	"orch/agent/devices"
)

// Limits as upstream's: questions a second, and how many at once.
const (
	perSecond  = 100
	burst      = 10
	maxMessage = 1 << 20
)

// Config of a Server.
type Config struct {
	// Socket is <root-dir>/pod-resources/kubelet.sock.
	Socket string
	// Pods are those of this node.
	Pods func() []*core.Pod
	// Holdings and Offer are the ledger's.
	Holdings func() []devices.Holding
	Offer    func() map[string][]devices.Device
	// Claims are those that a pod uses.
	Claims func(pod types.UID) []devices.Claim
	Log    *slog.Logger
}

// Server answers.
type Server struct {
	api.UnimplementedPodResourcesListerServer
	config Config
}

// New checks the config.
func New(c Config) (*Server, error) {
	if c.Socket == "" || c.Pods == nil || c.Holdings == nil || c.Offer == nil || c.Claims == nil || c.Log == nil {
		return nil, errors.New("making the pod resources' server: a dependency is missing")
	}
	return &Server{config: c}, nil
}

// Run serves until ctx ends. A node on which the socket cannot be made runs without it.
func (s *Server) Run(ctx context.Context) error {
	listener, err := s.listen()
	if err != nil {
		s.config.Log.Error("the pod resources are not served", "err", err)
		<-ctx.Done()
		return nil
	}
	limit := rate.NewLimiter(perSecond, burst)
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.UnaryInterceptor(
		func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if !limit.Allow() {
				return nil, status.Error(codes.ResourceExhausted, "rejected by rate limit")
			}
			return handler(ctx, request)
		}))
	api.RegisterPodResourcesListerServer(server, s)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.Serve(listener); err != nil && ctx.Err() == nil {
			s.config.Log.Error("the pod resources are served no more", "err", err)
		}
	})
	<-ctx.Done()
	server.Stop()
	wg.Wait()
	return nil
}

func (s *Server) listen() (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(s.config.Socket), 0o750); err != nil {
		return nil, fmt.Errorf("making the folder of the pod resources' socket: %w", err)
	}
	if err := os.Remove(s.config.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("removing the old pod resources' socket: %w", err)
	}
	return net.Listen("unix", s.config.Socket)
}

// List tells what the pods of this node hold that have not ended.
func (s *Server) List(context.Context, *api.ListPodResourcesRequest) (*api.ListPodResourcesResponse, error) {
	v := s.view()
	out := &api.ListPodResourcesResponse{}
	for _, pod := range s.config.Pods() {
		if pod.Status.Phase != core.PodSucceeded && pod.Status.Phase != core.PodFailed {
			out.PodResources = append(out.PodResources, v.pod(pod))
		}
	}
	return out, nil
}

// Get tells of one pod.
func (s *Server) Get(_ context.Context, r *api.GetPodResourcesRequest) (*api.GetPodResourcesResponse, error) {
	for _, pod := range s.config.Pods() {
		if pod.Namespace == r.PodNamespace && pod.Name == r.PodName {
			return &api.GetPodResourcesResponse{PodResources: s.view().pod(pod)}, nil
		}
	}
	return nil, fmt.Errorf("pod %s in namespace %s not found", r.PodName, r.PodNamespace)
}

// GetAllocatableResources tells all that the node has, held or not.
func (s *Server) GetAllocatableResources(context.Context, *api.AllocatableResourcesRequest) (*api.AllocatableResourcesResponse, error) {
	out, offer := &api.AllocatableResourcesResponse{}, s.config.Offer()
	for _, name := range slices.Sorted(maps.Keys(offer)) {
		for _, d := range offer[name] {
			out.Devices = append(out.Devices, entries(name, d)...)
		}
	}
	return out, nil
}

// entries has one entry per device and memory node, as upstream's
// containerDevicesFromResourceDeviceInstances.
func entries(name string, d devices.Device) []*api.ContainerDevices {
	if len(d.NUMA) == 0 {
		return []*api.ContainerDevices{{ResourceName: name, DeviceIds: []string{d.ID}}}
	}
	var out []*api.ContainerDevices
	for _, n := range d.NUMA {
		out = append(out, &api.ContainerDevices{ResourceName: name, DeviceIds: []string{d.ID},
			Topology: &api.TopologyInfo{Nodes: []*api.NUMANode{{ID: n}}}})
	}
	return out
}

// view is the ledger at one moment.
type view struct {
	held   map[holder][]devices.Holding
	offer  map[string]map[string]devices.Device
	claims func(pod types.UID) []devices.Claim
}

type holder struct {
	uid       types.UID
	container string
}

func (s *Server) view() view {
	v := view{held: map[holder][]devices.Holding{}, offer: map[string]map[string]devices.Device{}, claims: s.config.Claims}
	for _, h := range s.config.Holdings() {
		if h.Claimed() {
			continue
		}
		v.held[holder{h.UID, h.Container}] = append(v.held[holder{h.UID, h.Container}], h)
	}
	if len(v.held) == 0 {
		return v
	}
	for name, list := range s.config.Offer() {
		v.offer[name] = make(map[string]devices.Device, len(list))
		for _, d := range list {
			v.offer[name][d.ID] = d
		}
	}
	return v
}

// pod has the sidecars and containers, each also if it holds nothing.
func (v view) pod(pod *core.Pod) *api.PodResources {
	out := &api.PodResources{Name: pod.Name, Namespace: pod.Namespace}
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == core.ContainerRestartPolicyAlways {
			out.Containers = append(out.Containers, v.container(pod.UID, c.Name))
		}
	}
	for _, c := range pod.Spec.Containers {
		out.Containers = append(out.Containers, v.container(pod.UID, c.Name))
	}
	return out
}

func (v view) container(uid types.UID, name string) *api.ContainerResources {
	out := &api.ContainerResources{Name: name}
	for _, h := range v.held[holder{uid, name}] {
		for _, id := range h.IDs {
			d := v.offer[h.Name][id]
			d.ID = id
			out.Devices = append(out.Devices, entries(h.Name, d)...)
		}
	}
	for _, c := range v.claims(uid) {
		if requests := c.Pods[uid].Containers[name]; len(requests) > 0 {
			out.DynamicResources = append(out.DynamicResources, dynamic(c, requests))
		}
	}
	return out
}

// dynamic is what a container has of a claim: the devices of the requests that it lists.
func dynamic(c devices.Claim, requests []devices.ClaimRequest) *api.DynamicResource {
	out := &api.DynamicResource{ClaimName: c.Name, ClaimNamespace: c.Namespace}
	for _, driver := range slices.Sorted(maps.Keys(c.Drivers)) {
		for _, d := range c.Drivers[driver].Devices {
			if !slices.ContainsFunc(requests, func(r devices.ClaimRequest) bool { return d.For(r.Request) }) {
				continue
			}
			r := &api.ClaimResource{DriverName: driver, PoolName: d.Pool, DeviceName: d.Device}
			if d.ShareID != "" {
				r.ShareId = &d.ShareID
			}
			for _, id := range d.CDI {
				r.CdiDevices = append(r.CdiDevices, &api.CDIDevice{Name: id})
			}
			out.ClaimResources = append(out.ClaimResources, r)
		}
	}
	return out
}
