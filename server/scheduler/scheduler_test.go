package scheduler

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
	"orch/datastore"
	"orch/datastore/bolt"
	"orch/datastore/memory"
	"orch/server/placement"
	"orch/server/registry"
)

// cluster is a real API with the scheduler running on it.
type cluster struct {
	testing.TB
	*client.Client
	mu     sync.Mutex
	events []string // guarded by mu
	// refuse fails writes of the scheduler; nil fails none. Guarded by mu.
	refuse func(client.Target) error
	// stop ends scheduler, which runs now.
	stop      func()
	scheduler *Scheduler
}

// refusing is the scheduler's way to the API.
type refusing struct {
	client.Transport
	c *cluster
}

func (r refusing) refused(t client.Target) error {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	if r.c.refuse == nil {
		return nil
	}
	return r.c.refuse(t)
}

func (r refusing) Create(ctx context.Context, t client.Target, o runtime.Object, opts metav1.CreateOptions) (runtime.Object, error) {
	if err := r.refused(t); err != nil {
		return nil, err
	}
	return r.Transport.Create(ctx, t, o, opts)
}

func (r refusing) Update(ctx context.Context, t client.Target, o runtime.Object, opts metav1.UpdateOptions) (runtime.Object, error) {
	if err := r.refused(t); err != nil {
		return nil, err
	}
	return r.Transport.Update(ctx, t, o, opts)
}

func (r refusing) Patch(ctx context.Context, t client.Target, pt types.PatchType, patch []byte, opts metav1.PatchOptions) (runtime.Object, error) {
	if err := r.refused(t); err != nil {
		return nil, err
	}
	return r.Transport.Patch(ctx, t, pt, patch, opts)
}

func (c *cluster) refusing(refuse func(client.Target) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse = refuse
}

func quantity(text string) resource.Quantity { return resource.MustParse(text) }

// eventually waits for something that no pod shows.
func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatal("it did not come about")
}

func (c *cluster) Event(obj runtime.Object, _, reason, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, reason+" "+obj.(api.Object).GetName()+": "+fmt.Sprintf(format, args...))
}

func (c *cluster) said(what string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Contains(strings.Join(c.events, "\n"), what)
}

func (c *cluster) count(reason string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		if strings.HasPrefix(e, reason+" ") {
			n++
		}
	}
	return n
}

func newCluster(t testing.TB, store datastore.Store) *cluster {
	t.Helper()
	if t, ok := t.(*testing.T); ok {
		t.Parallel() // much of each is waiting for a back-off
	}
	r, err := registry.New(registry.Config{Store: store, Resources: registry.BuiltIn()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	<-r.Ready()
	c := &cluster{TB: t, Client: r.Client(registry.User{Name: api.SchedulerUser})}
	c.start()
	t.Cleanup(func() {
		c.stop()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c
}

// start runs a scheduler that knows nothing but what the API tells it.
func (c *cluster) start() {
	s, err := New(Config{Client: &client.Client{Transport: refusing{c.Client.Transport, c}, Cache: c.Client.Cache}, Events: c})
	if err != nil {
		c.Fatal(err)
	}
	c.scheduler = s
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	c.stop = func() {
		cancel()
		if err := <-done; err != nil {
			c.Error(err)
		}
	}
}

func (c *cluster) node(name, cpu string) *core.Node {
	c.Helper()
	n := &core.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name}}}
	n, err := client.Create(context.Background(), c, api.Nodes, n)
	if err != nil {
		c.Fatal(err)
	}
	n = n.DeepCopy()
	n.Status.Allocatable = core.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse("256Gi"), "pods": resource.MustParse("500")}
	if n, err = client.UpdateStatus(context.Background(), c, api.Nodes, n); err != nil {
		c.Fatal(err)
	}
	return n
}

func (c *cluster) pod(name, cpu string, edit ...func(*core.Pod)) {
	c.Helper()
	p := &core.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: core.PodSpec{Containers: []core.Container{
		{Name: "c", Image: "i", Resources: core.ResourceRequirements{Requests: core.ResourceList{"cpu": resource.MustParse(cpu)}}}}}}
	for _, e := range edit {
		e(p)
	}
	if _, err := client.Create(context.Background(), c, api.Pods, p); err != nil {
		c.Fatal(err)
	}
}

// until waits for a state of a pod.
func (c *cluster) until(name, what string, ok func(*core.Pod) bool) *core.Pod {
	c.Helper()
	var p *core.Pod
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if p = client.Cached(c, api.Pods, "default", name); p != nil && ok(p) {
			return p
		}
	}
	if p != nil {
		c.Fatalf("pod %s is not %s; node %q, conditions %+v, annotations %v", name, what, p.Spec.NodeName, p.Status.Conditions, p.Annotations)
	}
	c.Fatalf("pod %s is not there", name)
	return nil
}

func bound(p *core.Pod) bool { return p.Spec.NodeName != "" }

func waiting(p *core.Pod) bool {
	for _, k := range p.Status.Conditions {
		if k.Type == core.PodScheduled {
			return k.Status == core.ConditionFalse
		}
	}
	return false
}

