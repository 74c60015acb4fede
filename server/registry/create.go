package registry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/api"
	"orch/datastore"
	"orch/server/apply"
	"orch/server/registry/cache"
	"orch/server/validate"
)

// generateTries is how often a generated name that is taken is generated anew, as upstream.
const generateTries = 8

// Names are generated from an alphabet without vowels and look-alikes, as upstream's.
const (
	nameAlphabet    = "bcdfghjklmnpqrstvwxz2456789"
	nameSuffix      = 5
	maxGeneratedLen = 63
)

// Create stores a new object, or answers for a computed kind or a subresource. It
// takes obj over.
func (r *Registry) Create(ctx context.Context, q Request, obj runtime.Object, o metav1.CreateOptions) (Result, error) {
	return anew(ctx, r, q, func(q Request, res *Resource) (Result, error) {
		return r.createOnce(ctx, q, res, res.spare(obj), o)
	})
}

func (r *Registry) createOnce(ctx context.Context, q Request, res *Resource, obj runtime.Object, o metav1.CreateOptions) (Result, error) {
	if errs := metavalidation.ValidateCreateOptions(&o); len(errs) > 0 {
		return Result{}, apierrors.NewInvalid(schema.GroupKind{Group: "meta.k8s.io", Kind: "CreateOptions"}, "", errs)
	}
	w := r.newOp(&q, res, Create, &o, o.FieldManager)
	w.DryRun = len(o.DryRun) > 0
	switch {
	case q.Subresource != "" || q.Kind == api.Bindings.Facts:
		return w.createSub(ctx, obj)
	case res.Computed:
		return w.compute(ctx, obj)
	}
	n, ok := obj.(api.Object)
	if !ok {
		return Result{}, apierrors.NewBadRequest(fmt.Sprintf("not an API object: %T", obj))
	}
	w.versioned = n.GetResourceVersion() != "" && n.GetResourceVersion() != "0"
	if n.GetName() == "" && n.GetGenerateName() != "" {
		return w.createGenerated(ctx, n)
	}
	return w.create(ctx, n)
}

func (w *op) compute(ctx context.Context, obj runtime.Object) (Result, error) {
	o, ok := obj.(api.Object)
	if !ok {
		return Result{}, apierrors.NewBadRequest(fmt.Sprintf("not an API object: %T", obj))
	}
	if err := w.checkNamespace(o); err != nil {
		return Result{}, err
	}
	w.Object = o
	if err := w.r.Admit(ctx, &w.Attributes); err != nil {
		return Result{}, err
	}
	var out runtime.Object
	var err error
	switch fn := w.r.computes[w.res.Facts]; {
	case fn != nil:
		out, err = fn(ctx, *w.q, w.Object)
	case w.res.hooks.compute != nil:
		out, err = w.res.hooks.compute(ctx, w.User, o)
	default:
		err = apierrors.NewMethodNotSupported(w.res.GroupResource(), "create")
	}
	return Result{Object: out, Created: true}, err
}

// createGenerated tries suffixes until a name is free. The object is copied for
// every try but the last, as the pipeline takes it over.
func (w *op) createGenerated(ctx context.Context, obj api.Object) (Result, error) {
	for try := 1; ; try++ {
		n := obj
		if try < generateTries {
			n = obj.DeepCopyObject().(api.Object)
		}
		n.SetName(generateName(obj.GetGenerateName()))
		a := *w
		out, err := a.create(ctx, n)
		if !apierrors.IsAlreadyExists(err) {
			return out, err
		}
		if try == generateTries {
			return out, apierrors.NewGenerateNameConflict(w.res.GroupResource(), n.GetName(), 1)
		}
	}
}

func generateName(base string) string {
	base = base[:min(len(base), maxGeneratedLen-nameSuffix)]
	b := make([]byte, nameSuffix)
	for i := range b {
		b[i] = nameAlphabet[rand.IntN(len(nameAlphabet))]
	}
	return base + string(b)
}

