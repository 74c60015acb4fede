package quota

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	podresource "k8s.io/component-helpers/resource"

	"orch/api"
)

// This file is pure: what an object uses, and which quotas that concerns.

const storageSuffix = ".storageclass.storage.k8s.io/"

// countName is the generic name of a kind's object count.
func countName(f *api.Facts) core.ResourceName {
	if f.Group == "" {
		return core.ResourceName("count/" + f.Plural)
	}
	return core.ResourceName("count/" + f.Plural + "." + f.Group)
}

// shortCounts have a name of their own beside count/.
var shortCounts = map[*api.Facts]core.ResourceName{
	api.Pods.Facts: core.ResourcePods, api.Services.Facts: core.ResourceServices, api.Secrets.Facts: core.ResourceSecrets,
	api.ConfigMaps.Facts: core.ResourceConfigMaps, api.ReplicationControllers.Facts: core.ResourceReplicationControllers,
	api.ResourceQuotas.Facts: core.ResourceQuotas, api.PersistentVolumeClaims.Facts: core.ResourcePersistentVolumeClaims,
}

// Usage is everything that the object counts for, by every name it has: but for the extended
// resources of a claim, which a meter adds.
func Usage(f *api.Facts, o api.Object, now time.Time) core.ResourceList {
	u := core.ResourceList{countName(f): *resource.NewQuantity(1, resource.DecimalSI)}
	if p, ok := o.(*core.Pod); ok {
		if ended(p, now) {
			return u // a pod that has ended still is an object
		}
		podUsage(p, u)
	}
	if n, ok := shortCounts[f]; ok {
		u[n] = *resource.NewQuantity(1, resource.DecimalSI)
	}
	switch o := o.(type) {
	case *core.Service:
		serviceUsage(o, u)
	case *core.PersistentVolumeClaim:
		claimUsage(o, u)
	case *resourcev1.ResourceClaim:
		deviceUsage(o, u)
	}
	return u
}

func ended(p *core.Pod, now time.Time) bool {
	if p.Status.Phase == core.PodSucceeded || p.Status.Phase == core.PodFailed {
		return true
	}
	return p.DeletionTimestamp != nil && p.DeletionGracePeriodSeconds != nil && now.After(p.DeletionTimestamp.Time)
}

func podUsage(p *core.Pod, u core.ResourceList) {
	o := podresource.PodResourcesOptions{UseStatusResources: true} // a pod that is being resized counts at its largest
	requests, limits := podresource.PodRequests(p, o), podresource.PodLimits(p, o)
	for k, v := range requests {
		u["requests."+k] = v
		switch {
		case k == core.ResourceCPU, k == core.ResourceMemory, k == core.ResourceEphemeralStorage, strings.HasPrefix(string(k), core.ResourceHugePagesPrefix):
			u[k] = v
		}
	}
	for k, v := range limits {
		u["limits."+k] = v
	}
}

func serviceUsage(s *core.Service, u core.ResourceList) {
	ports := int64(0)
	switch s.Spec.Type {
	case core.ServiceTypeNodePort:
		ports = int64(len(s.Spec.Ports))
	case core.ServiceTypeLoadBalancer:
		u[core.ResourceServicesLoadBalancers] = *resource.NewQuantity(1, resource.DecimalSI)
		for _, p := range s.Spec.Ports {
			if p.NodePort != 0 || s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts {
				ports++
			}
		}
	}
	if ports > 0 {
		u[core.ResourceServicesNodePorts] = *resource.NewQuantity(ports, resource.DecimalSI)
	}
}

func claimUsage(c *core.PersistentVolumeClaim, u core.ResourceList) {
	size, ok := c.Spec.Resources.Requests[core.ResourceStorage]
	if given, grows := c.Status.AllocatedResources[core.ResourceStorage]; ok && grows && given.Cmp(size) > 0 {
		size = given // a growth that was taken back still takes its space
	}
	if ok {
		u[core.ResourceRequestsStorage] = size
	}
	class := c.Annotations[core.BetaStorageClassAnnotation]
	if class == "" && c.Spec.StorageClassName != nil {
		class = *c.Spec.StorageClassName
	}
	if class == "" {
		return
	}
	u[core.ResourceName(class+storageSuffix+"persistentvolumeclaims")] = *resource.NewQuantity(1, resource.DecimalSI)
	if ok {
		u[core.ResourceName(class+storageSuffix+"requests.storage")] = size
	}
}

