// Package dns is the cluster's name server, one on every node, in the process of
// the agent: no pod, and no hop to another node. It is authoritative for the
// cluster domain, which it knows from Services and EndpointSlices (the agent
// feeds the changes), and for reverse names of the cluster's addresses; all
// other questions go to the resolvers of the host. Without any of those it still
// answers everything at once. It keeps no records: answers are made when asked
// for. Start reading at Server.ServeDNS.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"golang.org/x/sys/unix"

	"orch/network/netns"
)

// maxUDP is the largest datagram that passes everywhere in one piece.
const maxUDP = 1232

// Config of a Server.
type Config struct {
	// Domain is the cluster's (cluster.local).
	Domain string
	// Listen are the addresses, each served over UDP and TCP. They need not be
	// there yet.
	Listen []netip.AddrPort
	// Reverse are ranges whose reverse names are the cluster's.
	Reverse []netip.Prefix
	// ResolvConf is where the host's resolvers stand (/etc/resolv.conf).
	ResolvConf string
	// NetNS is the path of the node's network namespace; empty: the process's own.
	NetNS string
	Log   *slog.Logger
}

// Server answers. Feeding it never waits.
type Server struct {
	cfg     Config
	zone    *zone
	forward *forwarder
	ready   chan struct{}
	synced  atomic.Bool
	once    sync.Once
	stats   counters
	// base ends with Run: questions under way end with it.
	base atomic.Pointer[context.Context]
}

type counters struct{ queries, cluster, missing, forwarded, failed atomic.Int64 }

// Stats counts since the start.
type Stats struct {
	Queries   int64 // all
	Cluster   int64 // for names of the cluster
	Missing   int64 // of these, for names that don't exist
	Forwarded int64 // to the host's resolvers, or answered from what they said
	Failed    int64 // of these, without an answer
	Cached    int   // answers kept now
}

// New validates the configuration.
func New(cfg Config) (*Server, error) {
	if cfg.Domain == "" {
		cfg.Domain = "cluster.local"
	}
	if _, ok := dns.IsDomainName(cfg.Domain); !ok {
		return nil, fmt.Errorf("bad cluster domain %q", cfg.Domain)
	}
	if len(cfg.Listen) == 0 {
		return nil, errors.New("the name server has no address to listen on")
	}
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Server{cfg: cfg, zone: newZone(cfg.Domain), forward: newForwarder(cfg.ResolvConf, cfg.NetNS, cfg.Listen), ready: make(chan struct{})}, nil
}

// OnService takes a change: old nil is new, now nil is gone.
func (s *Server) OnService(old, now *core.Service) { s.zone.setService(old, now) }

// OnEndpointSlice takes a change: old nil is new, now nil is gone.
func (s *Server) OnEndpointSlice(old, now *discovery.EndpointSlice) { s.zone.setSlice(old, now) }

// Synced says that the first lists are in. Before, names of the cluster get
// "server failure" rather than a wrong "no such name", which clients would keep.
func (s *Server) Synced() { s.synced.Store(true) }

// Ready is closed when all addresses are listened on.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Stats returns the counters.
func (s *Server) Stats() Stats {
	c := &s.stats
	s.forward.cache.mu.Lock()
	n := len(s.forward.cache.all)
	s.forward.cache.mu.Unlock()
	return Stats{c.queries.Load(), c.cluster.Load(), c.missing.Load(), c.forwarded.Load(), c.failed.Load(), n}
}

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	s.base.Store(&ctx)
	var servers []*dns.Server
	var wg sync.WaitGroup
	defer func() {
		for _, srv := range servers {
			_ = srv.Shutdown()
		}
		wg.Wait()
	}()
	failed := make(chan error, 2*len(s.cfg.Listen))
	for _, addr := range s.cfg.Listen {
		pair, err := s.listen(addr)
		if err != nil {
			return err
		}
		for _, srv := range pair {
			up := make(chan struct{})
			srv.NotifyStartedFunc = func() { close(up) }
			wg.Go(func() {
				if err := srv.ActivateAndServe(); err != nil && ctx.Err() == nil {
					failed <- fmt.Errorf("serving names on %s: %w", addr, err)
				}
			})
			<-up
			servers = append(servers, srv)
		}
	}
	s.once.Do(func() { close(s.ready) })
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

// listen opens an address for UDP and TCP. It may be bound before the bridge
// has it.
func (s *Server) listen(addr netip.AddrPort) ([]*dns.Server, error) {
	var udp net.PacketConn
	var tcp net.Listener
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var serr error
		err := c.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1) })
		return errors.Join(err, serr)
	}}
	err := netns.Do(s.cfg.NetNS, func() (err error) {
		if udp, err = lc.ListenPacket(context.Background(), "udp", addr.String()); err != nil {
			return err
		}
		if tcp, err = lc.Listen(context.Background(), "tcp", addr.String()); err != nil {
			udp.Close()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listening for DNS on %s (is another name server running there?): %w", addr, err)
	}
	idle := func() time.Duration { return 8 * time.Second }
	return []*dns.Server{
		// Of datagrams the timeout only says how often the library wakes up for nothing.
		{PacketConn: udp, Handler: s, UDPSize: maxUDP, ReadTimeout: 24 * time.Hour},
		{Listener: tcp, Handler: s, ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second, IdleTimeout: idle, MaxTCPQueries: 128},
	}, nil
}

// ServeDNS answers one message.
func (s *Server) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	s.stats.queries.Add(1)
	network := "udp"
	if _, is := w.RemoteAddr().(*net.TCPAddr); is {
		network = "tcp"
	}
	ctx := context.Background()
	if base := s.base.Load(); base != nil {
		ctx = *base
	}
	m := s.reply(ctx, req, network)
	size := dns.MinMsgSize
	if opt := req.IsEdns0(); opt != nil {
		size = max(size, min(int(opt.UDPSize()), maxUDP))
		m.SetEdns0(maxUDP, opt.Do())
	}
	if network == "tcp" {
		size = dns.MaxMsgSize
	}
	m.Truncate(size) // and compresses where needed
	_ = w.WriteMsg(m)
}

