package proxy

import (
	"maps"
	"net/netip"
	"slices"

	"orch/network/rules"
)

func filter(name string, rs ...rules.Rule) *rules.Chain {
	return &rules.Chain{ID: rules.ID{Table: rules.Filter, Name: name}, Rules: rs}
}

func nat(name string, rs ...rules.Rule) *rules.Chain {
	return &rules.Chain{ID: rules.ID{Table: rules.NAT, Name: name}, Rules: rs}
}

func do(v rules.Verb) rules.Action { return rules.Action{Verb: v} }

func marked(v rules.Verb) rules.Action { return rules.Action{Verb: v, Bits: masqueradeBit} }

// jumps lead from the kernel's chains into ours; services come before anything
// that others have there, the rules for pods after it.
func jumps() []rules.Jump {
	jump := func(table rules.Table, from, comment, to string, state rules.State) rules.Jump {
		return rules.Jump{Table: table, From: from, Rule: rules.Rule{Comment: comment, State: state, Do: rules.JumpTo(to)}}
	}
	hostPorts := func(from string) rules.Jump {
		return rules.Jump{Table: rules.NAT, From: from, Rule: rules.Rule{Comment: "kubernetes host ports", DstType: rules.Local, Do: rules.JumpTo(chainHostPorts)}}
	}
	last := func(j rules.Jump) rules.Jump { j.Last = true; return j }
	const portals, external, balancer = "kubernetes service portals", "kubernetes externally-visible service portals", "kubernetes load balancer firewall"
	return []rules.Jump{
		jump(rules.NAT, "PREROUTING", portals, chainServices, 0),
		jump(rules.NAT, "OUTPUT", portals, chainServices, 0),
		jump(rules.NAT, "POSTROUTING", "kubernetes postrouting rules", chainPostrouting, 0),
		last(hostPorts("PREROUTING")),
		last(hostPorts("OUTPUT")),
		last(jump(rules.NAT, "POSTROUTING", "orch pods", chainEgress, 0)),
		jump(rules.Filter, "INPUT", balancer, chainProxyFW, rules.StateNew),
		jump(rules.Filter, "INPUT", "kubernetes health check service ports", chainNodePorts, 0),
		jump(rules.Filter, "INPUT", external, chainExternal, rules.StateNew),
		jump(rules.Filter, "INPUT", "", chainFirewall, 0),
		jump(rules.Filter, "FORWARD", balancer, chainProxyFW, rules.StateNew),
		jump(rules.Filter, "FORWARD", "kubernetes forwarding rules", chainForward, 0),
		jump(rules.Filter, "FORWARD", portals, chainServices, rules.StateNew),
		jump(rules.Filter, "FORWARD", external, chainExternal, rules.StateNew),
		last(jump(rules.Filter, "FORWARD", "orch pods", chainPodForward, 0)),
		jump(rules.Filter, "OUTPUT", balancer, chainProxyFW, rules.StateNew),
		jump(rules.Filter, "OUTPUT", portals, chainServices, rules.StateNew),
		jump(rules.Filter, "OUTPUT", "", chainFirewall, 0),
	}
}

// fixed are the chains that no Service changes.
func fixed(cfg *Config) []*rules.Chain {
	forward := filter(chainPodForward)
	if cfg.ClusterCIDR.IsValid() {
		forward.Rules = []rules.Rule{
			{Comment: "orch pods", Src: rules.Net{Prefix: cfg.ClusterCIDR}, Do: do(rules.Accept)},
			{Comment: "orch pods", Dst: rules.Net{Prefix: cfg.ClusterCIDR}, Do: do(rules.Accept)},
		}
	}
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	return []*rules.Chain{
		nat(chainMarkMasq, rules.Rule{Do: marked(rules.SetMark)}),
		nat(chainPostrouting,
			rules.Rule{Mark: rules.Mark{Bits: masqueradeBit, Not: true}, Do: do(rules.Return)},
			// Cleared, or a packet that is routed twice (through a tunnel) would be masqueraded twice.
			rules.Rule{Do: marked(rules.ClearMark)},
			rules.Rule{Comment: "kubernetes service traffic requiring SNAT", Do: do(rules.Masquerade)}),
		filter(chainForward,
			// A packet out of a connection's window would reach the client untranslated, and the client would reset.
			rules.Rule{State: rules.StateInvalid, Do: do(rules.Drop)},
			rules.Rule{Comment: "kubernetes forwarding rules", Mark: rules.Mark{Bits: masqueradeBit}, Do: do(rules.Accept)},
			rules.Rule{Comment: "kubernetes forwarding conntrack rule", State: rules.StateRelated | rules.StateEstablished, Do: do(rules.Accept)}),
		filter(chainFirewall, rules.Rule{Comment: "block incoming localnet connections", Src: rules.Net{Prefix: loopback, Not: true}, Dst: rules.Net{Prefix: loopback},
			State: rules.StateRelated | rules.StateEstablished | rules.StateDNAT, NotState: true, Do: do(rules.Drop)}),
		forward,
	}
}

