package validate

import (
	"slices"

	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

// Role checks its rules.
func Role(o *rbac.Role) Errors          { return policyRules(o.Rules, true) }
func RoleUpdate(o, _ *rbac.Role) Errors { return Role(o) }

// ClusterRole checks its rules and what it gathers.
func ClusterRole(o *rbac.ClusterRole) Errors {
	var e rule.Errors
	e.Join(policyRules(o.Rules, false))
	if a := o.AggregationRule; a != nil {
		p := field.NewPath("aggregationRule", "clusterRoleSelectors")
		if len(a.ClusterRoleSelectors) == 0 {
			e.Required(p, "at least one clusterRoleSelector required if aggregationRule is non-nil")
		}
		for i := range a.ClusterRoleSelectors {
			e.Selector(p.Index(i), &a.ClusterRoleSelectors[i])
		}
	}
	return e.List()
}
func ClusterRoleUpdate(o, _ *rbac.ClusterRole) Errors { return ClusterRole(o) }

func policyRules(rules []rbac.PolicyRule, namespaced bool) Errors {
	var e rule.Errors
	for i := range rules {
		r, p := &rules[i], field.NewPath("rules").Index(i)
		if len(r.Verbs) == 0 {
			e.Required(p.Child("verbs"), "verbs must contain at least one value")
		}
		if len(r.NonResourceURLs) > 0 {
			if namespaced {
				e.Invalid(p.Child("nonResourceURLs"), r.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs")
			}
			if len(r.APIGroups) > 0 || len(r.Resources) > 0 || len(r.ResourceNames) > 0 {
				e.Invalid(p.Child("nonResourceURLs"), r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs")
			}
			continue
		}
		if len(r.APIGroups) == 0 {
			e.Required(p.Child("apiGroups"), "resource rules must supply at least one api group")
		}
		if len(r.Resources) == 0 {
			e.Required(p.Child("resources"), "resource rules must supply at least one resource")
		}
	}
	return e.List()
}

// RoleBinding checks role and subjects.
func RoleBinding(o *rbac.RoleBinding) Errors {
	return roleBinding(o.RoleRef, o.Subjects, true)
}

// ClusterRoleBinding checks role and subjects.
func ClusterRoleBinding(o *rbac.ClusterRoleBinding) Errors {
	return roleBinding(o.RoleRef, o.Subjects, false)
}

func roleBinding(ref rbac.RoleRef, subjects []rbac.Subject, namespaced bool) Errors {
	var e rule.Errors
	p := field.NewPath("roleRef")
	if ref.APIGroup != rbac.GroupName {
		e.Add(field.NotSupported(p.Child("apiGroup"), ref.APIGroup, []string{rbac.GroupName}))
	}
	kinds := []string{"ClusterRole"}
	if namespaced {
		kinds = []string{"Role", "ClusterRole"}
	}
	if !slices.Contains(kinds, ref.Kind) {
		e.Add(field.NotSupported(p.Child("kind"), ref.Kind, kinds))
	}
	if ref.Name == "" {
		e.Required(p.Child("name"), "")
	} else {
		e.Each(p.Child("name"), ref.Name, path.ValidatePathSegmentName(ref.Name, false))
	}
	for i := range subjects {
		subject(&e, &subjects[i], namespaced, field.NewPath("subjects").Index(i))
	}
	return e.List()
}

func subject(e *rule.Errors, s *rbac.Subject, namespaced bool, p *field.Path) {
	e.Need(p.Child("name"), s.Name)
	group := func(want string) {
		if s.APIGroup != want {
			e.Add(field.NotSupported(p.Child("apiGroup"), s.APIGroup, []string{want}))
		}
	}
	switch s.Kind {
	case rbac.ServiceAccountKind:
		if s.Name != "" {
			e.Each(p.Child("name"), s.Name, validation.ValidateServiceAccountName(s.Name, false))
		}
		group("")
		if !namespaced {
			e.Need(p.Child("namespace"), s.Namespace)
		}
	case rbac.UserKind, rbac.GroupKind:
		group(rbac.GroupName)
	default:
		e.Add(field.NotSupported(p.Child("kind"), s.Kind, []string{rbac.ServiceAccountKind, rbac.UserKind, rbac.GroupKind}))
	}
}

// RoleBindingUpdate also keeps the role.
func RoleBindingUpdate(o, old *rbac.RoleBinding) Errors {
	return append(RoleBinding(o), roleKept(o.RoleRef, old.RoleRef)...)
}

// ClusterRoleBindingUpdate also keeps the role.
func ClusterRoleBindingUpdate(o, old *rbac.ClusterRoleBinding) Errors {
	return append(ClusterRoleBinding(o), roleKept(o.RoleRef, old.RoleRef)...)
}

func roleKept(is, was rbac.RoleRef) Errors {
	if is != was {
		return Errors{field.Invalid(field.NewPath("roleRef"), is, "cannot change roleRef")}
	}
	return nil
}
