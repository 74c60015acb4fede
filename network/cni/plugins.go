package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	cnitypes "github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"orch/network/ipam"
	"orch/network/link"
)

// hostLocalConf is the "ipam" part of a configuration with type host-local.
type hostLocalConf struct {
	Type           string             `json:"type"`
	DataDir        string             `json:"dataDir"`
	ResolvConf     string             `json:"resolvConf"`
	Ranges         [][]hostLocalRange `json:"ranges"`
	Routes         []*cnitypes.Route  `json:"routes"`
	hostLocalRange                    // the old way to write a single range
}

type hostLocalRange struct {
	Subnet     string `json:"subnet"`
	RangeStart string `json:"rangeStart"`
	RangeEnd   string `json:"rangeEnd"`
	Gateway    string `json:"gateway"`
}

// sets are the ranges of the runtime, else those of the configuration.
func (c *hostLocalConf) sets(runtime [][]hostLocalRange) ([]ipam.Set, error) {
	ranges := c.Ranges
	if c.Subnet != "" {
		ranges = append([][]hostLocalRange{{c.hostLocalRange}}, ranges...)
	}
	ranges = append(append([][]hostLocalRange(nil), runtime...), ranges...)
	var sets []ipam.Set
	for _, group := range ranges {
		var set ipam.Set
		for _, r := range group {
			done, err := r.parse()
			if err != nil {
				return nil, fmt.Errorf("reading the address ranges: %w", err)
			}
			set = append(set, done)
		}
		if len(set) > 0 {
			sets = append(sets, set)
		}
	}
	if len(sets) == 0 {
		return nil, errors.New("reading the address ranges: there are none")
	}
	return sets, nil
}

func (r hostLocalRange) parse() (ipam.Range, error) {
	subnet, err := netip.ParsePrefix(r.Subnet)
	if err != nil {
		return ipam.Range{}, err
	}
	out := ipam.Range{Subnet: subnet}
	for _, f := range []struct {
		text string
		to   *netip.Addr
	}{{r.RangeStart, &out.First}, {r.RangeEnd, &out.Last}, {r.Gateway, &out.Gateway}} {
		if f.text == "" {
			continue
		}
		if *f.to, err = netip.ParseAddr(f.text); err != nil {
			return ipam.Range{}, err
		}
	}
	return out.Complete()
}

// hostLocal gives addresses out of ranges of the node.
func (e *executor) hostLocal(_ context.Context, c *call) (*current.Result, error) {
	var conf struct {
		Name          string        `json:"name"`
		IPAM          hostLocalConf `json:"ipam"`
		RuntimeConfig struct {
			IPRanges [][]hostLocalRange `json:"ipRanges"`
			IPs      []string           `json:"ips"`
		} `json:"runtimeConfig"`
		Args struct {
			CNI struct {
				IPs []string `json:"ips"`
			} `json:"cni"`
		} `json:"args"`
		Valid []cnitypes.GCAttachment `json:"cni.dev/valid-attachments"`
	}
	if err := json.Unmarshal(c.conf, &conf); err != nil {
		return nil, fmt.Errorf("reading the configuration of plugin host-local: %w", err)
	}
	dir := conf.IPAM.DataDir
	if dir == "" {
		dir = e.n.cfg.IPAMDir
	}
	store, err := e.n.store(dir, conf.Name)
	if err != nil {
		return nil, err
	}
	owner := ipam.Owner{Container: c.id, Interface: c.ifname}
	switch c.command {
	case "ADD":
		sets, err := conf.IPAM.sets(conf.RuntimeConfig.IPRanges)
		if err != nil {
			return nil, err
		}
		wanted, err := wantedIPs(c.args, conf.Args.CNI.IPs, conf.RuntimeConfig.IPs)
		if err != nil {
			return nil, err
		}
		given, err := store.Reserve(ipam.Request{Owner: owner, Sets: sets, Wanted: wanted})
		if err != nil {
			return nil, err
		}
		return hostLocalResult(given, conf.IPAM.Routes), nil
	case "DEL":
		return nil, store.Release(owner)
	case "CHECK":
		if addrs, err := store.Find(owner); err != nil || len(addrs) == 0 {
			return nil, errors.Join(err, fmt.Errorf("no address is reserved for %s", c.id))
		}
		return nil, nil
	case "GC":
		valid := map[ipam.Owner]bool{}
		for _, a := range conf.Valid {
			valid[ipam.Owner{Container: a.ContainerID, Interface: a.IfName}] = true
		}
		_, err := store.Keep(func(o ipam.Owner) bool { return valid[o] })
		return nil, err
	}
	return nil, nil
}

// wantedIPs reads the three ways to ask for an address: IP= in CNI_ARGS, "args"
// and the capability "ips". A prefix length is allowed and ignored.
func wantedIPs(args string, lists ...[]string) ([]netip.Addr, error) {
	var texts []string
	for _, kv := range strings.Split(args, ";") {
		if v, is := strings.CutPrefix(kv, "IP="); is {
			texts = append(texts, v)
		}
	}
	for _, l := range lists {
		texts = append(texts, l...)
	}
	var out []netip.Addr
	for _, t := range texts {
		text, _, _ := strings.Cut(t, "/")
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("reading a wanted address: %w", err)
		}
		out = append(out, a)
	}
	return out, nil
}

func hostLocalResult(given []ipam.Reserved, routes []*cnitypes.Route) *current.Result {
	r := &current.Result{CNIVersion: current.ImplementedSpecVersion, Routes: routes}
	for _, g := range given {
		r.IPs = append(r.IPs, &current.IPConfig{Address: *link.IPNet(netip.PrefixFrom(g.Addr, g.Range.Subnet.Bits())), Gateway: g.Range.Gateway.AsSlice()})
	}
	return r
}

// portmap only passes the result on: its rules are part of the node's ruleset
// (podRules).
func (e *executor) portmap(_ context.Context, c *call) (*current.Result, error) {
	if err := refuse("portmap", c.conf, "conditionsV4", "conditionsV6", "externalSetMarkChain"); err != nil {
		return nil, err
	}
	if c.command != "ADD" {
		return nil, nil
	}
	return passOn("portmap", c)
}

func passOn(name string, c *call) (*current.Result, error) {
	prev, err := previous(c.conf)
	if err == nil && prev == nil {
		err = fmt.Errorf("plugin %s must come after one that makes an interface", name)
	}
	return prev, err
}

// loopback sets lo up.
func (e *executor) loopback(_ context.Context, c *call) (*current.Result, error) {
	if c.command != "ADD" && c.command != "CHECK" {
		return nil, nil
	}
	h, err := link.Open(c.netns)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	lo, err := h.ByName("lo")
	if err != nil {
		return nil, err
	}
	if err := h.Up(lo); err != nil || c.command == "CHECK" {
		return nil, err
	}
	if prev, err := previous(c.conf); err != nil || prev != nil {
		return prev, err
	}
	return &current.Result{CNIVersion: current.ImplementedSpecVersion, Interfaces: []*current.Interface{{Name: "lo", Mac: "00:00:00:00:00:00", Sandbox: c.netns}},
		IPs: []*current.IPConfig{{Interface: new(0), Address: *link.IPNet(netip.MustParsePrefix("127.0.0.1/8"))}}}, nil
}
