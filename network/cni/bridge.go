package cni

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	cnitypes "github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"orch/network/link"
)

// bridgeConf is the configuration of the plugin bridge, as far as built in.
type bridgeConf struct {
	cnitypes.PluginConf
	Bridge           string        `json:"bridge"`
	IsGateway        bool          `json:"isGateway"`
	IsDefaultGateway bool          `json:"isDefaultGateway"`
	IPMasq           bool          `json:"ipMasq"`
	HairpinMode      bool          `json:"hairpinMode"`
	PromiscMode      bool          `json:"promiscMode"`
	PortIsolation    bool          `json:"portIsolation"`
	MTU              int           `json:"mtu"`
	MAC              string        `json:"mac"`
	Ranges           hostLocalConf `json:"ipam"`
	RuntimeConfig    struct {
		MAC string `json:"mac"`
	} `json:"runtimeConfig"`
}

// Options of the plugin's program that only the program has.
var bridgeProgramOnly = []string{"vlan", "vlanTrunk", "macspoofchk", "forceAddress", "disableContainerInterface"}

// subnets are the ranges within which a pod is not masqueraded.
func (b *bridgeConf) subnets() []netip.Prefix {
	out := []netip.Prefix{}
	sets, err := b.Ranges.sets(nil)
	if err != nil {
		return out
	}
	for _, set := range sets {
		for _, r := range set {
			out = append(out, r.Subnet)
		}
	}
	return out
}

func readBridgeConf(c *call) (*bridgeConf, error) {
	conf := &bridgeConf{Bridge: "cni0"}
	if err := json.Unmarshal(c.conf, conf); err != nil {
		return nil, fmt.Errorf("reading the configuration of plugin bridge: %w", err)
	}
	// The embedded field and ours read the same key; the type is what counts here.
	conf.PluginConf.IPAM.Type = conf.Ranges.Type
	if conf.RuntimeConfig.MAC != "" {
		conf.MAC = conf.RuntimeConfig.MAC
	}
	conf.IsGateway = conf.IsGateway || conf.IsDefaultGateway
	return conf, refuse("bridge", c.conf, bridgeProgramOnly...)
}

// bridge joins a container to a bridge by a veth pair.
func (e *executor) bridge(ctx context.Context, c *call) (*current.Result, error) {
	conf, err := readBridgeConf(c)
	if err != nil {
		return nil, err
	}
	switch c.command {
	case "ADD":
		return e.bridgeAdd(ctx, c, conf)
	case "DEL":
		return nil, e.bridgeDel(ctx, c, conf)
	case "CHECK":
		return nil, e.bridgeCheck(ctx, c, conf)
	case "GC", "STATUS":
		if conf.Ranges.Type != "" {
			_, err = e.delegate(ctx, conf.Ranges.Type, c)
		}
		return nil, err
	}
	return nil, fmt.Errorf("plugin bridge: unknown command %q", c.command)
}

// hostDevice is the name of the pair's end in the node. It follows from the
// container, so that a pair whose making was killed is found again.
func hostDevice(id, ifname string) string {
	sum := sha256.Sum256([]byte(id + "/" + ifname))
	return "veth" + hex.EncodeToString(sum[:4])
}

