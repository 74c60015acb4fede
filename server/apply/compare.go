package apply

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// difference is what changed between two objects: added and modified fields in one
// set, removed ones in another, as typed.Comparison counts them upstream.
type difference struct {
	changed, removed fieldpath.Set
	dirty, lost      bool // changed, removed hold something
}

func (d *difference) change(p fieldpath.Path) { d.changed.Insert(p); d.dirty = true }
func (d *difference) remove(p fieldpath.Path) { d.removed.Insert(p); d.lost = true }

// walker compares two values of one plan. An invalid reflect.Value is a field that
// is not there; a nil slice or pointer that is there is a null.
type walker struct {
	difference
	path fieldpath.Path
	err  error
}

// compare lists the differences of two objects; the top-level field skip is left out.
func (p *kindPlan) compare(old, obj reflect.Value, skip string) (*difference, error) {
	w := &walker{path: make(fieldpath.Path, 0, 16)}
	for i := range p.root.fields {
		switch f := &p.root.fields[i]; *f.element.FieldName {
		case skip:
		case "metadata": // owned only by its fields
			w.path = append(w.path, f.element)
			a, b := f.of(old), f.of(obj)
			for n := range f.plan.fields {
				w.field(&f.plan.fields[n], a, b)
			}
			w.path = w.path[:0]
		default:
			w.field(f, old, obj)
		}
	}
	return &w.difference, w.err
}

func (w *walker) field(f *fieldPlan, old, obj reflect.Value) {
	a, b := f.of(old), f.of(obj)
	if !a.IsValid() && !b.IsValid() {
		return
	}
	w.path = append(w.path, f.element)
	w.value(f.plan, a, b)
	w.path = w.path[:len(w.path)-1]
}

// of is the field's value, invalid if JSON leaves it out.
func (f *fieldPlan) of(s reflect.Value) reflect.Value {
	if !s.IsValid() {
		return reflect.Value{}
	}
	v := s.FieldByIndex(f.index)
	if f.omit && omitted(v) {
		return reflect.Value{}
	}
	return v
}

// omitted is encoding/json's idea of empty, and omitzero's for structs.
func omitted(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	case reflect.Struct:
		if t, ok := v.Interface().(metav1.Time); ok {
			return t.IsZero()
		}
		return false
	}
	return v.IsZero()
}

func deref(v reflect.Value) reflect.Value {
	if v.IsValid() && v.Kind() == reflect.Pointer {
		return v.Elem() // invalid for nil: a null, which has no content either
	}
	return v
}

// value compares at the walker's path. One of a and b is there.
func (w *walker) value(p *plan, a, b reflect.Value) {
	hadA, hasB := a.IsValid(), b.IsValid()
	a, b = deref(a), deref(b)
	switch {
	case p.form == leaf || empty(p, a) && empty(p, b):
		switch {
		case !hadA:
			w.change(w.path)
		case !hasB:
			w.remove(w.path)
		case !equalLeaf(a, b):
			w.change(w.path)
		}
		return
	case p.form == record:
		for i := range p.fields {
			w.field(&p.fields[i], a, b)
		}
	case p.form == dict:
		w.dict(p, a, b)
	default:
		w.list(p, a, b)
	}
	switch {
	case !hadA:
		w.change(w.path)
	case !hasB:
		w.remove(w.path)
	}
}

// empty tells whether a value has no content of its own, so that it is a leaf.
func empty(p *plan, v reflect.Value) bool {
	if !v.IsValid() {
		return true
	}
	if p.form != record {
		return v.Len() == 0
	}
	for i := range p.fields {
		if p.fields[i].of(v).IsValid() {
			return false
		}
	}
	return true
}

func (w *walker) dict(p *plan, a, b reflect.Value) {
	visit := func(k, x, y reflect.Value) {
		name := k.String()
		w.path = append(w.path, fieldpath.PathElement{FieldName: &name})
		w.value(p.elem, x, y)
		w.path = w.path[:len(w.path)-1]
	}
	if b.IsValid() {
		for it := b.MapRange(); it.Next(); {
			var was reflect.Value
			if a.IsValid() {
				was = a.MapIndex(it.Key())
			}
			visit(it.Key(), was, it.Value())
		}
	}
	if a.IsValid() {
		for it := a.MapRange(); it.Next(); {
			if !b.IsValid() || !b.MapIndex(it.Key()).IsValid() {
				visit(it.Key(), it.Value(), reflect.Value{})
			}
		}
	}
}

