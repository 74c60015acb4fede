package gpus

import (
	"context"
	"fmt"
	"time"

	core "k8s.io/api/core/v1"

	"orch/agent/devices"
	"orch/gpu/alloc"
	"orch/gpu/device"
	"orch/gpu/health"
)

// Unit is a card or MIG device that is not healthy.
type Unit struct {
	// UUID is the card's; GI the GPU instance, -1 for the card itself.
	UUID string
	GI   int
	// Draining: it waits for those that hold it to be gone. Evict: they are to be sent away.
	Draining, Evict bool
	// State is health's word, Sentence says why and what follows.
	State, Sentence string
	// Taints are those of the unit's devices in the API.
	Taints []health.Taint
}

// Notice is something to be told as an event of the node.
type Notice struct {
	Seq                   uint64
	Type, Reason, Message string
}

// Care is what this package does for sick units beside not giving them out.
type Care struct {
	// Drained is told that nobody holds a unit any more.
	Drained func(ctx context.Context, uuid string, gi int) error
	// Evict sends a pod away; asking again changes nothing.
	Evict func(ctx context.Context, h devices.Holding, why string) error
	// Event tells of the node.
	Event func(eventType, reason, message string)
	// Holdings are those of the ledger.
	Holdings func() []devices.Holding
}

// retryCare is how long after a failure sick units are looked after again.
const retryCare = 10 * time.Second

// carer looks after sick units; it belongs to one goroutine.
type carer struct {
	*GPUs
	care Care
	told uint64 // the last notice that became an event
}

// Tend looks after sick units until ctx ends: whenever what is known changes, and when
// released has something in it, because a pod gave its devices back.
func (g *GPUs) Tend(ctx context.Context, care Care, released <-chan struct{}) error {
	c := carer{GPUs: g, care: care}
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		changed := g.Changed()
		if err := c.tend(ctx); err != nil && ctx.Err() == nil {
			g.config.Log.Warn("looking after GPUs failed", "err", err)
			again.Reset(retryCare)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-released:
		case <-again.C:
		}
	}
}

// tend does what is due once.
func (c *carer) tend(ctx context.Context) error {
	v := c.config.Look()
	for _, n := range v.Notices {
		if n.Seq > c.told {
			c.told = n.Seq
			c.care.Event(n.Type, n.Reason, n.Message)
		}
	}
	for _, u := range v.Units {
		if !u.Draining {
			continue
		}
		holders := c.holders(v.Machine, u)
		if len(holders) == 0 {
			if err := c.care.Drained(ctx, u.UUID, u.GI); err != nil {
				return fmt.Errorf("telling that GPU %s is free: %w", u.UUID, err)
			}
			continue
		}
		for _, h := range holders {
			if !u.Evict || h.Pod == "" { // a claim that is being given back
				continue
			}
			if err := c.care.Evict(ctx, h, u.Sentence); err != nil {
				return fmt.Errorf("evicting pod %s/%s: %w", h.Namespace, h.Pod, err)
			}
		}
	}
	return nil
}

// holders are those of the unit, and for a card those of its parts.
func (c *carer) holders(m device.Machine, u Unit) []devices.Holding {
	var out []devices.Holding
	for _, h := range c.care.Holdings() {
		if h.Claim.Admin { // it watches, and computes nothing
			continue
		}
		for _, id := range h.IDs {
			if on(m, id, u) {
				out = append(out, h)
				break
			}
		}
	}
	return out
}

func on(m device.Machine, id string, u Unit) bool {
	uuid := alloc.DeviceOf(id)
	if uuid == u.UUID {
		return true // a card's own unit; a part of it is another's trouble too
	}
	d, ok := m.MIGDevice(uuid)
	return ok && d.Parent == u.UUID && (u.GI < 0 || u.GI == d.GI)
}

// Conditioned turns a condition of the inventory into the node's.
func Conditioned(kind, status, reason, message string) core.NodeCondition {
	return core.NodeCondition{Type: core.NodeConditionType(kind), Status: core.ConditionStatus(status), Reason: reason, Message: message}
}
