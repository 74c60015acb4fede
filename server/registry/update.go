package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/api"
	"orch/datastore"
	"orch/server/registry/cache"
	"orch/server/validate"
)

// updateTries bounds how often a write that names no resourceVersion starts again
// because somebody else was faster.
const updateTries = 64

// mode is how an update treats the object: as a whole, or one subresource of it.
type mode struct {
	// prepare puts back from old what this mode may not change.
	prepare func(w *op, o, old api.Object)
	// validate is asked instead of the kind's ValidateUpdate; nil: nothing beyond metadata.
	validate func(w *op, o, old api.Object) field.ErrorList
	// whole: warnings apply. defaults: what the body leaves out is filled in before prepare.
	// still: the generation stays, whatever changes.
	whole, defaults, still bool
}

var wholeMode = mode{whole: true, defaults: true,
	prepare: func(w *op, o, old api.Object) {
		if w.res.Status {
			w.res.shape.keepStatus(o, old)
		}
		if h := w.res.hooks.prepareUpdate; h != nil {
			h(o, old)
		}
	},
	validate: func(w *op, o, old api.Object) field.ErrorList {
		var errs field.ErrorList
		if h := w.res.hooks.validate; h != nil && !w.res.hooks.ratchets {
			errs = h(o)
		}
		if h := w.res.hooks.validateUpdate; h != nil {
			errs = append(errs, h(o, old)...)
		}
		return errs
	},
}

var statusMode = mode{
	prepare: func(w *op, o, old api.Object) {
		w.res.shape.keepRest(o, old)
		if h := w.res.hooks.prepareStatus; h != nil {
			h(o, old)
		}
	},
	validate: func(w *op, o, old api.Object) field.ErrorList {
		if h := w.res.hooks.validateStatus; h != nil {
			return h(o, old)
		}
		return nil
	},
}

// subMode is the mode of a row's further subresource.
func subMode(prepare func(o, old api.Object), validate func(o, old api.Object) field.ErrorList) *mode {
	return &mode{
		defaults: true,
		prepare:  func(_ *op, o, old api.Object) { prepare(o, old) },
		validate: func(w *op, o, old api.Object) field.ErrorList {
			check := validate
			if check == nil {
				check = w.res.hooks.validateUpdate
			}
			if check == nil {
				return nil
			}
			return check(o, old)
		},
	}
}

// modeFor finds the mode of an update's subresource.
func (w *op) modeFor() (*mode, error) {
	switch s := w.q.Subresource; {
	case s == "":
		return &wholeMode, nil
	case s == "status" && w.res.Status:
		return &statusMode, nil
	case w.res.HasSub(s):
		if m := w.res.hooks.subs[s]; m != nil {
			return m, nil
		}
		return nil, apierrors.NewMethodNotSupported(w.res.GroupResource(), "update")
	}
	return nil, notServed(w.res.Facts)
}

// Update replaces an object, or the part of it that a subresource names. It takes
// obj over.
func (r *Registry) Update(ctx context.Context, q Request, obj runtime.Object, o metav1.UpdateOptions) (Result, error) {
	return anew(ctx, r, q, func(q Request, res *Resource) (Result, error) {
		return r.updateOnce(ctx, q, res, res.spare(obj), o)
	})
}

func (r *Registry) updateOnce(ctx context.Context, q Request, res *Resource, obj runtime.Object, o metav1.UpdateOptions) (Result, error) {
	if errs := metavalidation.ValidateUpdateOptions(&o); len(errs) > 0 {
		return Result{}, apierrors.NewInvalid(schema.GroupKind{Group: "meta.k8s.io", Kind: "UpdateOptions"}, "", errs)
	}
	w := r.newOp(&q, res, Update, &o, o.FieldManager)
	w.DryRun = len(o.DryRun) > 0
	if q.Subresource == "scale" && res.Scale {
		return w.updateScale(ctx, obj)
	}
	n, ok := obj.(api.Object)
	if !ok {
		return Result{}, apierrors.NewBadRequest(fmt.Sprintf("not an API object: %T", obj))
	}
	if err := w.checkTarget(n); err != nil {
		return Result{}, err
	}
	m, err := w.modeFor()
	if err != nil {
		return Result{}, err
	}
	free := n.GetResourceVersion() == "" || n.GetResourceVersion() == "0"
	out, err := w.retry(ctx, !free, func(old *Item) (api.Object, error) {
		if !free {
			return n, nil
		}
		return n.DeepCopyObject().(api.Object), nil
	}, m)
	if apierrors.IsNotFound(err) && m.whole && res.hooks.createOnUpdate && !r.exists(res, q.Namespace, q.Name) {
		return w.createInstead(ctx, n)
	}
	return out, err
}

