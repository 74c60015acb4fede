package proxy

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"orch/network/rules"
)

// Update is what follows from the tracked objects.
type Update struct {
	Rules  *rules.Ruleset
	Health []HealthCheck
}

// Tracker follows Services, EndpointSlices and pods change by change, and makes
// a ruleset of them. The work of a change is that of the Services concerned:
// everything else is shared with the ruleset before. Feeding it is cheap and
// never waits; Run does the work.
type Tracker struct {
	wake chan struct{} // room for one: something changed
	gate chan struct{} // closed by Synced: rulesets may leave
	once sync.Once

	mu       sync.Mutex // guards all below
	cfg      Config
	services map[string]*core.Service
	slices   map[string]map[string]*discovery.EndpointSlice // by service, then by slice name
	pods     map[string]*rules.Pod
	dirty    map[string]bool // services to look at again
	// anew: the shared chains (or the chains of pods) are out of date.
	sharedAnew, podsAnew bool
	parts                map[string]*part
	podChains            []*rules.Chain
	podUDP               map[rules.Frontend]*rules.Backends
	last                 Update
}

// NewTracker returns an empty tracker.
func NewTracker(cfg Config) *Tracker {
	return &Tracker{
		wake: make(chan struct{}, 1), gate: make(chan struct{}), cfg: cfg,
		services: map[string]*core.Service{}, slices: map[string]map[string]*discovery.EndpointSlice{}, pods: map[string]*rules.Pod{},
		dirty: map[string]bool{}, parts: map[string]*part{}, sharedAnew: true, podsAnew: true,
	}
}

// Synced says that the first lists are in. Nothing leaves before: a ruleset of
// half the Services would break what still works from before a restart.
func (t *Tracker) Synced() { t.once.Do(func() { close(t.gate) }) }

// OnService takes a change: old nil is new, now nil is gone.
func (t *Tracker) OnService(old, now *core.Service) {
	s := now
	if s == nil {
		s = old
	}
	if now != nil && others(now.Labels) {
		now = nil
	}
	if old != nil && others(old.Labels) {
		old = nil
	}
	if old != nil && now != nil && reflect.DeepEqual(old.Spec, now.Spec) && reflect.DeepEqual(old.Status, now.Status) {
		return
	}
	t.change(func() {
		key := s.Namespace + "/" + s.Name
		if now == nil {
			delete(t.services, key)
		} else {
			t.services[key] = now
		}
		t.dirty[key] = true
	})
}

// labelProxyName on a Service or its slices hands them to another proxy.
const labelProxyName = "service.kubernetes.io/service-proxy-name"

func others(labels map[string]string) bool {
	_, other := labels[labelProxyName]
	return other
}

// proxied is the slice if it is for proxies, and for this one.
func proxied(s *discovery.EndpointSlice) *discovery.EndpointSlice {
	if s == nil || others(s.Labels) {
		return nil
	}
	if _, headless := s.Labels[core.IsHeadlessService]; headless {
		return nil
	}
	return s
}

// OnEndpointSlice takes a change: old nil is new, now nil is gone.
func (t *Tracker) OnEndpointSlice(old, now *discovery.EndpointSlice) {
	old, now = proxied(old), proxied(now)
	if old != nil && now != nil && old.Labels[discovery.LabelServiceName] == now.Labels[discovery.LabelServiceName] &&
		reflect.DeepEqual(old.Endpoints, now.Endpoints) && reflect.DeepEqual(old.Ports, now.Ports) {
		return
	}
	t.change(func() {
		if old != nil {
			key := old.Namespace + "/" + old.Labels[discovery.LabelServiceName]
			delete(t.slices[key], old.Name)
			if len(t.slices[key]) == 0 {
				delete(t.slices, key)
			}
			t.dirty[key] = true
		}
		if now != nil && now.Labels[discovery.LabelServiceName] != "" {
			key := now.Namespace + "/" + now.Labels[discovery.LabelServiceName]
			if t.slices[key] == nil {
				t.slices[key] = map[string]*discovery.EndpointSlice{}
			}
			t.slices[key][now.Name] = now
			t.dirty[key] = true
		}
	})
}

// SetPod takes what a pod asks of the ruleset; nil: nothing any more.
func (t *Tracker) SetPod(id string, p *rules.Pod) {
	t.change(func() {
		if _, had := t.pods[id]; p == nil && !had {
			return
		}
		if p == nil {
			delete(t.pods, id)
		} else {
			t.pods[id] = p
		}
		t.podsAnew = true
	})
}

