package admission

import (
	"bytes"
	"context"
	"slices"
	"strings"

	certificates "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/server/access"
	"orch/server/pki"
	"orch/server/registry"
)

// certificateRequester writes into a new request who makes it; nobody can say
// otherwise. Conditions that come without a time get it.
func (l *List) certificateRequester(_ context.Context, a *registry.Attributes) error {
	if c, ok := a.Object.(*certificates.CertificateSigningRequest); ok && a.Subresource != "" && a.Operation == registry.Update {
		now := metav1.NewTime(l.cfg.Now())
		for i := range c.Status.Conditions {
			if n := &c.Status.Conditions[i]; n.LastUpdateTime.IsZero() {
				n.LastUpdateTime = now
			}
			if n := &c.Status.Conditions[i]; n.LastTransitionTime.IsZero() {
				n.LastTransitionTime = now
			}
		}
		return nil
	}
	c, ok := object[certificates.CertificateSigningRequest](a)
	if !ok || a.Operation != registry.Create {
		return nil
	}
	c.Spec.Username, c.Spec.UID, c.Spec.Groups, c.Spec.Extra = a.User.Name, a.User.UID, a.User.Groups, nil
	for k, v := range a.User.Extra {
		if c.Spec.Extra == nil {
			c.Spec.Extra = map[string]certificates.ExtraValue{}
		}
		c.Spec.Extra[k] = v
	}
	return nil
}

// signerRight asks for a verb on a signer by name or by its whole domain.
func (l *List) signerRight(a *registry.Attributes, verb, signer string) bool {
	at := access.Attributes{User: a.User, Verb: verb, Group: certificates.GroupName, Version: "*", Resource: "signers", Name: signer}
	if l.cfg.Access.May(at) {
		return true
	}
	at.Name = strings.SplitN(signer, "/", 2)[0] + "/*"
	return l.cfg.Access.May(at)
}

func (l *List) certificateApproval(_ context.Context, a *registry.Attributes) error {
	o := old[certificates.CertificateSigningRequest](a)
	if a.Subresource != "approval" || a.Operation != registry.Update || o == nil {
		return nil
	}
	if !l.signerRight(a, "approve", o.Spec.SignerName) {
		return forbid(a, "user not permitted to approve requests with signerName %q", o.Spec.SignerName)
	}
	return nil
}

func (l *List) certificateSigning(_ context.Context, a *registry.Attributes) error {
	o := old[certificates.CertificateSigningRequest](a)
	c, ok := a.Object.(*certificates.CertificateSigningRequest)
	if a.Subresource != "status" || a.Operation != registry.Update || o == nil || !ok {
		return nil
	}
	if bytes.Equal(o.Status.Certificate, c.Status.Certificate) && equality.Semantic.DeepEqual(o.Status.Conditions, c.Status.Conditions) {
		return nil
	}
	if !l.signerRight(a, "sign", o.Spec.SignerName) {
		return forbid(a, "user not permitted to sign requests with signerName %q", o.Spec.SignerName)
	}
	return nil
}

func (l *List) certificateSubject(_ context.Context, a *registry.Attributes) error {
	c, ok := object[certificates.CertificateSigningRequest](a)
	if !ok || a.Operation != registry.Create || c.Spec.SignerName != certificates.KubeAPIServerClientSignerName {
		return nil
	}
	r, err := pki.ParseRequest(c.Spec.Request)
	if err != nil {
		return forbid(a, "unable to parse csr: %w", err)
	}
	if slices.Contains(r.Subject.Organization, api.GroupMasters) {
		return forbid(a, "use of %s signer with %s group is not allowed", certificates.KubeAPIServerClientSignerName, api.GroupMasters)
	}
	return nil
}
