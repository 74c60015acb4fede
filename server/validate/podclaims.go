package validate

import (
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

// podClaims checks what a pod's status says of the claims that were made for it.
func podClaims(e *rule.Errors, o *core.Pod) {
	wanted, seen := map[string]bool{}, rule.Unique{}
	for _, c := range o.Spec.ResourceClaims {
		wanted[c.Name] = true
	}
	for i, s := range o.Status.ResourceClaimStatuses {
		p := statusPath.Child("resourceClaimStatuses").Index(i)
		if !wanted[s.Name] {
			e.Invalid(p.Child("name"), s.Name, "must match the name of an entry in `spec.resourceClaims`")
		}
		if seen.Again(s.Name) {
			e.Duplicate(p.Child("name"), s.Name)
		}
		if s.ResourceClaimName != nil {
			e.ObjectName(p.Child("resourceClaimName"), *s.ResourceClaimName)
		}
	}
	if s := o.Status.ExtendedResourceClaimStatus; s != nil {
		extendedClaim(e, o, s, statusPath.Child("extendedResourceClaimStatus"))
	}
}

// extendedClaim: each device of the claim for extended resources is for a container that asks for such.
func extendedClaim(e *rule.Errors, o *core.Pod, s *core.PodExtendedResourceClaimStatus, p *field.Path) {
	asks := map[string]core.ResourceList{}
	for _, list := range [][]core.Container{o.Spec.InitContainers, o.Spec.Containers} {
		for _, c := range list {
			asks[c.Name] = c.Resources.Requests
		}
	}
	mappings, seen := p.Child("requestMappings"), map[core.ContainerExtendedResourceRequest]bool{}
	if len(s.RequestMappings) == 0 {
		e.Required(mappings, "at least one request mapping is required")
	}
	for i, m := range s.RequestMappings {
		at := mappings.Index(i)
		if requests, ok := asks[m.ContainerName]; !ok {
			e.Invalid(at.Child("containerName"), m.ContainerName, "must match the name of an entry in spec.initContainers.name or spec.containers.name")
		} else if _, ok := requests[core.ResourceName(m.ResourceName)]; !ok {
			e.Invalid(at.Child("resourceName"), m.ResourceName, "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests")
		}
		e.DNSLabel(p.Child("requestName"), m.RequestName)
		if seen[m] {
			e.Duplicate(at.Child("containerName"), m.ContainerName)
			e.Duplicate(at.Child("resourceName"), m.ResourceName)
			e.Duplicate(at.Child("requestName"), m.RequestName)
		}
		seen[m] = true
	}
	if s.ResourceClaimName == "" {
		e.Required(p.Child("resourceClaimName"), "")
	} else {
		e.ObjectName(p.Child("resourceClaimName"), s.ResourceClaimName)
	}
}
