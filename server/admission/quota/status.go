package quota

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

// Deps of Spec.
type Deps struct {
	Client *client.Client
	Now    func() time.Time
	// Kinds are all kinds as they are now; Changed closes when they are others.
	Kinds   func() []*api.Facts
	Changed func() <-chan struct{}
}

// Spec keeps status.hard and status.used of every ResourceQuota.
func Spec(d Deps) reconcile.Spec {
	return reconcile.Spec{Name: "resource-quota", Watches: []reconcile.Watch{reconcile.For(api.ResourceQuotas), {Kind: api.DeviceClasses.Facts, Keys: d.ofClass}}, Source: d.follow, Do: d.do}
}

// follow watches the objects that quotas count, of every kind and of those that come later.
func (d Deps) follow(ctx context.Context, add func(...reconcile.Key)) error {
	stops := map[*api.Facts]context.CancelFunc{}
	for {
		changed := d.Changed() // before Kinds, so that no change is missed
		served := map[*api.Facts]bool{}
		for _, f := range d.Kinds() {
			served[f] = counted(f) && f != api.ResourceQuotas.Facts && f != api.Events.Facts && f != api.Leases.Facts
		}
		for f, stop := range stops {
			if !served[f] {
				stop()
				delete(stops, f)
				d.Client.Each(api.ResourceQuotas.Facts, "", func(q api.Object) bool { // its objects are gone
					add(reconcile.Key{Namespace: q.GetNamespace(), Name: q.GetName()})
					return true
				})
			}
		}
		for f, ok := range served {
			if !ok || stops[f] != nil {
				continue
			}
			watch, stop := context.WithCancel(ctx)
			if err := d.Client.Subscribe(watch, f, func(c client.Change) { add(d.concerned(f, c)...) }); err != nil {
				stop()
				if errors.Is(err, client.ErrGone) { // the next look at the kinds comes at once
					continue
				}
				if ctx.Err() != nil {
					return nil
				}
				return fmt.Errorf("watching %s: %w", f.Plural, err)
			}
			stops[f] = stop
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// concerned are the quotas of the namespace that count the kind.
func (d Deps) concerned(f *api.Facts, c client.Change) (keys []reconcile.Key) {
	o := c.New
	if o == nil {
		o = c.Old
	}
	if o == nil {
		return nil
	}
	d.Client.Each(api.ResourceQuotas.Facts, o.GetNamespace(), func(q api.Object) bool {
		for k := range q.(*core.ResourceQuota).Spec.Hard {
			if slices.Contains(kindsOfName(k, []*api.Facts{f}), f) {
				keys = append(keys, reconcile.Key{Namespace: q.GetNamespace(), Name: q.GetName()})
				break
			}
		}
		return true
	})
	return keys
}

// ofClass: what claims count for may change with what a class stands for.
func (d Deps) ofClass(client.Change) (keys []reconcile.Key) {
	d.Client.Each(api.ResourceQuotas.Facts, "", func(q api.Object) bool {
		for k := range q.(*core.ResourceQuota).Spec.Hard {
			if byClasses(k) {
				keys = append(keys, reconcile.Key{Namespace: q.GetNamespace(), Name: q.GetName()})
				break
			}
		}
		return true
	})
	return keys
}

func (d Deps) do(ctx context.Context, k reconcile.Key) (reconcile.Result, error) {
	q := client.Cached(d.Client, api.ResourceQuotas, k.Namespace, k.Name)
	if q == nil || q.DeletionTimestamp != nil {
		return reconcile.Result{}, nil
	}
	want := core.ResourceQuotaStatus{Hard: q.Spec.Hard, Used: d.used(q)}
	if equality.Semantic.DeepEqual(q.Status, want) {
		return reconcile.Result{}, nil
	}
	n := q.DeepCopy()
	n.Status = *want.DeepCopy()
	if _, err := client.UpdateStatus(ctx, d.Client, api.ResourceQuotas, n); err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, err
	}
	return reconcile.Result{}, nil
}

// used sums what the cache holds for a quota.
func (d Deps) used(q *core.ResourceQuota) core.ResourceList {
	used := core.ResourceList{}
	for k := range q.Spec.Hard {
		used[k] = *newZero()
	}
	m := meter{d.Client, d.Now}
	for _, f := range kindsOf(q.Spec.Hard, d.Kinds()) {
		d.Client.Each(f, q.Namespace, func(o api.Object) bool {
			if Matches(q, o) {
				addTo(used, mask(m.usage(f, o), q.Spec.Hard))
			}
			return true
		})
	}
	return used
}
