package registry

import (
	"reflect"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/api"
)

// Kind is the kind of Object, or of Old where there is none: the resource's own, or that of
// a subresource's body (Scale, Eviction, PodExecOptions, ...). Typed objects do not say it
// themselves.
func (a *Attributes) Kind() schema.GroupVersionKind {
	o := a.Object
	if o == nil || reflect.ValueOf(o).IsNil() {
		o = a.Old
	}
	if own := a.Resource.GVK(); o == nil || a.Resource.Dynamic && a.Subresource != "scale" {
		return own
	} else if reflect.TypeOf(o) == reflect.TypeOf(a.Resource.New()) {
		return own
	}
	if kinds, _, err := api.Scheme().ObjectKinds(o); err == nil && len(kinds) > 0 {
		return kinds[0]
	}
	return a.Resource.GVK()
}

// Complete fills what was left out of an object that admission changed: the kind's
// defaults; a custom resource is pruned first. Bodies of subresources have none.
func (res *Resource) Complete(o runtime.Object) {
	n, ok := o.(api.Object)
	if !ok || res.hooks.setDefaults == nil || reflect.TypeOf(o) != reflect.TypeOf(res.New()) {
		return
	}
	res.hooks.setDefaults(n)
}

// Equivalent lists the other kinds that show the same stored objects and have the
// subresource: other versions of a custom resource, other groups of a built-in kind.
func (r *Registry) Equivalent(f *api.Facts, sub string) []*Resource {
	var out []*Resource
	for _, o := range r.Resources() {
		if o.Facts != f && !o.Computed && o.Prefix() == f.Prefix() && (sub == "" || o.HasSub(sub)) {
			out = append(out, o)
		}
	}
	return out
}

// Convert gives an object of one kind as one of another that Equivalent lists. o is not
// changed; the outcome may share parts with it.
func (r *Registry) Convert(o api.Object, from, to *api.Facts) (api.Object, error) {
	if from == to || o == nil {
		return o, nil
	}
	a, b := r.For(from), r.For(to)
	switch {
	case a == nil:
		return nil, r.replaced(from)
	case b == nil:
		return nil, r.replaced(to)
	}
	var err error
	if a.hooks.toStored != nil {
		if o, err = a.hooks.toStored(o); err != nil {
			return nil, err
		}
	}
	if b.hooks.fromStored != nil {
		return b.hooks.fromStored(o)
	}
	return o, nil
}

// Merge sets in an object of a kind what a configuration says, by the kind's schema: see
// apply.Applier.Merge.
func (r *Registry) Merge(f *api.Facts, live runtime.Object, configuration *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	return r.apply.Merge(f, live, configuration)
}
