package crd

import (
	"math"
	"regexp"
	"unicode/utf8"

	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
)

// fits tells at once that a value is valid. No means only that somebody has to look
// closer: upstream's validator, which builds a tree of objects for every value it sees,
// is asked then, and words the errors.
type fits func(x any) bool

// mostExact is the largest number whose neighbours a float64 can tell apart.
const mostExact = 1 << 53

var (
	never    fits = func(any) bool { return false }
	anything fits = func(any) bool { return true }
)

// fitsFor prepares the test of one schema.
func fitsFor(s *schema.Structural) fits {
	if s == nil {
		return never
	}
	v := s.ValueValidation
	if v == nil {
		v = &schema.ValueValidation{}
	}
	if v.UniqueItems || v.MultipleOf != nil || len(v.AllOf)+len(v.OneOf) > 0 || v.Not != nil || len(v.AnyOf) > 0 && !s.XIntOrString {
		return never
	}
	check := fitsType(s, v)
	if len(v.Enum) > 0 {
		check = both(check, enumFits(v.Enum))
	}
	return func(x any) bool {
		if x == nil {
			return s.Nullable
		}
		return check(x)
	}
}

func both(a, b fits) fits { return func(x any) bool { return a(x) && b(x) } }

func fitsType(s *schema.Structural, v *schema.ValueValidation) fits {
	switch {
	case s.XIntOrString:
		if v.Format != "" || v.Pattern != "" || v.Minimum != nil || v.Maximum != nil || v.MinLength != nil || v.MaxLength != nil {
			return never
		}
		return func(x any) bool {
			switch x.(type) {
			case int64, string:
				return true
			}
			return false
		}
	case s.Type == "object":
		return objectFits(s, v)
	case s.Type == "array":
		return arrayFits(s, v)
	case s.Type == "string":
		return stringFits(v)
	case s.Type == "boolean":
		return func(x any) bool { _, ok := x.(bool); return ok }
	case s.Type == "integer", s.Type == "number":
		return numberFits(s.Type == "integer", v)
	case s.Type == "" && s.XPreserveUnknownFields && v.Format == "" && v.Pattern == "" && len(v.Required) == 0:
		return anything
	}
	return never
}

func enumFits(enum []schema.JSON) fits {
	words := map[string]bool{}
	for _, e := range enum {
		if s, ok := e.Object.(string); ok {
			words[s] = true
		}
	}
	return func(x any) bool { s, ok := x.(string); return ok && words[s] }
}

// within tells whether a count keeps to limits, where there are any.
func within(n int, least, most *int64) bool {
	return (least == nil || int64(n) >= *least) && (most == nil || int64(n) <= *most)
}

func objectFits(s *schema.Structural, v *schema.ValueValidation) fits {
	children := make(map[string]fits, len(s.Properties))
	for name := range s.Properties {
		child := s.Properties[name]
		children[name] = fitsFor(&child)
	}
	others := anything
	if a := s.AdditionalProperties; a != nil {
		switch {
		case a.Structural != nil:
			others = fitsFor(a.Structural)
		case !a.Bool:
			others = never
		}
	}
	return func(x any) bool {
		m, ok := x.(map[string]any)
		if !ok || !within(len(m), v.MinProperties, v.MaxProperties) {
			return false
		}
		for _, name := range v.Required {
			if _, ok := m[name]; !ok {
				return false
			}
		}
		for name, value := range m {
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

func arrayFits(s *schema.Structural, v *schema.ValueValidation) fits {
	item := anything
	if s.Items != nil {
		item = fitsFor(s.Items)
	}
	return func(x any) bool {
		l, ok := x.([]any)
		if !ok || !within(len(l), v.MinItems, v.MaxItems) {
			return false
		}
		for _, e := range l {
			if !item(e) {
				return false
			}
		}
		return true
	}
}

func stringFits(v *schema.ValueValidation) fits {
	if v.Format != "" {
		return never
	}
	var pattern *regexp.Regexp
	if v.Pattern != "" {
		var err error
		if pattern, err = regexp.Compile(v.Pattern); err != nil {
			return never
		}
	}
	return func(x any) bool {
		s, ok := x.(string)
		if !ok || (v.MinLength != nil || v.MaxLength != nil) && !within(utf8.RuneCountInString(s), v.MinLength, v.MaxLength) {
			return false
		}
		return pattern == nil || pattern.MatchString(s)
	}
}

func numberFits(whole bool, v *schema.ValueValidation) fits {
	switch v.Format {
	case "", "int64", "int32":
	default:
		return never
	}
	return func(x any) bool {
		var n float64
		switch x := x.(type) {
		case int64:
			n = float64(x)
		case float64:
			if whole {
				return false
			}
			n = x
		default:
			return false
		}
		switch {
		case math.Abs(n) >= mostExact, v.Format == "int32" && (n > math.MaxInt32 || n < math.MinInt32):
			return false
		case v.Minimum != nil && (n < *v.Minimum || v.ExclusiveMinimum && n == *v.Minimum):
			return false
		case v.Maximum != nil && (n > *v.Maximum || v.ExclusiveMaximum && n == *v.Maximum):
			return false
		}
		return true
	}
}

// anywhere tells whether a schema or one inside it is such.
func anywhere(s *schema.Structural, such func(*schema.Structural) bool) bool {
	if s == nil || such(s) {
		return s != nil
	}
	for name := range s.Properties {
		if child := s.Properties[name]; anywhere(&child, such) {
			return true
		}
	}
	return anywhere(s.Items, such) || s.AdditionalProperties != nil && anywhere(s.AdditionalProperties.Structural, such)
}
