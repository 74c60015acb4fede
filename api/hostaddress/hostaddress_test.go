package hostaddress

import (
	"net/netip"
	"testing"
)

// TestPodNetworkIsNotTheHost: a card that came after orch's own bridge stands behind it in
// the kernel's list, and the server took the bridge's address for the host's.
func TestPodNetworkIsNotTheHost(t *testing.T) {
	a := netip.MustParseAddr
	bridge := link{"orch0", []netip.Addr{a("10.42.0.1"), a("10.43.0.10"), a("fe80::1")}}
	docker, eth, six := link{"docker0", []netip.Addr{a("172.17.0.1")}}, link{"eth0", []netip.Addr{a("fe80::2"), a("2001:db8::2"), a("10.77.0.1")}}, link{"eth1", []netip.Addr{a("2001:db8::3")}}
	for _, c := range []struct {
		name   string
		routed netip.Addr
		links  []link
		want   netip.Addr
	}{
		{"the default route's", a("192.0.2.9"), []link{bridge, eth}, a("192.0.2.9")},
		{"the first that is not virtual", netip.Addr{}, []link{bridge, docker, six, eth}, a("10.77.0.1")},
		{"only IPv6", netip.Addr{}, []link{bridge, six}, a("2001:db8::3")},
		{"none", netip.Addr{}, []link{bridge, docker}, netip.Addr{}},
		{"a route to the host itself", a("127.0.0.1"), []link{eth}, a("10.77.0.1")},
	} {
		if got := choose(c.routed, c.links); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if got := Outward(); got.IsLoopback() || got.IsLinkLocalUnicast() {
		t.Errorf("this host's address would be %v", got)
	}
}
