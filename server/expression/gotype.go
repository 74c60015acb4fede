package expression

import (
	"encoding/json"
	"reflect"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiservercel "k8s.io/apiserver/pkg/cel"
)

// GoType declares a Go type of the API under a name, by its JSON form. What can have several
// forms (quantities, numbers or strings, raw objects) is dyn, and so is a type within itself.
func GoType(t reflect.Type, name string) *apiservercel.DeclType {
	return goType(t, map[reflect.Type]bool{}).MaybeAssignTypeName(name)
}

var (
	moments     = []reflect.Type{reflect.TypeFor[metav1.Time](), reflect.TypeFor[metav1.MicroTime]()}
	durations   = reflect.TypeFor[metav1.Duration]()
	marshalers  = reflect.TypeFor[json.Marshaler]()
	listOfBytes = reflect.TypeFor[[]byte]()
)

func goType(t reflect.Type, within map[reflect.Type]bool) *apiservercel.DeclType {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == moments[0] || t == moments[1]:
		return apiservercel.TimestampType
	case t == durations:
		return apiservercel.StringType
	case t == listOfBytes:
		return apiservercel.BytesType
	case t.Implements(marshalers) || reflect.PointerTo(t).Implements(marshalers) || within[t]:
		return apiservercel.DynType
	}
	switch t.Kind() {
	case reflect.Bool:
		return apiservercel.BoolType
	case reflect.String:
		return apiservercel.StringType
	case reflect.Float32, reflect.Float64:
		return apiservercel.DoubleType
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return apiservercel.IntType
	case reflect.Slice, reflect.Array:
		return apiservercel.NewListType(goType(t.Elem(), within), -1)
	case reflect.Map:
		return apiservercel.NewMapType(apiservercel.StringType, goType(t.Elem(), within), -1)
	case reflect.Struct:
		within[t] = true
		defer delete(within, t)
		out := map[string]*apiservercel.DeclField{}
		goFields(t, within, out)
		return apiservercel.NewObjectType("object", out)
	}
	return apiservercel.DynType
}

func goFields(t reflect.Type, within map[reflect.Type]bool, out map[string]*apiservercel.DeclField) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case name == "" && (f.Anonymous || strings.Contains(options, "inline")):
			e := f.Type
			for e.Kind() == reflect.Pointer {
				e = e.Elem()
			}
			goFields(e, within, out)
		default:
			if name == "" {
				name = f.Name
			}
			if escaped, ok := apiservercel.Escape(name); ok {
				out[escaped] = apiservercel.NewDeclField(escaped, goType(f.Type, within), !strings.Contains(options, "omitempty"), nil, nil)
			}
		}
	}
}
