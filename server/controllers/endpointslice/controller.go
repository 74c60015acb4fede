// Package endpointslice keeps the EndpointSlices of services: from the pods that
// a service selects, and, for services without a selector, mirrored from the
// Endpoints object that a user wrote. Slices hold at most 100 endpoints and are
// changed as little as possible, as every node watches them.
// Start reading at Specs, then desired and makePlan (pure).
package endpointslice

import (
	"context"
	"fmt"
	"maps"
	"time"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
	"orch/server/controllers/workpod"
)

const (
	managedByPods   = "endpointslice-controller.k8s.io"
	managedByMirror = "endpointslicemirroring-controller.k8s.io"
)

type controller struct {
	client *client.Client
	name   string                // value of the managed-by label
	times  *workpod.TriggerTimes // nil for mirrored ones: their time is not known
}

// Specs are the controllers of slices made from pods and of mirrored ones.
func Specs(c *client.Client) []reconcile.Spec {
	pods := &controller{c, managedByPods, workpod.NewTriggerTimes()}
	mirror := &controller{client: c, name: managedByMirror}
	return []reconcile.Spec{
		{Name: "endpointslice", Workers: 4, Do: pods.doPods, Watches: []reconcile.Watch{
			reconcile.For(api.Services), workpod.ServicesOf(c), reconcile.Map(api.EndpointSlices, pods.ofSlice), reconcile.Map(api.Nodes, pods.moved)}},
		{Name: "endpointslicemirroring", Workers: 1, Do: mirror.doMirror, Watches: []reconcile.Watch{
			reconcile.For(api.Services), reconcile.For(api.Endpoints), reconcile.Map(api.EndpointSlices, mirror.ofSlice)}},
	}
}

// ofSlice wakes the service whose slice changed, when it is ours (or was).
func (c *controller) ofSlice(was, is *discovery.EndpointSlice) []reconcile.Key {
	for _, s := range []*discovery.EndpointSlice{is, was} {
		if s != nil && s.Labels[discovery.LabelManagedBy] == c.name && s.Labels[discovery.LabelServiceName] != "" {
			return []reconcile.Key{{Namespace: s.Namespace, Name: s.Labels[discovery.LabelServiceName]}}
		}
	}
	return nil
}

// moved wakes every service when a node's zone changed.
func (c *controller) moved(was, is *core.Node) []reconcile.Key {
	if was == nil || is == nil || was.Labels[core.LabelTopologyZone] == is.Labels[core.LabelTopologyZone] {
		return nil
	}
	return reconcile.Keys(c.client, api.Services, "", func(*core.Service) bool { return true })
}

func (c *controller) zone(node string) string {
	if n := client.Cached(c.client, api.Nodes, "", node); n != nil {
		return n.Labels[core.LabelTopologyZone]
	}
	return ""
}

func (c *controller) doPods(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	s := client.Cached(c.client, api.Services, key.Namespace, key.Name)
	if s == nil {
		c.times.Forget(key)
	}
	if s == nil || s.DeletionTimestamp != nil {
		return reconcile.Result{}, nil // the owner reference takes the slices along
	}
	var groups []group
	var since time.Time
	if workpod.HasEndpoints(s) {
		pods := workpod.Selected(c.client, s)
		groups, since = desired(s, pods, c.zone), c.times.Next(s, pods)
	} // else ours go: it never had a selector, or mirroring takes over
	f := c.frame(s, api.Services.Facts, s.Labels)
	if workpod.Headless(s) {
		f.meta.Labels[core.IsHeadlessService] = ""
	}
	p := makePlan(f, groups, c.existing(s.Namespace, s.Name))
	p.stamp(since)
	return reconcile.Result{}, c.act(ctx, p)
}

func (c *controller) existing(namespace, service string) []*discovery.EndpointSlice {
	return client.CachedList(c.client, api.EndpointSlices, namespace, labels.SelectorFromSet(labels.Set{
		discovery.LabelServiceName: service, discovery.LabelManagedBy: c.name,
	}))
}

// frame is the metadata of the owner's slices, with labels taken from it.
func (c *controller) frame(owner api.Object, f *api.Facts, from map[string]string) frame {
	l := maps.Clone(from)
	if l == nil {
		l = map[string]string{}
	}
	delete(l, core.IsHeadlessService)
	l[discovery.LabelServiceName], l[discovery.LabelManagedBy] = owner.GetName(), c.name
	return frame{meta: metav1.ObjectMeta{
		Namespace: owner.GetNamespace(), GenerateName: owner.GetName() + "-", Labels: l,
		OwnerReferences: []metav1.OwnerReference{workpod.OwnerRef(f, owner)},
	}}
}

// act writes the plan: what appears first, so that no address is missing in between.
func (c *controller) act(ctx context.Context, p plan) error {
	for _, s := range p.create {
		if _, err := client.Create(ctx, c.client, api.EndpointSlices, s); err != nil {
			if apierrors.HasStatusCause(err, core.NamespaceTerminatingCause) {
				return nil
			}
			return fmt.Errorf("creating endpoint slice: %w", err)
		}
	}
	for _, s := range p.update {
		if _, err := client.Update(ctx, c.client, api.EndpointSlices, s); err != nil {
			return fmt.Errorf("updating endpoint slice %s: %w", s.Name, err)
		}
	}
	for _, s := range p.remove {
		if err := client.Delete(ctx, c.client, api.EndpointSlices, s.Namespace, s.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("deleting endpoint slice %s: %w", s.Name, err)
		}
	}
	return nil
}
