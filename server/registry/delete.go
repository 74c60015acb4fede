package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/api"
	"orch/datastore"
	"orch/server/registry/cache"
)

// deleteWorkers is how many objects of a collection are deleted at a time, so that
// they share disk syncs.
const deleteWorkers = 16

// Delete removes an object, or marks it while finalizers or its grace period hold
// it. Options are the caller's; they are not changed.
func (r *Registry) Delete(ctx context.Context, q Request, o metav1.DeleteOptions) (Result, error) {
	return anew(ctx, r, q, func(q Request, res *Resource) (Result, error) { return r.deleteOnce(ctx, q, res, o) })
}

func (r *Registry) deleteOnce(ctx context.Context, q Request, res *Resource, o metav1.DeleteOptions) (Result, error) {
	if q.Subresource != "" {
		return Result{}, apierrors.NewMethodNotSupported(res.GroupResource(), "delete")
	}
	if errs := metavalidation.ValidateDeleteOptions(&o); len(errs) > 0 {
		return Result{}, apierrors.NewInvalid(schema.GroupKind{Group: "meta.k8s.io", Kind: "DeleteOptions"}, "", errs)
	}
	w := r.newOp(&q, res, Delete, &o, "")
	w.DryRun = len(o.DryRun) > 0
	for try := 1; ; try++ {
		old, err := r.current(res, q.Namespace, q.Name)
		if err != nil {
			return Result{}, err
		}
		if old == nil {
			return Result{}, w.notFound()
		}
		a := *w
		out, err := a.delete(ctx, old, o)
		var c *datastore.ConflictError
		if !errors.As(err, &c) {
			return out, storeError(err)
		}
		if try == updateTries || ctx.Err() != nil {
			return Result{}, w.conflict(q.Name, conflictMessage)
		}
		if err := r.waitConflict(ctx, c); err != nil {
			return Result{}, storeError(err)
		}
	}
}

