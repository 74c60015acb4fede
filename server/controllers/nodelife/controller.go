// Package nodelife watches over nodes. A node whose lease stands still for 40
// seconds is not believed any more: its conditions become Unknown and its pods
// unready. Conditions turn into taints, and pods that do not tolerate a NoExecute
// taint are deleted when their time is over.
//
// Nothing ticks: a lease's renewal only notes the time, and one timer per node
// looks whether there was one. The node's clock is not trusted; what counts is when the
// change of its lease was seen here. Start reading at Specs, then makePlan and
// eviction (pure).
package nodelife

import (
	"context"
	"fmt"
	"sync"
	"time"

	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/events"
	"orch/api/reconcile"
	"orch/server/controllers/workpod"
)

// Deps is what the controllers need.
type Deps struct {
	Client *client.Client
	Events *events.Recorder // may be nil
	Now    func() time.Time
}

type controller struct {
	Deps

	mu    sync.Mutex
	heard map[string]time.Time // by node: when it was last seen alive; guarded by mu
}

// Specs are the controllers of nodes and of evictions by taint.
func Specs(d Deps) []reconcile.Spec {
	c := &controller{Deps: d, heard: map[string]time.Time{}}
	c.Events = d.Events.As("node-controller")
	e := &evictor{Deps: d, since: map[reconcile.Key]waiting{}}
	e.Events = d.Events.As("taint-eviction-controller")
	return []reconcile.Spec{
		{Name: "nodelife", Workers: 4, Do: c.do, Watches: []reconcile.Watch{
			reconcile.Map(api.Nodes, c.ofNode), reconcile.Map(api.Leases, c.ofLease)}},
		{Name: "tainteviction", Workers: 8, Do: e.do, Watches: []reconcile.Watch{
			reconcile.Map(api.Pods, e.ofPod), reconcile.Map(api.Nodes, e.ofNode)}},
	}
}

func (c *controller) ofNode(was, is *core.Node) []reconcile.Key {
	c.mu.Lock()
	defer c.mu.Unlock()
	if is == nil {
		delete(c.heard, was.Name)
		c.Events.Event(was, core.EventTypeNormal, "RemovingNode", "Node %s event: Removing Node %s from Controller", was.Name, was.Name)
		return c.othersLocked(was.Name)
	}
	if was == nil {
		c.Events.Event(is, core.EventTypeNormal, "RegisteredNode", "Node %s event: Registered Node %s in Controller", is.Name, is.Name)
	}
	if _, known := c.heard[is.Name]; !known || heartbeat(was) != heartbeat(is) {
		c.heard[is.Name] = c.Now()
	}
	keys := []reconcile.Key{{Name: is.Name}}
	if was == nil || isReady(was) != isReady(is) {
		keys = append(keys, c.othersLocked(is.Name)...) // whether all are down may have changed
	}
	return keys
}

// heartbeat is the time that the node itself wrote last.
func heartbeat(n *core.Node) metav1.Time {
	var t metav1.Time
	if n != nil {
		for _, c := range n.Status.Conditions {
			if c.Type == core.NodeReady {
				t = c.LastHeartbeatTime
			}
		}
	}
	return t
}

func isReady(n *core.Node) bool {
	return statusOf(n.Status.Conditions, core.NodeReady) == core.ConditionTrue
}

func (c *controller) othersLocked(name string) []reconcile.Key {
	var keys []reconcile.Key
	for n := range c.heard {
		if n != name {
			keys = append(keys, reconcile.Key{Name: n})
		}
	}
	return keys
}

// ofLease notes a renewal. The node itself need not be looked at: its timer does.
func (c *controller) ofLease(_, is *coordination.Lease) []reconcile.Key {
	if is == nil || is.Namespace != api.NamespaceNodeLease {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard[is.Name] = c.Now()
	return nil
}

func (c *controller) do(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	n := client.Cached(c.Client, api.Nodes, "", key.Name)
	if n == nil {
		return reconcile.Result{}, nil
	}
	now := c.Now()
	c.mu.Lock()
	heard := c.heard[n.Name]
	c.mu.Unlock()
	p := makePlan(n, heard, c.allDown(n.Name), now)
	var err error
	if n, err = c.writeConditions(ctx, n, p); err != nil {
		return reconcile.Result{}, err
	}
	if p.lost {
		c.Events.Event(n, core.EventTypeNormal, "NodeNotReady", "Node %s status is now: NodeNotReady", n.Name)
	}
	if statusOf(p.conditions, core.NodeReady) == core.ConditionUnknown {
		if err := c.unreadyPods(ctx, n.Name, now); err != nil {
			return reconcile.Result{}, err
		}
	}
	return reconcile.Result{After: p.after}, c.writeTaints(ctx, n, p.taints)
}

// allDown tells whether no node is ready, but for the one asked about.
func (c *controller) allDown(but string) bool {
	down := true
	c.Client.Each(api.Nodes.Facts, "", func(o api.Object) bool {
		down = o.GetName() == but || !isReady(o.(*core.Node))
		return down
	})
	return down
}

func (c *controller) writeConditions(ctx context.Context, n *core.Node, p plan) (*core.Node, error) {
	if equality.Semantic.DeepEqual(n.Status.Conditions, p.conditions) {
		return n, nil
	}
	next := *n
	next.Status.Conditions = p.conditions
	out, err := client.UpdateStatus(ctx, c.Client, api.Nodes, &next)
	if err != nil {
		return nil, fmt.Errorf("writing conditions: %w", err)
	}
	return out, nil
}

func (c *controller) writeTaints(ctx context.Context, n *core.Node, taints []core.Taint) error {
	if equality.Semantic.DeepEqual(n.Spec.Taints, taints) {
		return nil
	}
	next := *n
	next.Spec.Taints = taints
	if _, err := client.Update(ctx, c.Client, api.Nodes, &next); err != nil {
		return fmt.Errorf("writing taints: %w", err)
	}
	return nil
}

// unreadyPods takes the pods of a silent node out of service.
func (c *controller) unreadyPods(ctx context.Context, node string, now time.Time) error {
	var ready []*core.Pod
	c.Client.Each(api.Pods.Facts, "", func(o api.Object) bool {
		if p := o.(*core.Pod); p.Spec.NodeName == node && workpod.Ready(p) {
			ready = append(ready, p)
		}
		return true
	})
	for _, p := range ready {
		next := p.DeepCopy()
		cond := workpod.Condition(next, core.PodReady)
		cond.Status, cond.Reason, cond.LastTransitionTime = core.ConditionFalse, "NodeNotReady", metav1.NewTime(now.Truncate(time.Second))
		if _, err := client.UpdateStatus(ctx, c.Client, api.Pods, next); err != nil {
			if apierrors.IsNotFound(err) {
				continue
			}
			return fmt.Errorf("taking pod %s/%s out of service: %w", p.Namespace, p.Name, err)
		}
		c.Events.Event(p, core.EventTypeWarning, "NodeNotReady", "Node is not ready")
	}
	return nil
}
