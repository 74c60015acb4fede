package quota

import (
	"context"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

func newZero() *resource.Quantity { return resource.NewQuantity(0, resource.DecimalSI) }

// Spec keeps status.hard and status.used of every ResourceQuota.
func Spec(c *client.Client, now func() time.Time) reconcile.Spec {
	s := reconcile.Spec{Name: "resource-quota", Watches: []reconcile.Watch{reconcile.For(api.ResourceQuotas)}}
	for _, f := range api.All() {
		if f.Cluster || f.Computed || f.SameAs != nil || f == api.ResourceQuotas.Facts || f == api.Events.Facts || f == api.Leases.Facts {
			continue
		}
		s.Watches = append(s.Watches, reconcile.Watch{Kind: f, Keys: func(ch client.Change) []reconcile.Key {
			o := ch.New
			if o == nil {
				o = ch.Old
			}
			if o == nil {
				return nil
			}
			var keys []reconcile.Key
			c.Each(api.ResourceQuotas.Facts, o.GetNamespace(), func(q api.Object) bool {
				keys = append(keys, reconcile.Key{Namespace: q.GetNamespace(), Name: q.GetName()})
				return true
			})
			return keys
		}})
	}
	s.Do = func(ctx context.Context, k reconcile.Key) (reconcile.Result, error) {
		q := client.Cached(c, api.ResourceQuotas, k.Namespace, k.Name)
		if q == nil || q.DeletionTimestamp != nil {
			return reconcile.Result{}, nil
		}
		want := core.ResourceQuotaStatus{Hard: q.Spec.Hard, Used: Used(c, q, now())}
		if equality.Semantic.DeepEqual(q.Status, want) {
			return reconcile.Result{}, nil
		}
		n := q.DeepCopy()
		n.Status = *want.DeepCopy()
		if _, err := client.UpdateStatus(ctx, c, api.ResourceQuotas, n); err != nil && !apierrors.IsNotFound(err) {
			return reconcile.Result{}, err
		}
		return reconcile.Result{}, nil
	}
	return s
}

// Used sums what the cache holds for a quota.
func Used(c client.Cache, q *core.ResourceQuota, now time.Time) core.ResourceList {
	used := core.ResourceList{}
	for k := range q.Spec.Hard {
		used[k] = *newZero()
	}
	for _, f := range kindsOf(q.Spec.Hard) {
		c.Each(f, q.Namespace, func(o api.Object) bool {
			if Matches(q, o) {
				addTo(used, mask(Usage(f, o, now), q.Spec.Hard))
			}
			return true
		})
	}
	return used
}
