package apply

import (
	_ "embed"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"orch/api"
)

// schemaTable says what Go types do not: one line for each field that is not what
// its Go type suggests (structs and maps are granular, lists atomic).
//
//	k8s.io/api/core/v1.Container.ports map containerPort,protocol=TCP
//
// TestSchemaTable checks it against upstream's schemas and rewrites it with -update.
//
//go:embed schema.txt
var schemaTable string

// rule is a line of the table.
type rule struct {
	how  string // atomic, set, map
	keys []listKey
}

type listKey struct {
	name    string
	missing value.Value // stands for the key where an element leaves it out; may be nil
}

var schemaRules = sync.OnceValue(func() map[string]rule {
	out := map[string]rule{}
	for line := range strings.Lines(schemaTable) {
		w := strings.Fields(line)
		if len(w) < 2 || strings.HasPrefix(line, "#") {
			continue
		}
		r := rule{how: w[1]}
		if len(w) > 2 {
			for k := range strings.SplitSeq(w[2], ",") {
				name, missing, ok := strings.Cut(k, "=")
				key := listKey{name: name}
				if n, err := strconv.ParseInt(missing, 10, 64); ok && err == nil {
					key.missing = value.NewValueInterface(n)
				} else if ok {
					key.missing = value.NewValueInterface(missing)
				}
				r.keys = append(r.keys, key)
			}
		}
		out[w[0]] = r
	}
	return out
})

// shape of a value in the eyes of structured merge.
type form int

const (
	leaf    form = iota // compared whole
	record              // struct: a path for each field
	dict                // map: a path for each key
	keyed               // list whose elements are known by keys
	members             // list that is a set of scalars
)

// plan says how values of one Go type, at one place, are compared.
type plan struct {
	form   form
	fields []fieldPlan // record
	elem   *plan       // dict, keyed
	keys   []keyPlan   // keyed, sorted by name
}

type fieldPlan struct {
	element fieldpath.PathElement
	index   []int
	omit    bool // omitempty
	plan    *plan
}

type keyPlan struct {
	name    string
	index   []int
	omit    bool
	missing value.Value
}

// kindPlan is the plan of a kind's objects.
type kindPlan struct {
	root  *plan
	empty reflect.Value // what a new object is compared with
}

// Fields of the metadata that nobody owns.
var unowned = map[string]bool{
	"name": true, "namespace": true, "creationTimestamp": true, "selfLink": true, "uid": true,
	"clusterName": true, "generation": true, "managedFields": true, "resourceVersion": true,
}

func (a *Applier) planOf(f *api.Facts) *kindPlan {
	a.planMu.RLock()
	p := a.plans[f]
	a.planMu.RUnlock()
	if p != nil {
		return p
	}
	o := f.New()
	v := reflect.ValueOf(o).Elem()
	b := planner{rules: schemaRules(), done: map[reflect.Type]*plan{}}
	p = &kindPlan{root: b.record(v.Type()), empty: v}
	for i := range p.root.fields {
		if m := &p.root.fields[i]; *m.element.FieldName == "metadata" {
			m.plan = &plan{form: record, fields: slices.DeleteFunc(slices.Clone(m.plan.fields), func(f fieldPlan) bool {
				return unowned[*f.element.FieldName]
			})}
		}
	}
	a.planMu.Lock()
	defer a.planMu.Unlock()
	a.plans[f] = p
	return p
}

type planner struct {
	rules map[string]rule
	done  map[reflect.Type]*plan // granular structs, so that types that contain themselves end
}

var (
	marshaler = reflect.TypeFor[json.Marshaler]()
	converter = reflect.TypeFor[value.UnstructuredConverter]()
)

func opaque(t reflect.Type) bool {
	return t.Implements(marshaler) || reflect.PointerTo(t).Implements(marshaler) ||
		t.Implements(converter) || reflect.PointerTo(t).Implements(converter)
}

// record plans a struct field by field.
func (b *planner) record(t reflect.Type) *plan {
	if p := b.done[t]; p != nil {
		return p
	}
	p := &plan{form: record}
	b.done[t] = p
	b.addFields(p, t, nil)
	return p
}

func (b *planner) addFields(p *plan, t reflect.Type, at []int) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		index := append(append([]int(nil), at...), i)
		if f.Name == "TypeMeta" || name == "-" || !f.IsExported() {
			continue
		}
		if strings.Contains(opts, "inline") || f.Anonymous && name == "" {
			if f.Type.Kind() == reflect.Struct {
				b.addFields(p, f.Type, index)
			}
			continue
		}
		if name == "" {
			name = f.Name
		}
		p.fields = append(p.fields, fieldPlan{
			element: fieldpath.PathElement{FieldName: &name}, index: index,
			omit: strings.Contains(opts, "omitempty") || strings.Contains(opts, "omitzero"),
			plan: b.place(f.Type, t.PkgPath()+"."+t.Name()+"."+name),
		})
	}
}

// place plans the value of a field, named as in the table; [] stands for its elements.
func (b *planner) place(t reflect.Type, where string) *plan {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	r := b.rules[where]
	if r.how == "atomic" || opaque(t) {
		return &plan{}
	}
	switch t.Kind() {
	case reflect.Struct:
		return b.record(t)
	case reflect.Map:
		return &plan{form: dict, elem: b.place(t.Elem(), where+"[]")}
	case reflect.Slice:
		switch r.how {
		case "set":
			return &plan{form: members}
		case "map":
			return b.keyed(t.Elem(), r, where+"[]")
		}
	}
	return &plan{}
}

func (b *planner) keyed(t reflect.Type, r rule, where string) *plan {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	p := &plan{form: keyed, elem: b.place(t, where)}
	for _, k := range r.keys {
		kp := keyPlan{name: k.name, missing: k.missing}
		kp.index, kp.omit = fieldByJSON(t, k.name)
		p.keys = append(p.keys, kp)
	}
	return p
}

func fieldByJSON(t reflect.Type, name string) (index []int, omit bool) {
	for _, f := range reflect.VisibleFields(t) {
		if n, opts, _ := strings.Cut(f.Tag.Get("json"), ","); n == name {
			return f.Index, strings.Contains(opts, "omitempty")
		}
	}
	return nil, false
}
