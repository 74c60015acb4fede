package apply

import (
	"fmt"
	"reflect"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"orch/api"
)

// kindTypes converts the objects of one built-in kind for structured merge. Its
// schema is made of the Go types and schema.txt, like the plans of plan.go: nothing
// of it is linked in or loaded for kinds that nobody applies.
type kindTypes struct{ root typed.ParseableType }

var _ managedfields.TypeConverter = (*kindTypes)(nil)

func typesOf(f *api.Facts) *kindTypes {
	m := typeMaker{rules: schemaRules(), named: map[reflect.Type]*schema.Map{}}
	root := m.structure(reflect.TypeOf(f.New()).Elem())
	p := typed.Parser{Schema: schema.Schema{Types: append(m.types, anything...)}}
	return &kindTypes{p.Type(*root.NamedType)}
}

func (k *kindTypes) ObjectToTyped(o runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	if u, ok := o.(*unstructured.Unstructured); ok {
		return k.root.FromUnstructured(u.UnstructuredContent(), opts...)
	}
	return k.root.FromStructured(o, opts...)
}

func (k *kindTypes) TypedToObject(v *typed.TypedValue) (runtime.Object, error) {
	m, ok := v.AsValue().Unstructured().(map[string]any)
	if !ok {
		return nil, fmt.Errorf("converting a merged value: it is %T, not an object", v.AsValue().Unstructured())
	}
	return &unstructured.Unstructured{Object: m}, nil
}

// Names of the types of what has no schema: merged field by field, or as a whole.
const (
	deduced = "__untyped_deduced_"
	whole   = "__untyped_atomic_"
)

// anything defines the two: any scalar, list or object.
var anything = []schema.TypeDef{
	{Name: deduced, Atom: anythingAtom(deduced, schema.Separable)},
	{Name: whole, Atom: anythingAtom(whole, schema.Atomic)},
}

func anythingAtom(elements string, how schema.ElementRelationship) schema.Atom {
	return schema.Atom{
		Scalar: scalarOf(schema.Untyped),
		List:   &schema.List{ElementType: schema.TypeRef{NamedType: nameOf(whole)}, ElementRelationship: schema.Atomic},
		Map:    &schema.Map{ElementType: schema.TypeRef{NamedType: nameOf(elements)}, ElementRelationship: how},
	}
}

func nameOf(s string) *string                 { return &s }
func scalarOf(s schema.Scalar) *schema.Scalar { return &s }

// typeMaker turns Go types into the types of a schema, structs under their names.
type typeMaker struct {
	rules map[string]rule
	types []schema.TypeDef
	named map[reflect.Type]*schema.Map
}

// ref is the type of a value at a place, named as in schema.txt.
func (m *typeMaker) ref(t reflect.Type, where string) schema.TypeRef {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[runtime.RawExtension]():
		return schema.TypeRef{NamedType: nameOf(whole)}
	case t == reflect.TypeFor[metav1.FieldsV1]():
		return schema.TypeRef{Inlined: schema.Atom{Map: &schema.Map{ElementType: schema.TypeRef{NamedType: nameOf(deduced)}}}}
	case anyShape(t):
		return schema.TypeRef{NamedType: nameOf(deduced)}
	case opaque(t):
		return schema.TypeRef{Inlined: schema.Atom{Scalar: scalarOf(schema.Untyped)}}
	}
	atomic := m.rules[where].how == "atomic"
	switch t.Kind() {
	case reflect.Struct:
		r := m.structure(t)
		if atomic {
			r.ElementRelationship = new(schema.Atomic)
		}
		return r
	case reflect.Map:
		o := &schema.Map{ElementType: m.ref(t.Elem(), where+"[]")}
		if atomic {
			o.ElementRelationship = schema.Atomic
		}
		return schema.TypeRef{Inlined: schema.Atom{Map: o}}
	case reflect.Slice:
		if t.Elem().Kind() != reflect.Uint8 {
			return schema.TypeRef{Inlined: schema.Atom{List: m.list(t.Elem(), where)}}
		}
	}
	return schema.TypeRef{Inlined: schema.Atom{Scalar: scalarOf(scalarKind(t))}}
}

// anyShape tells whether a type says of itself that it may be anything: a scalar, a list
// or an object (items and defaults in schemas).
func anyShape(t reflect.Type) bool {
	says, ok := reflect.New(t).Interface().(interface{ OpenAPISchemaType() []string })
	return ok && len(says.OpenAPISchemaType()) == 0
}

func scalarKind(t reflect.Type) schema.Scalar {
	switch t.Kind() {
	case reflect.Bool:
		return schema.Boolean
	case reflect.String, reflect.Slice: // bytes are base64
		return schema.String
	case reflect.Interface:
		return schema.Untyped
	}
	return schema.Numeric
}

func (m *typeMaker) list(elem reflect.Type, where string) *schema.List {
	l := &schema.List{ElementType: m.ref(elem, where+"[]"), ElementRelationship: schema.Atomic}
	r := m.rules[where]
	if r.how == "set" || r.how == "map" {
		l.ElementRelationship = schema.Associative
	}
	for _, k := range r.keys {
		l.Keys = append(l.Keys, k.name)
		if k.missing != nil {
			m.setDefault(elem, k)
		}
	}
	return l
}

// setDefault says in the type of a list's elements what stands for a missing key.
func (m *typeMaker) setDefault(elem reflect.Type, k listKey) {
	if elem.Kind() == reflect.Pointer {
		elem = elem.Elem()
	}
	fields := m.named[elem].Fields
	for i := range fields {
		if fields[i].Name == k.name {
			fields[i].Default = k.missing.Unstructured()
		}
	}
}

// structure refers to a struct by its name and describes it when it comes first.
func (m *typeMaker) structure(t reflect.Type) schema.TypeRef {
	name := t.PkgPath() + "." + t.Name()
	if m.named[t] == nil {
		o := &schema.Map{}
		m.named[t] = o
		m.fields(o, t)
		if len(o.Fields) == 0 { // a mere mark, as upstream's generator sees it
			o.ElementType = schema.TypeRef{NamedType: nameOf(deduced)}
		}
		m.types = append(m.types, schema.TypeDef{Name: name, Atom: schema.Atom{Map: o}})
	}
	return schema.TypeRef{NamedType: &name}
}

func (m *typeMaker) fields(o *schema.Map, t reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
			continue
		case strings.Contains(opts, "inline") || f.Anonymous && name == "":
			if f.Type.Kind() == reflect.Struct {
				m.fields(o, f.Type)
			}
			continue
		case name == "":
			name = f.Name
		}
		o.Fields = append(o.Fields, schema.StructField{Name: name, Type: m.ref(f.Type, t.PkgPath()+"."+t.Name()+"."+name)})
	}
}
