package allocate

import (
	"slices"

	core "k8s.io/api/core/v1"
)

// This file is pure: what a Service's spec needs, keeps and drops. It follows
// upstream's patchAllocatedValues, dropTypeDependentFields and NormalizeClusterIPs.

func headless(o *core.Service) bool { return o.Spec.ClusterIP == core.ClusterIPNone }

func needsIP(o *core.Service) bool {
	return o.Spec.Type != core.ServiceTypeExternalName && !headless(o)
}

func mayHavePorts(o *core.Service) bool {
	return o.Spec.Type == core.ServiceTypeNodePort || o.Spec.Type == core.ServiceTypeLoadBalancer
}

func needsPorts(o *core.Service) bool {
	return o.Spec.Type == core.ServiceTypeNodePort ||
		(o.Spec.Type == core.ServiceTypeLoadBalancer && (o.Spec.AllocateLoadBalancerNodePorts == nil || *o.Spec.AllocateLoadBalancerNodePorts))
}

func needsHealthPort(o *core.Service) bool {
	return o.Spec.Type == core.ServiceTypeLoadBalancer && o.Spec.ExternalTrafficPolicy == core.ServiceExternalTrafficPolicyLocal
}

// normalizeIPs makes clusterIP and clusterIPs agree where the client set one.
func normalizeIPs(o, old *core.Service) {
	s := &o.Spec
	if old == nil {
		if s.ClusterIP != "" && len(s.ClusterIPs) == 0 {
			s.ClusterIPs = []string{s.ClusterIP}
		}
		if s.ClusterIP == "" && len(s.ClusterIPs) > 0 {
			s.ClusterIP = s.ClusterIPs[0]
		}
		return
	}
	same := slices.Equal(s.ClusterIPs, old.Spec.ClusterIPs)
	switch {
	case s.ClusterIP == old.Spec.ClusterIP:
	case s.ClusterIP == "" && same:
		s.ClusterIPs = nil
	case s.ClusterIP != "" && same:
		s.ClusterIPs = []string{s.ClusterIP}
	}
}

// keepAllocated fills what an update left out with what the Service had.
func keepAllocated(o, old *core.Service) {
	s, b := &o.Spec, &old.Spec
	if needsIP(o) && needsIP(old) || headless(old) && s.ClusterIP == "" && s.Type == b.Type {
		if s.ClusterIP == "" {
			s.ClusterIP = b.ClusterIP
		}
		if len(s.ClusterIPs) == 0 && s.ClusterIP == b.ClusterIP {
			s.ClusterIPs = slices.Clone(b.ClusterIPs)
		}
		if len(s.IPFamilies) == 0 {
			s.IPFamilies = slices.Clone(b.IPFamilies)
		}
		if s.IPFamilyPolicy == nil {
			s.IPFamilyPolicy = b.IPFamilyPolicy
		}
	}
	if needsPorts(o) && needsPorts(old) {
		keepPorts(s, b)
	}
	if needsHealthPort(o) && needsHealthPort(old) && s.HealthCheckNodePort == 0 {
		s.HealthCheckNodePort = b.HealthCheckNodePort
	}
}

func keepPorts(s, b *core.ServiceSpec) {
	used := map[int32]map[core.Protocol]bool{}
	note := func(p core.ServicePort) {
		if used[p.NodePort] == nil {
			used[p.NodePort] = map[core.Protocol]bool{}
		}
		used[p.NodePort][p.Protocol] = true
	}
	for _, p := range s.Ports {
		note(p)
	}
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.NodePort != 0 {
			continue
		}
		for _, q := range b.Ports {
			if q.Port == p.Port && q.Protocol == p.Protocol && q.NodePort != 0 && !used[q.NodePort][p.Protocol] {
				p.NodePort = q.NodePort
				note(*p)
				break
			}
		}
	}
}

// dropUnneeded clears what the old type needed and the new one does not, unless
// the client changed it: then validation shall complain.
func dropUnneeded(o, old *core.Service) {
	s, b := &o.Spec, &old.Spec
	if b.Type != core.ServiceTypeExternalName && s.Type == core.ServiceTypeExternalName {
		if s.ClusterIP == b.ClusterIP {
			s.ClusterIP = ""
		}
		if slices.Equal(s.ClusterIPs, b.ClusterIPs) {
			s.ClusterIPs = nil
		}
		if slices.Equal(s.IPFamilies, b.IPFamilies) {
			s.IPFamilies, s.IPFamilyPolicy = nil, nil
		}
	}
	if mayHavePorts(old) && !mayHavePorts(o) && slices.Equal(portNumbers(o), portNumbers(old)) {
		for i := range s.Ports {
			s.Ports[i].NodePort = 0
		}
	}
	if needsHealthPort(old) && !needsHealthPort(o) && s.HealthCheckNodePort == b.HealthCheckNodePort {
		s.HealthCheckNodePort = 0
	}
	if b.Type == core.ServiceTypeLoadBalancer && s.Type != core.ServiceTypeLoadBalancer {
		if s.AllocateLoadBalancerNodePorts != nil && b.AllocateLoadBalancerNodePorts != nil && *s.AllocateLoadBalancerNodePorts == *b.AllocateLoadBalancerNodePorts {
			s.AllocateLoadBalancerNodePorts = nil
		}
		if s.LoadBalancerClass != nil && b.LoadBalancerClass != nil && *s.LoadBalancerClass == *b.LoadBalancerClass {
			s.LoadBalancerClass = nil
		}
	}
}