func TestPodIsBoundWhenThereIsRoom(t *testing.T) {
	c := newCluster(t, memory.New())
	c.pod("early", "1")
	p := c.until("early", "told why it waits", waiting)
	if got := p.Status.Conditions[0]; got.Reason != "Unschedulable" || got.Message != "no nodes available to schedule pods" {
		t.Errorf("condition %+v", got)
	}
	c.node("a", "2")
	c.until("early", "bound", bound)
	c.pod("big", "4")
	p = c.until("big", "told why it waits", waiting)
	if want := "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."; p.Status.Conditions[0].Message != want {
		t.Errorf("message %q", p.Status.Conditions[0].Message)
	}
	c.node("b", "8")
	if p = c.until("big", "bound", bound); p.Spec.NodeName != "b" {
		t.Errorf("on %s", p.Spec.NodeName)
	}
	for _, want := range []string{"Scheduled early: Successfully assigned default/early to a", "FailedScheduling big: 0/1 nodes"} {
		eventually(t, func() bool { return c.said(want) })
	}
}

func TestRoomThatAPodLeavesIsUsed(t *testing.T) {
	c := newCluster(t, memory.New())
	c.node("a", "1")
	c.pod("first", "1")
	c.until("first", "bound", bound)
	c.pod("second", "1")
	c.until("second", "told why it waits", waiting)
	if err := client.Delete(context.Background(), c, api.Pods, "default", "first", metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
		t.Fatal(err)
	}
	c.until("second", "bound", bound)
}

func TestImportantPodPreempts(t *testing.T) {
	c := newCluster(t, memory.New())
	c.node("a", "2")
	priority := func(v int32) func(*core.Pod) {
		return func(p *core.Pod) { p.Spec.Priority = &v; p.Spec.TerminationGracePeriodSeconds = new(int64(0)) }
	}
	c.pod("low", "2", priority(1))
	c.until("low", "bound", bound)
	c.pod("high", "2", priority(100))
	c.until("high", "bound in the place of low", bound)
	if c.Lookup(api.Pods.Facts, "default", "low") != nil {
		t.Error("the victim is still there")
	}
	if n := c.scheduler.numbers; n.preemptions.Load() == 0 || n.victims.Count() == 0 {
		t.Errorf("%d attempts to preempt and %d that found victims are counted", n.preemptions.Load(), n.victims.Count())
	}
}

func TestForeignAndGatedPodsAreLeftAlone(t *testing.T) {
	c := newCluster(t, memory.New())
	c.node("a", "8")
	c.pod("foreign", "1", func(p *core.Pod) { p.Spec.SchedulerName = "other" })
	c.pod("gated", "1", func(p *core.Pod) { p.Spec.SchedulingGates = []core.PodSchedulingGate{{Name: "wait"}} })
	c.pod("last", "1")
	c.until("last", "bound", bound)
	for _, name := range []string{"foreign", "gated"} {
		if p := client.Cached(c, api.Pods, "default", name); bound(p) {
			t.Errorf("%s was bound", name)
		}
	}
}

// TestPodThatWasNominatedStaysCounted while it is bound: the next decision took it away,
// and gave its room and its devices to others.
func TestPodThatWasNominatedStaysCounted(t *testing.T) {
	s, err := New(Config{Client: &client.Client{}, Events: &cluster{}})
	if err != nil {
		t.Fatal(err)
	}
	winner := placement.NewPod(&core.Pod{ObjectMeta: metav1.ObjectMeta{UID: "winner"}})
	s.cluster.SetNode(&core.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
	s.nominated["winner"], s.assumed["winner"] = nomination{winner, "a"}, true
	s.cluster.AddPod(winner, "a")
	s.place(&pending{Pod: placement.NewPod(&core.Pod{ObjectMeta: metav1.ObjectMeta{UID: "next"}})})
	if s.cluster.Pod("winner") == nil {
		t.Error("the pod that is being bound no longer counts")
	}
}

// TestGatedPodsAreCounted until their gates are gone or they are.
func TestGatedPodsAreCounted(t *testing.T) {
	q := newQueue()
	p := placement.NewPod(&core.Pod{ObjectMeta: metav1.ObjectMeta{UID: "a"}})
	for _, step := range []struct {
		name string
		do   func()
		want int64
	}{
		{"gated", func() { q.gate("a") }, 1},
		{"gated again", func() { q.gate("a") }, 1},
		{"another", func() { q.gate("b") }, 2},
		{"free", func() { q.put(p, time.Now()) }, 1},
		{"gone", func() { q.remove("b") }, 0},
	} {
		if step.do(); q.held.Load() != step.want {
			t.Errorf("%s: %d", step.name, q.held.Load())
		}
	}
}

// BenchmarkBind: pods bound a second on 20 nodes, from a full queue, with fsync.
func BenchmarkBind(b *testing.B) {
	store, err := bolt.Open(bolt.Config{Path: b.TempDir() + "/state.db"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { store.Close() })
	c := newCluster(b, store)
	for i := range 20 {
		c.node(fmt.Sprintf("node-%02d", i), "6400")
	}
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := w; i < b.N; i += 16 {
				c.pod(fmt.Sprintf("p-%d", i), "100m")
			}
		})
	}
	wg.Wait()
	for i := range b.N {
		c.until(fmt.Sprintf("p-%d", i), "bound", bound)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "bound/s")
}
