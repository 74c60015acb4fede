package servicecidr

import (
	"net/netip"
	"slices"
	"time"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// statement is what the condition Ready says.
type statement struct {
	status          metav1.ConditionStatus
	reason, message string
}

var (
	ready       = statement{metav1.ConditionTrue, "", "Kubernetes Service CIDR is ready"}
	terminating = statement{metav1.ConditionFalse, networking.ServiceCIDRReasonTerminating,
		"There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"}
)

func (s statement) condition(now time.Time) metav1.Condition {
	return metav1.Condition{Type: networking.ServiceCIDRConditionReady, Status: s.status, Reason: s.reason, Message: s.message, LastTransitionTime: metav1.NewTime(now)}
}

// needed tells whether a Service has an address of o that no range which stays contains.
func needed(o *networking.ServiceCIDR, ranges []*networking.ServiceCIDR, services []*core.Service) bool {
	var stay []netip.Prefix
	for _, r := range ranges {
		if r.Name != o.Name && r.DeletionTimestamp == nil {
			stay = append(stay, prefixes(r)...)
		}
	}
	own := prefixes(o)
	return slices.ContainsFunc(services, func(s *core.Service) bool {
		return slices.ContainsFunc(s.Spec.ClusterIPs, func(text string) bool {
			ip, err := netip.ParseAddr(text)
			return err == nil && within(own, ip) && !within(stay, ip)
		})
	})
}

func prefixes(o *networking.ServiceCIDR) (out []netip.Prefix) {
	for _, text := range o.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p)
		}
	}
	return out
}

func within(list []netip.Prefix, ip netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(ip) })
}
