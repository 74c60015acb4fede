// Package daemonset keeps a pod of every DaemonSet on every node that it is for, and
// rolls new templates out node by node, within maxUnavailable or maxSurge. Templates
// are kept as ControllerRevisions. The scheduler binds the pods, which name their node in an
// affinity. What it decides is upstream's. Start reading at Specs, then makePlan (pure).
package daemonset

import (
	"context"
	"fmt"
	"maps"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
	backoff *backoff
}

// Specs is the controller of DaemonSets.
func Specs(d Deps) []reconcile.Spec {
	c := &controller{Deps: d, history: history.Keeper{Client: d.Client}, backoff: newBackoff(d.Now)}
	c.Events = d.Events.As("daemonset-controller")
	return []reconcile.Spec{{Name: "daemonset", Workers: 2, Do: c.do, Watches: []reconcile.Watch{
		reconcile.For(api.DaemonSets),
		reconcile.Owns(api.DaemonSets, api.Pods),
		workpod.Adopts(d.Client, api.DaemonSets, api.Pods, wants),
		reconcile.Owns(api.DaemonSets, api.ControllerRevisions),
		reconcile.Map(api.Nodes, c.node),
	}}}
}

func wants(d *apps.DaemonSet, p *core.Pod) bool { return workpod.Selects(d.Spec.Selector, p.Labels) }

// node wakes the sets that want a node more, or less, than before.
func (c *controller) node(was, is *core.Node) []reconcile.Key {
	if was != nil && is != nil && maps.Equal(was.Labels, is.Labels) && equality.Semantic.DeepEqual(was.Spec.Taints, is.Spec.Taints) {
		return nil
	}
	return reconcile.Keys(c.Client, api.DaemonSets, "", func(d *apps.DaemonSet) bool {
		choose := newChooser(d)
		wanted := func(n *core.Node) [2]bool {
			if n == nil {
				return [2]bool{}
			}
			start, stay := choose.wants(n)
			return [2]bool{start, stay}
		}
		return wanted(was) != wanted(is) || (is == nil && was != nil)
	})
}

func (c *controller) do(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	d := client.Cached(c.Client, api.DaemonSets, key.Namespace, key.Name)
	if d == nil || d.DeletionTimestamp != nil {
		return reconcile.Result{}, nil // what it owned is the garbage collector's
	}
	sel, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return reconcile.Result{}, reconcile.Terminal(fmt.Errorf("reading selector: %w", err))
	}
	if sel.Empty() {
		c.Events.Event(d, core.EventTypeWarning, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.")
		return reconcile.Result{}, nil
	}
	claim := workpod.ClaimOf(d, sel, client.CachedList(c.Client, api.Pods, key.Namespace, nil))
	pods, err := claim.Apply(ctx, c.Client, api.Pods, api.DaemonSets.Facts, d)
	if err != nil {
		return reconcile.Result{}, err
	}
	current, old, err := c.revisions(ctx, d, sel, pods)
	if err != nil {
		return reconcile.Result{}, err
	}
	p := makePlan(observed{set: d, nodes: client.CachedList(c.Client, api.Nodes, "", nil), pods: pods,
		hash: current.Labels[apps.DefaultDaemonSetUniqueLabelKey], now: c.Now(), wait: func(node string) time.Duration { return c.backoff.wait(d, node) }})
	failed := c.act(ctx, d, p, current.Labels[apps.DefaultDaemonSetUniqueLabelKey])
	if failed == nil {
		failed = c.forget(ctx, d, old, pods)
	}
	if err := c.writeStatus(ctx, d, p.status); err != nil && failed == nil {
		failed = err
	}
	return reconcile.Result{After: p.after}, failed
}

func (c *controller) act(ctx context.Context, d *apps.DaemonSet, p plan, hash string) error {
	for _, pod := range p.failed {
		node, _ := target(pod)
		c.backoff.next(d, node)
		c.Events.Event(d, core.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s/%s on node %s, will try to kill it", pod.Namespace, pod.Name, node)
	}
	for _, pod := range p.succeeded {
		node, _ := target(pod)
		c.Events.Event(d, core.EventTypeNormal, "SucceededDaemonPod", "Found succeeded daemon pod %s/%s on node %s, will try to delete it", pod.Namespace, pod.Name, node)
	}
	actor := workpod.Actor{Client: c.Client, Events: c.Events, Owner: d}
	t := template(d, hash)
	_, err := actor.Create(ctx, len(p.create), func(i int) *core.Pod {
		pod := workpod.FromTemplate(t, api.DaemonSets.Facts, d)
		forNode(pod, p.create[i])
		return pod
	})
	if derr := actor.Delete(ctx, p.remove); err == nil {
		err = derr
	}
	return err
}

func (c *controller) writeStatus(ctx context.Context, d *apps.DaemonSet, s apps.DaemonSetStatus) error {
	next := *d // shallow: only the status differs
	next.Status = s
	return client.WriteStatus(ctx, c.Client, api.DaemonSets, d, &next)
}
