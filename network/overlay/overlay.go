// Package overlay joins the pod networks of nodes: packets to another node's pod
// range go through a VXLAN tunnel (the default, over any network between the
// nodes), or straight to the node where all share a segment (host-gw). It is
// told who the other nodes are, and makes the kernel's state equal to that,
// again whenever somebody changes it. It assigns no ranges and reads no objects.
// Start reading at Overlay.Run; what is to change is decided in plan.go.
//
// The tunnel end of a node has the first address of its pod range (10.42.1.0/32)
// and a hardware address made from it, so nodes need to tell each other nothing
// but range and address. Routes carry a protocol number of ours; others' are
// never touched.
package overlay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"orch/network/link"
	"orch/network/netns"
)

// Backends.
const (
	VXLAN  = "vxlan"
	HostGW = "host-gw"
)

// MACAnnotation on a Node tells the hardware address of its tunnel end, for
// those who don't compute it.
const MACAnnotation = "orch.io/vtep-mac"

// Config of an Overlay.
type Config struct {
	Backend string // VXLAN or HostGW; empty: VXLAN
	Device  string // of the tunnel; empty: orch.1
	VNI     int    // 0: 1
	Port    int    // UDP; 0: 8472
	NodeIP  netip.Addr
	PodCIDR netip.Prefix
	// Offload leaves checksums of tunnelled packets to the network card. Off by
	// default: several virtual cards get them wrong.
	Offload bool
	// NetNS is the path of the node's network namespace; empty: the process's own.
	NetNS string
	Log   *slog.Logger
}

// Peer is another node.
type Peer struct {
	Name    string
	NodeIP  netip.Addr
	PodCIDR netip.Prefix
	// MAC of its tunnel end; nil: computed.
	MAC net.HardwareAddr
}

// Overlay keeps the way to the other nodes.
type Overlay struct {
	cfg  Config
	wake chan struct{} // room for one: there is something to do

	mu    sync.Mutex // guards all below
	peers map[string]Peer
	// settled is closed and replaced when the kernel's state was made equal to peers.
	settled chan struct{}
	synced  bool
	seq     uint64
	doneSeq uint64
	lastErr error
}

