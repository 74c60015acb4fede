package nodelife

import (
	"context"
	"fmt"
	"slices"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
	"orch/server/controllers/workpod"
)

// evictor deletes pods that do not tolerate their node's NoExecute taints.
type evictor struct{ Deps }

func (e *evictor) ofPod(was, is *core.Pod) []reconcile.Key {
	if is == nil || is.Spec.NodeName == "" || is.DeletionTimestamp != nil {
		return nil
	}
	if was != nil && was.Spec.NodeName == is.Spec.NodeName && equality.Semantic.DeepEqual(was.Spec.Tolerations, is.Spec.Tolerations) {
		return nil
	}
	return []reconcile.Key{{Namespace: is.Namespace, Name: is.Name}}
}

// ofNode wakes the node's pods when its NoExecute taints changed.
func (e *evictor) ofNode(was, is *core.Node) []reconcile.Key {
	if is == nil || equality.Semantic.DeepEqual(noExecute(was), noExecute(is)) {
		return nil
	}
	var keys []reconcile.Key
	e.Client.Each(api.Pods.Facts, "", func(o api.Object) bool {
		if o.(*core.Pod).Spec.NodeName == is.Name {
			keys = append(keys, reconcile.Key{Namespace: o.GetNamespace(), Name: o.GetName()})
		}
		return true
	})
	return keys
}

func noExecute(n *core.Node) []core.Taint {
	if n == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(n.Spec.Taints), func(t core.Taint) bool { return t.Effect != core.TaintEffectNoExecute })
}

func (e *evictor) do(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	p := client.Cached(e.Client, api.Pods, key.Namespace, key.Name)
	if p == nil || p.DeletionTimestamp != nil || p.Spec.NodeName == "" {
		return reconcile.Result{}, nil
	}
	n := client.Cached(e.Client, api.Nodes, "", p.Spec.NodeName)
	if n == nil {
		return reconcile.Result{}, nil
	}
	now := e.Now()
	at, leaves := eviction(p, n.Spec.Taints, now)
	switch {
	case !leaves:
		return reconcile.Result{}, nil
	case at.After(now):
		return reconcile.Result{After: at.Sub(now)}, nil
	}
	e.Events.Event(p, core.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s/%s", p.Namespace, p.Name)
	return reconcile.Result{}, e.evict(ctx, p, now)
}

func (e *evictor) evict(ctx context.Context, p *core.Pod, now time.Time) error {
	why := core.PodCondition{Reason: "DeletionByTaintManager", Message: "Taint manager: deleting due to NoExecute taint"}
	if err := workpod.MarkDisrupted(ctx, e.Client, p, why, now); err != nil {
		return err
	}
	err := client.Delete(ctx, e.Client, api.Pods, p.Namespace, p.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("evicting pod: %w", err)
	}
	return nil
}
