// Package cni joins pods to the network by the Container Network Interface. The
// plugins bridge, host-local, portmap and loopback are functions of this
// package: a pod costs no process. Every other plugin type is executed from the
// usual directories, so a user's configuration in /etc/cni/net.d works; it wins
// over the one that is made from the node's pod range. Results are kept on disk
// by libcni, so that a pod can be taken apart after a restart with the
// configuration that put it together.
//
// The package refuses packet filter rules: what a pod needs of them (host ports,
// masquerading) goes as a value to Config.Rules.
//
//	Setup ─► libcni ─► executor ─┬─ bridge ─► host-local      (this package)
//	                             ├─ portmap, loopback         (this package)
//	                             └─ /opt/cni/bin/<type>       (a process)
//
// Start reading at Network.Setup.
package cni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/containernetworking/cni/libcni"

	"orch/network/ipam"
	"orch/network/link"
	"orch/network/netns"
	"orch/network/rules"
)

// Config of a Network. Empty fields take the ecosystem's defaults.
type Config struct {
	// NetNS is the path of the node's network namespace; empty: the process's own.
	NetNS string
	// ConfDir is read for a user's configuration (/etc/cni/net.d).
	ConfDir string
	// BinDirs hold plugins that are executed (/opt/cni/bin).
	BinDirs []string
	// CacheDir is libcni's (/var/lib/cni); IPAMDir is host-local's (/var/lib/cni/networks).
	CacheDir, IPAMDir string
	// Bridge is the device that pods hang on (orch0).
	Bridge string
	// PodCIDR is this node's range, ClusterCIDR holds that of all nodes, ServiceCIDR the cluster IPs.
	PodCIDR, ClusterCIDR, ServiceCIDR netip.Prefix
	// ExtraAddrs are further addresses of the bridge (the cluster's DNS server).
	ExtraAddrs []netip.Addr
	// MTU of pods; 0: the kernel's.
	MTU int
	// Rules takes what a pod needs of the packet filter; nil: nothing any more.
	Rules func(id string, p *rules.Pod)
	Log   *slog.Logger
}

