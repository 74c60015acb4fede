package link

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"orch/network/netns"
)

func namespace(t testing.TB, name string) string {
	t.Helper()
	path := t.TempDir() + "/" + name
	if err := netns.Create(netns.Spec{Net: path}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netns.Remove(path) })
	return path
}

func open(t testing.TB, path string) *Handle {
	t.Helper()
	h, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestBridgeAndVeth(t *testing.T) {
	host, pod := open(t, namespace(t, "host")), open(t, namespace(t, "pod"))
	spec := Bridge{Name: "br0", MTU: 1400, MAC: MACFor(netip.MustParseAddr("10.9.0.1")),
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24"), netip.MustParsePrefix("10.43.0.10/32")}}
	var br netlink.Link
	for range 2 { // the second changes nothing
		var err error
		br, err = host.EnsureBridge(spec)
		must(t, err)
	}
	ns, err := os.Open(pod.Namespace())
	must(t, err)
	defer ns.Close()
	veth := Veth{Host: "veth1", MTU: 1400, PeerName: "eth0", PeerMAC: MACFor(netip.MustParseAddr("10.9.0.2")), PeerNS: ns, Master: br, Hairpin: true}
	for range 2 { // the second replaces the leftover
		_, err = host.AddVeth(veth)
		must(t, err)
	}
	got, err := host.ByName("veth1")
	must(t, err)
	info, err := host.nl.LinkGetProtinfo(got)
	must(t, err)
	if got.Attrs().MasterIndex != br.Attrs().Index || !info.Hairpin || got.Attrs().MTU != 1400 || got.Attrs().Flags&net.FlagUp == 0 {
		t.Errorf("host's end is wrong: %+v hairpin %v", got.Attrs(), info.Hairpin)
	}
	eth0, err := pod.ByName("eth0")
	must(t, err)
	must(t, pod.EnsureAddr(eth0, netip.MustParsePrefix("10.9.0.2/24")))
	must(t, pod.EnsureAddr(eth0, netip.MustParsePrefix("10.9.0.2/24")))
	must(t, pod.Up(eth0))
	must(t, pod.EnsureRoute(eth0, Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.9.0.1")}))
	if mac := eth0.Attrs().HardwareAddr.String(); mac != "0a:58:0a:09:00:02" {
		t.Errorf("mac %s", mac)
	}
	must(t, netns.Do(pod.Namespace(), func() error {
		c, err := net.Dial("udp", "10.43.0.10:53")
		if err == nil {
			c.Close()
		}
		return err
	}))
	br, err = host.EnsureBridge(Bridge{Name: "br0", Addrs: spec.Addrs[:1]})
	must(t, err)
	addrs, err := host.Addrs(br)
	must(t, err)
	if len(addrs) != 1 || addrs[0] != spec.Addrs[0] {
		t.Errorf("addresses %v", addrs)
	}
	must(t, host.Delete("veth1"))
	must(t, host.Delete("veth1"))
	if _, err := host.ByName("veth1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("after Delete: %v", err)
	}
	if _, err := host.EnsureBridge(Bridge{Name: "lo"}); err == nil || !strings.Contains(err.Error(), "of that name exists") {
		t.Errorf("bridge over lo: %v", err)
	}
}

func TestVXLAN(t *testing.T) {
	h := open(t, namespace(t, "host"))
	lower, err := h.EnsureBridge(Bridge{Name: "under", Addrs: []netip.Prefix{netip.MustParsePrefix("192.168.7.1/24")}})
	must(t, err)
	spec := VXLAN{Name: "orch.1", ID: 1, Port: 8472, MTU: 1450, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Local: netip.MustParseAddr("192.168.7.1"),
		Device: lower.Attrs().Index, Addr: netip.MustParsePrefix("10.42.0.0/32")}
	first, err := h.EnsureVXLAN(spec)
	must(t, err)
	again, err := h.EnsureVXLAN(spec)
	must(t, err)
	if first.Attrs().Index != again.Attrs().Index {
		t.Error("a right device was replaced")
	}
	spec.Port = 4789
	other, err := h.EnsureVXLAN(spec)
	must(t, err)
	if other.Attrs().Index == again.Attrs().Index {
		t.Error("a wrong device was kept")
	}
	must(t, h.ChecksumOffload("orch.1", false))
	spec.Name = "orch.2"
	if _, err := h.EnsureVXLAN(spec); err == nil || !strings.Contains(err.Error(), "another device uses") {
		t.Errorf("a second device on the same id: %v", err)
	}
}

func TestForwarding(t *testing.T) {
	ns := namespace(t, "host")
	must(t, Forwarding(ns))
	must(t, netns.Do(ns, func() error {
		b, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
		if string(b) != "1\n" {
			t.Errorf("ip_forward is %q", b)
		}
		return err
	}))
}
