package podresources

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"

	"orch/agent/devices"
)

// serve runs a server over two pods, one of which holds two of three devices.
func serve(t *testing.T) api.PodResourcesListerClient {
	t.Helper()
	dir, err := os.MkdirTemp("", "pr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	pod := func(name string, phase core.PodPhase) *core.Pod {
		p := &core.Pod{}
		p.Namespace, p.Name, p.UID, p.Status.Phase = "ns", name, types.UID(name), phase
		return p
	}
	a, b, ended := pod("a", core.PodRunning), pod("b", core.PodPending), pod("c", core.PodSucceeded)
	a.Spec.InitContainers = []core.Container{{Name: "before"}, {Name: "side", RestartPolicy: new(core.ContainerRestartPolicyAlways)}}
	a.Spec.Containers = []core.Container{{Name: "main"}}
	b.Spec.Containers = []core.Container{{Name: "main"}}
	socket := filepath.Join(dir, "pod-resources", "kubelet.sock")
	s, err := New(Config{
		Socket: socket, Pods: func() []*core.Pod { return []*core.Pod{a, b, ended} },
		Holdings: func() []devices.Holding {
			return []devices.Holding{{UID: "a", Namespace: "ns", Pod: "a", Container: "main", Name: "amd.com/gpu", IDs: []string{"0", "1"}},
				{UID: "c", Namespace: "ns", Pod: "c", Container: "main", Name: "amd.com/gpu", IDs: []string{"2"}}}
		},
		Offer: func() map[string][]devices.Device {
			return map[string][]devices.Device{"amd.com/gpu": {{ID: "0", NUMA: []int64{0, 1}}, {ID: "1"}, {ID: "2"}}}
		},
		Claims: func(pod types.UID) []devices.Claim {
			if pod != "b" {
				return nil
			}
			return []devices.Claim{{Namespace: "ns", Name: "cards", Pods: map[types.UID]devices.ClaimPod{"b": {Name: "b", Containers: map[string][]devices.ClaimRequest{"main": {{Claim: "r", Request: "y"}}}}},
				Drivers: map[string]devices.ClaimDriver{"d.io": {Devices: []devices.ClaimDevice{{Requests: []string{"x"}, Pool: "n1", Device: "one"}, {Requests: []string{"y"}, Pool: "n1", Device: "two", CDI: []string{"d.io/c=2"}}}}}}}
		},
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return api.NewPodResourcesListerClient(conn)
}

// text is an answer in short.
func text(pods ...*api.PodResources) string {
	var out []string
	for _, p := range pods {
		for _, c := range p.Containers {
			s := fmt.Sprintf("%s/%s/%s:%s", p.Namespace, p.Name, c.Name, devicesText(c.Devices))
			for _, d := range c.DynamicResources {
				s += d.ClaimNamespace + "/" + d.ClaimName
				for _, r := range d.ClaimResources {
					s += fmt.Sprintf("=%s/%s/%s", r.DriverName, r.PoolName, r.DeviceName)
					for _, id := range r.CdiDevices {
						s += "@" + id.Name
					}
				}
			}
			out = append(out, s)
		}
	}
	return strings.Join(out, " ")
}

func devicesText(list []*api.ContainerDevices) string {
	var out []string
	for _, d := range list {
		s := d.ResourceName + "=" + strings.Join(d.DeviceIds, "+")
		for _, n := range d.GetTopology().GetNodes() {
			s += fmt.Sprint("@", n.ID)
		}
		out = append(out, s)
	}
	return strings.Join(out, ",")
}

func TestAnswers(t *testing.T) {
	c := serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const ofA = "ns/a/side: ns/a/main:amd.com/gpu=0@0,amd.com/gpu=0@1,amd.com/gpu=1"
	list, err := c.List(ctx, &api.ListPodResourcesRequest{})
	if err != nil || text(list.PodResources...) != ofA+" ns/b/main:ns/cards=d.io/n1/two@d.io/c=2" {
		t.Error(text(list.GetPodResources()...), err)
	}
	one, err := c.Get(ctx, &api.GetPodResourcesRequest{PodNamespace: "ns", PodName: "a"})
	if err != nil || text(one.PodResources) != ofA {
		t.Error(text(one.GetPodResources()), err)
	}
	all, err := c.GetAllocatableResources(ctx, &api.AllocatableResourcesRequest{})
	if err != nil || devicesText(all.Devices) != "amd.com/gpu=0@0,amd.com/gpu=0@1,amd.com/gpu=1,amd.com/gpu=2" {
		t.Error(devicesText(all.GetDevices()), err)
	}
	if _, err := c.Get(ctx, &api.GetPodResourcesRequest{PodNamespace: "ns", PodName: "z"}); err == nil || !strings.Contains(err.Error(), "pod z in namespace ns not found") {
		t.Error(err)
	}
}

func TestFloodIsRefused(t *testing.T) {
	c := serve(t)
	var wg sync.WaitGroup
	var refused atomic.Bool
	for range 20 { // once is enough where the machine is not so slow that it is no flood
		for range 300 {
			wg.Go(func() {
				_, err := c.List(t.Context(), &api.ListPodResourcesRequest{})
				if status.Code(err) == codes.ResourceExhausted && strings.Contains(err.Error(), "rejected by rate limit") {
					refused.Store(true)
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		if wg.Wait(); refused.Load() {
			break
		}
	}
	if !refused.Load() {
		t.Error("300 questions at once were all answered")
	}
}
