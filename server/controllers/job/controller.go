// Package job runs Jobs to their end: so many pods at a time until so many have succeeded, by
// number or by index, within limits of failures and time. Every pod bears a finalizer until the status
// counts it, so that no success or failure is lost or counted twice. A look writes the status once, then takes
// the finalizers; the next look moves what it finds without them into the counters. What it decides is
// upstream's. Start reading at Specs, then newLook and conclude (pure).
package job

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

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

// controller of Jobs. The records of failures are kept in memory only: after a restart the
// waits begin anew. They are bounded by the number of unfinished jobs.
type controller struct {
	Deps
	mu      sync.Mutex
	records map[types.NamespacedName]owned
}

// owned is the record of the job with that UID.
type owned struct {
	uid types.UID
	record
}

// Specs are the controllers of Jobs and of pods that have lost theirs.
func Specs(d Deps) []reconcile.Spec {
	c := &controller{Deps: d, records: map[types.NamespacedName]owned{}}
	c.Events = d.Events.As("job-controller")
	return []reconcile.Spec{
		{Name: "job", Workers: 5, Do: c.do, Watches: []reconcile.Watch{
			reconcile.For(api.Jobs), reconcile.Owns(api.Jobs, api.Pods), workpod.Adopts(d.Client, api.Jobs, api.Pods, wants)}},
		{Name: "job-orphan", Workers: 1, Do: c.freeOrphan, Watches: []reconcile.Watch{
			reconcile.Map(api.Pods, c.lost), reconcile.Map(api.Jobs, c.over)}},
	}
}

// foreign jobs are another controller's.
func foreign(j *batch.Job) bool {
	return j.Spec.ManagedBy != nil && *j.Spec.ManagedBy != batch.JobControllerName
}

func wants(j *batch.Job, p *core.Pod) bool { return workpod.Selects(j.Spec.Selector, p.Labels) }

func (c *controller) do(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	name := types.NamespacedName{Namespace: key.Namespace, Name: key.Name}
	j := client.Cached(c.Client, api.Jobs, key.Namespace, key.Name)
	if j == nil || finished(j) || foreign(j) {
		c.setRecord(name, owned{})
		return reconcile.Result{}, nil
	}
	if m := j.Spec.CompletionMode; m != nil && *m != batch.NonIndexedCompletion && *m != batch.IndexedCompletion {
		c.Events.Event(j, core.EventTypeWarning, "UnknownCompletionMode", "Skipped Job sync because completion mode is unknown")
		return reconcile.Result{}, nil
	}
	sel, err := workpod.Selector(j.Spec.Selector)
	if err != nil {
		return reconcile.Result{}, reconcile.Terminal(fmt.Errorf("reading selector: %w", err))
	}
	claim := workpod.ClaimOf(j, sel, client.CachedList(c.Client, api.Pods, key.Namespace, nil))
	claim.Finalizer = batch.JobTrackingFinalizer
	pods, err := claim.Apply(ctx, c.Client, api.Pods, api.Jobs.Facts, j)
	if err != nil {
		return reconcile.Result{}, err
	}
	l := newLook(observed{job: j, pods: pods, record: c.record(name, j.UID), now: c.Now()})
	o := c.act(ctx, j, l.plan)
	untrack := l.conclude(o)
	if err := c.writeStatus(ctx, j, l.status); err != nil {
		return reconcile.Result{}, errors.Join(err, o.err)
	}
	c.setRecord(name, owned{j.UID, l.newRecord})
	for _, e := range l.events {
		c.Events.Event(j, e.kind, e.reason, "%s", e.message)
	}
	return reconcile.Result{After: l.after}, errors.Join(o.err, c.untrack(ctx, untrack))
}

func (c *controller) record(name types.NamespacedName, uid types.UID) record {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o := c.records[name]; o.uid == uid {
		return o.record
	}
	return record{}
}

func (c *controller) setRecord(name types.NamespacedName, o owned) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o.failures == 0 {
		delete(c.records, name)
		return
	}
	c.records[name] = o
}

// act does what the plan says and tells how far it came.
func (c *controller) act(ctx context.Context, j *batch.Job, p plan) (o outcome) {
	actor := workpod.Actor{Client: c.Client, Events: c.Events, Owner: j}
	if o.err = c.untrack(ctx, p.remove); o.err == nil { // removed pods are not to be counted
		o.err = actor.Delete(ctx, p.remove)
	}
	if o.err == nil {
		o.err = actor.Delete(ctx, p.end)
	}
	o.deleted = o.err == nil
	if len(p.create) == 0 || o.err != nil {
		return o
	}
	o.created, o.err = actor.Create(ctx, len(p.create), func(i int) *core.Pod { return newPod(j, p.create[i]) })
	return o
}

// untrack takes the finalizers off.
func (c *controller) untrack(ctx context.Context, pods []*core.Pod) error {
	var errs []error
	body := fmt.Appendf(nil, `{"metadata":{"$deleteFromPrimitiveList/finalizers":[%q]}}`, batch.JobTrackingFinalizer)
	for _, p := range pods {
		if !tracked(p) {
			continue
		}
		_, err := client.Patch(ctx, c.Client, api.Pods, client.Target{Namespace: p.Namespace, Name: p.Name}, types.StrategicMergePatchType, body)
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("taking the finalizer off pod %s: %w", p.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (c *controller) writeStatus(ctx context.Context, j *batch.Job, s batch.JobStatus) error {
	next := *j // shallow: only the status differs
	next.Status = s
	return client.WriteStatus(ctx, c.Client, api.Jobs, j, &next)
}
