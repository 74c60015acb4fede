package dns

import (
	"fmt"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxCached bounds the number of answers kept; when full, any one goes.
	maxCached = 2048
	// maxCachedSize keeps large answers out, so that the cache stays below a few megabytes.
	maxCachedSize = 2048
	// maxAge bounds how long an answer is kept, whatever its owner says.
	maxAge = 30 * time.Second
)

type cacheKey struct {
	name          string
	qtype, qclass uint16
	dnssec        bool
}

func (k cacheKey) String() string {
	return fmt.Sprintf(" %s %d %d %t", k.name, k.qtype, k.qclass, k.dnssec)
}

// cache keeps answers of upstream resolvers for a short while.
type cache struct {
	mu  sync.Mutex // guards all
	all map[cacheKey]cached
}

type cached struct {
	msg     *dns.Msg
	stored  time.Time
	expires time.Time
}

func newCache() *cache { return &cache{all: map[cacheKey]cached{}} }

// get returns a copy with the time to live that is left, or nil.
func (c *cache) get(k cacheKey, now time.Time) *dns.Msg {
	c.mu.Lock()
	e, ok := c.all[k]
	if ok && now.After(e.expires) {
		delete(c.all, k)
		ok = false
	}
	c.mu.Unlock()
	if !ok {
		return nil
	}
	m := e.msg.Copy()
	age := uint32(now.Sub(e.stored) / time.Second)
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != dns.TypeOPT {
				h.Ttl -= min(age, h.Ttl)
			}
		}
	}
	return m
}

// put keeps an answer, and an answer that there is none, for as long as its
// records say.
func (c *cache) put(k cacheKey, m *dns.Msg, now time.Time) {
	age, ok := lifetime(m)
	if !ok || m.Truncated || m.Len() > maxCachedSize {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.all) >= maxCached {
		for victim := range c.all {
			delete(c.all, victim)
			break
		}
	}
	c.all[k] = cached{msg: m.Copy(), stored: now, expires: now.Add(age)}
}

func lifetime(m *dns.Msg) (time.Duration, bool) {
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return 0, false
	}
	age := maxAge
	for _, rr := range m.Answer {
		age = min(age, time.Duration(rr.Header().Ttl)*time.Second)
	}
	if len(m.Answer) == 0 { // by RFC 2308
		found := false
		for _, rr := range m.Ns {
			if soa, is := rr.(*dns.SOA); is {
				age, found = min(age, time.Duration(min(soa.Minttl, soa.Hdr.Ttl))*time.Second), true
			}
		}
		if !found {
			return 0, false
		}
	}
	return age, age > 0
}