// checkTarget makes the body agree with the address.
func (w *op) checkTarget(obj api.Object) error {
	if w.q.Name == "" {
		return apierrors.NewBadRequest("name must be provided")
	}
	if n := obj.GetName(); n == "" {
		if w.Operation == Update {
			return apierrors.NewBadRequest("name must be provided")
		}
		obj.SetName(w.q.Name)
	} else if n != w.q.Name {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", n, w.q.Name))
	}
	if !w.res.Cluster && obj.GetNamespace() != "" && obj.GetNamespace() != w.q.Namespace {
		return apierrors.NewBadRequest(fmt.Sprintf("the namespace of the object (%s) does not match the namespace on the URL (%s)",
			obj.GetNamespace(), w.q.Namespace))
	}
	return w.checkNamespace(obj)
}

// createInstead serves an update or an apply of an object that is not there.
func (w *op) createInstead(ctx context.Context, obj api.Object) (Result, error) {
	if v := obj.GetResourceVersion(); v != "" && v != "0" {
		return Result{}, w.conflict(w.q.Name, "StorageError: invalid object, Code: 4, the object has been deleted; please remove its resourceVersion to create it")
	}
	if uid := obj.GetUID(); uid != "" {
		return Result{}, w.conflict(w.q.Name, fmt.Sprintf("Precondition failed: UID in precondition: %v, UID in object meta: ", uid))
	}
	if w.q.MayCreate != nil {
		if err := w.q.MayCreate(ctx); err != nil {
			return Result{}, err
		}
	}
	obj.SetResourceVersion("")
	c := *w
	c.Operation, c.Options = Create, asCreateOptions(w.Options)
	return c.create(ctx, obj)
}

// retry runs an update against the newest version until it is stored. With once, a
// conflict is the answer: the client named a version.
func (w *op) retry(ctx context.Context, once bool, change func(old *Item) (api.Object, error), m *mode) (Result, error) {
	for try := 1; ; try++ {
		old, err := w.r.current(w.res, w.q.Namespace, w.q.Name)
		if err != nil {
			return Result{}, err
		}
		if old == nil {
			return Result{}, w.notFound()
		}
		obj, err := change(old)
		if err != nil {
			return Result{}, err
		}
		a := *w
		out, err := a.update(ctx, old, obj, m)
		var c *datastore.ConflictError
		if !errors.As(err, &c) {
			return out, storeError(err)
		}
		// Who is told of a conflict reads again, and has to see what it lost to.
		if err := w.r.waitConflict(ctx, c); err != nil && ctx.Err() == nil {
			return Result{}, storeError(err)
		}
		if once || try == updateTries || ctx.Err() != nil {
			return Result{}, w.conflict(w.q.Name, conflictMessage)
		}
	}
}

// update is the pipeline of a changed object: one attempt. The error may be a
// *datastore.ConflictError.
func (w *op) update(ctx context.Context, oldItem *Item, obj api.Object, m *mode) (Result, error) {
	old := oldItem.Object()
	if err := w.checkVersion(ctx, oldItem, obj); err != nil {
		return Result{}, err
	}
	h := &w.res.hooks
	w.clearType(obj)
	if (m.defaults || w.res.Dynamic) && h.setDefaults != nil {
		h.setDefaults(obj)
	}
	w.keepMeta(obj, old)
	m.prepare(w, obj, old)
	w.bumpGeneration(obj, old, m)
	if !w.applied {
		if err := w.r.apply.Update(old, obj, w.by()); err != nil {
			return Result{}, err
		}
	}
	w.Object, w.Old = obj, old
	defer w.ended()
	if err := w.admit(ctx); err != nil {
		return Result{}, err
	}
	before := obj
	if obj = w.Object.(api.Object); w.Mutation.Changed { // upstream prepares after users' webhooks have run
		w.keepManaged(obj, before)
		w.clearType(obj)
		w.keepMeta(obj, old)
		m.prepare(w, obj, old)
		w.bumpGeneration(obj, old, m)
	}
	if err := w.validateUpdate(obj, old, m); err != nil {
		return Result{}, err
	}
	if m.whole && h.warn != nil {
		for _, s := range h.warn(obj, old) {
			w.Warn(s)
		}
	}
	if err := w.admitted(ctx); err != nil {
		return Result{}, err
	}
	return w.storeUpdate(ctx, oldItem, obj)
}

