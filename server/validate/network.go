package validate

import (
	"fmt"
	"net/netip"
	"strings"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	apimachinery "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

// NetworkPolicy checks selectors, ports and peers.
func NetworkPolicy(o *networking.NetworkPolicy) Errors {
	var e rule.Errors
	s := &o.Spec
	e.Selector(specPath.Child("podSelector"), &s.PodSelector)
	for i, r := range s.Ingress {
		policyRule(&e, r.Ports, r.From, specPath.Child("ingress").Index(i), "from")
	}
	for i, r := range s.Egress {
		policyRule(&e, r.Ports, r.To, specPath.Child("egress").Index(i), "to")
	}
	if len(s.PolicyTypes) > 2 {
		e.Invalid(specPath.Child("policyTypes"), s.PolicyTypes, "may not specify more than two policyTypes")
		return e.List()
	}
	for i, t := range s.PolicyTypes {
		if t != networking.PolicyTypeIngress && t != networking.PolicyTypeEgress {
			e.Add(field.NotSupported(specPath.Child("policyTypes").Index(i), t, []networking.PolicyType{networking.PolicyTypeIngress, networking.PolicyTypeEgress}))
		}
	}
	return e.List()
}
func NetworkPolicyUpdate(o, _ *networking.NetworkPolicy) Errors { return NetworkPolicy(o) }

func policyRule(e *rule.Errors, ports []networking.NetworkPolicyPort, peers []networking.NetworkPolicyPeer, p *field.Path, direction string) {
	for i := range ports {
		policyPort(e, &ports[i], p.Child("ports").Index(i))
	}
	for i := range peers {
		peer(e, &peers[i], p.Child(direction).Index(i))
	}
}

func policyPort(e *rule.Errors, port *networking.NetworkPolicyPort, p *field.Path) {
	if port.Protocol != nil {
		protocols := []core.Protocol{core.ProtocolTCP, core.ProtocolUDP, core.ProtocolSCTP}
		if v := *port.Protocol; v != protocols[0] && v != protocols[1] && v != protocols[2] {
			e.Add(field.NotSupported(p.Child("protocol"), v, protocols))
		}
	}
	end := p.Child("endPort")
	if port.Port == nil {
		if port.EndPort != nil {
			e.Invalid(end, *port.EndPort, "may not be specified when `port` is not specified")
		}
		return
	}
	e.PortOrName(p.Child("port"), *port.Port)
	switch {
	case port.EndPort == nil:
	case port.Port.Type != intstr.Int:
		e.Invalid(end, *port.EndPort, "may not be specified when `port` is non-numeric")
	default:
		if *port.EndPort < port.Port.IntVal {
			e.Invalid(end, *port.EndPort, "must be greater than or equal to `port`")
		}
		e.Port(end, *port.EndPort)
	}
}

func peer(e *rule.Errors, v *networking.NetworkPolicyPeer, p *field.Path) {
	e.Selector(p.Child("podSelector"), v.PodSelector)
	e.Selector(p.Child("namespaceSelector"), v.NamespaceSelector)
	if v.IPBlock != nil {
		ipBlock(e, v.IPBlock, p.Child("ipBlock"))
	}
	switch selectors := v.PodSelector != nil || v.NamespaceSelector != nil; {
	case !selectors && v.IPBlock == nil:
		e.Required(p, "must specify a peer")
	case selectors && v.IPBlock != nil:
		e.Forbidden(p, "may not specify both ipBlock and another peer")
	}
}

func ipBlock(e *rule.Errors, b *networking.IPBlock, p *field.Path) {
	if b.CIDR == "" {
		e.Required(p.Child("cidr"), "")
		return
	}
	before := e.Len()
	e.CIDR(p.Child("cidr"), b.CIDR)
	whole, err := netip.ParsePrefix(b.CIDR)
	if e.Len() > before || err != nil {
		return
	}
	for i, v := range b.Except {
		at, before := p.Child("except").Index(i), e.Len()
		e.CIDR(at, v)
		part, err := netip.ParsePrefix(v)
		if e.Len() == before && err == nil && (!whole.Contains(part.Addr()) || whole.Bits() >= part.Bits()) {
			e.Invalid(at, v, "must be a strict subset of `cidr`")
		}
	}
}

// Ingress checks rules, backends and certificates.
func Ingress(o *networking.Ingress) Errors {
	var e rule.Errors
	e.Join(IngressUpdate(o, nil))
	if v, has := o.Annotations[ingressClassNote]; has && o.Spec.IngressClassName != nil && v != *o.Spec.IngressClassName {
		e.Invalid(field.NewPath("annotations").Child(ingressClassNote), v, "must match `ingressClassName` when both are specified")
	}
	return e.List()
}

const ingressClassNote = "kubernetes.io/ingress.class"

// IngressUpdate checks the same, but for the old annotation.
func IngressUpdate(o, _ *networking.Ingress) Errors {
	var e rule.Errors
	s := &o.Spec
	if len(s.Rules) == 0 && s.DefaultBackend == nil {
		e.Invalid(specPath, s.Rules, "either `defaultBackend` or `rules` must be specified")
	}
	if s.DefaultBackend != nil {
		backend(&e, s.DefaultBackend, specPath.Child("defaultBackend"))
	}
	for i := range s.Rules {
		ingressRule(&e, &s.Rules[i], specPath.Child("rules").Index(i))
	}
	for i, t := range s.TLS {
		at := specPath.Child("tls").Index(i)
		for j, h := range t.Hosts {
			host(&e, h, at.Child("hosts").Index(j))
		}
		if t.SecretName != "" {
			e.ObjectName(at.Child("secretName"), t.SecretName)
		}
	}
	if s.IngressClassName != nil {
		e.ObjectName(specPath.Child("ingressClassName"), *s.IngressClassName)
	}
	return e.List()
}

func host(e *rule.Errors, h string, p *field.Path) {
	if strings.Contains(h, "*") {
		e.Each(p, h, validation.IsWildcardDNS1123Subdomain(h))
		return
	}
	e.DNSSubdomain(p, h)
}

func ingressRule(e *rule.Errors, r *networking.IngressRule, p *field.Path) {
	if r.Host != "" {
		if isIP(r.Host) {
			e.Invalid(p.Child("host"), r.Host, "must be a DNS name, not an IP address")
		}
		host(e, r.Host, p.Child("host"))
	}
	if r.HTTP == nil {
		return
	}
	paths := p.Child("http", "paths")
	if len(r.HTTP.Paths) == 0 {
		e.Required(paths, "")
	}
	for i := range r.HTTP.Paths {
		ingressPath(e, &r.HTTP.Paths[i], paths.Index(i))
	}
}

func ingressPath(e *rule.Errors, v *networking.HTTPIngressPath, p *field.Path) {
	if v.PathType == nil {
		e.Required(p.Child("pathType"), "pathType must be specified")
		return
	}
	at := p.Child("path")
	switch *v.PathType {
	case networking.PathTypeExact, networking.PathTypePrefix:
		if !strings.HasPrefix(v.Path, "/") {
			e.Invalid(at, v.Path, "must be an absolute path")
		}
		for _, bad := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(v.Path, bad) {
				e.Invalid(at, v.Path, fmt.Sprintf("must not contain '%s'", bad))
			}
		}
		for _, bad := range []string{"/..", "/."} {
			if strings.HasSuffix(v.Path, bad) {
				e.Invalid(at, v.Path, fmt.Sprintf("cannot end with '%s'", bad))
			}
		}
	case networking.PathTypeImplementationSpecific:
		if v.Path != "" && !strings.HasPrefix(v.Path, "/") {
			e.Invalid(at, v.Path, "must be an absolute path")
		}
	default:
		rule.Among(e, p.Child("pathType"), *v.PathType, networking.PathTypeExact, networking.PathTypePrefix, networking.PathTypeImplementationSpecific)
	}
	backend(e, &v.Backend, p.Child("backend"))
}

