package node

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/datastore/memory"
	"orch/runtime/fakeengine"
	"orch/server/registry"
)

func TestAllocatable(t *testing.T) {
	m := Machine{CPUs: 4, MemoryBytes: 8 << 30, DiskBytes: 100 << 30, Hugepages: map[int64]int64{2 << 20: 1 << 30}}
	got := map[string]string{}
	for k, v := range Allocatable(m.capacity(110), core.ResourceList{core.ResourceCPU: resource.MustParse("500m"), core.ResourceMemory: resource.MustParse("1Gi")}) {
		got[string(k)] = v.String()
	}
	want := map[string]string{"cpu": "3500m", "memory": "6044Mi", "ephemeral-storage": "96636764160", "pods": "110", "hugepages-2Mi": "1Gi"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestTaint(t *testing.T) {
	for text, want := range map[string]core.Taint{
		"a=b:NoSchedule": {Key: "a", Value: "b", Effect: core.TaintEffectNoSchedule}, "x/y:NoExecute": {Key: "x/y", Effect: core.TaintEffectNoExecute},
	} {
		if got, err := Taint(text); err != nil || got != want {
			t.Errorf("%s: got %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"a", "a=b", "a:No"} {
		if _, err := Taint(text); err == nil {
			t.Errorf("%s was accepted", text)
		}
	}
}

func TestMergeKeepsOthers(t *testing.T) {
	old := metav1.NewTime(time.Unix(1000, 0))
	server := core.NodeStatus{
		Capacity: core.ResourceList{"nvidia.com/gpu": resource.MustParse("2")}, Allocatable: core.ResourceList{"nvidia.com/gpu": resource.MustParse("1")},
		Conditions: []core.NodeCondition{{Type: "NetworkUnavailable", Status: "False"}, {Type: core.NodeReady, Status: "True", LastTransitionTime: old}},
	}
	m := Machine{CPUs: 1}
	own := core.NodeStatus{Capacity: m.capacity(1), Allocatable: m.capacity(1), Conditions: Health{}.conditions()}
	got := Merge(server, own, none{}, time.Unix(2000, 0))
	if len(got.Conditions) != 5 || got.Conditions[0].Type != "NetworkUnavailable" || !got.Conditions[1].LastTransitionTime.Equal(&old) || got.Conditions[1].LastHeartbeatTime.Unix() != 2000 {
		t.Errorf("conditions: %+v", got.Conditions)
	}
	if g := got.Allocatable["nvidia.com/gpu"]; g.Value() != 1 {
		t.Errorf("allocatable: %v", got.Allocatable)
	}
}

// network is ready when told so.
type network struct {
	mu      sync.Mutex
	err     error
	changed chan struct{}
}

func (n *network) Ready() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

func (n *network) Changed() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

func (n *network) set(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.err = err
	close(n.changed)
	n.changed = make(chan struct{})
}

func TestRun(t *testing.T) {
	reg, err := registry.New(registry.Config{Store: memory.New(), Resources: registry.BuiltIn(), Now: time.Now, Log: slog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	wg.Go(func() {
		if err := reg.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	<-reg.Ready()
	c := reg.Client(registry.User{Name: "system:node:n1", Groups: []string{api.GroupNodes}})
	if _, err := client.Create(ctx, c, api.Namespaces, &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: api.NamespaceNodeLease}}); err != nil {
		t.Fatal(err)
	}
	net := &network{err: errors.New("no pod network yet"), changed: make(chan struct{})}
	n, err := New(Config{Name: "n1", IPs: []string{"192.0.2.1"}, Labels: map[string]string{"a": "b"}, MaxPods: 110, Version: "v1.37.0+orch", Runtime: "fake://1", Dir: t.TempDir()},
		Deps{Client: c, Images: fakeengine.New(fakeengine.Options{Images: []string{"x:1"}}).Images(), NetworkReady: net.Ready, Changed: net.Changed, Log: slog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	registered := make(chan struct{}, 1)
	if err := c.Subscribe(ctx, api.Nodes.Facts, func(client.Change) {
		select {
		case registered <- struct{}{}:
		default:
		}
	}); err != nil {
		t.Fatal(err)
	}
	wg.Go(func() {
		if err := n.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-registered:
	case <-time.After(time.Minute):
		t.Fatal("not registered")
	}
	select {
	case <-n.Ready():
		t.Fatal("ready without a network")
	default:
	}
	net.set(nil)
	select {
	case <-n.Ready():
	case <-time.After(time.Minute):
		t.Fatal("not ready")
	}
	got, err := client.Get(ctx, c, api.Nodes, "", "n1")
	if err != nil {
		t.Fatal(err)
	}
	ready := got.Status.Conditions[3]
	if ready.Type != core.NodeReady || ready.Status != core.ConditionTrue || ready.Reason != "KubeletReady" {
		t.Errorf("ready: %+v", ready)
	}
	for k, v := range map[string]string{"a": "b", "kubernetes.io/hostname": "n1", "kubernetes.io/os": "linux"} {
		if got.Labels[k] != v {
			t.Errorf("label %s is %q, want %q", k, got.Labels[k], v)
		}
	}
	if len(got.Status.Images) != 1 || got.Status.NodeInfo.KernelVersion == "" || got.Status.Capacity.Cpu().IsZero() {
		t.Errorf("status: %+v", got.Status)
	}
}
