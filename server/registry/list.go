package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
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
	res, err := r.resource(ctx, &q)
	if err != nil {
		return Result{}, err
	}
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
	res, err := r.resource(ctx, &q)
	if err != nil {
		return nil, err
	}
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
	opts := cache.ListOptions{Filter: filter, Limit: o.Limit}
	rev, err := parseRevision(o.ResourceVersion)
	if err != nil {
		return nil, err
	}
	switch {
	case o.Continue != "":
		if opts.Revision, opts.After, err = decodeContinue(o.Continue); err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("continue key is not valid: %v", err))
		}
		if rev > 0 {
			return nil, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
		}
		if opts.Revision < 0 {
			opts.Revision = 0 // the rest of a list whose state is gone, as it is now
		}
	case rev > 0:
		if err := r.fresh(ctx, rev); err != nil {
			return nil, err
		}
		if o.ResourceVersionMatch == metav1.ResourceVersionMatchExact || o.ResourceVersionMatch == "" && o.Limit > 0 {
			opts.Revision = rev
		}
	}
	p, err := r.cache.List(ctx, res.kind, opts)
	if err != nil {
		return nil, listError(err, o.Continue != "", opts)
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

// continueToken is opaque to clients; its layout is upstream's.
type continueToken struct {
	Version  string `json:"v"`
	Revision int64  `json:"rv"`
	Start    string `json:"start"`
}

func encodeContinue(revision int64, after string) string {
	b, _ := json.Marshal(continueToken{"meta.k8s.io/v1", revision, after + "\x00"}) // strings and a number: cannot fail
	return base64.RawURLEncoding.EncodeToString(b)
}

func decodeContinue(s string) (revision int64, after string, err error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return 0, "", fmt.Errorf("unable to decode: %w", err)
	}
	var t continueToken
	if err := json.Unmarshal(b, &t); err != nil {
		return 0, "", fmt.Errorf("unable to parse: %w", err)
	}
	after, ok := strings.CutSuffix(t.Start, "\x00")
	if t.Version != "meta.k8s.io/v1" || !ok || t.Revision == 0 {
		return 0, "", errors.New("incorrect encoded start resourceVersion or key")
	}
	return t.Revision, after, nil
}

// Watch starts a watch with upstream's resourceVersion semantics: unset and "0"
// begin with the present state, N behind N.
func (r *Registry) Watch(ctx context.Context, q Request, o metav1.ListOptions) (*Watch, error) {
	res, err := r.resource(ctx, &q)
	if err != nil {
		return nil, err
	}
	filter, err := res.filter(&q, &o, true)
	if err != nil {
		return nil, err
	}
	rev, err := parseRevision(o.ResourceVersion)
	if err != nil {
		return nil, err
	}
	if err := r.fresh(ctx, rev); err != nil {
		return nil, err
	}
	opts := cache.WatchOptions{Filter: filter, After: rev, Bookmarks: o.AllowWatchBookmarks, State: rev == 0}
	if o.TimeoutSeconds != nil {
		opts.Timeout = time.Duration(*o.TimeoutSeconds) * time.Second
	}
	if s := o.SendInitialEvents; s != nil {
		opts.State, opts.EndMark = *s, *s && o.AllowWatchBookmarks
		if !*s && rev == 0 {
			opts.After = r.cache.Revision()
		}
	}
	w, err := r.cache.Watch(ctx, res.kind, opts)
	if errors.Is(err, datastore.ErrCompacted) {
		return nil, apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", rev, r.cache.Revision()))
	}
	if err != nil {
		return nil, storeError(err)
	}
	return w, nil
}

// WatchError gives an error of Watch.Next, other than io.EOF, the status that a
// client is told.
func WatchError(err error) error {
	if errors.Is(err, datastore.ErrCompacted) {
		return apierrors.NewResourceExpired("too old resource version")
	}
	return storeError(err)
}
