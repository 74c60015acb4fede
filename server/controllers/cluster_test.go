package controllers_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/events"
	"orch/api/reconcile"
	"orch/datastore/memory"
	"orch/server/controllers"
	"orch/server/registry"
)

// cluster is a registry on the memory store with all controllers, and a stand-in for
// scheduler and agents: it binds pods and lets them run.
type cluster struct {
	*client.Client
	t    testing.TB
	ctx  context.Context
	loop *reconcile.Loop

	mu sync.Mutex
	// now is added to the real time for the controllers; guarded by mu.
	ahead time.Duration
	// ready tells whether a pod becomes ready; nil: every pod.
	ready func(*core.Pod) bool
}

// devicesAtBinding says, on a pod, what the stand-in's binding says of devices.
const devicesAtBinding = "test/devices"

func start(t testing.TB) *cluster {
	t.Helper()
	slog.SetDefault(slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelInfo})))
	reg, err := registry.New(registry.Config{Store: memory.New(), Resources: registry.BuiltIn()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	var wg sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		slog.SetDefault(slog.New(slog.DiscardHandler))
	})
	run := func(name string, f func(context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	run("registry", reg.Run)
	<-reg.Ready()
	c := &cluster{Client: reg.Client(registry.User{Name: "admin", Groups: []string{api.GroupMasters}}), t: t, ctx: ctx}
	own := reg.Client(registry.User{Name: api.ControllerUser})
	rec, err := events.New(events.Config{Client: own, Component: "controllers"})
	if err != nil {
		t.Fatal(err)
	}
	run("events", rec.Run)
	specs, err := controllers.Specs(controllers.Deps{
		Client: own, Events: rec, ClusterCIDR: "10.42.0.0/16", RootCA: []byte("PEM"), Kinds: api.All, Now: c.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	loop, err := reconcile.New(own, append(specs, c.standIn())...)
	if err != nil {
		t.Fatal(err)
	}
	c.loop = loop
	run("controllers", loop.Run)
	make_(c, api.Namespaces, &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	return c
}

func (c *cluster) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

// runs counts the runs of all controllers.
func (c *cluster) runs() uint64 {
	n := uint64(0)
	for _, m := range c.loop.Metrics() {
		n += m.Runs
	}
	return n
}

// settle waits until no controller has had anything to do for a while.
func (c *cluster) settle() {
	for before := c.runs() + 1; before != c.runs(); {
		before = c.runs()
		select {
		case <-time.After(50 * time.Millisecond):
		case <-c.ctx.Done():
			c.t.Fatal("the controllers do not come to rest")
		}
	}
}

// standIn binds pods to node "n1", lets them run and become ready, and ends them
// when they are deleted. Those that have ended stay so, as with a real agent: a pod that
// came to life again would be one too many for its Job, which would delete it.
func (c *cluster) standIn() reconcile.Spec {
	ips := 0
	return reconcile.Spec{Name: "standin", Watches: []reconcile.Watch{reconcile.For(api.Pods)}, Do: func(ctx context.Context, k reconcile.Key) (reconcile.Result, error) {
		p := client.Cached(c, api.Pods, k.Namespace, k.Name)
		switch {
		case p == nil || (p.Status.Phase != core.PodPending && p.DeletionTimestamp == nil):
			return reconcile.Result{}, nil
		case p.Spec.NodeName == "":
			b := &core.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name}, Target: core.ObjectReference{Kind: "Node", Name: "n1"}}
			if d := p.Annotations[devicesAtBinding]; d != "" {
				b.Annotations = map[string]string{api.AnnotationDevices: d}
			}
			_, err := c.Create(ctx, client.Target{Kind: api.Pods.Facts, Namespace: p.Namespace, Name: p.Name, Subresource: "binding"}, b, metav1.CreateOptions{})
			return reconcile.Result{}, err
		case p.DeletionTimestamp != nil:
			err := client.Delete(ctx, c, api.Pods, p.Namespace, p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
			if apierrors.IsNotFound(err) {
				err = nil
			}
			return reconcile.Result{}, err
		}
		next := p.DeepCopy()
		ips++
		next.Status.Phase, next.Status.PodIP = core.PodRunning, fmt.Sprintf("10.42.%d.%d", ips/250, ips%250+1)
		next.Status.PodIPs = []core.PodIP{{IP: next.Status.PodIP}}
		status := core.ConditionTrue
		if c.ready != nil && !c.ready(p) {
			status = core.ConditionFalse
		}
		next.Status.Conditions = append(next.Status.Conditions, core.PodCondition{Type: core.PodReady, Status: status, LastTransitionTime: metav1.NewTime(c.now())})
		_, err := client.UpdateStatus(ctx, c, api.Pods, next)
		return reconcile.Result{}, err
	}}
}

// make_ creates an object and fails the test if that fails.
func make_[T any, P client.PtrTo[T]](c *cluster, k api.Kind[T], o P) *T {
	c.t.Helper()
	out, err := client.Create(c.ctx, c, k, o)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// edit changes an object, again if somebody else wrote it meanwhile.
func edit[T any, P client.PtrTo[T]](c *cluster, k api.Kind[T], namespace, name string, change func(*T)) {
	c.t.Helper()
	for {
		o, err := client.Get(c.ctx, c, k, namespace, name)
		if err != nil {
			c.t.Fatal(err)
		}
		next := any(P(o).DeepCopyObject()).(P)
		change((*T)(next))
		if _, err = client.Update(c.ctx, c, k, next); err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			c.t.Fatal(err)
		}
	}
}

// await waits until the check, asked again after every change of anything, is
// content. It returns what is still missing, "" for nothing.
func (c *cluster) await(check func() string) {
	c.t.Helper()
	changed := make(chan struct{}, 1)
	ctx, cancel := context.WithTimeout(c.ctx, time.Minute)
	defer cancel()
	for _, f := range api.All() {
		if f.Computed || f.SameAs != nil {
			continue
		}
		if err := c.Subscribe(ctx, f, func(client.Change) {
			select {
			case changed <- struct{}{}:
			default:
			}
		}); err != nil {
			c.t.Fatal(err)
		}
	}
	for {
		missing := check()
		if missing == "" {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			c.t.Fatalf("waited in vain: %s", check())
		}
	}
}

// testLog puts log lines into the test's output.
type testLog struct{ t testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Helper()
	l.t.Log(string(b))
	return len(b), nil
}
