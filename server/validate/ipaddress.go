package validate

import (
	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"orch/server/validate/rule"
)

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
