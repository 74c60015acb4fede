package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"orch/network/rules"
)

// part is what one Service adds to the ruleset: chains of its own, and rules in
// the chains that all share.
type part struct {
	chains     []*rules.Chain
	services   []rules.Rule // nat KUBE-SERVICES
	nodePorts  []rules.Rule // nat KUBE-NODEPORTS
	refuse     []rules.Rule // filter KUBE-SERVICES
	external   []rules.Rule // filter KUBE-EXTERNAL-SERVICES
	firewall   []rules.Rule // filter KUBE-PROXY-FIREWALL
	healthPort []rules.Rule // filter KUBE-NODEPORTS
	udp        map[rules.Frontend]*rules.Backends
	health     *HealthCheck
}

// HealthCheck is a port on which a load balancer asks whether this node has
// endpoints of a Service.
type HealthCheck struct {
	Namespace, Name string
	Port            uint16
	Local           int // endpoints on this node
}

// servicePort is one port of a Service with everything the rules need.
type servicePort struct {
	cfg   *Config
	svc   *core.Service
	port  *core.ServicePort
	proto rules.Proto
	name  string // namespace/name[:port]
	hash  []string
	choice
	internalLocal, externalLocal bool
	externalIPs, balancerIPs     []netip.Addr
	out                          *part
}

// partOf computes the part of one Service. A nil result: nothing to do.
func partOf(cfg *Config, svc *core.Service, slicesOf []*discovery.EndpointSlice) *part {
	if svc.Spec.Type == core.ServiceTypeExternalName {
		return nil
	}
	clusterIP, err := netip.ParseAddr(svc.Spec.ClusterIP)
	if err != nil || !clusterIP.Is4() || slices.Contains(cfg.SkipIPs, clusterIP) {
		return nil
	}
	out := &part{udp: map[rules.Frontend]*rules.Backends{}}
	// local are this node's ready endpoints: those that end may serve, but a load balancer is to look elsewhere.
	local := map[netip.Addr]bool{}
	for i := range svc.Spec.Ports {
		port := &svc.Spec.Ports[i]
		proto, ok := protoOf(protocolOf(port))
		if !ok {
			continue
		}
		p := &servicePort{cfg: cfg, svc: svc, port: port, proto: proto, name: svc.Namespace + "/" + svc.Name, out: out}
		if port.Name != "" {
			p.name += ":" + port.Name
		}
		p.hash = []string{p.name, proto.String()}
		p.internalLocal = deref(svc.Spec.InternalTrafficPolicy, "") == core.ServiceInternalTrafficPolicyLocal
		p.externalLocal = svc.Spec.ExternalTrafficPolicy == core.ServiceExternalTrafficPolicyLocal
		p.choice = choose(cfg, endpointsFor(cfg, port, slicesOf))
		p.externalIPs, p.balancerIPs = addrs(svc.Spec.ExternalIPs), balancerIPs(svc)
		p.rules(clusterIP)
		for _, e := range p.local {
			if e.ready {
				local[e.addr.Addr()] = true
			}
		}
	}
	if hc := svc.Spec.HealthCheckNodePort; hc != 0 && svc.Spec.Type == core.ServiceTypeLoadBalancer && svc.Spec.ExternalTrafficPolicy == core.ServiceExternalTrafficPolicyLocal {
		out.health = &HealthCheck{Namespace: svc.Namespace, Name: svc.Name, Port: uint16(hc), Local: len(local)}
		out.healthPort = []rules.Rule{{Comment: svc.Namespace + "/" + svc.Name + " health check node port", Proto: rules.TCP, DstPort: uint16(hc), Do: rules.Action{Verb: rules.Accept}}}
	}
	return out
}

func addrs(texts []string) []netip.Addr {
	var out []netip.Addr
	for _, s := range texts {
		if a, err := netip.ParseAddr(s); err == nil && a.Is4() {
			out = append(out, a)
		}
	}
	return out
}

// balancerIPs are the addresses that the node itself answers; in mode Proxy the
// load balancer wants the packets.
func balancerIPs(svc *core.Service) []netip.Addr {
	var texts []string
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if deref(in.IPMode, core.LoadBalancerIPModeVIP) == core.LoadBalancerIPModeVIP {
			texts = append(texts, in.IP)
		}
	}
	if svc.Spec.Type != core.ServiceTypeLoadBalancer {
		return nil
	}
	return addrs(texts)
}

func (p *servicePort) reachableFromOutside() bool {
	return p.port.NodePort != 0 || len(p.externalIPs) > 0 || len(p.balancerIPs) > 0
}

// policyChain is where traffic of a policy goes.
func (p *servicePort) policyChain(local bool) (chain string, endpoints []endpoint) {
	if local {
		return chainName(prefixLocal, p.hash...), p.local
	}
	return chainName(prefixCluster, p.hash...), p.cluster
}

