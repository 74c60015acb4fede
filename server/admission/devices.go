package admission

import (
	"context"
	"time"

	certificates "k8s.io/api/certificates/v1"
	resource "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/api"
	"orch/api/client"
	"orch/server/registry"
)

// deviceTaints writes into a taint since when it is there. A time that came with
// another effect counts from now.
func (l *List) deviceTaints(_ context.Context, a *registry.Attributes) error {
	now := metav1.NewTime(l.cfg.Now().Truncate(time.Second))
	if s, ok := object[resource.ResourceSlice](a); ok {
		for i := range s.Spec.Devices {
			for j := range s.Spec.Devices[i].Taints {
				if t := &s.Spec.Devices[i].Taints[j]; t.TimeAdded == nil {
					t.TimeAdded = &now
				}
			}
		}
	}
	if r, ok := object[resource.DeviceTaintRule](a); ok {
		o, t := old[resource.DeviceTaintRule](a), &r.Spec.Taint
		if t.TimeAdded == nil || o != nil && o.Spec.Taint.Effect != t.Effect && t.TimeAdded.Equal(o.Spec.Taint.TimeAdded) {
			t.TimeAdded = &now
		}
	}
	return nil
}

// deviceAccess: a claim that sees devices of others lives in a namespace that an
// administrator has labelled for it.
func (l *List) deviceAccess(_ context.Context, a *registry.Attributes) error {
	if a.Operation != registry.Create {
		return nil // the spec does not change
	}
	var devices *resource.DeviceClaim
	if c, ok := object[resource.ResourceClaim](a); ok {
		devices = &c.Spec.Devices
	}
	if t, ok := object[resource.ResourceClaimTemplate](a); ok {
		devices = &t.Spec.Spec.Devices
	}
	if devices == nil {
		return nil
	}
	p := field.NewPath("spec", "devices", "requests") // a template's too, as upstream has it
	for i, r := range devices.Requests {
		if r.Exactly != nil && isTrue(r.Exactly.AdminAccess) {
			return l.adminNamespace(a, p.Index(i).Child("adminAccess"))
		}
	}
	return nil
}

// adminNamespace refuses admin access in a namespace that is not labelled for it.
func (l *List) adminNamespace(a *registry.Attributes, p *field.Path) error {
	ns := client.Cached(l.cache, api.Namespaces, "", a.Namespace)
	if ns != nil && ns.Labels[resource.DRAAdminNamespaceLabelKey] == "true" {
		return nil
	}
	return apierrors.NewInvalid(a.Resource.GroupKind(), a.Name, field.ErrorList{field.Forbidden(p,
		"admin access to devices requires the `"+resource.DRAAdminNamespaceLabelKey+": true` label on the containing namespace")})
}

func isTrue(b *bool) bool { return b != nil && *b }

// restrictSlice: a node lists its own devices only.
func restrictSlice(node string, a *registry.Attributes) error {
	foreign := func(s *resource.ResourceSlice) bool {
		return s == nil || s.Spec.NodeName == nil || *s.Spec.NodeName != node
	}
	s, _ := object[resource.ResourceSlice](a)
	switch { // access has looked at the slice that is stored, but not at each of a collection
	case a.Operation == registry.Create && foreign(s):
		return forbid(a, "can only create ResourceSlice with the same NodeName as the requesting node")
	case a.Operation == registry.Delete && foreign(old[resource.ResourceSlice](a)):
		return forbid(a, "can only delete ResourceSlice with the same NodeName as the requesting node")
	}
	return nil
}

// restrictPodRequest: a node asks for certificates of pods that it runs.
func (l *List) restrictPodRequest(node string, a *registry.Attributes) error {
	r, ok := object[certificates.PodCertificateRequest](a)
	if !ok || a.Operation != registry.Create {
		return forbid(a, "unexpected operation %v", a.Operation)
	}
	p := client.Cached(l.cache, api.Pods, a.Namespace, r.Spec.PodName)
	switch {
	case string(r.Spec.NodeName) != node:
		return forbid(a, "PodCertificateRequest.Spec.NodeName=%q, which is not the requesting node %q", r.Spec.NodeName, node)
	case p == nil || p.UID != r.Spec.PodUID:
		return forbid(a, "PodCertificateRequest for pod %q with UID %q, which does not exist", a.Namespace+"/"+r.Spec.PodName, r.Spec.PodUID)
	case p.Spec.NodeName != node:
		return forbid(a, "pod %q is not running on node %q named in the PodCertificateRequest", a.Namespace+"/"+p.Name, node)
	case p.Spec.ServiceAccountName != r.Spec.ServiceAccountName:
		return forbid(a, "PodCertificateRequest for pod %q contains serviceAccountName (%q) that differs from running pod (%q)", a.Namespace+"/"+p.Name, r.Spec.ServiceAccountName, p.Spec.ServiceAccountName)
	}
	return nil
}

// attest: who writes a signer's trust bundle speaks for the signer.
func (l *List) attest(_ context.Context, a *registry.Attributes) error {
	b, ok := object[certificates.ClusterTrustBundle](a)
	if !ok || b.Spec.SignerName == "" {
		return nil
	}
	if o := old[certificates.ClusterTrustBundle](a); o != nil && o.Spec.SignerName == b.Spec.SignerName && o.Spec.TrustBundle == b.Spec.TrustBundle {
		return nil
	}
	if !l.signerRight(a, "attest", b.Spec.SignerName) {
		return forbid(a, "user not permitted to attest for signerName %q", b.Spec.SignerName)
	}
	return nil
}