// checkVersion compares the resourceVersion and the UID that the client named.
func (w *op) checkVersion(ctx context.Context, old *Item, obj api.Object) error {
	if uid := obj.GetUID(); uid != "" && uid != old.Object().GetUID() {
		return w.conflict(w.q.Name, fmt.Sprintf("Precondition failed: UID in precondition: %v, UID in object meta: %v", uid, old.Object().GetUID()))
	}
	v := obj.GetResourceVersion()
	switch v {
	case "", "0":
		if w.res.hooks.forbidUnconditional {
			return w.invalid(w.q.Name, field.ErrorList{field.Invalid(field.NewPath("metadata", "resourceVersion"), uint64(0), "must be specified for an update")})
		}
		return nil
	case old.Object().GetResourceVersion():
		return nil
	}
	rev, err := strconv.ParseInt(v, 10, 64)
	if err != nil || rev < 0 {
		return w.invalid(w.q.Name, field.ErrorList{field.Invalid(field.NewPath("metadata", "resourceVersion"), v, "must be a number that the server gave out")})
	}
	return w.conflict(w.q.Name, conflictMessage)
}

// keepMeta puts back what an update cannot change, as rest.BeforeUpdate does upstream.
func (w *op) keepMeta(obj, old api.Object) {
	obj.SetResourceVersion(old.GetResourceVersion())
	obj.SetGeneration(old.GetGeneration())
	obj.SetSelfLink("")
	if obj.GetUID() == "" {
		obj.SetUID(old.GetUID())
	}
	obj.SetCreationTimestamp(old.GetCreationTimestamp())
	if at := old.GetDeletionTimestamp(); at != nil {
		obj.SetDeletionTimestamp(at)
	}
	if obj.GetDeletionGracePeriodSeconds() == nil {
		obj.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	}
	dedupOwners(obj)
}

func (w *op) bumpGeneration(obj, old api.Object, m *mode) {
	if m.still || !w.res.hooks.counts || obj.GetGeneration() != old.GetGeneration() {
		return
	}
	if !w.res.shape.sameRest(obj, old) {
		obj.SetGeneration(old.GetGeneration() + 1)
	}
}

func (w *op) validateUpdate(obj, old api.Object, m *mode) error {
	check := validate.ObjectMetaUpdate
	if w.anyFinalizer() {
		check = func(m, old metav1.Object, p *field.Path) validate.Errors {
			return apivalidation.ValidateObjectMetaAccessorUpdate(thin(m), thin(old), p)
		}
	}
	errs := check(obj, old, field.NewPath("metadata"))
	if m.validate != nil {
		errs = append(errs, m.validate(w, obj, old)...)
	}
	if len(errs) > 0 {
		return w.invalid(obj.GetName(), uniqueErrors(errs))
	}
	return nil
}

// storeUpdate writes the new state, unless it is the old one, or removes an object
// whose last finalizer is gone.
func (w *op) storeUpdate(ctx context.Context, old *Item, obj api.Object) (Result, error) {
	if w.finished(obj) {
		if w.DryRun {
			return Result{Object: obj, Item: cache.NewItem(w.res.kind, obj, old.Revision())}, nil
		}
		out, err := w.remove(ctx, old, obj)
		return out, err
	}
	same, err := w.unchanged(old.Object(), obj)
	if err != nil {
		return Result{}, err
	}
	if same && !old.Stale() { // an update that changes nothing brings an old stored version up to date
		sealed, err := w.sealedOtherwise(ctx, old)
		if err != nil || !sealed {
			return answer(old), err
		}
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

// finished tells whether nothing holds a deleted object any more.
func (w *op) finished(obj api.Object) bool {
	if obj.GetDeletionTimestamp() == nil || len(obj.GetFinalizers()) > 0 {
		return false
	}
	if g := obj.GetDeletionGracePeriodSeconds(); g != nil && *g != 0 {
		return false
	}
	h := w.res.hooks.held
	return h == nil || !h(obj)
}

// unchanged compares what would be stored, byte by byte.
func (w *op) unchanged(old, obj api.Object) (bool, error) {
	was, err := w.res.kind.Encode(old)
	if err != nil {
		return false, err
	}
	is, err := w.res.kind.Encode(obj) // both carry the old resourceVersion
	return err == nil && bytes.Equal(was, is), err
}