// rules adds everything of one port.
func (p *servicePort) rules(clusterIP netip.Addr) {
	internal, internalEps := p.policyChain(p.internalLocal)
	_, externalEps := p.policyChain(p.externalLocal)
	outside := p.reachableFromOutside()

	used := map[netip.AddrPort]bool{}
	if !p.internalLocal || outside {
		p.balance(false, clusterIP, used)
	}
	if p.internalLocal || outside && p.externalLocal {
		p.balance(true, clusterIP, used)
	}
	if len(internalEps) > 0 {
		p.out.services = append(p.out.services, p.to(clusterIP, "cluster IP", rules.JumpTo(internal)))
	} else {
		p.out.refuse = append(p.out.refuse, p.refusal(clusterIP))
	}
	p.frontend(clusterIP, uint16(p.port.Port), p.internalLocal)
	if outside {
		p.outside(len(externalEps) > 0)
	}
}

// outside adds the ways in that start outside the cluster.
func (p *servicePort) outside(hasEndpoints bool) {
	ext := chainName(prefixExternal, p.hash...)
	if p.any {
		p.out.chains = append(p.out.chains, p.externalChain(ext, hasEndpoints))
	}
	for _, ip := range p.externalIPs {
		p.capture(ip, "external IP", ext, hasEndpoints)
	}
	target, fromRanges := ext, p.ranges(ext)
	if fromRanges != nil && p.any {
		target = fromRanges.Name
		p.out.chains = append(p.out.chains, fromRanges)
	}
	for _, ip := range p.balancerIPs {
		p.capture(ip, "loadbalancer IP", target, hasEndpoints)
		if fromRanges != nil {
			drop := p.to(ip, "traffic not accepted by "+chainName(prefixFirewall, p.hash...), rules.Action{Verb: rules.Drop})
			p.out.firewall = append(p.out.firewall, drop)
		}
	}
	if p.port.NodePort != 0 {
		port := uint16(p.port.NodePort)
		if p.any {
			p.out.nodePorts = append(p.out.nodePorts, rules.Rule{Comment: p.name, Proto: p.proto, DstPort: port, Do: rules.JumpTo(ext)})
		}
		if !hasEndpoints {
			r := p.refusal(netip.Addr{})
			r.Dst, r.DstPort, r.DstType = rules.Net{}, port, rules.Local
			p.out.external = append(p.out.external, r)
		}
		p.frontend(netip.Addr{}, port, p.externalLocal)
	}
}

// capture leads an external address to its chain; what comes out undecided is
// refused.
func (p *servicePort) capture(ip netip.Addr, what, chain string, hasEndpoints bool) {
	if p.any {
		p.out.services = append(p.out.services, p.to(ip, what, rules.JumpTo(chain)))
	}
	if !hasEndpoints {
		p.out.external = append(p.out.external, p.refusal(ip))
	}
	p.frontend(ip, uint16(p.port.Port), p.externalLocal)
}

// to is a rule for the service port on one address.
func (p *servicePort) to(ip netip.Addr, what string, do rules.Action) rules.Rule {
	return rules.Rule{Comment: p.name + " " + what, Proto: p.proto, Dst: host(ip), DstPort: uint16(p.port.Port), Do: do}
}

// refusal: nobody anywhere answers, so say so; or the policy is Local and others
// do, so stay silent and let the client try another node.
func (p *servicePort) refusal(ip netip.Addr) rules.Rule {
	if !p.any {
		return p.to(ip, "has no endpoints", rules.Action{Verb: rules.Reject})
	}
	return p.to(ip, "has no local endpoints", rules.Action{Verb: rules.Drop})
}

// externalChain decides about masquerading, which a Local policy avoids so that
// the client's address is seen; pods and the node itself may use any endpoint.
func (p *servicePort) externalChain(name string, hasEndpoints bool) *rules.Chain {
	c := &rules.Chain{ID: rules.ID{Table: rules.NAT, Name: name}}
	add := func(r rules.Rule) { c.Rules = append(c.Rules, r) }
	target, _ := p.policyChain(p.externalLocal)
	if !p.externalLocal {
		add(rules.Rule{Comment: "masquerade traffic for " + p.name + " external destinations", Do: rules.JumpTo(chainMarkMasq)})
	} else {
		any, eps := p.policyChain(false)
		if len(eps) > 0 {
			add(rules.Rule{Comment: "pod traffic for " + p.name + " external destinations", Src: rules.Net{Prefix: p.cfg.ClusterCIDR}, Do: rules.JumpTo(any)})
			add(rules.Rule{Comment: "masquerade LOCAL traffic for " + p.name + " external destinations", SrcType: rules.Local, Do: rules.JumpTo(chainMarkMasq)})
			add(rules.Rule{Comment: "route LOCAL traffic for " + p.name + " external destinations", SrcType: rules.Local, Do: rules.JumpTo(any)})
		}
	}
	if hasEndpoints {
		add(rules.Rule{Do: rules.JumpTo(target)})
	}
	return c
}

