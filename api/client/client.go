// Package client reaches an API server by typed calls: client.Get(ctx, c,
// api.Pods, ns, name). A Client is a Transport (in process, or HTTP) and,
// where there is one, a live Cache. Controllers, scheduler and agent use nothing
// else, so the same code runs inside the server and on a joined node.
// Start reading at Transport, then Cache, then the generic functions.
package client

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"orch/api"
)

// Target is what a request is about. Name is empty for lists and creates,
// Namespace for cluster kinds and for all namespaces, Subresource mostly.
type Target struct {
	Kind        *api.Facts
	Namespace   string
	Name        string
	Subresource string
}

// List is one page of objects.
type List struct {
	Items []api.Object
	// ResourceVersion is the revision of the state that was read.
	ResourceVersion string
	// Continue is set when more items follow.
	Continue string
}

// Transport carries requests to an API server. Errors are *errors.StatusError
// of apimachinery with the server's reason, code and causes. Objects that go in
// are not kept or changed; objects that come out of Get, List and Watch may be
// shared with others and must not be changed: DeepCopy first.
type Transport interface {
	Get(ctx context.Context, t Target, o metav1.GetOptions) (runtime.Object, error)
	List(ctx context.Context, t Target, o metav1.ListOptions) (List, error)
	Watch(ctx context.Context, t Target, o metav1.ListOptions) (watch.Interface, error)
	// Create posts obj; with a Subresource (binding, eviction, token) the answer
	// is what that subresource answers.
	Create(ctx context.Context, t Target, obj runtime.Object, o metav1.CreateOptions) (runtime.Object, error)
	Update(ctx context.Context, t Target, obj runtime.Object, o metav1.UpdateOptions) (runtime.Object, error)
	Patch(ctx context.Context, t Target, pt types.PatchType, patch []byte, o metav1.PatchOptions) (runtime.Object, error)
	// Delete returns the object as it stands after the request.
	Delete(ctx context.Context, t Target, o metav1.DeleteOptions) (runtime.Object, error)
	DeleteCollection(ctx context.Context, t Target, d metav1.DeleteOptions, l metav1.ListOptions) error
}

// Change is one step of a kind's content. Old is nil for an object that
// appeared, New for one that is gone; both are nil for mere progress of the
// revision (a bookmark).
type Change struct {
	Old, New api.Object
	// Revision of the step; 0 while the initial content is handed over.
	Revision int64
}

// ErrGone says that a kind made at run time was taken away or replaced.
var ErrGone = errors.New("the kind has changed")

// Cache is a live, read-only copy of some kinds. Objects are shared: never
// change them. A built-in kind that the cache does not hold panics: that is a wiring error.
// One made at run time that is gone has no objects, and Subscribe says ErrGone.
type Cache interface {
	// Lookup returns nil if there is no such object.
	Lookup(f *api.Facts, namespace, name string) api.Object
	// Each walks the objects of a namespace (all namespaces if empty) in key order
	// until each returns false.
	Each(f *api.Facts, namespace string, each func(api.Object) bool)
	// Subscribe calls h for every object that is there and then, in order and
	// without gaps, for every change, until ctx ends. It returns once the initial
	// content was handed over. h must be quick, must not block, and must not call
	// back into the cache's Subscribe.
	Subscribe(ctx context.Context, f *api.Facts, h func(Change)) error
	// Revision is the newest revision up to which the cache has applied every
	// change of the kind.
	Revision(f *api.Facts) int64
	// WaitRevision returns once Revision(f) >= revision or ctx ends.
	WaitRevision(ctx context.Context, f *api.Facts, revision int64) error
}

// Client is what the parts of orch hold: a *Client is a Transport and a Cache.
// Cache may be nil on the command line. Writes made through it are noted in the
// Writes of their context (see WithWrites), which is how the reconcile loop
// knows which revision a key has to wait for.
type Client struct {
	Transport
	Cache
}

var (
	_ Transport = (*Client)(nil)
	_ Cache     = (*Client)(nil)
)

// PtrTo is a pointer to T that is an API object.
type PtrTo[T any] interface {
	*T
	api.Object
}

// Get reads one object from the server (not the cache).
func Get[T any](ctx context.Context, c Transport, k api.Kind[T], namespace, name string) (*T, error) {
	o, err := c.Get(ctx, Target{Kind: k.Facts, Namespace: namespace, Name: name}, metav1.GetOptions{})
	return as[T](o, err)
}

// Create stores obj and returns it as the server completed it.
func Create[T any, P PtrTo[T]](ctx context.Context, c Transport, k api.Kind[T], obj P) (*T, error) {
	o, err := c.Create(ctx, Target{Kind: k.Facts, Namespace: obj.GetNamespace()}, obj, metav1.CreateOptions{})
	return as[T](o, err)
}

// Update replaces the object; its ResourceVersion, if set, must be the current one.
func Update[T any, P PtrTo[T]](ctx context.Context, c Transport, k api.Kind[T], obj P) (*T, error) {
	return update(ctx, c, k, obj, "")
}

// UpdateStatus replaces the status of the object only.
func UpdateStatus[T any, P PtrTo[T]](ctx context.Context, c Transport, k api.Kind[T], obj P) (*T, error) {
	return update(ctx, c, k, obj, "status")
}

// WriteStatus writes the status of is, a copy of was with a status of its own, unless the two say the same.
// An object that is gone meanwhile is fine.
func WriteStatus[T any, P PtrTo[T]](ctx context.Context, c Transport, k api.Kind[T], was, is P) error {
	if equality.Semantic.DeepEqual(was, is) {
		return nil
	}
	if _, err := UpdateStatus(ctx, c, k, is); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("writing status: %w", err)
	}
	return nil
}

func update[T any, P PtrTo[T]](ctx context.Context, c Transport, k api.Kind[T], obj P, sub string) (*T, error) {
	t := Target{Kind: k.Facts, Namespace: obj.GetNamespace(), Name: obj.GetName(), Subresource: sub}
	o, err := c.Update(ctx, t, obj, metav1.UpdateOptions{})
	return as[T](o, err)
}

// Patch applies a patch to the object, or to a subresource of it ("" for none).
func Patch[T any](ctx context.Context, c Transport, k api.Kind[T], t Target, pt types.PatchType, patch []byte) (*T, error) {
	t.Kind = k.Facts
	o, err := c.Patch(ctx, t, pt, patch, metav1.PatchOptions{})
	return as[T](o, err)
}

// Delete removes the object; a zero DeleteOptions gives the kind's default grace and propagation.
func Delete[T any](ctx context.Context, c Transport, k api.Kind[T], namespace, name string, o metav1.DeleteOptions) error {
	_, err := c.Delete(ctx, Target{Kind: k.Facts, Namespace: namespace, Name: name}, o)
	return err
}

// Cached returns the cache's object or nil. Do not change it.
func Cached[T any](c Cache, k api.Kind[T], namespace, name string) *T {
	o := c.Lookup(k.Facts, namespace, name)
	if o == nil {
		return nil
	}
	return any(o).(*T)
}

// CachedList collects the cached objects of a namespace ("" for all) that match
// the selector (nil for every object). Do not change them.
func CachedList[T any](c Cache, k api.Kind[T], namespace string, sel labels.Selector) []*T {
	var out []*T
	c.Each(k.Facts, namespace, func(o api.Object) bool {
		if sel == nil || sel.Matches(labels.Set(o.GetLabels())) {
			out = append(out, any(o).(*T))
		}
		return true
	})
	return out
}

func as[T any](o runtime.Object, err error) (*T, error) {
	if err != nil {
		return nil, err
	}
	return any(o).(*T), nil
}
