package registry

import (
	certificates "k8s.io/api/certificates/v1"
	coordination "k8s.io/api/coordination/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	node "k8s.io/api/node/v1"
	policy "k8s.io/api/policy/v1"
	scheduling "k8s.io/api/scheduling/v1"
	storage "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/fields"

	"orch/api"
	"orch/server/columns"
	"orch/server/defaults"
	"orch/server/validate"
)

func networkRows() []Resource {
	return []Resource{
		Row(api.Ingresses, Hooks[networking.Ingress]{
			Validate: validate.Ingress, ValidateUpdate: validate.IngressUpdate, ValidateStatus: validate.IngressStatus, Warn: validate.IngressWarnings,
			Columns: columns.Ingress()}),
		Row(api.IngressClasses, Hooks[networking.IngressClass]{
			Validate: validate.IngressClass, ValidateUpdate: validate.IngressClassUpdate,
			Default: defaults.IngressClass, Columns: columns.IngressClass(), Generation: GenerationAlways}),
		Row(api.NetworkPolicies, Hooks[networking.NetworkPolicy]{
			Validate: validate.NetworkPolicy, ValidateUpdate: validate.NetworkPolicyUpdate,
			Default: defaults.NetworkPolicy, Columns: columns.NetworkPolicy(), Generation: GenerationAlways}),
		Row(api.IPAddresses, Hooks[networking.IPAddress]{NameRule: validate.IPAddressName,
			Validate: validate.IPAddress, ValidateUpdate: validate.IPAddressUpdate,
			Columns: columns.IPAddress()}),
		Row(api.ServiceCIDRs, Hooks[networking.ServiceCIDR]{
			Validate: validate.ServiceCIDR, ValidateUpdate: validate.ServiceCIDRUpdate,
			Columns: columns.ServiceCIDR(), Generation: GenerationNever}),
		Row(api.EndpointSlices, Hooks[discovery.EndpointSlice]{
			Validate: validate.EndpointSlice, ValidateUpdate: validate.EndpointSliceUpdate,
			Default: defaults.EndpointSlice, Columns: columns.EndpointSlice(), Generation: GenerationAlways}),
	}
}

func storageRows() []Resource {
	return []Resource{
		Row(api.StorageClasses, Hooks[storage.StorageClass]{
			Validate: validate.StorageClass, ValidateUpdate: validate.StorageClassUpdate,
			Default: defaults.StorageClass, Columns: columns.StorageClass(), ReturnDeleted: true}),
		Row(api.VolumeAttachments, Hooks[storage.VolumeAttachment]{
			Validate: validate.VolumeAttachment, ValidateUpdate: validate.VolumeAttachmentUpdate,
			Columns: columns.VolumeAttachment(), Generation: GenerationNever, ReturnDeleted: true, ForbidUnconditional: true}),
		Row(api.CSIDrivers, Hooks[storage.CSIDriver]{
			Validate: validate.CSIDriver, ValidateUpdate: validate.CSIDriverUpdate,
			Default: defaults.CSIDriver, Columns: columns.CSIDriver(), Generation: GenerationAlways, ReturnDeleted: true, ForbidUnconditional: true}),
		Row(api.CSINodes, Hooks[storage.CSINode]{
			Validate: validate.CSINode, ValidateUpdate: validate.CSINodeUpdate,
			Columns: columns.CSINode(), ReturnDeleted: true, ForbidUnconditional: true}),
		Row(api.CSIStorageCapacities, Hooks[storage.CSIStorageCapacity]{
			Validate: validate.CSIStorageCapacity, ValidateUpdate: validate.CSIStorageCapacityUpdate,
			Columns: columns.CSIStorageCapacity(), ForbidUnconditional: true}),
		Row(api.VolumeAttributesClasses, Hooks[storage.VolumeAttributesClass]{
			Validate: validate.VolumeAttributesClass, ValidateUpdate: validate.VolumeAttributesClassUpdate,
			Columns: columns.VolumeAttributesClass()}),
	}
}

func clusterRows() []Resource {
	return []Resource{
		Row(api.PodDisruptionBudgets, Hooks[policy.PodDisruptionBudget]{
			Validate: validate.PodDisruptionBudget, ValidateUpdate: validate.PodDisruptionBudgetUpdate, ValidateStatus: validate.PodDisruptionBudgetStatus,
			Columns: columns.PodDisruptionBudget(), ForbidUnconditional: true}),
		Row(api.Leases, Hooks[coordination.Lease]{
			Validate: validate.Lease, ValidateUpdate: validate.LeaseUpdate,
			Columns: columns.Lease(), CreateOnUpdate: true, ForbidUnconditional: true, Lazy: true}),
		eventV1Row(),
		Row(api.PriorityClasses, Hooks[scheduling.PriorityClass]{
			Validate: validate.PriorityClass, ValidateUpdate: validate.PriorityClassUpdate,
			Default: defaults.PriorityClass, Columns: columns.PriorityClass()}),
		Row(api.RuntimeClasses, Hooks[node.RuntimeClass]{
			Validate: validate.RuntimeClass, ValidateUpdate: validate.RuntimeClassUpdate, Warn: validate.RuntimeClassWarnings,
			Columns: columns.RuntimeClass(), ForbidUnconditional: true}),
		Row(api.CertificateSigningRequests, Hooks[certificates.CertificateSigningRequest]{
			Validate: validate.CertificateSigningRequest, ValidateUpdate: validate.CertificateSigningRequestUpdate, ValidateStatus: validate.CertificateSigningRequestStatus,
			Columns: columns.CertificateSigningRequest(), Generation: GenerationNever,
			PrepareUpdate: func(o, old *certificates.CertificateSigningRequest) { o.Spec = old.Spec },
			PrepareStatus: keepDecision,
			Subs: map[string]Sub[certificates.CertificateSigningRequest]{"approval": {
				Prepare: func(o, old *certificates.CertificateSigningRequest) {
					o.Spec, o.Status.Certificate = old.Spec, old.Status.Certificate
				},
				Validate: validate.CertificateSigningRequestApproval,
			}},
			FieldNames: []string{"spec.signerName"},
			Fields: func(o *certificates.CertificateSigningRequest) fields.Set {
				return fields.Set{"spec.signerName": o.Spec.SignerName}
			},
		}),
	}
}

// keepDecision keeps approval and denial, which only the approval subresource
// may write, in a write of the status.
func keepDecision(o, old *certificates.CertificateSigningRequest) {
	decision := func(c certificates.CertificateSigningRequestCondition) bool {
		return c.Type == certificates.CertificateApproved || c.Type == certificates.CertificateDenied
	}
	var kept []certificates.CertificateSigningRequestCondition
	for _, c := range old.Status.Conditions {
		if decision(c) {
			kept = append(kept, c)
		}
	}
	for _, c := range o.Status.Conditions {
		if !decision(c) {
			kept = append(kept, c)
		}
	}
	o.Status.Conditions = kept
}
