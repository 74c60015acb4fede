package devicetaint

import (
	"context"
	"fmt"
	"slices"
	"time"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

// statusPeriod is the shortest time between two writes of a rule's status, as upstream's.
const statusPeriod = 10 * time.Second

// ruleItself: a rule's own status is no reason to look at it again.
func (c *controller) ruleItself(was, is *resource.DeviceTaintRule) []reconcile.Key {
	if was != nil && (is == nil || is.UID != was.UID) {
		c.mu.Lock()
		delete(c.evicted, was.UID)
		c.mu.Unlock()
	}
	if is == nil || was != nil && was.UID == is.UID && was.Generation == is.Generation {
		return nil
	}
	return []reconcile.Key{{Name: is.Name}}
}

// rulesOfPod: with every pod that has devices the number of those that have to go may change.
func (c *controller) rulesOfPod(was, is *core.Pod) []reconcile.Key {
	p := is
	if p == nil {
		p = was
	}
	if p.Spec.NodeName == "" || !c.view.evicts() {
		return nil
	}
	var keys []reconcile.Key
	for _, name := range c.view.evictingRules() {
		keys = append(keys, reconcile.Key{Name: name})
	}
	return keys
}

func (c *controller) doRule(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	r := client.Cached(c.client, api.DeviceTaintRules, "", key.Name)
	if r == nil {
		return reconcile.Result{}, nil
	}
	at := slices.IndexFunc(r.Status.Conditions, func(x metav1.Condition) bool { return x.Type == resource.DeviceTaintConditionEvictionInProgress })
	if at >= 0 {
		old := r.Status.Conditions[at]
		known := old.ObservedGeneration == r.Generation
		if known && r.Spec.Taint.Effect != resource.DeviceTaintEffectNoExecute {
			return reconcile.Result{}, nil // what it would do is told once
		}
		if left := statusPeriod - c.now().Sub(old.LastTransitionTime.Time); known && left > 0 {
			return reconcile.Result{After: left}, nil
		}
	}
	next := r.DeepCopy()
	cond := c.condition(r)
	if at >= 0 {
		cond.LastTransitionTime = r.Status.Conditions[at].LastTransitionTime
		if cond == r.Status.Conditions[at] {
			return reconcile.Result{}, nil
		}
		next.Status.Conditions = slices.Delete(next.Status.Conditions, at, at+1)
	}
	// The time is that of the last change of anything: statusPeriod counts from it.
	cond.LastTransitionTime = metav1.NewTime(c.now().Truncate(time.Second))
	next.Status.Conditions = append(next.Status.Conditions, cond)
	return reconcile.Result{}, client.WriteStatus(ctx, c.client, api.DeviceTaintRules, r, next)
}

// condition is how far the rule is, without the time.
func (c *controller) condition(r *resource.DeviceTaintRule) metav1.Condition {
	c.mu.Lock()
	evicted := c.evicted[r.UID]
	c.mu.Unlock()
	cond := metav1.Condition{Type: resource.DeviceTaintConditionEvictionInProgress, Status: metav1.ConditionFalse, ObservedGeneration: r.Generation}
	switch r.Spec.Taint.Effect {
	case resource.DeviceTaintEffectNoExecute:
		pods, namespaces := c.affected(r)
		switch {
		case pods > 0:
			cond.Reason, cond.Status = "PodsPendingEviction", metav1.ConditionTrue
			cond.Message = fmt.Sprintf("%s to be evicted in %s.", counted(pods, "pod needs", "pods need"), counted(namespaces, "namespace", "different namespaces"))
		case evicted > 0:
			cond.Reason = "Completed"
		default:
			cond.Reason = "NotStarted"
		}
	case resource.DeviceTaintEffectNone:
		pods, namespaces := c.affected(r)
		cond.Reason = "NoEffect"
		cond.Message = fmt.Sprintf("%s selected. %s selected. %s would be evicted in %s if the effect was NoExecute. "+
			"This information will not be updated again. Recreate the DeviceTaintRule to trigger an update.",
			counted(c.view.published(r), "published device", "published devices"), counted(c.allocated(r), "allocated device", "allocated devices"),
			counted(pods, "pod", "pods"), counted(namespaces, "namespace", "different namespaces"))
	default:
		cond.Reason, cond.Message = "OtherEffect", "Eviction only happens for the NoExecute effect."
	}
	if evicted > 0 {
		if cond.Message != "" {
			cond.Message += " "
		}
		cond.Message += counted(evicted, "pod", "pods") + " evicted since starting the controller."
	}
	return cond
}

func counted(n int, one, many string) string {
	if n == 1 {
		many = one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// affected counts the pods that the rule evicts, or would with another effect, and the
// namespaces that they are in.
func (c *controller) affected(r *resource.DeviceTaintRule) (pods, namespaces int) {
	in := map[string]bool{}
	c.client.Each(api.Pods.Facts, "", func(o api.Object) bool {
		p := o.(*core.Pod)
		if p.DeletionTimestamp == nil && mayUse(p) && slices.ContainsFunc(c.uses(p), func(u use) bool {
			return selects(r, u.device) && len(untolerated([]taint{ruleTaint(r)}, u.tolerations)) > 0
		}) {
			pods++
			in[p.Namespace] = true
		}
		return true
	})
	return pods, len(in)
}

// allocated counts the devices that the rule selects and that a claim has.
func (c *controller) allocated(r *resource.DeviceTaintRule) int {
	n := 0
	c.client.Each(api.ResourceClaims.Facts, "", func(o api.Object) bool {
		if a := o.(*resource.ResourceClaim).Status.Allocation; a != nil {
			for _, d := range a.Devices.Results {
				if selects(r, device{d.Driver, d.Pool, d.Device}) {
					n++
				}
			}
		}
		return true
	})
	return n
}
