package dns

import (
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
)

// zone holds the names of the cluster domain, fed change by change. Answers are
// made from it when they are asked for; it keeps no records.
type zone struct {
	domain string // "cluster.local.", lower case

	mu       sync.RWMutex // guards all below
	services map[name]*service
	spaces   map[string]int // services per namespace
	// byIP leads from cluster IPs, and addresses behind headless Services, to
	// the Services that have them.
	byIP map[netip.Addr]map[name]bool
}

type name struct{ namespace, name string }

// service is a Service and what is behind it.
type service struct {
	svc    *core.Service // nil: only slices are known yet
	slices map[string]*discovery.EndpointSlice
	// addrs are the cluster IPs; none: headless or ExternalName.
	addrs     []netip.Addr
	endpoints []backend // of a headless Service
	external  string    // target of an ExternalName, with the final dot
}

// backend is one address behind a headless Service.
type backend struct {
	host  string // label: the host name, or the address in dashes
	addr  netip.Addr
	ports []discovery.EndpointPort
}

func newZone(domain string) *zone {
	return &zone{domain: dns.CanonicalName(domain), services: map[name]*service{}, spaces: map[string]int{}, byIP: map[netip.Addr]map[name]bool{}}
}

func (z *zone) setService(old, now *core.Service) {
	s := now
	if s == nil {
		s = old
	}
	z.change(name{s.Namespace, s.Name}, func(e *service) { e.svc = now })
}

func (z *zone) setSlice(old, now *discovery.EndpointSlice) {
	if old != nil {
		z.change(name{old.Namespace, old.Labels[discovery.LabelServiceName]}, func(e *service) { delete(e.slices, old.Name) })
	}
	if now != nil && now.Labels[discovery.LabelServiceName] != "" {
		z.change(name{now.Namespace, now.Labels[discovery.LabelServiceName]}, func(e *service) { e.slices[now.Name] = now })
	}
}

func (z *zone) change(key name, edit func(*service)) {
	z.mu.Lock()
	defer z.mu.Unlock()
	e := z.services[key]
	if e == nil {
		e = &service{slices: map[string]*discovery.EndpointSlice{}}
	}
	visible := e.svc != nil
	z.index(key, e, false)
	edit(e)
	e.compute()
	z.index(key, e, true)
	if visible != (e.svc != nil) {
		z.count(key.namespace, e.svc != nil)
	}
	if e.svc == nil && len(e.slices) == 0 {
		delete(z.services, key)
	} else {
		z.services[key] = e
	}
}

func (z *zone) count(namespace string, more bool) {
	if more {
		z.spaces[namespace]++
		return
	}
	if z.spaces[namespace]--; z.spaces[namespace] <= 0 {
		delete(z.spaces, namespace)
	}
}

// index adds or removes what leads from addresses to the Service.
func (z *zone) index(key name, e *service, add bool) {
	set := func(a netip.Addr) {
		if !add {
			delete(z.byIP[a], key)
			if len(z.byIP[a]) == 0 {
				delete(z.byIP, a)
			}
			return
		}
		if z.byIP[a] == nil {
			z.byIP[a] = map[name]bool{}
		}
		z.byIP[a][key] = true
	}
	for _, a := range e.addrs {
		set(a)
	}
	for _, b := range e.endpoints {
		set(b.addr)
	}
}

// compute derives the addresses from the objects.
func (e *service) compute() {
	e.addrs, e.endpoints, e.external = nil, nil, ""
	if e.svc == nil {
		return
	}
	spec := &e.svc.Spec
	switch {
	case spec.Type == core.ServiceTypeExternalName:
		if spec.ExternalName != "" {
			e.external = dns.Fqdn(strings.ToLower(spec.ExternalName))
		}
	case spec.ClusterIP == core.ClusterIPNone:
		e.endpoints = backends(e.slices)
	default:
		ips := spec.ClusterIPs
		if len(ips) == 0 {
			ips = []string{spec.ClusterIP}
		}
		for _, text := range ips {
			if a, err := netip.ParseAddr(text); err == nil {
				e.addrs = append(e.addrs, a)
			}
		}
	}
}

// backends are the ready endpoints (the controller marks all of a Service with
// publishNotReadyAddresses ready), without doubles, in a stable order.
func backends(all map[string]*discovery.EndpointSlice) []backend {
	var out []backend
	seen := map[string]bool{}
	for _, s := range all {
		if s.AddressType == discovery.AddressTypeFQDN {
			continue
		}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			for _, text := range e.Addresses {
				a, err := netip.ParseAddr(text)
				if err != nil {
					continue
				}
				b := backend{host: dashed(a), addr: a, ports: s.Ports}
				if e.Hostname != nil && *e.Hostname != "" {
					b.host = strings.ToLower(*e.Hostname)
				}
				if key := b.host + " " + a.String(); !seen[key] {
					seen[key] = true
					out = append(out, b)
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b backend) int {
		if c := a.addr.Compare(b.addr); c != 0 {
			return c
		}
		return strings.Compare(a.host, b.host)
	})
	return out
}

// dashed is an address as a label: 10-42-0-7, fd00--7.
func dashed(a netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(a.String())
}

// undashed reads such a label.
func undashed(label string) (netip.Addr, bool) {
	for _, sep := range []string{".", ":"} {
		if a, err := netip.ParseAddr(strings.ReplaceAll(label, "-", sep)); err == nil {
			return a, true
		}
	}
	return netip.Addr{}, false
}
