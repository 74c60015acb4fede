package workpod

import (
	"cmp"
	"slices"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

// TargetPort is the number of the pod's port that a service port leads to;
// false if the pod has no port of that name.
func TargetPort(p *core.Pod, sp *core.ServicePort) (int32, bool) {
	if sp.TargetPort.Type == intstr.Int {
		if sp.TargetPort.IntVal == 0 {
			return sp.Port, true
		}
		return sp.TargetPort.IntVal, true
	}
	for _, c := range p.Spec.Containers {
		if n, ok := namedPort(c, sp); ok {
			return n, true
		}
	}
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy == nil || *c.RestartPolicy != core.ContainerRestartPolicyAlways {
			continue // only sidecars serve beside the containers
		}
		if n, ok := namedPort(c, sp); ok {
			return n, true
		}
	}
	return 0, false
}

func namedPort(c core.Container, sp *core.ServicePort) (int32, bool) {
	for _, port := range c.Ports {
		if port.Name == sp.TargetPort.StrVal && port.Protocol == sp.Protocol {
			return port.ContainerPort, true
		}
	}
	return 0, false
}

// HasAddress tells whether a pod can be an endpoint at all.
func HasAddress(p *core.Pod) bool {
	return !Finished(p) && (p.Status.PodIP != "" || len(p.Status.PodIPs) > 0)
}

// Addresses lists the pod's addresses, the primary one first.
func Addresses(p *core.Pod) []string {
	if len(p.Status.PodIPs) == 0 {
		return []string{p.Status.PodIP}
	}
	out := make([]string, len(p.Status.PodIPs))
	for i, ip := range p.Status.PodIPs {
		out[i] = ip.IP
	}
	return out
}

// HostnameFor is the name that DNS gives the pod below the service; empty for none.
func HostnameFor(p *core.Pod, s *core.Service) string {
	if p.Spec.Subdomain == s.Name && p.Namespace == s.Namespace {
		return p.Spec.Hostname
	}
	return ""
}

// TargetRef names the pod in an endpoint.
func TargetRef(p *core.Pod) *core.ObjectReference {
	return &core.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID}
}

// ServicesOf watches pods and wakes the services that select them, when
// something changed that their endpoints show.
func ServicesOf(c client.Cache) reconcile.Watch {
	return reconcile.Map(api.Pods, func(was, is *core.Pod) []reconcile.Key {
		if was != nil && is != nil && sameEndpoint(was, is) {
			return nil
		}
		one := cmp.Or(is, was)
		return reconcile.Keys(c, api.Services, one.Namespace, func(s *core.Service) bool { return selects(s, was) || selects(s, is) })
	})
}

func selects(s *core.Service, p *core.Pod) bool {
	return p != nil && len(s.Spec.Selector) > 0 && labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(p.Labels))
}

func sameEndpoint(a, b *core.Pod) bool {
	return a.UID == b.UID && Ready(a) == Ready(b) && (a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) &&
		Finished(a) == Finished(b) && a.Spec.NodeName == b.Spec.NodeName && a.Status.PodIP == b.Status.PodIP &&
		slices.Equal(a.Status.PodIPs, b.Status.PodIPs) && equality.Semantic.DeepEqual(a.Labels, b.Labels)
}

// Selected lists the pods that a service selects.
func Selected(c client.Cache, s *core.Service) []*core.Pod {
	return client.CachedList(c, api.Pods, s.Namespace, labels.SelectorFromSet(s.Spec.Selector))
}

// HasEndpoints tells whether endpoints are made from the service's selector.
func HasEndpoints(s *core.Service) bool {
	return len(s.Spec.Selector) > 0 && s.Spec.Type != core.ServiceTypeExternalName
}

// Headless services have no virtual address.
func Headless(s *core.Service) bool { return s.Spec.ClusterIP == core.ClusterIPNone }
