package api

import (
	admission "k8s.io/api/admissionregistration/v1"
	authn "k8s.io/api/authentication/v1"
	authz "k8s.io/api/authorization/v1"
	rbac "k8s.io/api/rbac/v1"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apireg "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

var (
	rbacV1, authnV1, authzV1 = rbac.SchemeGroupVersion, authn.SchemeGroupVersion, authz.SchemeGroupVersion
	admissionV1, apiextV1    = admission.SchemeGroupVersion, apiext.SchemeGroupVersion
)

// Kinds of rbac.authorization.k8s.io/v1.
var (
	Roles               = kind[rbac.Role, rbac.RoleList](rbacV1, "Role", Facts{Plural: "roles"})
	RoleBindings        = kind[rbac.RoleBinding, rbac.RoleBindingList](rbacV1, "RoleBinding", Facts{Plural: "rolebindings"})
	ClusterRoles        = kind[rbac.ClusterRole, rbac.ClusterRoleList](rbacV1, "ClusterRole", Facts{Plural: "clusterroles", Cluster: true})
	ClusterRoleBindings = kind[rbac.ClusterRoleBinding, rbac.ClusterRoleBindingList](rbacV1, "ClusterRoleBinding", Facts{Plural: "clusterrolebindings", Cluster: true})
)

// Reviews: authentication.k8s.io/v1 and authorization.k8s.io/v1.
var (
	TokenReviews              = kind[authn.TokenReview, noList](authnV1, "TokenReview", Facts{Plural: "tokenreviews", Cluster: true, Computed: true})
	SelfSubjectReviews        = kind[authn.SelfSubjectReview, noList](authnV1, "SelfSubjectReview", Facts{Plural: "selfsubjectreviews", Cluster: true, Computed: true})
	SubjectAccessReviews      = kind[authz.SubjectAccessReview, noList](authzV1, "SubjectAccessReview", Facts{Plural: "subjectaccessreviews", Cluster: true, Computed: true})
	SelfSubjectAccessReviews  = kind[authz.SelfSubjectAccessReview, noList](authzV1, "SelfSubjectAccessReview", Facts{Plural: "selfsubjectaccessreviews", Cluster: true, Computed: true})
	SelfSubjectRulesReviews   = kind[authz.SelfSubjectRulesReview, noList](authzV1, "SelfSubjectRulesReview", Facts{Plural: "selfsubjectrulesreviews", Cluster: true, Computed: true})
	LocalSubjectAccessReviews = kind[authz.LocalSubjectAccessReview, noList](authzV1, "LocalSubjectAccessReview", Facts{Plural: "localsubjectaccessreviews", Computed: true})
)

// Kinds of admissionregistration.k8s.io/v1 and apiextensions.k8s.io/v1.
var (
	MutatingWebhookConfigurations     = kind[admission.MutatingWebhookConfiguration, admission.MutatingWebhookConfigurationList](admissionV1, "MutatingWebhookConfiguration", Facts{Plural: "mutatingwebhookconfigurations", Categories: words("api-extensions"), Cluster: true})
	ValidatingWebhookConfigurations   = kind[admission.ValidatingWebhookConfiguration, admission.ValidatingWebhookConfigurationList](admissionV1, "ValidatingWebhookConfiguration", Facts{Plural: "validatingwebhookconfigurations", Categories: words("api-extensions"), Cluster: true})
	ValidatingAdmissionPolicies       = kind[admission.ValidatingAdmissionPolicy, admission.ValidatingAdmissionPolicyList](admissionV1, "ValidatingAdmissionPolicy", Facts{Plural: "validatingadmissionpolicies", Categories: words("api-extensions"), Cluster: true, Status: true})
	ValidatingAdmissionPolicyBindings = kind[admission.ValidatingAdmissionPolicyBinding, admission.ValidatingAdmissionPolicyBindingList](admissionV1, "ValidatingAdmissionPolicyBinding", Facts{Plural: "validatingadmissionpolicybindings", Categories: words("api-extensions"), Cluster: true})
	MutatingAdmissionPolicies         = kind[admission.MutatingAdmissionPolicy, admission.MutatingAdmissionPolicyList](admissionV1, "MutatingAdmissionPolicy", Facts{Plural: "mutatingadmissionpolicies", Categories: words("api-extensions"), Cluster: true})
	MutatingAdmissionPolicyBindings   = kind[admission.MutatingAdmissionPolicyBinding, admission.MutatingAdmissionPolicyBindingList](admissionV1, "MutatingAdmissionPolicyBinding", Facts{Plural: "mutatingadmissionpolicybindings", Categories: words("api-extensions"), Cluster: true})
	CustomResourceDefinitions         = kind[apiext.CustomResourceDefinition, apiext.CustomResourceDefinitionList](apiextV1, "CustomResourceDefinition", Facts{Plural: "customresourcedefinitions", Short: words("crd", "crds"), Categories: words("api-extensions"), Cluster: true, Status: true, Path: "apiextensions.k8s.io/customresourcedefinitions"})
)

// APIServices are the kind of apiregistration.k8s.io/v1: which server answers for a group's version.
var APIServices = kind[apireg.APIService, apireg.APIServiceList](apireg.SchemeGroupVersion, "APIService",
	Facts{Plural: "apiservices", Categories: words("api-extensions"), Cluster: true, Status: true, Path: "apiregistration.k8s.io/apiservices"})

var accessKinds = []*Facts{
	Roles.Facts, RoleBindings.Facts, ClusterRoles.Facts, ClusterRoleBindings.Facts,
	TokenReviews.Facts, SelfSubjectReviews.Facts, SubjectAccessReviews.Facts, SelfSubjectAccessReviews.Facts, SelfSubjectRulesReviews.Facts, LocalSubjectAccessReviews.Facts,
	MutatingWebhookConfigurations.Facts, ValidatingWebhookConfigurations.Facts, ValidatingAdmissionPolicies.Facts, ValidatingAdmissionPolicyBindings.Facts,
	MutatingAdmissionPolicies.Facts, MutatingAdmissionPolicyBindings.Facts, CustomResourceDefinitions.Facts, APIServices.Facts,
}
