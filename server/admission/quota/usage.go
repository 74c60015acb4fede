package quota

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	podresource "k8s.io/component-helpers/resource"

	"orch/api"
	"orch/server/defaults"
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

// Usage is everything that the object counts for, by every name it has.
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
	requests := podresource.PodRequests(p, podresource.PodResourcesOptions{})
	limits := podresource.PodLimits(p, podresource.PodResourcesOptions{})
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

// Matches tells whether the quota's scopes take the object in. A quota with
// scopes is about pods only.
func Matches(q *core.ResourceQuota, o api.Object) bool {
	var wanted []core.ScopedResourceSelectorRequirement
	for _, s := range q.Spec.Scopes {
		wanted = append(wanted, core.ScopedResourceSelectorRequirement{ScopeName: s, Operator: core.ScopeSelectorOpExists})
	}
	if q.Spec.ScopeSelector != nil {
		wanted = append(wanted, q.Spec.ScopeSelector.MatchExpressions...)
	}
	if len(wanted) == 0 {
		return true
	}
	p, ok := o.(*core.Pod)
	if !ok {
		return false
	}
	return !slices.ContainsFunc(wanted, func(r core.ScopedResourceSelectorRequirement) bool { return !inScope(p, r) })
}

func inScope(p *core.Pod, r core.ScopedResourceSelectorRequirement) bool {
	switch r.ScopeName {
	case core.ResourceQuotaScopeTerminating:
		return p.Spec.ActiveDeadlineSeconds != nil && *p.Spec.ActiveDeadlineSeconds >= 0
	case core.ResourceQuotaScopeNotTerminating:
		return p.Spec.ActiveDeadlineSeconds == nil
	case core.ResourceQuotaScopeBestEffort:
		return defaults.QOS(p) == core.PodQOSBestEffort
	case core.ResourceQuotaScopeNotBestEffort:
		return defaults.QOS(p) != core.PodQOSBestEffort
	case core.ResourceQuotaScopeCrossNamespacePodAffinity:
		return crossNamespace(p)
	case core.ResourceQuotaScopePriorityClass:
		name := p.Spec.PriorityClassName
		switch r.Operator {
		case core.ScopeSelectorOpExists:
			return name != ""
		case core.ScopeSelectorOpDoesNotExist:
			return name == ""
		case core.ScopeSelectorOpIn:
			return slices.Contains(r.Values, name)
		case core.ScopeSelectorOpNotIn:
			return !slices.Contains(r.Values, name)
		}
	}
	return false
}

func crossNamespace(p *core.Pod) bool {
	a := p.Spec.Affinity
	if a == nil {
		return false
	}
	var terms []core.PodAffinityTerm
	add := func(required []core.PodAffinityTerm, preferred []core.WeightedPodAffinityTerm) {
		terms = append(terms, required...)
		for _, w := range preferred {
			terms = append(terms, w.PodAffinityTerm)
		}
	}
	if a.PodAffinity != nil {
		add(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a.PodAntiAffinity != nil {
		add(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return slices.ContainsFunc(terms, func(t core.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
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

// kindsOf are the kinds whose objects count for the hard limits of a quota.
func kindsOf(hard core.ResourceList) []*api.Facts {
	var out []*api.Facts
	add := func(f *api.Facts) {
		if !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	for k := range hard {
		if f := kindOf(k); f != nil {
			add(f)
		}
	}
	return out
}

func kindOf(k core.ResourceName) *api.Facts {
	s := string(k)
	if strings.HasPrefix(s, "count/") {
		for _, f := range api.All() {
			if countName(f) == k && !f.Cluster && !f.Computed && f.SameAs == nil {
				return f
			}
		}
		return nil
	}
	for f, n := range shortCounts {
		if n == k {
			return f
		}
	}
	switch {
	case strings.HasPrefix(s, "services."):
		return api.Services.Facts
	case k == core.ResourceRequestsStorage, strings.Contains(s, storageSuffix):
		return api.PersistentVolumeClaims.Facts
	}
	return api.Pods.Facts
}
