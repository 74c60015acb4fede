package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/network/nettest"
)

func svc(namespace, name string, spec core.ServiceSpec) *core.Service {
	return &core.Service{ObjectMeta: meta.ObjectMeta{Namespace: namespace, Name: name}, Spec: spec}
}

func eps(namespace, name string, endpoints ...discovery.Endpoint) *discovery.EndpointSlice {
	return &discovery.EndpointSlice{ObjectMeta: meta.ObjectMeta{Namespace: namespace, Name: name + "-x", Labels: map[string]string{discovery.LabelServiceName: name}},
		AddressType: discovery.AddressTypeIPv4, Endpoints: endpoints, Ports: []discovery.EndpointPort{{Name: new("sql"), Port: new(int32(5432)), Protocol: new(core.ProtocolTCP)}}}
}

// filled is a server that knows a few Services.
func filled(t testing.TB, cfg Config) *Server {
	t.Helper()
	if len(cfg.Listen) == 0 {
		cfg.Listen = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}
	}
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = t.TempDir() + "/none"
	}
	cfg.Domain, cfg.Reverse = "cluster.local", []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.43.0.0/16")}
	s, err := New(cfg)
	nettest.Must(t, err)
	s.OnService(nil, svc("default", "web", core.ServiceSpec{ClusterIP: "10.43.0.5", Ports: []core.ServicePort{{Name: "http", Port: 80}, {Name: "dns", Port: 53, Protocol: core.ProtocolUDP}}}))
	s.OnService(nil, svc("default", "dual", core.ServiceSpec{ClusterIP: "10.43.0.6", ClusterIPs: []string{"10.43.0.6", "fd00::6"}}))
	s.OnEndpointSlice(nil, eps("db", "pg", discovery.Endpoint{Addresses: []string{"10.42.0.7"}, Hostname: new("pg-0")}, discovery.Endpoint{Addresses: []string{"10.42.1.8"}},
		discovery.Endpoint{Addresses: []string{"10.42.1.9"}, Conditions: discovery.EndpointConditions{Ready: new(false)}}))
	s.OnService(nil, svc("db", "pg", core.ServiceSpec{ClusterIP: core.ClusterIPNone}))
	s.OnService(nil, svc("default", "ext", core.ServiceSpec{Type: core.ServiceTypeExternalName, ExternalName: "Example.org"}))
	s.OnService(nil, svc("default", "inner", core.ServiceSpec{Type: core.ServiceTypeExternalName, ExternalName: "web.default.svc.cluster.local"}))
	s.OnService(nil, svc("default", "loop", core.ServiceSpec{Type: core.ServiceTypeExternalName, ExternalName: "loop.default.svc.cluster.local"}))
	s.Synced()
	return s
}

// says is an answer in words: code, then records, sorted.
func says(m *dns.Msg) string {
	words := []string{}
	for _, rr := range m.Answer {
		f := strings.Fields(rr.String())
		words = append(words, strings.Join(f[3:], " "))
	}
	slices.Sort(words)
	if len(m.Ns) > 0 {
		words = append(words, "+SOA")
	}
	return strings.TrimSpace(dns.RcodeToString[m.Rcode] + " " + strings.Join(words, ", "))
}

func question(name, qtype string) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), dns.StringToType[qtype])
	return m
}

