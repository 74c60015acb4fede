package garbage

import (
	"context"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
	"orch/datastore/memory"
	"orch/server/registry"
)

// slow is a cache that keeps who asks for replica sets waiting.
type slow struct {
	client.Cache
	asked, go_ chan struct{}
}

func (s slow) Subscribe(ctx context.Context, f *api.Facts, h func(client.Change)) error {
	if f == api.ReplicaSets.Facts {
		close(s.asked)
		<-s.go_
	}
	return s.Cache.Subscribe(ctx, f, h)
}

// TestNothingIsFinishedBeforeAllIsKnown: at its start the collector let a deployment go
// whose replica sets it had not heard of yet.
func TestNothingIsFinishedBeforeAllIsKnown(t *testing.T) {
	r, err := registry.New(registry.Config{Store: memory.New(), Resources: registry.BuiltIn()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- r.Run(ctx) }()
	<-r.Ready()
	c := r.Client(registry.User{Name: "system:kube-controller-manager"})
	labels := map[string]string{"app": "web"}
	template := core.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: core.PodSpec{Containers: []core.Container{{Name: "c", Image: "i:1"}}}}
	if _, err := client.Create(ctx, c, api.Namespaces, &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}); err != nil {
		t.Fatal(err)
	}
	d, err := client.Create(ctx, c, api.Deployments, &apps.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: apps.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template}})
	if err != nil {
		t.Fatal(err)
	}
	// It keeps the set from going at once.
	set := &apps.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-1", Finalizers: []string{"example.com/hold"}, OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: d.UID, BlockOwnerDeletion: new(true), Controller: new(true)}}},
		Spec: apps.ReplicaSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template}}
	if _, err := client.Create(ctx, c, api.ReplicaSets, set); err != nil {
		t.Fatal(err)
	}
	foreground := metav1.DeletePropagationForeground
	if err := client.Delete(ctx, c, api.Deployments, "default", "web", metav1.DeleteOptions{PropagationPolicy: &foreground}); err != nil {
		t.Fatal(err)
	}
	s := slow{c.Cache, make(chan struct{}), make(chan struct{})}
	view := &client.Client{Transport: c.Transport, Cache: s}
	kinds := func() []*api.Facts { return []*api.Facts{api.Deployments.Facts, api.ReplicaSets.Facts} }
	go func() { done <- reconcile.Run(ctx, view, Specs(Deps{Client: view, Kinds: kinds})...) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	<-s.asked
	time.Sleep(50 * time.Millisecond) // it must do nothing: there is nothing to wait for
	if client.Cached(c, api.Deployments, "default", "web") == nil {
		t.Fatal("the deployment went before its replica set was known")
	}
	close(s.go_)
	await := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal(what)
			}
		}
	}
	await("the replica set is not deleted", func() bool {
		o := client.Cached(c, api.ReplicaSets, "default", "web-1")
		return o != nil && o.DeletionTimestamp != nil
	})
	if client.Cached(c, api.Deployments, "default", "web") == nil {
		t.Fatal("the deployment went before its replica set")
	}
	if _, err := client.Patch(ctx, c, api.ReplicaSets, client.Target{Namespace: "default", Name: "web-1"}, "application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`)); err != nil {
		t.Fatal(err)
	}
	await("the deployment is still there", func() bool { return client.Cached(c, api.Deployments, "default", "web") == nil })
}
