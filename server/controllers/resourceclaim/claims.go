package resourceclaim

import (
	"context"
	"fmt"
	"slices"

	resource "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

// doClaim ends the reservations of pods that are done, deallocates with the last one, and
// deletes the claim if it was made for a pod that is done.
func (c *controller) doClaim(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	claim := client.Cached(c.client, api.ResourceClaims, key.Namespace, key.Name)
	if claim == nil {
		return reconcile.Result{}, nil
	}
	remaining, err := c.consumers(ctx, claim)
	if err != nil {
		return reconcile.Result{}, err
	}
	left := len(remaining) < len(claim.Status.ReservedFor)
	if left || len(remaining) == 0 && claim.DeletionTimestamp != nil {
		if claim, err = c.release(ctx, claim, remaining); err != nil || claim == nil {
			return reconcile.Result{}, err
		}
	}
	if len(remaining) > 0 {
		return reconcile.Result{}, nil
	}
	return reconcile.Result{}, c.drop(ctx, claim)
}

// consumers are the reservations that still hold.
func (c *controller) consumers(ctx context.Context, claim *resource.ResourceClaim) ([]resource.ResourceClaimConsumerReference, error) {
	var out []resource.ResourceClaimConsumerReference
	for _, r := range claim.Status.ReservedFor {
		if isPod(r) {
			gone, err := c.gone(ctx, claim.Namespace, r)
			if err != nil {
				return nil, err
			}
			if gone {
				continue
			}
		}
		out = append(out, r)
	}
	return out, nil
}

// gone tells whether the pod will not use the claim any more. A pod that the cache does
// not have may be new: taking its devices while it is scheduled would be bad, so the server
// is asked.
func (c *controller) gone(ctx context.Context, namespace string, r resource.ResourceClaimConsumerReference) (bool, error) {
	p := client.Cached(c.client, api.Pods, namespace, r.Name)
	if p == nil || p.UID != r.UID {
		var err error
		if p, err = client.Get(ctx, c.client, api.Pods, namespace, r.Name); apierrors.IsNotFound(err) {
			return true, nil
		} else if err != nil {
			return false, fmt.Errorf("reading pod %s, which the claim is for: %w", r.Name, err)
		}
	}
	return p.UID != r.UID || done(p), nil
}

// release writes who is left. With the last consumer the allocation goes too, so that the
// next one may use the claim on another node and others may have the devices; and then the
// finalizer, which stands for the allocation. The claim is nil if that was its end.
//
// A claim that nobody uses and that was allocated all the same stays so until it is deleted:
// whoever allocates need not reserve in the same write.
func (c *controller) release(ctx context.Context, claim *resource.ResourceClaim, remaining []resource.ResourceClaimConsumerReference) (*resource.ResourceClaim, error) {
	ours := slices.Contains(claim.Finalizers, resource.Finalizer)
	next := claim.DeepCopy()
	next.Status.ReservedFor = remaining
	if len(remaining) == 0 && ours {
		next.Status.Allocation = nil
	}
	if len(remaining) < len(claim.Status.ReservedFor) || next.Status.Allocation == nil && claim.Status.Allocation != nil {
		var err error
		if next, err = client.UpdateStatus(ctx, c.client, api.ResourceClaims, next); apierrors.IsNotFound(err) {
			return nil, nil
		} else if err != nil {
			return nil, fmt.Errorf("releasing claim: %w", err)
		}
	}
	if next.Status.Allocation != nil || !slices.Contains(next.Finalizers, resource.Finalizer) {
		return next, nil
	}
	next = next.DeepCopy()
	next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == resource.Finalizer })
	out, err := client.Update(ctx, c.client, api.ResourceClaims, next)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("removing the finalizer of a claim that is not allocated: %w", err)
	}
	return out, nil
}

// drop deletes a claim that was made for a pod which is done. The garbage collector would
// do it with the pod, but that may stay for long. A pod that is not known may be new; if
// it is gone, the garbage collector knows.
func (c *controller) drop(ctx context.Context, claim *resource.ResourceClaim) error {
	o := owner(claim)
	if o == nil || claim.DeletionTimestamp != nil {
		return nil
	}
	p := client.Cached(c.client, api.Pods, claim.Namespace, o.Name)
	if p == nil {
		return nil
	}
	gone, err := c.gone(ctx, claim.Namespace, resource.ResourceClaimConsumerReference{Name: o.Name, UID: o.UID})
	if err != nil || !gone {
		return err
	}
	err = client.Delete(ctx, c.client, api.ResourceClaims, claim.Namespace, claim.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &claim.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting unused generated claim: %w", err)
	}
	return nil
}