// missing says which containers lack a request or limit that the quota counts:
// such a pod cannot be accounted for.
func missing(p *core.Pod, hard core.ResourceList) error {
	lacks := map[string][]string{}
	note := func(k core.ResourceName, of func(core.Container) core.ResourceList, plain core.ResourceName) {
		if _, ok := hard[k]; !ok {
			return
		}
		for _, c := range slices.Concat(p.Spec.Containers, p.Spec.InitContainers) {
			if _, ok := of(c)[plain]; !ok && !podLevel(p, k, plain) {
				lacks[string(k)] = append(lacks[string(k)], c.Name)
			}
		}
	}
	requests := func(c core.Container) core.ResourceList { return c.Resources.Requests }
	limits := func(c core.Container) core.ResourceList { return c.Resources.Limits }
	for _, r := range []core.ResourceName{core.ResourceCPU, core.ResourceMemory} {
		note(r, requests, r)
		note("requests."+r, requests, r)
		note("limits."+r, limits, r)
	}
	if len(lacks) == 0 {
		return nil
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(lacks)) {
		slices.Sort(lacks[k])
		parts = append(parts, k+" for: "+strings.Join(slices.Compact(lacks[k]), ","))
	}
	return fmt.Errorf("must specify %s", strings.Join(parts, "; "))
}

// podLevel: resources of the pod as a whole stand in for its containers'.
func podLevel(p *core.Pod, k, plain core.ResourceName) bool {
	if p.Spec.Resources == nil {
		return false
	}
	list := p.Spec.Resources.Requests
	if strings.HasPrefix(string(k), "limits.") {
		list = p.Spec.Resources.Limits
	}
	_, ok := list[plain]
	return ok
}

// mask keeps the resources that the quota limits.
func mask(u, hard core.ResourceList) core.ResourceList {
	out := core.ResourceList{}
	for k := range hard {
		if q, ok := u[k]; ok {
			out[k] = q
		}
	}
	return out
}

func addTo(sum, u core.ResourceList) {
	for k, v := range u {
		q := sum[k]
		q.Add(v)
		sum[k] = q
	}
}

// text prints resources as upstream's messages do.
func text(l core.ResourceList, keys []core.ResourceName) string {
	var parts []string
	for _, k := range keys {
		q := l[k]
		parts = append(parts, string(k)+"="+q.String())
	}
	return strings.Join(parts, ",")
}

// kindsOf are the kinds among all whose objects count for the hard limits of a quota.
func kindsOf(hard core.ResourceList, all []*api.Facts) []*api.Facts {
	var out []*api.Facts
	for k := range hard {
		for _, f := range kindsOfName(k, all) {
			if !slices.Contains(out, f) {
				out = append(out, f)
			}
		}
	}
	return out
}

func kindsOfName(k core.ResourceName, all []*api.Facts) []*api.Facts {
	s := string(k)
	if strings.HasPrefix(s, "count/") {
		for _, f := range all {
			if counted(f) && countName(f) == k {
				return []*api.Facts{f}
			}
		}
		return nil
	}
	for f, n := range shortCounts {
		if n == k {
			return []*api.Facts{f}
		}
	}
	switch {
	case strings.HasPrefix(s, "services."):
		return []*api.Facts{api.Services.Facts}
	case k == core.ResourceRequestsStorage, strings.Contains(s, storageSuffix):
		return []*api.Facts{api.PersistentVolumeClaims.Facts}
	case strings.HasSuffix(s, deviceSuffix):
		return []*api.Facts{api.ResourceClaims.Facts}
	case byClasses(k):
		return []*api.Facts{api.Pods.Facts, api.ResourceClaims.Facts}
	}
	return []*api.Facts{api.Pods.Facts}
}

// counted kinds have objects in namespaces.
func counted(f *api.Facts) bool { return !f.Cluster && !f.Computed && f.SameAs == nil }
