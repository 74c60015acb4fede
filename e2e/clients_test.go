package e2e

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"orch/e2e/lab"
)

// TestClientGo runs client-go's own machinery against a server without a node.
func TestClientGo(t *testing.T) {
	h := lab.New(t).Host("one")
	p := h.StartServer("--disable-agent")
	t.Run("informers live through a restart of the server", func(t *testing.T) { informersSurvive(t, h, p) })
	t.Run("one leader at a time", func(t *testing.T) { oneLeader(t, h) })
	t.Run("the dynamic client", func(t *testing.T) { dynamicClient(t, h) })
}

func informersSurvive(t *testing.T, h *lab.Host, p *lab.Process) {
	c := h.Clientset()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f := informers.NewSharedInformerFactory(c, 0)
	maps := f.Core().V1().ConfigMaps()
	var added, updated, deleted atomic.Int32
	maps.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) {
			if o.(*core.ConfigMap).Labels["test"] == "informer" {
				added.Add(1)
			}
		},
		UpdateFunc: func(_, o any) { updated.Add(1) },
		DeleteFunc: func(any) { deleted.Add(1) },
	})
	f.Start(ctx.Done())
	f.WaitForCacheSync(ctx.Done())
	create := func(i int) {
		cm := &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("informed-%d", i), Labels: map[string]string{"test": "informer"}}}
		if _, err := c.CoreV1().ConfigMaps("default").Create(ctx, cm, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		create(i)
	}
	h.Eventually(patience, "5 objects are seen", func() error { return count(&added, 5) })
	p.Kill()
	p.Restart()
	for i := range 5 {
		create(5 + i)
	}
	h.Eventually(patience, "10 objects are seen after the restart", func() error { return count(&added, 10) })
	if err := c.CoreV1().ConfigMaps("default").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "test=informer"}); err != nil {
		t.Fatal(err)
	}
	h.Eventually(patience, "10 objects are gone", func() error { return count(&deleted, 10) })
}

func count(n *atomic.Int32, want int32) error {
	if got := n.Load(); got != want {
		return fmt.Errorf("%d of %d", got, want)
	}
	return nil
}

func oneLeader(t *testing.T, h *lab.Host) {
	c := h.Clientset()
	var leading, most, led atomic.Int32
	run := func(ctx context.Context, id string) {
		lock := &resourcelock.LeaseLock{LeaseMeta: metav1.ObjectMeta{Namespace: "default", Name: "leader"}, Client: c.CoordinationV1(), LockConfig: resourcelock.ResourceLockConfig{Identity: id}}
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{Lock: lock, ReleaseOnCancel: true,
			LeaseDuration: 60 * time.Second, RenewDeadline: 50 * time.Second, RetryPeriod: 200 * time.Millisecond,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(ctx context.Context) {
					led.Add(1)
					if n := leading.Add(1); n > most.Load() {
						most.Store(n)
					}
					<-ctx.Done()
				},
				OnStoppedLeading: func() {},
			}})
	}
	first, stopFirst := context.WithCancel(t.Context())
	second, stopSecond := context.WithCancel(t.Context())
	defer stopSecond()
	go run(first, "a")
	h.Eventually(patience, "a leader", func() error { return count(&led, 1) })
	go run(second, "b")
	leading.Add(-1)
	stopFirst()
	h.Eventually(patience, "the other one leads", func() error { return count(&led, 2) })
	if most.Load() != 1 {
		t.Errorf("%d leaders at once", most.Load())
	}
}

func dynamicClient(t *testing.T, h *lab.Host) {
	d, err := dynamic.NewForConfig(h.Config())
	if err != nil {
		t.Fatal(err)
	}
	deployments := d.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}).Namespace("default")
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "dyn"},
		"spec": map[string]any{"replicas": int64(0), "selector": map[string]any{"matchLabels": map[string]any{"a": "b"}},
			"template": map[string]any{"metadata": map[string]any{"labels": map[string]any{"a": "b"}}, "spec": map[string]any{"containers": []any{map[string]any{"name": "c", "image": "i"}}}}}}}
	got, err := deployments.Apply(t.Context(), "dyn", o, metav1.ApplyOptions{FieldManager: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if v, _, _ := unstructured.NestedString(got.Object, "spec", "strategy", "type"); v != "RollingUpdate" {
		t.Errorf("strategy %q", v)
	}
	unstructured.SetNestedField(o.Object, int64(3), "spec", "replicas")
	if _, err = deployments.Apply(t.Context(), "dyn", o, metav1.ApplyOptions{FieldManager: "other"}); err == nil {
		t.Error("another manager took a field without a conflict")
	}
	if _, err = deployments.Apply(t.Context(), "dyn", o, metav1.ApplyOptions{FieldManager: "other", Force: true}); err != nil {
		t.Error(err)
	}
	if err := deployments.Delete(t.Context(), "dyn", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}
