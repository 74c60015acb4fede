package crd

import (
	"slices"

	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"orch/api"
	"orch/server/registry"
)

// definition is a custom resource definition as the rows use it. It is not changed.
type definition struct {
	group     string
	names     apiext.CustomResourceDefinitionNames
	cluster   bool
	converter *converter // nil: versions differ in name only
	preserve  bool       // unknown fields are kept everywhere (definitions from v1beta1)
	uid       string
	versions  map[string]*version
	storage   *version
	order     []*version // as in the spec
	described string     // changes with everything that OpenAPI documents show
}

func newDefinition(d *apiext.CustomResourceDefinition, c *converter) *definition {
	def := &definition{
		group: d.Spec.Group, names: d.Status.AcceptedNames, cluster: d.Spec.Scope == apiext.ClusterScoped,
		converter: c, preserve: d.Spec.PreserveUnknownFields, uid: string(d.UID), versions: map[string]*version{}, described: describe(d),
	}
	for i := range d.Spec.Versions {
		v := newVersion(def, &d.Spec.Versions[i])
		v.warning = deprecation(d, &d.Spec.Versions[i])
		def.versions[v.name] = v
		def.order = append(def.order, v)
		if d.Spec.Versions[i].Storage {
			def.storage = v
		}
	}
	return def
}

// rows are the definition's kinds: the one that is stored first. Where there are several
// versions that one is served by none of them: an object of it is in whatever version
// it was written in, and every version is a view. closed refuses creates.
func (d *definition) rows(closed bool) []registry.Resource {
	stored := d.facts(d.storage, nil)
	rows := []registry.Resource{d.row(d.storage, stored, closed)}
	for _, v := range d.order {
		if d.several() && v.spec.Served {
			rows = append(rows, d.row(v, d.facts(v, stored), closed))
		}
	}
	return rows
}

func (d *definition) facts(v *version, stored *api.Facts) *api.Facts {
	gvk := v.gvk()
	f := &api.Facts{
		Group: d.group, Version: v.name, Kind: d.names.Kind, List: d.names.ListKind, Plural: d.names.Plural, Singular: d.names.Singular,
		Short: slices.Clone(d.names.ShortNames), Categories: slices.Clone(d.names.Categories),
		Cluster: d.cluster, Dynamic: true, Path: d.group + "/" + d.names.Plural, SameAs: stored,
		New: func() api.Object {
			u := &unstructured.Unstructured{Object: map[string]any{}}
			u.SetGroupVersionKind(gvk)
			return u
		},
		NewList: func() runtime.Object {
			l := &unstructured.UnstructuredList{Object: map[string]any{}}
			l.SetGroupVersionKind(gvk.GroupVersion().WithKind(d.names.ListKind))
			return l
		},
	}
	if s := v.spec.Subresources; s != nil {
		f.Status, f.Scale = s.Status != nil, s.Scale != nil
	}
	return f
}

func (d *definition) row(v *version, f *api.Facts, closed bool) registry.Resource {
	h := registry.Hooks[unstructured.Unstructured]{
		Coerce: v.coerce, Default: v.complete, Loaded: v.loaded,
		Validate: v.validate, ValidateUpdate: v.validateUpdate, ValidateStatus: v.validateStatus,
		Warn: warn, Ratchets: true, ForbidUnconditional: true, Closed: closed,
		Columns: v.columns(),
	}
	if s := v.selectable(); s != nil {
		h.FieldNames, h.Fields = s.names(), s.set
	}
	if f.Scale {
		h.Scale = scaleHooks(v.spec.Subresources.Scale)
	}
	switch {
	case f.SameAs == nil:
		if d.several() {
			h.Loaded = d.loaded
		}
	case d.converter != nil:
		h.Convert = v.fromAll
		fallthrough
	default:
		h.Loaded = nil
		h.ToStored = func(o *unstructured.Unstructured) (runtime.Object, error) { return d.storage.fromOne(o) }
		h.FromStored = func(o runtime.Object) (*unstructured.Unstructured, error) {
			return v.fromOne(o.(*unstructured.Unstructured))
		}
	}
	r := registry.DynamicRow(f, h)
	r.Unserved, r.Warning = !v.spec.Served || f.SameAs == nil && d.several(), v.warning
	return r
}

func (d *definition) several() bool { return len(d.order) > 1 }

// loaded mends what was stored, in the version that it was stored in. One that the
// definition no longer has is taken for the present one.
func (d *definition) loaded(u *unstructured.Unstructured) {
	if v := d.versions[u.GroupVersionKind().Version]; v != nil {
		v.loaded(u)
		return
	}
	d.storage.loaded(u)
}
