// Package deployment rolls Deployments out: it makes one ReplicaSet per pod
// template and moves pods from the old sets to the new one, a step at a look, within
// maxSurge and maxUnavailable. What it decides is upstream's; how is a pure plan.
// Start reading at Specs, then makePlan, then the steps in plan.go.
package deployment

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
	"orch/api/events"
	"orch/api/reconcile"
	"orch/server/controllers/workpod"
)

// Deps is what the controller needs.
type Deps struct {
	Client *client.Client
	Events *events.Recorder // may be nil
	Now    func() time.Time
}

type controller struct{ Deps }

// Specs is the controller of Deployments.
func Specs(d Deps) []reconcile.Spec {
	c := &controller{d}
	c.Events = d.Events.As("deployment-controller")
	return []reconcile.Spec{{Name: "deployment", Workers: 5, Do: c.do, Watches: []reconcile.Watch{
		reconcile.For(api.Deployments),
		reconcile.Owns(api.Deployments, api.ReplicaSets),
		workpod.Adopts(d.Client, api.Deployments, api.ReplicaSets, wants),
		reconcile.Map(api.Pods, c.ended),
	}}}
}

func wants(d *apps.Deployment, s *apps.ReplicaSet) bool {
	return workpod.Selects(d.Spec.Selector, s.Labels)
}

// ended wakes a Recreate deployment that waits for its old pods to end.
func (c *controller) ended(was, is *core.Pod) []reconcile.Key {
	if was == nil || (is != nil && !workpod.Finished(is)) {
		return nil
	}
	ref := metav1.GetControllerOfNoCopy(was)
	if ref == nil || ref.Kind != api.ReplicaSets.Kind {
		return nil
	}
	s := client.Cached(c.Client, api.ReplicaSets, was.Namespace, ref.Name)
	if s == nil {
		return nil
	}
	boss := metav1.GetControllerOfNoCopy(s)
	if boss == nil || boss.Kind != api.Deployments.Kind {
		return nil
	}
	d := client.Cached(c.Client, api.Deployments, was.Namespace, boss.Name)
	if d == nil || isRolling(d) {
		return nil
	}
	return []reconcile.Key{{Namespace: d.Namespace, Name: d.Name}}
}

func (c *controller) do(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	d := client.Cached(c.Client, api.Deployments, key.Namespace, key.Name)
	if d == nil {
		return reconcile.Result{}, nil
	}
	sel, err := workpod.Selector(d.Spec.Selector)
	if err != nil {
		return reconcile.Result{}, reconcile.Terminal(fmt.Errorf("reading selector: %w", err))
	}
	claim := workpod.ClaimOf(d, sel, client.CachedList(c.Client, api.ReplicaSets, key.Namespace, nil))
	sets, err := claim.Apply(ctx, c.Client, api.ReplicaSets, api.Deployments.Facts, d)
	if err != nil {
		return reconcile.Result{}, err
	}
	p := makePlan(observed{deployment: d, sets: sets, now: c.Now(), oldPods: func(s *apps.ReplicaSet) bool { return c.oldPods(sets, s) }})
	if d, err = c.act(ctx, d, &p); err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{After: p.after}, c.writeStatus(ctx, d, p.status)
}

// oldPods tells whether pods of other sets than newSet still run.
func (c *controller) oldPods(sets []*apps.ReplicaSet, newSet *apps.ReplicaSet) bool {
	old := map[types.UID]bool{}
	namespace := ""
	for _, s := range sets {
		if s != newSet {
			old[s.UID], namespace = true, s.Namespace
			if s.Status.Replicas > 0 {
				return true
			}
		}
	}
	var pods []*core.Pod
	c.Client.Each(api.Pods.Facts, namespace, func(o api.Object) bool {
		if ref := metav1.GetControllerOfNoCopy(o); ref != nil && old[ref.UID] {
			pods = append(pods, o.(*core.Pod))
		}
		return len(old) > 0
	})
	return stillRunning(pods)
}