// element is a list's element with its name.
type element struct {
	name fieldpath.PathElement
	all  []reflect.Value // more than one: duplicates
}

func (w *walker) elements(p *plan, v reflect.Value) []element {
	if !v.IsValid() {
		return nil
	}
	out := make([]element, 0, v.Len())
next:
	for i := range v.Len() {
		e := deref(v.Index(i))
		pe, ok := w.name(p, e)
		if !ok {
			continue
		}
		for n := range out {
			if out[n].name.Equals(pe) {
				out[n].all = append(out[n].all, e)
				continue next
			}
		}
		out = append(out, element{pe, []reflect.Value{e}})
	}
	return out
}

// name is the path element of a list's element.
func (w *walker) name(p *plan, e reflect.Value) (fieldpath.PathElement, bool) {
	if p.form == members {
		v := scalar(e)
		return fieldpath.PathElement{Value: &v}, true
	}
	keys := make(value.FieldList, 0, len(p.keys))
	for _, k := range p.keys {
		f := deref(e.FieldByIndex(k.index))
		switch {
		case f.IsValid() && !f.IsZero():
			keys = append(keys, value.Field{Name: k.name, Value: scalar(f)})
		case k.missing != nil:
			keys = append(keys, value.Field{Name: k.name, Value: k.missing})
		case f.IsValid() && !k.omit:
			keys = append(keys, value.Field{Name: k.name, Value: scalar(f)})
		}
	}
	if len(keys) == 0 {
		w.err = fmt.Errorf("an element at %v has none of its keys", w.path)
		return fieldpath.PathElement{}, false
	}
	slices.SortFunc(keys, func(a, b value.Field) int { return cmp.Compare(a.Name, b.Name) })
	return fieldpath.PathElement{Key: &keys}, true
}

func scalar(v reflect.Value) value.Value {
	switch v.Kind() {
	case reflect.String:
		return value.NewValueInterface(v.String())
	case reflect.Bool:
		return value.NewValueInterface(v.Bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return value.NewValueInterface(v.Int())
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uint:
		return value.NewValueInterface(int64(v.Uint()))
	}
	return value.NewValueInterface(fmt.Sprint(v.Interface()))
}

func (w *walker) list(p *plan, a, b reflect.Value) {
	was, is := w.elements(p, a), w.elements(p, b)
	find := func(l []element, n fieldpath.PathElement, at int) []reflect.Value {
		if at < len(l) && l[at].name.Equals(n) { // the usual case: same order
			return l[at].all
		}
		for i := range l {
			if l[i].name.Equals(n) {
				return l[i].all
			}
		}
		return nil
	}
	for i := range was {
		w.elementPair(p, was[i].name, was[i].all, find(is, was[i].name, i))
	}
	for i := range is {
		if find(was, is[i].name, i) == nil {
			w.elementPair(p, is[i].name, nil, is[i].all)
		}
	}
}

// elementPair compares the elements of one name; duplicates count as one leaf.
func (w *walker) elementPair(p *plan, name fieldpath.PathElement, was, is []reflect.Value) {
	w.path = append(w.path, name)
	defer func() { w.path = w.path[:len(w.path)-1] }()
	elem := p.elem
	if elem == nil {
		elem = &plan{}
	}
	var none reflect.Value
	switch {
	case len(was) <= 1 && len(is) <= 1:
		w.value(elem, first(was), first(is))
	case len(was) >= 2 && len(is) >= 2:
		if !slices.EqualFunc(was, is, equalLeaf) {
			w.change(w.path)
		}
	case len(was) >= 2:
		if len(is) != 0 {
			w.value(elem, none, is[0])
		}
		w.remove(w.path)
	default:
		if len(was) != 0 {
			w.value(elem, was[0], none)
		}
		w.change(w.path)
	}
}

func first(l []reflect.Value) reflect.Value {
	if len(l) == 0 {
		return reflect.Value{}
	}
	return l[0]
}

// equalLeaf compares whole values. Nil and empty are equal.
func equalLeaf(a, b reflect.Value) bool {
	if !a.IsValid() || !b.IsValid() {
		return a.IsValid() == b.IsValid()
	}
	switch a.Kind() {
	case reflect.String:
		return a.String() == b.String()
	case reflect.Bool:
		return a.Bool() == b.Bool()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return a.Int() == b.Int()
	}
	return equality.Semantic.DeepEqual(a.Interface(), b.Interface())
}
