package proxy

import (
	"net/netip"
	"slices"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"orch/network/rules"
)

// endpoint is one address and port behind a service port.
type endpoint struct {
	addr         netip.AddrPort
	ready        bool
	serving      bool
	terminating  bool
	local        bool
	nodes, zones []string // topology hints
}

// endpointsFor collects the endpoints of one service port, sorted by address.
// When slices disagree about an address, ready wins.
func endpointsFor(cfg *Config, port *core.ServicePort, slicesOf []*discovery.EndpointSlice) []endpoint {
	found := map[netip.AddrPort]endpoint{}
	for _, s := range slicesOf {
		if s.AddressType != discovery.AddressTypeIPv4 {
			continue
		}
		for i := range s.Ports {
			p := &s.Ports[i]
			if p.Port == nil || deref(p.Name, "") != port.Name || deref(p.Protocol, core.ProtocolTCP) != protocolOf(port) {
				continue
			}
			for j := range s.Endpoints {
				e, ok := endpointOf(cfg, &s.Endpoints[j], uint16(*p.Port))
				if ok && (!found[e.addr].ready || e.ready) {
					found[e.addr] = e
				}
			}
		}
	}
	all := make([]endpoint, 0, len(found))
	for _, e := range found {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b endpoint) int { return a.addr.Compare(b.addr) })
	return all
}

// endpointOf reads the conditions as the API defines them: ready unless said
// otherwise, serving as ready unless said otherwise. All addresses of an
// endpoint are the same endpoint; consumers use the first.
func endpointOf(cfg *Config, e *discovery.Endpoint, port uint16) (endpoint, bool) {
	if len(e.Addresses) == 0 {
		return endpoint{}, false
	}
	ip, err := netip.ParseAddr(e.Addresses[0])
	if err != nil || !ip.Is4() {
		return endpoint{}, false
	}
	out := endpoint{addr: netip.AddrPortFrom(ip, port), ready: deref(e.Conditions.Ready, true),
		terminating: deref(e.Conditions.Terminating, false), local: deref(e.NodeName, "") == cfg.NodeName}
	out.serving = deref(e.Conditions.Serving, out.ready)
	if e.Hints != nil {
		for _, n := range e.Hints.ForNodes {
			out.nodes = append(out.nodes, n.Name)
		}
		for _, z := range e.Hints.ForZones {
			out.zones = append(out.zones, z.Name)
		}
	}
	return out, true
}

// choice is which endpoints serve which policy.
type choice struct {
	cluster []endpoint // any node's, within the topology hints
	local   []endpoint // this node's
	any     bool       // somebody somewhere could answer
}

// choose matches upstream's CategorizeEndpoints: ready ones; when there are none,
// those that terminate but still serve.
func choose(cfg *Config, all []endpoint) choice {
	usable := func(keep func(endpoint) bool) []endpoint {
		var ready, draining []endpoint
		for _, e := range all {
			switch {
			case !keep(e):
			case e.ready:
				ready = append(ready, e)
			case e.serving && e.terminating:
				draining = append(draining, e)
			}
		}
		if len(ready) == 0 {
			return draining
		}
		return ready
	}
	c := choice{cluster: usable(near(cfg, all)), local: usable(func(e endpoint) bool { return e.local })}
	c.any = len(c.cluster) > 0 || len(c.local) > 0
	return c
}

// near is the filter that topology hints ask for. They count only when every
// ready endpoint has them and at least one is for this node or zone.
func near(cfg *Config, all []endpoint) func(endpoint) bool {
	allNodes, allZones, ready := true, true, false
	var forNode, forZone bool
	for _, e := range all {
		if !e.ready {
			continue
		}
		ready = true
		allNodes = allNodes && len(e.nodes) > 0
		allZones = allZones && len(e.zones) > 0
		forNode = forNode || slices.Contains(e.nodes, cfg.NodeName)
		forZone = forZone || cfg.Zone != "" && slices.Contains(e.zones, cfg.Zone)
	}
	switch {
	case ready && allNodes && forNode:
		return func(e endpoint) bool { return slices.Contains(e.nodes, cfg.NodeName) }
	case ready && allZones && forZone:
		return func(e endpoint) bool { return slices.Contains(e.zones, cfg.Zone) }
	}
	return func(endpoint) bool { return true }
}

func protocolOf(p *core.ServicePort) core.Protocol {
	if p.Protocol == "" {
		return core.ProtocolTCP
	}
	return p.Protocol
}

func protoOf(p core.Protocol) (rules.Proto, bool) {
	switch p {
	case core.ProtocolTCP:
		return rules.TCP, true
	case core.ProtocolUDP:
		return rules.UDP, true
	case core.ProtocolSCTP:
		return rules.SCTP, true
	}
	return 0, false
}

func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
