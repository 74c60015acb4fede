// Package ttlafterfinished deletes Jobs that have been finished for as long as their
// ttlSecondsAfterFinished says. Start reading at Specs.
package ttlafterfinished

import (
	"context"
	"fmt"
	"time"

	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

// Deps is what the controller needs.
type Deps struct {
	Client *client.Client
	Now    func() time.Time
}

// Specs is the controller.
func Specs(d Deps) []reconcile.Spec {
	return []reconcile.Spec{{Name: "ttl-after-finished", Workers: 1, Do: d.do, Watches: []reconcile.Watch{reconcile.Map(api.Jobs, wake)}}}
}

func wake(_, j *batch.Job) []reconcile.Key {
	if _, ok := left(j, time.Time{}); !ok {
		return nil
	}
	return []reconcile.Key{{Namespace: j.Namespace, Name: j.Name}}
}

// left is how long a finished job may stay; false for one that stays anyway.
func left(j *batch.Job, now time.Time) (time.Duration, bool) {
	if j == nil || j.DeletionTimestamp != nil || j.Spec.TTLSecondsAfterFinished == nil {
		return 0, false
	}
	for _, c := range j.Status.Conditions {
		if (c.Type == batch.JobComplete || c.Type == batch.JobFailed) && c.Status == core.ConditionTrue {
			return c.LastTransitionTime.Add(time.Duration(*j.Spec.TTLSecondsAfterFinished) * time.Second).Sub(now), true
		}
	}
	return 0, false
}

func (d Deps) do(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	in, ok := left(client.Cached(d.Client, api.Jobs, key.Namespace, key.Name), d.Now())
	if !ok || in > 0 {
		return reconcile.Result{After: in}, nil
	}
	// The time may have been changed a moment ago: the server is asked before anything is lost.
	j, err := client.Get(ctx, d.Client, api.Jobs, key.Namespace, key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("reading job: %w", err)
	}
	if in, ok = left(j, d.Now()); !ok || in > 0 {
		return reconcile.Result{After: in}, nil
	}
	policy := metav1.DeletePropagationForeground
	err = client.Delete(ctx, d.Client, api.Jobs, key.Namespace, key.Name, metav1.DeleteOptions{PropagationPolicy: &policy,
		Preconditions: &metav1.Preconditions{UID: &j.UID, ResourceVersion: &j.ResourceVersion}})
	if err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, fmt.Errorf("deleting finished job: %w", err)
	}
	return reconcile.Result{}, nil
}
