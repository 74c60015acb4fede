package registry

import (
	"context"
	"errors"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"

	"orch/api"
	"orch/api/client"
)

// Request says who wants what of which object.
type Request struct {
	User User
	client.Target
	// Verb is what the request was authorized as; empty for the server's own clients, which
	// nobody authorizes.
	Verb string
	// UserAgent names the field manager when the options do not: what stands before
	// its first slash.
	UserAgent string
	// Warn takes sentences for Warning headers; may be nil.
	Warn func(string)
	// Annotate takes what admission notes for the audit log, see Attributes; may be nil.
	Annotate func(key, value string)
	// Own is a write that the server makes to be able to serve: users' policies and webhooks,
	// which may be broken, are not asked about it.
	Own bool
	// MayCreate is asked when an update or an apply is about to create; nil allows.
	MayCreate func(ctx context.Context) error
}

// Result is what a request answers.
type Result struct {
	// Object is the answer: the object, a Scale, a Status, a review. Do not change it.
	Object runtime.Object
	// Item is Object with shared encodings; nil when Object is not a stored kind's.
	Item *Item
	// Created tells a new object from a changed one.
	Created bool
	// Deleted is the last state of an object that a Delete removed, at the revision of its removal.
	Deleted *Item
}

func answer(i *Item) Result { return Result{Object: i.Object(), Item: i} }

// Operation is the word that admission knows a verb by.
type Operation string

const (
	Create  Operation = "CREATE"
	Update  Operation = "UPDATE"
	Delete  Operation = "DELETE"
	Connect Operation = "CONNECT"
)

// Attributes is one request as admission sees it.
type Attributes struct {
	Operation Operation
	// Verb as in the Request: it tells a patch from an update.
	Verb     string
	User     User
	Resource *Resource
	// Namespace and Name as in the request; Name is empty for a create with generateName
	// until it is generated.
	Namespace, Name, Subresource string
	// Addressed is the name in the request's path: empty for what is posted to a collection.
	Addressed string
	// Object is what is going to be stored, nil for a deletion. Admit may change it, or
	// replace it. Old is what is stored, nil for a create; it is shared: never change it.
	Object, Old runtime.Object
	// Options is *metav1.CreateOptions and so on.
	Options runtime.Object
	DryRun  bool
	// Warn takes sentences for Warning headers; never nil.
	Warn func(string)
	// Annotate notes something for the audit log; never nil, safe for parallel use. A key
	// that begins with "patch." holds parts of the object: it belongs into events of level
	// Request and above only.
	Annotate func(key, value string)
	// Own as in the Request.
	Own bool
	// Mutation is shared by the steps that let users' policies and webhooks change Object.
	Mutation Mutation
	// over are told that the write has ended, see OnceOver.
	over []func()
}

// OnceOver has f called when the write has ended, however it ended: a write that was stored is
// in the caches then. A step that set something aside for the write lets go of it there.
func (a *Attributes) OnceOver(f func()) { a.over = append(a.over, f) }

// ended tells those who wait that the write is over.
func (a *Attributes) ended() {
	for _, f := range a.over {
		f()
	}
	a.over = nil
}

// Mutation is what users' policies and webhooks did to an object on its way. As upstream,
// the mutating steps run a second time when one of them asks for it.
type Mutation struct {
	// Changed tells the registry to prepare Object again: whoever changed it may have
	// touched what a client cannot decide.
	Changed bool
	// Again asks for the second round. Second is true in it.
	Again, Second bool
	// Memory is what a step keeps between the rounds, by its name.
	Memory map[string]any
}

// Admission decides about writes beyond the object itself. Errors are status errors.
type Admission interface {
	// Admit may change Attributes.Object; Validate may not.
	Admit(ctx context.Context, a *Attributes) error
	Validate(ctx context.Context, a *Attributes) error
}

// Admit runs both phases, for requests that the registry does not see (connect).
func (r *Registry) Admit(ctx context.Context, a *Attributes) error {
	if r.admission == nil {
		return nil
	}
	if a.Warn == nil {
		a.Warn = func(string) {}
	}
	if a.Annotate == nil {
		a.Annotate = func(string, string) {}
	}
	defer a.ended() // what comes of the request is no write that takes something
	if err := r.admission.Admit(ctx, a); err != nil {
		return err
	}
	return r.admission.Validate(ctx, a)
}

// op is one write on its way through the pipeline.
type op struct {
	r   *Registry
	res *Resource
	q   *Request
	Attributes
	manager string
	// sub is the subresource as managed fields name it ("" for the object itself).
	sub string
	// applied: managedFields are done already, by server-side apply.
	applied bool
	// versioned: the object to be created came with a version.
	versioned bool
	// inner: a write that the engine makes itself; admission saw the request already.
	inner bool
}

