// Package cronjob starts the Jobs of CronJobs when they are due, follows them, and removes
// old ones. It sleeps until the next start of each cron job. What it decides is upstream's.
// Start reading at Specs, then makePlan (pure).
package cronjob

import (
	"context"
	"errors"
	"fmt"
	"time"

	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/events"
	"orch/api/reconcile"
)

// Deps is what the controller needs.
type Deps struct {
	Client *client.Client
	Events *events.Recorder // may be nil
	Now    func() time.Time
}

type controller struct{ Deps }

// Specs is the controller of CronJobs.
func Specs(d Deps) []reconcile.Spec {
	c := &controller{d}
	c.Events = d.Events.As("cronjob-controller")
	return []reconcile.Spec{{Name: "cronjob", Workers: 2, Do: c.do, Watches: []reconcile.Watch{
		reconcile.For(api.CronJobs), reconcile.Owns(api.CronJobs, api.Jobs)}}}
}

func (c *controller) do(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	cj := client.Cached(c.Client, api.CronJobs, key.Namespace, key.Name)
	if cj == nil {
		return reconcile.Result{}, nil
	}
	var jobs []*batch.Job
	c.Client.Each(api.Jobs.Facts, key.Namespace, func(o api.Object) bool {
		if metav1.IsControlledBy(o, cj) {
			jobs = append(jobs, o.(*batch.Job))
		}
		return true
	})
	p := makePlan(cj, jobs, c.Now())
	for _, e := range p.events {
		c.Events.Event(cj, e.kind, e.reason, "%s", e.message)
	}
	failed := c.act(ctx, cj, &p)
	next := *cj // shallow: only the status differs
	next.Status = p.status
	return reconcile.Result{After: p.after}, errors.Join(failed, client.WriteStatus(ctx, c.Client, api.CronJobs, cj, &next))
}

// act removes, replaces and starts; the status lists what has been started.
func (c *controller) act(ctx context.Context, cj *batch.CronJob, p *plan) error {
	var errs []error
	for _, j := range p.remove {
		errs = append(errs, c.remove(ctx, cj, j))
	}
	for _, j := range p.replace {
		if err := c.remove(ctx, cj, j); err != nil {
			return errors.Join(append(errs, err)...) // the next must not run beside it
		}
	}
	if p.create != nil {
		errs = append(errs, c.start(ctx, cj, p))
	}
	return errors.Join(errs...)
}

func (c *controller) remove(ctx context.Context, cj *batch.CronJob, j *batch.Job) error {
	policy := metav1.DeletePropagationBackground
	err := client.Delete(ctx, c.Client, api.Jobs, j.Namespace, j.Name, metav1.DeleteOptions{PropagationPolicy: &policy, Preconditions: &metav1.Preconditions{UID: &j.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		c.Events.Event(cj, core.EventTypeWarning, "FailedDelete", "Deleted job: %v", err)
		return fmt.Errorf("deleting job %s: %w", j.Name, err)
	}
	c.Events.Event(cj, core.EventTypeNormal, "SuccessfulDelete", "Deleted job %v", j.Name)
	return nil
}

func (c *controller) start(ctx context.Context, cj *batch.CronJob, p *plan) error {
	made, err := client.Create(ctx, c.Client, api.Jobs, p.create)
	switch {
	case apierrors.HasStatusCause(err, core.NamespaceTerminatingCause):
		return nil // the cron job will go as well
	case apierrors.IsAlreadyExists(err):
		// Ours from a try whose status was not written, or somebody else's, who then keeps the status.
		made, err = client.Get(ctx, c.Client, api.Jobs, cj.Namespace, p.create.Name)
		if err != nil {
			return fmt.Errorf("reading job %s: %w", p.create.Name, err)
		}
		if !metav1.IsControlledBy(made, cj) || p.runs(made.UID) {
			return nil
		}
	case err != nil:
		c.Events.Event(cj, core.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
		return fmt.Errorf("creating job: %w", err)
	default:
		c.Events.Event(cj, core.EventTypeNormal, "SuccessfulCreate", "Created job %v", made.Name)
	}
	p.status.Active = append(p.status.Active, core.ObjectReference{APIVersion: batch.SchemeGroupVersion.String(), Kind: api.Jobs.Kind,
		Namespace: made.Namespace, Name: made.Name, UID: made.UID, ResourceVersion: made.ResourceVersion})
	p.status.LastScheduleTime = &metav1.Time{Time: p.scheduled}
	return nil
}
