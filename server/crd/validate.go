package crd

import (
	"context"
	"fmt"
	"math"
	"strings"

	core "k8s.io/api/core/v1"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/cel/common"
)

// validate checks a new object: schema, scale, embedded metadata, list types, then rules.
func (v *version) validate(u *unstructured.Unstructured) field.ErrorList {
	ctx := context.Background() // what rules may cost is bounded
	var errs field.ErrorList
	if !v.shapes().whole(u.Object) {
		errs = validation.ValidateCustomResource(nil, u.Object, v.validators().whole)
	}
	errs = append(errs, v.scaleSpec(u)...)
	errs = append(errs, v.scaleStatus(u)...)
	errs = append(errs, v.embedded(ctx, u)...)
	errs = append(errs, v.listTypes(u, nil)...)
	return v.andRules(ctx, errs, u.Object, nil)
}

// validateUpdate checks a changed object. What was wrong before and is unchanged passes.
func (v *version) validateUpdate(u, old *unstructured.Unstructured) field.ErrorList {
	ctx, s := context.Background(), v.structural()
	var errs field.ErrorList
	var same *common.CorrelatedObject
	switch {
	case s == nil:
		errs = validation.ValidateCustomResource(nil, u.Object, v.validators().whole)
	case v.shapes().whole(u.Object):
		same = common.NewCorrelatedObject(u.Object, old.Object, &model.Structural{Structural: s})
	default:
		same = common.NewCorrelatedObject(u.Object, old.Object, &model.Structural{Structural: s})
		errs = validation.ValidateCustomResourceUpdate(nil, u.Object, old.Object, v.validators().whole, validation.WithRatcheting(same))
	}
	errs = append(errs, v.scaleSpec(u)...)
	errs = append(errs, v.scaleStatus(u)...)
	errs = append(errs, v.embedded(ctx, u)...)
	errs = append(errs, v.listTypes(u, old)...)
	return v.andRules(ctx, errs, u.Object, old.Object, ratchet(same)...)
}

// validateStatus checks a write of the status.
func (v *version) validateStatus(u, old *unstructured.Unstructured) field.ErrorList {
	ctx, s := context.Background(), v.structural()
	var errs field.ErrorList
	var same *common.CorrelatedObject
	var options []validation.ValidationOption
	if s != nil {
		same = common.NewCorrelatedObject(u.Object, old.Object, &model.Structural{Structural: s})
		options = append(options, validation.WithRatcheting(same.Key("status")))
	}
	if status, ok := u.Object["status"]; ok && !v.shapes().status(status) {
		errs = validation.ValidateCustomResourceUpdate(field.NewPath("status"), status, old.Object["status"], v.validators().status, options...)
	}
	errs = append(errs, v.scaleStatus(u)...)
	errs = append(errs, v.listTypes(u, old)...)
	return v.andRules(ctx, errs, u.Object, old.Object, ratchet(same)...)
}

func ratchet(same *common.CorrelatedObject) []cel.Option {
	if same == nil {
		return nil
	}
	return []cel.Option{cel.WithRatcheting(same)}
}

// embedded checks the metadata of objects inside the object.
func (v *version) embedded(ctx context.Context, u *unstructured.Unstructured) field.ErrorList {
	if !v.shapes().embeds {
		return nil
	}
	return objectmeta.Validate(ctx, nil, u.Object, v.structural(), false)
}

// listTypes checks sets and maps, unless the old object, if there is one, broke them as well.
func (v *version) listTypes(u, old *unstructured.Unstructured) field.ErrorList {
	if !v.shapes().lists {
		return nil
	}
	errs := listtype.ValidateListSetsAndMaps(nil, v.structural(), u.Object)
	if len(errs) > 0 && old != nil && len(listtype.ValidateListSetsAndMaps(nil, v.structural(), old.Object)) > 0 {
		return nil
	}
	return errs
}

// andRules asks the rules, which take a value of the right shape for granted.
func (v *version) andRules(ctx context.Context, errs field.ErrorList, obj, old map[string]any, o ...cel.Option) field.ErrorList {
	rules := v.rules()
	if rules == nil {
		return errs
	}
	for _, e := range errs {
		switch e.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
			return append(errs, field.Invalid(nil, nil, "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"))
		}
	}
	var was any
	if old != nil {
		was = old
	}
	more, _ := rules.Validate(ctx, nil, v.structural(), obj, was, ruleObjectCost, o...)
	return append(errs, more...)
}

func (v *version) scale() *apiext.CustomResourceSubresourceScale {
	if v.spec.Subresources == nil {
		return nil
	}
	return v.spec.Subresources.Scale
}

func (v *version) scaleSpec(u *unstructured.Unstructured) field.ErrorList {
	if s := v.scale(); s != nil {
		return replicasAt(u, s.SpecReplicasPath)
	}
	return nil
}

func (v *version) scaleStatus(u *unstructured.Unstructured) field.ErrorList {
	s := v.scale()
	if s == nil {
		return nil
	}
	errs := replicasAt(u, s.StatusReplicasPath)
	if p := s.LabelSelectorPath; p != nil {
		if text, _, err := unstructured.NestedString(u.Object, steps(*p)...); err != nil {
			errs = append(errs, field.Invalid(field.NewPath(*p), text, err.Error()))
		}
	}
	return errs
}

func replicasAt(u *unstructured.Unstructured, path string) field.ErrorList {
	n, _, err := unstructured.NestedInt64(u.Object, steps(path)...)
	switch at := field.NewPath(path); {
	case err != nil:
		return field.ErrorList{field.Invalid(at, n, err.Error())}
	case n < 0:
		return field.ErrorList{field.Invalid(at, n, "should be a non-negative integer")}
	case n > math.MaxInt32:
		return field.ErrorList{field.Invalid(at, n, fmt.Sprintf("should be less than or equal to %v", math.MaxInt32))}
	}
	return nil
}

// steps splits a path such as .spec.replicas.
func steps(path string) []string { return strings.Split(strings.TrimPrefix(path, "."), ".") }

// warn tells of finalizers that others may mistake for their own.
func warn(u, old *unstructured.Unstructured) []string {
	var known []string
	if old != nil {
		known = old.GetFinalizers()
	}
	var out []string
	at := field.NewPath("metadata", "finalizers")
next:
	for _, f := range u.GetFinalizers() {
		for _, k := range known {
			if f == k {
				continue next
			}
		}
		for _, m := range utilvalidation.IsQualifiedName(f) {
			out = append(out, fmt.Sprintf("%s: %q: %s", at, f, m))
		}
		switch {
		case strings.Contains(f, "/"), f == metav1.FinalizerOrphanDependents, f == metav1.FinalizerDeleteDependents, f == string(core.FinalizerKubernetes):
		case strings.Contains(f, "."):
			out = append(out, fmt.Sprintf("%s: %q: prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers", at, f))
		default:
			out = append(out, fmt.Sprintf("%s: %q: prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers", at, f))
		}
	}
	return out
}