// create is the pipeline of a new object.
func (w *op) create(ctx context.Context, obj api.Object) (Result, error) {
	h := &w.res.hooks
	if h.closed {
		return Result{}, closedError(w.res)
	}
	if err := w.checkNamespace(obj); err != nil {
		return Result{}, err
	}
	w.clearType(obj)
	if h.setDefaults != nil {
		h.setDefaults(obj)
	}
	if !w.applied {
		w.r.apply.Create(obj, w.by()) // before prepare: nobody owns what the server adds
	}
	w.systemMeta(obj)
	w.prepareCreate(obj)
	w.Object, w.Name = obj, obj.GetName()
	defer w.ended()
	if err := w.admit(ctx); err != nil {
		return Result{}, err
	}
	obj, err := w.admittedNew(obj)
	if err != nil {
		return Result{}, err
	}
	if err := w.validateCreate(obj); err != nil {
		return Result{}, err
	}
	if h.warn != nil {
		for _, s := range h.warn(obj, nil) {
			w.Warn(s)
		}
	}
	if err := w.admitted(ctx); err != nil {
		return Result{}, err
	}
	if w.versioned { // the store's word, which comes after admission's
		return Result{}, plainError(500, metav1.StatusReasonUnknown, versionOnCreateMessage)
	}
	if w.r.exists(w.res, obj.GetNamespace(), obj.GetName()) { // cheaper than asking the store
		return Result{}, apierrors.NewAlreadyExists(w.res.GroupResource(), obj.GetName())
	}
	if w.DryRun {
		out := answer(cache.NewItem(w.res.kind, obj, 0))
		out.Created = true
		return out, nil
	}
	item, err := w.put(ctx, obj, 0)
	if errors.Is(err, datastore.ErrConflict) {
		return Result{}, apierrors.NewAlreadyExists(w.res.GroupResource(), obj.GetName())
	}
	if err != nil {
		return Result{}, storeError(err)
	}
	out := answer(item)
	out.Created = true
	return out, nil
}

// admittedNew is the object that admission leaves behind. What users' webhooks and
// policies made of it is prepared again: upstream prepares after they have run. before
// is the object as it went in.
func (w *op) admittedNew(before api.Object) (api.Object, error) {
	obj := w.Object.(api.Object)
	if !w.Mutation.Changed {
		return obj, nil
	}
	if err := w.checkNamespace(obj); err != nil {
		return nil, err
	}
	w.keepManaged(obj, before)
	w.clearType(obj)
	obj.SetUID(before.GetUID())
	obj.SetCreationTimestamp(before.GetCreationTimestamp())
	w.prepareCreate(obj)
	return obj, nil
}

// keepManaged puts managed fields back that admission spoiled.
func (w *op) keepManaged(obj, before api.Object) {
	err := managedfields.ValidateManagedFields(obj.GetManagedFields())
	if err == nil {
		return
	}
	obj.SetManagedFields(before.GetManagedFields())
	w.Warn(fmt.Sprintf(".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating admission controller; please fix your requests: %v", err))
}

// clearType takes kind and apiVersion out of a typed object: in memory the type says
// what it is. Dynamic objects keep theirs.
func (w *op) clearType(obj api.Object) {
	if w.res.Dynamic {
		obj.GetObjectKind().SetGroupVersionKind(w.res.GVK())
	} else {
		obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	}
}

func (w *op) prepareCreate(obj api.Object) {
	if w.res.Status && !w.res.hooks.keepStatus {
		w.res.shape.resetStatus(obj)
	}
	obj.SetGeneration(0)
	if w.res.hooks.counts {
		obj.SetGeneration(1)
	}
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetSelfLink("")
	obj.SetResourceVersion("")
	if h := w.res.hooks.prepareCreate; h != nil {
		h(obj)
	}
	dedupOwners(obj)
}

// systemMeta fills what only the server decides.
func (w *op) systemMeta(obj api.Object) {
	obj.SetUID(uuid.NewUUID())
	obj.SetCreationTimestamp(metav1.Time{Time: w.r.now().UTC().Truncate(1e9)})
}

// by names the writer for managed fields.
func (w *op) by() apply.Manager {
	return apply.Manager{Kind: w.res.Facts, Name: w.manager, Subresource: w.sub}
}