func backend(e *rule.Errors, b *networking.IngressBackend, p *field.Path) {
	switch {
	case b.Resource != nil && b.Service != nil:
		e.Invalid(p, "", "cannot set both resource and service backends")
	case b.Resource != nil:
		if g := b.Resource.APIGroup; g != nil {
			e.DNSSubdomain(p.Child("resource", "apiGroup"), *g)
		}
		segment(e, p.Child("resource", "kind"), b.Resource.Kind)
		segment(e, p.Child("resource", "name"), b.Resource.Name)
	case b.Service != nil:
		if at := p.Child("service", "name"); b.Service.Name == "" {
			e.Required(at, "")
		} else {
			e.Each(at, b.Service.Name, apimachinery.NameIsDNSLabel(b.Service.Name, false))
		}
		port := b.Service.Port
		switch {
		case port.Name != "" && port.Number != 0:
			e.Invalid(p, "", "cannot set both port name & port number")
		case port.Name != "":
			e.Each(p.Child("service", "port", "name"), port.Name, validation.IsValidPortName(port.Name))
		case port.Number != 0:
			e.Port(p.Child("service", "port", "number"), port.Number)
		default:
			e.Required(p, "port name or number is required")
		}
	default:
		e.Invalid(p, "", "resource or service backend is required")
	}
}

