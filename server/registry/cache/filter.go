package cache

import (
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// Filter selects items. The zero value selects all.
type Filter struct {
	// Namespace and Name narrow by key; empty means any.
	Namespace, Name string
	Labels          labels.Selector // nil: any
	Fields          fields.Selector // nil: any
}

// NewFilter makes a filter and moves exact matches on name and namespace out of
// the field selector, where they are keys.
func NewFilter(namespace string, l labels.Selector, f fields.Selector) Filter {
	out := Filter{Namespace: namespace}
	if l != nil && !l.Empty() {
		out.Labels = l
	}
	if f == nil || f.Empty() {
		return out
	}
	out.Fields = f
	if v, ok := f.RequiresExactMatch("metadata.name"); ok && v != "" {
		out.Name = v
	}
	if v, ok := f.RequiresExactMatch("metadata.namespace"); ok && out.Namespace == "" {
		out.Namespace = v
	}
	return out
}

// selective tells whether the filter looks at more than the namespace.
func (f *Filter) selective() bool { return f.Labels != nil || f.Fields != nil }

func (f *Filter) match(i *Item) bool {
	if f.Name != "" && i.obj.GetName() != f.Name {
		return false
	}
	if f.Namespace != "" && i.obj.GetNamespace() != f.Namespace {
		return false
	}
	if f.Labels != nil && !f.Labels.Matches(labels.Set(i.obj.GetLabels())) {
		return false
	}
	return f.Fields == nil || f.matchFields(i)
}

func (f *Filter) matchFields(i *Item) bool {
	for _, r := range f.Fields.Requirements() {
		var v string
		switch r.Field {
		case "metadata.name":
			v = i.obj.GetName()
		case "metadata.namespace":
			v = i.obj.GetNamespace()
		default:
			if i.kind.Fields != nil {
				v = i.fieldSet()[r.Field]
			}
		}
		if (v == r.Value) == (r.Operator == selection.NotEquals) {
			return false
		}
	}
	return true
}
