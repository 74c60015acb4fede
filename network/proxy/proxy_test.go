package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/network/rules"
)

var testConfig = Config{NodeName: "n1", Zone: "z1", NodeIPs: []netip.Addr{ip("192.168.0.1")}, ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16"),
	PodCIDR: netip.MustParsePrefix("10.42.0.0/24"), ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"), SkipIPs: []netip.Addr{ip("10.43.0.10")}}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// local is what the node's routing table says: its own addresses.
func local(a netip.Addr) bool {
	return a == ip("192.168.0.1") || a == ip("10.42.0.1") || a.IsLoopback() || a == ip("10.43.0.10")
}

func service(edit func(*core.Service)) *core.Service {
	s := &core.Service{ObjectMeta: meta.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: core.ServiceSpec{Type: core.ServiceTypeClusterIP, ClusterIP: "10.43.0.5",
		Ports: []core.ServicePort{{Port: 80, Protocol: core.ProtocolTCP}}}}
	if edit != nil {
		edit(s)
	}
	return s
}

// ep is one endpoint in words: "10.42.0.2 n1 terminating zone=z1".
func ep(words string) discovery.Endpoint {
	f := strings.Fields(words)
	e := discovery.Endpoint{Addresses: f[:1], NodeName: new(f[1])}
	for _, w := range f[2:] {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "unready":
			e.Conditions.Ready = new(false)
		case "terminating":
			e.Conditions = discovery.EndpointConditions{Ready: new(false), Serving: new(true), Terminating: new(true)}
		case "dying":
			e.Conditions = discovery.EndpointConditions{Ready: new(false), Serving: new(false), Terminating: new(true)}
		case "zone":
			e.Hints = &discovery.EndpointHints{ForZones: []discovery.ForZone{{Name: value}}}
		case "node":
			e.Hints = &discovery.EndpointHints{ForNodes: []discovery.ForNode{{Name: value}}}
		}
	}
	return e
}

func slice(proto core.Protocol, eps ...string) *discovery.EndpointSlice {
	s := &discovery.EndpointSlice{ObjectMeta: meta.ObjectMeta{Namespace: "ns", Name: "web-1", Labels: map[string]string{discovery.LabelServiceName: "web"}},
		AddressType: discovery.AddressTypeIPv4, Ports: []discovery.EndpointPort{{Port: new(int32(8080)), Protocol: &proto, Name: new("")}}}
	for _, e := range eps {
		s.Endpoints = append(s.Endpoints, ep(e))
	}
	return s
}

func nodePort(edit func(*core.Service)) func(*core.Service) {
	return func(s *core.Service) {
		s.Spec.Type, s.Spec.Ports[0].NodePort = core.ServiceTypeNodePort, 30080
		if edit != nil {
			edit(s)
		}
	}
}

func balancer(s *core.Service) {
	nodePort(nil)(s)
	s.Spec.Type = core.ServiceTypeLoadBalancer
	s.Status.LoadBalancer.Ingress = []core.LoadBalancerIngress{{IP: "203.0.113.9"}}
}

func externalLocal(s *core.Service) {
	s.Spec.ExternalTrafficPolicy = core.ServiceExternalTrafficPolicyLocal
}