// IngressStatus checks the addresses that a controller reports.
func IngressStatus(o, _ *networking.Ingress) Errors {
	var e rule.Errors
	for i, in := range o.Status.LoadBalancer.Ingress {
		at := statusPath.Child("loadBalancer", "ingress").Index(i)
		if in.IP != "" {
			e.IP(at.Child("ip"), in.IP)
		}
		hostname(&e, at.Child("hostname"), in.Hostname)
	}
	return e.List()
}

// IngressClass checks controller and parameters.
func IngressClass(o *networking.IngressClass) Errors {
	const longest = 250
	var e rule.Errors
	at := specPath.Child("controller")
	if o.Spec.Controller == "" {
		e.Required(at, "")
	} else {
		if len(o.Spec.Controller) > longest {
			e.Add(field.TooLong(at, "", longest))
		}
		e.Join(validation.IsDomainPrefixedPath(at, o.Spec.Controller))
	}
	if p := o.Spec.Parameters; p != nil {
		parameters(&e, p, specPath.Child("parameters"))
	}
	return e.List()
}

func parameters(e *rule.Errors, v *networking.IngressClassParametersReference, p *field.Path) {
	const cluster, namespace = networking.IngressClassParametersReferenceScopeCluster, networking.IngressClassParametersReferenceScopeNamespace
	if v.APIGroup != nil {
		e.DNSSubdomain(p.Child("apiGroup"), *v.APIGroup)
	}
	segment(e, p.Child("kind"), v.Kind)
	segment(e, p.Child("name"), v.Name)
	if v.Scope == nil {
		e.Required(p.Child("scope"), "")
		return
	}
	rule.Among(e, p.Child("scope"), *v.Scope, cluster, namespace)
	switch at := p.Child("namespace"); {
	case *v.Scope == cluster && v.Namespace != nil:
		e.Forbidden(at, "`parameters.scope` is set to 'Cluster'")
	case *v.Scope == namespace && v.Namespace == nil:
		e.Required(at, "`parameters.scope` is set to 'Namespace'")
	case *v.Scope == namespace:
		e.Each(at, *v.Namespace, apimachinery.ValidateNamespaceName(*v.Namespace, false))
	}
}

// IngressClassUpdate also keeps the controller.
func IngressClassUpdate(o, old *networking.IngressClass) Errors {
	var e rule.Errors
	e.Unchanged(specPath.Child("controller"), o.Spec.Controller, old.Spec.Controller)
	e.Join(IngressClass(o))
	return e.List()
}

// IPAddressName wants an address in canonical form.
func IPAddressName(name string, _ bool) []string {
	var out []string
	for _, err := range validation.IsValidIP(nil, name) {
		out = append(out, err.Detail)
	}
	return out
}

// IPAddress checks whose the address is.
func IPAddress(o *networking.IPAddress) Errors {
	var e rule.Errors
	p, r := specPath.Child("parentRef"), o.Spec.ParentRef
	if r == nil {
		e.Required(p, "")
		return e.List()
	}
	if r.Group != "" {
		e.DNSSubdomain(p.Child("group"), r.Group)
	}
	segment(&e, p.Child("resource"), r.Resource)
	segment(&e, p.Child("name"), r.Name)
	if r.Namespace != "" {
		segment(&e, p.Child("namespace"), r.Namespace)
	}
	return e.List()
}

// IPAddressUpdate keeps everything.
func IPAddressUpdate(o, old *networking.IPAddress) Errors {
	var e rule.Errors
	e.Unchanged(specPath.Child("parentRef"), o.Spec.ParentRef, old.Spec.ParentRef)
	return e.List()
}

