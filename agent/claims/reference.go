package claims

import (
	core "k8s.io/api/core/v1"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"orch/agent/devices"
)

// reference is one claim that a pod refers to.
type reference struct {
	claim string
	// owned: it was made for the pod, and must be its own.
	owned bool
	// containers are those that may use it, by name.
	containers map[string][]devices.ClaimRequest
}

// references are the claims of a pod: those of its spec, and the one for its extended
// resources. One that was decided not to be made is none.
func references(pod *core.Pod) ([]reference, error) {
	var out []reference
	for i := range pod.Spec.ResourceClaims {
		podClaim := &pod.Spec.ResourceClaims[i]
		name, owned, err := resourceclaim.Name(pod, podClaim)
		if err != nil {
			return nil, err
		}
		if name == nil {
			continue
		}
		r := reference{claim: *name, owned: owned, containers: map[string][]devices.ClaimRequest{}}
		eachContainer(pod, func(c *core.Container) {
			for _, listed := range c.Resources.Claims {
				if listed.Name == podClaim.Name {
					r.containers[c.Name] = append(r.containers[c.Name], devices.ClaimRequest{Claim: podClaim.Name, Request: resourceclaim.BaseRequestRef(listed.Request)})
				}
			}
		})
		out = merge(out, r)
	}
	if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
		r := reference{claim: s.ResourceClaimName, containers: map[string][]devices.ClaimRequest{}}
		for _, m := range s.RequestMappings {
			r.containers[m.ContainerName] = append(r.containers[m.ContainerName], devices.ClaimRequest{Request: m.RequestName})
		}
		out = merge(out, r)
	}
	return out, nil
}

// merge joins references to one claim: a pod may have it under several names.
func merge(list []reference, r reference) []reference {
	for i := range list {
		if list[i].claim == r.claim {
			for name, requests := range r.containers {
				list[i].containers[name] = append(list[i].containers[name], requests...)
			}
			list[i].owned = list[i].owned || r.owned
			return list
		}
	}
	return append(list, r)
}

func eachContainer(pod *core.Pod, each func(c *core.Container)) {
	for _, list := range [][]core.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			each(&list[i])
		}
	}
}
