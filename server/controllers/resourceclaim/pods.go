package resourceclaim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

// fieldManager is upstream's name for who writes the claims into a pod's status.
const fieldManager = "ResourceClaimController"

// doPod makes the claims that the pod lacks, and reserves what it uses if it came to its
// node without the scheduler.
func (c *controller) doPod(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	p := client.Cached(c.client, api.Pods, key.Namespace, key.Name)
	if p == nil || p.DeletionTimestamp != nil || done(p) {
		return reconcile.Result{}, nil
	}
	var made []core.PodResourceClaimStatus
	var failed error
	for i := range p.Spec.ResourceClaims {
		r := &p.Spec.ResourceClaims[i]
		name, err := c.claimOf(ctx, p, r)
		if err != nil {
			c.events.Event(p, core.EventTypeWarning, "FailedResourceClaimCreation", "PodResourceClaim %s: %v", r.Name, err)
			failed = fmt.Errorf("making resource claim %s of the pod: %w", r.Name, err)
			break
		}
		if name != "" {
			made = append(made, core.PodResourceClaimStatus{Name: r.Name, ResourceClaimName: &name})
		}
	}
	if err := c.tell(ctx, p, made); err != nil || failed != nil {
		return reconcile.Result{}, errors.Join(failed, err)
	}
	if p.Spec.NodeName == "" {
		return reconcile.Result{}, nil // the scheduler reserves
	}
	return reconcile.Result{}, c.reserve(ctx, p)
}

// claimOf returns the name of the claim if the pod's status has still to learn it. It makes
// the claim unless an earlier run did and could not tell the pod.
func (c *controller) claimOf(ctx context.Context, p *core.Pod, r *core.PodResourceClaim) (string, error) {
	name, checkOwner, err := resourceclaim.Name(p, r)
	switch {
	case errors.Is(err, resourceclaim.ErrClaimNotFound):
	case err != nil:
		return "", fmt.Errorf("checking for claim before creating it: %w", err)
	case name == nil || r.ResourceClaimTemplateName == nil:
		return "", nil // not needed, or the user's own
	default:
		// One that the status names is there, unless somebody deleted it.
		claim, err := c.claim(ctx, p.Namespace, *name)
		if err != nil {
			return "", fmt.Errorf("checking claim existence: %w", err)
		}
		if claim != nil && (!checkOwner || resourceclaim.IsForPod(p, claim, false) == nil) {
			return "", nil
		}
	}
	for _, k := range c.index.madeFor(p.UID) {
		claim := client.Cached(c.client, api.ResourceClaims, k.Namespace, k.Name)
		if claim != nil && claim.Annotations[resource.PodResourceClaimAnnotation] == r.Name {
			return claim.Name, nil
		}
	}
	t, err := c.template(ctx, p.Namespace, *r.ResourceClaimTemplateName)
	if err != nil {
		return "", fmt.Errorf("resource claim template %q: %w", *r.ResourceClaimTemplateName, err)
	}
	claim, err := client.Create(ctx, c.client, api.ResourceClaims, claimFor(p, r.Name, t))
	if err != nil {
		return "", fmt.Errorf("create ResourceClaim: %w", err)
	}
	return claim.Name, nil
}

// claim is nil if there is none. The cache of claims may be behind that of pods, so
// the server has the last word.
func (c *controller) claim(ctx context.Context, namespace, name string) (*resource.ResourceClaim, error) {
	if o := client.Cached(c.client, api.ResourceClaims, namespace, name); o != nil {
		return o, nil
	}
	o, err := client.Get(ctx, c.client, api.ResourceClaims, namespace, name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return o, err
}

// template: the server is asked where the cache has none, as a template and its first pod
// mostly come at once.
func (c *controller) template(ctx context.Context, namespace, name string) (*resource.ResourceClaimTemplate, error) {
	if t := client.Cached(c.client, api.ResourceClaimTemplates, namespace, name); t != nil {
		return t, nil
	}
	return client.Get(ctx, c.client, api.ResourceClaimTemplates, namespace, name)
}

// tell writes the names of claims into the pod's status. A patch, as scheduler and agent
// write other parts of it meanwhile.
func (c *controller) tell(ctx context.Context, p *core.Pod, made []core.PodResourceClaimStatus) error {
	if len(made) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": p.UID},
		"status":   map[string]any{"resourceClaimStatuses": made},
	})
	if err != nil {
		return fmt.Errorf("encoding claim names: %w", err)
	}
	_, err = c.client.Patch(ctx, client.Target{Kind: api.Pods.Facts, Namespace: p.Namespace, Name: p.Name, Subresource: "status"},
		types.StrategicMergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("writing claim names into the pod's status: %w", err)
	}
	return nil
}

// reserve makes a pod that is bound a consumer of its allocated claims.
func (c *controller) reserve(ctx context.Context, p *core.Pod) error {
	for i := range p.Spec.ResourceClaims {
		name, checkOwner, err := resourceclaim.Name(p, &p.Spec.ResourceClaims[i])
		if err != nil || name == nil {
			continue // it comes with the next change of the pod's status
		}
		claim := client.Cached(c.client, api.ResourceClaims, p.Namespace, *name)
		switch {
		case claim == nil || claim.Status.Allocation == nil || resourceclaim.IsReservedForPod(p, claim, false):
			continue
		case checkOwner && resourceclaim.IsForPod(p, claim, false) != nil:
			continue
		}
		next := claim.DeepCopy()
		next.Status.ReservedFor = append(next.Status.ReservedFor, resource.ResourceClaimConsumerReference{Resource: "pods", Name: p.Name, UID: p.UID})
		if _, err := client.UpdateStatus(ctx, c.client, api.ResourceClaims, next); err != nil {
			return fmt.Errorf("reserving claim %s for the pod: %w", claim.Name, err)
		}
	}
	return nil
}
