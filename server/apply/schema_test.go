package apply

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"orch/api"
)

var update = flag.Bool("update", false, "rewrite golden files")

// TestSchemaTable derives schema.txt from upstream's schemas and the Go types.
func TestSchemaTable(t *testing.T) {
	s := &scribe{lines: map[string]string{}, seen: map[string]bool{}}
	for _, f := range api.All() {
		if f.Computed {
			continue
		}
		o := f.New()
		o.GetObjectKind().SetGroupVersionKind(f.GVK())
		tv, err := upstream(f.Group).ObjectToTyped(o, typed.AllowDuplicates)
		if err != nil {
			t.Errorf("%s has no schema: %v", f.GVK(), err)
			continue
		}
		s.schema = tv.Schema()
		s.walk(reflect.TypeOf(o).Elem(), tv.TypeRef(), "")
	}
	lines := slices.Clone(ofBodies)
	for k, v := range s.lines {
		lines = append(lines, k+" "+v)
	}
	slices.Sort(lines)
	text := "# Made by TestSchemaTable -update from upstream's structured-merge schemas. See plan.go.\n" + strings.Join(lines, "\n") + "\n"
	if *update {
		if err := os.WriteFile("schema.txt", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if text != schemaTable {
		t.Error("schema.txt is not what upstream's schemas say: run go test ./server/apply -run TestSchemaTable -update")
	}
}

// ofBodies is what OpenAPI says of subresources' bodies, which upstream's schemas leave out.
var ofBodies = []string{"k8s.io/api/core/v1.Binding.target atomic"}

type scribe struct {
	schema *schema.Schema
	lines  map[string]string
	seen   map[string]bool
}

func (s *scribe) note(place, text string) {
	if place == "" {
		return
	}
	if was, ok := s.lines[place]; ok && was != text {
		panic(fmt.Sprintf("%s is both %q and %q", place, was, text))
	}
	s.lines[place] = text
}

// walk compares what a Go type suggests with what the schema says.
func (s *scribe) walk(t reflect.Type, ref schema.TypeRef, place string) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	atom, ok := s.schema.Resolve(ref)
	if !ok {
		return
	}
	if opaque(t) {
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		if atom.Map == nil {
			return
		}
		if atom.Map.ElementRelationship == schema.Atomic {
			s.note(place, "atomic")
			return
		}
		if place != "" {
			if s.seen[t.String()] {
				return
			}
			s.seen[t.String()] = true
		}
		s.fields(t, atom)
	case reflect.Map:
		if atom.Map != nil && atom.Map.ElementRelationship == schema.Atomic {
			s.note(place, "atomic")
		} else if atom.Map != nil {
			s.walk(t.Elem(), atom.Map.ElementType, place+"[]")
		}
	case reflect.Slice:
		s.list(t, atom, place)
	}
}

func (s *scribe) list(t reflect.Type, atom schema.Atom, place string) {
	l := atom.List
	if l == nil || l.ElementRelationship == schema.Atomic {
		return
	}
	if len(l.Keys) == 0 {
		s.note(place, "set")
		return
	}
	elem, _ := s.schema.Resolve(l.ElementType)
	var keys []string
	for _, k := range l.Keys {
		if elem.Map != nil {
			if f, ok := elem.Map.FindField(k); ok && f.Default != nil {
				k += fmt.Sprintf("=%v", f.Default)
			}
		}
		keys = append(keys, k)
	}
	s.note(place, "map "+strings.Join(keys, ","))
	s.walk(t.Elem(), l.ElementType, place+"[]")
}

func (s *scribe) fields(t reflect.Type, atom schema.Atom) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Name == "TypeMeta" || name == "-" || !f.IsExported() {
			continue
		}
		if strings.Contains(opts, "inline") || f.Anonymous && name == "" {
			if f.Type.Kind() == reflect.Struct {
				s.fields(f.Type, atom)
			}
			continue
		}
		sf, ok := atom.Map.FindField(name)
		ref := atom.Map.ElementType
		if ok {
			ref = sf.Type
		}
		s.walk(f.Type, ref, t.PkgPath()+"."+t.Name()+"."+name)
	}
}
