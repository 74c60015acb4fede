package dns

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"
	core "k8s.io/api/core/v1"
)

const (
	// ttl of records, and of the answer that there are none: the cluster changes
	// all the time.
	ttl = 5
	// schemaVersion of the names, asked for as TXT dns-version.<domain>.
	schemaVersion = "1.1.0"
)

// answer is what the zone says about a question.
type answer struct {
	rcode  int
	rrs    []dns.RR
	extra  []dns.RR
	target string // of a CNAME among rrs, which is to be followed
}

// node is what stands at one name: it exists, and has records of some types.
type node struct {
	addrs  []netip.Addr
	srv    []srvTarget
	txt    string
	cname  string
	apex   bool
	exists bool
}

type srvTarget struct {
	port   uint16
	target string
	addrs  []netip.Addr
}

// lookup answers a question for a name within the domain. The name in the
// records is spelt as in the question.
func (z *zone) lookup(q dns.Question) answer {
	z.mu.RLock()
	n := z.find(strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(q.Name), z.domain), "."))
	z.mu.RUnlock()
	if !n.exists {
		return answer{rcode: dns.RcodeNameError}
	}
	a := answer{}
	head := func(t uint16) dns.RR_Header {
		return dns.RR_Header{Name: q.Name, Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
	}
	if n.cname != "" {
		a.rrs, a.target = append(a.rrs, &dns.CNAME{Hdr: head(dns.TypeCNAME), Target: n.cname}), n.cname
		return a
	}
	switch q.Qtype {
	case dns.TypeA, dns.TypeAAAA:
		a.rrs = addressRecords(q.Name, q.Qtype, n.addrs)
	case dns.TypeSRV:
		for _, s := range n.srv {
			a.rrs = append(a.rrs, &dns.SRV{Hdr: head(dns.TypeSRV), Weight: uint16(100 / len(n.srv)), Port: s.port, Target: s.target})
			for _, t := range []uint16{dns.TypeA, dns.TypeAAAA} {
				a.extra = append(a.extra, addressRecords(s.target, t, s.addrs)...)
			}
		}
	case dns.TypeTXT:
		if n.txt != "" {
			a.rrs = append(a.rrs, &dns.TXT{Hdr: head(dns.TypeTXT), Txt: []string{n.txt}})
		}
	case dns.TypeSOA:
		if n.apex {
			a.rrs = append(a.rrs, z.soa())
		}
	case dns.TypeNS:
		if n.apex {
			a.rrs = append(a.rrs, &dns.NS{Hdr: head(dns.TypeNS), Ns: "ns.dns." + z.domain})
		}
	}
	return a
}

func addressRecords(owner string, qtype uint16, addrs []netip.Addr) []dns.RR {
	var rrs []dns.RR
	hdr := dns.RR_Header{Name: owner, Rrtype: qtype, Class: dns.ClassINET, Ttl: ttl}
	for _, a := range addrs {
		switch {
		case qtype == dns.TypeA && a.Is4():
			rrs = append(rrs, &dns.A{Hdr: hdr, A: a.AsSlice()})
		case qtype == dns.TypeAAAA && a.Is6():
			rrs = append(rrs, &dns.AAAA{Hdr: hdr, AAAA: a.AsSlice()})
		}
	}
	return rrs
}