// reply makes the answer to a message.
func (s *Server) reply(ctx context.Context, req *dns.Msg, network string) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(req)
	m.RecursionAvailable = true
	if req.Opcode != dns.OpcodeQuery || len(req.Question) != 1 {
		m.Rcode = dns.RcodeNotImplemented
		return m
	}
	if opt := req.IsEdns0(); opt != nil && opt.Version() != 0 {
		m.Rcode = dns.RcodeBadVers
		return m
	}
	q := req.Question[0]
	switch {
	case q.Qclass == dns.ClassINET && dns.IsSubDomain(s.zone.domain, strings.ToLower(q.Name)):
		s.fromZone(ctx, m, q, network)
	case q.Qclass == dns.ClassINET && s.isReverse(q.Name):
		s.fromReverse(m, q)
	default:
		s.fromUpstream(ctx, m, q, network, dnssec(req))
	}
	return m
}

func dnssec(req *dns.Msg) bool {
	opt := req.IsEdns0()
	return opt != nil && opt.Do()
}

// maxChain bounds how many ExternalNames lead to each other.
const maxChain = 8

// fromZone answers for the cluster domain, following ExternalNames.
func (s *Server) fromZone(ctx context.Context, m *dns.Msg, q dns.Question, network string) {
	s.stats.cluster.Add(1)
	m.Authoritative = true
	if !s.synced.Load() {
		m.Rcode, m.Authoritative = dns.RcodeServerFailure, false
		return
	}
	a := s.zone.lookup(q)
	for range maxChain {
		rand.Shuffle(len(a.rrs), func(i, j int) { a.rrs[i], a.rrs[j] = a.rrs[j], a.rrs[i] })
		m.Answer, m.Extra, m.Rcode = append(m.Answer, a.rrs...), append(m.Extra, a.extra...), a.rcode
		if a.target == "" || q.Qtype == dns.TypeCNAME {
			break
		}
		next := dns.Question{Name: a.target, Qtype: q.Qtype, Qclass: q.Qclass}
		if !dns.IsSubDomain(s.zone.domain, a.target) {
			// What can't be resolved leaves the CNAME alone, which is still right.
			if in, err := s.forward.ask(ctx, next, network, false); err == nil {
				m.Answer = append(m.Answer, in.Answer...)
			}
			return
		}
		a = s.zone.lookup(next)
	}
	if m.Rcode == dns.RcodeNameError {
		s.stats.missing.Add(1)
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{s.zone.soa()}
	}
}

func (s *Server) isReverse(qname string) bool {
	a, ok := reverseAddr(qname)
	if !ok {
		return false
	}
	for _, p := range s.cfg.Reverse {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func (s *Server) fromReverse(m *dns.Msg, q dns.Question) {
	s.stats.cluster.Add(1)
	a, _ := reverseAddr(q.Name)
	rrs := s.zone.reverse(q, a)
	m.Authoritative = true
	switch {
	case len(rrs) == 0 && !s.synced.Load():
		m.Rcode, m.Authoritative = dns.RcodeServerFailure, false
	case len(rrs) == 0:
		s.stats.missing.Add(1)
		m.Rcode, m.Ns = dns.RcodeNameError, []dns.RR{s.zone.soa()}
	case q.Qtype == dns.TypePTR:
		m.Answer = rrs
	default:
		m.Ns = []dns.RR{s.zone.soa()}
	}
}

// fromUpstream passes a question on.
func (s *Server) fromUpstream(ctx context.Context, m *dns.Msg, q dns.Question, network string, dnssec bool) {
	s.stats.forwarded.Add(1)
	in, err := s.forward.ask(ctx, q, network, dnssec)
	if err != nil {
		s.stats.failed.Add(1)
		m.Rcode = dns.RcodeServerFailure
		return
	}
	m.Rcode, m.Truncated, m.AuthenticatedData = in.Rcode, in.Truncated, in.AuthenticatedData
	m.Answer, m.Ns = in.Answer, in.Ns
	for _, rr := range in.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			m.Extra = append(m.Extra, rr)
		}
	}
}

// dialIn opens a connection in the node's namespace.
func dialIn(ctx context.Context, path, network, addr string) (c net.Conn, err error) {
	err = netns.Do(path, func() (err error) {
		c, err = (&net.Dialer{}).DialContext(ctx, network, addr)
		return err
	})
	return c, err
}
