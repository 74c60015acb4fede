// Package devicetaint evicts the pods whose devices got a taint with the effect NoExecute
// which they do not tolerate, whether the device's driver set it (in a ResourceSlice) or an
// administrator (by a DeviceTaintRule), and says in a rule's status how far that is. Beside
// pods with claims it evicts plain ones, whose devices the scheduler or the agent chose:
// only a claim can tolerate a device's taint, so nothing keeps them there.
//
// Two loops share the work: one over pods, one over rules (status.go). What is tainted is kept
// in a view; what follows from it is pure (plan.go). Start reading at Specs.
package devicetaint

import (
	"context"
	"fmt"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
	"orch/api/events"
	"orch/api/reconcile"
	"orch/server/controllers/workpod"
)

// component speaks in the events, as upstream's controller does.
const component = "device-taint-eviction-controller"

// Deps is what the controller needs.
type Deps struct {
	Client *client.Client
	Events *events.Recorder
	Now    func() time.Time
}

type controller struct {
	client *client.Client
	events *events.Recorder
	now    func() time.Time
	view   *view

	mu sync.Mutex
	// pending are pods that are to be evicted later; evicted counts, by rule, the pods that were
	// since the start. Both are guarded by mu.
	pending map[reconcile.Key]types.UID
	evicted map[types.UID]int
}

// Specs are the two loops.
func Specs(d Deps) []reconcile.Spec {
	c := &controller{client: d.Client, events: d.Events.As(component), now: d.Now, view: newView(),
		pending: map[reconcile.Key]types.UID{}, evicted: map[types.UID]int{}}
	return []reconcile.Spec{
		{Name: "devicetaint", Workers: 8, Do: c.doPod, Watches: []reconcile.Watch{
			reconcile.Map(api.ResourceSlices, c.podsOfSlice), reconcile.Map(api.DeviceTaintRules, c.podsOfRule),
			reconcile.Map(api.ResourceClaims, podsOfClaim), reconcile.Map(api.Pods, c.podItself)}},
		{Name: "devicetaint-rules", Do: c.doRule, Watches: []reconcile.Watch{
			reconcile.Map(api.DeviceTaintRules, c.ruleItself), reconcile.Map(api.Pods, c.rulesOfPod)}},
	}
}

func (c *controller) podsOfSlice(was, is *resource.ResourceSlice) []reconcile.Key {
	before := c.view.evicts()
	c.view.slice(was, is)
	if !before && !c.view.evicts() {
		return nil
	}
	return c.users()
}

func (c *controller) podsOfRule(was, is *resource.DeviceTaintRule) []reconcile.Key {
	if !c.view.rule(was, is) {
		return nil
	}
	return c.users()
}

// users are all pods that have devices. Taints are rare, so nobody keeps a list.
func (c *controller) users() []reconcile.Key { return reconcile.Keys(c.client, api.Pods, "", mayUse) }

func podsOfClaim(was, is *resource.ResourceClaim) []reconcile.Key {
	var keys []reconcile.Key
	for _, c := range []*resource.ResourceClaim{was, is} {
		if c == nil {
			continue
		}
		for _, r := range c.Status.ReservedFor {
			if r.APIGroup == "" && r.Resource == "pods" {
				keys = append(keys, reconcile.Key{Namespace: c.Namespace, Name: r.Name})
			}
		}
	}
	return keys
}

func (c *controller) podItself(was, is *core.Pod) []reconcile.Key {
	p := is
	if p == nil {
		p = was
	}
	if !mayUse(p) {
		return nil
	}
	return []reconcile.Key{{Namespace: p.Namespace, Name: p.Name}}
}

// doPod evicts the pod if it is time.
func (c *controller) doPod(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	p := client.Cached(c.client, api.Pods, key.Namespace, key.Name)
	e := c.eviction(p)
	if e == nil {
		c.cancel(key, p)
		return reconcile.Result{}, nil
	}
	if in := e.at.Sub(c.now()); in > 0 {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.pending[key] = p.UID
		return reconcile.Result{After: in}, nil
	}
	if err := c.evict(ctx, p, e); err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, fmt.Errorf("evicting pod from a tainted device: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, key)
	return reconcile.Result{}, nil
}

// eviction says when and why the pod has to go; nil if it may stay.
func (c *controller) eviction(p *core.Pod) *eviction {
	if p == nil || p.DeletionTimestamp != nil || !mayUse(p) || !c.view.evicts() {
		return nil
	}
	var all []tainted
	for _, u := range c.uses(p) {
		all = append(all, untolerated(c.view.taints(u.device), u.tolerations)...)
	}
	return soonest(all)
}

func (c *controller) uses(p *core.Pod) []use {
	return append(usesByClaim(p, func(name string) *resource.ResourceClaim {
		return client.Cached(c.client, api.ResourceClaims, p.Namespace, name)
	}), c.view.usesPlainly(p)...)
}

// cancel forgets an eviction that was to come, and says so if the pod lives on.
func (c *controller) cancel(key reconcile.Key, p *core.Pod) {
	c.mu.Lock()
	uid, was := c.pending[key]
	delete(c.pending, key)
	c.mu.Unlock()
	if was && p != nil && p.UID == uid && p.DeletionTimestamp == nil {
		c.events.Event(p, core.EventTypeNormal, "DeviceTaintManagerEviction", "Cancelling deletion")
	}
}

// evict marks the pod as disrupted and deletes it. The server is asked first, as the pod
// may have been replaced by another of its name.
func (c *controller) evict(ctx context.Context, p *core.Pod, e *eviction) error {
	now, err := client.Get(ctx, c.client, api.Pods, p.Namespace, p.Name)
	if err != nil {
		return err
	}
	if now.UID != p.UID || now.DeletionTimestamp != nil {
		return nil
	}
	c.events.Event(p, core.EventTypeNormal, "DeviceTaintManagerEviction", "Marking for deletion")
	err = workpod.MarkDisrupted(ctx, c.client, now, core.PodCondition{
		Reason: "DeletionByDeviceTaintManager", Message: "Device Taint manager: deleting due to NoExecute taint"}, c.now())
	if err != nil {
		return err
	}
	c.count(e, 1) // before the deletion is seen, which is when the rules' status is looked at
	err = client.Delete(ctx, c.client, api.Pods, p.Namespace, p.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}})
	if err != nil {
		c.count(e, -1)
	}
	return err
}

func (c *controller) count(e *eviction, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, uid := range e.rules {
		c.evicted[uid] += n
	}
}
