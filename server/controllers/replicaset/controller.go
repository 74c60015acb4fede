// Package replicaset keeps as many pods as a ReplicaSet or a
// ReplicationController asks for: it creates and deletes pods, adopts and
// releases them by label, and counts them in the status. Both kinds go through the
// same plan; a ReplicationController is seen as a ReplicaSet.
// Start reading at Specs, then makePlan (pure).
package replicaset

import (
	"context"
	"fmt"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
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

// Specs are the controllers of ReplicaSets and ReplicationControllers.
func Specs(d Deps) []reconcile.Spec {
	rs := &controller{Deps: d, kind: api.ReplicaSets.Facts, read: d.replicaSet, write: d.writeReplicaSet}
	rs.Events = d.Events.As("replicaset-controller")
	rc := &controller{Deps: d, kind: api.ReplicationControllers.Facts, read: d.replicationController, write: d.writeReplicationController}
	rc.Events = d.Events.As("replication-controller")
	return []reconcile.Spec{
		{Name: "replicaset", Workers: 5, Do: rs.do, Watches: []reconcile.Watch{
			reconcile.For(api.ReplicaSets), reconcile.Owns(api.ReplicaSets, api.Pods), workpod.Adopts(d.Client, api.ReplicaSets, api.Pods,
				func(s *apps.ReplicaSet, p *core.Pod) bool { return workpod.Selects(s.Spec.Selector, p.Labels) })}},
		{Name: "replicationcontroller", Workers: 2, Do: rc.do, Watches: []reconcile.Watch{
			reconcile.For(api.ReplicationControllers), reconcile.Owns(api.ReplicationControllers, api.Pods), workpod.Adopts(d.Client, api.ReplicationControllers, api.Pods,
				func(c *core.ReplicationController, p *core.Pod) bool {
					return workpod.Selects(&metav1.LabelSelector{MatchLabels: c.Spec.Selector}, p.Labels)
				})}},
	}
}

// controller is one of the two; read and write translate the kind.
type controller struct {
	Deps
	kind  *api.Facts
	read  func(namespace, name string) (api.Object, *apps.ReplicaSet) // nil, nil if there is none
	write func(ctx context.Context, o api.Object, s apps.ReplicaSetStatus) error
}

func (c *controller) do(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	owner, rs := c.read(key.Namespace, key.Name)
	if rs == nil {
		return reconcile.Result{}, nil
	}
	sel, err := workpod.Selector(rs.Spec.Selector)
	if err != nil {
		return reconcile.Result{}, reconcile.Terminal(fmt.Errorf("reading selector: %w", err))
	}
	claim := workpod.ClaimOf(owner, sel, client.CachedList(c.Client, api.Pods, key.Namespace, nil))
	pods, err := claim.Apply(ctx, c.Client, api.Pods, c.kind, owner)
	if err != nil {
		return reconcile.Result{}, err
	}
	now := c.Now()
	p := makePlan(rs, pods, func() []*core.Pod { return c.siblings(owner, pods) }, now)
	failed := c.act(ctx, owner, rs, p)
	status := p.status
	noteFailure(&status, p, failed, now)
	if err := c.write(ctx, owner, status); err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{After: p.after}, failed
}

func (c *controller) act(ctx context.Context, owner api.Object, rs *apps.ReplicaSet, p plan) error {
	actor := workpod.Actor{Client: c.Client, Events: c.Events, Owner: owner}
	if len(p.remove) > 0 {
		return actor.Delete(ctx, p.remove)
	}
	_, err := actor.Create(ctx, p.create, func(int) *core.Pod { return workpod.FromTemplate(&rs.Spec.Template, c.kind, owner) })
	return err
}

// siblings are the pods of all sets that share the set's controller, or its own.
func (c *controller) siblings(owner api.Object, own []*core.Pod) []*core.Pod {
	boss := metav1.GetControllerOfNoCopy(owner)
	if boss == nil {
		return own
	}
	family := map[any]bool{}
	c.Client.Each(c.kind, owner.GetNamespace(), func(o api.Object) bool {
		if ref := metav1.GetControllerOfNoCopy(o); ref != nil && ref.UID == boss.UID {
			family[o.GetUID()] = true
		}
		return true
	})
	if len(family) == 1 {
		return own
	}
	var out []*core.Pod
	c.Client.Each(api.Pods.Facts, owner.GetNamespace(), func(o api.Object) bool {
		if ref := metav1.GetControllerOfNoCopy(o); ref != nil && family[ref.UID] {
			out = append(out, o.(*core.Pod))
		}
		return true
	})
	return out
}
