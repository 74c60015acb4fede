package overlay

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"orch/network/link"
	"orch/network/netns"
	"orch/network/nettest"
)

func peer(n int) Peer {
	p := Peer{Name: fmt.Sprintf("n%d", n), NodeIP: netip.MustParseAddr(fmt.Sprintf("192.168.9.%d", n)), PodCIDR: netip.MustParsePrefix(fmt.Sprintf("10.42.%d.0/24", n))}
	p.MAC = tunnelMAC(p.PodCIDR)
	return p
}

func TestPlan(t *testing.T) {
	have := wanted(VXLAN, []Peer{peer(1), peer(2)})
	same := cmp.Options{cmp.AllowUnexported(changes{}, state{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}
	moved := peer(2)
	moved.NodeIP = netip.MustParseAddr("192.168.9.77")
	tunnelOnly := newState()
	tunnelOnly.tunnels[moved.MAC.String()] = moved.NodeIP
	for _, c := range []struct {
		name  string
		peers []Peer
		want  changes
	}{
		{"nothing", []Peer{peer(1), peer(2)}, changes{newState(), newState()}},
		{"one more", []Peer{peer(1), peer(2), peer(3)}, changes{wanted(VXLAN, []Peer{peer(3)}), newState()}},
		{"one less", []Peer{peer(1)}, changes{newState(), wanted(VXLAN, []Peer{peer(2)})}},
		{"a node has another address", []Peer{peer(1), moved}, changes{tunnelOnly, newState()}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if d := cmp.Diff(c.want, plan(VXLAN, c.peers, have), same); d != "" {
				t.Error(d)
			}
		})
	}
}

// machine is a "node" with one pod, on a switch with the others.
type machine struct {
	n       int
	ns, pod string
	o       *Overlay
	stop    func()
}

func newMachines(t *testing.T, backend string, count int) []*machine {
	t.Helper()
	sw := nettest.Namespace(t, "switch")
	_, err := nettest.Open(t, sw).EnsureBridge(link.Bridge{Name: "sw"})
	nettest.Must(t, err)
	var all []*machine
	for i := 1; i <= count; i++ {
		m := &machine{n: i, ns: nettest.Namespace(t, fmt.Sprintf("n%d", i)), pod: nettest.Namespace(t, fmt.Sprintf("p%d", i))}
		nettest.Cable(t, nettest.End{NS: sw, Device: fmt.Sprintf("port%d", i), Bridge: "sw"}, nettest.End{NS: m.ns, Device: "eth0", Addr: fmt.Sprintf("192.168.9.%d/24", i)})
		gw := fmt.Sprintf("10.42.%d.1", i)
		_, err := nettest.Open(t, m.ns).EnsureBridge(link.Bridge{Name: "orch0", Addrs: []netip.Prefix{netip.MustParsePrefix(gw + "/24")}})
		nettest.Must(t, err)
		nettest.Cable(t, nettest.End{NS: m.ns, Device: "veth0", Bridge: "orch0"}, nettest.End{NS: m.pod, Device: "eth0", Addr: fmt.Sprintf("10.42.%d.2/24", i), Via: gw})
		nettest.Must(t, link.Forwarding(m.ns))
		nettest.Serve(t, m.pod, "tcp", ":80", fmt.Sprintf("p%d", i))
		p := peer(i)
		m.o, err = New(Config{Backend: backend, NodeIP: p.NodeIP, PodCIDR: p.PodCIDR, NetNS: m.ns, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
		nettest.Must(t, err)
		for j := 1; j <= count; j++ {
			m.o.SetPeer(Peer{Name: fmt.Sprintf("n%d", j), NodeIP: peer(j).NodeIP, PodCIDR: peer(j).PodCIDR})
		}
		m.o.Synced()
		all = append(all, m)
		m.stop = m.start(t)
	}
	return all
}

func (m *machine) start(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.o.Run(ctx) }()
	ended := false
	stop = func() {
		if cancel(); !ended {
			ended = true
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	m.sync(t)
	return stop
}

func (m *machine) sync(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	nettest.Must(t, m.o.Sync(ctx))
}

func reach(t *testing.T, from *machine, to int) {
	t.Helper()
	answer, err := nettest.Ask(from.pod, "tcp", fmt.Sprintf("10.42.%d.2:80", to))
	if want := fmt.Sprintf("p%d 10.42.%d.2", to, from.n); err != nil || answer != want {
		t.Errorf("pod %d to pod %d: %q %v", from.n, to, answer, err)
	}
}

func TestPodsReachEachOther(t *testing.T) {
	for _, backend := range []string{VXLAN, HostGW} {
		t.Run(backend, func(t *testing.T) {
			m := newMachines(t, backend, 3)
			for _, from := range m {
				for to := 1; to <= 3; to++ {
					if to != from.n {
						reach(t, from, to)
					}
				}
			}
			// A node itself reaches pods of others, under its own tunnel address.
			if answer, err := nettest.Ask(m[0].ns, "tcp", "10.42.2.2:80"); err != nil || !strings.HasPrefix(answer, "p2") {
				t.Errorf("%q %v", answer, err)
			}
			m[0].o.RemovePeer("n2")
			m[0].sync(t)
			routes := nettest.Command(t, m[0].ns, "ip", "route")
			if strings.Contains(routes, "10.42.2.0") || !strings.Contains(routes, "10.42.3.0") {
				t.Error(routes)
			}
			reach(t, m[0], 3)
		})
	}
}

func TestComesBack(t *testing.T) {
	m := newMachines(t, VXLAN, 2)
	for _, command := range []string{"ip route del 10.42.2.0/24", "ip link del orch.1", "ip link set orch.1 down", "ip addr flush dev eth0; ip addr add 192.168.9.1/24 dev eth0"} {
		nettest.Command(t, m[0].ns, "sh", "-c", command)
		took := nettest.Until(t, command, func() bool {
			return strings.Contains(nettest.Command(t, m[0].ns, "ip", "route"), "10.42.2.0/24 via 10.42.2.0 dev orch.1")
		})
		reach(t, m[0], 2)
		t.Logf("%s: back after %v", command, took)
	}
}

func TestRestartKeepsTheTunnel(t *testing.T) {
	m := newMachines(t, VXLAN, 2)
	index := func() int {
		l, err := nettest.Open(t, m[0].ns).ByName("orch.1")
		nettest.Must(t, err)
		return l.Attrs().Index
	}
	before := index()
	again := &machine{n: 1, ns: m[0].ns, pod: m[0].pod}
	var err error
	again.o, err = New(m[0].o.cfg)
	nettest.Must(t, err)
	m[0].stop()
	again.start(t) // knows no peer yet
	reach(t, m[0], 2)
	again.o.Synced() // there is none
	again.sync(t)
	if index() != before {
		t.Error("the device was replaced")
	}
	if routes := nettest.Command(t, m[0].ns, "ip", "route"); strings.Contains(routes, "10.42.2.0") {
		t.Error(routes)
	}
}

func TestMTU(t *testing.T) {
	m := newMachines(t, VXLAN, 1)
	nettest.Command(t, m[0].ns, "ip", "link", "set", "eth0", "mtu", "1400")
	if got := m[0].o.MTU(); got != 1350 {
		t.Errorf("MTU %d", got)
	}
	gw, err := New(Config{Backend: HostGW, NodeIP: netip.MustParseAddr("192.168.9.1"), PodCIDR: netip.MustParsePrefix("10.42.1.0/24"), NetNS: m[0].ns})
	nettest.Must(t, err)
	if got := gw.MTU(); got != 1400 {
		t.Errorf("MTU of host-gw %d", got)
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []Config{{}, {Backend: "magic"}, {NodeIP: netip.MustParseAddr("::1"), PodCIDR: netip.MustParsePrefix("10.0.0.0/24")}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}

// Large packets must pass: their checksums are what offloading gets wrong.
func TestBulk(t *testing.T) {
	m := newMachines(t, VXLAN, 2)
	const size = 8 << 20
	nettest.Must(t, netns.Do(m[1].pod, func() error {
		l, err := net.Listen("tcp", ":81")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			_, _ = c.Write(make([]byte, size))
		}()
		return nil
	}))
	var got int64
	nettest.Must(t, netns.Do(m[0].pod, func() error {
		c, err := net.DialTimeout("tcp", "10.42.2.2:81", 15*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		nettest.Must(t, c.SetDeadline(time.Now().Add(time.Minute)))
		got, err = io.Copy(io.Discard, c)
		return err
	}))
	if got != size {
		t.Errorf("%d of %d bytes arrived", got, size)
	}
}
