package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"orch/api"
	"orch/api/client"
	"orch/network/cni"
	"orch/network/dns"
	"orch/network/iptables"
	"orch/network/overlay"
	"orch/network/proxy"
	"orch/network/proxy/health"
)

// networkConfig is what the parts of a node's network are made from.
type networkConfig struct {
	NodeName                       string
	NodeIP                         netip.Addr
	ClusterCIDR, ServiceCIDR       netip.Prefix
	DNS                            netip.Addr
	Domain, ResolvConf             string
	Backend, Bridge                string
	DataDir, CNIConfDir, CNIBinDir string
	Log                            *slog.Logger
}

// nodeNetwork is the pod network, the service proxy, DNS and the way to the other
// nodes, fed from one cache. It stands once the node has its pod range.
type nodeNetwork struct {
	networkConfig
	client  *client.Client
	tracker *proxy.Tracker
	rules   *iptables.Owner
	checks  *health.Server
	names   *dns.Server

	// ready closes when pods can be joined; pods is set before.
	ready chan struct{}
	mu    sync.Mutex
	pods  *cni.Network // guarded by mu
	cidr  netip.Prefix // guarded by mu
}

// newNodeNetwork checks what the host has; nothing is changed yet.
func newNodeNetwork(c networkConfig, cl *client.Client) (*nodeNetwork, error) {
	n := &nodeNetwork{networkConfig: c, client: cl, ready: make(chan struct{})}
	n.tracker = proxy.NewTracker(n.proxyConfig(netip.Prefix{}))
	var err error
	if n.rules, err = iptables.New(iptables.Config{Stale: proxy.Passing(), Log: c.Log}); err != nil {
		return nil, err
	}
	n.checks = health.New("", c.Log)
	n.names, err = dns.New(dns.Config{Domain: c.Domain, Listen: []netip.AddrPort{netip.AddrPortFrom(c.DNS, 53)},
		Reverse: []netip.Prefix{c.ClusterCIDR, c.ServiceCIDR}, ResolvConf: c.ResolvConf, Log: c.Log})
	return n, err
}

func (n *nodeNetwork) proxyConfig(pods netip.Prefix) proxy.Config {
	return proxy.Config{NodeName: n.NodeName, NodeIPs: []netip.Addr{n.NodeIP}, ClusterCIDR: n.ClusterCIDR, PodCIDR: pods,
		ServiceCIDR: n.ServiceCIDR, SkipIPs: []netip.Addr{n.DNS}}
}

// Ready says why pods cannot be joined now.
func (n *nodeNetwork) Ready() error {
	n.mu.Lock()
	pods := n.pods
	n.mu.Unlock()
	if pods == nil {
		return errors.New("the node has no pod range yet: waiting for the control plane to give it one")
	}
	return pods.Ready()
}

// has tells whether an address is the node's or one of its pods'.
func (n *nodeNetwork) has(ip netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	ip = ip.Unmap()
	return ip == n.NodeIP || n.cidr.IsValid() && n.cidr.Contains(ip)
}

