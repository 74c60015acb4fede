package defaults

import (
	core "k8s.io/api/core/v1"
)

// QOS is the service class of a pod by its CPU and memory requests and limits:
// BestEffort without any, Guaranteed where every container's are set and equal,
// else Burstable (upstream: ComputePodQOS). Pod-level resources count instead
// of the containers' where they are set.
func QOS(o *core.Pod) core.PodQOSClass {
	if r := o.Spec.Resources; r != nil && (len(r.Limits) > 0 || len(r.Requests) > 0) {
		if claimed, same := claims(r); claimed {
			if same {
				return core.PodQOSGuaranteed
			}
			return core.PodQOSBurstable
		}
		return core.PodQOSBestEffort
	}
	some, guaranteed := false, true
	for _, list := range [][]core.Container{o.Spec.InitContainers, o.Spec.Containers} {
		for i := range list {
			claimed, same := claims(&list[i].Resources)
			some = some || claimed
			guaranteed = guaranteed && same
		}
	}
	switch {
	case !some:
		return core.PodQOSBestEffort
	case guaranteed:
		return core.PodQOSGuaranteed
	}
	return core.PodQOSBurstable
}

// claims tells whether any CPU or memory is claimed, and whether both have a
// limit that is also the request.
func claims(r *core.ResourceRequirements) (claimed, same bool) {
	same = true
	for _, name := range []core.ResourceName{core.ResourceCPU, core.ResourceMemory} {
		request, limit := r.Requests[name], r.Limits[name]
		if request.Sign() > 0 || limit.Sign() > 0 {
			claimed = true
		}
		if limit.Sign() <= 0 || request.Sign() > 0 && request.Cmp(limit) != 0 {
			same = false
		}
	}
	return claimed, same
}