// shared are the chains that all Services have rules in.
func shared(cfg *Config, parts []*part) []*rules.Chain {
	services, nodePorts := nat(chainServices), nat(chainNodePorts)
	refuse, external, firewall, health := filter(chainServices), filter(chainExternal), filter(chainProxyFW), filter(chainNodePorts)
	for _, p := range parts {
		services.Rules = append(services.Rules, p.services...)
		nodePorts.Rules = append(nodePorts.Rules, p.nodePorts...)
		refuse.Rules = append(refuse.Rules, p.refuse...)
		external.Rules = append(external.Rules, p.external...)
		firewall.Rules = append(firewall.Rules, p.firewall...)
		health.Rules = append(health.Rules, p.healthPort...)
	}
	services.Rules = append(services.Rules, rules.Rule{Comment: "kubernetes service nodeports; NOTE: this must be the last rule in this chain", DstType: rules.Local, Do: rules.JumpTo(chainNodePorts)})
	if cfg.ServiceCIDR.IsValid() {
		refuse.Rules = append(refuse.Rules, unassigned(cfg)...)
	}
	return []*rules.Chain{services, nodePorts, refuse, external, firewall, health}
}

// unassigned refuses cluster IPs that nobody has: they must not travel to a
// default gateway, and the client shall know at once. Addresses that somebody
// else answers stay reachable, and so does a port that was not translated on
// purpose.
func unassigned(cfg *Config) []rules.Rule {
	var rs []rules.Rule
	for _, ip := range cfg.SkipIPs {
		rs = append(rs, rules.Rule{Comment: "answered by the node", Dst: host(ip), Do: do(rules.Return)})
	}
	for _, proto := range []rules.Proto{rules.TCP, 0} {
		rs = append(rs, rules.Rule{Comment: "no such service", Proto: proto, Dst: rules.Net{Prefix: cfg.ServiceCIDR}, Do: do(rules.Reject)})
	}
	return rs
}

// podChains are host ports and masquerading.
func podChains(cfg *Config, pods map[string]*rules.Pod) (chains []*rules.Chain, udp map[rules.Frontend]*rules.Backends) {
	hostPorts, egress := nat(chainHostPorts), nat(chainEgress)
	udp = map[rules.Frontend]*rules.Backends{}
	multicast := rules.Net{Prefix: netip.MustParsePrefix("224.0.0.0/4"), Not: true}
	for _, id := range slices.Sorted(maps.Keys(pods)) {
		pod := pods[id]
		for _, hp := range pod.Ports {
			chains = append(chains, hostPort(id, pod, hp, hostPorts, udp)...)
		}
		if pod.Masquerade == nil {
			continue
		}
		for _, ip := range v4(pod.IPs) {
			for _, dst := range pod.Masquerade {
				egress.Rules = append(egress.Rules, rules.Rule{Comment: "pod", Src: host(ip), Dst: rules.Net{Prefix: dst}, Do: do(rules.Return)})
			}
			egress.Rules = append(egress.Rules, rules.Rule{Comment: "pod", Src: host(ip), Dst: multicast, Do: do(rules.Masquerade)})
		}
	}
	if pods := (rules.Net{Prefix: cfg.ClusterCIDR}); pods.Prefix.IsValid() {
		others := rules.Net{Prefix: cfg.ClusterCIDR, Not: true}
		egress.Rules = append(egress.Rules,
			rules.Rule{Comment: "pod to pod", Src: pods, Dst: pods, Do: do(rules.Return)},
			rules.Rule{Comment: "pod to elsewhere", Src: pods, Dst: multicast, Do: do(rules.Masquerade)})
		if cfg.PodCIDR.IsValid() {
			egress.Rules = append(egress.Rules,
				rules.Rule{Comment: "to a pod of this node", Src: others, Dst: rules.Net{Prefix: cfg.PodCIDR}, Do: do(rules.Return)},
				rules.Rule{Comment: "to a pod of another node", Src: others, Dst: pods, Do: do(rules.Masquerade)})
		}
	}
	return append(chains, hostPorts, egress), udp
}

// hostPort leads one port of the node to a pod.
func hostPort(id string, pod *rules.Pod, hp rules.HostPort, top *rules.Chain, udp map[rules.Frontend]*rules.Backends) []*rules.Chain {
	var chains []*rules.Chain
	for _, ip := range v4(pod.IPs) {
		to := netip.AddrPortFrom(ip, hp.Port)
		on := netip.AddrPortFrom(hp.HostIP, hp.HostPort)
		if hp.HostIP.IsUnspecified() {
			on = netip.AddrPortFrom(netip.Addr{}, hp.HostPort)
		}
		if on.Addr().Is6() {
			continue
		}
		name := chainName(prefixHostPort, id, hp.Proto.String(), on.String(), to.String())
		top.Rules = append(top.Rules, rules.Rule{Comment: "host port of " + id, Proto: hp.Proto, Dst: host(on.Addr()), DstPort: hp.HostPort, Do: rules.JumpTo(name)})
		chains = append(chains, nat(name,
			rules.Rule{Src: host(ip), Do: rules.JumpTo(chainMarkMasq)},
			rules.Rule{Src: rules.Net{Prefix: netip.MustParsePrefix("127.0.0.0/8")}, Do: rules.JumpTo(chainMarkMasq)},
			rules.Rule{Proto: hp.Proto, Do: rules.Action{Verb: rules.DNAT, To: to}}))
		if hp.Proto == rules.UDP {
			udp[rules.Frontend{Addr: on.Addr(), Port: hp.HostPort}] = &rules.Backends{Addrs: []netip.AddrPort{to}}
		}
	}
	return chains
}

func v4(ips []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(ips), func(a netip.Addr) bool { return !a.Is4() })
}
