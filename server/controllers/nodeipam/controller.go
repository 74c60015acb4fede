// Package nodeipam gives every node its part of the cluster CIDR for its pods.
// Start reading at Specs, then next (pure).
package nodeipam

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
	"orch/api/events"
	"orch/api/reconcile"
)

// Bits of a node's part, as upstream's defaults.
const (
	nodeBits4 = 24
	nodeBits6 = 64
)

type controller struct {
	client *client.Client
	events *events.Recorder
	ranges []netip.Prefix

	mu    sync.Mutex
	given map[string][]netip.Prefix // by node; guarded by mu
}

// Specs is the controller of node CIDRs. clusterCIDR is one range, or one of each
// family with a comma between. rec may be nil.
func Specs(c *client.Client, rec *events.Recorder, clusterCIDR string) ([]reconcile.Spec, error) {
	n := &controller{client: c, events: rec.As("cidrAllocator"), given: map[string][]netip.Prefix{}}
	for _, s := range strings.Split(clusterCIDR, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil {
			return nil, fmt.Errorf("reading cluster CIDR %q: %w", clusterCIDR, err)
		}
		if p.Bits() > nodeBits(p) {
			return nil, fmt.Errorf("reading cluster CIDR %q: it is smaller than one node's part, a /%d", clusterCIDR, nodeBits(p))
		}
		n.ranges = append(n.ranges, p.Masked())
	}
	return []reconcile.Spec{{Name: "nodeipam", Watches: []reconcile.Watch{reconcile.Map(api.Nodes, n.ofNode)}, Do: n.do}}, nil
}

func nodeBits(p netip.Prefix) int {
	if p.Addr().Is4() {
		return nodeBits4
	}
	return nodeBits6
}

// ofNode notes which parts are taken; nodes without one are looked at.
func (c *controller) ofNode(was, is *core.Node) []reconcile.Key {
	c.mu.Lock()
	defer c.mu.Unlock()
	if is == nil {
		delete(c.given, was.Name)
		return c.waitingLocked() // somebody may have found nothing left
	}
	if len(is.Spec.PodCIDRs) == 0 && is.Spec.PodCIDR == "" {
		if was == nil || len(was.Spec.PodCIDRs) > 0 {
			return []reconcile.Key{{Name: is.Name}}
		}
		return nil
	}
	c.given[is.Name] = parts(is)
	return nil
}

func (c *controller) waitingLocked() []reconcile.Key {
	return reconcile.Keys(c.client, api.Nodes, "", func(n *core.Node) bool { return len(n.Spec.PodCIDRs) == 0 && n.Spec.PodCIDR == "" })
}

func parts(n *core.Node) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range append([]string{n.Spec.PodCIDR}, n.Spec.PodCIDRs...) {
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

func (c *controller) do(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	n := client.Cached(c.client, api.Nodes, "", key.Name)
	if n == nil || len(n.Spec.PodCIDRs) > 0 || n.Spec.PodCIDR != "" {
		return reconcile.Result{}, nil
	}
	mine, ok := c.take(n.Name)
	if !ok {
		c.events.Event(n, core.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: CIDRNotAvailable", n.Name)
		return reconcile.Result{}, reconcile.Terminal(fmt.Errorf("no part of the cluster CIDR is left for node %s", n.Name))
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": n.UID}, "spec": map[string]any{"podCIDR": mine[0], "podCIDRs": mine}})
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("encoding patch: %w", err)
	}
	_, err = client.Patch(ctx, c.client, api.Nodes, client.Target{Name: n.Name}, types.MergePatchType, body)
	if err != nil {
		c.release(n.Name)
		if apierrors.IsNotFound(err) {
			return reconcile.Result{}, nil
		}
		return reconcile.Result{}, fmt.Errorf("writing pod CIDR: %w", err)
	}
	return reconcile.Result{}, nil
}

// take reserves a part of every range for the node.
func (c *controller) take(node string) ([]netip.Prefix, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var used []netip.Prefix
	for _, p := range c.given {
		used = append(used, p...)
	}
	var mine []netip.Prefix
	for _, r := range c.ranges {
		p, ok := next(r, nodeBits(r), used)
		if !ok {
			return nil, false
		}
		mine = append(mine, p)
	}
	c.given[node] = mine
	return mine, true
}

func (c *controller) release(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.given, node)
}

// next is the lowest part of the range that overlaps none that is used.
func next(whole netip.Prefix, bits int, used []netip.Prefix) (netip.Prefix, bool) {
	taken := make(map[netip.Prefix]bool, len(used))
	var odd []netip.Prefix // of other sizes: compared one by one
	for _, u := range used {
		if u.Bits() == bits {
			taken[u] = true
		} else {
			odd = append(odd, u)
		}
	}
	for a := whole.Addr(); whole.Contains(a); {
		p := netip.PrefixFrom(a, bits)
		if !taken[p] && !overlaps(p, odd) {
			return p, true
		}
		var ok bool
		if a, ok = after(a, bits); !ok {
			break
		}
	}
	return netip.Prefix{}, false
}

func overlaps(p netip.Prefix, others []netip.Prefix) bool {
	for _, o := range others {
		if p.Overlaps(o) {
			return true
		}
	}
	return false
}

// after is the first address behind the prefix of that length that begins at a.
func after(a netip.Addr, bits int) (netip.Addr, bool) {
	b := a.AsSlice()
	for i := (bits - 1) / 8; i >= 0; i-- {
		step := 1
		if i == (bits-1)/8 {
			step = 1 << (7 - (bits-1)%8)
		}
		sum := int(b[i]) + step
		b[i] = byte(sum)
		if sum < 256 {
			next, _ := netip.AddrFromSlice(b)
			return next, true
		}
	}
	return netip.Addr{}, false
}