func TestAnswers(t *testing.T) {
	s := filled(t, Config{})
	for _, c := range []struct{ name, qtype, want string }{
		{"web.default.svc.cluster.local", "A", "NOERROR A 10.43.0.5"},
		{"wEb.Default.svc.CLUSTER.local", "A", "NOERROR A 10.43.0.5"},
		{"web.default.svc.cluster.local", "AAAA", "NOERROR +SOA"},
		{"web.default.svc.cluster.local", "MX", "NOERROR +SOA"},
		{"dual.default.svc.cluster.local", "AAAA", "NOERROR AAAA fd00::6"},
		{"nope.default.svc.cluster.local", "A", "NXDOMAIN +SOA"},
		{"nope.default.svc.cluster.local", "AAAA", "NXDOMAIN +SOA"},
		{"x.web.default.svc.cluster.local", "A", "NXDOMAIN +SOA"},
		{"web.default.cluster.local", "A", "NXDOMAIN +SOA"},
		{"*.default.svc.cluster.local", "A", "NXDOMAIN +SOA"},
		{"default.svc.cluster.local", "A", "NOERROR +SOA"},
		{"nowhere.svc.cluster.local", "A", "NXDOMAIN +SOA"},
		{"svc.cluster.local", "A", "NOERROR +SOA"},
		{"cluster.local", "SOA", "NOERROR SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"},
		{"cluster.local", "NS", "NOERROR NS ns.dns.cluster.local."},
		{"dns-version.cluster.local", "TXT", `NOERROR TXT "1.1.0"`},
		{"_http._tcp.web.default.svc.cluster.local", "SRV", "NOERROR SRV 0 100 80 web.default.svc.cluster.local."},
		{"_dns._udp.web.default.svc.cluster.local", "SRV", "NOERROR SRV 0 100 53 web.default.svc.cluster.local."},
		{"_dns._tcp.web.default.svc.cluster.local", "SRV", "NXDOMAIN +SOA"},
		{"_tcp.web.default.svc.cluster.local", "SRV", "NOERROR +SOA"},
		{"pg.db.svc.cluster.local", "A", "NOERROR A 10.42.0.7, A 10.42.1.8"},
		{"pg-0.pg.db.svc.cluster.local", "A", "NOERROR A 10.42.0.7"},
		{"10-42-1-8.pg.db.svc.cluster.local", "A", "NOERROR A 10.42.1.8"},
		{"pg-1.pg.db.svc.cluster.local", "A", "NXDOMAIN +SOA"},
		{"_sql._tcp.pg.db.svc.cluster.local", "SRV", "NOERROR SRV 0 50 5432 10-42-1-8.pg.db.svc.cluster.local., SRV 0 50 5432 pg-0.pg.db.svc.cluster.local."},
		{"5.0.43.10.in-addr.arpa", "PTR", "NOERROR PTR web.default.svc.cluster.local."},
		{"7.0.42.10.in-addr.arpa", "PTR", "NOERROR PTR pg-0.pg.db.svc.cluster.local."},
		{"9.9.43.10.in-addr.arpa", "PTR", "NXDOMAIN +SOA"},
		{"10-42-3-4.default.pod.cluster.local", "A", "NOERROR A 10.42.3.4"},
		{"10-42-3-4.default.pod.cluster.local", "AAAA", "NOERROR +SOA"},
		{"10-42-3-4.nowhere.pod.cluster.local", "A", "NXDOMAIN +SOA"},
		{"hello.default.pod.cluster.local", "A", "NXDOMAIN +SOA"},
		{"ext.default.svc.cluster.local", "A", "NOERROR CNAME example.org."},
		{"inner.default.svc.cluster.local", "A", "NOERROR A 10.43.0.5, CNAME web.default.svc.cluster.local."},
		{"example.org", "A", "SERVFAIL"},
		{"1.1.168.192.in-addr.arpa", "PTR", "SERVFAIL"},
	} {
		m := s.reply(context.Background(), question(c.name, c.qtype), "udp")
		if d := cmp.Diff(c.want, says(m)); d != "" {
			t.Errorf("%s %s: %s", c.name, c.qtype, d)
		}
		if len(m.Answer) > 0 && m.Answer[0].Header().Rrtype == dns.TypeA && m.Answer[0].Header().Name != dns.Fqdn(c.name) {
			t.Errorf("%s came back as %s", c.name, m.Answer[0].Header().Name)
		}
	}
	if m := s.reply(context.Background(), question("loop.default.svc.cluster.local", "A"), "udp"); len(m.Answer) != maxChain {
		t.Errorf("a circle of names gave %d records", len(m.Answer))
	}
}

func TestChanges(t *testing.T) {
	s := filled(t, Config{})
	ask := func(name, qtype string) string {
		return says(s.reply(context.Background(), question(name, qtype), "udp"))
	}
	web := s.zone.services[name{"default", "web"}].svc
	moved := svc("default", "web", core.ServiceSpec{ClusterIP: "10.43.0.99"})
	s.OnService(web, moved)
	if got := ask("web.default.svc.cluster.local", "A") + ask("5.0.43.10.in-addr.arpa", "PTR"); got != "NOERROR A 10.43.0.99NXDOMAIN +SOA" {
		t.Error(got)
	}
	for key, e := range s.zone.services {
		s.OnService(e.svc, nil)
		for _, sl := range e.slices {
			s.OnEndpointSlice(sl, nil)
		}
		_ = key
	}
	if len(s.zone.services)+len(s.zone.byIP)+len(s.zone.spaces) != 0 {
		t.Errorf("left: %+v", s.zone)
	}
	if got := ask("default.svc.cluster.local", "A"); got != "NXDOMAIN +SOA" {
		t.Error(got)
	}
}

