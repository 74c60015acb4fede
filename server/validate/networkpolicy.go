package validate

import (
	"net/netip"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
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