func (n *nodeNetwork) wait(ctx context.Context) (*cni.Network, error) {
	select {
	case <-n.ready:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pods, nil
}

// Run feeds the parts, makes the pod network when the node's range is known, and
// runs everything until ctx ends. Rules and devices stay: pods go on.
func (n *nodeNetwork) Run(ctx context.Context) error {
	return both(
		n.rules.Run,
		n.checks.Run,
		func(ctx context.Context) error {
			return n.tracker.Run(ctx, func(u proxy.Update) { n.rules.Set(u.Rules); n.checks.Set(u.Health) })
		},
		n.feed,
		n.join,
	)(ctx)
}

// feed hands Services and EndpointSlices to proxy and DNS.
func (n *nodeNetwork) feed(ctx context.Context) error {
	err := subscribe(ctx, n.client, api.Services, func(old, now *core.Service) {
		n.tracker.OnService(old, now)
		n.names.OnService(old, now)
	})
	if err == nil {
		err = subscribe(ctx, n.client, api.EndpointSlices, func(old, now *discovery.EndpointSlice) {
			n.tracker.OnEndpointSlice(old, now)
			n.names.OnEndpointSlice(old, now)
		})
	}
	if err != nil {
		return endOr(ctx, err)
	}
	n.tracker.Synced()
	n.names.Synced()
	<-ctx.Done()
	return nil
}

// endOr takes errors for granted once ctx has ended.
func endOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// subscribe is Cache.Subscribe with types; bookmarks are left out.
func subscribe[T any](ctx context.Context, c client.Cache, k api.Kind[T], h func(old, now *T)) error {
	return c.Subscribe(ctx, k.Facts, func(change client.Change) {
		var old, now *T
		if change.Old != nil {
			old = any(change.Old).(*T)
		}
		if change.New != nil {
			now = any(change.New).(*T)
		}
		if old != nil || now != nil {
			h(old, now)
		}
	})
}

// join waits for the node's range, then makes the pod network and joins it to
// those of the other nodes.
func (n *nodeNetwork) join(ctx context.Context) error {
	pods, err := n.podRange(ctx)
	if err != nil {
		return endOr(ctx, err)
	}
	over, err := overlay.New(overlay.Config{Backend: n.Backend, NodeIP: n.NodeIP, PodCIDR: pods, Log: n.Log})
	if err != nil {
		return err
	}
	n.tracker.SetConfig(n.proxyConfig(pods))
	state := filepath.Join(n.DataDir, "agent", "cni")
	network, err := cni.New(cni.Config{ConfDir: n.CNIConfDir, BinDirs: []string{n.CNIBinDir}, CacheDir: state, IPAMDir: filepath.Join(state, "networks"),
		Bridge: n.Bridge, PodCIDR: pods, ClusterCIDR: n.ClusterCIDR, ServiceCIDR: n.ServiceCIDR, ExtraAddrs: []netip.Addr{n.DNS},
		MTU: over.MTU(), Rules: n.tracker.SetPod, Log: n.Log})
	if err != nil {
		return err
	}
	if err := network.Prepare(ctx); err != nil {
		return fmt.Errorf("making the pod network: %w", err)
	}
	n.mu.Lock()
	n.pods, n.cidr = network, pods
	n.mu.Unlock()
	close(n.ready)
	return both(n.names.Run, over.Run, func(ctx context.Context) error { return n.peers(ctx, over) })(ctx)
}

// podRange waits until the control plane has given the node its pod range.
func (n *nodeNetwork) podRange(ctx context.Context) (netip.Prefix, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	found := make(chan string, 1)
	err := subscribe(ctx, n.client, api.Nodes, func(_, now *core.Node) {
		if now != nil && now.Name == n.NodeName && now.Spec.PodCIDR != "" {
			select {
			case found <- now.Spec.PodCIDR:
			default:
			}
		}
	})
	if err != nil {
		return netip.Prefix{}, err
	}
	select {
	case s := <-found:
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return p, fmt.Errorf("reading the node's pod range: %w", err)
		}
		return p, nil
	case <-ctx.Done():
		return netip.Prefix{}, ctx.Err()
	}
}

// peers tells the overlay how to reach the other nodes.
func (n *nodeNetwork) peers(ctx context.Context, over *overlay.Overlay) error {
	err := subscribe(ctx, n.client, api.Nodes, func(old, now *core.Node) {
		if now == nil {
			over.RemovePeer(old.Name)
			return
		}
		if p, ok := peerOf(now); ok && now.Name != n.NodeName {
			over.SetPeer(p)
		}
	})
	if err != nil {
		return endOr(ctx, err)
	}
	over.Synced()
	<-ctx.Done()
	return nil
}

// peerOf reads what the overlay needs from a Node; ok is false while it is not
// all there.
func peerOf(n *core.Node) (p overlay.Peer, ok bool) {
	p.Name = n.Name
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); a.Type == core.NodeInternalIP && err == nil && ip.Is4() && !p.NodeIP.IsValid() {
			p.NodeIP = ip
		}
	}
	var err error
	p.PodCIDR, err = netip.ParsePrefix(n.Spec.PodCIDR)
	return p, err == nil && p.NodeIP.IsValid()
}
