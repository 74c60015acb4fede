// Package statefulset keeps the pods of StatefulSets: each with a name, a place in the
// order, and claims of its own that outlive it. Pods come and go one after the other, or all at
// once where the set says so; templates are kept as ControllerRevisions. What it decides is upstream's.
// Start reading at Specs, then makePlan (pure).
package statefulset

import (
	"context"
	"fmt"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"orch/api"
	"orch/api/client"
	"orch/api/events"
	"orch/api/reconcile"
	"orch/server/controllers/history"
	"orch/server/controllers/workpod"
)

// Deps is what the controller needs.
type Deps struct {
	Client *client.Client
	Events *events.Recorder // may be nil
	Now    func() time.Time
}

type controller struct {
	Deps
	history history.Keeper
}

// Specs is the controller of StatefulSets.
func Specs(d Deps) []reconcile.Spec {
	c := &controller{Deps: d, history: history.Keeper{Client: d.Client}}
	c.Events = d.Events.As("statefulset-controller")
	return []reconcile.Spec{{Name: "statefulset", Workers: 5, Do: c.do, Watches: []reconcile.Watch{
		reconcile.For(api.StatefulSets),
		reconcile.Owns(api.StatefulSets, api.Pods),
		workpod.Adopts(d.Client, api.StatefulSets, api.Pods, wants),
		reconcile.Owns(api.StatefulSets, api.ControllerRevisions),
		reconcile.Map(api.PersistentVolumeClaims, c.claimGone),
	}}}
}

func wants(s *apps.StatefulSet, p *core.Pod) bool {
	return memberOf(s, p) && workpod.Selects(s.Spec.Selector, p.Labels)
}

// claimGone wakes the sets that may wait for a claim to go, before they make it anew.
func (c *controller) claimGone(was, is *core.PersistentVolumeClaim) []reconcile.Key {
	if was == nil || is != nil {
		return nil
	}
	return reconcile.Keys(c.Client, api.StatefulSets, was.Namespace, func(s *apps.StatefulSet) bool {
		return len(s.Spec.VolumeClaimTemplates) > 0 && workpod.Selects(s.Spec.Selector, was.Labels)
	})
}

func (c *controller) do(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	s := client.Cached(c.Client, api.StatefulSets, key.Namespace, key.Name)
	if s == nil {
		return reconcile.Result{}, nil
	}
	sel, err := workpod.Selector(s.Spec.Selector)
	if err != nil {
		return reconcile.Result{}, reconcile.Terminal(fmt.Errorf("reading selector: %w", err))
	}
	mine := func(p *core.Pod) bool { return memberOf(s, p) && sel.Matches(labels.Set(p.Labels)) }
	pods, err := workpod.ClaimIf(s, mine, client.CachedList(c.Client, api.Pods, key.Namespace, nil)).Apply(ctx, c.Client, api.Pods, api.StatefulSets.Facts, s)
	if err != nil {
		return reconcile.Result{}, err
	}
	r, err := c.revisions(ctx, s, sel)
	if err != nil {
		return reconcile.Result{}, err
	}
	p := makePlan(observed{set: s, pods: pods, current: r.current, update: r.update, collisions: r.collisions, now: c.Now(),
		claim: func(name string) *core.PersistentVolumeClaim {
			return client.Cached(c.Client, api.PersistentVolumeClaims, s.Namespace, name)
		}})
	failed := c.act(ctx, s, p)
	if err := c.writeStatus(ctx, s, p.status); err != nil && failed == nil {
		failed = err
	}
	if failed == nil {
		failed = c.forget(ctx, s, r, pods)
	}
	return reconcile.Result{After: p.after}, failed
}

func (c *controller) writeStatus(ctx context.Context, s *apps.StatefulSet, status apps.StatefulSetStatus) error {
	next := *s // shallow: only the status differs
	next.Status = status
	return client.WriteStatus(ctx, c.Client, api.StatefulSets, s, &next)
}
