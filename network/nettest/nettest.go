// Package nettest builds small networks of namespaces for tests and sends real
// packets through them. Everything is gone when the test ends. It is for tests
// only. Start reading at Lab.
package nettest

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"orch/network/link"
	"orch/network/netns"
)

// Namespace makes a network namespace and returns its path.
func Namespace(t testing.TB, name string) string {
	t.Helper()
	path := t.TempDir() + "/" + name
	Must(t, netns.Create(netns.Spec{Net: path}))
	t.Cleanup(func() { netns.Remove(path) })
	return path
}

// Must ends the test on an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Open returns a handle that is closed at the end.
func Open(t testing.TB, path string) *link.Handle {
	t.Helper()
	h, err := link.Open(path)
	Must(t, err)
	t.Cleanup(h.Close)
	return h
}

// End is one side of a cable.
type End struct {
	NS, Device, Addr string
	// Bridge that the device becomes a port of, in place of an address.
	Bridge string
	// Via is the default gateway.
	Via string
}

// Cable connects two namespaces by a veth pair.
func Cable(t testing.TB, a, b End) {
	t.Helper()
	h := Open(t, a.NS)
	ns, err := os.Open(b.NS)
	Must(t, err)
	defer ns.Close()
	var master netlink.Link
	if a.Bridge != "" {
		master, err = h.ByName(a.Bridge)
		Must(t, err)
	}
	mac := link.MACFor(netip.MustParsePrefix(b.Addr).Addr())
	_, err = h.AddVeth(link.Veth{Host: a.Device, PeerName: b.Device, PeerMAC: mac, PeerNS: ns, Master: master, Hairpin: master != nil})
	Must(t, err)
	configure(t, a)
	configure(t, b)
}

func configure(t testing.TB, e End) {
	t.Helper()
	h := Open(t, e.NS)
	l, err := h.ByName(e.Device)
	Must(t, err)
	Must(t, h.Up(l))
	if e.Addr != "" {
		Must(t, h.EnsureAddr(l, netip.MustParsePrefix(e.Addr)))
	}
	if e.Via != "" {
		Must(t, h.EnsureRoute(l, link.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr(e.Via)}))
	}
}

// Serve answers every TCP connection, or UDP datagram, with "name source-ip".
func Serve(t testing.TB, ns, network, addr, name string) {
	t.Helper()
	Must(t, netns.Do(ns, func() error {
		if network == "udp" {
			c, err := net.ListenPacket("udp", addr)
			if err == nil {
				t.Cleanup(func() { c.Close() })
				go serveUDP(c, name)
			}
			return err
		}
		l, err := net.Listen("tcp", addr)
		if err == nil {
			t.Cleanup(func() { l.Close() })
			go serveTCP(l, name)
		}
		return err
	}))
}

func serveTCP(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprintf(c, "%s %s", name, c.RemoteAddr().(*net.TCPAddr).IP)
		c.Close()
	}
}

func serveUDP(c net.PacketConn, name string) {
	buf := make([]byte, 1500)
	for {
		_, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		fmt.Fprintf(asWriter(func(b []byte) (int, error) { return c.WriteTo(b, from) }), "%s %s", name, from.(*net.UDPAddr).IP)
	}
}

type asWriter func([]byte) (int, error)

func (w asWriter) Write(b []byte) (int, error) { return w(b) }

// patience is how long an answer that must come may take, on a machine that is busy.
const patience = 15 * time.Second

// Connects tells whether a server is there now: it does not wait for a packet that was
// lost to be sent again.
func Connects(ns, network, addr string) bool {
	var c net.Conn
	err := netns.Do(ns, func() (err error) {
		c, err = net.DialTimeout(network, addr, 200*time.Millisecond)
		return err
	})
	if err == nil {
		c.Close()
	}
	return err == nil
}

// Ask connects from a namespace and returns what the server says.
func Ask(ns, network, addr string) (answer string, err error) {
	var c net.Conn
	err = netns.Do(ns, func() (err error) {
		c, err = net.DialTimeout(network, addr, patience)
		return err
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	return Exchange(c)
}

// Exchange asks once over an open connection (for UDP, again over the same flow).
func Exchange(c net.Conn) (string, error) {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, udp := c.(*net.UDPConn); udp {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", err
		}
		buf := make([]byte, 1500)
		n, err := c.Read(buf)
		return string(buf[:n]), err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

// Port is a TCP port of 127.0.0.1 that is kept for the test: nobody is given it by
// chance, connections to it are refused, and a server that is told to may listen on it,
// again and again.
func Port(t testing.TB) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	Must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	// With the option on both sides one may listen where another is only bound.
	Must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	Must(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	at, err := unix.Getsockname(fd)
	Must(t, err)
	return at.(*unix.SockaddrInet4).Port
}

// Command runs a program in a namespace and returns its output.
func Command(t testing.TB, ns, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	Must(t, netns.Do(ns, cmd.Start))
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out.String())
	}
	return out.String()
}

// Until waits for a condition, asking again and again, and tells how long it took.
func Until(t testing.TB, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > patience {
			t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(start)
}

// Lab is a node with a pod bridge, pods on it, and a client outside:
//
//	client 192.168.0.2 ── 192.168.0.1 node, bridge 10.42.0.1 ── pods 10.42.0.2 …
type Lab struct {
	Node, Client string
	Pods         []string
}

// NewLab builds one. Pods serve TCP and UDP on port 8080 under the names p0, p1 ….
func NewLab(t testing.TB, pods int) *Lab {
	t.Helper()
	l := &Lab{Node: Namespace(t, "node"), Client: Namespace(t, "client")}
	Cable(t, End{NS: l.Node, Device: "up0", Addr: "192.168.0.1/24"}, End{NS: l.Client, Device: "eth0", Addr: "192.168.0.2/24", Via: "192.168.0.1"})
	br, err := Open(t, l.Node).EnsureBridge(link.Bridge{Name: "orch0", MAC: link.MACFor(netip.MustParseAddr("10.42.0.1")), Addrs: []netip.Prefix{netip.MustParsePrefix("10.42.0.1/24")}})
	Must(t, err)
	Must(t, Open(t, l.Node).EnsureRoute(br, link.Route{Dst: netip.MustParsePrefix("10.43.0.0/16"), Src: netip.MustParseAddr("10.42.0.1")}))
	for i := range pods {
		ns := Namespace(t, fmt.Sprintf("pod%d", i))
		Cable(t, End{NS: l.Node, Device: fmt.Sprintf("veth%d", i), Bridge: "orch0"}, End{NS: ns, Device: "eth0", Addr: l.IP(i) + "/24", Via: "10.42.0.1"})
		Serve(t, ns, "tcp", ":8080", fmt.Sprintf("p%d", i))
		Serve(t, ns, "udp", l.IP(i)+":8080", fmt.Sprintf("p%d", i))
		l.Pods = append(l.Pods, ns)
	}
	return l
}

// IP is the address of a pod.
func (l *Lab) IP(pod int) string { return fmt.Sprintf("10.42.0.%d", pod+2) }
