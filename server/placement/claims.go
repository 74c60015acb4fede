package placement

import (
	"fmt"
	"slices"

	core "k8s.io/api/core/v1"

	"orch/server/placement/devices"
)

// attempt looks up what the pod asks for through claims; nil for nothing. The error is why
// no node will do.
func (c *Cluster) attempt(p *Pod) (*devices.Attempt, error) {
	if len(p.Spec.ResourceClaims)+len(p.Requests.Scalar) == 0 {
		return nil, nil
	}
	return c.Devices.Attempt(p.Pod, p.Requests.Scalar)
}

// dynamicResources asks whether the pod's claims can be had on a node, and units of devices
// beside them.
func dynamicResources(c *Cluster, p *Pod) check {
	a, err := c.attempt(p)
	if err != nil {
		return func(*Node) refusal { return refuseFor(err.Error()) }
	}
	if a == nil {
		return nil
	}
	return func(n *Node) refusal {
		why, unavailable, err := a.Fits(n.forDevices())
		switch {
		case err != nil:
			return refusal{err: fmt.Errorf("running %q filter plugin: %w", "DynamicResources", err)}
		case unavailable != nil:
			return refusal{reasons: []string{why}, helpless: true, unavailable: unavailable}
		case why != "":
			return refuse(why)
		case len(p.limits.Asks) == 0:
			return refusal{}
		}
		if _, _, err := c.grant(p, a, n); err != nil {
			return refuse("cannot allocate all claims")
		}
		return refusal{}
	}
}

// grant is what the pod gets on a node that fits: claims first, units from what they leave.
func (c *Cluster) grant(p *Pod, a *devices.Attempt, n *Node) (g devices.Grant, u devices.Units, err error) {
	if a != nil {
		if g, err = a.Grant(n.forDevices()); err != nil {
			return devices.Grant{}, nil, err
		}
	}
	if len(p.limits.Asks) == 0 {
		return g, nil, nil
	}
	if a != nil {
		c.Devices.Assume(p.UID, g)
		defer c.Devices.Forget(p.UID, g)
	}
	if u, err = c.Devices.Choose(n.Name, p.limits); err != nil {
		return devices.Grant{}, nil, err
	}
	return g, u, nil
}

// Reserve counts p on a node that it was promised, with its parts of cards and the devices of
// its claims as far as they are free, until undo is called; other is to be placed meanwhile. A claim that both
// name is left alone.
func (c *Cluster) Reserve(p *Pod, node string, other *Pod) (undo func()) {
	if p.limits.Parts() { // amounts are not counted: the pod has those that it would get now
		if u, err := c.Devices.Choose(node, p.limits); err == nil {
			p = p.With(u)
		}
	}
	c.AddPod(p, node)
	undo = func() { c.RemovePod(p.UID) }
	n := c.Node(node)
	if a, err := c.attempt(p); err == nil && a != nil && n != nil && !shareClaims(p, other) {
		if g, err := a.Grant(n.forDevices()); err == nil {
			c.Devices.Assume(p.UID, g)
			return func() {
				c.Devices.Forget(p.UID, g)
				c.RemovePod(p.UID)
			}
		}
	}
	return undo
}

func shareClaims(p, other *Pod) bool {
	return p.Namespace == other.Namespace && slices.ContainsFunc(p.Spec.ResourceClaims, func(a core.PodResourceClaim) bool {
		return a.ResourceClaimName != nil && slices.ContainsFunc(other.Spec.ResourceClaims, func(b core.PodResourceClaim) bool {
			return b.ResourceClaimName != nil && *a.ResourceClaimName == *b.ResourceClaimName
		})
	})
}

// preferFirstAlternatives prefers nodes where requests get what they list first.
func preferFirstAlternatives(c *Cluster, p *Pod, _ []*Node) func(*Node) int64 {
	a, err := c.attempt(p)
	if err != nil || a == nil || !a.HasAlternatives() {
		return nil
	}
	return func(n *Node) int64 { return a.Alternatives(n.forDevices()) }
}
