package validate

import (
	admission "k8s.io/api/admissionregistration/v1"
	apimachinery "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

// ValidatingAdmissionPolicyBinding checks policy, actions and parameters.
func ValidatingAdmissionPolicyBinding(o *admission.ValidatingAdmissionPolicyBinding) Errors {
	var e rule.Errors
	policyBinding(&e, o.Spec.PolicyName, o.Spec.ParamRef, o.Spec.MatchResources)
	p, seen := specPath.Child("validationActions"), rule.Unique{}
	for i, a := range o.Spec.ValidationActions {
		rule.Among(&e, p.Index(i), a, admission.Deny, admission.Warn, admission.Audit)
		if seen.Again(string(a)) {
			e.Duplicate(p.Index(i), a)
		}
	}
	if seen[string(admission.Deny)] && seen[string(admission.Warn)] {
		e.Invalid(p, o.Spec.ValidationActions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)")
	}
	if len(seen) == 0 {
		e.Required(p, "at least one validation action is required")
	}
	return e.List()
}
func ValidatingAdmissionPolicyBindingUpdate(o, _ *admission.ValidatingAdmissionPolicyBinding) Errors {
	return ValidatingAdmissionPolicyBinding(o)
}

func policyBinding(e *rule.Errors, policy string, ref *admission.ParamRef, match *admission.MatchResources) {
	if p := specPath.Child("policyName"); policy == "" {
		e.Required(p, "")
	} else {
		e.Each(p, policy, apimachinery.NameIsDNSSubdomain(policy, false))
	}
	paramRef(e, ref, specPath.Child("paramRef"))
	if match != nil {
		matchResources(e, match, specPath.Child("matchResouces")) // upstream's spelling
	}
}

func paramRef(e *rule.Errors, ref *admission.ParamRef, p *field.Path) {
	const both = "name and selector are mutually exclusive"
	if ref == nil {
		return
	}
	if ref.Name != "" {
		e.Each(p.Child("name"), ref.Name, path.ValidatePathSegmentName(ref.Name, false))
		if ref.Selector != nil {
			e.Forbidden(p.Child("name"), both)
		}
	}
	e.Selector(p.Child("selector"), ref.Selector)
	switch {
	case ref.Selector != nil && ref.Name != "":
		e.Forbidden(p.Child("selector"), both)
	case ref.Selector == nil && ref.Name == "":
		e.Required(p, "one of name or selector must be specified")
	}
	if a := ref.ParameterNotFoundAction; a == nil || *a == "" {
		e.Required(p.Child("parameterNotFoundAction"), "")
	} else {
		rule.Among(e, p.Child("parameterNotFoundAction"), *a, admission.DenyAction, admission.AllowAction)
	}
}

// MutatingAdmissionPolicyBinding checks policy and parameters.
func MutatingAdmissionPolicyBinding(o *admission.MutatingAdmissionPolicyBinding) Errors {
	var e rule.Errors
	policyBinding(&e, o.Spec.PolicyName, o.Spec.ParamRef, o.Spec.MatchResources)
	mutatingOperations(&e, o.Spec.MatchResources, specPath.Child("matchResouces"))
	return e.List()
}
func MutatingAdmissionPolicyBindingUpdate(o, _ *admission.MutatingAdmissionPolicyBinding) Errors {
	return MutatingAdmissionPolicyBinding(o)
}
