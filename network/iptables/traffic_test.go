package iptables

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/network/netns"
	"orch/network/nettest"
	"orch/network/proxy"
	"orch/network/rules"
)

// node is a lab with a proxy and an owner that run.
type node struct {
	*nettest.Lab
	t     testing.TB
	tr    *proxy.Tracker
	owner *Owner
	svc   map[string]*core.Service
	sl    map[string]*discovery.EndpointSlice
	stop  func()
	// legacy: by the programs for the kernel's old interface.
	legacy bool
}

func newNode(t testing.TB, pods int) *node {
	t.Helper()
	n := &node{Lab: nettest.NewLab(t, pods), t: t, svc: map[string]*core.Service{}, sl: map[string]*discovery.EndpointSlice{}}
	n.tr = proxy.NewTracker(proxy.Config{NodeName: "n1", NodeIPs: []netip.Addr{netip.MustParseAddr("192.168.0.1")}, ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16"),
		PodCIDR: netip.MustParsePrefix("10.42.0.0/24"), ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16")})
	n.run()
	t.Cleanup(func() { n.stop() })
	return n
}

func (n *node) run() {
	owner, err := New(Config{NetNS: n.Node, Stale: proxy.Passing(), Log: slog.New(slog.NewTextHandler(n.t.Output(), nil))})
	nettest.Must(n.t, err)
	if n.legacy {
		owner.tool.nft = false
		owner.tool.restore, err = find("iptables-legacy-restore")
		nettest.Must(n.t, err)
		owner.tool.save, err = find("iptables-legacy-save")
		nettest.Must(n.t, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- owner.Run(ctx) }()
	n.owner = owner
	n.stop = func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Error(err)
		}
		n.stop = func() {}
	}
}

// sync brings the kernel up to date.
func (n *node) sync() {
	n.t.Helper()
	n.owner.Set(n.tr.Compute().Rules)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	nettest.Must(n.t, n.owner.Sync(ctx))
}

func (n *node) service(name, ip string, proto core.Protocol, edit func(*core.ServiceSpec)) {
	s := &core.Service{ObjectMeta: meta.ObjectMeta{Namespace: "d", Name: name}, Spec: core.ServiceSpec{ClusterIP: ip, Ports: []core.ServicePort{{Port: 80, Protocol: proto}}}}
	if edit != nil {
		edit(&s.Spec)
	}
	n.tr.OnService(n.svc[name], s)
	n.svc[name] = s
}

func (n *node) endpoints(name string, proto core.Protocol, pods ...int) {
	s := &discovery.EndpointSlice{ObjectMeta: meta.ObjectMeta{Namespace: "d", Name: name, Labels: map[string]string{discovery.LabelServiceName: name}},
		AddressType: discovery.AddressTypeIPv4, Ports: []discovery.EndpointPort{{Port: new(int32(8080)), Protocol: &proto, Name: new("")}}}
	for _, p := range pods {
		s.Endpoints = append(s.Endpoints, discovery.Endpoint{Addresses: []string{n.IP(p)}, NodeName: new("n1")})
	}
	n.tr.OnEndpointSlice(n.sl[name], s)
	n.sl[name] = s
}

// ask returns the name of the pod that answers and the source that it sees.
func (n *node) ask(from, network, addr string) (pod, source string) {
	n.t.Helper()
	answer, err := nettest.Ask(from, network, addr)
	if err != nil {
		n.t.Errorf("%s %s: %v", network, addr, err)
		return "", ""
	}
	pod, source, _ = strings.Cut(answer, " ")
	return pod, source
}

func TestServices(t *testing.T) {
	n := newNode(t, 3)
	n.service("web", "10.43.0.5", core.ProtocolTCP, func(s *core.ServiceSpec) {
		s.Type, s.Ports[0].NodePort = core.ServiceTypeNodePort, 30080
		s.ExternalIPs = []string{"203.0.113.5"}
	})
	n.endpoints("web", core.ProtocolTCP, 0, 1)
	n.service("self", "10.43.0.6", core.ProtocolTCP, nil)
	n.endpoints("self", core.ProtocolTCP, 0)
	n.service("sticky", "10.43.0.7", core.ProtocolTCP, func(s *core.ServiceSpec) { s.SessionAffinity = core.ServiceAffinityClientIP })
	n.endpoints("sticky", core.ProtocolTCP, 0, 1, 2)
	n.service("none", "10.43.0.8", core.ProtocolTCP, func(s *core.ServiceSpec) {
		s.Type, s.Ports[0].NodePort = core.ServiceTypeNodePort, 30081
	})
	n.service("local", "10.43.0.9", core.ProtocolTCP, func(s *core.ServiceSpec) {
		s.Type, s.Ports[0].NodePort, s.ExternalTrafficPolicy = core.ServiceTypeNodePort, 30082, core.ServiceExternalTrafficPolicyLocal
	})
	n.endpoints("local", core.ProtocolTCP, 1)
	n.tr.SetPod("p2", &rules.Pod{IPs: []netip.Addr{netip.MustParseAddr(n.IP(2))}, Ports: []rules.HostPort{{HostPort: 8888, Port: 8080, Proto: rules.TCP}}})
	nettest.Serve(t, n.Client, "tcp", ":7000", "outside")
	n.sync()

	t.Run("cluster IP spreads and keeps the pod's address", func(t *testing.T) {
		seen := map[string]bool{}
		for range 40 {
			pod, source := n.ask(n.Pods[2], "tcp", "10.43.0.5:80")
			seen[pod] = true
			if source != n.IP(2) {
				t.Errorf("source %s", source)
			}
		}
		if !seen["p0"] || !seen["p1"] || seen["p2"] {
			t.Errorf("answered by %v", seen)
		}
	})
	t.Run("hairpin", func(t *testing.T) {
		if pod, source := n.ask(n.Pods[0], "tcp", "10.43.0.6:80"); pod != "p0" || source == n.IP(0) {
			t.Errorf("%s from %s", pod, source)
		}
	})
	t.Run("from the node, without a default route", func(t *testing.T) {
		if pod, source := n.ask(n.Node, "tcp", "10.43.0.6:80"); pod != "p0" || source != "10.42.0.1" {
			t.Errorf("%s from %s", pod, source)
		}
	})
	t.Run("node port", func(t *testing.T) {
		for _, c := range []struct{ from, addr, source string }{{n.Client, "192.168.0.1:30080", "10.42.0.1"}, {n.Node, "127.0.0.1:30080", "10.42.0.1"}, {n.Pods[2], "10.42.0.1:30080", "10.42.0.1"}, {n.Client, "192.168.0.1:30082", "192.168.0.2"}} {
			if pod, source := n.ask(c.from, "tcp", c.addr); pod == "" || source != c.source {
				t.Errorf("%s: %s from %s, want %s", c.addr, pod, source, c.source)
			}
		}
	})
	t.Run("external IP", func(t *testing.T) { n.ask(n.Client, "tcp", "203.0.113.5:80") })
	t.Run("affinity", func(t *testing.T) {
		first, _ := n.ask(n.Client, "tcp", "10.43.0.7:80")
		for range 15 {
			if pod, _ := n.ask(n.Client, "tcp", "10.43.0.7:80"); pod != first {
				t.Errorf("%s, then %s", first, pod)
			}
		}
	})
	t.Run("refused at once", func(t *testing.T) {
		for _, c := range []struct{ from, addr string }{{n.Pods[0], "10.43.0.8:80"}, {n.Node, "10.43.0.8:80"}, {n.Client, "192.168.0.1:30081"}, {n.Pods[0], "10.43.9.9:80"}, {n.Node, "10.43.9.9:80"}} {
			if _, err := nettest.Ask(c.from, "tcp", c.addr); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s: %v", c.addr, err)
			}
		}
	})
	t.Run("host port", func(t *testing.T) {
		if pod, source := n.ask(n.Client, "tcp", "192.168.0.1:8888"); pod != "p2" || source != "192.168.0.2" {
			t.Errorf("%s from %s", pod, source)
		}
		if pod, _ := n.ask(n.Node, "tcp", "127.0.0.1:8888"); pod != "p2" {
			t.Errorf("on localhost: %s", pod)
		}
	})
	t.Run("what leaves the pod network is masqueraded", func(t *testing.T) {
		if _, source := n.ask(n.Pods[0], "tcp", "192.168.0.2:7000"); source != "192.168.0.1" {
			t.Errorf("source %s", source)
		}
	})
}