func (c Config) withDefaults() Config {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	def(&c.ConfDir, "/etc/cni/net.d")
	def(&c.CacheDir, "/var/lib/cni")
	def(&c.IPAMDir, "/var/lib/cni/networks")
	def(&c.Bridge, "orch0")
	if len(c.BinDirs) == 0 {
		c.BinDirs = []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}
	}
	if c.Rules == nil {
		c.Rules = func(string, *rules.Pod) {}
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// Pod is who is joined.
type Pod struct {
	// ID is unique on the node and lasts as long as the pod (its UID).
	ID, Namespace, Name, UID string
	// NetNS is the path of its pinned network namespace.
	NetNS string
	Ports []PortMapping
	// IngressBits and EgressBits limit the bandwidth, in bits a second; 0 is no limit.
	IngressBits, EgressBits int64
}

// PortMapping leads a port of the node to the pod. It is encoded as the plugin
// portmap expects it.
type PortMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// Result is what a pod got.
type Result struct {
	// IPs, the primary first.
	IPs       []netip.Addr
	Interface string
	MAC       string
	// Nameservers and Search are what the configuration says, mostly nothing.
	Nameservers, Search []string
}

// ifName is the pod's interface, by custom of Kubernetes.
const ifName = "eth0"

// Network joins pods. Several goroutines may use it, for different pods at the
// same time; calls for one pod wait for each other.
type Network struct {
	cfg  Config
	lib  *libcni.CNIConfig
	exec *executor
	own  *libcni.NetworkConfigList // made from PodCIDR; nil without one

	mu     sync.Mutex // guards stores and busy
	stores map[string]*ipam.Store
	busy   map[string]chan struct{} // pods in the middle of a call; closed at its end
}

// New validates the configuration and finds what earlier runs left; it hands the
// rules of pods that are joined to Config.Rules.
func New(cfg Config) (*Network, error) {
	n := &Network{cfg: cfg.withDefaults(), stores: map[string]*ipam.Store{}, busy: map[string]chan struct{}{}}
	if cfg.PodCIDR.IsValid() {
		own, err := ownConfig(n.cfg)
		if err != nil {
			return nil, err
		}
		n.own = own
	}
	n.exec = newExecutor(n)
	n.lib = libcni.NewCNIConfigWithCacheDir(n.cfg.BinDirs, n.cfg.CacheDir, n.exec)
	all, err := n.lib.GetCachedAttachments("")
	if err != nil {
		return nil, fmt.Errorf("reading results of earlier runs: %w", err)
	}
	for _, a := range all {
		if p := n.rulesOf(a); p != nil {
			n.cfg.Rules(a.ContainerID, p)
		}
	}
	return n, nil
}

// Prepare makes the bridge with the node's addresses, and a route for cluster
// IPs, which must have one before they can be translated: a host without a
// default route has none.
func (n *Network) Prepare(context.Context) error {
	if n.own == nil {
		return nil
	}
	h, err := link.Open(n.cfg.NetNS)
	if err != nil {
		return err
	}
	defer h.Close()
	gateway := n.cfg.PodCIDR.Masked().Addr().Next()
	addrs := []netip.Prefix{netip.PrefixFrom(gateway, n.cfg.PodCIDR.Bits())}
	for _, a := range n.cfg.ExtraAddrs {
		addrs = append(addrs, netip.PrefixFrom(a, a.BitLen()))
	}
	br, err := h.EnsureBridge(link.Bridge{Name: n.cfg.Bridge, MTU: n.cfg.MTU, MAC: link.MACFor(gateway), Addrs: addrs})
	if err != nil {
		return err
	}
	if n.cfg.ServiceCIDR.IsValid() {
		if err := h.EnsureRoute(br, link.Route{Dst: n.cfg.ServiceCIDR.Masked(), Src: gateway}); err != nil {
			return err
		}
	}
	// The owner of the rules sees to the rest of forwarding, and complains.
	return link.Sysctl(n.cfg.NetNS, "net/ipv4/ip_forward", "1")
}

// Ready says why pods can't be joined now; nil when they can.
func (n *Network) Ready() error {
	_, err := n.current()
	return err
}

// alone waits until no other call works on the pod, and returns its end.
func (n *Network) alone(ctx context.Context, id string) (end func(), err error) {
	for {
		n.mu.Lock()
		other := n.busy[id]
		if other == nil {
			mine := make(chan struct{})
			n.busy[id] = mine
			n.mu.Unlock()
			return func() {
				n.mu.Lock()
				delete(n.busy, id)
				n.mu.Unlock()
				close(mine)
			}, nil
		}
		n.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Setup joins a pod. For a pod that is joined already it returns the same result
// again; what is left of an attempt that broke off, or of a namespace that is
// gone, is cleared first. On an error nothing stays behind.
func (n *Network) Setup(ctx context.Context, p Pod) (Result, error) {
	end, err := n.alone(ctx, p.ID)
	if err != nil {
		return Result{}, err
	}
	defer end()
	cached, err := n.lib.GetCachedAttachments(p.ID)
	if err != nil {
		return Result{}, fmt.Errorf("reading results of earlier runs: %w", err)
	}
	for _, a := range cached {
		if a.NetNS == p.NetNS && netns.Is(p.NetNS) && n.check(ctx, a) == nil {
			return n.resultOf(a)
		}
		if err := n.remove(ctx, a); err != nil {
			return Result{}, err
		}
	}
	list, err := n.current()
	if err != nil {
		return Result{}, err
	}
	rt := n.runtimeConf(p)
	raw, err := n.lib.AddNetworkList(ctx, list, rt)
	if err != nil {
		// With a context of its own: what made ADD fail may be the end of ctx.
		_ = n.lib.DelNetworkList(context.WithoutCancel(ctx), list, rt)
		return Result{}, fmt.Errorf("joining pod %s/%s to network %s: %w", p.Namespace, p.Name, list.Name, err)
	}
	result, err := readResult(raw)
	if err != nil {
		return Result{}, err
	}
	if want := podRules(list, rt.CapabilityArgs, result); want != nil {
		n.cfg.Rules(p.ID, want)
	}
	return result, nil
}

// Teardown gives back all that Setup took. The namespace may be gone already,
// and a pod that was never joined is fine.
func (n *Network) Teardown(ctx context.Context, p Pod) error {
	end, err := n.alone(ctx, p.ID)
	if err != nil {
		return err
	}
	defer end()
	cached, err := n.lib.GetCachedAttachments(p.ID)
	if err != nil {
		return fmt.Errorf("reading results of earlier runs: %w", err)
	}
	for _, a := range cached {
		if err := n.remove(ctx, a); err != nil {
			return err
		}
	}
	if len(cached) > 0 {
		return nil
	}
	// Setup may have been killed before its result was kept.
	list, err := n.current()
	if err != nil {
		return nil // without a configuration nothing can have been joined
	}
	if err := n.lib.DelNetworkList(ctx, list, n.runtimeConf(p)); err != nil {
		return fmt.Errorf("taking pod %s/%s off network %s: %w", p.Namespace, p.Name, list.Name, err)
	}
	return nil
}

// Check reports what is wrong with a pod's network.
func (n *Network) Check(ctx context.Context, p Pod) error {
	cached, err := n.lib.GetCachedAttachments(p.ID)
	if err != nil {
		return fmt.Errorf("reading results of earlier runs: %w", err)
	}
	if len(cached) == 0 {
		return fmt.Errorf("checking the network of pod %s/%s: it is not joined", p.Namespace, p.Name)
	}
	var errs []error
	for _, a := range cached {
		errs = append(errs, n.check(ctx, a))
	}
	return errors.Join(errs...)
}

// Keep takes apart what belongs to pods that are not live: after a crash, or a
// power cut that left files and took the rest. Called at the start, before Setup.
func (n *Network) Keep(ctx context.Context, live func(id string) bool) error {
	all, err := n.lib.GetCachedAttachments("")
	if err != nil {
		return fmt.Errorf("reading results of earlier runs: %w", err)
	}
	var errs []error
	networks := map[string]bool{}
	for _, a := range all {
		networks[a.Network] = true
		if !live(a.ContainerID) {
			errs = append(errs, n.remove(ctx, a))
		}
	}
	if list, err := n.current(); err == nil {
		networks[list.Name] = true
	}
	for name := range networks {
		if _, err := os.Stat(filepath.Join(n.cfg.IPAMDir, name)); err != nil {
			continue // its addresses are kept elsewhere
		}
		store, err := n.store(n.cfg.IPAMDir, name)
		if err == nil {
			var gone []netip.Addr
			gone, err = store.Keep(func(o ipam.Owner) bool { return live(o.Container) })
			if len(gone) > 0 {
				n.cfg.Log.Info("addresses of pods that are gone are free again", "network", name, "count", len(gone))
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// remove takes one attachment apart by the configuration that made it.
func (n *Network) remove(ctx context.Context, a *libcni.NetworkAttachment) error {
	list, rt, err := n.restore(a)
	if err != nil {
		return err
	}
	if !netns.Is(rt.NetNS) {
		rt.NetNS = "" // by the specification: plugins then free what lies outside
	}
	if err := n.lib.DelNetworkList(ctx, list, rt); err != nil {
		return fmt.Errorf("taking %s off network %s: %w", a.ContainerID, a.Network, err)
	}
	n.cfg.Rules(a.ContainerID, nil)
	return nil
}

func (n *Network) check(ctx context.Context, a *libcni.NetworkAttachment) error {
	list, rt, err := n.restore(a)
	if err != nil {
		return err
	}
	err = n.lib.CheckNetworkList(ctx, list, rt)
	if errors.Is(err, libcni.ErrorCheckNotSupp) {
		return nil
	}
	return err
}

func (n *Network) resultOf(a *libcni.NetworkAttachment) (Result, error) {
	list, rt, err := n.restore(a)
	if err != nil {
		return Result{}, err
	}
	raw, err := n.lib.GetNetworkListCachedResult(list, rt)
	if err != nil {
		return Result{}, fmt.Errorf("reading the result kept for %s: %w", a.ContainerID, err)
	}
	return readResult(raw)
}

// restore rebuilds the call that made an attachment.
func (n *Network) restore(a *libcni.NetworkAttachment) (*libcni.NetworkConfigList, *libcni.RuntimeConf, error) {
	list, err := libcni.NetworkConfFromBytes(a.Config)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the configuration kept for %s: %w", a.ContainerID, err)
	}
	return list, &libcni.RuntimeConf{ContainerID: a.ContainerID, NetNS: a.NetNS, IfName: a.IfName, Args: a.CniArgs, CapabilityArgs: a.CapabilityArgs}, nil
}

// rulesOf reads what an attachment of an earlier run needs of the packet filter.
func (n *Network) rulesOf(a *libcni.NetworkAttachment) *rules.Pod {
	list, _, err := n.restore(a)
	if err != nil {
		return nil
	}
	result, err := n.resultOf(a)
	if err != nil {
		return nil
	}
	return podRules(list, a.CapabilityArgs, result)
}

// store returns the address store of a network, always the same one.
func (n *Network) store(dir, network string) (*ipam.Store, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := filepath.Join(dir, network)
	if s := n.stores[key]; s != nil {
		return s, nil
	}
	s, err := ipam.Open(dir, network)
	if err == nil {
		n.stores[key] = s
	}
	return s, err
}
