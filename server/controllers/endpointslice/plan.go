package endpointslice

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/server/controllers/workpod"
)

// perSlice is how many endpoints one slice holds, as upstream.
const perSlice = 100

// group is the endpoints that share address type and ports; they may share a slice.
type group struct {
	family discovery.AddressType
	ports  []discovery.EndpointPort
	// endpoints in the order of their pods.
	endpoints []discovery.Endpoint
}

// plan is what has to be written.
type plan struct {
	create, update, remove []*discovery.EndpointSlice
}

// stamp says in what is written to which change it goes back.
func (p *plan) stamp(at time.Time) {
	for _, list := range [][]*discovery.EndpointSlice{p.create, p.update} {
		for _, s := range list {
			workpod.Stamp(&s.ObjectMeta, at)
		}
	}
}

// frame is what all slices of one owner have in common.
type frame struct {
	// meta is namespace, generateName, labels, owner, and annotations: nil if those that a
	// slice has stay as they are.
	meta metav1.ObjectMeta
}

// desired groups the endpoints of a service's pods. zone gives a node's zone.
func desired(s *core.Service, pods []*core.Pod, zone func(node string) string) []group {
	var groups []group
	for _, family := range families(s) {
		for _, p := range pods {
			if !workpod.HasAddress(p) {
				continue
			}
			addresses := ofFamily(workpod.Addresses(p), family)
			if len(addresses) == 0 {
				continue
			}
			groups = put(groups, family, ports(s, p), endpoint(s, p, addresses[:1], zone))
		}
		if !slices.ContainsFunc(groups, func(g group) bool { return g.family == family }) {
			// Watchers learn from an empty slice that there are no endpoints.
			groups = append(groups, group{family: family})
		}
	}
	return groups
}

// put adds the endpoint to its group, which may be new.
func put(groups []group, family discovery.AddressType, ports []discovery.EndpointPort, e discovery.Endpoint) []group {
	for i := range groups {
		if groups[i].family == family && equality.Semantic.DeepEqual(groups[i].ports, ports) {
			groups[i].endpoints = append(groups[i].endpoints, e)
			return groups
		}
	}
	return append(groups, group{family, ports, []discovery.Endpoint{e}})
}

func families(s *core.Service) []discovery.AddressType {
	var out []discovery.AddressType
	for _, f := range s.Spec.IPFamilies {
		out = append(out, discovery.AddressType(f))
	}
	if len(out) == 0 {
		out = append(out, familyOf(s.Spec.ClusterIP))
	}
	return out
}

// familyOf an address; IPv4 where it is none.
func familyOf(address string) discovery.AddressType {
	if a, err := netip.ParseAddr(address); err == nil && a.Is6() && !a.Is4In6() {
		return discovery.AddressTypeIPv6
	}
	return discovery.AddressTypeIPv4
}

func ofFamily(addresses []string, family discovery.AddressType) []string {
	return slices.DeleteFunc(slices.Clone(addresses), func(a string) bool { return familyOf(a) != family })
}

func endpoint(s *core.Service, p *core.Pod, addresses []string, zone func(string) string) discovery.Endpoint {
	serving, terminating := workpod.Ready(p), p.DeletionTimestamp != nil
	ready := (serving && !terminating) || s.Spec.PublishNotReadyAddresses
	e := discovery.Endpoint{
		Addresses:  addresses,
		Conditions: discovery.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		TargetRef:  workpod.TargetRef(p),
	}
	if p.Spec.NodeName != "" {
		e.NodeName = new(p.Spec.NodeName)
		if z := zone(p.Spec.NodeName); z != "" {
			e.Zone = &z
		}
	}
	if h := workpod.HostnameFor(p, s); h != "" {
		e.Hostname = &h
	}
	if ready {
		e.Hints = hints(s, e)
	}
	return e
}

// hints tell proxies which traffic an endpoint prefers.
func hints(s *core.Service, e discovery.Endpoint) *discovery.EndpointHints {
	if s.Spec.TrafficDistribution == nil || e.Zone == nil {
		return nil
	}
	h := &discovery.EndpointHints{ForZones: []discovery.ForZone{{Name: *e.Zone}}}
	switch *s.Spec.TrafficDistribution {
	case core.ServiceTrafficDistributionPreferSameNode:
		h.ForNodes = []discovery.ForNode{{Name: *e.NodeName}}
	case core.ServiceTrafficDistributionPreferClose, core.ServiceTrafficDistributionPreferSameZone:
	default:
		return nil
	}
	return h
}

// ports resolves the service's ports for a pod; one that the pod does not have is left out.
func ports(s *core.Service, p *core.Pod) []discovery.EndpointPort {
	var out []discovery.EndpointPort
	for i := range s.Spec.Ports {
		sp := &s.Spec.Ports[i]
		if n, ok := workpod.TargetPort(p, sp); ok {
			out = append(out, discovery.EndpointPort{Name: &sp.Name, Port: &n, Protocol: &sp.Protocol, AppProtocol: sp.AppProtocol})
		}
	}
	return out
}