func TestPackets(t *testing.T) {
	const pod, outside, node = "10.42.0.2", "198.51.100.7", ""
	two := []string{"10.42.0.2 n1", "10.42.1.2 n2"}
	cases := []struct {
		name  string
		edit  func(*core.Service)
		eps   []string
		src   string // empty: a process of the node
		dst   string
		proto rules.Proto
		want  []string
	}{
		{"pod to cluster IP", nil, two, "10.42.0.9", "10.43.0.5:80", 0, []string{"10.42.0.2:8080", "10.42.1.2:8080"}},
		{"hairpin is masqueraded", nil, two, pod, "10.43.0.5:80", 0, []string{"10.42.0.2:8080 masquerade", "10.42.1.2:8080"}},
		{"cluster IP from outside the cluster is masqueraded", nil, two, outside, "10.43.0.5:80", 0, []string{"10.42.0.2:8080 masquerade", "10.42.1.2:8080 masquerade"}},
		{"node by its bridge address", nil, two, node, "10.43.0.5:80", 0, []string{"10.42.0.2:8080", "10.42.1.2:8080"}},
		{"wrong port of a cluster IP", nil, two, pod, "10.43.0.5:81", 0, []string{"reject"}},
		{"unassigned cluster IP", nil, two, pod, "10.43.7.7:80", 0, []string{"reject"}},
		{"other protocol", nil, two, pod, "10.43.0.5:80", rules.UDP, []string{"reject"}},
		{"DNS is the node's own", func(s *core.Service) { s.Spec.ClusterIP = "10.43.0.10" }, two, pod, "10.43.0.10:80", 0, []string{"10.43.0.10:80 local"}},
		{"no endpoints", nil, nil, pod, "10.43.0.5:80", 0, []string{"reject"}},
		{"only unready endpoints", nil, []string{"10.42.0.2 n1 unready"}, pod, "10.43.0.5:80", 0, []string{"reject"}},
		{"terminating ones are left out", nil, []string{"10.42.0.2 n1 terminating", "10.42.1.2 n2"}, pod, "10.43.0.5:80", 0, []string{"10.42.1.2:8080"}},
		{"terminating ones serve when there are no others", nil, []string{"10.42.0.2 n1 dying", "10.42.1.2 n2 terminating"}, pod, "10.43.0.5:80", 0, []string{"10.42.1.2:8080"}},
		{"headless", func(s *core.Service) { s.Spec.ClusterIP = "None" }, two, pod, "10.42.1.2:8080", 0, []string{"10.42.1.2:8080"}},
		{"pod to the internet", nil, nil, pod, "8.8.8.8:53", 0, []string{"8.8.8.8:53 masquerade"}},
		{"pod to pod", nil, nil, pod, "10.42.1.7:53", 0, []string{"10.42.1.7:53"}},

		{"internal policy local", internalLocal, two, "10.42.0.9", "10.43.0.5:80", 0, []string{"10.42.0.2:8080"}},
		{"internal policy local, none here", internalLocal, two[1:], "10.42.0.9", "10.43.0.5:80", 0, []string{"drop"}},
		{"internal policy local, none at all", internalLocal, nil, "10.42.0.9", "10.43.0.5:80", 0, []string{"reject"}},
		{"internal policy local, a local one terminates", internalLocal, []string{"10.42.0.2 n1 terminating", "10.42.1.2 n2"}, "10.42.0.9", "10.43.0.5:80", 0, []string{"10.42.0.2:8080"}},

		{"node port from outside", nodePort(nil), two, outside, "192.168.0.1:30080", 0, []string{"10.42.0.2:8080 masquerade", "10.42.1.2:8080 masquerade"}},
		{"node port on localhost", nodePort(nil), two, "127.0.0.1!", "127.0.0.1:30080", 0, []string{"10.42.0.2:8080 masquerade", "10.42.1.2:8080 masquerade"}},
		{"node port of another node", nodePort(nil), two, pod, "192.168.0.2:30080", 0, []string{"192.168.0.2:30080 masquerade"}},
		{"node port without endpoints", nodePort(nil), nil, outside, "192.168.0.1:30080", 0, []string{"reject"}},
		{"node port, external local", nodePort(externalLocal), two, outside, "192.168.0.1:30080", 0, []string{"10.42.0.2:8080"}},
		{"node port, external local, none here", nodePort(externalLocal), two[1:], outside, "192.168.0.1:30080", 0, []string{"drop"}},
		{"node port, external local, pod may use any", nodePort(externalLocal), two[1:], pod, "192.168.0.1:30080", 0, []string{"10.42.1.2:8080"}},
		{"node port, external local, node may use any", nodePort(externalLocal), two[1:], "192.168.0.1!", "192.168.0.1:30080", 0, []string{"10.42.1.2:8080 masquerade"}},
		{"node port, external local, none at all", nodePort(externalLocal), nil, outside, "192.168.0.1:30080", 0, []string{"reject"}},

		{"external IP", func(s *core.Service) { s.Spec.ExternalIPs = []string{"203.0.113.5"} }, two[1:], outside, "203.0.113.5:80", 0, []string{"10.42.1.2:8080 masquerade"}},
		{"external IP without endpoints", func(s *core.Service) { s.Spec.ExternalIPs = []string{"203.0.113.5"} }, nil, outside, "203.0.113.5:80", 0, []string{"reject"}},
		{"load balancer", balancer, two[1:], outside, "203.0.113.9:80", 0, []string{"10.42.1.2:8080 masquerade"}},
		{"load balancer in mode Proxy", func(s *core.Service) {
			balancer(s)
			s.Status.LoadBalancer.Ingress[0].IPMode = new(core.LoadBalancerIPModeProxy)
		}, two[1:], pod, "203.0.113.9:80", 0, []string{"203.0.113.9:80 masquerade"}},
		{"source range, inside", ranged("198.51.100.0/24"), two[1:], outside, "203.0.113.9:80", 0, []string{"10.42.1.2:8080 masquerade"}},
		{"source range, outside", ranged("198.51.101.0/24"), two[1:], outside, "203.0.113.9:80", 0, []string{"drop"}},
		{"source range does not hold the node port", ranged("198.51.101.0/24"), two[1:], outside, "192.168.0.1:30080", 0, []string{"10.42.1.2:8080 masquerade"}},

		{"zone hints", nil, []string{"10.42.0.2 n1 zone=z1", "10.42.1.2 n2 zone=z2"}, pod, "10.43.0.5:80", 0, []string{"10.42.0.2:8080 masquerade"}},
		{"zone hints, one without", nil, []string{"10.42.0.3 n1 zone=z1", "10.42.1.2 n2"}, pod, "10.43.0.5:80", 0, []string{"10.42.0.3:8080", "10.42.1.2:8080"}},
		{"zone hints, none for us", nil, []string{"10.42.1.2 n2 zone=z2"}, pod, "10.43.0.5:80", 0, []string{"10.42.1.2:8080"}},
		{"node hints", nil, []string{"10.42.0.3 n1 node=n1", "10.42.1.2 n2 node=n2"}, pod, "10.43.0.5:80", 0, []string{"10.42.0.3:8080"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			rs := Compute(Input{Config: testConfig, Services: []*core.Service{service(c.edit)}, Slices: []*discovery.EndpointSlice{slice(core.ProtocolTCP, c.eps...)}})
			if diff := cmp.Diff(c.want, outcomes(rs, c.src, c.dst, c.proto)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func outcomes(rs *rules.Ruleset, src, dst string, proto rules.Proto) []string {
	to := netip.MustParseAddrPort(dst)
	p := rules.Packet{Dst: to.Addr(), DstPort: to.Port(), Proto: proto, In: "eth0"}
	switch {
	case src == "":
		p.Src, p.In = ip("10.42.0.1"), ""
	case strings.HasSuffix(src, "!"):
		p.Src, p.In = ip(strings.TrimSuffix(src, "!")), ""
	default:
		p.Src = ip(src)
	}
	if proto == 0 {
		p.Proto = rules.TCP
	}
	var got []string
	for _, o := range rs.Trace(rules.Host{Local: local}, p) {
		got = append(got, o.String())
	}
	return slices.Compact(got)
}

func internalLocal(s *core.Service) {
	s.Spec.InternalTrafficPolicy = new(core.ServiceInternalTrafficPolicyLocal)
}

func ranged(cidr string) func(*core.Service) {
	return func(s *core.Service) {
		balancer(s)
		s.Spec.LoadBalancerSourceRanges = []string{cidr}
	}
}

func TestAffinity(t *testing.T) {
	s := service(func(s *core.Service) { s.Spec.SessionAffinity = core.ServiceAffinityClientIP })
	rs := Compute(Input{Config: testConfig, Services: []*core.Service{s}, Slices: []*discovery.EndpointSlice{slice(core.ProtocolTCP, "10.42.0.2 n1", "10.42.1.2 n2")}})
	p := rules.Packet{Src: ip("10.42.0.9"), Dst: ip("10.43.0.5"), DstPort: 80, Proto: rules.TCP, In: "br0"}
	first := rs.Trace(rules.Host{Local: local}, p)
	if len(first) != 2 || first[1].Remembered == "" {
		t.Fatalf("first connection: %v", first)
	}
	again := rs.Trace(rules.Host{Local: local, Recent: map[string]bool{first[1].Remembered: true}}, p)
	if len(again) != 1 || again[0].To != first[1].To {
		t.Errorf("second connection: %v, want %v", again, first[1])
	}
}

func TestHostPorts(t *testing.T) {
	pods := map[string]*rules.Pod{"pod1": {IPs: []netip.Addr{ip("10.42.0.2")}, Ports: []rules.HostPort{{HostPort: 8443, Port: 443, Proto: rules.TCP}, {HostIP: ip("127.0.0.1"), HostPort: 53, Port: 53, Proto: rules.UDP}}}}
	rs := Compute(Input{Config: testConfig, Pods: pods})
	for _, c := range []struct {
		src, dst string
		proto    rules.Proto
		want     string
	}{
		{"198.51.100.7", "192.168.0.1:8443", 0, "10.42.0.2:443"},
		{"10.42.0.2", "192.168.0.1:8443", 0, "10.42.0.2:443 masquerade"},
		{"127.0.0.1!", "127.0.0.1:8443", 0, "10.42.0.2:443 masquerade"},
		{"127.0.0.1!", "127.0.0.1:53", rules.UDP, "10.42.0.2:53 masquerade"},
		{"198.51.100.7", "192.168.0.1:53", rules.UDP, "192.168.0.1:53 local"},
		{"198.51.100.7", "192.168.0.2:8443", 0, "192.168.0.2:8443"},
	} {
		if got := outcomes(rs, c.src, c.dst, c.proto); len(got) != 1 || got[0] != c.want {
			t.Errorf("%s to %s: %v, want %s", c.src, c.dst, got, c.want)
		}
	}
	if b := rs.UDP[rules.Frontend{Addr: ip("127.0.0.1"), Port: 53}]; !b.Has(netip.MustParseAddrPort("10.42.0.2:53")) {
		t.Errorf("UDP frontends: %v", rs.UDP)
	}
}

// Names must be upstream's, or tools that look for them find nothing.
func TestNamesAreUpstreams(t *testing.T) {
	rs := Compute(Input{Config: testConfig, Services: []*core.Service{service(func(s *core.Service) { s.Namespace, s.Name, s.Spec.Ports[0].Name = "ns1", "svc1", "p80" })}})
	_ = rs
	// From the expected output of upstream's iptables proxier test: ns1/svc1:p80 over TCP.
	if got := chainName(prefixCluster, "ns1/svc1:p80", "tcp"); got != "KUBE-SVC-XPGD46QRK7WJZT7O" {
		t.Errorf("service chain %s", got)
	}
	if got := chainName(prefixEndpoint, "ns1/svc1:p80", "tcp", "10.180.0.1:80"); got != "KUBE-SEP-SXIVWICOYRO3J4NJ" {
		t.Errorf("endpoint chain %s", got)
	}
}

// A tracker that saw many changes holds what a fresh one would compute.
func TestIncrementalEqualsFresh(t *testing.T) {
	tr := NewTracker(testConfig)
	svc := map[string]*core.Service{}
	sl := map[string]*discovery.EndpointSlice{}
	for i := range 300 {
		n := (i * 7919) % 17
		name := fmt.Sprintf("s%02d", n)
		s := service(func(s *core.Service) {
			s.Name, s.Spec.ClusterIP = name, fmt.Sprintf("10.43.1.%d", n+1)
			if i%3 == 0 {
				nodePort(nil)(s)
				s.Spec.Ports[0].NodePort = int32(30000 + n)
			}
			if i%2 == 0 {
				s.Spec.Ports[0].Protocol = core.ProtocolUDP
			}
		})
		e := slice(s.Spec.Ports[0].Protocol, fmt.Sprintf("10.42.0.%d n1", i%250+2))
		e.Labels[discovery.LabelServiceName], e.Name = name, name
		if i%11 == 10 && svc[name] != nil {
			tr.OnService(svc[name], nil)
			delete(svc, name)
		} else {
			tr.OnService(svc[name], s)
			svc[name] = s
		}
		if i%5 != 4 {
			tr.OnEndpointSlice(sl[name], e)
			sl[name] = e
		} else if sl[name] != nil {
			tr.OnEndpointSlice(sl[name], nil)
			delete(sl, name)
		}
		if i%4 == 0 {
			tr.SetPod("p", &rules.Pod{IPs: []netip.Addr{ip("10.42.0.3")}, Ports: []rules.HostPort{{HostPort: uint16(1000 + i), Port: 1, Proto: rules.UDP}}})
		}
		if i%13 == 0 {
			tr.Compute()
		}
	}
	tr.SetPod("p", nil)
	in := Input{Config: testConfig}
	for _, s := range svc {
		in.Services = append(in.Services, s)
	}
	for _, s := range sl {
		in.Slices = append(in.Slices, s)
	}
	opts := cmp.Options{cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })}
	if diff := cmp.Diff(Compute(in), tr.Compute().Rules, opts); diff != "" {
		t.Error(diff)
	}
}

func TestUnchangedChainsKeepTheirPointer(t *testing.T) {
	tr := NewTracker(testConfig)
	a, b := service(nil), service(func(s *core.Service) { s.Name, s.Spec.ClusterIP = "other", "10.43.0.6" })
	tr.OnService(nil, a)
	tr.OnService(nil, b)
	one := slice(core.ProtocolTCP, "10.42.0.2 n1")
	tr.OnEndpointSlice(nil, one)
	before := tr.Compute().Rules
	two := slice(core.ProtocolTCP, "10.42.0.2 n1", "10.42.0.3 n1")
	tr.OnEndpointSlice(one, two)
	after := tr.Compute().Rules
	var changed []string
	for id, c := range after.Chains {
		if before.Chains[id] != c {
			changed = append(changed, id.Name[:9])
		}
	}
	slices.Sort(changed)
	if diff := cmp.Diff([]string{"KUBE-SEP-", "KUBE-SVC-"}, changed); diff != "" {
		t.Error(diff)
	}
}

func TestHealthChecks(t *testing.T) {
	tr := NewTracker(testConfig)
	tr.OnService(nil, service(func(s *core.Service) {
		balancer(s)
		externalLocal(s)
		s.Spec.HealthCheckNodePort = 31000
	}))
	tr.OnEndpointSlice(nil, slice(core.ProtocolTCP, "10.42.0.2 n1", "10.42.1.2 n2"))
	want := []HealthCheck{{Namespace: "ns", Name: "web", Port: 31000, Local: 1}}
	if diff := cmp.Diff(want, tr.Compute().Health); diff != "" {
		t.Error(diff)
	}
	// Endpoints that end still counted, so the load balancer stayed.
	tr.OnEndpointSlice(slice(core.ProtocolTCP, "10.42.0.2 n1", "10.42.1.2 n2"), slice(core.ProtocolTCP, "10.42.0.2 n1 terminating", "10.42.1.2 n2"))
	want[0].Local = 0
	if diff := cmp.Diff(want, tr.Compute().Health); diff != "" {
		t.Error(diff)
	}
}

// TestLabelsHandOver: a label that came later, to a Service or to its slice, did not count.
func TestLabelsHandOver(t *testing.T) {
	tr := NewTracker(testConfig)
	svc, sl := service(nil), slice(core.ProtocolTCP, "10.42.0.2 n1")
	tr.OnService(nil, svc)
	tr.OnEndpointSlice(nil, sl)
	served := func() bool {
		for id := range tr.Compute().Rules.Chains {
			if strings.HasPrefix(id.Name, "KUBE-SEP-") {
				return true
			}
		}
		return false
	}
	if !served() {
		t.Fatal("nothing is served")
	}
	headless := sl.DeepCopy()
	headless.Labels[core.IsHeadlessService] = ""
	tr.OnEndpointSlice(sl, headless)
	if served() {
		t.Error("a headless slice is served")
	}
	tr.OnEndpointSlice(headless, sl)
	other := svc.DeepCopy()
	other.Labels = map[string]string{labelProxyName: "x"}
	tr.OnService(svc, other)
	if served() {
		t.Error("a Service of another proxy is served")
	}
	tr.OnService(other, svc)
	if !served() {
		t.Error("it does not come back")
	}
}

// thousand services with five endpoints each, as in the targets.
func thousand() Input {
	in := Input{Config: testConfig}
	for i := range 1000 {
		name := fmt.Sprintf("s%03d", i)
		in.Services = append(in.Services, service(func(s *core.Service) {
			s.Name, s.Spec.ClusterIP = name, fmt.Sprintf("10.43.%d.%d", 1+i/250, 1+i%250)
		}))
		var eps []string
		for j := range 5 {
			eps = append(eps, fmt.Sprintf("10.42.%d.%d n%d", 1+(i*5+j)/250, 1+(i*5+j)%250, j))
		}
		sl := slice(core.ProtocolTCP, eps...)
		sl.Name, sl.Labels[discovery.LabelServiceName] = name, name
		in.Slices = append(in.Slices, sl)
	}
	return in
}

func BenchmarkCompute1000x5(b *testing.B) {
	in := thousand()
	for b.Loop() {
		if rs := Compute(in); rs.Rules() < 16000 {
			b.Fatal(rs.Rules())
		}
	}
}

func BenchmarkOneEndpointOf1000x5(b *testing.B) {
	in := thousand()
	tr := NewTracker(in.Config)
	for i := range in.Services {
		tr.OnService(nil, in.Services[i])
		tr.OnEndpointSlice(nil, in.Slices[i])
	}
	tr.Compute()
	old := in.Slices[500]
	i := 0
	for b.Loop() {
		i++
		now := old.DeepCopy()
		now.Endpoints[0].Addresses[0] = fmt.Sprintf("10.42.200.%d", i%250+1)
		tr.OnEndpointSlice(old, now)
		old = now
		tr.Compute()
	}
}
