package scheduler

import (
	"context"
	"encoding/json"
	goerrors "errors"
	"fmt"
	"slices"
	"time"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"orch/api"
	"orch/api/client"
	"orch/server/placement"
	"orch/server/placement/devices"
)

// maxTries bounds how often a write is made anew because somebody else was faster: with as
// many pods that come to use one claim as are bound at once, the last has to try so often.
const maxTries = maxWrites + 1

// reservation writes what a pod is granted of claims.
type reservation struct {
	*Scheduler
	pod *placement.Pod
	// written are the claims as they stand after the last write; reserved those that the
	// pod was not among the users of before, with what was allocated; made is the one that
	// was created for the pod.
	written  []*resource.ResourceClaim
	reserved []devices.Granted
	made     *resource.ResourceClaim
	// all are the pod's claims as far as this reservation knows them.
	all []*resource.ResourceClaim
	// broken: a claim could not be written; the error is none of the pod's.
	broken bool
}

func (r *reservation) make(ctx context.Context, g devices.Grant) error {
	r.broken = true
	for _, c := range g.Claims {
		if c.Allocation == nil && resourceclaim.IsReservedForPod(r.pod.Pod, c.ResourceClaim, false) {
			r.all = append(r.all, c.ResourceClaim)
			continue
		}
		if err := r.reserve(ctx, c); err != nil {
			return err
		}
	}
	if g.Extended != nil {
		if err := r.extended(ctx, g.Extended); err != nil {
			return err
		}
	}
	r.broken = false
	return nil
}

// reserve makes the pod a user of the claim, and writes its allocation if it has none.
func (r *reservation) reserve(ctx context.Context, c devices.Granted) error {
	o, err := retry(ctx, r.cfg.Client, c.ResourceClaim, func(o *resource.ResourceClaim) (*resource.ResourceClaim, error) {
		switch {
		case o.UID != c.UID:
			return nil, fmt.Errorf("claim %s/%s is another one now", o.Namespace, o.Name)
		case o.DeletionTimestamp != nil:
			return nil, fmt.Errorf("claim %s/%s got deleted in the meantime", o.Namespace, o.Name)
		case c.Allocation != nil && o.Status.Allocation != nil:
			return nil, fmt.Errorf("claim %s/%s got allocated elsewhere in the meantime", o.Namespace, o.Name)
		case c.Allocation == nil && o.Status.Allocation == nil:
			return nil, fmt.Errorf("claim %s/%s got deallocated elsewhere in the meantime", o.Namespace, o.Name)
		case c.Allocation == nil && !apiequality.Semantic.DeepEqual(c.Status.Allocation.Devices.Results, o.Status.Allocation.Devices.Results):
			return nil, fmt.Errorf("claim %s/%s got other devices in the meantime", o.Namespace, o.Name)
		}
		if c.Allocation != nil && !slices.Contains(o.Finalizers, resource.Finalizer) {
			o.Finalizers = append(o.Finalizers, resource.Finalizer)
			var err error
			if o, err = client.Update(ctx, r.cfg.Client, api.ResourceClaims, o); err != nil {
				return nil, err
			}
			o = o.DeepCopy()
		}
		if c.Allocation != nil {
			o.Status.Allocation = c.Allocation.DeepCopy()
			o.Status.Allocation.AllocationTimestamp = new(metav1.NewTime(time.Now().UTC().Truncate(time.Second))) // as it reads back
		}
		if !resourceclaim.IsReservedForPod(r.pod.Pod, o, false) {
			o.Status.ReservedFor = append(o.Status.ReservedFor, resource.ResourceClaimConsumerReference{
				Resource: "pods", Name: r.pod.Name, UID: r.pod.UID})
		}
		return client.UpdateStatus(ctx, r.cfg.Client, api.ResourceClaims, o)
	})
	if err != nil {
		return fmt.Errorf("reserving claim %s/%s: %w", c.Namespace, c.Name, err)
	}
	r.all = append(r.all, o)
	r.written, r.reserved = append(r.written, o), append(r.reserved, devices.Granted{ResourceClaim: o, Allocation: c.Allocation})
	return nil
}

// ready tells that nothing keeps the pod from being bound. What is wrong with a claim shows
// when the pod waits for it.
func (r *reservation) ready() bool {
	for _, o := range r.all {
		if ok, _, err := devices.Ready(o, time.Now()); !ok || err != nil {
			return false
		}
	}
	return true
}

// retry calls write with copies of the claim, as it stands if somebody else was faster.
func retry(ctx context.Context, c client.Transport, o *resource.ResourceClaim, write func(*resource.ResourceClaim) (*resource.ResourceClaim, error)) (*resource.ResourceClaim, error) {
	for try := 1; ; try++ {
		done, err := write(o.DeepCopy())
		if !errors.IsConflict(err) || try == maxTries {
			return done, err
		}
		if o, err = client.Get(ctx, c, api.ResourceClaims, o.Namespace, o.Name); err != nil {
			return nil, err
		}
	}
}

