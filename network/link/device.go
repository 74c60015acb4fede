package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Bridge says how a bridge shall be.
type Bridge struct {
	Name string
	MTU  int // 0: the kernel's
	// MAC is fixed, because a bridge without one takes its lowest port's, and
	// every change of it breaks the neighbours' caches.
	MAC   net.HardwareAddr
	Addrs []netip.Prefix // all global addresses; nil leaves them alone
	// Promiscuous is off except where a configuration asks for it.
	Promiscuous bool
}

// EnsureBridge makes the bridge, or brings the one that is there into shape.
func (h *Handle) EnsureBridge(b Bridge) (netlink.Link, error) {
	l, err := h.ByName(b.Name)
	if errors.Is(err, ErrNotFound) {
		l, err = h.addBridge(b)
	}
	if err != nil {
		return nil, err
	}
	if l.Type() != "bridge" {
		return nil, fmt.Errorf("making bridge %s: a %s device of that name exists", b.Name, l.Type())
	}
	at := l.Attrs()
	if b.MAC != nil && at.HardwareAddr.String() != b.MAC.String() {
		if err := h.nl.LinkSetHardwareAddr(l, b.MAC); err != nil {
			return nil, fmt.Errorf("setting the address of %s: %w", b.Name, err)
		}
	}
	if b.MTU != 0 && at.MTU != b.MTU {
		if err := h.nl.LinkSetMTU(l, b.MTU); err != nil {
			return nil, fmt.Errorf("setting the MTU of %s: %w", b.Name, err)
		}
	}
	if b.Promiscuous && at.Promisc == 0 {
		if err := h.nl.SetPromiscOn(l); err != nil {
			return nil, fmt.Errorf("setting %s promiscuous: %w", b.Name, err)
		}
	}
	if b.Addrs != nil {
		if err := h.SetAddrs(l, b.Addrs); err != nil {
			return nil, err
		}
	}
	if at.Flags&net.FlagUp == 0 {
		return l, h.Up(l)
	}
	return l, nil
}

func (h *Handle) addBridge(b Bridge) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.TxQLen = b.Name, b.MAC, -1
	if err := h.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("making bridge %s: %w", b.Name, err)
	}
	return h.ByName(b.Name)
}

// Veth says how a pair shall be made: one end here, the other in the namespace
// of Peer.
type Veth struct {
	Host     string
	MTU      int
	PeerName string
	PeerMAC  net.HardwareAddr
	PeerNS   *os.File
	Master   netlink.Link // bridge of the host's end, or nil
	Hairpin  bool         // the bridge may send a packet back to where it came from
	Isolated bool         // ports that are isolated don't reach each other
}

// AddVeth makes the pair; the host's end is up and a port of its master. A
// leftover of the same name is replaced (a set-up that was killed half-way).
func (h *Handle) AddVeth(v Veth) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Flags = v.Host, v.MTU, net.FlagUp
	if v.Master != nil {
		attrs.MasterIndex = v.Master.Attrs().Index
	}
	pair := netlink.NewVeth(attrs)
	pair.PeerName, pair.PeerHardwareAddr, pair.PeerNamespace = v.PeerName, v.PeerMAC, netlink.NsFd(int(v.PeerNS.Fd()))
	err := h.nl.LinkAdd(pair)
	if errors.Is(err, unix.EEXIST) {
		if derr := h.Delete(v.Host); derr != nil {
			return nil, derr
		}
		err = h.nl.LinkAdd(pair)
	}
	if err != nil {
		return nil, fmt.Errorf("making the veth pair %s: %w", v.Host, err)
	}
	// LinkAdd has asked the kernel for the index in order to set the master.
	var l netlink.Link = pair
	if pair.Index == 0 {
		if l, err = h.ByName(v.Host); err != nil {
			return nil, err
		}
	}
	if v.Hairpin {
		if err := h.nl.LinkSetHairpin(l, true); err != nil {
			return nil, fmt.Errorf("setting hairpin mode of %s: %w", v.Host, err)
		}
	}
	if v.Isolated {
		if err := h.nl.LinkSetIsolated(l, true); err != nil {
			return nil, fmt.Errorf("isolating %s: %w", v.Host, err)
		}
	}
	return l, nil
}

// VXLAN says how a tunnel device shall be. Learning is off: entries are
// programmed.
type VXLAN struct {
	Name   string
	ID     int
	Port   int
	MTU    int
	MAC    net.HardwareAddr
	Local  netip.Addr // source of the outer packets
	Device int        // index of the device below
	Addr   netip.Prefix
}

// EnsureVXLAN makes the device; one with other tunnel parameters is replaced.
func (h *Handle) EnsureVXLAN(v VXLAN) (netlink.Link, error) {
	l, err := h.ByName(v.Name)
	if err == nil && !v.matches(l) {
		if err := h.Delete(v.Name); err != nil {
			return nil, err
		}
		err = ErrNotFound
	}
	if errors.Is(err, ErrNotFound) {
		l, err = h.addVXLAN(v)
	}
	if err != nil {
		return nil, err
	}
	if at := l.Attrs(); at.MTU != v.MTU {
		if err := h.nl.LinkSetMTU(l, v.MTU); err != nil {
			return nil, fmt.Errorf("setting the MTU of %s: %w", v.Name, err)
		}
	}
	if err := h.SetAddrs(l, []netip.Prefix{v.Addr}); err != nil {
		return nil, err
	}
	return l, h.Up(l)
}

func (v VXLAN) matches(l netlink.Link) bool {
	have, ok := l.(*netlink.Vxlan)
	return ok && have.VxlanId == v.ID && have.Port == v.Port && have.VtepDevIndex == v.Device && !have.Learning &&
		have.SrcAddr.Equal(net.IP(v.Local.AsSlice())) && have.HardwareAddr.String() == v.MAC.String()
}

func (h *Handle) addVXLAN(v VXLAN) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU, attrs.TxQLen = v.Name, v.MAC, v.MTU, -1
	dev := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: v.ID, Port: v.Port, SrcAddr: v.Local.AsSlice(), VtepDevIndex: v.Device}
	if err := h.nl.LinkAdd(dev); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("making %s: another device uses VXLAN id %d on port %d already: %w", v.Name, v.ID, v.Port, err)
		}
		return nil, fmt.Errorf("making %s: %w", v.Name, err)
	}
	return h.ByName(v.Name)
}

// MACFor derives a locally administered address from an IPv4 address, so that a
// neighbour's cache stays right when an address is used again by another pod.
func MACFor(ip netip.Addr) net.HardwareAddr {
	b := ip.AsSlice()
	return append(net.HardwareAddr{0x0a, 0x58}, b[len(b)-4:]...)
}