// soa goes with every answer without records, so that resolvers know how long
// to remember it. The serial never moves: nobody transfers the zone.
func (z *zone) soa() dns.RR {
	return &dns.SOA{Hdr: dns.RR_Header{Name: z.domain, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
		Ns: "ns.dns." + z.domain, Mbox: "hostmaster." + z.domain, Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl}
}

// find resolves a name below the domain ("web.default.svc"; "" is the domain
// itself). The caller holds mu.
func (z *zone) find(rel string) node {
	if rel == "" {
		return node{exists: true, apex: true}
	}
	labels := strings.Split(rel, ".")
	last := len(labels) - 1
	switch labels[last] {
	case "svc":
		return z.findService(labels[:last])
	case "pod":
		return z.findPod(labels[:last])
	case "dns-version":
		return node{exists: last == 0, txt: schemaVersion}
	case "dns": // ns.dns is the server's own name
		return node{exists: last == 0 || last == 1 && labels[0] == "ns"}
	}
	return node{}
}

// findPod answers a-b-c-d.namespace.pod with the address in the name, whether or
// not there is such a pod (upstream's "pods insecure"): a node knows only its own.
func (z *zone) findPod(labels []string) node {
	switch len(labels) {
	case 0:
		return node{exists: true}
	case 1:
		return node{exists: z.spaces[labels[0]] > 0}
	case 2:
		if a, ok := undashed(labels[0]); ok && z.spaces[labels[1]] > 0 {
			return node{exists: true, addrs: []netip.Addr{a}}
		}
	}
	return node{}
}

// findService resolves what stands before ".svc": [[host | _port._proto] service] namespace.
func (z *zone) findService(labels []string) node {
	n := len(labels)
	switch n {
	case 0:
		return node{exists: true}
	case 1:
		return node{exists: z.spaces[labels[0]] > 0}
	}
	e := z.services[name{labels[n-1], labels[n-2]}]
	if e == nil || e.svc == nil {
		return node{}
	}
	base := labels[n-2] + "." + labels[n-1] + ".svc." + z.domain
	switch {
	case n == 2:
		return e.whole(base)
	case e.external != "":
		return node{}
	case n == 3 && strings.HasPrefix(labels[0], "_"):
		// _tcp.web.default.svc exists where a port below it does.
		return node{exists: len(e.ports(base, "", strings.TrimPrefix(labels[0], "_"))) > 0}
	case n == 3:
		return e.host(labels[0], base)
	case n == 4 && strings.HasPrefix(labels[0], "_") && strings.HasPrefix(labels[1], "_"):
		srv := e.ports(base, labels[0][1:], labels[1][1:])
		return node{exists: len(srv) > 0, srv: srv}
	}
	return node{}
}

// whole is the Service's own name.
func (e *service) whole(base string) node {
	if e.external != "" {
		return node{exists: true, cname: e.external}
	}
	n := node{exists: true, addrs: e.addrs, srv: e.ports(base, "", "")}
	for _, b := range e.endpoints {
		n.addrs = append(n.addrs, b.addr)
	}
	return n
}

// host is one endpoint of a headless Service.
func (e *service) host(label, base string) node {
	n := node{}
	for _, b := range e.endpoints {
		if b.host != label {
			continue
		}
		n.exists = true
		n.addrs = append(n.addrs, b.addr)
		for _, p := range b.ports {
			if p.Port != nil {
				n.srv = append(n.srv, srvTarget{uint16(*p.Port), b.host + "." + base, []netip.Addr{b.addr}})
			}
		}
	}
	return n
}

// ports lists the targets of a port; an empty name or protocol means any.
func (e *service) ports(base, port, proto string) []srvTarget {
	fits := func(name string, p core.Protocol) bool {
		if p == "" {
			p = core.ProtocolTCP
		}
		return (port == "" || strings.EqualFold(port, name)) && (proto == "" || strings.EqualFold(proto, string(p)))
	}
	var out []srvTarget
	if len(e.addrs) > 0 {
		for _, p := range e.svc.Spec.Ports {
			if (port == "" || p.Name != "") && fits(p.Name, p.Protocol) {
				out = append(out, srvTarget{uint16(p.Port), base, e.addrs})
			}
		}
	}
	for _, b := range e.endpoints {
		for _, p := range b.ports {
			if p.Port == nil {
				continue
			}
			var name string
			var protocol core.Protocol
			if p.Name != nil {
				name = *p.Name
			}
			if p.Protocol != nil {
				protocol = *p.Protocol
			}
			if fits(name, protocol) {
				out = append(out, srvTarget{uint16(*p.Port), b.host + "." + base, []netip.Addr{b.addr}})
			}
		}
	}
	return out
}

// reverse answers a PTR question for an address: the Service that has it as
// cluster IP, else the hosts behind headless Services.
func (z *zone) reverse(q dns.Question, a netip.Addr) []dns.RR {
	z.mu.RLock()
	defer z.mu.RUnlock()
	var targets []string
	for key := range z.byIP[a] {
		e := z.services[key]
		base := key.name + "." + key.namespace + ".svc." + z.domain
		if len(e.addrs) > 0 {
			targets = []string{base}
			break
		}
		for _, b := range e.endpoints {
			if b.addr == a {
				targets = append(targets, b.host+"."+base)
			}
		}
	}
	var rrs []dns.RR
	for _, t := range targets {
		rrs = append(rrs, &dns.PTR{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: ttl}, Ptr: t})
	}
	return rrs
}

// reverseAddr reads the address out of a name under in-addr.arpa or ip6.arpa.
func reverseAddr(qname string) (netip.Addr, bool) {
	rest, v4 := strings.CutSuffix(strings.ToLower(qname), ".in-addr.arpa.")
	rest6, v6 := strings.CutSuffix(strings.ToLower(qname), ".ip6.arpa.")
	switch {
	case v4:
		labels := strings.Split(rest, ".")
		if len(labels) != 4 {
			return netip.Addr{}, false
		}
		var b [4]byte
		for i, l := range labels {
			n, err := strconv.ParseUint(l, 10, 8)
			if err != nil {
				return netip.Addr{}, false
			}
			b[3-i] = byte(n)
		}
		return netip.AddrFrom4(b), true
	case v6:
		labels := strings.Split(rest6, ".")
		if len(labels) != 32 {
			return netip.Addr{}, false
		}
		var b [16]byte
		for i, l := range labels {
			n, err := strconv.ParseUint(l, 16, 4)
			if err != nil || len(l) != 1 {
				return netip.Addr{}, false
			}
			at := 31 - i
			b[at/2] |= byte(n) << (4 * (1 - at%2))
		}
		return netip.AddrFrom16(b), true
	}
	return netip.Addr{}, false
}
