// Package crdschema checks the schema of one version of a custom resource definition:
// that it is structural, that its defaults fit it, that lists and maps are declared
// soundly, and that its rules compile and cost little enough. Texts and paths are
// upstream's. It is pure, and takes milliseconds where there are rules; callers ask only
// for schemas that have changed. Start reading at Version, then walk, then rules.go.
package crdschema

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

type props = apiextensions.JSONSchemaProps

// maxSelectable is how many fields a version may make selectable.
const maxSelectable = 8

// Same tells whether the version at i has the schema and selectable fields that it had in old.
func Same(spec *apiext.CustomResourceDefinitionSpec, i int, old *apiext.CustomResourceDefinitionSpec) bool {
	v := &spec.Versions[i]
	for n := range old.Versions {
		if o := &old.Versions[n]; o.Name == v.Name {
			return equality.Semantic.DeepEqual(o.Schema, v.Schema) && equality.Semantic.DeepEqual(o.SelectableFields, v.SelectableFields)
		}
	}
	return false
}

// Version checks the schema of the version at i, which lies at p.
func Version(spec *apiext.CustomResourceDefinitionSpec, i int, p *field.Path) field.ErrorList {
	v := &spec.Versions[i]
	if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
		return nil // the definition's own checks ask for one
	}
	at := p.Child("schema")
	in := &props{}
	if err := apiext.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema, in, nil); err != nil {
		return field.ErrorList{field.Invalid(at, "", err.Error())}
	}
	c := &checker{}
	root := at.Child("openAPIV3Schema")
	if v.Subresources != nil && v.Subresources.Status != nil {
		c.statusRoot(in, root)
	}
	if in.Nullable {
		c.forbid(at.Child("openAPIV3Schema.nullable"), "nullable cannot be true at the root")
	}
	ss, notStructural := schema.NewStructural(in)
	if notStructural == nil {
		c.structural(ss, root)
	}
	sound := notStructural == nil && len(c.errs) == 0
	c.walk(in, root, place{root: true})
	if len(c.errs) == 0 && notStructural != nil {
		c.errs = append(c.errs, field.Invalid(root, "", notStructural.Error()))
	}
	if sound && len(c.errs) == 0 {
		c.rules(ss, root)
		c.errs = append(c.errs, selectableFields(v, ss, p.Child("selectableFields"))...)
	}
	if len(c.errs) == 0 {
		if _, _, err := validation.NewSchemaValidator(in); err != nil {
			c.errs = append(c.errs, field.Invalid(at, "", fmt.Sprintf("error building validator: %v", err)))
		}
	}
	return c.errs
}

// checker collects what is wrong with one schema.
type checker struct{ errs field.ErrorList }

func (c *checker) forbid(p *field.Path, why string) { c.errs = append(c.errs, field.Forbidden(p, why)) }
func (c *checker) need(p *field.Path, why string)   { c.errs = append(c.errs, field.Required(p, why)) }
func (c *checker) wrong(p *field.Path, value any, why string) {
	c.errs = append(c.errs, field.Invalid(p, value, why))
}

func (c *checker) structural(ss *schema.Structural, root *field.Path) {
	if errs := schema.ValidateStructural(root, ss); len(errs) > 0 {
		c.errs = append(c.errs, errs...)
		return
	}
	errs, err := defaulting.ValidateDefaults(context.Background(), root, ss, true, true)
	if err != nil {
		c.wrong(root, "", err.Error())
	}
	c.errs = append(c.errs, errs...)
}

// statusRoot: with a status subresource the schema of the status is used alone, so
// nothing at the root may speak of it.
func (c *checker) statusRoot(s *props, root *field.Path) {
	if s.Type != "object" {
		c.wrong(root.Child("type"), s.Type, `only "object" is allowed as the type at the root of the schema if the status subresource is enabled`)
	}
	bare := *s
	bare.Description, bare.Type, bare.Format, bare.Title, bare.Properties, bare.Required = "", "", "", "", nil, nil
	bare.Maximum, bare.Minimum, bare.MaxLength, bare.MinLength, bare.Pattern, bare.MaxItems, bare.MinItems = nil, nil, nil, nil, "", nil, nil
	bare.ExclusiveMaximum, bare.ExclusiveMinimum, bare.UniqueItems, bare.MultipleOf, bare.Items = false, false, false, nil, nil
	bare.ExternalDocs, bare.Example, bare.XPreserveUnknownFields, bare.XValidations = nil, nil, nil, nil
	if !equality.Semantic.DeepEqual(bare, props{}) {
		c.wrong(root, "", fmt.Sprintf("only %v fields are allowed at the root of the schema if the status subresource is enabled", rootFields))
	}
}

var rootFields = []string{"Description", "Type", "Format", "Title", "Maximum", "ExclusiveMaximum", "Minimum", "ExclusiveMinimum", "MaxLength", "MinLength",
	"Pattern", "MaxItems", "MinItems", "UniqueItems", "MultipleOf", "Required", "Items", "Properties", "ExternalDocs", "Example", "XPreserveUnknownFields", "XValidations"}

// selectableFields must lead to plain values that the schema knows.
func selectableFields(v *apiext.CustomResourceDefinitionVersion, ss *schema.Structural, p *field.Path) (errs field.ErrorList) {
	if len(v.SelectableFields) > maxSelectable {
		errs = append(errs, field.TooMany(p, len(v.SelectableFields), maxSelectable))
	}
	var seen []string
	for i, f := range v.SelectableFields {
		at := p.Index(i).Child("jsonPath")
		if f.JSONPath == "" {
			errs = append(errs, field.Required(at, ""))
			continue
		}
		path, found, err := cel.ValidFieldPath(f.JSONPath, ss, cel.WithFieldPathAllowArrayNotation(false))
		switch {
		case err != nil:
			errs = append(errs, field.Invalid(at, f.JSONPath, fmt.Sprintf("is an invalid path: %v", err)))
		case found == nil || !plain(found):
			errs = append(errs, field.Invalid(at, f.JSONPath, "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."))
		case slices.Contains(seen, path.String()):
			errs = append(errs, field.Duplicate(at, f.JSONPath))
		case path.Root().String() == "metadata":
			errs = append(errs, field.Invalid(at, f.JSONPath, "must not point to fields in metadata"))
		default:
			seen = append(seen, path.String())
		}
	}
	return errs
}

func plain(s *schema.Structural) bool {
	return slices.Contains([]string{"string", "boolean", "integer"}, s.Type)
}
