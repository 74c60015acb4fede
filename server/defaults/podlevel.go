package defaults

import (
	"strings"

	core "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/component-helpers/resource"
)

// podLevelResources fills spec.resources from the containers where a pod sets
// it in part: huge page limits first, then requests, then limits.
func podLevelResources(o *core.Pod) {
	r := o.Spec.Resources
	if r == nil || len(r.Limits) == 0 && len(r.Requests) == 0 {
		return
	}
	limited := len(r.Limits) > 0
	hugePageLimits(o)
	if len(r.Limits) > 0 {
		podRequests(o)
	}
	if !limited && len(r.Requests) > 0 {
		podLimits(o)
	}
}

func hugePageLimits(o *core.Pod) {
	r := o.Spec.Resources
	for name, q := range resource.AggregateContainerLimits(o, resource.PodResourcesOptions{}) {
		_, asked := r.Requests[name]
		if !hugePages(name) || asked {
			continue
		}
		put(&r.Limits, name, q)
	}
}

// podRequests takes what the containers ask together, else the pod's limits.
func podRequests(o *core.Pod) {
	r := o.Spec.Resources
	for name, q := range resource.AggregateContainerRequests(o, resource.PodResourcesOptions{}) {
		if resource.IsSupportedPodLevelResource(name) && !hugePages(name) {
			put(&r.Requests, name, q)
		}
	}
	for name, q := range r.Limits {
		if resource.IsSupportedPodLevelResource(name) {
			put(&r.Requests, name, q)
		}
	}
}

func podLimits(o *core.Pod) {
	r := o.Spec.Resources
	for name, q := range resource.AggregateContainerLimits(o, resource.PodResourcesOptions{}) {
		if resource.IsSupportedPodLevelResource(name) && !hugePages(name) && everyContainerLimits(o, name) {
			put(&r.Limits, name, q)
		}
	}
}

func everyContainerLimits(o *core.Pod, name core.ResourceName) bool {
	for _, list := range [][]core.Container{o.Spec.InitContainers, o.Spec.Containers} {
		for i := range list {
			if _, has := list[i].Resources.Limits[name]; !has {
				return false
			}
		}
	}
	return true
}

// put adds a quantity under a name that the list does not have.
func put(l *core.ResourceList, name core.ResourceName, q quantity.Quantity) {
	if _, has := (*l)[name]; has {
		return
	}
	if *l == nil {
		*l = core.ResourceList{}
	}
	(*l)[name] = q.DeepCopy()
}

func hugePages(name core.ResourceName) bool {
	return strings.HasPrefix(string(name), core.ResourceHugePagesPrefix)
}