// New validates the configuration. It makes nothing yet.
func New(cfg Config) (*Overlay, error) {
	switch cfg.Backend {
	case "":
		cfg.Backend = VXLAN
	case VXLAN, HostGW:
	default:
		return nil, fmt.Errorf("unknown network backend %q (there are %s and %s)", cfg.Backend, VXLAN, HostGW)
	}
	if !cfg.PodCIDR.IsValid() || !cfg.NodeIP.Is4() || !cfg.PodCIDR.Addr().Is4() {
		return nil, errors.New("the overlay needs the node's IPv4 address and pod range")
	}
	if cfg.Device == "" {
		cfg.Device = "orch.1"
	}
	if cfg.VNI == 0 {
		cfg.VNI = 1
	}
	if cfg.Port == 0 {
		cfg.Port = 8472
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Overlay{cfg: cfg, wake: make(chan struct{}, 1), peers: map[string]Peer{}, settled: make(chan struct{}), seq: 1}, nil
}

// Annotations are what the own Node may say about the tunnel.
func (o *Overlay) Annotations() map[string]string {
	if o.cfg.Backend != VXLAN {
		return nil
	}
	return map[string]string{MACAnnotation: tunnelMAC(o.cfg.PodCIDR).String()}
}

func tunnelMAC(pods netip.Prefix) net.HardwareAddr { return link.MACFor(pods.Masked().Addr()) }

// overhead is what VXLAN over IPv4 puts in front of a packet.
const overhead = 50

// defaultMTU is assumed while the device below isn't there.
const defaultMTU = 1500

// MTU is what pods may send, so that it passes to other nodes in one piece.
func (o *Overlay) MTU() int {
	mtu := defaultMTU
	if h, err := link.Open(o.cfg.NetNS); err == nil {
		defer h.Close()
		if below, err := o.below(h); err == nil {
			mtu = below.Attrs().MTU
		}
	}
	if o.cfg.Backend == VXLAN {
		mtu -= overhead
	}
	return min(mtu, 65535-overhead)
}

// below finds the device that has the node's address.
func (o *Overlay) below(h *link.Handle) (netlink.Link, error) {
	all, err := link.Dump(func() ([]netlink.Addr, error) { return h.Netlink().AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	for _, a := range all {
		if p, ok := link.Prefix(a.IPNet); ok && p.Addr() == o.cfg.NodeIP {
			l, err := h.Netlink().LinkByIndex(a.LinkIndex)
			if err != nil {
				return nil, fmt.Errorf("finding the device of %s: %w", o.cfg.NodeIP, err)
			}
			return l, nil
		}
	}
	return nil, fmt.Errorf("no device has the node's address %s", o.cfg.NodeIP)
}

// SetPeer adds or changes a node. A peer that is the node itself, or not
// complete, is as good as removed.
func (o *Overlay) SetPeer(p Peer) {
	if p.NodeIP == o.cfg.NodeIP || p.PodCIDR == o.cfg.PodCIDR || !p.NodeIP.Is4() || !p.PodCIDR.IsValid() || !p.PodCIDR.Addr().Is4() {
		o.RemovePeer(p.Name)
		return
	}
	p.PodCIDR = p.PodCIDR.Masked()
	if p.MAC == nil {
		p.MAC = tunnelMAC(p.PodCIDR)
	}
	o.change(func() bool {
		old, had := o.peers[p.Name]
		o.peers[p.Name] = p
		return !had || old.NodeIP != p.NodeIP || old.PodCIDR != p.PodCIDR || !slices.Equal(old.MAC, p.MAC)
	})
}

// Synced says that all nodes of the first list were set. Before, the ways that an
// earlier run left stay: pods of different nodes talk on through a restart.
func (o *Overlay) Synced() {
	o.change(func() bool {
		first := !o.synced
		o.synced = true
		return first
	})
}

// RemovePeer forgets a node.
func (o *Overlay) RemovePeer(name string) {
	o.change(func() bool {
		_, had := o.peers[name]
		delete(o.peers, name)
		return had
	})
}

func (o *Overlay) change(f func() bool) {
	o.mu.Lock()
	changed := f()
	if changed {
		o.seq++
	}
	o.mu.Unlock()
	if changed {
		o.poke()
	}
}

func (o *Overlay) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// Sync waits until the kernel knows all peers that were set before.
func (o *Overlay) Sync(ctx context.Context) error {
	o.mu.Lock()
	seq := o.seq
	o.mu.Unlock()
	for {
		o.mu.Lock()
		done, settled := o.doneSeq >= seq, o.settled
		o.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-settled:
		case <-ctx.Done():
			o.mu.Lock()
			defer o.mu.Unlock()
			return errors.Join(ctx.Err(), o.lastErr)
		}
	}
}

const (
	// calm is how long changes of the kernel's state are collected: a network
	// manager makes many in a row.
	calm      = 20 * time.Millisecond
	retryMost = 30 * time.Second
)

// Run keeps the tunnel and the routes until ctx ends, and leaves them: pods of
// different nodes talk on while orch is away.
func (o *Overlay) Run(ctx context.Context) error {
	h, err := link.Open(o.cfg.NetNS)
	if err != nil {
		return err
	}
	defer h.Close()
	stop, err := o.watch()
	if err != nil {
		return err
	}
	defer stop()
	o.poke() // the first round runs even without peers, and makes the device
	retry := time.Second
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-o.wake:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(calm):
		}
		if err := o.step(h); err != nil {
			o.cfg.Log.Error("pods of other nodes are out of reach", "err", err, "retry", retry)
			t := time.AfterFunc(retry, o.poke)
			defer t.Stop() // at most one at a time matters; all end with Run
			retry = min(2*retry, retryMost)
			continue
		}
		retry = time.Second
	}
}

