package crd

import (
	"context"
	"fmt"
	"slices"

	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

// cleanUp deletes the instances of a definition that is being deleted and, once they
// are gone, lets the definition go.
//
//	Terminating: InstanceDeletionPending (the registry, with the deletion)
//	  -> InstanceDeletionInProgress -> (instances with finalizers hold it here)
//	  -> InstanceDeletionCompleted, finalizer removed -> gone
func (c *Controller) cleanUp(ctx context.Context, d *apiext.CustomResourceDefinition) error {
	terminating := func(status apiext.ConditionStatus, reason, message string) {
		setCondition(d, apiext.CustomResourceDefinitionCondition{Type: apiext.Terminating, Status: status, Reason: reason, Message: message}, c.Now())
	}
	c.mu.Lock()
	i := c.installed[d.Name]
	c.mu.Unlock()
	if i == nil {
		terminating(apiext.ConditionFalse, "NeverEstablished", "resource was never established")
		return c.release(ctx, d)
	}
	stored := i.facts[0]
	if c.left(stored) > 0 {
		if err := c.followDeletions(i, d.Name); err != nil {
			return err
		}
		terminating(apiext.ConditionTrue, "InstanceDeletionInProgress", "CustomResource deletion is in progress")
		if was := client.Cached(c.Client, api.CustomResourceDefinitions, "", d.Name); was != nil && !sameStatus(&was.Status, &d.Status) {
			now, err := client.UpdateStatus(ctx, c.Client, api.CustomResourceDefinitions, d)
			if err != nil {
				return err
			}
			d = now.DeepCopy()
		}
		err := c.Client.DeleteCollection(ctx, client.Target{Kind: stored}, metav1.DeleteOptions{}, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("deleting the instances of %s: %w", d.Name, err)
		}
	}
	if c.left(stored) > 0 {
		return nil // finalizers hold some; the last one's end wakes this key
	}
	terminating(apiext.ConditionFalse, "InstanceDeletionCompleted", "removed all instances")
	return c.release(ctx, d)
}

// left is 0 or 1: whether there are instances.
func (c *Controller) left(stored *api.Facts) (n int) {
	c.Client.Each(stored, "", func(api.Object) bool { n = 1; return false })
	return n
}

// followDeletions wakes the definition's key when an instance goes.
func (c *Controller) followDeletions(i *installed, name string) error {
	if i.watched {
		return nil
	}
	i.watched = true
	return c.Client.Subscribe(i.ctx, i.facts[0], func(ch client.Change) {
		if ch.New != nil || ch.Old == nil {
			return
		}
		select { // a full queue has this key in it, or is worked off and finds no instance
		case c.again <- keyOf(name):
		default:
		}
	})
}

func (c *Controller) release(ctx context.Context, d *apiext.CustomResourceDefinition) error {
	d.Finalizers = slices.DeleteFunc(d.Finalizers, func(f string) bool { return f == apiext.CustomResourceCleanupFinalizer })
	_, err := client.UpdateStatus(ctx, c.Client, api.CustomResourceDefinitions, d)
	return err
}

func keyOf(name string) reconcile.Key { return reconcile.Key{Name: name} }
