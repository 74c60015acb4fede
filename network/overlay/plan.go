package overlay

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"orch/network/link"
)

type syscallAttr = syscall.NetlinkRouteAttr

// protocol marks our routes ("ip route" shows it as a number). Free in
// /etc/iproute2/rt_protos.
const protocol = 0x6f

// state is what the kernel, or the plan, holds about other nodes.
type state struct {
	routes map[netip.Prefix]netip.Addr // pod range to gateway
	// neighbours and tunnels are for VXLAN: a gateway's hardware address, and on
	// which node that is.
	neighbours map[netip.Addr]string
	tunnels    map[string]netip.Addr
}

func newState() state {
	return state{routes: map[netip.Prefix]netip.Addr{}, neighbours: map[netip.Addr]string{}, tunnels: map[string]netip.Addr{}}
}

// wanted is the state for a set of peers. Two nodes that claim the same range
// are a mistake elsewhere; the later name wins, always the same.
func wanted(backend string, peers []Peer) state {
	s := newState()
	for _, p := range peers {
		if backend == HostGW {
			s.routes[p.PodCIDR] = p.NodeIP
			continue
		}
		gw, mac := p.PodCIDR.Addr(), p.MAC.String()
		s.routes[p.PodCIDR], s.neighbours[gw], s.tunnels[mac] = gw, mac, p.NodeIP
	}
	return s
}

// changes are two lists: remove goes last, so that a range that moves to another
// node is never without a way.
type changes struct{ add, remove state }

// plan compares. It is pure.
func plan(backend string, peers []Peer, have state) changes {
	want := wanted(backend, peers)
	return changes{
		add:    state{minus(want.routes, have.routes, true), minus(want.neighbours, have.neighbours, true), minus(want.tunnels, have.tunnels, true)},
		remove: state{minus(have.routes, want.routes, false), minus(have.neighbours, want.neighbours, false), minus(have.tunnels, want.tunnels, false)},
	}
}

// minus keeps what b lacks, or (value) has with another value.
func minus[K, V comparable](a, b map[K]V, value bool) map[K]V {
	out := map[K]V{}
	for k, v := range a {
		if w, has := b[k]; !has || value && v != w {
			out[k] = v
		}
	}
	return out
}

// read asks the kernel.
func read(h *link.Handle, dev netlink.Link, backend string) (state, error) {
	s := newState()
	index := dev.Attrs().Index
	routes, err := link.Dump(func() ([]netlink.Route, error) {
		return h.Netlink().RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{LinkIndex: index, Protocol: protocol}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return s, fmt.Errorf("listing routes: %w", err)
	}
	for _, r := range routes {
		if dst, ok := link.Prefix(r.Dst); ok {
			s.routes[dst], _ = netip.AddrFromSlice(r.Gw.To4())
		}
	}
	if backend != VXLAN {
		return s, nil
	}
	neighbours, err := link.Dump(func() ([]netlink.Neigh, error) { return h.Netlink().NeighList(index, netlink.FAMILY_V4) })
	if err != nil {
		return s, fmt.Errorf("listing neighbours: %w", err)
	}
	for _, n := range neighbours {
		if ip, ok := netip.AddrFromSlice(n.IP.To4()); ok && n.State&netlink.NUD_PERMANENT != 0 {
			s.neighbours[ip] = n.HardwareAddr.String()
		}
	}
	tunnels, err := link.Dump(func() ([]netlink.Neigh, error) { return h.Netlink().NeighList(index, unix.AF_BRIDGE) })
	if err != nil {
		return s, fmt.Errorf("listing tunnels: %w", err)
	}
	for _, n := range tunnels {
		if ip, ok := netip.AddrFromSlice(n.IP.To4()); ok && len(n.HardwareAddr) == 6 {
			s.tunnels[n.HardwareAddr.String()] = ip
		}
	}
	return s, nil
}

// carryOut does it: from the far end of the way to the near one, so that the
// first packet over a new route finds all of it.
func carryOut(h *link.Handle, dev netlink.Link, c changes) error {
	index := dev.Attrs().Index
	set := func(n *netlink.Neigh) error {
		if err := h.Netlink().NeighSet(n); err != nil {
			return fmt.Errorf("adding the way to %s: %w", n.IP, err)
		}
		return nil
	}
	for mac, ip := range c.add.tunnels {
		if err := set(tunnelEntry(index, mac, ip)); err != nil {
			return err
		}
	}
	for ip, mac := range c.add.neighbours {
		if err := set(neighbourEntry(index, mac, ip)); err != nil {
			return err
		}
	}
	for dst, gw := range c.add.routes {
		if err := h.EnsureRoute(dev, link.Route{Dst: dst, Via: gw, OnLink: true, Protocol: protocol}); err != nil {
			return err
		}
	}
	for dst, gw := range c.remove.routes {
		if err := h.DeleteRoute(dev, link.Route{Dst: dst, Via: gw, OnLink: true, Protocol: protocol}); err != nil {
			return err
		}
	}
	for ip, mac := range c.remove.neighbours {
		_ = h.Netlink().NeighDel(neighbourEntry(index, mac, ip)) // gone is fine, and nothing leads there
	}
	for mac, ip := range c.remove.tunnels {
		_ = h.Netlink().NeighDel(tunnelEntry(index, mac, ip))
	}
	return nil
}

func neighbourEntry(index int, mac string, ip netip.Addr) *netlink.Neigh {
	hw, _ := net.ParseMAC(mac)
	return &netlink.Neigh{LinkIndex: index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST, IP: ip.AsSlice(), HardwareAddr: hw}
}

func tunnelEntry(index int, mac string, ip netip.Addr) *netlink.Neigh {
	hw, _ := net.ParseMAC(mac)
	return &netlink.Neigh{LinkIndex: index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF, IP: ip.AsSlice(), HardwareAddr: hw}
}