// newOp begins an operation. The caller sets DryRun where its options may say so.
func (r *Registry) newOp(q *Request, res *Resource, o Operation, options runtime.Object, manager string) *op {
	w := &op{r: r, res: res, q: q, sub: q.Subresource, manager: manager}
	w.Attributes = Attributes{
		Operation: o, Verb: q.Verb, User: q.User, Resource: res, Namespace: q.Namespace, Name: q.Name, Addressed: q.Name, Subresource: q.Subresource,
		Options: options, Annotate: q.Annotate, Own: q.Own,
	}
	if w.Annotate == nil {
		w.Annotate = func(string, string) {}
	}
	if q.Warn == nil {
		w.Warn = func(string) {}
	} else {
		w.Warn = once(q.Warn)
	}
	if w.manager == "" {
		w.manager, _, _ = strings.Cut(q.UserAgent, "/")
	}
	return w
}

// once passes every sentence on one time, however often the pipeline starts again.
func once(warn func(string)) func(string) {
	said := map[string]bool{}
	return func(s string) {
		if !said[s] {
			said[s] = true
			warn(s)
		}
	}
}

func (w *op) admit(ctx context.Context) error {
	if w.r.admission == nil || w.inner {
		return nil
	}
	return w.r.admission.Admit(ctx, &w.Attributes)
}

func (w *op) admitted(ctx context.Context) error {
	if w.r.admission == nil || w.inner {
		return nil
	}
	return w.r.admission.Validate(ctx, &w.Attributes)
}

// resource finds the row of a request and waits until the store is loaded.
func (r *Registry) resource(ctx context.Context, q *Request) (*Resource, error) {
	res := r.For(q.Kind)
	if res == nil {
		if res = r.successor(q.Kind); res == nil {
			return nil, notServed(q.Kind)
		}
		q.Kind = res.Facts
	}
	select {
	case <-r.cache.Ready():
		return res, nil
	default:
	}
	select {
	case <-r.cache.Ready():
		return res, nil
	case <-ctx.Done():
		return nil, contextError(ctx)
	}
}

// successor is the row that has taken the place of one since the request found it: a
// definition that changes makes new rows, and its kind is served all the time.
func (r *Registry) successor(f *api.Facts) *Resource {
	for _, res := range r.Resources() {
		if res.GVR() == f.GVR() && res.Kind == f.Kind && res.Cluster == f.Cluster {
			return res
		}
	}
	return nil
}

// replaced is the answer about a kind that is not in the table: another row has taken its place,
// or it is served no more.
func (r *Registry) replaced(f *api.Facts) error {
	if r.successor(f) != nil {
		return errChanging
	}
	return notServed(f)
}

// A request begins anew when the definition of its kind changes under it: at once, then every
// changePause, for changeTime at most.
const (
	changePause = 10 * time.Millisecond
	changeTime  = 5 * time.Second
)

// anew runs a request with the row of its kind, and again with the row that took its place if the
// definition changed before it was done. do has stored nothing when it says errChanging.
func anew[T any](ctx context.Context, r *Registry, q Request, do func(q Request, res *Resource) (T, error)) (T, error) {
	began := time.Now()
	for try := 1; ; try++ {
		var out T
		res, err := r.resource(ctx, &q)
		if err != nil {
			return out, err
		}
		out, err = do(q, res)
		if !errors.Is(err, errChanging) || time.Since(began) > changeTime {
			return out, err
		}
		if try == 1 {
			continue
		}
		select {
		case <-time.After(changePause):
		case <-ctx.Done():
			return out, err
		}
	}
}

// spare is o for an attempt that takes it over and may have to be made again.
func (res *Resource) spare(o runtime.Object) runtime.Object {
	if !res.Dynamic {
		return o
	}
	return o.DeepCopyObject()
}

// BodyFor is the kind of the body of a subresource: Scale, Eviction, Binding,
// TokenRequest, else the kind itself.
func (r *Registry) BodyFor(f *api.Facts, sub string) *api.Facts {
	switch {
	case sub == "scale":
		return api.Scales.Facts
	case sub == "eviction" && f == api.Pods.Facts:
		return api.Evictions.Facts
	case sub == "binding" && f == api.Pods.Facts:
		return api.Bindings.Facts
	case sub == "token" && f == api.ServiceAccounts.Facts:
		return api.TokenRequests.Facts
	}
	return f
}