// act does what the plan says, in the order in which it must be seen. It returns
// the deployment as it then is.
func (c *controller) act(ctx context.Context, d *apps.Deployment, p *plan) (*apps.Deployment, error) {
	if p.create != nil {
		if err := c.create(ctx, d, p.create); err != nil {
			return nil, err
		}
	}
	for _, ch := range p.changes {
		if err := c.change(ctx, d, ch); err != nil {
			return nil, err
		}
	}
	for _, s := range p.remove {
		uid := s.UID
		err := client.Delete(ctx, c.Client, api.ReplicaSets, s.Namespace, s.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("removing old replica set %s: %w", s.Name, err)
		}
	}
	if p.revision == "" || d.Annotations[revisionAnnotation] == p.revision {
		return d, nil
	}
	body := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, revisionAnnotation, p.revision)
	next, err := client.Patch(ctx, c.Client, api.Deployments, client.Target{Namespace: d.Namespace, Name: d.Name}, types.MergePatchType, body)
	if apierrors.IsNotFound(err) {
		return d, nil // deleted meanwhile
	}
	if err != nil {
		return nil, fmt.Errorf("writing revision: %w", err)
	}
	return next, nil
}

// create makes the new set. One of that name with another template is a collision
// of hashes: counted in the status, which changes the next hash.
func (c *controller) create(ctx context.Context, d *apps.Deployment, s *apps.ReplicaSet) error {
	_, err := client.Create(ctx, c.Client, api.ReplicaSets, s)
	switch {
	case err == nil:
		if n := size(s); n > 0 {
			c.Events.Event(d, core.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", s.Name, n)
		}
		return nil
	case apierrors.HasStatusCause(err, core.NamespaceTerminatingCause):
		return nil // the deployment will go as well
	case apierrors.IsAlreadyExists(err):
		return c.collision(ctx, d, s)
	}
	message := fmt.Sprintf("Failed to create new replica set %q: %v", s.Name, err)
	c.Events.Event(d, core.EventTypeWarning, reasonCreateError, "%s", message)
	if hasDeadline(d) {
		r := &rollout{observed: observed{deployment: d, now: c.Now()}, plan: plan{status: *d.Status.DeepCopy()}}
		r.setCondition(apps.DeploymentProgressing, core.ConditionFalse, reasonCreateError, message)
		if werr := c.writeStatus(ctx, d, r.status); werr != nil {
			return werr
		}
	}
	return fmt.Errorf("creating replica set %s: %w", s.Name, err)
}

func (c *controller) collision(ctx context.Context, d *apps.Deployment, s *apps.ReplicaSet) error {
	there, err := client.Get(ctx, c.Client, api.ReplicaSets, s.Namespace, s.Name)
	if err != nil {
		return fmt.Errorf("reading replica set of the same name: %w", err)
	}
	if ref := metav1.GetControllerOfNoCopy(there); ref != nil && ref.UID == d.UID && sameTemplate(&there.Spec.Template, &d.Spec.Template) {
		return nil // ours: the cache will show it
	}
	status := *d.Status.DeepCopy()
	count := int32(1)
	if status.CollisionCount != nil {
		count += *status.CollisionCount
	}
	status.CollisionCount = &count
	if err := c.writeStatus(ctx, d, status); err != nil {
		return err
	}
	return fmt.Errorf("creating replica set %s: the name is taken by another template", s.Name)
}

// change writes the planned state of one set.
func (c *controller) change(ctx context.Context, d *apps.Deployment, ch change) error {
	if !ch.differs() {
		return nil
	}
	was := size(ch.set)
	meta := map[string]any{"uid": ch.set.UID} // a set of that name made anew is not meant
	if len(ch.annotations) > 0 {
		meta["annotations"] = ch.annotations
	}
	body, err := json.Marshal(map[string]any{"metadata": meta, "spec": map[string]any{"replicas": ch.replicas, "minReadySeconds": ch.minReady}})
	if err != nil {
		return fmt.Errorf("encoding patch: %w", err)
	}
	_, err = client.Patch(ctx, c.Client, api.ReplicaSets, client.Target{Namespace: ch.set.Namespace, Name: ch.set.Name}, types.MergePatchType, body)
	if err != nil {
		return fmt.Errorf("scaling replica set %s: %w", ch.set.Name, err)
	}
	if word := direction(was, ch.replicas); word != "" {
		c.Events.Event(d, core.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", word, ch.set.Name, was, ch.replicas)
	}
	return nil
}

func direction(was, is int32) string {
	switch {
	case is > was:
		return "up"
	case is < was:
		return "down"
	}
	return ""
}

func (c *controller) writeStatus(ctx context.Context, d *apps.Deployment, s apps.DeploymentStatus) error {
	next := *d // shallow: only the status differs
	next.Status = s
	return client.WriteStatus(ctx, c.Client, api.Deployments, d, &next)
}