// step makes the kernel's state right once.
func (o *Overlay) step(h *link.Handle) error {
	o.mu.Lock()
	seq, peers := o.seq, slices.SortedFunc(maps.Values(o.peers), func(a, b Peer) int { return a.PodCIDR.Addr().Compare(b.PodCIDR.Addr()) })
	synced := o.synced
	o.mu.Unlock()
	err := o.apply(h, peers, synced)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lastErr = err
	if err == nil {
		o.doneSeq = seq
		close(o.settled)
		o.settled = make(chan struct{})
	}
	return err
}

func (o *Overlay) apply(h *link.Handle, peers []Peer, remove bool) error {
	below, err := o.below(h)
	if err != nil {
		return err
	}
	dev := below
	if o.cfg.Backend == VXLAN {
		if dev, err = o.tunnel(h, below); err != nil {
			return err
		}
	} else if err := h.Delete(o.cfg.Device); err != nil { // of the other backend, earlier
		return err
	}
	have, err := read(h, dev, o.cfg.Backend)
	if err != nil {
		return err
	}
	todo := plan(o.cfg.Backend, peers, have)
	if !remove {
		todo.remove = state{}
	}
	return carryOut(h, dev, todo)
}

func (o *Overlay) tunnel(h *link.Handle, below netlink.Link) (netlink.Link, error) {
	dev, err := h.EnsureVXLAN(link.VXLAN{Name: o.cfg.Device, ID: o.cfg.VNI, Port: o.cfg.Port, MTU: below.Attrs().MTU - overhead, MAC: tunnelMAC(o.cfg.PodCIDR), Local: o.cfg.NodeIP,
		Device: below.Attrs().Index, Addr: netip.PrefixFrom(o.cfg.PodCIDR.Masked().Addr(), 32)})
	if err != nil {
		return nil, err
	}
	if err := h.ChecksumOffload(o.cfg.Device, o.cfg.Offload); err != nil {
		o.cfg.Log.Warn("checksums of tunnelled packets stay as the device has them", "err", err)
	}
	return dev, nil
}

// watch pokes when somebody else deletes a route of ours, or any device comes,
// goes or changes that may be ours or below ours.
func (o *Overlay) watch() (stop func(), err error) {
	var sock *nl.NetlinkSocket
	err = netns.Do(o.cfg.NetNS, func() (err error) {
		sock, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_IFADDR)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listening to network changes: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			msgs, _, err := sock.Receive()
			if errors.Is(err, unix.ENOBUFS) {
				o.poke()
				continue
			}
			if err != nil {
				return // closed
			}
			for _, m := range msgs {
				if o.concerns(m.Header.Type, m.Data) {
					o.poke()
				}
			}
		}
	}()
	return func() { sock.Close(); <-ended }, nil
}

// concerns reports events that may have broken our state. Veth ends of pods come
// and go all the time and are none.
func (o *Overlay) concerns(kind uint16, data []byte) bool {
	switch kind {
	case unix.RTM_DELROUTE:
		return len(data) > 5 && data[5] == protocol
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return attributeIs(data, unix.SizeofIfAddrmsg, unix.IFA_LOCAL, o.cfg.NodeIP.AsSlice())
	case unix.RTM_DELLINK, unix.RTM_NEWLINK:
		return attributeIs(data, unix.SizeofIfInfomsg, unix.IFLA_IFNAME, append([]byte(o.cfg.Device), 0)) &&
			(kind == unix.RTM_DELLINK || binary.NativeEndian.Uint32(data[8:])&unix.IFF_UP == 0)
	}
	return false
}

func attributeIs(data []byte, skip int, kind uint16, want []byte) bool {
	if len(data) < skip {
		return false
	}
	attrs, err := nl.ParseRouteAttr(data[skip:])
	if err != nil {
		return false
	}
	return slices.ContainsFunc(attrs, func(a syscallAttr) bool { return a.Attr.Type == kind && slices.Equal(a.Value, want) })
}
