package workpod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
)

// Claim sorts objects by what a controller has to do with them.
type Claim[T any] struct {
	// Mine are controlled by it and match its selector.
	Mine []*T
	// Adopt have no controller and match; Release are controlled and do not match.
	Adopt, Release []*T
	// Finalizer is put on what is adopted and taken from what is released; empty: none.
	Finalizer string
}

// ClaimOf sorts the objects for the owner. An owner that is being deleted adopts
// nothing and releases nothing.
func ClaimOf[T any, P client.PtrTo[T]](owner api.Object, sel labels.Selector, objects []*T) Claim[T] {
	return ClaimIf[T, P](owner, func(o *T) bool { return sel.Matches(labels.Set(P(o).GetLabels())) }, objects)
}

// ClaimIf is ClaimOf for an owner that looks at more than labels.
func ClaimIf[T any, P client.PtrTo[T]](owner api.Object, match func(*T) bool, objects []*T) Claim[T] {
	var c Claim[T]
	alive := owner.GetDeletionTimestamp() == nil
	for _, o := range objects {
		p := P(o)
		matches := match(o)
		ref := metav1.GetControllerOfNoCopy(p)
		switch {
		case ref != nil && ref.UID != owner.GetUID():
		case ref != nil && matches:
			c.Mine = append(c.Mine, o)
		case ref != nil && alive:
			c.Release = append(c.Release, o)
		case ref == nil && matches && alive && p.GetDeletionTimestamp() == nil:
			c.Adopt = append(c.Adopt, o)
		}
	}
	return c
}

// Apply adopts and releases, and returns everything the owner then controls.
func (c Claim[T]) Apply(ctx context.Context, cl client.Transport, k api.Kind[T], ownerFacts *api.Facts, owner api.Object) ([]*T, error) {
	mine := c.Mine
	var errs []error
	if len(c.Adopt) > 0 {
		if err := stillThere(ctx, cl, ownerFacts, owner); err != nil {
			return nil, err
		}
	}
	for _, o := range c.Adopt {
		patch := map[string]any{"uid": any(o).(api.Object).GetUID(), "ownerReferences": []metav1.OwnerReference{OwnerRef(ownerFacts, owner)}}
		if c.Finalizer != "" {
			patch["finalizers"] = []string{c.Finalizer}
		}
		got, err := patchMeta(ctx, cl, k, any(o).(api.Object), patch)
		switch {
		case err == nil:
			mine = append(mine, got)
		case !apierrors.IsNotFound(err):
			errs = append(errs, fmt.Errorf("adopting %s: %w", any(o).(api.Object).GetName(), err))
		}
	}
	for _, o := range c.Release {
		patch := map[string]any{"uid": any(o).(api.Object).GetUID(), "ownerReferences": []any{map[string]any{"$patch": "delete", "uid": owner.GetUID()}}}
		if c.Finalizer != "" {
			patch["$deleteFromPrimitiveList/finalizers"] = []string{c.Finalizer}
		}
		_, err := patchMeta(ctx, cl, k, any(o).(api.Object), patch)
		// Invalid or conflict: it is another object of that name by now.
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsInvalid(err) && !apierrors.IsConflict(err) {
			errs = append(errs, fmt.Errorf("releasing %s: %w", any(o).(api.Object).GetName(), err))
		}
	}
	return mine, errors.Join(errs...)
}

func patchMeta[T any](ctx context.Context, cl client.Transport, k api.Kind[T], o api.Object, patch any) (*T, error) {
	body, err := json.Marshal(map[string]any{"metadata": patch})
	if err != nil {
		return nil, fmt.Errorf("encoding patch: %w", err)
	}
	return client.Patch(ctx, cl, k, client.Target{Namespace: o.GetNamespace(), Name: o.GetName()}, types.StrategicMergePatchType, body)
}

// stillThere asks the server, not the cache, whether the owner may adopt:
// a deleted owner must not take objects with it.
func stillThere(ctx context.Context, cl client.Transport, f *api.Facts, owner api.Object) error {
	o, err := cl.Get(ctx, client.Target{Kind: f, Namespace: owner.GetNamespace(), Name: owner.GetName()}, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("checking owner before adopting: %w", err)
	}
	fresh := o.(api.Object)
	if fresh.GetUID() != owner.GetUID() || fresh.GetDeletionTimestamp() != nil {
		return fmt.Errorf("%s %s/%s is being deleted or was replaced", f.Kind, owner.GetNamespace(), owner.GetName())
	}
	return nil
}
