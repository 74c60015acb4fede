// Package podgc deletes pods that nobody else will: those on nodes that are gone,
// those being deleted that never had a node, and the oldest of too many finished
// ones. Start reading at Specs, then controller.do.
package podgc

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
	"orch/server/controllers/workpod"
)

const (
	// quarantine is how long a node has to be gone before its pods go.
	quarantine = 40 * time.Second
	// finishedLimit is how many finished pods are kept, as upstream's default.
	finishedLimit = 12500
)

// surplus is the key for the finished pods that are too many; no pod has it.
var surplus = reconcile.Key{Name: "finished pods"}

// Deps is what the controller needs.
type Deps struct {
	Client *client.Client
	Now    func() time.Time
}

type controller struct {
	Deps

	mu sync.Mutex
	// missing is since when a node that pods name is not there; finished counts
	// the finished pods. Both are guarded by mu.
	missing  map[string]time.Time
	finished int
}

// Specs is the pod garbage collector.
func Specs(d Deps) []reconcile.Spec {
	c := &controller{Deps: d, missing: map[string]time.Time{}}
	return []reconcile.Spec{{Name: "podgc", Workers: 2, Do: c.do, Watches: []reconcile.Watch{
		reconcile.Map(api.Nodes, c.ofNode), reconcile.Map(api.Pods, c.ofPod)}}}
}

func (c *controller) ofNode(_, is *core.Node) []reconcile.Key {
	if is != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.missing, is.Name)
		return nil
	}
	return reconcile.Keys(c.Client, api.Pods, "", func(p *core.Pod) bool {
		return p.Spec.NodeName != "" && client.Cached(c.Client, api.Nodes, "", p.Spec.NodeName) == nil
	})
}

func (c *controller) ofPod(was, is *core.Pod) []reconcile.Key {
	var keys []reconcile.Key
	if c.count(was, is) > finishedLimit {
		keys = append(keys, surplus)
	}
	if is == nil {
		return keys
	}
	bound := is.Spec.NodeName != ""
	if (was == nil || was.Spec.NodeName != is.Spec.NodeName) && bound || (is.DeletionTimestamp != nil && !bound) {
		keys = append(keys, reconcile.Key{Namespace: is.Namespace, Name: is.Name})
	}
	return keys
}

// count keeps the number of finished pods.
func (c *controller) count(was, is *core.Pod) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if was != nil && workpod.Finished(was) {
		c.finished--
	}
	if is != nil && workpod.Finished(is) {
		c.finished++
	}
	return c.finished
}

func (c *controller) do(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	if key == surplus {
		return reconcile.Result{}, c.trim(ctx)
	}
	p := client.Cached(c.Client, api.Pods, key.Namespace, key.Name)
	switch {
	case p == nil:
		return reconcile.Result{}, nil
	case p.Spec.NodeName == "" && p.DeletionTimestamp != nil:
		return reconcile.Result{}, c.remove(ctx, p)
	case p.Spec.NodeName == "" || client.Cached(c.Client, api.Nodes, "", p.Spec.NodeName) != nil:
		return reconcile.Result{}, nil
	}
	if wait := c.waitFor(p.Spec.NodeName); wait > 0 {
		return reconcile.Result{After: wait}, nil
	}
	_, err := client.Get(ctx, c.Client, api.Nodes, "", p.Spec.NodeName)
	if err == nil {
		return reconcile.Result{After: time.Second}, nil // the cache is behind
	}
	if !apierrors.IsNotFound(err) {
		return reconcile.Result{}, fmt.Errorf("reading node: %w", err)
	}
	return reconcile.Result{}, c.removeOrphan(ctx, p)
}

// waitFor is how much of the quarantine is left for a missing node.
func (c *controller) waitFor(node string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.Now()
	since, known := c.missing[node]
	if !known {
		since = now
		c.missing[node] = now
	}
	return quarantine - now.Sub(since)
}

// removeOrphan says what became of the pod before it goes.
func (c *controller) removeOrphan(ctx context.Context, p *core.Pod) error {
	if !workpod.Finished(p) {
		next := p.DeepCopy()
		next.Status.Phase = core.PodFailed
		workpod.SetCondition(next, core.PodCondition{
			Type: core.DisruptionTarget, Status: core.ConditionTrue, Reason: "DeletionByPodGC",
			Message: "PodGC: node no longer exists", LastTransitionTime: metav1.NewTime(c.Now().Truncate(time.Second)),
		})
		var err error
		if p, err = client.UpdateStatus(ctx, c.Client, api.Pods, next); err != nil {
			if apierrors.IsNotFound(err) {
				return nil
			}
			return fmt.Errorf("marking orphaned pod: %w", err)
		}
	}
	return c.remove(ctx, p)
}

func (c *controller) remove(ctx context.Context, p *core.Pod) error {
	err := client.Delete(ctx, c.Client, api.Pods, p.Namespace, p.Name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64(0)), Preconditions: &metav1.Preconditions{UID: &p.UID},
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("deleting pod: %w", err)
	}
	return nil
}

// trim deletes the oldest finished pods beyond the limit.
func (c *controller) trim(ctx context.Context) error {
	var done []*core.Pod
	c.Client.Each(api.Pods.Facts, "", func(o api.Object) bool {
		if p := o.(*core.Pod); workpod.Finished(p) {
			done = append(done, p)
		}
		return true
	})
	slices.SortFunc(done, func(a, b *core.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	for _, p := range done[:max(len(done)-finishedLimit, 0)] {
		if err := c.remove(ctx, p); err != nil {
			return err
		}
	}
	return nil
}