// ranges is the chain that lets loadBalancerSourceRanges in, or nil. An address
// of the balancer that is also the node's own comes back as its own source.
func (p *servicePort) ranges(ext string) *rules.Chain {
	if len(p.svc.Spec.LoadBalancerSourceRanges) == 0 || len(p.balancerIPs) == 0 {
		return nil
	}
	c := &rules.Chain{ID: rules.ID{Table: rules.NAT, Name: chainName(prefixFirewall, p.hash...)}}
	comment := p.name + " loadbalancer IP"
	fromNode := false
	for _, text := range p.svc.Spec.LoadBalancerSourceRanges {
		cidr, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil || !cidr.Addr().Is4() {
			continue
		}
		fromNode = fromNode || slices.ContainsFunc(p.cfg.NodeIPs, cidr.Contains)
		c.Rules = append(c.Rules, rules.Rule{Comment: comment, Src: rules.Net{Prefix: cidr.Masked()}, Do: rules.JumpTo(ext)})
	}
	if fromNode {
		for _, ip := range p.balancerIPs {
			c.Rules = append(c.Rules, rules.Rule{Comment: comment, Src: host(ip), Do: rules.JumpTo(ext)})
		}
	}
	c.Rules = append(c.Rules, rules.Rule{Comment: "other traffic to " + p.name + " will be dropped by " + chainProxyFW})
	return c
}

// balance adds the chain that spreads over the endpoints of a policy, and the
// chains of endpoints that no other policy has added yet.
func (p *servicePort) balance(local bool, clusterIP netip.Addr, used map[netip.AddrPort]bool) {
	name, eps := p.policyChain(local)
	if len(eps) == 0 {
		return
	}
	c := &rules.Chain{ID: rules.ID{Table: rules.NAT, Name: name}}
	if local == p.internalLocal && p.cfg.ClusterCIDR.IsValid() {
		masq := p.to(clusterIP, "cluster IP", rules.JumpTo(chainMarkMasq))
		masq.Src = rules.Net{Prefix: p.cfg.ClusterCIDR, Not: true}
		c.Rules = append(c.Rules, masq)
	}
	sticky := p.affinitySeconds()
	if sticky > 0 {
		for _, e := range eps {
			sep := p.endpointChain(e)
			c.Rules = append(c.Rules, rules.Rule{Comment: p.arrow(e), Recent: rules.Recent{Name: sep, Seconds: sticky}, Do: rules.JumpTo(sep)})
		}
	}
	for i, e := range eps {
		r := rules.Rule{Comment: p.arrow(e), Do: rules.JumpTo(p.endpointChain(e))}
		if left := len(eps) - i; left > 1 {
			r.OneIn = left
		}
		c.Rules = append(c.Rules, r)
		if !used[e.addr] {
			used[e.addr] = true
			p.out.chains = append(p.out.chains, p.endpoint(e, sticky > 0))
		}
	}
	p.out.chains = append(p.out.chains, c)
}

// endpoint is the chain that translates to one endpoint. An endpoint that
// reaches itself must see another source, or it would answer itself.
func (p *servicePort) endpoint(e endpoint, sticky bool) *rules.Chain {
	name := p.endpointChain(e)
	dnat := rules.Rule{Comment: p.name, Proto: p.proto, Do: rules.Action{Verb: rules.DNAT, To: e.addr}}
	if sticky {
		dnat.Recent = rules.Recent{Name: name, Keep: true}
	}
	return &rules.Chain{ID: rules.ID{Table: rules.NAT, Name: name}, Rules: []rules.Rule{
		{Comment: p.name, Src: host(e.addr.Addr()), Do: rules.JumpTo(chainMarkMasq)}, dnat,
	}}
}

func (p *servicePort) endpointChain(e endpoint) string {
	return chainName(prefixEndpoint, p.name, p.proto.String(), e.addr.String())
}

func (p *servicePort) arrow(e endpoint) string { return fmt.Sprintf("%s -> %s", p.name, e.addr) }

// affinitySeconds is 0 without affinity.
func (p *servicePort) affinitySeconds() int {
	if p.svc.Spec.SessionAffinity != core.ServiceAffinityClientIP {
		return 0
	}
	if c := p.svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		return int(*c.ClientIP.TimeoutSeconds)
	}
	return int(core.DefaultClientIPServiceAffinitySeconds)
}

// frontend remembers who may answer datagrams. Endpoints of the whole cluster
// count too where pods and the node itself may use them.
func (p *servicePort) frontend(ip netip.Addr, port uint16, local bool) {
	if p.proto != rules.UDP {
		return
	}
	_, eps := p.policyChain(local)
	all := slices.Clone(eps)
	if local {
		all = append(all, p.cluster...)
	}
	b := &rules.Backends{}
	for _, e := range all {
		if !b.Has(e.addr) {
			b.Addrs = append(b.Addrs, e.addr)
		}
	}
	p.out.udp[rules.Frontend{Addr: ip, Port: port}] = b
}

func host(ip netip.Addr) rules.Net {
	if !ip.IsValid() {
		return rules.Net{}
	}
	return rules.Net{Prefix: netip.PrefixFrom(ip, ip.BitLen())}
}