// SetConfig takes what the node knows about itself now (a new zone label or
// address); every Service is looked at again.
func (t *Tracker) SetConfig(cfg Config) {
	t.change(func() {
		if reflect.DeepEqual(cfg, t.cfg) {
			return
		}
		t.cfg, t.sharedAnew, t.podsAnew = cfg, true, true
		t.last.Rules = nil
		for key := range t.services {
			t.dirty[key] = true
		}
	})
}

func (t *Tracker) change(f func()) {
	t.mu.Lock()
	f()
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default: // Run is told already
	}
}

// Run hands an Update to sink after every change, several changes together when
// they come faster than sink returns. It ends with ctx.
func (t *Tracker) Run(ctx context.Context, sink func(Update)) error {
	select {
	case <-ctx.Done():
		return nil
	case <-t.gate:
	}
	sink(t.Compute())
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.wake:
			sink(t.Compute())
		}
	}
}

// Compute brings everything up to date and returns it. Nobody changes the
// result any more, the tracker included.
func (t *Tracker) Compute() Update {
	t.mu.Lock()
	defer t.mu.Unlock()
	prev := t.last.Rules
	rs := rules.New()
	if prev != nil {
		rs = prev.Clone()
	} else {
		rs.Jumps = jumps()
		rs.Add(fixed(&t.cfg)...)
	}
	for key := range t.dirty {
		t.replacePart(rs, key)
	}
	clear(t.dirty)
	if t.sharedAnew {
		sorted := make([]*part, 0, len(t.parts))
		for _, key := range slices.Sorted(maps.Keys(t.parts)) {
			sorted = append(sorted, t.parts[key])
		}
		t.sharedAnew = false
		t.last.Health = healthOf(sorted)
		addReusing(rs, shared(&t.cfg, sorted))
	}
	if t.podsAnew {
		t.replacePods(rs)
	}
	t.last.Rules = rs
	return t.last
}

// replacePart computes one Service again and exchanges its chains.
func (t *Tracker) replacePart(rs *rules.Ruleset, key string) {
	var now *part
	if s := t.services[key]; s != nil {
		now = partOf(&t.cfg, s, slices.Collect(maps.Values(t.slices[key])))
	}
	old := t.parts[key]
	if !sameShared(old, now) {
		t.sharedAnew = true
	}
	if now == nil {
		delete(t.parts, key)
		now = &part{}
	} else {
		t.parts[key] = now
	}
	if old == nil {
		old = &part{}
	}
	kept := make(map[rules.ID]bool, len(now.chains))
	for _, c := range now.chains {
		kept[c.ID] = true
	}
	for _, c := range old.chains {
		if !kept[c.ID] {
			delete(rs.Chains, c.ID)
		}
	}
	addReusing(rs, now.chains)
	replaceUDP(rs, old.udp, now.udp)
}

func (t *Tracker) replacePods(rs *rules.Ruleset) {
	for _, c := range t.podChains {
		if strings.HasPrefix(c.Name, prefixHostPort) {
			delete(rs.Chains, c.ID)
		}
	}
	chains, udp := podChains(&t.cfg, t.pods)
	addReusing(rs, chains)
	replaceUDP(rs, t.podUDP, udp)
	t.podChains, t.podUDP, t.podsAnew = chains, udp, false
}

func replaceUDP(rs *rules.Ruleset, old, now map[rules.Frontend]*rules.Backends) {
	for f := range old {
		if _, stays := now[f]; !stays {
			delete(rs.UDP, f)
		}
	}
	for f, b := range now {
		if have := rs.UDP[f]; have == nil || !slices.Equal(have.Addrs, b.Addrs) {
			rs.UDP[f] = b
		}
	}
}

// addReusing keeps the chain that is there when it is the same, so that writers
// see by its pointer that nothing changed.
func addReusing(rs *rules.Ruleset, chains []*rules.Chain) {
	for _, c := range chains {
		if have := rs.Chains[c.ID]; have == nil || !have.Equal(c) {
			rs.Add(c)
		}
	}
}

func sameShared(a, b *part) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.Equal(a.services, b.services) && slices.Equal(a.nodePorts, b.nodePorts) && slices.Equal(a.refuse, b.refuse) &&
		slices.Equal(a.external, b.external) && slices.Equal(a.firewall, b.firewall) && slices.Equal(a.healthPort, b.healthPort) &&
		reflect.DeepEqual(a.health, b.health)
}

func healthOf(parts []*part) []HealthCheck {
	var all []HealthCheck
	for _, p := range parts {
		if p.health != nil {
			all = append(all, *p.health)
		}
	}
	return all
}
