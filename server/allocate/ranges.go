package allocate

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"sync"

	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"orch/api/client"
)

// DefaultServiceCIDR names the object of the configured range.
const DefaultServiceCIDR = "kubernetes"

// block is a range of addresses that Services may have.
type block struct {
	prefix netip.Prefix
	size   int
}

// blockOf leaves out the network's own address and the broadcast address.
func blockOf(p netip.Prefix) block {
	p = p.Masked()
	size := 1<<min(p.Addr().BitLen()-p.Bits(), 16) - 1
	if p.Addr().Is4() {
		size--
	}
	return block{p, size}
}

func (b block) at(n int) netip.Addr {
	a := b.prefix.Addr().As16()
	low := binary.BigEndian.Uint64(a[8:])
	binary.BigEndian.PutUint64(a[8:], low+uint64(n)+1)
	if b.prefix.Addr().Is6() {
		return netip.AddrFrom16(a)
	}
	return netip.AddrFrom16(a).Unmap()
}

func (b block) contains(ip netip.Addr) bool {
	if !b.prefix.Contains(ip) {
		return false
	}
	a, base := ip.As16(), b.prefix.Addr().As16()
	return binary.BigEndian.Uint64(a[8:])-binary.BigEndian.Uint64(base[8:])-1 < uint64(b.size)
}

func (b block) span() span[netip.Addr] { return span[netip.Addr]{b.size, band(b.size), b.at} }

// ranges are those of the ServiceCIDR objects that are ready.
type ranges struct {
	mu     sync.Mutex
	ready  map[string][]block
	ending bool // the default one is being deleted
}

// ApplyRange follows the cache of ServiceCIDRs. A range gives addresses while it is ready and
// nobody is deleting it, the configured one also before its object is there.
func (s *Services) ApplyRange(c client.Change) {
	s.ranges.mu.Lock()
	defer s.ranges.mu.Unlock()
	if o, ok := c.Old.(*networking.ServiceCIDR); ok && o != nil {
		delete(s.ranges.ready, o.Name)
		s.ranges.ending = s.ranges.ending && o.Name != DefaultServiceCIDR
	}
	o, ok := c.New.(*networking.ServiceCIDR)
	switch {
	case !ok || o == nil:
		return
	case o.DeletionTimestamp != nil:
		s.ranges.ending = s.ranges.ending || o.Name == DefaultServiceCIDR
		return
	case !meta.IsStatusConditionTrue(o.Status.Conditions, networking.ServiceCIDRConditionReady):
		return
	}
	var blocks []block
	for _, text := range o.Spec.CIDRs {
		p, err := netip.ParsePrefix(text)
		if err == nil && p.Addr().Is4() == s.cfg.ServiceCIDR.Addr().Is4() && p.Masked() != s.cfg.ServiceCIDR {
			blocks = append(blocks, blockOf(p))
		}
	}
	if s.ranges.ready == nil {
		s.ranges.ready = map[string][]block{}
	}
	s.ranges.ready[o.Name] = blocks
}

// blocks are where addresses may come from now, the configured one first.
func (s *Services) blocks() []block {
	s.ranges.mu.Lock()
	defer s.ranges.mu.Unlock()
	var out []block
	for _, l := range s.ranges.ready {
		out = append(out, l...)
	}
	slices.SortFunc(out, func(a, b block) int {
		return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()))
	})
	if s.ranges.ending {
		return out
	}
	return append([]block{s.block}, out...)
}

func (s *Services) nextIP(owner string, dry bool) (netip.Addr, error) {
	for _, b := range s.blocks() {
		if ip, err := s.ips.Next(owner, b.span(), dry); err == nil {
			return ip, nil
		}
	}
	return netip.Addr{}, ErrFull
}

func (s *Services) inRange(ip netip.Addr) bool {
	return slices.ContainsFunc(s.blocks(), func(b block) bool { return b.contains(ip) })
}

func (s *Services) rangesText() string {
	var out []string
	for _, b := range s.blocks() {
		out = append(out, b.prefix.String())
	}
	return strings.Join(out, ", ")
}

// ApplyReserved follows the cache of IPAddresses: what somebody made one for is taken.
func (s *Services) ApplyReserved(c client.Change) {
	each := func(o any, do func(netip.Addr, string)) {
		a, ok := o.(*networking.IPAddress)
		if !ok || a == nil {
			return
		}
		if r := a.Spec.ParentRef; r != nil && r.Group == "" && r.Resource == "services" {
			return // the Service itself tells
		}
		if ip, err := netip.ParseAddr(a.Name); err == nil {
			do(ip, "ipaddresses/"+a.Name)
		}
	}
	if c.New == nil {
		each(c.Old, s.ips.Release)
		return
	}
	each(c.New, s.ips.Stored)
}