// A client that keeps one UDP socket must not stay with an endpoint that is gone.
func TestUDPFlowsFollow(t *testing.T) {
	n := newNode(t, 2)
	n.service("dns", "10.43.0.5", core.ProtocolUDP, func(s *core.ServiceSpec) { s.Type, s.Ports[0].NodePort = core.ServiceTypeNodePort, 30053 })
	n.endpoints("dns", core.ProtocolUDP, 0)
	n.sync()
	var viaIP, viaPort net.Conn
	nettest.Must(t, netns.Do(n.Client, func() (err error) {
		if viaIP, err = net.Dial("udp", "10.43.0.5:80"); err == nil {
			viaPort, err = net.Dial("udp", "192.168.0.1:30053")
		}
		return err
	}))
	defer viaIP.Close()
	defer viaPort.Close()
	says := func(c net.Conn, want string) {
		t.Helper()
		got, err := nettest.Exchange(c)
		if err != nil || !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q %v, want %s", c.RemoteAddr(), got, err, want)
		}
	}
	says(viaIP, "p0")
	says(viaPort, "p0")
	n.endpoints("dns", core.ProtocolUDP, 1)
	n.sync()
	flows := func() bool { return n.owner.Stats().Flows >= 2 }
	nettest.Until(t, "both flows are forgotten", flows)
	says(viaIP, "p1")
	says(viaPort, "p1")
}

