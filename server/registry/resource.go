package registry

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/api"
	"orch/server/columns"
	"orch/server/registry/cache"
)

// Resource is one row of the kind table: facts and behaviour, with the Go type
// erased. Rows come from Row and DynamicRow and are not changed afterwards.
type Resource struct {
	*api.Facts
	// Columns is the Table output, never empty.
	Columns []AnyColumn
	// TableOrder sorts the rows of a Table; nil leaves them by name.
	TableOrder func(a, b api.Object) int
	// FieldNames lists the selectable fields beyond name and namespace.
	FieldNames []string
	// Unserved rows hold objects that no REST address shows; their kind is known to For only.
	Unserved bool
	// Warning is what users of the kind are told with every answer: that it is deprecated.
	Warning string

	hooks behaviour
	shape shape
	kind  *cache.Kind
}

// AnyColumn is a Column with the type erased.
type AnyColumn struct {
	Name, Type, Format, Description string
	Wide                            bool
	Cell                            func(o api.Object, now time.Time) any
}

// behaviour is Hooks with the type erased; absent hooks stay nil.
type behaviour struct {
	setDefaults    func(o api.Object)
	prepareCreate  func(o api.Object)
	prepareUpdate  func(o, old api.Object)
	prepareStatus  func(o, old api.Object)
	validate       func(o api.Object) field.ErrorList
	validateUpdate func(o, old api.Object) field.ErrorList
	validateStatus func(o, old api.Object) field.ErrorList
	subs           map[string]*mode
	nameRule       func(name string, prefix bool) []string
	warn           func(o, old api.Object) []string
	fields         func(o api.Object) fields.Set
	grace          func(o api.Object, d *metav1.DeleteOptions) int64
	held           func(o api.Object) bool
	markDeleting   func(o api.Object)
	compute        func(ctx context.Context, user User, o api.Object) (runtime.Object, error)
	toStored       func(o api.Object) (api.Object, error)
	fromStored     func(o api.Object) (api.Object, error)
	scale          *scaleHooks
	coerce         func(o api.Object, list bool) ([]string, error)

	closed, ratchets                                  bool
	orphanByDefault, noGC, returnDeleted, keepStatus  bool
	forbidUnconditional, createOnUpdate, lazy, counts bool
}

type scaleHooks struct {
	spec, status func(o api.Object) int32
	setSpec      func(o api.Object, replicas int32)
	selector     func(o api.Object) string
}

// Row ties behaviour to a built-in kind.
func Row[T any](k api.Kind[T], h Hooks[T]) Resource { return row(k.Facts, h, new(T)) }

// DynamicRow ties behaviour to a kind made at run time; its objects are unstructured.
func DynamicRow(f *api.Facts, h Hooks[unstructured.Unstructured]) Resource {
	return row(f, h, new(unstructured.Unstructured))
}

// deprecation is what to tell users of a type that says that it is old.
func deprecation(f *api.Facts, o any) string {
	old, ok := o.(interface{ APILifecycleDeprecated() (major, minor int) })
	if !ok {
		return ""
	}
	major, minor := old.APILifecycleDeprecated()
	text := fmt.Sprintf("%s %s is deprecated in v%d.%d+", f.GroupVersion(), f.Kind, major, minor)
	if r, ok := o.(interface {
		APILifecycleReplacement() schema.GroupVersionKind
	}); ok {
		if gvk := r.APILifecycleReplacement(); !gvk.Empty() {
			text += fmt.Sprintf("; use %s %s", gvk.GroupVersion(), gvk.Kind)
		}
	}
	return text
}

