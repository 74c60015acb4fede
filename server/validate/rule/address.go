package rule

import (
	"fmt"
	"net/netip"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// IP wants an IP address, CIDR a range, without leading zeros or mapped forms.
func (e *Errors) IP(p *field.Path, v string) {
	e.Join(validation.IsValidIPForLegacyField(p, v, true, nil))
}
func (e *Errors) CIDR(p *field.Path, v string) {
	e.Join(validation.IsValidCIDRForLegacyField(p, v, true, nil))
}

// PublicIP refuses addresses that mean something only to one machine or link
// (upstream: ValidateEndpointIP).
func (e *Errors) PublicIP(p *field.Path, v string) {
	ip, err := netip.ParseAddr(v)
	if err != nil {
		return // the caller checks the form
	}
	if ip.IsUnspecified() {
		e.Invalid(p, v, fmt.Sprintf("may not be unspecified (%v)", v))
	}
	if ip.IsLoopback() {
		e.Invalid(p, v, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
	}
	if ip.IsLinkLocalUnicast() {
		e.Invalid(p, v, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
	}
	if ip.IsLinkLocalMulticast() {
		e.Invalid(p, v, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
	}
}

// OnePerFamily tells whether there is at most one IPv4 and one IPv6 among the
// addresses or ranges.
func OnePerFamily(list []string) bool {
	four, six := 0, 0
	for _, v := range list {
		if IsIPv6(v) {
			six++
		} else {
			four++
		}
	}
	return four <= 1 && six <= 1
}

// IsIPv6 tells the family of an address or range.
func IsIPv6(v string) bool {
	if prefix, err := netip.ParsePrefix(v); err == nil {
		return prefix.Addr().Is6()
	}
	ip, err := netip.ParseAddr(v)
	return err == nil && ip.Is6()
}
