// Package namespace empties namespaces that are being deleted: it deletes every
// object of every namespaced kind, says in the conditions what is left, and takes
// its finalizer away once nothing is. Start reading at Specs.
package namespace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

// Deps is what the controller needs.
type Deps struct {
	Client *client.Client
	// Kinds lists every kind that is served now.
	Kinds func() []*api.Facts
	// Others are servers that answer for further kinds; nil for none.
	Others Others
	Now    func() time.Time
}

// Others are the servers that answer for further kinds.
type Others interface {
	// Namespaced lists what lies in namespaces there; failed are the versions that cannot
	// be asked now.
	Namespaced(ctx context.Context) (list []schema.GroupVersionResource, failed []schema.GroupVersion)
	List(ctx context.Context, r schema.GroupVersionResource, namespace string) ([]metav1.PartialObjectMetadata, error)
	DeleteAll(ctx context.Context, r schema.GroupVersionResource, namespace string) error
}

type controller struct{ Deps }

// Specs is the controller of namespaces.
func Specs(d Deps) []reconcile.Spec {
	c := &controller{d}
	return []reconcile.Spec{{Name: "namespace", Workers: 4, Do: c.do, Watches: []reconcile.Watch{
		reconcile.For(api.Namespaces), reconcile.Map(api.Pods, c.podGone),
	}}}
}

// podGone wakes a namespace that waits for its pods.
func (c *controller) podGone(was, is *core.Pod) []reconcile.Key {
	if is != nil {
		return nil
	}
	ns := client.Cached(c.Client, api.Namespaces, "", was.Namespace)
	if ns == nil || ns.DeletionTimestamp == nil {
		return nil
	}
	return []reconcile.Key{{Name: ns.Name}}
}

func (c *controller) do(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	ns := client.Cached(c.Client, api.Namespaces, "", key.Name)
	if ns == nil || ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, core.FinalizerKubernetes) {
		return reconcile.Result{}, nil
	}
	l, err := c.empty(ctx, ns.Name)
	if l.empty() {
		return reconcile.Result{}, c.finalize(ctx, ns)
	}
	now := c.Now()
	next := *ns
	next.Status.Phase = core.NamespaceTerminating
	next.Status.Conditions = conditions(ns.Status.Conditions, l, now)
	if werr := client.WriteStatus(ctx, c.Client, api.Namespaces, ns, &next); werr != nil {
		return reconcile.Result{}, werr
	}
	return reconcile.Result{After: lookAgain(ns.DeletionTimestamp.Time, now)}, err
}

// empty deletes the content and counts what stays for now. Pods go first and alone: while one
// runs, it has the policies, secrets and services that it was started with.
func (c *controller) empty(ctx context.Context, namespace string) (left, error) {
	l := left{objects: map[string]int{}, finalizers: map[string]int{}}
	if err := c.emptyKind(ctx, client.Target{Kind: api.Pods.Facts, Namespace: namespace}, &l); err != nil {
		l.failures = append(l.failures, err.Error())
		return l, err
	}
	if len(l.objects) > 0 {
		return l, nil
	}
	var errs []error
	for _, f := range c.Kinds() {
		if f.Cluster || f.Computed || f.SameAs != nil || f == api.Pods.Facts {
			continue
		}
		if err := c.emptyKind(ctx, client.Target{Kind: f, Namespace: namespace}, &l); err != nil {
			errs = append(errs, err)
			l.failures = append(l.failures, err.Error())
		}
	}
	if c.Others != nil {
		errs = append(errs, c.emptyOthers(ctx, namespace, &l))
	}
	slices.Sort(l.failures)
	return l, errors.Join(errs...)
}

// emptyOthers deletes the content that other servers hold. While one of them cannot be
// asked the namespace stays: nobody knows what is left.
func (c *controller) emptyOthers(ctx context.Context, namespace string, l *left) error {
	var errs []error
	list, failed := c.Others.Namespaced(ctx)
	for _, r := range list {
		if err := c.emptyOther(ctx, r, namespace, l); err != nil {
			errs = append(errs, err)
			l.failures = append(l.failures, err.Error())
		}
	}
	for _, gv := range failed {
		l.unknown = append(l.unknown, fmt.Sprintf("%s: stale GroupVersion discovery: %s", gv, gv))
	}
	slices.Sort(l.unknown)
	return errors.Join(errs...)
}

func (c *controller) emptyOther(ctx context.Context, r schema.GroupVersionResource, namespace string, l *left) error {
	found, err := c.Others.List(ctx, r, namespace)
	if err == nil && slices.ContainsFunc(found, func(o metav1.PartialObjectMetadata) bool { return o.DeletionTimestamp == nil }) {
		if err = c.Others.DeleteAll(ctx, r, namespace); err == nil {
			found, err = c.Others.List(ctx, r, namespace)
		}
	}
	if err != nil {
		return fmt.Errorf("deleting %s: %w", r.Resource, err)
	}
	objects := make([]api.Object, len(found))
	for i := range found {
		objects[i] = &found[i]
	}
	l.count(&api.Facts{Group: r.Group, Plural: r.Resource}, objects)
	return nil
}

func (c *controller) emptyKind(ctx context.Context, t client.Target, l *left) error {
	found, err := c.Client.List(ctx, t, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing %s: %w", t.Kind.Plural, err)
	}
	if !slices.ContainsFunc(found.Items, func(o api.Object) bool { return o.GetDeletionTimestamp() == nil }) {
		l.count(t.Kind, found.Items)
		return nil
	}
	background := metav1.DeletePropagationBackground
	if err := c.Client.DeleteCollection(ctx, t, metav1.DeleteOptions{PropagationPolicy: &background}, metav1.ListOptions{}); err != nil {
		return fmt.Errorf("deleting %s: %w", t.Kind.Plural, err)
	}
	if found, err = c.Client.List(ctx, t, metav1.ListOptions{}); err != nil {
		return fmt.Errorf("listing %s: %w", t.Kind.Plural, err)
	}
	l.count(t.Kind, found.Items)
	return nil
}

func (l *left) count(f *api.Facts, objects []api.Object) {
	if len(objects) == 0 {
		return
	}
	l.objects[f.Plural+"."+f.Group] = len(objects)
	for _, o := range objects {
		for _, name := range o.GetFinalizers() {
			l.finalizers[name]++
		}
	}
}

// finalize lets the server remove the namespace.
func (c *controller) finalize(ctx context.Context, ns *core.Namespace) error {
	next := *ns
	next.Spec.Finalizers = slices.DeleteFunc(slices.Clone(ns.Spec.Finalizers), func(f core.FinalizerName) bool { return f == core.FinalizerKubernetes })
	t := client.Target{Kind: api.Namespaces.Facts, Name: ns.Name, Subresource: "finalize"}
	if _, err := c.Client.Update(ctx, t, &next, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("finalizing: %w", err)
	}
	return nil
}
