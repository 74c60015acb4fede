package crd

import (
	"fmt"
	"slices"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	gvks "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubeversion "k8s.io/apimachinery/pkg/version"
)

// version is one version of a definition. Its schema, validators and rules are made
// when first needed and kept then.
type version struct {
	definition *definition
	name       string
	spec       *apiext.CustomResourceDefinitionVersion // shared; never changed
	warning    string                                  // of a deprecated version

	// structural is nil for a version without a structural schema.
	structural func() *schema.Structural
	validators func() validators
	shapes     func() shapes
	rules      func() *cel.Validator
}

// validators check values; either may be nil: everything goes.
type validators struct{ whole, status validation.SchemaValidator }

// shapes are the quick tests that go before validators.
type shapes struct {
	whole, status, tidy fits
	defaults            defaults
	embeds, lists       bool // some field is an object with metadata, a list that is a set or a map
}

// Limits of rules, as upstream's: of one call, and of all of one object's.
const (
	ruleCallCost   = 1_000_000
	ruleObjectCost = 10_000_000
)

func newVersion(d *definition, spec *apiext.CustomResourceDefinitionVersion) *version {
	v := &version{definition: d, name: spec.Name, spec: spec}
	v.structural = sync.OnceValue(v.makeStructural)
	v.validators = sync.OnceValue(v.makeValidators)
	v.shapes = sync.OnceValue(func() shapes {
		out := shapes{whole: never, status: never, tidy: never}
		if s := v.structural(); s != nil {
			out.whole, out.tidy = fitsFor(s), tidyFor(s, true)
			out.defaults = defaultsFor(s)
			out.embeds = anywhere(s, func(s *schema.Structural) bool { return s.XEmbeddedResource })
			out.lists = anywhere(s, func(s *schema.Structural) bool { return s.XListType != nil && *s.XListType != "atomic" })
			if status, ok := s.Properties["status"]; ok {
				out.status = fitsFor(&status)
			}
		}
		return out
	})
	v.rules = sync.OnceValue(func() *cel.Validator {
		s := v.structural()
		if s == nil {
			return nil
		}
		rules := cel.NewValidator(s, true, ruleCallCost)
		narrow(rules)
		return rules
	})
	return v
}

func (v *version) gvk() gvks.GroupVersionKind {
	return gvks.GroupVersionKind{Group: v.definition.group, Version: v.name, Kind: v.definition.names.Kind}
}

// internal is the schema in the form that upstream's packages work on, nil if there is none.
func (v *version) internal() *apiextensions.JSONSchemaProps {
	if v.spec.Schema == nil || v.spec.Schema.OpenAPIV3Schema == nil {
		return nil
	}
	in := &apiextensions.JSONSchemaProps{}
	if err := apiext.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.spec.Schema.OpenAPIV3Schema, in, nil); err != nil {
		return nil // the definition's validation has done the same
	}
	return in
}

func (v *version) makeStructural() *schema.Structural {
	in := v.internal()
	if in == nil {
		return nil
	}
	s, err := schema.NewStructural(in)
	if err != nil {
		return nil // an old definition; NonStructuralSchema says so
	}
	s = s.DeepCopy() // defaults are shared with in
	if err := defaulting.PruneDefaults(s); err != nil {
		return nil
	}
	return s
}

func (v *version) makeValidators() (out validators) {
	in := v.internal()
	if in == nil {
		return out
	}
	out.whole, _, _ = validation.NewSchemaValidator(in) // what cannot be converted was refused with the definition
	if s, ok := in.Properties["status"]; ok && v.spec.Subresources != nil && v.spec.Subresources.Status != nil {
		out.status, _, _ = validation.NewSchemaValidator(&s)
	}
	return out
}

// coerce is the row's Coerce: metadata is read strictly, unknown fields go.
func (v *version) coerce(u *unstructured.Unstructured, list bool) ([]string, error) {
	if k := u.GetKind(); k != v.definition.names.Kind {
		return nil, apierrors.NewInvalid(v.gvk().GroupKind(), u.GetName(), field.ErrorList{
			field.Invalid(field.NewPath("kind"), k, fmt.Sprintf("must be %v", v.definition.names.Kind))})
	}
	meta, found, unknown, err := objectmeta.GetObjectMetaWithOptions(u.Object, objectmeta.ObjectMetaOptions{ReturnUnknownFieldPaths: list})
	if err != nil {
		return nil, err
	}
	more, err := v.prune(u, list, false)
	if err != nil {
		return nil, err
	}
	if found {
		if err := objectmeta.SetObjectMeta(u.Object, meta); err != nil {
			return nil, err
		}
	}
	return append(unknown, more...), nil
}

// prune drops what the schema does not know, and nulls that stand for nothing.
func (v *version) prune(u *unstructured.Unstructured, list, lenient bool) ([]string, error) {
	s := v.structural()
	if s == nil || v.shapes().tidy(u.Object) {
		return nil, nil
	}
	var unknown []string
	if !v.definition.preserve {
		unknown = pruning.PruneWithOptions(u.Object, s, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: list})
		defaulting.PruneNonNullableNullsWithoutDefaults(u.Object, s)
	}
	err, paths := objectmeta.CoerceWithOptions(nil, u.Object, s, false, objectmeta.CoerceOptions{DropInvalidFields: lenient, ReturnUnknownFieldPaths: list})
	if err != nil {
		return nil, err
	}
	return append(unknown, paths...), nil
}

// complete is the row's Default. What comes in without being read (in process, or made
// by a patch) is pruned here.
func (v *version) complete(u *unstructured.Unstructured) {
	if s := v.structural(); s != nil {
		_, _ = v.prune(u, false, true) // lenient: no errors
		if set := v.shapes().defaults; set != nil {
			set(u.Object)
		}
	}
}

// loaded mends what was stored, maybe under another version or an older schema.
func (v *version) loaded(u *unstructured.Unstructured) {
	u.SetGroupVersionKind(v.gvk())
	v.complete(u)
}

// fromOne is fromAll for one object.
func (v *version) fromOne(o *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	out, err := v.fromAll([]*unstructured.Unstructured{o})
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// from is the object of another version as this one: strategy None changes the
// version's name only. o is not changed.
func (v *version) from(o *unstructured.Unstructured) *unstructured.Unstructured {
	u := o.DeepCopy()
	v.loaded(u)
	return u
}

// deprecation is what users of a deprecated version are told.
func deprecation(d *apiext.CustomResourceDefinition, v *apiext.CustomResourceDefinitionVersion) string {
	if !v.Deprecated {
		return ""
	}
	if v.DeprecationWarning != nil {
		return *v.DeprecationWarning
	}
	text := fmt.Sprintf("%s/%s %s is deprecated", d.Spec.Group, v.Name, d.Spec.Names.Kind)
	var better []string
	for _, o := range d.Spec.Versions {
		if o.Served && !o.Deprecated && kubeversion.CompareKubeAwareVersionStrings(v.Name, o.Name) < 0 {
			better = append(better, o.Name)
		}
	}
	if len(better) == 0 {
		return text
	}
	best := slices.MaxFunc(better, kubeversion.CompareKubeAwareVersionStrings)
	return text + fmt.Sprintf("; use %s/%s %s", d.Spec.Group, best, d.Spec.Names.Kind)
}
