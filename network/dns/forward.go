package dns

import (
	"bufio"
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
)

const (
	// upstreamTimeout is how long one resolver may take for one question.
	upstreamTimeout = 1500 * time.Millisecond
	// upstreamRest is how long a resolver that failed is left alone while others work, or
	// while nobody works and clients get their answer at once.
	upstreamRest = 5 * time.Second
	// maxForwards bounds questions under way; beyond it clients hear SERVFAIL.
	maxForwards = 256
	// confAge is how old the reading of resolv.conf may be.
	confAge = 5 * time.Second
	// maxUpstreams is the C library's limit, too.
	maxUpstreams = 3
)

var (
	errNoUpstream = errors.New("no upstream resolver")
	errBusy       = errors.New("too many questions under way")
)

// forwarder asks the resolvers of the host's resolv.conf. It reads the file
// again when it changed, looking at most every confAge, and only when asked.
type forwarder struct {
	conf  string
	own   map[netip.AddrPort]bool // our own addresses, which would be a circle
	slots chan struct{}           // one per question under way
	same  singleflight.Group
	cache *cache
	netns string

	mu        sync.Mutex // guards all below
	looked    time.Time
	modified  time.Time
	upstreams []*upstream
}

// upstream is a resolver and when it may be asked again.
type upstream struct {
	addr string
	mu   sync.Mutex // guards rest
	rest time.Time
}

func newForwarder(conf, netns string, own []netip.AddrPort) *forwarder {
	f := &forwarder{conf: conf, netns: netns, own: map[netip.AddrPort]bool{}, slots: make(chan struct{}, maxForwards), cache: newCache()}
	for _, a := range own {
		f.own[a] = true
	}
	return f
}

// list returns the resolvers to ask, those that rest left out.
func (f *forwarder) list(now time.Time) []*upstream {
	f.mu.Lock()
	if now.Sub(f.looked) > confAge {
		f.looked = now
		if st, err := os.Stat(f.conf); err == nil && !st.ModTime().Equal(f.modified) {
			f.modified = st.ModTime()
			f.upstreams = readResolvConf(f.conf, f.own)
		} else if err != nil {
			f.upstreams, f.modified = nil, time.Time{}
		}
	}
	all := f.upstreams
	f.mu.Unlock()
	var out []*upstream
	for _, u := range all {
		u.mu.Lock()
		if now.After(u.rest) {
			out = append(out, u)
		}
		u.mu.Unlock()
	}
	return out
}

// readResolvConf lists the name servers. An address may carry a port, which the
// C library doesn't know, but others do.
func readResolvConf(path string, own map[netip.AddrPort]bool) []*upstream {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	var out []*upstream
	for lines := bufio.NewScanner(file); lines.Scan() && len(out) < maxUpstreams; {
		words := strings.Fields(lines.Text())
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		ap, err := netip.ParseAddrPort(words[1])
		if a, aerr := netip.ParseAddr(words[1]); aerr == nil {
			ap, err = netip.AddrPortFrom(a, 53), nil
		}
		if err == nil && !own[netip.AddrPortFrom(ap.Addr().WithZone(""), ap.Port())] {
			out = append(out, &upstream{addr: ap.String()})
		}
	}
	return out
}

// ask forwards one question over "udp" or "tcp". Equal questions under way share
// one answer; the answer is the caller's to change.
func (f *forwarder) ask(ctx context.Context, q dns.Question, network string, dnssec bool) (*dns.Msg, error) {
	key := cacheKey{strings.ToLower(q.Name), q.Qtype, q.Qclass, dnssec}
	if m := f.cache.get(key, time.Now()); m != nil {
		return m, nil
	}
	v, err, _ := f.same.Do(network+key.String(), func() (any, error) {
		select {
		case f.slots <- struct{}{}:
			defer func() { <-f.slots }()
		default:
			return nil, errBusy
		}
		m, err := f.exchange(ctx, q, network, dnssec)
		if err == nil {
			f.cache.put(key, m, time.Now())
		}
		return m, err
	})
	if err != nil {
		return nil, err
	}
	return v.(*dns.Msg).Copy(), nil
}

// exchange asks one resolver after the other.
func (f *forwarder) exchange(ctx context.Context, q dns.Question, network string, dnssec bool) (*dns.Msg, error) {
	err := errNoUpstream
	for _, u := range f.list(time.Now()) {
		m := new(dns.Msg)
		m.SetQuestion(q.Name, q.Qtype)
		m.Question[0].Qclass = q.Qclass
		m.SetEdns0(maxUDP, dnssec)
		var in *dns.Msg
		if in, err = f.one(ctx, u.addr, network, m); err == nil {
			return in, nil
		}
		u.mu.Lock()
		u.rest = time.Now().Add(upstreamRest)
		u.mu.Unlock()
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

func (f *forwarder) one(ctx context.Context, addr, network string, m *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTimeout)
	defer cancel()
	c, err := dialIn(ctx, f.netns, network, addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	client := dns.Client{Net: network, Timeout: upstreamTimeout, UDPSize: maxUDP}
	in, _, err := client.ExchangeWithConnContext(ctx, m, &dns.Conn{Conn: c, UDPSize: maxUDP})
	return in, err
}
