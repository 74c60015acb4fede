package validate

import (
	"fmt"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

// Service checks a service with the addresses that the server gave it.
func Service(o *core.Service) Errors {
	c := &service{ServiceSpec: &o.Spec, headless: len(o.Spec.ClusterIPs) == 1 && o.Spec.ClusterIPs[0] == core.ClusterIPNone}
	if len(c.Ports) == 0 && !c.headless && c.Type != core.ServiceTypeExternalName {
		c.Required(specPath.Child("ports"), "")
	}
	c.kind()
	c.ports()
	c.Labels(specPath.Child("selector"), o.Spec.Selector)
	c.affinity()
	c.addresses()
	for i, ip := range c.ExternalIPs {
		at, before := specPath.Child("externalIPs").Index(i), c.Len()
		if c.IP(at, ip); c.Len() == before {
			c.PublicIP(at, ip)
		}
	}
	rule.OneOf(&c.Errors, specPath.Child("type"), c.Type, core.ServiceTypeClusterIP, core.ServiceTypeNodePort, core.ServiceTypeLoadBalancer, core.ServiceTypeExternalName)
	c.balancer(o)
	c.traffic()
	return c.List()
}

type service struct {
	rule.Errors
	*core.ServiceSpec
	headless bool
}

func (c *service) kind() {
	clusterIP := specPath.Child("clusterIPs").Index(0)
	switch c.Type {
	case core.ServiceTypeLoadBalancer:
		for i, p := range c.Ports {
			if p.Port == kubeletPort {
				c.Invalid(specPath.Child("ports").Index(i), p.Port, fmt.Sprintf("may not expose port %v externally since it is used by kubelet", kubeletPort))
			}
		}
		if c.headless {
			c.Invalid(clusterIP, c.ClusterIPs[0], "may not be set to 'None' for LoadBalancer services")
		}
	case core.ServiceTypeNodePort:
		if c.headless {
			c.Invalid(clusterIP, c.ClusterIPs[0], "may not be set to 'None' for NodePort services")
		}
	case core.ServiceTypeExternalName:
		const why = "may not be set for ExternalName services"
		if len(c.ClusterIPs) > 0 {
			c.Forbidden(specPath.Child("clusterIPs"), why)
		}
		if len(c.IPFamilies) > 0 {
			c.Forbidden(specPath.Child("ipFamilies"), why)
		}
		if c.IPFamilyPolicy != nil {
			c.Forbidden(specPath.Child("ipFamilyPolicy"), why)
		}
		if name := strings.TrimSuffix(c.ExternalName, "."); name != "" {
			c.DNSSubdomain(specPath.Child("externalName"), name)
		} else {
			c.Required(specPath.Child("externalName"), "")
		}
	}
}

const kubeletPort = 10250

func (c *service) ports() {
	names, numbers, nodes := rule.Unique{}, rule.Unique{}, rule.Unique{}
	for i := range c.Ports {
		p, at := &c.Ports[i], specPath.Child("ports").Index(i)
		c.port(p, at, names)
		if c.Type == core.ServiceTypeClusterIP && p.NodePort != 0 {
			c.Forbidden(at.Child("nodePort"), "may not be used when `type` is 'ClusterIP'")
		}
		if p.NodePort != 0 && nodes.Again(fmt.Sprint(p.Protocol, p.NodePort)) {
			c.Duplicate(at.Child("nodePort"), p.NodePort)
		}
		if numbers.Again(fmt.Sprint(p.Protocol, p.Port)) {
			c.Duplicate(at, core.ServicePort{Protocol: p.Protocol, Port: p.Port})
		}
	}
}

func (c *service) port(p *core.ServicePort, at *field.Path, names rule.Unique) {
	switch {
	case p.Name != "":
		c.DNSLabel(at.Child("name"), p.Name)
		if names.Again(p.Name) {
			c.Duplicate(at.Child("name"), p.Name)
		}
	case len(c.Ports) > 1:
		c.Required(at.Child("name"), "")
	}
	c.Port(at.Child("port"), p.Port)
	rule.OneOf(&c.Errors, at.Child("protocol"), p.Protocol, core.ProtocolTCP, core.ProtocolUDP, core.ProtocolSCTP)
	c.PortOrName(at.Child("targetPort"), p.TargetPort)
	if p.AppProtocol != nil {
		c.Qualified(at.Child("appProtocol"), *p.AppProtocol)
	}
}

func (c *service) affinity() {
	rule.OneOf(&c.Errors, specPath.Child("sessionAffinity"), c.SessionAffinity, core.ServiceAffinityClientIP, core.ServiceAffinityNone)
	p := specPath.Child("sessionAffinityConfig")
	if c.SessionAffinity == core.ServiceAffinityNone && c.SessionAffinityConfig != nil {
		c.Forbidden(p, fmt.Sprintf("must not be set when session affinity is %s", core.ServiceAffinityNone))
	}
	if c.SessionAffinity != core.ServiceAffinityClientIP {
		return
	}
	const most = 86400
	why := fmt.Sprintf("when session affinity type is %s", core.ServiceAffinityClientIP)
	switch config := c.SessionAffinityConfig; {
	case config == nil:
		c.Required(p, why)
	case config.ClientIP == nil:
		c.Required(p.Child("clientIP"), why)
	case config.ClientIP.TimeoutSeconds == nil:
		c.Required(p.Child("clientIP", "timeoutSeconds"), why)
	default:
		if t := *config.ClientIP.TimeoutSeconds; t <= 0 || t > most {
			c.Invalid(p.Child("clientIP", "timeoutSeconds"), t, fmt.Sprintf("must be greater than 0 and less than %d", most))
		}
	}
}

// addresses checks clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy together.
func (c *service) addresses() {
	if c.Type == core.ServiceTypeExternalName {
		return
	}
	ips, families := specPath.Child("clusterIPs"), specPath.Child("ipFamilies")
	switch {
	case c.ClusterIP == "":
		if len(c.ClusterIPs) > 0 {
			c.Invalid(ips, c.ClusterIPs, "must be empty when `clusterIP` is not specified")
		}
	case len(c.ClusterIPs) == 0:
		c.Required(ips, "")
	case c.ClusterIPs[0] != c.ClusterIP:
		c.Invalid(ips, c.ClusterIPs, "first value must match `clusterIP`")
	}
	seen := rule.Unique{}
	for i, f := range c.IPFamilies {
		rule.Among(&c.Errors, families.Index(i), f, core.IPv4Protocol, core.IPv6Protocol)
		if seen.Again(string(f)) {
			c.Duplicate(families.Index(i), f)
		}
	}
	if c.IPFamilyPolicy != nil {
		rule.Among(&c.Errors, specPath.Child("ipFamilyPolicy"), *c.IPFamilyPolicy,
			core.IPFamilyPolicySingleStack, core.IPFamilyPolicyPreferDualStack, core.IPFamilyPolicyRequireDualStack)
	}
	before := c.Len()
	for i, ip := range c.ClusterIPs {
		if i > 0 || ip != core.ClusterIPNone {
			c.IP(ips.Index(i), ip)
		} else if len(c.ClusterIPs) > 1 {
			c.Invalid(ips, c.ClusterIPs, "'None' must be the first and only value")
		}
	}
	if len(c.ClusterIPs) > 2 {
		c.Invalid(ips, c.ClusterIPs, "may only hold up to 2 values")
	}
	if c.Len() > before || c.headless {
		return
	}
	if !rule.OnePerFamily(c.ClusterIPs) {
		c.Invalid(ips, c.ClusterIPs, "may specify no more than one IP for each IP family")
	}
	for i, ip := range c.ClusterIPs[:min(len(c.ClusterIPs), len(c.IPFamilies))] {
		if six := rule.IsIPv6(ip); six != (c.IPFamilies[i] == core.IPv6Protocol) {
			c.Invalid(ips.Index(i), ip, fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%v]`", c.IPFamilies[i], i))
		}
	}
}

func (c *service) balancer(o *core.Service) {
	const only = "may only be used when `type` is 'LoadBalancer'"
	is := c.Type == core.ServiceTypeLoadBalancer
	if p := specPath.Child("LoadBalancerSourceRanges"); len(c.LoadBalancerSourceRanges) > 0 {
		if !is {
			c.Forbidden(p, only)
		}
		for i, v := range c.LoadBalancerSourceRanges {
			c.CIDR(p.Index(i), strings.TrimSpace(v))
		}
	} else if v, has := o.Annotations[core.AnnotationLoadBalancerSourceRangesKey]; has {
		p := metaPath.Child("annotations").Key(core.AnnotationLoadBalancerSourceRangesKey)
		if !is {
			c.Forbidden(p, only)
		}
		if v = strings.TrimSpace(v); v != "" {
			for _, cidr := range strings.Split(v, ",") {
				c.CIDR(p, strings.TrimSpace(cidr))
			}
		}
	}
	switch {
	case c.AllocateLoadBalancerNodePorts != nil && !is:
		c.Forbidden(specPath.Child("allocateLoadBalancerNodePorts"), only)
	case c.AllocateLoadBalancerNodePorts == nil && is:
		c.Required(field.NewPath("allocateLoadBalancerNodePorts"), "")
	}
	if class := c.LoadBalancerClass; class != nil {
		if is {
			c.Qualified(specPath.Child("loadBalancerClass"), *class)
		} else {
			c.Forbidden(specPath.Child("loadBalancerClass"), only)
		}
	}
}

func (c *service) traffic() {
	e := &c.Errors
	out := specPath.Child("externalTrafficPolicy")
	outside := c.Type == core.ServiceTypeLoadBalancer || c.Type == core.ServiceTypeNodePort || c.Type == core.ServiceTypeClusterIP && len(c.ExternalIPs) > 0
	switch {
	case outside:
		rule.OneOf(e, out, c.ExternalTrafficPolicy, core.ServiceExternalTrafficPolicyCluster, core.ServiceExternalTrafficPolicyLocal)
	case c.ExternalTrafficPolicy != "":
		e.Invalid(out, c.ExternalTrafficPolicy, "may only be set for externally-accessible services")
	}
	health := specPath.Child("healthCheckNodePort")
	switch needs := needsHealthPort(c.ServiceSpec); {
	case !needs && c.HealthCheckNodePort != 0:
		e.Invalid(health, c.HealthCheckNodePort, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'")
	case needs && c.HealthCheckNodePort == 0:
		e.Required(health, "")
	case needs:
		e.Port(health, c.HealthCheckNodePort)
	}
	in := specPath.Child("internalTrafficPolicy")
	switch policy := c.InternalTrafficPolicy; {
	case policy != nil:
		rule.Among(e, in, *policy, core.ServiceInternalTrafficPolicyCluster, core.ServiceInternalTrafficPolicyLocal)
	case c.Type == core.ServiceTypeNodePort || c.Type == core.ServiceTypeLoadBalancer || c.Type == core.ServiceTypeClusterIP:
		e.Required(in, "")
	}
	if d := c.TrafficDistribution; d != nil {
		rule.Among(e, specPath.Child("trafficDistribution"), *d, core.ServiceTrafficDistributionPreferClose,
			core.ServiceTrafficDistributionPreferSameZone, core.ServiceTrafficDistributionPreferSameNode)
	}
}

func needsHealthPort(s *core.ServiceSpec) bool {
	return s.Type == core.ServiceTypeLoadBalancer && s.ExternalTrafficPolicy == core.ServiceExternalTrafficPolicyLocal
}

// ServiceUpdate checks a service that replaces old: addresses that were given
// stay, but a second one may come and go.
func ServiceUpdate(o, old *core.Service) Errors {
	var e rule.Errors
	s, was := &o.Spec, &old.Spec
	if s.Type != core.ServiceTypeExternalName && was.Type != core.ServiceTypeExternalName {
		none := func(s *core.ServiceSpec) bool {
			return len(s.ClusterIPs) == 1 && s.ClusterIPs[0] == core.ClusterIPNone
		}
		if !none(s) || !none(was) {
			stable(&e, s.IPFamilyPolicy, s.ClusterIPs, was.ClusterIPs, "clusterIP")
		}
		if !none(s) && !none(was) {
			stable(&e, s.IPFamilyPolicy, s.IPFamilies, was.IPFamilies, "ipFamily")
		}
	}
	if s.Type == core.ServiceTypeLoadBalancer && was.Type == core.ServiceTypeLoadBalancer && !same(s.LoadBalancerClass, was.LoadBalancerClass) {
		e.Invalid(specPath.Child("loadBalancerClass"), s.LoadBalancerClass, "may not change once set")
	}
	if needsHealthPort(s) && needsHealthPort(was) && s.HealthCheckNodePort != was.HealthCheckNodePort {
		e.Forbidden(specPath.Child("healthCheckNodePort"), "field is immutable")
	}
	e.Join(Service(o))
	return e.List()
}

// stable lets the second of two values come and go and keeps the rest; one is the
// word for a value.
func stable[T ~string](e *rule.Errors, policy *core.IPFamilyPolicy, is, was []T, one string) {
	p := specPath.Child(map[string]string{"clusterIP": "clusterIPs", "ipFamily": "ipFamilies"}[one])
	switch {
	case len(is) == len(was):
		for i := range was {
			if is[i] != was[i] {
				e.Invalid(p.Index(i), is, "may not change once set")
			}
		}
	case len(is) == 0:
		e.Invalid(p.Index(0), is, fmt.Sprintf("primary %s can not be unset", one))
	case len(was) > 0 && is[0] != was[0]:
		e.Invalid(p.Index(0), is, "may not change once set")
	case len(is) == 1 && len(was) == 2 && (policy == nil || *policy != core.IPFamilyPolicySingleStack):
		e.Invalid(specPath.Child("ipFamilyPolicy"), policy, fmt.Sprintf("must be set to 'SingleStack' when releasing the secondary %s", one))
	}
}

func same[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }

// ServiceStatus checks a write of the status.
func ServiceStatus(o, _ *core.Service) Errors {
	var e rule.Errors
	p := statusPath.Child("loadBalancer", "ingress")
	if o.Spec.Type != core.ServiceTypeLoadBalancer && len(o.Status.LoadBalancer.Ingress) > 0 {
		e.Forbidden(p, "may only be used when `spec.type` is 'LoadBalancer'")
		return e.List()
	}
	for i, in := range o.Status.LoadBalancer.Ingress {
		at := p.Index(i)
		if in.IP != "" {
			e.IP(at.Child("ip"), in.IP)
		}
		switch {
		case in.IPMode == nil && in.IP != "":
			e.Required(at.Child("ipMode"), "must be specified when `ip` is set")
		case in.IPMode != nil && in.IP == "":
			e.Forbidden(at.Child("ipMode"), "may not be specified when `ip` is not set")
		case in.IPMode != nil:
			rule.Among(&e, at.Child("ipMode"), *in.IPMode, core.LoadBalancerIPModeVIP, core.LoadBalancerIPModeProxy)
		}
		hostname(&e, at.Child("hostname"), in.Hostname)
	}
	return e.List()
}

func hostname(e *rule.Errors, p *field.Path, name string) {
	if name == "" {
		return
	}
	e.DNSSubdomain(p, name)
	if isIP(name) {
		e.Invalid(p, name, "must be a DNS name, not an IP address")
	}
}

// Endpoints checks the addresses behind a service.
func Endpoints(o *core.Endpoints) Errors {
	var e rule.Errors
	for i := range o.Subsets {
		s, at := &o.Subsets[i], field.NewPath("subsets").Index(i)
		if len(s.Addresses) == 0 && len(s.NotReadyAddresses) == 0 {
			e.Required(at, "must specify `addresses` or `notReadyAddresses`")
		}
		for j := range s.Addresses {
			endpointAddress(&e, &s.Addresses[j], at.Child("addresses").Index(j))
		}
		for j := range s.NotReadyAddresses {
			endpointAddress(&e, &s.NotReadyAddresses[j], at.Child("notReadyAddresses").Index(j))
		}
		for j := range s.Ports {
			p, at := &s.Ports[j], at.Child("ports").Index(j)
			if p.Name != "" {
				e.DNSLabel(at.Child("name"), p.Name)
			} else if len(s.Ports) > 1 {
				e.Required(at.Child("name"), "")
			}
			e.Port(at.Child("port"), p.Port)
			rule.OneOf(&e, at.Child("protocol"), p.Protocol, core.ProtocolTCP, core.ProtocolUDP, core.ProtocolSCTP)
			if p.AppProtocol != nil {
				e.Qualified(at.Child("appProtocol"), *p.AppProtocol)
			}
		}
	}
	return e.List()
}
func EndpointsUpdate(o, _ *core.Endpoints) Errors { return Endpoints(o) }

func endpointAddress(e *rule.Errors, a *core.EndpointAddress, p *field.Path) {
	e.IP(p.Child("ip"), a.IP)
	if a.Hostname != "" {
		e.DNSLabel(p.Child("hostname"), a.Hostname)
	}
	if a.NodeName != nil {
		e.ObjectName(p.Child("nodeName"), *a.NodeName)
	}
	e.PublicIP(p.Child("ip"), a.IP)
}
