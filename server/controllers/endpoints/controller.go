// Package endpoints keeps the legacy Endpoints object of every service with a
// selector. Endpoints that a user wrote for a service without one are left alone.
// Start reading at Specs, then desired (pure).
package endpoints

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
	"orch/server/controllers/workpod"
)

type controller struct {
	client *client.Client
	times  *workpod.TriggerTimes

	mu sync.Mutex
	// gone are services that were deleted and whose Endpoints may be left, a
	// user's ones included; guarded by mu.
	gone map[reconcile.Key]bool
}

// Specs is the controller of Endpoints.
func Specs(c *client.Client) []reconcile.Spec {
	e := &controller{client: c, times: workpod.NewTriggerTimes(), gone: map[reconcile.Key]bool{}}
	return []reconcile.Spec{{Name: "endpoints", Workers: 4, Do: e.do, Watches: []reconcile.Watch{
		reconcile.Map(api.Services, e.ofService), workpod.ServicesOf(c), reconcile.For(api.Endpoints),
	}}}
}

func (c *controller) ofService(was, is *core.Service) []reconcile.Key {
	if is != nil {
		return []reconcile.Key{{Namespace: is.Namespace, Name: is.Name}}
	}
	key := reconcile.Key{Namespace: was.Namespace, Name: was.Name}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone[key] = true
	return []reconcile.Key{key}
}

func (c *controller) wasDeleted(key reconcile.Key) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone[key]
}

func (c *controller) do(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	s := client.Cached(c.client, api.Services, key.Namespace, key.Name)
	now := client.Cached(c.client, api.Endpoints, key.Namespace, key.Name)
	if s == nil {
		if now != nil && (managed(now) || c.wasDeleted(key)) {
			err := client.Delete(ctx, c.client, api.Endpoints, key.Namespace, key.Name, metav1.DeleteOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				return reconcile.Result{}, fmt.Errorf("deleting endpoints: %w", err)
			}
		}
		c.mu.Lock()
		delete(c.gone, key)
		c.mu.Unlock()
		c.times.Forget(key)
		return reconcile.Result{}, nil
	}
	if !workpod.HasEndpoints(s) || s.DeletionTimestamp != nil {
		return reconcile.Result{}, nil
	}
	pods := workpod.Selected(c.client, s)
	return reconcile.Result{}, c.write(ctx, now, desired(s, pods), c.times.Next(s, pods))
}

// write brings the object to what is wanted, if it differs, and says since when it should.
func (c *controller) write(ctx context.Context, now, want *core.Endpoints, since time.Time) error {
	if now == nil {
		workpod.Stamp(&want.ObjectMeta, since)
		_, err := client.Create(ctx, c.client, api.Endpoints, want)
		if apierrors.HasStatusCause(err, core.NamespaceTerminatingCause) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("creating endpoints: %w", err)
		}
		return nil
	}
	_, over := now.Annotations[core.EndpointsOverCapacity]
	_, wantOver := want.Annotations[core.EndpointsOverCapacity]
	if maps.Equal(now.Labels, want.Labels) && equality.Semantic.DeepEqual(now.Subsets, want.Subsets) && over == wantOver {
		return nil
	}
	next := now.DeepCopy()
	next.Labels, next.Subsets = want.Labels, want.Subsets
	delete(next.Annotations, core.EndpointsOverCapacity)
	if wantOver {
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, core.EndpointsOverCapacity, "truncated")
	}
	workpod.Stamp(&next.ObjectMeta, since)
	if _, err := client.Update(ctx, c.client, api.Endpoints, next); err != nil {
		return fmt.Errorf("updating endpoints: %w", err)
	}
	return nil
}
