package api

import (
	"slices"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
)

var resourceV1 = resource.SchemeGroupVersion

// Kinds of resource.k8s.io/v1: devices, and who asks for them.
var (
	DeviceClasses          = kind[resource.DeviceClass, resource.DeviceClassList](resourceV1, "DeviceClass", Facts{Plural: "deviceclasses", Cluster: true})
	DeviceTaintRules       = kind[resource.DeviceTaintRule, resource.DeviceTaintRuleList](resourceV1, "DeviceTaintRule", Facts{Plural: "devicetaintrules", Cluster: true, Status: true})
	ResourceClaims         = kind[resource.ResourceClaim, resource.ResourceClaimList](resourceV1, "ResourceClaim", Facts{Plural: "resourceclaims", Status: true})
	ResourceClaimTemplates = kind[resource.ResourceClaimTemplate, resource.ResourceClaimTemplateList](resourceV1, "ResourceClaimTemplate", Facts{Plural: "resourceclaimtemplates"})
	ResourceSlices         = kind[resource.ResourceSlice, resource.ResourceSliceList](resourceV1, "ResourceSlice", Facts{Plural: "resourceslices", Cluster: true})
)

var resourceKinds = []*Facts{
	DeviceClasses.Facts, DeviceTaintRules.Facts, ResourceClaims.Facts, ResourceClaimTemplates.Facts, ResourceSlices.Facts,
}

// ByClaim tells that the pod has an extended resource as devices of the ResourceClaim that the scheduler
// made for it: it takes nothing of what its node offers under that name.
func ByClaim(pod *core.Pod, name core.ResourceName) bool {
	made := pod.Status.ExtendedResourceClaimStatus
	return made != nil && slices.ContainsFunc(made.RequestMappings, func(m core.ContainerExtendedResourceRequest) bool { return m.ResourceName == string(name) })
}
