package apply

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// fieldTree is a field set as a custom resource holds it: fieldsV1 as a tree of maps.
type fieldTree = map[string]any

// own stands for the field itself in a tree, beside its parts.
const own = "."

// fresh lists what the writer of a new custom resource owns: every field of it. It is
// what comparing with an empty object comes to, found in one walk.
type fresh struct {
	types *schema.Schema
	// unfit: the object is not of its type. The tree is void then.
	unfit bool
}

// object is the tree of a whole object; the top-level field skip is left out.
func (f *fresh) object(of schema.TypeRef, obj map[string]any, skip string) fieldTree {
	atom, ok := f.types.Resolve(of)
	if !ok || atom.Map == nil {
		f.unfit = true
		return nil
	}
	out := fieldTree{}
	for name, v := range obj {
		switch name {
		case skip, "apiVersion", "kind":
		case "metadata": // owned only by its fields
			if parts := f.metadata(f.field(atom.Map, name), v); len(parts) > 0 {
				out["f:metadata"] = parts
			}
		default:
			out["f:"+name] = f.value(f.field(atom.Map, name), v)
		}
	}
	return out
}

func (f *fresh) metadata(of schema.TypeRef, v any) fieldTree {
	atom, ok := f.types.Resolve(of)
	m, is := v.(map[string]any)
	if !ok || atom.Map == nil || !is {
		f.unfit = true
		return nil
	}
	out := fieldTree{}
	for name, part := range m {
		if !unowned[name] {
			out["f:"+name] = f.value(f.field(atom.Map, name), part)
		}
	}
	return out
}

func (f *fresh) field(m *schema.Map, name string) schema.TypeRef {
	if field, ok := m.FindField(name); ok {
		return field.Type
	}
	if m.ElementType == (schema.TypeRef{}) {
		f.unfit = true
	}
	return m.ElementType
}

// value is the tree at and below a value. One without parts of its own is a leaf.
func (f *fresh) value(of schema.TypeRef, v any) fieldTree {
	atom, ok := f.types.Resolve(of)
	switch v := v.(type) {
	case nil:
		ok = ok && (atom.Map != nil || atom.List != nil || atom.Scalar != nil)
	case map[string]any:
		if ok = ok && atom.Map != nil; ok && len(v) > 0 && atom.Map.ElementRelationship != schema.Atomic {
			return f.parts(atom.Map, v)
		}
	case []any:
		if ok = ok && atom.List != nil; ok && len(v) > 0 && atom.List.ElementRelationship != schema.Atomic {
			return f.elements(atom.List, v)
		}
	default:
		ok = ok && atom.Scalar != nil && scalarFits(*atom.Scalar, v)
	}
	f.unfit = f.unfit || !ok
	return fieldTree{}
}

func scalarFits(s schema.Scalar, v any) bool {
	switch v.(type) {
	case string:
		return s == schema.String || s == schema.Untyped
	case bool:
		return s == schema.Boolean || s == schema.Untyped
	case int64, float64:
		return s == schema.Numeric || s == schema.Untyped
	}
	return false
}

func (f *fresh) parts(t *schema.Map, m map[string]any) fieldTree {
	out := make(fieldTree, len(m)+1)
	out[own] = fieldTree{}
	for name, v := range m {
		out["f:"+name] = f.value(f.field(t, name), v)
	}
	return out
}

// elements names those of a set by their value, those of a map by their keys.
func (f *fresh) elements(t *schema.List, l []any) fieldTree {
	out := make(fieldTree, len(l)+1)
	out[own] = fieldTree{}
	for _, e := range l {
		pe, ok := f.element(t, e)
		name, err := "", error(nil)
		if ok {
			name, err = fieldpath.SerializePathElement(pe)
		}
		if !ok || err != nil {
			f.unfit = true
			return nil
		}
		tree := f.value(t.ElementType, e)
		if _, twice := out[name]; twice {
			tree = fieldTree{} // duplicates are one leaf
		}
		out[name] = tree
	}
	return out
}

func (f *fresh) element(t *schema.List, e any) (pe fieldpath.PathElement, ok bool) {
	if t.ElementRelationship != schema.Associative {
		return pe, false
	}
	m, isMap := e.(map[string]any)
	if len(t.Keys) == 0 {
		_, isList := e.([]any)
		v := value.NewValueInterface(e)
		return fieldpath.PathElement{Value: &v}, !isMap && !isList && e != nil
	}
	atom, found := f.types.Resolve(t.ElementType)
	if !isMap || !found || atom.Map == nil {
		return pe, false
	}
	var keys value.FieldList
	for _, name := range t.Keys {
		v, there := m[name]
		if !there {
			field, _ := atom.Map.FindField(name)
			v, there = field.Default, field.Default != nil
		}
		if there {
			keys = append(keys, value.Field{Name: name, Value: value.NewValueInterface(v)})
		}
	}
	keys.Sort()
	return fieldpath.PathElement{Key: &keys}, len(keys) > 0
}

// entryOf is an entry of managedFields as a custom resource holds it.
func entryOf(tree fieldTree, by Manager, at *metav1.Time) map[string]any {
	out := map[string]any{
		"manager": by.name(), "operation": string(metav1.ManagedFieldsOperationUpdate), "apiVersion": by.Kind.GroupVersion().String(),
		"time": at.UTC().Format(time.RFC3339), "fieldsType": fieldsType, "fieldsV1": tree,
	}
	if by.Subresource != "" {
		out["subresource"] = by.Subresource
	}
	return out
}