func TestBeforeTheListsAreIn(t *testing.T) {
	s, err := New(Config{Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, ResolvConf: "/nonexistent"})
	nettest.Must(t, err)
	if got := says(s.reply(context.Background(), question("web.default.svc.cluster.local", "A"), "udp")); got != "SERVFAIL" {
		t.Error(got)
	}
}

// run serves in a namespace whose bridge is not there yet.
func run(t *testing.T, s *Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-s.Ready():
	case err := <-done:
		t.Fatal(err)
	}
}

func exchange(t *testing.T, ns, network, addr string, m *dns.Msg) *dns.Msg {
	t.Helper()
	c, err := dialIn(context.Background(), ns, network, addr)
	nettest.Must(t, err)
	defer c.Close()
	client := dns.Client{Net: network, Timeout: 15 * time.Second, UDPSize: 4096}
	in, _, err := client.ExchangeWithConn(m, &dns.Conn{Conn: c, UDPSize: 4096})
	nettest.Must(t, err)
	in.Compress = true // so that Len is what came over the wire
	return in
}

func TestOverTheWire(t *testing.T) {
	node := nettest.Namespace(t, "node")
	s := filled(t, Config{NetNS: node, Listen: []netip.AddrPort{netip.MustParseAddrPort("10.43.0.10:53")}})
	run(t, s) // the address comes later
	lo, err := nettest.Open(t, node).ByName("lo")
	nettest.Must(t, err)
	nettest.Must(t, nettest.Open(t, node).EnsureAddr(lo, netip.MustParsePrefix("10.43.0.10/32")))
	many := eps("default", "many")
	for i := range 200 {
		many.Endpoints = append(many.Endpoints, discovery.Endpoint{Addresses: []string{fmt.Sprintf("10.42.0.%d", i+1)}})
	}
	s.OnEndpointSlice(nil, many)
	s.OnService(nil, svc("default", "many", core.ServiceSpec{ClusterIP: core.ClusterIPNone}))
	for _, network := range []string{"udp", "tcp"} {
		if got := says(exchange(t, node, network, "10.43.0.10:53", question("web.default.svc.cluster.local", "A"))); got != "NOERROR A 10.43.0.5" {
			t.Errorf("%s: %s", network, got)
		}
	}
	q := question("many.default.svc.cluster.local", "A")
	if m := exchange(t, node, "udp", "10.43.0.10:53", q); !m.Truncated || m.Len() > 512 {
		t.Errorf("plain UDP: truncated %t, %d bytes", m.Truncated, m.Len())
	}
	if m := exchange(t, node, "tcp", "10.43.0.10:53", q); m.Truncated || len(m.Answer) != 200 {
		t.Errorf("TCP: truncated %t, %d records", m.Truncated, len(m.Answer))
	}
	q.SetEdns0(4096, false)
	if m := exchange(t, node, "udp", "10.43.0.10:53", q); m.Len() > maxUDP || len(m.Answer) < 30 || m.IsEdns0() == nil {
		t.Errorf("EDNS: %d bytes, %d records", m.Len(), len(m.Answer))
	}
	bad := question("web.default.svc.cluster.local", "A")
	bad.Opcode = dns.OpcodeUpdate
	if m := exchange(t, node, "udp", "10.43.0.10:53", bad); m.Rcode != dns.RcodeNotImplemented {
		t.Errorf("update: %s", says(m))
	}
	// No upstream: the answer must not take time.
	start := time.Now()
	if m := exchange(t, node, "udp", "10.43.0.10:53", question("example.org", "A")); m.Rcode != dns.RcodeServerFailure || time.Since(start) >= upstreamTimeout {
		t.Errorf("%s after %v", says(m), time.Since(start))
	}
	// And garbage doesn't hurt.
	c, err := dialIn(context.Background(), node, "udp", "10.43.0.10:53")
	nettest.Must(t, err)
	defer c.Close()
	for i := range 50 {
		_, _ = c.Write([]byte(strings.Repeat(string(rune(i)), i)))
	}
	exchange(t, node, "udp", "10.43.0.10:53", question("web.default.svc.cluster.local", "A"))
}

func TestAddressInUse(t *testing.T) {
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	nettest.Must(t, err)
	defer l.Close()
	s := filled(t, Config{Listen: []netip.AddrPort{netip.MustParseAddrPort(l.LocalAddr().String())}})
	if err := s.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "another name server") {
		t.Errorf("%v", err)
	}
}

// resolver is an upstream for tests; it counts questions.
type resolver struct {
	asked atomic.Int64
	conf  string
}