// checkNamespace fills the namespace of the request in and refuses another one.
func (w *op) checkNamespace(obj api.Object) error {
	if w.res.Cluster {
		obj.SetNamespace("") // upstream: EnsureObjectNamespaceMatchesRequestNamespace
		return nil
	}
	if w.q.Namespace == "" {
		return apierrors.NewBadRequest("namespace must be specified")
	}
	switch obj.GetNamespace() {
	case w.q.Namespace:
	case "":
		obj.SetNamespace(w.q.Namespace)
	default:
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	return nil
}

func (w *op) nameRule(name string, prefix bool) []string {
	if w.res.hooks.nameRule != nil {
		return w.res.hooks.nameRule(name, prefix)
	}
	return apivalidation.NameIsDNSSubdomain(name, prefix)
}

func (w *op) validateCreate(obj api.Object) error {
	check := validate.ObjectMeta
	if w.anyFinalizer() {
		check = func(m metav1.Object, namespaced bool, name validate.NameRule, p *field.Path) validate.Errors {
			return apivalidation.ValidateObjectMetaAccessor(thin(m), namespaced, name, p)
		}
	}
	errs := check(obj, !w.res.Cluster, w.nameRule, field.NewPath("metadata"))
	if msgs := path.IsValidPathSegmentName(obj.GetName()); len(msgs) > 0 {
		for _, m := range msgs {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), obj.GetName(), m))
		}
	}
	if h := w.res.hooks.validate; h != nil {
		errs = append(errs, h(obj)...)
	}
	if len(errs) > 0 {
		return w.invalid(obj.GetName(), uniqueErrors(errs))
	}
	return nil
}

// anyFinalizer: finalizers of custom resources and of their definitions need no domain, as upstream.
func (w *op) anyFinalizer() bool {
	return w.res.Dynamic || w.res.Facts == api.CustomResourceDefinitions.Facts
}

// uniqueErrors drops repetitions, which come of checking metadata in two places.
func uniqueErrors(errs field.ErrorList) field.ErrorList {
	seen := map[string]bool{}
	out := errs[:0]
	for _, e := range errs {
		if s := e.Error(); !seen[s] {
			seen[s] = true
			out = append(out, e)
		}
	}
	return out
}

// dedupOwners drops owner references that are in the list twice.
func dedupOwners(obj api.Object) {
	refs := obj.GetOwnerReferences()
	if len(refs) < 2 {
		return
	}
	seen := make(map[types.UID]bool, len(refs))
	out := refs[:0:0]
	for _, o := range refs {
		if !seen[o.UID] {
			seen[o.UID] = true
			out = append(out, o)
		}
	}
	if len(out) < len(refs) {
		obj.SetOwnerReferences(out)
	}
}

// current is the newest version of an object as its own kind, nil if there is none. The error
// is a webhook's that had to convert it.
func (r *Registry) current(res *Resource, namespace, name string) (*Item, error) {
	i, err := r.cache.Get(res.kind, namespace, name)
	return i, storeError(err)
}

// exists tells whether an object is there, in whatever version.
func (r *Registry) exists(res *Resource, namespace, name string) bool {
	return r.cache.Near(res.kind, namespace, name) != nil
}

// put stores obj, which must have the state expect now (0: not exist), and returns
// it once the cache shows it. obj becomes the cache's.
func (w *op) put(ctx context.Context, obj api.Object, expect int64) (*Item, error) {
	if w.res.Dynamic && w.r.For(w.res.Facts) != w.res { // made by rules that hold no more
		return nil, cache.ErrGone
	}
	stored, kind := obj, w.res.kind
	if w.res.hooks.toStored != nil {
		var err error
		if stored, err = w.res.hooks.toStored(obj); err != nil {
			return nil, err
		}
		base := w.r.For(w.res.SameAs)
		if base == nil {
			return nil, cache.ErrGone
		}
		kind = base.kind
	}
	stored.SetResourceVersion("")
	value, err := kind.Encode(stored)
	if err != nil {
		return nil, err
	}
	rev, err := w.r.commit(ctx, kind, datastore.Txn{Lazy: w.res.hooks.lazy, Ops: []datastore.Op{{
		Key: kind.Facts.Key(obj.GetNamespace(), obj.GetName()), Value: value, Expect: expect, Object: stored,
	}}})
	if err != nil {
		return nil, err
	}
	if err := w.r.cache.Wait(context.WithoutCancel(ctx), rev); err != nil {
		return nil, err
	}
	item, err := w.r.cache.Get(kind, obj.GetNamespace(), obj.GetName())
	if err != nil && !errors.Is(err, cache.ErrGone) {
		return nil, err
	}
	if item == nil || item.Revision() != rev { // changed again already; what was written is still the answer
		stored = stored.DeepCopyObject().(api.Object)
		stored.SetResourceVersion(cache.FormatRevision(rev))
		item = cache.NewItem(kind, stored, rev)
	}
	return item.As(w.res.kind)
}