func (e *executor) bridgeAdd(ctx context.Context, c *call, conf *bridgeConf) (_ *current.Result, err error) {
	result := &current.Result{CNIVersion: current.ImplementedSpecVersion, DNS: conf.DNS}
	if conf.Ranges.Type != "" {
		given, err := e.delegate(ctx, conf.Ranges.Type, c)
		if err != nil {
			return nil, err
		}
		if len(given.IPs) == 0 {
			return nil, fmt.Errorf("plugin %s gave no address", conf.Ranges.Type)
		}
		result.IPs, result.Routes = given.IPs, given.Routes
		if len(given.DNS.Nameservers) > 0 {
			result.DNS = given.DNS
		}
	}
	defer func() {
		if err != nil {
			undo := *c
			undo.command = "DEL"
			undo.environ = append(append([]string(nil), c.environ...), "CNI_COMMAND=DEL") // the last one counts
			_ = e.bridgeDel(context.WithoutCancel(ctx), &undo, conf)
		}
	}()
	h, err := link.Open(e.n.cfg.NetNS)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	br, err := h.EnsureBridge(link.Bridge{Name: conf.Bridge, MTU: conf.MTU, Promiscuous: conf.PromiscMode})
	if err != nil {
		return nil, err
	}
	gateways(conf, result)
	if conf.IsGateway {
		if err := e.gatewayAddrs(h, br, result); err != nil {
			return nil, err
		}
	}
	mac := podMAC(conf, result)
	ns, err := os.Open(c.netns)
	if err != nil {
		return nil, fmt.Errorf("opening the pod's network namespace: %w", err)
	}
	defer ns.Close()
	host, err := h.AddVeth(link.Veth{Host: hostDevice(c.id, c.ifname), MTU: conf.MTU, PeerName: c.ifname, PeerMAC: mac, PeerNS: ns, Master: br, Hairpin: conf.HairpinMode, Isolated: conf.PortIsolation})
	if err != nil {
		return nil, err
	}
	inside, err := configurePod(c, result)
	if err != nil {
		return nil, err
	}
	result.Interfaces = []*current.Interface{{Name: conf.Bridge, Mac: br.Attrs().HardwareAddr.String()}, {Name: host.Attrs().Name}, {Name: c.ifname, Mac: inside.String(), Sandbox: c.netns}}
	for _, ip := range result.IPs {
		ip.Interface = new(2)
	}
	return result, nil
}

// gateways fills in who the pod's gateway is, and the default route to it.
func gateways(conf *bridgeConf, result *current.Result) {
	for _, ip := range result.IPs {
		if ip.Gateway == nil && conf.IsGateway {
			if p, ok := link.Prefix(&ip.Address); ok {
				ip.Gateway = p.Masked().Addr().Next().AsSlice()
			}
		}
		if !conf.IsDefaultGateway || ip.Gateway == nil {
			continue
		}
		zero := net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
		if ip.Address.IP.To4() == nil {
			zero = net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
		}
		result.Routes = append(result.Routes, &cnitypes.Route{Dst: zero, GW: ip.Gateway})
	}
}

// gatewayAddrs puts the gateways on the bridge.
func (e *executor) gatewayAddrs(h *link.Handle, br netlink.Link, result *current.Result) error {
	have, err := h.Addrs(br)
	if err != nil {
		return err
	}
	known := make(map[netip.Prefix]bool, len(have))
	for _, p := range have {
		known[p] = true
	}
	for _, ip := range result.IPs {
		gw, ok := netip.AddrFromSlice(ip.Gateway)
		if !ok {
			continue
		}
		ones, _ := ip.Address.Mask.Size()
		p := netip.PrefixFrom(gw.Unmap(), ones)
		if known[p] {
			continue
		}
		if err := h.EnsureAddr(br, p); err != nil {
			return err
		}
		if err := link.Sysctl(e.n.cfg.NetNS, forwardSetting(p.Addr()), "1"); err != nil {
			return err
		}
	}
	return nil
}

func forwardSetting(a netip.Addr) string {
	if a.Is4() {
		return "net/ipv4/ip_forward"
	}
	return "net/ipv6/conf/all/forwarding"
}

func podMAC(conf *bridgeConf, result *current.Result) net.HardwareAddr {
	if mac, err := net.ParseMAC(conf.MAC); err == nil {
		return mac
	}
	for _, ip := range result.IPs {
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			return link.MACFor(a.Unmap())
		}
	}
	return nil // a bridge without addresses: the kernel draws one
}

