package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/datastore"
	"orch/server/registry/cache"
)

// freshWait is how long a read waits for a revision that this server has not reached.
const freshWait = 3 * time.Second

// List is a page of objects.
type List struct {
	Items           []*Item
	ResourceVersion string
	Continue        string
	// Remaining counts the objects behind this page; nil if there are none or a
	// selector makes them uncounted.
	Remaining *int64
	// Bulky lists are encoded in passing: see cache.Page.
	Bulky bool
}

// Get reads one object, or its scale.
func (r *Registry) Get(ctx context.Context, q Request, o metav1.GetOptions) (Result, error) {
	return anew(ctx, r, q, func(q Request, res *Resource) (Result, error) { return r.getOnce(ctx, q, res, o) })
}

func (r *Registry) getOnce(ctx context.Context, q Request, res *Resource, o metav1.GetOptions) (Result, error) {
	if res.Computed {
		return r.readOne(ctx, res, q.Name)
	}
	rev, err := parseRevision(o.ResourceVersion)
	if err != nil {
		return Result{}, err
	}
	if err := r.fresh(ctx, rev); err != nil {
		return Result{}, err
	}
	item, err := r.current(res, q.Namespace, q.Name)
	if err != nil {
		return Result{}, err
	}
	if item == nil {
		return Result{}, r.notFound(res, &q)
	}
	if q.Subresource == "scale" && res.hooks.scale != nil {
		return Result{Object: res.scaleOf(item)}, nil
	}
	return answer(item), nil
}

// readOne reads an object of a kind that is not stored.
func (r *Registry) readOne(ctx context.Context, res *Resource, name string) (Result, error) {
	fn := r.reads[res.Facts]
	if fn == nil {
		return Result{}, apierrors.NewMethodNotSupported(res.GroupResource(), "get")
	}
	for _, o := range fn(ctx) {
		if o.GetName() == name {
			return answer(cache.NewItem(res.kind, o, 0)), nil
		}
	}
	return Result{}, apierrors.NewNotFound(res.GroupResource(), name)
}

// fresh waits until reads show revision.
func (r *Registry) fresh(ctx context.Context, revision int64) error {
	if revision <= r.cache.Revision() {
		return nil
	}
	wait, stop := context.WithTimeout(ctx, freshWait)
	defer stop()
	err := r.cache.Wait(wait, revision)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return tooLarge(revision, r.cache.Revision())
	}
	return storeError(err)
}

// List reads a page with upstream's resourceVersion semantics: unset is the newest
// state, "0" any, N not older than N, or exactly N where the match or a limit says so.
func (r *Registry) List(ctx context.Context, q Request, o metav1.ListOptions) (*List, error) {
	return anew(ctx, r, q, func(q Request, res *Resource) (*List, error) { return r.listOnce(ctx, q, res, o) })
}

func (r *Registry) listOnce(ctx context.Context, q Request, res *Resource, o metav1.ListOptions) (*List, error) {
	if fn := r.reads[res.Facts]; fn != nil {
		l := &List{}
		for _, o := range fn(ctx) {
			l.Items = append(l.Items, cache.NewItem(res.kind, o, 0))
		}
		return l, nil
	}
	filter, err := res.filter(&q, &o, false)
	if err != nil {
		return nil, err
	}
	// Upstream reads one named object as such, which knows neither pages nor a legacy exact match.
	single := filter.Name != "" && (res.Cluster || filter.Namespace != "")
	at, err := placeOf(&o, single)
	if err != nil {
		return nil, err
	}
	if err := r.fresh(ctx, max(at.atLeast, at.exactly)); err != nil {
		return nil, err
	}
	opts := cache.ListOptions{Filter: filter, Limit: o.Limit, Revision: at.exactly, After: at.after}
	if single {
		opts.Limit = 0
	}
	p, err := r.cache.List(ctx, res.kind, opts)
	if err != nil {
		return nil, listError(err, at.paging, opts)
	}
	return pageAnswer(p), nil
}

func pageAnswer(p cache.Page) *List {
	l := &List{Items: p.Items, ResourceVersion: cache.FormatRevision(p.Revision), Bulky: p.Bulky}
	if p.Next != "" {
		l.Continue = encodeContinue(p.Revision, p.Next)
		if p.Remaining > 0 {
			l.Remaining = &p.Remaining
		}
	}
	return l
}

func listError(err error, paging bool, o cache.ListOptions) error {
	if !errors.Is(err, datastore.ErrCompacted) {
		return storeError(err)
	}
	if !paging {
		return apierrors.NewResourceExpired(expiredMessage)
	}
	e := apierrors.NewResourceExpired(inconsistentContinueMessage)
	e.ErrStatus.ListMeta.Continue = encodeContinue(-1, o.After)
	return e
}

// filter checks the options and parses the selectors.
func (res *Resource) filter(q *Request, o *metav1.ListOptions, watch bool) (cache.Filter, error) {
	if res.Computed {
		return cache.Filter{}, apierrors.NewMethodNotSupported(res.GroupResource(), "list")
	}
	in := &internalversion.ListOptions{
		Watch: watch, ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch,
		Continue: o.Continue, SendInitialEvents: o.SendInitialEvents,
	}
	if errs := validation.ValidateListOptions(in, true); len(errs) > 0 {
		return cache.Filter{}, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", errs)
	}
	l, err := labels.Parse(o.LabelSelector)
	if err != nil {
		return cache.Filter{}, apierrors.NewBadRequest(err.Error())
	}
	f, err := fields.ParseSelector(o.FieldSelector)
	if err != nil {
		return cache.Filter{}, apierrors.NewBadRequest(err.Error())
	}
	for _, r := range f.Requirements() {
		if err := res.knowsField(r.Field); err != nil {
			return cache.Filter{}, apierrors.NewBadRequest(err.Error())
		}
	}
	out := cache.NewFilter(q.Namespace, l, f)
	if q.Name != "" { // a list or watch of one named object
		if name, ok := f.RequiresExactMatch("metadata.name"); !f.Empty() && (!ok || name != q.Name) {
			return cache.Filter{}, apierrors.NewBadRequest("fieldSelector metadata.name doesn't match requested name")
		}
		out.Name = q.Name
	}
	return out, nil
}

func (res *Resource) knowsField(name string) error {
	if name == "metadata.name" || name == "metadata.namespace" {
		return nil
	}
	for _, n := range res.FieldNames {
		if n == name {
			return nil
		}
	}
	if len(res.FieldNames) > 0 {
		return fmt.Errorf("field label not supported: %s", name)
	}
	return fmt.Errorf("%q is not a known field selector: only %q, %q", name, "metadata.name", "metadata.namespace")
}
