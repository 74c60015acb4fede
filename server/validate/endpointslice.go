package validate

import (
	"fmt"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

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
