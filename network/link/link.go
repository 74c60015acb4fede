// Package link owns the small set of kernel network objects that orch makes:
// bridges, veth pairs, VXLAN devices, addresses, routes, neighbours and sysctls.
// Every Ensure function is idempotent and leaves a device that is right already
// untouched, so that a restart interrupts no traffic. It refuses policy: names,
// addresses and MTUs come in. Start reading at Open.
package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"orch/network/netns"
)

// ErrNotFound: there is no device of that name.
var ErrNotFound = errors.New("no such network device")

// Handle talks rtnetlink in one network namespace. It may be used by several
// goroutines, and needs no locked thread: its socket belongs to the namespace.
type Handle struct {
	nl *netlink.Handle
	ns string
}

// Open returns a handle on the network namespace pinned on path ("" is the
// process's own). The caller closes it.
func Open(path string) (*Handle, error) {
	h := &Handle{ns: path}
	err := netns.Do(path, func() (err error) {
		h.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	return h, nil
}

// Close releases the socket.
func (h *Handle) Close() { h.nl.Close() }

// Netlink is the raw handle, for requests that this package doesn't wrap.
func (h *Handle) Netlink() *netlink.Handle { return h.nl }

// Namespace is the path that the handle was opened with.
func (h *Handle) Namespace() string { return h.ns }

// dumpTries bounds how often an interrupted dump is asked for again: the kernel
// interrupts one when devices or routes change meanwhile, as they do all the
// time while pods start.
const dumpTries = 5

// Dump calls a netlink list function until it gives a consistent answer.
func Dump[T any](list func() ([]T, error)) ([]T, error) {
	var all []T
	var err error
	for range dumpTries {
		all, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.EINTR) {
			return all, err
		}
	}
	return nil, err
}

// ByName finds a device; ErrNotFound when there is none.
func (h *Handle) ByName(name string) (netlink.Link, error) {
	l, err := h.nl.LinkByName(name)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
		return nil, fmt.Errorf("finding %s: %w", name, ErrNotFound)
	case err != nil:
		return nil, fmt.Errorf("finding %s: %w", name, err)
	}
	return l, nil
}

// Delete removes a device; it is fine when there is none.
func (h *Handle) Delete(name string) error {
	l, err := h.ByName(name)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := h.nl.LinkDel(l); err != nil && !gone(err) {
		return fmt.Errorf("deleting %s: %w", name, err)
	}
	return nil
}

func gone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// Up sets a device up.
func (h *Handle) Up(l netlink.Link) error {
	if err := h.nl.LinkSetUp(l); err != nil {
		return fmt.Errorf("setting %s up: %w", l.Attrs().Name, err)
	}
	return nil
}

// EnsureAddr puts an address on a device. Addresses of IPv6 skip duplicate
// detection: they are unique by construction and must work at once.
func (h *Handle) EnsureAddr(l netlink.Link, addr netip.Prefix) error {
	a := &netlink.Addr{IPNet: IPNet(addr)}
	if addr.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := h.nl.AddrAdd(l, a); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("adding address %s to %s: %w", addr, l.Attrs().Name, err)
	}
	return nil
}

// Addrs lists the global addresses of a device.
func (h *Handle) Addrs(l netlink.Link) ([]netip.Prefix, error) {
	all, err := Dump(func() ([]netlink.Addr, error) { return h.nl.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("listing addresses of %s: %w", l.Attrs().Name, err)
	}
	var addrs []netip.Prefix
	for _, a := range all {
		if p, ok := Prefix(a.IPNet); ok && !p.Addr().IsLinkLocalUnicast() {
			addrs = append(addrs, p)
		}
	}
	return addrs, nil
}

// SetAddrs makes addrs the global addresses of a device: what is missing is
// added first, what is too much is removed afterwards.
func (h *Handle) SetAddrs(l netlink.Link, addrs []netip.Prefix) error {
	have, err := h.Addrs(l)
	if err != nil {
		return err
	}
	want := make(map[netip.Prefix]bool, len(addrs))
	for _, p := range addrs {
		want[p] = true
		if err := h.EnsureAddr(l, p); err != nil {
			return err
		}
	}
	for _, p := range have {
		if want[p] {
			continue
		}
		if err := h.nl.AddrDel(l, &netlink.Addr{IPNet: IPNet(p)}); err != nil && !gone(err) {
			return fmt.Errorf("removing address %s from %s: %w", p, l.Attrs().Name, err)
		}
	}
	return nil
}

// Route is a route of ours.
type Route struct {
	Dst    netip.Prefix // zero bits: default route
	Via    netip.Addr   // invalid: the destination is on the link
	Src    netip.Addr   // preferred source; invalid: the kernel chooses
	OnLink bool         // Via needs no route of its own
	// Protocol marks whose route this is (0: as set by hand).
	Protocol int
	Priority int
	MTU      int
}

// EnsureRoute puts or replaces a route over a device.
func (h *Handle) EnsureRoute(l netlink.Link, r Route) error {
	nr := r.netlink(l)
	if err := h.nl.RouteReplace(&nr); err != nil {
		return fmt.Errorf("adding route to %s over %s: %w", r.Dst, l.Attrs().Name, err)
	}
	return nil
}

// DeleteRoute removes a route over a device; it is fine when there is none.
func (h *Handle) DeleteRoute(l netlink.Link, r Route) error {
	nr := r.netlink(l)
	if err := h.nl.RouteDel(&nr); err != nil && !gone(err) {
		return fmt.Errorf("removing route to %s over %s: %w", r.Dst, l.Attrs().Name, err)
	}
	return nil
}

func (r Route) netlink(l netlink.Link) netlink.Route {
	nr := netlink.Route{LinkIndex: l.Attrs().Index, Dst: IPNet(r.Dst), Priority: r.Priority, MTU: r.MTU}
	if r.Protocol != 0 {
		nr.Protocol = netlink.RouteProtocol(r.Protocol)
	}
	if r.Via.IsValid() {
		nr.Gw = r.Via.AsSlice()
	} else {
		nr.Scope = netlink.SCOPE_LINK
	}
	if r.Src.IsValid() {
		nr.Src = r.Src.AsSlice()
	}
	if r.OnLink {
		nr.Flags = int(netlink.FLAG_ONLINK)
	}
	return nr
}

// IPNet converts; the host bits stay.
func IPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Prefix converts; the host bits stay.
func Prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	ip, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, bits := n.Mask.Size()
	ip = ip.Unmap()
	if bits == 128 && ip.Is4() {
		ones -= 96
	}
	return netip.PrefixFrom(ip, ones), true
}
