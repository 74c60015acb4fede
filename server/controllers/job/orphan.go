package job

import (
	"cmp"
	"context"

	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

// lost wakes for pods with a finalizer that no job is going to take off.
func (c *controller) lost(_, p *core.Pod) []reconcile.Key {
	if p == nil || !tracked(p) || !c.abandoned(p) {
		return nil
	}
	return []reconcile.Key{{Namespace: p.Namespace, Name: p.Name}}
}

// over wakes for the pods of a job that is finished or gone.
func (c *controller) over(was, is *batch.Job) []reconcile.Key {
	j := cmp.Or(is, was)
	if is != nil && !finished(is) {
		return nil
	}
	return reconcile.Keys(c.Client, api.Pods, j.Namespace, func(p *core.Pod) bool { return tracked(p) && metav1.IsControlledBy(p, j) })
}

// abandoned pods have no controller, or a job that is gone or finished.
func (c *controller) abandoned(p *core.Pod) bool {
	ref := metav1.GetControllerOfNoCopy(p)
	if ref == nil {
		return true
	}
	if ref.Kind != api.Jobs.Kind || ref.APIVersion != batch.SchemeGroupVersion.String() {
		return false
	}
	j := client.Cached(c.Client, api.Jobs, p.Namespace, ref.Name)
	return j == nil || j.UID != ref.UID || (finished(j) && !foreign(j))
}

// freeOrphan takes the finalizer off a pod that nobody counts.
func (c *controller) freeOrphan(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	p := client.Cached(c.Client, api.Pods, key.Namespace, key.Name)
	if p == nil || !tracked(p) || !c.abandoned(p) {
		return reconcile.Result{}, nil
	}
	return reconcile.Result{}, c.untrack(ctx, []*core.Pod{p})
}
