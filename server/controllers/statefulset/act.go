package statefulset

import (
	"context"
	"errors"
	"fmt"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/server/controllers/workpod"
)

// act does what the plan says; what can be done is, the errors are joined.
func (c *controller) act(ctx context.Context, s *apps.StatefulSet, p plan) error {
	_, err := workpod.SlowStart(len(p.create), func(i int) error { return c.create(ctx, s, p.create[i]) })
	errs := []error{err}
	for _, pod := range p.claims {
		err := c.makeClaims(ctx, s, pod)
		if err == nil {
			err = c.ownClaims(ctx, s, pod)
		}
		errs = append(errs, err)
	}
	for _, pod := range p.repair {
		errs = append(errs, c.repair(ctx, s, pod))
	}
	for _, pod := range p.release {
		errs = append(errs, c.ownClaims(ctx, s, pod))
	}
	for _, pod := range p.remove {
		errs = append(errs, c.remove(ctx, s, pod))
	}
	return errors.Join(errs...)
}

func (c *controller) create(ctx context.Context, s *apps.StatefulSet, pod *core.Pod) error {
	if err := c.makeClaims(ctx, s, pod); err != nil {
		c.podEvent(s, "Create", pod, err)
		return err
	}
	made, err := client.Create(ctx, c.Client, api.Pods, pod)
	switch {
	case apierrors.HasStatusCause(err, core.NamespaceTerminatingCause):
		return nil // the set will go as well
	case apierrors.IsAlreadyExists(err):
		return fmt.Errorf("creating pod: %w", err)
	case err != nil:
		c.podEvent(s, "Create", pod, err)
		return fmt.Errorf("creating pod: %w", err)
	}
	c.podEvent(s, "Create", pod, nil)
	return c.ownClaims(ctx, s, made)
}

// makeClaims makes the claims that the pod lacks.
func (c *controller) makeClaims(ctx context.Context, s *apps.StatefulSet, pod *core.Pod) error {
	var errs []error
	for _, claim := range claimsOf(s, ordinal(pod)) {
		there := client.Cached(c.Client, api.PersistentVolumeClaims, claim.Namespace, claim.Name)
		if there != nil {
			if there.DeletionTimestamp != nil {
				errs = append(errs, fmt.Errorf("pvc %s is being deleted", claim.Name))
			}
			continue
		}
		_, err := client.Create(ctx, c.Client, api.PersistentVolumeClaims, claim)
		switch {
		case apierrors.IsAlreadyExists(err): // the cache will show it
		case err != nil:
			c.Events.Event(s, core.EventTypeWarning, "FailedCreate", "Create Claim %s for Pod %s in StatefulSet %s failed error: %v", claim.Name, pod.Name, s.Name, err)
			errs = append(errs, fmt.Errorf("failed to create PVC %s: %w", claim.Name, err))
		default:
			c.Events.Event(s, core.EventTypeNormal, "SuccessfulCreate", "Create Claim %s Pod %s in StatefulSet %s success", claim.Name, pod.Name, s.Name)
		}
	}
	return errors.Join(errs...)
}

// ownClaims makes the owners of the pod's claims what the retention policy says.
func (c *controller) ownClaims(ctx context.Context, s *apps.StatefulSet, pod *core.Pod) error {
	for i := range s.Spec.VolumeClaimTemplates {
		claim := client.Cached(c.Client, api.PersistentVolumeClaims, s.Namespace, claimName(s, &s.Spec.VolumeClaimTemplates[i], ordinal(pod)))
		if claim == nil {
			continue
		}
		if contested(claim, s, pod) {
			c.Events.Event(s, core.EventTypeWarning, "ConflictingController", "PersistentVolumeClaim %s has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim", claim.Name)
		}
		if ownersRight(claim, s, pod) {
			continue
		}
		if _, err := client.Update(ctx, c.Client, api.PersistentVolumeClaims, withOwners(claim, s, pod)); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("could not update claim %s for delete policy ownerRefs: %w", claim.Name, err)
		}
	}
	return nil
}

// repair puts a pod's labels and claims right.
func (c *controller) repair(ctx context.Context, s *apps.StatefulSet, pod *core.Pod) error {
	if !mounted(s, pod) {
		if err := c.makeClaims(ctx, s, pod); err != nil {
			c.podEvent(s, "Update", pod, err)
			return err
		}
	}
	if err := c.ownClaims(ctx, s, pod); err != nil {
		c.podEvent(s, "Update", pod, err)
		return err
	}
	if identified(pod) && mounted(s, pod) {
		return nil
	}
	next := pod.DeepCopy()
	identify(s, next)
	mount(s, next)
	_, err := client.Update(ctx, c.Client, api.Pods, next)
	c.podEvent(s, "Update", pod, err)
	if err != nil {
		return fmt.Errorf("updating pod: %w", err)
	}
	return nil
}

func (c *controller) remove(ctx context.Context, s *apps.StatefulSet, pod *core.Pod) error {
	uid := pod.UID
	err := client.Delete(ctx, c.Client, api.Pods, pod.Namespace, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		err = nil // gone, or another pod of that name
	}
	c.podEvent(s, "Delete", pod, err)
	if err != nil {
		return fmt.Errorf("deleting pod: %w", err)
	}
	return nil
}

func (c *controller) podEvent(s *apps.StatefulSet, verb string, pod *core.Pod, err error) {
	if err == nil {
		c.Events.Event(s, core.EventTypeNormal, "Successful"+verb, "%s Pod %s in StatefulSet %s successful", verb, pod.Name, s.Name)
		return
	}
	c.Events.Event(s, core.EventTypeWarning, "Failed"+verb, "%s Pod %s in StatefulSet %s failed error: %v", verb, pod.Name, s.Name, err)
}
