// Package hostaddress finds the address under which others reach this host, for the
// server and the agent alike: they must not disagree about it. The choice is pure;
// Outward asks the kernel for what it is made from.
package hostaddress

import (
	"net"
	"net/netip"
	"strings"
)

// Outward is the address that a packet to the outside would have, else the first of an
// interface that is up and no other program's: there need not be a default route.
// IPv6 counts only where there is no IPv4. It is zero on a host that nobody reaches.
func Outward() netip.Addr {
	var routed netip.Addr
	// Connecting UDP sends nothing; it asks the routing table.
	if conn, err := net.Dial("udp4", "203.0.113.1:9"); err == nil {
		if a, ok := conn.LocalAddr().(*net.UDPAddr); ok {
			routed = a.AddrPort().Addr().Unmap()
		}
		conn.Close()
	}
	return choose(routed, interfaces())
}

// link is one interface that is up, with its addresses in the kernel's order.
type link struct {
	name  string
	addrs []netip.Addr
}

func interfaces() []link {
	all, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var out []link
	for _, i := range all {
		list, err := i.Addrs()
		if err != nil || i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		l := link{name: i.Name}
		for _, a := range list {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				l.addrs = append(l.addrs, p.Addr())
			}
		}
		out = append(out, l)
	}
	return out
}

func choose(routed netip.Addr, links []link) netip.Addr {
	if routed.IsGlobalUnicast() {
		return routed
	}
	var v6 netip.Addr
	for _, l := range links {
		for _, a := range l.addrs {
			switch {
			case virtual(l.name) || !a.IsGlobalUnicast():
			case a.Is4():
				return a
			case !v6.IsValid():
				v6 = a
			}
		}
	}
	return v6
}

// virtual interfaces are made by us and by other container tools: their addresses lead
// to pods and containers, and they may come before those of cards that were plugged in later.
func virtual(name string) bool {
	for _, p := range []string{"orch", "veth", "cni", "flannel", "docker", "br-", "virbr"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}
