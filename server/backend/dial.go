package backend

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"

	core "k8s.io/api/core/v1"

	"orch/api"
	"orch/api/client"
)

// maxRefusal bounds how much of a node's refusal is read.
const maxRefusal = 4 << 10

// DialContext opens a connection to what Resolve gave, or to a pod's address: through
// the node that it is on if that is a joined one.
func (b *Backends) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	if address == b.cfg.Self && address != "" {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return b.cfg.Direct(ctx, network, address) // a name; its addresses are looked at when they are known
	}
	if err := Allowed(at.Addr()); err != nil {
		return nil, fmt.Errorf("dialling %s: %w", address, err)
	}
	if node := b.nodeOf(at.Addr()); node != "" {
		return b.through(ctx, node, at)
	}
	return b.cfg.Direct(ctx, network, address)
}

// nodeOf tells which joined node has the address: it or its pods; "" for none.
func (b *Backends) nodeOf(ip netip.Addr) string {
	if b.cfg.Nodes == nil {
		return ""
	}
	ip = ip.Unmap()
	for _, n := range client.CachedList(b.cfg.Cache, api.Nodes, "", nil) {
		if n.Name != b.cfg.Own && has(n, ip) {
			return n.Name
		}
	}
	return ""
}

func has(n *core.Node, ip netip.Addr) bool {
	ranges := n.Spec.PodCIDRs
	if len(ranges) == 0 && n.Spec.PodCIDR != "" {
		ranges = []string{n.Spec.PodCIDR}
	}
	within := func(text string) bool {
		p, err := netip.ParsePrefix(text)
		return err == nil && p.Contains(ip)
	}
	return slices.ContainsFunc(ranges, within) || slices.ContainsFunc(n.Status.Addresses, func(a core.NodeAddress) bool {
		own, err := netip.ParseAddr(a.Address)
		return err == nil && a.Type == core.NodeInternalIP && own.Unmap() == ip
	})
}

// through asks a node to dial one of its pods, or itself.
func (b *Backends) through(ctx context.Context, node string, at netip.AddrPort) (net.Conn, error) {
	conn, err := b.cfg.Nodes.Dial(ctx, node)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	r := bufio.NewReader(conn)
	err = ask(conn, r, at)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("dialling %s through node %s: %w", at, node, err)
	}
	return &spliced{conn, r}, nil
}

func ask(conn net.Conn, r *bufio.Reader, at netip.AddrPort) error {
	if _, err := fmt.Fprintf(conn, "GET %s%s HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", api.PathDial, at, api.DialProtocol); err != nil {
		return err
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal)) // what could be read says enough
	return fmt.Errorf("%s: %s", resp.Status, text)
}

// spliced reads first what came behind the answer.
type spliced struct {
	net.Conn
	r *bufio.Reader
}

func (s *spliced) Read(b []byte) (int, error) { return s.r.Read(b) }
