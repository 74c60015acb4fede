package nodelife

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
	"orch/server/controllers/workpod"
)

// evictor deletes pods that do not tolerate their node's NoExecute taints.
type evictor struct {
	Deps

	mu sync.Mutex
	// since is when a pod that has to leave was first found so: the start of its
	// toleration where a taint does not say when it was added, such as kubectl's.
	// One entry for each such pod, until it is gone or may stay. As upstream, a
	// restart starts the time anew.
	since map[reconcile.Key]waiting // guarded by mu
}

type waiting struct {
	uid  types.UID
	from time.Time
}

func (e *evictor) ofPod(was, is *core.Pod) []reconcile.Key {
	if is == nil { // forgets it
		return []reconcile.Key{{Namespace: was.Namespace, Name: was.Name}}
	}
	if is.Spec.NodeName == "" {
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
	return reconcile.Keys(e.Client, api.Pods, "", func(p *core.Pod) bool { return p.Spec.NodeName == is.Name })
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
		e.forget(key)
		return reconcile.Result{}, nil
	}
	n := client.Cached(e.Client, api.Nodes, "", p.Spec.NodeName)
	if n == nil {
		e.forget(key)
		return reconcile.Result{}, nil
	}
	now := e.Now()
	at, leaves := eviction(p, n.Spec.Taints, e.first(key, p.UID, now))
	switch {
	case !leaves:
		e.forget(key)
		return reconcile.Result{}, nil
	case at.After(now):
		return reconcile.Result{After: at.Sub(now)}, nil
	}
	e.Events.Event(p, core.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s/%s", p.Namespace, p.Name)
	return reconcile.Result{}, e.evict(ctx, p, now)
}

// first is when the pod was first found to have to leave.
func (e *evictor) first(key reconcile.Key, uid types.UID, now time.Time) time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	if w, ok := e.since[key]; ok && w.uid == uid {
		return w.from
	}
	e.since[key] = waiting{uid, now}
	return now
}

func (e *evictor) forget(key reconcile.Key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.since, key)
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