// makePlan spreads the groups over slices with as few writes as can be: endpoints
// stay in the slice they are in, new ones fill slices that are written anyway,
// then those with room, then new slices.
func makePlan(f frame, groups []group, existing []*discovery.EndpointSlice) plan {
	var p plan
	used := map[*discovery.EndpointSlice]bool{}
	for _, g := range groups {
		var mine []*discovery.EndpointSlice
		for _, s := range existing {
			if !used[s] && s.DeletionTimestamp == nil && s.AddressType == g.family && equality.Semantic.DeepEqual(s.Ports, g.ports) {
				mine, used[s] = append(mine, s), true
			}
		}
		p.pack(f, g, mine)
	}
	for _, s := range existing {
		if !used[s] {
			p.remove = append(p.remove, s)
		}
	}
	return p
}

func (p *plan) pack(f frame, g group, mine []*discovery.EndpointSlice) {
	missing := make(map[string]discovery.Endpoint, len(g.endpoints))
	for _, e := range g.endpoints {
		missing[identity(e)] = e
	}
	drafts := make([]draft, len(mine))
	for i, s := range mine {
		drafts[i] = keep(s, missing)
	}
	var add []discovery.Endpoint // in the order of g
	for _, e := range g.endpoints {
		if _, ok := missing[identity(e)]; ok {
			add = append(add, e)
		}
	}
	// Slices that are written anyway take new endpoints first.
	slices.SortStableFunc(drafts, func(a, b draft) int { return cmp.Compare(a.changedRank(), b.changedRank()) })
	for i := range drafts {
		n := min(len(add), perSlice-len(drafts[i].endpoints))
		if n > 0 {
			drafts[i].endpoints, drafts[i].changed = append(drafts[i].endpoints, add[:n]...), true
			add = add[n:]
		}
	}
	kept := 0
	for i, d := range drafts {
		last := i == len(drafts)-1
		if len(d.endpoints) == 0 && (len(g.endpoints) > 0 || !last || kept > 0) {
			p.remove = append(p.remove, d.slice)
			continue
		}
		kept++
		next := f.slice(g, d.endpoints)
		if d.changed || !f.fits(d.slice) {
			next.ObjectMeta = f.onto(d.slice.ObjectMeta)
			p.update = append(p.update, next)
		}
	}
	for len(add) > 0 || kept == 0 {
		n := min(len(add), perSlice)
		p.create = append(p.create, f.slice(g, add[:n]))
		add = add[n:]
		kept++
	}
}

// draft is what an existing slice is going to hold.
type draft struct {
	slice     *discovery.EndpointSlice
	endpoints []discovery.Endpoint
	changed   bool
}

func (d draft) changedRank() int {
	if d.changed {
		return 0
	}
	return 1
}

// keep takes over what is still wanted of a slice and strikes it from missing.
func keep(s *discovery.EndpointSlice, missing map[string]discovery.Endpoint) draft {
	d := draft{slice: s}
	for _, e := range s.Endpoints {
		id := identity(e)
		want, ok := missing[id]
		if !ok {
			d.changed = true
			continue
		}
		delete(missing, id)
		d.changed = d.changed || !equality.Semantic.DeepEqual(e, want)
		d.endpoints = append(d.endpoints, want)
	}
	return d
}

// identity is what makes two endpoints the same one at different times.
func identity(e discovery.Endpoint) string {
	id := strings.Join(e.Addresses, ",")
	if e.TargetRef != nil {
		id += " " + string(e.TargetRef.UID)
	}
	return id
}

func (f frame) slice(g group, endpoints []discovery.Endpoint) *discovery.EndpointSlice {
	return &discovery.EndpointSlice{ObjectMeta: f.meta, AddressType: g.family, Ports: g.ports, Endpoints: endpoints}
}

// fits tells whether the slice's metadata is as wanted.
func (f frame) fits(s *discovery.EndpointSlice) bool {
	return maps.Equal(s.Labels, f.meta.Labels) && (f.meta.Annotations == nil || maps.Equal(s.Annotations, f.meta.Annotations)) && equality.Semantic.DeepEqual(s.OwnerReferences, f.meta.OwnerReferences)
}

// onto puts the frame's labels, annotations and owner on existing metadata.
func (f frame) onto(m metav1.ObjectMeta) metav1.ObjectMeta {
	m.Labels, m.OwnerReferences = f.meta.Labels, f.meta.OwnerReferences
	if f.meta.Annotations != nil {
		m.Annotations = f.meta.Annotations
	}
	return m
}
