package crd

import "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"

// tidyFor prepares a test that tells at once that pruning would change nothing: every
// field is known, and there is no null that stands for nothing. No means only that
// upstream's pruning, which is dear, has to look.
func tidyFor(s *schema.Structural, root bool) fits {
	switch {
	case s == nil, s.XEmbeddedResource:
		return never
	case len(s.Properties) > 0 || s.Type == "object":
		return tidyObject(s, root)
	case s.Items != nil:
		item := tidyFor(s.Items, false)
		return func(x any) bool {
			l, ok := x.([]any)
			if !ok {
				return false
			}
			for _, e := range l {
				if !item(e) {
					return false
				}
			}
			return true
		}
	case s.XPreserveUnknownFields:
		return func(x any) bool { return x != nil || s.Nullable }
	}
	return func(x any) bool {
		switch x.(type) {
		case nil:
			return s.Nullable
		case string, int64, float64, bool:
			return true
		}
		return false
	}
}

func tidyObject(s *schema.Structural, root bool) fits {
	children := make(map[string]fits, len(s.Properties))
	for name := range s.Properties {
		child := s.Properties[name]
		children[name] = tidyFor(&child, false)
	}
	others := never
	switch a := s.AdditionalProperties; {
	case a != nil && a.Structural != nil:
		others = tidyFor(a.Structural, false)
	case a == nil && s.XPreserveUnknownFields:
		others = anything
	}
	return func(x any) bool {
		m, ok := x.(map[string]any)
		if !ok {
			return x == nil && s.Nullable
		}
		for name, value := range m {
			if root && (name == "metadata" || name == "kind" || name == "apiVersion") {
				continue
			}
			check := children[name]
			if check == nil {
				check = others
			}
			if !check(value) {
				return false
			}
		}
		return true
	}
}
