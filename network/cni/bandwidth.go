package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"orch/network/link"
)

// bandwidthConf is the configuration of the plugin bandwidth; rates are bits a
// second, bursts bits.
type bandwidthConf struct {
	bandwidthRates
	RuntimeConfig struct {
		Bandwidth bandwidthRates `json:"bandwidth"`
	} `json:"runtimeConfig"`
}

type bandwidthRates struct {
	IngressRate  uint64 `json:"ingressRate"`
	IngressBurst uint64 `json:"ingressBurst"`
	EgressRate   uint64 `json:"egressRate"`
	EgressBurst  uint64 `json:"egressBurst"`
}

// bandwidth limits what a pod receives by a token bucket on the node's end of
// its pair, and what it sends by one on its own end, which needs no extra device.
func (e *executor) bandwidth(_ context.Context, c *call) (*current.Result, error) {
	if c.command != "ADD" {
		return nil, nil // the buckets go with the devices
	}
	var conf bandwidthConf
	if err := json.Unmarshal(c.conf, &conf); err != nil {
		return nil, fmt.Errorf("reading the configuration of plugin bandwidth: %w", err)
	}
	if err := refuse("bandwidth", c.conf, "unshapedSubnets", "shapedSubnets"); err != nil {
		return nil, err
	}
	prev, err := passOn("bandwidth", c)
	if err != nil {
		return nil, err
	}
	rates := conf.bandwidthRates
	if r := conf.RuntimeConfig.Bandwidth; r != (bandwidthRates{}) {
		rates = r
	}
	var host string
	for _, i := range prev.Interfaces {
		if i.Sandbox == "" {
			host = i.Name // the last of the node's devices is the pair's end
		}
	}
	if rates.IngressRate > 0 {
		if host == "" {
			return nil, errors.New("plugin bandwidth: the previous result names no device of the node")
		}
		if err := limit(e.n.cfg.NetNS, host, rates.IngressRate, rates.IngressBurst); err != nil {
			return nil, err
		}
	}
	if rates.EgressRate > 0 {
		if err := limit(c.netns, c.ifname, rates.EgressRate, rates.EgressBurst); err != nil {
			return nil, err
		}
	}
	return prev, nil
}

// queueSeconds bounds how long a packet may wait in the bucket.
const queueSeconds = 0.025

// limit puts a token bucket filter on a device.
func limit(ns, device string, rateBits, burstBits uint64) error {
	h, err := link.Open(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := h.ByName(device)
	if err != nil {
		return err
	}
	rate, burst := rateBits/8, min(burstBits/8, 1<<31-1)
	if burst == 0 {
		burst = 128 << 10
	}
	bucket := &netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate: rate, Buffer: uint32(float64(burst) * netlink.TickInUsec() * netlink.TIME_UNITS_PER_SEC / float64(max(rate, 1))),
		Limit: uint32(min(float64(rate)*queueSeconds+float64(burst), 1<<32-1))}
	err = h.Netlink().QdiscReplace(bucket)
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("limiting the bandwidth of %s: the kernel has no token bucket (remedy: modprobe sch_tbf): %w", device, err)
	}
	if err != nil {
		return fmt.Errorf("limiting the bandwidth of %s: %w", device, err)
	}
	return nil
}
