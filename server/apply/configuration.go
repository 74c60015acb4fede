package apply

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"orch/api"
)

// Merge gives live with the fields of a configuration set, merged by the kind's schema; nobody
// becomes their owner. As upstream's ApplyStructuredMergeDiff it refuses configurations that
// replace lists or maps as a whole, since their authors rarely mean that.
func (a *Applier) Merge(f *api.Facts, live runtime.Object, configuration *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	types, err := a.converter(f)
	if err != nil {
		return nil, err
	}
	patch, err := types.ObjectToTyped(configuration)
	if err != nil {
		return nil, fmt.Errorf("failed to convert patch object to typed object: %w", err)
	}
	if whole := atomics(nil, patch.Schema(), patch.TypeRef(), patch.AsValue()); len(whole) > 0 {
		return nil, fmt.Errorf("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: %v", strings.Join(whole, ", "))
	}
	now, err := types.ObjectToTyped(live, typed.AllowDuplicates)
	if err != nil {
		return nil, fmt.Errorf("failed to convert original object to typed object: %w", err)
	}
	if now, err = now.Merge(patch); err != nil {
		return nil, fmt.Errorf("failed to merge patch: %w", err)
	}
	o, err := types.TypedToObject(now)
	if err != nil {
		return nil, fmt.Errorf("failed to convert typed object to object: %w", err)
	}
	return o.(*unstructured.Unstructured), nil
}

// converter gives the types of a kind, made once.
func (a *Applier) converter(f *api.Facts) (managedfields.TypeConverter, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if f.Dynamic {
		return a.dynamicLocked(f)
	}
	t := a.typed[f]
	if t == nil {
		t = typesOf(f)
		a.typed[f] = t
	}
	return t, nil
}

// atomics lists where a value sets something that has no parts to merge.
func atomics(path fieldpath.Path, s *schema.Schema, of schema.TypeRef, v value.Value) (out []string) {
	atom, ok := s.Resolve(of)
	if !ok {
		return nil
	}
	text := func() string {
		var b strings.Builder
		for _, e := range path {
			b.WriteString(e.String())
		}
		return b.String()
	}
	if v.IsMap() && atom.Map != nil {
		if atom.Map.ElementRelationship == schema.Atomic {
			out = append(out, text())
		}
		v.AsMap().Iterate(func(key string, val value.Value) bool {
			if f, ok := atom.Map.FindField(key); ok {
				out = append(out, atomics(append(path[:len(path):len(path)], fieldpath.PathElement{FieldName: &key}), s, f.Type, val)...)
			}
			return true
		})
	}
	if v.IsList() && atom.List != nil {
		if atom.List.ElementRelationship == schema.Atomic {
			out = append(out, text())
		}
		list := v.AsList()
		for i := range list.Length() {
			out = append(out, atomics(append(path[:len(path):len(path)], fieldpath.PathElement{Index: &i}), s, atom.List.ElementType, list.At(i))...)
		}
	}
	return out
}
