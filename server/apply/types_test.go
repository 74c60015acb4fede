package apply

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	extensions "k8s.io/apiextensions-apiserver/pkg/client/applyconfiguration"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregation "k8s.io/kube-aggregator/pkg/client/applyconfiguration"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"orch/api"
)

// upstream has the types of a group's kinds as client-go carries them.
func upstream(group string) managedfields.TypeConverter {
	if group == apiextensions.GroupName {
		return extensions.NewTypeConverter(api.Scheme())
	}
	if group == apiregistration.GroupName {
		return aggregation.NewTypeConverter(api.Scheme())
	}
	return applyconfigurations.NewTypeConverter(api.Scheme())
}

// TestTypesAreUpstreams compares the schema of every kind with upstream's, type by type.
func TestTypesAreUpstreams(t *testing.T) {
	for _, f := range api.All() {
		if f.Computed {
			continue
		}
		t.Run(f.GVK().String(), func(t *testing.T) {
			o := f.New()
			o.GetObjectKind().SetGroupVersionKind(f.GVK())
			theirs, err := upstream(f.Group).ObjectToTyped(o, typed.AllowDuplicates)
			if err != nil {
				t.Fatal(err)
			}
			ours, err := typesOf(f).ObjectToTyped(o, typed.AllowDuplicates)
			if err != nil {
				t.Fatal(err)
			}
			c := comparison{T: t, ours: ours.Schema(), theirs: theirs.Schema(), seen: map[string]bool{}}
			c.refs("", ours.TypeRef(), theirs.TypeRef())
		})
	}
}

type comparison struct {
	*testing.T
	ours, theirs *schema.Schema
	seen         map[string]bool
}

func (c *comparison) refs(path string, ours, theirs schema.TypeRef) {
	if ours.NamedType != nil && theirs.NamedType != nil {
		key := *ours.NamedType + " " + *theirs.NamedType
		if c.seen[key] && ours.ElementRelationship == nil && theirs.ElementRelationship == nil {
			return
		}
		c.seen[key] = true
	}
	a, ok := c.ours.Resolve(ours)
	if !ok {
		c.Errorf("%s: %v is not defined", path, *ours.NamedType)
		return
	}
	b, _ := c.theirs.Resolve(theirs)
	if describe(a) != describe(b) {
		c.Errorf("%s is %s, upstream %s", path, describe(a), describe(b))
		return
	}
	if a.List != nil && a.List.ElementRelationship != schema.Atomic {
		c.refs(path+"[]", a.List.ElementType, b.List.ElementType)
	}
	if a.Map == nil || a.Map.ElementRelationship == schema.Atomic {
		return
	}
	if len(a.Map.Fields) == 0 && a.Scalar == nil {
		c.refs(path+"{}", a.Map.ElementType, b.Map.ElementType)
	}
	for _, f := range a.Map.Fields {
		g, _ := b.Map.FindField(f.Name)
		c.refs(path+"."+f.Name, f.Type, g.Type)
	}
}

// describe says what an atom is, one level deep.
func describe(a schema.Atom) string {
	var w []string
	if a.Scalar != nil {
		w = append(w, string(*a.Scalar))
	}
	if a.List != nil {
		w = append(w, fmt.Sprintf("list %s %v", a.List.ElementRelationship, a.List.Keys))
	}
	if a.Map != nil {
		var names []string
		for _, f := range a.Map.Fields {
			names = append(names, f.Name)
		}
		slices.Sort(names)
		how := a.Map.ElementRelationship
		if how == schema.Separable {
			how = ""
		}
		w = append(w, fmt.Sprintf("map %s %v", how, names))
	}
	return strings.Join(w, " or ")
}

// The parts of a definition's schema that may be of any shape were taken for scalars, so
// that hardly a definition could be applied by the server.
func TestSchemasOfDefinitionsAreOfAnyShape(t *testing.T) {
	props := map[string]any{"type": "array", "items": map[string]any{"type": "string"}, "default": []any{"a"}, "enum": []any{map[string]any{"a": "b"}},
		"example": map[string]any{"a": "b"}, "additionalProperties": map[string]any{"type": "string"}, "additionalItems": false}
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"spec": map[string]any{"versions": []any{map[string]any{"name": "v1", "schema": map[string]any{"openAPIV3Schema": props}}}}}}
	for name, c := range map[string]managedfields.TypeConverter{"ours": typesOf(api.CustomResourceDefinitions.Facts), "upstream's": upstream(apiextensions.GroupName)} {
		if _, err := c.ObjectToTyped(o); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
