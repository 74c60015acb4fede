package defaults

import (
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Service fills a service; addresses and IP families are the allocator's.
func Service(o *core.Service) {
	s := &o.Spec
	fill(&s.SessionAffinity, core.ServiceAffinityNone)
	fill(&s.Type, core.ServiceTypeClusterIP)
	affinityConfig(s)
	for i := range s.Ports {
		p := &s.Ports[i]
		fill(&p.Protocol, core.ProtocolTCP)
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if external(s) {
		fill(&s.ExternalTrafficPolicy, core.ServiceExternalTrafficPolicyCluster)
	}
	if s.Type != core.ServiceTypeExternalName {
		point(&s.InternalTrafficPolicy, core.ServiceInternalTrafficPolicyCluster)
	}
	if s.Type == core.ServiceTypeLoadBalancer {
		point(&s.AllocateLoadBalancerNodePorts, true)
		ServiceStatus(o)
	}
}

// ServiceStatus fills the status of a service, also where only that is written.
func ServiceStatus(o *core.Service) {
	if o.Spec.Type != core.ServiceTypeLoadBalancer {
		return
	}
	for i := range o.Status.LoadBalancer.Ingress {
		if in := &o.Status.LoadBalancer.Ingress[i]; in.IP != "" {
			point(&in.IPMode, core.LoadBalancerIPModeVIP)
		}
	}
}

func affinityConfig(s *core.ServiceSpec) {
	switch s.SessionAffinity {
	case core.ServiceAffinityNone:
		s.SessionAffinityConfig = nil
	case core.ServiceAffinityClientIP:
		c := s.SessionAffinityConfig
		if c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
			s.SessionAffinityConfig = &core.SessionAffinityConfig{
				ClientIP: &core.ClientIPConfig{TimeoutSeconds: new(core.DefaultClientIPServiceAffinitySeconds)},
			}
		}
	}
}

// external tells whether traffic from outside the cluster may reach the service
// by an address of its own (upstream: ExternallyAccessible).
func external(s *core.ServiceSpec) bool {
	return s.Type == core.ServiceTypeLoadBalancer || s.Type == core.ServiceTypeNodePort ||
		s.Type == core.ServiceTypeClusterIP && len(s.ExternalIPs) > 0
}

// Endpoints fills the ports' protocol.
func Endpoints(o *core.Endpoints) {
	for i := range o.Subsets {
		for j := range o.Subsets[i].Ports {
			fill(&o.Subsets[i].Ports[j].Protocol, core.ProtocolTCP)
		}
	}
}
