package registry

import (
	"slices"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"

	"orch/api"
	"orch/server/columns"
	"orch/server/defaults"
	"orch/server/validate"
)

func serviceRow() Resource {
	return Row(api.Services, Hooks[core.Service]{
		Default: defaults.Service, Columns: columns.Service(), NameRule: nameDNSLabel, CreateOnUpdate: true, Generation: GenerationNever, ReturnDeleted: true,
		Validate: validate.Service, ValidateUpdate: validate.ServiceUpdate, ValidateStatus: validate.ServiceStatus, Warn: validate.ServiceWarnings,
		PrepareCreate: func(o *core.Service) { pairClusterIPs(&o.Spec, nil) },
		PrepareUpdate: func(o, old *core.Service) {
			keepAllocated(&o.Spec, &old.Spec)
			pairClusterIPs(&o.Spec, &old.Spec)
			dropForeign(&o.Spec, &old.Spec)
		},
		PrepareStatus: func(o, _ *core.Service) { defaults.ServiceStatus(o) },
		FieldNames:    []string{"spec.clusterIP", "spec.type"},
		Fields: func(o *core.Service) fields.Set {
			return fields.Set{"spec.clusterIP": o.Spec.ClusterIP, "spec.type": string(o.Spec.Type)}
		},
	})
}

func hasClusterIP(s *core.ServiceSpec) bool { return s.Type != core.ServiceTypeExternalName }

func hasNodePorts(s *core.ServiceSpec) bool {
	return s.Type == core.ServiceTypeNodePort ||
		s.Type == core.ServiceTypeLoadBalancer && (s.AllocateLoadBalancerNodePorts == nil || *s.AllocateLoadBalancerNodePorts)
}

func hasHealthPort(s *core.ServiceSpec) bool {
	return s.Type == core.ServiceTypeLoadBalancer && s.ExternalTrafficPolicy == core.ServiceExternalTrafficPolicyLocal
}

// keepAllocated keeps addresses and ports that the server chose where an update
// leaves them out (upstream: patchAllocatedValues).
func keepAllocated(s, old *core.ServiceSpec) {
	if hasClusterIP(s) && hasClusterIP(old) {
		if s.ClusterIP == "" {
			s.ClusterIP = old.ClusterIP
		}
		if len(s.ClusterIPs) == 0 && s.ClusterIP == old.ClusterIP {
			s.ClusterIPs = slices.Clone(old.ClusterIPs)
		}
	}
	if hasNodePorts(s) && hasNodePorts(old) {
		keepNodePorts(s, old)
	}
	if hasHealthPort(s) && hasHealthPort(old) && s.HealthCheckNodePort == 0 {
		s.HealthCheckNodePort = old.HealthCheckNodePort
	}
}

func keepNodePorts(s, old *core.ServiceSpec) {
	type port struct {
		protocol core.Protocol
		number   int32
	}
	had, used := map[port]int32{}, map[port]bool{}
	for _, p := range old.Ports {
		had[port{p.Protocol, p.Port}] = p.NodePort
	}
	for _, p := range s.Ports {
		used[port{p.Protocol, p.NodePort}] = p.NodePort != 0
	}
	for i := range s.Ports {
		p := &s.Ports[i]
		if n := had[port{p.Protocol, p.Port}]; p.NodePort == 0 && !used[port{p.Protocol, n}] {
			p.NodePort = n
		}
	}
}

// pairClusterIPs keeps clusterIP and the first of clusterIPs alike for clients
// that know only the former (upstream: NormalizeClusterIPs).
func pairClusterIPs(s, old *core.ServiceSpec) {
	switch {
	case s.ClusterIP != "" && len(s.ClusterIPs) == 0:
		s.ClusterIPs = []string{s.ClusterIP}
	case old == nil:
	case s.ClusterIP == "" && old.ClusterIP != "" && slices.Equal(s.ClusterIPs, old.ClusterIPs):
		s.ClusterIPs = nil
	case s.ClusterIP != old.ClusterIP && s.ClusterIP != "" && slices.Equal(s.ClusterIPs, old.ClusterIPs):
		s.ClusterIPs = []string{s.ClusterIP}
	}
}

// dropForeign clears fields that the old type had and the new type cannot have,
// where the client did not touch them (upstream: dropTypeDependentFields).
func dropForeign(s, old *core.ServiceSpec) {
	if hasClusterIP(old) && !hasClusterIP(s) {
		if s.ClusterIP == old.ClusterIP && slices.Equal(s.ClusterIPs, old.ClusterIPs) {
			s.ClusterIP, s.ClusterIPs = "", nil
		}
		if len(s.IPFamilies) > 0 && slices.Equal(s.IPFamilies, old.IPFamilies) {
			s.IPFamilies, s.IPFamilyPolicy = nil, nil
		}
		if equal(s.InternalTrafficPolicy, old.InternalTrafficPolicy) {
			s.InternalTrafficPolicy = nil
		}
	}
	if hasNodePorts(old) && !hasNodePorts(s) && sameNodePorts(s, old) {
		for i := range s.Ports {
			s.Ports[i].NodePort = 0
		}
	}
	if hasHealthPort(old) && !hasHealthPort(s) && s.HealthCheckNodePort == old.HealthCheckNodePort {
		s.HealthCheckNodePort = 0
	}
	if s.Type != core.ServiceTypeNodePort && s.Type != core.ServiceTypeLoadBalancer && len(s.ExternalIPs) == 0 &&
		s.ExternalTrafficPolicy == old.ExternalTrafficPolicy {
		s.ExternalTrafficPolicy = ""
	}
	if old.Type == core.ServiceTypeLoadBalancer && s.Type != core.ServiceTypeLoadBalancer {
		if equal(s.LoadBalancerClass, old.LoadBalancerClass) {
			s.LoadBalancerClass = nil
		}
		if equal(s.AllocateLoadBalancerNodePorts, old.AllocateLoadBalancerNodePorts) {
			s.AllocateLoadBalancerNodePorts = nil
		}
	}
}

func sameNodePorts(s, old *core.ServiceSpec) bool {
	had := map[int32]bool{0: true}
	for _, p := range old.Ports {
		had[p.NodePort] = true
	}
	for _, p := range s.Ports {
		if !had[p.NodePort] {
			return false
		}
	}
	return true
}

func equal[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }
