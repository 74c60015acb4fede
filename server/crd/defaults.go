package crd

import (
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/runtime"
)

// defaults sets what is missing from a value. It does what upstream's defaulting.Default
// does, prepared for one schema: nil where the schema has nothing to set.
type defaults func(x any)

// filling is a field with a default.
type filling struct {
	name     string
	value    any
	nullable bool
}

func defaultsFor(s *schema.Structural) defaults {
	if s == nil {
		return nil
	}
	object, list := objectDefaults(s), listDefaults(s.Items)
	if object == nil && list == nil {
		return nil
	}
	return func(x any) {
		switch x := x.(type) {
		case map[string]any:
			if object != nil {
				object(x)
			}
		case []any:
			if list != nil {
				list(x)
			}
		}
	}
}

func objectDefaults(s *schema.Structural) func(m map[string]any) {
	var own []filling
	parts := map[string]defaults{}
	for name := range s.Properties {
		child := s.Properties[name]
		if child.Default.Object != nil {
			own = append(own, filling{name, child.Default.Object, child.Nullable})
		}
		if set := defaultsFor(&child); set != nil {
			parts[name] = set
		}
	}
	var others *schema.Structural
	if s.AdditionalProperties != nil {
		others = s.AdditionalProperties.Structural
	}
	fill := elementDefaults(others)
	if len(own) == 0 && len(parts) == 0 && fill == nil {
		return nil
	}
	return func(m map[string]any) {
		for i := range own {
			if v, there := m[own[i].name]; !there || v == nil && !own[i].nullable {
				m[own[i].name] = runtime.DeepCopyJSONValue(own[i].value)
			}
		}
		for name, set := range parts {
			if v, there := m[name]; there {
				set(v)
			}
		}
		if fill == nil {
			return
		}
		for name, v := range m {
			if _, known := s.Properties[name]; !known {
				m[name] = fill(v)
			}
		}
	}
}

// elementDefaults completes a value of a list or map, and gives it back: nil may stand for the default.
func elementDefaults(s *schema.Structural) func(v any) any {
	set := defaultsFor(s)
	if s == nil || set == nil && s.Default.Object == nil {
		return nil
	}
	return func(v any) any {
		if v == nil && !s.Nullable {
			v = runtime.DeepCopyJSONValue(s.Default.Object)
		}
		if set != nil {
			set(v)
		}
		return v
	}
}

func listDefaults(items *schema.Structural) func(l []any) {
	fill := elementDefaults(items)
	if fill == nil {
		return nil
	}
	return func(l []any) {
		for i, v := range l {
			l[i] = fill(v)
		}
	}
}