// row is the only place where objects become typed.
func row[P any](f *api.Facts, h hooks[P], zero P) Resource {
	r := Resource{Facts: f, FieldNames: h.FieldNames, shape: shapeOf(f), Warning: deprecation(f, zero)}
	r.hooks = behaviour{
		setDefaults:    one(h.Default),
		prepareCreate:  one(h.PrepareCreate),
		prepareUpdate:  two(h.PrepareUpdate),
		prepareStatus:  two(h.PrepareStatus),
		validate:       asked(h.Validate),
		validateUpdate: askedTwo(h.ValidateUpdate),
		validateStatus: askedTwo(h.ValidateStatus),
		nameRule:       h.NameRule,
		warn:           warner(h.Warn),
		fields:         asked(h.Fields),
		held:           asked(h.Held),
		markDeleting:   one(h.MarkDeleting),

		closed: h.Closed, ratchets: h.Ratchets,
		orphanByDefault: h.OrphanByDefault, noGC: h.NoGC, returnDeleted: h.ReturnDeleted, keepStatus: h.KeepStatus,
		forbidUnconditional: h.ForbidUnconditional, createOnUpdate: h.CreateOnUpdate, lazy: h.Lazy,
		counts: h.Generation == GenerationAlways || h.Generation == GenerationAuto && r.shape.spec && (f.Status || f.Dynamic),
	}
	for name, sub := range h.Subs {
		if r.hooks.subs == nil {
			r.hooks.subs = map[string]*mode{}
		}
		r.hooks.subs[name] = subMode(two(sub.Prepare), askedTwo(sub.Validate))
	}
	if h.Coerce != nil {
		r.hooks.coerce = func(o api.Object, list bool) ([]string, error) {
			n, ok := any(o).(P)
			if !ok { // the body of a subresource
				return nil, nil
			}
			return h.Coerce(n, list)
		}
	}
	if h.Grace != nil {
		r.hooks.grace = func(o api.Object, d *metav1.DeleteOptions) int64 { return h.Grace(any(o).(P), d) }
	}
	if h.Compute != nil {
		r.hooks.compute = func(ctx context.Context, u User, o api.Object) (runtime.Object, error) {
			return h.Compute(ctx, u, any(o).(P))
		}
	}
	if h.ToStored != nil {
		r.hooks.toStored = func(o api.Object) (api.Object, error) {
			s, err := h.ToStored(any(o).(P))
			if err != nil {
				return nil, err
			}
			return s.(api.Object), nil
		}
	}
	var convert func([]api.Object) ([]api.Object, error)
	switch {
	case h.Convert != nil:
		convert = many(h.Convert)
	case h.FromStored != nil:
		r.hooks.fromStored = func(o api.Object) (api.Object, error) {
			v, err := h.FromStored(o)
			if err != nil {
				return nil, err
			}
			return any(v).(api.Object), nil
		}
	}
	if s := h.Scale; s != nil {
		r.hooks.scale = &scaleHooks{
			spec: asked(s.Spec), status: asked(s.Status), selector: asked(s.Selector),
			setSpec: func(o api.Object, n int32) { s.SetSpec(any(o).(P), n) },
		}
	}
	if h.Columns == nil {
		h.Columns = columns.DefaultOf[P]()
	}
	for _, c := range h.Columns {
		r.Columns = append(r.Columns, AnyColumn{c.Name, c.Type, c.Format, c.Description, c.Wide,
			func(o api.Object, now time.Time) any { return c.Cell(any(o).(P), now) }})
	}
	if order := h.TableOrder; order != nil {
		r.TableOrder = func(a, b api.Object) int { return order(any(a).(P), any(b).(P)) }
	}
	r.kind = cache.NewKind(cache.Kind{Facts: f, Fields: r.hooks.fields, FromStored: r.hooks.fromStored, Convert: convert, Loaded: one(h.Loaded)})
	if convert != nil { // for who has one object at hand
		r.hooks.fromStored = func(o api.Object) (api.Object, error) {
			out, err := convert([]api.Object{o})
			if err != nil {
				return nil, err
			}
			return out[0], nil
		}
	}
	return r
}

func many[P any](f func([]P) ([]P, error)) func([]api.Object) ([]api.Object, error) {
	return func(in []api.Object) ([]api.Object, error) {
		typed := make([]P, len(in))
		for i, o := range in {
			typed[i] = any(o).(P)
		}
		made, err := f(typed)
		if err != nil {
			return nil, err
		}
		out := make([]api.Object, len(made))
		for i, o := range made {
			out[i] = any(o).(api.Object)
		}
		return out, nil
	}
}

func one[P any](f func(P)) func(api.Object) {
	if f == nil {
		return nil
	}
	return func(o api.Object) { f(any(o).(P)) }
}

func two[P any](f func(_, _ P)) func(_, _ api.Object) {
	if f == nil {
		return nil
	}
	return func(a, b api.Object) { f(any(a).(P), any(b).(P)) }
}

func asked[P, R any](f func(P) R) func(api.Object) R {
	if f == nil {
		return nil
	}
	return func(o api.Object) R { return f(any(o).(P)) }
}

func askedTwo[P, R any](f func(_, _ P) R) func(_, _ api.Object) R {
	if f == nil {
		return nil
	}
	return func(a, b api.Object) R { return f(any(a).(P), any(b).(P)) }
}

// warner keeps old nil on create.
func warner[P any](f func(_, _ P) []string) func(_, _ api.Object) []string {
	if f == nil {
		return nil
	}
	return func(o, old api.Object) []string {
		var none P
		if old == nil {
			return f(any(o).(P), none)
		}
		return f(any(o).(P), any(old).(P))
	}
}
