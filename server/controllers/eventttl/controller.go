// Package eventttl deletes events an hour after they were last seen, as upstream's
// API server lets them expire. One key stands for all events: it looks when the
// next one expires, so a cluster without events costs nothing. Start at Specs.
package eventttl

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

const (
	// ttl is upstream's default of --event-ttl.
	ttl = time.Hour
	// together is how much later than its time an event may go, so that those of
	// one time go in one sweep.
	together = time.Minute
)

// Deps is what the controller needs.
type Deps struct {
	Client *client.Client
	Now    func() time.Time
}

type controller struct {
	Deps
	// armed is true while a sweep is due: new events need not ask for one.
	armed atomic.Bool
}

// all is the key of every event.
var all = reconcile.Key{Name: "all events"}

// Specs is the expiry of events.
func Specs(d Deps) []reconcile.Spec {
	c := &controller{Deps: d}
	return []reconcile.Spec{{Name: "eventttl", Do: c.do, Watches: []reconcile.Watch{
		{Kind: api.Events.Facts, Keys: func(change client.Change) []reconcile.Key {
			if change.New == nil || c.armed.Swap(true) {
				return nil
			}
			return []reconcile.Key{all}
		}}}}}
}

func (c *controller) do(ctx context.Context, _ reconcile.Key) (reconcile.Result, error) {
	c.armed.Store(false) // an event that comes from here on asks for a sweep
	now := c.Now()
	var expired []*core.Event
	next := time.Time{}
	c.Client.Each(api.Events.Facts, "", func(o api.Object) bool {
		e := o.(*core.Event)
		if at := expiry(e); !at.After(now) {
			expired = append(expired, e)
		} else if next.IsZero() || at.Before(next) {
			next = at
		}
		return true
	})
	for _, e := range expired {
		d := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &e.ResourceVersion}}
		err := client.Delete(ctx, c.Client, api.Events, e.Namespace, e.Name, d)
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return reconcile.Result{}, fmt.Errorf("deleting the expired event %s/%s: %w", e.Namespace, e.Name, err)
		}
	}
	if next.IsZero() {
		return reconcile.Result{}, nil
	}
	c.armed.Store(true)
	return reconcile.Result{After: next.Sub(now) + together}, nil
}

// expiry is when an event goes: its time to live counts from when it was last seen.
func expiry(e *core.Event) time.Time {
	seen := e.CreationTimestamp.Time
	for _, t := range []time.Time{e.LastTimestamp.Time, e.EventTime.Time} {
		if t.After(seen) {
			seen = t
		}
	}
	if e.Series != nil && e.Series.LastObservedTime.After(seen) {
		seen = e.Series.LastObservedTime.Time
	}
	return seen.Add(ttl)
}
