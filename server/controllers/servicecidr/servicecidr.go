// Package servicecidr keeps ServiceCIDRs: it says that they are ready to give addresses, and
// holds one that is deleted while Services have addresses that no other range contains.
// Giving the addresses out is package allocate's. Start reading at Specs, then plan.go.
package servicecidr

import (
	"context"
	"fmt"
	"slices"
	"time"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

// Finalizer holds a ServiceCIDR.
const Finalizer = "networking.k8s.io/service-cidr-finalizer"

// settle is how long a range that is being deleted stays at least: writes of Services that took
// an address before are stored by then.
const settle = 10 * time.Second

// Deps is what the controller needs.
type Deps struct {
	Client *client.Client
	Now    func() time.Time
}

// Specs is the controller; its keys are ServiceCIDRs.
func Specs(d Deps) []reconcile.Spec {
	c := controller{d}
	return []reconcile.Spec{{Name: "service-cidr", Workers: 1, Do: c.do, Watches: []reconcile.Watch{
		reconcile.Map(api.ServiceCIDRs, func(was, is *networking.ServiceCIDR) []reconcile.Key {
			if is == nil {
				is = was
			}
			return append(c.ending(), reconcile.Key{Name: is.Name})
		}),
		reconcile.Map(api.Services, func(was, is *core.Service) []reconcile.Key {
			if was != nil && is != nil && slices.Equal(was.Spec.ClusterIPs, is.Spec.ClusterIPs) {
				return nil
			}
			return c.ending()
		}),
	}}}
}

type controller struct{ Deps }

// ending are the ranges that are being deleted.
func (c controller) ending() []reconcile.Key {
	return reconcile.Keys(c.Client, api.ServiceCIDRs, "", func(o *networking.ServiceCIDR) bool { return o.DeletionTimestamp != nil })
}

func (c controller) do(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	o := client.Cached(c.Client, api.ServiceCIDRs, "", key.Name)
	switch {
	case o == nil:
		return reconcile.Result{}, nil
	case o.DeletionTimestamp == nil && !slices.Contains(o.Finalizers, Finalizer):
		o = o.DeepCopy()
		o.Finalizers = append(o.Finalizers, Finalizer)
		if _, err := client.Update(ctx, c.Client, api.ServiceCIDRs, o); err != nil {
			return reconcile.Result{}, fmt.Errorf("protecting the ServiceCIDR %s: %w", o.Name, err)
		}
		return reconcile.Result{}, nil // the change comes back
	case o.DeletionTimestamp == nil:
		return reconcile.Result{}, c.say(ctx, o, ready)
	case !slices.Contains(o.Finalizers, Finalizer):
		return reconcile.Result{}, nil
	}
	if needed(o, client.CachedList(c.Client, api.ServiceCIDRs, "", nil), client.CachedList(c.Client, api.Services, "", nil)) {
		return reconcile.Result{}, c.say(ctx, o, terminating)
	}
	if left := settle - c.Now().Sub(o.DeletionTimestamp.Time); left > 0 {
		return reconcile.Result{After: left}, nil
	}
	o = o.DeepCopy()
	o.Finalizers = slices.DeleteFunc(o.Finalizers, func(f string) bool { return f == Finalizer })
	if _, err := client.Update(ctx, c.Client, api.ServiceCIDRs, o); err != nil {
		return reconcile.Result{}, fmt.Errorf("letting the ServiceCIDR %s go: %w", o.Name, err)
	}
	return reconcile.Result{}, nil
}

// say sets the condition, unless it is so.
func (c controller) say(ctx context.Context, o *networking.ServiceCIDR, s statement) error {
	o = o.DeepCopy()
	if !meta.SetStatusCondition(&o.Status.Conditions, s.condition(c.Now())) {
		return nil
	}
	if _, err := client.UpdateStatus(ctx, c.Client, api.ServiceCIDRs, o); err != nil {
		return fmt.Errorf("writing the status of the ServiceCIDR %s: %w", o.Name, err)
	}
	return nil
}
