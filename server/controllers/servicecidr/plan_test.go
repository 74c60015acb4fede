package servicecidr

import (
	"testing"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestNeeded(t *testing.T) {
	of := func(name, cidr string, deleted bool) *networking.ServiceCIDR {
		o := &networking.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networking.ServiceCIDRSpec{CIDRs: []string{cidr}}}
		if deleted {
			o.DeletionTimestamp = &metav1.Time{}
		}
		return o
	}
	own := of("own", "10.99.0.0/24", true)
	for _, tc := range []struct {
		name, ip string
		other    *networking.ServiceCIDR
		want     bool
	}{
		{"no address", "None", nil, false},
		{"an address elsewhere", "10.43.0.1", nil, false},
		{"an address of it", "10.99.0.1", nil, true},
		{"an address that a wider range has too", "10.99.0.1", of("wide", "10.99.0.0/16", false), false},
		{"an address that another range has too, which goes as well", "10.99.0.1", of("wide", "10.99.0.0/16", true), true},
		{"an address that another range has not", "10.99.0.200", of("part", "10.99.0.0/28", false), true},
	} {
		ranges := []*networking.ServiceCIDR{own}
		if tc.other != nil {
			ranges = append(ranges, tc.other)
		}
		if got := needed(own, ranges, []*core.Service{{Spec: core.ServiceSpec{ClusterIPs: []string{tc.ip}}}}); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}