func newResolver(t *testing.T) *resolver {
	t.Helper()
	r := &resolver{conf: t.TempDir() + "/resolv.conf"}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	nettest.Must(t, err)
	srv := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		r.asked.Add(1)
		m := new(dns.Msg)
		m.SetReply(q)
		switch q.Question[0].Name {
		case "example.org.":
			rr, _ := dns.NewRR("example.org. 60 IN A 192.0.2.1")
			m.Answer = append(m.Answer, rr)
		default:
			m.Rcode = dns.RcodeNameError
			rr, _ := dns.NewRR("org. 60 IN SOA a. b. 1 2 3 4 20")
			m.Ns = append(m.Ns, rr)
		}
		_ = w.WriteMsg(m)
	})}
	up := make(chan struct{})
	srv.NotifyStartedFunc = func() { close(up) }
	go srv.ActivateAndServe()
	<-up
	t.Cleanup(func() { srv.Shutdown() })
	nettest.Must(t, os.WriteFile(r.conf, []byte("# comment\nsearch x\nnameserver "+pc.LocalAddr().String()+"\n"), 0o644))
	return r
}

func TestForwarding(t *testing.T) {
	r := newResolver(t)
	s := filled(t, Config{ResolvConf: r.conf})
	ask := func(name string) string {
		return says(s.reply(context.Background(), question(name, "A"), "udp"))
	}
	for range 3 {
		if got := ask("example.org"); got != "NOERROR A 192.0.2.1" {
			t.Fatal(got)
		}
		if got := ask("missing.org"); got != "NXDOMAIN +SOA" {
			t.Fatal(got)
		}
	}
	if n := r.asked.Load(); n != 2 {
		t.Errorf("the upstream was asked %d times", n)
	}
	if got := ask("ext.default.svc.cluster.local"); got != "NOERROR A 192.0.2.1, CNAME example.org." {
		t.Error(got)
	}
}

// A resolver that doesn't answer costs one client one time-out, not everybody.
func TestSilentUpstream(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	nettest.Must(t, err)
	defer silent.Close()
	conf := t.TempDir() + "/resolv.conf"
	nettest.Must(t, os.WriteFile(conf, []byte("nameserver "+silent.LocalAddr().String()+"\n"), 0o644))
	s := filled(t, Config{ResolvConf: conf})
	for i, most := range []time.Duration{time.Minute, upstreamTimeout, upstreamTimeout} {
		start := time.Now()
		got := says(s.reply(context.Background(), question("example.org", "A"), "udp"))
		if got != "SERVFAIL" || time.Since(start) >= most {
			t.Errorf("question %d: %s after %v", i, got, time.Since(start))
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache()
	now := time.Now()
	m := new(dns.Msg)
	rr, _ := dns.NewRR("x. 20 IN A 192.0.2.1")
	m.Answer = append(m.Answer, rr)
	for i := range maxCached + 500 {
		c.put(cacheKey{name: fmt.Sprint(i)}, m, now)
	}
	if len(c.all) != maxCached {
		t.Errorf("%d kept", len(c.all))
	}
	last := cacheKey{name: fmt.Sprint(maxCached + 499)}
	if got := c.get(last, now.Add(15*time.Second)); got == nil || got.Answer[0].Header().Ttl != 5 {
		t.Errorf("%v", got)
	}
	if c.get(last, now.Add(21*time.Second)) != nil {
		t.Error("it outlived its time")
	}
}

func TestResolvConfWithoutCircle(t *testing.T) {
	conf := t.TempDir() + "/resolv.conf"
	nettest.Must(t, os.WriteFile(conf, []byte("nameserver 10.43.0.10\nnameserver fe80::1%eth0\nnameserver nonsense\nnameserver 192.0.2.1\noptions ndots:5\n"), 0o644))
	var got []string
	for _, u := range readResolvConf(conf, map[netip.AddrPort]bool{netip.MustParseAddrPort("10.43.0.10:53"): true}) {
		got = append(got, u.addr)
	}
	if d := cmp.Diff([]string{"[fe80::1%eth0]:53", "192.0.2.1:53"}, got); d != "" {
		t.Error(d)
	}
}

func FuzzReverseAddr(f *testing.F) {
	f.Add("5.0.43.10.in-addr.arpa.")
	f.Fuzz(func(t *testing.T, s string) { reverseAddr(s) })
}

func BenchmarkServiceName(b *testing.B) {
	s := filled(b, Config{})
	q := question("web.default.svc.cluster.local", "A")
	for b.Loop() {
		s.reply(context.Background(), q, "udp")
	}
}
