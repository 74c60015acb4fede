package nodeipam

import (
	"net/netip"
	"testing"
)

func TestNext(t *testing.T) {
	prefixes := func(s ...string) (out []netip.Prefix) {
		for _, p := range s {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	cases := []struct {
		name, whole string
		bits        int
		used        []netip.Prefix
		want        string // empty: none left
	}{
		{"first", "10.42.0.0/16", 24, nil, "10.42.0.0/24"},
		{"gap", "10.42.0.0/16", 24, prefixes("10.42.0.0/24", "10.42.2.0/24"), "10.42.1.0/24"},
		{"another size", "10.42.0.0/16", 24, prefixes("10.42.0.0/23"), "10.42.2.0/24"},
		{"over a byte", "10.0.0.0/14", 24, prefixes("10.0.0.0/16"), "10.1.0.0/24"},
		{"last", "10.42.0.0/23", 24, prefixes("10.42.0.0/24"), "10.42.1.0/24"},
		{"none left", "10.42.0.0/23", 24, prefixes("10.42.0.0/24", "10.42.1.0/24"), ""},
		{"top of the space", "255.255.255.0/24", 24, prefixes("255.255.255.0/24"), ""},
		{"six", "fd00::/48", 64, prefixes("fd00::/64"), "fd00:0:0:1::/64"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, ok := next(netip.MustParsePrefix(c.whole), c.bits, c.used)
			if ok != (c.want != "") || (ok && got != netip.MustParsePrefix(c.want)) {
				t.Errorf("next = %v, %v; want %q", got, ok, c.want)
			}
		})
	}
}

func TestBadClusterCIDR(t *testing.T) {
	for _, s := range []string{"", "10.42.0.0", "10.42.0.0/28", "10.42.0.0/16,nonsense"} {
		if _, err := Specs(nil, nil, s); err == nil {
			t.Errorf("%q was accepted", s)
		}
	}
}