// extended creates the claim for the pod's extended resources, and tells the pod of it.
func (r *reservation) extended(ctx context.Context, e *devices.Extended) error {
	o, err := client.Create(ctx, r.cfg.Client, api.ResourceClaims, e.Claim.DeepCopy())
	if err != nil {
		return fmt.Errorf("creating the claim for extended resources: %w", err)
	}
	r.made = o
	if err := r.reserve(ctx, devices.Granted{ResourceClaim: o, Allocation: e.Allocation}); err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": r.pod.UID}, "status": map[string]any{
		"extendedResourceClaimStatus": core.PodExtendedResourceClaimStatus{ResourceClaimName: o.Name, RequestMappings: e.Requests}}})
	if err == nil {
		_, err = r.cfg.Client.Patch(ctx, target(r.pod, "status"), types.MergePatchType, patch, metav1.PatchOptions{})
	}
	if err != nil {
		return fmt.Errorf("telling the pod of its claim for extended resources: %w", err)
	}
	return nil
}

// undo takes the pod from the users of what it reserved, and what was allocated for it
// alone is free again: a claim with devices and without users would keep them for good.
func (r *reservation) undo(ctx context.Context) {
	for _, done := range r.reserved {
		if r.made != nil && done.UID == r.made.UID {
			continue
		}
		left, err := retry(ctx, r.cfg.Client, done.ResourceClaim, func(o *resource.ResourceClaim) (*resource.ResourceClaim, error) {
			if o.UID != done.UID || !resourceclaim.IsReservedForPod(r.pod.Pod, o, false) {
				return o, nil
			}
			o.Status.ReservedFor = slices.DeleteFunc(o.Status.ReservedFor, func(c resource.ResourceClaimConsumerReference) bool { return c.UID == r.pod.UID })
			if done.Allocation != nil && len(o.Status.ReservedFor) == 0 {
				o.Status.Allocation, o.Status.Devices = nil, nil
			}
			return client.UpdateStatus(ctx, r.cfg.Client, api.ResourceClaims, o)
		})
		if err != nil {
			if !errors.IsNotFound(err) {
				r.cfg.Log.Warn("taking a reservation back failed", "claim", done.Namespace+"/"+done.Name, "pod", r.pod.Namespace+"/"+r.pod.Name, "err", err)
			}
			continue
		}
		r.written = append(r.written, left)
	}
	if r.made != nil {
		r.discard(ctx, r.made)
	}
}

func claimTarget(o *resource.ResourceClaim, sub string) client.Target {
	return client.Target{Kind: api.ResourceClaims.Facts, Namespace: o.Namespace, Name: o.Name, Subresource: sub}
}

// discard deletes a claim that the scheduler made.
func (s *Scheduler) discard(ctx context.Context, o *resource.ResourceClaim) {
	uid := o.UID
	_, err := retry(ctx, s.cfg.Client, o, func(o *resource.ResourceClaim) (*resource.ResourceClaim, error) {
		if o.UID != uid || !slices.Contains(o.Finalizers, resource.Finalizer) {
			return o, nil
		}
		o.Finalizers = slices.DeleteFunc(o.Finalizers, func(f string) bool { return f == resource.Finalizer })
		return client.Update(ctx, s.cfg.Client, api.ResourceClaims, o)
	})
	if err == nil {
		_, err = s.cfg.Client.Delete(ctx, claimTarget(o, ""), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	}
	if err != nil && ctx.Err() == nil && !errors.IsNotFound(err) {
		s.cfg.Log.Warn("deleting a claim for extended resources failed", "claim", o.Namespace+"/"+o.Name, "err", err)
	}
}

// leftover is a claim that an earlier try made; nil for none.
func leftover(d placement.Decision) *resource.ResourceClaim {
	if left := (*devices.Leftover)(nil); goerrors.As(d.Early, &left) {
		return left.Claim
	}
	return nil
}

// unused is a claim whose allocation keeps the pod from being placed though nobody uses
// it; nil for none.
func unused(p *placement.Pod, d placement.Decision) *resource.ResourceClaim {
	for _, c := range d.Unavailable {
		if users := c.Status.ReservedFor; len(users) == 0 || len(users) == 1 && users[0].UID == p.UID {
			return c
		}
	}
	return nil
}

// release lets other devices be found for a claim.
func (s *Scheduler) release(ctx context.Context, p *placement.Pod, o *resource.ResourceClaim) {
	o = o.DeepCopy()
	o.Status.Allocation, o.Status.ReservedFor, o.Status.Devices = nil, nil, nil
	if _, err := client.UpdateStatus(ctx, s.cfg.Client, api.ResourceClaims, o); err != nil && ctx.Err() == nil && !errors.IsConflict(err) && !errors.IsNotFound(err) {
		s.cfg.Log.Warn("deallocating a claim failed", "claim", o.Namespace+"/"+o.Name, "pod", p.Namespace+"/"+p.Name, "err", err)
	}
}