// ServiceCIDR checks the ranges.
func ServiceCIDR(o *networking.ServiceCIDR) Errors {
	var e rule.Errors
	p := specPath.Child("cidrs")
	list := o.Spec.CIDRs
	switch {
	case len(list) == 0:
		e.Required(p, "at least one CIDR required")
	case len(list) > 2:
		e.Invalid(p, o.Spec, "may only hold up to 2 values")
	}
	for i, v := range list {
		e.Join(validation.IsValidCIDR(p.Index(i), v))
	}
	if len(list) == 2 && !rule.OnePerFamily(list) {
		e.Invalid(p, o.Spec, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64")
	}
	return e.List()
}

// ServiceCIDRUpdate lets a range of the other family be added.
func ServiceCIDRUpdate(o, old *networking.ServiceCIDR) Errors {
	var e rule.Errors
	e.Join(ServiceCIDR(o))
	for i, v := range old.Spec.CIDRs {
		if i >= len(o.Spec.CIDRs) || o.Spec.CIDRs[i] != v {
			e.Invalid(specPath.Child("cidrs").Index(i), o.Spec.CIDRs, rule.Immutable)
		}
	}
	return e.List()
}

const (
	mostEndpoints = 1000
	mostAddresses = 100
	mostPorts     = 20000
	mostZoneHints = 8
)

// EndpointSlice checks addresses and ports.
func EndpointSlice(o *discovery.EndpointSlice) Errors {
	var e rule.Errors
	rule.OneOf(&e, field.NewPath("addressType"), o.AddressType, discovery.AddressTypeIPv4, discovery.AddressTypeIPv6, discovery.AddressTypeFQDN)
	p := field.NewPath("endpoints")
	if n := len(o.Endpoints); n > mostEndpoints {
		e.Add(field.TooMany(p, n, mostEndpoints))
		return e.List()
	}
	for i := range o.Endpoints {
		endpoint(&e, &o.Endpoints[i], o.AddressType, p.Index(i))
	}
	slicePorts(&e, o.Ports, field.NewPath("ports"))
	return e.List()
}

func endpoint(e *rule.Errors, v *discovery.Endpoint, kind discovery.AddressType, p *field.Path) {
	at := p.Child("addresses")
	switch n := len(v.Addresses); {
	case n == 0:
		e.Required(at, "must contain at least 1 address")
	case n > mostAddresses:
		e.Add(field.TooMany(at, n, mostAddresses))
	}
	for i, a := range v.Addresses {
		switch kind {
		case discovery.AddressTypeFQDN:
			e.Join(validation.IsFullyQualifiedDomainName(at.Index(i), a))
		case discovery.AddressTypeIPv4, discovery.AddressTypeIPv6:
			before := e.Len()
			e.IP(at.Index(i), a)
			if e.Len() == before && rule.IsIPv6(a) != (kind == discovery.AddressTypeIPv6) {
				e.Invalid(at.Index(i), a, fmt.Sprintf("must be an %s address", kind))
			}
			e.PublicIP(at.Index(i), a)
		}
	}
	if v.NodeName != nil {
		e.ObjectName(p.Child("nodeName"), *v.NodeName)
	}
	if v.Hostname != nil {
		e.DNSLabel(p.Child("hostname"), *v.Hostname)
	}
	if v.Hints != nil {
		zones, seen := p.Child("hints", "forZones"), rule.Unique{}
		if n := len(v.Hints.ForZones); n > mostZoneHints {
			e.Add(field.TooMany(zones, n, mostZoneHints))
			return
		}
		for i, z := range v.Hints.ForZones {
			if seen.Again(z.Name) {
				e.Duplicate(zones.Index(i), z.Name)
			}
			e.Each(zones.Index(i).Child("name"), z.Name, validation.IsValidLabelValue(z.Name))
		}
	}
}

func slicePorts(e *rule.Errors, ports []discovery.EndpointPort, p *field.Path) {
	if n := len(ports); n > mostPorts {
		e.Add(field.TooMany(p, n, mostPorts))
		return
	}
	seen := rule.Unique{}
	for i, port := range ports {
		at := p.Index(i)
		if port.Name != nil && *port.Name != "" {
			e.DNSLabel(at.Child("name"), *port.Name)
		}
		if port.Name != nil && seen.Again(*port.Name) {
			e.Duplicate(at.Child("name"), *port.Name)
		}
		if port.Port != nil {
			e.Port(at.Child("port"), *port.Port)
		}
		if port.Protocol == nil {
			e.Required(at.Child("protocol"), "")
		} else {
			rule.Among(e, at.Child("protocol"), *port.Protocol, core.ProtocolTCP, core.ProtocolUDP, core.ProtocolSCTP)
		}
		if port.AppProtocol != nil {
			e.Qualified(at.Child("appProtocol"), *port.AppProtocol)
		}
	}
}

// EndpointSliceUpdate also keeps the address type.
func EndpointSliceUpdate(o, old *discovery.EndpointSlice) Errors {
	var e rule.Errors
	e.Join(EndpointSlice(o))
	e.Unchanged(field.NewPath("addressType"), o.AddressType, old.AddressType)
	return e.List()
}
