package crd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

func structural(t *testing.T, text string) *schema.Structural {
	t.Helper()
	var v1 apiextv1.JSONSchemaProps
	if err := yaml.Unmarshal([]byte(text), &v1); err != nil {
		t.Fatal(err)
	}
	var in apiext.JSONSchemaProps
	if err := apiextv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(&v1, &in, nil); err != nil {
		t.Fatal(err)
	}
	s, err := schema.NewStructural(&in)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sample draws a value that may or may not be as the schema wants it.
func sample(r *rand.Rand, s *schema.Structural) any {
	if s == nil || r.IntN(8) == 0 {
		return nil
	}
	switch s.Type {
	case "object":
		out := map[string]any{}
		for name := range s.Properties {
			if child := s.Properties[name]; r.IntN(2) == 0 {
				out[name] = sample(r, &child)
			}
		}
		if s.AdditionalProperties != nil {
			for i := range r.IntN(3) {
				out[fmt.Sprint("k", i)] = sample(r, s.AdditionalProperties.Structural)
			}
		}
		return out
	case "array":
		out := []any{}
		for range r.IntN(3) {
			out = append(out, sample(r, s.Items))
		}
		return out
	case "integer":
		return r.Int64N(10)
	}
	return strings.Repeat("x", r.IntN(5))
}

// TestDefaultsAsUpstream: prepared defaults set what upstream's defaulting sets.
func TestDefaultsAsUpstream(t *testing.T) {
	s := structural(t, `{type: object, properties: {
  a: {type: string, default: x}, b: {type: integer, nullable: true, default: 3}, c: {type: string},
  d: {type: object, default: {e: set}, properties: {e: {type: string}, f: {type: integer, default: 5}, g: {type: string, nullable: true}}},
  l: {type: array, items: {type: object, nullable: true, properties: {h: {type: string, default: y}}}},
  n: {type: array, items: {type: string}},
  m: {type: object, additionalProperties: {type: object, properties: {i: {type: integer, default: 7}}, default: {i: 1}}},
  o: {type: array, items: {type: array, items: {type: integer, default: 9}}}}}`)
	set := defaultsFor(s)
	r := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		ours := sample(r, s)
		theirs := runtime.DeepCopyJSONValue(ours)
		before := runtime.DeepCopyJSONValue(ours)
		set(ours)
		defaulting.Default(theirs, s)
		if !reflect.DeepEqual(ours, theirs) {
			t.Fatalf("of %v\n got %v\nwant %v", before, ours, theirs)
		}
	}
	if defaultsFor(structural(t, `{type: object, properties: {a: {type: array, items: {type: string}}}}`)) != nil {
		t.Error("a schema without defaults has something to set")
	}
}

func words(s *sight) []string {
	if s.whole {
		return []string{"*"}
	}
	var out []string
	for name, part := range s.parts {
		out = append(out, name)
		for _, w := range words(part) {
			out = append(out, name+"."+w)
		}
	}
	slices.Sort(out)
	return out
}

func TestSight(t *testing.T) {
	for rule, want := range map[string]string{
		"self.a > 1":                              "a a.*",
		"has(self.a.b) && self.c == oldSelf.d":    "a a.b c c.* d d.*",
		"self == oldSelf":                         "*",
		"self.l.all(x, x.size() > self.n)":        "l l.* n n.*",
		"[self].size() > 0":                       "*",
		"self.?a.orValue(1) == 1":                 "*",
		"oldSelf.orValue(self).a == 1":            "*",
		"self.__namespace__ == self.`dash-ed`":    "dash-ed dash-ed.* namespace namespace.*",
		"cel.bind(x, self, x.a == 1)":             "*",
		"self['a'] == 1":                          "*",
		"dyn(self.a).b == 'c'":                    "a a.*",
		"true":                                    "",
		"{'k': self.a}.k == 1 && self.a.b.c == 2": "a a.*",
	} {
		var s sight
		if !s.rule(rule) {
			t.Errorf("%s: not read", rule)
		}
		if got := strings.Join(words(&s), " "); got != want {
			t.Errorf("%s looks at %q, want %q", rule, got, want)
		}
	}
	if (&sight{}).rule("self.") {
		t.Error("half a rule was read")
	}
}

// TestNarrowChangesNothing: rules say the same of values with a schema that holds no more
// than what they look at.
func TestNarrowChangesNothing(t *testing.T) {
	s := structural(t, `{type: object, x-kubernetes-validations: [{rule: "self.metadata.name.size() < 3 || self.kind == 'K'"}, {rule: "!has(self.spec) || !has(self.spec.a) || self.spec.a < 9", messageExpression: "'too much: ' + string(self.spec.a)"}], properties: {
  spec: {type: object, x-kubernetes-validations: [{rule: "!has(self.a) || !has(self.b) || self.a <= self.b.c"}, {rule: "!has(oldSelf.t) || self.t == oldSelf.t", reason: FieldValueForbidden}], properties: {
    a: {type: integer}, b: {type: object, required: [c], properties: {c: {type: integer, x-kubernetes-validations: [{rule: "self != 4"}]}, d: {type: string}}}, t: {type: string},
    l: {type: array, items: {type: object, x-kubernetes-validations: [{rule: "!has(self.x) || self.x != self.z"}], required: [z], properties: {x: {type: string}, z: {type: string}}}},
    w: {type: object, x-kubernetes-validations: [{rule: "self == oldSelf"}], properties: {p: {type: string}, q: {type: integer}}},
    m: {type: object, additionalProperties: {type: object, x-kubernetes-validations: [{rule: "self.k > 0"}], properties: {k: {type: integer}, o: {type: string}}}}}}}}`)
	plain, narrowed := cel.NewValidator(s, true, ruleCallCost), cel.NewValidator(s, true, ruleCallCost)
	narrow(narrowed)
	if n := len(narrowed.Schema.Properties["spec"].Properties); n != 1 {
		t.Errorf("the root's rules are shown %d of spec's fields", n)
	}
	r := rand.New(rand.NewPCG(3, 4))
	refused := 0
	for range 3000 {
		object := func() any {
			o, _ := sample(r, s).(map[string]any)
			if o == nil {
				o = map[string]any{}
			}
			o["kind"], o["apiVersion"], o["metadata"] = "K"[:r.IntN(2)], "v1", map[string]any{"name": strings.Repeat("n", r.IntN(5))}
			return o
		}
		obj, old := object(), object()
		if r.IntN(2) == 0 {
			old = nil
		}
		want, _ := plain.Validate(context.Background(), nil, s, obj, old, ruleObjectCost)
		got, _ := narrowed.Validate(context.Background(), nil, s, obj, old, ruleObjectCost)
		lines := func(l []string) []string { slices.Sort(l); return l }
		var a, b []string
		for _, e := range want {
			a = append(a, e.Error())
		}
		for _, e := range got {
			b = append(b, e.Error())
		}
		if !reflect.DeepEqual(lines(a), lines(b)) {
			t.Fatalf("of %v after %v\n got %v\nwant %v", obj, old, b, a)
		}
		if len(a) > 0 {
			refused++
		}
	}
	if refused < 500 || refused > 2900 {
		t.Errorf("%d of 3000 values were refused: the rules are not put to the test", refused)
	}
}
