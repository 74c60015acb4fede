// Package conntrack forgets tracked UDP flows whose translation is out of date.
// The kernel keeps a flow's translation as long as datagrams come, so a client
// that never pauses would talk to an endpoint that is gone for ever. TCP needs
// none of this: its connections end. Start reading at Forget.
package conntrack

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"orch/network/netns"
	"orch/network/rules"
)

// Forget deletes the UDP flows to the given frontends that are answered by
// somebody who isn't a backend, and returns how many. It works in the network
// namespace pinned on path ("" is the process's own).
func Forget(path string, frontends map[rules.Frontend]*rules.Backends) (int, error) {
	var n uint
	err := netns.Do(path, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return fmt.Errorf("opening a netlink socket: %w", err)
		}
		defer h.Close()
		f := &stale{frontends: frontends, local: localAddrs()}
		n, err = h.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, f)
		return err
	})
	return int(n), err
}

// localAddrs are the addresses of the namespace; none when they can't be read:
// then flows to node ports that were not translated are left alone.
func localAddrs() map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	all, _ := net.InterfaceAddrs()
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out[p.Addr().Unmap()] = true
		}
	}
	return out
}

// stale picks the flows that must go.
type stale struct {
	frontends map[rules.Frontend]*rules.Backends
	local     map[netip.Addr]bool
}

// MatchConntrackFlow reports a flow to one of the frontends whose answers come
// from elsewhere.
func (s *stale) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	to, ok1 := netip.AddrFromSlice(flow.Forward.DstIP)
	by, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if !ok1 || !ok2 {
		return false
	}
	to, by = to.Unmap(), by.Unmap()
	backends, is := s.frontends[rules.Frontend{Addr: to, Port: flow.Forward.DstPort}]
	if !is {
		backends, is = s.frontends[rules.Frontend{Port: flow.Forward.DstPort}]
		// The port of a node: only flows that were translated, or came to the node itself.
		is = is && (to != by || s.local[to])
	}
	return is && !backends.Has(netip.AddrPortFrom(by, flow.Reverse.SrcPort))
}
