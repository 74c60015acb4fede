package dns

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

// FuzzResolvConf: only addresses that can be dialled are taken from a resolv.conf, and not too many.
func FuzzResolvConf(f *testing.F) {
	f.Add([]byte("nameserver 10.0.0.1\nnameserver [::1]:5353\nnameserver 127.0.0.53:53\nsearch a"))
	f.Add([]byte("nameserver fe80::1%eth0\n nameserver x"))
	path := filepath.Join(f.TempDir(), "resolv.conf")
	own := netip.MustParseAddrPort("127.0.0.53:53")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		list := readResolvConf(path, map[netip.AddrPort]bool{own: true})
		if len(list) > maxUpstreams {
			t.Errorf("%d servers", len(list))
		}
		for _, u := range list {
			if ap, err := netip.ParseAddrPort(u.addr); err != nil || ap == own {
				t.Errorf("%q gave %s, %v", text, u.addr, err)
			}
		}
	})
}
