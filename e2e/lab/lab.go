// Package lab makes hosts out of network namespaces, wires them to one switch,
// and runs the built orch on them: whole clusters on one machine, beside whatever
// else runs there. It owns the processes and namespaces it makes and takes them
// away at the end of the test. Start at New, Host.StartServer and Host.StartAgent.
package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"orch/network/link"
	"orch/network/netns"
)

// Lab is a switch with hosts on it.
type Lab struct {
	testing.TB
	dir    string
	number int
	bridge string // the switch's namespace
	hosts  int
}

// counter keeps labs of one process apart.
var counter atomic.Int32

// New makes an empty lab.
func New(t testing.TB) *Lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("the end-to-end tests need root: they make network namespaces and containers")
	}
	dir, err := os.MkdirTemp("", "orch-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	l := &Lab{TB: t, dir: dir, number: int(counter.Add(1)), bridge: filepath.Join(dir, "ns", "switch")}
	t.Cleanup(func() {
		if t.Failed() && os.Getenv("ORCH_E2E_KEEP") != "" {
			t.Logf("kept: %s", dir)
			return
		}
		unmountBelow(dir)
		os.RemoveAll(dir)
	})
	l.must(netns.Prepare(filepath.Join(dir, "ns")))
	l.must(netns.Create(netns.Spec{Net: l.bridge}))
	t.Cleanup(func() { netns.Remove(l.bridge) })
	h, err := link.Open(l.bridge)
	l.must(err)
	defer h.Close()
	_, err = h.EnsureBridge(link.Bridge{Name: "br0"})
	l.must(err)
	return l
}

func (l *Lab) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

// Host is one machine: a network namespace with one interface and no default route.
type Host struct {
	*Lab
	Name string
	IP   netip.Addr
	// Dir is the data directory of the orch that runs on it.
	Dir string
	ns  string
}

// Host adds a machine.
func (l *Lab) Host(name string) *Host {
	l.Helper()
	l.hosts++
	h := &Host{Lab: l, Name: name, IP: netip.AddrFrom4([4]byte{192, 168, byte(100 + l.number), byte(l.hosts)}),
		Dir: filepath.Join(l.dir, name), ns: filepath.Join(l.dir, "ns", name)}
	l.must(os.MkdirAll(h.Dir, 0o755))
	l.must(netns.Create(netns.Spec{Net: h.ns}))
	l.Cleanup(func() { netns.Remove(h.ns) })
	sw, err := link.Open(l.bridge)
	l.must(err)
	defer sw.Close()
	br, err := sw.ByName("br0")
	l.must(err)
	peer, err := os.Open(h.ns)
	l.must(err)
	defer peer.Close()
	_, err = sw.AddVeth(link.Veth{Host: fmt.Sprintf("port%d", l.hosts), PeerName: "eth0", PeerNS: peer, Master: br})
	l.must(err)
	in, err := link.Open(h.ns)
	l.must(err)
	defer in.Close()
	eth, err := in.ByName("eth0")
	l.must(err)
	l.must(in.EnsureAddr(eth, netip.PrefixFrom(h.IP, 24)))
	l.must(in.Up(eth))
	return h
}

// For is the host as a subtest sees it: failures go to t. Machines are added on
// the original only.
func (h *Host) For(t testing.TB) *Host {
	l := *h.Lab
	l.TB = t
	c := *h
	c.Lab = &l
	return &c
}

// Dial connects from the host.
func (h *Host) Dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = netns.Do(h.ns, func() error {
		var d net.Dialer
		c, err = d.DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Listen takes a port on the host, for a server in this process.
func (h *Host) Listen(network, address string) (l net.Listener, err error) {
	err = netns.Do(h.ns, func() error {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// Cut takes the host off the network, Mend puts it back.
func (h *Host) Cut()  { h.setLink(false) }
func (h *Host) Mend() { h.setLink(true) }

func (h *Host) setLink(up bool) {
	h.Helper()
	in, err := link.Open(h.ns)
	h.must(err)
	defer in.Close()
	eth, err := in.ByName("eth0")
	h.must(err)
	if up {
		h.must(in.Up(eth))
		return
	}
	h.must(in.Netlink().LinkSetDown(eth))
}