// works tells whether the client reaches a Service that listens on 10.43.0.5.
func (n *node) works() bool { return nettest.Connects(n.Client, "tcp", "10.43.0.5:80") }

// rest returns once the owner has had nothing to do for a while, and says what it did.
func (n *node) rest() Stats {
	n.t.Helper()
	var before Stats
	nettest.Until(n.t, "nothing is written any more", func() bool {
		before = n.owner.Stats()
		time.Sleep(2 * repairPause)
		return n.owner.Stats() == before
	})
	return before
}

func TestDeletedRulesComeBack(t *testing.T) {
	n := newNode(t, 1)
	n.service("web", "10.43.0.5", core.ProtocolTCP, nil)
	n.endpoints("web", core.ProtocolTCP, 0)
	n.sync()
	if waits := settle + repairPause; waits > time.Second/2 {
		t.Errorf("a repair waits %v, a second is promised", waits)
	}
	for _, c := range []struct{ name, command string }{
		{"one chain flushed", "iptables -t nat -F KUBE-SERVICES"},
		{"jump deleted", "iptables -t nat -D PREROUTING -m comment --comment 'kubernetes service portals' -j KUBE-SERVICES"},
		{"kernel chain flushed", "iptables -t nat -F PREROUTING"},
		{"whole table flushed", "iptables -t nat -F"},
		// Some may be back, and in use, before they are deleted.
		{"chains deleted", "iptables -t nat -F; iptables -t nat -X || true"},
		{"everything deleted", "nft flush ruleset"},
	} {
		t.Run(c.name, func(t *testing.T) {
			nettest.Until(t, "the Service works before", n.works)
			nettest.Command(t, n.Node, "sh", "-c", c.command)
			took := nettest.Until(t, "the Service works again", n.works)
			t.Logf("back after %v", took)
			n.rest() // the next case isn't part of this repair
		})
	}
	before := n.rest()
	nettest.Command(t, n.Node, "iptables", "-t", "nat", "-A", "PREROUTING", "-s", "1.2.3.4", "-j", "ACCEPT")
	nettest.Command(t, n.Node, "iptables", "-N", "OTHERS")
	nettest.Command(t, n.Node, "iptables", "-X", "OTHERS")
	time.Sleep(50 * time.Millisecond)
	if after := n.owner.Stats(); after.Repairs != before.Repairs {
		t.Errorf("what others do with their own rules made us write: %+v, %+v", before, after)
	}
}

