package resourceclaim

import (
	"maps"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/server/controllers/workpod"
)

// This file is pure: what a claim looks like, and who still needs one.

// baseLimit is how long the base of a generated name may be: 63, less a hyphen and five
// random characters.
const baseLimit = 57

// done: it is certain that none of the pod's containers runs or will run.
func done(p *core.Pod) bool {
	return workpod.Finished(p) || p.DeletionTimestamp != nil && p.Spec.NodeName == ""
}

// claimFor is the claim that the template describes, for one of the pod's claims.
func claimFor(p *core.Pod, claim string, t *resource.ResourceClaimTemplate) *resource.ResourceClaim {
	annotations := maps.Clone(t.Spec.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[resource.PodResourceClaimAnnotation] = claim
	return &resource.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace, GenerateName: nameBase(p.Name, claim), Annotations: annotations, Labels: maps.Clone(t.Spec.Labels),
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID, Controller: new(true)}},
		},
		Spec: *t.Spec.Spec.DeepCopy(),
	}
}

// nameBase shortens both names in proportion where they are too long together: the
// server would cut the claim's name off and leave the pod's.
func nameBase(pod, claim string) string {
	base := pod + "-" + claim + "-"
	if n := len(base); n > baseLimit {
		return pod[:len(pod)*baseLimit/n] + "-" + claim[:len(claim)*baseLimit/n]
	}
	return base
}

// owner is the pod that the claim was made for; nil if for none.
func owner(c *resource.ResourceClaim) *metav1.OwnerReference {
	if o := metav1.GetControllerOfNoCopy(c); o != nil && o.APIVersion == "v1" && o.Kind == "Pod" {
		return o
	}
	return nil
}

// isPod: other consumers than pods are left alone, as nobody here knows how they end.
func isPod(r resource.ResourceClaimConsumerReference) bool {
	return r.APIGroup == "" && r.Resource == "pods"
}
