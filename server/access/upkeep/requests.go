package upkeep

import (
	"context"

	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
	"orch/server/access"
	"orch/server/pki"
	"orch/server/registry"
)

type csr = certificates.CertificateSigningRequest

// perRequest makes the Do of a controller of certificate requests.
func perRequest(c *client.Client, do func(context.Context, *csr) (reconcile.Result, error)) func(context.Context, reconcile.Key) (reconcile.Result, error) {
	return func(ctx context.Context, k reconcile.Key) (reconcile.Result, error) {
		r := client.Cached(c, api.CertificateSigningRequests, "", k.Name)
		if r == nil {
			return reconcile.Result{}, nil
		}
		res, err := do(ctx, r)
		if apierrors.IsNotFound(err) {
			err = nil
		}
		return res, err
	}
}

func condition(r *csr, t certificates.RequestConditionType) *certificates.CertificateSigningRequestCondition {
	for i := range r.Status.Conditions {
		if r.Status.Conditions[i].Type == t {
			return &r.Status.Conditions[i]
		}
	}
	return nil
}

// approval approves what kubelets ask for themselves, where RBAC lets them.
func approval(d Deps) reconcile.Spec {
	return reconcile.Spec{
		Name: "certificate-approval", Watches: []reconcile.Watch{reconcile.For(api.CertificateSigningRequests)},
		Do: perRequest(d.Client, func(ctx context.Context, r *csr) (reconcile.Result, error) {
			if len(r.Status.Certificate) > 0 || condition(r, certificates.CertificateApproved) != nil || condition(r, certificates.CertificateDenied) != nil {
				return reconcile.Result{}, nil
			}
			message := ""
			for _, way := range approvable(r) {
				if d.Access.May(access.Attributes{
					User: requester(r), Verb: "create", Group: certificates.GroupName, Version: "*", Resource: "certificatesigningrequests", Subresource: way.sub,
				}) {
					message = way.message
					break
				}
			}
			if message == "" {
				return reconcile.Result{}, nil
			}
			n := r.DeepCopy()
			n.Status.Conditions = append(n.Status.Conditions, certificates.CertificateSigningRequestCondition{
				Type: certificates.CertificateApproved, Status: core.ConditionTrue, Reason: "AutoApproved", Message: message,
				LastUpdateTime: metav1.NewTime(d.Now()), LastTransitionTime: metav1.NewTime(d.Now()),
			})
			_, err := d.Client.Update(ctx, client.Target{Kind: api.CertificateSigningRequests.Facts, Name: r.Name, Subresource: "approval"}, n, metav1.UpdateOptions{})
			return reconcile.Result{}, err
		}),
	}
}

func requester(r *csr) registry.User {
	u := registry.User{Name: r.Spec.Username, UID: r.Spec.UID, Groups: r.Spec.Groups}
	for k, v := range r.Spec.Extra {
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		u.Extra[k] = v
	}
	return u
}

// way is a right by which a request is approved, and what is said then.
type way struct{ sub, message string }

// approvable names the rights one of which the request takes; none if it is no client
// certificate of a node.
func approvable(r *csr) []way {
	x, err := pki.ParseRequest(r.Spec.Request)
	if err != nil || r.Spec.SignerName != certificates.KubeAPIServerClientKubeletSignerName || checkKubeletClient(r, x) != nil {
		return nil
	}
	ways := []way{{"nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."}}
	if r.Spec.Username == x.Subject.CommonName {
		ways = append([]way{{"selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."}}, ways...)
	}
	return ways
}

// signing issues what was approved, for the built-in signers.
func signing(d Deps) reconcile.Spec {
	return reconcile.Spec{
		Name: "certificate-signing", Watches: []reconcile.Watch{reconcile.For(api.CertificateSigningRequests)},
		Do: perRequest(d.Client, func(ctx context.Context, r *csr) (reconcile.Result, error) {
			check, ours := signers[r.Spec.SignerName]
			if !ours || len(r.Status.Certificate) > 0 || condition(r, certificates.CertificateApproved) == nil ||
				condition(r, certificates.CertificateFailed) != nil || condition(r, certificates.CertificateDenied) != nil {
				return reconcile.Result{}, nil
			}
			n := r.DeepCopy()
			cert, refused, err := issue(d.PKI, r, check)
			if err != nil {
				return reconcile.Result{}, err
			}
			if refused != nil {
				n.Status.Conditions = append(n.Status.Conditions, certificates.CertificateSigningRequestCondition{
					Type: certificates.CertificateFailed, Status: core.ConditionTrue, Reason: "SignerValidationFailure", Message: refused.Error(),
					LastUpdateTime: metav1.NewTime(d.Now()), LastTransitionTime: metav1.NewTime(d.Now()),
				})
			} else {
				n.Status.Certificate = cert
			}
			_, err = client.UpdateStatus(ctx, d.Client, api.CertificateSigningRequests, n)
			return reconcile.Result{}, err
		}),
	}
}