func TestRestartKeepsAndCleans(t *testing.T) {
	n := newNode(t, 2)
	n.service("web", "10.43.0.5", core.ProtocolTCP, nil)
	n.endpoints("web", core.ProtocolTCP, 0)
	n.service("old", "10.43.0.6", core.ProtocolTCP, nil)
	n.endpoints("old", core.ProtocolTCP, 1)
	n.sync()
	nettest.Command(t, n.Node, "iptables", "-t", "nat", "-N", "KUBE-POD-FW-OTHERS")
	n.stop()
	n.ask(n.Client, "tcp", "10.43.0.5:80") // works without us
	n.tr.OnService(n.svc["old"], nil)
	n.run()
	n.sync()
	n.ask(n.Client, "tcp", "10.43.0.5:80")
	save := nettest.Command(t, n.Node, "iptables-save")
	if strings.Contains(save, "d/old") || strings.Count(save, "KUBE-SEP-") == 0 || !strings.Contains(save, "KUBE-POD-FW-OTHERS") {
		t.Error(save)
	}
	jumps := strings.Count(save, "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES")
	if jumps != 1 {
		t.Errorf("%d jumps", jumps)
	}
}

// With iptables-legacy there are no events; it must work all the same.
func TestLegacy(t *testing.T) {
	n := newNode(t, 2)
	n.stop()
	n.legacy = true
	n.run()
	n.service("web", "10.43.0.5", core.ProtocolTCP, nil)
	n.endpoints("web", core.ProtocolTCP, 0)
	n.sync()
	n.ask(n.Client, "tcp", "10.43.0.5:80")
	for _, command := range []string{"iptables-legacy -t nat -F KUBE-SERVICES", "iptables-legacy -t nat -F; iptables-legacy -F", "iptables-legacy -t nat -F; iptables-legacy -t nat -X"} {
		nettest.Command(t, n.Node, "sh", "-c", command)
		took := nettest.Until(t, "the Service works again", n.works)
		t.Logf("%s: back after %v", command, took)
	}
	n.endpoints("web", core.ProtocolTCP, 1)
	n.sync()
	if pod, _ := n.ask(n.Client, "tcp", "10.43.0.5:80"); pod != "p1" {
		t.Error(pod)
	}
}

// Nothing to do means nothing done: no process, no wake-up of ours beyond the
// legacy watcher's.
func TestIdle(t *testing.T) {
	n := newNode(t, 1)
	n.service("web", "10.43.0.5", core.ProtocolTCP, nil)
	n.sync()
	before := n.rest()
	runtime.GC() // what other tests left is not this one's
	used := time.Hour
	for range 10 { // one that is busy is so each time
		start := cpuTime(t)
		time.Sleep(500 * time.Millisecond)
		if used = min(used, cpuTime(t)-start); used < 25*time.Millisecond {
			break
		}
	}
	if after := n.owner.Stats(); after != before {
		t.Errorf("%+v, then %+v", before, after)
	}
	if used > 25*time.Millisecond {
		t.Errorf("idle for half a second used %v", used)
	}
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	nettest.Must(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A rule that the kernel refuses is reported with its text; the next good
// ruleset is written in full.
func TestRefusedRule(t *testing.T) {
	n := newNode(t, 1)
	bad := rules.New()
	bad.Add(chain(rules.NAT, "KUBE-SERVICES", "NOWHERE"))
	n.owner.Set(bad)
	nettest.Until(t, "it is tried", func() bool { return n.owner.Stats().Failures > 0 })
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := n.owner.Sync(ctx); err == nil || !strings.Contains(err.Error(), "NOWHERE") {
		t.Errorf("error %v", err)
	}
	n.sync()
}

func BenchmarkOneEndpointOf1000x5(b *testing.B) {
	n := newNode(b, 1)
	for i := range 1000 {
		name := fmt.Sprintf("s%03d", i)
		n.service(name, fmt.Sprintf("10.43.%d.%d", 1+i/250, 1+i%250), core.ProtocolTCP, nil)
		n.endpoints(name, core.ProtocolTCP, i%50, i%50+50, i%50+100, i%50+150, i%50+200)
	}
	start := time.Now()
	n.sync()
	first := time.Since(start)
	defer func() { b.ReportMetric(float64(first.Milliseconds()), "first-ms") }()
	n.sync()
	time.Sleep(2 * breather)
	i := 0
	for b.Loop() {
		i++
		n.endpoints("s500", core.ProtocolTCP, i%200, 201, 202, 203, 204)
		n.sync()
	}
}