// waitConflict waits until the cache has seen the version that the store had; a key that is gone
// there is gone from the cache once it has reached the store's newest revision.
func (r *Registry) waitConflict(ctx context.Context, c *datastore.ConflictError) error {
	if c.Current.ModRevision > 0 {
		return r.cache.Wait(ctx, c.Current.ModRevision)
	}
	ctx, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	err := r.cache.Wait(ctx, r.store.Revision())
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// delete is the pipeline of a deletion: one attempt.
func (w *op) delete(ctx context.Context, old *Item, o metav1.DeleteOptions) (Result, error) {
	if err := w.checkPreconditions(old.Object(), o.Preconditions); err != nil {
		return Result{}, err
	}
	w.Old = old.Object()
	if err := w.admit(ctx); err != nil {
		return Result{}, err
	}
	if err := w.admitted(ctx); err != nil {
		return Result{}, err
	}
	obj := old.Object().DeepCopyObject().(api.Object)
	pending := w.markGrace(obj, &o)
	if pending {
		return w.stillThere(ctx, old, nil)
	}
	changed := w.gcFinalizers(obj, &o)
	held := w.res.hooks.held != nil && w.res.hooks.held(obj)
	if len(obj.GetFinalizers()) > 0 || held {
		changed = w.markDeleting(obj) || changed
	} else if g := obj.GetDeletionGracePeriodSeconds(); obj.GetDeletionTimestamp() == nil || g == nil || *g == 0 {
		return w.removed(ctx, old, obj)
	}
	if !changed && obj.GetGeneration() == old.Object().GetGeneration() {
		if same, err := w.unchanged(old.Object(), obj); err != nil || same {
			return w.stillThere(ctx, old, nil)
		}
	}
	return w.stillThere(ctx, old, obj)
}

// stillThere answers with the object, changed to obj if that is not nil.
func (w *op) stillThere(ctx context.Context, old *Item, obj api.Object) (Result, error) {
	if obj == nil {
		return answer(old), nil
	}
	if w.DryRun {
		return answer(cache.NewItem(w.res.kind, obj, old.Revision())), nil
	}
	item, err := w.put(ctx, obj, old.Revision())
	if err != nil {
		return Result{}, err
	}
	return answer(item), nil
}

func (w *op) removed(ctx context.Context, old *Item, last api.Object) (Result, error) {
	if w.DryRun {
		return w.deletedAnswer(old), nil
	}
	return w.remove(ctx, old, last)
}

// remove takes the object out of the store. last is its final state, for the answer.
func (w *op) remove(ctx context.Context, old *Item, last api.Object) (Result, error) {
	key := w.res.Key(last.GetNamespace(), last.GetName())
	rev, err := w.r.store.Commit(ctx, datastore.Txn{Lazy: w.res.hooks.lazy, Ops: []datastore.Op{{Key: key, Delete: true, Expect: old.Revision()}}})
	if err != nil {
		return Result{}, err
	}
	if err := w.r.cache.Wait(context.WithoutCancel(ctx), rev); err != nil {
		return Result{}, err
	}
	last.SetResourceVersion(cache.FormatRevision(rev))
	return w.deletedAnswer(cache.NewItem(w.res.kind, last, rev)), nil
}

// deletedAnswer is a Status that names what is gone, or the object itself for the
// kinds where upstream answers so.
func (w *op) deletedAnswer(last *Item) Result {
	if w.res.hooks.returnDeleted || w.Operation != Delete {
		out := answer(last)
		out.Deleted = last
		return out
	}
	return Result{Deleted: last, Object: &metav1.Status{
		Status: metav1.StatusSuccess,
		Details: &metav1.StatusDetails{
			Name: last.Object().GetName(), Group: w.res.Group, Kind: w.res.Plural, UID: last.Object().GetUID(),
		},
	}}
}

func (w *op) checkPreconditions(obj api.Object, p *metav1.Preconditions) error {
	if p == nil {
		return nil
	}
	if p.UID != nil && *p.UID != obj.GetUID() {
		return w.conflict(w.q.Name, fmt.Sprintf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated",
			*p.UID, obj.GetUID()))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != obj.GetResourceVersion() {
		return w.conflict(w.q.Name, fmt.Sprintf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified",
			*p.ResourceVersion, obj.GetResourceVersion()))
	}
	return nil
}

// markGrace starts or shortens a graceful deletion in obj, as rest.BeforeDelete does
// upstream. It returns true when one is under way that the request does not shorten.
func (w *op) markGrace(obj api.Object, o *metav1.DeleteOptions) (pending bool) {
	grace := w.res.hooks.grace
	if grace == nil {
		return false
	}
	if g := o.GracePeriodSeconds; g != nil && *g < 0 {
		o.GracePeriodSeconds = new(int64(1))
	}
	if at := obj.GetDeletionTimestamp(); at != nil {
		was := obj.GetDeletionGracePeriodSeconds()
		if was == nil {
			return false
		}
		if o.GracePeriodSeconds == nil || *o.GracePeriodSeconds >= *was {
			return *was > 0 || len(obj.GetFinalizers()) > 0
		}
		sooner := metav1.NewTime(at.Add(time.Duration(*o.GracePeriodSeconds-*was) * time.Second))
		obj.SetDeletionTimestamp(&sooner)
		obj.SetDeletionGracePeriodSeconds(new(*o.GracePeriodSeconds))
		return false
	}
	seconds := grace(obj, o)
	at := metav1.NewTime(w.r.now().UTC().Truncate(time.Second).Add(time.Duration(seconds) * time.Second))
	obj.SetDeletionTimestamp(&at)
	obj.SetDeletionGracePeriodSeconds(&seconds)
	if obj.GetGeneration() > 0 {
		obj.SetGeneration(obj.GetGeneration() + 1)
	}
	return false
}

