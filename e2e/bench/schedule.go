package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

const (
	fakeNodes = 20
	fakePods  = 500
	leases    = "kube-node-lease"
)

// schedule measures how fast pods get bound to nodes that are only objects.
func (b *bench) schedule(ctx context.Context) error {
	return b.withServer(ctx, func(s *server) error {
		c, err := s.connect(protobufType)
		if err != nil {
			return err
		}
		w, err := follow(ctx, c, "default")
		if err != nil {
			return err
		}
		defer w.stop()
		for i := range fakeNodes {
			if err := addNode(ctx, c, fmt.Sprintf("fake-%02d", i)); err != nil {
				return err
			}
		}
		if err := untainted(ctx, c); err != nil {
			return err
		}
		return b.bind(ctx, s, c, w)
	}, "--disable-agent")
}

func (b *bench) bind(ctx context.Context, s *server, c *kubernetes.Clientset, w *follower) error {
	before, err := s.usage()
	if err != nil {
		return err
	}
	began := time.Now()
	_, _, err = spread(fakePods, workers, func(i int) error {
		p := realPod(fmt.Sprintf("pod-%03d", i), "pause:1")
		p.Spec.Containers[0].Resources.Requests = core.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("128Mi")}
		_, err := c.CoreV1().Pods("default").Create(ctx, p, meta.CreateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	for i := range fakePods {
		if err := w.until(ctx, fmt.Sprintf("pod-%03d", i), isBound); err != nil {
			return err
		}
	}
	took := time.Since(began)
	after, err := s.usage()
	b.table.add("500 pods on 20 fake nodes, bound", "/s", fakePods/took.Seconds())
	b.table.beside("500 pods on 20 fake nodes, bound", "server", "CPU s per 1,000", (after.cpu-before.cpu).Seconds()*1000/fakePods)
	return err
}

// addNode makes a node that looks alive: Ready, with a lease of an hour.
func addNode(ctx context.Context, c *kubernetes.Clientset, name string) error {
	n := &core.Node{ObjectMeta: meta.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name}}}
	if _, err := c.CoreV1().Nodes().Create(ctx, n, meta.CreateOptions{}); err != nil {
		return err
	}
	room := core.ResourceList{"cpu": resource.MustParse("64"), "memory": resource.MustParse("256Gi"), "pods": resource.MustParse("500")}
	status, err := json.Marshal(core.Node{Status: core.NodeStatus{Capacity: room, Allocatable: room, Conditions: []core.NodeCondition{
		{Type: core.NodeReady, Status: core.ConditionTrue, Reason: "Fake", LastHeartbeatTime: meta.Now(), LastTransitionTime: meta.Now()}}}})
	if err != nil {
		return err
	}
	if _, err := c.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, status, meta.PatchOptions{}, "status"); err != nil {
		return err
	}
	_, err = c.CoordinationV1().Leases(leases).Create(ctx, &coordination.Lease{ObjectMeta: meta.ObjectMeta{Name: name},
		Spec: coordination.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: new(int32(3600)), RenewTime: new(meta.NowMicro())}}, meta.CreateOptions{})
	return err
}

// untainted waits until the node controller has taken the taints of new nodes off.
func untainted(ctx context.Context, c *kubernetes.Clientset) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		l, err := c.CoreV1().Nodes().List(ctx, meta.ListOptions{})
		if err != nil {
			return fmt.Errorf("waiting for nodes without taints: %w", err)
		}
		free := 0
		for _, n := range l.Items {
			if len(n.Spec.Taints) == 0 {
				free++
			}
		}
		if free == fakeNodes {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d nodes are without taints after %v", free, fakeNodes, startLimit)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// follower sees every pod of a namespace and notes when each came to a state.
type follower struct {
	stop context.CancelFunc

	mu      sync.Mutex
	pods    map[string]*core.Pod // as last seen; nil: gone
	changed chan struct{}        // closed at the next change
	err     error                // why the watch has ended
}

func follow(ctx context.Context, c *kubernetes.Clientset, namespace string) (*follower, error) {
	ctx, cancel := context.WithCancel(ctx)
	l, err := c.CoreV1().Pods(namespace).List(ctx, meta.ListOptions{})
	if err != nil {
		cancel()
		return nil, err
	}
	w, err := c.CoreV1().Pods(namespace).Watch(ctx, meta.ListOptions{ResourceVersion: l.ResourceVersion})
	if err != nil {
		cancel()
		return nil, err
	}
	f := &follower{stop: cancel, pods: map[string]*core.Pod{}, changed: make(chan struct{})}
	go func() {
		for e := range w.ResultChan() {
			if p, ok := e.Object.(*core.Pod); ok {
				f.see(p, e.Type == "DELETED")
			}
		}
		f.end(fmt.Errorf("the watch of the pods has ended"))
	}()
	return f, nil
}

func (f *follower) see(p *core.Pod, gone bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pods[p.Name] = p
	if gone {
		f.pods[p.Name] = nil
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *follower) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
	close(f.changed)
	f.changed = make(chan struct{})
}

// until waits for a state of a pod that was seen; is gets nil for one that is gone.
func (f *follower) until(ctx context.Context, name string, is func(*core.Pod) bool) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		f.mu.Lock()
		p, seen := f.pods[name]
		changed, err := f.changed, f.err
		f.mu.Unlock()
		if seen && is(p) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for pod %s: %w", name, ctx.Err())
		}
	}
}

func isBound(p *core.Pod) bool { return p != nil && p.Spec.NodeName != "" }
func isGone(p *core.Pod) bool  { return p == nil }

func isReady(p *core.Pod) bool {
	if p == nil {
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == core.PodReady {
			return c.Status == core.ConditionTrue
		}
	}
	return false
}
