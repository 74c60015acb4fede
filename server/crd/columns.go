package crd

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/util/jsonpath"

	"orch/server/columns"
	"orch/server/registry"
)

type object = unstructured.Unstructured

// columns are the name and what the definition adds, else the age.
func (v *version) columns() []registry.Column[object] {
	out := columns.Default[object]()
	out[1].Type = "date" // as upstream says of custom resources
	if len(v.spec.AdditionalPrinterColumns) == 0 {
		return out
	}
	out = out[:1]
	for i := range v.spec.AdditionalPrinterColumns {
		c := &v.spec.AdditionalPrinterColumns[i]
		about := c.Description
		if about == "" {
			about = "Custom resource definition column (in JSONPath format): " + c.JSONPath
		}
		out = append(out, registry.Column[object]{Name: c.Name, Type: c.Type, Format: c.Format, Description: about, Wide: c.Priority > 0, Cell: cell(c)})
	}
	return out
}

// finder evaluates a JSON path; the path is parsed at first use. JSONPath keeps state
// while it searches, so each search has its own.
type finder struct{ paths sync.Pool }

func newFinder(name, path string) *finder {
	return &finder{paths: sync.Pool{New: func() any {
		p := jsonpath.New(name)
		p.AllowMissingKeys(true)
		if err := p.Parse("{" + path + "}"); err != nil {
			return (*jsonpath.JSONPath)(nil)
		}
		return p
	}}}
}

// find returns the first match and, for text, how it is printed.
func (f *finder) find(u *object, print bool) (value any, text string, ok bool) {
	p := f.paths.Get().(*jsonpath.JSONPath)
	if p == nil {
		return nil, "", false
	}
	defer f.paths.Put(p)
	found, err := p.FindResults(u.Object)
	if err != nil || len(found) == 0 || len(found[0]) == 0 || !found[0][0].CanInterface() {
		return nil, "", false
	}
	value = found[0][0].Interface()
	if print {
		var b bytes.Buffer
		if err := p.PrintResults(&b, []reflect.Value{reflect.ValueOf(value)}); err != nil {
			return nil, "", false
		}
		text = b.String()
	}
	return value, text, true
}

func cell(c *apiext.CustomResourceColumnDefinition) func(*object, time.Time) any {
	f, kind := newFinder(c.Name, c.JSONPath), c.Type
	return func(o *object, now time.Time) any {
		value, text, ok := f.find(o, kind == "string")
		if !ok || value == nil {
			return nil
		}
		switch v := value.(type) {
		case int64:
			switch kind {
			case "integer":
				return v
			case "number":
				return float64(v)
			}
		case float64:
			switch kind {
			case "integer":
				return int64(v)
			case "number":
				return v
			}
		case bool:
			if kind == "boolean" {
				return v
			}
		case string:
			if kind == "date" {
				return age(v, now)
			}
		}
		if kind == "string" {
			return text
		}
		return nil
	}
}

func age(text string, now time.Time) any {
	var t metav1.Time
	if err := t.UnmarshalQueryParameter(text); err != nil {
		return "<invalid>"
	}
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(t.Time))
}

// selectables are the fields that field selectors may name.
type selectables []selectable

type selectable struct {
	name string
	*finder
}

func (v *version) selectable() selectables {
	var out selectables
	for _, s := range v.spec.SelectableFields {
		name := strings.TrimPrefix(s.JSONPath, ".")
		out = append(out, selectable{name, newFinder(name, s.JSONPath)})
	}
	return out
}

func (s selectables) names() []string {
	var out []string
	for _, f := range s {
		out = append(out, f.name)
	}
	return out
}

func (s selectables) set(o *object) fields.Set {
	out := make(fields.Set, len(s))
	for _, f := range s {
		value, _, ok := f.find(o, false)
		if !ok || value == nil {
			out[f.name] = ""
			continue
		}
		out[f.name] = fmt.Sprint(value)
	}
	return out
}

// scaleHooks read and write replicas where the definition says they are.
func scaleHooks(s *apiext.CustomResourceSubresourceScale) *registry.ScaleHooks[object] {
	number := func(path string) func(*object) int32 {
		at := steps(path)
		return func(o *object) int32 {
			n, _, _ := unstructured.NestedInt64(o.Object, at...) // validation has seen to its type
			return int32(n)
		}
	}
	return &registry.ScaleHooks[object]{
		Spec: number(s.SpecReplicasPath), Status: number(s.StatusReplicasPath),
		SetSpec: func(o *object, n int32) {
			_ = unstructured.SetNestedField(o.Object, int64(n), steps(s.SpecReplicasPath)...) // validation has seen to its parents
		},
		Selector: func(o *object) string {
			if s.LabelSelectorPath == nil {
				return ""
			}
			text, _, _ := unstructured.NestedString(o.Object, steps(*s.LabelSelectorPath)...)
			return text
		},
	}
}
