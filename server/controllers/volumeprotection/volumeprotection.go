// Package volumeprotection lets claims, volumes and volume attributes classes go once
// nobody uses them: it takes the finalizer away that admission gave them, as upstream's three
// protection controllers. It refuses to delete anything itself. Start reading at Specs, then plan.go.
package volumeprotection

import (
	"context"
	"fmt"
	"slices"

	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

// Specs are the three controllers.
func Specs(c *client.Client) []reconcile.Spec {
	return []reconcile.Spec{
		{Name: "pvc-protection", Watches: []reconcile.Watch{
			reconcile.For(api.PersistentVolumeClaims),
			reconcile.Map(api.Pods, func(was, is *core.Pod) []reconcile.Key { return claimsLetGo(was, is) }),
		}, Do: func(ctx context.Context, k reconcile.Key) (reconcile.Result, error) {
			o := client.Cached(c, api.PersistentVolumeClaims, k.Namespace, k.Name)
			if o == nil {
				return reconcile.Result{}, nil
			}
			return keep(ctx, c, api.PersistentVolumeClaims, o, guard{api.ClaimProtection, func() bool {
				return slices.ContainsFunc(client.CachedList(c, api.Pods, k.Namespace, nil), func(p *core.Pod) bool { return usesClaim(p, o) })
			}})
		}},
		{Name: "pv-protection", Watches: []reconcile.Watch{reconcile.For(api.PersistentVolumes)}, Do: func(ctx context.Context, k reconcile.Key) (reconcile.Result, error) {
			o := client.Cached(c, api.PersistentVolumes, "", k.Name)
			if o == nil {
				return reconcile.Result{}, nil
			}
			return keep(ctx, c, api.PersistentVolumes, o, guard{api.VolumeProtection, func() bool { return o.Status.Phase == core.VolumeBound }})
		}},
		{Name: "vac-protection", Watches: []reconcile.Watch{
			reconcile.For(api.VolumeAttributesClasses),
			reconcile.Map(api.PersistentVolumeClaims, func(was, is *core.PersistentVolumeClaim) []reconcile.Key { return letGo(was, is, classesOfClaim) }),
			reconcile.Map(api.PersistentVolumes, func(was, is *core.PersistentVolume) []reconcile.Key { return letGo(was, is, classesOfVolume) }),
		}, Do: func(ctx context.Context, k reconcile.Key) (reconcile.Result, error) {
			o := client.Cached(c, api.VolumeAttributesClasses, "", k.Name)
			if o == nil {
				return reconcile.Result{}, nil
			}
			return keep(ctx, c, api.VolumeAttributesClasses, o, guard{api.AttributesProtection, func() bool { return classUsed(c, o) }})
		}},
	}
}

func classUsed(c client.Cache, o *storage.VolumeAttributesClass) bool {
	return slices.ContainsFunc(client.CachedList(c, api.PersistentVolumes, "", nil), func(v *core.PersistentVolume) bool { return slices.Contains(classesOfVolume(v), o.Name) }) ||
		slices.ContainsFunc(client.CachedList(c, api.PersistentVolumeClaims, "", nil), func(v *core.PersistentVolumeClaim) bool { return slices.Contains(classesOfClaim(v), o.Name) })
}

// guard is a finalizer and what it stands for.
type guard struct {
	finalizer string
	used      func() bool
}

// keep brings the finalizer of one object in line with its use.
func keep[T any, P client.PtrTo[T]](ctx context.Context, c *client.Client, kind api.Kind[T], o P, g guard) (reconcile.Result, error) {
	has := slices.Contains(o.GetFinalizers(), g.finalizer)
	n := o.DeepCopyObject().(P)
	switch {
	case o.GetDeletionTimestamp() == nil && !has:
		n.SetFinalizers(append(n.GetFinalizers(), g.finalizer))
	case o.GetDeletionTimestamp() != nil && has && !g.used():
		n.SetFinalizers(slices.DeleteFunc(n.GetFinalizers(), func(s string) bool { return s == g.finalizer }))
	default:
		return reconcile.Result{}, nil
	}
	if _, err := client.Update(ctx, c, kind, n); err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, fmt.Errorf("writing the finalizers of %s %s: %w", kind.Facts.Kind, n.GetName(), err)
	}
	return reconcile.Result{}, nil
}
