package registry

import (
	"bytes"
	"reflect"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"orch/api"
)

// shape reaches the parts of an object by their place: what is metadata, what is
// status, what is the rest. It is worked out once for a type; dynamic objects are
// reached by key.
type shape struct {
	dynamic bool
	apart   bool  // dynamic: status is a subresource, else it is content like any other
	status  int   // field index, -1 if there is none
	rest    []int // every field but TypeMeta, ObjectMeta and Status
	spec    bool
}

func shapeOf(f *api.Facts) shape {
	s := shape{status: -1}
	o := f.New()
	if _, ok := o.(*unstructured.Unstructured); ok {
		return shape{dynamic: true, apart: f.Status, spec: true}
	}
	t := reflect.TypeOf(o).Elem()
	for i := range t.NumField() {
		switch t.Field(i).Name {
		case "TypeMeta", "ObjectMeta":
		case "Status":
			s.status = i
		case "Spec":
			s.spec = true
			fallthrough
		default:
			s.rest = append(s.rest, i)
		}
	}
	return s
}

func object(o api.Object) reflect.Value { return reflect.ValueOf(o).Elem() }

func content(o api.Object) map[string]any { return o.(*unstructured.Unstructured).Object }

// resetStatus empties the status.
func (s *shape) resetStatus(o api.Object) {
	switch {
	case s.dynamic:
		delete(content(o), "status")
	case s.status >= 0:
		object(o).Field(s.status).SetZero()
	}
}

// keepStatus puts a copy of old's status into o: hooks and admission may change o,
// never what is stored.
func (s *shape) keepStatus(o, old api.Object) {
	if s.status >= 0 && object(old).Field(s.status).IsZero() {
		object(o).Field(s.status).SetZero()
		return
	}
	old = old.DeepCopyObject().(api.Object)
	switch {
	case s.dynamic:
		keepKey(content(o), content(old), "status")
	case s.status >= 0:
		object(o).Field(s.status).Set(object(old).Field(s.status))
	}
}

// keepRest puts a copy of old into o, without metadata and status.
func (s *shape) keepRest(o, old api.Object) {
	old = old.DeepCopyObject().(api.Object)
	if s.dynamic {
		n, was := content(o), content(old)
		for k := range n {
			if k != "metadata" && k != "status" {
				delete(n, k)
			}
		}
		for k := range was {
			if k != "metadata" && k != "status" {
				keepKey(n, was, k)
			}
		}
		return
	}
	n, was := object(o), object(old)
	for _, i := range s.rest {
		n.Field(i).Set(was.Field(i))
	}
}

func keepKey(n, was map[string]any, key string) {
	if v, ok := was[key]; ok {
		n[key] = v
	} else {
		delete(n, key)
	}
}

// sameRest tells whether a and b differ at most in metadata and status.
func (s *shape) sameRest(a, b api.Object) bool {
	if s.dynamic {
		x, y := content(a), content(b)
		skip := func(k string) bool { return k == "metadata" || k == "status" && s.apart }
		for k, v := range x {
			if !skip(k) && !equality.Semantic.DeepEqual(v, y[k]) {
				return false
			}
		}
		for k := range y {
			if _, ok := x[k]; !ok && !skip(k) {
				return false
			}
		}
		return true
	}
	x, y := object(a), object(b)
	for _, i := range s.rest {
		if !sameField(x.Field(i), y.Field(i)) {
			return false
		}
	}
	return true
}

// sameField compares encodings where the type has one: far cheaper than walking the
// values by reflection, and as telling unless a quantity is spelt differently.
func sameField(x, y reflect.Value) bool {
	if x.CanAddr() && y.CanAddr() {
		a, aok := x.Addr().Interface().(interface{ Marshal() ([]byte, error) })
		b, bok := y.Addr().Interface().(interface{ Marshal() ([]byte, error) })
		if aok && bok {
			p, perr := a.Marshal()
			q, qerr := b.Marshal()
			if perr == nil && qerr == nil && bytes.Equal(p, q) {
				return true
			}
		}
	}
	return equality.Semantic.DeepEqual(x.Interface(), y.Interface())
}