// markDeleting notes that an object waits for its finalizers.
func (w *op) markDeleting(obj api.Object) bool {
	changed := false
	if obj.GetDeletionTimestamp() == nil {
		if obj.GetGeneration() > 0 {
			obj.SetGeneration(obj.GetGeneration() + 1)
		}
		obj.SetDeletionTimestamp(&metav1.Time{Time: w.r.now().UTC().Truncate(time.Second)})
		changed = true
	}
	if w.res.hooks.grace == nil && w.res.hooks.held == nil && obj.GetDeletionGracePeriodSeconds() == nil {
		obj.SetDeletionGracePeriodSeconds(new(int64(0)))
		changed = true
	}
	if h := w.res.hooks.markDeleting; h != nil && changed {
		h(obj)
	}
	return changed
}

// gcFinalizers sets or drops the garbage collector's finalizers as the propagation
// policy says; it tells whether they changed.
func (w *op) gcFinalizers(obj api.Object, o *metav1.DeleteOptions) bool {
	if w.res.hooks.noGC {
		return false
	}
	had := obj.GetFinalizers()
	want := slices.DeleteFunc(slices.Clone(had), func(f string) bool {
		return f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents
	})
	if f := w.gcFinalizer(had, o); f != "" {
		want = append(want, f)
	}
	if len(want) == len(had) && !slices.ContainsFunc(want, func(f string) bool { return !slices.Contains(had, f) }) {
		return false
	}
	if len(want) == 0 {
		want = nil
	}
	obj.SetFinalizers(want)
	return true
}

// gcFinalizer: an explicit policy wins, then a finalizer that is there, then the kind's default.
func (w *op) gcFinalizer(had []string, o *metav1.DeleteOptions) string {
	switch {
	case o.OrphanDependents != nil && *o.OrphanDependents:
		return metav1.FinalizerOrphanDependents
	case o.OrphanDependents != nil:
		return ""
	case o.PropagationPolicy != nil:
		switch *o.PropagationPolicy {
		case metav1.DeletePropagationOrphan:
			return metav1.FinalizerOrphanDependents
		case metav1.DeletePropagationForeground:
			return metav1.FinalizerDeleteDependents
		}
		return ""
	case slices.Contains(had, metav1.FinalizerOrphanDependents):
		return metav1.FinalizerOrphanDependents
	case slices.Contains(had, metav1.FinalizerDeleteDependents):
		return metav1.FinalizerDeleteDependents
	case w.res.hooks.orphanByDefault:
		return metav1.FinalizerOrphanDependents
	}
	return ""
}

// DeleteCollection deletes what a list finds and returns it.
func (r *Registry) DeleteCollection(ctx context.Context, q Request, d metav1.DeleteOptions, l metav1.ListOptions) (*List, error) {
	list, err := r.List(ctx, q, l)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var first error
	var wg sync.WaitGroup
	work := make(chan *Item)
	for range min(deleteWorkers, len(list.Items)) {
		wg.Go(func() {
			for i := range work {
				one := q
				one.Namespace, one.Name = i.Object().GetNamespace(), i.Object().GetName()
				o := d
				o.Preconditions = pinned(i, d.Preconditions)
				_, err := r.Delete(ctx, one, o)
				replaced := apierrors.IsConflict(err) && d.Preconditions == nil
				if err != nil && !apierrors.IsNotFound(err) && !replaced {
					mu.Lock()
					if first == nil {
						first = err
					}
					mu.Unlock()
				}
			}
		})
	}
	for _, i := range list.Items {
		work <- i
	}
	close(work)
	wg.Wait()
	return list, first
}

// pinned keeps a collection's deletion from hitting an object that took the name
// of a listed one meanwhile.
func pinned(i *Item, p *metav1.Preconditions) *metav1.Preconditions {
	if p != nil {
		return p
	}
	return &metav1.Preconditions{UID: new(i.Object().GetUID())}
}

func parseRevision(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: resourceVersion: Invalid value: %q: %s", s, err))
	}
	return int64(n), nil
}
