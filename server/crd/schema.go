package crd

import (
	"fmt"
	"slices"
	"strings"

	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	v2 "k8s.io/apiextensions-apiserver/pkg/controller/openapi/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Where references point to in the two kinds of documents.
const (
	refV2 = "#/definitions/"
	refV3 = "#/components/schemas/"
)

const (
	metaPackage = "io.k8s.apimachinery.pkg.apis.meta.v1."
	gvkKey      = "x-kubernetes-group-version-kind"
)

// modelName is the kind's name in documents: com.example.v1.Widget.
func (v *version) modelName(kind string) string {
	parts := strings.Split(v.definition.group, ".")
	slices.Reverse(parts)
	return strings.Join(append(parts, v.name, kind), ".")
}

func (v *version) gvkExtension(kind string) []any {
	return []any{map[string]any{"group": v.definition.group, "version": v.name, "kind": kind}}
}

// model is the kind's schema as OpenAPI documents show it.
func (v *version) model(ref string) *spec.Schema {
	var s *spec.Schema
	if ss := v.structural(); ss == nil || (ref == refV2 && (ss.XPreserveUnknownFields || v.definition.preserve)) {
		// Any property named here would make kubectl refuse all others.
		s = &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
	} else {
		if ref == refV2 {
			ss = v2.ToStructuralOpenAPIV2(ss)
		}
		s = ss.ToKubeOpenAPI()
		withMeta(s, ref)
		embedded(s, ss, ref)
	}
	s.AddExtension(gvkKey, v.gvkExtension(v.definition.names.Kind))
	return s
}

// withMeta says that a schema is that of an object.
func withMeta(s *spec.Schema, ref string) {
	about := metav1.TypeMeta{}.SwaggerDoc()
	s.SetProperty("metadata", refTo(ref, "ObjectMeta", metav1.PartialObjectMetadata{}.SwaggerDoc()["metadata"]))
	s.SetProperty("apiVersion", *spec.StringProperty().WithDescription(about["apiVersion"]))
	s.SetProperty("kind", *spec.StringProperty().WithDescription(about["kind"]))
}

func refTo(ref, name, about string) spec.Schema {
	s := spec.RefSchema(ref + metaPackage + name)
	if ref == refV3 { // a reference cannot have anything beside it
		s = &spec.Schema{SchemaProps: spec.SchemaProps{AllOf: []spec.Schema{*s}, Default: map[string]any{}}}
	}
	return *s.WithDescription(about)
}

// embedded completes the objects inside an object.
func embedded(s *spec.Schema, ss *schema.Structural, ref string) {
	for name, child := range ss.Properties {
		if c, ok := s.Properties[name]; ok {
			embedded(&c, &child, ref)
			if child.XEmbeddedResource {
				withMeta(&c, ref)
			}
			s.Properties[name] = c
		}
	}
	if ss.Items != nil && s.Items != nil && s.Items.Schema != nil {
		embedded(s.Items.Schema, ss.Items, ref)
		if ss.Items.XEmbeddedResource {
			withMeta(s.Items.Schema, ref)
		}
	}
	if ss.AdditionalProperties != nil && ss.AdditionalProperties.Structural != nil && s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		embedded(s.AdditionalProperties.Schema, ss.AdditionalProperties.Structural, ref)
		if ss.AdditionalProperties.Structural.XEmbeddedResource {
			withMeta(s.AdditionalProperties.Schema, ref)
		}
	}
}

// listModel is the schema of a list of the kind.
func (v *version) listModel(ref string) *spec.Schema {
	about := metav1.TypeMeta{}.SwaggerDoc()
	item := spec.RefSchema(ref + v.modelName(v.definition.names.Kind))
	s := &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}, Required: []string{"items"},
		Description: fmt.Sprintf("%s is a list of %s", v.definition.names.ListKind, v.definition.names.Kind)}}
	s.SetProperty("items", *spec.ArrayProperty(item).WithDescription("List of " + v.definition.names.Plural + ". More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md"))
	s.SetProperty("metadata", refTo(ref, "ListMeta", about["metadata"]))
	s.SetProperty("apiVersion", *spec.StringProperty().WithDescription(about["apiVersion"]))
	s.SetProperty("kind", *spec.StringProperty().WithDescription(about["kind"]))
	s.AddExtension(gvkKey, v.gvkExtension(v.definition.names.ListKind))
	return s
}

// typeConverter knows the kind's fields for server-side apply, in all versions: managers
// may have written in another one.
func (v *version) typeConverter() (managedfields.TypeConverter, error) {
	if v.structural() == nil || v.definition.preserve {
		return managedfields.NewDeducedTypeConverter(), nil
	}
	models := metaModels(refV3, "ObjectMeta")
	for _, o := range v.definition.order {
		models[o.modelName(o.definition.names.Kind)] = o.model(refV3)
	}
	c, err := managedfields.NewTypeConverter(models, false)
	if err != nil {
		return nil, fmt.Errorf("reading the schema of %s: %w", v.gvk(), err)
	}
	return c, nil
}

// describe changes whenever the documents of a definition change.
func describe(d *apiext.CustomResourceDefinition) string {
	return fmt.Sprintf("%s/%s/%d/%+v", d.Name, d.UID, d.Generation, d.Status.AcceptedNames)
}