// configurePod gives the pod's end its addresses and routes.
func configurePod(c *call, result *current.Result) (net.HardwareAddr, error) {
	h, err := link.Open(c.netns)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	l, err := h.ByName(c.ifname)
	if err != nil {
		return nil, err
	}
	for _, ip := range result.IPs {
		p, ok := link.Prefix(&ip.Address)
		if !ok {
			return nil, fmt.Errorf("bad address %v", ip.Address)
		}
		if err := h.EnsureAddr(l, p); err != nil {
			return nil, err
		}
	}
	if err := h.Up(l); err != nil {
		return nil, err
	}
	for _, r := range result.Routes {
		route := link.Route{MTU: r.MTU, Priority: r.Priority}
		route.Dst, _ = link.Prefix(&r.Dst)
		route.Via, _ = netip.AddrFromSlice(r.GW)
		if !route.Via.IsValid() { // by the specification: the gateway of the address
			route.Via = gatewayFor(route.Dst, result)
		}
		route.Via = route.Via.Unmap()
		if err := h.EnsureRoute(l, route); err != nil {
			return nil, err
		}
	}
	return l.Attrs().HardwareAddr, nil
}

func gatewayFor(dst netip.Prefix, result *current.Result) netip.Addr {
	for _, ip := range result.IPs {
		if gw, ok := netip.AddrFromSlice(ip.Gateway); ok && gw.Unmap().Is4() == dst.Addr().Is4() {
			return gw
		}
	}
	return netip.Addr{}
}

// bridgeDel removes the pair first: a pod that is half gone must not answer
// under an address that is free already.
func (e *executor) bridgeDel(ctx context.Context, c *call, conf *bridgeConf) error {
	h, err := link.Open(e.n.cfg.NetNS)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := h.Delete(hostDevice(c.id, c.ifname)); err != nil {
		return err
	}
	if c.netns != "" { // a pair that the plugin's program made under a name of its own
		if in, err := link.Open(c.netns); err == nil {
			err = in.Delete(c.ifname)
			in.Close()
			if err != nil {
				return err
			}
		}
	}
	if conf.Ranges.Type == "" {
		return nil
	}
	_, err = e.delegate(ctx, conf.Ranges.Type, c)
	return err
}

func (e *executor) bridgeCheck(ctx context.Context, c *call, conf *bridgeConf) error {
	prev, err := previous(c.conf)
	if err != nil {
		return err
	}
	if prev == nil {
		return errors.New("plugin bridge: CHECK needs a previous result")
	}
	if conf.Ranges.Type != "" {
		if _, err := e.delegate(ctx, conf.Ranges.Type, c); err != nil {
			return err
		}
	}
	h, err := link.Open(e.n.cfg.NetNS)
	if err != nil {
		return err
	}
	defer h.Close()
	br, err := h.ByName(conf.Bridge)
	if err != nil {
		return err
	}
	for _, i := range prev.Interfaces {
		if i.Sandbox != "" || i.Name == conf.Bridge {
			continue
		}
		l, err := h.ByName(i.Name)
		if err != nil {
			return err
		}
		if l.Attrs().MasterIndex != br.Attrs().Index {
			return fmt.Errorf("%s is not a port of %s", i.Name, conf.Bridge)
		}
	}
	in, err := link.Open(c.netns)
	if err != nil {
		return err
	}
	defer in.Close()
	return checkInside(in, c.ifname, prev)
}

func checkInside(in *link.Handle, ifname string, prev *current.Result) error {
	l, err := in.ByName(ifname)
	if err != nil {
		return err
	}
	have, err := in.Addrs(l)
	if err != nil {
		return err
	}
	for _, ip := range prev.IPs {
		p, _ := link.Prefix(&ip.Address)
		found := false
		for _, h := range have {
			found = found || h == p
		}
		if !found {
			return fmt.Errorf("%s has lost its address %s", ifname, p)
		}
	}
	if l.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("%s is down", ifname)
	}
	return nil
}
