package registry

import (
	"slices"

	admission "k8s.io/api/admissionregistration/v1"
	authn "k8s.io/api/authentication/v1"
	authz "k8s.io/api/authorization/v1"
	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apireg "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"orch/api"
	"orch/server/columns"
	"orch/server/defaults"
	"orch/server/validate"
)

func accessRows() []Resource {
	return []Resource{
		Row(api.Roles, Hooks[rbac.Role]{
			Validate: validate.Role, ValidateUpdate: validate.RoleUpdate,
			Columns: columns.Role(), NameRule: namePathSegment, CreateOnUpdate: true}),
		Row(api.RoleBindings, Hooks[rbac.RoleBinding]{
			Validate: validate.RoleBinding, ValidateUpdate: validate.RoleBindingUpdate,
			Default: defaults.RoleBinding, Columns: columns.RoleBinding(), NameRule: namePathSegment, CreateOnUpdate: true}),
		Row(api.ClusterRoles, Hooks[rbac.ClusterRole]{
			Validate: validate.ClusterRole, ValidateUpdate: validate.ClusterRoleUpdate,
			Columns: columns.ClusterRole(), NameRule: namePathSegment, CreateOnUpdate: true}),
		Row(api.ClusterRoleBindings, Hooks[rbac.ClusterRoleBinding]{
			Validate: validate.ClusterRoleBinding, ValidateUpdate: validate.ClusterRoleBindingUpdate,
			Default: defaults.ClusterRoleBinding, Columns: columns.ClusterRoleBinding(), NameRule: namePathSegment, CreateOnUpdate: true}),
		Row(api.TokenReviews, Hooks[authn.TokenReview]{}),
		Row(api.SelfSubjectReviews, Hooks[authn.SelfSubjectReview]{}),
		Row(api.SubjectAccessReviews, Hooks[authz.SubjectAccessReview]{}),
		Row(api.SelfSubjectAccessReviews, Hooks[authz.SelfSubjectAccessReview]{}),
		Row(api.SelfSubjectRulesReviews, Hooks[authz.SelfSubjectRulesReview]{}),
		Row(api.LocalSubjectAccessReviews, Hooks[authz.LocalSubjectAccessReview]{}),
	}
}

func admissionRows() []Resource {
	return []Resource{
		Row(api.MutatingWebhookConfigurations, Hooks[admission.MutatingWebhookConfiguration]{
			Validate: validate.MutatingWebhookConfiguration, ValidateUpdate: validate.MutatingWebhookConfigurationUpdate,
			Default: defaults.MutatingWebhookConfiguration, Columns: columns.MutatingWebhookConfiguration(), Generation: GenerationAlways, ForbidUnconditional: true}),
		Row(api.ValidatingWebhookConfigurations, Hooks[admission.ValidatingWebhookConfiguration]{
			Validate: validate.ValidatingWebhookConfiguration, ValidateUpdate: validate.ValidatingWebhookConfigurationUpdate,
			Default: defaults.ValidatingWebhookConfiguration, Columns: columns.ValidatingWebhookConfiguration(), Generation: GenerationAlways, ForbidUnconditional: true}),
		Row(api.ValidatingAdmissionPolicies, Hooks[admission.ValidatingAdmissionPolicy]{
			Validate: validate.ValidatingAdmissionPolicy, ValidateUpdate: validate.ValidatingAdmissionPolicyUpdate,
			ValidateStatus: validate.ValidatingAdmissionPolicyStatus,
			Default:        defaults.ValidatingAdmissionPolicy, Columns: columns.ValidatingAdmissionPolicy(), ForbidUnconditional: true}),
		Row(api.ValidatingAdmissionPolicyBindings, Hooks[admission.ValidatingAdmissionPolicyBinding]{
			Validate: validate.ValidatingAdmissionPolicyBinding, ValidateUpdate: validate.ValidatingAdmissionPolicyBindingUpdate,
			Default: defaults.ValidatingAdmissionPolicyBinding, Columns: columns.ValidatingAdmissionPolicyBinding(), Generation: GenerationAlways, ForbidUnconditional: true}),
		Row(api.MutatingAdmissionPolicies, Hooks[admission.MutatingAdmissionPolicy]{
			Validate: validate.MutatingAdmissionPolicy, ValidateUpdate: validate.MutatingAdmissionPolicyUpdate,
			Default: defaults.MutatingAdmissionPolicy, Columns: columns.MutatingAdmissionPolicy(), ForbidUnconditional: true}),
		Row(api.MutatingAdmissionPolicyBindings, Hooks[admission.MutatingAdmissionPolicyBinding]{
			Validate: validate.MutatingAdmissionPolicyBinding, ValidateUpdate: validate.MutatingAdmissionPolicyBindingUpdate,
			Default: defaults.MutatingAdmissionPolicyBinding, Columns: columns.MutatingAdmissionPolicyBinding(), Generation: GenerationAlways, ForbidUnconditional: true}),
		Row(api.CustomResourceDefinitions, Hooks[apiext.CustomResourceDefinition]{
			Validate: validate.NewCustomResourceDefinition, ValidateUpdate: validate.CustomResourceDefinitionUpdate, Ratchets: true, ValidateStatus: validate.CustomResourceDefinitionStatus,
			Default: defaults.CustomResourceDefinition, Columns: columns.CustomResourceDefinition(), ForbidUnconditional: true,
			PrepareCreate: noteStoredVersion,
			PrepareUpdate: func(o, _ *apiext.CustomResourceDefinition) { noteStoredVersion(o) },
			Held:          func(o *apiext.CustomResourceDefinition) bool { return o.DeletionTimestamp == nil },
			MarkDeleting:  beginCleanup,
		}),
		Row(api.APIServices, Hooks[apireg.APIService]{
			Validate: validate.APIService, ValidateUpdate: validate.APIServiceUpdate, ValidateStatus: validate.APIServiceStatus,
			Default: defaults.APIService, Columns: columns.APIService(), NameRule: namePathSegment, Generation: GenerationNever, ForbidUnconditional: true,
			PrepareCreate: localIsAvailable}),
	}
}

// beginCleanup holds a definition that is being deleted until its instances are gone:
// see server/crd.
func beginCleanup(o *apiext.CustomResourceDefinition) {
	if !slices.Contains(o.Finalizers, apiext.CustomResourceCleanupFinalizer) {
		o.Finalizers = append(o.Finalizers, apiext.CustomResourceCleanupFinalizer)
	}
	apihelpers.SetCRDCondition(o, apiext.CustomResourceDefinitionCondition{
		Type: apiext.Terminating, Status: apiext.ConditionTrue, Reason: "InstanceDeletionPending",
		Message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
	})
}

// noteStoredVersion adds the version that objects are stored in to the list of
// all versions that were ever stored.
func noteStoredVersion(o *apiext.CustomResourceDefinition) {
	for _, v := range o.Spec.Versions {
		if v.Storage && !slices.Contains(o.Status.StoredVersions, v.Name) {
			o.Status.StoredVersions = append(o.Status.StoredVersions, v.Name)
		}
	}
}

// localIsAvailable says at once what is true of versions that this server answers for.
func localIsAvailable(o *apireg.APIService) {
	if o.Spec.Service == nil {
		o.Status.Conditions = []apireg.APIServiceCondition{{Type: apireg.Available, Status: apireg.ConditionTrue, LastTransitionTime: metav1.Now(),
			Reason: "Local", Message: "Local APIServices are always available"}}
	}
}
