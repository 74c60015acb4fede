package registry

import (
	"slices"

	certificates "k8s.io/api/certificates/v1"
	flowcontrol "k8s.io/api/flowcontrol/v1"
	resource "k8s.io/api/resource/v1"
	migration "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/fields"

	"orch/api"
	"orch/server/columns"
	"orch/server/defaults"
	"orch/server/validate"
	"orch/server/validate/device"
	"orch/server/validate/flow"
	"orch/server/validate/trust"
)

func resourceRows() []Resource {
	return []Resource{
		Row(api.DeviceClasses, Hooks[resource.DeviceClass]{
			Validate: device.Class, ValidateUpdate: device.ClassUpdate, Generation: GenerationAlways}),
		Row(api.DeviceTaintRules, Hooks[resource.DeviceTaintRule]{
			Columns: columns.DeviceTaintRule(), Validate: device.TaintRule, ValidateUpdate: device.TaintRuleUpdate, ValidateStatus: device.TaintRuleStatus}),
		Row(api.ResourceClaims, Hooks[resource.ResourceClaim]{
			Default: defaults.ResourceClaim, Columns: columns.ResourceClaim(), Generation: GenerationNever,
			Validate: device.Claim, ValidateUpdate: device.ClaimUpdate, ValidateStatus: device.ClaimStatus,
			PrepareStatus: keepStatusOfAllocated}),
		Row(api.ResourceClaimTemplates, Hooks[resource.ResourceClaimTemplate]{
			Default: defaults.ResourceClaimTemplate, Generation: GenerationNever,
			Validate: device.ClaimTemplate, ValidateUpdate: device.ClaimTemplateUpdate}),
		Row(api.ResourceSlices, Hooks[resource.ResourceSlice]{
			Columns: columns.ResourceSlice(), Generation: GenerationAlways,
			Validate: device.Slice, ValidateUpdate: device.SliceUpdate,
			FieldNames: []string{resource.ResourceSliceSelectorNodeName, resource.ResourceSliceSelectorDriver, resource.ResourceSliceSelectorPoolName},
			Fields: func(o *resource.ResourceSlice) fields.Set {
				set := fields.Set{resource.ResourceSliceSelectorNodeName: "", resource.ResourceSliceSelectorDriver: o.Spec.Driver, resource.ResourceSliceSelectorPoolName: o.Spec.Pool.Name}
				if o.Spec.NodeName != nil {
					set[resource.ResourceSliceSelectorNodeName] = *o.Spec.NodeName
				}
				return set
			}}),
	}
}

// keepStatusOfAllocated forgets what drivers said of devices that the claim no longer
// has, so that who takes an allocation back need not know what drivers write.
func keepStatusOfAllocated(o, old *resource.ResourceClaim) {
	given := func(s *resource.ResourceClaimStatus, d *resource.AllocatedDeviceStatus) bool {
		return s.Allocation != nil && slices.ContainsFunc(s.Allocation.Devices.Results, func(r resource.DeviceRequestAllocationResult) bool {
			return r.Driver == d.Driver && r.Pool == d.Pool && r.Device == d.Device && equality.Semantic.DeepEqual((*string)(r.ShareID), d.ShareID)
		})
	}
	left := slices.DeleteFunc(slices.Clone(o.Status.Devices), func(d resource.AllocatedDeviceStatus) bool {
		return given(&old.Status, &d) && !given(&o.Status, &d)
	})
	if o.Status.Devices = left; len(left) == 0 {
		o.Status.Devices = nil
	}
}

func trustRows() []Resource {
	return []Resource{
		Row(api.ClusterTrustBundles, Hooks[certificates.ClusterTrustBundle]{
			NameRule: trust.BundleName, Validate: trust.Bundle, ValidateUpdate: trust.BundleUpdate,
			Columns: columns.ClusterTrustBundle(), Generation: GenerationNever, ForbidUnconditional: true,
			FieldNames: []string{"spec.signerName"},
			Fields: func(o *certificates.ClusterTrustBundle) fields.Set {
				return fields.Set{"spec.signerName": o.Spec.SignerName}
			}}),
		Row(api.PodCertificateRequests, Hooks[certificates.PodCertificateRequest]{
			Default: defaults.PodCertificateRequest, Columns: columns.PodCertificateRequest(), Generation: GenerationNever, ForbidUnconditional: true,
			Validate: trust.PodRequest, ValidateUpdate: trust.PodRequestUpdate, ValidateStatus: trust.PodRequestStatus,
			FieldNames: []string{"spec.signerName", "spec.podName", "spec.nodeName"},
			Fields: func(o *certificates.PodCertificateRequest) fields.Set {
				return fields.Set{"spec.signerName": o.Spec.SignerName, "spec.podName": o.Spec.PodName, "spec.nodeName": string(o.Spec.NodeName)}
			}}),
		Row(api.FlowSchemas, Hooks[flowcontrol.FlowSchema]{
			Default: defaults.FlowSchema, Columns: columns.FlowSchema(), TableOrder: columns.ByPrecedence,
			Validate: flow.Schema, ValidateUpdate: flow.SchemaUpdate, ValidateStatus: flow.SchemaStatus}),
		Row(api.PriorityLevelConfigurations, Hooks[flowcontrol.PriorityLevelConfiguration]{
			Default: defaults.PriorityLevelConfiguration, Columns: columns.PriorityLevelConfiguration(),
			Validate: flow.Level, ValidateUpdate: flow.LevelUpdate, ValidateStatus: flow.LevelStatus}),
		Row(api.StorageVersionMigrations, Hooks[migration.StorageVersionMigration]{
			Columns:  columns.StorageVersionMigration(),
			Validate: validate.StorageVersionMigration, ValidateUpdate: validate.StorageVersionMigrationUpdate, ValidateStatus: validate.StorageVersionMigrationStatus}),
	}
}
