package columns

import (
	"strings"

	admission "k8s.io/api/admissionregistration/v1"
	rbac "k8s.io/api/rbac/v1"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apireg "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// Role shows when it was made.
func Role() []Column[rbac.Role] { return list(name[rbac.Role](), createdAt[rbac.Role]()) }

// ClusterRole shows when it was made.
func ClusterRole() []Column[rbac.ClusterRole] {
	return list(name[rbac.ClusterRole](), createdAt[rbac.ClusterRole]())
}

// RoleBinding shows role and subjects.
func RoleBinding() []Column[rbac.RoleBinding] {
	type b = rbac.RoleBinding
	return binding(rbac.RoleBinding{}.SwaggerDoc()["roleRef"], func(o *b) (rbac.RoleRef, []rbac.Subject) { return o.RoleRef, o.Subjects })
}

// ClusterRoleBinding shows role and subjects.
func ClusterRoleBinding() []Column[rbac.ClusterRoleBinding] {
	type b = rbac.ClusterRoleBinding
	return binding(rbac.ClusterRoleBinding{}.SwaggerDoc()["roleRef"], func(o *b) (rbac.RoleRef, []rbac.Subject) { return o.RoleRef, o.Subjects })
}

func binding[P any](about string, of func(P) (rbac.RoleRef, []rbac.Subject)) []Of[P] {
	who := func(kind string) func(P) string {
		return func(o P) string {
			_, subjects := of(o)
			var words []string
			for _, s := range subjects {
				switch {
				case s.Kind != kind:
				case kind == rbac.ServiceAccountKind:
					words = append(words, s.Namespace+"/"+s.Name)
				default:
					words = append(words, s.Name)
				}
			}
			return strings.Join(words, ", ")
		}
	}
	return list(
		nameOf[P](),
		text("Role", about, func(o P) string {
			ref, _ := of(o)
			return ref.Kind + "/" + ref.Name
		}),
		ageOf[P](),
		wide(text("Users", "Users in the binding", who(rbac.UserKind))),
		wide(text("Groups", "Groups in the binding", who(rbac.GroupKind))),
		wide(text("ServiceAccounts", "ServiceAccounts in the binding", who(rbac.ServiceAccountKind))),
	)
}

// ValidatingWebhookConfiguration counts webhooks.
func ValidatingWebhookConfiguration() []Column[admission.ValidatingWebhookConfiguration] {
	type w = admission.ValidatingWebhookConfiguration
	return list(name[w](), number("Webhooks", "Webhooks indicates the number of webhooks registered in this configuration", func(o *w) int { return len(o.Webhooks) }), age[w]())
}

// MutatingWebhookConfiguration counts webhooks.
func MutatingWebhookConfiguration() []Column[admission.MutatingWebhookConfiguration] {
	type w = admission.MutatingWebhookConfiguration
	return list(name[w](), number("Webhooks", "Webhooks indicates the number of webhooks registered in this configuration", func(o *w) int { return len(o.Webhooks) }), age[w]())
}

// ValidatingAdmissionPolicy counts validations.
func ValidatingAdmissionPolicy() []Column[admission.ValidatingAdmissionPolicy] {
	type p = admission.ValidatingAdmissionPolicy
	return list(
		name[p](),
		number("Validations", "Validations indicates the number of validation rules defined in this configuration", func(o *p) int { return len(o.Spec.Validations) }),
		text("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy", func(o *p) string { return paramKind(o.Spec.ParamKind) }),
		age[p](),
	)
}

// MutatingAdmissionPolicy counts mutations.
func MutatingAdmissionPolicy() []Column[admission.MutatingAdmissionPolicy] {
	type p = admission.MutatingAdmissionPolicy
	return list(
		name[p](),
		number("Mutations", "Mutation indicates the number of mutations rules defined in this configuration", func(o *p) int { return len(o.Spec.Mutations) }),
		text("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy", func(o *p) string { return paramKind(o.Spec.ParamKind) }),
		age[p](),
	)
}

// ValidatingAdmissionPolicyBinding shows the policy.
func ValidatingAdmissionPolicyBinding() []Column[admission.ValidatingAdmissionPolicyBinding] {
	type b = admission.ValidatingAdmissionPolicyBinding
	return policyBinding(func(o *b) (string, *admission.ParamRef) { return o.Spec.PolicyName, o.Spec.ParamRef })
}

// MutatingAdmissionPolicyBinding shows the policy.
func MutatingAdmissionPolicyBinding() []Column[admission.MutatingAdmissionPolicyBinding] {
	type b = admission.MutatingAdmissionPolicyBinding
	return policyBinding(func(o *b) (string, *admission.ParamRef) { return o.Spec.PolicyName, o.Spec.ParamRef })
}

func policyBinding[P any](of func(P) (string, *admission.ParamRef)) []Of[P] {
	return list(
		nameOf[P](),
		text("PolicyName", "PolicyName indicates the policy definition which the policy binding binded to", func(o P) string {
			policy, _ := of(o)
			return policy
		}),
		text("ParamRef", "ParamRef indicates the param resource which sets the configration param", func(o P) string {
			_, ref := of(o)
			switch {
			case ref == nil:
				return unset
			case ref.Name != "" && ref.Namespace != "":
				return ref.Namespace + "/" + ref.Name
			case ref.Name != "":
				return ref.Name
			case ref.Selector != nil:
				return metav1.FormatLabelSelector(ref.Selector)
			}
			return "*"
		}),
		ageOf[P](),
	)
}

func paramKind(k *admission.ParamKind) string {
	if k == nil {
		return unset
	}
	return k.APIVersion + "/" + k.Kind
}

// CustomResourceDefinition shows when it was made.
func CustomResourceDefinition() []Column[apiext.CustomResourceDefinition] {
	type c = apiext.CustomResourceDefinition
	return list(name[c](), createdAt[c]())
}

// APIService shows who answers, and whether they do.
func APIService() []Column[apireg.APIService] {
	type a = apireg.APIService
	return list(
		name[a](),
		text("Service", "The reference to the service that hosts this API endpoint.", func(o *a) string {
			if s := o.Spec.Service; s != nil {
				return s.Namespace + "/" + s.Name
			}
			return "Local"
		}),
		text("Available", "Whether this service is available.", func(o *a) string {
			for _, c := range o.Status.Conditions {
				switch {
				case c.Type != apireg.Available:
				case c.Status == apireg.ConditionTrue || c.Reason == "":
					return string(c.Status)
				default:
					return string(c.Status) + " (" + c.Reason + ")"
				}
			}
			return string(apireg.ConditionUnknown)
		}),
		age[a](),
	)
}
